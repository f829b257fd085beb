"""Which third of the blocks surgical fine-tuning trains, by the gradients."""

from __future__ import annotations

import numpy as np
import torch

from ...methods.gradients import relative_norms
from ...training import WholeFeed
from ..choosing.candidates import surgical_blocks
from ..plan import THIRDS
from ..setup import Log, Setup

__all__ = ["third_by_gradient"]

MOST_LOOKED_AT = 256
"""Items whose mean gradient is taken at most."""


def third_by_gradient(setup: Setup, log: Log) -> str:
    """Return the third of the blocks with the largest gradient in proportion to its weights, in inference mode.

    Source: surgical fine-tuning (Lee et al., ICLR 2023, section 4.2, Auto-RGN). Deviations: whole thirds are compared, once, before
    they are trained, and the largest is trained; the authors scale the learning rate of every layer in every step.
    """
    network, parameters = setup.network, setup.network.layer_parameters()
    layers = {third: [name for block in surgical_blocks(network, third) for name in block] for third in THIRDS}
    network.freeze_(setup.all_but_heads - {name for names in layers.values() for name in names})
    parts = {
        third: [one for name in names for one in parameters.get(name, {}).values() if one.requires_grad] for third, names in layers.items()
    }
    network.mode_(False)
    fit = np.random.default_rng(setup.plan.seed).permutation(setup.parts.training)[:MOST_LOOKED_AT]
    feed = WholeFeed(network, setup.items, 1, setup.device)
    with torch.enable_grad():
        scores = feed.scores(feed.batch(fit, np.zeros(len(fit), np.int64)))
        norms = relative_norms(setup.objective()(scores, fit), parts)
    best = max(THIRDS, key=lambda third: norms[third])
    said = ", ".join(f"{third} {norms[third]:.3g}" for third in THIRDS)
    log.notes.append(f"The {best} third of the blocks was trained: its gradient is the largest in proportion to its weights ({said}).")
    return best
