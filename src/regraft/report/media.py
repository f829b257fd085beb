"""Images and sounds as data URIs, so that a report is a single file."""

import base64
import io
import wave
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..data.decoding.depth import PLAIN, in_mode
from ..errors import InputError, MissingExtraError, optional_import
from ..files.media import picture_of, recording_of

_SIDE = 96  # Longer side of an image in the report, in pixels
_SECONDS = 5.0


def picture_uri(source: npt.ArrayLike | str | Path) -> str | None:
    """Return a PNG thumbnail of an image as a data URI; None if Pillow is not installed or the image cannot be read.
    `source`: a file, or an array (H, W), (H, W, 1|3|4) or (1|3|4, H, W). uint8 is used unchanged, floats in [0, 1] are multiplied by 255,
    and other numbers are stretched from their minimum to their maximum."""
    try:
        image = optional_import("PIL.Image", "vision", purpose="A picture in the report")
        with picture_of(source if isinstance(source, str | Path) else image.fromarray(_pixels(np.asarray(source)))) as picture:
            file = io.BytesIO()
            shown = image.fromarray(_pixels(np.asarray(picture))) if picture.mode.startswith(("I", "F")) else picture  # more than 8 bits
            _thumbnail(shown, nearest=image.Resampling.NEAREST).save(file, format="PNG", optimize=True)
    except (InputError, MissingExtraError, TypeError, ValueError):
        return None
    return _uri("image/png", file.getvalue())


def _thumbnail(picture: Any, *, nearest: Any) -> Any:
    """Return an image, on white, with its longer side at most `_SIDE`. Small images are enlarged by integer factors without smoothing."""
    picture = in_mode(picture, PLAIN, mode="L" if picture.mode == "L" and "transparency" not in picture.info else "RGB")
    times = _SIDE // max(picture.size)
    if times > 1:
        picture = picture.resize((picture.width * times, picture.height * times), nearest)
    picture.thumbnail((_SIDE, _SIDE))
    return picture


def sound_uri(source: str | Path) -> str | None:
    """Return the first `_SECONDS` of a sound file as a data URI (WAV, mono, 16 bit); None if it cannot be read or soundfile is missing."""
    try:
        with recording_of(source) as recording:
            rate = int(recording.samplerate)
            waveform = np.asarray(recording.read(int(_SECONDS * rate), always_2d=True), np.float64).mean(axis=1)
    except (InputError, MissingExtraError):
        return None
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.clip(waveform, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes())
    return _uri("audio/wav", file.getvalue())


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


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"
