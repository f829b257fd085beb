"""Layers whose weight has one row a class: find them, read them, make one like another with other rows."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ...randomness import seeded
from .plain import copied

__all__ = [
    "PartedConv1d",
    "PartedConv2d",
    "PartedConv3d",
    "PartedLinear",
    "is_rowwise",
    "is_wide",
    "last_axis",
    "like",
    "put_",
    "row_weight",
]

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_COUNTS = ("out_features", "out_channels", "num_classes", "n_classes")


class _Parted(Module):
    """A row layer that multiplies groups of its rows apart.

    A product with more rows may be rounded otherwise. So that the scores of earlier rows stay as they were to the bit, the rows that
    came later have a product of their own.

    Attributes:
        parts: sizes of the groups; their sum is the number of rows.
    """

    parts: tuple[int, ...]

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the scores of all rows, group by group."""
        bounds = [sum(self.parts[:count]) for count in range(len(self.parts) + 1)]
        made = [super(_Parted, self._group(*pair)).forward(inputs) for pair in itertools.pairwise(bounds)]
        return torch.cat(made, dim=-1 if made[0].ndim == 2 or not isinstance(self, _CONVOLUTIONS) else 1)

    def _group(self, start: int, end: int) -> _Parted:
        """Return this layer as if it had the rows from `start` to `end` alone; it shares their storage."""
        view, count = copy.copy(self), sum(self.parts)
        shared = {
            name: rows[start:end] if rows is not None and rows.shape[:1] == (count,) else rows for name, rows in self._parameters.items()
        }
        view.__dict__["_parameters"] = shared
        return view


class PartedLinear(_Parted, torch.nn.Linear):
    """A linear layer in parts."""


class PartedConv1d(_Parted, torch.nn.Conv1d):
    """A 1x1 convolution over one axis in parts."""


class PartedConv2d(_Parted, torch.nn.Conv2d):
    """A 1x1 convolution over two axes in parts."""


class PartedConv3d(_Parted, torch.nn.Conv3d):
    """A 1x1 convolution over three axes in parts."""


_PARTED: dict[type[Module], type[Module]] = {
    torch.nn.Linear: PartedLinear,
    torch.nn.Conv1d: PartedConv1d,
    torch.nn.Conv2d: PartedConv2d,
    torch.nn.Conv3d: PartedConv3d,
}


def row_weight(module: Module) -> Tensor | None:
    """Return the (C, d) weight of a module that may be a row layer: linear, a convolution, or another with a matrix `weight`."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
        return None
    if isinstance(module, _CONVOLUTIONS):
        plain = set(module.kernel_size) == {1} or (set(module.stride) == {1} and module.padding_mode == "zeros")
        return weight.flatten(1) if module.groups == 1 and plain else None
    return weight if weight.ndim == 2 else None


def is_wide(layer: Module) -> bool:
    """Tell whether a row layer is a convolution that reads several positions at once."""
    return isinstance(layer, _CONVOLUTIONS) and set(layer.kernel_size) != {1}


def last_axis(layer: Module) -> bool:
    """Tell whether the class axis of a row layer's output is the last one."""
    return not isinstance(layer, _CONVOLUTIONS)


def is_rowwise(module: Module, inputs: Any, *, output: Any) -> bool:
    """Tell whether every score of a layer depends on one row of its weight: exchanging rows exchanges scores.

    Linear layers and 1x1 convolutions are. Others (cosine heads) are found by trying it.

    Args:
        module: with a matrix weight.
        inputs: what it was called with.
        output: what it returned.

    Returns:
        Whether it is.
    """
    if isinstance(module, (torch.nn.Linear, *_CONVOLUTIONS)):
        return True
    weight = cast(Tensor, module.weight)
    if not isinstance(inputs, Tensor) or not isinstance(output, Tensor) or not isinstance(weight, Parameter):
        return False
    if inputs.shape[-1] != weight.shape[1] or output.shape[-1] != len(weight):
        return False
    order = torch.arange(len(weight)).flip(0)
    turned = copied(module)
    with torch.no_grad():
        for rows in turned.parameters(recurse=False):
            if rows.ndim and len(rows) == len(weight):
                rows.copy_(rows[order])
        return bool(torch.allclose(turned(inputs)[..., order], output, rtol=1e-4, atol=1e-5))


def put_(layer: Module, weight: Tensor, *, bias: Tensor) -> None:
    """Put rows, weight (C, d) and bias (C,), into a row layer of that size."""
    with torch.no_grad():
        kernel = cast(Tensor, layer.weight)
        kernel.copy_(weight.reshape(kernel.shape))
        if isinstance(getattr(layer, "bias", None), Tensor):
            cast(Tensor, layer.bias).copy_(bias)


# over the limit: weight and bias are one head, given in this order everywhere
@seeded()
def like(old: Module, weight: Tensor, bias: Tensor, *, parts: Sequence[int] = ()) -> Module:
    """Return a row layer like another with other rows.

    Args:
        old: linear layer, 1x1 convolution, or another row layer.
        weight: (C, d) rows.
        bias: (C,); the layer has a bias if `old` has, or if it is not zero.
        parts: sizes of groups of rows that are multiplied apart; empty for one product.

    Returns:
        The layer.
    """
    device, dtype = cast(Tensor, old.weight).device, cast(Tensor, old.weight).dtype
    biased = isinstance(getattr(old, "bias", None), Tensor) or bool(bias.any())
    kind: Any = next((kind for kind in _PARTED if isinstance(old, kind)), None)
    if kind is None or type(old).forward not in (kind.forward, _Parted.forward):  # of the user's own, such as a cosine head
        new: Any = _resized(old, weight)
    elif kind is torch.nn.Linear:
        new = kind(weight.shape[1], len(weight), bias=biased, device=device, dtype=dtype)
    else:
        settings = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        new = kind(weight.shape[1] // math.prod(settings["kernel_size"]), len(weight), **settings, bias=biased, device=device, dtype=dtype)
    put_(new, weight, bias=bias)
    if parts:
        new.__class__ = _PARTED.get(type(new)) or type(f"Parted{type(new).__name__}", (_Parted, type(new)), {})
        new.parts = tuple(int(size) for size in parts)
    return cast(Module, new)


def _resized(old: Module, weight: Tensor) -> Module:
    """Return a copy of a row layer of the user's own with room for these rows."""
    new, before = copied(old), len(cast(Tensor, old.weight))
    if isinstance(new, _Parted):
        new.__class__ = type(new).__mro__[2]
    for name, rows in list(new.named_parameters(recurse=False)):
        if rows.ndim and len(rows) == before:
            shape = weight.shape if name == "weight" else (len(weight), *rows.shape[1:])
            new.register_parameter(name, Parameter(rows.new_zeros(shape)))
    for name in _COUNTS:
        if getattr(new, name, None) == before:
            setattr(new, name, len(weight))
    return new
