"""Networks that draw at random in inference too (`F.dropout(x, training=True)`, noise): told, and never cached."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.zoo.test_freeze_flags import data_for, keras_model
from tests.zoo.torch_networks import NETWORKS, Plain
from torch import Tensor
from torch.nn import functional

import regraft
from regraft.networks.keras.library import keras
from regraft.networks.network import Network

L = keras.layers


class AlwaysDropped(Plain):
    def features(self, x: Tensor) -> Tensor:
        return functional.dropout(super().features(x), 0.5, training=True)


class Noisy(Plain):
    def maps(self, x: Tensor) -> Tensor:
        return super().maps(x + 0.5 * torch.randn_like(x))


class KerasDropped(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.mean, self.drop, self.out = L.Conv2D(6, 3, strides=2), L.GlobalAveragePooling2D(), L.Dropout(0.5), L.Dense(3)

    def call(self, x: Any, training: bool = False) -> Any:
        return self.out(self.drop(self.mean(self.conv(x)), training=True))


class KerasNoisy(KerasDropped):
    def call(self, x: Any, training: bool = False) -> Any:
        return self.out(self.mean(self.conv(x + keras.random.normal(keras.ops.shape(x)))))


RANDOM = {"torch": (AlwaysDropped, Noisy), "keras": (KerasDropped, KerasNoisy)}
CASES = [(family, kind) for family, kinds in RANDOM.items() for kind in kinds]


def opened(kind: Any) -> Network:
    torch.manual_seed(0)
    module = kind()
    if isinstance(module, keras.Model):
        module(np.zeros((2, 16, 16, 3), np.float32))
        return regraft.load(module)
    return regraft.load(module, inputs=(3, 16, 16))


@pytest.mark.parametrize(("family", "kind"), CASES)
def test_it_is_said_when_the_network_is_opened_and_with_its_predictions(family: str, kind: Any) -> None:
    net, data = opened(kind), data_for(family)
    assert net.body.draws and "draws at random, in inference too" in str(net.account)
    with pytest.warns(UserWarning, match="differ from call to call"):
        first, second = net.predict(data), net.predict(data)
    assert not np.array_equal(first.probabilities, second.probabilities)


@pytest.mark.parametrize(
    ("strategy", "options"), [("head", {"epochs": 2}), ("full", {"epochs": 1}), ("partial", {"frozen": 1, "epochs": 2})]
)
@pytest.mark.parametrize(("family", "kind"), CASES[::2] + CASES[1::2])
def test_nothing_of_it_is_cached(family: str, kind: Any, strategy: str, options: dict[str, Any], tmp_path: Path) -> None:
    """Each epoch draws anew: the frozen part runs more than once for each example."""
    net, data = opened(kind), data_for(family)
    result = regraft.adapt(net, data, strategy=strategy, cache=tmp_path, batch_size=12, refit=False, **options)
    assert not list(tmp_path.iterdir())
    assert result.network.body.draws and any("draws at random" in reason for reason in result.plan.reasons)
    assert result.history and result.history[-1]["stage"] == strategy
    if strategy == "head":
        assert result.cost["frozen_forward_examples"] > len(data)


@pytest.mark.parametrize("strategy", ["auto", "probe"])
def test_closed_forms_are_solved_on_one_draw_which_is_kept_nowhere(strategy: str, tmp_path: Path) -> None:
    result = regraft.adapt(opened(AlwaysDropped), data_for("torch"), strategy=strategy, cache=tmp_path, epochs=1)
    assert not list(tmp_path.iterdir())
    assert any("solved on one draw" in reason for reason in result.plan.reasons)


@pytest.mark.parametrize("make", [*NETWORKS.values(), keras_model], ids=[*NETWORKS, "keras"])
def test_ordinary_networks_are_not_taken_for_random_ones(make: Any) -> None:
    """Two passes of them are the same, dropout layers and BatchNorm included."""
    module = make()
    net = regraft.load(module) if isinstance(module, keras.Model) else regraft.load(module.train(), inputs=(3, 16, 16))
    assert not net.body.draws and "random" not in str(net.account)


def test_a_saved_one_is_known_again_and_said_once(tmp_path: Path) -> None:
    net = opened(AlwaysDropped)
    with pytest.warns(UserWarning, match="opens only with its class.*draws at random"):
        net.save(tmp_path / "saved")
    again = regraft.load(tmp_path / "saved", architecture=AlwaysDropped)
    assert again.body.draws
    assert str(again.account).count("draws at random") == 1
