"""Temporary folders that may become large; those that a killed process left are removed."""

import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

_FOLDER, _LOCK = "regraft-", ".lock"


@contextmanager
def scratch_folder(purpose: str) -> Iterator[Path]:
    """Yield an empty temporary folder, which is removed at the end. While it is used, a lock file beside it is held.
    Folders whose lock nobody holds are removed first."""
    place = Path(tempfile.gettempdir())
    for lock_file in place.glob(f"{_FOLDER}*-{'[0-9a-f]' * 16}{_LOCK}"):
        if _is_own(lock_file):
            _remove_(lock_file)
    folder = place / f"{_FOLDER}{purpose}-{secrets.token_hex(8)}"
    lock = _locked(Path(f"{folder}{_LOCK}"))
    try:
        folder.mkdir(mode=0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            _release_(lock)


def _is_own(lock_file: Path) -> bool:
    """Return whether a lock file is a file of this user. In a folder for all users, others may have put a link there."""
    with suppress(OSError):
        facts = lock_file.lstat()
        return stat.S_ISREG(facts.st_mode) and (not hasattr(os, "getuid") or facts.st_uid == os.getuid())
    return False


def _remove_(lock_file: Path) -> None:
    lock = _locked(lock_file)
    if lock is not None:
        shutil.rmtree(str(lock_file).removesuffix(_LOCK), ignore_errors=True)
        _release_(lock)


def _locked(lock_file: Path) -> FileLock | None:
    """Return the lock, or None if another process holds it or the file system has no locks: then nothing is removed."""
    lock = FileLock(lock_file, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except (Timeout, OSError, NotImplementedError):
        return None
    return lock


def _release_(lock: FileLock) -> None:
    with suppress(OSError):  # Windows removes no open file; filelock does so afterwards
        os.unlink(lock.lock_file)
    lock.release()
