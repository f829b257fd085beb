"""`distill`: use the old head's predictions as soft targets. A setting for any strategy that trains below the heads."""

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import softmax
from torch import Tensor

from ..networks.network import Scores

__all__ = ["TEMPERATURE", "SoftTargets", "old_chances", "soft_cross_entropy"]

TEMPERATURE = 2.0  # Temperature for the old classes if they differ from the new ones


def soft_cross_entropy(scores: Tensor, chances: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Return the mean cross entropy between target probabilities and logits, in nats: - sum over c of p_c log softmax(z / T)_c.

    With p from the network before training, T = 1, the weight rho here and 1 - rho for the cross entropy of the labels, this is
    KL-regularised adaptation. On the old head with T = 2 it is Learning without Forgetting (LwF).

    Source: Yu, Yao, Su, Li & Seide, ICASSP 2013, equations 5 to 7; LwF (Li & Hoiem, ECCV 2016, equations 2 to 4). Deviation from LwF:
    the two terms have the weights rho and 1 - rho instead of a free weight and 1.

    Args:
        scores: (B, C) logits.
        chances: (B, C) probabilities; each row sums to 1. Rows of NaN are ignored.
        temperature: T, above 0.

    Returns:
        A scalar; 0 with a zero gradient if all rows are ignored.
    """
    known = ~chances.isnan().any(1)
    logs = (scores.float() / temperature).log_softmax(1)
    losses = -(chances.nan_to_num() * logs).sum(1)
    return (losses * known).sum() / known.sum().clamp(min=1)


def old_chances(scores: np.ndarray, rows: np.ndarray | None = None, *, temperature: float = 1.0) -> np.ndarray:
    """Return the probabilities for recorded logits of the old head.

    Args:
        scores: (N, S) logits.
        rows: (C,) the old class index of each new class. None keeps the old classes.
        temperature: above 0.

    Returns:
        (N, C) or (N, S): softmax over the selected classes only.
    """
    chosen = scores if rows is None else scores[:, rows]
    return np.asarray(softmax(chosen / temperature, axis=1))


@dataclass(frozen=True)
class SoftTargets:
    """Loss term with soft targets for one head.

    Attributes:
        task: name of the head.
        chances: (N, C) target probabilities of all examples. Rows of NaN are ignored.
        weight: weight of the term.
        temperature: temperature of the logits.
    """

    task: str
    chances: Tensor
    weight: float
    temperature: float = 1.0

    def __call__(self, scores: Scores, indices: np.ndarray) -> Tensor:
        """Return the weighted term (a scalar) for a batch: logits (B, C) by task, of the examples `indices` (B,)."""
        mine = scores[self.task]
        chances = self.chances[torch.from_numpy(indices)].to(mine.device, torch.float32)
        return self.weight * soft_cross_entropy(mine, chances, temperature=self.temperature)
