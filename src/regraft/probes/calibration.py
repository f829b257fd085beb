"""Calibration: scale logits so that their softmax (or sigmoid) gives calibrated probabilities."""

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import expit, logsumexp

_MOST = 8192  # Maximum number of examples to fit the temperature to. More change its third digit and cost seconds
_FACTORS = (1e-3, 1e3)


def fit_temperature(
    scores: np.ndarray, truth: np.ndarray, *, kind: str = "classification", further: float = 1.0, weights: np.ndarray | None = None
) -> float:
    """Return the factor of held-out logits with the lowest log loss.
    `scores`: (N, C) logits of examples that the head was not fitted to; `truth`: (N, C) of 0 and 1; `further`: weight of the smoothing, in
    examples; `weights`: (N,) weights of the examples, not all 0, for classification, or None for equal ones.
    Source: Guo, Pleiss, Sun & Weinberger, ICML 2017, section 4.2, equation (9); the factor is 1 / T there.
    Deviations: the targets are smoothed, as by one additional example spread evenly over the classes (after Platt 1999, section 2.1).
    Without it, the factor would be unbounded for separable classes. One additional example per class is too much: with 200 classes of 4
    examples each and an accuracy of 0.80, the log loss of new examples is 1.18, against 0.75 with one in total. If there are more than
    8,192 examples, 8,192 are drawn at random."""
    drawn = np.random.default_rng(0).permutation(len(truth))[:_MOST] if len(truth) > _MOST else slice(None)
    scores, truth, weights = scores[drawn], truth[drawn], None if weights is None else weights[drawn]
    items, classes = truth.shape if kind == "classification" else (len(truth), 2)
    truth = (truth * items + further / classes) / (items + further)
    truth = truth if weights is None else truth * (weights / weights.mean())[:, None]
    meant = float((truth * scores).sum()) / len(scores)
    above = scores - scores.max(axis=1, keepdims=True)
    highest = float(np.average(scores.max(axis=1), weights=weights))

    def loss(log_factor: float) -> float:
        factor = np.exp(log_factor)
        if kind == "classification":
            return float(np.average(np.log(np.exp(factor * above).sum(axis=1)), weights=weights) + factor * (highest - meant))
        return float(np.logaddexp(0, factor * scores).mean() - factor * meant / scores.shape[1])

    return float(np.exp(minimize_scalar(loss, bounds=np.log(_FACTORS), method="bounded").x))


def log_loss(scores: np.ndarray, targets: np.ndarray, *, weights: np.ndarray | None = None) -> float:
    """Return the mean, weighted by `weights` (N,) if given, of the negative log of the softmax of `scores` (N, C) at `targets` (N,)."""
    return float(np.average(logsumexp(scores, axis=1) - scores[np.arange(len(targets)), targets], weights=weights))


def fit_scales(scores: np.ndarray, truth: np.ndarray, *, kind: str = "classification") -> tuple[np.ndarray, np.ndarray]:
    """Return factors (C,) from 0.001 to 1000 and shifts (C,), added afterwards, that minimise the log loss of the scaled logits.
    They bring the logits of several networks to one scale. `scores`: (N, C) logits; `truth`: (N, C) of 0 and 1.
    Source: Guo, Pleiss, Sun & Weinberger, ICML 2017, section 4.2 (vector scaling); for one class, Platt 1999.
    Deviations: the targets are smoothed as in `fit_temperature`. Factors are positive, so that no class is inverted."""
    items, classes = len(truth), truth.shape[1] if kind == "classification" else 2
    truth, width = (truth * items + 1 / classes) / (items + 1), np.maximum(scores.std(axis=0), 1e-12)

    def loss(values: np.ndarray) -> tuple[float, np.ndarray]:
        factors, shifts = np.exp(values[: len(width)]), values[len(width) :]
        scaled = factors * (scores / width) + shifts
        if kind == "classification":
            above = logsumexp(scaled, axis=1, keepdims=True)
            lost, slope = (above - (truth * scaled).sum(axis=1, keepdims=True)).mean(), (np.exp(scaled - above) - truth) / items
        else:
            lost, slope = (np.logaddexp(0, scaled) - truth * scaled).sum(axis=1).mean(), (expit(scaled) - truth) / items
        return float(lost), np.concatenate([(slope * scaled - slope * shifts).sum(axis=0), slope.sum(axis=0)])

    limits = [(low, high) for one in width for low, high in [np.log(np.multiply(_FACTORS, one))]]
    found = minimize(
        loss, np.concatenate([np.log(width), 0 * width]), jac=True, method="L-BFGS-B", bounds=[*limits, *[(None, None)] * len(width)]
    )
    return np.exp(found.x[: len(width)]) / width, found.x[len(width) :]
