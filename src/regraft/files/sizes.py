"""How much a file may declare that it holds, before memory is taken for it."""

from __future__ import annotations

import os
from pathlib import Path

from .formats import FORMATS
from .text import printable

__all__ = ["check_size", "memory_bytes"]

FREE = 2**30
"""Up to so many bytes of content, no file is refused for being small."""
UNPACKED = 1000
"""Above that, content of so many times the file's own size is not unpacked: real data hardly ever compress so well."""


def check_size(content: int, path: Path, kind: str) -> None:
    """Raise before memory is taken for what a file declares, if it cannot hold it or only was made to fill the memory.

    Args:
        content: the declared size in memory, in bytes.
        path: of the file.
        kind: a key of `FORMATS`.

    Raises:
        InputError: of the class that the format names.
    """
    size, form, whole = path.stat().st_size, FORMATS[kind], memory_bytes()
    declared = f"'{printable(path)}' is a {form.title} of {_amount(size)} that declares {_amount(content)} of content"
    if content > FREE and content > UNPACKED * size:
        raise form.error(f"{declared}; expected at most {UNPACKED} times its own size. It is damaged, or was made to fill the memory.")
    if whole is not None and content > whole:
        raise form.error(f"{declared}; this machine has {_amount(whole)} of memory. Split it, or use a machine with more memory.")


def memory_bytes() -> int | None:
    """Return the memory of this machine in bytes; None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # AttributeError: not on Windows
        return None


def _amount(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB"):
        if size < 1024:
            return f"{size:,} {unit}"
        size //= 1024
    return f"{size:,} GiB"
