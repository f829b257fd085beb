"""What goes in and out of a network, and what it keeps beside its weights without knowing how it is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np

from ...tensors import Tensor

__all__ = ["Inputs", "Preprocessing", "Scores", "Unknowns", "on_device"]

Inputs = Tensor | dict[str, Tensor]
"""One batch as the network takes it: a tensor, or named tensors (text)."""
Scores = dict[str, Tensor]
"""Raw scores by task name, each (N, C), before the activation."""


def on_device(inputs: Inputs, device: Any) -> Inputs:
    """Return a batch, `inputs`, on a `device` of PyTorch."""
    return {name: tensor.to(device) for name, tensor in inputs.items()} if isinstance(inputs, dict) else inputs.to(device)


class Preprocessing(Protocol):
    """From raw items (files, texts, arrays) to the tensors that the network takes; saved with the network."""

    def batches(self, items: Any, batch_size: int) -> Iterator[Inputs]:
        """Yield the items of any supported kind as consecutive batches of at most `batch_size`."""

    def dataset(self, items: Any) -> Any:
        """Return items of any supported form as a data set."""

    def windows(self, data: Any) -> Any:
        """Return a data set in which what is too long for the network is several examples."""

    def averaged(self, values: np.ndarray, items: Any) -> np.ndarray:
        """Return the mean over the examples that one item was made into."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which the same preprocessing can be made again."""

    def describe(self) -> str:
        """Return one line for people."""


class Unknowns(Protocol):
    """Tells which items belong to no class that the network knows; saved with the network."""

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return whether each item is unknown, (N,) bool, of features (N, d)."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which, with the class statistics, the same can be made again."""

    def own_arrays(self) -> dict[str, np.ndarray] | None:
        """Return the arrays to be saved with it where the class statistics of the network are not all that it needs."""
