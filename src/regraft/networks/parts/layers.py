"""Layers and blocks of a network, in execution order."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Block", "Layer"]


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
