"""One figure for scores of items that were left out, how sure it is, and by how much two probes differ on the same items."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

__all__ = ["CHOICES", "METRICS", "Case", "Held", "fold_numbers", "judged", "nested_choice"]

METRICS = {"classification": "accuracy", "multi-label": "mean average precision", "regression": "R²"}
CHOICES = 5
"""Folds in which the best of several probes is chosen on the items of the others."""
_PARTS = 20
"""Parts of the items, each left out once, from which the error of a figure follows that is no mean over items."""


@dataclass(frozen=True, eq=False)
class Case:
    """Items and what they are judged by.

    Attributes:
        kind: "classification", "multi-label" or "regression".
        classes: C; 0 for regression.
        targets: (N,) class indices, (N, C) of 0 and 1, or (N, C) numbers.
        groups: (N,) numbers from 0 of items that are left out together, or None.
    """

    kind: str
    classes: int
    targets: np.ndarray
    groups: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def chance(self) -> float:
        """The figure of the best answer that looks at no item: the majority class, the mean, or the share of each label."""
        if self.kind == "classification":
            return float(np.bincount(self.targets).max() / len(self))
        return float(self.targets.mean()) if self.kind == "multi-label" else 0.0

    def taken(self, rows: np.ndarray) -> Case:
        """Return the items of these `rows` (numbers); groups only where there are two or more."""
        groups = None if self.groups is None else np.unique(self.groups[rows], return_inverse=True)[1]
        return Case(self.kind, self.classes, self.targets[rows], groups if groups is not None and groups.max() else None)


@dataclass(frozen=True, eq=False)
class Held:
    """How scores of left-out items were judged.

    Attributes:
        scores: (N, C).
        credits: (m,) parts of the figure, whose mean it is (of a figure that is no mean: jackknife values).
        clusters: (m,) numbers of those that belong together, or None.
        floor: the least standard error: a share of 100 % of few items is not sure either.
    """

    scores: np.ndarray
    value: float
    credits: np.ndarray
    clusters: np.ndarray | None
    floor: float = 0.0

    @property
    def error(self) -> float:
        """The standard error of the figure; items of a group count together."""
        return max(_standard_error(self.credits, self.clusters), self.floor)

    def over(self, other: Held) -> tuple[float, float]:
        """Return by how much the figure exceeds the `other` on the same items, and the standard error of that."""
        return self.value - other.value, _standard_error(self.credits - other.credits, self.clusters)


def judged(case: Case, scores: np.ndarray) -> Held:
    """Judge scores of items that the probe had not seen.

    `scores`: (N, C) raw scores, or predicted numbers; result: Accuracy, mean average precision or R² (mean over outputs), with what its
    error follows from.

    Source: for the mean average precision, whose error is that of a jackknife over 20 parts, Efron & Tibshirani, An Introduction to
    the Bootstrap, 1993, chapter 11; for groups the cluster-robust variance (Liang & Zeger, Biometrika 73, 1986).
    """
    if case.kind == "classification":
        right = (scores.argmax(axis=1) == case.targets).astype(np.float64)
        share = (right.sum() + 1) / (len(right) + 2)
        return Held(scores, float(right.mean()), right, case.groups, float(np.sqrt(share * (1 - share) / len(right))))
    if case.kind == "regression":
        truth = case.targets.reshape(len(case), -1).astype(np.float64)
        spread = np.maximum(np.square(truth - truth.mean(axis=0)).mean(axis=0), 1e-30)
        explained = (1 - np.square(scores - truth) / spread).mean(axis=1)
        return Held(scores, float(explained.mean()), explained, case.groups)
    return _multi_label(case, scores)


def _multi_label(case: Case, scores: np.ndarray) -> Held:
    value = _mean_precision(scores, case.targets)
    parts = fold_numbers(case, min(_PARTS, len(case)))
    count = int(parts.max()) + 1
    without = np.array([_mean_precision(scores[parts != part], case.targets[parts != part]) for part in range(count)])
    return Held(scores, value, count * value - (count - 1) * without, None)


def _mean_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over the labels that occur of the average precision."""
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(truth > 0.5, order, axis=0)
    precision = hits.cumsum(axis=0) / np.arange(1, len(hits) + 1)[:, None]
    found = hits.sum(axis=0)
    occurs = found > 0
    return float(((precision * hits).sum(axis=0)[occurs] / found[occurs]).mean()) if occurs.any() else 0.0


def _standard_error(credits: np.ndarray, clusters: np.ndarray | None) -> float:
    """Return the standard error of the mean of `credits`."""
    if len(credits) < 2:
        return 0.0
    off = credits - credits.mean()
    sums = off if clusters is None else np.bincount(clusters, weights=off)
    count = len(sums)
    return float(np.sqrt(count / max(count - 1, 1) * np.square(sums).sum()) / len(credits))


def fold_numbers(case: Case, count: int) -> np.ndarray:
    """Return the fold of each item, (N,), groups kept whole, drawn the same way each time."""
    units = np.arange(len(case)) if case.groups is None else case.groups
    number = int(units.max()) + 1
    return np.asarray((np.random.default_rng(0).permutation(number) % min(count, number))[units])


def nested_choice(case: Case, candidates: list[Held]) -> tuple[int, Held]:
    """Choose the best of several probes, and judge the choice on items that did not choose.

    In each of 5 folds the best on the items of the others is taken. Source: Stone, JRSS B 36, 1974 (cross-validatory choice and
    assessment).

    Result: The number of the best on all items, and the judgement of the scores put together from the choices of the folds.
    """
    best = int(np.argmax([held.value for held in candidates]))
    folds, scores = fold_numbers(case, CHOICES), candidates[best].scores.copy()
    for fold in np.unique(folds):
        rest, here = folds != fold, folds == fold
        values = [judged(case.taken(np.flatnonzero(rest)), held.scores[rest]).value for held in candidates]
        scores[here] = candidates[int(np.argmax(values))].scores[here]
    return best, judged(case, scores)
