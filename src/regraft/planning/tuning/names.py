"""The same layer, and the same weights, in two networks of which one has something around the other."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from ...errors import NetworkError
from ...networks.contract import Network

__all__ = ["names_in", "take_over_"]

_AROUND = "network"
"""What a module around a network calls it."""


def _plain(name: str) -> str:
    return ".".join(part for part in name.split(".") if part != _AROUND)


def names_in(network: Network, names: Iterable[str]) -> frozenset[str]:
    """Return what layers, or single parameters, of a network are called in another that was made out of it.

    Args:
        network: the other one.
        names: in the first.
    """
    wanted = {_plain(name) for name in names}
    known = (*(layer.name for layer in network.layers), *network.state())
    return frozenset(name for name in known if _plain(name) in wanted)


def take_over_(network: Network, trained: Network) -> None:
    """Give a network the weights and moving averages of another one, which has further layers.

    Args:
        network: gets them, in place.
        trained: has them all.

    Raises:
        NetworkError: if it lacks one.
    """
    found = {_plain(name): tensor for name, tensor in trained.state().items()}
    state = network.state()
    missing = [name for name in state if _plain(name) not in found]
    if missing:
        raise NetworkError(f"The trained network has no {missing[0]!r}; expected all {len(state)} tensors of the one it was made of.")
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(found[_plain(name)])
