"""Ridge regression on features, its penalty chosen by the exact leave-one-out error: no learning rate, one decomposition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from ..errors import DataError

__all__ = ["RidgeProbe", "fit_ridge"]

PENALTIES = np.geomspace(1e-6, 1e3, 37)
"""Tried penalties, in units of the mean squared singular value."""
_LARGE_SIDE = 1500  # beyond it float32: the decomposition is most of the cost


@dataclass(frozen=True)
class RidgeProbe:
    """A closed-form head.

    Attributes:
        weight: (C, d).
        bias: (C,); raw scores are `features @ weight.T + bias`, scaled so that their softmax (sigmoid) is calibrated.
        penalty: the one with the lowest leave-one-out error.
        loo_scores: (N, C) raw scores of each item by the probe that did not see it.
        temperature: the scale that was put into weight and bias; 1 for regression.
    """

    weight: np.ndarray
    bias: np.ndarray
    penalty: float
    loo_scores: np.ndarray
    temperature: float


def fit_ridge(features: npt.ArrayLike, targets: npt.ArrayLike, *, kind: str = "classification", classes: int = 0) -> RidgeProbe:
    """Fit ridge regression to one-hot (or real) targets and choose the penalty by the exact leave-one-out error.

    With the centred features X = U S V', the fitted values are U diag(s² / (s² + λ)) U'Y, the leverage of item i is
    h_i = 1/N + Σ_j u_ij² s_j² / (s_j² + λ), and its leave-one-out residual is (y_i - ŷ_i) / (1 - h_i).

    Source: the PRESS statistic (Allen, Technometrics 16, 1974); Hastie, Tibshirani & Friedman, The Elements of Statistical
    Learning, 2009, equation 7.64. The temperature is fitted to the leave-one-out scores (Guo et al., ICML 2017, section 4.2).

    Args:
        features: (N, d) finite numbers.
        targets: (N,) class indices, (N, C) of 0 and 1 (multi-label), or (N, C) numbers (regression).
        kind: "classification", "multi-label" or "regression".
        classes: C, for "classification"; a class without items gets a row that is never the highest.

    Returns:
        The probe.

    Raises:
        DataError: if a feature is not finite, or there are fewer than 3 items.
    """
    x = np.asarray(features)
    x = x.astype(np.float32 if min(x.shape) > _LARGE_SIDE else np.float64)
    if len(x) < 3 or not np.isfinite(x).all():
        finite = bool(np.isfinite(x).all())
        raise DataError(f"Ridge regression needs 3 or more items with finite features; received {len(x)} items, finite: {finite}.")
    y = np.eye(classes)[np.asarray(targets)] if kind == "classification" else np.asarray(targets, np.float64).reshape(len(x), -1)
    x_mean, y_mean = x.mean(0), y.mean(0)
    left, squares = _left_vectors(x - x_mean)
    projected = left.T @ (y - y_mean)
    path = ((value, _loo_scores(left, squares, projected=projected, y=y, penalty=value)) for value in PENALTIES * squares.mean())
    penalty, loo = min(path, key=lambda pair: float(np.square(pair[1] - y).mean()))
    weight = ((x - x_mean).T @ (left @ (projected / (squares + penalty)[:, None]))).T
    bias = y_mean - weight @ x_mean
    middle = 0.5 if kind == "multi-label" else 0.0
    temperature = 1.0 if kind == "regression" else _temperature(loo - middle, y, kind=kind)
    return RidgeProbe(temperature * weight, temperature * (bias - middle), float(penalty), temperature * (loo - middle), temperature)


def _left_vectors(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return left singular vectors (N, r) and squared singular values (r,) of centred features, by the smaller Gram matrix."""
    tall = x.shape[0] > x.shape[1]
    squares, vectors = np.linalg.eigh(x.T @ x if tall else x @ x.T)
    kept = squares > max(float(squares[-1]), 1e-30) * len(squares) * np.finfo(x.dtype).eps
    if not kept.any():
        kept[-1] = True  # constant features: one direction of no length, and the probe says the mean
    squares, vectors = np.maximum(squares[kept], 1e-12), vectors[:, kept]
    return (x @ vectors / np.sqrt(squares) if tall else vectors), squares


def _loo_scores(left: np.ndarray, squares: np.ndarray, *, projected: np.ndarray, y: np.ndarray, penalty: float) -> np.ndarray:
    """Return the leave-one-out predictions (N, C) for one penalty."""
    shrink = squares / (squares + penalty)
    fitted = y.mean(0) + left @ (shrink[:, None] * projected)
    leverage = 1 / len(y) + np.square(left) @ shrink
    return np.asarray(y - (y - fitted) / np.maximum(1 - leverage, 1e-9)[:, None])


def _temperature(loo: np.ndarray, y: np.ndarray, *, kind: str) -> float:
    """Return the factor of the scores with the lowest leave-one-out log-loss.

    The targets are smoothed as by one further item of every class (the rule of succession; Platt 1999, section 2.1), or the factor
    of separable classes would be without bound.
    """
    items, classes = y.shape if kind == "classification" else (len(y), 2)
    y = (y * items + 1) / (items + classes)

    def log_loss(log_factor: float) -> float:
        scores = loo * np.exp(log_factor)
        if kind == "classification":
            return float(-(y * log_softmax(scores, axis=1)).sum(1).mean())
        return float((np.logaddexp(0, scores) - y * scores).mean())

    return float(np.exp(minimize_scalar(log_loss, bounds=(np.log(0.1), np.log(1000.0)), method="bounded").x))
