"""Images and sounds as data URIs, so that a report is a single file."""

from __future__ import annotations

import base64
import io
import wave
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MissingExtraError, optional_import
from ..files.media import picture_of, recording_of

__all__ = ["picture_uri", "sound_uri"]

_SIDE = 96
"""Longer side of an image in the report, in pixels."""


def picture_uri(source: npt.ArrayLike | str | Path) -> str | None:
    """Return a PNG thumbnail of an image as a data URI; None if Pillow is not installed or the image cannot be read.

    `source`: a file, or an array (H, W), (H, W, 1|3|4) or (1|3|4, H, W). uint8 is used unchanged, floats in [0, 1] are multiplied by 255,
    and other numbers are stretched from their minimum to their maximum.
    """
    image = _library("PIL.Image", "vision")
    if image is None:
        return None
    try:
        with picture_of(source if isinstance(source, str | Path) else image.fromarray(_pixels(np.asarray(source)))) as picture:
            file = io.BytesIO()
            shown = image.fromarray(_pixels(np.asarray(picture))) if picture.mode.startswith(("I", "F")) else picture  # more than 8 bits
            _thumbnail(shown, nearest=image.Resampling.NEAREST).save(file, format="PNG", optimize=True)
    except (InputError, TypeError, ValueError):
        return None
    return _uri("image/png", file.getvalue())


def _thumbnail(picture: Any, *, nearest: Any) -> Any:
    """Return an image with its longer side at most `_SIDE`. Small images are enlarged by integer factors without smoothing."""
    picture = picture if picture.mode in ("L", "RGB", "RGBA") else picture.convert("RGB")
    times = _SIDE // max(picture.size)
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), nearest)
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def sound_uri(source: tuple[npt.ArrayLike, int] | str | Path, *, seconds: float = 5.0) -> str | None:
    """Return the first `seconds` of a sound as a data URI (WAV, mono, 16 bit); None if the file cannot be read or soundfile is missing.

    `source`: a file, or (waveform, rate): (N,) or (N, channels), floats in [-1, 1] or int16, and samples per second.
    """
    if isinstance(source, tuple):
        waveform, rate = np.asarray(source[0]), int(source[1])
    else:
        if _library("soundfile", "audio") is None:
            return None
        try:
            with recording_of(source) as file:
                rate = int(file.samplerate)
                waveform = np.asarray(file.read(int(seconds * rate), always_2d=True))
        except InputError:
            return None
    return _uri("audio/wav", _wave(waveform[: int(seconds * rate)], rate))


def _wave(waveform: np.ndarray, rate: int) -> bytes:
    scale = 32768.0 if waveform.dtype == np.int16 else 1.0
    floats = waveform.astype(np.float64) / scale
    single = floats.mean(axis=1) if floats.ndim == 2 else floats
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.clip(single, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes())
    return file.getvalue()


def _pixels(array: np.ndarray) -> np.ndarray:
    if array.ndim == 3 and array.shape[0] in (1, 3, 4) and array.shape[2] not in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    array = array[:, :, 0] if array.ndim == 3 and array.shape[2] == 1 else array
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    values = np.nan_to_num(array.astype(np.float64))
    low, high = float(values.min()), float(values.max())
    if low < 0.0 or high > 1.0:
        values = (values - low) / (high - low or 1.0)
    return np.ascontiguousarray((values * 255.0).round().astype(np.uint8))


def _library(module: str, extra: str) -> ModuleType | None:
    try:
        return optional_import(module, extra, purpose="A picture or sound in the report")
    except MissingExtraError:
        return None


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
