"""From raw scores to labels and probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from .contract import Inputs, Network

__all__ = ["Predictions", "concatenated", "predictions"]


@dataclass(frozen=True)
class Predictions:
    """What a network says of N items.

    Attributes:
        labels: one class name an item; for multi-label, the names joined by "|"; for regression, the number as text.
        scores: (N, C) probabilities; for regression, the values.
        classes: names of the C columns.
        unknown: (N,) whether an item belongs to none of the classes, where that was asked.
    """

    labels: list[str]
    scores: np.ndarray = field(repr=False)
    classes: tuple[str, ...]
    unknown: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.labels)


def concatenated(function: Callable[[Inputs], Tensor], network: Network, *, items: Any, batch_size: int) -> np.ndarray:
    """Run a function over the batches of `items` in inference mode and return its results as one array.

    Args:
        function: from one batch to a tensor whose first axis is the items.
        network: gives the preprocessing.
        items: whatever the preprocessing reads.
        batch_size: items a batch.

    Returns:
        (N, …) float32.
    """
    network.mode_(False)
    with torch.inference_mode():
        parts = [function(batch).float().cpu().numpy() for batch in _batches(network, items, batch_size=batch_size)]
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _batches(network: Network, items: Any, *, batch_size: int) -> Iterator[Inputs]:
    return network.preprocessing.batches(items, batch_size)


def predictions(raw: np.ndarray, kind: str, *, classes: Sequence[str] | None) -> Predictions:
    """Turn raw scores into labels and probabilities.

    Args:
        raw: (N, C) scores before the activation.
        kind: "classification" (softmax, one label), "multi-label" (sigmoid, those at 0.5 or more) or "regression".
        classes: names of the columns; None: "0", "1", ….

    Returns:
        The predictions.
    """
    names = tuple(classes) if classes is not None else tuple(str(index) for index in range(raw.shape[1]))
    values = torch.from_numpy(raw).double()
    if kind == "regression":
        return Predictions([", ".join(f"{value:g}" for value in row) for row in raw], raw, names)
    if kind == "multi-label":
        scores = values.sigmoid().numpy()
        return Predictions(
            ["|".join(name for name, score in zip(names, row, strict=True) if score >= 0.5) for row in scores], scores, names
        )
    scores = values.softmax(1).numpy()
    return Predictions([names[index] for index in scores.argmax(1)], scores, names)
