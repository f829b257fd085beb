"""`stay_near`: pull parameters back towards their initial values (L2-SP). A setting for any strategy that trains below the heads."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from ..networks.network import Network


def pull_back_(groups: Iterable[Mapping[str, Any]], anchors: Mapping[int, Tensor], *, strength: float) -> None:
    """Apply the decoupled penalty strength / 2 · |w - w0|² in place: w <- w - lr · strength · (w - w0).

    Source: L2-SP (Li, Grandvalet & Davoine, ICML 2018, equation 2). The step is decoupled from the gradient, like weight decay in AdamW
    (Loshchilov & Hutter, ICLR 2019, equation 9), so that an adaptive optimizer does not rescale it. It never overshoots w0. Deviation: the
    heads have no penalty of their own; weight decay is a separate setting.

    Args:
        groups: parameter groups of an optimizer, with "params" and "lr".
        anchors: id of a parameter -> w0. Other parameters are not changed.
        strength: a number >= 0.
    """
    with torch.no_grad():
        for group in groups:
            for parameter in group["params"]:
                start = anchors.get(id(parameter))
                if start is not None:
                    parameter.lerp_(start.to(parameter), min(float(group["lr"]) * strength, 1.0))


def anchors_of(network: Network) -> dict[int, Tensor]:
    """Return the initial values of all trainable parameters below the heads.

    Args:
        network: network whose frozen layers are set.

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
