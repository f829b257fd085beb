"""Named weights, and the result of matching them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..account import Account

__all__ = ["Matching", "Weight"]


@dataclass(frozen=True)
class Weight:
    """One tensor of a file or of a network.

    Attributes:
        name: full name; the part after the last dot is the tensor's name within its layer.
        kind: class of the layer, or "" if unknown.
        value: the array (NumPy or torch), or None if only the shape matters.
    """

    name: str
    shape: tuple[int, ...]
    layer: str
    kind: str = ""
    value: Any = field(default=None, repr=False, compare=False)


@dataclass(frozen=True)
class Matching:
    """Result of matching.

    Attributes:
        pairs: (index in the source, index in the target, rule); the shapes of a pair are equal.
        account: a readable form of the pairs, with the unmatched weights of both sides.
    """

    pairs: tuple[tuple[int, int, str], ...]
    account: Account
