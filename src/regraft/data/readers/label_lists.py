"""Labels given as lists: an example may have several labels, or none."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import DataError
from ...files.text import natural_key
from ...networks.names import rows_of
from ...words import counted
from ..items import as_numpy
from ..targets import foreign_labels

Lists = list[list[Any] | None]


def label_lists(values: Any, classes: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Return lists of labels as rows of 0 and 1, (N, C) float32, and the C names; None if the values are not lists.
    A missing list becomes a row of NaN."""
    rows = _lists(values)
    if rows is None:
        return None
    texts = [None if row is None else [label_text(label) for label in row] for row in rows]
    found = sorted({text for row in texts for text in row or ()}, key=natural_key)
    if not found:
        raise DataError(f"None of the {counted(len(rows), 'list')} of labels holds a label; expected one or more.")
    names = tuple(found) if classes is None else tuple(classes)
    places = rows_of(found, names)
    unknown = [name for name in found if name not in places]
    if unknown:
        raise foreign_labels(unknown, names)
    table = np.zeros((len(rows), len(names)), dtype=np.float32)
    for at, row in enumerate(texts):
        if row is None:
            table[at] = np.nan
        else:
            table[at, [places[text] for text in row]] = 1
    return table, names


def _lists(values: Any) -> Lists | None:
    """Return the labels of each example, None for a missing list; None if the values are not lists of labels."""
    held = values if isinstance(values, list | tuple) else as_numpy(values)
    if isinstance(held, np.ndarray):
        if held.dtype.kind not in "OUS" or held.shape[1:] == (1,) or (held.dtype.kind != "O" and held.ndim == 1):
            return None
        held = list(held)
    if not any(_is_list(value) for value in held):
        return None
    single = next((at for at, value in enumerate(held) if not _is_list(value) and not is_missing(value)), None)
    if single is not None:
        raise DataError(f"Row {single} has the label {held[single]!r} and other rows have lists of labels; expected a list in each row.")
    rows = [list(value) if _is_list(value) else None for value in held]
    labels = [label for row in rows for label in row or ()]
    numbers = bool(labels) and all(isinstance(label, int | float | np.number | np.bool_) or label is None for label in labels)
    rectangular = len({len(row) for row in rows if row is not None}) == 1 and not any(isinstance(value, set | frozenset) for value in held)
    return None if numbers and rectangular else rows


def _is_list(value: Any) -> bool:
    return isinstance(value, list | tuple | set | frozenset) or (isinstance(value, np.ndarray) and value.ndim == 1)


def label_text(label: Any) -> str:
    """Return one label as text. `label`: a text, bytes in UTF-8, a number, or any other single value."""
    if isinstance(label, bytes):
        try:
            return label.decode()
        except UnicodeDecodeError as error:
            raise DataError(f"The label {label!r} is bytes that are no text in UTF-8: {error.reason}. Decode the labels first.") from error
    if isinstance(label, Mapping | list | tuple | set | frozenset) or (isinstance(label, np.ndarray) and label.ndim):
        shown = f"{type(label).__name__} ({str(label)[:60]!r})"
        raise DataError(f"A label is of the type {shown}; expected a text, a number, or a list of those.")
    return str(label)


def is_missing(value: Any) -> bool:
    """Return whether a value is missing: None, NaN, an empty or blank text, or a missing value of pandas."""
    if isinstance(value, float):
        return value != value
    return value is None or (isinstance(value, str | bytes) and not value.strip()) or type(value).__name__ in ("NAType", "NaTType")
