"""Atomic replacement of folders: if the process is killed, a folder is the old one or the new one, never a mixture.

The new content is written into a staging folder and flushed. On Linux and macOS that folder lies beside the old one, and the two names are
exchanged in one step. In some cases that is not possible (a mount point, another file system, the working folder of a process, Windows).
The staging folder then lies inside the old folder. Renaming it once it is complete is the commit. Its files are then moved to their places.
If the process is killed meanwhile, `settle_` moves the rest. `replaced_folder` calls it before it writes, and readers call it before they
open the folder.
"""

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, NetworkError
from .formats import within, writable
from .locks import held_folder
from .schema import read_json
from .writing import LOCK, PARTIAL, flush_file, flush_folder, write_json

COMMITTED = ".regraft.committed"  # Name of the complete new content within a folder until its files are at their places
_STAGED = ".regraft.staged"
_GONE = ".gone.json"
_ENDING = ".regraft.partial"
_LIBRARY = None if sys.platform == "win32" else ctypes.CDLL(None, use_errno=True)
_CALL = "renameat2" if sys.platform == "linux" else "renamex_np"
_HERE = -100  # AT_FDCWD
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2 on Linux, RENAME_SWAP of renamex_np on macOS


@dataclass(frozen=True)
class Kind:
    """Kind of folder."""

    sign: str  # the file that marks a folder as one of this kind
    own: Container[str]  # top-level names that regraft writes. Everything else belongs to the user and stays

    def leaves(self, name: str) -> bool:
        """Return whether the entry `name` of an old folder of this kind is dropped from the new one."""
        whole = name.removeprefix(".").removesuffix(LOCK).removesuffix(PARTIAL)
        return name in self.own or whole in self.own or name in (_STAGED, COMMITTED)


@contextmanager
def replaced_folder(
    folder: str | Path, kind: Kind, *, finish: Callable[[Path], None] | None = None, error: type[InputError] = NetworkError
) -> Iterator[Path]:
    """Replace the content of a folder atomically. Files of the user stay, and earlier files of regraft are removed.
    Yield an empty folder to write into."""
    with held_folder(folder, error=error) as target, writable(target, error=error):
        staged = None
        try:
            settle_(target, kind)
            staged = _staging(target)
            yield staged
            _flush(staged)
            if staged.parent == target or not _exchanged(staged, target, kind=kind, finish=finish):
                _moved_in(staged, target, kind=kind, finish=finish)
        finally:
            if staged is not None:
                shutil.rmtree(staged, ignore_errors=True)


def _staging(target: Path) -> Path:
    """Create an empty staging folder beside the target if the two can be exchanged, else within it. Remove old leftovers."""
    beside, inside = left_beside(target), target / _STAGED
    for left in (beside, inside):
        clear_left(left)
    if hasattr(_LIBRARY, _CALL):
        with suppress(OSError):  # the parent cannot be written, or the working folder is gone
            if target not in (Path.cwd(), *Path.cwd().parents):  # otherwise this process would keep working in the old folder
                beside.mkdir()
                made, old = beside.stat(), target.stat()
                if (made.st_dev, made.st_uid, made.st_gid) == (old.st_dev, old.st_uid, old.st_gid):
                    return beside
                beside.rmdir()
    inside.mkdir()
    return inside


def left_beside(target: Path) -> Path:
    """Return the folder beside `target` that holds its new or old content during replacement."""
    return target.with_name(f".{target.name}{_ENDING}")


def clear_left(folder: Path) -> None:
    """Remove the leftover folder of a killed process. Anything but a folder is left alone: `rmtree` would wait for a pipe forever."""
    if folder.is_dir() and not folder.is_symlink():
        shutil.rmtree(folder, ignore_errors=True)


def _flush(folder: Path) -> None:
    for place, _folders, files in os.walk(folder):
        for name in files:
            flush_file(Path(place) / name)
        flush_folder(Path(place))


# ── exchange with the old folder ────────────────────────────────────────────────────────────────────────────────────────────────


def _exchanged(staged: Path, target: Path, *, kind: Kind, finish: Callable[[Path], None] | None) -> bool:
    """Link the files that stay into the new folder and exchange it with the old one. Return whether that was possible."""
    fresh = set(os.listdir(staged))
    old = kind.leaves if (target / kind.sign).exists() else fresh.__contains__
    linked: dict[Path, int] = {}
    try:
        for entry in sorted(target.iterdir()):
            if entry.name not in fresh and not old(entry.name):
                _link(entry, staged / entry.name, linked=linked)
        if finish is not None:
            finish(staged)
        shutil.copymode(target, staged)
        _flush_folders(staged, but=fresh)
        _exchange(staged, target)
    except OSError:  # no hard links or no exchange: a mount point, a network drive
        for name in set(os.listdir(staged)) - fresh:
            _remove(staged / name)
        return False
    flush_folder(target.parent)
    with suppress(OSError):
        _save_late_(staged, target, leaves=old, linked=linked)
    return True


def _flush_folders(folder: Path, *, but: Container[str]) -> None:
    for place, folders, _files in os.walk(folder):
        if Path(place) == folder:
            folders[:] = [name for name in folders if name not in but]
        flush_folder(Path(place))


def _link(source: Path, place: Path, *, linked: dict[Path, int]) -> None:
    """Hard-link a file, or all files below a folder, and record the inode of each."""
    if source.is_dir() and not source.is_symlink():
        place.mkdir()
        for entry in sorted(source.iterdir()):
            _link(entry, place / entry.name, linked=linked)
        shutil.copystat(source, place)
    else:
        os.link(source, place, follow_symlinks=False)
        linked[source] = source.lstat().st_ino


def _save_late_(old: Path, new: Path, *, leaves: Callable[[str], bool], linked: dict[Path, int]) -> None:
    """Move files that were added to or replaced in the old folder after linking."""
    for place, _folders, files in os.walk(old):
        for name in files:
            source = Path(place) / name
            part = source.relative_to(old)
            if not leaves(part.parts[0]) and linked.get(new / part) != source.lstat().st_ino:
                (new / part).parent.mkdir(parents=True, exist_ok=True)
                os.replace(source, new / part)


def _exchange(first: Path, second: Path) -> None:
    """Exchange the names of two folders in one step."""
    names = os.fsencode(first), os.fsencode(second)
    call = getattr(_LIBRARY, _CALL)
    given = (_HERE, names[0], _HERE, names[1], _EXCHANGE) if sys.platform == "linux" else (*names, _EXCHANGE)
    if call(*given) != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), str(second))


# ── move into the old folder, where an exchange is impossible ───────────────────────────────────────────────────────────────────


def _moved_in(staged: Path, target: Path, *, kind: Kind, finish: Callable[[Path], None] | None) -> None:
    """Commit the complete new content by one rename within the folder, then move each file to its place."""
    fresh = set(os.listdir(staged))
    old = kind.leaves if (target / kind.sign).exists() else fresh.__contains__
    write_json(staged / _GONE, sorted(name for name in os.listdir(target) if old(name) and name not in {*fresh, _STAGED, COMMITTED}))
    inside = target / _STAGED
    if staged != inside:
        try:
            os.rename(staged, inside)
        except OSError:  # another file system
            shutil.copytree(staged, inside, symlinks=True)
            _flush(inside)
    os.rename(inside, target / COMMITTED)
    flush_folder(target)
    settle_(target, kind)
    if finish is not None:
        finish(target)


def settle_(folder: Path, kind: Kind) -> None:
    """Finish an interrupted replacement: move complete new content to its place. Do nothing if there is none."""
    committed = folder / COMMITTED
    if committed.is_symlink() or not committed.is_dir():
        return
    if (committed / kind.sign).exists():
        (folder / kind.sign).unlink(missing_ok=True)  # missing until everything else is in place, for readers that do not look here
    for name in _listed(committed / _GONE):
        if kind.leaves(name) and Path(name).name == name:
            _remove(folder / name)
    for name in sorted(set(os.listdir(committed)) - {_GONE}, key=kind.sign.__eq__):
        if (folder / name).is_dir() and not (folder / name).is_symlink():
            shutil.rmtree(folder / name)
        os.replace(committed / name, folder / name)
    (committed / _GONE).unlink(missing_ok=True)
    committed.rmdir()
    flush_folder(folder)


def _listed(path: Path) -> list[str]:
    try:
        found = read_json(within(path.parent, path), "gone")
    except InputError:  # this file is deleted last, so the rest is done
        return []
    return [str(name) for name in found] if isinstance(found, list) else []


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
