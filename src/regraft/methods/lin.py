"""`lin`: a linear layer before the input is trained, and the heads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..freezing import added_parameters, frozen_but, head_parameters
from ..networks.contract import Network
from .contract import Begun, Method

__all__ = ["METHOD"]


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> Begun:
    """Put a layer before the input, W x + b over its features, and leave it and the heads open; it stays there for good.

    The layer is one of PyTorch's or Keras' own, with W = I and b = 0 at first, which change nothing.

    Source: linear input network (Neto et al., Eurospeech 1995, section 3; Gemello et al., Speech Communication 49, 2007, section 2).
    Deviation: pictures and sequences are mixed over their channels, with the same W at every position.
    """
    twin = network.with_entrance()
    return Begun(twin, frozen_but(twin, {*added_parameters(network, twin), *head_parameters(twin)}))


METHOD = Method("lin", "a linear layer before the input", _begin, settings={"layer_decay": 1.0})
