"""Pictures of more than 8 bits and transparent ones: which values stand for black and white, and what shows through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, InputError, optional_import
from ...files.media import picture_of
from ..items import take
from ..ranges import BYTES, SHARES, STEPS, Range, check_range
from .threads import in_threads

__all__ = ["BACKGROUNDS", "PLAIN", "Reading", "deep_limits", "float_range_of", "in_mode", "integer_range_of"]

BACKGROUNDS = {"white": 255, "black": 0, "ignored": None}
"""What shows through transparent pixels -> its level; "ignored": their own hidden colour."""
LOOKED_AT = 256
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")


@dataclass(frozen=True)
class Reading:
    """How pictures become bytes.

    Attributes:
        integers: (least, most) value of pictures of whole numbers of more than 8 bits, which become 0 and 255.
        floats: (least, most) value of floating-point pictures, likewise.
        background: what shows through transparent pixels, one of `BACKGROUNDS`.
    """

    integers: Range = STEPS[-1]
    floats: Range = SHARES
    background: str = "white"


PLAIN = Reading()
"""The full range of 16 bits, 0 to 1, and white."""


def in_mode(picture: Any, reading: Reading, *, mode: str) -> Any:
    """Return a picture of any mode in one of bytes."""
    if _is_deep(picture):
        return _in_bytes(picture, reading).convert(mode)
    if picture.mode not in TRANSPARENT and "transparency" not in picture.info:
        return picture if picture.mode == mode else picture.convert(mode)
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # of 16 bits, of which PIL kept the higher 8
        picture.info["transparency"] = tuple(value >> 8 for value in key)
    whole = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(picture.mode, picture.mode)).convert("RGBA")
    level = BACKGROUNDS[reading.background]
    if mode == "RGBA" or level is None:
        return whole.convert(mode)
    image = optional_import("PIL.Image", "vision", purpose="reading images")
    return image.alpha_composite(image.new("RGBA", whole.size, (level, level, level, 255)), whole).convert("RGB").convert(mode)


def _in_bytes(picture: Any, reading: Reading) -> Any:
    image = optional_import("PIL.Image", "vision", purpose="reading images")
    values = np.asarray(picture).astype(np.float64)
    if not np.isfinite(values).all():
        raise DataError("The picture holds values that are no numbers (NaN or infinite). Replace them, or remove it.")
    least, most = reading.floats if picture.mode == "F" else reading.integers
    check_range((float(values.min()), float(values.max())), (least, most), what="pictures", small=False)
    pixels = np.rint(((values - least) * (255.0 / max(most - least, 1e-12))).clip(0, 255)).astype(np.uint8)
    key, level = picture.info.get("transparency"), BACKGROUNDS[reading.background]
    if isinstance(key, int) and level is not None:
        pixels[values == key] = level
    return image.fromarray(pixels)


def deep_limits(items: Sequence[Any] | np.ndarray) -> tuple[Range | None, Range | None]:
    """Return the least and the most value of pictures of more than 8 bits; up to 256 pictures, spread evenly, are looked at.

    Result: Of pictures of whole numbers, and of floating-point ones; None where there are none.
    """
    if not len(items) or isinstance(items[0], np.ndarray):
        return None, None
    rows = np.unique(np.linspace(0, len(items) - 1, min(len(items), LOOKED_AT)).astype(np.int64))
    found = [one for one in in_threads(_limits, list(take(items, rows))) if one is not None]
    each = [[limits for mode, limits in found if (mode == "F") == wanted] for wanted in (False, True)]
    integers, floats = ((min(low for low, _ in one), max(high for _, high in one)) if one else None for one in each)
    return integers, floats


def _limits(item: Any) -> tuple[str, Range] | None:
    """Return mode and limits of a deep picture, those that its format declares where it does; None of another or a damaged one."""
    try:
        with picture_of(Path(item) if isinstance(item, str) else item) as picture:
            if not _is_deep(picture):
                return None
            if picture.format == "PPM":  # PIL brings them to 16 bits, by the largest value that the file declares
                return picture.mode, STEPS[-1]
            values = np.asarray(picture)
            finite = values[np.isfinite(values)]
            return (picture.mode, (float(finite.min()), float(finite.max()))) if finite.size else None
    except InputError:  # said where it is read
        return None


def _is_deep(picture: Any) -> bool:
    return str(picture.mode).startswith(("I", "F"))


def integer_range_of(limits: Range | None) -> Range | None:
    """Return what stands for black and white in pictures of whole numbers.

    Result: 0 to the smallest of 255, 4095, 65535 and the largest values of more bits that holds them; the limits where some are negative;
    None where nothing is known.
    """
    if limits is None or limits == (0, 0):
        return None
    if limits[0] < 0:
        return limits[0], max(limits[1], limits[0] + 1)
    return next((step for step in STEPS if limits[1] <= step[1]), (0.0, float(2 ** int(limits[1]).bit_length() - 1)))


def float_range_of(limits: Range | None) -> Range | None:
    """Return what stands for black and white in floating-point pictures.

    Result: (0, 1) for values within it, (0, 255) for others that use that range, else the limits; None where nothing is known.
    """
    if limits is None or (limits[0] >= 0 and limits[1] <= 1):
        return None if limits is None else SHARES
    if limits[0] >= 0 and 127 < limits[1] <= 255:
        return BYTES
    return limits if limits[0] < limits[1] else (min(0.0, limits[0]), max(0.0, limits[1]))
