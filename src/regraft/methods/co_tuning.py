"""`co_tuning`: also train the old head, on the relation between old and new classes. A setting for any strategy that trains below
the heads."""

import numpy as np
from scipy.special import softmax


def class_relation(scores: np.ndarray, targets: np.ndarray, *, classes: int) -> np.ndarray:
    """Return the mean probability of each old class over the examples of each new class: R[t, s] = mean over x in t of p_old(s | x).

    Source: Co-Tuning (You, Kou, Long & Wang, NeurIPS 2020, section 4.1, the direct approach). Deviation: the old head is not
    calibrated first, because no examples of the old classes are available.

    Args:
        scores: (N, S) logits of the old head before training.
        targets: (N,) new class, 0 to C - 1.
        classes: C.

    Returns:
        (C, S); each row sums to 1 and is uniform for a class without examples.
    """
    chances, member = softmax(scores, axis=1), np.eye(classes)[targets]
    counts = member.sum(axis=0)[:, None]
    even = np.full((classes, scores.shape[1]), 1 / scores.shape[1])
    return np.where(counts > 0, (member.T @ chances) / np.maximum(counts, 1), even)


def related_chances(relation: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the target probabilities of the old head for each example: the row of its class in the relation.

    Their loss is added to that of the new head with the weight lambda.

    Source: Co-Tuning (You et al., NeurIPS 2020, equation 3); lambda is 2.3 in the authors' experiments.

    Args:
        relation: (C, S).
        targets: (N,); -1 if the class is unknown.

    Returns:
        (N, S); a row of NaN if the class is unknown.
    """
    return np.where(targets[:, None] >= 0, relation[np.maximum(targets, 0)], np.nan)
