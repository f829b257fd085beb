"""From which probability a label counts as said: one threshold for each label, the one with the highest F1."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ..errors import DataError
from .metrics import probabilities

__all__ = ["fit_thresholds"]

_FEWEST = 3
"""Positive, and negative, items that a label needs; from fewer, the best threshold is mostly chance."""
_DEFAULT = 0.5


def fit_thresholds(scores: npt.ArrayLike, targets: npt.ArrayLike) -> np.ndarray:
    """Return for each label the probability threshold with the highest F1 on these items; use items that were not trained on.

    An item has the label where its probability is the threshold or above it. Candidates lie midway between neighbouring
    probabilities (and midway between 0 and the lowest); of equally good ones the nearest to 0.5 is taken. One sort for each label.

    Source: Lipton, Elkan & Naryanaswamy 2014, arXiv:1402.1892 (F1 is highest at a threshold of the probability).

    Args:
        scores: (N, C) raw scores, before the logistic function.
        targets: (N, C) of 0 and 1; NaN where it is not known, and this entry is left out.

    Returns:
        (C,) float64 in [0, 1]; 0.5 for labels with fewer than 3 known positive or 3 known negative items.

    Raises:
        DataError: if shapes differ or are not (N, C), a score is not finite, or a target is none of 0, 1 and NaN.
    """
    raw, truth = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if raw.ndim != 2 or raw.shape != truth.shape:
        raise DataError(f"Scores and targets must both have the shape (N, C); received {raw.shape} and {truth.shape}.")
    if not np.isfinite(raw).all():
        raise DataError(
            f"{int((~np.isfinite(raw)).any(axis=1).sum())} of {len(raw)} items have scores that are not finite; leave them out."
        )
    known = ~np.isnan(truth)
    if not np.isin(truth[known], (0, 1)).all():
        raise DataError(f"Multi-label targets must be 0, 1 or NaN; received values from {np.nanmin(truth)} to {np.nanmax(truth)}.")
    positives, negatives = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    enough = (positives >= _FEWEST) & (negatives >= _FEWEST)
    best = np.full(raw.shape[1], _DEFAULT)
    if enough.any():
        chances = np.where(known, probabilities(raw, "multi-label"), -1.0)[:, enough]
        best[enough] = _best_thresholds(chances, truth[:, enough] == 1)
    return best


def _best_thresholds(chances: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return (C,) thresholds for (N, C) probabilities, -1 for entries that are left out, each label with a positive item."""
    order = np.argsort(-chances, axis=0, kind="stable")
    upper, hits = (np.take_along_axis(table, order, axis=0) for table in (chances, positive))
    following = np.vstack([upper[1:], np.full((1, upper.shape[1]), -1.0)])
    lower = np.maximum(following, 0.0)
    middle = (lower + upper) / 2
    cuts = np.where(middle > lower, middle, upper)  # midway between neighbouring floats is one of the two
    said = np.arange(1, len(upper) + 1)[:, None]
    f1 = 2 * hits.cumsum(axis=0) / (said + hits.sum(axis=0))
    f1[(upper == following) | (upper < 0)] = -1.0  # equal probabilities fall on the same side
    distances = np.where(f1 == f1.max(axis=0), np.abs(cuts - _DEFAULT), np.inf)
    return np.asarray(np.take_along_axis(cuts, distances.argmin(axis=0)[None], axis=0)[0])
