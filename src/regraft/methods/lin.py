"""`lin`: train a linear layer before the input, and the heads."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..freezing import added_parameters, frozen_but, head_parameters
from ..networks.network import Network
from .contract import Method, PreparedNetwork


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> PreparedNetwork:
    """Insert a linear layer W x + b before the input, and train it and the heads. The layer remains in the network.

    It is a standard PyTorch or Keras layer. It starts at the identity (W = I, b = 0).

    Source: linear input network (Neto et al., Eurospeech 1995, section 3; Gemello et al., Speech Communication 49, 2007, section 2).
    Deviation: for images and sequences, W mixes the channels and is the same at every position.
    """
    twin = network.with_entrance()
    return PreparedNetwork(twin, frozen_but(twin, {*added_parameters(network, twin), *head_parameters(twin)}))


METHOD = Method("lin", "a linear layer before the input", _begin, settings={"layer_decay": 1.0})
