"""Every edit of a network in one table, for the tests that hold for all of them, and for `scripts/golden.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

import regraft
from regraft.data import default_preprocessing
from regraft.methods.lora import low_rank_layers
from regraft.networks.network import Coding, Network, Tap
from regraft.networks.parts.coding import ENTRANCE, LAYERS

CONDITIONS = ("ada", "ben", "cleo")
OLD = ("a", "b", "c", "d", "e")

Edit = Callable[[Network, int], Network]


def named(net: Network) -> Network:
    """Return a copy whose first head has class names; the network itself where it has them or has no head."""
    if not net.heads or net.classes is not None:
        return net
    twin = net.copy()
    twin.name_classes_([f"c{row}" for row in range(len(net.head.weight))] if len(net.head.weight) != len(OLD) else OLD)
    return twin


def halfway(net: Network) -> str:
    return net.blocks[len(net.blocks) // 2].name


def low_rank(net: Network, seed: int) -> Network:
    return net.low_rank(2, alpha=4.0, layers=low_rank_layers(net), seed=seed)


def _coded(net: Network, seed: int, *, into: str) -> Network:
    names = tuple(point.name for point in net.points()) if into == LAYERS else ()
    return net.coded(Coding(3, CONDITIONS, into, names, learned=CONDITIONS), seed=seed)


def with_channels(net: Network, count: int) -> Network:
    """Return a copy for pictures of `count` channels, with the preprocessing that gives them, as `regraft.load(channels=)` does."""
    twin = net.with_channels(count)
    shape = tuple(twin.sample.shape[1:]) if isinstance(twin.sample, Tensor) else net.input_shape
    twin.preprocessing = default_preprocessing("array", shape, twin.layout)
    return twin


def recoded(net: Network, seed: int) -> Network:
    coded = net if net.coding is not None else _coded(net, seed, into=LAYERS)
    known = coded.coding.conditions if coded.coding is not None else ()
    table = np.random.default_rng(seed).normal(size=(1 + len(known) + 1, coded.body.code_table().shape[1])).astype(np.float32)
    return coded.recoded((*known, f"new{len(known)}"), table)


def derived(net: Network, seed: int) -> Network:
    names = tuple(named(net).classes or ())
    return regraft.branch(named(net), f"sums{len(net.heads)}", groups={"one": names[:2], "others": None})


EDITS: dict[str, Edit] = {
    "copy": lambda net, seed: net.copy(),
    "reinitialised": lambda net, seed: net.reinitialised(seed),
    "retarget": lambda net, seed: regraft.retarget(named(net), ["b", "x", "y"], start="random", seed=seed),
    "extend": lambda net, seed: regraft.extend(named(net), ["x", "y"], start="random", seed=seed),
    "stack": lambda net, seed: regraft.stack(named(net), ["x", "y"], activation="relu", start="random", seed=seed),
    "stack softmax": lambda net, seed: regraft.stack(named(net), ["x", "y"], activation="softmax", start="random", seed=seed),
    "branch": lambda net, seed: regraft.branch(named(net), f"task{len(net.heads)}", ["p", "q"], start="random", seed=seed),
    "derived branch": derived,
    "join": lambda net, seed: regraft.join(net, ["price", "hour"]),
    "cut": lambda net, seed: regraft.cut(net, halfway(net)),
    "taps": lambda net, seed: net.tapped([Tap("input"), Tap(net.blocks[0].name), Tap(halfway(net), ("mean", "std", "rows"))]),
    "channels": lambda net, seed: with_channels(net, 3),
    "one channel": lambda net, seed: with_channels(net, 1),
    "lhuc": lambda net, seed: net.adjusted(net.points(), form="lhuc"),
    "film": lambda net, seed: net.adjusted(net.points(), form="film"),
    "low rank": low_rank,
    "entrance": lambda net, seed: net.with_entrance(),
    "codes": lambda net, seed: _coded(net, seed, into=LAYERS),
    "codes at the entrance": lambda net, seed: _coded(net, seed, into=ENTRANCE),
    "further codes": recoded,
}
"""Name -> what makes the edited network of one and a seed; a network that cannot be edited so is refused with an error."""


def stirred_(net: Network, before: Network, *, seed: int) -> None:
    """Move what an edit added, which mostly starts where it changes nothing; the names are those of format 1."""
    old, former = before.body.former_names(), net.body.former_names()
    known = {_bare(old.get(name, name)) for name in before.state()}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in sorted(net.state().items(), key=lambda item: former.get(item[0], item[0])):
            if tensor.is_floating_point() and _bare(former.get(name, name)) not in known:
                tensor.add_(torch.randn(tensor.shape, generator=generator) * 0.1)
    net.body.refresh_heads_()


def _bare(name: str) -> str:
    while name.startswith("network."):
        name = name.removeprefix("network.")
    return name


def batch(net: Network, *, seed: int) -> Any:
    """Return inputs of five made-up items of the kind that the network takes."""
    generator = np.random.default_rng(seed)

    def like(name: str, sample: Tensor) -> Tensor:
        shape = (5, *sample.shape[1:])
        if name == "condition" and net.coding is not None:
            return torch.from_numpy(generator.integers(0, 1 + len(net.coding.conditions), shape))
        return torch.from_numpy(generator.normal(size=shape).astype(np.float32))

    if isinstance(net.sample, Tensor):
        return like("", net.sample)
    return {name: like(name, sample) for name, sample in sorted(net.sample.items())}


def outputs(net: Network, inputs: Any) -> dict[str, Tensor]:
    """Return the scores of every task, or the features of a network without a head, as in prediction."""
    net.mode_(False)
    with torch.no_grad():
        found = dict(net.scores(inputs)) if net.heads else {"features": net.feature_batch(inputs)}
    return {task: values.detach().clone() for task, values in found.items()}
