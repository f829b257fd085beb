"""How the rows of new classes start: pure functions of features and of the rows that are kept.

Every function returns weight (n, d) and bias (n,) of n new classes.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from ..probes import fit_ridge

__all__ = ["aligned_rows", "imprinted_rows", "mean_rows", "probed_rows"]

_SCALE = 10.0  # of cosine scores, where no kept row tells another (Qi et al. let it be learned; it starts at 10)

Rows = tuple[np.ndarray, np.ndarray]


def mean_rows(weight: np.ndarray, bias: np.ndarray, *, count: int) -> Rows:
    """Return `count` copies of the mean old row: every new class starts as an average one.

    Args:
        weight: (C, d) old rows.
        bias: (C,).
        count: n.

    Returns:
        Weight (n, d) and bias (n,).

    Raises:
        DataError: if there are no old rows.
    """
    if not len(weight):
        raise DataError(f"start='mean' needs old rows to average; the network has {len(weight)}. Choose 'random', 'imprint' or 'probe'.")
    return np.repeat(weight.mean(0, keepdims=True), count, 0), np.repeat(bias.mean(keepdims=True), count)


def imprinted_rows(features: np.ndarray, targets: np.ndarray, *, count: int, kept: Rows) -> Rows:
    """Return the normalised mean direction of each class, as long as the kept rows are on average, with their mean bias.

    Source: Qi, Brown & Lowe, CVPR 2018, equations 5 and 6. Deviation: the head need not be a cosine classifier, so the rows take
    the kept rows' mean norm and bias; where none is kept, the norm is such that a feature of mean length scores 10 at most.

    Args:
        features: (N, d) of items of the new classes.
        targets: (N,) which new class, 0 to n - 1.
        count: n; every class has an item.
        kept: weight (C, d) and bias (C,) of the kept rows; may be empty.

    Returns:
        Weight (n, d) and bias (n,).
    """
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    directions = features / np.maximum(lengths, 1e-12)
    means = np.stack([directions[targets == index].mean(0) for index in range(count)])
    means /= np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    weight, bias = kept
    norm = np.linalg.norm(weight, axis=1).mean() if len(weight) else _SCALE / max(float(lengths.mean()), 1e-12)
    return means * norm, np.full(count, bias.mean() if len(bias) else 0.0)


def probed_rows(features: np.ndarray, targets: np.ndarray, *, count: int, kept: Rows, wanted: np.ndarray) -> Rows:
    """Return rows of the closed-form ridge solution, aligned to the kept rows.

    Args:
        features: (N, d) of items of all classes that there are data for.
        targets: (N,) class, 0 to `count` - 1.
        count: number of classes, new and kept.
        kept: weight (C, d) and bias (C,) of the kept rows; may be empty.
        wanted: (n,) which classes are new.

    Returns:
        Weight (n, d) and bias (n,).
    """
    probe = fit_ridge(features, targets, classes=count)
    return aligned_rows(probe.weight[wanted], probe.bias[wanted], kept=kept)


def aligned_rows(weight: np.ndarray, bias: np.ndarray, *, kept: Rows) -> Rows:
    """Scale new rows so that their mean norm and mean bias equal those of the kept rows; without kept rows, leave them.

    Source: weight alignment, Zhao et al., CVPR 2020, equation 5; the bias is treated alike.

    Args:
        weight: (n, d) new rows.
        bias: (n,).
        kept: weight (C, d) and bias (C,) of the kept rows.

    Returns:
        Weight (n, d) and bias (n,).
    """
    if not len(kept[0]) or not len(weight):
        return weight, bias
    factor = np.linalg.norm(kept[0], axis=1).mean() / max(float(np.linalg.norm(weight, axis=1).mean()), 1e-12)
    scaled = bias * factor
    return weight * factor, scaled - scaled.mean() + kept[1].mean()
