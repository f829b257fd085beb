"""A tensor with its name, and what belongs together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..account import Account

__all__ = ["Matching", "Weight"]


@dataclass(frozen=True)
class Weight:
    """One tensor of a file or of a network.

    Attributes:
        name: its full name; the part after the last dot is the tensor's name within its layer.
        shape: its shape.
        layer: the name of its layer.
        kind: the layer's class, "" where it is not known.
        value: the numbers (NumPy or torch), None where only the shape matters.
    """

    name: str
    shape: tuple[int, ...]
    layer: str
    kind: str = ""
    value: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Matching:
    """What belongs together.

    Attributes:
        pairs: (index in the source, index in the target, rule); the shapes of a pair are equal.
        account: the same for people, and what is left over on either side.
    """

    pairs: tuple[tuple[int, int, str], ...]
    account: Account
