"""Networks that cannot be taken apart are adapted all the same, and the verdict says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.zoo.test_freeze_flags import adapted
from tests.zoo.test_torch_networks import pictures
from tests.zoo.torch_networks import FunctionalHead, Plain
from torch import Tensor, nn
from torch.nn import functional

import regraft

keras = pytest.importorskip("keras")


class Centred(nn.Module):
    """A convolution without the mean over the batch: what it gives for one example depends on the others."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 3, 3, 3) * 0.2)

    def forward(self, x: Tensor) -> Tensor:
        maps = functional.conv2d(x, self.weight, stride=2)
        return maps - maps.mean(0)


class CentredKeras(keras.layers.Layer):
    """A dense layer of that kind."""

    def build(self, shape: Any) -> None:
        self.weight = self.add_weight(shape=(shape[-1], 8))

    def call(self, x: Any) -> Any:
        rows = keras.ops.matmul(x, self.weight)
        return rows - keras.ops.mean(rows, axis=0)


def network(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "keras":
        layers = [keras.Input((3, 16, 16)), keras.layers.Flatten(), CentredKeras(), keras.layers.Dense(8), keras.layers.Dense(3)]
        return keras.Sequential(layers)
    made = FunctionalHead() if kind == "torch without a head" else Plain()
    made.conv1 = Centred()
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["torch", "torch without a head", "keras"])
def test_the_verdict_says_that_nothing_was_cached(kind: str) -> None:
    """Where no layer is a head, the new one reads the pooled output, which the verdict says too."""
    data, net = pictures(), regraft.load(network(kind), inputs=(3, 16, 16))
    result = regraft.adapt(net, data, strategy="partial", frozen=1, epochs=2, batch_size=12, refit=False, cache="memory")
    assert "The network could not be taken apart: its frozen part ran in every epoch." in result.verdict
    assert ("no head that could be recognised: the new one reads" in result.verdict) == ("without" in kind)
    assert result.verdict == result.report_facts()["verdict"]
    assert result.cost["frozen_forward_examples"] > 36
    assert result.network.classes == ("a", "b", "c") and np.isfinite(result.network.logits(data)).all()


def test_the_verdict_of_an_ordinary_network_does_not() -> None:
    assert "taken apart" not in adapted("torch", strategy="partial", frozen=1, epochs=1).verdict
