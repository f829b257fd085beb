"""Weights between those before and those after tuning, by the items that choose (WiSE-FT)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...networks.contract import Network
from ...training.loop import copied, restore_

__all__ = ["blended_", "mix_"]

POINTS = 11


def blended_(network: Network, start: dict[str, Tensor], *, judged: Callable[[], float]) -> float:
    """Leave the mix (1 - a) start + a present in a network that is judged best, a in 0, 0.1, …, 1; of equals, the highest.

    Moving averages of BatchNorm are mixed alike; whole numbers stay those of the present.

    Source: weight-space ensembles (Wortsman et al., CVPR 2022, equation 1).

    Args:
        network: with the weights after tuning.
        start: tensors of its state, from before.
        judged: gives the present network's loss on the items that choose.

    Returns:
        The share a of the tuned weights.
    """
    state = network.state()
    tuned = copied({name: state[name] for name in start})
    losses = {}
    for step in reversed(range(POINTS)):
        share = step / (POINTS - 1)
        restore_(state, _mixed(start, tuned, share=share))
        losses[share] = judged()
    best = min(losses, key=lambda share: (losses[share], -share))
    restore_(state, _mixed(start, tuned, share=best))
    return best


def mix_(network: Network, start: dict[str, Tensor], *, share: float) -> None:
    """Leave the mix (1 - share) start + share present in a `network`."""
    state = network.state()
    restore_(state, _mixed(start, copied({name: state[name] for name in start}), share=share))


def _mixed(start: dict[str, Tensor], tuned: dict[str, Tensor], *, share: float) -> dict[str, Tensor]:
    if share == 1.0:
        return tuned
    return {name: torch.lerp(start[name], values, share) if values.is_floating_point() else values for name, values in tuned.items()}
