"""Value ranges of arrays: recorded in training and checked at every later call."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .items import chunks_of

Range = tuple[float, float]
BYTES: Range = (0.0, 255.0)
SHARES: Range = (0.0, 1.0)
STEPS: tuple[Range, ...] = (BYTES, (0.0, 4095.0), (0.0, 65535.0))  # Ranges of integers of 8, 12 and 16 bits
BEYOND = 0.25  # Share of a pixel range by which values may exceed it, because bicubic resizing overshoots
MEASURED = 20.0  # For data without a standard range, values this many times as large as the measured ones are taken for another unit
SMALL = 0.02  # Values up to this share of the range are taken for another unit; five levels of 255 are almost black


def usual_range(limits: Range) -> Range:
    """Return 0 to 1 for limits within it, 0 to 255 for those that use that range; else the limits."""
    least, most = limits
    if least >= 0 and most <= 1:
        return SHARES
    return BYTES if least >= 0 and 127 < most <= 255 else limits


def limits_of(items: Sequence[Any] | np.ndarray) -> Range | None:
    """Return the minimum and maximum of arrays; None if there are no examples, or they are not arrays of numbers."""
    if not len(items) or isinstance(items[0], str | Path) or not isinstance(items[0], np.ndarray) or not items[0].size:
        return None
    parts = (part for _, chunk in chunks_of(items) for part in ([chunk] if isinstance(chunk, np.ndarray) else chunk))
    limits = [(float(part.min()), float(part.max())) for part in parts if isinstance(part, np.ndarray)]
    return min(low for low, _ in limits), max(high for _, high in limits)


def check_range(given: Range | None, learned: Range | None, *, what: str = "arrays", small: bool = True) -> None:
    """Compare the values of arrays with those of the training data: raise if they lie far outside, warn if they are very small.
    `given`: minimum and maximum of the new data; None: nothing to compare."""
    if given is None or learned is None:
        return
    (low, high), (least, most) = given, learned
    size, known = max(abs(low), abs(high)), max(abs(least), abs(most))
    beyond = max(high - most, least - low)
    allowed = BEYOND * (most - least) if learned in (SHARES, *STEPS) else (MEASURED - 1) * known
    known_as = "the network learned from arrays of" if what == "arrays" else f"{what} of this kind are read as"
    shown = f"The {what} hold values from {low:.6g} to {high:.6g}; {known_as} {least:.6g} to {most:.6g}"
    if beyond > allowed:
        times = f"{size / known:.4g} times as large" if known and size / known > 1.5 else "shifted"
        raise DataError(f"{shown}: they are {times}. Bring them to that range first; it was decided by the training and does not change.")
    if small and 0 < size <= SMALL * known:
        factor = 255 if (learned, high <= 1) == (BYTES, True) else 2 ** round(float(np.log2(known / size)))
        warnings.warn(
            f"{shown}: they fill a small part of it, as if a factor of about {factor} were missing, and are predicted as they are, nearly "
            f"constant. Multiply them by {factor} if they were scaled differently.",
            stacklevel=2,
        )
