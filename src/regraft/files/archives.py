"""Zip archives, looked through before anything in them is read."""

from __future__ import annotations

import stat
import zipfile
from pathlib import Path

from ..errors import InputError, UnsafeFileError
from .sizes import refuse_expansion
from .text import printable

__all__ = ["open_archive"]

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def open_archive(path: Path, *, error: type[InputError]) -> zipfile.ZipFile:
    """Open a zip archive whose parts have plain names and sizes that the file can hold.

    Args:
        error: class of the error for what is damaged.

    Returns:
        The archive; the caller closes it.

    Raises:
        UnsafeFileError: if a part names a place outside the archive or is a link.
        InputError: of the class `error`, if it has a comment, or if parts share a name or their bytes, are encrypted, compressed in an
            unusual way, or declare far more than the file holds.
    """
    archive = zipfile.ZipFile(path)
    try:
        shown = repr(printable(path))
        if archive.comment:
            raise error(f"{shown} has a comment of {len(archive.comment)} bytes at its end, in which a reader may find another archive.")
        _check(archive.infolist(), size=path.stat().st_size, shown=shown, error=error)
    except BaseException:
        archive.close()
        raise
    return archive


def _check(parts: list[zipfile.ZipInfo], *, size: int, shown: str, error: type[InputError]) -> None:
    names: set[str] = set()
    for part in parts:
        name = repr(printable(part.filename, width=80))
        if _leads_outside(part.filename) or stat.S_ISLNK(part.external_attr >> 16):
            raise UnsafeFileError(f"{shown} holds a part {name} that stands for a place outside the archive; expected plain names.")
        if part.filename.casefold() in names:  # some readers take "A" for "a"
            raise error(f"{shown} holds two parts called {name}; expected one of each name.")
        if part.flag_bits & 1 or part.compress_type not in _METHODS:
            raise error(f"{shown} holds a part {name} that is encrypted or compressed in an unusual way; expected deflate or none.")
        names.add(part.filename.casefold())
    if sum(part.compress_size for part in parts) > size:
        raise error(f"{shown} is no whole archive: its parts overlap, or the end is missing.")
    refuse_expansion(sum(part.file_size for part in parts), stored=size, what=shown, error=error)


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in name.split("/")
