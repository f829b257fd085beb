"""Nearest class mean: a probe without hyperparameters, as a lower bound for the others."""

import numpy as np
import numpy.typing as npt

from .calibration import fit_temperature
from .common import NEVER, LinearProbe, blocks, centred, checked_examples, held_out_name, widened

_CHUNK = 2**22


def fit_class_mean(features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None) -> LinearProbe:
    """Fit class means. The logit of a class is minus half the squared distance to its mean; the square of the features is the same for all
    classes and drops out of the distances, so that the head is linear. The leave-one-out score uses the class mean without the example,
    (S_c - x_i) / (n_c - 1). If an example is alone in its class, its leave-one-out score for that class is below all others.
    `features`: (N, d) finite numbers; `targets`: (N,) class indices; `groups`: (N,) groups whose examples are left out together.
    Source: Mensink, Verbeek, Perronnin & Csurka, IEEE TPAMI 35, 2013, equation 1.
    Deviations: the squared distance is divided by the variance of the class means, so that the logits do not depend on the scale of the
    features. This unit is computed from all examples, also if one is left out."""
    x, rows, members = checked_examples(features, targets, groups=groups, classes=classes, what="The class mean")
    sums, counts = _sums(x, rows, classes=classes)
    means, present = sums / np.maximum(counts, 1)[:, None], counts > 0
    unit = float(means[present].var(axis=0).sum()) or 1.0
    held_out, factor = _held_out(x, rows, groups=members, sums=sums, counts=counts, unit=unit)
    middle = means[present].mean(axis=0)
    about = means[present] - middle
    weight, bias = about / unit, -(about / unit) @ middle - np.square(about).sum(axis=1) / (2 * unit)
    weight, bias = widened(centred(weight, bias), np.flatnonzero(present), classes=classes)
    return LinearProbe(factor * weight, factor * bias, 0.0, held_out, factor, held_out_name(members))


def mean_cosines(features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None) -> np.ndarray:
    """Return calibrated leave-one-out logits (N, C): a factor times the cosine with each class mean. Arguments as in `fit_class_mean`."""
    x, rows, members = checked_examples(features, targets, groups=groups, classes=classes, what="The class mean")
    sums, counts = _sums(x, rows, classes=classes)
    return _held_out(x, rows, groups=members, sums=sums, counts=counts)[0]


def _sums(x: np.ndarray, rows: np.ndarray, *, classes: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum (C, d) of the features of each class, and its number of examples (C,)."""
    counts = np.bincount(rows, minlength=classes).astype(np.float64)
    sums = np.zeros((classes, x.shape[1]))
    for index in np.flatnonzero(counts):
        sums[index] = x[rows == index].sum(axis=0, dtype=np.float64)
    return sums, counts


def _held_out(
    x: np.ndarray, rows: np.ndarray, *, groups: np.ndarray | None, sums: np.ndarray, counts: np.ndarray, unit: float | None = None
) -> tuple[np.ndarray, float]:
    """Return the calibrated leave-one-out logits (N, C) and the factor that calibrates them. A class without examples gets the lowest one.
    `unit`: that of the squared distances, None for cosines."""
    present, scores = counts > 0, np.empty((len(x), len(counts)))
    means = sums / np.maximum(counts, 1)[:, None]
    for part in blocks(len(x), max(_CHUNK // x.shape[1], 1)):
        scores[part] = _table(x[part].astype(np.float64), means, unit=unit)
    scores[:, ~present] = scores[:, present].min(axis=1, keepdims=True) - NEVER
    _leave_out_(scores, x, rows=rows, groups=groups, sums=sums, counts=counts, unit=unit)
    factor = fit_temperature(scores, np.eye(len(counts))[rows])
    return factor * scores, factor


def _leave_out_(
    scores: np.ndarray,
    x: np.ndarray,
    *,
    rows: np.ndarray,
    groups: np.ndarray | None,
    sums: np.ndarray,
    counts: np.ndarray,
    unit: float | None,
) -> None:
    """Replace in `scores` the score of each example for each class that occurs in its group, by means computed without the group."""
    members = np.arange(len(x)) if groups is None else groups
    order = np.lexsort((rows, members))
    changes = np.flatnonzero((np.diff(members[order]) != 0) | (np.diff(rows[order]) != 0)) + 1
    starts = np.concatenate([[0], changes])  # start of each (group, class) pair
    sizes = np.diff(np.concatenate([starts, [len(order)]]))
    pair_group, pair_class = members[order[starts]], rows[order[starts]]
    first, last = np.searchsorted(pair_group, members), np.searchsorted(pair_group, members, side="right")
    for turn in range(int((last - first).max())):
        reach = np.flatnonzero(first + turn < last)
        for items in (reach[part] for part in blocks(len(reach), max(_CHUNK // x.shape[1], 1))):
            pairs, places = np.unique(first[items] + turn, return_inverse=True)
            taken = np.stack([x[order[starts[pair] : starts[pair] + sizes[pair]]].sum(axis=0, dtype=np.float64) for pair in pairs])
            here = pair_class[pairs]
            left = counts[here] - sizes[pairs]
            means = (sums[here] - taken) / np.maximum(left, 1)[:, None]
            new = _rowwise(x[items].astype(np.float64), means[places], unit=unit)
            lowest = scores[items].min(axis=1) - NEVER
            scores[items, here[places]] = np.where(left[places] > 0, new, lowest)


def _table(x: np.ndarray, means: np.ndarray, *, unit: float | None) -> np.ndarray:
    if unit is None:
        return np.asarray(_normed(x) @ _normed(means).T)
    middle = means.mean(axis=0)  # avoids cancellation if the origin is far away
    x, means = x - middle, means - middle
    return np.asarray((x @ means.T - (np.square(x).sum(axis=1)[:, None] + np.square(means).sum(axis=1)) / 2) / unit)


def _rowwise(x: np.ndarray, means: np.ndarray, *, unit: float | None) -> np.ndarray:
    if unit is None:
        return np.asarray((_normed(x) * _normed(means)).sum(axis=1))
    return np.asarray(-np.square(x - means).sum(axis=1) / (2 * unit))


def _normed(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30))
