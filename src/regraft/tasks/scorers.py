"""Metrics that the user chooses: scikit-learn scorers by name, and functions of targets and predictions."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer, get_scorer_names

from ..errors import near_names
from ..words import counted
from .metrics import probabilities

Metric = str | Callable[..., Any]


def metric_name(metric: Metric) -> str:
    """Return the name of a `metric` in histories and scores."""
    return metric if isinstance(metric, str) else str(getattr(metric, "__name__", type(metric).__name__))


def chosen_figures(metrics: Sequence[Metric], scores: np.ndarray, *, targets: np.ndarray, kind: str) -> dict[str, float]:
    """Return metric name -> value from logits (n, C) and targets (n,) or (n, C).
    The value is NaN if the metric is undefined for these examples, for example an AUC with a single class."""
    return {metric_name(metric): _figure(metric, scores, targets=targets, kind=kind) for metric in metrics}


def _figure(metric: Metric, scores: np.ndarray, *, targets: np.ndarray, kind: str) -> float:
    try:
        return _computed(metric, scores, targets=targets, kind=kind)
    except (ValueError, ZeroDivisionError):
        return math.nan


def _computed(metric: Metric, scores: np.ndarray, *, targets: np.ndarray, kind: str) -> float:
    truth = targets.astype(int) if kind == "multi-label" else targets.reshape(len(targets), -1)[:, 0] if scores.shape[1] == 1 else targets
    answers = (_Numbers if kind == "regression" else _Classes)(np.asarray(scores, np.float64), kind)
    rows = np.arange(len(scores))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about classes that are missing among these examples
        if isinstance(metric, str):
            return float(get_scorer(metric)(answers, rows, truth))
        return float(metric(truth, answers.predict(rows)))


def metric_problems(metrics: Sequence[Metric], targets: np.ndarray, *, outputs: int, kind: str) -> list[str]:
    """Return an error message for each metric that cannot be computed, by a trial on the targets (n,) or (n, C) as predictions."""
    known, found = get_scorer_names(), []
    scores = np.eye(outputs)[targets] if kind == "classification" else np.asarray(targets, np.float64).reshape(len(targets), -1)
    for metric in metrics:
        name = metric_name(metric)
        if _accumulates(metric):
            found.append(
                f"metrics: {name!r} is an object of Keras or torchmetrics, which adds up all calls; expected the name of a scorer "
                f"of scikit-learn, or a function of true and predicted targets{near_names(str(getattr(metric, 'name', '')), known)}"
            )
            continue
        if isinstance(metric, str) and metric not in known:
            found.append(f"metrics: scikit-learn has no scorer {metric!r}{near_names(metric, known)}")
            continue
        try:
            _computed(metric, scores, targets=targets, kind=kind)
        except Exception as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            found.append(f"metrics: {name!r} does not go with a task of the kind {kind!r} and {counted(outputs, 'output')}: {said}")
    return found


def _accumulates(metric: Metric) -> bool:
    return not isinstance(metric, str | type) and any(hasattr(metric, reset) for reset in ("reset_state", "reset_states", "reset"))


class _Answers(BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Fitted scikit-learn estimator with precomputed scores; X holds row indices into them."""

    def __init__(self, scores: np.ndarray, kind: str) -> None:
        self.scores = scores
        self.kind = kind
        self.classes_ = np.arange(scores.shape[1])

    def __sklearn_is_fitted__(self) -> bool:
        return True


class _Numbers(RegressorMixin, _Answers):  # type: ignore[misc]
    def predict(self, rows: np.ndarray) -> np.ndarray:
        return np.asarray(self.scores[rows, 0] if self.scores.shape[1] == 1 else self.scores[rows])


class _Classes(ClassifierMixin, _Answers):  # type: ignore[misc]
    def predict(self, rows: np.ndarray) -> np.ndarray:
        found = self.scores[rows]
        return np.asarray((found >= 0).astype(int) if self.kind == "multi-label" else found.argmax(1))

    def predict_proba(self, rows: np.ndarray) -> np.ndarray:
        return probabilities(self.scores[rows], self.kind)

    def decision_function(self, rows: np.ndarray) -> np.ndarray:
        found = self.scores[rows]
        return np.asarray(found[:, 1] - found[:, 0] if found.shape[1] == 2 and self.kind == "classification" else found)
