"""Probabilities that can be believed: the scale of scores that makes their softmax fit, and how far off it is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp, softmax

from ..errors import DataError

__all__ = ["Calibration", "calibration_of", "expected_calibration_error", "fit_temperature", "log_loss"]

_MOST = 8192
"""Items that one number is fitted to; more change it in its third digit and cost seconds."""
_FACTORS = (1e-3, 1e3)


@dataclass(frozen=True)
class Calibration:
    """How well probabilities fit before and after one scale is put on the scores; all on the same held-out items.

    Attributes:
        temperature: the factor of the scores.
        error_before: expected calibration error of the softmax of the scores as they came, 0 to 1.
        error_after: the same with the factor.
        log_loss_before: mean negative log-probability of the truth, in nats.
        log_loss_after: the same with the factor.
        brier_before: mean squared distance of the probabilities from the truth, 0 to 2.
        brier_after: the same with the factor.
    """

    temperature: float
    error_before: float
    error_after: float
    log_loss_before: float
    log_loss_after: float
    brier_before: float
    brier_after: float


def fit_temperature(scores: np.ndarray, truth: np.ndarray, *, kind: str = "classification", further: float = 1.0) -> float:
    """Return the factor of held-out scores with the lowest log-loss.

    Source: Guo, Pleiss, Sun & Weinberger, ICML 2017, section 4.2, equation (9); the factor is 1 / T there.
    Deviations: the targets are smoothed as by one further item, spread evenly over the classes (after Platt 1999, section 2.1), or
    the factor of separable classes would be without bound; one of every class is too flat (of 200 classes with 4 items each, 0.80
    right, the log-loss of new items is 0.75 with one in all and 1.18 with one of each). Of more than 8,192 items, as many are drawn.

    Args:
        scores: (N, C) raw scores of items that the head did not see.
        truth: (N, C) of 0 and 1.
        kind: "classification" (softmax) or "multi-label" (sigmoid).
        further: the items that smooth the targets, above 0, where they are to be more or fewer than one.

    Returns:
        A factor between 0.001 and 1000: discriminant analysis of few items in many dimensions gives scores that are far too large.
    """
    drawn = np.random.default_rng(0).permutation(len(truth))[:_MOST] if len(truth) > _MOST else slice(None)
    scores, truth = scores[drawn], truth[drawn]
    items, classes = truth.shape if kind == "classification" else (len(truth), 2)
    truth = (truth * items + further / classes) / (items + further)
    meant = float((truth * scores).sum()) / len(scores)
    above = scores - scores.max(axis=1, keepdims=True)
    highest = float(scores.max(axis=1).mean())

    def loss(log_factor: float) -> float:
        factor = np.exp(log_factor)
        if kind == "classification":
            return float(np.log(np.exp(factor * above).sum(axis=1)).mean() + factor * (highest - meant))
        return float(np.logaddexp(0, factor * scores).mean() - factor * meant / scores.shape[1])

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_FACTORS), method="bounded").x))


def log_loss(scores: np.ndarray, targets: np.ndarray) -> float:
    """Return the mean negative log of the softmax of `scores` (N, C) at `targets` (N,), in nats."""
    return float((logsumexp(scores, axis=1) - scores[np.arange(len(targets)), targets]).mean())


def expected_calibration_error(probabilities: npt.ArrayLike, targets: npt.ArrayLike, *, bins: int = 15) -> float:
    """Return how far confidence and accuracy lie apart, on average over bins of equal numbers of items.

    Source: Naeini, Cooper & Hauskrecht, AAAI 2015 (ECE); bins of equal mass as Nguyen & O'Connor, EMNLP 2015, section 4.

    Args:
        probabilities: (N, C), rows that add up to 1.
        targets: (N,) class indices.
        bins: how many; fewer where there are fewer items.

    Returns:
        The error, 0 (believable) to 1.

    Raises:
        DataError: if the shapes do not fit together.
    """
    chances, truth = np.asarray(probabilities), np.asarray(targets)
    if chances.ndim != 2 or truth.shape != chances.shape[:1] or not len(truth):
        raise DataError(f"Expected probabilities (N, C) and targets (N,); received the shapes {chances.shape} and {truth.shape}.")
    sure, right = chances.max(axis=1), chances.argmax(axis=1) == truth
    parts = np.array_split(np.argsort(sure, kind="stable"), min(bins, len(sure)))
    return float(sum(len(part) * abs(sure[part].mean() - right[part].mean()) for part in parts) / len(sure))


def calibration_of(scores: npt.ArrayLike, targets: npt.ArrayLike) -> Calibration:
    """Return how well the softmax of held-out scores fits, before and after the best one factor.

    Source: Guo, Pleiss, Sun & Weinberger, ICML 2017, sections 2 and 4.2.

    Args:
        scores: (N, C) raw scores of items that the head did not see.
        targets: (N,) class indices.

    Returns:
        The figures.

    Raises:
        DataError: if the shapes do not fit together.
    """
    table, truth = np.asarray(scores, np.float64), np.asarray(targets)
    if table.ndim != 2 or truth.shape != table.shape[:1]:
        raise DataError(f"Expected scores (N, C) and targets (N,); received the shapes {table.shape} and {truth.shape}.")
    wanted = np.eye(table.shape[1])[truth]
    factor = fit_temperature(table, wanted)
    before, after = softmax(table, axis=1), softmax(factor * table, axis=1)
    return Calibration(
        factor,
        expected_calibration_error(before, truth),
        expected_calibration_error(after, truth),
        log_loss(table, truth),
        log_loss(factor * table, truth),
        float(np.square(before - wanted).sum(axis=1).mean()),
        float(np.square(after - wanted).sum(axis=1).mean()),
    )
