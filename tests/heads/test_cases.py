"""The cases that users bring: speakers, titles, cats and dogs, digits with a second output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import regraft

keras = pytest.importorskip("keras")
layers = keras.layers

SOURCE = [f"speaker {index:02d}" for index in range(40)]
TARGET = [*(SOURCE[index] for index in (31, 4, 17, 22, 9, 38)), *(f"new {index}" for index in range(9))]
PLAIN = {"cache": "memory", "seed": 0}


def _torch_voices() -> Any:
    return nn.Sequential(nn.Linear(60, 48), nn.BatchNorm1d(48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), nn.Linear(32, 40))


def _keras_voices() -> Any:
    steps = [layers.Dense(48), layers.BatchNormalization(), layers.Activation("relu"), layers.Dense(32, activation="relu")]
    return keras.Sequential([keras.Input((60,)), *steps, layers.Dense(40, activation="softmax")])


def _voices(names: list[str], pieces: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pieces of voices: each voice is a point, and every piece lies around it."""
    draw = np.random.default_rng(seed)
    centres = {name: np.random.default_rng([3, sum(map(ord, name)) * 131 + len(name)]).normal(size=60) for name in names}
    labels = np.repeat(names, pieces)
    return np.stack([centres[name] + 0.7 * draw.normal(size=60) for name in labels]).astype(np.float32), labels


@pytest.mark.parametrize("make", [_torch_voices, _keras_voices])
def test_six_of_fifteen_speakers_are_known_before_any_training(make: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    source = regraft.adapt(make(), _voices(SOURCE, 12, seed=0), strategy="full", epochs=6, learning_rate=3e-3, **PLAIN).network
    data, (test, truth) = regraft.read(_voices(TARGET, 16, seed=1), classes=TARGET), _voices(TARGET, 10, seed=2)
    untrained = regraft.adapt(source, data, strategy="head", epochs=0, classes=TARGET, **PLAIN)
    assert untrained.account.to_dict()["kept"] == TARGET[:6] and len(untrained.account.to_dict()["new"]) == 9
    for name in TARGET[:6]:
        assert np.array_equal(untrained.network.head.row(name)[0], source.head.row(name)[0])
        assert untrained.network.head.row(name)[1] == source.head.row(name)[1]
    known = np.isin(truth, TARGET[:6])
    right = np.array(untrained.network.predict(test[known]).labels) == truth[known]
    assert right.mean() > 0.6 > 4 / 15
    trained = regraft.adapt(source, data, strategy="full", classes=TARGET, **PLAIN)
    labels = np.array(trained.network.predict(test).labels)
    assert min((labels == truth)[known].mean(), (labels == truth)[~known].mean()) > 0.6  # the old and the new
    assert (labels == truth).mean() > 0.8


def _titles(classes: range, count: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return titles of ten words: three of them are those of the category."""
    draw = np.random.default_rng(seed)
    labels = np.repeat(list(classes), count)
    words = draw.integers(1, 100, (len(labels), 10))
    words[np.arange(len(labels))[:, None], [1, 4, 7]] = 1 + (labels[:, None] * 2 + np.array([0, 1, 31])) % 99
    return words, np.array([f"category {label:02d}" for label in labels])


def test_a_title_classifier_grows_from_forty_to_forty_five_categories(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((10,), dtype="int32"),
            layers.Embedding(100, 12),
            layers.BatchNormalization(),
            layers.Bidirectional(layers.LSTM(8, return_sequences=True)),
            layers.Bidirectional(layers.LSTM(8)),
            layers.Dense(40, activation="softmax"),
        ]
    )
    first = regraft.adapt(model, _titles(range(40), 6, seed=0), strategy="full", epochs=2, out=tmp_path / "first", **PLAIN)
    old = regraft.load(tmp_path / "first")
    data = _titles(range(40, 45), 8, seed=1)
    wider = regraft.extend(old, [f"category {label}" for label in range(40, 45)], data)
    assert len(wider.classes) == 45 and np.array_equal(wider.head.weight[:40], old.head.weight)
    assert wider.account.to_dict()["figures"]["max_score_change"] == 0.0
    both = [np.concatenate(pair) for pair in zip(_titles(range(45), 4, seed=2), data, strict=True)]
    second = regraft.adapt(wider, tuple(both), strategy="head", epochs=2, out=tmp_path / "second", **PLAIN)
    assert [entry["run"] for entry in second.history] == [1] * len(first.history) + [2] * 2
    assert [entry["train_loss"] for entry in second.history[: len(first.history)]] == [entry["train_loss"] for entry in first.history]
    assert len(regraft.load(tmp_path / "second").history) == len(second.history)
    assert len(second.account.to_dict()["kept"]) == 45


def _torch_digits() -> Any:
    return nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))


def _keras_digits() -> Any:
    return keras.Sequential([keras.Input((64,)), layers.Dense(48, activation="relu"), layers.Dense(10, activation="softmax")])


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("make", [_torch_digits, _keras_digits])
def test_digits_with_a_second_output_once_derived_once_trained(make: Callable[[], Any], tmp_path: Path) -> None:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    pictures, digits = load_digits(return_X_y=True)
    x, labels = (pictures[:900] / 16).astype(np.float32), digits[:900].astype(str)
    net = regraft.adapt(make(), (x[:600], labels[:600]), strategy="full", epochs=4, learning_rate=3e-3, **PLAIN).network
    derived = regraft.branch(net, "parity", groups={"even": ["0", "2", "4", "6", "8"], "odd": None})
    found = derived.predict(x[600:])
    np.testing.assert_allclose(found.tasks["parity"].probabilities[:, 0], found.probabilities[:, ::2].sum(1), atol=1e-6)
    truth = np.where(digits[:900] % 2, "odd", "even")
    assert (np.array(found.tasks["parity"].labels) == truth[600:]).mean() > 0.85
    some = np.where(np.arange(600) % 2 == 0, truth[:600], "")  # half of the items say nothing of the second target
    data = regraft.read((x[:600], {"digit": labels[:600], "parity": some}))
    trained = regraft.adapt(net, data, strategy="head", epochs=3, out=tmp_path / "both", **PLAIN)
    assert set(trained.scores["holdout"]["tasks"]) == {"digit", "parity"} or set(trained.scores["holdout"]["tasks"]) == {"main", "parity"}
    again = (
        regraft.load(tmp_path / "both", architecture=make).predict(x[600:])
        if make is _torch_digits
        else regraft.load(tmp_path / "both").predict(x[600:])
    )
    assert (np.array(again.labels) == labels[600:]).mean() > 0.8
    assert (np.array(again.tasks["parity"].labels) == truth[600:]).mean() > 0.8
