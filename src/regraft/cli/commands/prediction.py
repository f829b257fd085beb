"""`regraft predict`: labels and probabilities of raw files, as CSV or JSON lines."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ...errors import DataError, InputError
from ..guard import guarded, tell
from ..options import (
    Architecture,
    Channels,
    Columns,
    Form,
    Format,
    HeadLayer,
    ItemsArgument,
    OneCondition,
    SavedArgument,
    Scores,
    SkipBad,
    Texts,
    Trust,
    Unknown,
)
from ..shared import columns_for, library, listed_names, opened

if TYPE_CHECKING:
    import numpy as np

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command `predict` to `app`."""
    app.command("predict")(guarded(_predict))


def _predict(  # noqa: PLR0913  # over the limit: the options of the command
    folder: SavedArgument,
    files: ItemsArgument = None,
    *,
    text: Texts = None,
    columns: Columns = None,
    condition: OneCondition = None,
    head: HeadLayer = None,
    channels: Channels = None,
    architecture: Architecture = None,
    trust: Trust = False,
    form: Form = Format.csv,
    scores: Scores = False,
    unknown: Unknown = False,
    skip_bad: SkipBad = False,
) -> None:
    """Print label and probability of each item, with the network's own preprocessing; of several tasks, those of each."""
    asked = listed_names(columns, option="--columns")
    net = opened(str(folder), head=head, channels=channels, architecture=architecture, trust=trust)
    data = _items(net, files or [], texts=text or [], columns=columns_for(net, asked))
    if skip_bad:
        data = library("data").checked(data, True)
        for note in data.notes:
            tell(f"Note: {note}")
    found = net.predict(data, condition, unknown=unknown)
    told = {task: _told(one, net.heads[task].kind, scores=scores) for task, one in found.tasks.items()}
    names = [data.name_of(index) for index in range(len(data))]
    if form is Format.jsonl:
        _print_lines(names, told)
    else:
        _print_csv(names, told)


def _items(net: Any, files: list[Path], *, texts: list[str], columns: list[str] | None) -> Any:
    """Return the unlabelled items with their names.

    Raises:
        InputError: if there are none, or texts are given to a network of another kind, or without the columns that it reads.
    """
    kind = net.preprocessing.item_kind
    if texts and (kind != "text" or columns):
        takes = f"this one takes items of the kind {kind!r}" + (f" with the columns {', '.join(columns)} beside them" if columns else "")
        raise InputError(f"--text goes with a network that reads texts alone; {takes}. Give FILES.")
    if not files and not texts:
        raise InputError(f"No items were given; expected FILES{' or --text' if kind == 'text' else ''}.")
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        shown = library("data.items").listed(missing)
        raise DataError(f"These files do not exist: {shown}. Relative paths start at {Path.cwd()}.")
    if columns or (kind == "array" and len(files) == 1 and files[0].suffix.lower() in library("data.readers.tables").TABLE_EXTENSIONS):
        return _of_table(net, files, columns=columns or [])
    if kind in ("image", "audio"):
        return net.preprocessing.dataset(list(files))
    import numpy as np

    named = list(_texts(files, texts)) if kind == "text" else list(_arrays(files))
    if not named:
        raise DataError(f"No items were found in {', '.join(map(str, files))}; expected one or more.")
    names, items = zip(*named, strict=True)
    held = list(items) if kind == "text" else np.stack(items)
    return library("data").Dataset(held, np.zeros(len(names), np.float32), (), kind, "regression", names=names)


def _of_table(net: Any, files: list[Path], *, columns: list[str]) -> Any:
    """Return the items of a table with the columns beside them, in which the table's rows have names where its items have none."""
    tables = library("data.readers.tables")
    if len(files) != 1 or files[0].suffix.lower() not in tables.TABLE_EXTENSIONS:
        shown = ", ".join(map(str, files[:3]))
        raise InputError(
            f"The network reads the columns {', '.join(columns)} beside each item; received {shown}. Give one CSV or Parquet file that has "
            "them and names, or holds, the items."
        )
    data = tables.read_unlabelled(files[0], net.preprocessing.item_kind, columns=columns)
    names = data.names or tuple(f"{files[0]}:{row}" for row in range(len(data)))
    return dataclasses.replace(data, names=names)


def _texts(files: list[Path], texts: list[str]) -> Iterator[tuple[str, str]]:
    for number, text in enumerate(texts, start=1):
        yield f"text {number}", text
    for path in files:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as a text file in UTF-8: {error}.") from error
        yield from ((f"{path}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip())


def _arrays(files: list[Path]) -> Iterator[tuple[str, np.ndarray]]:
    import numpy as np

    for path in files:
        try:
            rows = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} cannot be read as a .npy file of numbers: {error}. Expected an array (items, …), or one CSV or Parquet file."
            ) from error
        yield from ((f"{path}:{index}", row) for index, row in enumerate(rows))


def _told(found: Any, kind: str, *, scores: bool) -> list[dict[str, Any]]:
    """Return what is said of each item for one task: the label, its probability where there is one, and on request all scores."""
    rows: list[dict[str, Any]] = [{"label": label} for label in found.labels]
    for row, strange in zip(rows, [] if found.unknown is None else found.unknown, strict=False):
        row["unknown"] = bool(strange)
    for row, chances in zip(rows, found.scores, strict=True):
        if kind != "regression":
            row["probability"] = float(chances.max())
        if scores:
            row["scores"] = dict(zip(found.classes, map(float, chances), strict=True))
    return rows


def _print_csv(names: list[str], told: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print one row an item: the first task's columns as they are, those of further tasks with the task's name in front."""
    writer = csv.writer(sys.stdout, lineterminator="\n")
    first = next(iter(told))
    for index, name in enumerate(names):
        cells = {"file": name}
        for task, rows in told.items():
            cells |= {key if task == first else f"{task}.{key}": value for key, value in _cells(rows[index])}
        if not index:
            writer.writerow(cells)
        writer.writerow(cells.values())


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "label", row["label"]
    if "probability" in row:
        yield "probability", f"{row['probability']:.6f}"
    if "unknown" in row:
        yield "unknown", "yes" if row["unknown"] else "no"
    for name, chance in row.get("scores", {}).items():
        yield f"p({name})", f"{chance:.6f}"


def _print_lines(names: list[str], told: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print one JSON object an item: what is said for the first task, and, of several, for each under "tasks"."""
    for index, name in enumerate(names):
        by_task = {task: rows[index] for task, rows in told.items()}
        line = {"file": name, **next(iter(by_task.values()))} | ({"tasks": by_task} if len(by_task) > 1 else {})
        print(json.dumps(line, ensure_ascii=False))
