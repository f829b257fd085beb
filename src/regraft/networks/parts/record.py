"""A network as a record: its body and what else is saved; what is asked of the body has the names that all of regraft uses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import NetworkError
from ..account import Account
from ..edits import Edit
from ..family import Body, Family
from ..fingerprints.values import Structure
from .coding import Coding
from .head import Head, head_called
from .layers import Block, Layer
from .points import Point
from .protocols import Inputs, Preprocessing, Scores, Unknowns
from .structure import prefixes
from .taps import TapSlice

__all__ = ["Record"]


@dataclass(eq=False, repr=False)
class Record:
    """A network without what is done with one: `Body` and `Family` say what each name means.

    Attributes:
        origin: what opening its source again needs, before its edits are repeated.
        preprocessing: from items to what it takes; there once it is opened.
        input_guessed: whether nobody said what shape its input has.
        statistics: sums of the features by class, where a training kept them.
        unknown: tells which items belong to no known class, where a training has learned it.
        edits: the changes since it was opened from its source, in order.
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

    @property
    def family(self) -> str:
        """The name of the framework: "torch" or "keras"."""
        return self.kind.name

    @property
    def layout(self) -> str:
        """Where the channels of a picture stand: "channels_first" or "channels_last"."""
        return self.kind.layout

    @property
    def own_endings(self) -> tuple[str, ...]:
        """The endings of the files that the framework itself opens, its own first."""
        return self.kind.own_endings

    @property
    def module(self) -> Any:
        """The framework's own object."""
        return self.body.module

    @property
    def layers(self) -> tuple[Layer, ...]:
        """The layers in the order of execution."""
        return self.body.layers

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The units in which depth is counted."""
        return self.body.blocks

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """The shape of one example; () where there are several inputs."""
        return self.body.input_shape

    @property
    def sample(self) -> Inputs:
        """Two made-up examples that the network was inspected with."""
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
        """How the network takes the codes of conditions; None where it knows none."""
        return self.body.coding

    @coding.setter
    def coding(self, value: Coding | None) -> None:
        self.body.coding = value

    @property
    def draws(self) -> bool:
        """Whether two passes over the same examples differ, in inference too."""
        return self.body.draws

    @draws.setter
    def draws(self, value: bool) -> None:
        self.body.draws = value

    @property
    def head(self) -> Head:
        """The first head; an error where there is none."""
        return self.body.head

    @property
    def head_layers(self) -> tuple[str, ...]:
        """The names of the linear layers of all heads that have rows of their own."""
        return self.body.head_layers

    @property
    def held(self) -> frozenset[str]:
        """Layers, and single parameters, that no training changes."""
        return self.body.held

    @property
    def fresh(self) -> tuple[str, ...]:
        """The layers that were built here and that nothing has trained yet, in the order of execution."""
        return self.body.fresh

    @property
    def memory_order(self) -> torch.memory_format:
        """The order in memory in which pictures are given to the network, where that is open."""
        return self.body.memory_order

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        """Which features come from which tap, in order; empty where the features are not those of taps."""
        return self.body.tap_slices

    def copy(self) -> Self:
        """Return an independent copy: same weights, no shared storage."""
        twin = copy.copy(self)
        twin.body, twin.origin = self.body.copy(), dict(self.origin)
        return twin

    def training_order(self, device: torch.device) -> torch.memory_format:
        """Return `memory_order` where gradients are computed on `device`."""
        return self.body.training_order(device)

    def modules(self) -> dict[str, Module]:
        """Return every module by name, containers too; a part of a container is called "container.part"."""
        return self.body.modules()

    def layers_of(self, task: str) -> tuple[str, ...]:
        """Return the names of the linear layers that make the logits of a `task`: several where they are added up."""
        return self.body.layers_of(task)

    def scores(self, inputs: Inputs) -> Scores:
        """Return raw scores (N, C) of a batch of `inputs` by task, with gradients where they are on, in the present mode."""
        return self.body.scores(inputs)

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the head reads of a batch of `inputs`, (N, d); for a network without a head, its pooled output."""
        return self.body.feature_batch(inputs)

    def scores_of_layer(self, layer: str, features: Tensor) -> Tensor:
        """Return the raw scores (N, C) that a head's `layer` makes of `features` (N, d), or of what the first head's layer reads."""
        return self.body.scores_of_layer(layer, features)

    def split(self, layers: Collection[str]) -> tuple[Callable[[Inputs], list[Tensor]], Callable[[Sequence[Tensor]], Scores]] | None:
        """Return the family's own cut behind these `layers` (frozen part, trainable part); None where it is to be found by running."""
        return self.body.split(layers)

    def structure(self, layers: Collection[str], *, ignored: Collection[str] = ()) -> Structure:
        """Return what changes whenever the computation of these `layers` changes, but for values at places that are `ignored`."""
        return self.body.structure(layers, ignored=ignored)

    def state(self) -> dict[str, Tensor]:
        """Return all parameters and buffers by name, sharing storage with the network."""
        return self.body.state()

    def former_name(self, name: str) -> str:
        """Return what folders of format 1 call the parameter or buffer of this `name`."""
        return self.body.former_name(name)

    def layer_parameters(self) -> dict[str, dict[str, Parameter]]:
        """Return each layer's own parameters: layer name -> name in `state()` -> parameter."""
        return self.body.layer_parameters()

    def rows(self, layer: str) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of a linear `layer`'s weight (C, d) and bias (C,); those of a binary head are as `Head` has them."""
        return self.body.rows(layer)

    def fresh_rows(self, count: int, features: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
        """Return `count` rows of so many `features`, drawn from a `seed` as the framework initialises its linear layers."""
        return self.body.fresh_rows(count, features, seed=seed)

    def refresh_heads_(self) -> None:
        """Take the heads' copies of their rows anew, after the weights have changed."""
        self.body.refresh_heads_()

    def freeze_(self, layers: Collection[str]) -> None:
        """Freeze exactly these `layers`, or single parameters, and those that are `held`, in every mode."""
        self.body.freeze_(layers)

    def counted(self) -> tuple[str, ...]:
        """Return the names of the layers as people count them in this family, inputs, pools and dropout included.

        In Keras those in `model.layers`, in that order; in PyTorch the modules without modules in them, in the order of definition.
        """
        return self.body.counted()

    def holds(self, layer: str) -> bool:
        """Tell whether a `layer`, a part of it or one of its parameters is held."""
        return any(layer in prefixes(name)[:-1] for name in self.held)

    def hold_(self, layers: Collection[str] | None) -> None:
        """Hold exactly these `layers` in place of those that the owner has frozen; None: the owner's again."""
        self.body.hold_(layers)

    def release_(self, layer: str) -> None:
        """Hold a `layer` no longer, whoever froze it: it is new."""
        self.body.release_(layer)

    def fresh_(self, layers: Collection[str]) -> None:
        """Take note that exactly these `layers` were never trained."""
        self.body.fresh_(layers)

    def mode_(self, training: bool) -> None:
        """Switch the part that is not frozen to `training` or to inference."""
        self.body.mode_(training)

    def move_(self, device: torch.device) -> None:
        """Move the weights to a `device`."""
        self.body.move_(device)

    def reseed_(self, seed: int) -> None:
        """Set the network's own random generators to `seed`."""
        self.body.reseed_(seed)

    def code_table(self) -> Parameter:
        """Return the network's own table of codes, (1 + K, size); row 0 is the mean code."""
        return self.body.code_table()

    @property
    def codes(self) -> dict[str, np.ndarray]:
        """The code of each known condition, copies (size,) by name; empty where the network knows none."""
        if self.coding is None:
            return {}
        table = self.code_table().detach().cpu().numpy()
        return {name: table[row].copy() for row, name in enumerate(self.coding.conditions, start=1)}

    def points(self) -> tuple[Point, ...]:
        """Return where the network can be shifted or scaled by channel, in the order of execution; never behind a head."""
        blocks = {layer: block.name for block in self.blocks for layer in block.layers}
        return tuple(Point(name, blocks[name], site.channels) for name, site in self.body.sites().items())

    def reduced(self, part: Any) -> Any:
        """Return how pickle makes a `part` of the network again in another process; NotImplemented for pickle's own way."""
        return self.body.reduced(part)

    def for_export(self) -> Self:
        """Return a private copy on the CPU, in inference mode, that exporters can read."""
        twin = self.copy()
        twin.body.ready_for_export_()
        return twin

    def name_for_export_(self) -> None:
        """Let the modules of a private copy have the names that an exporter follows; once all that goes by its names is done."""
        self.body.name_for_export_()

    def head_of(self, task: str | None) -> Head:
        """Return the head of one task; the first one for None."""
        return self.head if task is None else head_called(self.heads, task)

    def rename_task_(self, task: str, name: str) -> None:
        """Call a task by another name."""
        self.head_of(task)
        if name != task and name in self.heads:
            raise NetworkError(f"The task {task!r} cannot be called {name!r}: the network has one of that name already.")
        self.heads = {
            name if known == task else known: replaced(head, task=name if known == task else known) for known, head in self.heads.items()
        }
        self.body.found = {name if known == task else known: found for known, found in self.body.found.items()}

    def write(self, folder: Path) -> Mapping[str, Any]:
        """Write the weights into `folder` and return what opening them needs, as plain data."""
        return self.kind.write(self.body, folder, origin=self.origin, edits=self.edits)
