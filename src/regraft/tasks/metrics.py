"""Metrics: pure functions of arrays, and `judge`, which computes all metrics of one data set.

Shape letters: N examples, C classes (or labels, or outputs).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import softmax
from sklearn.metrics import average_precision_score, f1_score, r2_score

from ..errors import DataError, SettingError, near_names
from ..words import counted
from .intervals import bootstrap_interval, wilson_interval

_SMALLEST = 1e-12


def probabilities(scores: npt.ArrayLike, kind: str = "classification") -> np.ndarray:
    """Convert logits (N, C) to probabilities (N, C), float64. For a regression the values are returned unchanged."""
    raw = np.asarray(scores, dtype=np.float64)
    if kind in ("classification", "softmax"):
        return np.asarray(softmax(raw, axis=1))
    if kind in ("multi-label", "sigmoid"):
        logistic: np.ndarray = 0.5 * (1.0 + np.tanh(0.5 * raw))
        return logistic
    if kind in ("regression", "linear"):
        return raw
    known = ("classification", "softmax", "multi-label", "sigmoid", "regression", "linear")
    raise SettingError(f"Unknown kind or activation: {kind!r}{near_names(str(kind), known)}")


def log_loss(chances: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Return the mean negative log of the true class's probability, in nats; ln C for uniform predictions.
    `chances`: (N, C) probabilities, clipped to at least 1e-12, so that one confident error costs at most 27.6; `targets`: (N,) integers in
    0 … C-1."""
    table, truth = np.asarray(chances, dtype=np.float64), np.asarray(targets)
    true = table[np.arange(len(truth)), truth]
    return float(-np.log(np.clip(true, _SMALLEST, 1.0)).mean()) + 0.0  # not -0.0


def brier_score(chances: npt.ArrayLike, targets: npt.ArrayLike) -> float:
    """Return the mean squared distance between probabilities and one-hot targets, summed over classes.
    `chances`: (N, C) probabilities; `targets`: (N,) integers in 0 … C-1.
    Source: Brier 1950, Monthly Weather Review 78:1-3, equation (2)."""
    table, truth = np.array(chances, dtype=np.float64), np.asarray(targets)
    table[np.arange(len(truth)), truth] -= 1.0
    return float((table**2).sum(axis=1).mean())


def expected_calibration_error(chances: npt.ArrayLike, targets: npt.ArrayLike, *, bins: int = 15) -> float:
    """Return the mean gap between confidence and accuracy.

    Examples are sorted by the probability of the predicted class and divided into bins with equal numbers of examples, so no bin is empty.
    `chances`: (N, C) probabilities; `targets`: (N,) integers in 0 … C-1.
    Source: Guo et al. 2017, arXiv:1706.04599, equation (3), with the equal-mass bins of Nixon et al. 2019, arXiv:1904.01685."""
    found = _bins_by_probability(chances, targets, bins=bins)
    return float(sum(len(sure) * abs(right.mean() - sure.mean()) for sure, right in found) / sum(len(sure) for sure, _ in found))


def reliability(chances: npt.ArrayLike, targets: npt.ArrayLike, *, bins: int = 10) -> list[dict[str, Any]]:
    """Return the points of a reliability diagram: accuracy against mean probability of the predicted class.
    `chances`: (N, C) probabilities; `targets`: (N,) integers in 0 … C-1.
    Source: Guo et al. 2017, arXiv:1706.04599, section 2."""
    return [
        {
            "examples": len(sure),
            "probability": float(sure.mean()),
            "accuracy": float(right.mean()),
            "interval": list(wilson_interval(int(right.sum()), len(right))),
        }
        for sure, right in _bins_by_probability(chances, targets, bins=bins)
    ]


def _bins_by_probability(chances: npt.ArrayLike, targets: npt.ArrayLike, *, bins: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return per bin (probability of the predicted class, whether it is correct) of its examples, lowest probabilities first."""
    if bins < 1:
        raise SettingError(f"bins must be at least 1; received {bins}.")
    table, truth = np.asarray(chances, dtype=np.float64), np.asarray(targets)
    sure = table.max(axis=1)
    right = table.argmax(axis=1) == truth
    return [(sure[part], right[part]) for part in np.array_split(np.argsort(sure, kind="stable"), min(bins, len(sure)))]


def harmonic_mean(first: float, second: float) -> float:
    """Return the harmonic mean of two numbers >= 0, for example the accuracies on old and new classes. It is high only if both are."""
    if not all(0.0 <= value < float("inf") for value in (first, second)):
        raise DataError(f"The harmonic mean is of two finite numbers >= 0; received {first} and {second}.")
    return 0.0 if 0.0 in (first, second) else 2.0 / (1.0 / float(first) + 1.0 / float(second))


# over the limit: scores, targets and class names belong together, in this order everywhere
def judge(
    scores: npt.ArrayLike,
    targets: npt.ArrayLike,
    classes: Sequence[str] | None = None,
    kind: str = "classification",
    *,
    thresholds: npt.ArrayLike | None = None,
) -> dict[str, Any]:
    """Return all metrics of one data set, as plain data.

    `scores`: (N, C) logits, before the activation; `targets`: (N,) integers for classification, (N, C) of 0 and 1 for multi-label, (N, C)
    or (N,) values for regression; `classes`: names of the C columns, None for "0", "1", …; `thresholds`: for multi-label, (C,)
    probabilities (or one for all) from which a label is predicted, as returned by `fit_thresholds`; None means 0.5, a logit of 0.

    The result always has "examples", the number of examples.

    - Classification: "accuracy", "accuracy_interval" [lo, hi] (Wilson, 95 %), "macro_f1" (mean over the classes that occur in targets or
      predictions), "log_loss" (nats), "ece" (15 equal-mass bins), "brier", "per_class" {name: {"recall" (None without examples),
      "interval", "examples"}}, and "confusion" {"true", "predicted", "count"}: the nonzero cells of the confusion matrix as three lists
      (`confusion_matrix` makes the matrix).
    - Multi-label: with thresholds applied, "accuracy" (mean over labels), "accuracy_interval" (bootstrap over examples), "macro_f1" and
      "micro_f1". Independent of thresholds, "map" (mean average precision over the labels that occur, None if none does) and "log_loss".
      "per_class" {name: {"precision" (None if never predicted), "recall", "interval", "examples", "average_precision"}}.
      "thresholds", a list, if given.
    - Regression, mean over outputs: "mae", "mae_interval" (bootstrap), "rmse", "r2" (None for a single example), "per_class" {name:
      {"mae", "rmse", "r2"}}.
    """
    judges: dict[str, Callable[..., dict[str, Any]]] = {
        "classification": _classification,
        "multi-label": _multi_label,
        "regression": _regression,
    }
    if kind not in judges:
        raise SettingError(f"Unknown kind of task: {kind!r}{near_names(str(kind), judges)}")
    if thresholds is not None and kind != "multi-label":
        raise SettingError(f"thresholds are for multi-label scores; received them with kind={kind!r}: leave them out.")
    raw = np.asarray(scores, dtype=np.float64)
    if raw.ndim != 2 or 0 in raw.shape:
        raise DataError(f"Scores must have shape (N, C) with at least one example; received {raw.shape}.")
    names = [str(name) for name in classes] if classes is not None else [str(column) for column in range(raw.shape[1])]
    if len(names) != raw.shape[1]:
        raise DataError(f"Scores have {counted(raw.shape[1], 'column')} for {counted(len(names), 'class name')}; expected as many.")
    broken = int((~np.isfinite(raw)).any(axis=1).sum())
    if broken:
        raise DataError(
            f"The scores of {counted(broken, 'example', of=len(raw))} are not finite: the network has diverged, or its input holds NaN. "
            "Lower learning_rate, set clip_norm, or check the data."
        )
    settings = {} if thresholds is None else {"thresholds": _checked_thresholds(thresholds, labels=len(names))}
    return judges[kind](raw, np.asarray(targets), names=names, **settings)


def confusion_matrix(confusion: Mapping[str, Sequence[int]], classes: int) -> np.ndarray:
    """Return the confusion matrix (C, C) from the cells that `judge` returns. Rows are true classes, columns are predicted classes."""
    rows, columns = np.asarray(confusion["true"], np.int64), np.asarray(confusion["predicted"], np.int64)
    if max(rows.max(initial=-1), columns.max(initial=-1)) >= classes or min(rows.min(initial=0), columns.min(initial=0)) < 0:
        raise DataError(f"The confusion has classes up to {max(rows.max(), columns.max())}; expected 0 to {classes - 1}.")
    table = np.zeros((classes, classes), np.int64)
    table[rows, columns] = np.asarray(confusion["count"], np.int64)
    return table


def _classification(scores: np.ndarray, targets: np.ndarray, *, names: list[str]) -> dict[str, Any]:
    truth = _checked_targets(targets, len(scores), classes=len(names))
    chances = probabilities(scores)
    predicted = scores.argmax(axis=1)
    right = int((predicted == truth).sum())
    found, items = (np.bincount(rows, minlength=len(names)).tolist() for rows in (truth[predicted == truth], truth))
    cells, counts = np.unique(truth * len(names) + predicted, return_counts=True)  # at most as many cells as examples
    return {
        "examples": len(truth),
        "accuracy": right / len(truth),
        "accuracy_interval": list(wilson_interval(right, len(truth))),
        "macro_f1": float(f1_score(truth, predicted, average="macro", zero_division=0.0)),
        "log_loss": log_loss(chances, truth),
        "ece": expected_calibration_error(chances, truth),
        "brier": brier_score(chances, truth),
        "per_class": {name: _recall(found[row], items[row]) for row, name in enumerate(names)},
        "confusion": {"true": (cells // len(names)).tolist(), "predicted": (cells % len(names)).tolist(), "count": counts.tolist()},
    }


def _multi_label(scores: np.ndarray, targets: np.ndarray, *, names: list[str], thresholds: np.ndarray | None = None) -> dict[str, Any]:
    truth = _checked_table(targets, scores.shape)
    if not np.isin(truth, (0, 1)).all():
        raise DataError(f"Multi-label targets must be 0 or 1; received values from {truth.min()} to {truth.max()}.")
    truth = truth.astype(int)
    predicted = (scores >= 0.0 if thresholds is None else probabilities(scores, "multi-label") >= thresholds).astype(int)
    same = (predicted == truth).mean(axis=1)
    found, said, items = (predicted & truth).sum(axis=0), predicted.sum(axis=0), truth.sum(axis=0)
    per_class = {
        name: {
            "precision": float(found[c] / said[c]) if said[c] else None,
            **_recall(int(found[c]), int(items[c])),
            "average_precision": float(average_precision_score(truth[:, c], scores[:, c])) if items[c] else None,
        }
        for c, name in enumerate(names)
    }
    precisions = [row["average_precision"] for row in per_class.values() if row["average_precision"] is not None]
    return {
        "examples": len(truth),
        "accuracy": float(same.mean()),
        "accuracy_interval": list(bootstrap_interval(same)),
        "macro_f1": _label_f1(truth, predicted, average="macro"),
        "micro_f1": _label_f1(truth, predicted, average="micro"),
        "map": float(np.mean(precisions)) if precisions else None,
        "log_loss": float((np.logaddexp(0.0, scores) - truth * scores).mean()),
        "per_class": per_class,
        **({} if thresholds is None else {"thresholds": thresholds.tolist()}),
    }


def _label_f1(truth: np.ndarray, predicted: np.ndarray, *, average: str) -> float:
    if truth.shape[1] == 1:  # scikit-learn treats one column as classes 0 and 1 and would count the zeros as a class
        return float(f1_score(truth[:, 0], predicted[:, 0], zero_division=0.0))
    return float(f1_score(truth, predicted, average=average, zero_division=0.0))


def _regression(scores: np.ndarray, targets: np.ndarray, *, names: list[str]) -> dict[str, Any]:
    truth = _checked_table(targets.reshape(-1, 1) if targets.ndim == 1 else targets, scores.shape)
    errors = np.abs(scores - truth)
    per_class = {name: _errors(scores[:, c], truth[:, c]) for c, name in enumerate(names)}
    fitted = [figures["r2"] for figures in per_class.values() if figures["r2"] is not None]
    return {
        "examples": len(truth),
        "mae": float(errors.mean()),
        "mae_interval": list(bootstrap_interval(errors.mean(axis=1))),
        "rmse": float(np.mean([figures["rmse"] for figures in per_class.values()])),
        "r2": float(np.mean(fitted)) if fitted else None,
        "per_class": per_class,
    }


def _errors(predicted: np.ndarray, truth: np.ndarray) -> dict[str, Any]:
    gaps = predicted - truth
    return {
        "mae": float(np.abs(gaps).mean()),
        "rmse": float(np.sqrt((gaps**2).mean())),
        "r2": float(r2_score(truth, predicted)) if len(truth) > 1 else None,
    }


def _recall(found: int, items: int) -> dict[str, Any]:
    return {"recall": found / items if items else None, "interval": list(wilson_interval(found, items)), "examples": items}


def _checked_thresholds(thresholds: npt.ArrayLike, *, labels: int) -> np.ndarray:
    given = np.asarray(thresholds, dtype=np.float64)
    if given.shape not in ((), (labels,)) or not ((given >= 0.0) & (given <= 1.0)).all():
        span = f"{given.min()} to {given.max()}" if given.size else "none"
        raise SettingError(f"Expected {labels} thresholds from 0 to 1, one for each label; received the shape {given.shape} with {span}.")
    return np.broadcast_to(given, (labels,))


def _checked_targets(targets: np.ndarray, items: int, *, classes: int) -> np.ndarray:
    if targets.shape != (items,):
        raise DataError(f"Expected {counted(items, 'target')}, one integer for each example; received shape {targets.shape}.")
    whole = targets.astype(np.int64)
    if not np.array_equal(whole, targets) or whole.min() < 0 or whole.max() >= classes:
        span = f"{targets.min()} … {targets.max()} ({targets.dtype})"
        raise DataError(f"Targets must be whole numbers from 0 to {classes - 1}, classes of the head; received {span}.")
    return whole


def _checked_table(targets: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    if targets.shape != shape:
        raise DataError(f"Expected targets of the shape of the scores, {shape}; received {targets.shape}.")
    table = targets.astype(np.float64)
    if not np.isfinite(table).all():
        raise DataError(f"{counted(int((~np.isfinite(table)).sum()), 'target', verb='are')} not finite; leave those examples out.")
    return table


_FEWEST = 3  # Minimum number of positive, and of negative, examples per label; with fewer, the best threshold is mostly chance
_DEFAULT = 0.5


def fit_thresholds(scores: npt.ArrayLike, targets: npt.ArrayLike) -> np.ndarray:
    """Return for each label the probability threshold (C,) with the highest F1. Use examples that were not trained on.
    A label is predicted if its probability is at or above the threshold. Candidates lie midway between adjacent probabilities (and midway
    between 0 and the lowest). Ties are broken by the distance to 0.5. Labels with fewer than 3 known positive or 3 known negative examples
    get 0.5.
    `scores`: (N, C) logits; `targets`: (N, C) of 0 and 1, or NaN for unknown entries, which are left out.
    Source: Lipton, Elkan & Naryanaswamy 2014, arXiv:1402.1892 (F1 is highest at a threshold of the probability)."""
    raw, truth = np.asarray(scores, dtype=np.float64), np.asarray(targets, dtype=np.float64)
    if raw.ndim != 2 or raw.shape != truth.shape:
        raise DataError(f"Scores and targets must both have the shape (N, C); received {raw.shape} and {truth.shape}.")
    if not np.isfinite(raw).all():
        raise DataError(
            f"{counted(int((~np.isfinite(raw)).any(axis=1).sum()), 'example', verb='have', of=len(raw))} scores that are not finite; leave "
            "them out."
        )
    known = ~np.isnan(truth)
    if not np.isin(truth[known], (0, 1)).all():
        raise DataError(f"Multi-label targets must be 0, 1 or NaN; received values from {np.nanmin(truth)} to {np.nanmax(truth)}.")
    positives, negatives = (truth == 1).sum(axis=0), (truth == 0).sum(axis=0)
    enough = (positives >= _FEWEST) & (negatives >= _FEWEST)
    best = np.full(raw.shape[1], _DEFAULT)
    if enough.any():
        chances = np.where(known, probabilities(raw, "multi-label"), -1.0)[:, enough]
        best[enough] = _best_thresholds(chances, truth[:, enough] == 1)
    return best


def _best_thresholds(chances: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Return thresholds (C,) for probabilities (N, C), -1 for entries to leave out. Each label must have a positive example."""
    order = np.argsort(-chances, axis=0, kind="stable")
    upper, hits = (np.take_along_axis(table, order, axis=0) for table in (chances, positive))
    following = np.vstack([upper[1:], np.full((1, upper.shape[1]), -1.0)])
    lower = np.maximum(following, 0.0)
    middle = (lower + upper) / 2
    cuts = np.where(middle > lower, middle, upper)  # the midpoint of two adjacent floats is one of them
    said = np.arange(1, len(upper) + 1)[:, None]
    f1 = 2 * hits.cumsum(axis=0) / (said + hits.sum(axis=0))
    f1[(upper == following) | (upper < 0)] = -1.0  # equal probabilities fall on the same side
    distances = np.where(f1 == f1.max(axis=0), np.abs(cuts - _DEFAULT), np.inf)
    return np.asarray(np.take_along_axis(cuts, distances.argmin(axis=0)[None], axis=0)[0])
