"""What saving, opening and predicting need of a network: less than the whole contract, and below it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

import numpy as np

from ...tensors import Tensor, torch
from ..account import Account
from ..edits import Edit
from .coding import Coding
from .head import Head
from .protocols import Inputs, Preprocessing, Unknowns

__all__ = ["Record"]


class Record(Protocol):
    """A network as the record that a saved folder holds; `contract.Network` says what each part is."""

    family: ClassVar[str]
    heads: dict[str, Head]
    account: Account
    preprocessing: Preprocessing
    origin: dict[str, Any]
    sample: Inputs
    history: Sequence[dict[str, Any]]
    statistics: Mapping[str, np.ndarray] | None
    unknown: Unknowns | None
    coding: Coding | None
    edits: tuple[Edit, ...]

    @property
    def codes(self) -> dict[str, np.ndarray]:
        """The code of each known condition by name."""

    @property
    def fresh(self) -> tuple[str, ...]:
        """The layers that were built here and that nothing has trained yet."""

    def fresh_(self, layers: Collection[str]) -> None:
        """Take note that exactly these `layers` were never trained."""

    def code_table(self) -> torch.nn.Parameter:
        """Return the table of codes, (1 + K, size)."""

    def recoded(self, conditions: Sequence[str], table: np.ndarray) -> Self:
        """Return a copy that knows these `conditions`, with another `table` of codes."""

    def state(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name."""

    def former_name(self, name: str) -> str:
        """Return what folders of format 1 call the parameter or buffer of this `name`."""

    def mode_(self, training: bool) -> None:
        """Switch to `training` or to inference."""

    def rename_task_(self, task: str, name: str) -> None:
        """Call a `task` by another `name`."""

    def refuse_training_form(self) -> None:
        """Raise if the network holds what it has for a training only."""

    def write(self, folder: Path) -> Mapping[str, Any]:
        """Write the weights into `folder` and return what opening them needs."""
