"""Regression with one output and with several: read, adapted by every strategy, and the trained head kept by the place of its outputs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data import read
from regraft.errors import DataError
from regraft.networks.contract import Network
from regraft.networks.keras.library import keras

FAMILIES = ("torch", "keras")
WIDTH = 8
QUICK: dict[str, Any] = {"cache": "memory", "device": "cpu"}


def rows(count: int, outputs: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and numbers that a ReLU network gives for them, with noise."""
    draw, fixed = np.random.default_rng(seed), np.random.default_rng(9)
    x = draw.normal(size=(count, WIDTH)).astype(np.float32)
    hidden = np.maximum(x @ fixed.normal(size=(WIDTH, 12)), 0)
    y = hidden @ fixed.normal(size=(12, outputs)) + 0.1 * draw.normal(size=(count, outputs))
    return x, (y if outputs > 1 else y[:, 0]).astype(np.float32)


def trained(family: str, outputs: int) -> Network:
    """Return a network that was trained on much data of the same kind."""
    x, y = rows(1500, outputs, seed=1)
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, outputs))
    if family == "keras":
        keras.utils.set_random_seed(0)
        module = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(outputs)])
    optimizer, wanted = torch.optim.Adam(module.parameters(), 0.01), torch.from_numpy(y.reshape(len(y), -1))
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(module(torch.from_numpy(x)), wanted).backward()
        optimizer.step()
    return regraft.load(module, inputs=(WIDTH,) if family == "torch" else None)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_examples_do_not_cost_the_trained_outputs(family: str, outputs: int) -> None:
    net, (x, y), (later, truth) = trained(family, outputs), rows(14, outputs), rows(300, outputs, seed=2)
    before = net.logits(later).reshape(truth.shape)
    for strategy in ("auto", "probe", "head"):
        result = regraft.adapt(net, (x, y), strategy=strategy, holdout=0, test=(later, truth), task="regression", **QUICK)
        assert result.network.account.to_dict()["kept"] == [f"output {at}" for at in range(outputs)]
        assert not result.network.account.to_dict()["new"]
        told = result.network.logits(later).reshape(truth.shape)
        if strategy != "head":
            assert np.sqrt(np.mean((told - truth) ** 2)) < 1.3 * np.sqrt(np.mean((before - truth) ** 2))
    assert net.head.classes is None
    assert regraft.adapt(net, (x[:, :], y > 0), strategy="head", **QUICK).network.account.to_dict()["kept"] == []


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_numbers_are_one_regression_of_several_outputs(family: str, tmp_path: Any) -> None:
    net, (x, y) = trained(family, 3), rows(60, 3)
    data = read((x, y))
    assert (data.task, data.classes, data.targets.shape) == ("regression", (), (60, 3))
    assert any("the rows of 3 numbers are read as the targets of as many outputs" in note for note in data.notes)
    for strategy in ("full", "probe"):
        result = regraft.adapt(net, data, strategy=strategy, epochs=2, out=tmp_path / strategy, **QUICK)
        assert result.scores["holdout"]["r2"] > 0.9 and result.network.predict(x[:4]).probabilities.shape == (4, 3)
    found = regraft.evaluate(result.network, (x, y))
    assert list(found.scores["per_class"]) == ["output 0", "output 1", "output 2"] and found.scores["r2"] > 0.9
    assert regraft.profile(net, data).depths


def test_which_rows_are_numbers() -> None:
    x, whole = np.zeros((4, 2)), np.array([[1, 5], [2, 7], [0, 3], [4, 4]])
    assert read((x, whole), task="regression").targets.dtype == np.float32
    assert read((x, np.eye(4)), task="regression").targets.shape == (4, 4) and read((x, np.eye(4))).task == "classification"
    with pytest.raises(DataError, match=r"such as 5; .* If they are numbers to be predicted, say task='regression'"):
        read((x, whole))
    with pytest.raises(DataError, match=r"missing or not finite in rows 2; expected 2 numbers in each row"):
        read((x, np.array([[1.5, 5], [2, 7], [0, np.nan], [4, 4]])))
