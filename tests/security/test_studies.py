"""A study that somebody else made: it deletes no file, sets no setting outside the space, and ends in one error of ours."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from tests import torch_examples
from tests.moments import limited_files

import regraft
from regraft.errors import InputError, RegraftError, SettingError, UnsafeFileError
from regraft.planning.plan import Plan
from regraft.planning.search import Study
from regraft.planning.search.board import Board, Options
from regraft.planning.search.space import Space
from regraft.planning.search.study import TrialRecord, plot_importances

pytest.importorskip("optuna")
FILE = "study.sqlite3"
LOCK_PAGE = struct.pack(">I", 0x40000000 // 4096 + 1)
"""Number of the page that no database uses; the name of a further file stands behind it in a journal."""
RATES = {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "batch_size": [8, 16]}

Figures = tuple[tuple[float, ...], tuple[float, ...]]


def _board(folder: Path, **changes: Any) -> Board:
    usual = {"trials": 4, "sampler": "tpe", "pruner": "median", "seed": 0, "direction": "maximize", "steps": 4, "identity": "a"}
    return Board(Options(**{**usual, **changes}), Space.from_dict(RATES, {}), {}, folder)


def _steady(values: Mapping[str, Any], report: Callable[[float, int], None]) -> Figures:
    report(values["learning_rate"], 1)
    return ((values["learning_rate"],), ())


def _gone_on(folder: Path) -> Board:
    """Go on with a study to its end."""
    board = _board(folder)
    while board.carry_out(_steady):
        pass
    return board


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of two finished trials and one whose process was killed."""
    folder = tmp_path_factory.mktemp("made") / "study"
    board = _board(folder)
    assert board.carry_out(_steady) and board.carry_out(_steady)
    taken = board.next()
    assert taken is not None and taken.lock is not None
    taken.lock.release()  # as if the process was killed: the trial is not told
    board.database._storage.engine.dispose()
    return folder


@pytest.fixture
def study(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "study"))


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file of the user's, outside the study, that must stay."""
    file = tmp_path / "precious.txt"
    file.write_text("mine", encoding="utf-8")
    yield file
    assert file.read_text(encoding="utf-8") == "mine"


def _changed(folder: Path, *statements: str, values: tuple[Any, ...] = ()) -> None:
    with closing(sqlite3.connect(folder / FILE)) as database:
        for statement in statements:
            database.execute(statement, values)
        database.commit()


def test_a_study_that_nobody_changed_goes_on(study: Path) -> None:
    assert [trial.state for trial in _gone_on(study).trials()] == ["COMPLETE"] * 4


# ── what it could do ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["{victim}", "../../precious.txt", "../precious.txt", "a\0b", "x" * 500])
def test_the_name_of_a_worker_becomes_no_path(name: str, study: Path, victim: Path) -> None:
    told = json.dumps(name.replace("{victim}", str(victim)))
    _changed(study, "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (3, 'worker', ?)", values=(told,))
    assert len(_gone_on(study).trials()) == 4 and victim.is_file()


def _with_journal(study: Path, named: Path) -> None:
    """Leave the journal of a change that was cut off, with the name of a further file at its end, as a change of several databases has."""
    source = study / FILE
    database = sqlite3.connect(source, isolation_level=None)
    database.execute("PRAGMA cache_size = 1")
    database.execute("BEGIN IMMEDIATE")
    database.execute("UPDATE studies SET study_name = 'other'")
    database.execute("CREATE TABLE filler (x)")
    database.executemany("INSERT INTO filler VALUES (?)", [(b"x" * 2000,) for _ in range(200)])  # more than the memory may hold
    copies = {name: (study / name).read_bytes() for name in (FILE, f"{FILE}-journal")}
    database.execute("ROLLBACK")
    database.close()
    name = os.fsencode(named)
    further = LOCK_PAGE + name + struct.pack(">II", len(name), sum(name)) + bytes.fromhex("d9d505f920a163d7")
    source.write_bytes(copies[FILE])
    (study / f"{FILE}-journal").write_bytes(copies[f"{FILE}-journal"] + further)


def test_a_journal_that_has_a_file_deleted_is_refused(study: Path, victim: Path, tmp_path: Path) -> None:
    expendable = tmp_path / "expendable.txt"
    expendable.write_text("not that precious", encoding="utf-8")
    copy = shutil.copytree(study, tmp_path / "copy")
    _with_journal(copy, expendable)
    with closing(sqlite3.connect(copy / FILE)) as database:
        database.execute("SELECT * FROM studies").fetchall()
    assert not expendable.exists(), "SQLite itself no longer deletes it: this test shows nothing"
    _with_journal(study, victim)
    with pytest.raises(UnsafeFileError, match="names a further file"):
        _board(study)


def test_the_journal_of_a_process_that_was_killed_is_played_back(study: Path, tmp_path: Path) -> None:
    _with_journal(study, tmp_path / "nothing")
    journal = study / f"{FILE}-journal"
    content = journal.read_bytes()
    journal.write_bytes(content[: content.rindex(LOCK_PAGE + os.fsencode(tmp_path / "nothing"))])
    assert len(_gone_on(study).trials()) == 4 and not journal.exists()


@pytest.mark.parametrize("name", [FILE, f"{FILE}-journal", f"{FILE}-wal", f"{FILE}-shm"])
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "device"])
def test_only_regular_files_are_opened(kind: str, name: str, study: Path, victim: Path) -> None:
    (study / name).unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(study / name)
    elif kind == "folder":
        (study / name).mkdir()
    else:
        (study / name).symlink_to(victim if kind == "link" else "/dev/zero")
    with pytest.raises(UnsafeFileError, match="expected a "):
        _board(study)


@pytest.mark.parametrize("name", ["running", "best", "running/2.lock", ".regraft.lock"])
@pytest.mark.flock
def test_locks_that_are_links_lead_nowhere(name: str, study: Path, victim: Path, tmp_path: Path) -> None:
    for file in (study / "running").glob("*"):
        file.unlink()
    (study / "running").rmdir()
    (tmp_path / "2.lock").write_text("", encoding="utf-8")
    (study / name).parent.mkdir(exist_ok=True)
    (study / name).symlink_to(tmp_path if name in ("running", "best") else victim)
    with pytest.raises(InputError, match=r"cannot be written|is a link"):
        _gone_on(study)
    assert (tmp_path / "2.lock").is_file()


def test_a_plot_is_not_drawn_where_a_link_leads(tmp_path: Path, victim: Path) -> None:
    pytest.importorskip("matplotlib")
    (tmp_path / "importances.png").symlink_to(victim)
    plot_importances({"learning_rate": 1.0}, tmp_path / "importances.png")
    assert not (tmp_path / "importances.png").is_symlink()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TRIGGER evil AFTER UPDATE ON trials BEGIN UPDATE trial_values SET value = 1e9; END",
        "CREATE TRIGGER trials AFTER INSERT ON trials BEGIN DELETE FROM trial_values; END",
        "CREATE VIEW evil AS SELECT * FROM trials",
        "CREATE VIRTUAL TABLE evil USING fts5(x)",
        "CREATE TABLE evil (x)",
        "CREATE INDEX evil ON trials (abs(trial_id))",
        "ALTER TABLE trials ADD COLUMN evil TEXT",
        "ALTER TABLE trials ADD COLUMN evil TEXT GENERATED ALWAYS AS (hex(zeroblob(999999999))) VIRTUAL",
    ],
)
def test_parts_that_optuna_does_not_make_are_refused(statement: str, study: Path) -> None:
    _changed(study, statement)
    before = (study / FILE).read_bytes()
    with pytest.raises(UnsafeFileError, match="that a study of Optuna does not have"):
        _board(study)
    assert (study / FILE).read_bytes() == before


# ── what is no study ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def _other_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE cookies (name)")
        database.commit()


FILES: dict[str, Callable[[Path], object]] = {
    "text": lambda path: path.write_text("hello", encoding="utf-8"),
    "nothing": lambda path: path.write_bytes(b""),
    "zeros": lambda path: path.write_bytes(bytes(4096)),
    "a head and zeros": lambda path: path.write_bytes(b"SQLite format 3\0" + bytes(8192)),
    "a head and noise": lambda path: path.write_bytes(b"SQLite format 3\0" + random.Random(0).randbytes(8192)),
    "a half": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a page": lambda path: path.write_bytes(path.read_bytes()[:4096]),
    "another database": _other_database,
}


@pytest.mark.parametrize("kind", FILES)
def test_another_file_is_refused_and_stays_as_it_is(kind: str, study: Path) -> None:
    FILES[kind](study / FILE)
    before = (study / FILE).read_bytes()
    with pytest.raises(InputError, match=r"study\.sqlite3.*(out=|remove)"):
        _board(study)
    assert (study / FILE).read_bytes() == before


def test_a_study_of_another_version_of_optuna_says_so(study: Path) -> None:
    _changed(study, "UPDATE alembic_version SET version_num = 'v99\x1b[31m'")
    with pytest.raises(SettingError, match=r"another version of Optuna.*'v99\\\\x1b\[31m'"):
        _board(study)
    _changed(study, "DELETE FROM alembic_version")
    with pytest.raises(SettingError, match="another version of Optuna"):
        _board(study)


ATTRIBUTE = "UPDATE trial_user_attributes SET value_json = '{}' WHERE trial_id = 1 AND key = '{}'"
CONTENTS = {
    "values outside the space": ATTRIBUTE.format('{{"learning_rate": 7.0, "batch_size": 8}}', "values"),
    "no choice of the space": ATTRIBUTE.format('{{"learning_rate": 0.01, "batch_size": 9}}', "values"),
    "a name that is not searched": ATTRIBUTE.format('{{"cache": "/tmp"}}', "values"),
    "values that are a list": ATTRIBUTE.format("[1]", "values"),
    "values within values": ATTRIBUTE.format('{{"learning_rate": {{}}}}', "values"),
    "no JSON": ATTRIBUTE.format("{{", "values"),
    "nested JSON": ATTRIBUTE.format("[" * 100_000, "values"),
    "a word for seconds": "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, 'seconds', '\"long\"')",
    "a word for figures": ATTRIBUTE.format('"good"', "folds"),
    "a number for an error": "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (1, 'error', '5')",
    "an unknown state": "UPDATE trials SET state = 'EVIL'",
    "complete without a figure": "DELETE FROM trial_values",
    "two figures": "INSERT INTO trial_values (trial_id, objective, value, value_type) VALUES (1, 1, 0.5, 'FINITE')",
    "an infinite figure": "UPDATE trial_values SET value_type = 'INF_POS'",
    "a word for a figure": "UPDATE trial_values SET value = 'much'",
    "a word for a step": "INSERT INTO trial_system_attributes (trial_id, key, value_json) VALUES (1, 'completed_rung_0', '\"x\"')",
    "an unknown distribution": "UPDATE trial_params SET distribution_json = '{}'",
    "an identity that is none": "UPDATE study_user_attributes SET value_json = '[]'",
    "a judgement that is none": "INSERT INTO study_user_attributes (study_id, key, value_json) VALUES (1, 'judged', '{\"scores\": 1}')",
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_wrong_content_is_one_error(kind: str, study: Path) -> None:
    _changed(study, CONTENTS[kind].replace("{{", "{").replace("}}", "}"))
    with pytest.raises(InputError):
        _gone_on(study)


def test_flipped_bytes_end_in_a_result_or_an_error_of_ours(study: Path) -> None:
    whole, draw = (study / FILE).read_bytes(), random.Random(5)
    ends: dict[str, int] = {}
    for _ in range(20):
        content = bytearray(whole)
        for _ in range(draw.choice([1, 8, 64])):
            content[draw.randrange(len(content))] = draw.randrange(256)
        (study / FILE).write_bytes(content)
        (study / f"{FILE}-journal").unlink(missing_ok=True)
        try:
            _gone_on(study)
            end = "a result"
        except RegraftError:
            end = "an error"
        ends[end] = ends.get(end, 0) + 1
    assert ends["an error"] > 2


# ── disks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_database_that_is_locked_is_one_error(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.planning.search.database._WAITED", 0.1)
    board = _board(study)
    with closing(sqlite3.connect(study / FILE, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        for action in (lambda: board.carry_out(_steady), lambda: _board(study)):
            with pytest.raises(SettingError, match="database is locked"):
                action()
    assert len(_gone_on(study).trials()) == 4


@pytest.mark.parametrize(("kind", "room"), [("old", 0), pytest.param("old", 9000, marks=pytest.mark.slow), ("new", 3000)])
def test_a_full_disk_is_one_error_and_the_study_goes_on_when_there_is_room(kind: str, room: int, tmp_path: Path) -> None:
    folder = tmp_path / "study"
    if kind == "old":
        _board(folder)
    size = (folder / FILE).stat().st_size if kind == "old" else 0
    with limited_files(size + room), pytest.raises(SettingError, match="cannot be written"):
        board = _board(folder, trials=2000, sampler="random", pruner=None)
        while board.carry_out(_steady):
            pass
    assert [trial.state for trial in _gone_on(folder).trials()][:4].count("COMPLETE") == 4


def test_what_is_saved_of_a_study_on_a_full_disk_is_one_error(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    trials = tuple(TrialRecord(number, {"learning_rate": 0.1 / (number + 1)}, "complete", 0.5, (0.5,)) for number in range(4))
    plan, network = Plan("head"), regraft.load(torch_examples.Cnn(), inputs=(1, 8, 8))
    space, shares = {"learning_rate": [0.1, 0.01]}, {"learning_rate": 1.0}
    study = Study(trials, space, "accuracy", "maximize", trials[0], plan, network, {"holdout": {}}, None, shares, {}, None)
    writings: list[Callable[[Path], Path]] = [
        study.save,
        lambda folder: study.plot(folder / "trials.png"),
        lambda folder: study.plot_importances(folder / "importances.png"),
    ]
    for write in writings:
        path = write(tmp_path)
        before = path.read_bytes()
        with limited_files(100), pytest.raises(InputError, match=r"cannot be written: File too large"):
            write(tmp_path)
        assert path.read_bytes() == before
        with pytest.raises(InputError, match="cannot be written"):
            write(path / "below")
        with pytest.raises(InputError, match="cannot be written"):
            write(tmp_path / "a\0b")
    with pytest.raises(InputError, match=r"cannot be written: Format 'nope'"):
        study.plot(tmp_path / "trials.nope")
    assert len(list(tmp_path.iterdir())) == len(writings)


def test_a_folder_that_cannot_be_made_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    for place in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/regraft-study")):
        with pytest.raises(InputError, match=r"cannot be (written|opened)"):
            _board(place)


@pytest.mark.parametrize("name", ["a b", "a?b#c", "100% {x} {", "späße", "a'b\"c", os.fsdecode(b"caf\xe9")])
def test_a_folder_may_have_any_name(name: str, tmp_path: Path) -> None:
    board = _gone_on(tmp_path / name)
    assert len(board.trials()) == 4 and len(_board(tmp_path / name).trials()) == 4
    assert [file.name for file in (tmp_path / name).iterdir()] == [FILE] and len(list(tmp_path.iterdir())) == 1
