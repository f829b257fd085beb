"""The activation cache: outputs of the frozen part, computed once for each item and view.

On disk it is a folder of memory-mapped arrays, `manifest.json` (what it is a cache of) and `done.npy` (a checksum for each
finished chunk). A chunk counts as finished only after its values have been flushed, so a process that is killed at any moment
leaves a cache from which the next one goes on. A cache whose checksums do not hold is computed again, never trusted.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheError
from ..files.writing import write_json
from .cut import Live

__all__ = ["ActivationCache", "CacheEntry", "clear_caches", "list_caches", "only_one"]

CHUNK = 256
_HALF = float(np.finfo(np.float16).max)
_MANIFEST = "manifest.json"


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
        shapes = [[list(part.shape), str(_stored(part, dtype))] for part in live]
        manifest = {"facts": dict(facts), "rows": rows, "chunk": CHUNK, "arrays": shapes}
        try:
            if _read_manifest(folder) != json.loads(json.dumps(manifest)) or not _arrays_whole(folder, shapes, rows=rows):
                _make_(folder, live, rows=rows, dtype=dtype)
                write_json(folder / _MANIFEST, manifest)
            arrays = [np.load(folder / f"live{index}.npy", mmap_mode="r+") for index in range(len(live))]
            cache = cls(live, rows, arrays=arrays, done=np.load(folder / "done.npy", mmap_mode="r+"))
        except OSError as error:
            raise CacheError(
                f"The cache folder {str(folder)!r} cannot be used: {error.strerror or error}. Give another one with cache=."
            ) from error
        cache._forget_broken_()
        return cache

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


def _read_manifest(folder: Path) -> Any:
    try:
        return json.loads((folder / _MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def _arrays_whole(folder: Path, shapes: Sequence[Any], *, rows: int) -> bool:
    """Tell whether every array file is there and has its full size; a file cut short is no reason to fail, but to begin anew."""
    wanted = [(f"live{index}.npy", (rows, *shape), dtype) for index, (shape, dtype) in enumerate(shapes)]
    try:
        for name, shape, dtype in [*wanted, ("done.npy", (_chunks(rows),), "uint32")]:
            array = np.load(folder / name, mmap_mode="r")
            if array.shape != shape or str(array.dtype) != dtype:
                return False
    except (OSError, ValueError, EOFError):
        return False
    return True


def _make_(folder: Path, live: Sequence[Live], *, rows: int, dtype: str) -> None:
    """Make empty arrays, after asking the disk for the room they need."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MANIFEST).unlink(missing_ok=True)
    needed = sum(rows * int(np.prod(part.shape, dtype=np.int64)) * _stored(part, dtype).itemsize for part in live)
    free = shutil.disk_usage(folder).free
    if needed * 1.02 + 2**20 > free:
        raise CacheError(
            f"The activation cache needs {needed / 2**20:,.0f} MiB in {str(folder.parent)!r}, where {free / 2**20:,.0f} MiB are free. "
            "Give another folder with cache=, dtype='float16' for half the size, or cache=None to compute the frozen part every epoch."
        )
    for index, part in enumerate(live):
        np.lib.format.open_memmap(folder / f"live{index}.npy", mode="w+", dtype=_stored(part, dtype), shape=(rows, *part.shape))
    np.lib.format.open_memmap(folder / "done.npy", mode="w+", dtype=np.uint32, shape=(_chunks(rows),))


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
        lock = (folder / "lock").open("w")
    except OSError as error:
        raise CacheError(
            f"The cache folder {str(folder)!r} cannot be written: {error.strerror or error}. Give another one with cache=."
        ) from error
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


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
    for manifest in sorted(root.glob(f"*/{_MANIFEST}"), key=lambda path: path.stat().st_mtime):
        content = _read_manifest(manifest.parent)
        if content is not None:
            done = min(_finished_chunks(manifest.parent) * content["chunk"], content["rows"])
            size = sum(path.stat().st_size for path in manifest.parent.iterdir())
            found.append(CacheEntry(manifest.parent, content["rows"], done, size))
    return found


def _finished_chunks(folder: Path) -> int:
    try:
        return int((np.load(folder / "done.npy", mmap_mode="r") != 0).sum())
    except (OSError, ValueError, EOFError):
        return 0


def clear_caches(root: Path) -> list[CacheEntry]:
    """Delete the caches below a folder; anything else in it stays.

    Args:
        root: the folder given as `cache=`.

    Returns:
        What was deleted.
    """
    entries = list_caches(root)
    for entry in entries:
        shutil.rmtree(entry.folder)
    return entries
