"""Evaluation of probes on left-out examples: the figure, its standard error, and the difference of two probes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

METRICS = {"classification": "accuracy", "multi-label": "mean average precision", "regression": "R²"}
CHOICES = 5  # Number of folds of the nested choice among probes
_PARTS = 20  # Number of jackknife parts for the standard error of a figure that is not a mean over examples


@dataclass(frozen=True, eq=False)
class Case:
    """Targets and groups of the examples that evaluate a probe."""

    kind: str  # "classification", "multi-label" or "regression"
    classes: int  # number of classes C; 0 for regression
    targets: np.ndarray  # (N,) class indices, (N, C) of 0 and 1, or (N, C) numbers
    groups: np.ndarray | None = None  # (N,) group numbers from 0, for leaving out whole groups, or None

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def chance(self) -> float:
        """Figure of the best constant prediction: the majority class, the share of each label, or the mean."""
        if self.kind == "classification":
            return float(np.bincount(self.targets).max() / len(self))
        return float(self.targets.mean()) if self.kind == "multi-label" else 0.0

    def taken(self, rows: np.ndarray) -> Case:
        """Return the case of the examples `rows`, with groups only if there are two or more."""
        groups = None if self.groups is None else np.unique(self.groups[rows], return_inverse=True)[1]
        return Case(self.kind, self.classes, self.targets[rows], groups if groups is not None and groups.max() else None)


@dataclass(frozen=True, eq=False)
class ProbeEvaluation:
    """Evaluation of a probe on left-out examples."""

    scores: np.ndarray  # (N, C) predictions for the left-out examples
    value: float  # the figure
    credits: np.ndarray  # (m,) contributions whose mean is the figure (jackknife values for a figure that is not a mean)
    clusters: np.ndarray | None  # (m,) cluster numbers of the contributions, or None
    floor: float = 0.0  # minimum standard error, because 100 % on few examples is uncertain too

    @property
    def error(self) -> float:
        """Standard error of the figure, clustered by group."""
        return max(_standard_error(self.credits, self.clusters), self.floor)

    def over(self, other: ProbeEvaluation) -> tuple[float, float]:
        """Return the difference to the `other` figure on the same examples, and its standard error."""
        return self.value - other.value, _standard_error(self.credits - other.credits, self.clusters)


def judged(case: Case, scores: np.ndarray) -> ProbeEvaluation:
    """Return the evaluation of predictions for left-out examples: accuracy, mean average precision or R² (mean over outputs).
    `scores`: (N, C) logits, or predicted numbers.
    Source: the error of the mean average precision is that of a jackknife over 20 parts (Efron & Tibshirani, An Introduction to the
    Bootstrap, 1993, chapter 11); with groups, the variance is cluster-robust (Liang & Zeger, Biometrika 73, 1986)."""
    if case.kind == "classification":
        right = (scores.argmax(axis=1) == case.targets).astype(np.float64)
        share = (right.sum() + 1) / (len(right) + 2)
        return ProbeEvaluation(scores, float(right.mean()), right, case.groups, float(np.sqrt(share * (1 - share) / len(right))))
    if case.kind == "regression":
        truth = case.targets.reshape(len(case), -1).astype(np.float64)
        spread = np.maximum(np.square(truth - truth.mean(axis=0)).mean(axis=0), 1e-30)
        explained = (1 - np.square(scores - truth) / spread).mean(axis=1)
        return ProbeEvaluation(scores, float(explained.mean()), explained, case.groups)
    value = _mean_precision(scores, case.targets)
    parts = _fold_numbers(case, min(_PARTS, len(case)))
    count = int(parts.max()) + 1
    without = np.array([_mean_precision(scores[parts != part], case.targets[parts != part]) for part in range(count)])
    return ProbeEvaluation(scores, value, count * value - (count - 1) * without, None)


def _mean_precision(scores: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean average precision over the labels that occur; 0 if none occurs."""
    order = np.argsort(-scores, axis=0, kind="stable")
    hits = np.take_along_axis(truth > 0.5, order, axis=0)
    precision = hits.cumsum(axis=0) / np.arange(1, len(hits) + 1)[:, None]
    found = hits.sum(axis=0)
    occurs = found > 0
    return float(((precision * hits).sum(axis=0)[occurs] / found[occurs]).mean()) if occurs.any() else 0.0


def _standard_error(credits: np.ndarray, clusters: np.ndarray | None) -> float:
    """Return the standard error of the mean of `credits`, by cluster if clusters are given."""
    if len(credits) < 2:
        return 0.0
    off = credits - credits.mean()
    sums = off if clusters is None else np.bincount(clusters, weights=off)
    count = len(sums)
    return float(np.sqrt(count / max(count - 1, 1) * np.square(sums).sum()) / len(credits))


def _fold_numbers(case: Case, count: int) -> np.ndarray:
    """Return the fold number of each example, (N,). Groups are kept whole; the draw is deterministic."""
    units = np.arange(len(case)) if case.groups is None else case.groups
    number = int(units.max()) + 1
    return np.asarray((np.random.default_rng(0).permutation(number) % min(count, number))[units])


def nested_choice(case: Case, candidates: list[ProbeEvaluation]) -> tuple[int, ProbeEvaluation]:
    """Choose the best of several probes, and evaluate the choice by nested cross-validation.
    Each of 5 folds uses the probe that is best on the other folds. Return the index of the best probe on all examples, and the evaluation
    of the predictions combined from the folds.
    Source: Stone, JRSS B 36, 1974 (cross-validatory choice and assessment)."""
    best = int(np.argmax([held.value for held in candidates]))
    folds, scores = _fold_numbers(case, CHOICES), candidates[best].scores.copy()
    for fold in np.unique(folds):
        rest, here = folds != fold, folds == fold
        values = [judged(case.taken(np.flatnonzero(rest)), held.scores[rest]).value for held in candidates]
        scores[here] = candidates[int(np.argmax(values))].scores[here]
    return best, judged(case, scores)
