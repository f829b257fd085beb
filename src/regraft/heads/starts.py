"""How the rows of new classes start: pure functions of features and of the rows that are kept.

Every function returns weight (n, d) and bias (n,) of n new classes.
"""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax, softmax

from ..errors import DataError
from ..probes import fit_ridge

__all__ = ["Rows", "aligned_rows", "balanced_rows", "imprinted_rows", "lowest_biases", "mean_rows", "probed_rows", "separated_rows"]

_LOST = 0.15
"""Share of a new class's items that its row may leave to the old classes, where no old item is there to weigh them against."""
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


# over the limit: features and targets are one record, and the kind says what the targets are
def probed_rows(
    features: np.ndarray, targets: np.ndarray, *, count: int, kept: Rows, wanted: np.ndarray, kind: str = "classification"
) -> Rows:
    """Return rows of the closed-form ridge solution, aligned to the kept rows.

    Args:
        features: (N, d) of items of all classes that there are data for.
        targets: (N,) class, 0 to `count` - 1.
        count: number of classes, new and kept.
        kept: weight (C, d) and bias (C,) of the kept rows; may be empty.
        wanted: (n,) which classes are new.
        kind: of the targets: "classification", or else (N, C) of 0 and 1 ("multi-label") or numbers ("regression").

    Returns:
        Weight (n, d) and bias (n,).
    """
    probe = fit_ridge(features, targets, kind=kind, classes=count)
    return aligned_rows(probe.weight[wanted], probe.bias[wanted], kept=kept)


def separated_rows(features: np.ndarray, targets: np.ndarray, *, count: int, old: Rows) -> Rows:
    """Return imprinted rows that leave the items of the old classes alone, although none of those is there.

    The old rows stand for the items that they were trained on: a row (its positive part, where features are never negative) points
    to where its class lies. New directions lead from the mean of these to the mean of the new class; they are as long as the old
    rows on average. The bias is the lowest at which 85 % of the new items still score above every old class: with the old rows' mean
    bias, as weight alignment alone has it, the mean direction of features that are all positive swallows nearly every old item.
    Each new row depends on its own items and on the old rows only, so that extending one class at a time is extending at once.

    Source: Qi, Brown & Lowe, CVPR 2018 (imprinting); Zhao et al., CVPR 2020, equation 5 (norms). Deviations: the direction and the bias.

    Args:
        features: (N, d) of items of the new classes.
        targets: (N,) which new class, 0 to n - 1; every class has an item.
        count: n.
        old: weight (C, d) and bias (C,) of the rows before any extension.

    Returns:
        Weight (n, d) and bias (n,).
    """
    weight = old[0]
    means = np.stack([features[targets == index].mean(0) for index in range(count)])
    standing = np.maximum(weight, 0) if float(features.min()) >= 0 else weight
    standing = standing / np.maximum(np.linalg.norm(standing, axis=1, keepdims=True), 1e-12)
    lengths = np.linalg.norm(features, axis=1)
    length = np.array([lengths[targets == index].mean() for index in range(count)])[:, None]
    directions = means - standing.mean(0) * length
    rows = directions / np.maximum(np.linalg.norm(directions, axis=1, keepdims=True), 1e-12) * np.linalg.norm(weight, axis=1).mean()
    return rows, lowest_biases(features, targets, rows=rows, old=old)


def lowest_biases(features: np.ndarray, targets: np.ndarray, *, rows: np.ndarray, old: Rows) -> np.ndarray:
    """Return the lowest bias of each new row at which 85 % of its class's items score above every old class.

    Args:
        features: (N, d) of items of the new classes.
        targets: (N,) which new class, 0 to n - 1; every class has an item.
        rows: (n, d) new rows.
        old: weight (C, d) and bias (C,) of the old rows.

    Returns:
        (n,).
    """
    highest = (features @ old[0].T + old[1]).max(1)
    gaps = highest - np.einsum("nd,nd->n", features, rows[targets])
    gaps += 1e-3 * np.abs(highest)  # at the gap itself a new item would only draw level
    return np.array([np.quantile(gaps[targets == index], 1 - _LOST, method="higher") for index in range(len(rows))])


def balanced_rows(features: np.ndarray, targets: np.ndarray, *, count: int, old: Rows) -> Rows:
    """Return new rows fitted to items of old and new classes, every class weighing the same, while the old rows stay as they are.

    The directions are those of the closed-form ridge solution of all classes; their common scale and each bias minimise the balanced
    log-loss of all classes together, the old scores fixed: a convex problem of n + 1 numbers.

    Source: the bias correction of Wu et al., CVPR 2019, section 3.2, with one bias a class in place of one for all.

    Args:
        features: (N, d) of items of old and new classes.
        targets: (N,) class, 0 to C + n - 1; the old ones come first.
        count: n.
        old: weight (C, d) and bias (C,) of the old rows.

    Returns:
        Weight (n, d) and bias (n,).
    """
    first, total = len(old[0]), len(old[0]) + count
    rows = fit_ridge(features, targets, classes=total).weight[first:]
    fixed, moving = features @ old[0].T + old[1], features @ rows.T
    counts = np.bincount(targets, minlength=total)
    share = (1 / np.maximum(counts, 1) / (counts > 0).sum())[targets]
    truth = np.eye(total)[targets]

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        scores = np.concatenate([fixed, numbers[0] * moving + numbers[1:]], 1)
        excess = ((softmax(scores, axis=1) - truth) * share[:, None])[:, first:]
        slope = np.concatenate([[float((excess * moving).sum()) + 1e-4 * numbers[0]], excess.sum(0) + 1e-4 * numbers[1:]])
        return float(-(share * (log_softmax(scores, axis=1) * truth).sum(1)).sum() + 0.5e-4 * float(np.square(numbers).sum())), slope

    numbers = minimize(
        loss, np.concatenate([[1.0], np.zeros(count)]), jac=True, method="L-BFGS-B", bounds=[(1e-3, None)] + [(None, None)] * count
    ).x
    return numbers[0] * rows, numbers[1:]


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
