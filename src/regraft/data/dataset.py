"""A data set: items, targets, and optionally groups and conditions; nothing is decoded before it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, SettingError, near_names
from ..networks.names import normal_name
from .items import as_rows, item_digest, listed
from .splits import grouped_split, stratified_split

__all__ = ["KINDS", "TASKS", "Dataset", "check_trainable"]

KINDS = ("array", "image", "audio", "text")
TASKS = ("classification", "multi-label", "regression")
REGRESSION_BINS = 10


@dataclass(frozen=True, eq=False)
class Dataset:
    """Items with their targets.

    Attributes:
        items: N raw items: an array or memory map (N, ...), paths of files, or texts.
        targets: (N,) int64 class indices, (N,) float32 numbers (regression), or (N, C) float32 of 0 and 1 (multi-label).
        classes: class names in the order of the indices; empty for regression.
        kind: "array", "image", "audio" or "text".
        task: "classification", "multi-label" or "regression".
        groups: (N,) str; items of one group never come on both sides of a split.
        conditions: (N,) str; the known nuisance of each item.
        names: a name for each item, such as its path within the folder.
        notes: what was decided or left out while reading.
    """

    items: Sequence[Any] | np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    kind: str
    task: str = "classification"
    groups: np.ndarray | None = field(default=None, repr=False)
    conditions: np.ndarray | None = field(default=None, repr=False)
    names: tuple[str, ...] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for what, value, options in (("kind", self.kind, KINDS), ("task", self.task, TASKS)):
            if value not in options:
                raise DataError(f"No {what} of data is called {value!r}{near_names(str(value), options)}")
        for what in ("targets", "groups", "conditions", "names"):
            values = getattr(self, what)
            if values is not None and len(values) != len(self.items):
                raise DataError(f"The data have {len(self.items)} items and {len(values)} {what}; expected one for each item.")
        _check_targets(self)

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """Return some items in the given order; array content is not copied.

        Args:
            indices: (n,) which items.

        Returns:
            A data set of n items with the same classes.
        """
        rows = np.asarray(indices, dtype=np.int64)
        return dataclasses.replace(
            self,
            items=as_rows(self.items, rows),
            targets=self.targets[rows],
            groups=None if self.groups is None else self.groups[rows],
            conditions=None if self.conditions is None else self.conditions[rows],
            names=None if self.names is None and _keeps_order(rows, len(self)) else tuple(self.name_of(int(row)) for row in rows),
        )

    def split(self, valid: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split in two, stratified by class, and by group where there are groups. Both parts keep the items' order.

        Args:
            valid: share of the second part, in (0, 1).
            seed: equal seeds give equal parts.

        Returns:
            The first and the second part. Every class keeps an item in the first; without groups, every class with two items
            or more has one in the second.

        Raises:
            SettingError: if `valid` is not between 0 and 1.
            DataError: if the data cannot be split so.
        """
        first, second = self.split_indices(valid, seed=seed)
        return self.subset(first), self.subset(second)

    def split_indices(self, valid: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the two parts that `split` makes, each rising.

        Args:
            valid: share of the second part, in (0, 1).
            seed: equal seeds give equal parts.

        Returns:
            Indices of the first and of the second part.

        Raises:
            SettingError: if `valid` is not between 0 and 1.
            DataError: if the data cannot be split so.
        """
        if not 0 < valid < 1:
            raise SettingError(f"valid={valid} is out of range; expected a share between 0 and 1, such as 0.2.")
        if len(self) < 2:
            raise DataError(f"Data of {len(self)} item cannot be split; expected two or more.")
        chosen = self._chosen(valid, seed)
        return np.flatnonzero(~chosen), np.flatnonzero(chosen)

    def _chosen(self, valid: float, seed: int) -> np.ndarray:
        keep = self.task != "regression"
        table = _class_table(self)
        if self.groups is not None:
            _, group = np.unique(self.groups, return_inverse=True)
            counts = np.zeros((int(group.max()) + 1, table.shape[1]))
            np.add.at(counts, group, table)
            return grouped_split(counts, np.bincount(group), valid=valid, seed=seed, keep=keep)[group]
        if self.task == "multi-label":
            return grouped_split(table, np.ones(len(self)), valid=valid, seed=seed, cover=True)
        return stratified_split(table.argmax(axis=1), valid, seed=seed)

    def name_of(self, index: int) -> str:
        """Return what to call an item in a message.

        Args:
            index: which item.

        Returns:
            Its path within the folder, or "item 17".
        """
        return f"item {index}" if self.names is None else self.names[index]

    def digest(self, index: int) -> bytes:
        """Return the digest of an item's content.

        Args:
            index: which item.

        Returns:
            16 bytes over the file, the array with its shape and type, or the text.
        """
        return item_digest(self.items[index], self.kind)

    def class_counts(self) -> np.ndarray:
        """Return how many items each class has, (C,) int64; empty for regression."""
        if self.task == "regression":
            return np.zeros(0, dtype=np.int64)
        if self.task == "multi-label":
            return np.asarray((self.targets > 0.5).sum(axis=0), dtype=np.int64)
        return np.bincount(self.targets, minlength=len(self.classes)).astype(np.int64)

    def with_classes(self, classes: Iterable[str]) -> Dataset:
        """Return the same items with targets indexed in another order of classes.

        Args:
            classes: names in the new order; they may be more than the data have. Names compare trimmed and case-folded.

        Returns:
            The data set; a regression is returned as it is.

        Raises:
            DataError: if items have labels that are not among `classes`; all are listed.
        """
        order = tuple(str(name) for name in classes)
        if self.task == "regression" or order == self.classes:
            return self
        rows = {normal_name(name): row for row, name in enumerate(order)}
        counts = self.class_counts()
        unknown = [name for name, count in zip(self.classes, counts, strict=True) if count and normal_name(name) not in rows]
        if unknown:
            raise DataError(
                f"Labels of the data are not among the {len(order)} classes: {listed(map(repr, unknown))}. "
                f"Rename them, or add them to the classes{near_names(unknown[0], order)}"
            )
        moved = np.array([rows.get(normal_name(name), -1) for name in self.classes], dtype=np.int64)
        return dataclasses.replace(self, targets=_moved_targets(self, moved, count=len(order)), classes=order)


def _check_targets(data: Dataset) -> None:
    count = len(data.classes)
    if data.task == "classification" and len(data.targets) and not 0 <= data.targets.min() <= data.targets.max() < count:
        raise DataError(
            f"Class indices run from {data.targets.min()} to {data.targets.max()}; expected 0 to {count - 1} for {count} class names."
        )
    if data.task == "multi-label" and data.targets.shape != (len(data), count):
        raise DataError(f"Multi-label targets have the shape {data.targets.shape}; expected {(len(data), count)} (items, classes).")


def _keeps_order(rows: np.ndarray, count: int) -> bool:
    return len(rows) == count and bool((rows == np.arange(count)).all())


def _moved_targets(data: Dataset, moved: np.ndarray, *, count: int) -> np.ndarray:
    if data.task == "classification":
        return np.asarray(moved[data.targets], dtype=np.int64)
    targets = np.zeros((len(data), count), dtype=np.float32)
    targets[:, moved[moved >= 0]] = data.targets[:, moved >= 0]
    return targets


def _class_table(data: Dataset) -> np.ndarray:
    """Return (N, C) membership of classes; a regression's classes are the quantiles of its targets."""
    if data.task == "multi-label":
        return np.asarray(data.targets > 0.5, dtype=np.float64)
    strata = data.targets
    if data.task == "regression":
        bins = max(1, min(REGRESSION_BINS, len(data) // 2))
        strata = np.argsort(np.argsort(data.targets, kind="stable"), kind="stable") * bins // len(data)
    table = np.zeros((len(data), int(strata.max()) + 1))
    table[np.arange(len(data)), strata] = 1
    return table


def check_trainable(data: Dataset) -> None:
    """Check that something can be learned from the data and that they can be split.

    Args:
        data: what a network is to be adapted to.

    Raises:
        DataError: if there are fewer than two classes with items, a class with one item, or targets that are all equal.
    """
    if data.task == "regression":
        if len(data) < 2 or np.ptp(data.targets) == 0:
            raise DataError(f"All {len(data)} targets are equal; expected numbers that differ, else there is nothing to learn.")
        return
    counts = data.class_counts()
    present = [name for name, count in zip(data.classes, counts, strict=True) if count]
    if len(present) < 2 and data.task == "classification":
        raise DataError(f"The data have only one class: {listed(map(repr, present)) or 'none'}; expected items of two classes or more.")
    if not present:
        raise DataError(f"No item has any of the {len(data.classes)} labels; expected rows with a 1 in them.")
    single = [repr(name) for name, count in zip(data.classes, counts, strict=True) if count == 1]
    if single:
        raise DataError(f"Classes with one item cannot be split: {listed(single)}; expected two or more. Add items or remove the class.")
