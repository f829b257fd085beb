"""Temporary folders that may become large: gone at the end, and what killed processes have left is gone with the next one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from regraft.files.scratch import scratch_folder

HOLDER = """
import sys, tempfile
tempfile.tempdir = sys.argv[1]
from regraft.files.scratch import scratch_folder
with scratch_folder("search") as folder:
    (folder / "live0.npy").write_bytes(b"x")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    return tmp_path / "temporary"


def _held(place: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_is_gone_at_the_end(place: Path) -> None:
    with pytest.raises(KeyError), scratch_folder("search") as folder:
        (folder / "below").mkdir()
        assert folder.parent == place and folder.stat().st_mode & 0o77 == 0
        raise KeyError
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_goes_and_what_a_running_one_uses_stays(place: Path) -> None:
    killed, left = _held(place)
    running, used = _held(place)
    killed.kill()
    killed.communicate()
    assert (left / "live0.npy").is_file()
    with scratch_folder("fetched"), scratch_folder("search"):
        assert not left.exists() and (used / "live0.npy").is_file()
    running.communicate("")
    assert list(place.iterdir()) == []


def _link(place: Path, target: Path) -> None:
    (place / "regraft-x-0123456789abcdef").symlink_to(target)
    (place / "regraft-x-0123456789abcdef.lock").write_text("")


def _linked_lock(place: Path, target: Path) -> None:
    (place / "regraft-x-0123456789abcdef.lock").symlink_to(target / "kept")


def _pipe(place: Path, _target: Path) -> None:
    os.mkfifo(place / "regraft-x-0123456789abcdef.lock")


def _alone(place: Path, _target: Path) -> None:
    (place / "regraft-upload").mkdir()


@pytest.mark.parametrize("put", [_link, _linked_lock, _pipe, _alone])
def test_nothing_else_is_removed(put: object, place: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "kept").write_text("kept")
    put(place, tmp_path / "other")  # type: ignore[operator]
    with scratch_folder("search"):
        pass
    assert (tmp_path / "other" / "kept").read_text() == "kept"
    assert not (place / "regraft-upload").exists() or put is _alone


def test_folders_without_locks(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    left = place / "regraft-search-0123456789abcdef"
    left.mkdir()
    (place / "regraft-search-0123456789abcdef.lock").write_text("")

    def none(*_given: object, **_named: object) -> None:
        raise OSError("none")

    monkeypatch.setattr("filelock.FileLock.acquire", none)
    with scratch_folder("search") as folder:
        assert folder.is_dir()
    assert left.is_dir() and not folder.exists()
