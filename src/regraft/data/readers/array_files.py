"""Arrays of numbers in .npy files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import IO

import numpy as np

from ...errors import DataError, UnsafeFileError
from ...files.formats import opening
from ...files.text import printable

__all__ = ["read_array"]

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Of the header, by the version of the format; a third one differs only for structured types, which are no numbers."""


def read_array(path: Path) -> np.ndarray:
    """Read a .npy file of numbers; nothing is allocated before its header has been compared with its length.

    Args:
        path: of the file.

    Returns:
        The array, of one axis or more.

    Raises:
        DataError: if it is damaged, or holds something else than an array of numbers.
        UnsafeFileError: if it holds objects, which are a pickle, or is no regular file.
    """
    with opening(path, "array", remedy="Write it again with numpy.save.") as checked, checked.open("rb") as stream:
        _check_header(stream, checked)
        stream.seek(0)
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def _check_header(stream: IO[bytes], path: Path) -> None:
    shown = f"'{printable(path)}'"
    mark = stream.read(2)
    stream.seek(0)
    if mark == b"PK":
        raise DataError(f"{shown} is an archive of several arrays (.npz); expected one array (.npy). Write it with numpy.save.")
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise DataError(f"{shown} has the .npy version {version}; expected one of {list(_READERS)}. Write it again with numpy.save.")
    shape, _, dtype = _READERS[version](stream)
    if dtype.hasobject:
        raise UnsafeFileError(f"{shown} holds objects, which are a pickle, and reading one runs code. Convert it to an array of numbers.")
    if dtype.kind not in "biuf" or not shape or min(shape) < 0:
        raise DataError(f"{shown} holds an array of the shape {shape} and the type {dtype}; expected numbers, (items, …).")
    declared, held = math.prod(shape) * dtype.itemsize, path.stat().st_size - stream.tell()
    if declared > held:
        raise DataError(
            f"{shown} declares an array of the shape {shape} and {declared:,} bytes, and holds {held:,} bytes. It is cut off or damaged; "
            "write it again."
        )
