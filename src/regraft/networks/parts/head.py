"""The head: the last linear layer that makes the scores of one task, with its class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import NetworkError, near_names
from ..names import index_of

__all__ = ["ACTIVATIONS", "FoundHead", "Head", "HeadChoice", "head_called", "one_row", "told_binary", "two_rows"]

ACTIVATIONS = ("relu", "linear", "softmax", "sigmoid", "tanh", "gelu", "elu", "selu", "silu", "softplus")
"""What the scores of one linear layer may go through before the next: the same functions in PyTorch and Keras."""

HeadChoice = str | Mapping[str, str] | None
"""Which layer is the head; of a network with several outputs that are all kept, the layer of each task."""


def two_rows(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the two rows of a softmax that says what the sigmoid of one row does.

    `weight`: (1, d); `bias`: (1,); result: (2, d) and (2,), the first ones zero.
    """
    return np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])


def one_row(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row whose sigmoid says what a softmax of two rows does.

    `weight`: (2, d); `bias`: (2,); result: (1, d) and (1,).
    """
    return weight[1:] - weight[:1], bias[1:] - bias[:1]


def told_binary(head: Head, facts: Mapping[str, Any]) -> Head:
    """Return the head of a layer as a saved folder has it: binary, or of as many classes as the layer has rows."""
    if head.binary == bool(facts.get("binary")):
        return head
    if head.binary:
        return replace(head.in_layer(), binary=False)
    return head.as_binary() if len(head.weight) == 1 else head


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
        parts: sizes of the groups of rows that are multiplied apart, so that the scores of earlier rows stay as they were to the bit (a
            wider product may round otherwise); empty for one product.
        thresholds: (C,) multi-label: the probability from which each label counts as present; None for 0.5.
        groups: a derived head has no rows of its own: class g is the sum of the first head's probabilities of the rows `groups[g]`. Its
            weight is then (G, C) of 0 and 1.
        binary: whether the layer has a single row, whose sigmoid is the probability of the second of two classes. `weight` and `bias`
            are
        apart: whether it reads other features than the first head: it is trained, and never solved.
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
    binary: bool = False
    apart: bool = False

    @property
    def features(self) -> int:
        """The number of features d that the head reads."""
        return int(self.weight.shape[1])

    def as_binary(self) -> Head:
        """Return a head of a single row as that of two classes, without names."""
        weight, bias = two_rows(self.weight, self.bias)
        return replace(self, classes=None, kind="classification", weight=weight, bias=bias, binary=True)

    def as_softmax(self) -> Head:
        """Return a binary head as one of two rows with the same scores, to the bit."""
        return replace(self, activation="linear" if self.activation == "linear" else "softmax", parts=(1, 1), binary=False)

    def in_layer(self) -> Head:
        """Return the head with the rows that its layer has."""
        if not self.binary or len(self.weight) == 1:
            return self
        weight, bias = one_row(self.weight, self.bias)
        return replace(self, weight=weight, bias=bias)

    def derived(self, task: str, groups: Mapping[str, Sequence[int]]) -> Head:
        """Return a head without rows of its own: each group's probability is the sum of this head's over its members.

        `groups`: name -> row indices; each row stands in one group.
        """
        member = np.zeros((len(groups), len(self.weight)), np.float32)
        for index, rows in enumerate(groups.values()):
            member[index, list(rows)] = 1
        own = tuple(tuple(int(row) for row in rows) for rows in groups.values())
        return Head(task, tuple(groups), "classification", "linear", "", member, np.zeros(len(groups), np.float32), groups=own)

    def row(self, name: str) -> tuple[np.ndarray, np.floating[Any]]:
        """Return weight (d,) and bias of one class."""
        index = index_of(name, self.classes or ())
        return self.weight[index].copy(), self.bias[index]


@dataclass(frozen=True)
class FoundHead:
    """A linear layer, or several whose outputs are added, from which a result of a network follows.

    Attributes:
        layer: its name; that of the first one where there are several.
        activation: "linear", "softmax" or "sigmoid".
        whole: whether the raw scores are the network's own result, not what the layer gives, averaged over positions.
        output: which of the network's results follows from it.
        others: the heads of the network's other results, which are not used.
        shares: where there are several: their names, and the factors of their outputs in the sum.
    """

    layer: str
    activation: str
    whole: bool = False
    output: int = 0
    others: tuple[str, ...] = ()
    shares: tuple[tuple[str, float], ...] = ()

    @property
    def layers(self) -> tuple[str, ...]:
        """The names of all layers that make the logits."""
        return tuple(name for name, _ in self.shares) or (self.layer,)

    def head(self, weight: np.ndarray, bias: np.ndarray, *, task: str, kind: str | None = None) -> Head:
        """Return the head of a `task` with these rows, without class names; of a `kind` where the rows do not tell it."""
        if len(weight) == 1 and self.activation == "sigmoid":
            return Head(task, None, "classification", "sigmoid", self.layer, weight, bias).as_binary()
        several = "multi-label" if self.activation == "sigmoid" else "classification"
        return Head(task, None, kind or (several if len(weight) > 1 else "regression"), self.activation, self.layer, weight, bias)


def head_called(heads: Mapping[str, Head], task: str) -> Head:
    """Return the head of one task."""
    if task not in heads:
        raise NetworkError(f"The network has no task {task!r}{near_names(task, heads)}")
    return heads[task]
