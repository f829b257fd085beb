"""Remote files. This module alone uses fsspec, for `s3://`, `gs://`, `hf://`, `https://`, `memory://` and others.

Files open as streams, and only the parts that are read are downloaded. Libraries that need a path get a temporary download. A folder that
is written is a local copy whose files are uploaded. The file that marks a folder as complete is uploaded last. A lock file at the address,
which its holder renews, keeps a second process from writing there.
"""

import os
import re
import shutil
import socket
import tempfile
import urllib.request
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path, PurePosixPath
from threading import Event, Thread
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from ..errors import DataError, MissingExtraError, RegraftError, SettingError, UnsafeFileError, near_names, optional_import
from .formats import opening, reason_of
from .scratch import scratch_folder
from .text import printable

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")
_SIGNS = frozenset({"regraft.json", "manifest.json"})
"""Files without which a folder counts as empty: those of a saved network and of a feature cache."""
_OWN = ".regraft."
_LOCK = f"{_OWN}lock"
_RENEWED, _FREE = 30.0, 150.0  # Seconds after which a lock is renewed, and after which one that was not is free
_COMMITS = frozenset({"hf"})  # Protocols where each written file is a commit; they have no locks
_WITHOUT_FOLDERS = frozenset({"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "oss", "memory", "hf"})
"""Protocols whose files need no folder."""


def is_url(source: Any) -> bool:
    """Return whether a source is an address that fsspec handles, such as "s3://bucket/photos"."""
    return isinstance(source, str) and _URL.match(source) is not None


def is_reachable(address: str, *, wait: float = 3.0) -> bool:
    """Return whether a web address answers within `wait` seconds; True where a proxy stands between."""
    if urllib.request.getproxies():
        return True
    parts, found = urlsplit(address), list[socket.socket]()

    def reach() -> None:
        with suppress(OSError):
            port = parts.port or (80 if parts.scheme == "http" else 443)
            found.append(socket.create_connection((parts.hostname or "", port), timeout=wait))

    trying = Thread(target=reach, daemon=True)  # a name that does not resolve may take longer than any timeout
    trying.start()
    trying.join(wait)
    for connection in found:
        connection.close()
    return bool(found)


def suffix_of(source: str | Path) -> str:
    """Return the suffix of a path or address in lower case, such as ".csv"; "" if there is none."""
    return Path(source.partition("?")[0] if isinstance(source, str) and is_url(source) else source).suffix.lower()


@contextmanager
def _reached(url: str, done: str = "read") -> Iterator[tuple[Any, str]]:
    """Yield the file system of an address and the path in it. Errors inside the context become one error of regraft."""
    library = optional_import("fsspec", "remote", purpose=f"{printable(url, width=60)!r}")
    protocol, known = url.partition("://")[0].lower(), sorted({*library.available_protocols(), *library.registry})
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
    except Exception as problem:  # from botocore, aiohttp and others (access, missing bucket), or from the reader of the stream
        raise DataError(f"{printable(url)!r} cannot be {done}: {reason_of(problem)}. Check address, access and file.") from problem


def files_at(url: str) -> dict[str, str]:
    """Return the addresses of all files below a folder, by relative path in order. Return an empty dict for a single file."""
    with _reached(url) as (system, root):
        if system.isfile(root):
            return {}
        found = _below(system, root)
        if not found:
            raise DataError(f"There is nothing at {printable(url)!r}. Check the address.")
        return {name: str(system.unstrip_protocol(path)) for name, path in found.items()}


def _below(system: Any, root: str) -> dict[str, str]:
    """Return the files below a folder by relative path, in order, but not those of locks; an empty dict if the folder does not exist."""
    start = f"{root.rstrip('/')}/"
    found = (name for name in sorted(system.find(root.rstrip("/"))) if name.startswith(start))
    return {name[len(start) :]: name for name in found if not PurePosixPath(name).name.startswith(_OWN)}


def names_in(place: str | Path) -> list[str]:
    """Return the names of the files in a local or remote folder; an empty list if the folder does not exist."""
    if not is_url(place):
        return sorted(path.name for path in Path(place).glob("*") if path.is_file())
    with _reached(str(place)) as (system, root):
        return [name for name in _below(system, root) if "/" not in name]


@contextmanager
def stream_of(source: str | Path, kind: str) -> Iterator[BinaryIO]:
    """Open a local or remote file. Of a remote file only the parts that are read are downloaded."""
    if is_url(source):
        with _reached(str(source)) as (system, path), system.open(path, "rb") as stream:
            yield stream
    else:
        with opening(source, kind) as file, file.open("rb") as stream:
            yield stream


@contextmanager
def fetched(url: str) -> Iterator[Path]:
    """Yield a temporary download of a file or a whole folder, under its own name."""
    with scratch_folder("fetched") as folder:
        with _reached(url) as (system, path):
            here = folder / _name_of(path)
            system.invalidate_cache()
            files = {} if system.isfile(path) else _below(system, path)
            if files:
                _fetch(system, files, folder=here)
            else:
                system.get_file(path, str(here))
        yield here


def _name_of(path: str) -> str:
    return re.sub(r"[^\w.-]", "_", path.rstrip("/").rsplit("/", 1)[-1]) or "data"


def _fetch(system: Any, files: dict[str, str], *, folder: Path) -> None:
    """Download files by their relative paths into a folder."""
    for name, path in files.items():
        if ".." in PurePosixPath(name).parts or name.startswith("/") or "\\" in name or "\0" in name:
            raise UnsafeFileError(f"{printable(path)!r} would be fetched to a place outside of its folder.")
        if name and not name.endswith("/"):  # an empty object stands for a folder
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            system.get_file(path, str(folder / name))


def _make_folder_(system: Any, path: str) -> None:
    """Create the folder of a file, if the file system has folders."""
    if not _WITHOUT_FOLDERS & _protocols(system):
        system.makedirs(path.rpartition("/")[0], exist_ok=True)


def _protocols(system: Any) -> set[str]:
    return {system.protocol} if isinstance(system.protocol, str) else set(system.protocol)


# ── folders that are written ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Lock:
    """Lock file at an address. A thread renews it; one that was not renewed for `_FREE` seconds was left by a killed process."""

    def __init__(self, url: str) -> None:
        self._url, self._ended, self._renewing = url, Event(), Thread(target=self._renew, daemon=True)
        self._own = f"{socket.gethostname()}, process {os.getpid()}, {uuid.uuid4().hex}".encode()

    def take_(self) -> None:
        """Take the lock, or raise `SettingError` if another process holds it."""
        with _reached(self._url, "written") as (system, root):
            path, age = f"{root.rstrip('/')}/{_LOCK}", 0.0
            probe = f"{root.rstrip('/')}/{_OWN}{os.getpid()}-{uuid.uuid4().hex}"  # others take the lock at the same time
            _make_folder_(system, probe)
            system.pipe_file(probe, b"")
            system.invalidate_cache()
            if system.exists(path):
                with suppress(NotImplementedError):
                    age = (system.modified(probe) - system.modified(path)).total_seconds()
                if age > _FREE:
                    system.rm_file(path)
            system.rm_file(probe)
            if _COMMITS & _protocols(system):
                return
            with suppress(FileExistsError):
                system.pipe_file(path, self._own, mode="create")
            holder = system.cat_file(path)
            if holder != self._own:
                who = printable(holder.decode(errors="replace").rpartition(",")[0])
                raise SettingError(
                    f"Another process writes to {printable(self._url)!r} ({who}). "
                    f"Wait until it has ended, or choose another address. If it was killed, the address is free {_FREE:.0f} s after that."
                )
        self._renewing.start()

    def _renew(self) -> None:
        while not self._ended.wait(_RENEWED):
            with suppress(RegraftError), _reached(self._url, "written") as (system, root):
                if self._is_own(system, root):
                    system.pipe_file(f"{root.rstrip('/')}/{_LOCK}", self._own)

    def _is_own(self, system: Any, root: str) -> bool:
        path = f"{root.rstrip('/')}/{_LOCK}"
        system.invalidate_cache()
        return bool(system.exists(path) and system.cat_file(path) == self._own)

    def check(self) -> None:
        """Raise `SettingError` if the lock was taken, and another process has it now."""
        if self._renewing.is_alive():
            with _reached(self._url, "written") as (system, root):
                if not self._is_own(system, root):
                    raise SettingError(
                        f"Another process writes to {printable(self._url)!r} now: this one did not renew its lock for {_FREE:.0f} s. "
                        "Choose another address, or run this again when the other process has ended."
                    )

    def release_(self) -> None:
        """Remove the lock file, if this process has it."""
        if self._renewing.is_alive():
            self._ended.set()
            self._renewing.join()
            with suppress(RegraftError), _reached(self._url, "written") as (system, root):
                if self._is_own(system, root):
                    system.rm_file(f"{root.rstrip('/')}/{_LOCK}")


@dataclass(frozen=True)
class _Copy:
    """Local copy of a remote folder. `sent` holds size and time of each file that is equal on both sides."""

    url: str
    folder: Path
    sent: dict[str, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def lock(self) -> _Lock:
        """Lock of the address."""
        return _Lock(self.url)

    def files(self) -> dict[str, tuple[int, int]]:
        """Return size and time of each file that belongs at the address, by relative path."""
        found = [path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file() and not path.is_symlink()]
        kept = [path for path in found if not any(part.startswith(".regraft") or part.endswith(".partial") for part in path.parts)]
        facts = {path.as_posix(): (self.folder / path).stat() for path in kept}
        return {name: (one.st_size, one.st_mtime_ns) for name, one in facts.items()}

    def fetch(self) -> None:
        """Download the folder. First check, before any work, that the address can be written."""
        with _reached(self.url, "written") as (system, root):
            system.invalidate_cache()
            _fetch(system, _below(system, root), folder=self.folder)
        self.sent.update(self.files())

    def send(self, names: Iterable[str] | None = None) -> None:
        """Upload the changes, or those of some files. The file that marks a folder as complete is removed first and uploaded last."""
        self.lock.check()
        now = self.files()
        changed = {name for name, facts in now.items() if self.sent.get(name) != facts}
        gone = set() if names is not None else self.sent.keys() - now.keys()
        changed &= changed if names is None else set(names)
        signs = {name for name in changed | gone if PurePosixPath(name).name in _SIGNS}
        with _reached(self.url, "written") as (system, root):
            for name in [*sorted(signs & self.sent.keys()), *sorted(gone - signs)]:
                system.rm_file(f"{root.rstrip('/')}/{name}")
                del self.sent[name]
            for name in [*sorted(changed - signs), *sorted(changed & signs)]:
                path = f"{root.rstrip('/')}/{name}"
                _make_folder_(system, path)
                system.put_file(str(self.folder / name), path)
                self.sent[name] = now[name]


_COPIES: ContextVar[tuple[_Copy, ...]] = ContextVar("regraft_copies", default=())


@contextmanager
def at_hand(place: str | Path) -> Iterator[Path]:
    """Yield a folder to work in: the path itself, or a local copy of an address. The copy's changes are uploaded at the end.
    If the process is killed, a partial saved network at the address never counts as complete. An address that another process writes to is
    an error."""
    if not is_url(place):
        yield Path(place)
        return
    with _reached(str(place), "written") as (_system, root):
        folder = Path(tempfile.mkdtemp(prefix="regraft-")) / _name_of(root)
    folder.mkdir()
    copy, kept = _Copy(str(place).rstrip("/"), folder), False
    try:
        copy.lock.take_()
        copy.fetch()
        token = _COPIES.set((*_COPIES.get(), copy))
        try:
            yield folder
        except RegraftError as problem:
            problem.args = tuple(str(part).replace(str(folder), copy.url) for part in problem.args)
            raise
        finally:
            _COPIES.reset(token)
            kept = True
            _sent(copy)
            kept = False
    finally:
        copy.lock.release_()
        if not kept:
            shutil.rmtree(folder.parent, ignore_errors=True)


def _sent(copy: _Copy) -> None:
    try:
        copy.send()
    except RegraftError as problem:
        raise SettingError(f"{problem} What was made is kept in {printable(copy.folder)!r}; copy it there.") from problem


def send_now(path: Path) -> None:
    """Upload a file, such as a checkpoint, at once if its folder is a local copy. Errors are ignored: the final upload repeats it."""
    for copy in _COPIES.get():
        if path.is_relative_to(copy.folder):
            with suppress(RegraftError):
                copy.send([path.relative_to(copy.folder).as_posix()])


def taken(url: str, folder: Path) -> None:
    """Download a complete folder from an address. Do nothing if it is incomplete or unreachable."""
    with suppress(DataError), _reached(url) as (system, root):
        system.invalidate_cache()
        files = _below(system, root)
        if any(name in _SIGNS for name in files):
            _fetch(system, {name: files[name] for name in sorted(files, key=_SIGNS.__contains__)}, folder=folder)


def brought(folder: Path, url: str) -> None:
    """Upload a complete folder to an address, unless a complete one is there already."""
    with _reached(url, "written") as (system, root):
        system.invalidate_cache()
        if any(name in _SIGNS for name in _below(system, root)):
            return
    _Copy(url, folder).send()
