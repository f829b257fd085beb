"""Record: the body of a network with all else that is saved, and the body's operations under the names that regraft uses."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any, Self

import numpy as np
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import NetworkError
from ..account import Account
from ..edits import Edit
from ..family import Body, Family
from .coding import Coding
from .head import Head, head_called
from .layers import Block, Layer, Point
from .protocols import Inputs, Preprocessing, Scores, Unknowns
from .structure import prefixes

__all__ = ["Record"]


@dataclass(eq=False, repr=False)
class Record:
    """Data of a network, without edits and predictions. `Body` and `Family` document the names that this class forwards.

    Attributes:
        origin: the facts needed to open the source again before the edits are replayed.
        preprocessing: from examples to the tensors that the network takes; set when the network is opened.
        input_guessed: whether the input shape was guessed.
        statistics: per-class sums of the features, if a training run kept them.
        unknown: the rule that finds examples of no known class, if a training run learned one.
        edits: the changes since the network was opened from its source, in order.
        outputs: class names of a network without a head, in the order of its outputs.
    """

    kind: Family[Any]
    body: Body
    origin: dict[str, Any]
    account: Account
    preprocessing: Preprocessing = field(init=False)
    input_guessed: bool = False
    history: Sequence[dict[str, Any]] = ()
    statistics: Mapping[str, np.ndarray] | None = None
    unknown: Unknowns | None = None
    edits: tuple[Edit, ...] = ()
    outputs: tuple[str, ...] = ()

    @property
    def family(self) -> str:
        """The name of the framework: "torch" or "keras"."""
        return self.kind.name

    @property
    def layout(self) -> str:
        """Channel order of images: "channels_first" or "channels_last"."""
        return self.kind.layout

    @property
    def module(self) -> Any:
        """The framework's own object."""
        return self.body.module

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in execution order."""
        return self.body.layers

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The units in which depth is counted."""
        return self.body.blocks

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Shape of one example; () for several inputs."""
        return self.body.input_shape

    @property
    def sample(self) -> Inputs:
        """Two synthetic examples that the network was inspected with."""
        return self.body.sample

    @sample.setter
    def sample(self, value: Inputs) -> None:
        self.body.sample = value

    @property
    def heads(self) -> dict[str, Head]:
        """The heads by task, the first one first."""
        return self.body.heads

    @heads.setter
    def heads(self, value: dict[str, Head]) -> None:
        self.body.heads = value

    @property
    def coding(self) -> Coding | None:
        """How the network takes the codes of conditions, or None."""
        return self.body.coding

    @coding.setter
    def coding(self, value: Coding | None) -> None:
        self.body.coding = value

    @property
    def head(self) -> Head:
        """The first head; a network without one raises `NetworkError`."""
        return self.body.head

    @property
    def head_layers(self) -> tuple[str, ...]:
        """Names of the linear layers of all heads that have their own class weights."""
        return self.body.head_layers

    @property
    def fresh(self) -> tuple[str, ...]:
        """Names of the layers that were built here and have not been trained, in execution order."""
        return self.body.fresh

    def copy(self) -> Self:
        """Return an independent copy: same weights, no shared storage.

        Example:
            >>> net.copy().classes
            ('ant', 'bee', 'cat')
        """
        twin = copy.copy(self)
        twin.body, twin.origin = self.body.copy(), dict(self.origin)
        return twin

    def modules(self) -> dict[str, Module]:
        """Return all modules by dotted name ("container.part"), including containers."""
        return self.body.modules()

    def scores(self, inputs: Inputs) -> Scores:
        """Return the logits (N, C) of one batch by task, in the current mode and with gradients if they are enabled."""
        return self.body.scores(inputs)

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return the features (N, d) of one batch that the first head reads; without a head, the pooled output."""
        return self.body.feature_batch(inputs)

    def state(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, sharing storage with the network."""
        return self.body.state()

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        """Return the parameters of each layer: layer name -> name in `state()` -> parameter."""
        return self.body.layer_parameters()

    def rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a linear `layer`'s weight (C, d) and bias (C,), with two rows for a binary head."""
        return self.body.rows(layer)

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these `layers` or parameters and the `held` ones, in every mode."""
        self.body.freeze_(layers)

    def holds(self, layer: str) -> bool:
        """Return whether a `layer`, a part of it or one of its parameters is held."""
        return any(layer in prefixes(name)[:-1] for name in self.body.held)

    def mode_(self, training: bool) -> None:
        """Switch the part that is not frozen to training or inference mode."""
        self.body.mode_(training)

    @property
    def codes(self) -> dict[str, np.ndarray]:
        """Copies of the codes (size,) by condition; empty if the network takes none."""
        if self.coding is None:
            return {}
        table = self.body.code_table().detach().cpu().numpy()
        return {name: table[row].copy() for row, name in enumerate(self.coding.conditions, start=1)}

    def points(self) -> tuple[Point, ...]:
        """Return the hook points where values can be shifted or scaled per channel, in execution order; none after a head."""
        blocks = {layer: block.name for block in self.blocks for layer in block.layers}
        return tuple(Point(name, blocks[name], site.channels) for name, site in self.body.sites().items())

    def for_export(self) -> Self:
        """Return a private copy for exporters: on the CPU and in inference mode."""
        twin = self.copy()
        twin.body.ready_for_export_()
        return twin

    def head_of(self, task: str | None) -> Head:
        """Return the head of a task; None for the first head.

        Args:
            task: name of a task of the network, or None.

        Returns:
            The head.

        Raises:
            NetworkError: if there is no such task; the message lists near names.

        Example:
            >>> net.head_of(None).task
            'main'
        """
        return self.head if task is None else head_called(self.heads, task)

    def rename_task_(self, task: str, name: str) -> None:
        """Rename a task."""
        self.head_of(task)
        if name != task and name in self.heads:
            raise NetworkError(f"The task {task!r} cannot be called {name!r}: the network has one of that name already.")
        self.heads = {
            name if known == task else known: replaced(head, task=name if known == task else known) for known, head in self.heads.items()
        }
        self.body.found = {name if known == task else known: found for known, found in self.body.found.items()}
