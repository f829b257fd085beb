"""The table of formats: complete, documented, and the door that every reader goes through."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from regraft.errors import InputError, UnsafeFileError
from regraft.files.formats import FORMATS, opening

DOCS = Path(__file__).resolve().parents[2] / "docs" / "security.md"


def test_every_format_stands_in_the_docs_with_its_reader_its_danger_and_the_defence() -> None:
    table = DOCS.read_text(encoding="utf-8").partition(
        "| format | reader | what it could do | what regraft does |\n| --- | --- | --- | --- |\n"
    )[2]
    rows = [line.removeprefix("| ").removesuffix(" |").split(" | ") for line in table.partition("\n\n")[0].splitlines()]
    titles = [f"{form.title} ({', '.join(f'`{suffix}`' for suffix in form.suffixes)})" for form in FORMATS.values()]
    assert sorted(title for title, *_ in rows) == sorted(titles)
    assert all(len(row) == 4 and all(cell.strip() for cell in row) for row in rows)


@pytest.mark.parametrize("kind", FORMATS)
def test_only_regular_files_are_opened(tmp_path: Path, kind: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        for path in (tmp_path, tmp_path / "pipe", tmp_path / "socket", Path("/dev/zero")):
            with pytest.raises(UnsafeFileError), opening(path, kind):
                pytest.fail("opened")


@pytest.mark.parametrize("problem", [ValueError("a\x1b[31m\nb"), MemoryError(), RecursionError(), KeyError("x"), OSError(5, "I/O")])
def test_whatever_a_reader_raises_becomes_one_error(tmp_path: Path, problem: Exception) -> None:
    (tmp_path / "file\x1b.bin").write_bytes(b"x")
    for kind, form in FORMATS.items():
        with pytest.raises(form.error) as caught, opening(tmp_path / "file\x1b.bin", kind, remedy="Do this."):
            raise problem
        assert isinstance(caught.value, InputError)
        assert "\x1b" not in str(caught.value)
        assert str(caught.value).endswith("Do this.")


def test_a_missing_file_is_told_with_what_was_expected(tmp_path: Path) -> None:
    for kind, form in FORMATS.items():
        with pytest.raises(form.error, match=r"cannot be opened.*Expected a"), opening(tmp_path / "none", kind):
            pytest.fail("opened")
        with pytest.raises(form.error, match="cannot be opened"), opening("null\0", kind):
            pytest.fail("opened")
