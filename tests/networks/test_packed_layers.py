"""Layers whose attributes of usual names are methods or absent, quantised ones above all; layers called in transforms of torch.func."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.keras_examples import keras
from torch import Tensor, nn

import regraft
from regraft.errors import NetworkError

X = np.random.default_rng(0).normal(size=(12, 6)).astype(np.float32)
DATA = (X, list("abc" * 4))


def _small(middle: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), middle, nn.ReLU(), nn.Linear(8, 3))


QUANTISED: dict[str, Any] = {
    "all": ({nn.Linear}, torch.qint8),
    "half precision": ({nn.Linear}, torch.float16),
    "all but the head": ({"0", "2"}, torch.qint8),
    "a recurrent one": ({nn.LSTM}, torch.qint8),
}


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells, self.fc = nn.LSTM(1, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.cells(x[..., None])[0][:, -1])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", QUANTISED)
def test_a_network_with_quantised_layers_predicts_and_is_not_changed(kind: str, tmp_path: Path) -> None:
    which, dtype = QUANTISED[kind]
    torch.manual_seed(0)
    whole = Recurrent() if kind == "a recurrent one" else _small(nn.Linear(8, 8))
    module = torch.ao.quantization.quantize_dynamic(whole.eval(), which, dtype=dtype)
    net = regraft.load(module, inputs=(6,), classes=["a", "b", "c"])
    with torch.no_grad():
        expected = module(torch.from_numpy(X))
    assert np.allclose(net.predict(X).probabilities, expected.softmax(-1), atol=1e-5)
    assert bool(net.heads) == (kind in ("all but the head", "a recurrent one")) and "network" in repr(net)
    calls: dict[str, Callable[[], Any]] = {
        "given another head": lambda: regraft.retarget(net, ["a", "d"]),
        "adapted": lambda: regraft.adapt(net, DATA, strategy="head", out=tmp_path / "out"),
        "read at its blocks": lambda: regraft.profile(net, DATA),
        "saved": lambda: net.save(tmp_path / "saved"),
    }
    for done, call in calls.items():
        with pytest.raises(
            NetworkError, match=rf"quantised layers \('.*' is no plain tensor\).*cannot be {done}\. Give the network as it was"
        ):
            call()
    assert not (tmp_path / "out").exists() and not (tmp_path / "saved").exists()


def test_the_weights_of_a_quantised_keras_layer_are_no_class_weights(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3, activation="softmax")])
    model.quantize("int8")
    expected = keras.ops.convert_to_numpy(model(X))
    net = regraft.load(model, classes=["a", "b", "c"])
    assert not net.heads and np.allclose(net.predict(X).probabilities, expected, atol=1e-5)
    assert regraft.retarget(net, ["a", "d"]).head.features == 3


class Called(nn.Module):
    """A layer whose weight and bias are methods."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.shift = nn.Parameter(torch.randn(8, 8)), nn.Parameter(torch.randn(8))

    def weight(self) -> Tensor:
        return self.table

    def bias(self) -> Tensor:
        return self.shift

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight() + self.bias()


class Without(Called):
    """A layer whose weight and bias are None."""

    weight = None  # type: ignore[assignment]
    bias = None  # type: ignore[assignment]
    kernel_size = 3

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.table + self.shift


class HalfCalled(nn.Linear):
    """A linear layer without its sizes, whose bias is a method."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(torch.randn(8, 8))

    def bias(self) -> Tensor:  # type: ignore[override]
        return self.weight[0]

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T + self.bias()


class Rows(nn.Module):
    """A head of the user with a kernel size that is a number, and a bias that is a method."""

    kernel_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(3, 8))

    def bias(self) -> None: ...

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight.T


class Mapped(nn.Module):
    """A network that calls one of its layers, or its head, example by example in `torch.vmap`, and one in `torch.func.grad`."""

    def __init__(self, head: bool) -> None:
        super().__init__()
        self.low, self.middle, self.fc, self.head = nn.Linear(6, 8), nn.Linear(8, 8), nn.Linear(8, 3), head

    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.vmap(self.middle)(self.low(x).relu())
        hidden = hidden + torch.func.grad(lambda values: self.middle(values).square().sum())(hidden)
        return torch.vmap(self.fc)(hidden) if self.head else self.fc(hidden)


ODD: dict[str, Callable[[], nn.Module]] = {
    "methods": lambda: _small(Called()),
    "none": lambda: _small(Without()),
    "a linear layer with a method": lambda: _small(HalfCalled()),
    "a head with a method": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), Rows()),
    "a layer in vmap": lambda: Mapped(False),
    "a head in vmap": lambda: Mapped(True),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("strategy", ["auto", "partial", "full", "scale_shift"])
@pytest.mark.parametrize("kind", ODD)
def test_a_network_of_odd_layers_is_adapted_saved_and_opened(kind: str, strategy: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = ODD[kind]()
    net = regraft.load(module, inputs=(6,), classes=["a", "b", "c"])
    with torch.no_grad():
        assert np.allclose(net.predict(X).probabilities, module(torch.from_numpy(X)).softmax(-1), atol=1e-5)
    settings: dict[str, Any] = {} if strategy == "auto" else {"epochs": 1} | ({"frozen": 1} if strategy == "partial" else {})
    rows = np.concatenate([X] * 3)
    result = regraft.adapt(net, (rows, list("abd" * 12)), strategy=strategy, cache="memory", baselines=False, **settings)
    result.network.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net", architecture=module)
    assert again.classes == ("a", "b", "d") and np.allclose(again.logits(X), result.network.logits(X), atol=1e-5)
