"""The feature cache: outputs of the frozen part, computed once for each item and view.

Rows are kept in chunks; each chunk that is finished has a checksum. How a cache lies on the disk is the matter of `storage.py`.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import CacheError
from ..files.formats import reason_of
from ..files.room import large_array, release_pages, write_at
from .cut import Live

__all__ = ["CHUNK", "ActivationCache", "Column", "chunks_of", "stored_type"]

CHUNK = 256
RELEASED = 64
"""Chunks after which the memory of mapped files is let go of."""
_HALF = float(np.finfo(np.float16).max)


def stored_type(part: Live, dtype: str) -> np.dtype[Any]:
    """Return the type in which a live output, `part`, is stored: `dtype` for floating-point ones, its own for others."""
    return np.dtype(dtype) if part.dtype.is_floating_point else np.dtype(str(part.dtype).removeprefix("torch."))


def chunks_of(rows: int) -> int:
    """Return how many chunks so many rows take."""
    return -(-rows // CHUNK)


@dataclass
class Column:
    """All rows of one live output.

    Attributes:
        values: (rows, *shape), in memory, or mapped from a file and then only read.
        handle: of that file where it is open for writing; None where there is none.
    """

    values: np.ndarray
    handle: int | None = None
    offset: int = 0

    def put(self, start: int, values: np.ndarray) -> None:
        """Write consecutive rows from `start`; `values` are (n, *shape)."""
        if self.handle is None:
            self.values[start : start + len(values)] = values
        elif values.size:
            place = self.offset + start * (values.nbytes // len(values))
            write_at(self.handle, place, content=np.ascontiguousarray(values).data)

    def close(self) -> None:
        """Write no more."""
        if self.handle is not None:
            with suppress(OSError):
                os.close(self.handle)
            self.handle = None


class ActivationCache:
    """Rows of live outputs: one row for each item and view, in the order (view, item).

    Attributes:
        columns: one for each of `live`.
        done: (chunks,) uint32, the checksum of each finished chunk and 0 for the others.
        marks: the file that keeps `done`; None where the cache lives as long as the process.
        folder: where it lies on the disk, for messages; None where it does not.
    """

    def __init__(
        self, live: Sequence[Live], rows: int, *, columns: Sequence[Column], marks: Column | None = None, folder: Path | None = None
    ) -> None:
        self.live = tuple(live)
        self.rows = rows
        self.columns = list(columns)
        self.marks = marks
        self.folder = folder
        self.done = np.zeros(chunks_of(rows), np.uint32) if marks is None else np.array(marks.values)

    @classmethod
    def in_memory(cls, live: Sequence[Live], rows: int, *, dtype: str, folder: Path | None = None) -> ActivationCache:
        """Return an empty cache that lives as long as the process.

        `folder`: where large ones are kept, in files without a name; None for memory alone.
        """
        kinds = [((rows, *part.shape), stored_type(part, dtype)) for part in live]
        made = [np.empty(*kind) if folder is None else large_array(*kind, folder=folder) for kind in kinds]
        return cls(live, rows, columns=[Column(values) for values in made])

    def forget_broken_(self) -> None:
        """Let no chunk count as finished whose checksum does not hold."""
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
        """The rows of every chunk that is not done."""
        return [self.rows_of(int(chunk)) for chunk in np.flatnonzero(self.done == 0)]

    @property
    def finished(self) -> list[range]:
        """The rows of every chunk that is done."""
        return [self.rows_of(int(chunk)) for chunk in np.flatnonzero(self.done)]

    def rows_of(self, chunk: int) -> range:
        """Return the rows of a chunk."""
        return range(chunk * CHUNK, min((chunk + 1) * CHUNK, self.rows))

    @property
    def bytes(self) -> int:
        """Size of all rows in bytes."""
        return sum(column.values.nbytes for column in self.columns)

    def put(self, start: int, values: Sequence[Tensor]) -> None:
        """Write consecutive rows from `start`; `values` are (n, *shape) for each live output."""
        for column, part, value in zip(self.columns, self.live, values, strict=True):
            largest = float(value.abs().amax()) if column.values.dtype == np.float16 and value.numel() else 0.0
            if _HALF < largest < np.inf:
                raise CacheError(
                    f"The output '{part.name}' reaches {largest:.3g}, too large for float16 (at most {_HALF:g}). "
                    "Cache it with dtype='float32'."
                )
            try:
                column.put(start, _plain(value, column.values.dtype))
            except OSError as problem:
                raise self._unwritten(problem) from problem

    def finish(self, rows: range) -> None:
        """Mark a chunk, the range `rows`, as done. Its checksum decides whether it is used when the cache is opened after a crash."""
        chunk = rows.start // CHUNK
        self.done[chunk] = self._checksum(chunk)
        if self.marks is not None and self.marks.handle is not None:
            try:
                self.marks.put(chunk, self.done[chunk : chunk + 1])
            except OSError as problem:
                raise self._unwritten(problem) from problem

    def flush(self) -> None:
        """Wait until everything is on the disk: some report only then that they have no room."""
        for column in [*self.columns, *([self.marks] if self.marks else [])]:
            if column.handle is not None:
                try:
                    os.fsync(column.handle)
                except OSError as problem:
                    raise self._unwritten(problem) from problem

    def _unwritten(self, problem: OSError) -> CacheError:
        return CacheError(
            f"The feature cache in {str(self.folder)!r} cannot be written: {reason_of(problem)}. Give another folder with cache=; "
            "what is finished is kept."
        )

    def close(self) -> None:
        """Write no more; what is there can still be read."""
        for column in [*self.columns, *([self.marks] if self.marks else [])]:
            column.close()

    def get(self, rows: np.ndarray) -> list[Tensor]:
        """Return copies of some rows, (n, *shape) for each live output, in the dtype that the network made."""
        return [torch.from_numpy(column.values[rows]).to(part.dtype) for column, part in zip(self.columns, self.live, strict=True)]

    def stored(self, rows: np.ndarray) -> list[np.ndarray]:
        """Return copies of some rows as they are stored."""
        return [column.values[rows] for column in self.columns]

    def in_its_types(self, values: Sequence[Tensor]) -> list[np.ndarray]:
        """Return what the network made as it would be stored; `values` are (n, *shape) for each live output."""
        return [_plain(value, column.values.dtype) for column, value in zip(self.columns, values, strict=True)]


def _plain(value: Tensor, dtype: np.dtype[Any]) -> np.ndarray:
    plain = value.detach().cpu()
    plain = plain.float() if plain.dtype == torch.bfloat16 else plain
    return plain.numpy().astype(dtype, copy=False)
