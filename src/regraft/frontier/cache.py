"""The activation cache: outputs of the frozen part, computed once for each item and view.

On disk it is a folder of memory-mapped arrays, `manifest.json` (what it is a cache of) and `done.npy` (a checksum for each
finished chunk). A chunk counts as finished only after its values have been flushed, so a process that is killed at any moment
leaves a cache from which the next one goes on. A cache whose checksums do not hold is computed again, never trusted.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheError, InputError
from ..files.locks import locked_file
from ..files.schema import Plain, checked, read_json
from ..files.text import printable
from ..files.writing import write_json
from .cut import Live

__all__ = ["ActivationCache", "CacheEntry", "clear_caches", "list_caches", "only_one"]

CHUNK = 256
_HALF = float(np.finfo(np.float16).max)
_MANIFEST, _DONE, _LOCK = "manifest.json", "done.npy", "lock"
_ARRAY = re.compile(r"live\d+\.npy|\.manifest\.json\.partial")


class _Manifest(Plain):
    """What a cache folder says of itself. `arrays` holds the shape of a row and the dtype of each array."""

    facts: dict[str, Any]
    rows: int
    chunk: int
    arrays: list[tuple[list[int], str]]


class ActivationCache:
    """Rows of live outputs: one row for each item and view, in the order (view, item).

    Attributes:
        live: what a row holds.
        rows: number of rows.
        arrays: one for each of `live`, (rows, *shape), in memory or memory-mapped.
        done: (chunks,) uint32, the checksum of each finished chunk and 0 for the others.
    """

    def __init__(self, live: Sequence[Live], rows: int, *, arrays: Sequence[np.ndarray], done: np.ndarray) -> None:
        self.live = tuple(live)
        self.rows = rows
        self._arrays = list(arrays)
        self.done = done

    @classmethod
    def in_memory(cls, live: Sequence[Live], rows: int, *, dtype: str) -> ActivationCache:
        """Return an empty cache that lives as long as the process.

        Args:
            live: what a row holds.
            rows: number of rows.
            dtype: "float32" or "float16", for floating-point outputs.

        Returns:
            The cache, no chunk done.
        """
        return cls(
            live,
            rows,
            arrays=[np.empty((rows, *part.shape), _stored(part, dtype)) for part in live],
            done=np.zeros(_chunks(rows), np.uint32),
        )

    @classmethod
    def on_disk(cls, folder: Path, live: Sequence[Live], *, rows: int, dtype: str, facts: Mapping[str, Any]) -> ActivationCache:
        """Open a cache folder, made where it is not there or does not hold what is expected.

        Args:
            folder: named by the identity.
            live: what a row holds.
            rows: number of rows.
            dtype: "float32" or "float16", for floating-point outputs.
            facts: of the identity, written into the manifest.

        Returns:
            The cache, with those chunks done whose checksums hold.

        Raises:
            CacheError: if the folder cannot be written, or the disk has no room.
        """
        wanted = _manifest_of(live, rows, dtype=dtype, facts=facts)
        try:
            arrays = _opened(folder, live, rows=rows, dtype=dtype, mode="r+") if _read_manifest(folder) == wanted else None
            if arrays is None:
                _make_(folder, live, rows=rows, dtype=dtype)
                write_json(folder / _MANIFEST, wanted.model_dump())
                arrays = _opened(folder, live, rows=rows, dtype=dtype, mode="r+")
            _reserve_(folder, arrays or [])
        except OSError as error:
            raise _unusable(folder, error) from error
        if arrays is None:
            raise CacheError(f"The cache folder {printable(folder)!r} was changed by another program. Give another one with cache=.")
        cache = cls(live, rows, arrays=arrays[:-1], done=arrays[-1])
        cache._forget_broken_()
        return cache

    @classmethod
    def finished(
        cls, folder: Path, live: Sequence[Live], *, rows: int, dtype: str, facts: Mapping[str, Any]
    ) -> ActivationCache | None:
        """Open a cache folder that holds all that is expected, without writing to it; None where there is none.

        Args:
            folder: named by the identity; it may be on a disk that cannot be written.
            live: what a row holds.
            rows: number of rows.
            dtype: "float32" or "float16", for floating-point outputs.
            facts: of the identity.

        Returns:
            The cache, every chunk done, or None.
        """
        if _read_manifest(folder) != _manifest_of(live, rows, dtype=dtype, facts=facts):
            return None
        arrays = _opened(folder, live, rows=rows, dtype=dtype, mode="r")
        if arrays is None or not arrays[-1].all():
            return None
        cache = cls(live, rows, arrays=arrays[:-1], done=np.array(arrays[-1]))
        cache._forget_broken_()
        return cache if not cache.missing else None

    def _forget_broken_(self) -> None:
        for chunk in np.flatnonzero(self.done):
            if self._checksum(int(chunk)) != self.done[chunk]:
                self.done[chunk] = 0

    def _checksum(self, chunk: int) -> int:
        value = 1
        for array in self._arrays:
            value = zlib.crc32(np.ascontiguousarray(array[chunk * CHUNK : (chunk + 1) * CHUNK]).view(np.uint8).data, value)
        return value or 1

    @property
    def missing(self) -> list[range]:
        """The rows of every chunk that is not done."""
        return [range(int(chunk) * CHUNK, min((int(chunk) + 1) * CHUNK, self.rows)) for chunk in np.flatnonzero(self.done == 0)]

    @property
    def bytes(self) -> int:
        """Size of all rows in bytes."""
        return sum(array.nbytes for array in self._arrays)

    def put(self, start: int, values: Sequence[Tensor]) -> None:
        """Write consecutive rows from `start`; `values` are (n, *shape) for each live output.

        Raises:
            CacheError: if a value is too large for float16.
        """
        for array, part, value in zip(self._arrays, self.live, values, strict=True):
            largest = float(value.abs().amax()) if array.dtype == np.float16 and value.numel() else 0.0
            if _HALF < largest < np.inf:
                raise CacheError(
                    f"The output '{part.name}' reaches {largest:.3g}, too large for float16 (at most {_HALF:g}). "
                    "Cache it with dtype='float32'."
                )
            array[start : start + len(value)] = value.detach().cpu().numpy()

    def finish(self, rows: range) -> None:
        """Flush a chunk, the range `rows`, then mark it as done."""
        for array in self._arrays:
            if isinstance(array, np.memmap):
                array.flush()
        self.done[rows.start // CHUNK] = self._checksum(rows.start // CHUNK)
        if isinstance(self.done, np.memmap):
            self.done.flush()

    def get(self, rows: np.ndarray) -> list[Tensor]:
        """Return copies of some rows, (n, *shape) for each live output, in the dtype that the network made."""
        return [torch.from_numpy(array[rows]).to(part.dtype) for array, part in zip(self._arrays, self.live, strict=True)]


def _stored(part: Live, dtype: str) -> np.dtype[Any]:
    return np.dtype(dtype) if part.dtype.is_floating_point else np.dtype(str(part.dtype).removeprefix("torch."))


def _chunks(rows: int) -> int:
    return -(-rows // CHUNK)


def _manifest_of(live: Sequence[Live], rows: int, *, dtype: str, facts: Mapping[str, Any]) -> _Manifest:
    return _Manifest(facts=dict(facts), rows=rows, chunk=CHUNK, arrays=[(list(part.shape), str(_stored(part, dtype))) for part in live])


def _read_manifest(folder: Path) -> _Manifest | None:
    """Return what a folder says of itself; None where it is no cache, or damaged: it is then computed again."""
    try:
        plain = read_json(folder / _MANIFEST, "cache manifest")
        if isinstance(plain, dict) and isinstance(plain.get("arrays"), list):  # JSON has no tuples
            plain["arrays"] = [tuple(one) if isinstance(one, list) else one for one in plain["arrays"]]
        found = checked(plain, _Manifest, what="manifest.json", error=CacheError)
    except InputError:
        return None
    return found if found.rows >= 0 and found.chunk > 0 and {"format", "frozen", "live", "items", "dtype"} <= set(found.facts) else None


def _opened(folder: Path, live: Sequence[Live], *, rows: int, dtype: str, mode: Literal["r", "r+"]) -> list[np.ndarray] | None:
    """Return the memory-mapped arrays, the checksums last; None unless each is whole, of the shape that is expected, and a plain file."""
    files = [(f"live{index}.npy", (rows, *part.shape), _stored(part, dtype)) for index, part in enumerate(live)]
    arrays = []
    for name, shape, kind in [*files, (_DONE, (_chunks(rows),), np.dtype(np.uint32))]:
        path = folder / name
        try:
            if path.is_symlink() or not path.is_file():
                return None
            array = np.load(path, mmap_mode=mode, allow_pickle=False)
        except PermissionError:
            raise
        except Exception:  # NumPy's reader of headers fails in any way: ValueError, TokenError, SyntaxError, MemoryError, ...
            return None
        if array.shape != shape or array.dtype != kind or not array.flags.c_contiguous:
            return None
        arrays.append(array)
    return arrays


def _unusable(folder: Path, error: OSError) -> CacheError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _no_room(folder, 0)
    return CacheError(f"The cache folder {printable(folder)!r} cannot be used: {error.strerror or error}. Give another one with cache=.")


def _no_room(folder: Path, needed: int) -> CacheError:
    try:
        free = f"{shutil.disk_usage(folder.parent).free / 2**20:,.0f} MiB are free"
    except OSError:
        free = "the disk is full"
    much = f"{needed / 2**20:,.0f} MiB" if needed else "more room"
    return CacheError(
        f"The feature cache needs {much} in {printable(folder.parent)!r}, where {free}. Give another folder with cache=, "
        "dtype='float16' for half the size, or cache=None to compute the frozen part every epoch."
    )


def _make_(folder: Path, live: Sequence[Live], *, rows: int, dtype: str) -> None:
    """Make empty arrays, after asking the disk for the room they need."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MANIFEST).unlink(missing_ok=True)
    for path in folder.glob("*.npy"):  # what is open elsewhere keeps its file
        path.unlink()
    needed = sum(rows * int(np.prod(part.shape, dtype=np.int64)) * _stored(part, dtype).itemsize for part in live)
    if needed * 1.02 + 2**20 > shutil.disk_usage(folder).free:
        raise _no_room(folder, needed)
    for index, part in enumerate(live):
        np.lib.format.open_memmap(folder / f"live{index}.npy", mode="w+", dtype=_stored(part, dtype), shape=(rows, *part.shape))
    np.lib.format.open_memmap(folder / _DONE, mode="w+", dtype=np.uint32, shape=(_chunks(rows),))


def _reserve_(folder: Path, arrays: Sequence[np.ndarray]) -> None:
    """Have the disk keep the room of all arrays: writing into a mapped file for which there is none ends the process.

    Raises:
        CacheError: if there is not enough; what was made is removed.
    """
    if not hasattr(os, "posix_fallocate"):
        return
    names = [*(f"live{index}.npy" for index in range(len(arrays) - 1)), _DONE]
    try:
        for name in names:
            handle = os.open(folder / name, os.O_RDWR)
            try:
                size = os.fstat(handle).st_size
                if size:
                    os.posix_fallocate(handle, 0, size)
            finally:
                os.close(handle)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            return  # a file system that cannot reserve
        needed = sum(array.nbytes for array in arrays)
        for name in (_MANIFEST, *names):
            (folder / name).unlink(missing_ok=True)
        raise _no_room(folder, needed) from error


@contextmanager
def only_one(folder: Path) -> Iterator[None]:
    """Let one process at a time fill a cache; another waits and then finds it filled.

    Args:
        folder: of the cache; made where it is not there.

    Yields:
        Nothing, once this process is the only one.

    Raises:
        CacheError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle = locked_file(folder / _LOCK, wait=float("inf"))
    except OSError as error:
        raise CacheError(
            f"The cache folder {printable(folder)!r} cannot be written: {error.strerror or error}. Give another one with cache=."
        ) from error
    try:
        yield
    finally:
        if handle is not None:
            os.close(handle)


@dataclass(frozen=True)
class CacheEntry:
    """One cache on disk, for people: its folder, rows, rows done and size in bytes."""

    folder: Path
    rows: int
    done: int
    size: int


def list_caches(root: Path) -> list[CacheEntry]:
    """Return the caches below a folder, oldest first.

    Args:
        root: the folder given as `cache=`.

    Returns:
        One entry for each readable manifest.
    """
    found = []
    for folder in sorted(path for path in root.glob("*") if _is_ours(path)) if root.is_dir() else ():
        manifest = _read_manifest(folder)
        if manifest is not None:
            done = min(_finished_chunks(folder, manifest) * manifest.chunk, manifest.rows)
            size = sum(path.stat().st_size for path in folder.iterdir())
            found.append((((folder / _MANIFEST).stat().st_mtime), CacheEntry(folder, manifest.rows, done, size)))
    return [entry for _, entry in sorted(found, key=lambda one: one[0])]


def _is_ours(folder: Path) -> bool:
    """Tell whether a folder, no link, holds nothing but the files of a cache, none of them a link."""
    try:
        if folder.is_symlink() or not folder.is_dir():
            return False
        files = {path.name for path in folder.iterdir() if path.is_file() and not path.is_symlink()}
        held = {path.name for path in folder.iterdir()}
    except OSError:
        return False
    return held == files and _MANIFEST in files and all(name in (_MANIFEST, _DONE, _LOCK) or _ARRAY.fullmatch(name) for name in files)


def _finished_chunks(folder: Path, manifest: _Manifest) -> int:
    done = _opened(folder, (), rows=manifest.rows, dtype="float32", mode="r")
    return int((done[0] != 0).sum()) if done else 0


def clear_caches(root: Path) -> list[CacheEntry]:
    """Delete the caches below a folder; anything else in it stays.

    Args:
        root: the folder given as `cache=`.

    Returns:
        What was deleted.
    """
    entries = list_caches(root)
    for entry in entries:
        for path in list(entry.folder.iterdir()):
            path.unlink()
        entry.folder.rmdir()
    return entries
