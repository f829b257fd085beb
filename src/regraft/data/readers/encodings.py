"""Detection of the encoding of a text file."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from ...errors import DataError
from ...files.text import printable
from ..items import listed

CHUNK_BYTES = 2**22
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FOREIGN = re.compile(r"[^\s,;|]*[^\x00-\x7f][^\s,;|]*")
_SHOWN = {"utf-8-sig": "UTF-8", "cp1252": "cp1252 (Windows)"}  # Any other encoding here is UTF-16


def encoding_of(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a text file: UTF-8, UTF-16 with or without a byte order mark, else cp1252 (Windows) if the file decodes."""
    with path.open("rb") as stream:
        start = stream.read(1024)
    marked = _MARKS.get(start[:2])
    wanted = marked or _unmarked(start) or "utf-8-sig"
    words, error = _words(path, wanted)
    if wanted == "utf-8-sig" and error is not None and not words and error.reason != "unexpected end of data":
        words, failed = _words(path, "cp1252")
        wanted, error = ("cp1252", None) if failed is None else (wanted, error)
    if error is not None:
        raise DataError(
            f"'{printable(path)}' is not text in {_SHOWN.get(wanted, 'UTF-16')}: {error.reason} "
            f"({error.object[error.start : error.end]!r}). It may be damaged, or in another encoding. Save it as CSV in UTF-8."
        ) from error
    if marked or wanted == "utf-8-sig":
        return wanted, ()
    shown = f": {listed(words, 3)}" if words else ""
    return wanted, (f"the file is not in UTF-8; it was read as {_SHOWN.get(wanted, 'UTF-16')}{shown}",)


def _unmarked(start: bytes) -> str | None:
    """Return the UTF-16 variant of a text without byte order mark, recognised by zeros in every other byte; None if it is not UTF-16."""
    zeros = [start[first::2].count(0) / max(1, len(start) // 2) for first in (0, 1)]
    if max(zeros) < 0.4 or min(zeros) > 0.1:
        return None
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _words(path: Path, encoding: str) -> tuple[list[str], UnicodeDecodeError | None]:
    """Decode a whole file; return the first words that are not plain ASCII, and the error if there is one."""
    decoder, words = codecs.getincrementaldecoder(encoding)(), list[str]()
    with path.open("rb") as stream:
        last = False
        while not last:
            chunk = stream.read(CHUNK_BYTES)
            last = not chunk
            try:
                text = decoder.decode(chunk, final=last)
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(encoding, errors="ignore")
                return words or _FOREIGN.findall(before)[:3], error
            if "\0" in text:
                raise DataError(f"'{printable(path)}' holds null characters, as binary files do; expected text. Save it as CSV in UTF-8.")
            if not words and not text.isascii():
                words = _FOREIGN.findall(text)[:3]
    return words, None
