"""Dropout before the heads and the penalty on their rows: in training steps alone, for both families, on every road."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from tests.networks import keras_examples
from torch import nn

import regraft
from regraft.heads import branch
from regraft.networks.network import Network
from regraft.networks.tracing import capture
from regraft.training.regularizing import dropped, l1_norm

L = keras_examples.L
QUICK = {"epochs": 3, "learning_rate": 0.01, "cache": "memory", "batch_size": 16, "validation": 0}


def _items(family: str) -> tuple[np.ndarray, np.ndarray]:
    items, labels = examples.pictures(60)
    return (items if family == "torch" else items.transpose(0, 2, 3, 1)), labels


def _net(family: str) -> Network:
    torch.manual_seed(0)
    if family == "torch":
        return regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    keras = keras_examples.keras
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(4, 3, activation="relu"), L.Conv2D(6, 3, activation="relu"), L.Flatten(), L.Dense(8, activation="relu"), L.Dense(3)]
    return regraft.load(keras.Sequential([keras.Input((8, 8, 1)), *layers]))


def _shares(network: Network, run: Any) -> dict[str, float]:
    """Return, by head, which share of what it reads became zero in a run with half of it dropped."""
    heads = {layer: network.modules()[layer] for layer in network.head_layers}
    found = {}
    for layer, module in heads.items():
        with dropped(network, 0.5), capture(module) as seen:
            run()
        found[layer] = float((seen["input"] == 0).float().mean())
    return found


def _features(network: Network, count: int) -> torch.Tensor:
    return 1 + torch.rand(count, network.head.features)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_all_heads_lose_the_same_half(family: str) -> None:
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(6, 400), nn.Sigmoid(), nn.Linear(400, 3))
    if family == "keras":
        module = keras_examples.keras.Sequential([keras_examples.keras.Input((6,)), L.Dense(400, activation="sigmoid"), L.Dense(3)])
    net = branch(regraft.load(module, inputs=(6,)), "mood", ("bad", "good"))
    items = torch.randn(20, 6)
    for run in (lambda: net.scores(items), lambda: net.scores_of_features(_features(net, 20))):
        assert list(_shares(net, run).values()) == pytest.approx([0.5, 0.5], abs=0.03)  # a quarter would be left of twice the half
    with torch.no_grad():
        plain = net.scores(items)
        with dropped(net, 0.0):
            assert examples.bit_equal(net.scores(items), plain)
        with dropped(net, 0.5):
            assert not examples.bit_equal(net.scores(items), plain)
        assert examples.bit_equal(net.scores(items), plain)  # nothing is left behind


def test_a_head_that_reads_every_token_loses_none_of_them_twice() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.low, self.head = nn.Linear(6, 400), nn.Linear(400, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.low(x).sigmoid())[:, 0]

    net = branch(regraft.load(Tokens(), inputs=(4, 6)), "mood", ("bad", "good"))
    shares = _shares(net, lambda: net.scores(torch.randn(20, 4, 6)))
    assert list(shares.values()) == pytest.approx([0.5, 0.5], abs=0.03)


@pytest.mark.parametrize("strategy", ["head", "partial", "full"])
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_dropout_acts_in_training_alone(family: str, strategy: str) -> None:
    options = {"frozen": 2} if strategy == "partial" else {}
    net, data = _net(family), _items(family)
    plain, half, again = (regraft.adapt(net, data, strategy=strategy, dropout=share, **QUICK, **options) for share in (0.0, 0.5, 0.5))
    assert examples.bit_equal(half.network.state(), again.network.state())  # the same seed drops the same
    assert not examples.bit_equal(plain.network.state(), half.network.state())
    assert half.plan.settings.dropout == 0.5
    items = data[0][:8]
    assert np.array_equal(half.network.logits(items), half.network.logits(items))
    assert not any(module._forward_pre_hooks for module in half.network.module.modules()) or family == "keras"
    before, after = net.state(), half.network.state()
    trained = {"head": "fc2", "partial": "fc1", "full": "conv1"}[strategy]
    if family == "torch":
        assert torch.equal(before["conv1.weight"], after["conv1.weight"]) == (strategy != "full")
        assert not torch.equal(before[f"{trained}.bias"], after[f"{trained}.bias"])


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_l1_leaves_fewer_weights(family: str) -> None:
    """A penalty on the 64 pixels of each row leaves those that tell the classes; the decay of squares takes a little of all."""
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    if family == "keras":
        module = keras_examples.keras.Sequential([keras_examples.keras.Input((8, 8, 1)), L.Flatten(), L.Dense(3)])
    options = {**QUICK, "epochs": 30, "patience": None, "weight_decay": 0.0, "strategy": "head", "start": "zeros"}
    shares = []
    for weight in (0.0, 0.03):
        net = regraft.load(module, inputs=(1, 8, 8) if family == "torch" else None)
        rows = np.abs(regraft.adapt(net, _items(family), l1=weight, **options).network.head.weight)
        shares.append(float((rows < 0.05 * rows.max()).mean()))
    assert shares[1] > shares[0] + 0.4, shares


def test_the_norm_is_of_the_rows_that_are_trained() -> None:
    net = branch(_net("torch"), "mood", ("bad", "good"))
    net.freeze_(frozenset(layer.name for layer in net.layers) - {"fc2"})
    rows = net.module.network.fc2.weight
    assert l1_norm(net) == rows.abs().sum()
    gradient, *_ = torch.autograd.grad(l1_norm(net), rows)
    assert torch.equal(gradient, rows.sign())
    net.freeze_(frozenset(layer.name for layer in net.layers))
    assert l1_norm(net) == 0
