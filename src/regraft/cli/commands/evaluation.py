"""`regraft evaluate`: how good a saved network is on labelled data."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import typer

from ...console import show_json, show_table, tell
from ...errors import DataError
from .. import options
from ..guard import guarded
from ..shared import check_there, checked_kind, columns_for, kind_for, listed_names, read_data, to_run, wanted_target

__all__ = ["add_to", "judged", "task_data"]

_FIGURES = {
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "micro_f1": "micro F1",
    "map": "mean average precision",
    "log_loss": "log-loss",
    "ece": "calibration error",
    "brier": "Brier score",
    "mae": "mean absolute error",
    "rmse": "root mean square error",
    "r2": "R²",
}


_NAMELESS = "main"


def add_to(app: typer.Typer) -> None:
    """Add the command `evaluate` to `app`."""
    app.command("evaluate")(guarded(_evaluate))


def _evaluate(  # noqa: PLR0913  # over the limit: the options of the command
    folder: options.RunArgument,
    data: options.DataArgument,
    *,
    target: options.Target = None,
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
    as_json: options.AsJson = False,
) -> None:
    """Judge a saved network on labelled data: figures with 95 % intervals, and each class by itself; of several tasks, each one."""
    wanted, asked = wanted_target(target), listed_names(columns, option="--columns")
    check_there(folder, data)
    net = to_run(folder, head=head, channels=channels, architecture=architecture, trust=trust)
    heads = _heads_of(net, list(wanted)) if isinstance(wanted, dict) else {None: net.head}
    one = condition is not None and _knows(net, condition, data=data)
    reading = {"target": wanted, "condition": None if one else condition, "files": files, "outside": outside, "skip_bad": skip_bad}
    reading |= {"kind": kind_for(net, data, asked=kind, files=files)}
    reading |= {"columns": columns_for(net, asked)}
    labelled = read_data(data, classes=_names_of(heads), **reading)
    checked_kind(net, labelled)

    from ...data import checked

    usable = checked(_of_one(labelled, condition) if one else labelled, skip_bad)
    for note in usable.notes:
        tell(f"Note: {note}")
    figures = {task or head.task: judged(net, task_data(usable, head, task=task), head=head) for task, head in heads.items()}
    if as_json:
        show_json({"tasks": figures} if len(figures) > 1 else next(iter(figures.values())))
        return
    for task, found in figures.items():
        _print_figures(found, f"{task}: " if len(figures) > 1 else "")


def _knows(net: Any, condition: str, *, data: str) -> bool:
    """Return whether a word is the name of a condition that a network knows, or of its mean code, rather than of a column of the data.

    Raises:
        NetworkError: if it is neither, for the data are a folder, which has no columns; the known conditions are listed.
    """
    from ...data.readers.tables import TABLE_EXTENSIONS
    from ...networks.parts.coding import MEAN

    if net.coding is None:
        return False
    if Path(data).suffix.lower() not in TABLE_EXTENSIONS:
        net.coding.row(condition)
    return condition in (*net.coding.conditions, MEAN)


def _of_one(data: Any, condition: str | None) -> Any:
    """Return the items, all of one condition."""
    import numpy as np

    return dataclasses.replace(data, conditions=np.full(len(data), condition, dtype=object))


def _heads_of(net: Any, tasks: list[str]) -> dict[str, Any]:
    """Return the head of each task; the first task is that of a first head that nobody has named, whatever the data call it."""
    unasked = [task for task in net.heads if task not in tasks]
    unknown = tasks[0] not in net.heads and not get_close_matches(tasks[0], unasked)
    nameless = unknown and net.head.task == _NAMELESS and _NAMELESS in unasked
    return {task: net.head if nameless and task == tasks[0] else net.head_of(task) for task in tasks}


def _names_of(heads: Mapping[Any, Any]) -> Any:
    """Return the class names by task, as `regraft.read` takes them; None where no head has any."""
    named = {task: head.classes for task, head in heads.items() if head.kind != "regression" and head.classes}
    return named.get(None, named or None)


def task_data(data: Any, head: Any, *, task: str | None = None) -> Any:
    """Return the items whose target of a task is known, with their targets as a head gives its scores.

    Args:
        data: as read.
        head: of the network.
        task: of the data; None for the first.

    Returns:
        A data set with that task alone, its classes in the head's order.

    Raises:
        DataError: if the targets are of another kind than the head, or of none of its classes.
    """
    import numpy as np

    own = data.of_task(data.name if task is None else task)
    known = own if own.known.all() else own.subset(np.flatnonzero(own.known))
    known = _of_kind(known, head)
    return known.with_classes(head.classes) if head.classes and head.kind != "regression" else known


def _of_kind(data: Any, head: Any) -> Any:
    """Return the data with targets of the head's kind: whole numbers and rows with one 1 are read as classes before it is known."""
    import numpy as np

    if data.task == head.kind:
        return data
    if data.task == "classification" and head.kind == "multi-label":
        table = np.eye(len(data.classes), dtype=np.float32)[data.targets]
        return dataclasses.replace(data, targets=table, task="multi-label")
    if data.task == "classification" and head.kind == "regression":
        try:
            values = np.array([float(name) for name in data.classes], np.float32)[data.targets]
        except ValueError:
            pass
        else:
            return dataclasses.replace(data, targets=values, classes=(), task="regression")
    shown = ", ".join(map(repr, data.classes[:3])) or "numbers"
    raise DataError(
        f"The network's task {head.task!r} is of the kind {head.kind!r}; the labels of the data ({shown}) are of the kind {data.task!r}. "
        "Choose another column with --target."
    )


def judged(net: Any, data: Any, *, head: Any) -> dict[str, Any]:
    """Return the figures of one task of a network.

    Args:
        net: the network.
        data: items with known targets of that task.
        head: of that task; labels of a multi-label head count from its thresholds on.

    Returns:
        As `regraft.tasks.judge` gives them.
    """
    from ...tasks import judge

    limits = head.thresholds if head.kind == "multi-label" else None
    scores = net.logits(data, task=head.task)
    figures: dict[str, Any] = judge(scores, data.targets, data.classes or head.classes, kind=head.kind, thresholds=limits)
    return figures


def _print_figures(figures: Mapping[str, Any], task: str) -> None:
    found = {words: key for key, words in _FIGURES.items() if figures.get(key) is not None}
    rows = [(words, f"{figures[key]:.4f}", _interval(figures.get(f"{key}_interval"))) for words, key in found.items()]
    show_table(("figure", "value", "95 % interval"), rows, title=f"{task}{figures['items']:,} items")
    _print_classes(figures["per_class"])


def _print_classes(per_class: Mapping[str, Mapping[str, Any]]) -> None:
    keys = [key for key in next(iter(per_class.values())) if key != "interval"]
    spread = any("interval" in row for row in per_class.values())
    headings = ["class", *(key.replace("_", " ") for key in keys), *(["95 % interval"] if spread else [])]
    rows = [
        (name, *(_cell(row[key]) for key in keys), *([_interval(row["interval"])] if spread else [])) for name, row in per_class.items()
    ]
    show_table(headings, rows, title="Each class")


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _interval(bounds: Any) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""
