"""Preprocessing of examples with several parts: each part has its own preprocessing and becomes a named input."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import numpy as np

from ...errors import DataError, near_names
from ...networks.parts.protocols import Inputs
from ...words import counted
from ..dataset import Dataset, unlabelled
from ..items import Parts, are_inputs, by_name_instead, without_labels
from ..readers.tables import is_table, read_unlabelled
from .array_preprocessing import ArrayPreprocessing
from .augmenting import plain_name
from .preprocessing import Item, Preprocessing, as_dataset
from .schemas import Name, Names


@dataclass(frozen=True)
class PartsPreprocessing(Preprocessing):
    """Preprocess examples with several parts, one for each network input, each with its own preprocessing.
    A part that becomes one tensor goes to the input of the part's name. A part that becomes several tensors (a text with its mask) goes to
    the inputs of their names. Examples without parts belong to the first input; the network then runs without the others if it can.
    `columns`: table columns of each part in the training data; empty if there was no table, or before `fit`."""

    kind: ClassVar[str] = "parts"
    names: Names  # names of the parts, in the order of the network's inputs
    parts: tuple[Preprocessing, ...]  # preprocessing of each part
    columns: tuple[tuple[Name, ...], ...] = ()
    inferred: bool = False  # made from the network's input shapes alone. Views are those of each part

    def __post_init__(self) -> None:
        if not self.names or len(set(self.names)) != len(self.names) or len(self.names) != len(self.parts):
            raise DataError(
                f"Parts preprocessing was given the names {list(self.names)} and {len(self.parts)} preprocessings; expected one or more "
                "different names, and a preprocessing for each."
            )

    @property
    def fitted(self) -> bool:
        return all(part.fitted for part in self.parts)

    @classmethod
    def from_plain(cls, fields: dict[str, Any]) -> Self:
        """Make it from plain data. In older folders, only this preprocessing knows the columns of its parts."""
        made = super().from_plain(fields)
        if made.columns and len(made.columns) != len(made.parts):
            raise DataError(
                f"Parts preprocessing has the columns of {counted(len(made.columns), 'input')}; expected those of {len(made.parts)}."
            )
        known = zip(made.parts, made.columns or ((),) * len(made.parts), strict=True)
        parts = [replace(part, columns=own) if isinstance(part, ArrayPreprocessing) and own else part for part, own in known]
        return replace(made, parts=tuple(parts))

    def fit(self, data: Dataset) -> PartsPreprocessing:
        given = dict(self._given(data))
        fitted = [part if part.fitted or name not in given else part.fit(given[name]) for name, part in self.by_name.items()]
        known = data.items.columns if isinstance(data.items, Parts) else {}
        before = self.columns or ((),) * len(self.names)
        named = zip(self.names, fitted, before, strict=True)
        columns = tuple(part.row_columns or known.get(name) or own for name, part, own in named)
        return replace(self, parts=tuple(fitted), columns=columns if any(columns) else ())

    @property
    def by_name(self) -> dict[str, Preprocessing]:
        """Preprocessing of each part by name."""
        return dict(zip(self.names, self.parts, strict=True))

    def _given(self, data: Dataset) -> Iterator[tuple[str, Dataset]]:
        """Yield the parts of a data set in the order of the network's inputs."""
        if not data.part_names:
            yield self.names[0], data
            return
        unknown = [name for name in data.part_names if name not in self.names]
        if unknown:
            near = near_names(unknown[0], self.names)
            raise DataError(
                f"The examples have the part {unknown[0]!r}; the network takes the inputs {', '.join(map(repr, self.names))}{near}"
            )
        yield from ((name, data.part(name)) for name in self.names if name in data.part_names)

    def check_values(self, data: Dataset) -> None:
        for name, part in self._given(data):
            self.by_name[name].check_values(part)

    def viewing(self, augment: str | Callable[..., Any]) -> PartsPreprocessing:
        pictures = [name for name, part in self.by_name.items() if part.item_kind == "image"]
        if plain_name(augment) != "light" and not pictures:
            return replace(self, parts=(self.parts[0].viewing(augment), *self.parts[1:]))  # raises: no part is a picture
        made = [part.viewing(augment if name in pictures else "light") for name, part in self.by_name.items()]
        return replace(self, parts=tuple(made))

    def of_photographs(self, data: Dataset) -> bool:
        return any(self.by_name[name].of_photographs(part) for name, part in self._given(data))

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Inputs:
        data = self.dataset(items)
        return self.batch_of(data, np.arange(len(data)), view=view, seeds=seeds)

    def batch_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, view: int = 0, seeds: Sequence[int] | None = None) -> Inputs:
        """Return some examples of a data set as one batch: tensors (n, ...) by input name; without parts, the first one, unnamed."""
        made: dict[str, Any] = {
            name: self.by_name[name].batch_of(part, indices, view=view, seeds=seeds) for name, part in self._given(data)
        }
        return _named(made) if data.part_names else cast(Inputs, made[self.names[0]])

    def arrays_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, raw: bool = False) -> Item:
        made: dict[str, Any] = {name: self.by_name[name].arrays_of(part, indices, raw=raw) for name, part in self._given(data)}
        return _named(made) if data.part_names else cast(Item, made[self.names[0]])

    @property
    def input_columns(self) -> dict[str, Sequence[str]]:
        return {name: own or (name,) for name, own in zip(self.names, self.columns or ((),) * len(self.names), strict=True)}

    def dataset(self, items: Any) -> Dataset:
        items = without_labels(items)
        if isinstance(items, Dataset | Parts):
            return self._by_name(items if isinstance(items, Dataset) else unlabelled(items, self.kind))
        records = isinstance(items, list | tuple) and bool(items) and all(isinstance(one, Mapping) for one in items)
        by_input = records and not {*self.names}.isdisjoint(items[0])  # else records are rows of a table
        if is_table(items) and not by_input:
            return read_unlabelled(items, self.item_kind, columns=(), inputs=self.input_columns)
        if records:
            odd = next((row for row, one in enumerate(items) if set(one) != set(items[0])), None)
            if odd is not None:
                raise DataError(
                    f"Example 0 has the parts {list(items[0])}, and example {odd} has {list(items[odd])}; expected the same in each."
                )
            items = {name: [one[name] for one in items] for name in items[0]}
        if are_inputs(items):
            raise DataError(by_name_instead(items, self.names))
        if not isinstance(items, Mapping):
            return as_dataset(items, self.parts[0].item_kind)
        found = {name: self._part(name, values) for name, values in zip(map(str, items), items.values(), strict=True)}
        parts = Parts({name: part.items for name, part in found.items()}, {name: part.kind for name, part in found.items()})
        return unlabelled(parts, self.kind)

    def _part(self, name: str, items: Any) -> Dataset:
        """Return the examples of one input; those of a table with the columns of the training data, in that order."""
        try:
            return self.by_name[name].dataset(items) if name in self.names else as_dataset(items, "array")
        except DataError as error:
            raise DataError(f"Input {name!r}: {error}") from error

    def _by_name(self, data: Dataset) -> Dataset:
        """Return the data with the parts that are numbers of a table in the order of the training data."""
        if not self.columns or not isinstance(data.items, Parts):
            return data
        given = {name: data.part(name) for name in data.part_names}
        found = {name: self._part(name, part) if part.row_columns else part for name, part in given.items()}
        if all(found[name].items is part.items for name, part in given.items()):
            return data
        columns = {name: part.row_columns or data.items.columns.get(name, ()) for name, part in found.items()}
        return replace(data, items=replace(data.items, parts={name: part.items for name, part in found.items()}, columns=columns))

    def describe(self) -> str:
        return "; ".join(f"{name!r}: {part.describe()}" for name, part in self.by_name.items())


def _named(made: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of all parts by input name: a part's single tensor by the part's name, several by their own names."""
    named: dict[str, Any] = {}
    for name, one in made.items():
        named |= {name: one} if not isinstance(one, dict) else one if len(one) > 1 else dict.fromkeys((name,), *one.values())
    return named
