"""Head: the last linear layer of one task, with its class names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import NetworkError, near_names
from ..names import index_of

ACTIVATIONS = ("relu", "linear", "softmax", "sigmoid", "tanh", "gelu", "elu", "selu", "silu", "softplus")
"""Activations between two linear layers that are identical in PyTorch and Keras."""

HeadChoice = str | Mapping[str, str] | None  # The layer that is the head; for a network with several kept outputs, the layer of each task


def two_rows(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the softmax rows (2, d), (2,) equivalent to a sigmoid of one row (1, d), (1,); the first row is zero."""
    return np.concatenate([np.zeros_like(weight), weight]), np.concatenate([np.zeros_like(bias), bias])


def one_row(weight: np.ndarray, bias: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the row (1, d), (1,) whose sigmoid is equivalent to a softmax of two rows (2, d), (2,)."""
    return weight[1:] - weight[:1], bias[1:] - bias[:1]


def told_binary(head: Head, facts: Mapping[str, Any]) -> Head:
    """Return the head in the form that a saved folder states: binary, or with one class per row of the layer."""
    if head.binary == bool(facts.get("binary")):
        return head
    if head.binary:
        return replace(head.in_layer(), binary=False)
    return head.as_binary() if len(head.weight) == 1 else head


@dataclass(frozen=True)
class Head:
    """The last linear layer of one task.
    `parts`: sizes of the groups of rows that are multiplied separately, so that the logits of earlier rows stay bit-identical (a wider
    product may round differently); empty for one product.
    `groups`: set for a derived head, which has no class weights: the probability of class g is the sum of the first head's probabilities of
    the rows `groups[g]`. `weight` is then (G, C) of 0 and 1.
    `binary`: whether the layer has a single row, whose sigmoid is the probability of the second of two classes. `weight` and `bias` then
    hold the two equivalent softmax rows.
    `apart`: whether the logits are no linear function of the first head's features: the head reads other ones, or a layer beside it adds to
    its logits. Such a head is trained, never solved in closed form."""

    task: str
    classes: tuple[str, ...] | None  # class names in row order, or None if they are unknown
    kind: str  # "classification", "multi-label" or "regression"
    activation: str  # "linear", "softmax" or "sigmoid": the function from logits to the network's own output
    layer: str  # name of the linear layer within the network
    weight: np.ndarray = field(repr=False)  # (C, d) copy
    bias: np.ndarray = field(repr=False)  # (C,) copy; zeros if the layer has none
    parts: tuple[int, ...] = ()
    thresholds: tuple[float, ...] | None = None  # (C,) for multi-label: the probability from which a label counts as present; None for 0.5
    groups: tuple[tuple[int, ...], ...] | None = None
    binary: bool = False
    apart: bool = False

    @property
    def features(self) -> int:
        """The number of features d that the head reads."""
        return int(self.weight.shape[1])

    def as_binary(self) -> Head:
        """Return a head with a single row as a binary head of two classes, without class names."""
        weight, bias = two_rows(self.weight, self.bias)
        return replace(self, classes=None, kind="classification", weight=weight, bias=bias, binary=True)

    def as_softmax(self) -> Head:
        """Return a binary head as a head with two rows and bit-identical logits."""
        return replace(self, activation="linear" if self.activation == "linear" else "softmax", parts=(1, 1), binary=False)

    def in_layer(self) -> Head:
        """Return the head with the rows of its layer: one row for a binary head."""
        if not self.binary or len(self.weight) == 1:
            return self
        weight, bias = one_row(self.weight, self.bias)
        return replace(self, weight=weight, bias=bias)

    def derived(self, task: str, groups: Mapping[str, Sequence[int]]) -> Head:
        """Return a derived head: the probability of each group is the sum of this head's probabilities over its members.
        `groups` maps a name to row indices; a row belongs to at most one group."""
        member = np.zeros((len(groups), len(self.weight)), np.float32)
        for index, rows in enumerate(groups.values()):
            member[index, list(rows)] = 1
        own = tuple(tuple(int(row) for row in rows) for rows in groups.values())
        return Head(task, tuple(groups), "classification", "linear", "", member, np.zeros(len(groups), np.float32), groups=own)

    def row(self, name: str) -> tuple[np.ndarray, np.floating[Any]]:
        """Return the class weights of one class: weight (d,) and bias."""
        index = index_of(name, self.classes or ())
        return self.weight[index].copy(), self.bias[index]


@dataclass(frozen=True)
class HeadLocation:
    """Location of a head: the linear layer, or the sum of several, that produces an output of a network."""

    layer: str  # name of the layer, or of the first of several
    activation: str  # "linear", "softmax" or "sigmoid"
    whole: bool = False  # whether the logits are the network's own output instead of the layer's output averaged over positions
    output: int = 0  # index of the network's output
    others: tuple[str, ...] = ()  # the heads of the network's other outputs, which are not used
    shares: tuple[tuple[str, float], ...] = ()  # for several layers, their names and the factors of their outputs in the sum
    beside: tuple[str, ...] = ()  # further layers with one row per class that add to the logits, perhaps after a maximum over positions

    @property
    def layers(self) -> tuple[str, ...]:
        """Names of all layers that contribute to the logits."""
        return tuple(name for name, _ in self.shares) or (self.layer,)

    def head(self, weight: np.ndarray, bias: np.ndarray, *, task: str, kind: str | None = None) -> Head:
        """Return the head of a `task` with these class weights, without class names; without `kind` it follows from activation and rows."""
        if len(weight) == 1 and self.activation == "sigmoid":
            return Head(task, None, "classification", "sigmoid", self.layer, weight, bias).as_binary()
        several = "multi-label" if self.activation == "sigmoid" else "classification"
        return Head(task, None, kind or (several if len(weight) > 1 else "regression"), self.activation, self.layer, weight, bias)


def head_called(heads: Mapping[str, Head], task: str) -> Head:
    """Return the head of one task."""
    if task not in heads:
        raise NetworkError(f"The network has no task {task!r}{near_names(task, heads)}")
    return heads[task]
