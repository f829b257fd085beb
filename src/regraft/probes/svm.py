"""The linear support vector machine: looks only at items near the border, so outliers of a class move it little."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC

from .common import Grid, LinearProbe, fit_path

__all__ = ["fit_svm"]

_GRID = Grid(np.geomspace(1e-4, 1.0, 5), stride=1, calibrated=False)


def fit_svm(
    features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None, standardise: bool = True
) -> LinearProbe:
    """Fit one-against-the-rest machines with the squared hinge loss by scikit-learn's LIBLINEAR, along five penalties.

    Source: Fan, Chang, Hsieh, Wang & Lin (LIBLINEAR), JMLR 9, 2008, equation 3 with the squared loss.
    Deviations: the penalty is chosen by the log-loss of 5 folds after one scale is fitted to their scores; features are centred and
    scaled first.

    Args:
        features: (N, d) finite numbers.
        targets: (N,) class indices.
        classes: C; a class without items gets a row that is never the highest.
        groups: (N,) what items belong to: they are left out together.
        standardise: divide each feature by its standard deviation, else all by one number.

    Returns:
        The probe, for features as given; its held-out scores are of the folds.
    """
    model = LinearSVC(dual=False)  # the dual solver draws items at random, so the order of the rows would change its result
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return fit_path(features, targets, classes=classes, groups=groups, estimator=model, grid=_GRID, standardise=standardise)
