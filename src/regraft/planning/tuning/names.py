"""The same layers, and the same weights, in two networks of which one was made out of the other."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...errors import NetworkError
from ...networks.contract import Network

__all__ = ["names_in", "take_over_"]


def names_in(network: Network, names: Iterable[str]) -> frozenset[str]:
    """Return which layers, or single parameters, of a network are in another that was made out of it."""
    return frozenset(names) & {*(layer.name for layer in network.layers), *network.state()}


def take_over_(network: Network, trained: Network) -> None:
    """Give a network the weights and moving averages of another one, which has further layers.

    Args:
        network: gets them, in place.

    Raises:
        NetworkError: if it lacks one.
    """
    found, state = trained.state(), network.state()
    missing = [name for name in state if name not in found]
    if missing:
        raise NetworkError(f"The trained network has no {missing[0]!r}; expected all {len(state)} tensors of the one it was made of.")
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(found[name])
