"""`co_tuning`: the old head goes on learning, from what the old classes say of the new ones. A switch on any strategy that trains below
the heads."""

from __future__ import annotations

import numpy as np
from scipy.special import softmax

__all__ = ["class_relation", "related_chances"]


def class_relation(scores: np.ndarray, targets: np.ndarray, *, classes: int) -> np.ndarray:
    """Return how likely each old class is for items of each new one: R[t, s] = mean over the items of t of p_old(s | x).

    Source: Co-Tuning (You, Kou, Long & Wang, NeurIPS 2020, section 4.1, the direct approach). Deviation: the old head is not
    calibrated first, because items of the old classes are not at hand.

    Args:
        scores: (N, S) of the old head, before anything is tuned.
        targets: (N,) new classes, 0 to C - 1.
        classes: C.

    Returns:
        (C, S); rows that sum to 1, evenly spread where a class has no items.
    """
    chances, member = softmax(scores, axis=1), np.eye(classes)[targets]
    counts = member.sum(axis=0)[:, None]
    even = np.full((classes, scores.shape[1]), 1 / scores.shape[1])
    return np.where(counts > 0, (member.T @ chances) / np.maximum(counts, 1), even)


def related_chances(relation: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return what the old head shall say of each item: the row of its class; with weight lambda beside the loss of the new head.

    Source: Co-Tuning (You et al., NeurIPS 2020, equation 3); lambda is 2.3 in the authors' experiments.

    Args:
        relation: (C, S).
        targets: (N,); -1 where the class is not known.

    Returns:
        (N, S); a row of NaN where the class is not known.
    """
    return np.where(targets[:, None] >= 0, relation[np.maximum(targets, 0)], np.nan)
