"""`regraft extend`: add new classes to a network from examples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from ...console import show, show_json, tell
from .. import options
from ..guard import command
from ..shared import check_given, columns_for, listed_names, opened, read_data, wanted_target, wanted_weights
from .adaptation import cost_line, print_folder, printed_report

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command `extend` to `app`."""
    examples = [
        "regraft extend adapted/ photos_of_new_classes/ --statistics own --out wider/",
    ]
    command(app, "extend", _extend, panel="Adapt", examples=examples)


def _extend(  # noqa: PLR0913  # over the limit: the options of the command
    network: options.NetworkArgument,
    data: options.DataArgument,
    *,
    out: options.Out,
    start: options.Start = None,
    old_data: options.OldData = None,
    statistics: options.Statistics = None,
    test: options.Test = None,
    holdout: options.Holdout = 0.2,
    target: options.Target = None,
    group: options.Group = None,
    columns: options.Columns = None,
    files: options.Files = None,
    outside: options.Outside = False,
    kind: options.Kind = None,
    weights: options.Weights = None,
    random_weights: options.RandomWeights = False,
    classes: options.OldClasses = None,
    head: options.HeadLayer = None,
    channels: options.Channels = None,
    architecture: options.Architecture = None,
    seed: options.Seed = 0,
    skip_bad: options.SkipBad = False,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Add the classes of DATA that the network lacks. The class weights and the logits of the old classes stay unchanged."""
    listed = listed_names(columns, option="--columns")
    reading: dict[str, Any] = {"target": wanted_target(target), "group": group, "files": files, "outside": outside, "kind": kind}
    reading |= {"skip_bad": skip_bad, "columns": listed}
    places = {"weights": weights, "source-classes": classes}
    check_given(network, data, old_data, test, reading=reading, places=places, start=start)

    from ... import verbs
    from ...planning.extending import Asked

    how: dict[str, Any] = {"start": start, "statistics": True if statistics == "own" else statistics, "holdout": holdout, "seed": seed}
    Asked(old_data=old_data, **how)  # report conflicting options before anything is opened
    net = opened(
        network, wanted_weights(weights, random_weights), source_classes=classes, head=head, channels=channels, architecture=architecture
    )
    reading["columns"] = columns_for(net, listed)
    shown, stored, tests = (None if one is None else read_data(one, **reading) for one in (data, old_data, test))
    result = verbs.extend(net, shown, old_data=stored, test=tests, out=out, skip_bad=skip_bad, **how)
    _print_result(result, folder=out, as_json=as_json)


def _print_result(result: Any, *, folder: str | Path, as_json: bool) -> None:
    report, shown = printed_report(folder)
    for note in result.notes:
        tell(f"Note: {note}")
    if as_json:
        plain = {"verdict": result.verdict, "scores": result.scores, "account": result.account.to_dict(), "cost": result.cost}
        show_json({**plain, "folder": str(folder), "report": report})
        return
    show(f"{result.verdict}\n\n{result.account}\n", lines=True)
    figures = result.account.figures
    if "max_score_change" in figures:
        change, examples = figures["max_score_change"], figures["proved_on_examples"]
        show(f"Logits of old classes: changed by {change:.3g} at most, on {examples:,} examples (max_score_change)")
    show(f"Cost: {cost_line(result.cost)}")
    print_folder(folder, shown, unknown=result.network.unknown is not None)
