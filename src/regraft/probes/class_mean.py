"""Nearest class mean: a probe without hyperparameters, as a lower bound for the others."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import SettingError
from .calibration import fit_temperature
from .common import NEVER, LinearProbe, blocks, centred, checked_examples, held_out_name, widened

_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class ClassMeanProbe:
    """Nearest-class-mean head."""

    means: np.ndarray  # (C, d); zeros for a class without examples
    counts: np.ndarray  # (C,) examples of each class
    metric: str  # "euclidean" or "cosine"
    loo_scores: np.ndarray  # (N, C) logits of each example, from means without it (or its group)
    temperature: float  # factor that calibrates the logits
    held_out: str  # "leave-one-out" or "leave-group-out"

    def scores(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the logits (N, C) of `features` (N, d)."""
        return self.temperature * _scores(np.asarray(features), self.means, counts=self.counts, metric=self.metric)

    def linear(self) -> LinearProbe:
        """Return the equivalent linear head. The square of the features is the same for all classes and drops out of the distances."""
        if self.metric != "euclidean":
            raise SettingError(f"metric={self.metric!r} gives scores that no linear head gives; fit the class means with 'euclidean'.")
        present = self.counts > 0
        about = self.means[present] - self.means[present].mean(axis=0)
        unit = _unit(self.means, self.counts)
        weight, bias = about / unit, -(about / unit) @ self.means[present].mean(axis=0) - np.square(about).sum(axis=1) / (2 * unit)
        weight, bias = widened(centred(weight, bias), np.flatnonzero(present), classes=len(self.counts))
        factor = self.temperature
        return LinearProbe(factor * weight, factor * bias, 0.0, self.loo_scores, factor, self.held_out)


def _scores(x: np.ndarray, means: np.ndarray, *, counts: np.ndarray, metric: str) -> np.ndarray:
    """Return minus half the squared distance (N, C) to each class mean, or the cosine. A class without examples gets the lowest score.
    The squared distance is divided by the variance of the class means, so the scores do not depend on the scale of the features."""
    present = counts > 0
    scores = np.empty((len(x), len(means)))
    unit = _unit(means, counts)
    for rows in blocks(len(x), max(_CHUNK // x.shape[1], 1)):
        scores[rows] = _table(x[rows].astype(np.float64), means, metric=metric, unit=unit)
    scores[:, ~present] = scores[:, present].min(axis=1, keepdims=True) - NEVER
    return scores


def fit_class_mean(
    features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, metric: str = "euclidean", groups: npt.ArrayLike | None = None
) -> ClassMeanProbe:
    """Fit class means. The leave-one-out score uses the class mean without the example, (S_c - x_i) / (n_c - 1).
    If an example is alone in its class, its leave-one-out score for that class is below all others. `features`: (N, d) finite numbers;
    `targets`: (N,) class indices; `groups`: (N,) groups whose examples are left out together.
    Source: Mensink, Verbeek, Perronnin & Csurka, IEEE TPAMI 35, 2013, equation 1.
    Deviations: the unit of the squared distance is computed from all examples, also if one is left out."""
    x, rows, members = checked_examples(features, targets, groups=groups, classes=classes, what="The class mean")
    counts = np.bincount(rows, minlength=classes).astype(np.float64)
    sums = np.zeros((classes, x.shape[1]))
    for index in np.flatnonzero(counts):
        sums[index] = x[rows == index].sum(axis=0, dtype=np.float64)
    means = sums / np.maximum(counts, 1)[:, None]
    held_out = _scores(x, means, counts=counts, metric=metric)
    _leave_out_(held_out, x, rows=rows, groups=members, sums=sums, counts=counts, metric=metric)
    temperature = fit_temperature(held_out, np.eye(classes)[rows])
    return ClassMeanProbe(means, counts, metric, temperature * held_out, temperature, held_out_name(members))


def _leave_out_(
    scores: np.ndarray, x: np.ndarray, *, rows: np.ndarray, groups: np.ndarray | None, sums: np.ndarray, counts: np.ndarray, metric: str
) -> None:
    """Replace in `scores` the score of each example for each class that occurs in its group, by means computed without the group."""
    unit = _unit(sums / np.maximum(counts, 1)[:, None], counts)
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
            new = _rowwise(x[items].astype(np.float64), means[places], metric=metric, unit=unit)
            lowest = scores[items].min(axis=1) - NEVER
            scores[items, here[places]] = np.where(left[places] > 0, new, lowest)


def _unit(means: np.ndarray, counts: np.ndarray) -> float:
    """Return the variance of the class means, summed over features, or 1 if all means are equal."""
    spread = float(means[counts > 0].var(axis=0).sum())
    return spread if spread > 0 else 1.0


def _table(x: np.ndarray, means: np.ndarray, *, metric: str, unit: float) -> np.ndarray:
    if metric == "cosine":
        return np.asarray(_normed(x) @ _normed(means).T)
    middle = means.mean(axis=0)  # avoids cancellation if the origin is far away
    x, means = x - middle, means - middle
    return np.asarray((x @ means.T - (np.square(x).sum(axis=1)[:, None] + np.square(means).sum(axis=1)) / 2) / unit)


def _rowwise(x: np.ndarray, means: np.ndarray, *, metric: str, unit: float) -> np.ndarray:
    if metric == "cosine":
        return np.asarray((_normed(x) * _normed(means)).sum(axis=1))
    return np.asarray(-np.square(x - means).sum(axis=1) / (2 * unit))


def _normed(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30))
