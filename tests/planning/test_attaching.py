"""The head of a network without one reads where the training set shows that it can be read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.keras_examples import keras
from torch import Tensor, nn

import regraft

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
