"""Pixels: decoding of files, geometry of resizing, and conversion of arrays of any channel order and value range to 0..255."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, optional_import
from ...files.media import picture_of
from ...files.text import printable
from ...tensors import Tensor, torch
from ...words import counted
from ..ranges import BYTES, SHARES, STEPS, limits_of, usual_range
from .depth import BACKGROUNDS, PLAIN, ByteConversion, in_mode, integer_range_of

MODES = {"bilinear": 2, "bicubic": 3}  # Interpolation -> its number in PIL; the names are those of torch
MOST_PIXELS = 2**27  # Maximum number of pixels of a resized picture before the centre crop
PIL_MODES = {1: "L", 3: "RGB", 4: "RGBA"}
LUMA = (0.299, 0.587, 0.114)


def geometry(size: tuple[int, int], wanted: tuple[int, int], *, fraction: float, crop: bool) -> tuple[int, int, int, int]:
    """Return the size (height, width) to resize a picture to, then the crop offset (top, left), in pixels.
    `size`: (height, width) of the picture; `wanted`: (height, width) of the result."""
    target = [int(side / fraction) for side in wanted]
    if crop:
        factor = max(target[0] / size[0], target[1] / size[1])
        target = [max(aim, int(side * factor)) for aim, side in zip(target, size, strict=True)]
    if target[0] * target[1] > MOST_PIXELS:
        raise DataError(
            f"A picture of {size[0]:,} x {size[1]:,} pixels would be resized to {target[0]:,} x {target[1]:,} before its centre is cut "
            f"out; expected {MOST_PIXELS:,} pixels at most. Cut it, or remove it."
        )
    top, left = (round((have - want) / 2) for have, want in zip(target, wanted, strict=True))
    return target[0], target[1], top, left


def decode(source: Any, channels: int, *, resized: Callable[[Any], Any], reading: ByteConversion = PLAIN) -> Tensor:
    """Return the picture from `decoded` as (1, channels, h, w) float32 in 0..255."""
    pixels = decoded(source, channels, resized=resized, reading=reading).astype(np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1)[None]


def decoded(source: Any, channels: int, *, resized: Callable[[Any], Any], reading: ByteConversion = PLAIN) -> np.ndarray:
    """Decode one picture to (h, w, channels) uint8.
    `reading`: value range of pictures with more than 8 bits, and background of transparent pixels."""
    if channels not in PIL_MODES:
        raise DataError(
            f"Pictures in files have 1, 3 or 4 channels and the network takes {channels}; give arrays of {counted(channels, 'channel')}."
        )
    orientation = optional_import("PIL.ImageOps", "vision", purpose="reading images")
    with picture_of(source) as picture:
        upright = orientation.exif_transpose(picture)
        try:
            pixels = np.array(resized(in_mode(upright, reading, mode=PIL_MODES[channels])))
        except DataError as error:
            raise DataError(f"'{printable(source)}': {error}" if isinstance(source, str | Path) else str(error)) from error
    return pixels.reshape(*pixels.shape[:2], channels)


def pixel_batch(arrays: np.ndarray, channels: int, *, value_range: tuple[float, float] | None, background: str = "white") -> Tensor:
    """Return arrays of pictures as pixels, (n, 1 or channels, H, W) float32 in 0..255. Grey pictures keep one channel.
    `arrays`: (n, H, W), (n, H, W, C), or (n, C, H, W) if only the first axis can be channels. `value_range`: (minimum, maximum), mapped to
    0 and 255; None: inferred from these arrays."""
    if arrays.dtype == np.uint8 and value_range in (None, SHARES, *STEPS):
        value_range = BYTES  # bytes are unambiguous, whatever arrays the network was trained on
    least, most = value_range or value_range_of(arrays) or BYTES
    pixels = torch.from_numpy(np.array(_channels_first(arrays, channels), dtype=np.float32, order="C"))
    if (least, most) != (0.0, 255.0):
        pixels = ((pixels - least) * (255.0 / max(most - least, 1e-12))).clamp_(0, 255)
    have = pixels.shape[1]
    if have in (1, channels):
        return pixels
    level = BACKGROUNDS[background]
    if have == 4 and channels in (1, 3) and level is not None:
        pixels = level + (pixels[:, :3] - level) * (pixels[:, 3:] / 255)
    if have in (3, 4) and channels == 3:
        return pixels[:, :3]
    if have in (3, 4) and channels == 1:
        return (pixels[:, :3] * torch.tensor(LUMA).reshape(1, 3, 1, 1)).sum(dim=1, keepdim=True)
    raise DataError(
        f"Pictures of the shape {arrays.shape[1:]} have {counted(have, 'channel')}; expected {channels}, 1, or a colour picture for grey."
    )


def _channels_first(arrays: np.ndarray, channels: int) -> np.ndarray:
    if arrays.ndim == 3:
        return arrays[:, None]
    known = {1, 3, 4, channels}
    if arrays.ndim == 4 and arrays.shape[3] in known:
        return np.moveaxis(arrays, 3, 1)
    if arrays.ndim == 4 and arrays.shape[1] in known:
        return arrays
    raise DataError(
        f"An array of the shape {arrays.shape[1:]} is no picture with {counted(channels, 'channel')}; expected (H, W), (H, W, C) or (C, H, "
        f"W) with C in {sorted(known)}."
    )


def value_range_of(items: Sequence[Any] | np.ndarray) -> tuple[float, float] | None:
    """Return the values of black and white in arrays; None if the examples are files or PIL images.
    The range is (0, 255) for bytes and for other numbers that use that range, (0, 1) for numbers within it, the range of `integer_range_of`
    for integers above 255, and the measured limits otherwise."""
    if len(items) and isinstance(items[0], np.ndarray) and items[0].dtype == np.uint8:
        return BYTES
    limits = limits_of(items)
    if limits is None:
        return None
    if limits[0] >= 0 and limits[1] > BYTES[1] and items[0].dtype.kind in "iu":
        return integer_range_of(limits)
    return usual_range(limits)
