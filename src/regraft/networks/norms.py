"""Distribution check: how well the inputs of a network's first normalisation layers match the statistics from its training."""

from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from .tracing import flat_tensors, hooked

FIRST = 3  # Number of layers to check, in execution order: later layers read what the first ones have normalised
_KEPT = (("running_mean", "running_var"), ("moving_mean", "moving_variance"), ("mean", "variance"))
"""Attribute names of mean and variance: in torch, in Keras, in Keras' Normalization."""
_LEAST = 1e-3  # Added to variances, as these layers do (1e-5 to 1e-2), so that constant channels do not dominate
_LARGE = 32  # Axis length from which only every second position is counted


class _ForwardEnd(Exception):
    """Raised to end a forward pass after the last layer to check."""


@dataclass
class Norm:
    """A normalisation layer with its stored statistics and running sums of its current inputs."""

    module: Module
    mean: Tensor  # stored mean, (C,)
    variance: Tensor  # stored variance, (C,)
    axis: int  # channel axis of its inputs
    _sums: list[Tensor] = field(default_factory=list)

    def add_(self, values: Tensor) -> None:
        """Add a batch of inputs `values` (N, …) of the layer to the sums."""
        channels, others = self.axis % values.ndim, [axis for axis in range(values.ndim) if axis != self.axis % values.ndim]
        every = [slice(None, None, 2 if axis in others[1:] and side >= _LARGE else 1) for axis, side in enumerate(values.shape)]
        read = values.detach()[tuple(every)].float()
        count = torch.full((read.shape[channels],), read.numel() / read.shape[channels])
        self._sums.append(torch.stack([count, read.sum(others).cpu(), read.square().sum(others).cpu()]).double())

    def misfit(self) -> float:
        """Return log(1 + KL divergence) of the read from the stored Gaussian, averaged over channels."""
        count, total, squares = torch.stack(self._sums).sum(0)
        mean = total / count
        read, kept = (squares / count - mean.square()).clamp_min(0) + _LEAST, self.variance.cpu().double() + _LEAST
        off = (mean - self.mean.cpu().double()).square()
        divergence = 0.5 * ((read + off) / kept - 1 - (read / kept).log())
        return float(divergence.clamp_min(0).log1p().mean())

    def shift(self) -> float:
        """Return the distance of the read means from the stored ones, in stored standard deviations, averaged over channels."""
        count, total, _ = torch.stack(self._sums).sum(0)
        off = (total / count - self.mean.cpu().double()).abs()
        return float((off / (self.variance.cpu().double() + _LEAST).sqrt()).mean())


def norms_of(modules: Mapping[str, Module]) -> list[Norm]:
    """Return the normalisation layers with learned statistics; layers that still have the initial mean 0 and variance 1 are skipped."""
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
    """Return a tensor or Keras variable as (C,); None for anything else."""
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
    """Return how far a network's inputs are from its training data, measured at its first normalisation layers.
    The result is the mean of `measure` (0 for a perfect fit) and the number of layers it was computed from; None without such layers."""
    reached: list[Norm] = []
    norms = {str(at): norm for at, norm in enumerate(norms_of(modules))}

    def read(name: str, *given: Any) -> None:
        norm, values = norms[name], flat_tensors(given)
        if not values or values[0].ndim <= max(norm.axis, 1) - (norm.axis < 0):
            return
        if norm not in reached and len(reached) < first:
            reached.append(norm)
        norm.add_(values[0])
        if len(reached) == first and norm is reached[-1]:
            raise _ForwardEnd

    with torch.no_grad(), hooked({name: norm.module for name, norm in norms.items()}, before=read):
        for batch in batches:
            with suppress(_ForwardEnd):
                run(batch)
    found = [measure(norm) for norm in reached]
    return (sum(found) / len(found), len(found)) if found else None
