"""Feature cache: outputs of the frozen part, computed once for each example and view.

Rows are stored in chunks; each finished chunk has a checksum. `storage.py` defines the layout on disk.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheError
from ..files.formats import reason_of
from ..files.room import large_array, release_pages, write_at
from .cut import LiveOutput

CHUNK = 256
RELEASED = 64  # Number of chunks after which the memory of mapped files is released
_HALF = float(np.finfo(np.float16).max)


def stored_type(part: LiveOutput, dtype: str) -> np.dtype[Any]:
    """Return the storage dtype of a live output: `dtype` for floating-point outputs, else the output's own."""
    return np.dtype(dtype) if part.dtype.is_floating_point else np.dtype(str(part.dtype).removeprefix("torch."))


def chunks_of(rows: int) -> int:
    """Return the number of chunks for a number of rows."""
    return -(-rows // CHUNK)


@dataclass
class Column:
    """Rows of one live output."""

    values: np.ndarray  # (rows, *shape) in memory, or mapped read-only from a file
    handle: int | None = None  # descriptor of the file if it is open for writing, else None
    offset: int = 0  # position of the first row in the file, in bytes

    def put(self, start: int, values: np.ndarray) -> None:
        """Write consecutive rows from `start`, (n, *shape)."""
        if self.handle is None:
            self.values[start : start + len(values)] = values
        elif values.size:
            place = self.offset + start * (values.nbytes // len(values))
            write_at(self.handle, place, content=np.ascontiguousarray(values).data)

    def close(self) -> None:
        """Close the file for writing."""
        if self.handle is not None:
            with suppress(OSError):
                os.close(self.handle)
            self.handle = None


class ActivationCache:
    """Feature cache with one row for each example and view, in the order (view, example).
    `columns`: one column for each of `live`.
    `done`: (chunks,) uint32, the checksum of each finished chunk, 0 for the others.
    `marks`: where `done` is stored; None for a cache that is not stored.
    `folder`: folder on disk, for messages; None for a cache that is not stored."""

    def __init__(
        self, live: Sequence[LiveOutput], rows: int, *, columns: Sequence[Column], marks: Column | None = None, folder: Path | None = None
    ) -> None:
        self.live = tuple(live)
        self.rows = rows
        self.columns = list(columns)
        self.marks = marks or Column(np.zeros(chunks_of(rows), np.uint32))
        self.folder = folder
        self.done = np.array(self.marks.values)

    @classmethod
    def in_memory(cls, live: Sequence[LiveOutput], rows: int, *, dtype: str, folder: Path | None = None) -> ActivationCache:
        """Return an empty cache for the life of the process. `folder`: for unnamed files of large arrays; None: memory only."""
        kinds = [((rows, *part.shape), stored_type(part, dtype)) for part in live]
        made = [np.empty(*kind) if folder is None else large_array(*kind, folder=folder) for kind in kinds]
        return cls(live, rows, columns=[Column(values) for values in made])

    def forget_broken_(self) -> None:
        """Mark chunks with a wrong checksum as not finished."""
        for chunk in np.flatnonzero(self.done):
            if self._checksum(int(chunk)) != self.done[chunk]:
                self.done[chunk] = 0

    def _checksum(self, chunk: int) -> int:
        value = 1
        if chunk % RELEASED == 0:
            release_pages()
        for column in self.columns:
            part = np.ascontiguousarray(column.values[chunk * CHUNK : (chunk + 1) * CHUNK])
            value = zlib.crc32(part.reshape(-1).view(np.uint8).data, value)
        return value or 1

    @property
    def missing(self) -> list[range]:
        """Rows of each unfinished chunk."""
        return [self.rows_of(int(chunk)) for chunk in np.flatnonzero(self.done == 0)]

    @property
    def finished(self) -> list[range]:
        """Rows of each finished chunk."""
        return [self.rows_of(int(chunk)) for chunk in np.flatnonzero(self.done)]

    def rows_of(self, chunk: int) -> range:
        """Return the rows of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.rows))

    @property
    def bytes(self) -> int:
        """Size of all rows in bytes."""
        return sum(column.values.nbytes for column in self.columns)

    def put(self, start: int, values: Sequence[Tensor]) -> None:
        """Write consecutive rows from `start`, (n, *shape) for each live output."""
        for column, part, value in zip(self.columns, self.live, values, strict=True):
            largest = float(value.abs().amax()) if column.values.dtype == np.float16 and value.numel() else 0.0
            if _HALF < largest < np.inf:
                raise CacheError(
                    f"The output '{part.name}' reaches {largest:.3g}, too large for float16 (at most {_HALF:g}). "
                    "Cache it with dtype='float32'."
                )
            with self._writing():
                column.put(start, _plain(value, column.values.dtype))

    def finish(self, rows: range) -> None:
        """Mark a chunk as finished and store its checksum, which is verified when the cache is opened again."""
        chunk = rows.start // CHUNK
        self.done[chunk] = self._checksum(chunk)
        with self._writing():
            self.marks.put(chunk, self.done[chunk : chunk + 1])

    def flush(self) -> None:
        """Write everything to disk; some file systems report only then that the disk is full."""
        with self._writing():
            for column in [*self.columns, self.marks]:
                if column.handle is not None:
                    os.fsync(column.handle)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Raise what prevents writing as `CacheError`."""
        try:
            yield
        except OSError as problem:
            raise CacheError(
                f"The feature cache in {str(self.folder)!r} cannot be written: {reason_of(problem)}. Give another folder with cache=; "
                "what is finished is kept."
            ) from problem

    def close(self) -> None:
        """Close the files for writing; rows can still be read."""
        for column in [*self.columns, self.marks]:
            column.close()

    def get(self, rows: np.ndarray) -> list[Tensor]:
        """Return copies of some rows, (n, *shape) for each live output, in the network's dtype."""
        return [torch.from_numpy(column.values[rows]).to(part.dtype) for column, part in zip(self.columns, self.live, strict=True)]

    def stored(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return copies of some rows in the stored dtype."""
        return [column.values[rows] for column in self.columns]

    def in_its_types(self, values: Sequence[Tensor]) -> list[np.ndarray]:
        """Return live outputs, (n, *shape) each, in the stored dtype."""
        return [_plain(value, column.values.dtype) for column, value in zip(self.columns, values, strict=True)]


def _plain(value: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    plain = value.detach().cpu()
    plain = plain.float() if plain.dtype == torch.bfloat16 else plain
    return plain.numpy().astype(dtype, copy=False)
