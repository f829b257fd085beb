"""`regraft evaluate`: how good a saved network is on labelled data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import typer

from .guard import guarded, tell
from .options import AsJson, DataArgument, Files, Kind, SavedArgument, SkipBad, Target
from .shared import checked_kind, library, opened, print_json, read_data

__all__ = ["add_to"]

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


def add_to(app: typer.Typer) -> None:
    """Add the command `evaluate` to `app`."""
    app.command("evaluate")(guarded(_evaluate))


def _evaluate(
    folder: SavedArgument,
    data: DataArgument,
    *,
    target: Target = None,
    files: Files = None,
    kind: Kind = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Judge a saved network on labelled data: figures with 95 % intervals, and each class by itself."""
    net = opened(str(folder))
    labelled = read_data(data, target=target, files=files, kind=kind, skip_bad=skip_bad, classes=_names_of(net))
    checked_kind(net, labelled)
    usable = library("data").checked(labelled, skip_bad)
    for note in usable.notes:
        tell(f"Note: {note}")
    head = net.head
    names = usable.classes or head.classes
    figures = library("tasks").judge(net.raw_scores(usable), usable.targets, names, kind=head.kind)
    if as_json:
        print_json(figures)
        return
    _print_figures(figures)


def _names_of(net: Any) -> tuple[str, ...] | None:
    return net.classes if net.head.kind != "regression" else None


def _print_figures(figures: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{figures['items']:,} items", title_justify="left")
    table.add_column("figure")
    table.add_column("value", justify="right")
    table.add_column("95 % interval", justify="right")
    for key, words in _FIGURES.items():
        if figures.get(key) is not None:
            table.add_row(words, f"{figures[key]:.4f}", _interval(figures.get(f"{key}_interval")))
    console = Console()
    console.print(table)
    console.print(_class_table(figures["per_class"]))


def _class_table(per_class: Mapping[str, Mapping[str, Any]]) -> Any:
    from rich.table import Table

    headings = [key for key in next(iter(per_class.values())) if key != "interval"]
    table = Table("class", title="Each class", title_justify="left")
    for heading in headings:
        table.add_column(heading.replace("_", " "), justify="right")
    spread = any("interval" in row for row in per_class.values())
    if spread:
        table.add_column("95 % interval", justify="right")
    for name, row in per_class.items():
        cells = [_cell(row[heading]) for heading in headings]
        table.add_row(name, *cells, *([_interval(row["interval"])] if spread else []))
    return table


def _cell(value: float | None) -> str:
    return "–" if value is None else f"{value:,}" if isinstance(value, int) else f"{value:.4f}"


def _interval(bounds: Any) -> str:
    return f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else ""
