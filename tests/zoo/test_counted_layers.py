"""`frozen="layers:8"` freezes the first 8 layers as the network's own library counts them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.zoo.test_freeze_flags import data_for, keras_model
from tests.zoo.torch_networks import NETWORKS
from torch import nn

import regraft
from regraft.errors import SettingError
from regraft.freezing import frozen_up_to
from regraft.networks.keras.library import keras
from regraft.networks.network import Network

L = keras.layers


def sequential() -> Any:
    layers = [keras.Input((16, 16, 3)), L.Conv2D(4, 3, name="first"), L.MaxPooling2D(name="pool"), L.Conv2D(4, 3, name="second")]
    return keras.Sequential(
        [*layers, L.BatchNormalization(name="norm"), L.Flatten(), L.Dropout(0.5), L.Dense(6, name="own"), L.Dense(3, name="out")]
    )


def functional() -> Any:
    """Two branches side by side: Keras counts by depth, not by branch."""
    image = keras.Input((16, 16, 3))
    left, right = L.Conv2D(4, 3, name="left")(image), L.Conv2D(4, 3, name="right")(L.ReLU()(image))
    x = L.GlobalAveragePooling2D()(L.Add()([left, right]))
    return keras.Model(image, L.Dense(3, name="out")(L.Dense(5, name="own")(x)))


KERAS = {"sequential": sequential, "functional": functional, "nested": keras_model}


def with_weights(net: Network, names: frozenset[str]) -> set[str]:
    return {layer.name for layer in net.layers if layer.name in names and layer.parameters}


@pytest.mark.parametrize("name", KERAS)
def test_as_keras_counts(name: str) -> None:
    """The same layers stay as with `for layer in model.layers[:count]: layer.trainable = False`."""
    for count in range(len(KERAS[name]().layers)):
        model = KERAS[name]()
        for layer in model._flatten_layers():
            layer.trainable = True
        net = regraft.load(model)
        for layer in model.layers[:count]:
            layer.trainable = False
        assert with_weights(net, frozen_up_to(net, f"layers:{count}")) == with_weights(net, regraft.load(model).body.held)


@pytest.mark.parametrize("name", ["Plain", "Auxiliary", "Listed", "Tied"])
def test_as_torch_defines(name: str) -> None:
    """The same layers stay as with `requires_grad_(False)` on the first modules without modules in them."""
    module = NETWORKS[name]()
    leaves = [part for part in module.modules() if not list(part.children())]
    before = leaves.index(module.fc) if name != "Tied" else 3
    for count in range(before + 1):
        module.requires_grad_(True)
        net = regraft.load(module, inputs=(3, 16, 16))
        for part in leaves[:count]:
            part.requires_grad_(False)
        assert with_weights(net, frozen_up_to(net, f"layers:{count}")) == set(regraft.load(module, inputs=(3, 16, 16)).body.held)


def test_a_layer_around_others_is_frozen_with_the_last_of_them() -> None:
    class Attends(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.out = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.attention(x, x, x)[0].mean(1))

    net = regraft.load(Attends(), inputs=(4, 8))
    assert net.body.counted() == ("attention.out_proj", "out")
    assert with_weights(net, frozen_up_to(net, "layers:1")) == {"attention", "attention.out_proj"}


@pytest.mark.parametrize(
    ("frozen", "words"), [("layers:9", "0 to 8"), ("layers:99", "this network has 9 layers"), ("layers:8", "includes the head")]
)
def test_counts_that_leave_nothing_are_refused(frozen: str, words: str) -> None:
    model = keras.Sequential([keras.Input((16, 16, 3)), *sequential().layers, L.Activation("softmax")])
    assert len(model.layers) == 9
    with pytest.raises(SettingError, match=words):
        regraft.adapt(regraft.load(model), data_for("keras"), strategy="partial", frozen=frozen, cache="memory")


@pytest.mark.parametrize(("frozen", "last"), [("layers:2", "pool"), ("second", "norm"), (1, "pool")])
def test_the_plan_names_the_last_frozen_layer(frozen: Any, last: str) -> None:
    result = regraft.adapt(regraft.load(sequential()), data_for("keras"), strategy="partial", frozen=frozen, epochs=1, cache="memory")
    assert f"the last frozen layer is {last!r}" in str(result.plan) or frozen == "second"
    assert "the last frozen layer is" in str(result.plan)
