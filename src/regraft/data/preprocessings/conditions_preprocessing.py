"""Preprocessing of examples with conditions: the named inputs of another preprocessing, and row indices of condition codes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError, near_names
from ...networks.parts.protocols import Inputs
from ...tensors import torch
from ...words import counted
from ..dataset import Dataset
from ..items import listed
from .preprocessing import Preprocessing, WrappedPreprocessing
from .schemas import Name

ANYWHERE = "inputs"  # Name of an unnamed input tensor beside the condition, if the network has no name for it


@dataclass(frozen=True)
class ConditionsPreprocessing(WrappedPreprocessing):
    """Preprocess examples with `inner` and add the row indices of their conditions in the network's code table, int64.
    `inferred`: made from the network's input shape alone; `inner` says so for the examples. Examples without conditions take row 0. Views
    are those of `inner`; all views share the condition."""

    kind: ClassVar[str] = "conditions"
    names: tuple[str, ...]  # the K conditions that the network knows, in row order; row 0 is the mean code
    lenient: bool = False  # an unknown condition takes row 0 instead of raising an error
    inputs: Name = ANYWHERE  # name of the tensor of `inner` if it makes a single unnamed one
    inferred: bool = False

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise DataError(f"Conditions preprocessing was given {listed(map(repr, twice))} more than once; expected different names.")

    @property
    def unnamed(self) -> str:
        return self.inputs

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Inputs:
        """Return n raw examples as one batch, all with the mean code."""
        return self.beside(self.inner.batch(items, view, seeds=seeds), {"condition": torch.zeros(len(items), dtype=torch.int64)})

    def added(self, data: Dataset, indices: np.ndarray, *, raw: bool = False) -> dict[str, np.ndarray]:
        """Return "condition": (n,) int64 rows of the code table; 0 without conditions."""
        return {"condition": np.zeros(len(indices), np.int64) if data.conditions is None else self.rows(data.conditions[indices])}

    def rows(self, conditions: Sequence[str] | np.ndarray) -> np.ndarray:
        """Return the rows of conditions (n,) in the code table, (n,) int64."""
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

    def without_conditions(self) -> Preprocessing:
        return self.inner

    def describe(self) -> str:
        return f"{self.inner.describe()}; {counted(len(self.names), 'condition')}: {listed(self.names, 12)}"


def known_conditions(preprocessing: Preprocessing) -> tuple[str, ...] | None:
    """Return the conditions that a preprocessing, or one nested in it, looks up; None if there are none."""
    if isinstance(preprocessing, ConditionsPreprocessing):
        return preprocessing.names
    inner = getattr(preprocessing, "inner", None)
    return None if inner is None else known_conditions(inner)


def with_conditions(preprocessing: Preprocessing, names: Sequence[str], *, lenient: bool = False, inputs: str = ANYWHERE) -> Preprocessing:
    """Return the preprocessing with these conditions, in place of any earlier ones."""
    if isinstance(preprocessing, ConditionsPreprocessing):
        return dataclasses.replace(preprocessing, names=tuple(names), lenient=lenient)
    if known_conditions(preprocessing) is None:
        return ConditionsPreprocessing(preprocessing, tuple(names), lenient, inputs)
    own: Any = preprocessing  # one that holds another
    changed: Preprocessing = dataclasses.replace(own, inner=with_conditions(own.inner, names, lenient=lenient))
    return changed
