"""`regraft search`: a study in a folder, as text and as JSON, and what it says to wrong words."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from .conftest import SETTINGS, TINY, run

pytestmark = pytest.mark.filterwarnings("always:The trained weights of:UserWarning")


def test_a_search_prints_its_table_and_keeps_the_study(pictures: Path, tmp_path: Path) -> None:
    space, out = tmp_path / "space.json", tmp_path / "out"
    space.write_text(json.dumps({"learning_rate": [0.01, 0.001]}), encoding="utf-8")
    words = ["search", TINY, pictures, "--out", out, "--trials", 2, "--space", space, "--sampler", "grid", "--set", "epochs=1", *SETTINGS]
    result = run(*words)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[0].split()[:2] == ["trial", "accuracy"]
    assert "on the items that chose nothing" in result.stdout
    assert all((out / name).is_file() for name in ("study.json", "study.sqlite3", "trials.png", "best/regraft.json"))
    words[words.index(out)] = tmp_path / "other"  # the network has random weights: it is another one each time
    plain = json.loads(run(*words, "--json", "--quiet").stdout)
    assert [trial["values"] for trial in plain["trials"]] == [{"learning_rate": 0.01}, {"learning_rate": 0.001}]
    assert plain["best"]["plan"]["strategy"] == "head" and plain["scores"]["holdout"]["items"] > 0


def test_wrong_words_end_with_2(pictures: Path, tmp_path: Path) -> None:
    (tmp_path / "space.json").write_text('{"lerning_rate": [1]}', encoding="utf-8")
    wrong = run("search", TINY, pictures, "--out", tmp_path / "out", "--space", tmp_path / "space.json")
    assert wrong.exit_code == 2 and "did you mean 'learning_rate'" in wrong.stderr
    missing = run("search", TINY, pictures, "--out", tmp_path / "out", "--space", tmp_path / "none.json")
    assert missing.exit_code == 2 and "cannot be opened" in missing.stderr
    assert "--set 'epochs'" in run("search", TINY, pictures, "--out", tmp_path / "out", "--set", "epochs").stderr
