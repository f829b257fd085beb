"""Heads whose logits are the sum of several layers' outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ..tracing import Trace, capture

Share = tuple[str, float]  # The name of a linear layer and the factor of its output in the sum
_MOST = 8  # Largest number of layers in one sum
_TOLERANCE = 1e-4


def summed_layers(
    modules: Mapping[str, Module], seen: Trace, *, names: Sequence[str], result: Tensor, run: Callable[[], Any]
) -> tuple[tuple[Share, ...], str] | None:
    """Find the layers whose outputs, each times a factor, sum to the logits behind a result.
    A layer that reads the output of another one is not part of a head: such a sum is a residual connection.
    `modules`: name -> module; `result`: the network's result (N, C). Return the layers with their factors and the activation of the sum;
    None unless there are at least two."""
    outputs = {name: seen.outputs[name] for name in names}
    outputs = {name: output for name, output in outputs.items() if isinstance(output, Tensor) and output.shape == result.shape}
    if len(outputs) < 2:
        return None
    for activation, before, free in (("linear", lambda x: x, False), ("softmax", torch.log, True), ("sigmoid", torch.logit, False)):
        shares = _shares(outputs, before(result.double()), free=free)
        if shares is not None and not _reads_another(modules, shares, run=run):
            return shares, activation
    return None


def _shares(outputs: Mapping[str, Tensor], logits: Tensor, *, free: bool) -> tuple[Share, ...] | None:
    """Return the factors with which the outputs sum to `logits`. If `free`, ignore an offset per example."""
    if not logits.isfinite().all() or logits.abs().max() == 0:
        return None
    if len(outputs) + 2 > logits.numel() - free * len(logits):  # too few equations: they would fit any logits
        return None
    columns = [output.double() for output in outputs.values()]
    if free:
        columns, logits = [column - column.mean(1, keepdim=True) for column in columns], logits - logits.mean(1, keepdim=True)
    matrix, wanted = torch.stack([column.flatten() for column in columns], 1), logits.flatten()[:, None]
    found = torch.linalg.lstsq(matrix, wanted, driver="gelsd").solution
    if not torch.allclose(matrix @ found, wanted, rtol=_TOLERANCE, atol=_TOLERANCE * float(wanted.abs().max())):
        return None
    values = dict(zip(outputs, found[:, 0].tolist(), strict=True))
    shares = [(name, Fraction(value).limit_denominator(100), value) for name, value in values.items() if abs(value) > 10 * _TOLERANCE]
    exact = all(share > 0 and abs(float(share) - value) < 10 * _TOLERANCE for _, share, value in shares)
    return tuple((name, float(share)) for name, share, _ in shares) if exact and 2 <= len(shares) <= _MOST else None


def _reads_another(modules: Mapping[str, Module], shares: Sequence[Share], *, run: Callable[[], Any]) -> bool:
    """Tell whether one of the layers reads what another one's output contributes to."""
    layers = [modules[name] for name, _ in shares]
    for spoilt in layers:
        others = [layer for layer in layers if layer is not spoilt]
        with ExitStack() as stack, torch.no_grad():
            stack.callback(spoilt.register_forward_hook(lambda _module, _args, output: torch.full_like(output, torch.nan)).remove)
            seen = [stack.enter_context(capture(layer)) for layer in others]
            try:
                run()
                if any(bool(one["input"].isnan().any()) for one in seen):
                    return True
            except Exception:  # a forward may raise anything on NaN
                return True
    return False


def joined_rows(rows: Sequence[tuple[np.ndarray, np.ndarray]], shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the class weights of one head over the concatenated features of several layers.
    `rows` holds the weight (C, d) and bias (C,) of each layer. The result is (C, sum of all d) and (C,)."""
    pairs = list(zip(rows, shares, strict=True))
    weight = np.concatenate([np.float32(share) * weight for (weight, _), share in pairs], 1)
    return weight, np.stack([np.float32(share) * bias for (_, bias), share in pairs]).sum(0)
