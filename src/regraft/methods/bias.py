"""`bias`: train only the biases and the heads."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import NetworkError
from ..freezing import frozen_but, head_parameters
from ..networks.network import Network
from ..words import counted
from .contract import Method, PreparedNetwork

__all__ = ["METHOD", "biases_among"]


def biases_among(names: Iterable[str]) -> tuple[str, ...]:
    """Return the names of additive parameters: biases and normalisation shifts ("bias" in PyTorch, "beta" in Keras).

    Args:
        names: parameter names, as in a network's `state()`.

    Returns:
        The names whose last part is "beta" or starts or ends with "bias". A relative position bias table (Swin) does not count.
    """
    parts = [(name, name.rpartition(".")[2]) for name in names]
    return tuple(name for name, part in parts if part == "beta" or part.startswith("bias") or part.endswith("bias"))


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> PreparedNetwork:
    """Train the biases and the heads; freeze the rest.

    Source: BitFit (Ben Zaken, Ravfogel & Goldberg, ACL 2022, section 3). Deviations: the shifts of BatchNorm count as biases; a layer
    without a bias gets none.

    Raises:
        NetworkError: if there is no bias below the heads.
    """
    heads = set(network.head_layers)
    below = {layer: names for layer, names in network.layer_parameters().items() if layer not in heads | network.body.held}
    biases = biases_among(name for names in below.values() for name in names if name not in network.body.held)
    if not biases:
        raise NetworkError(
            f"strategy='bias' trains biases; received a network with {counted(len(below), 'layer')} to train before its head and none in "
            "them. Choose 'scale_shift', which adds what it needs."
        )
    twin = network.copy()
    return PreparedNetwork(twin, frozen_but(twin, {*biases, *head_parameters(twin)}))


METHOD = Method("bias", "the biases alone", _begin, settings={"layer_decay": 1.0})
