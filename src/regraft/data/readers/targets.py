"""Conversion of user labels to targets: class indices, numbers, or a table of 0 and 1."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...errors import DataError
from ...files.text import natural_key
from ...networks.names import exact_name, rows_of
from ...words import counted
from ..items import as_numpy, listed
from ..targets import Targets, foreign_labels, spelling_notes, wrong_task

MOST_LABEL_BYTES = 2**31
FEW_VALUES = 20  # Up to this many distinct whole numbers, float targets are probably classes, and a note says so


@dataclass(frozen=True)
class ReadOptions:
    """Options of `read`, passed to the reader of the source."""

    target: Any = None
    files: Any = None
    group: Any = None
    condition: Any = None
    kind: Any = None
    skip_bad: bool = False
    classes: Mapping[str | None, tuple[str, ...]] | None = None
    columns: Any = None
    outside: bool = False
    task: str | Mapping[str, str] | None = None
    weight: Any = None
    inputs: Mapping[str, str | Sequence[str]] | None = None

    def classes_of(self, task: str, *, first: bool) -> tuple[str, ...] | None:
        """Return the class names requested for a task. Names given without a task (key None) belong to the first task."""
        given = self.classes or {}
        return given.get(task, given.get(None) if first else None)

    def task_of(self, task: str) -> str | None:
        """Return the task type requested for a task."""
        return self.task.get(task) if isinstance(self.task, Mapping) else self.task


def label_array(values: Any, count: int, *, what: str) -> np.ndarray | None:
    """Return one label for each example as (N,) strings; None if `values` is None. `values`: any array-like of N labels."""
    if values is None:
        return None
    if isinstance(values, str):
        raise DataError(
            f"{what}={values!r} names a column, and this source has no columns; expected an array of {counted(count, 'label')}."
        )
    array = as_numpy(values)
    if array.ndim != 1 or len(array) != count:
        raise DataError(
            f"{what} has the shape {array.shape} for {counted(count, 'example')}; expected one label for each example: ({count},)."
        )
    missing = missing_rows(array)
    if missing.size:
        raise DataError(f"{what} is missing in rows {listed(missing)}; expected a label in each row.")
    return _texts(array.tolist(), what=what)


def _texts(values: list[Any], *, what: str) -> np.ndarray:
    """Return labels as an array of texts. Its memory is the number of labels times the longest label, so long texts are refused."""
    texts = [_label_text(value) for value in values]
    longest = max(map(len, texts), default=0)
    if longest * len(texts) * 4 > MOST_LABEL_BYTES:
        raise DataError(
            f"{what} has {counted(len(texts), 'label')} of up to {longest:,} characters; expected names, not whole texts. Choose another "
            "column, or shorten them."
        )
    if any("\0" in text for text in texts):
        raise DataError(f"{what} has labels with null characters, such as {next(text for text in texts if chr(0) in text)!r}. Rename them.")
    return np.array(texts, dtype=np.str_)


def make_targets(values: Any, classes: Sequence[str] | None = None, *, task: str | None = None) -> Targets:
    """Infer the task type of labels and return them as targets.
    Strings, bytes and integers are classes. Floating-point numbers are regression, or class indices if `classes` is given. Rows of 0 and 1
    are one-hot if every row has exactly one 1, else multi-label. Lists of labels are multi-label.
    `values`: (N,) or (N, C), anything array-like, or N lists of labels."""
    lists = label_lists(values, classes)
    if lists is not None:
        return _told(Targets(*lists, "multi-label"), task)
    array = labels_in(values)
    if array.ndim == 2:
        _check_rows(array)
        return _of_numbers(array, task) if _are_numbers(array, task, known=classes is not None) else _told(_from_rows(array, classes), task)
    if array.ndim != 1:
        raise DataError(f"Targets have the shape {array.shape}; expected (N,) or, for one-hot and multi-label, (N, C).")
    if array.dtype.kind in "cV":
        raise DataError(f"Targets are of the type {array.dtype}; expected class names, whole numbers, or numbers.")
    missing = missing_rows(array)
    if missing.size:
        raise DataError(
            f"Targets are missing or not finite in rows {listed(missing)}; expected a label in each row. Fill or remove them, or leave "
            "them out with skip_bad=True."
        )
    if array.dtype.kind in "OS":
        array = typed(array)
    if task == "regression":
        return _regression(_numbers(array), said=True)
    whole = array.dtype.kind == "f" and bool((array == np.round(array)).all())
    if array.dtype.kind == "f" and task is None and not (classes and whole):
        return _regression(array)
    if array.dtype.kind == "f":
        array = array.astype(np.int64) if whole else np.array([str(number) for number in array.tolist()])
    return _told(_classification(array, classes), task)


def _told(found: Targets, task: str | None) -> Targets:
    """Return targets converted to the requested task type."""
    return found if task is None else replace(found.as_task(task), also=())


def _numbers(array: np.ndarray) -> np.ndarray:
    try:
        return array.astype(np.float64)
    except ValueError as error:
        odd = next(value for value in array.tolist() if not _is_number(value))
        raise wrong_task("regression", f"a label such as {odd!r} is no number") from error


def _is_number(value: Any) -> bool:
    try:
        return float(value) == float(value)
    except ValueError:
        return False


def _are_numbers(rows: np.ndarray, task: str | None, *, known: bool) -> bool:
    """Return whether rows, (N, k), are k numbers of each example: said to be a regression, or fractions where no class names are known."""
    if task == "regression":
        return rows.dtype.kind in "biuf"
    return task is None and not known and rows.dtype.kind == "f" and bool((rows != np.round(rows)).any())


def labels_in(values: Any) -> np.ndarray:
    """Return labels as an array, (N,) or (N, k). Rows of objects become numbers, with NaN for empty cells, if all of them are numbers."""
    texts = isinstance(values, list | tuple) and any(isinstance(value, str) for value in values)
    array = np.array(values, dtype=object) if texts else as_numpy(values)  # else each would take the memory of the longest
    if array.ndim == 2 and array.shape[1] == 1:
        return array[:, 0]
    if array.ndim != 2 or array.dtype.kind != "O":
        return array
    cells = [np.nan if is_missing(cell) else cell for cell in array.ravel().tolist()]
    return np.array(cells, dtype=np.float64).reshape(array.shape) if all(isinstance(cell, int | float) for cell in cells) else array


def _check_rows(rows: np.ndarray) -> None:
    wrong = ~np.isfinite(rows) if rows.dtype.kind == "f" else np.zeros(rows.shape, bool)
    if wrong.any():
        faulty = np.flatnonzero(wrong.any(axis=1))
        whole = ", or leave them out with skip_bad=True" if np.isnan(rows[faulty]).all() else ""
        raise DataError(
            f"Targets are missing or not finite in rows {listed(faulty)}; expected {counted(rows.shape[1], 'number')} in each row. Fill or "
            f"remove them{whole}."
        )


def _of_numbers(rows: np.ndarray, task: str | None) -> Targets:
    note = f"the rows of {rows.shape[1]} numbers are read as the targets of as many outputs (regression)"
    if (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1, atol=1e-3):
        note += "; each row adds up to 1: if they are probabilities of classes, give the most probable class as the label"
    return Targets(rows.astype(np.float32), (), "regression", () if task else (note,))


def _from_rows(array: np.ndarray, classes: Sequence[str] | None) -> Targets:
    if array.dtype.kind not in "biuf" or not np.isin(array, (0, 1)).all():
        odd = array[~np.isin(array, (0, 1))].tolist()[0]
        raise DataError(
            f"Targets of the shape {array.shape} hold values other than 0 and 1, such as {odd!r}; expected one-hot or "
            "multi-label rows of 0 and 1, or one label for each example. If they are numbers to be predicted, say task='regression'."
        )
    names = tuple(classes) if classes else tuple(str(column) for column in range(array.shape[1]))
    if len(names) != array.shape[1]:
        raise DataError(
            f"Targets have {counted(array.shape[1], 'column')} and {counted(len(names), 'class name', verb='were')} given; expected as "
            "many."
        )
    if (array.sum(axis=1) == 1).all():
        return Targets(array.argmax(axis=1).astype(np.int64), names, "classification", also=("multi-label",))
    return Targets(array.astype(np.float32), names, "multi-label")


def _regression(array: np.ndarray, *, said: bool = False) -> Targets:
    distinct = np.unique(array)
    if said or len(distinct) > FEW_VALUES or not (distinct == np.round(distinct)).all():
        return Targets(array.astype(np.float32), (), "regression")
    note = f"the {len(distinct)} distinct float targets are read as numbers (regression); for classes give task='classification'"
    return Targets(array.astype(np.float32), (), "regression", (note,), also=("classification",))


def _classification(array: np.ndarray, classes: Sequence[str] | None) -> Targets:
    distinct, inverse = np.unique(array, return_inverse=True)
    labels = [str(value) for value in distinct.tolist()]
    if classes is not None:
        rows = _known_rows(distinct, labels, classes=classes)
        found = {label: classes[row] for label, row in rows_of(labels, classes).items()}
        return Targets(rows[inverse], tuple(classes), "classification", spelling_notes(found))
    _check_distinct(labels, np.bincount(inverse))
    order = sorted(range(len(labels)), key=lambda row: row if array.dtype.kind in "iu" else natural_key(labels[row]))
    rank = np.empty(len(labels), dtype=np.int64)
    rank[order] = np.arange(len(labels))
    numbers = array.dtype.kind in "iu"
    return Targets(
        rank[inverse],
        tuple(labels[row] for row in order),
        "classification",
        tuple(_number_notes(distinct, np.bincount(inverse))) if numbers else (),
        also=("regression",) if numbers else (),
    )


def _number_notes(distinct: np.ndarray, counts: np.ndarray) -> Iterator[str]:
    """Yield notes on whole numbers that are read as classes."""
    if len(distinct) > FEW_VALUES:
        yield f"the {len(distinct)} distinct whole numbers are read as classes; for numbers give task='regression'"
    if distinct[0] == -1 and len(distinct) > 1 and distinct[1] in (0, 1):
        yield f"the label -1 ({counted(counts[0], 'example')}) is read as a class; where it means that the label is missing, leave it empty"


def named_labels(labels: Iterable[Any], names: tuple[str, ...], *, options: ReadOptions) -> tuple[Any, ReadOptions, tuple[str, ...]]:
    """Return labels that are indices of a data set's class names as these names, with the options for them.
    If the network has classes and none of them is among the names, perhaps in another case, the numbers are the places of its own classes:
    labels and options are unchanged, and a note says so unless its classes are just numbers. `labels`: N numbers, or lists of these."""
    wanted = names if options.classes is None else options.classes.get(None, ())
    if rows_of(names, wanted):
        lists = any(isinstance(one, list | np.ndarray) for one in labels)
        numbers = np.array([number for one in labels for number in (one if lists else [one])], dtype=np.int64)
        if not 0 <= numbers.min() <= numbers.max() < len(names):
            span = f"{numbers.min()} to {numbers.max()}"
            raise DataError(f"Labels run from {span} and the data set names {counted(len(names), 'class')}: {listed(names)}.")
        named = [[names[number] for number in one] if lists else names[one] for one in labels]
        return named, replace(options, classes=options.classes or {None: names}), ()
    if all(name.strip().isdigit() for name in wanted):
        return labels, options, ()
    ours, theirs = (listed(map(repr, side)) for side in (wanted, names))
    note = f"the data set calls its classes {theirs}, none of which the network has: its numbers are taken as the places of {ours}"
    return labels, options, (note,)


def _known_rows(distinct: np.ndarray, labels: list[str], *, classes: Sequence[str]) -> np.ndarray:
    """Return the class index of each distinct label: by name, or as an index if the labels are integers and none is a name."""
    rows = rows_of(labels, classes)
    unknown = [label for label in labels if label not in rows]
    if not unknown:
        return np.array([rows[label] for label in labels], dtype=np.int64)
    if len(unknown) == len(labels) and distinct.dtype.kind in "iu" and distinct.min() >= 0 and distinct.max() < len(classes):
        return distinct.astype(np.int64)
    raise foreign_labels(unknown, classes)


def _check_distinct(labels: list[str], counts: np.ndarray) -> None:
    seen: dict[str, int] = {}
    for row, label in enumerate(labels):
        other = seen.setdefault(exact_name(label), row)
        if other != row:
            raise DataError(
                f"Two labels are the same once trimmed: {labels[other]!r} ({counted(counts[other], 'example')}) and {label!r} "
                f"({counted(counts[row], 'example')}). Make them equal, or rename one."
            )


def missing_rows(array: np.ndarray) -> np.ndarray:
    """Return the rows, (n,) int64 in order, of labels that are missing or not finite. `array`: (N,) labels of any type."""
    if array.dtype.kind == "f":
        return np.flatnonzero(~np.isfinite(array))
    if array.dtype.kind == "O":
        return np.array([row for row, value in enumerate(array) if is_missing(value)], dtype=np.int64)
    return np.flatnonzero(np.char.strip(array) == np.array("", array.dtype)) if array.dtype.kind in "US" else np.zeros(0, dtype=np.int64)


def typed(array: np.ndarray) -> np.ndarray:
    """Return an object array of numbers as numbers (int64 or float64), anything else as strings. `array`: (N,) objects, none missing."""
    values = array.tolist()
    if values and all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return np.array(values)
    return _texts(values, what="target")


# ── labels given as lists: an example may have several labels, or none ─────────────────────────────────────────────────────


def label_lists(values: Any, classes: Sequence[str] | None = None) -> tuple[np.ndarray, tuple[str, ...]] | None:
    """Return lists of labels as rows of 0 and 1, (N, C) float32, and the C names; None if the values are not lists.
    A missing list becomes a row of NaN."""
    rows = _lists(values)
    if rows is None:
        return None
    texts = [None if row is None else [_label_text(label) for label in row] for row in rows]
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


def _lists(values: Any) -> list[list[Any] | None] | None:
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


def _label_text(label: Any) -> str:
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
