"""Row layers, whose weight has one row per class, and the head of a PyTorch network among them, found by running it."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import LayerNorm, Linear, Module, Parameter
from torch.nn.modules.batchnorm import _NormBase

from ...errors import NetworkError, near_names
from ...randomness import seeded
from ..editing.sums import head_with_more, layers_beside, summed_layers
from ..parts.head import Head, HeadLocation
from ..tracing import Trace, flat_tensors, head_reading, named_logits
from .plain import copied

CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
_COUNTS = ("out_features", "out_channels", "num_classes", "n_classes")


class _GroupedRows(Module):
    """A row layer that multiplies groups of its rows separately.
    A product with more rows may round differently. Rows that are added later therefore get a product of their own, and the logits of
    earlier rows stay bit-identical."""

    parts: tuple[int, ...]  # sizes of the groups; their sum is the number of rows

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits of all rows, computed group by group."""
        bounds = [sum(self.parts[:count]) for count in range(len(self.parts) + 1)]
        made = [super(_GroupedRows, self._group(*pair)).forward(inputs) for pair in itertools.pairwise(bounds)]
        return torch.cat(made, dim=-1 if made[0].ndim == 2 or not isinstance(self, CONVOLUTIONS) else 1)

    def _group(self, start: int, end: int) -> _GroupedRows:
        """Return this layer restricted to the rows from `start` to `end`; it shares their storage."""
        view, count = copy.copy(self), sum(self.parts)
        shared = {
            name: rows[start:end] if rows is not None and rows.shape[:1] == (count,) else rows for name, rows in self._parameters.items()
        }
        view.__dict__["_parameters"] = shared
        return view


_PARTED: dict[type[Module], type[Module]] = {
    kind: type(f"Parted{kind.__name__}", (_GroupedRows, kind), {"__module__": __name__}) for kind in (torch.nn.Linear, *CONVOLUTIONS)
}
globals().update({kind.__name__: kind for kind in _PARTED.values()})  # where pickle looks them up


def row_weight(module: Module) -> Tensor | None:
    """Return the weight (C, d) if the module may be a row layer: linear, a convolution, or any other with a matrix `weight`."""
    weight = getattr(module, "weight", None)
    if not isinstance(weight, Tensor) or not weight.is_floating_point() or isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
        return None
    if isinstance(module, CONVOLUTIONS):
        plain = set(module.kernel_size) == {1} or (set(module.stride) == {1} and module.padding_mode == "zeros")
        return weight.flatten(1) if module.groups == 1 and plain else None
    return weight if weight.ndim == 2 else None


def is_wide(layer: Module) -> bool:
    """Tell whether a row layer is a convolution that reads several positions at once."""
    return isinstance(layer, CONVOLUTIONS) and set(layer.kernel_size) != {1}


def last_axis(layer: Module) -> bool:
    """Tell whether the class axis of a row layer's output is the last one."""
    return not isinstance(layer, CONVOLUTIONS)


def _is_rowwise(module: Module, inputs: Any, *, output: Any) -> bool:
    """Tell whether each logit of a layer depends on one row of its weight, so that permuting rows permutes logits.
    This holds for linear layers and convolutions. Other layers (cosine heads) are tested with permuted rows. A layer of the user that holds
    buffers with a row for each class (a mask) is none: what belongs to a new class is not known."""
    kind = next((kind for kind in _PARTED if isinstance(module, kind)), None)
    if kind is not None and type(module).forward in (kind.forward, _GroupedRows.forward):
        return True
    weight = cast(Tensor, module.weight)
    if any(held.shape[:1] == weight.shape[:1] for held in module.buffers(recurse=False)):
        return False
    if isinstance(module, CONVOLUTIONS):
        return True
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


def put_(layer: Module, weight: np.ndarray, *, bias: np.ndarray) -> None:
    """Write a weight (C, d) and a bias (C,) into a row layer of that size."""
    with torch.no_grad():
        kernel = cast(Tensor, layer.weight)
        kernel.copy_(torch.from_numpy(np.asarray(weight, np.float32)).reshape(kernel.shape))
        if isinstance(getattr(layer, "bias", None), Tensor):
            cast(Tensor, layer.bias).copy_(torch.from_numpy(np.asarray(bias, np.float32)))


def new_head(head: Head) -> Linear:
    """Return a linear layer with the class weights of a head."""
    own = head.in_layer()
    layer = Linear(own.features, len(own.weight))
    put_(layer, own.weight, bias=own.bias)
    return layer


@seeded()
def like(old: Module, head: Head) -> Module:
    """Return a row layer like `old` with the class weights of a head. It has a bias if `old` has one or if that of the head is not zero."""
    own = head.in_layer()
    weight, parts = own.weight, own.parts
    device, dtype = cast(Tensor, old.weight).device, cast(Tensor, old.weight).dtype
    biased = isinstance(getattr(old, "bias", None), Tensor) or bool(own.bias.any())
    kind: Any = next((kind for kind in _PARTED if isinstance(old, kind)), None)
    if kind is None or type(old).forward not in (kind.forward, _GroupedRows.forward):  # user-defined, for example a cosine head
        new: Any = _resized(old, weight)
    elif kind is torch.nn.Linear:
        new = kind(weight.shape[1], len(weight), bias=biased, device=device, dtype=dtype)
    else:
        settings = {name: getattr(old, name) for name in ("kernel_size", "stride", "padding", "dilation")}
        new = kind(weight.shape[1] // math.prod(settings["kernel_size"]), len(weight), **settings, bias=biased, device=device, dtype=dtype)
    put_(new, weight, bias=own.bias)
    if parts:
        new.__class__ = _PARTED.get(type(new)) or type(f"Parted{type(new).__name__}", (_GroupedRows, type(new)), {})
        new.parts = tuple(int(size) for size in parts)
    return cast(Module, new)


def _resized(old: Module, weight: np.ndarray) -> Module:
    """Return a copy of a user-defined row layer, resized to these rows."""
    new, before = copied(old), len(cast(Tensor, old.weight))
    if isinstance(new, _GroupedRows):
        new.__class__ = type(new).__mro__[2]
    for name, rows in list(new.named_parameters(recurse=False)):
        if rows.ndim and len(rows) == before:
            shape = weight.shape if name == "weight" else (len(weight), *rows.shape[1:])
            new.register_parameter(name, Parameter(rows.new_zeros(shape)))
    for name in _COUNTS:
        if getattr(new, name, None) == before:
            setattr(new, name, len(weight))
    return new


def find_head(seen: Trace, wanted: str | None) -> HeadLocation | None:
    """Find the row layer, or the sum of several, that produces the network's result, or the one that is `wanted`; None without one."""
    main, modules = seen.main, seen.modules
    if isinstance(seen.result, list | tuple) and seen.result and all(isinstance(one, Mapping) for one in seen.result):
        raise NetworkError(
            f"The network returned a list of {len(seen.result)} mappings with {', '.join(map(repr, seen.result[0]))}, as detectors do; "
            "expected scores of shape (N, C). Give the part of it that classifies, or its backbone."
        )
    if main is None:
        raise NetworkError(
            f"The network returned no tensor, but {type(seen.result).__name__}; expected scores of shape (N, C) or an output with 'logits'."
        )
    further = [] if named_logits(seen.result) is not None else flat_tensors(seen.result)  # they may be logits too
    results = [main, *(tensor for tensor in further if tensor is not main and tensor.ndim == 2)]
    candidates = _candidates(seen, results)
    summed = None if candidates else _summed(seen, main)
    if summed is not None and wanted in (None, *summed.layers, *summed.beside):
        return summed
    if wanted is not None:
        found: HeadLocation | None = _wanted(wanted, seen, candidates=candidates)
    elif len(candidates) > 1:
        raise NetworkError(
            f"The network has {len(candidates)} candidates for its head: {', '.join(map(repr, candidates))}, one for each of its results. "
            f"Choose one with head=, for example head={next(iter(candidates))!r}, or keep them as tasks: head={list(candidates)}."
        )
    else:
        found = next(iter(candidates.values()), None)
    if found is None or not found.whole or main.ndim != 2 or not last_axis(modules[found.layer]):
        return found
    rows = {name: row_weight(modules[name]) for name in seen.order if name != found.layer}
    names = _plain_rows(seen) if any(one is not None and len(one) == main.shape[1] for one in rows.values()) else []
    return replace(found, beside=layers_beside(seen, names, main=found.layer))


def _candidates(seen: Trace, results: list[Tensor]) -> dict[str, HeadLocation]:
    """Return, for each result in order, the main one first, the last row layer that produces it."""
    found: dict[str, HeadLocation] = {}
    rows = [name for name in reversed(seen.order) if name in seen.outputs and row_weight(seen.modules[name]) is not None]
    for result in results:
        for name in rows:
            head = _explained(name, seen, result=result)
            if head is not None:
                found.setdefault(name, head if result is results[0] else replace(head, whole=False))
                break
    return found


def _summed(seen: Trace, result: Tensor) -> HeadLocation | None:
    """Return the head whose logits are the sum of several layers' outputs."""
    if result.ndim != 2:
        return None
    rows = _plain_rows(seen)
    found = summed_layers(seen, rows)
    if found is None:
        return head_with_more(seen, [name for name in rows if last_axis(seen.modules[name])])
    shares, activation = found
    return HeadLocation(shares[0][0], activation, activation == "linear", shares=shares)


def _plain_rows(seen: Trace) -> list[str]:
    """Return the names of the row layers that may be part of a head of several layers, in execution order."""
    modules = seen.modules
    rows = [name for name in seen.order if name in seen.outputs and row_weight(modules[name]) is not None]
    names = [name for name in rows if not is_wide(modules[name])]
    plain = [name for name in names if not _is_normalised(name, seen)]
    return [name for name in plain if _is_rowwise(modules[name], seen.inputs[name], output=seen.outputs[name])]


def _explained(name: str, seen: Trace, *, result: Tensor) -> HeadLocation | None:
    module = seen.modules[name]
    output, flat = seen.outputs[name], result.ndim == 1
    if not isinstance(output, Tensor):
        return None
    reading = head_reading(output, result[:, None] if flat else result, channels_last=isinstance(module, Linear))
    if reading is None or _is_normalised(name, seen) or not _is_rowwise(module, seen.inputs[name], output=output):
        return None
    if reading == "tail" and is_wide(module):  # an encoder's last feature maps and their average: no head
        return None
    activation = {"tail": "linear", "log_softmax": "softmax"}.get(reading, reading)
    return HeadLocation(name, activation, reading in {"linear", "tail"} and not flat)


def _is_normalised(name: str, seen: Trace) -> bool:
    """Tell whether a normalisation layer reads the output of a row layer: it has parameters per class."""
    later = seen.order[seen.order.index(name) + 1 :]
    return any(isinstance(seen.modules[other], _NormBase | LayerNorm) and seen.inputs[other] is seen.outputs[name] for other in later)


def _wanted(name: str, seen: Trace, *, candidates: Mapping[str, HeadLocation]) -> HeadLocation:
    others = tuple(other for other in candidates if other != name)
    if name in candidates:
        return replace(candidates[name], others=others)
    known = [layer for layer in seen.order if row_weight(seen.modules[layer]) is not None]
    if name not in known:
        raise NetworkError(f"head={name!r}: the network has no linear layer of that name{near_names(name, known)}")
    return HeadLocation(name, "linear", others=others)
