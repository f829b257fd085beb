"""Keras models that are ordinary in Keras: layers that nobody calls or that are called twice, batches of one, states around a call."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import pytest
import torch
from tests.zoo.test_surroundings import STATES

import regraft

keras = pytest.importorskip("keras")
L = keras.layers
LABELS = np.array(["a", "b", "c"] * 8)
ROWS = (np.random.default_rng(0).normal(size=(24, 6)) + 2 * np.eye(3, 6)[np.arange(24) % 3]).astype(np.float32)


class Unused(keras.Model):
    """An auxiliary head that only training calls, and a weight that no layer holds."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.top, self.aux = L.Dense(8, activation="relu"), L.Dense(3), L.Dense(4)
        self.scale = self.add_weight(shape=(8,), initializer="ones")
        self.aux.build((None, 8))

    def call(self, x: Any, training: bool = False) -> Any:
        hidden = self.low(x) * self.scale
        if training:
            self.aux(hidden)
        return self.top(hidden)


def called_twice() -> Any:
    inputs, layer = keras.Input((6,)), L.Dense(6, activation="relu")
    return keras.Model([inputs], [L.Dense(3)(layer(layer(inputs)))])


def normalised(last: bool) -> Any:
    parts = [L.Dense(3), L.BatchNormalization()] if last else [L.Dense(8), L.BatchNormalization(), L.ReLU(), L.Dense(3)]
    return keras.Sequential([keras.Input((6,)), *parts])


NETWORKS = {
    "a layer that nobody calls": Unused,
    "a layer that is called twice": called_twice,
    "BatchNorm at the end": lambda: normalised(True),
    "BatchNorm": lambda: normalised(False),
}


@pytest.mark.filterwarnings("ignore:.*`build\\(\\)` was called")
@pytest.mark.parametrize("strategy", ["probe", "full", "auto"])
@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_adapted_in_batches_of_one(name: str, strategy: str) -> None:
    keras.utils.set_random_seed(0)
    model = NETWORKS[name]()
    net = regraft.load(model, inputs=(6,))
    before = [np.array(weight) for weight in model.get_weights()]
    settings = {} if strategy == "probe" else {"epochs": 1, "batch_size": 1}
    result = regraft.adapt(net, (ROWS, LABELS), strategy=strategy, cache="memory", **settings)
    found = result.network.predict(ROWS)
    assert found.classes == ("a", "b", "c") and np.isfinite(found.probabilities).all()
    assert all(np.array_equal(one, two) for one, two in zip(before, model.get_weights(), strict=True))


@pytest.mark.parametrize("state", ["no_grad", "inference", "double"])
def test_the_state_around_a_call_changes_nothing(state: str) -> None:
    def adapted(around: AbstractContextManager[Any]) -> np.ndarray:
        keras.utils.set_random_seed(0)
        model = normalised(False)
        with around:
            made = regraft.adapt(regraft.load(model), (ROWS, LABELS), strategy="full", epochs=1, cache="memory").network
            return made.predict(ROWS).probabilities

    assert np.array_equal(adapted(STATES[state]()), adapted(torch.enable_grad()))


def test_generators_are_left_as_they_were() -> None:
    keras.utils.set_random_seed(0)
    net = regraft.load(normalised(False))
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    regraft.adapt(net, (ROWS, LABELS), strategy="full", epochs=1, cache="memory")
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
