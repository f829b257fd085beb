"""Which class weights a training below the head begins with: those kept by name and zeros, or solved ones."""

from __future__ import annotations

import gc
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_wine
from sklearn.preprocessing import StandardScaler

import regraft
from regraft.networks.keras.library import keras

LONG: dict[str, Any] = {"epochs": 30, "batch_size": 8, "patience": 1, "refit": False}  # about 8 steps an epoch


def _net(family: str) -> Any:
    if family == "torch":
        torch.manual_seed(0)
        return regraft.load(torch.nn.Sequential(torch.nn.Linear(13, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)), inputs=(13,))
    keras.utils.set_random_seed(0)
    return regraft.load(keras.Sequential([keras.Input((13,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(2)]))


ROWS = (
    ("torch", "classes", LONG, {"plain"}),
    ("torch", "classes", LONG | {"start": "probe"}, {"solved"}),
    ("torch", "classes", LONG | {"probe": "lda"}, {"solved"}),
    ("keras", "classes", LONG | {"start": "random"}, {"random"}),
    ("torch", "numbers", LONG, {"plain", "solved"}),
    pytest.param("keras", "numbers", LONG, {"plain", "solved"}, marks=pytest.mark.slow),
)


@pytest.mark.parametrize(("family", "kind", "options", "starts"), ROWS)
def test_a_training_begins_with_solved_class_weights_where_it_is_asked_to(
    family: str, kind: str, options: dict[str, Any], starts: set[str]
) -> None:
    x, y = load_wine(return_X_y=True)
    x = StandardScaler().fit_transform(x).astype(np.float32)[::2]
    targets = np.array(["red", "white", "rosé"])[y[::2]] if kind == "classes" else 100 + 10.5 * x[:, 0]
    result = regraft.adapt(_net(family), (x, targets), strategy="full", cache="memory", **options)
    assert {entry["start"] for entry in result.history if entry.get("phase") == "search"} == starts
    said = [one for one in result.plan.reasons if one.startswith("Settings of 'full'")]
    assert ("start='random'" in said[0]) == (starts == {"random"}) and ("solved heads" not in said[0] or "solved" in starts)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_short_training_begins_with_solved_class_weights(family: str) -> None:
    x, y = load_wine(return_X_y=True)
    data = StandardScaler().fit_transform(x).astype(np.float32), np.array(["red", "white", "rosé"])[y]
    result = regraft.adapt(_net(family), data, strategy="full", cache="memory", epochs=1, holdout=0.3)
    assert result.scores["holdout"]["accuracy"] > 0.6  # four steps from zeros would be near a third


class _Copies:
    """Counts, after each epoch, the tensors that have the shape of a layer of 8 x 13 weights and memory of their own."""

    def __init__(self) -> None:
        self.counts: list[int] = []

    def on_epoch_end(self, epoch: int, logs: Mapping[str, Any]) -> None:
        gc.collect()
        with warnings.catch_warnings(action="ignore"):  # objects that warn when their class is read
            every = [one for one in gc.get_objects() if issubclass(type(one), torch.Tensor) and sorted(one.shape) == [8, 13]]
        self.counts.append(len({one.data_ptr() for one in every}))


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_training_holds_one_copy_of_the_weights_that_it_begins_with(family: str) -> None:
    x, y = load_wine(return_X_y=True)
    seen, net = _Copies(), _net(family)
    data = StandardScaler().fit_transform(x).astype(np.float32), np.array(["red", "white", "rosé"])[y]
    regraft.adapt(net, data, strategy="full", cache="memory", learning_rate=1e-3, epochs=1, refit=False, callbacks=[seen])
    assert seen.counts[-1] == 6  # the network, its copy that is trained, the start, two moments of AdamW, the best epoch so far
