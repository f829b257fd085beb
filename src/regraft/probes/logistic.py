"""Multinomial logistic regression: the linear head whose probabilities fit best."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from .common import Grid, LinearProbe, fit_path

__all__ = ["fit_logistic"]

_GRID = Grid(np.geomspace(1e-6, 1e6, 97), stride=16, calibrated=True)
"""Eight a decade; every second decade first, as the source begins."""


def fit_logistic(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    classes: int,
    groups: npt.ArrayLike | None = None,
    standardise: bool = True,
    steps: int = 1000,
) -> LinearProbe:
    """Fit logistic regression with an L2 penalty by scikit-learn's L-BFGS, along a path of penalties.

    Each fit begins at the one before. The first penalties are two decades apart; then the distance halves around the best, to an
    eighth of a decade.

    Source: Radford et al. (CLIP), ICML 2021, appendix A.3 (the path and 1,000 steps).
    Deviations: the penalty is chosen by the log-loss of 5 folds, groups kept whole, not on a validation set; weaker penalties are
    not tried after the loss has risen twice; features are centred and scaled first.

    Args:
        features: (N, d) finite numbers.
        targets: (N,) class indices.
        classes: C; a class without items gets a row that is never the highest.
        groups: (N,) what items belong to: they are left out together.
        standardise: divide each feature by its standard deviation, else all by one number.
        steps: of L-BFGS at most, for each fit.

    Returns:
        The probe, for features as given; its held-out scores are of the folds.
    """
    model = LogisticRegression(max_iter=steps, tol=1e-5, warm_start=True)  # at 1e-4 a warm start ends before it has left where it was
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # weak penalties on separable classes have no end, and are not chosen
        return fit_path(features, targets, classes=classes, groups=groups, estimator=model, grid=_GRID, standardise=standardise)
