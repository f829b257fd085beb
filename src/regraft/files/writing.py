"""Atomic writing of files."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .locks import locked_file, release

__all__ = ["flush_file", "flush_folder", "json_text", "replaced_file", "write_bytes", "write_json", "write_lines", "write_text"]

PARTIAL, LOCK = ".partial", ".lock.partial"
_PATIENCE = 60.0  # Seconds to wait for another process that writes the same file
_READABLE = 2**18  # Maximum length in characters of JSON text that is indented
_LONGEST = 200  # Maximum bytes of a name to which a suffix can be added on every file system


@contextmanager
def replaced_file(path: Path, *, ending: str = "") -> Iterator[Path]:
    """Write a file atomically: it is the old or the new one, never a part.
    Yield the path of an empty file beside it, with a name that has this `ending`. That file replaces the old one at the end, or is removed
    if there is an exception. The next call overwrites what a killed process left."""
    name = path.name
    if len(os.fsencode(name)) > _LONGEST:
        name = hashlib.blake2b(os.fsencode(name), digest_size=8).hexdigest()
    lock = locked_file(path.with_name(f".{name}{LOCK}"), wait=_PATIENCE)
    if lock is None:
        raise OSError(errno.EBUSY, "Another process is writing it", str(path))
    partial = path.with_name(f".{name}{PARTIAL}{ending}")
    try:
        partial.unlink(missing_ok=True)  # what lies there may be a pipe, which would be waited for, or a link to another file
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666))
        yield partial
        flush_file(partial)
        os.replace(partial, path)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    finally:
        release(lock)
    flush_folder(path.parent)


def flush_file(path: Path) -> None:
    """Wait until the content of a file is on the disk."""
    handle = os.open(path, os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, if the system supports that."""
    with suppress(OSError):  # Windows opens no folders, and some file systems cannot flush them
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file as `replaced_file` does."""
    with replaced_file(path) as partial:
        partial.write_bytes(content)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, atomically. Lone surrogates become escapes of the form `\\udc80`."""
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_json(path: Path, content: Any, *, default: Callable[[Any], Any] | None = None) -> None:
    """Write JSON atomically."""
    text = json_text(content, default=default)
    if len(text) <= _READABLE:
        text = json_text(content, indent=1, default=default)
    elif isinstance(content, Mapping):  # indenting takes many times as long
        text = "{\n" + ",\n".join(json_text({key: value}, default=default)[1:-1] for key, value in content.items()) + "\n}"
    write_bytes(path, (text + "\n").encode("utf-8"))


def write_lines(path: Path, entries: Iterable[Mapping[str, Any]]) -> None:
    """Write entries as JSON Lines, one per line, atomically."""
    write_bytes(path, "".join(json_text(entry) + "\n" for entry in entries).encode("utf-8"))


def json_text(content: Any, *, indent: int | None = None, default: Callable[[Any], Any] | None = None) -> str:
    """Return plain data as readable JSON text that can be encoded as UTF-8. Lone surrogates become escapes.
    `indent` is the number of spaces per level. None gives one line."""
    text = json.dumps(content, ensure_ascii=False, indent=indent, default=default)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return json.dumps(content, ensure_ascii=True, indent=indent, default=default)
    return text
