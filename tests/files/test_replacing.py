"""A folder that is replaced is the old one or the new one, whatever happens; what the user has put there stays."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.moments import outcomes

from regraft.errors import InputError, NetworkError
from regraft.files import replacing
from regraft.files.locks import LOCK_FILE, held_folder
from regraft.files.replacing import Kind, clear_left, replaced_folder, settle_
from regraft.files.writing import write_json

KIND = Kind("sign.json", frozenset({"sign.json", "weights", "extra", "codes", "table"}))
OLD = {"sign.json": "old", "weights": "old " * 50, "extra": "old", "codes/a": "old", "codes/b": "old"}
NEW = {"sign.json": "new", "weights": "new " * 90, "table": "new", "codes/c": "new"}
USER = {"notes.txt": "mine", "mine/deep/er/file": "mine", "run/other.pt": "another run", "weights.bak": "mine"}


def _put(folder: Path, content: dict[str, str]) -> None:
    for name, text in content.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def _held_by(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def _shown(folder: Path) -> dict[str, str]:
    return {name: text for name, text in _held_by(folder).items() if not name.startswith(".regraft")}


def _replace(folder: Path, content: dict[str, str] = NEW, **named: Any) -> None:
    with replaced_folder(folder, KIND, **named) as staged:
        _put(staged, content)


def _refuse(*_given: Any) -> None:
    raise OSError(errno.EBUSY, "Device or resource busy")


def _elsewhere(*_given: Any, **_named: Any) -> None:
    raise OSError(errno.EXDEV, "Invalid cross-device link")


WAYS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "exchanged": lambda patch: None,
    "mount point": lambda patch: patch.setattr(replacing, "_exchange", _refuse),
    "no exchange in the system": lambda patch: patch.setattr(replacing, "_LIBRARY", None),
    "no hard links": lambda patch: patch.setattr(os, "link", _elsewhere),
    "parent that cannot be written": lambda patch: patch.setattr(Path, "mkdir", _only_within(Path.mkdir)),
}


def _only_within(inner: Any) -> Any:
    def mkdir(self: Path, *given: Any, **named: Any) -> None:
        if self.name.endswith(".regraft.partial"):
            raise PermissionError(errno.EACCES, "Permission denied")
        inner(self, *given, **named)

    return mkdir


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    WAYS[request.param](monkeypatch)
    return str(request.param)


def test_the_new_content_the_users_files_and_nothing_else(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _put(folder, OLD | USER | {".report.html.partial": "left", "extra.partial": "left", "sign.json.partial": "left"})
    (folder / "link").symlink_to("notes.txt")
    inode = (folder / "notes.txt").stat().st_ino
    folder.chmod(0o750)
    _replace(folder)
    expected = NEW | USER | {"link": "mine", ".report.html.partial": "left"}
    assert _held_by(folder) == expected
    assert (folder / "notes.txt").stat().st_ino == inode and (folder / "link").is_symlink()
    assert folder.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_new_folder_in_folders_that_are_not_there(way: str, tmp_path: Path) -> None:
    _replace(tmp_path / "a" / "b")
    assert _held_by(tmp_path / "a" / "b") == NEW
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["b"]


def test_in_a_folder_that_is_none_of_ours_only_what_is_written_is_replaced(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _put(folder, {"extra": "the user's own", "weights": "the user's own"})
    _replace(folder)
    assert _held_by(folder) == NEW | {"extra": "the user's own"}


def test_what_finish_removes_goes_with_the_old_content(way: str, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _put(folder, OLD | USER | {"run/own.pt": "of this run"})
    _replace(folder, finish=lambda new: (new / "run" / "own.pt").unlink())
    assert _held_by(folder) == NEW | USER


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError, OSError(errno.ENOSPC, "No space left on device")])
def test_what_fails_half_way_leaves_the_old_content(way: str, error: Any, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _put(folder, OLD | USER)
    with pytest.raises(NetworkError if isinstance(error, OSError) else error) as told, replaced_folder(folder, KIND) as staged:
        (staged / "weights").write_text("new")
        raise error
    if isinstance(error, OSError):
        assert f"The folder {str(folder)!r} cannot be written: No space left on device." in str(told.value)
    assert _held_by(folder) == OLD | USER
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(ValueError), replaced_folder(tmp_path / "new" / "er", KIND) as staged:
        raise ValueError
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("before", [OLD | USER, {}], ids=["replaced", "new"])
@pytest.mark.flock
def test_killed_at_any_moment_it_is_the_old_or_the_new_one(
    way: str, before: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder moved in file by file is whole once `settle_` has run, and never shows its sign before."""
    folder, seen = tmp_path / "out", []
    monkeypatch.setattr(os, "fsync", lambda _handle: None)  # the moment counts, the disk need not be waited for

    def prepare() -> None:
        for left in tmp_path.iterdir():
            shutil.rmtree(left)
        if before:
            _put(folder, before)

    after = NEW | (USER if before else {})
    for number in outcomes(prepare, lambda: _replace(folder)):
        if folder.exists():
            found = _shown(folder)
            assert found in (before, after) or "sign.json" not in found, (number, found)
            settle_(folder, KIND)
        found = _shown(folder) if folder.exists() else {}
        assert found in (before, after), (number, found)
        seen.append(found == after)
        _replace(folder, OLD)
        assert _held_by(folder) == OLD | (USER if before else {}), number
        assert [path.name for path in tmp_path.iterdir()] == ["out"], number
    assert len(seen) > 15 and seen == sorted(seen) and not seen[0] and seen[-1]


def test_what_changes_while_it_is_replaced_is_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder, inner = tmp_path / "out", replacing._exchange
    _put(folder, OLD | USER)

    def exchange(first: Path, second: Path) -> None:  # another program works in the folder after its files were linked
        _put(folder, {"late.txt": "late", "mine/late.txt": "late"})
        (folder / "saved").write_text("edited")
        os.replace(folder / "saved", folder / "notes.txt")
        inner(first, second)

    monkeypatch.setattr(replacing, "_exchange", exchange)
    _replace(folder)
    assert _held_by(folder) == NEW | USER | {"late.txt": "late", "mine/late.txt": "late", "notes.txt": "edited"}


def test_a_folder_that_somebody_works_in_stays_the_same_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _put(folder, OLD | USER)
    inode = folder.stat().st_ino
    monkeypatch.chdir(folder / "mine")
    _replace(folder)
    assert folder.stat().st_ino == inode and Path.cwd() == folder / "mine"
    monkeypatch.chdir(folder)
    _replace(Path("."), OLD)
    assert folder.stat().st_ino == inode and _held_by(folder) == OLD | USER


def test_a_link_to_a_folder_stays_a_link(tmp_path: Path) -> None:
    _put(tmp_path / "real", OLD)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    _replace(tmp_path / "link")
    assert (tmp_path / "link").is_symlink() and _held_by(tmp_path / "real") == NEW


@pytest.mark.skipif(os.name == "nt", reason="FIFOs are of POSIX")
def test_a_list_of_what_is_gone_that_is_a_pipe_or_damaged_is_passed_over(tmp_path: Path) -> None:
    listed = tmp_path / ".regraft.committed" / ".gone.json"
    for make in (os.mkfifo, Path.touch, lambda path: path.write_text("[" * 100_000), lambda path: path.write_text('{"extra": 1}')):
        _put(tmp_path, OLD)
        listed.parent.mkdir()
        make(listed)
        settle_(tmp_path, KIND)
        assert _held_by(tmp_path) == OLD and not listed.parent.exists()


@pytest.mark.parametrize("name", [".out.regraft.partial", "out/.regraft.staged", "out/.regraft.committed", "out/.regraft.lock"])
@pytest.mark.parametrize("kind", ["pipe", "file", "link"])
@pytest.mark.skipif(os.name == "nt", reason="FIFOs are of POSIX")
@pytest.mark.flock
def test_what_has_the_name_of_a_folder_that_is_left_and_is_none_stops_nobody(name: str, kind: str, tmp_path: Path) -> None:
    """A pipe would be waited for, for ever."""
    _put(tmp_path / "out", OLD)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").touch()
    makes: dict[str, Callable[[Path], None]] = {"pipe": os.mkfifo, "file": Path.touch, "link": lambda path: path.symlink_to("elsewhere")}
    makes[kind](tmp_path / name)
    clear_left(tmp_path / name)
    assert os.path.lexists(tmp_path / name)
    try:
        _replace(tmp_path / "out")
    except InputError as error:
        assert "cannot be written" in str(error) and _held_by(tmp_path / "out").items() >= OLD.items()
    else:
        assert _held_by(tmp_path / "out") == NEW
    assert (tmp_path / "elsewhere" / "mine").exists()


def test_content_to_be_moved_in_names_nothing_outside_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    _put(folder, OLD | {".regraft.committed/sign.json": "new", "notes.txt": "mine"})
    _put(tmp_path, {"outside": "mine", "weights": "mine"})
    write_json(folder / ".regraft.committed" / ".gone.json", ["../outside", "../weights", "notes.txt", "extra", 7, "codes/a"])
    settle_(folder, KIND)
    assert _held_by(tmp_path) == {
        **{f"out/{name}": text for name, text in (OLD | {"sign.json": "new", "notes.txt": "mine"}).items() if name != "extra"},
        **{"outside": "mine", "weights": "mine"},
    }


def test_the_folder_is_held_while_it_is_replaced(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Another process is writing into the folder"), replaced_folder(tmp_path / "out", KIND) as staged:
        _put(staged, NEW)
        _other_thread(lambda: _replace(tmp_path / "out"))
    with held_folder(tmp_path / "out"):
        _replace(tmp_path / "out")
        assert (tmp_path / "out" / LOCK_FILE).exists()
        with pytest.raises(InputError, match="Another process"):
            _other_thread(lambda: _replace(tmp_path / "out"))
    assert _held_by(tmp_path / "out") == NEW


def _other_thread(action: Callable[[], None]) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        pool.submit(action).result()
