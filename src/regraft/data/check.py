"""Detection of unusable examples: corrupt files, numbers that are not finite, values that are not texts."""

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError, InputError
from ..files.formats import reason_of
from ..files.media import is_cut_short, picture_of, recording_of
from ..words import counted
from .dataset import PART_OF_EXAMPLE, Dataset
from .decoding.threads import in_threads
from .items import ArrayView, chunks_of, listed

__all__ = ["bad_items", "checked", "labelled", "rows_not_finite"]

DRAFT_SIZE = (64, 64)
BLOCK_SAMPLES = 2**18
_SURROGATES = re.compile("[\ud800-\udfff]")
LEFT_OUT_SHOWN = 100


def checked(data: Dataset, skip_bad: bool) -> Dataset:
    """Return the data, with unusable examples left out if `skip_bad`; otherwise raise if there are any."""
    bad = bad_items(data)
    data = _left_out(data, bad, what="cannot be used", skip_bad=skip_bad) if bad else data
    recordings = data.items if data.kind == "audio" else ()
    cut = [data.name_of(at) for at, item in enumerate(recordings) if isinstance(item, str | Path) and is_cut_short(item)]
    note = (
        f"{counted(len(cut), 'recording', verb='end', of=len(data))} before the length that is declared; what is there is read: "
        f"{listed(cut)}"
    )
    return data if not cut or note in data.notes else dataclasses.replace(data, notes=(*data.notes, note))


def labelled(data: Dataset, skip_bad: bool) -> Dataset:
    """Return the data, with examples without any target left out if `skip_bad`; otherwise raise if there are any."""
    known = np.any([data.targets_of(name).known for name in data.tasks], axis=0)
    bad = {int(index): "" for index in np.flatnonzero(~known)}
    tasks = ", ".join(map(repr, data.tasks))
    return _left_out(data, bad, what=f"have no target of any task ({tasks})", skip_bad=skip_bad) if bad else data


def _left_out(data: Dataset, bad: Mapping[int, str], *, what: str, skip_bad: bool) -> Dataset:
    reasons = {index: f" ({reason})" if reason else "" for index, reason in bad.items()}
    named = listed((data.name_of(index) + reason for index, reason in reasons.items()), LEFT_OUT_SHOWN if skip_bad else 5)
    count = f"{len(bad)} of {counted(len(data), 'example')} {what}: {named}"
    if not skip_bad:
        facts = [fact for fact in data.table if fact.get("missing") and fact["use"] == PART_OF_EXAMPLE]
        missing = [f"{fact['missing']} in {fact['column']!r}" for fact in facts]
        count += f". Values are missing in {counted(len(missing), 'column')}: {listed(missing)}" if missing else ""
        raise DataError(f"{count}. Repair or remove them, or leave them out with skip_bad=True.")
    if len(bad) == len(data):
        raise DataError(f"{count}; expected at least one usable example.")
    kept = data.subset([index for index in range(len(data)) if index not in bad])
    kept, gone = _without_emptied(kept, data)
    said = f"; with them the classes of which no example is left: {listed(map(repr, gone))}" if gone else ""
    return dataclasses.replace(kept, notes=(*kept.notes, f"left out: {count}{said}"))


def _without_emptied(kept: Dataset, whole: Dataset) -> tuple[Dataset, list[str]]:
    """Return the kept examples without the classes of which none is left, and the names of these classes. Nothing could be learned for
    their outputs. A list of classes that held some without examples before was declared, and stays as it is."""
    gone = list[str]()
    for task in kept.tasks:
        after = kept.targets_of(task)
        if after.task != "regression" and all(whole.targets_of(task).counts()):
            emptied = [name for name, count in zip(after.classes, after.counts(), strict=True) if not count]
            kept, gone = kept.with_classes([name for name in after.classes if name not in emptied], task), [*gone, *emptied]
    return kept, gone


def bad_items(data: Dataset) -> dict[int, str]:
    """Decode every file, check every number and text, and return index -> reason for each unusable example, in order."""
    if data.part_names:
        wrong = {name: bad_items(data.part(name)) for name in data.part_names}
        rows = sorted({row for found in wrong.values() for row in found})
        return {row: ", ".join(f"{name!r}: {found[row]}" for name, found in wrong.items() if row in found) for row in rows}
    if data.kind == "text":
        reasons = {index: _text_reason(item) for index, item in enumerate(data.items)}
        return {index: reason for index, reason in reasons.items() if reason}
    if isinstance(data.items, np.ndarray | ArrayView) and data.items.dtype.kind != "O":
        return {int(row): "NaN or infinity" for row in rows_not_finite(data.items)}
    said = in_threads(lambda index: _reason(data.items[index], data.kind), range(len(data)))
    return {index: reason for index, reason in enumerate(said) if reason}


def rows_not_finite(items: Any) -> np.ndarray:
    """Return the rows, (n,) int64 in order, that contain NaN or infinity. The array is read in chunks.
    `items`: (N, ...) array, memory map or view of one."""
    if items.dtype.kind not in "fc" or not len(items):
        return np.zeros(0, dtype=np.int64)
    finite = ((start, np.isfinite(np.reshape(rows, (len(rows), -1))).all(axis=1)) for start, rows in chunks_of(items))
    return np.concatenate([start + np.flatnonzero(~part) for start, part in finite])


def _text_reason(item: Any) -> str:
    if item is None:
        return "missing text"
    if not isinstance(item, str):
        return f"{type(item).__name__} in place of a text"
    return "bytes that are no text (lone surrogates)" if _SURROGATES.search(item) else ""


def _reason(item: Any, kind: str) -> str:
    """Return why a file or an array cannot be used; "" if it can."""
    if not isinstance(item, str | Path):
        return _array_reason(item)
    try:
        if kind != "image":
            return _sound_reason(item)
        with picture_of(item) as picture:
            picture.draft("RGB", DRAFT_SIZE)
            picture.load()
    except InputError as error:
        return reason_of(error.__cause__ or error)
    return ""


def _sound_reason(path: str | Path) -> str:
    with recording_of(path) as file:
        whole = -1 if file.seekable() else file.frames
        blocks = file.blocks(max(1, BLOCK_SAMPLES // file.channels), frames=whole, dtype="float32")
        finite = [bool(np.isfinite(block).all()) for block in blocks]
    if not finite:
        return "no samples"
    return "" if all(finite) else "NaN or infinity"


def _array_reason(item: Any) -> str:
    array = np.asarray(item)
    if array.dtype.kind not in "biuf":
        return f"{array.dtype} values in place of numbers"
    if not array.size:
        return "empty"
    return "" if np.isfinite(array).all() else "NaN or infinity"
