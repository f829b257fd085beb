"""Class weights for new classes, as pure functions of features and of the kept class weights.

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
"""Share of a new class's examples that may score below an old class, if there are no old examples to balance against."""
_DRAWN = 4_000
"""Total number of features drawn from the statistics of the old classes; 4 to 100 per class."""
_OLD = 1.5
"""Weight of an old class in the fit, relative to a new one: on digits 0.9 points fewer are lost, and 1 to 5 fewer of the new ones found."""
_SCALE = 10.0  # scale of cosine logits without kept class weights (learned in Qi et al., where it starts at 10)

Rows = tuple[np.ndarray, np.ndarray]


def mean_rows(weight: np.ndarray, bias: np.ndarray, *, count: int) -> Rows:
    """Return `count` copies of the mean of the old class weights (C, d) and biases (C,)."""
    if not len(weight):
        raise DataError(f"start='mean' needs old rows to average; the network has {len(weight)}. Choose 'random', 'imprint' or 'probe'.")
    return np.repeat(weight.mean(0, keepdims=True), count, 0), np.repeat(bias.mean(keepdims=True), count)


def imprinted_rows(features: np.ndarray, targets: np.ndarray, *, count: int, kept: Rows) -> Rows:
    """Return the normalised mean feature direction of each class, scaled to the mean norm of the kept class weights, with their mean bias.

    `features`: (N, d) of the new classes; `targets`: (N,) new class, 0 to n - 1; `kept`: weight (C, d) and bias (C,), may be empty.

    Source: Qi, Brown & Lowe, CVPR 2018, equations 5 and 6. Deviation: the head need not be a cosine classifier, so the new weights take the
    mean norm and bias of the kept ones. Without kept weights, a feature of mean length has a logit of 10 at most.
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
    """Return class weights of the closed-form ridge solution, aligned to the kept class weights.

    `features`: (N, d) of all classes with data; `targets`: (N,) class, 0 to `count` - 1, or for other kinds (N, C) of 0 and 1
    ("multi-label") or numbers ("regression"); `kept`: weight (C, d) and bias (C,), may be empty; `wanted`: (n,) indices of the new classes.
    """
    probe = fit_ridge(features, targets, kind=kind, classes=count)
    return aligned_rows(probe.weight[wanted], probe.bias[wanted], kept=kept)


def separated_rows(features: np.ndarray, targets: np.ndarray, *, count: int, old: Rows) -> Rows:
    """Return imprinted class weights that take few old examples away from their classes, although no old examples are available.

    The old class weights stand in for the old examples: the weight vector of a class (its positive part, if no feature is negative) points
    to the features of that class. A new direction leads from the mean of these vectors to the mean of the new class. Its norm is the mean
    norm of the old class weights. The bias is the lowest at which 85 % of the new examples still score above every old class. The mean bias
    of the old classes, as in weight alignment, would assign nearly every old example to the new class if all features are positive. Each
    new class depends only on its own examples and on the old class weights, so adding classes one by one equals adding them together.

    `features`: (N, d) of the new classes; `targets`: (N,) new class, 0 to n - 1, each with an example; `old`: weight (C, d) and bias (C,)
    before any extension.

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
) -> tuple[Rows, float]:
    """Return new class weights with the least log-loss on new and old examples, old classes weighted 1.5; the old ones stay fixed.

    Old examples are the `stored` ones and features drawn from the statistics: Gaussian noise around the class means, with the within-class
    covariance. The old logits of drawn features are adjusted to those of unseen examples, as `held_out` of the statistics describes them.
    Drawn features have the same total weight as the examples behind the statistics. The fit is a logistic regression with the logits of the
    old classes as fixed offsets. Its penalty is chosen on held-out examples. Also return the share of new examples that are right when
    held out.

    `features`: (N, d) of the new classes; `targets`: (N,) new class, 0 to n - 1, each with an example; `old`: weight (C, d) and bias (C,);
    `known`: statistics of the same features, the C old classes first, in their order, or None; `stored`: features (M, d) and class indices
    (M,) of old examples, or None.

    Source: classifier alignment on drawn features, Zhang et al. (SLCA), ICCV 2023, section 3.3. Deviations: only new class weights are
    fitted, and the logits of drawn features are those of unseen examples.
    """
    first = len(old[0])
    given = [*([] if stored is None else [stored]), (features, targets + first)]
    parts = [(x, y, x @ old[0].T + old[1], np.ones(len(y))) for x, y in given]
    parts += [] if known is None else [_drawn(known, old)]
    table, truth, scores, weights = (np.concatenate(part) for part in zip(*parts, strict=True))
    totals = np.bincount(truth, weights, minlength=first + count)
    share = weights / totals[truth] * np.where(truth < first, _OLD, 1.0)
    offset = np.concatenate([scores, np.zeros((len(scores), count))], axis=1)
    loss = LogisticLoss(item_weight=share, offset=offset, fixed=first)
    probe = fit_logistic(table.astype(np.float64), truth, classes=first + count, loss=loss)
    zero = int(truth.min())  # a class with zero weights as reference: the probe subtracts the mean over all classes
    right = probe.loo_scores[truth >= first].argmax(axis=1) == truth[truth >= first]
    weight, bias = ((part[first:] - part[zero]) / probe.temperature for part in (probe.weight, probe.bias))
    return (weight, bias), float(right.mean())


def _drawn(known: ClassStatistics, old: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Draw features (m, d) from the statistics of the old classes. Also return their classes, adjusted logits (m, C) and weights (m,)."""
    rows = np.flatnonzero(known.counts[: len(old[0])])
    each = int(np.clip(_DRAWN // max(len(rows), 1), 4, 100))
    covariance, targets = known.covariance, np.repeat(rows, each)
    covariance[np.diag_indices(len(covariance))] += max(1e-7 * float(np.trace(covariance)) / len(covariance), np.finfo(np.float32).tiny)
    noise = np.random.default_rng(0).standard_normal((len(targets), len(covariance))) @ np.linalg.cholesky(covariance).T
    (nearer, wider), middles = known.held_out, known.means[: len(old[0])] @ old[0].T + old[1]
    middles = nearer * middles + (1 - nearer) * middles[rows].mean(axis=0)
    return known.means[targets] + noise, targets, middles[targets] + wider * noise @ old[0].T, known.counts[targets] / each


def lowest_biases(features: np.ndarray, targets: np.ndarray, *, rows: np.ndarray, old: Rows) -> np.ndarray:
    """Return for each new class the lowest bias (n,) at which 85 % of its examples score above every old class.

    `features`: (N, d) of the new classes; `targets`: (N,) new class, 0 to n - 1, each with an example; `rows`: (n, d) new class weights;
    `old`: weight (C, d) and bias (C,).
    """
    highest = (features @ old[0].T + old[1]).max(1)
    gaps = highest - np.einsum("nd,nd->n", features, rows[targets])
    gaps += 1e-3 * np.abs(highest)  # at the gap itself the scores would only tie
    return np.array([np.quantile(gaps[targets == index], 1 - _LOST, method="higher") for index in range(len(rows))])


def aligned_rows(weight: np.ndarray, bias: np.ndarray, *, kept: Rows) -> Rows:
    """Scale new class weights (n, d) and biases (n,) to the mean norm and mean bias of the kept ones (C, d) and (C,), if there are any.

    Source: weight alignment, Zhao et al., CVPR 2020, equation 5. The same factor scales the bias, which is then shifted to the kept mean.
    """
    if not len(kept[0]) or not len(weight):
        return weight, bias
    factor = np.linalg.norm(kept[0], axis=1).mean() / max(float(np.linalg.norm(weight, axis=1).mean()), 1e-12)
    scaled = bias * factor
    return weight * factor, scaled - scaled.mean() + kept[1].mean()
