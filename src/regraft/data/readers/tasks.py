"""From labels of one or several tasks to a data set with groups, conditions, columns and weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import DataError, near_names
from ...words import counted
from ..check import labelled
from ..dataset import Dataset, with_targets
from ..items import LazyItems, Padding, listed
from ..targets import MISSING, Targets
from .columns import column_array, weight_numbers
from .targets import FEW_VALUES, ReadOptions, is_missing, label_array, label_lists, labels_in, make_targets, missing_rows, typed

MAIN = "main"


@dataclass(frozen=True, eq=False)
class ExampleFacts:
    """Groups, conditions, columns and weights of N examples."""

    groups: np.ndarray | None = None  # (N,) str, or None
    conditions: np.ndarray | None = None  # (N,) str, or None
    columns: np.ndarray | None = None  # (N, k) float32, or None
    column_names: tuple[str, ...] = ()
    weights: np.ndarray | None = None  # (N,) float32, or None

    @classmethod
    def of(cls, options: ReadOptions, count: int) -> ExampleFacts:
        """Convert the given options to arrays for `count` examples."""
        groups = label_array(options.group, count, what="group")
        conditions = label_array(options.condition, count, what="condition")
        return cls(groups, conditions, *column_array(options.columns, count), weights=weight_numbers(options.weight, count))

    def taken(self, rows: np.ndarray) -> ExampleFacts:
        """Return the part for the examples at `rows`, (n,), in that order."""
        parts = {name: part[rows] for name, part in self.given().items() if name != "column_names"}
        return dataclasses.replace(self, **parts)

    def given(self) -> dict[str, Any]:
        """Return those fields of a data set that were given."""
        return {name: value for name, value in vars(self).items() if value is not None and len(value)}


def built(
    items: Sequence[Any] | np.ndarray,
    kind: str,
    *,
    tasks: Mapping[str, Targets],
    beside: ExampleFacts,
    options: ReadOptions,
    names: tuple[str, ...] | None = None,
    notes: Sequence[str] = (),
) -> Dataset:
    """Return the data set of the examples, their targets by task, and the values beside them."""
    first = next(iter(tasks.values()))
    plain = Dataset(items, first.values, first.classes, kind, first.task, names=names, notes=tuple(notes), partial=True, **beside.given())
    if isinstance(items, LazyItems) and items.padded is not None:
        plain = as_padded(plain, items.padded)
    return with_tasks(plain, tasks, skip_bad=options.skip_bad)


def as_padded(data: Dataset, padding: Padding) -> Dataset:
    """Return data whose examples were padded to one length, with a note on it."""
    length, axis = padding.shape[padding.axis], padding.axis
    return dataclasses.replace(data, notes=(*data.notes, padding.note), max_length=length, length_axis=axis)


def with_tasks(data: Dataset, tasks: Mapping[str, Targets], *, skip_bad: bool) -> Dataset:
    """Return the same examples with other targets."""
    notes = [f"task {task!r}: {note}" if len(tasks) > 1 else note for task, targets in tasks.items() for note in targets.notes]
    data = with_targets(data, tasks, notes=(*data.notes, *notes), partial=True)
    return dataclasses.replace(labelled(data, skip_bad), partial=False)


def targets_by_task(labels: Any, options: ReadOptions, *, count: int) -> dict[str, Targets]:
    """Return the targets by task name, N for each; the name is "main" if `labels` is not a mapping."""
    if not isinstance(labels, Mapping):
        made = _partial_targets if options.skip_bad else make_targets
        return {MAIN: made(labels, options.classes_of(MAIN, first=True), task=options.task_of(MAIN))}
    if not labels:
        raise DataError(f"target={dict(labels)} names no task; expected a mapping from task to labels with one entry or more.")
    names = [str(name) for name in labels]
    unknown = [name for name in options.classes or {} if name not in (None, *names)]
    if unknown:
        raise DataError(f"Classes were given for {unknown[0]!r}, which is no task of the data{near_names(str(unknown[0]), names)}")
    found = {}
    for name, values in zip(names, labels.values(), strict=True):
        if isinstance(values, str) or len(values) != count:
            what = (
                f"the column name {values!r}, and this source has no columns" if isinstance(values, str) else counted(len(values), "label")
            )
            raise DataError(f"Task {name!r} was given {what}; expected an array of {counted(count, 'label')}, one for each example.")
        try:
            found[name] = _partial_targets(values, options.classes_of(name, first=name == names[0]), task=options.task_of(name))
        except DataError as error:
            raise DataError(f"Task {name!r}: {error}") from error
    return found


def _partial_targets(values: Any, classes: Sequence[str] | None = None, *, task: str | None = None) -> Targets:
    """Infer the task type of labels with missing entries: None, NaN, an empty text, or a row of these.
    The known labels are read as by `make_targets`. If labels are missing, whole float numbers with few distinct values are classes, because
    tables store integer columns with empty cells as floats.
    `values`: (N,) or (N, C), anything array-like. A missing target becomes -1, NaN or a row of NaN."""
    lists = label_lists(values, classes)
    array = _array_of(values) if lists is None else lists[0]
    missing = _missing(array)
    if missing.all():
        raise DataError(f"All {counted(len(array), 'target', verb='are')} missing; expected one or more.")
    present = array[~missing]
    if present.ndim == 1 and present.dtype.kind in "OS":
        present = typed(present)
    infinite = np.flatnonzero(np.isinf(present)) if present.dtype.kind == "f" else np.zeros(0, dtype=np.int64)
    if infinite.size:
        rows = np.flatnonzero(~missing)[np.unique(infinite)] if present.ndim == 1 else np.flatnonzero(np.isinf(array).any(axis=1))
        raise DataError(f"Targets are infinite in rows {listed(rows)}; expected finite numbers, or empty cells where they are missing.")
    notes: tuple[str, ...] = ()
    if missing.any() and classes is None and task is None and present.ndim == 1 and present.dtype.kind == "f":
        present, notes = _whole(present)
    made = make_targets(present, classes if lists is None else lists[1], task=task if lists is None else task or "multi-label")
    filled = np.full((len(array), *made.values.shape[1:]), MISSING if made.task == "classification" else np.nan, made.values.dtype)
    filled[~missing] = made.values
    return dataclasses.replace(made, values=filled, notes=notes or made.notes)


def _whole(present: np.ndarray) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return whole numbers with few distinct values as integers, with a note on the decision."""
    distinct = np.unique(present)
    if not (distinct == np.round(distinct)).all():
        return present, ()
    if len(distinct) > FEW_VALUES:
        return present, (f"the {len(distinct)} distinct whole numbers are read as numbers; for classes give task='classification'",)
    note = f"the {len(distinct)} distinct whole numbers are read as classes; for numbers give task='regression'"
    return present.astype(np.int64), (note,)


def _array_of(values: Any) -> np.ndarray:
    """Return labels as an array. Rows of cells become numbers, with NaN for empty cells."""
    if isinstance(values, list | tuple):
        widths = {len(value) for value in values if isinstance(value, list | tuple | np.ndarray)}
        if len(widths) == 1:
            values = [[None] * max(widths) if is_missing(value) else list(value) for value in values]
    return labels_in(values)


def _missing(array: np.ndarray) -> np.ndarray:
    """Return which labels are missing, (N,) bool."""
    if array.ndim == 1:
        missing = np.zeros(len(array), dtype=bool)
        missing[missing_rows(array)] = True
        return missing & ~np.isinf(array) if array.dtype.kind == "f" else missing
    if array.ndim != 2 or array.dtype.kind != "f":
        return np.zeros(len(array), dtype=bool)
    absent = np.isnan(array)
    in_part = np.flatnonzero(absent.any(axis=1) & ~absent.all(axis=1))
    if in_part.size:
        raise DataError(f"Targets are missing in part in rows {listed(in_part)}; expected all cells of a row or none.")
    return np.asarray(absent.all(axis=1))
