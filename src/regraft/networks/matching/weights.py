"""Named weights, and the result of matching them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ...files.text import printable
from ..account import Account

__all__ = ["Matching", "Weight", "numbers_note"]


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


def numbers_note(source: Sequence[Weight], target: Sequence[Weight], *, pairs: Iterable[tuple[int, int, str]]) -> Account:
    """Return an account with a note on weights of a file that hold NaN or infinity; empty if all are finite."""
    wrong = [printable(target[at].name, width=120) for given, at, _ in pairs if not _is_finite(source[given].value)]
    if not wrong:
        return Account()
    names = ", ".join(wrong[:6]) + (f" and {len(wrong) - 6} more" if len(wrong) > 6 else "")
    return Account(notes=(f"The file holds NaN or infinite numbers in {names}: what passes through them is no number.",))


def _is_finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not (value.is_floating_point() or value.is_complex()) or bool(torch.isfinite(value).all())
    return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
