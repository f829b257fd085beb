"""Heads solved in closed form on features."""

from .ridge import RidgeProbe, fit_ridge
from .statistics import ClassStatistics, fit_lda, statistics_of

__all__ = ["ClassStatistics", "RidgeProbe", "fit_lda", "fit_ridge", "statistics_of"]
