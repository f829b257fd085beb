"""Linear support vector machine. Only examples near the decision boundary matter, so outliers within a class have little effect."""

import warnings
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.svm import LinearSVC
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ..errors import DataError
from .calibration import fit_temperature, log_loss
from .common import Head, LinearProbe, centred, checked_examples, folds_of, held_out_name, held_out_scores, spread_out, widened

_GRID = np.geomspace(1e-4, 1.0, 5)
_SMALL = 2**28
"""Products per step below which the solver runs on one thread: the threads of NumPy and SciPy would wait for each other ten times as long
as they work."""


def fit_svm(features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None) -> LinearProbe:
    """Fit one-vs-rest machines with the squared hinge loss by scikit-learn's LIBLINEAR, over five penalties.
    The probe applies to unscaled features. Its held-out logits come from cross-validation, and its `penalty` is 1 / C of LIBLINEAR.
    `features`: (N, d) finite numbers; `targets`: (N,) class indices; `groups`: (N,) groups whose examples are left out together.
    Source: Fan, Chang, Hsieh, Wang & Lin (LIBLINEAR), JMLR 9, 2008, equation 3 with the squared loss.
    Deviations: the penalty is chosen by the 5-fold log loss after temperature scaling. The search stops after two higher losses in a row.
    Features are centred and scaled by one factor first, and constant features get no weight."""
    x, rows, members = checked_examples(features, targets, groups=groups, classes=classes, what="A support vector machine")
    present = np.unique(rows)
    if len(present) < 2:
        raise DataError(
            f"A support vector machine needs examples of 2 or more classes; received {len(x)} of class {present[0]}. "
            "Add examples of another class."
        )
    mean, scale = spread_out(x, standardise=False)
    table = ((x - mean) / scale).astype(x.dtype)
    folds = folds_of(table, rows, groups=members)
    with warnings.catch_warnings(), threadpool_limits(1 if table.size * classes < _SMALL else None, user_api="blas"):
        warnings.simplefilter("ignore", ConvergenceWarning)
        inverse, (scores, factor), path = _chosen(table, rows, folds=folds, classes=classes)
        head = _fitted(table, rows, inverse=inverse)
    weight, bias = centred(*widened(head, present, classes=classes))
    weight = weight.astype(np.float64) / scale
    words = held_out_name(members, folds=len(np.unique(folds)))
    return LinearProbe(factor * weight, factor * (bias - weight @ mean), 1 / inverse, factor * scores, factor, words, path)


def _chosen(
    table: np.ndarray, rows: np.ndarray, *, folds: np.ndarray, classes: int
) -> tuple[float, tuple[np.ndarray, float], tuple[tuple[float, float], ...]]:
    """Return the inverse penalty with the lowest held-out loss, its held-out logits with their temperature, and the path."""
    truth, tried, best, risen = np.eye(classes)[rows], list[tuple[float, float]](), (np.empty(0), 1.0), 0
    for inverse in _GRID:

        def fit(seen: np.ndarray, inverse: float = float(inverse)) -> Callable[[np.ndarray], np.ndarray]:
            weight, bias = _fitted(table[seen], rows[seen], inverse=inverse)
            return lambda unseen: table[unseen] @ weight.T + bias

        scores = held_out_scores(fit, folds, targets=rows, classes=classes)
        factor = fit_temperature(scores, truth)
        loss, lowest = log_loss(factor * scores, rows), min((known for _, known in tried), default=np.inf)
        tried.append((1 / float(inverse), loss))
        risen = risen + 1 if loss > lowest else 0
        best = (scores, factor) if loss < lowest else best
        if risen == 2:
            break
    penalty, _ = min(tried, key=lambda pair: pair[1])
    return 1 / penalty, best, tuple(tried)


def _fitted(table: np.ndarray, rows: np.ndarray, *, inverse: float) -> Head:
    """Fit the head of the present classes, in ascending order."""
    # the dual solver samples examples at random, so its result would depend on their order
    model = LinearSVC(dual=False, C=inverse).fit(table, rows)
    weight, bias = model.coef_, model.intercept_
    return (np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2) if len(weight) == 1 else (weight, bias)
