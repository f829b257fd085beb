"""What lies elsewhere: the one door to fsspec, for `s3://`, `gs://`, `hf://`, `https://`, `memory://` and the like.

Files are opened as streams, of which the parts are fetched that are read. What only a path serves for is fetched for as long as it is used.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import DataError, MissingExtraError, RegraftError, SettingError, UnsafeFileError, near_names, optional_import
from .formats import opening, reason_of
from .text import printable

__all__ = ["fetched", "files_at", "is_url", "stream_of", "suffix_of"]

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def is_url(source: Any) -> bool:
    """Tell whether a source is the address of something that fsspec reaches, such as "s3://bucket/photos"."""
    return isinstance(source, str) and _URL.match(source) is not None


def suffix_of(source: str | Path) -> str:
    """Return the ending of a path or an address, such as ".csv", in small letters; "" where it has none."""
    return Path(str(source).partition("?")[0]).suffix.lower()


@contextmanager
def _reached(url: str) -> Iterator[tuple[Any, str]]:
    """Give the file system of an address, and the path in it; what it raises while the context lasts becomes one error.

    Raises:
        MissingExtraError: if fsspec, or what it needs for the protocol, is not installed.
        SettingError: if there is no such protocol.
        UnsafeFileError: if the address is a chain of several, of which one would read what another names.
        DataError: if there is nothing, or it cannot be reached.
    """
    library = optional_import("fsspec", "remote", purpose=f"{printable(url, width=60)!r}")
    protocol, known = url.partition("://")[0].lower(), library.available_protocols()
    if "::" in url:
        raise UnsafeFileError(f"{printable(url)!r} is a chain of addresses; expected one, such as 's3://bucket/folder'.")
    if protocol not in known:
        raise SettingError(f"{printable(url)!r}: no protocol is called {protocol!r}{near_names(protocol, known)}")
    try:
        yield library.core.url_to_fs(url)
    except RegraftError:
        raise
    except ImportError as problem:
        raise MissingExtraError(f"{printable(url)!r} needs a further library. {reason_of(problem)}.") from problem
    except FileNotFoundError as problem:
        raise DataError(f"There is nothing at {printable(url)!r}. Check the address.") from problem
    except Exception as problem:  # of botocore, aiohttp and others: no access, no such bucket; and of what reads the stream
        raise DataError(f"{printable(url)!r} cannot be read: {reason_of(problem)}. Check address, access and file.") from problem


def files_at(url: str) -> dict[str, str]:
    """Return all files below a folder, by their paths within it in order, with their addresses; of a file nothing.

    Raises:
        DataError: if there is nothing, or it cannot be reached.
    """
    with _reached(url) as (system, root):
        if system.isfile(root):
            return {}
        found = sorted(system.find(root))
        if not found:
            raise DataError(f"There is nothing at {printable(url)!r}. Check the address.")
        return {name[len(root.rstrip("/")) + 1 :]: str(system.unstrip_protocol(name)) for name in found}


@contextmanager
def stream_of(source: str | Path, kind: str) -> Iterator[BinaryIO]:
    """Open a file here or elsewhere: the bytes that are asked for are read, or fetched.

    Args:
        source: a path or an address.
        kind: a key of `FORMATS`.

    Yields:
        The stream.

    Raises:
        DataError: if there is nothing, it cannot be reached, or what reads it fails.
    """
    if is_url(source):
        with _reached(str(source)) as (system, path), system.open(path, "rb") as stream:
            yield stream
    else:
        with opening(source, kind) as file, file.open("rb") as stream:
            yield stream


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Give a copy of a file while the context lasts, under its own name.

    Yields:
        The path.

    Raises:
        DataError: if there is nothing, or it cannot be reached.
    """
    with tempfile.TemporaryDirectory(prefix="regraft-", ignore_cleanup_errors=True) as folder:
        with _reached(url) as (system, path):
            here = Path(folder) / (re.sub(r"[^\w.-]", "_", path.rstrip("/").rsplit("/", 1)[-1]) or "data")
            system.get_file(path, str(here))
        yield here
