"""Weights between those before and those after tuning, by the items that choose (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...networks.contract import Network

__all__ = ["blended_", "mix_", "restore_", "snapshot"]

POINTS = 11


def snapshot(network: Network, frozen: frozenset[str]) -> dict[str, Tensor]:
    """Return copies of what training may change of a `network`: parameters and moving averages of all layers but the `frozen` ones."""
    return {name: tensor.detach().clone() for name, tensor in network.state().items() if name.rpartition(".")[0] not in frozen}


def restore_(network: Network, saved: dict[str, Tensor]) -> None:
    """Put the `saved` values of a snapshot back into its `network`."""
    state = network.state()
    with torch.no_grad():
        for name, values in saved.items():
            state[name].copy_(values)


def blended_(network: Network, start: dict[str, Tensor], *, judged: Callable[[], float]) -> float:
    """Leave the mix (1 - a) start + a present in a network that is judged best, a in 0, 0.1, …, 1; of equals, the highest.

    Moving averages of BatchNorm are mixed alike; whole numbers stay those of the present.

    Source: weight-space ensembles (Wortsman et al., CVPR 2022, equation 1).

    Args:
        network: with the weights after tuning.
        start: a snapshot from before.
        judged: gives the present network's loss on the items that choose.

    Returns:
        The share a of the tuned weights.
    """
    state = network.state()
    tuned = {name: state[name].detach().clone() for name in start}
    losses = {}
    for step in reversed(range(POINTS)):
        share = step / (POINTS - 1)
        restore_(network, _mixed(start, tuned, share=share))
        losses[share] = judged()
    best = min(losses, key=lambda share: (losses[share], -share))
    restore_(network, _mixed(start, tuned, share=best))
    return best


def mix_(network: Network, start: dict[str, Tensor], *, share: float) -> None:
    """Leave the mix (1 - share) start + share present in a `network`."""
    state = network.state()
    restore_(network, _mixed(start, {name: state[name].detach().clone() for name in start}, share=share))


def _mixed(start: dict[str, Tensor], tuned: dict[str, Tensor], *, share: float) -> dict[str, Tensor]:
    if share == 1.0:
        return tuned
    return {name: torch.lerp(start[name], values, share) if values.is_floating_point() else values for name, values in tuned.items()}
