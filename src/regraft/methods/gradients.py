"""Relative gradient norms, by which `surgical` with block="auto" selects the part of a network to train."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["relative_norm", "relative_norms"]


def relative_norm(gradients: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
    """Return the norm of the gradient relative to the norm of the weights: |g| / |w|.

    Source: surgical fine-tuning (Lee et al., ICLR 2023, section 4.2, Auto-RGN). Deviation: one ratio for the whole part. In a mean over
    its tensors, biases near zero would dominate.

    Args:
        gradients: gradients of the parameters of one part.
        weights: the parameters, in the same order.

    Returns:
        A number >= 0; 0 if the weights are empty or all zero.
    """
    size = sum(float(weight.detach().double().square().sum()) for weight in weights)
    slope = sum(float(gradient.double().square().sum()) for gradient in gradients)
    return float((slope / size) ** 0.5) if size else 0.0


def relative_norms(loss: Tensor, parts: Mapping[str, Sequence[Tensor]]) -> dict[str, float]:
    """Return the relative gradient norm of each part of a network.

    Args:
        loss: a scalar that depends on the parameters.
        parts: name -> parameters.

    Returns:
        Name -> |g| / |w|. A parameter that the loss does not depend on has a zero gradient.
    """
    every = [weight for part in parts.values() for weight in part]
    found = torch.autograd.grad(loss, every, allow_unused=True) if every else ()
    gradients = {id(weight): torch.zeros_like(weight) if slope is None else slope for weight, slope in zip(every, found, strict=True)}
    return {name: relative_norm([gradients[id(weight)] for weight in part], part) for name, part in parts.items()}
