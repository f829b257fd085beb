"""Locks on folders and files: one process, or one thread of it, writes at a time."""

import errno
import os
import re
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from ..errors import InputError, SettingError
from .formats import writable
from .remote import at_hand, is_url
from .text import printable

if sys.platform == "win32":
    import msvcrt
else:
    try:
        import fcntl
    except ModuleNotFoundError:  # not on every system: see `_is_locked_now`
        fcntl = None  # type: ignore[assignment]

LOCK_FILE = ".regraft.lock"  # Lock file in a folder that is being written, removed at the end. One left by a killed process blocks nobody
_POLL = 0.05
_ADDRESS = re.compile(r"(s3a?|gs|gcs|abfss?|az|oss|hf|https?|memory):/")  # Start of a path that was built from an address
_TRIES = 100
_BUSY = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})
_OF_FILES = frozenset((".keras", ".h5", ".hdf5", ".onnx", ".pmml", ".pt", ".pt2", ".pth", ".safetensors", ".csv", ".json", ".zip"))
"""Endings of names that stand for a file, not for a folder that is written."""

_HELD: ContextVar[frozenset[Path]] = ContextVar("regraft_held", default=frozenset())


@contextmanager
def held_folder(folder: str | Path, *, error: type[InputError] = SettingError, wait: float = 0.0) -> Iterator[Path]:
    """Hold a folder exclusively. The same thread may hold it again inside.
    `wait` is the number of seconds to wait for another process. An address is held as a local copy; see `at_hand`."""
    if is_url(folder):
        with at_hand(folder) as copy, held_folder(copy, error=error) as held:
            yield held
        return
    with writable(folder, error=error):
        target = _real(folder)
    if target.suffix.lower() in _OF_FILES and not target.exists():
        raise error(
            f"{printable(folder)!r} is the name of a file, and a folder is written. Give a name such as {target.stem!r}; the export of the "
            "network that is saved there writes a file."
        )
    if target in _HELD.get():
        yield target
        return
    missing = [part for part in (target, *target.parents) if not part.exists()]
    try:
        with _lock_in(target, error=error, wait=wait):
            token = _HELD.set(_HELD.get() | {target})
            try:
                yield target
            finally:
                _HELD.reset(token)
    finally:
        for part in missing:
            with suppress(OSError):  # not empty
                part.rmdir()


@contextmanager
def _lock_in(target: Path, *, error: type[InputError], wait: float) -> Iterator[None]:
    with writable(target, error=error):
        handle = _taken(target, wait)
    if handle is None:
        shown = repr(printable(target))
        raise error(f"Another process is writing into the folder {shown}. Wait until it has ended, or choose another folder.")
    with ExitStack() as stack:
        stack.callback(os.close, handle)
        try:
            yield
        finally:
            if sys.platform == "win32":  # an open file cannot be removed
                stack.close()
            with suppress(OSError):
                (target / LOCK_FILE).unlink()


def _real(folder: str | Path) -> Path:
    if isinstance(folder, Path) and _ADDRESS.match(str(folder)):
        raise OSError(errno.EINVAL, "an address is not taken here, a folder of this machine is")
    try:
        return Path(os.path.realpath(folder))
    except ValueError as problem:  # a null character in the name
        raise OSError(errno.EINVAL, str(problem)) from problem


def _taken(folder: Path, wait: float) -> int | None:
    for last in (*[False] * _TRIES, True):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return locked_file(folder / LOCK_FILE, wait=wait)
        except FileNotFoundError:  # another process created the folder and has removed it since
            if last:
                raise
    return None


def locked_file(path: Path, *, wait: float) -> int | None:
    """Open a file, creating it if needed, and lock it.
    Return the handle, which the caller closes, or None if another process still holds the lock after `wait` seconds."""
    deadline = time.monotonic() + wait
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        try:
            free = _is_locked_now(handle)
            if free and _is_at(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)
        if not free and time.monotonic() >= deadline:
            return None
        time.sleep(0 if free else _POLL)


def _is_locked_now(handle: int) -> bool:
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        elif fcntl is None:
            raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as problem:
        if problem.errno in _BUSY:
            return False
        warnings.warn(  # network drives may have no locks
            f"This file system has no locks ({problem.strerror}): do not let two processes write into one folder.", stacklevel=2
        )
    return True


def _is_at(handle: int, path: Path) -> bool:
    """Return whether an open file is still the one at its path. The previous holder of the lock may have removed or replaced it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
