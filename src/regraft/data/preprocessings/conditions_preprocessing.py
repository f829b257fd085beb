"""From items and their conditions to a network's named inputs: the item as another preprocessing makes it, and a row of codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np

from ...errors import DataError, near_names
from ...networks.parts.protocols import Inputs
from ...tensors import Tensor, torch
from ..dataset import Dataset
from ..items import listed
from .preprocessing import Preprocessing

__all__ = ["ConditionsPreprocessing", "known_conditions", "with_conditions", "without_conditions"]

ANYWHERE = "inputs"
"""What the only tensor of an item is called beside a condition, where the network has no name of its own for it."""


@dataclass(frozen=True)
class ConditionsPreprocessing(Preprocessing):
    """Items as `inner` makes them, and beside them the rows of their conditions in the network's table of codes, int64.

    Attributes:
        names: the K conditions that the network knows, in the order of their rows; row 0 is the mean code.
        lenient: a condition that is not known takes row 0, instead of being an error.
        inputs: the name of the only tensor of `inner`, where that makes one without a name.
        inferred: made from the network's shape alone; `inner` says so for the items. Items without conditions take row 0. Views are
            those of `inner`; the conditions are the same in each of them.
    """

    kind: ClassVar[str] = "conditions"
    inner: Preprocessing
    names: tuple[str, ...]
    lenient: bool = False
    inputs: str = ANYWHERE
    inferred: bool = False

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise DataError(f"Conditions preprocessing was given {listed(map(repr, twice))} more than once; expected different names.")

    @classmethod
    def for_shape(cls, input_shape: tuple[int | None, ...], layout: str = "channels_first") -> Self:
        """Refuse: a shape does not say which conditions there are."""
        raise DataError(
            f"The input shape {input_shape} does not say which conditions there are; expected ConditionsPreprocessing(inner, names)."
        )

    @property
    def item_kind(self) -> str:
        """The kind of the items that `inner` takes."""
        return self.inner.item_kind

    @property
    def fitted(self) -> bool:
        """Whether what `inner` needs is known."""
        return self.inner.fitted

    def fit(self, data: Dataset) -> ConditionsPreprocessing:
        """Fit `inner` to the data where it is not fitted."""
        return self if self.inner.fitted else dataclasses.replace(self, inner=self.inner.fit(data))

    def widened(self, data: Dataset) -> ConditionsPreprocessing:
        """Let `inner` make room for longer items."""
        return dataclasses.replace(self, inner=self.inner.widened(data))

    def windows(self, data: Dataset) -> Dataset:
        """Let `inner` make windows over recordings that are too long for it."""
        return self.inner.windows(data)

    def check_values(self, data: Dataset) -> None:
        """Let `inner` compare the values of its items with those of the training."""
        self.inner.check_values(data)

    def viewing(self, augment: str | Callable[..., Any]) -> ConditionsPreprocessing:
        """Return this preprocessing with another way to make views of the items themselves."""
        return dataclasses.replace(self, inner=self.inner.viewing(augment))

    def of_photographs(self, data: Dataset) -> bool:
        """Return whether the items themselves look like photographs."""
        return self.inner.of_photographs(data)

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Inputs:
        """Return n raw items as one batch, all of them with the mean code.

        `view`: 0 for the plain items, k > 0 for their k-th augmented version.
        """
        return self.joined(self.inner.batch(items, view, seeds=seeds), np.zeros(len(items), np.int64))

    def batch_of(
        self, data: Dataset, indices: Sequence[int] | np.ndarray, *, view: int = 0, seeds: Sequence[int] | None = None
    ) -> dict[str, Tensor]:
        """Return some items of a data set as one batch, with the rows of their conditions.

        `indices`: (n,) which items; `view`: 0 for the plain items, k > 0 for their k-th augmented version.
        """
        return self.joined(self.inner.batch_of(data, indices, view=view, seeds=seeds), self._rows_of(data, indices))

    def arrays_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, raw: bool = False) -> dict[str, np.ndarray]:
        """Return some items as one batch of arrays, with the rows of their conditions; see `Preprocessing.arrays_of`."""
        made = self.inner.arrays_of(data, indices, raw=raw)
        named = made if isinstance(made, dict) else {self.inputs: made}
        return {**named, "condition": self._rows_of(data, indices)}

    def _rows_of(self, data: Dataset, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        chosen = np.asarray(indices, dtype=np.int64)
        given = None if data.conditions is None else data.conditions[chosen]
        return np.zeros(len(chosen), np.int64) if given is None else self.rows(given)

    def joined(self, inputs: Inputs, rows: np.ndarray) -> dict[str, Tensor]:
        """Return a batch of `inner` together with the rows of its conditions.

        `rows`: (n,) rows of the table of codes; result: The named tensors of `inner`, or its only one by the name `inputs`, and
        "condition": (n,) int64.
        """
        named = inputs if isinstance(inputs, dict) else {self.inputs: inputs}
        return {**named, "condition": torch.from_numpy(np.asarray(rows, np.int64))}

    def rows(self, conditions: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the rows of conditions (n,) in the table of codes, (n,) int64."""
        places = {"mean": 0} | {name: row for row, name in enumerate(self.names, start=1)}
        given = [str(name) for name in conditions]
        unknown = sorted({name for name in given if name not in places})
        if unknown and not self.lenient:
            near, known = near_names(unknown[0], self.names), listed(map(repr, self.names), 12) or "none"
            hint = f"{near} Known: {known}." if near.endswith("?") else f". Known: {known}."
            raise DataError(
                f"The network knows no condition {listed(map(repr, unknown))}{hint} Learn their codes with regraft.adapt_condition, or "
                "take the mean code: predict(examples, condition='mean')."
            )
        return np.array([places.get(name, 0) for name in given], np.int64)

    def dataset(self, items: Any) -> Dataset:
        """Return items without labels as a data set, as `inner` does."""
        return self.inner.dataset(items)

    def describe(self) -> str:
        """Return one line for people."""
        return f"{self.inner.describe()}; {len(self.names)} conditions: {listed(self.names, 12)}"


def known_conditions(preprocessing: Preprocessing) -> tuple[str, ...] | None:
    """Return the conditions that a preprocessing, or one within it, looks up; None where it looks up none."""
    if isinstance(preprocessing, ConditionsPreprocessing):
        return preprocessing.names
    inner = getattr(preprocessing, "inner", None)
    return None if inner is None else known_conditions(inner)


def without_conditions(preprocessing: Preprocessing) -> Preprocessing:
    """Return a preprocessing that looks up no conditions: what stands within the one that does takes its place."""
    if isinstance(preprocessing, ConditionsPreprocessing):
        return preprocessing.inner
    if known_conditions(preprocessing) is None:
        return preprocessing
    return _holding(preprocessing, without_conditions(_held_by(preprocessing)))


def _held_by(preprocessing: Preprocessing) -> Preprocessing:
    inner: Preprocessing = getattr(preprocessing, "inner")  # noqa: B009  # only one that holds another comes here
    return inner


def _holding(preprocessing: Preprocessing, inner: Preprocessing) -> Preprocessing:
    return dataclasses.replace(preprocessing, inner=inner)  # type: ignore[type-var]  # subclasses are dataclasses with that field


def with_conditions(preprocessing: Preprocessing, names: Sequence[str], *, lenient: bool = False, inputs: str = ANYWHERE) -> Preprocessing:
    """Return a preprocessing that looks up these conditions, in place of those that it looked up before."""
    if isinstance(preprocessing, ConditionsPreprocessing):
        return dataclasses.replace(preprocessing, names=tuple(names), lenient=lenient)
    if known_conditions(preprocessing) is None:
        return ConditionsPreprocessing(preprocessing, tuple(names), lenient, inputs)
    return _holding(preprocessing, with_conditions(_held_by(preprocessing), names, lenient=lenient))
