"""Room that is really taken: a full disk is an error of ours, and no signal that ends the process."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from tests.moments import limited_files

from regraft.data.items import as_rows, take
from regraft.data.readers.array_files import read_array
from regraft.errors import CacheError, DataError
from regraft.files import room
from regraft.files.room import large_array, reserve, write_at

SIZE = 3 * 2**20 + 5


def _refuse(number: int) -> object:
    def refused(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    return refused


@pytest.mark.parametrize("call", ["there", "not supported", "missing"])
def test_reserved_room_is_on_the_disk_and_what_was_written_stays(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if call == "missing":
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    elif call == "not supported":
        monkeypatch.setattr(os, "posix_fallocate", _refuse(errno.EOPNOTSUPP), raising=False)
    with (tmp_path / "file").open("w+b", buffering=0) as file:
        file.write(b"kept")
        reserve(file.fileno(), SIZE)
        os.fsync(file.fileno())
        assert os.fstat(file.fileno()).st_size == SIZE and os.fstat(file.fileno()).st_blocks * 512 >= SIZE
        reserve(file.fileno(), 10)
        assert os.fstat(file.fileno()).st_size == SIZE
        write_at(file.fileno(), SIZE - 3, content=b"end")
        assert (tmp_path / "file").read_bytes()[:4] == b"kept" and (tmp_path / "file").read_bytes()[-3:] == b"end"


@pytest.mark.parametrize("call", ["there", "not supported"])
def test_an_array_that_does_not_fit_on_the_disk_is_one_error(tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if call == "not supported":
        monkeypatch.setattr(os, "posix_fallocate", _refuse(errno.EINVAL), raising=False)
    monkeypatch.setattr(room, "IN_MEMORY", 0)
    with limited_files(2**20), pytest.raises(CacheError, match=r"Features of 4 MiB do not fit into .*TMPDIR"):
        large_array((2**20,), np.dtype(np.float32), folder=tmp_path)
    made = large_array((1000, 3), np.dtype(np.float32), folder=tmp_path)
    made[:] = 1
    assert made.sum() == 3000 and list(tmp_path.iterdir()) == []
    assert large_array((0, 3), np.dtype(np.float32), folder=tmp_path).shape == (0, 3)


def test_pages_that_are_let_go_of_keep_what_was_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(room, "IN_MEMORY", 0)
    made = large_array((2**18, 8), np.dtype(np.float32), folder=tmp_path)
    made[:] = np.arange(8)
    np.save(tmp_path / "rows.npy", made)
    read = room.in_file(np.lib.format.open_memmap(tmp_path / "rows.npy", mode="r"))
    assert read.sum() == made.sum() == 28 * 2**18
    before = _mapped()
    room.release_pages()
    assert _mapped() < before - 12 * 2**10
    assert (read[-1] == made[-1]).all() and made[-1, 7] == 7


def _mapped() -> int:
    """Return KiB of mapped files, shared memory included, that this process holds in memory."""
    status = Path("/proc/self/status")
    if not status.exists():
        pytest.skip("the memory of a process is read from /proc here")
    lines = [line.split() for line in status.read_text().splitlines()]
    return sum(int(line[1]) for line in lines if line and line[0] in ("RssFile:", "RssShmem:"))


def test_a_file_that_another_program_writes_again_is_an_error_of_ours(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    rows, path = np.arange(4000, dtype=np.float32).reshape(-1, 4), tmp_path / "rows.npy"
    np.save(path, rows)
    held = read_array(path, mapped=True)
    np.save(path, rows[:10])
    assert (take(held, [999]) == rows[999]).all(), "a small file is read as a whole"
    monkeypatch.setattr(room, "IN_MEMORY", 0)
    np.save(path, rows)
    mapped = read_array(path, mapped=True)
    views = as_rows(mapped[1:], np.arange(900))
    assert (take(views, [899]) == rows[900]).all()
    np.save(path.with_name("new.npy"), rows[:10])
    path.with_name("new.npy").replace(path)
    assert (take(views, [899]) == rows[900]).all(), "a renamed file leaves the mapped one as it was"
    mapped = read_array(path, mapped=True)
    os.truncate(path, 130)
    with pytest.raises(DataError, match=r"rows.npy was rewritten while .* it had 288 bytes and has 130"):
        take(mapped, [9])
    with pytest.raises(DataError, match="declares an array of the shape"):
        read_array(path, mapped=True)
