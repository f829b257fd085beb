"""Writing that is whole or not at all: files, folders, and locks on them."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["write_bytes", "write_json", "write_lines", "write_text"]


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file so that it is either the old or the new one, never half of it, whatever happens.

    Args:
        path: of the file.
        content: all of it.

    Raises:
        OSError: if it cannot be written; the old file stays, and nothing else is left behind.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(name)
        raise


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, whole or not at all, as `write_bytes` does; lone surrogates become escapes of the form `\\udc80`."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, content: Any) -> None:
    """Write JSON, whole or not at all.

    Args:
        path: of the file.
        content: plain data. Lone surrogates are written as JSON escapes, so that reading gives the same text.
    """
    write_bytes(path, json_text(content, indent=1).encode("utf-8"))


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write entries as JSON lines, one an entry, whole or not at all."""
    write_bytes(path, "".join(json_text(entry) + "\n" for entry in entries).encode("utf-8"))


def json_text(content: Any, *, indent: int | None = None) -> str:
    """Return plain data as JSON text that can be encoded as UTF-8: readable, and with lone surrogates as escapes.

    Args:
        content: plain data.
        indent: spaces a level; None: one line.
    """
    text = json.dumps(content, ensure_ascii=False, indent=indent)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(content, ensure_ascii=True, indent=indent)
    return text
