"""The head of a PyTorch network, found by running it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import LayerNorm, Linear, Module
from torch.nn.modules.batchnorm import _NormBase

from ...errors import NetworkError, near_names
from ..editing.sums import summed_layers
from ..parts.head import FoundHead
from ..tracing import Trace, as_tensor, flat_tensors, head_reading, named_logits
from .rows import is_rowwise, is_wide, row_weight

__all__ = ["find_head"]


def find_head(modules: Mapping[str, Module], seen: Trace, *, run: Callable[[], Any], wanted: str | None = None) -> FoundHead | None:
    """Find the row layer, or the sum of several, that produces the network's result.

    `modules`: name -> module. Return None if no row layer produces the result.
    """
    main = as_tensor(seen.result)
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
    candidates = _candidates(modules, seen, results=results)
    summed = None if candidates else _summed(modules, seen, result=main, run=run)
    if summed is not None and wanted in (None, *summed.layers):
        return summed
    if wanted is not None:
        return _wanted(wanted, modules, seen=seen, candidates=candidates)
    if len(candidates) > 1:
        raise NetworkError(
            f"The network has {len(candidates)} candidates for its head: {', '.join(map(repr, candidates))}, one for each of its results. "
            f"Choose one with head=, for example head={next(iter(candidates))!r}, or keep them as tasks: head={list(candidates)}."
        )
    found, result = next(iter(candidates.values()), (None, main))
    if found is not None and result is not main:
        return replace(found, whole=False)
    return found


def _candidates(modules: Mapping[str, Module], seen: Trace, *, results: list[Tensor]) -> dict[str, tuple[FoundHead, Tensor]]:
    """Return, for each result in order, the last row layer that produces it."""
    found: dict[str, tuple[FoundHead, Tensor]] = {}
    rows = [name for name in reversed(seen.order) if name in seen.outputs and row_weight(modules[name]) is not None]
    for result in results:
        for name in rows:
            head = _explained(name, modules, seen=seen, result=result)
            if head is not None:
                found.setdefault(name, (head, result))
                break
    return found


def _summed(modules: Mapping[str, Module], seen: Trace, *, result: Tensor, run: Callable[[], Any]) -> FoundHead | None:
    """Return the head whose logits are the sum of several layers' outputs."""
    if result.ndim != 2:
        return None
    rows = [name for name in seen.order if name in seen.outputs and row_weight(modules[name]) is not None]
    names = [name for name in rows if not is_wide(modules[name])]
    plain = [name for name in names if not _is_normalised(name, modules, seen=seen)]
    rows = [name for name in plain if is_rowwise(modules[name], seen.inputs[name], output=seen.outputs[name])]
    found = summed_layers(modules, seen, names=rows, result=result, run=run)
    if found is None:
        return None
    shares, activation = found
    return FoundHead(shares[0][0], activation, activation == "linear", shares=shares)


def _explained(name: str, modules: Mapping[str, Module], *, seen: Trace, result: Tensor) -> FoundHead | None:
    module = modules[name]
    output, flat = seen.outputs[name], result.ndim == 1
    if not isinstance(output, Tensor):
        return None
    reading = head_reading(output, result[:, None] if flat else result, channels_last=isinstance(module, Linear))
    if reading is None or _is_normalised(name, modules, seen=seen) or not is_rowwise(module, seen.inputs[name], output=output):
        return None
    if reading == "tail" and is_wide(module):  # an encoder's last feature maps and their average: no head
        return None
    activation = {"tail": "linear", "log_softmax": "softmax"}.get(reading, reading)
    return FoundHead(name, activation, reading in {"linear", "tail"} and not flat)


def _is_normalised(name: str, modules: Mapping[str, Module], *, seen: Trace) -> bool:
    """Tell whether a normalisation layer reads the output of a row layer: it has parameters per class."""
    later = seen.order[seen.order.index(name) + 1 :]
    return any(isinstance(modules[other], _NormBase | LayerNorm) and seen.inputs[other] is seen.outputs[name] for other in later)


# over the limit: modules and trace are one run
def _wanted(
    name: str, modules: Mapping[str, Module], *, seen: Trace, candidates: Mapping[str, tuple[FoundHead, torch.Tensor]]
) -> FoundHead:
    others = tuple(other for other in candidates if other != name)
    if name in candidates:
        found = replace(candidates[name][0], others=others)
        return found if candidates[name][1] is as_tensor(seen.result) else replace(found, whole=False)
    known = [layer for layer in seen.order if row_weight(modules[layer]) is not None]
    if name not in known:
        raise NetworkError(f"head={name!r}: the network has no linear layer of that name{near_names(name, known)}")
    return FoundHead(name, "linear", others=others)
