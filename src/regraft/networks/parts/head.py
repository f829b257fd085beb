"""The head: the last linear layer that makes the scores of one task, with its class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..names import index_of

__all__ = ["Head"]


@dataclass(frozen=True)
class Head:
    """The last linear layer that makes the scores of one task.

    Attributes:
        task: the task's name.
        classes: class names in row order, or None where nobody has given them.
        kind: "classification", "multi-label" or "regression".
        activation: "linear", "softmax" or "sigmoid": what turns raw scores into the network's own output.
        layer: the name of the linear layer within the network.
        weight: (C, d) copy.
        bias: (C,) copy; zeros where the layer has none.
        parts: sizes of the groups of rows that are multiplied apart, so that the scores of earlier rows stay as they were to the bit
            (a wider product may round otherwise); empty for one product.
        thresholds: (C,) multi-label: the probability from which each label counts as present; None for 0.5.
        groups: a derived head has no rows of its own: class g is the sum of the first head's probabilities of the rows `groups[g]`.
            Its weight is then (G, C) of 0 and 1.
    """

    task: str
    classes: tuple[str, ...] | None
    kind: str
    activation: str
    layer: str
    weight: np.ndarray = field(repr=False)
    bias: np.ndarray = field(repr=False)
    parts: tuple[int, ...] = ()
    thresholds: tuple[float, ...] | None = None
    groups: tuple[tuple[int, ...], ...] | None = None

    @property
    def features(self) -> int:
        """The number of features d that the head reads."""
        return int(self.weight.shape[1])

    def derived(self, task: str, groups: Mapping[str, Sequence[int]]) -> Head:
        """Return a head without rows of its own: each group's probability is the sum of this head's over its members.

        Args:
            task: its name.
            groups: name -> row indices; each row stands in one group.
        """
        member = np.zeros((len(groups), len(self.weight)), np.float32)
        for index, rows in enumerate(groups.values()):
            member[index, list(rows)] = 1
        own = tuple(tuple(int(row) for row in rows) for rows in groups.values())
        return Head(task, tuple(groups), "classification", "linear", "", member, np.zeros(len(groups), np.float32), groups=own)

    def row(self, name: str) -> tuple[np.ndarray, np.floating[Any]]:
        """Return weight (d,) and bias of one class.

        Raises:
            NetworkError: if there is no class of that name; the nearest names are listed.
        """
        index = index_of(name, self.classes or ())
        return self.weight[index].copy(), self.bias[index]
