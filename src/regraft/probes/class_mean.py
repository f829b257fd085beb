"""The nearest class mean: the probe without a setting, a floor for all others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import SettingError
from .calibration import fit_temperature
from .common import NEVER, LinearProbe, centred, checked_features, checked_groups, checked_targets, held_out_name, widened

__all__ = ["ClassMeanProbe", "fit_class_mean"]

_CHUNK = 2**22


@dataclass(frozen=True, eq=False)
class ClassMeanProbe:
    """Class means as a head.

    Attributes:
        means: (C, d); zeros for a class without items.
        counts: (C,) items of each class.
        metric: "euclidean" or "cosine".
        loo_scores: (N, C) raw scores of each item by means without it (or its group).
        temperature: the factor of the scores that calibrates their softmax.
        held_out: "leave-one-out" or "leave-group-out".
    """

    means: np.ndarray
    counts: np.ndarray
    metric: str
    loo_scores: np.ndarray
    temperature: float
    held_out: str

    def scores(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the raw scores (N, C) of `features` (N, d)."""
        return self.temperature * _scores(np.asarray(features), self.means, counts=self.counts, metric=self.metric)

    def linear(self) -> LinearProbe:
        """Return the same head as weights and biases: of squared distances, half the square of the features is common to all classes."""
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
    """Return minus half the squared distance (N, C) to each class mean, or the cosine with it; a class without items is below all others.

    The squared distance is in units of the variance of the class means, so that scores do not depend on the scale.
    """
    present = counts > 0
    scores = np.empty((len(x), len(means)))
    unit = _unit(means, counts)
    for start in range(0, len(x), step := max(_CHUNK // x.shape[1], 1)):
        part = x[start : start + step].astype(np.float64)
        scores[start : start + step] = _table(part, means, metric=metric, unit=unit)
    scores[:, ~present] = scores[:, present].min(axis=1, keepdims=True) - NEVER
    return scores


def fit_class_mean(
    features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, metric: str = "euclidean", groups: npt.ArrayLike | None = None
) -> ClassMeanProbe:
    """Fit class means; the score of an item left out uses the sum of its class without it, (S_c - x_i) / (n_c - 1).

    `features`: (N, d) finite numbers; `targets`: (N,) class indices; `groups`: (N,) what items belong to: they are left out together;
    result: The probe; an item that is alone in its class has a held-out score for it below all others.

    Source: Mensink, Verbeek, Perronnin & Csurka, IEEE TPAMI 35, 2013, equation 1.

    Deviations: the unit of the squared distance stays that of all items when one is left out.
    """
    x = checked_features(features, least=2, what="The class mean")
    rows = checked_targets(targets, count=len(x), classes=classes)
    members = checked_groups(groups, count=len(x))
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
    """Put into `scores` those of each item with the classes of its group, their means taken without the group."""
    unit = _unit(sums / np.maximum(counts, 1)[:, None], counts)
    members = np.arange(len(x)) if groups is None else groups
    order = np.lexsort((rows, members))
    changes = np.flatnonzero((np.diff(members[order]) != 0) | (np.diff(rows[order]) != 0)) + 1
    starts = np.concatenate([[0], changes])  # of each pair (group, class)
    sizes = np.diff(np.concatenate([starts, [len(order)]]))
    pair_group, pair_class = members[order[starts]], rows[order[starts]]
    first, last = np.searchsorted(pair_group, members), np.searchsorted(pair_group, members, side="right")
    step = max(_CHUNK // x.shape[1], 1)
    for turn in range(int((last - first).max())):
        reach = np.flatnonzero(first + turn < last)
        for start in range(0, len(reach), step):
            items = reach[start : start + step]
            pairs, places = np.unique(first[items] + turn, return_inverse=True)
            taken = np.stack([x[order[starts[pair] : starts[pair] + sizes[pair]]].sum(axis=0, dtype=np.float64) for pair in pairs])
            here = pair_class[pairs]
            left = counts[here] - sizes[pairs]
            means = (sums[here] - taken) / np.maximum(left, 1)[:, None]
            new = _rowwise(x[items].astype(np.float64), means[places], metric=metric, unit=unit)
            lowest = scores[items].min(axis=1) - NEVER
            scores[items, here[places]] = np.where(left[places] > 0, new, lowest)


def _unit(means: np.ndarray, counts: np.ndarray) -> float:
    """Return the variance of the class means summed over features, or 1 where they do not differ."""
    spread = float(means[counts > 0].var(axis=0).sum())
    return spread if spread > 0 else 1.0


def _table(x: np.ndarray, means: np.ndarray, *, metric: str, unit: float) -> np.ndarray:
    if metric == "cosine":
        return np.asarray(_normed(x) @ _normed(means).T)
    middle = means.mean(axis=0)  # distances between close points are lost in their squares where the origin is far
    x, means = x - middle, means - middle
    return np.asarray((x @ means.T - (np.square(x).sum(axis=1)[:, None] + np.square(means).sum(axis=1)) / 2) / unit)


def _rowwise(x: np.ndarray, means: np.ndarray, *, metric: str, unit: float) -> np.ndarray:
    if metric == "cosine":
        return np.asarray((_normed(x) * _normed(means)).sum(axis=1))
    return np.asarray(-np.square(x - means).sum(axis=1) / (2 * unit))


def _normed(x: np.ndarray) -> np.ndarray:
    return np.asarray(x / np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30))
