"""Named weights, and the result of matching them."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..account import Account


@dataclass(frozen=True)
class Weight:
    """One tensor of a file or of a network."""

    name: str  # full name; the part after the last dot is the tensor's name within its layer
    shape: tuple[int, ...]
    layer: str
    kind: str = ""  # class of the layer, or "" if unknown
    value: Any = field(default=None, repr=False, compare=False)  # the array (NumPy or torch), or None if only the shape matters
    label: str = ""  # name in the account, if another one

    @property
    def shown(self) -> str:
        """The name in the account."""
        return self.label or self.name


@dataclass(frozen=True)
class WeightMatches:
    """Result of matching."""

    pairs: tuple[tuple[int, int, str], ...]  # (index in the source, index in the target, rule); the shapes of a pair are equal
    account: Account  # a readable form of the pairs, with the unmatched weights of both sides


def fill_(source: Sequence[Weight], target: Sequence[Weight], *, found: WeightMatches) -> Account:
    """Copy the matched weights of a file into those of a network, in place; return the account."""
    with torch.no_grad():
        for given, taken, _rule in found.pairs:
            value = source[given].value
            target[taken].value.copy_(value if isinstance(value, torch.Tensor) else torch.from_numpy(np.asarray(value, order="C")))
    return found.account
