"""`regraft.extend` with data: what is learned from, what judges, what is said and saved, in both families."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.errors import DataError, NetworkError, SettingError

NAMES = ("low", "middle", "high", "top")
Pair = tuple[np.ndarray, list[str]]


def examples(names: tuple[str, ...], each: int = 12, *, seed: int = 0, centre: float = 6.0) -> Pair:
    """Return rows of three numbers whose class is where they lie."""
    draw = np.random.default_rng(seed)
    labels = [name for name in names for _ in range(each)]
    centres = np.stack([np.eye(4)[NAMES.index(name), :3] * centre for name in labels])
    return draw.normal(centres, 0.4).astype(np.float32), labels


def network(family: str, *, scale: float = 1.0) -> regraft.Network:
    """Return a network that tells low from middle by the sign of a difference."""
    weight = scale * np.array([[1, -1], [-1, 1], [0, 0]], np.float32)
    if family == "torch":
        layer = nn.Linear(3, 2)
        layer.load_state_dict({"weight": torch.from_numpy(weight.T), "bias": torch.zeros(2)})
        return regraft.load(nn.Sequential(layer), classes=NAMES[:2], inputs=(3,))
    keras = pytest.importorskip("keras")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, "softmax")])
    model.layers[0].set_weights([weight, np.zeros(2, np.float32)])
    return regraft.load(model, classes=NAMES[:2])


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_data_alone_add_their_new_classes_and_judge(family: str, tmp_path: Path) -> None:
    net, (shown, labels) = network(family), examples(NAMES)
    before, probe = net.logits(shown), net.preprocessing
    found = regraft.extend(net, (shown, labels), holdout=0.25, out=tmp_path / "out")
    assert isinstance(found, regraft.Extension) and found.classes == ("high", "top")
    assert found.network.classes == NAMES and net.classes == NAMES[:2] and net.preprocessing is probe
    assert np.array_equal(found.network.logits(shown)[:, :2], before)
    figures = found.scores["holdout"]
    assert figures["old_examples"] == figures["new_examples"] == 6 and figures["old_accuracy_before"] == 1.0
    assert {"accuracy", "accuracy_interval", "confusion", "per_class", "harmonic_mean"} <= set(figures)
    assert found.verdict in repr(found) and found.verdict in str(found)
    assert any(note.startswith("24 of 48 examples have labels that the network has already") for note in found.notes)
    module = None if family == "keras" else lambda: nn.Sequential(nn.Linear(3, 2))
    np.testing.assert_array_equal(regraft.load(tmp_path / "out", architecture=module).logits(shown), found.network.logits(shown))
    saved = json.loads((tmp_path / "out" / "scores.json").read_text(encoding="utf-8"))
    assert saved["verdict"] == found.verdict and saved["scores"]["holdout"]["examples"] == 12
    assert found.report(tmp_path / "page.html").read_text(encoding="utf-8").count("Extension report") >= 1
    assert (tmp_path / "out" / "report.html").is_file() and {"read", "solve", "evaluate", "save", "total"} <= set(found.cost)
    assert sum(found.cost.values()) <= 2.01 * found.cost["total"]
    with pytest.raises(SettingError, match="already holds a finished network"):
        regraft.extend(net, (shown, labels), out=tmp_path / "out")


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_data_alone_add_what_names_and_data_add(family: str) -> None:
    net, new = network(family), examples(NAMES[2:])
    named = regraft.extend(net, NAMES[2:], new)
    found = regraft.extend(net, new, test=examples(NAMES, seed=1))  # the test set judges, and all examples are learned from, as in adapt
    assert isinstance(named, regraft.Network) and set(found.scores) == {"test"} and found.scores["test"]["examples"] == 48
    assert set(regraft.extend(net, new, holdout=0.2, test=examples(NAMES, seed=1)).scores) == {"holdout", "test"}
    assert np.array_equal(found.network.head.weight, named.head.weight) and np.array_equal(found.network.head.bias, named.head.bias)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_examples_of_old_classes_are_fitted_or_only_judge(family: str) -> None:
    net, new, old = network(family), examples(NAMES[2:]), examples(NAMES[:2], seed=2)
    fitted = regraft.extend(net, new, old_data=old)
    assert fitted.facts["strategy"]["settings"]["new class weights"] == "fitted to examples of old and new classes"
    assert fitted.facts["data"]["counts"]["low"] > 0 and fitted.scores["holdout"]["old_examples"] > 0
    judged = regraft.extend(net, examples(NAMES), start="imprint")
    assert set(judged.facts["data"]["counts"]) == {"high", "top"} and judged.scores["holdout"]["old_examples"] == 24


def test_a_network_is_opened_and_what_was_not_judged_is_said(tmp_path: Path) -> None:
    folder = tmp_path / "net"
    network("keras").save(folder)
    shown, labels = examples(("high",), each=1)
    found = regraft.extend(folder, data=(shown, labels))
    assert found.scores == {} and "has not been evaluated" in found.verdict
    assert any(note.startswith("There is no holdout set") for note in found.notes)
    assert found.save(tmp_path / "out") == tmp_path / "out" and regraft.load(tmp_path / "out").classes == NAMES[:3]


def test_a_log_loss_above_that_of_equal_probabilities_is_explained(tmp_path: Path) -> None:
    sure = examples(NAMES, centre=0.5)
    found = regraft.extend(network("torch", scale=60.0), sure, start="imprint", out=tmp_path / "out")
    loss = found.scores["holdout"]["log_loss"]
    assert loss > np.log(4)
    assert found.notes[0].startswith(f"The log loss on the holdout set, {loss:.2f}, is higher than that of equal probabilities, 1.39")
    assert "do not use the probabilities" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert not any("log loss" in note for note in regraft.extend(network("torch"), examples(NAMES)).notes)


def _two_tasks() -> Any:
    shown, labels = examples(NAMES)
    return regraft.read((shown, {"side": np.where(shown[:, 0] > 1, "left", "right"), "main": np.array(labels)}))


def test_the_labels_of_the_first_head_count() -> None:
    assert regraft.extend(network("torch"), _two_tasks()).classes == ("high", "top")


@pytest.mark.parametrize(
    ("given", "named", "error", "said"),
    [
        ((), {}, SettingError, "needs the names of new classes, or data that show them; received neither"),
        ((["high"],), {"holdout": 0.2}, SettingError, "go with data alone"),
        ((["high"],), {"out": "x"}, SettingError, "go with data alone"),
        ((examples(NAMES),), {"holdout": 1.0}, SettingError, "holdout= is a share from 0 to below 1, such as 0.2; received 1.0"),
        ((examples(NAMES),), {"holdout": "0.2"}, SettingError, "received '0.2'"),
        ((examples(NAMES),), {"start": "imprnt"}, SettingError, "did you mean 'imprint'"),
        ((examples(NAMES),), {"start": "mean", "statistics": True}, SettingError, "start= and statistics= at once"),
        ((examples(NAMES[:2]),), {}, DataError, "has all classes of the data already: 'low', 'middle'"),
        (((examples(NAMES)[0], np.linspace(0, 1, 48)),), {}, DataError, "of the kind 'regression'; expected one class name an example"),
        ((examples(("high",)),), {"test": examples(("top",))}, DataError, "'top'"),
    ],
)
def test_what_does_not_go_together_is_refused(given: Any, named: Any, error: type[Exception], said: str) -> None:
    with pytest.raises(error, match=said):
        regraft.extend(network("torch"), *given, **named)


def test_a_network_without_class_names_is_refused() -> None:
    net = regraft.load(nn.Sequential(nn.Linear(3, 2)), inputs=(3,))
    with pytest.raises(NetworkError, match="have no class names; give them with classes="):
        regraft.extend(net, examples(NAMES))


@pytest.mark.parametrize("names", [["high"], ("high", "top"), {"high"}, np.array(["high", "top"]), iter(["high"]), [3, 4]])
def test_names_in_any_list_are_names(names: Any) -> None:
    assert isinstance(regraft.extend(network("torch"), names), regraft.Network)
