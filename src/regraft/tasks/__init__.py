"""Losses, metrics and confidence intervals for each kind of task."""

from .intervals import paired_difference, wilson_interval
from .losses import KINDS, LOSSES, Loss, chosen_loss, class_weights, classification_loss, loss_problems, multi_label_loss, regression_loss
from .metrics import brier_score, expected_calibration_error, fit_thresholds, harmonic_mean, judge, reliability
from .scorers import chosen_figures, metric_name, metric_problems

__all__ = [
    "KINDS",
    "LOSSES",
    "Loss",
    "brier_score",
    "chosen_figures",
    "chosen_loss",
    "class_weights",
    "classification_loss",
    "expected_calibration_error",
    "fit_thresholds",
    "harmonic_mean",
    "judge",
    "loss_problems",
    "metric_name",
    "metric_problems",
    "multi_label_loss",
    "paired_difference",
    "regression_loss",
    "reliability",
    "wilson_interval",
]
