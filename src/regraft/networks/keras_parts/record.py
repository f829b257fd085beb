"""What the edits, the saved file and the cut need of a Keras network, below the network itself."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

from torch.nn import Module

from ..parts.head import Head
from ..parts.layers import Block, Layer
from ..parts.protocols import Inputs, Scores
from ..parts.record import Record
from ..parts.taps import TapSlice
from .heads import FoundHead

__all__ = ["KerasRecord", "Place", "TrainingForm"]

Place = tuple[Head, FoundHead | None, Any]
"""A head, what is known of its layer, and the layer; a derived head has none."""


class KerasRecord(Record, Protocol):
    """A Keras model with its heads; `keras_models.KerasNetwork` says what each part is."""

    module: Any
    layers: tuple[Layer, ...]
    blocks: tuple[Block, ...]
    found: dict[str, FoundHead]
    input_shape: tuple[int | None, ...]
    given_trainable: dict[str, bool]
    training: bool
    form: TrainingForm | None

    @property
    def head(self) -> Head:
        """The first head."""

    @property
    def head_layers(self) -> tuple[str, ...]:
        """The names of the linear layers of the heads that have rows of their own."""

    @property
    def first(self) -> FoundHead:
        """What is known of the first head's layer."""

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        """Which features come from which tap."""

    def copy(self) -> Self:
        """Return an independent copy."""

    def modules(self) -> dict[str, Module]:
        """Return every layer by name."""

    def named_with_root(self) -> list[tuple[str, Any]]:
        """Return the model itself, called "", and every layer by name."""

    def variables(self) -> dict[str, Any]:
        """Return every variable by its name in `state()`."""

    def sample_run(self) -> Any:
        """Return what the model makes of the sample, in inference mode."""

    def own_scores(self, run: Callable[[], Any]) -> Scores:
        """Return the scores by task that a `run` makes in the heads with rows of their own."""

    def scores_of(self, run: Callable[[], Any]) -> Scores:
        """Return the scores of a `run` by task, those of derived heads too."""

    def copied(self) -> tuple[Any, dict[str, Any], list[Place]]:
        """Return a copy of the module, its layers by name, and the heads with their layers there."""

    def rebuilt(self, module: Any, old: Mapping[str, Any], *, heads: Sequence[Place], sample: Inputs | None = None) -> Self:
        """Return a network like this one around another `module`, made of the `old` layers, with these `heads` and another `sample`."""

    def refresh_heads_(self) -> None:
        """Take the heads' copies of their rows anew."""

    def recount_(self, changed: Collection[str]) -> None:
        """Take over the number of parameters of `changed` layers."""


@dataclass(frozen=True)
class TrainingForm:
    """What a network in its training form goes back to.

    Attributes:
        plain: a private copy of the network as it was; its weights are stale.
        adjusting: name of a point -> name of the layer that scales and shifts there.
    """

    plain: KerasRecord
    adjusting: Mapping[str, str]
