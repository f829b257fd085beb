"""What is told of data before anything is learned from them: a table over kinds of data, and equal examples."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regraft
from regraft.data import Dataset
from regraft.errors import DataError

ROWS = np.array([[0.0, 1.0], [2.0, 1.0], [0.0, 1.0], [4.0, 1.0]])


@pytest.mark.parametrize(
    ("labels", "told"),
    [
        (["a", "b", "a", "b"], {"kind": "classification", "classes": {"a": 2, "b": 2}}),
        ([0.5, 1.5, 2.5, 4.5], {"kind": "regression", "numbers": {"least": 0.5, "median": 2.0, "most": 4.5}}),
        ([1, 2, 3, 1], {"could_be": ["regression"], "classes": {"1": 2, "2": 1, "3": 1}}),
        ([["a"], [], ["a", "b"], ["b"]], {"kind": "multi-label", "classes": {"a": 2, "b": 2}}),
        (["a", None, "b", "a"], {"missing": 0, "classes": {"a": 2, "b": 1}}),
    ],
)
def test_labels_of_each_kind(labels: list[Any], told: dict[str, Any]) -> None:
    facts = regraft.read((ROWS, labels), skip_bad=True).summary().facts
    task = facts["tasks"][0]
    assert {name: task[name] for name in told} == told
    assert bool(facts["left_out"]) == (None in labels)


def test_arrays_have_shape_type_range_and_columns_that_say_nothing() -> None:
    data = regraft.read((ROWS.astype(np.float32), [0, 1, 0, 1]))
    assert data.summary().facts["values"] == {"shape": [2], "dtype": "float32", "least": 0.0, "most": 4.0, "constant": [1]}
    block = regraft.read((np.zeros((3, 4, 4), np.uint8), [0, 1, 0])).summary().facts["values"]
    assert block == {"shape": [4, 4], "dtype": "uint8", "least": 0.0, "most": 0.0}


def test_pictures_sounds_and_texts_have_sizes(pictures: Path, recordings: Path) -> None:
    facts = regraft.read(pictures).summary().facts["values"]
    assert facts == {"width": {"all": 10}, "height": {"all": 12}, "formats": {"PNG": 5}, "modes": {"RGB": 5}}
    facts = regraft.read(recordings).summary().facts["values"]
    assert facts == {"seconds": {"all": 0.5}, "rates": {"8000 Hz": 4}, "channels": {"2": 4}}
    facts = regraft.read((["a b c", "a"], ["x", "y"])).summary().facts["values"]
    assert facts["characters"] == {"least": 1, "median": 3.0, "most": 5}


def test_each_column_of_a_table_has_a_type_and_a_use(tmp_path: Path) -> None:
    lines = [f"00{row},{row * 1.5},a text that is long enough,s{row % 2},{'ab'[row % 2]}" for row in range(6)]
    (tmp_path / "t.csv").write_text("id,price,text,who,label\n" + "\n".join(lines))
    summary = regraft.read(tmp_path / "t.csv", columns=["price"], group="who").summary()
    told = {one["column"]: (one["type"], one["use"]) for one in summary.facts["table"]}
    assert told == {
        "id": ("texts", "left out"),
        "price": ("numbers", "columns"),
        "text": ("texts", "part of the example"),
        "who": ("texts", "group"),
        "label": ("texts", "target"),
    }
    assert summary.facts["columns"] == {"price": {"least": 0.0, "median": 3.75, "most": 7.5}} and summary.facts["groups"]["count"] == 2
    assert "column 'id'" in str(summary) and json.loads(json.dumps(summary.to_dict())) == summary.to_dict()


def test_what_cannot_be_learned_from_is_a_problem() -> None:
    assert "one example" in regraft.read((ROWS, ["a", "a", "a", "b"])).summary().facts["problems"][0]


# ── equal examples ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _as_files(folder: Path, rows: list[int]) -> Dataset:
    folder.mkdir()
    for at, row in enumerate(rows):
        (folder / "ab"[at % 2]).mkdir(exist_ok=True)
        (folder / "ab"[at % 2] / f"{at}.png").write_bytes(bytes([row]) * 9)
    paths = [folder / "ab"[at % 2] / f"{at}.png" for at in range(len(rows))]
    return regraft.read((paths, ["ab"[at % 2] for at in range(len(rows))]))


@pytest.mark.parametrize("form", ["rows", "block", "integers", "texts", "lists", "files", "missing file"])
@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [0, 1, 0, 2, 1, 0], [5, 5, 5]])
def test_equal_examples_are_found_in_every_form(form: str, rows: list[int], tmp_path: Path) -> None:
    made: dict[str, Any] = {
        "rows": np.array([[row, row + 0.25, -row] for row in rows], np.float32),
        "block": np.array([np.full((3, 3), row) for row in rows], np.float64),
        "integers": np.array([[row, 7, 7] for row in rows], np.uint8),
        "texts": [f"text {row}" for row in rows],
        "lists": [np.full((row % 2 + 2, 3, 3), row, np.float32) for row in rows],
    }
    labels = ["ab"[at % 2] for at in range(len(rows))]
    if form in made:
        data = regraft.read((made[form], labels), kind="image" if form == "lists" else None)
    else:
        data = _as_files(tmp_path / "f", rows)
    expected = [rows.index(row) for row in rows]
    if form == "missing file":
        Path(data.items[0]).unlink()
        later = rows[1:]
        expected = [0, *(1 + later.index(row) for row in later)]
    assert data.duplicates().tolist() == expected
    half = data.subset(np.arange(len(rows) // 2, len(rows)))
    found = half.equal_to(data.subset(np.arange(len(rows) // 2)))
    first = [None, *rows[1:]] if form == "missing file" else rows
    assert found.tolist() == [first.index(row) if row in first[: len(rows) // 2] else -1 for row in rows[len(rows) // 2 :]]


def test_columns_beside_equal_items_tell_them_apart() -> None:
    data = regraft.read((np.ones((3, 2)), ["a", "b", "a"]), columns=np.array([[1.0], [2.0], [1.0]]))
    assert data.duplicates().tolist() == [0, 1, 0]


@pytest.mark.parametrize("seed", range(4))
def test_a_group_of_equal_examples_stays_on_one_side(seed: int, pictures: Path) -> None:
    for name in ("cat", "dog"):
        for copy in range(3):
            shutil.copy(pictures / name / "1.png", pictures / name / f"copy {copy}.png")
    data = regraft.read(pictures, group="byte-equal")
    learned, judging = data.split(0.4, seed=seed)
    assert (judging.equal_to(learned) < 0).all()
    equal = data.summary().facts["equal"]
    assert (equal["copies"], equal["sets"], equal["other_label"]) == (6, 2, 0)


def test_copies_with_another_label_are_counted() -> None:
    assert regraft.read((ROWS, ["a", "b", "b", "a"])).summary().facts["equal"]["other_label"] == 1


def test_looking_at_data_does_without_torch(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a,b,label\n" + "".join(f"{row},{row % 3},{'xy'[row % 2]}\n" for row in range(8)))
    code = f"""
import sys, regraft
print(regraft.read({str(tmp_path / "t.csv")!r}).summary())
assert "torch" not in sys.modules and "keras" not in sys.modules
from regraft.cli import app
from typer.testing import CliRunner
assert CliRunner().invoke(app, ["check", {str(tmp_path / "t.csv")!r}]).exit_code == 0
assert "torch" not in sys.modules and "keras" not in sys.modules
"""
    shown = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert "column 'label'" in shown


def test_errors_are_those_of_reading(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="do not exist"):
        regraft.check(tmp_path / "nothing")


def test_pictures_of_several_frames_are_pointed_out(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    for name in "ab":
        (tmp_path / name).mkdir()
        frames = [image.new("L", (4, 4), level) for level in (10, 200)]
        frames[0].save(tmp_path / name / "moving.gif", save_all=True, append_images=frames[1:])
        frames[0].save(tmp_path / name / "still.gif")
    assert "GIF (several frames, of which the first is read): 2" in str(regraft.read(tmp_path).summary())
