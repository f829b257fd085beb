"""Labels in every form that people have them in."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import nn

import regraft
from regraft.data import read
from regraft.errors import DataError

X = np.zeros((4, 3), np.float32)
ROWS = [[1.0, 1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0]]
LISTS: dict[str, Any] = {
    "lists": [["a", "b"], ["c"], [], ["a"]],
    "tuples": [("a", "b"), ("c",), (), ("a",)],
    "sets": [{"a", "b"}, {"c"}, set(), {"a"}],
    "frozen sets": [frozenset("ab"), frozenset("c"), frozenset(), frozenset("a")],
    "arrays": [np.array(["a", "b"]), np.array(["c"]), np.array([], str), np.array(["a"])],
    "bytes": [[b"a", b"b"], [b"c"], [], [b"a"]],
    "repeated": [["b", "a", "b"], ["c"], [], ["a"]],
}


@pytest.mark.parametrize("form", LISTS)
def test_lists_of_labels_are_several_labels_of_an_item(form: str) -> None:
    data = read((X, LISTS[form]))
    assert data.task == "multi-label" and data.classes == ("a", "b", "c") and data.targets.tolist() == ROWS


def test_lists_of_one_label_each_and_of_ids() -> None:
    assert read((X, [["a"], ["b"], ["a"], ["c"]])).task == "multi-label"
    assert read((X, np.array([["a", "b"], ["b", "c"], ["a", "c"], ["a", "b"]]))).targets.sum() == 8
    assert read((X, [[7, 10], [7], [], [8]])).classes == ("7", "8", "10")
    assert read((X, LISTS["lists"]), classes=["c", "b", "a", "d"]).targets.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0], [0] * 4, [0, 0, 1, 0]]
    kept = read((X, [["a"], None, ["b"], []]), skip_bad=True)
    assert len(kept) == 3 and kept.targets.tolist() == [[1, 0], [0, 1], [0, 0]] and "example 1" in kept.notes[-1]
    frame = pytest.importorskip("pandas").DataFrame({"a": [1, 2, 3, 4], "b": [1, 2, 3, 4], "label": LISTS["lists"]})
    assert read(frame).targets.tolist() == ROWS


@pytest.mark.parametrize(
    ("labels", "classes"),
    [([b"a", b"b", b"a", b"c"], ("a", "b", "c")), (np.array([b"a", b"b", b"a", b"b"]), ("a", "b")), (["a", b"b", "a", b"b"], ("a", "b"))],
)
def test_bytes_are_texts(labels: Any, classes: tuple[str, ...]) -> None:
    assert read((X, labels)).classes == classes
    assert list(read((X, [0, 1, 0, 1]), group=labels).groups[:2]) == ["a", "b"]


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        ([b"\xff", b"a", b"a", b"b"], {}, "bytes that are no text in UTF-8"),
        ([{"a": 1}, {"b": 1}, {}, {}], {}, "A label is of the type dict"),
        ([["a"], "b", ["c"], []], {}, "Row 1 has the label 'b' and other rows have lists"),
        ([["a"], None, ["b"], []], {}, "example 1.*skip_bad=True"),
        ([[], [], [], []], {}, "None of the 4 lists of labels holds a label"),
        ([["a"], ["z"], ["b"], []], {"classes": ["a", "b"]}, "not among the 2 classes: 'z'"),
        (["a", " ", "b", "a"], {}, "missing or not finite in rows 1; .*skip_bad=True"),
        (["a", "b", "c", "d"], {"task": "regression"}, "a label such as 'a' is no number"),
        ([0.5, 1, 2, 3], {"task": "regresion"}, "no kind of task; did you mean 'regression'"),
        (LISTS["lists"], {"task": "classification"}, "2 examples have no label, or several"),
        (LISTS["lists"], {"task": "regression"}, "they are of the kind 'multi-label'"),
    ],
)
def test_labels_that_are_refused(labels: Any, more: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read((X, labels), **more)


@pytest.mark.parametrize(
    ("labels", "task", "targets", "classes"),
    [
        ([18, 44, 18, 61], "regression", [18, 44, 18, 61], ()),
        (["1", "2.5", "3", "4"], "regression", [1, 2.5, 3, 4], ()),
        ([1.0, 2.0, 1.0, 3.0], "classification", [0, 1, 0, 2], ("1", "2", "3")),
        ([1.1, 2.5, 1.1, 2.5], "classification", [0, 1, 0, 1], ("1.1", "2.5")),
        ([[1, 0], [0, 1], [1, 0], [0, 1]], "multi-label", [[1, 0], [0, 1], [1, 0], [0, 1]], ("0", "1")),
        (["a", "b", "a", "b"], "multi-label", [[1, 0], [0, 1], [1, 0], [0, 1]], ("a", "b")),
        ([["a"], ["b"], ["a"], ["b"]], "classification", [0, 1, 0, 1], ("a", "b")),
    ],
)
@pytest.mark.parametrize("again", [False, True])
def test_the_kind_of_task_is_as_said(labels: Any, task: str, targets: Any, classes: tuple[str, ...], again: bool) -> None:
    again = again and classes != ("1.1", "2.5")  # numbers that are not whole are no names once they have been read as numbers
    data = read(read((X, labels)), task=task) if again else read((X, labels), task=task)
    assert data.task == task and data.classes == classes
    np.testing.assert_allclose(data.targets, targets)
    assert read((X, {"first": labels}), task={"first": task}).task == task


def test_what_is_doubtful_is_pointed_out() -> None:
    many = np.zeros((44, 3), np.float32)
    assert "44 distinct whole numbers are read as classes; for numbers give task='regression'" in read((many, list(range(44)))).notes[0]
    assert "the label -1 (1 example) is read as a class" in read((X, [-1, 0, 1, 1])).notes[0]
    assert read((X, [-2, -1, 0, 1])).notes == () and read((many, list(range(44))), task="regression").notes == ()
    assert len(read((X, ["a", "", "b", None]), skip_bad=True)) == 2 and len(read((X, [1.5, np.nan, 2, 3]), skip_bad=True)) == 3


def _net(family: str, outputs: int, *, multi: bool = False) -> Any:
    names = [f"c{row}" for row in range(outputs)] if multi else None
    if family == "torch":
        layers = [nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, outputs), *([nn.Sigmoid()] if multi else [])]
        return regraft.load(nn.Sequential(*layers), inputs=(3,), classes=names)
    keras = pytest.importorskip("keras")
    activation = "sigmoid" if multi else "linear" if outputs == 1 else "softmax"
    return regraft.load(keras.Sequential([keras.Input((3,)), keras.layers.Dense(outputs, activation)]), classes=names)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_the_head_decides_where_nothing_is_said(family: str) -> None:
    draw = np.random.default_rng(0)
    items, ages = draw.normal(size=(40, 3)).astype(np.float32), draw.integers(18, 60, 40)
    how = {"strategy": "head", "epochs": 1, "learning_rate": 0.01}
    result = regraft.adapt(_net(family, 1), (items, ages), test=(items, ages % 5), **how)
    assert result.network.head.kind == "regression" and "rmse" in result.scores["test"]
    said = result.facts["data"]["notes"]
    assert len(said) == 1 and "read as those of the kind 'regression', as the network's head" in said[0]
    assert regraft.adapt(_net(family, 1), (items, ages % 2), **how).network.head.kind == "classification"
    assert regraft.adapt(_net(family, 1), (items, ages % 3), task="classification", **how).network.head.kind == "classification"
    assert regraft.adapt(_net(family, 3), (items, ages % 3), task="regression", **how).network.head.kind == "regression"
    one = np.eye(3, dtype=int)[ages % 3]
    assert regraft.adapt(_net(family, 3, multi=True), (items, one), **how).network.head.kind == "multi-label"
    assert regraft.adapt(_net(family, 3), (items, one), **how).network.head.kind == "classification"


def test_a_test_set_is_of_the_task_of_the_data_before_anything_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(0)
    items, rows = draw.normal(size=(40, 3)).astype(np.float32), draw.integers(0, 2, (40, 3))
    one, net, how = np.eye(3, dtype=int)[np.arange(40) % 3], _net("torch", 3, multi=True), {"strategy": "head", "epochs": 1}
    result = regraft.adapt(net, (items, rows), test=(items, one), learning_rate=0.01, **how)
    assert result.network.head.kind == "multi-label" and result.scores["test"]["examples"] == 40
    monkeypatch.setattr(sys.modules["regraft.planning.carry_out"], "run_strategy", lambda *_given: pytest.fail("something was started"))
    with pytest.raises(DataError, match="test set does not go with the data: the task 'main' is a classification there"):
        regraft.adapt(net, read((items, one), task="classification"), test=(items, rows), **how)
    with pytest.raises(DataError, match=r"test set does not go with the data: the task 'main' is a regression there.* they are names"):
        regraft.adapt(net, (items, draw.normal(size=40)), test=(items, ["a", "b"] * 20), **how)


@pytest.mark.parametrize("family", ["torch", "keras"])
@pytest.mark.parametrize("given", ["pair", "dataset", "table"])
def test_the_kind_of_task_is_one_keyword_of_every_verb(family: str, given: str, tmp_path: Path) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype("float32")
    ages = (rows[:, 0] * 3).round().astype(int) + 20
    table = tmp_path / "t.csv"
    lines = [",".join(map(str, [*row, age])) for row, age in zip(rows.tolist(), ages.tolist(), strict=True)]
    table.write_text("a,b,c,label\n" + "\n".join(lines) + "\n")
    data = {"pair": (rows, ages), "dataset": regraft.read((rows, ages)), "table": table}[given]
    net = _net(family, 3)
    said: dict[str, Any] = {"task": "regression"}
    assert regraft.read(data, **said).task == "regression" and "regression" in str(regraft.check(data, **said))
    assert regraft.profile(net, data, cache="memory", **said).metric == "R²"
    result = regraft.adapt(net, data, strategy="probe", cache="memory", **said)
    assert "rmse" in result.scores["holdout"] and "rmse" in regraft.evaluate(result.network, data, **said).scores
    space = {"strategy": ["probe"]}
    assert regraft.search(net, data, space=space, trials=1, sampler="grid", cache="memory", **said).metric == "rmse"
