"""Declared sizes of files and archives, checked against the stored bytes before memory is allocated."""

import os
import stat
import zipfile
from functools import cache
from pathlib import Path

from ..errors import InputError, UnsafeFileError
from .formats import FORMATS
from .text import printable

_ALWAYS = 64 * 2**20  # Bytes that any file may declare: enough for every test, too few to do harm
_FACTOR = 100  # Weights that were set to zero compress this far; a bomb reaches a thousand
FREE = 2**30  # Content up to this many bytes is never refused for the small size of its file
UNPACKED = 1000  # Maximum ratio of content to file size above `FREE`. Real data hardly ever compress this well


@cache
def memory() -> int | None:
    """Return the memory of this machine in bytes; None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def refuse_expansion(declared: int, *, stored: int, what: str, error: type[InputError]) -> None:
    """Raise if a file declares far more than it holds, or more than the machine's memory.
    `declared` is the size in memory and `stored` the size in the file, both in bytes."""
    room = memory()
    if declared > max(_ALWAYS, _FACTOR * stored):
        raise error(
            f"{what} declares {_shown(declared)} and holds {_shown(stored)}; expected at most {_FACTOR} times as much as it holds. "
            "It is damaged, or made to fill the memory. Nothing was read."
        )
    if room is not None and declared > room:
        raise error(f"{what} declares {_shown(declared)}; this machine has {_shown(room)} of memory. Nothing was read.")


def check_size(content: int, path: str | Path, *, kind: str, size: int | None = None) -> None:
    """Raise if a data file declares more content than its size allows or the machine's memory can hold.
    `content` is the declared size in memory, in bytes. `size` is the size of the file, by default read from the path."""
    size, form, whole = Path(path).stat().st_size if size is None else size, FORMATS[kind], memory()
    declared = f"'{printable(path)}' is a {form.title} of {_shown(size)} that declares {_shown(content)} of content"
    if content > FREE and content > UNPACKED * size:
        raise form.error(f"{declared}; expected at most {UNPACKED} times its own size. It is damaged, or was made to fill the memory.")
    if whole is not None and content > whole:
        raise form.error(f"{declared}; this machine has {_shown(whole)} of memory. Split it, or use a machine with more memory.")


def _shown(size: int) -> str:
    return f"{size:,} bytes" if size < 2**20 else f"{size / 2**20:,.0f} MiB"


_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


def open_archive(path: Path, *, error: type[InputError]) -> zipfile.ZipFile:
    """Open a zip archive after checking that its parts have plain names and plausible sizes. The caller closes it."""
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
        if part.filename.casefold() in names:  # some readers treat "A" and "a" as one name
            raise error(f"{shown} holds two parts called {name}; expected one of each name.")
        if part.flag_bits & 1 or part.compress_type not in _METHODS:
            raise error(f"{shown} holds a part {name} that is encrypted or compressed in an unusual way; expected deflate or none.")
        names.add(part.filename.casefold())
    if sum(part.compress_size for part in parts) > size:
        raise error(f"{shown} is no whole archive: its parts overlap, or the end is missing.")
    refuse_expansion(sum(part.file_size for part in parts), stored=size, what=shown, error=error)


def _leads_outside(name: str) -> bool:
    return name.startswith("/") or "\\" in name or ":" in name or "\0" in name or ".." in name.split("/")
