"""A folder is written by one at a time; a lock of a process that is gone locks nobody out."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regraft.errors import NetworkError, SettingError
from regraft.files import locks
from regraft.files.locks import LOCK_FILE, held_folder

HOLDING = """
import sys, time
from regraft.files.locks import held_folder
with held_folder(sys.argv[1]):
    print("held", flush=True)
    time.sleep(60)
"""


def _holder(folder: Path, code: str = HOLDING) -> subprocess.Popen[str]:
    source = str(Path(locks.__file__).resolve().parents[2])
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code, str(folder)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": source},
    )
    assert child.stdout is not None and child.stdout.readline() == "held\n"
    return child


@pytest.mark.flock
def test_another_process_is_told_in_one_line_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    child = _holder(folder)
    try:
        with pytest.raises(SettingError, match=r"Another process is writing into the folder '.*out'\. Wait .* folder\.$"):
            held_folder(folder).__enter__()
        with pytest.raises(NetworkError, match="Another process"), held_folder(folder, error=NetworkError, wait=0.2):
            pass
    finally:
        child.kill()
        child.communicate()
    assert (folder / LOCK_FILE).exists()  # it could not clean up
    with held_folder(folder) as target:
        assert target == folder.resolve()
    assert list(folder.iterdir()) == []


def test_who_waits_gets_it_when_it_is_free(tmp_path: Path) -> None:
    def hold(number: int) -> int:
        with held_folder(tmp_path / "out", wait=20):
            seen.append(number)
            time.sleep(0.01)
            seen.append(number)
        return number

    seen: list[int] = []
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(hold, range(24))) == list(range(24))
    assert seen[::2] == seen[1::2]  # never two at a time


def test_within_a_hold_the_same_thread_holds_it_again(tmp_path: Path) -> None:
    with held_folder(tmp_path):
        with held_folder(tmp_path / "." / ".." / tmp_path.name):
            (tmp_path / "file").write_text("")
        assert (tmp_path / LOCK_FILE).exists()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_folders_that_held_something_stay(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with held_folder(tmp_path / "there"):
        pass
    with held_folder(tmp_path / "a" / "b"):
        (tmp_path / "a" / "file").write_text("")
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == ["a", "a/file", "there"]


@pytest.mark.parametrize("name", ["file/out", "file", "a\0b"])
def test_a_folder_that_cannot_be_written_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingError, match=r"The folder '.*' cannot be written: .*another folder"), held_folder(tmp_path / name):
        pass


@pytest.mark.flock
def test_a_link_in_place_of_the_lock_makes_no_file_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / LOCK_FILE).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(SettingError, match="cannot be written"), held_folder(tmp_path / "out"):
        pass
    assert not (tmp_path / "elsewhere").exists()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL])
@pytest.mark.flock
def test_a_file_system_without_locks_is_said(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_given: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", none)
    with pytest.warns(UserWarning, match="no locks"), held_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


WITHOUT_FLOCK = "import errno, fcntl\ndef none(*_): raise OSError(errno.ENOSYS, 'none')\nfcntl.flock = none\n" + HOLDING


@pytest.mark.flock
def test_where_the_system_has_no_such_call_one_holds_it_and_a_killed_process_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = _holder(tmp_path, WITHOUT_FLOCK)

    def none(*_given: object) -> None:
        raise OSError(errno.ENOSYS, "none")

    monkeypatch.setattr("fcntl.flock", none)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            with pytest.raises(SettingError, match="Another process"), held_folder(tmp_path):
                pass
        finally:
            child.kill()
            child.communicate()
        for _ in range(2):
            with held_folder(tmp_path, wait=10):
                pass
    assert list(tmp_path.iterdir()) == []


WITHOUT_FCNTL = """
import sys
sys.modules["fcntl"] = None
from pathlib import Path
from tests.reliability import cases
import regraft
for family in cases.FAMILIES:
    result = cases.adapted("head", family, out=Path(sys.argv[1]) / family)
    opened = regraft.load(Path(sys.argv[1]) / family, architecture=type(cases.network("torch").module) if family == "torch" else None)
    assert opened.classes == result.network.classes
"""


@pytest.mark.slow
def test_without_fcntl_networks_are_adapted_saved_and_opened(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "KERAS_BACKEND": "torch"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_FCNTL, str(tmp_path)], capture_output=True, text=True, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not [path for path in tmp_path.rglob(".*")]


def test_the_name_of_a_file_is_no_folder(tmp_path: Path) -> None:
    for name in ("net.h5", "net.keras", "best.pt"):
        with (
            pytest.raises(SettingError, match=rf"{name}' is the name of a file.*such as '{name.split('.')[0]}'"),
            held_folder(tmp_path / name),
        ):
            pass
        assert not (tmp_path / name).exists()
    (tmp_path / "net.h5").mkdir()
    with held_folder(tmp_path / "net.h5") as held, held_folder(tmp_path / "v1.2"):
        assert held.is_dir()
