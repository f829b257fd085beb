"""Keras networks in the form of Keras 2: opened by Keras 3, laid out as files of Keras 2 are, and read by Keras 2 itself."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

import regraft
from regraft.errors import NetworkError, SettingError

keras = pytest.importorskip("keras")
layers = keras.layers

DRAWS = np.random.default_rng(0)
PICTURES, STEPS = DRAWS.normal(size=(4, 12, 12, 3)).astype(np.float32), DRAWS.normal(size=(4, 7, 5)).astype(np.float32)
TOKENS = DRAWS.integers(0, 20, (4, 9))


def pictures() -> Any:
    entry = keras.Input((12, 12, 3))
    one = layers.Conv2D(4, 3, padding="same", activation="relu", kernel_regularizer="l2")(layers.Rescaling(0.5)(entry))
    two = layers.LeakyReLU(0.2)(layers.BatchNormalization()(layers.SeparableConv2D(4, 3, padding="same")(one)))
    both = layers.Concatenate()([layers.Add()([one, two]), layers.DepthwiseConv2D(3, padding="same")(two)])
    end = layers.Dropout(0.3)(layers.Flatten()(layers.MaxPooling2D()(layers.ZeroPadding2D()(both))))
    return keras.Model(entry, layers.Dense(3, activation="softmax", name="scores")(end))


def steps() -> Any:
    inner = layers.Bidirectional(layers.LSTM(3, return_sequences=True))
    last = [layers.GRU(4, return_sequences=True), layers.TimeDistributed(layers.Dense(4)), layers.SimpleRNN(3), layers.Dense(3)]
    return keras.Sequential([keras.Input((7, 5)), layers.Masking(), inner, layers.LayerNormalization(), *last])


def tokens() -> Any:
    parts = [layers.Embedding(20, 6), layers.Conv1D(4, 3, activation="relu"), layers.GlobalMaxPooling1D()]
    return keras.Sequential([keras.Input((9,), dtype="int32"), *parts, layers.Dense(1, activation="sigmoid")])


CASES = {"pictures": (pictures, PICTURES), "steps": (steps, STEPS), "tokens": (tokens, TOKENS)}


def network(name: str) -> tuple[regraft.Network, np.ndarray]:
    keras.utils.set_random_seed(0)
    make, items = CASES[name]
    model = make()
    return regraft.load(model, classes=["no", "yes"] if name == "tokens" else ["a", "b", "c"]), items


def described(path: Path) -> dict[str, Any]:
    with h5py.File(path) as file:
        config: dict[str, Any] = json.loads(file.attrs["model_config"])
    return config


@pytest.mark.parametrize("name", CASES)
def test_keras_opens_the_file_and_regraft_finds_the_same_network(name: str, tmp_path: Path) -> None:
    net, items = network(name)
    path = net.export(tmp_path / "net.h5")
    again = regraft.load(path, classes=net.classes)
    assert np.allclose(again.logits(items), net.logits(items), atol=1e-5)
    assert [each.name for each in again.blocks] == [each.name for each in net.blocks]
    assert [one.name for one in tmp_path.iterdir()] == ["net.h5"]


@pytest.mark.parametrize("name", [pytest.param("pictures", marks=pytest.mark.slow), "steps", "tokens"])
def test_the_layout_is_that_of_keras_2(name: str, tmp_path: Path) -> None:
    net, _ = network(name)
    path = net.export(tmp_path / "net.h5")
    with h5py.File(path) as file:
        assert str(file.attrs["keras_version"]).startswith("2.") and file.attrs["backend"] == "tensorflow"
        assert {"loss", "metrics", "optimizer_config"} <= set(json.loads(file.attrs["training_config"]))
        weights = file["model_weights"]
        names = [str(each, "utf-8") for each in weights.attrs["layer_names"]]
        assert set(weights) - {"top_level_model_weights"} == set(names) == {each.name for each in net.module.layers}
        for layer in names:
            held = [str(each, "utf-8") for each in weights[layer].attrs["weight_names"]]
            assert all(each.endswith(":0") and isinstance(weights[layer][each], h5py.Dataset) for each in held)
            assert len(held) == len(net.module.get_layer(layer).weights)
    text = json.dumps(described(path))
    for newer in ('"module"', "registered_name", "build_config", "DTypePolicy", '"batch_shape"', "__keras_tensor__", "quantization_config"):
        assert newer not in text, newer
    for layer in described(path)["config"]["layers"]:
        for node in layer.get("inbound_nodes", ()):
            assert all(len(place) == 4 and isinstance(place[0], str) and isinstance(place[3], dict) for place in node)


@pytest.mark.parametrize("alone", [False, True], ids=["network", "weights"])
@pytest.mark.parametrize("layout", ["keras2", "keras3"])
def test_each_layout_opens_in_keras(layout: str, alone: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    net, items = network("tokens")
    path = net.export(tmp_path / ("net.weights.h5" if alone else "net.h5"), weights_format=layout)
    assert not "".join(capfd.readouterr())
    with h5py.File(path) as file:
        held = file if alone else file["model_weights"]
        assert ("layer_names" in held.attrs) == (layout == "keras2" or not alone) and ("model_config" in file.attrs) != alone
        old = alone or "batch_input_shape" in file.attrs["model_config"]
        assert alone or (str(file.attrs["keras_version"])[0] == layout[-1] and old == (layout == "keras2"))
    keras.utils.set_random_seed(1)
    model = tokens() if alone else keras.saving.load_model(path, compile=False)
    if alone:
        assert not np.allclose(model(items).detach(), net.module(items).detach(), atol=1e-3)
        model.load_weights(path if layout == "keras3" else path.rename(path := tmp_path / "net.h5"))
        assert np.allclose(regraft.load(tokens(), classes=net.classes, weights=path).logits(items), net.logits(items), atol=1e-5)
    assert np.allclose(model(items).detach(), net.module(items).detach(), atol=1e-6)
    if not alone:
        assert np.allclose(regraft.load(path, classes=net.classes).logits(items), net.logits(items), atol=1e-5)
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_files_are_laid_out_as_keras_2_wrote_them(tmp_path: Path) -> None:
    """The fixture is a file of tf-keras, whose model was not compiled."""
    theirs = Path(__file__).parents[1] / "fixtures" / "keras2_cnn.h5"
    ours, layouts = regraft.load(theirs).export(tmp_path / "net.h5", weights_format="keras2"), []
    for path in (theirs, ours):
        layouts.append(dict[str, Any]())
        with h5py.File(path) as file:
            for name, item in [("/", file), *((name, file[name]) for name in _places(file))]:
                facts = {key: np.asarray(item.attrs[key]).astype(str).tolist() for key in item.attrs if key.endswith("_names")}
                layouts[-1][name] = (set(item.attrs) - {"training_config"}, facts, getattr(item, "shape", None))
    assert layouts[0] == layouts[1]


def _places(file: Any) -> list[str]:
    found: list[str] = []
    file.visit(found.append)
    return found


def test_a_wrong_layout_is_refused(tmp_path: Path) -> None:
    net, _ = network("tokens")
    for name, layout, said in (
        ("net.h5", "keras_2", "'keras_2' is unknown; did you mean 'keras2'"),
        ("net.weights.h5", "h5", "'h5' is unknown; valid: 'keras2', 'keras3'"),
        ("net.keras", "keras2", r"weights_format='keras2' goes with a path that ends in '\.h5'"),
    ):
        with pytest.raises(SettingError, match=said):
            net.export(tmp_path / name, weights_format=layout)
    module = torch.nn.Linear(4, 3)
    with pytest.raises(NetworkError, match=r"Convert it first: net.to\('keras'\)"):
        regraft.load(module, inputs=(4,)).export(tmp_path / "net.h5", weights_format="keras2")
    assert not list(tmp_path.iterdir())


def test_an_adapted_network_with_a_branch_is_written(tmp_path: Path) -> None:
    net, _ = network("pictures")
    branched = regraft.branch(regraft.retarget(net, classes=["x", "y"]), classes=["p", "q"], task="other")
    path = branched.export(tmp_path / "net.h5")
    model = keras.saving.load_model(path, compile=False)
    found = [np.asarray(one.detach()) for one in model(PICTURES)]
    expected = branched.predict(PICTURES)
    for each, task in zip(found, expected.tasks.values(), strict=True):
        exponents = np.exp(each - each.max(1, keepdims=True))
        alike = [np.allclose(one, task.probabilities, atol=1e-5) for one in (each, exponents / exponents.sum(1, keepdims=True))]
        assert any(alike)


def test_what_keras_2_has_no_words_for_is_refused_by_layer(tmp_path: Path) -> None:
    entry = keras.Input((7, 5))
    attended = layers.MultiHeadAttention(2, 3, name="looks")(entry, entry)
    model = keras.Model(entry, layers.Dense(3)(layers.GlobalAveragePooling1D()(attended)))
    for wrong, said in (
        (model, "'looks'"),
        (keras.Sequential([keras.Input((5,)), layers.UnitNormalization(name="unit"), layers.Dense(3)]), r"'unit' \(UnitNormalization\)"),
    ):
        with pytest.raises(NetworkError, match=said):
            regraft.load(wrong).export(tmp_path / "net.h5")
    entry = keras.Input((7, 5))
    outputs, *states = layers.LSTM(4, return_state=True, return_sequences=True)(entry)
    states = keras.Model(entry, layers.Dense(3)(layers.LSTM(4, name="second")(outputs, initial_state=states)))
    with pytest.raises(NetworkError, match="'second' takes several inputs by name"):
        regraft.load(states).export(tmp_path / "net.h5")
    assert not list(tmp_path.iterdir())


READER = """
import sys, numpy as np, tf_keras
model, items = tf_keras.models.load_model(sys.argv[1]), np.load(sys.argv[2])
again = tf_keras.models.clone_model(model)
again.load_weights(sys.argv[4])
np.save(sys.argv[3], [one(items, training=False).numpy() for one in (model, again)])
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_keras_2_computes_the_same(name: str, tmp_path: Path) -> None:
    """Needs tf_keras with TensorFlow: in this environment, or in that of the interpreter that TF_KERAS_PYTHON names."""
    python = os.environ.get("TF_KERAS_PYTHON", sys.executable)
    if python == sys.executable and not all(map(importlib.util.find_spec, ("tensorflow", "tf_keras"))):
        pytest.skip("needs tensorflow and tf_keras; name an interpreter that has them in TF_KERAS_PYTHON")
    net, items = network(name)
    path = net.export(tmp_path / "net.h5")
    np.save(tmp_path / "items.npy", items)
    alone = net.export(tmp_path / "alone.weights.h5", weights_format="keras2").rename(tmp_path / "alone.h5")
    command = [python, "-c", READER, *map(str, (path, tmp_path / "items.npy", tmp_path / "found.npy", alone))]
    subprocess.run(command, check=True, timeout=500, env={**os.environ, "KERAS_BACKEND": "tensorflow"})
    expected = np.asarray(net.module(items, training=False).detach())
    for found in np.load(tmp_path / "found.npy"):
        assert np.allclose(found, expected, atol=1e-5)
