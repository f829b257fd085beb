"""`regraft.evaluate`: the figures of each task, by class name, in both families."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import DataError, RegraftError, SettingError
from regraft.tasks.evaluating import Evaluation, evaluated

ROWS = np.eye(3, dtype=np.float32)[[0, 0, 1, 2, 2, 2]]
LABELS = ["a", "b", "b", "c", "c", "a"]  # four of six are right


def identity(family: str, names: str = "abc") -> regraft.Network:
    """A network whose logits are its input."""
    if family == "torch":
        layer = torch.nn.Linear(3, 3)
        with torch.no_grad():
            layer.weight.copy_(torch.eye(3))
            layer.bias.zero_()
        return regraft.load(torch.nn.Sequential(layer), classes=list(names), inputs=(3,))
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3, name="head")])
    model.layers[-1].set_weights([np.eye(3, dtype="float32"), np.zeros(3, "float32")])
    return regraft.load(model, classes=list(names))


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_figures_confusion_and_recalls_are_those_of_hand(family: str) -> None:
    found = regraft.evaluate(identity(family), (ROWS, LABELS))
    assert found.scores["accuracy"] == pytest.approx(4 / 6) and found.scores["examples"] == 6
    assert found.confusion().tolist() == [[1, 0, 1], [1, 1, 0], [0, 0, 2]]
    assert found.recalls() == {"a": 0.5, "b": 0.5, "c": 1.0}


def test_classes_are_matched_by_name() -> None:
    once = regraft.evaluate(identity("torch"), (ROWS, LABELS))
    other = regraft.evaluate(identity("torch", "cab"), (ROWS, ["cab"["abc".index(label)] for label in LABELS]))
    assert other.scores["accuracy"] == once.scores["accuracy"]
    assert other.classes["main"] == ("c", "a", "b") and other.confusion().tolist() == once.confusion().tolist()
    few = regraft.evaluate(identity("torch"), regraft.read((ROWS[3:5], ["c", "c"])))
    assert few.recalls() == {"a": None, "b": None, "c": 1.0}


def test_tasks_are_judged_by_the_heads_of_their_names() -> None:
    net = regraft.branch(identity("torch"), "even", ["no", "yes"])
    data = regraft.read((ROWS, {"main": LABELS, "even": ["no", "yes"] * 3}))
    found = regraft.evaluate(net, data)
    assert list(found.tasks) == ["main", "even"] and found.confusion("even").sum() == 6
    assert found.confusion("main").tolist() == regraft.evaluate(net, (ROWS, LABELS)).confusion().tolist()
    with pytest.raises(DataError, match="of a task 'evn'; did you mean 'even'"):
        found.confusion("evn")


def test_a_regression_has_errors_and_no_confusion() -> None:
    layer = torch.nn.Linear(3, 1)
    net = regraft.retarget(regraft.load(torch.nn.Sequential(layer), inputs=(3,)), ["price"])
    found = evaluated(net, regraft.read((ROWS, np.arange(6) / 2.5)), named=False)
    assert found.scores["mae"] > 0
    for asked in (found.confusion, found.recalls):
        with pytest.raises(DataError, match="'main'"):
            asked()


@pytest.mark.parametrize(
    ("data", "reading", "said"),
    [
        ((ROWS, ["a", "b", "b", "c", "c", "d"]), {}, "'d'"),
        (regraft.read((ROWS, LABELS)), {"target": "label"}, "target= say how data are read"),
    ],
)
def test_what_does_not_fit_is_said(data: Any, reading: dict[str, Any], said: str) -> None:
    with pytest.raises((RegraftError, SettingError), match=said):
        regraft.evaluate(identity("torch"), data, **reading)


def test_an_evaluation_is_short() -> None:
    assert len(repr(Evaluation({"main": {"examples": 3}}, {"main": ("a",)}))) < 80
