"""Readers for pictures and sounds. Any fault of a file, also during decoding, becomes one error."""

import io
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from ..errors import DataError, optional_import
from .formats import opening, reading, reason_of
from .sizes import check_size

DECODED = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "AVIF", "HEIF", "ICO", "QOI", "SGI", "PCX", "TGA")
"""PIL names of the formats that may be opened. The last one has no signature, so it is tried last."""
LARGE_PIXELS = 2**24
SAMPLE_BYTES = 4
_DEFLATED = 1032  # Maximum number of bytes that one byte in a PNG file can decompress to
_STREAMED = 2**31 - 2**20
_REPAIR = "Repair or remove it."
_ONE_LARGE = threading.Lock()
"""Held while a picture above `LARGE_PIXELS` is decoded, because eight at once in eight threads would fill the memory."""


@contextmanager
def picture_of(source: Any) -> Iterator[Any]:
    """Open a picture from a path, the bytes of a file, or a PIL image.
    Only formats that PIL decodes itself are accepted (for PostScript it starts another program). The yielded PIL image has only its header
    read."""
    image = optional_import("PIL.Image", "vision", purpose="reading images")
    if not isinstance(source, str | Path | bytes):
        try:
            with source.copy() as copied:
                yield copied
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
            raise DataError(f"A picture cannot be decoded: {reason_of(error)}. {_REPAIR}") from error
    elif isinstance(source, bytes):
        with reading("A picture", "picture", remedy=_REPAIR), _picture_in(io.BytesIO(source), len(source)) as picture:
            yield picture
    else:
        with (
            opening(source, "picture", remedy=_REPAIR) as path,
            path.open("rb") as stream,
            _picture_in(stream, path.stat().st_size) as found,
        ):
            yield found


@contextmanager
def _picture_in(stream: Any, size: int) -> Iterator[Any]:
    image = optional_import("PIL.Image", "vision", purpose="reading images")
    image.init()
    try:
        picture = image.open(stream, formats=[name for name in DECODED if name in image.OPEN])
    except image.UnidentifiedImageError:
        raise ValueError("it has none of the formats that are read, or its head is damaged") from None
    # a PNG that declares more than its bytes can hold would be decoded as black, for seconds
    bits = 8 * len(picture.getbands()) if picture.mode in ("RGB", "RGBA", "LA") else 1
    if picture.format == "PNG" and picture.width * picture.height * bits > 8 * _DEFLATED * size:
        raise ValueError(f"it declares {picture.width} x {picture.height} pixels, more than {size} bytes can hold")
    with picture, _ONE_LARGE if picture.width * picture.height > LARGE_PIXELS else nullcontext():
        yield picture


def is_cut_short(path: str | Path) -> bool:
    """Return whether an opened WAV file is shorter than its header declares. Its reader does not report this."""
    with Path(path).open("rb") as stream:
        head, size = stream.read(12), os.fstat(stream.fileno()).st_size
    declared = int.from_bytes(head[4:8], "little") + 8
    return head[:4] == b"RIFF" and head[8:] == b"WAVE" and size + 1 < declared < _STREAMED  # else written before the length was known


@contextmanager
def recording_of(path: str | Path, *, rate: int | None = None) -> Iterator[Any]:
    """Open a sound file. The yielded `soundfile.SoundFile` has only its header read.
    `rate` is the rate in Hz that the caller will resample to, or None. It counts in the size check."""
    soundfile = optional_import("soundfile", "audio", purpose="reading audio files")
    with opening(path, "recording", remedy=_REPAIR) as checked:
        name = str(checked) if os.name == "nt" else os.fsencode(checked)  # as bytes, because a name need not be text
        try:
            with soundfile.SoundFile(name) as file:
                longer = max(1.0, (rate or 0) / file.samplerate)
                check_size(int(file.frames * file.channels * SAMPLE_BYTES * longer), checked, kind="recording")
                yield file
        except soundfile.LibsndfileError as error:
            raise ValueError(error.error_string) from error


def samples_of(file: Any, start: int = 0, *, count: int | None = None) -> Any:
    """Read (samples, channels) float32 of an opened sound file, `count` of them or all from `start` on. In GSM, as telephones record it,
    nobody can seek: it is read from its beginning."""
    if not file.seekable():
        return file.read(file.frames if count is None else start + count, dtype="float32", always_2d=True)[start:]
    if start:
        file.seek(min(start, file.frames))
    return file.read(-1 if count is None else count, dtype="float32", always_2d=True)
