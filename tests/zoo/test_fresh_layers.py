"""Layers of the user's own below the head, never trained: named with `fresh=`, trained from their start, pointed out where they are not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.errors import SettingError
from regraft.networks.keras.library import keras
from regraft.networks.network import Network
from regraft.planning.trainable import looks_fresh

L = keras.layers
FAMILIES = ("torch", "keras")
OWN = {"torch": ["own*"], "keras": ["own*"]}


class Module(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.own1, self.own2, self.out = nn.Linear(16, 24), nn.Linear(24, 40), nn.Linear(40, 20), nn.Linear(20, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.own2(self.own1(self.base(x).relu()).relu()).relu())


def made(family: str, *, base_trained: bool = True) -> Any:
    generator = torch.Generator().manual_seed(0)
    if family == "torch":
        torch.manual_seed(0)
        module = Module()
        if base_trained:
            with torch.no_grad():
                module.base.weight.add_(0.2 * torch.randn(module.base.weight.shape, generator=generator))
        return module
    keras.utils.set_random_seed(0)
    layers = [keras.Input((16,)), L.Dense(24, activation="relu", name="base"), L.Dense(40, activation="relu", name="own1")]
    model = keras.Sequential([*layers, L.Dense(20, activation="sigmoid", name="own2"), L.Dense(3, name="out")])
    if base_trained:
        kernel = model.get_layer("base").kernel
        kernel.assign(kernel.value.detach() + 0.2 * torch.randn(kernel.shape, generator=generator))
    return model


def opened(family: str, **options: Any) -> Network:
    module = made(family, **options)
    return regraft.load(module, inputs=(16,)) if family == "torch" else regraft.load(module)


def rows(count: int = 90) -> tuple[np.ndarray, np.ndarray]:
    draw, kinds = np.random.default_rng(0), np.arange(count) % 3
    return (2 * np.eye(3, 16)[kinds] + draw.normal(size=(count, 16))).astype(np.float32), np.array(["a", "b", "c"])[kinds]


def changed(before: Network, after: Network) -> set[str]:
    now = after.state()
    return {name.rpartition(".")[0] for name, values in before.state().items() if not torch.equal(values, now[name])}


@pytest.mark.parametrize(
    ("strategy", "options", "expected"), [("head", {}, {"own1", "own2", "out"}), ("full", {}, {"base", "own1", "own2", "out"})]
)
@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_trained_first_and_nothing_is_solved_on_them(
    family: str, strategy: str, options: dict[str, Any], expected: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in ("strategies.solve_heads_", "choosing.convex.start_from_"):
        monkeypatch.setattr(f"regraft.planning.{place}", lambda *_args, **_named: pytest.fail("a head was solved"))
    net = opened(family)
    result = regraft.adapt(net, rows(), strategy=strategy, fresh=OWN[family], epochs=12, learning_rate=0.01, cache="memory", **options)
    assert result.history[0]["stage"] == "fresh layers"
    assert changed(net, result.network) <= expected and {"own1", "own2", "out"} <= changed(net, result.network)
    assert result.scores["holdout"]["accuracy"] > 0.6
    assert result.cost["frozen_forward_examples"] == 90
    assert any("Layers trained from their initial values" in reason for reason in result.plan.reasons)
    assert not any("look freshly drawn" in reason for reason in result.plan.reasons)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "probe"}, "goes with strategy='auto' or 'head'"),
        ({"strategy": "lora"}, "goes with strategy='auto' or 'head'"),
        ({"strategy": "head", "fresh": ["none*"]}, "no layer or module with weights"),
        ({"strategy": "head", "fresh": ["out"]}, "a head or frozen"),
        ({"strategy": "partial", "frozen": "own2"}, "a head or frozen"),
        ({"strategy": "head", "probe": "svm"}, "Leave them out"),
        ({"strategy": "full", "refit": "all"}, "there are two"),
        ({"strategy": "head", "fresh": "all"}, "strategy='scratch'"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_does_not_go_with_them_is_refused(family: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        regraft.adapt(opened(family), rows(), **{"fresh": ["own*"], "cache": "memory"} | options)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_look_freshly_drawn_are_pointed_out(family: str) -> None:
    net = opened(family)
    assert looks_fresh(net) == ["own1", "own2"]
    assert looks_fresh(opened(family, base_trained=False)) == ["base", "own1", "own2"]
    result = regraft.adapt(net, rows(), strategy="head", epochs=1, cache="memory")
    assert any("'own1', 'own2' look freshly drawn" in reason for reason in result.plan.reasons)


@pytest.mark.parametrize("family", FAMILIES)
def test_layers_that_were_trained_are_not(family: str) -> None:
    """Twelve epochs on ninety examples are enough to tell them."""
    net = opened(family)
    trained = regraft.adapt(
        net, rows(), strategy="full", fresh=["own*"], epochs=12, learning_rate=0.01, cache="memory", refit=False
    ).network
    assert not looks_fresh(trained)


@pytest.mark.parametrize("kind", [nn.Conv2d, nn.Conv1d])
def test_convolutions_are_told_as_well(kind: Any) -> None:
    layers = [kind(3, 16, 7), nn.ReLU(), kind(16, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)]
    module = nn.Sequential(*layers)
    side = (3, 16) if kind is nn.Conv1d else (3, 16, 16)
    module(torch.zeros(2, *side))
    net = regraft.load(module, inputs=side)
    assert looks_fresh(net) == ["0", "2"]
    with torch.no_grad():
        module[0].weight[0, 0].mul_(1.5).add_(0.1)
    assert looks_fresh(regraft.load(module, inputs=side)) == ["2"]


@pytest.mark.parametrize("family", FAMILIES)
def test_new_classes_are_not_solved_on_layers_that_were_never_trained(family: str) -> None:
    net = regraft.load(made(family), classes=["a", "b", "c"], **({"inputs": (16,)} if family == "torch" else {}))
    hidden = regraft.retarget(net, ["a", "b", "c", "d"], hidden=[(6, "relu")])
    rows = np.random.default_rng(0).normal(size=(12, 16)).astype(np.float32)
    with pytest.raises(SettingError, match="below it were never trained"):
        regraft.extend(hidden, ["e", "f"], data=(rows, np.array(["e", "f"] * 6)), start="probe")
