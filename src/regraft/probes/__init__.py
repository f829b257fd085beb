"""Probes: heads on features, solved in closed form or by a convex solver."""

from .calibration import fit_temperature, log_loss
from .class_mean import fit_class_mean
from .common import LayeredProbe, LinearProbe
from .knn import fit_vote
from .logistic import LogisticLoss, fit_logistic
from .random_projection import fit_random_projection
from .ridge import fit_ridge
from .statistics import ClassStatistics, fit_lda, fit_lda_probe, held_out_factors, statistics_of
from .svm import fit_svm
from .unknown import UnknownChoice, UnknownJudge, choose_unknown, unknown_scores

__all__ = [
    "ClassStatistics",
    "LayeredProbe",
    "LinearProbe",
    "LogisticLoss",
    "UnknownChoice",
    "UnknownJudge",
    "choose_unknown",
    "fit_class_mean",
    "fit_lda",
    "fit_lda_probe",
    "fit_logistic",
    "fit_random_projection",
    "fit_ridge",
    "fit_svm",
    "fit_temperature",
    "fit_vote",
    "held_out_factors",
    "log_loss",
    "statistics_of",
    "unknown_scores",
]
