"""Layers and blocks of a network, in execution order, and its hook points, where values can be shifted or scaled per channel."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from ...errors import NetworkError, near_names

__all__ = ["Block", "Layer", "Point", "points_in"]


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters or has no submodules.

    `parameters` counts the numbers that training may change, without buffers. `kind` is the class name, for example "Conv2d".
    """

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True)
class Block:
    """A group of consecutive layers, the unit in which depth is counted."""

    name: str
    parameters: int
    frozen: bool
    layers: tuple[str, ...] = field(repr=False, default=())


@dataclass(frozen=True)
class Point:
    """The output of a linear layer or convolution, or of the BatchNorm that follows it, before the activation.

    Attributes:
        name: name of the layer with this output; a shift or scale per channel can be folded into its weights.
    """

    name: str
    block: str
    channels: int


def points_in(points: Sequence[Point], blocks: Collection[str] | None) -> tuple[Point, ...]:
    """Return the hook points in the named blocks; None for all blocks."""
    known = list(dict.fromkeys(point.block for point in points))
    wrong = [name for name in blocks or () if name not in known]
    if wrong:
        raise NetworkError(f"blocks={wrong[0]!r}: no block of that name has a linear layer or convolution{near_names(wrong[0], known)}")
    found = tuple(point for point in points if blocks is None or point.block in blocks)
    if not found:
        raise NetworkError(
            f"Received a network without a linear layer or convolution before its head (blocks={blocks!r}); expected one or more of them. "
            "Use another strategy, such as 'head' or 'bias'."
        )
    return found
