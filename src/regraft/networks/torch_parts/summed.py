"""Heads of several linear layers whose outputs are averaged or added: one head over what all of them read, side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ..tracing import Trace, capture
from .rows import row_weight

__all__ = ["Share", "joined_rows", "parted_rows", "summed_layers"]

Share = tuple[str, float]
"""The name of a linear layer, and the factor of its output in the sum."""
_MOST = 8
"""Layers that one sum may have."""
_TOLERANCE = 1e-4


def summed_layers(
    modules: Mapping[str, Module], seen: Trace, *, names: Sequence[str], result: Tensor, run: Callable[[], Any]
) -> tuple[tuple[Share, ...], str] | None:
    """Find the layers whose outputs, each times a factor, add up to the logits behind a result.

    A layer that reads what another one of them gives is no head: the sum is then that of a residual connection.

    Args:
        modules: name -> module.
        seen: the trace of one run.
        names: of layers that may be heads, in the order of execution.
        result: of the network, (N, C).
        run: makes the same run again.

    Returns:
        The layers with their factors, and the activation of their sum; None where there are not at least two.
    """
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
    """Return the factors with which the outputs make `logits`; where these are `free`, but for a number for each item."""
    if not logits.isfinite().all() or logits.abs().max() == 0:
        return None
    if len(outputs) + 2 > logits.numel() - free * len(logits):  # they would make any logits
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
    """Tell whether one of the layers reads what was made of another one's output."""
    layers = [modules[name] for name, _ in shares]
    for spoilt in layers:
        handle = spoilt.register_forward_hook(lambda _module, _args, output: torch.full_like(output, torch.nan))
        try:
            reads = [_spoilt_input(other, run) for other in layers if other is not spoilt]
        except Exception:  # a Python forward may refuse NaN in any way
            return True
        finally:
            handle.remove()
        if any(reads):
            return True
    return False


def _spoilt_input(layer: Module, run: Callable[[], Any]) -> bool:
    with torch.no_grad(), capture(layer) as seen:
        run()
    return bool(seen["input"].isnan().any())


def joined_rows(rows: Sequence[tuple[np.ndarray, np.ndarray]], shares: Sequence[float]) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of one head over the features of several layers side by side.

    Args:
        rows: weight (C, d) and bias (C,) of each layer.
        shares: its factor in the sum.

    Returns:
        (C, sum of all d) and (C,).
    """
    pairs = list(zip(rows, shares, strict=True))
    weight = np.concatenate([np.float32(share) * weight for (weight, _), share in pairs], 1)
    return weight, np.stack([np.float32(share) * bias for (_, bias), share in pairs]).sum(0)


def parted_rows(
    weight: np.ndarray, bias: np.ndarray, *, layers: Sequence[Module], shares: Sequence[float]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the rows of each layer out of those of one head over the features of all of them.

    Args:
        weight: (C, sum of all d).
        bias: (C,); all layers that have a bias get the same one.
        layers: which have the widths d.
        shares: their factors in the sum.
    """
    biased = [isinstance(getattr(layer, "bias", None), Tensor) for layer in layers]
    whole = sum(share for share, has in zip(shares, biased, strict=True) if has) or sum(shares)
    widths = [cast(Tensor, row_weight(layer)).shape[1] for layer in layers]
    columns = np.split(weight, np.cumsum(widths)[:-1], axis=1)
    either = [has or not any(biased) for has in biased]
    return [
        (part / np.float32(share), bias / np.float32(whole) if has else np.zeros_like(bias))
        for part, share, has in zip(columns, shares, either, strict=True)
    ]
