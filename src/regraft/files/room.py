"""Disk space that is really allocated, and arrays in files.

A mapped file ends the process with SIGBUS in two cases: a sparse file, which only declares its size, when the disk is full; and any file
that another program shortens. So blocks are allocated before a file is mapped, and a user's file is checked before each block is read.
"""

import errno
import mmap
import os
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CacheError, DataError
from .text import printable

IN_MEMORY = 2**26  # Size in bytes above which an array is kept in a temporary file
ROWS_AT_ONCE = 1024
_ZEROS = bytes(2**20)
_MAPPINGS = weakref.WeakKeyDictionary[mmap.mmap, tuple[Path, os.stat_result] | None]()
"""Mapping -> the user's file with its status when it was mapped; None for files that only regraft writes."""
_NO_SUCH_CALL = frozenset({errno.EINVAL, errno.ENOSYS, getattr(errno, "EOPNOTSUPP", errno.EINVAL), getattr(errno, "ENOTSUP", errno.EINVAL)})


def reserve(handle: int, size: int) -> None:
    """Grow a file to at least `size` bytes, with every block allocated on the disk. Its content stays."""
    if hasattr(os, "posix_fallocate") and size:
        try:
            os.posix_fallocate(handle, 0, size)
            return
        except OSError as problem:
            if problem.errno not in _NO_SUCH_CALL:
                raise
    end = os.lseek(handle, 0, os.SEEK_END)
    while end < size:  # written zeros take up space too
        end += os.write(handle, _ZEROS[: size - end])


def write_at(handle: int, offset: int, *, content: memoryview | bytes) -> None:
    """Write all bytes at an offset of a file."""
    left = memoryview(content).cast("B")
    os.lseek(handle, offset, os.SEEK_SET)
    while left:
        left = left[os.write(handle, left) :]


def large_array(shape: Sequence[int], dtype: np.dtype, *, folder: Path | None = None) -> np.ndarray:
    """Return an uninitialized array. Large ones lie in a temporary file that disappears with the process.
    `folder` is the place of that file, by default the folder of temporary files."""
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
    """Return a copy of some rows and columns of an array (N, D), in `dtype` or its own. A mapped array is read in blocks."""
    made = large_array((len(rows), values[:0, columns].shape[1]), dtype or values.dtype)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        made[start : start + ROWS_AT_ONCE] = values[rows[start : start + ROWS_AT_ONCE]][:, columns]
        release_pages()
    return made


def in_file(array: np.memmap, *, of_user: Path | None = None) -> np.ndarray:
    """Return a mapped array as a plain one whose pages `release_pages` can release.
    `of_user`: the file, if programs other than regraft write it, for `check_unchanged`."""
    mapping = getattr(array, "_mmap", None)
    if isinstance(mapping, mmap.mmap):
        _MAPPINGS[mapping] = None if of_user is None else (of_user, of_user.stat())
    return np.asarray(array)


def check_unchanged(array: np.ndarray) -> None:
    """Raise a DataError if `array` lies in a user's file that was rewritten in place since it was mapped. A replaced file does no harm."""
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    path, then = (_MAPPINGS.get(base) if isinstance(base, mmap.mmap) else None) or (None, None)
    if path is None or then is None:
        return
    try:
        now = path.stat()
    except OSError:  # deleted or moved: the mapping keeps its content
        return
    if (now.st_dev, now.st_ino) == (then.st_dev, then.st_ino) and (now.st_size, now.st_mtime_ns) != (then.st_size, then.st_mtime_ns):
        raise DataError(
            f"{printable(path)} was rewritten while its examples were being read: it had {then.st_size:,} bytes and has {now.st_size:,}. "
            "Start again when the file is complete; to change it meanwhile, write a new file and rename it."
        )


def release_pages() -> None:
    """Release the memory that mapped arrays occupy. Pages are read from the file again when needed.
    The system does this itself only when memory is short, and then evicts pages of other programs as well."""
    if hasattr(mmap, "MADV_DONTNEED"):
        for mapping in list(_MAPPINGS):
            mapping.madvise(mmap.MADV_DONTNEED)
