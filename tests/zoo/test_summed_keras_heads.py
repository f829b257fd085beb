"""Keras networks whose result is the sum or the mean of several Dense layers: these are one head, and change together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regraft

keras = pytest.importorskip("keras")
layers = keras.layers
ROWS = np.random.default_rng(0).normal(size=(36, 8)).astype(np.float32)


def model(ends: str = "average", *, nested: bool = False) -> Any:
    keras.utils.set_random_seed(0)
    entry = keras.Input((8,))
    first, second = layers.Dense(12, activation="relu", name="first")(entry), layers.Dense(6, activation="relu", name="second")(entry)
    heads = [layers.Dense(3, name="one")(first), layers.Dense(3, name="two", use_bias=False)(second)]
    whole = {
        "average": lambda: layers.Average()(heads),
        "add": lambda: layers.Add()(heads),
        "weighted": lambda: 0.75 * heads[0] + 0.25 * heads[1],
        "softmax": lambda: layers.Softmax()(layers.Average()(heads)),
    }[ends]()
    inner = keras.Model(entry, whole)
    if not nested:
        return inner
    outer = keras.Input((8,))
    return keras.Model(outer, inner(layers.Rescaling(0.5)(outer)))


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("ends", ["average", "add", "weighted", "softmax"])
def test_the_layers_are_one_head(ends: str, nested: bool, tmp_path: Path) -> None:
    own = model(ends, nested=nested)
    net = regraft.load(own, classes=["a", "b", "c"])
    assert net.head.features == 18
    assert net.head.activation == ("softmax" if ends == "softmax" else "linear")
    assert "became one layer, 'head'" in str(net.account)
    exported = keras.saving.load_model(net.export(tmp_path / "net.keras"))
    assert np.allclose(np.asarray(exported(ROWS).detach()), np.asarray(own(ROWS).detach()), atol=1e-5)
    kept = regraft.retarget(net, ["c", "d", "a"])
    logits, before = kept.logits(ROWS), net.logits(ROWS)
    assert np.allclose(logits[:, [0, 2]], before[:, [2, 0]], atol=1e-5)
    kept.save(tmp_path / "saved")
    assert np.allclose(regraft.load(tmp_path / "saved").logits(ROWS), logits, atol=1e-6)


def test_both_parts_are_trained() -> None:
    net = regraft.load(model(), classes=["a", "b", "c"])
    result = regraft.adapt(net, (ROWS, np.array(["a", "b", "d"] * 12)), strategy="head", epochs=2, cache="memory", validation=0.2)
    before, after = net.head.weight, result.network.head.weight
    assert not np.allclose(before[:, :12], after[:, :12]) and not np.allclose(before[:, 12:], after[:, 12:])


@pytest.mark.filterwarnings("ignore:.*does not have a `quantize` method")
def test_quantised_layers_stay_as_they_are() -> None:
    own = model("add")
    own.quantize("int8")
    net = regraft.load(own)
    assert not net.heads and "became one layer" not in str(net.account)
    assert np.array_equal(net.logits(ROWS), np.asarray(own(ROWS).detach()))


def test_a_residual_connection_is_no_head() -> None:
    entry = keras.Input((8,))
    first = layers.Dense(3, name="one")(entry)
    net = regraft.load(keras.Model(entry, layers.Add()([first, layers.Dense(3, name="two")(layers.ReLU()(first))])))
    assert not net.heads
