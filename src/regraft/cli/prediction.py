"""`regraft predict`: labels and probabilities of raw files, as CSV or JSON lines."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from ..errors import DataError, InputError
from .guard import guarded, tell
from .options import Form, Format, ItemsArgument, SavedArgument, Scores, SkipBad, Texts
from .shared import library, opened

if TYPE_CHECKING:
    import numpy as np

__all__ = ["add_to"]


def add_to(app: typer.Typer) -> None:
    """Add the command `predict` to `app`."""
    app.command("predict")(guarded(_predict))


def _predict(
    folder: SavedArgument,
    files: ItemsArgument = None,
    *,
    text: Texts = None,
    form: Form = Format.csv,
    scores: Scores = False,
    skip_bad: SkipBad = False,
) -> None:
    """Print label and probability of each item, with the network's own preprocessing."""
    net = opened(str(folder))
    data = _items(net.preprocessing.kind, files or [], texts=text or [])
    if skip_bad:
        data = library("data").checked(data, True)
        for note in data.notes:
            tell(f"Note: {note}")
    found = net.predict(data)
    rows = _rows(data, found, kind=net.head.kind)
    if form is Format.jsonl:
        _print_lines(rows, found, scores=scores)
    else:
        _print_csv(rows, found, scores=scores)


def _items(kind: str, files: list[Path], *, texts: list[str]) -> Any:
    """Return the unlabelled items with their names.

    Raises:
        InputError: if there are none, or texts are given to a network of another kind.
    """
    if texts and kind != "text":
        raise InputError(f"--text goes with a network that reads texts; this one takes items of the kind {kind!r}. Give files.")
    if not files and not texts:
        raise InputError(f"No items were given; expected FILES{' or --text' if kind == 'text' else ''}.")
    missing = [str(path) for path in files if not path.exists()]
    if missing:
        shown = library("data.items").listed(missing)
        raise DataError(f"These files do not exist: {shown}. Relative paths start at {Path.cwd()}.")
    if kind in ("image", "audio"):
        return library("data.preprocessing").as_dataset(list(files), kind)
    import numpy as np

    named = list(_texts(files, texts)) if kind == "text" else list(_arrays(files))
    if not named:
        raise DataError(f"No items were found in {', '.join(map(str, files))}; expected one or more.")
    names, items = zip(*named, strict=True)
    held = list(items) if kind == "text" else np.stack(items)
    return library("data").Dataset(held, np.zeros(len(names), np.float32), (), kind, "regression", names=names)


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
            raise DataError(f"{path} cannot be read as a .npy file of numbers: {error}. Expected an array (items, …).") from error
        yield from ((f"{path}:{index}", row) for index, row in enumerate(rows))


def _rows(data: Any, found: Any, *, kind: str) -> list[dict[str, Any]]:
    named = ((data.name_of(index), label) for index, label in enumerate(found.labels))
    if kind == "regression":
        return [{"file": name, "label": label} for name, label in named]
    return [{"file": name, "label": label, "probability": float(row.max())} for (name, label), row in zip(named, found.scores, strict=True)]


def _print_csv(rows: list[dict[str, Any]], found: Any, *, scores: bool) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow([*rows[0], *(f"p({name})" for name in found.classes)] if scores else list(rows[0]))
    for row, chances in zip(rows, found.scores, strict=True):
        cells = [f"{value:.6f}" if isinstance(value, float) else value for value in row.values()]
        writer.writerow(cells + [f"{chance:.6f}" for chance in chances] if scores else cells)


def _print_lines(rows: list[dict[str, Any]], found: Any, *, scores: bool) -> None:
    for row, chances in zip(rows, found.scores, strict=True):
        more = {"scores": dict(zip(found.classes, map(float, chances), strict=True))} if scores else {}
        print(json.dumps(row | more, ensure_ascii=False))
