"""Protocols: inputs and logits of a network, and the interfaces of its preprocessing and of its rule for unknown examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np

from ...tensors import Tensor

Inputs = Tensor | dict[str, Tensor]  # One batch in the form that the network takes: a tensor, or named tensors (for example text)
Scores = dict[str, Tensor]  # Logits by task name, each (N, C)


def by_name(inputs: Inputs, alone: str = "") -> dict[str, Tensor]:
    """Return the tensors of a batch by name; a single unnamed one is called `alone`."""
    return inputs if isinstance(inputs, dict) else {alone: inputs}


def changed(inputs: Inputs, change: Callable[[Tensor], Tensor]) -> Inputs:
    """Return a batch with `change` of each of its tensors."""
    return {name: change(tensor) for name, tensor in inputs.items()} if isinstance(inputs, dict) else change(inputs)


def chosen_rows(inputs: Inputs, rows: Sequence[int]) -> Inputs:
    """Return some rows of the inputs, a tensor or tensors by name."""
    return changed(inputs, lambda tensor: tensor[list(rows)])


def on_device(inputs: Inputs, device: Any, **how: Any) -> Inputs:
    """Return a batch on a PyTorch device; to a GPU through page-locked memory, so that the copy does not stop the calling thread.
    `how`: further arguments of `Tensor.to`."""

    def moved(tensor: Tensor) -> Tensor:
        if str(device).startswith("cuda") and tensor.device.type == "cpu":
            return tensor.pin_memory().to(device, non_blocking=True, **how)
        return tensor.to(device, **how)

    return changed(inputs, moved)


class Preprocessing(Protocol):
    """Conversion of raw examples (files, texts, arrays) to the tensors that the network takes; saved with the network."""

    def batches(self, items: Any, batch_size: int) -> Iterator[Inputs]:
        """Yield consecutive batches of at most `batch_size` examples."""

    def dataset(self, items: Any) -> Any:
        """Return examples of any supported form as a data set."""

    def windows(self, data: Any) -> Any:
        """Return a data set in which examples that are too long for the network are split into several."""

    def averaged(self, values: np.ndarray, items: Any) -> np.ndarray:
        """Return `values` averaged over the windows of each original example."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which the preprocessing can be restored."""

    def without_conditions(self) -> Any:
        """Return this preprocessing without lookup of conditions."""

    def describe(self) -> str:
        """Return a readable one-line description."""


class Unknowns(Protocol):
    """Rule that finds examples of no known class (out-of-distribution); saved with the network."""

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return whether each example is unknown, (N,) bool, from features (N, d)."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data from which, with the class statistics, the rule can be restored."""

    def own_arrays(self) -> dict[str, np.ndarray] | None:
        """Return the arrays that the rule needs besides the class statistics, or None."""
