"""Feature caches on disk.

A cache is a folder named by the digest of its facts. It holds `manifest.json` (the facts), `live0.npy`, … (the rows), `done.npy` (a
checksum for each finished chunk) and, while it is filled, a lock. A chunk counts as finished only if its checksum is right when the cache
is opened. So a process or machine that stops at any moment leaves a cache that the next process continues. Disk space is reserved before
the first value is computed. Damaged parts are computed again, never used or repaired.
"""

import errno
import io
import math
import os
import shutil
import stat
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import ConfigDict, Field

from ..errors import CacheError, InputError
from ..files.formats import opening, reason_of
from ..files.locks import LOCK_FILE, locked_file, release
from ..files.room import in_file, reserve
from ..files.schema import Plain, checked, read_json
from ..files.writing import LOCK, PARTIAL, flush_folder, write_json
from .cache import CHUNK, ActivationCache, Column, chunks_of, stored_type
from .cut import LiveOutput
from .identity import key_of

_MANIFEST = "manifest.json"
_DONE = "done.npy"


class _Manifest(Plain):
    """Manifest of a cache.
    `arrays`: shape of one row and dtype of each live output."""

    model_config = ConfigDict(extra="forbid")

    facts: dict[str, str | int | list[str]]  # facts of its identity; their digest is the name of the folder
    rows: Annotated[int, Field(ge=0)]
    chunk: Annotated[int, Field(ge=1)]
    arrays: list[Annotated[tuple[list[Annotated[int, Field(ge=0)]], str], Field(strict=False)]]
    engines: list[str] = Field(default_factory=list)  # engines that have computed rows, as in `engine_of`
    about: dict[str, str] = Field(default_factory=dict)  # readable names of the network and the data

    def rows_of(self) -> dict[str, Any]:
        """Return the fields that determine the rows."""
        return self.model_dump(exclude={"engines", "about"})


@dataclass(frozen=True)
class CacheFolder:
    """Folder of one cache, existing or not."""

    path: Path  # path of the folder; its name is the digest of the facts
    live: tuple[LiveOutput, ...]
    rows: int
    dtype: str  # storage dtype of floating-point outputs, "float32" or "float16"
    facts: Mapping[str, Any]
    engine: str = ""  # engine that writes, as in `engine_of`
    about: Mapping[str, str] = field(default_factory=dict)  # readable names of the network and the data, for `list_caches`

    @property
    def _kinds(self) -> list[tuple[str, np.dtype[Any], tuple[int, ...]]]:
        """Name, dtype and shape of each array file."""
        made = [(f"live{at}.npy", stored_type(part, self.dtype), (self.rows, *part.shape)) for at, part in enumerate(self.live)]
        return [*made, (_DONE, np.dtype(np.uint32), (chunks_of(self.rows),))]

    def engines(self) -> list[str]:
        """Return the engines that have computed rows of the existing cache."""
        found = _manifest_in(self.path)
        return [] if found is None else found.engines

    def opened(self, *, writing: bool = False) -> ActivationCache | None:
        """Return the existing cache, with the chunks finished whose checksums are right; None if it is missing or damaged."""
        found = _manifest_in(self.path)
        if found is None or found.rows_of() != self._manifest().rows_of():
            return None
        columns = [_mapped(self.path / name, dtype, shape=shape) for name, dtype, shape in self._kinds]
        whole = [column for column in columns if column is not None]
        if len(whole) < len(columns):
            return None
        if writing:
            self._open_for_writing_(whole, [*found.engines, *({self.engine} - set(found.engines))])
        cache = ActivationCache(self.live, self.rows, columns=whole[:-1], marks=whole[-1], folder=self.path)
        cache.forget_broken_()
        return cache

    def made(self) -> ActivationCache:
        """Return an empty cache with its disk space reserved. An existing cache is deleted; processes that have mapped it keep its data."""
        kinds = self._kinds
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for name in (_MANIFEST, *(name for name, *_ in kinds)):
                (self.path / name).unlink(missing_ok=True)
            free = shutil.disk_usage(self.path).free
            if self._bytes * 1.02 + 2**20 > free:
                raise OSError(errno.ENOSPC, f"only {free / 2**20:,.1f} MiB are free")
            try:
                for name, dtype, shape in kinds:
                    _make(self.path / name, dtype, shape=shape)
            except OSError:
                for name, *_ in kinds:
                    (self.path / name).unlink(missing_ok=True)
                raise
            flush_folder(self.path)
            self._write_manifest_([self.engine])
        except OSError as problem:
            raise self._unwritten(problem) from problem
        cache = self.opened(writing=True)
        if cache is None:
            raise CacheError(f"The cache folder {str(self.path)!r} does not keep what is written into it. Give another one with cache=.")
        return cache

    def _manifest(self) -> _Manifest:
        arrays = [(list(part.shape), str(stored_type(part, self.dtype))) for part in self.live]
        return _Manifest(facts=dict(self.facts), rows=self.rows, chunk=CHUNK, arrays=arrays, about=dict(self.about))

    def _write_manifest_(self, engines: Sequence[str]) -> None:
        write_json(self.path / _MANIFEST, {**self._manifest().model_dump(), "engines": list(engines)})

    @property
    def _bytes(self) -> int:
        return sum(int(np.prod(shape, dtype=np.int64)) * dtype.itemsize for _, dtype, shape in self._kinds)

    def _open_for_writing_(self, columns: Sequence[Column], engines: Sequence[str]) -> None:
        """Open the files for writing, and reserve their disk space again: a copied file may be sparse."""
        try:
            for column, (name, _dtype, _shape) in zip(columns, self._kinds, strict=True):
                column.handle = os.open(self.path / name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0))
                reserve(column.handle, column.offset + column.values.nbytes)
            if list(engines) != self.engines():
                self._write_manifest_(engines)
        except OSError as problem:
            for column in columns:
                column.close()
            raise self._unwritten(problem) from problem

    def _unwritten(self, problem: OSError) -> CacheError:
        return CacheError(
            f"The feature cache needs {self._bytes / 2**20:,.1f} MiB in {str(self.path.parent)!r}, which cannot be written: "
            f"{reason_of(problem)}. Give another folder with cache=, dtype='float16' for half the size, or cache=None to compute the "
            "frozen part every epoch."
        )


def _header(dtype: np.dtype[Any], shape: tuple[int, ...]) -> bytes:
    """Return the header of an .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape})
    return file.getvalue()


def _make(path: Path, dtype: np.dtype[Any], *, shape: tuple[int, ...]) -> None:
    header = _header(dtype, shape)
    with path.open("xb", buffering=0) as file:
        reserve(file.fileno(), len(header) + int(np.prod(shape, dtype=np.int64)) * dtype.itemsize)
        file.seek(0)
        file.write(header)
        os.fsync(file.fileno())


def _mapped(path: Path, dtype: np.dtype[Any], *, shape: tuple[int, ...]) -> Column | None:
    """Map an array file; None unless its size and header are exactly as expected. The header is compared, not parsed."""
    header, size = _header(dtype, shape), int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    try:
        with opening(path, "cache array"):
            facts = path.lstat()
            if not stat.S_ISREG(facts.st_mode) or facts.st_size != len(header) + size:
                return None
            with path.open("rb") as file:
                if file.read(len(header)) != header:
                    return None
            if not size:
                return Column(np.empty(shape, dtype), offset=len(header))
            return Column(in_file(np.memmap(path, dtype, mode="r", offset=len(header), shape=shape)), offset=len(header))
    except InputError:
        return None


def _manifest_in(folder: Path) -> _Manifest | None:
    path = folder / _MANIFEST
    if path.is_symlink():
        return None
    try:
        found = checked(read_json(path, "cache manifest"), _Manifest, what=str(path), error=CacheError)
    except InputError:
        return None
    return found if folder.name == key_of(found.facts) else None


@dataclass(frozen=True)
class CacheEntry:
    """Description of one cache on disk."""

    folder: Path
    rows: int
    done: int  # number of finished rows
    size: int  # in bytes
    network: str = ""
    data: str = ""
    made: float = 0.0  # time of the last write of the manifest, in seconds since 1970


def list_caches(root: Path) -> list[CacheEntry]:
    """Return the caches below a folder, oldest first."""
    found = []
    for folder in _subfolders(root):
        own = _own_files(folder)
        if own is None:
            continue
        manifest, files = own
        marks = _mapped(folder / _DONE, np.dtype(np.uint32), shape=(-(-manifest.rows // manifest.chunk),))
        done = min((0 if marks is None else int((marks.values != 0).sum())) * manifest.chunk, manifest.rows)
        size, made = sum(facts.st_size for facts in files.values()), files[_MANIFEST].st_mtime
        network, data = (manifest.about.get(name, "") for name in ("network", "data"))
        found.append(CacheEntry(folder, manifest.rows, done, size, network, data, made))
    return sorted(found, key=lambda entry: (entry.made, entry.folder))


def _subfolders(root: Path) -> list[Path]:
    try:
        with os.scandir(root) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _own_files(folder: Path) -> tuple[_Manifest, dict[str, os.stat_result]] | None:
    """Return the manifest of a cache folder, and name -> file status of its files; None if a file is foreign or not regular, or the
    manifest is missing or damaged."""
    found, manifest = {}, _manifest_in(folder)
    if manifest is None:
        return None
    arrays = (f"live{at}.npy" for at in range(len(manifest.arrays)))
    known = {_MANIFEST, _DONE, LOCK_FILE, f".{_MANIFEST}{PARTIAL}", f".{_MANIFEST}{LOCK}", *arrays}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name not in known or not entry.is_file(follow_symlinks=False):
                    return None
                found[entry.name] = entry.stat(follow_symlinks=False)
    except OSError:
        return None
    return (manifest, found) if _MANIFEST in found else None


def clear_caches(root: Path, *, before: float = math.inf) -> list[CacheEntry]:
    """Delete the caches below a folder and return them. Other files and caches that are being filled stay.
    `before`: delete only caches made earlier, in seconds since 1970."""
    return [entry for entry in list_caches(root) if entry.made < before and _deleted(entry.folder)]


def _deleted(folder: Path) -> bool:
    try:
        lock = locked_file(folder / LOCK_FILE, wait=0.0)
        if lock is None:
            return False
        try:
            own = _own_files(folder)
            files = set(own[1] if own else ()) - {LOCK_FILE}  # one who waits for the lock must not begin before the end
            for name in sorted(files, key=lambda name: name != _MANIFEST):  # without it, the rest is no cache
                (folder / name).unlink(missing_ok=True)
        finally:
            release(lock)
        with suppress(OSError):  # a new file appeared in the meantime
            folder.rmdir()
        return own is not None
    except OSError as problem:
        raise CacheError(f"The cache {str(folder)!r} cannot be deleted: {reason_of(problem)}.") from problem
