"""What a file declares, compared with what it holds, before memory is taken for it."""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path

from ..errors import InputError
from .formats import FORMATS
from .text import printable

__all__ = ["check_size", "memory", "refuse_expansion"]

_ALWAYS = 64 * 2**20
"""Bytes that any file may declare: enough for every test, too few to hurt."""
_FACTOR = 100
"""Weights that were set to zero compress this far; a bomb goes to a thousand."""
FREE = 2**30
"""Up to so many bytes of content, no file of data is refused for being small."""
UNPACKED = 1000
"""Above that, content of so many times the file's own size is not unpacked: real data hardly ever compress so well."""


@cache
def memory() -> int | None:
    """Return the bytes of memory of this machine, None where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return None


def refuse_expansion(declared: int, *, stored: int, what: str, error: type[InputError]) -> None:
    """Raise where a file declares far more than it holds, or more than the machine has.

    Args:
        declared: bytes that reading it would take.
        stored: bytes that it has.
        what: the file or its part, for the message; text that is safe to show.

    Raises:
        InputError: of the class `error`.
    """
    room = memory()
    if declared > max(_ALWAYS, _FACTOR * stored):
        raise error(
            f"{what} declares {_shown(declared)} and holds {_shown(stored)}; expected at most {_FACTOR} times as much as it holds. "
            "It is damaged, or made to fill the memory. Nothing was read."
        )
    if room is not None and declared > room:
        raise error(f"{what} declares {_shown(declared)}; this machine has {_shown(room)} of memory. Nothing was read.")


def check_size(content: int, path: Path, *, kind: str) -> None:
    """Raise before memory is taken for what a file declares, if it cannot hold it or only was made to fill the memory.

    Args:
        content: the declared size in memory, in bytes.
        kind: a key of `FORMATS`.

    Raises:
        InputError: of the class that the format names.
    """
    size, form, whole = path.stat().st_size, FORMATS[kind], memory()
    declared = f"'{printable(path)}' is a {form.title} of {_shown(size)} that declares {_shown(content)} of content"
    if content > FREE and content > UNPACKED * size:
        raise form.error(f"{declared}; expected at most {UNPACKED} times its own size. It is damaged, or was made to fill the memory.")
    if whole is not None and content > whole:
        raise form.error(f"{declared}; this machine has {_shown(whole)} of memory. Split it, or use a machine with more memory.")


def _shown(size: int) -> str:
    return f"{size:,} bytes" if size < 2**20 else f"{size / 2**20:,.0f} MiB"
