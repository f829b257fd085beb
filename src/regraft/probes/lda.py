"""Linear discriminant analysis with a shrunken covariance, as a probe: from sums that add up, so its folds cost no further pass."""

from __future__ import annotations

from collections.abc import Callable
from functools import reduce

import numpy as np
import numpy.typing as npt

from .calibration import fit_temperature
from .common import FOLDS, LinearProbe, checked_features, checked_groups, checked_targets, folds_of, held_out_name, held_out_scores
from .statistics import ClassStatistics, fit_lda, statistics_of

__all__ = ["fit_lda_probe"]


def fit_lda_probe(
    features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None, shrinkage: float | None = None
) -> LinearProbe:
    """Fit shrinkage LDA; the statistics of each fold are taken once, and those of the rest are the sums of the others.

    Source: that of `fit_lda`; the temperature is fitted to the held-out scores (Guo et al., ICML 2017, section 4.2).
    Deviations: held-out scores are of 5 folds, not of single items: the shrinkage changes with each item left out, so the inverse
    does not follow by an update of rank one.

    Args:
        features: (N, d) finite numbers.
        targets: (N,) class indices.
        groups: (N,) what items belong to: they are left out together.
        shrinkage: as for `fit_lda`; `penalty` of the probe says it (-1 for the formula).

    Returns:
        The probe.
    """
    x = checked_features(features, least=3, what="Discriminant analysis")
    rows = checked_targets(targets, count=len(x), classes=classes)
    members = checked_groups(groups, count=len(x))
    folds = folds_of(x, rows, groups=members)
    names = [str(index) for index in range(classes)]
    parts = {int(fold): statistics_of(x[folds == fold], rows[folds == fold], classes=names) for fold in np.unique(folds)}

    def fit(seen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        statistics = _joined([parts[int(fold)] for fold in np.unique(folds[seen])])
        weight, bias = fit_lda(statistics, shrinkage=shrinkage)
        present = statistics.counts > 0
        return lambda unseen: x[unseen] @ weight[present].T + bias[present]

    weight, bias = fit_lda(_joined(list(parts.values())), shrinkage=shrinkage)
    scores = held_out_scores(fit, folds, targets=rows, classes=classes)
    factor = fit_temperature(scores, np.eye(classes)[rows])
    strength = -1.0 if shrinkage is None else shrinkage
    name = held_out_name(members, folds=min(FOLDS, len(parts)))
    return LinearProbe(factor * weight, factor * bias, strength, factor * scores, factor, name)


def _joined(parts: list[ClassStatistics]) -> ClassStatistics:
    return reduce(ClassStatistics.joined, parts)
