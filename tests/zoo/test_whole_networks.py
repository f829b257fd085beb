"""Networks that cannot be taken apart are adapted all the same, and the verdict says so."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.zoo.test_freeze_flags import adapted
from tests.zoo.test_torch_networks import pictures
from tests.zoo.torch_networks import Distances, Plain
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
    made = Distances() if kind == "torch without a head" else Plain()
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


class Experts(nn.Module):
    """Two of four experts for each example, chosen by a gate; each runs only the examples that chose it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.gate, self.head = nn.Linear(6, 8), nn.Linear(8, 4), nn.Linear(8, 3)
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x).relu()
        shares, chosen = self.gate(hidden).softmax(-1).topk(2)
        made = torch.zeros_like(hidden)
        for at, expert in enumerate(self.experts):
            for place in range(2):
                own = chosen[:, place] == at
                if own.any():
                    made[own] += shares[own, place, None] * expert(hidden[own])
        return self.head(hidden + made)


def test_blocks_that_run_for_some_examples_alone_are_no_depths_of_a_probe() -> None:
    values = np.random.default_rng(0).normal(size=(36, 6)).astype(np.float32)
    data = (values, np.array(list("abc"))[np.arange(36) % 3])
    result = regraft.adapt(regraft.load(Experts(), inputs=(6,)), data, strategy="probe", cache="memory")
    assert any("do not give an output for each example" in reason and "'experts.0'" in reason for reason in result.plan.reasons)


class Skipping(keras.Model):
    """A layer that runs only the examples that begin with a small number."""

    def __init__(self) -> None:
        super().__init__()
        keras.utils.set_random_seed(0)
        self.enter, self.some, self.out = (keras.layers.Dense(size, name=name) for size, name in ((8, "enter"), (8, "some"), (3, "out")))

    def call(self, inputs: Any) -> Any:
        hidden, near = self.enter(inputs), inputs[:, 0] < 5
        made = torch.zeros_like(hidden)
        made[near] = self.some(hidden[near])
        return self.out(hidden + made)


def test_a_layer_of_keras_that_runs_for_some_examples_alone_is_no_depth_of_a_probe() -> None:
    values = np.random.default_rng(0).normal(size=(36, 6)).astype(np.float32)
    values[::4, 0] = 9
    data = (values, np.array(list("abc"))[np.arange(36) % 3])
    result = regraft.adapt(regraft.load(Skipping(), inputs=(6,)), data, strategy="probe", cache="memory")
    assert any("do not give an output for each example: 'some'" in reason for reason in result.plan.reasons)


def test_one_output_of_several_opens_again_with_its_class(tmp_path: Path) -> None:
    def made() -> Any:
        entry = keras.Input((6,))
        hidden = keras.layers.Lambda(lambda rows: rows - 1.0, name="less")(keras.layers.Dense(8, name="first")(entry))
        return keras.Model(entry, [keras.layers.Dense(3, name="main")(hidden), keras.layers.Dense(1, name="value")(hidden)])

    for head in ("main", {"main": "main", "value": "value"}):
        net = regraft.load(made(), head=head)
        with pytest.warns(UserWarning, match="opens only with the code of its layers"):
            net.save(tmp_path / ("one" if head == "main" else "both"))
        again, rows = regraft.load(tmp_path / ("one" if head == "main" else "both"), architecture=made), np.ones((2, 6), np.float32)
        assert list(again.heads) == list(net.heads) and np.array_equal(again.logits(rows), net.logits(rows))
