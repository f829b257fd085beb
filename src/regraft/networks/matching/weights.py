"""A tensor with its name, and what belongs together."""

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
        name: its full name; the part after the last dot is the tensor's name within its layer.
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


def numbers_note(source: Sequence[Weight], target: Sequence[Weight], *, pairs: Iterable[tuple[int, int, str]]) -> Account:
    """Return an account that says which weights taken from a file are no finite numbers; an empty one where all are."""
    wrong = [printable(target[at].name, width=120) for given, at, _ in pairs if not _is_finite(source[given].value)]
    if not wrong:
        return Account()
    names = ", ".join(wrong[:6]) + (f" and {len(wrong) - 6} more" if len(wrong) > 6 else "")
    return Account(notes=(f"The file holds NaN or infinite numbers in {names}: what passes through them is no number.",))


def _is_finite(value: Any) -> bool:
    if isinstance(value, torch.Tensor):
        return not (value.is_floating_point() or value.is_complex()) or bool(torch.isfinite(value).all())
    return value.dtype.kind not in "fc" or bool(np.isfinite(value).all())
