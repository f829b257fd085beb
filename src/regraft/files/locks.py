"""Locks on folders and files: one process, or one thread of it, writes at a time."""

import errno
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

from ..errors import InputError, SettingError
from .formats import writable
from .remote import at_hand, is_url
from .text import printable

LOCK_FILE = ".regraft.lock"  # Lock file in a folder that is being written, removed at the end. One left by a killed process blocks nobody
_POLL = 0.05
_ADDRESS = re.compile(r"(s3a?|gs|gcs|abfss?|az|oss|hf|https?|memory):/")  # Start of a path that was built from an address
_TRIES = 100
_OF_FILES = frozenset((".keras", ".h5", ".hdf5", ".onnx", ".pmml", ".pt", ".pt2", ".pth", ".safetensors", ".csv", ".json", ".zip"))
"""Endings of names that stand for a file, not for a folder that is written."""
_WITHOUT_LOCKS = frozenset({errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL})
"""Errors of network drives; macOS has two numbers for "not supported". After ENOSYS filelock keeps a file with its holder."""
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
        lock = _taken(target, wait)
    if lock is None:
        shown = repr(printable(target))
        raise error(f"Another process is writing into the folder {shown}. Wait until it has ended, or choose another folder.")
    try:
        yield
    finally:
        release(lock)


def _real(folder: str | Path) -> Path:
    if isinstance(folder, Path) and _ADDRESS.match(str(folder)):
        raise OSError(errno.EINVAL, "an address is not taken here, a folder of this machine is")
    try:
        return Path(os.path.realpath(folder))
    except ValueError as problem:  # a null character in the name
        raise OSError(errno.EINVAL, str(problem)) from problem


def _taken(folder: Path, wait: float) -> BaseFileLock | None:
    for last in (*[False] * _TRIES, True):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            return locked_file(folder / LOCK_FILE, wait=max(wait, 2 * _POLL))  # once more if another one has just removed the file
        except FileNotFoundError:  # another process created the folder and has removed it since
            if last:
                raise
    return None


def locked_file(path: Path, *, wait: float) -> BaseFileLock | None:
    """Lock a file, creating it if needed. Return the lock, for `release`, or None if another one still holds it after `wait` seconds."""
    os.stat(os.path.join(path.parent, os.curdir))  # filelock would make a folder that is not there
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=-1 if wait == math.inf else wait, poll_interval=_POLL)
    except Timeout:
        return None
    except OSError as problem:
        if problem.errno not in _WITHOUT_LOCKS:
            raise
        warnings.warn(f"This file system has no locks ({problem.strerror}): do not let two processes write into one folder.", stacklevel=2)
    return lock


def release(lock: BaseFileLock) -> None:
    """Remove the file of a lock, then release the lock. A process that waits sees that its file is gone and makes it anew."""
    with suppress(OSError):  # Windows removes no open file; filelock does so afterwards
        os.unlink(lock.lock_file)
    lock.release()
