"""`distill`: what the old head says is kept as a target. A switch on any strategy that trains below the heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from ..networks.contract import Scores

__all__ = ["TEMPERATURE", "SoftTargets", "old_chances", "soft_cross_entropy"]

TEMPERATURE = 2.0
"""Of the old classes, where they are others than the new ones."""


def soft_cross_entropy(scores: Tensor, chances: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the mean cross entropy of scores against probabilities, in nats: - sum over c of p_c log softmax(z / T)_c.

    With p from the network before it was tuned, T = 1 and the weight rho, and 1 - rho for the cross entropy of the targets, this is
    KL-regularised adaptation; on the old head with T = 2 it is learning without forgetting.

    Source: Yu, Yao, Su, Li & Seide, ICASSP 2013, equations 5 to 7; LwF (Li & Hoiem, ECCV 2016, equations 2 to 4). Deviation from LwF:
    rho stands for both weights (rho and 1 - rho) in place of one beside 1.

    Args:
        scores: (B, C).
        chances: (B, C), rows that sum to 1; a row of NaN counts for nothing.
        temperature: T, above 0.

    Returns:
        A scalar; 0, with a gradient of zeros, where no row counts.
    """
    known = ~chances.isnan().any(1)
    logs = (scores.float() / temperature).log_softmax(1)
    losses = -(chances.nan_to_num() * logs).sum(1)
    return (losses * known).sum() / known.sum().clamp(min=1)


def old_chances(scores: np.ndarray, rows: np.ndarray | None = None, *, temperature: float = 1.0) -> np.ndarray:
    """Return the probabilities that recorded scores of the old head stand for.

    Args:
        scores: (N, S).
        rows: (C,) which old row each new class is; None: the old classes themselves.
        temperature: above 0.

    Returns:
        (N, C) or (N, S): a softmax over the rows that are asked for alone.
    """
    chosen = scores if rows is None else scores[:, rows]
    return np.asarray(softmax(chosen / temperature, axis=1))


@dataclass(frozen=True)
class SoftTargets:
    """A term of what is minimised: probabilities that the scores of one head shall come near to.

    Attributes:
        task: name of the head.
        chances: (N, C) of all items; a row of NaN counts for nothing.
        weight: of the term.
        temperature: of the scores.
    """

    task: str
    chances: Tensor
    weight: float
    temperature: float = 1.0

    def __call__(self, scores: Scores, indices: np.ndarray) -> Tensor:
        """Return the weighted term, a scalar, of a batch: scores (B, C) by task of the items `indices` (B,)."""
        mine = scores[self.task]
        chances = self.chances[torch.from_numpy(indices)].to(mine.device, torch.float32)
        return self.weight * soft_cross_entropy(mine, chances, temperature=self.temperature)
