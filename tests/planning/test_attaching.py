"""The head of a network without one reads where the training set shows that it can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.keras_examples import keras
from torch import Tensor, nn

import regraft
from regraft.data import PreparedData
from regraft.networks.network import Network, Tap
from regraft.planning.choosing.attaching import attached

pytestmark = pytest.mark.usefixtures("without_onnx_form")

LABELS = np.array(["a", "b", "c"] * 20)


class Ended(nn.Module):
    """Hidden features, and a result from which no linear layer follows: one number, or the features themselves."""

    def __init__(self, narrow: bool) -> None:
        super().__init__()
        self.body, self.narrow = nn.Linear(8, 24), nn.Linear(24, 1) if narrow else None

    def forward(self, x: Tensor) -> Tensor:
        features = self.body(x).tanh()
        return features if self.narrow is None else torch.cos(self.narrow(features))


def keras_ended(narrow: bool) -> Any:
    entry = keras.Input((8,))
    features = keras.layers.Dense(24, activation="tanh", name="body")(entry)
    return keras.Model(entry, keras.ops.cos(keras.layers.Dense(1, name="narrow")(features)) if narrow else keras.ops.abs(features))


@pytest.mark.parametrize("strategy", ["probe", "head"])
@pytest.mark.parametrize("narrow", [True, False])
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_narrow_output_is_not_what_the_head_reads(family: str, narrow: bool, strategy: str, tmp_path: Any) -> None:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    net = regraft.load(Ended(narrow), inputs=(8,)) if family == "torch" else regraft.load(keras_ended(narrow))
    assert not net.heads
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32) + 3 * np.eye(3, 8, dtype=np.float32)[np.arange(60) % 3]
    settings = {"epochs": 2} if strategy == "head" else {}
    result = regraft.adapt(net, (rows, LABELS), strategy=strategy, cache="memory", **settings)
    said = "the new one reads the block 'body'" in result.verdict
    assert said == narrow
    assert any("the new one reads the block" in note for note in result.account.notes) == narrow
    assert any("put on its pooled output" in note for note in result.account.notes) != narrow
    assert result.scores["holdout"]["accuracy"] > 0.8
    result.network.save(tmp_path / "saved")
    again = regraft.load(tmp_path / "saved", architecture=None if family == "keras" else Ended(narrow))
    assert np.allclose(again.logits(rows), result.network.logits(rows), atol=1e-5)


def test_what_is_measured_is_not_decided_by_chance() -> None:
    """Labels that nothing tells apart leave the head on the pooled output."""
    torch.manual_seed(0)
    net = regraft.load(Ended(True), inputs=(8,))
    rows = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
    result = regraft.adapt(net, (rows, np.random.default_rng(1).permutation(LABELS)), strategy="head", epochs=1, cache="memory")
    assert "reads the block" not in result.verdict


class Sentences(nn.Module):
    """An encoder of masked sequences of which one number a position is left."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(3, 12), nn.LSTM(12, 10, batch_first=True), nn.Linear(10, 2)

    def forward(self, inputs: Tensor, attention_mask: Tensor) -> Tensor:
        return torch.cos(self.last(self.middle(self.first(inputs).tanh() * attention_mask[..., None])[0]))


class KerasCosine(keras.Model):
    """A model without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = keras.layers.Dense(24, activation="tanh"), keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return keras.ops.cos(self.last(self.first(x)))


def keras_maps() -> Any:
    entry = keras.Input((9, 9, 2))
    maps = keras.layers.Conv2D(8, 3, activation="relu", name="first")(entry)
    maps = keras.layers.Conv2D(6, 3, strides=2, activation="relu", name="middle")(maps)
    return keras.Model(entry, keras.ops.cos(keras.layers.Conv2D(1, 1, name="last")(maps)))


def _headless(name: str) -> tuple[Network, Any]:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    drawn = np.random.default_rng(0)
    if name == "Keras maps":
        return regraft.load(keras_maps()), drawn.normal(size=(60, 9, 9, 2)).astype(np.float32)
    if name == "Keras without a graph":
        made = KerasCosine()
        rows = drawn.normal(size=(60, 8)).astype(np.float32)
        made(rows)
        return regraft.load(made, inputs=(8,)), rows
    mask = (np.arange(5) < drawn.integers(1, 6, 60)[:, None]).astype(np.float32)
    inputs = {"inputs": drawn.normal(size=(60, 5, 3)).astype(np.float32), "attention_mask": mask}
    return regraft.load(Sentences(), inputs={"inputs": (5, 3), "attention_mask": (5,)}), inputs


@pytest.mark.parametrize("name, passes", [("masked sequences", 1), ("Keras maps", 1), ("Keras without a graph", 2)])
def test_all_places_are_read_in_one_pass(name: str, passes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The features are those of the network itself, and of the network tapped at its last blocks."""
    net, inputs = _headless(name)
    assert not net.heads
    items = PreparedData(regraft.read((inputs, LABELS)), net.preprocessing)
    twin, tapped = net.copy(), net.tapped([Tap(block.name, ("mean",)) for block in net.blocks[-3:]])
    seen, asked, batch = list[np.ndarray](), list[int](), items.batch

    def losses(features: np.ndarray, *_args: Any, **_settings: Any) -> np.ndarray:
        seen.append(features)
        return np.full(len(features), 1.0 / len(seen)) - 1e-3 * np.arange(len(features)) * (len(seen) == 1)

    monkeypatch.setattr("regraft.planning.choosing.attaching._losses", losses)
    monkeypatch.setattr(items, "batch", lambda rows: asked.append(len(rows)) or batch(rows))
    chosen = attached(net, items, rows=np.arange(60))
    assert asked == ([60] if name == "masked sequences" else passes * [32, 28])  # texts are sorted by their length first
    wanted = list[np.ndarray]()
    for one in (twin, tapped):
        one.mode_(False)
        with torch.no_grad():
            wanted.append(torch.cat([one.feature_batch(batch(rows)) for rows in (np.arange(32), np.arange(32, 60))]).numpy())
    np.testing.assert_allclose(seen[0], wanted[0], rtol=0, atol=1e-6)
    assert len(seen) == 1 + len(net.blocks[-3:])
    np.testing.assert_allclose(np.concatenate(seen[1:], 1), wanted[1], rtol=0, atol=1e-6)
    assert chosen.blocks[-1].name == net.blocks[-1].name
    assert f"reads the block {net.blocks[-1].name!r}" in str(chosen.account.notes)
