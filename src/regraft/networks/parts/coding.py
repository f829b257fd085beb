"""Coding: how a network takes the code of a condition, and which conditions it knows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, is_dataclass, replace
from typing import Any, Self

import numpy as np

from ...errors import NetworkError, near_names
from ...tensors import torch
from ...words import counted
from .protocols import Inputs

CODE_SPREAD = 0.1
"""Standard deviation of the initial codes. The weights that read them start at zero, so codes must not: 0 * 0 has no gradient."""

MEAN = "mean"  # Condition name of the mean of the codes that the network was trained with: row 0 of the table of codes
_WIDEST_HIDDEN = 256  # Largest number of hidden units of an adaptation network before the input, unless the codes are larger
LAYERS = "layers"
ENTRANCE = "entrance"
INPUT = "input "  # Prefix of the name of an input that the code replaces


@dataclass(frozen=True)
class Coding:
    """How a network takes codes. Its table of codes is (1 + K, size): the mean code, then one row per condition.
    `into`: "layers": each hook point adds its own linear map of the code before its activation; "entrance": a small network before the
    input reads the code; "input NAME": the code is that input of the network."""

    size: int
    conditions: tuple[str, ...]  # the K names, in row order
    into: str = LAYERS
    points: tuple[str, ...] = ()  # names of the hook points, for "layers"
    learned: tuple[str, ...] = ()  # the conditions that the network was trained with; their codes define the prior of new codes

    def hidden(self, width: int) -> int:
        """Return the number of hidden units of an adaptation network before an input of `width` features."""
        return max(self.size, min(width, _WIDEST_HIDDEN))

    def row(self, condition: str) -> int:
        """Return the row of a condition in the table of codes; 0 for "mean"."""
        if condition in self.conditions:
            return 1 + self.conditions.index(condition)
        if condition == MEAN:
            return 0
        known = ", ".join(map(repr, self.conditions[:12])) + (f" and {len(self.conditions) - 12} more" if len(self.conditions) > 12 else "")
        near = near_names(str(condition), self.conditions)
        said = f"{near} Known: {known}" if near.endswith("?") else f"; known: {known or 'none'}"
        raise NetworkError(
            f"The condition {condition!r} is not known{said}. Learn its code with regraft.adapt_condition, or take the mean "
            f"code with condition={MEAN!r}."
        )

    def refuse_unfit(self, sample: Inputs) -> None:
        """Raise if the inputs of a network, as its `sample` shows them, do not fit this coding."""
        if self.size < 1:
            raise NetworkError(f"size={self.size}: a code has 1 number or more.")
        name, named = self.into.removeprefix(INPUT), sample if isinstance(sample, dict) else {}
        if self.into in (LAYERS, ENTRANCE):
            return
        if name == self.into:
            raise NetworkError(f"into={self.into!r}: expected {LAYERS!r}, {ENTRANCE!r} or 'input NAME'.")
        if name not in named or len(named) < 2:
            raise NetworkError(
                f"into={self.into!r}: the network takes {', '.join(map(repr, named)) or 'one unnamed tensor'}; expected an input of that "
                f"name beside another one{near_names(name, named)}"
            )
        count = named[name][0].numel()
        if not named[name].is_floating_point() or count != self.size:
            raise NetworkError(
                f"into={self.into!r} with codes of {counted(self.size, 'number')}: that input holds {counted(count, 'number')} of "
                f"{named[name].dtype} for each example; expected {self.size} real ones."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return plain data."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    def joined(self, table: np.ndarray, codes: Mapping[str, np.ndarray]) -> tuple[tuple[str, ...], np.ndarray]:
        """Return the condition names and the table of codes with `codes` (condition -> code) put in; new conditions get new rows."""
        names = (*self.conditions, *(name for name in codes if name not in self.conditions))
        whole = np.concatenate([table, np.zeros((1 + len(names) - len(table), self.size), table.dtype)])
        for name, code in codes.items():
            whole[1 + names.index(name)] = code
        return names, whole

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the coding of the plain data that `to_dict` wrote."""
        given: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
        return cls(**given)


def drawn_codes(coding: Coding, *, seed: int) -> np.ndarray:
    """Return an initial table of codes, (1 + K, size) float32: small random codes; row 0, the mean code, is zero."""
    table = np.random.default_rng(seed).normal(0.0, CODE_SPREAD, (1 + len(coding.conditions), coding.size)).astype(np.float32)
    table[0] = 0
    return table


def in_condition(inputs: Inputs, row: int | None) -> Inputs:
    """Return a batch with the condition of all examples set to one `row` of the table of codes; None leaves it unchanged."""
    if row is None or not isinstance(inputs, dict):
        return inputs
    return {**inputs, "condition": torch.full_like(inputs["condition"], row)}


def without_conditions(items: Any) -> Any:
    """Return the examples without the conditions of a data set, which may be unknown, for prediction in one given condition."""
    brought = is_dataclass(items) and getattr(items, "conditions", None) is not None
    return replace(items, conditions=None) if brought else items
