"""Targets of one task: class indices, numbers, or rows of 0 and 1. Some may be missing if there are several tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import DataError, near_names
from ..networks.names import exact_name, rows_of
from ..words import counted
from .items import listed

TASKS = ("classification", "multi-label", "regression")
MISSING = -1  # Class index of a missing target; for other tasks a missing target is NaN
REGRESSION_BINS, FEWEST_IN_BIN = 10, 5
"""Number of quantiles by which regression targets are stratified; fewer if a bin would hold under `FEWEST_IN_BIN` examples.

Each bin gives at least one example to the second part, which must not be half of the bin.
"""


@dataclass(frozen=True, eq=False)
class Targets:
    """Targets of one task as a data set stores them.
    `values`: (N,) int64 class indices, (N,) or (N, k) float32 numbers (regression), or (N, C) float32 of 0 and 1 (multi-label). A missing
    target is -1, NaN, or a row of NaN."""

    values: np.ndarray = field(repr=False)
    classes: tuple[str, ...]  # class names in index order; empty for regression
    task: str = "classification"  # "classification", "multi-label" or "regression"
    notes: tuple[str, ...] = ()
    also: tuple[str, ...] = ()  # other task types that fit the same labels, if the task was not specified

    def __len__(self) -> int:
        return len(self.values)

    @property
    def known(self) -> np.ndarray:
        """Whether each target is known, (N,) bool."""
        if self.task == "classification":
            return np.asarray(self.values >= 0)
        absent = np.isnan(self.values)
        return np.asarray(~absent.any(axis=tuple(range(1, absent.ndim))))

    def check(self, count: int, *, missing: bool) -> None:
        """Raise unless these are valid targets of `count` examples."""
        if self.task not in TASKS:
            raise DataError(f"No task of data is called {self.task!r}{near_names(str(self.task), TASKS)}")
        if len(self) != count:
            raise DataError(f"The data have {counted(count, 'example')} and {counted(len(self), 'target')}; expected one for each example.")
        if self.task == "classification":
            self._check_range(MISSING if missing else 0)
            return
        if self.task == "multi-label" and self.values.shape != (count, len(self.classes)):
            expected = (count, len(self.classes))
            raise DataError(f"Multi-label targets have the shape {self.values.shape}; expected {expected} (examples, classes).")
        absent = np.isnan(self.values).reshape(count, int(np.prod(self.values.shape[1:], dtype=int)))
        wrong = np.flatnonzero(absent.any(axis=1) & ~(absent.all(axis=1) & missing))
        if wrong.size:
            whole = "; a missing target is a whole row of NaN" if missing else ""
            raise DataError(
                f"Targets are missing (NaN) in rows {listed(wrong)}; expected one for each example{whole}. Fill or remove them."
            )

    def _check_range(self, least: int) -> None:
        count = len(self.classes)
        if len(self) and not least <= self.values.min() <= self.values.max() < count:
            span = f"{self.values.min()} to {self.values.max()}"
            raise DataError(f"Class indices run from {span}; expected {least} to {count - 1} for {counted(count, 'class name')}.")

    def counts(self) -> np.ndarray:
        """Return the number of examples of each class, (C,) int64, without missing targets; empty for regression."""
        if self.task == "regression":
            return np.zeros(0, dtype=np.int64)
        if self.task == "multi-label":
            return np.asarray((self.values > 0.5).sum(axis=0), dtype=np.int64)
        return np.bincount(self.values[self.known], minlength=len(self.classes)).astype(np.int64)

    def table(self) -> np.ndarray:
        """Return the membership of strata, (N, S) of 0 and 1."""
        known = self.known
        table = (self.values > 0.5).astype(np.float64) if self.task == "multi-label" else self._strata(known)
        return table if known.all() else np.column_stack([table, ~known])

    def _strata(self, known: np.ndarray) -> np.ndarray:
        strata = self.values[known]
        if self.task == "regression":
            outputs = strata.reshape(len(strata), -1).astype(np.float64)
            strata = (outputs / np.maximum(outputs.std(axis=0), 1e-30)).sum(axis=1) if outputs.shape[1] > 1 else outputs[:, 0]
            ranks = np.argsort(np.argsort(strata, kind="stable"), kind="stable")
            strata = ranks * max(1, min(REGRESSION_BINS, len(strata) // FEWEST_IN_BIN)) // max(1, len(strata))
        table = np.zeros((len(self), int(strata.max(initial=-1)) + 1))
        table[np.flatnonzero(known), strata] = 1
        return table

    def as_task(self, task: str) -> Targets:
        """Return the same targets for another task type, if the conversion loses nothing."""
        if task not in TASKS:
            raise DataError(f"task={task!r} is no kind of task{near_names(str(task), TASKS)}")
        if task == self.task:
            return self
        classes: tuple[str, ...]
        if task == "classification":
            values, classes = self._as_classes()
        elif self.task != "classification":
            raise wrong_task(task, f"they are of the kind {self.task!r}")
        elif task == "regression":
            values, classes = self._as_numbers(), ()
        else:
            values, classes = np.eye(len(self.classes), dtype=np.float32)[self.values], self.classes
            values[~self.known] = np.nan
        return dataclasses.replace(self, values=values, classes=classes, task=task, notes=(), also=())

    def _as_numbers(self) -> np.ndarray:
        try:
            numbers = np.array([float(name) for name in self.classes], np.float32)
        except ValueError as error:
            raise wrong_task("regression", f"they are names, such as {listed(map(repr, self.classes), 3)}") from error
        return np.asarray(np.append(numbers, np.float32(np.nan))[self.values])

    def _as_classes(self) -> tuple[np.ndarray, tuple[str, ...]]:
        known, values = self.values[self.known], np.full(len(self), MISSING, np.int64)
        if self.task == "multi-label":
            counts = known.sum(axis=1)
            if (counts != 1).any():
                raise wrong_task("classification", f"{counted(int((counts != 1).sum()), 'example', verb='have')} no label, or several")
            values[self.known] = known.argmax(axis=1)
            return values, self.classes
        if known.ndim > 1 or not (known == np.round(known)).all():
            raise wrong_task("classification", "they are numbers that are not whole")
        distinct, values[self.known] = np.unique(known.astype(np.int64), return_inverse=True)
        return values, tuple(map(str, distinct.tolist()))

    def taken(self, rows: np.ndarray) -> Targets:
        """Return the targets of the examples at `rows`, (n,), in that order."""
        return dataclasses.replace(self, values=self.values[rows])

    def with_classes(self, classes: Iterable[str]) -> Targets:
        """Return the same targets indexed by another order of the classes."""
        order = tuple(str(name) for name in classes)
        if self.task == "regression" or order == self.classes:
            return self
        rows, counts = rows_of(self.classes, order), self.counts()
        unknown = [name for name, count in zip(self.classes, counts, strict=True) if count and name not in rows]
        if unknown:
            raise foreign_labels(unknown, order)
        moved = np.array([rows.get(name, MISSING) for name in self.classes], dtype=np.int64)
        notes = spelling_notes({name: order[row] for name, row in rows.items() if counts[self.classes.index(name)]})
        return dataclasses.replace(self, values=self._moved(moved, len(order)), classes=order, notes=(*self.notes, *notes))

    def _moved(self, moved: np.ndarray, count: int) -> np.ndarray:
        if self.task == "classification":
            return np.asarray(np.append(moved, MISSING)[self.values])  # the index -1 selects the appended entry
        values = np.zeros((len(self), count), dtype=np.float32)
        values[:, moved[moved >= 0]] = self.values[:, moved >= 0]
        values[~self.known] = np.nan
        return values

    def check_trainable(self, about: str = "", *, judged_apart: bool = False) -> None:
        """Check that the known targets can be learned from and split."""
        if self.task == "regression":
            values = self.values[self.known]
            if len(values) < 2 or np.ptp(values) == 0:
                raise DataError(
                    f"{about}All {counted(len(values), 'target', verb='are')} equal; expected numbers that differ, or nothing can be "
                    "learned."
                )
            return
        counts = self.counts()
        present = [name for name, count in zip(self.classes, counts, strict=True) if count]
        if len(present) < 2 and self.task == "classification":
            found = listed(map(repr, present)) or "none"
            raise DataError(f"{about}The data have only one class: {found}; expected examples of two classes or more.")
        if not present:
            raise DataError(f"{about}No example has any of the {counted(len(self.classes), 'label')}; expected rows with a 1 in them.")
        single = listed(repr(name) for name, count in zip(self.classes, counts, strict=True) if count == 1)
        if single and not judged_apart:
            raise DataError(
                f"{about}Classes with one example cannot be split: {single}; expected two or more, one to learn from and one that judges. "
                "Add examples, remove the class, or give other examples that judge with test=."
            )


def spelling_notes(taken: Mapping[str, str]) -> tuple[str, ...]:
    """Return a note on labels that were matched to classes differing only in case. `taken`: label -> matched class."""
    other = [f"{label!r} for {name!r}" for label, name in taken.items() if exact_name(label) != exact_name(name)]
    return (f"labels were taken for classes that differ from them in case alone: {listed(other)}",) if other else ()


def foreign_labels(labels: Sequence[str], classes: Sequence[str]) -> DataError:
    """Return the error for labels that are not among the classes."""
    return DataError(
        f"Labels of the data are not among the {counted(len(classes), 'class')}: {listed(map(repr, labels))}. "
        f"Rename them, or add them to the classes{near_names(labels[0], classes)}"
    )


def wrong_task(task: str, why: str) -> DataError:
    """Return the error for labels that do not fit a task type."""
    return DataError(f"The labels cannot be read as those of a {task}: {why}. Choose another task= of {', '.join(TASKS)}, or other labels.")
