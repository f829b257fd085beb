"""`hidden=` builds layers below a new head, and `adapt` trains them before anything is solved on what they give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.heads.examples import OLD, TABLE, opened, pictures

import regraft
from regraft.errors import NetworkError, SettingError

keras = pytest.importorskip("keras")
NEW = ("car", "boat")
LAYERS = [(12, "relu"), (7, "sigmoid"), (5, "tanh")]
FAMILIES = ("torch linear", "Keras functional")


def data_for(name: str, count: int = 60) -> tuple[np.ndarray, np.ndarray]:
    labels = np.array(NEW)[np.arange(count) % 2]
    return pictures(name, labels), labels


def by_hand(net: Any, features: np.ndarray) -> np.ndarray:
    """The logits of the layers that the network has, as NumPy computes them from what the first of them reads."""
    follows = {"relu": lambda x: np.maximum(x, 0), "sigmoid": lambda x: 1 / (1 + np.exp(-x)), "tanh": np.tanh}
    for layer, (_, activation) in zip(net.fresh, LAYERS, strict=True):
        weight, bias = net.body.layer_rows(layer)
        features = follows[activation](features @ weight.T + bias)
    return features @ net.head.weight.T + net.head.bias


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name == "timm" else name for name in TABLE])
def test_the_layers_are_those_that_were_asked_for(name: str, tmp_path: Path) -> None:
    net = opened(name)
    made = regraft.retarget(net, NEW, hidden=LAYERS, start="random", dropout=0.25, seed=3)
    assert made.classes == NEW and made.head.features == 5 and len(made.fresh) == 3 and not net.fresh
    examples = data_for(name, 6)[0]
    np.testing.assert_allclose(made.logits(examples), by_hand(made, net.features(examples)), atol=1e-4)
    assert list(made.account.entries["dropped"]) == list(OLD) and list(made.account.entries["new"]) == list(NEW)
    assert any("never trained (12 relu, 7 sigmoid, 5 tanh, each with dropout 0.25)" in note for note in made.account.notes)
    same = regraft.retarget(net, NEW, hidden=LAYERS, start="random", dropout=0.25, seed=3)
    assert np.array_equal(made.logits(examples), same.logits(examples))
    again = regraft.load(made.save(tmp_path / "made"), **_architecture(name))
    assert again.fresh == made.fresh and np.array_equal(again.logits(examples), made.logits(examples))


@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_without_a_head_gets_them(name: str) -> None:
    net = opened(name)
    short = regraft.cut(net, net.blocks[0].name)
    made = regraft.retarget(short, NEW, hidden=[(4, "gelu")])
    assert made.head.features == 4 and len(made.fresh) == 1 and not made.head.weight.any()


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("strategy", ["auto", "head", "full"])
@pytest.mark.parametrize("name", FAMILIES)
def test_adapt_trains_them_on_cached_features(name: str, strategy: str, tmp_path: Path) -> None:
    net = regraft.retarget(opened(name), NEW, hidden=[(16, "relu"), (8, "tanh")], dropout=0.1)
    fresh, before = net.fresh, net.state()
    result = regraft.adapt(net, data_for(name), strategy=strategy, epochs=20, learning_rate=0.02, cache="memory", out=tmp_path / "out")
    assert result.plan.fresh == fresh and result.history[0]["stage"] == "fresh layers" and net.fresh == fresh
    assert result.plan.strategy == ("head" if strategy == "auto" else strategy)
    now = result.network.state()
    changed = {key.rpartition(".")[0] for key, values in before.items() if "seed" not in key and not torch.equal(values, now[key])}
    assert {*fresh, result.network.head.layer} <= changed and (strategy == "full" or changed == {*fresh, result.network.head.layer})
    assert result.network.fresh == () and regraft.load(tmp_path / "out", **_architecture(name)).fresh == ()
    assert result.cost["frozen_forward_examples"] == 60
    assert result.scores["holdout"]["accuracy"] > 0.7


def _architecture(name: str) -> dict[str, Any]:
    return {} if "Keras" in name else {"architecture": TABLE[name]}


@pytest.mark.parametrize("name", FAMILIES)
def test_they_go_with_the_network_through_later_changes(name: str) -> None:
    net = regraft.retarget(opened(name), NEW, hidden=LAYERS[:2])
    others = (regraft.retarget(net, ["x", "y", "z"]), regraft.stack(net, ["x", "y"]), regraft.branch(net, "size", ["small", "large"]))
    for changed in others:
        modules = changed.modules()
        assert len(changed.fresh) == 2 and all(layer in modules for layer in changed.fresh)
        for old, new in zip(net.fresh, changed.fresh, strict=True):
            assert np.array_equal(net.body.layer_rows(old)[0], changed.body.layer_rows(new)[0])


@pytest.mark.parametrize("strategy", ["probe", "lora", "surgical"])
@pytest.mark.parametrize("name", FAMILIES)
def test_nothing_is_solved_over_them(name: str, strategy: str) -> None:
    net = regraft.retarget(opened(name), NEW, hidden=LAYERS[:1])
    options = {"block": "last"} if strategy == "surgical" else {}
    with pytest.raises(SettingError, match=r"would take the layers .* for trained ones"):
        regraft.adapt(net, data_for(name), strategy=strategy, **options)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"hidden": [1000]}, r"such as \[\(1000, 'relu'\)\]"),
        ({"hidden": [(0, "relu")]}, "expected units"),
        ({"hidden": "relu"}, "expected units"),
        ({"hidden": [(8, "sigmid")]}, "'sigmoid'"),
        ({"hidden": [(8, "relu")], "dropout": 1.0}, "from 0 to below 1"),
        ({"dropout": 0.2}, "goes with hidden="),
        ({"hidden": [(8, "relu")], "start": "probe", "data": ()}, "are random until adapt"),
        ({"hidden": [(8, "relu")], "rename": {"bus": "car"}}, "rename="),
    ],
)
def test_what_makes_no_layers_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        regraft.retarget(opened("torch linear"), NEW, **options)


def test_a_network_with_further_heads_is_refused() -> None:
    net = regraft.branch(opened("torch linear"), "size", ["small", "large"])
    with pytest.raises(NetworkError, match="further ones: 'size'"):
        regraft.retarget(net, NEW, hidden=LAYERS)


def test_keras_gets_plain_layers(tmp_path: Path) -> None:
    """What is exported is what one would have written: Dense with its activation, Dropout, Dense."""
    made = regraft.retarget(opened("Keras Sequential"), NEW, hidden=[(6, "relu"), (4, "sigmoid")], dropout=0.3)
    model = keras.models.load_model(made.export(tmp_path / "model.keras"))
    told = [(type(layer).__name__, getattr(layer, "activation", None) and layer.activation.__name__) for layer in model.layers[-5:]]
    assert [kind for kind, _ in told] == ["Dense", "Dropout", "Dense", "Dropout", "Dense"]
    assert [activation for _, activation in told[::2]] == ["relu", "sigmoid", "linear"]
