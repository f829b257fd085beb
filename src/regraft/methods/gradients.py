"""Relative gradient norms, by which `surgical` with block="auto" selects the part of a network to train."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def relative_norms(loss: Tensor, parts: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Return the norm of the gradient of each part of a network relative to the norm of its weights: |g| / |w|.

    Source: surgical fine-tuning (Lee et al., ICLR 2023, section 4.2, Auto-RGN). Deviation: one ratio for the whole part. In a mean over
    its tensors, biases near zero would dominate.

    Args:
        loss: a scalar that depends on the parameters.
        parts: name -> parameters.

    Returns:
        Name -> |g| / |w|, 0 for a part without weights or with zero weights. A parameter that the loss does not depend on has a zero
        gradient.
    """
    every = [weight for part in parts.values() for weight in part]
    found = torch.autograd.grad(loss, every, allow_unused=True) if every else ()
    slopes = {id(weight): 0.0 if slope is None else _square(slope) for weight, slope in zip(every, found, strict=True)}
    norms = {}
    for name, part in parts.items():
        size, slope = sum(map(_square, part)), sum(slopes[id(weight)] for weight in part)
        norms[name] = float((slope / size) ** 0.5) if size else 0.0
    return norms


def _square(values: Tensor) -> float:
    return float(values.detach().double().square().sum())
