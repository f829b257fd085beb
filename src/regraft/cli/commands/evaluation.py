"""`regraft evaluate`: evaluate a saved network on labelled data."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from ...console import show_json, show_table, tell_notes
from ...words import FIGURES, counted, metric_words
from .. import options
from ..guard import command
from ..shared import check_given, checked_kind, columns_for, kind_for, listed_names, read_data, run_by, to_run, wanted_target

_WIDEST = 12  # maximum number of classes for a confusion matrix in 100 columns
_PAIRS = 15


def add_to(app: typer.Typer) -> None:
    """Add the command `evaluate` to `app`."""
    examples = ["regraft evaluate adapted/ more_photos/", "regraft evaluate adapted/ test.csv --files images/ --target label --json"]
    command(app, "evaluate", _evaluate, panel="Use", examples=examples)


def _evaluate(  # noqa: PLR0913  # over the limit: the options of the command
    folder: options.RunArgument,
    data: options.DataArgument,
    *,
    target: options.Target = None,
    task: options.Task = None,
    columns: options.Columns = None,
    condition: options.EachCondition = None,
    files: options.Files = None,
    outside: options.Outside = False,
    kind: options.Kind = None,
    head: options.HeadLayer = None,
    channels: options.Channels = None,
    architecture: options.Architecture = None,
    trust: options.Trust = False,
    skip_bad: options.SkipBad = False,
    engine: options.Engine = None,
    cluster: options.Cluster = None,
    as_json: options.AsJson = False,
) -> None:
    """Evaluate a saved network on labelled data: metrics with 95 % intervals, metrics per class and the confusion matrix."""
    wanted, asked = wanted_target(target), listed_names(columns, option="--columns")
    reading: dict[str, Any] = {"target": wanted, "files": files, "outside": outside, "skip_bad": skip_bad, "task": task}
    check_given(folder, data, reading=reading | {"columns": asked, "kind": kind}, engine=engine)
    running = run_by(folder, engine, cluster=cluster)
    net = to_run(folder, head=head, channels=channels, architecture=architecture, trust=trust)

    import numpy as np

    from ...data import checked
    from ...tasks.evaluating import evaluated, reading_for

    one = condition is not None and _knows(net, condition, data=data)
    reading |= {"condition": None if one else condition, "kind": kind_for(net, data, asked=kind, files=files)}
    reading |= {"columns": columns_for(net, asked), **reading_for(net, data, target=wanted)}
    labelled = read_data(data, **reading)
    checked_kind(net, labelled)

    if one:
        labelled = dataclasses.replace(labelled, conditions=np.full(len(labelled), condition, dtype=object))
    usable = checked(labelled, skip_bad)
    tell_notes(usable.notes)
    found = evaluated(net, usable, named=isinstance(wanted, dict), **running)
    for run in running.values():
        tell_notes(run.notes)
    if as_json:
        show_json({"tasks": found.tasks} if len(found.tasks) > 1 else found.scores)
        return
    for task, figures in found.tasks.items():
        _print_figures(figures, f"{task}: " if len(found.tasks) > 1 else "")
        if "confusion" in figures:
            _print_confusion(found.confusion(task).tolist(), found.classes[task])


def _knows(net: Any, condition: str, *, data: str) -> bool:
    """Return whether `condition` names a known condition or the mean code, and not a column of the data."""
    from ...data.readers.tables import TABLE_EXTENSIONS
    from ...networks.parts.coding import MEAN

    if net.coding is None:
        return False
    if Path(data).suffix.lower() not in TABLE_EXTENSIONS:
        net.coding.row(condition)
    return condition in (*net.coding.conditions, MEAN)


def _print_figures(figures: Mapping[str, Any], task: str) -> None:
    found = {words: key for key, words in FIGURES if figures.get(key) is not None}
    rows = [(words, _cell(key, figures[key]), _interval(key, figures.get(f"{key}_interval"))) for words, key in found.items()]
    show_table(("figure", "value", "95 % interval"), rows, title=f"{task}{counted(figures['examples'], 'example')}")
    if len(figures["per_class"]) > 1:
        _print_classes(figures["per_class"])


def _print_classes(per_class: Mapping[str, Mapping[str, Any]]) -> None:
    keys = [key for key in next(iter(per_class.values())) if key != "interval"]
    spread = any("interval" in row for row in per_class.values())
    what = "output" if "mae" in keys else "class"
    headings = [what, *(key.replace("_", " ") for key in keys), *(["95 % interval"] if spread else [])]
    rows = [
        (name, *(_cell(key, row[key]) for key in keys), *([_interval("recall", row["examples"] and row["interval"])] if spread else []))
        for name, row in per_class.items()
    ]
    show_table(headings, rows, title=f"Each {what}")


def _print_confusion(counts: Sequence[Sequence[int]], names: Sequence[str]) -> None:
    """Print the confusion matrix or, for many classes, the most frequent errors."""
    if len(names) <= _WIDEST:
        rows = [(name, *(count or "·" for count in row)) for name, row in zip(names, counts, strict=True)]
        show_table(("true \\ predicted", *names), rows, title="Confusion matrix: examples")
        return
    from ...report.results import confused_pairs

    pairs = confused_pairs(counts, names, count=_PAIRS)
    show_table(("true", "predicted", "examples", "of the class"), pairs, title="Errors made most often")


def _cell(key: str, value: float | None) -> str:
    """Format a metric, or a count of examples."""
    return f"{value:,}" if isinstance(value, int) else metric_words(key, value)


def _interval(key: str, bounds: Any) -> str:
    if not bounds:
        return ""
    low, high = (_cell(key, float(bound)) for bound in bounds)
    return f"{low.removesuffix(' %')} to {high}"
