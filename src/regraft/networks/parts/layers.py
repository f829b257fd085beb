"""Layers and blocks: what a network runs, in the order of execution."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Block", "Layer"]


@dataclass(frozen=True)
class Layer:
    """A module without trained parts of its own below it, in the order of execution.

    `parameters` counts the numbers that training may change; `kind` is the class name, such as "Conv2d".
    """

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True)
class Block:
    """A unit of the network in execution order; depth is counted in blocks."""

    name: str
    parameters: int
    frozen: bool
    layers: tuple[str, ...] = field(repr=False, default=())
