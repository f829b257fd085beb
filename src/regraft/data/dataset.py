"""Data set: examples, targets and optional groups, conditions and columns. Nothing is decoded until it is needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import DataError, SettingError, near_names
from ..words import counted
from .equal import equal_in, first_equal
from .items import LazyItems, Parts, as_rows, digest_with, item_digest, listed, whole_items
from .splits import grouped_split, stratified_split
from .summary import Summary, beside_facts, equal_facts, item_facts, task_facts
from .targets import Targets

KINDS = ("array", "image", "audio", "text", "parts")
PART_OF_EXAMPLE = "part of the example"  # Use of a table column, in `Dataset.table`


@dataclass(frozen=True, eq=False)
class Dataset:
    """Examples and their targets, for one task or several, with optional numeric columns beside each example.

    The targets of the first task are in `targets`, `classes` and `task`; those of the other tasks are in `further`. With several
    tasks, an example may lack some targets. A missing class index is -1, a missing number is NaN, a missing multi-label row is all NaN.

    Attributes:
        items: N raw examples: an array or memory map (N, ...), file paths, or texts; or `Parts`, which holds several of these by name.
        targets: (N,) int64 class indices, (N,) float32 numbers (regression), or (N, C) float32 of 0 and 1 (multi-label).
        classes: class names in index order; empty for regression.
        kind: "array", "image", "audio" or "text"; "parts" if each example has several parts, one for each network input.
        task: "classification", "multi-label" or "regression".
        groups: (N,) str; a split never separates examples of one group.
        conditions: (N,) str; the known nuisance of each example.
        names: a name for each example, such as its path within the folder.
        notes: what was decided or left out while reading.
        name: name of the first task.
        further: targets of the other tasks, by name.
        columns: (N, k) float32, numbers beside each example.
        column_names: k names.
        partial: whether targets may be missing, because this is one of several tasks.
        weights: (N,) float32, weight of each example in the loss; None: equal weights.
        also: other task types that fit the labels of the first task, if `task` was not specified.
        table: for data read from a table, one record per column: "column", "type", "use" and, where present, "values" and "missing".
        max_length: maximum number of tokens per text in training; None: as many as the network takes. Of arrays, the length to which
            they were padded; None: all have one shape.
        length_axis: axis along which arrays were padded, without the axis of examples.
        reading: keywords of `read` by name of a column, a folder or a kind; a test set in a table is read with the same.

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
    length_axis: int | None = field(default=None, repr=False)
    reading: Mapping[str, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise DataError(f"No kind of data is called {self.kind!r}{near_names(str(self.kind), KINDS)}")
        for what in ("groups", "conditions", "names", "weights"):
            values = getattr(self, what)
            if values is not None and len(values) != len(self.items):
                raise DataError(
                    f"The data have {counted(len(self.items), 'example')} and {len(values)} {what}; expected one for each example."
                )
        if self.name in self.further:
            raise DataError(f"Two tasks are called {self.name!r}: {list(self.tasks)}; expected a name of its own for each.")
        for name in self.tasks:
            self.targets_of(name).check(len(self), missing=self.partial or bool(self.further))
        _check_columns(self)

    def __len__(self) -> int:
        return len(self.items)

    def __repr__(self) -> str:
        tasks = [(name, self.targets_of(name)) for name in self.tasks]
        named = {name: f", {counted(len(one.classes), 'class')} ({listed(one.classes)})" if one.classes else "" for name, one in tasks}
        told = [f"{name}: {one.task}{named[name]}" for name, one in tasks]
        return f"<Dataset of {counted(len(self), 'example')} ({self.kind}); {'; '.join(told)}>"

    def __getitem__(self, index: int) -> Any:
        return self.items[index]

    @property
    def part_names(self) -> tuple[str, ...]:
        """Names of the parts of each example; empty if the examples have no named parts."""
        return tuple(self.items.parts) if isinstance(self.items, Parts) else ()

    def part(self, name: str) -> Dataset:
        """Return the same data set with a single part of each example.

        Args:
            name: one of `part_names`.

        Returns:
            A data set of N examples of the part's own kind.

        Raises:
            DataError: if the examples have no such part; the nearest names are listed.

        Example:
            >>> views = regraft.read(({"left": rows, "right": rows}, data.targets))
            >>> views.part_names, views.part("left").kind
            (('left', 'right'), 'array')
        """
        if not isinstance(self.items, Parts) or name not in self.items.parts:
            raise DataError(f"The examples have no part {name!r}{near_names(name, self.part_names)}")
        own = self.items.columns.get(name, ())  # in the order of the part's numbers, which may be another than that of the table
        facts = {fact["column"]: dict(fact) for fact in sorted(self.table, key=lambda fact: fact["use"] == input_use(name))}
        table: list[Mapping[str, Any]] = [facts[column] | {"use": PART_OF_EXAMPLE} for column in own if column in facts]
        table += [fact for fact in self.table if fact["column"] not in own]
        return dataclasses.replace(self, items=self.items.parts[name], kind=self.items.kinds[name], table=tuple(table))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of all tasks; the main task comes first."""
        return (self.name, *self.further)

    @property
    def known(self) -> np.ndarray:
        """Whether the target of the first task is known, (N,) bool."""
        return self.targets_of(self.name).known

    def targets_of(self, name: str) -> Targets:
        """Return the targets of one task.

        Args:
            name: name of the task.

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
        """Return the same examples with the targets of one task only. Examples without a target are kept.

        Args:
            name: name of the task.

        Returns:
            A data set of N examples with this single task.

        Raises:
            DataError: if there is no such task; the nearest names are listed.

        Example:
            >>> data.of_task(data.name).tasks
            ('main',)
        """
        return with_targets(self, {name: self.targets_of(name)}, partial=self.partial or bool(self.further))

    def subset(self, indices: Sequence[int] | np.ndarray) -> Dataset:
        """Return the chosen examples in the given order. Arrays are not copied.

        Args:
            indices: (n,) indices of the examples.

        Returns:
            A data set of n examples with the same classes.

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
            return None if np.array_equal(rows, np.arange(len(self))) else LazyItems("example {}".format, rows)
        return self.names.of(rows) if isinstance(self.names, LazyItems) else tuple(self.names[int(row)] for row in rows)

    def split(self, holdout: float = 0.2, seed: int = 0) -> tuple[Dataset, Dataset]:
        """Split into two parts, stratified by class. Groups are kept together, and both parts keep the order of the examples.

        With several tasks, the first one is stratified; its examples without a target form one more stratum.

        Args:
            holdout: share of the second part, in (0, 1).
            seed: random seed; equal seeds give equal parts.

        Returns:
            The first and the second part. Every class keeps an example in the first part. Without groups, every class with two or more
            examples has one in the second part.

        Raises:
            SettingError: if `holdout` is not between 0 and 1.
            DataError: if such a split is impossible.

        Example:
            >>> learned, judging = data.split(0.25, seed=0)
            >>> len(learned), len(judging)
            (10, 2)
        """
        first, second = self.split_indices(holdout, seed=seed)
        return self.subset(first), self.subset(second)

    def split_indices(self, holdout: float, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of the two parts that `split` makes, in ascending order.

        Args:
            holdout: share of the second part, in (0, 1).
            seed: random seed; equal seeds give equal parts.

        Returns:
            Indices of the first and of the second part.

        Raises:
            SettingError: if `holdout` is not between 0 and 1.
            DataError: if such a split is impossible.

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
        keep[table.shape[1] - int(not self.known.all()) :] = False  # no part needs an example without a target
        if self.groups is not None:
            _, group = np.unique(self.groups, return_inverse=True)
            counts = np.zeros((int(group.max()) + 1, table.shape[1]))
            np.add.at(counts, group, table)
            return grouped_split(counts, np.bincount(group), share=holdout, seed=seed, keep=keep)[group]
        if self.task == "multi-label":
            return grouped_split(table, np.ones(len(self)), share=holdout, seed=seed, keep=keep, cover=True)
        return stratified_split(table.argmax(axis=1), holdout, seed=seed)

    def recordings(self) -> Dataset:
        """Return the recordings that the examples are windows of, each once. If the examples are not windows, return this data set.

        Returns:
            A data set with one example for each recording, in the order of the recordings.

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
        """Return the name of an example for use in messages.

        Args:
            index: index of the example.

        Returns:
            Its path within the folder, or "example 17".

        Example:
            >>> data.name_of(3)
            'example 3'
        """
        return f"example {index}" if self.names is None else self.names[index]

    def digest(self, index: int) -> bytes:
        """Return the digest of an example's content.

        Args:
            index: index of the example.

        Returns:
            16 bytes. The digest covers the file, the text, or the array with its shape and type, and the columns beside the example.

        Example:
            >>> data.digest(0) == data.digest(1)
            False
        """
        digest = self.items.digest(index) if isinstance(self.items, Parts) else item_digest(self.items[index], self.kind)
        return digest if self.columns is None else digest_with(digest, self.column_names, values=self.columns[index])

    def duplicates(self) -> np.ndarray:
        """Return for each example the index of the first example that is equal byte by byte, including its columns.

        Returns:
            (N,) int64 indices; the example's own index if no earlier one is equal. Used as groups (`read(data,
            group=data.duplicates())`), they keep equal examples on one side of a split.

        Example:
            >>> data.subset([0, 1]).duplicates()
            array([0, 1])
        """
        return first_equal(self.items, self.kind, digest=self.digest)

    def equal_to(self, others: Dataset) -> np.ndarray:
        """Return for each example the index of the first example in `others` that is equal byte by byte, including its columns.

        Args:
            others: M examples.

        Returns:
            (N,) int64 indices into `others`; -1 if none is equal.

        Example:
            >>> data.equal_to(data.subset([3, 5])).tolist()
            [-1, -1, -1, 0, -1, 1, -1, -1, -1, -1, -1, -1]
        """
        return equal_in(self.items, others.items, kind=self.kind, digest=self.digest, other_digest=others.digest)

    def summary(self) -> Summary:
        """Return what was read and how: labels, sizes, ranges, duplicates, and what was left out.

        Examples in files are not decoded. Headers are read, and files of equal size are compared byte by byte.

        Returns:
            The summary; `print` shows it as text.

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
                "values": item_facts(self.items, self.kind),
                **beside,
                **({"table": [dict(one) for one in self.table]} if self.table else {}),
                "equal": equal_facts(self.duplicates(), self.targets_of(self.name), name_of=self.name_of),
                "left_out": omitted,
                "notes": [note for note in self.notes if note not in omitted],
                "problems": [task["problem"] for task in tasks if "problem" in task],
            }
        )

    def as_task(self, task: str, *, name: str | None = None, note: str = "") -> Dataset:
        """Return the same examples with targets of another task type; see `Targets.as_task`.

        Args:
            task: "classification", "multi-label" or "regression".
            name: name of the task; None: the first task.
            note: reason for the change, added to the notes.

        Returns:
            The data set; unchanged if its targets already have this type.

        Raises:
            DataError: if the labels do not fit this task type, or there is no such task.

        Example:
            >>> regraft.read((rows, np.arange(12) % 3)).as_task("regression").targets.dtype
            dtype('float32')
        """
        name = self.name if name is None else name
        targets = dataclasses.replace(self.targets_of(name).as_task(task), also=())
        notes = tuple(other for other in self.notes if not (note and other.endswith(f"task={task!r}")))  # a hint that is now obsolete
        return self._with_task(name, targets, notes=(*notes, note) if note else notes)

    def class_counts(self) -> np.ndarray:
        """Return the number of examples of each class of the first task, (C,) int64, without missing targets; empty for regression.

        Example:
            >>> data.class_counts()
            array([8, 4])
        """
        return self.targets_of(self.name).counts()

    @property
    def has_rows(self) -> bool:
        """Whether each example is a vector of numbers. Its input statistics are then the example itself."""
        return self.kind == "array" and len(self) > 0 and np.ndim(self.items[0]) == 1

    @property
    def row_columns(self) -> tuple[str, ...]:
        """Names of the table columns that the examples consist of; empty if they are no rows of a table, or if these are numbered, have no
        name or share one."""
        names = tuple(str(fact["column"]) for fact in self.table if fact["use"] == PART_OF_EXAMPLE) if self.table and self.has_rows else ()
        return names if tell_apart(names) else ()

    def with_classes(self, classes: Iterable[str], task: str | None = None) -> Dataset:
        """Return the same examples with targets indexed by another order of the classes.

        Args:
            classes: names in the new order; they may include classes without examples. A name that differs only in case
                matches another if the match is unique, and a note says so.
            task: name of the task; None: the first task.

        Returns:
            The data set; a regression task is returned unchanged.

        Raises:
            DataError: if labels are missing from `classes` (all are listed), or there is no such task.

        Example:
            >>> data.with_classes(["b", "a", "c"]).classes
            ('b', 'a', 'c')
        """
        name = self.name if task is None else task
        old = self.targets_of(name)
        new = old.with_classes(classes)
        if new is old:
            return self
        return self._with_task(name, new, notes=(*self.notes, *new.notes[len(old.notes) :]))

    def _with_task(self, name: str, targets: Targets, *, notes: tuple[str, ...]) -> Dataset:
        """Return the same examples with other targets of one task."""
        return with_targets(self, {task: self.targets_of(task) for task in self.tasks} | {name: targets}, notes=notes)


def tell_apart(names: Sequence[str]) -> bool:
    """Return whether columns are known by their names: all have different ones, which do not just number them."""
    return "" not in names and len(set(names)) == len(names) and list(names) != [*map(str, range(len(names)))]


def input_use(name: str) -> str:
    """Return the use of a table column, in `Dataset.table`, that one input of the network reads."""
    return f"the input {name!r}"


def with_targets(data: Dataset, tasks: Mapping[str, Targets], **fields: Any) -> Dataset:
    """Return the same examples with these targets by task name, those of the main task first. `fields`: further fields to replace."""
    (name, first), *others = tasks.items()
    own: dict[str, Any] = {"targets": first.values, "classes": first.classes, "task": first.task, "also": first.also}
    return dataclasses.replace(data, name=name, further=dict(others), **own, **fields)


def unlabelled(items: Sequence[Any] | np.ndarray, kind: str, *, names: Sequence[str] | None = None) -> Dataset:
    """Return N examples as a data set whose targets are zeros without meaning."""
    return Dataset(items, np.zeros(len(items), np.float32), (), kind, "regression", names=names)


def check_trainable(data: Dataset, *, judged_apart: bool = False) -> None:
    """Check that the known targets of every task can be learned from and split."""
    for name in data.tasks:
        data.targets_of(name).check_trainable(f"Task {name!r}: " if data.further else "", judged_apart=judged_apart)


def _check_columns(data: Dataset) -> None:
    if data.columns is None and not data.column_names:
        return
    names, shape = data.column_names, () if data.columns is None else data.columns.shape
    if data.columns is None or shape != (len(data), len(names)) or len(set(names)) != len(names):
        raise DataError(
            f"The columns have the shape {shape} and the names {list(names)} for {counted(len(data), 'example')}; expected one row for "
            "each example and as many different names as columns."
        )
    absent = ~np.isfinite(data.columns)
    if absent.any():
        found = [f"{name!r} in rows {listed(np.flatnonzero(absent[:, at]))}" for at, name in enumerate(names) if absent[:, at].any()]
        raise DataError(
            f"Columns beside the examples are missing or not finite: {listed(found, 12)}; expected a number in each row. Fill "
            f"or remove them."
        )
