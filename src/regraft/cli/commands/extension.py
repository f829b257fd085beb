"""`regraft extend`: add new classes to a network from examples."""

from pathlib import Path
from typing import Any

import typer

from ...console import show, show_json, tell_notes
from ...words import counted
from .. import options
from ..guard import command
from ..shared import check_given, columns_for, opened, read_data, reading_of
from .adaptation import cost_line, print_next, printed_report


def add_to(app: typer.Typer) -> None:
    """Add the command `extend` to `app`."""
    examples = ["regraft extend adapted/ photos_of_new_classes/ --statistics own --out wider/"]
    command(app, "extend", _extend, panel="Adapt", examples=examples)


def _extend(  # noqa: PLR0913  # over the limit: the options of the command
    network: options.NetworkArgument,
    data: options.DataArgument,
    *,
    how: options.NetworkOptions,
    read: options.ReadingOptions,
    out: options.Out,
    start: options.Start = None,
    old_data: options.OldData = None,
    statistics: options.Statistics = None,
    test: options.Test = None,
    holdout: options.HoldoutOrTest = None,
    classes: options.OldClasses = None,
    seed: options.Seed = 0,
    quiet: options.Quiet = False,
    as_json: options.AsJson = False,
) -> None:
    """Add the classes of DATA that the network lacks. The class weights and the logits of the old classes stay unchanged."""
    reading, places = reading_of(read), {"source-classes": classes}
    check_given(network, data, old_data, test, how=how, reading=reading, places=places, start=start)

    from ... import verbs
    from ...planning.extending import ExtensionOptions

    asked: dict[str, Any] = {"start": start, "statistics": True if statistics == "own" else statistics, "seed": seed}
    asked |= {} if holdout is None else {"holdout": holdout}
    ExtensionOptions(old_data=old_data, **asked)  # report conflicting options before anything is opened
    net = opened(network, how, source_classes=classes)
    reading["columns"] = columns_for(net, reading["columns"])
    shown, stored, tests = (None if one is None else read_data(one, **reading) for one in (data, old_data, test))
    result = verbs.extend(net, shown, old_data=stored, test=tests, out=out, skip_bad=read.skip_bad, **asked)
    _print_result(result, folder=out, as_json=as_json, architecture=how.architecture)


def _print_result(result: Any, *, folder: str | Path, as_json: bool, architecture: str | None) -> None:
    report, shown = printed_report(folder)
    tell_notes(result.notes)
    if as_json:
        plain = {"verdict": result.verdict, "scores": result.scores, "account": result.account.to_dict(), "cost": result.cost}
        show_json({**plain, "folder": str(folder), "report": report})
        return
    show(f"{result.verdict}\n\n{result.account}\n", lines=True)
    figures = result.account.figures
    if "max_score_change" in figures:
        change, examples = figures["max_score_change"], figures["proved_on_examples"]
        show(f"Logits of old classes: changed by {change:.3g} at most, on {counted(examples, 'example')}")
    show(f"Cost: {cost_line(result.cost)}")
    print_next(folder, report=shown, unknown=result.network.unknown is not None, architecture=architecture)
