"""How the rows of new classes start: pure functions of features and of the rows that are kept.

Every function returns weight (n, d) and bias (n,) of n new classes.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from scipy.optimize import minimize
from scipy.special import log_softmax

from ..errors import DataError
from ..probes import ClassStatistics, fit_ridge, statistics_of, within_covariance

__all__ = [
    "Rows",
    "aligned_rows",
    "aligned_to_statistics",
    "balanced_rows",
    "imprinted_rows",
    "lowest_biases",
    "mean_rows",
    "probed_rows",
    "scale_and_shifts",
    "separated_rows",
]

_LOST = 0.15
"""Share of a new class's items that its row may leave to the old classes, where no old item is there to weigh them against."""
_MOST_LOST = 0.04
"""Share of unseen old examples that a new class may be expected to take, whatever its examples gain by more."""
_PULL = 1e-3
"""How strongly the weights of old scores in a new row are drawn to zero, beside a mean log-loss; a tenth of that for its own."""
_DRAWN = 20_000
"""Old examples that are drawn from their statistics, over all classes."""
_SCALE = 10.0  # of cosine scores, where no kept row tells another (Qi et al. let it be learned; it starts at 10)

Rows = tuple[np.ndarray, np.ndarray]


def mean_rows(weight: np.ndarray, bias: np.ndarray, *, count: int) -> Rows:
    """Return `count` copies of the mean old row: every new class starts as an average one.

    Args:
        weight: (C, d) old rows.
        bias: (C,).

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


def aligned_to_statistics(features: np.ndarray, targets: np.ndarray, *, count: int, old: Rows, known: ClassStatistics) -> Rows:
    """Return rows of new classes that are on the scale of the old ones, from class statistics of the old examples.

    The direction of a new class is the discriminant between it and the old class means. It is weighed with the old rows, and gets a
    bias, such that the log-loss of old and new examples is lowest, each class weighing the same and the old scores as they are: a convex
    problem of C + 2 numbers.
    All scores in it are of unseen examples. Those of the new class are by a row that was made without the example. Those of the old
    classes are drawn from what their statistics say: the old scores as `held_out` of the statistics says; those of the new row, which
    is solved on the covariance of the old examples, deviate by 1 / (1 - h) and lie above their means as those of examples left out do,
    h being the mean leverage of the old examples. The bias is lower where more than 4 % of the old examples would be lost to the class.
    Each new row depends on its own examples and on the old classes only.

    Source: Fisher 1936 (the direction); the bias correction of Wu et al., CVPR 2019, section 3.2 (scale and bias on held-out examples);
    Cook & Weisberg 1982, section 2.2 (leverage and what is left out).
    Deviations: drawn scores take the place of stored examples, and the old scores are weighed in.

    Args:
        features: (N, d) of examples of the new classes.
        targets: (N,) which new class, 0 to n - 1; every class has an example.
        old: weight (C, d) and bias (C,) of the rows before any extension.
        known: statistics of the same features, the C old classes first, in their order.

    Returns:
        Weight (n, d) and bias (n,).
    """
    made = [_aligned_row(features[targets == index].astype(np.float64), old=old, known=known) for index in range(count)]
    return np.stack([weight for weight, _ in made]), np.array([bias for _, bias in made])


def _aligned_row(own: np.ndarray, *, old: Rows, known: ClassStatistics) -> tuple[np.ndarray, float]:
    """Return weight (d,) and bias of a new class with these examples (n, d) of its `own`."""
    means = known.means[: len(old[0])]
    centre = means.mean(axis=0)
    one = statistics_of(own, np.zeros(len(own), np.int64), classes=["the new class"])
    one = replace(one, scatter=np.diag(np.diag(one.scatter)))  # all of it would hold down what is special in each example
    both = known.joined(one)
    within = within_covariance(both, standardise=True)
    turned = within.solve(own - centre)
    direction = turned.mean(axis=0)
    products = (own - centre) @ turned.T
    held_out = (products.sum(axis=0) - np.diag(products)) / (len(own) - 1) if len(own) > 1 else products[0] / 2
    offset, overlap, items = -float(direction @ centre), within.trace(known.scatter), known.counts.sum()
    larger = 1 / (1 - min((1 - within.shrinkage) * overlap / (both.freedom * items), 0.9))
    above = larger * overlap / (known.freedom * known.counts[: len(means)].sum())
    drawn, truth = _drawn_scores(known, old=old, new=(direction, offset), larger=larger, above=above)
    mine = np.column_stack([own @ old[0].T + old[1], held_out])
    shares, shift = _mixed(np.concatenate([drawn, mine]), np.append(truth, np.full(len(own), len(means))))
    best = drawn[:, :-1].max(axis=1)
    safe = np.where(drawn[:, :-1].argmax(axis=1) == truth, best - drawn @ shares, np.inf)
    shift = min(shift, float(np.quantile(safe, _MOST_LOST, method="lower")))
    return shares[-1] * direction + shares[:-1] @ old[0], float(shares[-1] * offset + shares[:-1] @ old[1] + shift)


def _mixed(scores: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float]:
    """Return weights (C,) and a bias with which the scores (N, C), of old classes and last of the new one, make the score of that.

    They have the lowest log-loss, each class weighing the same; the old scores stay as they are.
    """
    first, total = scores.shape[1] - 1, scores.shape[1]
    middle = scores.mean(axis=0)
    spread = np.append(np.full(first, np.abs(scores[:, :first] - middle[:first]).mean()), np.abs(scores[:, first] - middle[first]).mean())
    spread = np.maximum(spread, 1e-12)
    table, fixed = np.column_stack([(scores - middle) / spread, np.ones(len(scores))]), scores[:, :first]
    counts = np.bincount(targets, minlength=total)
    share = (1 / np.maximum(counts, 1) / (counts > 0).sum())[targets]
    truth, pull = np.eye(total)[targets], np.append(np.full(first, _PULL), [0.1 * _PULL, 0.1 * _PULL])

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        logs = log_softmax(np.column_stack([fixed, table @ numbers]), axis=1)
        excess = (np.exp(logs[:, first]) - truth[:, first]) * share
        value = float(-(share * (logs * truth).sum(1)).sum() + 0.5 * (pull * np.square(numbers)).sum())
        return value, table.T @ excess + pull * numbers

    found = minimize(loss, np.zeros(total + 1), jac=True, method="L-BFGS-B").x
    weights = found[:-1] / spread
    return weights, float(found[-1] - weights @ middle)


def _drawn_scores(
    known: ClassStatistics, *, old: Rows, new: tuple[np.ndarray, float], larger: float, above: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return scores (m, C + 1) of unseen examples of the old classes, by the old rows and a new one, and their classes (m,)."""
    weight, bias = np.concatenate([old[0], new[0][None]]).astype(np.float64), np.append(old[1], new[1])
    (nearer, wider), classes = known.held_out, len(old[0])
    middles = known.means[:classes] @ weight.T + bias
    middles[:, :-1] = nearer * middles[:, :-1] + (1 - nearer) * middles[:, :-1].mean(axis=0)
    middles[:, -1] += above
    squares, vectors = np.linalg.eigh(weight @ known.covariance @ weight.T)
    root = vectors * np.sqrt(np.maximum(squares, 0))
    each = int(np.clip(_DRAWN // classes, 20, 400))
    noise = np.random.default_rng(0).standard_normal((each, len(bias))) @ root.T * np.append(np.full(classes, wider), larger)
    return (middles[:, None] + noise).reshape(-1, len(bias)), np.repeat(np.arange(classes), each)


def scale_and_shifts(scores: np.ndarray, targets: np.ndarray, *, first: int) -> tuple[float, np.ndarray]:
    """Return the common factor of the scores of the new classes and what is added to each, with the lowest balanced log-loss.

    Args:
        scores: (N, C) of old and new examples that no new row has seen.
        targets: (N,) class indices.
        first: column of the first new class; those before stay as they are.

    Returns:
        The factor, above 0, and (C - first,) shifts.
    """
    fixed, moving, total = scores[:, :first], scores[:, first:], scores.shape[1]
    spread = max(float(np.abs(moving - moving.mean(axis=0)).mean()), 1e-12)
    moving = moving / spread
    counts = np.bincount(targets, minlength=total)
    share = (1 / np.maximum(counts, 1) / (counts > 0).sum())[targets]
    truth = np.eye(total)[targets]

    def loss(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        made = np.concatenate([fixed, numbers[0] * moving + numbers[1:]], 1)
        logs = log_softmax(made, axis=1)
        excess = ((np.exp(logs) - truth) * share[:, None])[:, first:]
        slope = np.concatenate([[float((excess * moving).sum()) + 1e-4 * numbers[0]], excess.sum(0) + 1e-4 * numbers[1:]])
        return float(-(share * (logs * truth).sum(1)).sum() + 0.5e-4 * float(np.square(numbers).sum())), slope

    bounds = [(1e-3, None)] + [(None, None)] * moving.shape[1]
    start = np.append(1.0, fixed.max(axis=1).mean() - moving.mean(axis=0))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x
    return float(found[0] / spread), found[1:]


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
    log-loss of all classes together, on scores of examples that were left out and with the old scores fixed: a convex problem of n + 1
    numbers.

    Source: the bias correction of Wu et al., CVPR 2019, section 3.2, with one bias a class in place of one for all.

    Args:
        features: (N, d) of items of old and new classes.
        targets: (N,) class, 0 to C + n - 1; the old ones come first.
        old: weight (C, d) and bias (C,) of the old rows.

    Returns:
        Weight (n, d) and bias (n,).
    """
    first, total = len(old[0]), len(old[0]) + count
    probe = fit_ridge(features, targets, classes=total, standardise=True)
    scores = np.concatenate([features @ old[0].T + old[1], probe.loo_scores[:, first:]], 1)
    factor, shifts = scale_and_shifts(scores, targets, first=first)
    return factor * probe.weight[first:], factor * probe.bias[first:] + shifts


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
