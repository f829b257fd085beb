"""A file that is written is the old one or the new one; text of any kind comes back as it was."""

from __future__ import annotations

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.moments import outcomes

from regraft.files.writing import json_text, replaced_file, write_bytes, write_json, write_lines, write_text


@pytest.mark.parametrize("old", [b"old" * 1000, None], ids=["replaced", "new"])
@pytest.mark.flock
def test_killed_at_any_moment_it_is_the_old_or_the_new_file(old: bytes | None, tmp_path: Path) -> None:
    path, seen = tmp_path / "file.json", []

    def prepare() -> None:
        for left in tmp_path.iterdir():
            left.unlink()
        if old is not None:
            path.write_bytes(old)

    for number in outcomes(prepare, lambda: write_bytes(path, b"new")):
        found = path.read_bytes() if path.exists() else None
        assert found in (old, b"new"), number
        seen.append(found)
        write_bytes(path, b"later")
        assert {left.name: left.read_bytes() for left in tmp_path.iterdir()} == {"file.json": b"later"}, number
    assert seen[0] == old and seen[-1] == b"new" and len(seen) > 4


@pytest.mark.parametrize(("folder", "error"), [("missing", FileNotFoundError), ("file", NotADirectoryError)])
def test_a_file_in_a_folder_that_is_not_there_makes_none(folder: str, error: type[OSError], tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(error):
        write_bytes(tmp_path / folder / "new", b"new")
    assert [path.name for path in tmp_path.rglob("*")] == ["file"]


@pytest.mark.parametrize("left", ["pipe", "link", "hard link"])
def test_what_lies_in_place_of_the_new_file_is_neither_waited_for_nor_written_to(left: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"other")
    partial = tmp_path / ".file.partial"
    if left == "pipe":
        os.mkfifo(partial)
    elif left == "link":
        partial.symlink_to("other")
    else:
        partial.hardlink_to(tmp_path / "other")
    write_bytes(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"new", "other": b"other"}


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "file", b"old")

    def full(*_given: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, call, full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "file", b"new")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_what_fails_while_it_is_written_leaves_the_old_file(tmp_path: Path) -> None:
    write_bytes(tmp_path / "file", b"old")
    with pytest.raises(KeyboardInterrupt), replaced_file(tmp_path / "file") as partial:
        partial.write_bytes(b"half")
        raise KeyboardInterrupt
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"file": b"old"}


def test_many_writers_of_one_file_each_write_it_whole(tmp_path: Path) -> None:
    path, contents = tmp_path / "file", [bytes([number]) * 20_000 for number in range(24)]
    with ThreadPoolExecutor(6) as pool:
        for _ in pool.map(lambda content: write_bytes(path, content), contents):
            assert path.read_bytes() in contents
    assert [left.name for left in tmp_path.iterdir()] == ["file"]


def test_a_name_as_long_as_the_system_allows(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("é" * 127), b"content")
    assert [path.name for path in tmp_path.iterdir()] == ["é" * 127]


def test_the_users_mask_decides_who_reads_it(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_bytes(tmp_path / "file", b"content")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o640


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # of a machine that does other things too
@given(st.recursive(st.text(st.characters(exclude_categories=())) | st.integers() | st.booleans() | st.none(), lambda part: st.lists(part)))
def test_any_text_comes_back_as_it_was(content: Any) -> None:
    text = json_text(content)
    assert json.loads(text.encode("utf-8")) == content
    assert "\n" not in text and json.loads(json_text(content, indent=1)) == content


def test_lone_surrogates_are_written_as_escapes(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")  # a name of a Latin-1 archive, as Python gives it
    write_json(tmp_path / "a.json", {name: ["日本", name]})
    write_lines(tmp_path / "a.jsonl", [{"name": name}, {"name": "café"}])
    write_text(tmp_path / "a.html", f"<b>{name} café</b>")
    assert json.loads((tmp_path / "a.json").read_bytes()) == {name: ["日本", name]}
    lines = (tmp_path / "a.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["name"] for line in lines] == [name, "café"] and "café" in lines[1]
    assert (tmp_path / "a.html").read_text(encoding="utf-8") == "<b>caf\\udce9 café</b>"
