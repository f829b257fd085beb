"""How well what arrives at a network's first normalising layers fits the statistics that these have kept from its training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .tracing import flat_tensors

__all__ = ["Norm", "misfit", "norms_of"]

FIRST = 3
"""How many layers, in the order in which they are called, are asked: the further ones read what the first ones have normalised."""
_KEPT = (("running_mean", "running_var"), ("moving_mean", "moving_variance"), ("mean", "variance"))
"""What mean and variance are called: in torch, in Keras, in Keras' Normalization."""
_LEAST = 1e-3
"""Added to variances, as these layers do (1e-5 to 1e-2): a channel that never varied says little."""
_LARGE = 32
"""Positions along an axis from which on every second one is counted."""


class _Enough(Exception):
    """Ends a pass once all layers that are asked have been reached."""


@dataclass
class Norm:
    """A layer with the statistics of what it read in its training, and sums of what it reads now.

    Attributes:
        mean: (C,) that it has kept.
        variance: (C,) likewise.
        axis: of the channels in what it reads.
    """

    module: Module
    mean: Tensor
    variance: Tensor
    axis: int
    _sums: list[Tensor] = field(default_factory=list)

    def add_(self, values: Tensor) -> None:
        """Count a batch of `values` (N, …) that the layer reads."""
        channels, others = self.axis % values.ndim, [axis for axis in range(values.ndim) if axis != self.axis % values.ndim]
        every = [slice(None, None, 2 if axis in others[1:] and side >= _LARGE else 1) for axis, side in enumerate(values.shape)]
        read = values.detach()[tuple(every)].float()
        count = torch.full((read.shape[channels],), read.numel() / read.shape[channels])
        self._sums.append(torch.stack([count, read.sum(others).cpu(), read.square().sum(others).cpu()]).double())

    def misfit(self) -> float:
        """Return how far what was read is from what was kept: the Kullback-Leibler divergence of two Gaussians, as `log1p`, the mean of
        all channels."""
        count, total, squares = torch.stack(self._sums).sum(0)
        mean = total / count
        read, kept = (squares / count - mean.square()).clamp_min(0) + _LEAST, self.variance.cpu().double() + _LEAST
        off = (mean - self.mean.cpu().double()).square()
        divergence = 0.5 * ((read + off) / kept - 1 - (read / kept).log())
        return float(divergence.clamp_min(0).log1p().mean())

    def shift(self) -> float:
        """Return how far the means of what was read are from the kept ones, in kept standard deviations, averaged over channels."""
        count, total, _ = torch.stack(self._sums).sum(0)
        off = (total / count - self.mean.cpu().double()).abs()
        return float((off / (self.variance.cpu().double() + _LEAST).sqrt()).mean())


def norms_of(modules: Mapping[str, Module]) -> list[Norm]:
    """Return the normalising layers that have learned statistics: of no use are those that are as a layer begins, 0 and 1."""
    return [norm for module in modules.values() if (norm := _norm_of(module)) is not None]


def _norm_of(module: Module) -> Norm | None:
    for names in _KEPT:
        mean, variance = (_numbers(getattr(module, name, None)) for name in names)
        if mean is None or variance is None or len(mean) != len(variance):
            continue
        begun = bool((mean == 0).all()) and bool((variance == 1).all())
        finite = bool(torch.isfinite(mean).all()) and bool((variance >= 0).all())
        axis = getattr(module, "axis", 1)
        axis = axis[0] if isinstance(axis, tuple) and len(axis) == 1 else axis
        return None if begun or not finite or not isinstance(axis, int) else Norm(module, mean, variance, axis)
    return None


def _numbers(value: Any) -> Tensor | None:
    """Return the statistics of a layer as (C,), of a tensor or a variable of Keras."""
    value = getattr(value, "value", value)
    return value.detach().flatten() if isinstance(value, Tensor) else None


def misfit(
    modules: Mapping[str, Module],
    batches: Iterable[Any],
    *,
    run: Callable[[Any], Any],
    first: int = FIRST,
    measure: Callable[[Norm], float] = Norm.misfit,
) -> tuple[float, int] | None:
    """Return how far a network's inputs are from those that it was trained with, as its first normalising layers tell.

    Result: A number that is 0 where all fits, and how many layers tell it; None where no layer can.
    """
    reached: list[Norm] = []

    def hook_of(norm: Norm) -> Callable[..., None]:
        def hook(_module: Module, args: Any, named: Any) -> None:
            read = flat_tensors((args, named))
            if not read or read[0].ndim <= max(norm.axis, 1) - (norm.axis < 0):
                return
            if norm not in reached and len(reached) < first:
                reached.append(norm)
            norm.add_(read[0])
            if len(reached) == first and norm is reached[-1]:
                raise _Enough

        return hook

    with ExitStack() as stack, torch.no_grad():
        for norm in norms_of(modules):
            stack.callback(norm.module.register_forward_pre_hook(hook_of(norm), with_kwargs=True).remove)
        for batch in batches:
            with suppress(_Enough):
                run(batch)
    found = [measure(norm) for norm in reached]
    return (sum(found) / len(found), len(found)) if found else None
