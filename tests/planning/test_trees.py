"""Trees on the raw columns stand beside what is adapted to a table."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.probes.trees import MOST_IN_FOREST, tree_scores


def _net(family: str, outputs: int = 3) -> Any:
    torch.manual_seed(0)
    if family == "torch":
        return regraft.load(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs)), inputs=(4,))
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    return regraft.load(keras.Model(inputs, keras.layers.Dense(outputs)(keras.layers.Dense(8)(inputs))))


def _rows(count: int = 240) -> tuple[np.ndarray, np.ndarray]:
    rows = np.random.default_rng(0).uniform(-1, 1, (count, 4)).astype(np.float32)
    return rows, np.where((rows[:, 0] > 0) ^ (rows[:, 1] > 0), "odd", "even")  # trees see it, a linear head does not


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_the_verdict_says_when_no_network_is_needed(family: str) -> None:
    result = regraft.adapt(_net(family), _rows(), strategy="probe", cache="memory", holdout=0.3)
    assert result.baselines["forest"]["accuracy"] > result.scores["holdout"]["accuracy"] + 0.2
    assert "a random forest on the raw columns is better" in result.verdict
    assert result.verdict.endswith("For this table, use a random forest on the raw columns instead of a network.")
    assert result.baselines["forest"]["examples"] == result.scores["holdout"]["examples"]


def test_regression_and_columns_beside_the_rows() -> None:
    rows, _ = _rows()
    beside = np.random.default_rng(1).normal(size=(240, 1)).astype(np.float32)
    targets = np.abs(rows[:, 0]) + 3 * np.abs(beside[:, 0])
    net = regraft.join(_net("torch", 1), ["column 0"])
    data = regraft.read((rows, targets), columns=beside)
    result = regraft.adapt(net, data, strategy="probe", cache="memory", holdout=0.3)
    assert result.baselines["forest"]["mae"] < 0.7 * result.scores["holdout"]["mae"]
    assert result.verdict.endswith("instead of a network.")


WITHOUT = {
    "few rows": (np.zeros((60, 4)), np.arange(60) % 2, {}),
    "pictures": (np.random.default_rng(0).random((120, 3, 8, 8)), np.arange(120) % 2, {}),
    "several labels": (np.random.default_rng(0).random((120, 4)), [["a", "b"] if at % 3 else ["a"] for at in range(120)], {}),
}


@pytest.mark.parametrize("name", WITHOUT)
def test_trees_are_grown_for_tables_alone(name: str) -> None:
    rows, labels, how = WITHOUT[name]
    rows = np.asarray(rows, np.float32) + np.random.default_rng(0).random(np.shape(rows)).astype(np.float32)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    net = regraft.load(module, inputs=(3, 8, 8)) if rows.ndim == 4 else _net("torch")
    result = regraft.adapt(net, (rows, labels), strategy="probe", cache="memory", **how)
    assert not {"forest", "boosting"} & set(result.baselines)


@pytest.mark.parametrize("count", [200, MOST_IN_FOREST + 100])
def test_scores_are_log_probabilities_by_class_index(count: int) -> None:
    rows, labels = _rows(count)
    targets = np.where(labels == "odd", 3, 1)  # classes 0 and 2 have no example
    name, scores = tree_scores(rows, targets, rows[:50], classes=4)
    assert name == ("forest" if count < MOST_IN_FOREST else "boosting")
    assert scores.shape == (50, 4) and set(scores.argmax(1)) <= {1, 3}
    assert (scores.argmax(1) == targets[:50]).mean() > 0.9
    assert np.array_equal(tree_scores(rows, targets, rows[:50], classes=4)[1], scores)


def test_weights_and_missing_numbers_are_regarded() -> None:
    rows, _ = _rows()
    rows[::7, 2] = np.nan
    targets = np.arange(240) % 2
    weights = np.where(targets, 1e-6, 1.0)
    assert (tree_scores(rows, targets, rows, classes=2, weights=weights)[1].argmax(1) == 0).mean() > 0.9
