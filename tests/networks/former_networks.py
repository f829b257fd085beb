"""Small networks with every edit that has given layers other names: made again, or opened as an earlier version saved them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import regraft
from regraft.networks.network import Coding, Head, Network, Tap
from regraft.networks.torch.family import open_torch

CODING = Coding(2, ("ann", "bob"), learned=("ann",))


class Small(nn.Module):
    """A parameter of its own, a container, functions between layers, and a part that is called as wrappers call the network in them."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.ones(1, 2, 1, 1))
        self.network = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1, bias=False), nn.BatchNorm2d(2))
        self.fc1, self.head = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d((self.network(x) * self.token).relu(), 2)
        return self.head(self.fc1(x.flatten(1)).relu())


class Pair(nn.Module):
    """Takes two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.also, self.head = nn.Linear(3, 4), nn.Linear(2, 4), nn.Linear(4, 3)

    def forward(self, X: Tensor, Z: Tensor) -> Tensor:
        return self.head((self.read(X) + self.also(Z)).relu())


def small() -> Any:
    torch.manual_seed(0)
    net = open_torch(Small(), inputs=(1, 4, 4), classes=("a", "b", "c"))
    net.preprocessing = regraft.load(Small(), inputs=(1, 4, 4)).preprocessing
    return net


def pair() -> Any:
    torch.manual_seed(0)
    net = open_torch(Pair(), sample={"X": torch.zeros(2, 3), "Z": torch.zeros(2, 2)}, classes=("a", "b", "c"))
    net.preprocessing = regraft.load(nn.Linear(3, 3), inputs=(3,)).preprocessing
    return net


def headed(net: Any, rows: int = 2) -> Any:
    """Return a network without a head with one."""
    width = net.feature_batch(net.sample).shape[1]
    weight = torch.randn(rows, width, generator=torch.Generator().manual_seed(3)).numpy()
    return net.with_head(Head("main", ("p", "q"), "classification", "linear", "", weight, np.zeros(rows, np.float32)))


def cut(net: Any, at: int) -> Any:
    shorter = net.ended(net.blocks[at].name)
    shorter.mode_(True)  # as it was when the folders were saved: BatchNorm has seen the sample that `headed` runs
    return shorter


def tapped(net: Any, *at: int) -> Any:
    return net.tapped([Tap("input", ("mean",)), *(Tap(net.blocks[block].name, ("mean", "std")) for block in at)])


def branched(net: Any) -> Any:
    return regraft.branch(net, "mood", ["x", "y"], start="random", seed=1)


def coded(net: Any, into: str = "layers") -> Any:
    return net.coded(replace(CODING, into=into), seed=1)


def held(net: Any) -> Any:
    """Return a network of which its owner has frozen a layer and a parameter."""
    module = net.module
    for parameter in [*module.network.parameters(), module.token]:
        parameter.requires_grad_(False)
    again = open_torch(module, inputs=(1, 4, 4), classes=("a", "b", "c"))
    again.preprocessing = net.preprocessing
    return again


CASES: dict[str, Callable[[], Any]] = {
    "head": lambda: regraft.retarget(small(), ["b", "x"], start="random", seed=1),
    "stack": lambda: regraft.stack(small(), ["x", "y"], activation="relu", start="random", seed=1),
    "branch": lambda: branched(small()),
    "branch of held": lambda: branched(held(small())),
    "join": lambda: regraft.join(small(), ["price"]),
    "cut": lambda: headed(cut(small(), 2)),
    "cut of a branch": lambda: headed(cut(branched(small()), 0)),
    "cut of codes": lambda: headed(cut(coded(small()), 1)),
    "taps": lambda: headed(tapped(small(), 0, 2)),
    "taps of an entrance": lambda: headed(tapped(small().with_entrance(), 1, 3)),
    "channels": lambda: small().with_entrance().with_channels(1),
    "entrance": lambda: regraft.extend(small().with_entrance(), ["x"], start="random", seed=1),
    "codes": lambda: coded(small()),
    "codes at the entrance": lambda: coded(small(), "entrance"),
    "codes as an input": lambda: coded(pair(), "input Z"),
    "codes of a branch": lambda: coded(branched(small())),
    "branch of codes": lambda: branched(coded(small())),
    "folded": lambda: regraft.extend(branched(coded(small())).folded("bob"), ["z"], start="random", seed=1),
    "folded at the entrance": lambda: coded(small(), "entrance").folded("bob"),
    "folded input": lambda: coded(pair(), "input Z").folded("bob"),
    "settled": lambda: settled(branched(small().with_entrance())),
    "stack of a join of codes": lambda: regraft.stack(regraft.join(coded(small()), ["price"]), ["x", "y"], start="random", seed=1),
}
"""Name -> what makes the network; what an edit adds is then moved away from its start."""


def settled(net: Any) -> Any:
    training = net.adjusted(net.points(), form="film")
    stir_(training)
    return training.settled()


def stir_(net: Any) -> None:
    """Move all numbers a little, in an order that names do not decide."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in net.module.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    net.body.refresh_heads_()


def made(name: str) -> Network:
    """Return a network of the table."""
    net = CASES[name]()
    if "folded" not in name:  # a fold begins at the numbers of the codes
        stir_(net)
    return net


def inputs_of(net: Network) -> Any:
    """Return three made-up items."""
    generator = torch.Generator().manual_seed(4)

    def like(name: str, sample: Tensor) -> Tensor:
        return torch.tensor([1, 0, 2]) if name == "condition" else torch.randn(3, *sample.shape[1:], generator=generator)

    if isinstance(net.sample, Tensor):
        return like("", net.sample)
    return {name: like(name, sample) for name, sample in sorted(net.sample.items())}


def scores_of(net: Network) -> dict[str, Tensor]:
    """Return the scores of every task, as in prediction."""
    net.mode_(False)
    with torch.no_grad():
        return {task: values.detach().clone() for task, values in net.scores(inputs_of(net)).items()}
