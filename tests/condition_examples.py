"""Small networks that know the codes of a few conditions, of both families, and items of new ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

import regraft
from regraft.data import Dataset, preprocessing_from_dict, with_conditions
from regraft.networks.network import Coding, Network

FAMILIES = ("torch", "keras")
KNOWN = ("ada", "ben", "cleo", "dora", "emil", "fay")
CLASSES = ("a", "b", "c")
WIDTH, SIZE = 6, 3


def plain(family: str) -> Network:
    """Return a network with two hidden layers, opened without codes."""
    if family == "keras":
        from regraft.networks.keras.library import keras

        keras.utils.set_random_seed(0)
        layers = keras.layers
        stack = [keras.Input((WIDTH,)), layers.Dense(8, "tanh"), layers.Dense(7, "tanh"), layers.Dense(3)]
        return regraft.load(keras.Sequential(stack), classes=CLASSES)
    torch.manual_seed(0)
    stack = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 7), nn.Tanh(), nn.Linear(7, 3))
    return regraft.load(stack, classes=CLASSES, inputs=(WIDTH,))


def coded(family: str, *, into: str = "layers", late: bool = False) -> Network:
    """Return a network as if trained with codes: the codes and what reads them are drawn, not learned; `late`: not in the first layer."""
    net = plain(family)
    points = (net.points()[1].name,) if late else ()
    before = set(net.state())
    given = preprocessing_from_dict(net.preprocessing.to_dict())
    net = net.coded(Coding(SIZE, KNOWN, into, points, learned=KNOWN), seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, tensor in net.state().items():
            if name not in before:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.7)
        table = net.body.code_table()
        table[0] = table[1:].mean(0)
    net.preprocessing = with_conditions(given, KNOWN)
    return net


def items(conditions: tuple[str, ...] = ("new",), *, each: int = 9, seed: int = 0) -> Dataset:
    """Return items of a few conditions, one behind the other."""
    generator = np.random.default_rng(seed)
    count = each * len(conditions)
    rows = generator.normal(size=(count, WIDTH)).astype(np.float32)
    labels = np.array(CLASSES)[np.arange(count) % 3]
    return regraft.read((rows, labels), condition=np.repeat(conditions, each))


def without_table(net: Network) -> dict[str, np.ndarray]:
    """Return every parameter and buffer but the table of codes, as copies."""
    own = net.body.code_table().data_ptr()
    return {name: tensor.detach().numpy().copy() for name, tensor in net.state().items() if tensor.data_ptr() != own}


def same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Tell whether two states are equal to the bit."""
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)
