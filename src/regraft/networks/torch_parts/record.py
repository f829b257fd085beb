"""What the edits and the exported forms need of a PyTorch network, below the network itself."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, Self

from torch import Tensor
from torch.nn import Module

from ..parts.head import Head
from ..parts.layers import Block, Layer
from ..parts.protocols import Inputs, Scores
from ..parts.record import Record
from ..parts.taps import TapSlice
from .heads import FoundHead

__all__ = ["TorchRecord"]


class TorchRecord(Record, Protocol):
    """A PyTorch module with its heads and the edits made of it so far; `torch_modules.TorchNetwork` says what each part is."""

    module: Module
    layers: tuple[Layer, ...]
    blocks: tuple[Block, ...]
    found: dict[str, FoundHead]
    input_shape: tuple[int | None, ...]

    @property
    def head(self) -> Head:
        """The first head."""

    @property
    def head_layers(self) -> tuple[str, ...]:
        """The names of the linear layers of the heads that have rows of their own."""

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        """Which features come from which tap."""

    def layers_of(self, task: str) -> tuple[str, ...]:
        """Return the names of the linear layers that make the logits of a `task`."""

    def copy(self) -> Self:
        """Return an independent copy."""

    def modules(self) -> dict[str, Module]:
        """Return every module by name."""

    def order(self) -> list[str]:
        """Return the names of the modules that a sample runs through, in order."""

    def scores(self, inputs: Inputs) -> Scores:
        """Return raw scores (N, C) of `inputs` by task."""

    def scores_of_layer(self, layer: str, features: Tensor) -> Tensor:
        """Return the raw scores (N, C) that a head's `layer` makes of `features` (N, d)."""

    def feature_batch(self, inputs: Inputs) -> Tensor:
        """Return what the heads read of `inputs`, (N, d)."""

    def reopened(self, found: Mapping[str, FoundHead], heads: Mapping[str, Head]) -> Self:
        """Inspect the changed module, give its `heads` their names and rows as `found`, and return this network."""

    def recount_(self, name: str) -> None:
        """Count the parameters of the layer of this `name` anew, and those of the blocks."""

    def take_sample_(self, sample: Inputs) -> None:
        """Take another `sample` to run the module with."""
