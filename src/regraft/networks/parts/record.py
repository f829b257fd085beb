"""Record: the body of a network with all else that is saved, and the body's operations under the names that regraft uses."""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as replaced
from typing import Any, Generic, Self, TypeVar, cast

import numpy as np
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import NetworkError
from ..account import Account
from ..edits import Edit
from ..family import Body, Family
from .coding import Coding
from .head import Head, head_called
from .protocols import Inputs, Preprocessing, Scores, Unknowns
from .structure import Block, Layer, Point, prefixes

T = TypeVar("T")


class _BodyAttribute(Generic[T]):
    """An attribute or a method of a network's body under the same name."""

    def __init__(self, *, settable: bool = False) -> None:
        self.settable = settable

    def __set_name__(self, _owner: type, name: str) -> None:
        self.name = name

    def __get__(self, record: Record | None, _owner: type) -> T:
        return cast(T, self if record is None else getattr(record.body, self.name))

    def __set__(self, record: Record, value: T) -> None:
        if not self.settable:
            raise AttributeError(f"{self.name!r} of a network cannot be set; received {type(value).__name__}.")
        setattr(record.body, self.name, value)


@dataclass(eq=False, repr=False)
class Record:
    """Data of a network, without edits and predictions. `Body` and `Family` document the names that this class forwards."""

    kind: Family[Any]
    body: Body
    origin: dict[str, Any]  # the facts needed to open the source again before the edits are replayed
    account: Account
    preprocessing: Preprocessing = field(init=False)  # from examples to the tensors that the network takes; set when the network is opened
    input_guessed: bool = False  # whether the input shape was guessed
    history: Sequence[dict[str, Any]] = ()
    statistics: Mapping[str, np.ndarray] | None = None  # per-class sums of the features, if a training run kept them
    unknown: Unknowns | None = None  # the rule that finds examples of no known class, if a training run learned one
    edits: tuple[Edit, ...] = ()  # the changes since the network was opened from its source, in order
    outputs: tuple[str, ...] = ()  # class names of a network without a head, in the order of its outputs

    @property
    def family(self) -> str:
        """The name of the framework: "torch" or "keras"."""
        return self.kind.name

    @property
    def layout(self) -> str:
        """Channel order of images: "channels_first" or "channels_last"."""
        return self.kind.layout

    module = _BodyAttribute[Any]()  # The framework's own object
    layers = _BodyAttribute[tuple[Layer, ...]]()
    blocks = _BodyAttribute[tuple[Block, ...]]()  # The units in which depth is counted
    input_shape = _BodyAttribute[tuple[int | None, ...]]()  # Shape of one example; () for several inputs
    sample = _BodyAttribute[Inputs](settable=True)
    heads = _BodyAttribute[dict[str, Head]](settable=True)  # The heads by task, the first one first
    head = _BodyAttribute[Head]()  # The first head; a network without one raises `NetworkError`
    coding = _BodyAttribute[Coding | None](settable=True)
    head_layers = _BodyAttribute[tuple[str, ...]]()
    fresh = _BodyAttribute[tuple[str, ...]]()
    modules = _BodyAttribute[Callable[[], dict[str, Module]]]()
    scores = _BodyAttribute[Callable[[Inputs], Scores]]()
    feature_batch = _BodyAttribute[Callable[[Inputs], Tensor]]()
    state = _BodyAttribute[Callable[[], dict[str, Tensor]]]()
    layer_parameters = _BodyAttribute[Callable[[], dict[str, dict[str, Parameter]]]]()
    rows = _BodyAttribute[Callable[[str], tuple[np.ndarray, np.ndarray]]]()
    freeze_ = _BodyAttribute[Callable[[Collection[str]], None]]()
    mode_ = _BodyAttribute[Callable[[bool], None]]()

    def copy(self) -> Self:
        """Return an independent copy: same weights, no shared storage.

        Example:
            >>> net.copy().classes
            ('ant', 'bee', 'cat')
        """
        twin = copy.copy(self)
        twin.body, twin.origin = self.body.copy(), dict(self.origin)
        return twin

    def holds(self, layer: str) -> bool:
        """Return whether a `layer`, a part of it or one of its parameters is held."""
        return any(layer in prefixes(name)[:-1] for name in self.body.held)

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
