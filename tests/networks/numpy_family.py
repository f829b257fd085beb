"""A third family, for tests: a perceptron in NumPy arrays. What stands below its head is never trained."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from regraft.data import default_preprocessing
from regraft.errors import NetworkError
from regraft.networks.account import Account
from regraft.networks.edits import Cut, Edit, Rows, Taps
from regraft.networks.family import Body, Family
from regraft.networks.fingerprints.values import Structure
from regraft.networks.network import Block, Head, Inputs, Layer, Network
from regraft.networks.parts.taps import INPUT, VECTOR, TapSlice, slices_of

Arrays = dict[str, tuple[np.ndarray, np.ndarray]]
"""Name of a layer -> weight (d, next d) and bias, in the order of execution."""


@dataclass(eq=False)
class NumpyBody(Body):
    """Layers of NumPy arrays with ReLU between them, and a head, which is a layer of PyTorch so that it can be trained."""

    module: Arrays
    taps: tuple[str, ...] = ()
    layer: torch.nn.Linear | None = None

    def take_(self, head: Head | None) -> None:
        self.heads, self.layer = {}, None
        if head is not None:
            own = head.in_layer()
            self.layer = torch.nn.Linear(head.features, len(own.weight))
            self.heads = {head.task: replace(head, layer="head")}
            self.set_layer_rows_("head", own.weight, bias=own.bias)
        self.freeze_(())

    @property
    def held(self) -> frozenset[str]:
        return frozenset(self.planned or ()) | frozenset(self.module)

    def copied_module(self) -> Arrays:
        return {name: (weight.copy(), bias.copy()) for name, (weight, bias) in self.module.items()}

    def copy(self) -> NumpyBody:
        twin = super().copy()
        twin.layer = copy.deepcopy(self.layer)
        return twin

    def freeze_(self, layers: Collection[str]) -> None:
        layers = frozenset(layers)
        sizes = {name: weight.size + bias.size for name, (weight, bias) in self.module.items()}
        if self.layer is not None:
            sizes["head"] = sum(parameter.numel() for parameter in self.layer.parameters())
            for name, parameter in self.layer.named_parameters():
                parameter.requires_grad_(layers.isdisjoint({"head", f"head.{name}"}))
        self.layers = tuple(Layer(name, "Dense", size) for name, size in sizes.items())
        frozen = self.held | layers
        self.blocks = tuple(Block(layer.name, layer.parameters, layer.name in frozen, (layer.name,)) for layer in self.layers)

    def move_(self, device: torch.device) -> None:
        if device.type != "cpu":
            raise NetworkError(f"A network of NumPy arrays cannot be moved to {device}; expected the CPU.")

    def modules(self) -> dict[str, torch.nn.Module]:
        return {} if self.layer is None else {"head": self.layer}

    def state(self) -> dict[str, Tensor]:
        arrays = {
            f"{name}.{kind}": array for name, both in self.module.items() for kind, array in zip(("weight", "bias"), both, strict=True)
        }
        head = {} if self.layer is None else {f"head.{name}": one for name, one in self.layer.state_dict().items()}
        return {name: torch.from_numpy(array) for name, array in arrays.items()} | head

    def _values(self, inputs: Inputs) -> dict[str, Tensor]:
        assert isinstance(inputs, Tensor)
        values, seen = inputs.detach().numpy(), {INPUT: inputs.detach()}
        for name, (weight, bias) in self.module.items():
            values = np.maximum(values @ weight + bias, 0)
            seen[name] = torch.from_numpy(values)
        return seen

    def feature_batch(self, inputs: Inputs) -> Tensor:
        seen = self._values(inputs)
        last = list(seen.values())[-1]
        if "head" in self.taps and self.layer is not None:
            seen["head"] = self.layer(last)
        return torch.cat([seen[name] for name in self.taps], 1) if self.taps else last

    @property
    def tap_slices(self) -> tuple[TapSlice, ...]:
        read = [self._values(self.sample).get(name) for name in self.taps]
        widths = [len(self.layer.weight) if values is None and self.layer is not None else values.shape[1] for values in read]
        return slices_of([(name, VECTOR, width) for name, width in zip(self.taps, widths, strict=True)])

    def structure(self, layers: Collection[str], *, ignored: Collection[str] = ()) -> Structure:
        return Structure(f"dense layers with ReLU: {sorted(layers)}")


class NumpyFamily(Family[NumpyBody]):
    """NumPy."""

    name: ClassVar[str] = "numpy"

    def edit(self, body: NumpyBody, edit: Edit, *, head: Head | None, seed: int) -> NumpyBody:
        twin = body.copy()
        if isinstance(edit, Rows) and not edit.branch:
            twin.take_(head)
        elif isinstance(edit, Cut):
            names = list(body.module)
            twin.module = {name: body.module[name] for name in names[: names.index(edit.block) + 1]}
            twin.take_(None)
        elif isinstance(edit, Taps):
            twin.heads, twin.taps = {}, tuple(tap.block for tap in edit.points)
        else:
            return super().edit(body, edit, head=head, seed=seed)
        return twin


def perceptron(classes: Sequence[str], *, sizes: Sequence[int] = (6, 16, 8), seed: int = 0) -> Network:
    """Return a network with drawn weights and a head for the `classes`."""
    draw = np.random.default_rng(seed)
    arrays: Mapping[str, Any] = {
        f"dense{at}": (draw.normal(0, wide**-0.5, (wide, narrow)).astype("f4"), draw.normal(0, 0.1, narrow).astype("f4"))
        for at, (wide, narrow) in enumerate(pairwise(sizes))
    }
    weight = draw.normal(0, 0.3, (len(classes), sizes[-1])).astype("f4")
    body = NumpyBody(dict(arrays), torch.linspace(-1, 1, 2 * sizes[0]).reshape(2, sizes[0]), (sizes[0],))
    body.take_(Head("main", tuple(classes), "classification", "linear", "head", weight, np.zeros(len(classes), "f4")))
    network = Network(NumpyFamily(), body, {"source": "numpy"}, Account())
    network.preprocessing = default_preprocessing("array", network.input_shape, network.layout)
    return network
