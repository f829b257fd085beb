"""A data set: items, targets, and optionally groups and conditions; nothing is decoded before it is asked for."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, SettingError, near_names
from .equal import equal_in, first_equal
from .items import Parts, RowNames, as_rows, digest_with, item_digest, listed, whole_items
from .splits import grouped_split, stratified_split
from .summary import Summary, beside_facts, equal_facts, item_facts, task_facts
from .targets import Targets

__all__ = ["KINDS", "Dataset", "check_trainable"]

KINDS = ("array", "image", "audio", "text", "parts")


@dataclass(frozen=True, eq=False)
class Dataset:
    """Items with their targets, of one task or of several, and with columns of numbers beside them where there are any.

    The targets of the first task are `targets`, `classes` and `task`; those of the others are in `further`. Of several tasks, an
    item may lack the targets of some: a class index is then -1, a number NaN, a multi-label row NaN throughout.

    Attributes:
        items: N raw items: an array or memory map (N, ...), paths of files, or texts; or `Parts`, several of these by name.
        targets: (N,) int64 class indices, (N,) float32 numbers (regression), or (N, C) float32 of 0 and 1 (multi-label).
        classes: class names in the order of the indices; empty for regression.
        kind: "array", "image", "audio" or "text"; "parts" where an item has several, one for each input of a network.
        task: "classification", "multi-label" or "regression".
        groups: (N,) str; items of one group never come on both sides of a split.
        conditions: (N,) str; the known nuisance of each item.
        names: a name for each item, such as its path within the folder.
        notes: what was decided or left out while reading.
        name: of the first task.
        further: targets of the other tasks, by name.
        columns: (N, k) float32, numbers beside each item.
        column_names: k names.
        partial: targets may be missing, because this is one of several tasks.
        weights: (N,) float32, how much each item counts in what is minimised; None: all the same.
        also: other kinds of task that the labels of the first one could be of, where nobody said which is meant.
        table: of data that were read from a table, its columns: "column", "type", "use" and, where there are any, "values" and "missing".
        max_length: tokens of a text that a network learns from at most; None: as many as it takes.

    Example:
        >>> import numpy as np, regraft
        >>> rows = np.arange(24.0).reshape(12, 2)
        >>> data = regraft.read((rows, ["a", "b", "a"] * 4), group=np.arange(12) // 2)
        >>> len(data), data.classes, data[0].tolist()
        (12, ('a', 'b'), [0.0, 1.0])
    """

    items: Sequence[Any] | np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    kind: str
    task: str = "classification"
    groups: np.ndarray | None = field(default=None, repr=False)
    conditions: np.ndarray | None = field(default=None, repr=False)
    names: Sequence[str] | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    name: str = "main"
    further: Mapping[str, Targets] = field(default_factory=dict, repr=False)
    columns: np.ndarray | None = field(default=None, repr=False)
    column_names: tuple[str, ...] = ()
    partial: bool = field(default=False, repr=False)
    also: tuple[str, ...] = field(default=(), repr=False)
    weights: np.ndarray | None = field(default=None, repr=False)
    table: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    max_length: int | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"No kind of data is called {self.kind!r}{near_names(str(self.kind), KINDS)}")
        for what in ("groups", "conditions", "names", "weights"):
            values = getattr(self, what)
            if values is not None and len(values) != len(self.items):
                raise DataError(f"The data have {len(self.items)} examples and {len(values)} {what}; expected one for each example.")
        if self.name in self.further:
            raise DataError(f"Two tasks are called {self.name!r}: {list(self.tasks)}; expected a name of its own for each.")
        for name in self.tasks:
            self.targets_of(name).check(len(self), missing=self.partial or bool(self.further))
        _check_columns(self)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        tasks = [(name, self.targets_of(name)) for name in self.tasks]
        named = {name: f", {len(one.classes)} classes ({listed(one.classes)})" if one.classes else "" for name, one in tasks}
        told = [f"{name}: {one.task}{named[name]}" for name, one in tasks]
        return f"<Dataset of {len(self)} examples ({self.kind}); {'; '.join(told)}>"

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    @property
    def part_names(self) -> tuple[str, ...]:
        """The names of the parts that each item has; none where an item is one thing."""
        return tuple(self.items.parts) if isinstance(self.items, Parts) else ()

    def part(self, name: str) -> Dataset:
        """Return the same data set with one part of each item alone.

        Args:
            name: one of `part_names`.

        Returns:
            A data set of N items of the part's own kind.

        Raises:
            DataError: if the items have no such part; the nearest names are listed.

        Example:
            >>> views = regraft.read(({"left": rows, "right": rows}, data.targets))
            >>> views.part_names, views.part("left").kind
            (('left', 'right'), 'array')
        """
        if not isinstance(self.items, Parts) or name not in self.items.parts:
            raise DataError(f"The examples have no part {name!r}{near_names(name, self.part_names)}")
        return dataclasses.replace(self, items=self.items.parts[name], kind=self.items.kinds[name])

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of all tasks, the first one foremost."""
        return (self.name, *self.further)

    @property
    def known(self) -> np.ndarray:
        """Whether the target of the first task is known, (N,) bool."""
        return self.targets_of(self.name).known

    def targets_of(self, name: str) -> Targets:
        """Return the targets of one task.

        Args:
            name: of the task.

        Returns:
            N targets.

        Raises:
            DataError: if there is no such task; the nearest names are listed.

        Example:
            >>> data.targets_of(data.name).classes
            ('a', 'b')
        """
        if name == self.name:
            return Targets(self.targets, self.classes, self.task, also=self.also)
        if name not in self.further:
            raise DataError(f"The data have no task {name!r}{near_names(str(name), self.tasks)}")
        return self.further[name]

    def of_task(self, name: str) -> Dataset:
        """Return the same items with the targets of one task alone; items whose target is missing stay.

        Args:
            name: of the task.

        Returns:
            A data set of N items whose only task it is.

        Raises:
            DataError: if there is no such task; the nearest names are listed.

        Example:
            >>> data.of_task(data.name).tasks
            ('main',)
        """
        targets, partial = self.targets_of(name), self.partial or bool(self.further)
        return dataclasses.replace(
            self,
            targets=targets.values,
            classes=targets.classes,
            task=targets.task,
            also=targets.also,
            name=name,
            further={},
            partial=partial,
        )

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """Return some items in the given order; array content is not copied.

        Args:
            indices: (n,) which items.

        Returns:
            A data set of n items with the same classes.

        Example:
            >>> data.subset([0, 1]).class_counts()
            array([1, 1])
        """
        rows = np.asarray(indices, dtype=np.int64)
        return dataclasses.replace(
            self,
            items=as_rows(self.items, rows),
            targets=self.targets[rows],
            groups=None if self.groups is None else self.groups[rows],
            conditions=None if self.conditions is None else self.conditions[rows],
            further={name: targets.taken(rows) for name, targets in self.further.items()},
            columns=None if self.columns is None else self.columns[rows],
            weights=None if self.weights is None else self.weights[rows],
            names=self._names_of(rows),
        )

    def _names_of(self, rows: np.ndarray) -> Sequence[str] | None:
        if self.names is None:
            return None if _keeps_order(rows, len(self)) else RowNames(rows)
        return RowNames(self.names.rows[rows]) if isinstance(self.names, RowNames) else tuple(self.names[int(row)] for row in rows)

    def split(self, holdout: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split in two, stratified by class, and by group where there are groups. Both parts keep the items' order.

        Of several tasks the first one counts; the items whose target of it is missing are one more stratum.

        Args:
            holdout: share of the second part, in (0, 1).
            seed: equal seeds give equal parts.

        Returns:
            The first and the second part. Every class keeps an item in the first; without groups, every class with two items
            or more has one in the second.

        Raises:
            SettingError: if `holdout` is not between 0 and 1.
            DataError: if the data cannot be split so.

        Example:
            >>> learned, judging = data.split(0.25, seed=0)
            >>> len(learned), len(judging)
            (10, 2)
        """
        first, second = self.split_indices(holdout, seed=seed)
        return self.subset(first), self.subset(second)

    def split_indices(self, holdout: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the two parts that `split` makes, each rising.

        Args:
            holdout: share of the second part, in (0, 1).
            seed: equal seeds give equal parts.

        Returns:
            Indices of the first and of the second part.

        Raises:
            SettingError: if `holdout` is not between 0 and 1.
            DataError: if the data cannot be split so.

        Example:
            >>> learned, judging = data.split_indices(0.25, seed=0)
            >>> set(data.groups[learned]) & set(data.groups[judging])
            set()
        """
        if not 0 < holdout < 1:
            raise SettingError(f"holdout={holdout} is out of range; expected a share between 0 and 1, such as 0.2.")
        if len(self) < 2:
            raise DataError(f"Data of {len(self)} example cannot be split; expected two or more.")
        chosen = self._chosen(holdout, seed)
        return np.flatnonzero(~chosen), np.flatnonzero(chosen)

    def _chosen(self, holdout: float, seed: int) -> np.ndarray:
        table = self.targets_of(self.name).table()
        keep = np.full(table.shape[1], self.task != "regression")
        keep[table.shape[1] - int(not self.known.all()) :] = False  # no part needs an item without a target
        if self.groups is not None:
            _, group = np.unique(self.groups, return_inverse=True)
            counts = np.zeros((int(group.max()) + 1, table.shape[1]))
            np.add.at(counts, group, table)
            return grouped_split(counts, np.bincount(group), share=holdout, seed=seed, keep=keep)[group]
        if self.task == "multi-label":
            return grouped_split(table, np.ones(len(self)), share=holdout, seed=seed, keep=keep, cover=True)
        return stratified_split(table.argmax(axis=1), holdout, seed=seed)

    def recordings(self) -> Dataset:
        """Return the recordings that the items are windows of, each once; this data set where the items are none.

        Returns:
            A data set of as many examples as there are recordings, in their order.

        Example:
            >>> data.recordings() is data
            True
        """
        owners = whole_items(self.items)
        if owners is None:
            return self
        found = self.subset(np.unique(owners, return_index=True)[1])
        whole = [item.source for item in found.items]
        return dataclasses.replace(found, items=whole, names=tuple(item.name for item in found.items))

    def name_of(self, index: int) -> str:
        """Return what to call an item in a message.

        Args:
            index: which item.

        Returns:
            Its path within the folder, or "item 17".

        Example:
            >>> data.name_of(3)
            'item 3'
        """
        return f"example {index}" if self.names is None else self.names[index]

    def digest(self, index: int) -> bytes:
        """Return the digest of an item's content.

        Args:
            index: which item.

        Returns:
            16 bytes over the file, the array with its shape and type, or the text, and over its columns where there are any.

        Example:
            >>> data.digest(0) == data.digest(1)
            False
        """
        digest = self.items.digest(index) if isinstance(self.items, Parts) else item_digest(self.items[index], self.kind)
        return digest if self.columns is None else digest_with(digest, self.column_names, values=self.columns[index])

    def duplicates(self) -> np.ndarray:
        """Return for each example the first one that is equal to it byte by byte, with the columns beside it.

        Returns:
            (N,) int64 indices; that of the example itself where none before it is equal. As groups (`read(data,
            group=data.duplicates())`) they keep equal examples on one side of a split.

        Example:
            >>> data.subset([0, 1]).duplicates()
            array([0, 1])
        """
        return first_equal(self.items, self.kind, digest=self.digest)

    def equal_to(self, others: Dataset) -> np.ndarray:
        """Return for each example the first one of other data that is equal to it byte by byte, with the columns beside it.

        Args:
            others: M examples.

        Returns:
            (N,) int64 indices among the others, -1 where none is equal.

        Example:
            >>> data.equal_to(data.subset([3, 5])).tolist()
            [-1, -1, -1, 0, -1, 1, -1, -1, -1, -1, -1, -1]
        """
        return equal_in(self.items, others.items, kind=self.kind, digest=self.digest, other_digest=others.digest)

    def summary(self) -> Summary:
        """Return what was read and how: labels, sizes, ranges, duplicates, what was left out. Heads of files are read, no item is decoded.

        Returns:
            The facts, which `print` shows in words.

        Example:
            >>> print(str(data.summary()).splitlines()[0])
            examples    12, of the kind 'array'
        """
        tasks = [task_facts(name, self.targets_of(name)) for name in self.tasks]
        beside = beside_facts({name: getattr(self, name) for name in ("groups", "conditions", "columns", "weights")}, self.column_names)
        omitted = [note for note in self.notes if note.startswith("left out")]
        return Summary(
            {
                "examples": len(self),
                "kind": self.kind,
                "tasks": tasks,
                "items": item_facts(self.items, self.kind),
                **beside,
                **({"table": [dict(one) for one in self.table]} if self.table else {}),
                "equal": equal_facts(self.duplicates(), self.targets_of(self.name), name_of=self.name_of),
                "left_out": omitted,
                "notes": [note for note in self.notes if note not in omitted],
                "problems": [task["problem"] for task in tasks if "problem" in task],
            }
        )

    def as_task(self, task: str, *, name: str | None = None, note: str = "") -> Dataset:
        """Return the same items with targets of another kind of task; see `Targets.as_task`.

        Args:
            task: "classification", "multi-label" or "regression".
            name: of which task; None for the first.
            note: why, for people.

        Returns:
            The data set; this one where the targets are of that kind.

        Raises:
            DataError: if the labels cannot be of that kind, or there is no such task.

        Example:
            >>> regraft.read((rows, np.arange(12) % 3)).as_task("regression").targets.dtype
            dtype('float32')
        """
        name = self.name if name is None else name
        targets = self.targets_of(name).as_task(task)
        notes = tuple(other for other in self.notes if not (note and other.endswith(f"task={task!r}")))  # how to ask for what is now so
        notes = (*notes, note) if note else notes
        if name != self.name:
            return dataclasses.replace(self, further={**self.further, name: dataclasses.replace(targets, also=())}, notes=notes)
        return dataclasses.replace(self, targets=targets.values, classes=targets.classes, task=task, also=(), notes=notes)

    def class_counts(self) -> np.ndarray:
        """Return how many items each class of the first task has, (C,) int64, missing targets left out; empty for regression.

        Example:
            >>> data.class_counts()
            array([8, 4])
        """
        return self.targets_of(self.name).counts()

    @property
    def has_rows(self) -> bool:
        """Whether the items are rows of numbers: then their statistics are they themselves."""
        return self.kind == "array" and len(self) > 0 and np.ndim(self.items[0]) == 1

    def with_classes(self, classes: Iterable[str], task: str | None = None) -> Dataset:
        """Return the same items with targets indexed in another order of classes.

        Args:
            classes: names in the new order; they may be more than the data have. A name that differs
                in case alone stands for another where only one fits, and a note says so.
            task: of which task; None for the first.

        Returns:
            The data set; a regression is returned as it is.

        Raises:
            DataError: if items have labels that are not among `classes` (all are listed), or there is no such task.

        Example:
            >>> data.with_classes(["b", "a", "c"]).classes
            ('b', 'a', 'c')
        """
        name = self.name if task is None else task
        old = self.targets_of(name)
        new = old.with_classes(classes)
        if new is old:
            return self
        notes = (*self.notes, *new.notes[len(old.notes) :])
        if name != self.name:
            return dataclasses.replace(self, further={**self.further, name: new}, notes=notes)
        return dataclasses.replace(self, targets=new.values, classes=new.classes, notes=notes)


def _keeps_order(rows: np.ndarray, count: int) -> bool:
    return len(rows) == count and bool((rows == np.arange(count)).all())


def check_trainable(data: Dataset, *, judged_apart: bool = False) -> None:
    """Check that something can be learned from the known targets of every task and that they can be split."""
    for name in data.tasks:
        data.targets_of(name).check_trainable(f"Task {name!r}: " if data.further else "", judged_apart=judged_apart)


def _check_columns(data: Dataset) -> None:
    if data.columns is None and not data.column_names:
        return
    names, shape = data.column_names, () if data.columns is None else data.columns.shape
    if data.columns is None or shape != (len(data), len(names)) or len(set(names)) != len(names):
        raise DataError(
            f"The columns have the shape {shape} and the names {list(names)} for {len(data)} examples; expected one row for "
            f"each example and "
            "as many different names as columns."
        )
    absent = ~np.isfinite(data.columns)
    if absent.any():
        found = [f"{name!r} in rows {listed(np.flatnonzero(absent[:, at]))}" for at, name in enumerate(names) if absent[:, at].any()]
        raise DataError(
            f"Columns beside the examples are missing or not finite: {listed(found, 12)}; expected a number in each row. Fill "
            f"or remove them."
        )
