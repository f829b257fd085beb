"""`regraft search`: a study in a folder, as text and as JSON, and what it says to wrong words."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from .conftest import SETTINGS, TINY, run

pytestmark = pytest.mark.filterwarnings("always:The trained weights of:UserWarning")


def test_a_search_prints_its_table_and_keeps_the_study(pictures: Path, tmp_path: Path) -> None:
    space, out = tmp_path / "space.json", tmp_path / "out"
    space.write_text(json.dumps({"learning_rate": [0.01, 0.001]}), encoding="utf-8")
    words = ["search", TINY, pictures, "--out", out, "--trials", 2, "--space", space, "--sampler", "grid", "--set", "epochs=1"]
    result = run(*words, *SETTINGS)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split()[:2] == ["trial", "accuracy"]
    assert " holdout examples, which chose nothing" in result.stdout
    assert all((out / name).is_file() for name in ("study.json", "study.sqlite3", "trials.png", "best/regraft.json"))
    plain = json.loads((out / "study.json").read_text())
    assert [trial["values"] for trial in plain["trials"]] == [{"learning_rate": 0.01}, {"learning_rate": 0.001}]
    assert plain["best"]["plan"]["strategy"] == "head" and plain["scores"]["holdout"]["examples"] > 0


def test_wrong_words_end_with_2(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text('{"lerning_rate": [1]}', encoding="utf-8")
    wrong = run("search", TINY, pictures, "--out", tmp_path / "out", "--space", tmp_path / "space.json")
    assert wrong.exit_code == 2 and "did you mean 'learning_rate'" in wrong.stderr
    missing = run("search", TINY, pictures, "--out", tmp_path / "out", "--space", tmp_path / "none.json")
    assert missing.exit_code == 2 and "cannot be opened" in missing.stderr
    assert "--set 'epochs'" in run("search", TINY, pictures, "--out", tmp_path / "out", "--set", "epochs").stderr


def test_the_best_trial_is_a_command_that_gives_its_figures_again(pictures: Path, tmp_path: Path) -> None:
    """With options of `adapt`, further layers below the head, a test set, and names that the data do not order."""
    spaces, out, names = tmp_path / "space.json", tmp_path / "out", tmp_path / "names.txt"
    spaces.write_text(json.dumps({"head_layers": [1], "head_units": [8], "head_activation": ["linear"], "clip_norm": [None]}))
    names.write_text("dark\nbright\n")
    given = ["--epochs", 2, "--learning-rate", 0.01, "--strategy", "head", "--classes", names, "--test", pictures, "--budget", "10m"]
    words = ["search", TINY, pictures, "--out", out, "--trials", 1, "--space", spaces, *given, "--quiet", "--json", *SETTINGS]
    result = run(*words, "--seed", 3)
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    assert plain["best"]["trial"] == 1 == plain["trials"][0]["number"] and plain["scores"]["test"]["examples"] == 16
    program, *again = shlex.split(plain["command"])
    assert program == "regraft" and again[:3] == ["adapt", TINY, str(pictures)]
    assert "refit=false" in again and "clip_norm=none" not in again  # a default is left out
    for option, value in (
        ("--hidden", "8:linear"),
        ("--learning-rate", "0.01"),
        ("--epochs", "2"),
        ("--seed", "3"),
        ("--strategy", "head"),
    ):
        assert again[again.index(option) + 1] == value
    again[again.index("--out") + 1] = str(tmp_path / "again")
    repeated = run(*again, "--json", "--quiet")
    assert repeated.exit_code == 0, repeated.output
    redone = json.loads(repeated.stdout)["plan"]
    assert {**redone, "reasons": 0, "candidates": 0} == {**plain["best"]["plan"], "reasons": 0, "candidates": 0}


@pytest.mark.parametrize("given", ["--budget=soon", "--hidden=wide", "--strategy=hed"])
def test_wrong_values_of_adapts_options_end_with_2(given: str, pictures: Path, tmp_path: Path) -> None:
    assert run("search", TINY, pictures, "--out", tmp_path / "out", "--trials", 1, given).exit_code == 2
