"""Pictures with more than 8 bits or transparency: their value range and their background."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from ...errors import DataError, InputError, optional_import
from ...files.media import picture_of
from ...words import counted
from ..items import spread_rows, take
from ..ranges import SHARES, STEPS, Range, check_range, usual_range
from .threads import in_threads

Found = TypeVar("Found")

BACKGROUNDS = {"white": 255, "black": 0, "ignored": None}
"""Background of transparent pixels -> its level; "ignored": the colour stored under them."""
LOOKED_AT = 256
TRANSPARENT = ("LA", "La", "PA", "RGBA", "RGBa")
_SAMPLED, _SIDE, _FLAT = 32, 128, 8  # Number of pictures examined for transparency, their side, and the level range of a blank one


@dataclass(frozen=True)
class ByteConversion:
    """Settings for the conversion of pictures to bytes."""

    integers: Range = STEPS[-1]  # (minimum, maximum) of integer pictures with more than 8 bits, mapped to 0 and 255
    floats: Range = SHARES  # (minimum, maximum) of floating-point pictures, mapped to 0 and 255
    background: str = "white"  # background of transparent pixels, one of `BACKGROUNDS`


PLAIN = ByteConversion()  # Default: the full range of 16 bits, 0 to 1 for floats, and a white background


def in_mode(picture: Any, reading: ByteConversion, *, mode: str) -> Any:
    """Convert a picture of any mode to a mode of bytes."""
    if _is_deep(picture):
        return _in_bytes(picture, reading).convert(mode)
    if picture.mode not in TRANSPARENT and "transparency" not in picture.info:
        return picture if picture.mode == mode else picture.convert(mode)
    key = picture.info.get("transparency")
    if isinstance(key, tuple) and max(key) > 255:  # a 16-bit colour; PIL kept the upper 8 bits of the pixels
        picture.info["transparency"] = tuple(value >> 8 for value in key)
    whole = picture.convert({"La": "LA", "RGBa": "RGBA"}.get(picture.mode, picture.mode)).convert("RGBA")
    level = BACKGROUNDS[reading.background]
    if mode == "RGBA" or level is None:
        return whole.convert(mode)
    image = optional_import("PIL.Image", "vision", purpose="reading images")
    return image.alpha_composite(image.new("RGBA", whole.size, (level, level, level, 255)), whole).convert("RGB").convert(mode)


def _in_bytes(picture: Any, reading: ByteConversion) -> Any:
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
    """Return the (minimum, maximum) of integer and of floating-point pictures with more than 8 bits; None if there are none.
    Up to 256 pictures, evenly spread, are examined."""
    if not len(items) or isinstance(items[0], np.ndarray):
        return None, None
    found = _examined(items, LOOKED_AT, look=_limits)
    each = [[limits for mode, limits in found if (mode == "F") == wanted] for wanted in (False, True)]
    integers, floats = ((min(low for low, _ in one), max(high for _, high in one)) if one else None for one in each)
    return integers, floats


def transparency_of(items: Sequence[Any] | np.ndarray, background: str) -> str:
    """Return a sentence on files and PIL images with transparent pixels, or "" without any.
    It is a warning if another background leaves fewer of them blank. Up to 32 pictures, evenly spread, are examined.
    `background`: one of `BACKGROUNDS`."""
    if not len(items) or isinstance(items[0], np.ndarray):
        return ""
    found = _examined(items, _SAMPLED, look=_blank_on)
    if not found:
        return ""
    blank = {name: sum(one[name] for one in found) for name in BACKGROUNDS}
    best = min(blank, key=lambda name: (blank[name], name != background))
    on = {"white": "are composited on white", "black": "are composited on black", "ignored": "keep the colour stored under them"}
    said = (
        f"{counted(len(found), 'examined picture', verb='have', of=min(len(items), _SAMPLED))} transparent pixels, which {on[background]}"
    )
    if best == background:
        return f"{said} ('background' in preprocessing= changes this)."
    return (
        f"Warning: {said}: {blank[background]} of them then show nothing but one colour. With 'background': '{best}' in preprocessing= "
        f"{blank[best]} do."
    )


def _examined(items: Sequence[Any] | np.ndarray, most: int, *, look: Callable[[Any], Found | None]) -> list[Found]:
    """Return what `look` finds in up to `most` pictures, evenly spread; without those that it returns None for, and damaged ones."""

    def found(item: Any) -> Found | None:
        try:
            with picture_of(item) as picture:
                return look(picture)
        except InputError:  # reported when the picture is read
            return None

    examined = list(take(items, spread_rows(len(items), most)))
    return [one for one in in_threads(found, examined) if one is not None]


def _blank_on(picture: Any) -> dict[str, bool] | None:
    """Return for each background whether a picture shows only one colour on it; None if nothing of the picture is transparent."""
    if _is_deep(picture) or (picture.mode not in TRANSPARENT and "transparency" not in picture.info):
        return None
    whole = in_mode(picture.resize((_SIDE, _SIDE), 0), PLAIN, mode="RGBA")  # to the nearest pixel, which keeps hidden colours
    if whole.getextrema()[3][0] == 255:
        return None
    shown = {name: in_mode(whole, ByteConversion(background=name), mode="RGB").getextrema() for name in BACKGROUNDS}
    return {name: all(most - least < _FLAT for least, most in each) for name, each in shown.items()}


def _limits(picture: Any) -> tuple[str, Range] | None:
    """Return mode and limits of a deep picture, declared by its format if possible; None for any other."""
    if not _is_deep(picture):
        return None
    if picture.format == "PPM":  # PIL scales them to 16 bits by the declared maximum
        return picture.mode, STEPS[-1]
    values = np.asarray(picture)
    finite = values[np.isfinite(values)]
    return (picture.mode, (float(finite.min()), float(finite.max()))) if finite.size else None


def _is_deep(picture: Any) -> bool:
    return str(picture.mode).startswith(("I", "F"))


def integer_range_of(limits: Range | None) -> Range | None:
    """Return the values of black and white in integer pictures.
    The range is 0 to the smallest of 255, 4095, 65535 and higher powers of two minus 1 that holds all values; with negative values, it is
    the limits. None if nothing is known."""
    if limits is None or limits == (0, 0):
        return None
    if limits[0] < 0:
        return limits[0], max(limits[1], limits[0] + 1)
    return next((step for step in STEPS if limits[1] <= step[1]), (0.0, float(2 ** int(limits[1]).bit_length() - 1)))


def float_range_of(limits: Range | None) -> Range | None:
    """Return the values of black and white in floating-point pictures.
    The range is (0, 1) if it holds all values, (0, 255) for values that use that range, else the limits. None if nothing is known."""
    if limits is None:
        return None
    least, most = usual_range(limits)
    return (least, most) if least < most else (min(0.0, least), max(0.0, most))
