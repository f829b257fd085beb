"""Room on the disk that is really there, and arrays that lie in files: a file that is only declared large ends the process when the disk is
full (SIGBUS)."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import CacheError
from .text import printable

__all__ = ["in_file", "large_array", "release_pages", "reserve", "taken", "write_at"]

IN_MEMORY = 2**26
"""Bytes above which an array is kept in a temporary file."""
ROWS_AT_ONCE = 1024
_ZEROS = bytes(2**20)
_MAPPINGS = weakref.WeakSet[mmap.mmap]()
_NO_SUCH_CALL = frozenset({errno.EINVAL, errno.ENOSYS, getattr(errno, "EOPNOTSUPP", errno.EINVAL), getattr(errno, "ENOTSUP", errno.EINVAL)})


def reserve(handle: int, size: int) -> None:
    """Make a file at least so large, each of its blocks on the disk; what is in it stays.

    `size`: bytes.
    """
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(handle, 0, size)
            return
        except OSError as problem:
            if problem.errno not in _NO_SUCH_CALL:
                raise
    end = os.lseek(handle, 0, os.SEEK_END)
    while end < size:  # zeros that are written take up room too
        end += os.write(handle, _ZEROS[: size - end])


def write_at(handle: int, offset: int, *, content: memoryview | bytes) -> None:
    """Write bytes at an offset of a file, all of them."""
    left = memoryview(content).cast("B")
    os.lseek(handle, offset, os.SEEK_SET)
    while left:
        left = left[os.write(handle, left) :]


def large_array(shape: Sequence[int], dtype: np.dtype, *, folder: Path | None = None) -> np.ndarray:
    """Return an array without content, in a file that goes with the process where it is large.

    `folder`: where the file lies; None for the folder of temporary files.
    """
    size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if size <= IN_MEMORY:
        return np.empty(shape, dtype)
    try:
        with tempfile.TemporaryFile(dir=folder) as file:  # the mapping outlives the name and the handle
            reserve(file.fileno(), size)
            return in_file(np.memmap(file, dtype, mode="r+", shape=tuple(shape)))
    except OSError as problem:
        where = folder or tempfile.gettempdir()
        raise CacheError(
            f"Features of {size / 2**20:,.0f} MiB do not fit into {printable(where)!r}: {problem.strerror or problem}. "
            "Make room there, or name another folder in the environment variable TMPDIR."
        ) from problem


def taken(values: np.ndarray, rows: np.ndarray, *, columns: np.ndarray | slice = slice(None), dtype: np.dtype | None = None) -> np.ndarray:
    """Return a copy of some rows and columns of an array (N, D) that may be mapped, read in blocks, in a type of its own or another."""
    made = large_array((len(rows), values[:0, columns].shape[1]), dtype or values.dtype)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        made[start : start + ROWS_AT_ONCE] = values[rows[start : start + ROWS_AT_ONCE]][:, columns]
        release_pages()
    return made


def in_file(array: np.memmap) -> np.ndarray:
    """Return a mapped `array` as a plain one, whose pages `release_pages` lets go of."""
    mapping = getattr(array, "_mmap", None)
    if isinstance(mapping, mmap.mmap):
        _MAPPINGS.add(mapping)
    return np.asarray(array)


def release_pages() -> None:
    """Let go of the memory that mapped arrays have filled so far; what is read again comes from the file.

    The system does so by itself when memory is short; then the pages of other programs go as well.
    """
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapping in list(_MAPPINGS):
            mapping.madvise(mmap.MADV_DONTNEED)
