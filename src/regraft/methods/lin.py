"""`lin`: a linear layer before the input is trained, and the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..frontier import added_parameters, frozen_but, head_parameters
from ..networks.contract import Network
from .contract import Begun, Method

__all__ = ["METHOD", "entrance"]


def entrance(values: Tensor, weight: Tensor, *, bias: Tensor) -> Tensor:
    """Return values mixed over their features: W x + b; W = I and b = 0 change nothing.

    Source: linear input network (Neto et al., Eurospeech 1995, section 3; Gemello et al., Speech Communication 49, 2007, section 2).
    Deviation: pictures and sequences are mixed over their channels, with the same W at every position.

    Args:
        values: (…, C), channels last.
        weight: (C, C).
        bias: (C,).

    Returns:
        (…, C).
    """
    return torch.nn.functional.linear(values, weight, bias)


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> Begun:
    """Put the layer before the input, and leave it and the heads open; it stays there for good."""
    twin = network.with_entrance()
    return Begun(twin, frozen_but(twin, {*added_parameters(network, twin), *head_parameters(twin)}))


METHOD = Method("lin", "a linear layer before the input", _begin, settings={"layer_decay": 1.0})
