"""How the rows of new classes start: pure functions of features and of the rows that are kept.

Every function returns weight (n, d) and bias (n,) of n new classes.
"""

from __future__ import annotations

import numpy as np

from ..errors import DataError
from ..probes import ClassStatistics, LogisticLoss, fit_logistic, fit_ridge

__all__ = [
    "Rows",
    "aligned_rows",
    "fitted_rows",
    "imprinted_rows",
    "lowest_biases",
    "mean_rows",
    "probed_rows",
    "separated_rows",
]

_LOST = 0.15
"""Share of a new class's items that its row may leave to the old classes, where no old item is there to weigh them against."""
_DRAWN = 4_000
"""Old examples that are drawn from their statistics, over all classes: 4 to 100 of each."""
_SCALE = 10.0  # of cosine scores, where no kept row tells another (Qi et al. let it be learned; it starts at 10)

Rows = tuple[np.ndarray, np.ndarray]


def mean_rows(weight: np.ndarray, bias: np.ndarray, *, count: int) -> Rows:
    """Return `count` copies of the mean old row: every new class starts as an average one.

    `weight`: (C, d) old rows; `bias`: (C,); result: Weight (n, d) and bias (n,).
    """
    if not len(weight):
        raise DataError(f"start='mean' needs old rows to average; the network has {len(weight)}. Choose 'random', 'imprint' or 'probe'.")
    return np.repeat(weight.mean(0, keepdims=True), count, 0), np.repeat(bias.mean(keepdims=True), count)


def imprinted_rows(features: np.ndarray, targets: np.ndarray, *, count: int, kept: Rows) -> Rows:
    """Return the normalised mean direction of each class, as long as the kept rows are on average, with their mean bias.

    `features`: (N, d) of items of the new classes; `targets`: (N,) which new class, 0 to n - 1; `kept`: weight (C, d) and bias (C,) of the
    kept rows; may be empty; result: Weight (n, d) and bias (n,).

    Source: Qi, Brown & Lowe, CVPR 2018, equations 5 and 6. Deviation: the head need not be a cosine classifier, so the rows take
    the kept rows' mean norm and bias; where none is kept, the norm is such that a feature of mean length scores 10 at most.
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

    `features`: (N, d) of items of all classes that there are data for; `targets`: (N,) class, 0 to `count` - 1; `kept`: weight (C, d) and
    bias (C,) of the kept rows; may be empty; `wanted`: (n,) which classes are new; `kind`: of the targets: "classification", or else (N, C)
    of 0 and 1 ("multi-label") or numbers ("regression"); result: Weight (n, d) and bias (n,).
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

    `features`: (N, d) of items of the new classes; `targets`: (N,) which new class, 0 to n - 1; every class has an item; `old`: weight (C,
    d) and bias (C,) of the rows before any extension; result: Weight (n, d) and bias (n,).

    Source: Qi, Brown & Lowe, CVPR 2018 (imprinting); Zhao et al., CVPR 2020, equation 5 (norms). Deviations: the direction and the bias.
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


def fitted_rows(
    features: np.ndarray, targets: np.ndarray, *, count: int, old: Rows, known: ClassStatistics | None, stored: Rows | None = None
) -> Rows:
    """Return new rows with the lowest log-loss on new and old examples, each class weighing the same and the old rows as they are.

    Old examples are those `stored`, and others that are drawn from statistics: normal deviations from the class means, with the covariance
    within classes. The old scores of these are made to be as those of unseen examples, as `held_out` of the statistics says it. What is
    drawn counts as much as the examples that the statistics are of.
    It is a logistic regression in which the scores of the old classes are given; its penalty is chosen on examples left out.

    `features`: (N, d) of examples of the new classes; `targets`: (N,) which new class, 0 to n - 1; every class has an example; `old`:
    weight (C, d) and bias (C,) of the old rows; `known`: statistics of the same features, the C old classes first, in their order; None:
    there are none; `stored`: features (M, d) and class indices (M,) of examples of old classes; None: there are none; result: Weight (n, d)
    and bias (n,).

    Source: classifier alignment on drawn features, Zhang et al. (SLCA), ICCV 2023, section 3.3. Deviations: only new rows are fitted, and
    drawn scores are those of unseen examples.
    """
    first = len(old[0])
    given = [*([] if stored is None else [stored]), (features, targets + first)]
    parts = [(x, y, x @ old[0].T + old[1], np.ones(len(y))) for x, y in given]
    parts += [] if known is None else [_drawn(known, old)]
    table, truth, scores, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    totals = np.bincount(truth, weights, minlength=first + count)
    share = weights / totals[truth] / (totals > 0).sum()
    offset = np.concatenate([scores, np.zeros((len(scores), count))], axis=1)
    loss = LogisticLoss(item_weight=share, offset=offset, fixed=first)
    probe = fit_logistic(table.astype(np.float64), truth, classes=first + count, loss=loss)
    zero = int(truth.min())  # a class without weights: the probe takes the mean of all classes from each
    return (probe.weight[first:] - probe.weight[zero]) / probe.temperature, (probe.bias[first:] - probe.bias[zero]) / probe.temperature


def _drawn(known: ClassStatistics, old: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return features (m, d) drawn from the statistics of the old classes, their classes, unseen scores (m, C) and weights (m,)."""
    rows = np.flatnonzero(known.counts[: len(old[0])])
    each = int(np.clip(_DRAWN // max(len(rows), 1), 4, 100))
    covariance, targets = known.covariance, np.repeat(rows, each)
    covariance[np.diag_indices(len(covariance))] += max(1e-7 * float(np.trace(covariance)) / len(covariance), np.finfo(np.float32).tiny)
    noise = np.random.default_rng(0).standard_normal((len(targets), len(covariance))) @ np.linalg.cholesky(covariance).T
    (nearer, wider), middles = known.held_out, known.means[: len(old[0])] @ old[0].T + old[1]
    middles = nearer * middles + (1 - nearer) * middles[rows].mean(axis=0)
    return known.means[targets] + noise, targets, middles[targets] + wider * noise @ old[0].T, known.counts[targets] / each


def lowest_biases(features: np.ndarray, targets: np.ndarray, *, rows: np.ndarray, old: Rows) -> np.ndarray:
    """Return the lowest bias of each new row at which 85 % of its class's items score above every old class.

    `features`: (N, d) of items of the new classes; `targets`: (N,) which new class, 0 to n - 1; every class has an item; `rows`: (n, d) new
    rows; `old`: weight (C, d) and bias (C,) of the old rows; result: (n,).
    """
    highest = (features @ old[0].T + old[1]).max(1)
    gaps = highest - np.einsum("nd,nd->n", features, rows[targets])
    gaps += 1e-3 * np.abs(highest)  # at the gap itself a new item would only draw level
    return np.array([np.quantile(gaps[targets == index], 1 - _LOST, method="higher") for index in range(len(rows))])


def aligned_rows(weight: np.ndarray, bias: np.ndarray, *, kept: Rows) -> Rows:
    """Scale new rows so that their mean norm and mean bias equal those of the kept rows; without kept rows, leave them.

    `weight`: (n, d) new rows; `bias`: (n,); `kept`: weight (C, d) and bias (C,) of the kept rows; result: Weight (n, d) and bias (n,).

    Source: weight alignment, Zhao et al., CVPR 2020, equation 5; the bias is treated alike.
    """
    if not len(kept[0]) or not len(weight):
        return weight, bias
    factor = np.linalg.norm(kept[0], axis=1).mean() / max(float(np.linalg.norm(weight, axis=1).mean()), 1e-12)
    scaled = bias * factor
    return weight * factor, scaled - scaled.mean() + kept[1].mean()
