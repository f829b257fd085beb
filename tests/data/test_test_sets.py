"""A test set, or examples of old classes, in a table: read with the columns and the folder of the data beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data.read import read_like

pandas = pytest.importorskip("pandas")
CLASSES = ["low", "high"]


def _table(seed: int, classes: list[str] = CLASSES, each: int = 15) -> Any:
    draw, names = np.random.default_rng(seed), np.repeat(classes, each)
    table = pandas.DataFrame(draw.normal(size=(len(names), 3)) + 3 * (names == "high")[:, None], columns=["a", "b", "zone"])
    return table.assign(zone=(table["zone"] > 1).astype(int), level=names, place=["x", "y", "z"] * (len(names) // 3))


def _net(inputs: int = 2) -> regraft.Network:
    torch.manual_seed(0)
    return regraft.load(nn.Sequential(nn.Linear(inputs, 6), nn.ReLU(), nn.Linear(6, 2)), inputs=(inputs,), classes=["high", "odd"])


@pytest.mark.parametrize("form", ["path", "text", "frame"])
@pytest.mark.parametrize("verb", ["adapt", "search"])
def test_a_test_table_is_read_with_the_columns_of_the_data(verb: str, form: str, tmp_path: Path) -> None:
    if verb == "search":
        pytest.importorskip("optuna")
    data = regraft.read(_table(0)[["a", "b", "level", "place"]], target="level", group="place")
    assert data.reading == {"target": "level"}  # a group may be missing in a test set
    test = _table(1)[["place", "level", "b", "a"]]  # by default, the last column would be the target
    test.to_csv(tmp_path / "test.csv", index=False)
    given = {"path": tmp_path / "test.csv", "text": str(tmp_path / "test.csv"), "frame": test}[form]
    how: dict[str, Any] = {"strategy": "probe", "cache": "memory"} if verb == "adapt" else {"space": {"strategy": ["probe"]}, "trials": 1}
    found = getattr(regraft, verb)(_net(), data, test=given, **how)
    assert found.scores["test"]["examples"] == 30 and found.scores["test"]["accuracy"] > 0.8


def test_files_of_a_test_table_are_looked_up_in_the_folder_of_the_data(tmp_path: Path) -> None:
    (tmp_path / "arrays").mkdir()
    tables = {"train.csv": _table(0), "test.csv": _table(1)}
    for name, table in tables.items():
        table["file"] = [f"{name}{row}.npy" for row in range(len(table))]
        for file, row in zip(table["file"], table[["a", "b"]].to_numpy(np.float32), strict=True):
            np.save(tmp_path / "arrays" / file, row)
        table[["file", "level"]].to_csv(tmp_path / name, index=False)
    data = regraft.read(tmp_path / "train.csv", files=tmp_path / "arrays", target="level")
    assert data.subset(np.arange(4)).reading == data.reading
    result = regraft.adapt(_net(), data, strategy="probe", test=tmp_path / "test.csv", cache="memory")
    assert result.scores["test"]["examples"] == 30


def test_old_classes_and_a_test_set_of_an_extension_are_read_alike() -> None:
    new, old = _table(0, ["low"], 15), _table(1, ["high"], 15)
    data = regraft.read(new[["a", "b", "level", "place"]], target="level")
    found = regraft.extend(_net(), data, old_data=old[["place", "level", "a", "b"]], test=_table(2)[["a", "b", "level", "place"]])
    assert found.classes == ("low",) and found.scores["test"]["examples"] == 30


def test_files_beside_a_test_table_are_its_own(tmp_path: Path) -> None:
    for seed, folder in enumerate(("train", "test")):
        table = _table(seed)
        table["file"] = [f"{row}.npy" for row in range(len(table))]  # the same names in both folders
        (tmp_path / folder).mkdir()
        for file, row in zip(table["file"], table[["a", "b"]].to_numpy(np.float32), strict=True):
            np.save(tmp_path / folder / file, row)
        table[["file", "level"]].to_csv(tmp_path / folder / "labels.csv", index=False)
    data = regraft.read(tmp_path / "train" / "labels.csv", files=tmp_path / "train", target="level")
    test = read_like(data, tmp_path / "test" / "labels.csv", skip_bad=False)
    assert np.array_equal(test[0], _table(1)[["a", "b"]].to_numpy(np.float32)[0])
    assert not [note for note in regraft.adapt(_net(), data, strategy="probe", test=test).plan.reasons if "equal, byte by byte" in note]


def test_labels_given_as_a_list_are_no_columns_and_records_are_a_table() -> None:
    table, test = _table(0), _table(1)[["a", "b", "level"]]
    data = regraft.read(table[["a", "b"]], target=table["level"].tolist())
    assert not data.reading and read_like(data, test, skip_bad=False) is test
    several = regraft.read(table.assign(c=1, d=[0, 1] * 15)[["a", "b", "c", "d"]], target=["c", "d"])
    assert several.reading == {"target": ["c", "d"]}
    named, other = regraft.read(table[["a", "b", "level", "place"]], target="level"), _table(1)[["level", "a", "b", "place"]]
    for form in (other.to_dict("records"), {name: other[name].to_numpy() for name in other}):
        assert read_like(named, form, skip_bad=False).classes == ("high", "low")
