"""`stay_near`: what is trained is pulled back to where it started (L2-SP). A switch on any strategy that trains below the heads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..networks.contract import Network

__all__ = ["anchors_of", "pull_back_"]


def pull_back_(groups: Iterable[Mapping[str, Any]], anchors: Mapping[int, Tensor], *, strength: float) -> None:
    """Take a step down the penalty strength / 2 · |w - w0|², apart from that of the optimizer: w <- w - rate · strength · (w - w0).

    Source: L2-SP (Li, Grandvalet & Davoine, ICML 2018, equation 2); apart from the gradient like decoupled weight decay (Loshchilov &
    Hutter, ICLR 2019, equation 9), so that an adaptive optimizer does not rescale it. It never goes beyond w0. Deviation: the heads
    have no penalty of their own; weight decay is set apart.

    Args:
        groups: of an optimizer, with "params" and "lr".
        anchors: id of a parameter -> w0; others are left alone.
        strength: 0 or more.
    """
    with torch.no_grad():
        for group in groups:
            for parameter in group["params"]:
                start = anchors.get(id(parameter))
                if start is not None:
                    parameter.lerp_(start.to(parameter), min(float(group["lr"]) * strength, 1.0))


def anchors_of(network: Network) -> dict[int, Tensor]:
    """Return where each trained parameter below the heads starts.

    Args:
        network: with its frozen layers set.

    Returns:
        Id of the parameter -> copy of w0.
    """
    heads = set(network.head_layers)
    return {
        id(parameter): parameter.detach().clone()
        for layer, named in network.layer_parameters().items()
        for parameter in named.values()
        if layer not in heads and parameter.requires_grad
    }
