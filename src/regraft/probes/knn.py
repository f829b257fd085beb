"""Nearest neighbours by the cosine: finds classes of several clusters, which no linear head does."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from .calibration import fit_temperature, log_loss
from .common import HiddenLayer, LayeredProbe, LinearProbe, checked_features, checked_groups, checked_targets, held_out_name, spread_out

__all__ = ["fit_vote", "nearest", "neighbour_scores", "unit_rows"]

_CHUNK = 2**22
"""Similarities that are held at once."""
_NEIGHBOURS, _SOFTNESS = 5, 0.07
_WIDTHS = np.geomspace(1 / 8, 8, 7)
"""Squared bandwidths of `fit_vote`, in units of the median squared distance to the nearest example."""
_LEAST = 1e-2
"""Least of that unit, as a share of the mean |z|^2: examples may be there twice."""


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Return the rows of `x` (N, d) at length 1, as float32; a row of zeros stays."""
    lengths = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    return np.asarray((x / lengths).astype(np.float32))


def nearest(x: np.ndarray, reference: np.ndarray, *, count: int, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the cosines (N, k) and the rows (N, k) of the nearest reference items, best first; `x` and `reference` are of length 1.

    With `groups` (N,), which are those of both, items of the same group are no neighbours: their cosine is then -inf.
    """
    near, rows = np.empty((len(x), count)), np.empty((len(x), count), np.int64)
    for start in range(0, len(x), step := max(_CHUNK // len(reference), 1)):
        here = slice(start, start + step)
        cosines = x[here] @ reference.T
        if groups is not None:
            cosines[groups[here, None] == groups] = -np.inf
        best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(cosines, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        near[here], rows[here] = np.take_along_axis(values, order, axis=1), np.take_along_axis(best, order, axis=1)
    return near, rows


def neighbour_scores(features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None) -> np.ndarray:
    """Return the log of the share of each class, (N, C), in the vote of an item's 5 nearest others, which weigh exp(cosine / 0.07).

    Items of the same of the `groups` do not vote for each other.

    Source: Wu, Xiong, Yu & Lin, CVPR 2018, section 3.4 (the vote; its 0.07).

    Deviations: shares are smoothed as by one further vote that is split evenly over the classes, so that all logs are finite.
    """
    x = checked_features(features, least=2, what="Nearest neighbours")
    rows, members = checked_targets(targets, count=len(x), classes=classes), checked_groups(groups, count=len(x))
    reference, count = unit_rows(x), min(_NEIGHBOURS, len(x) - 1)
    near, found = nearest(reference, reference, count=count, groups=np.arange(len(x)) if members is None else members)
    weights = np.where(np.isfinite(near), np.exp((near - np.maximum(near[:, :1], -1.0)) / _SOFTNESS), 0.0)
    votes = np.zeros((len(x), classes))
    np.add.at(votes, (np.arange(len(x))[:, None], rows[found]), weights)
    shares = count * votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-30)
    return np.asarray(np.log((shares + 1 / classes) / (count + 1)))


def fit_vote(features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None) -> LayeredProbe:
    """Return a vote of all examples as two linear layers: similarities to each, their softmax, and the share of each class.

    An example z_i of a standardised z weighs exp(-|z - z_i|^2 / 2 h^2). As |z|^2 is the same for all, a softmax over the linear scores
    (z z_i - |z_i|^2 / 2) / h^2 gives the same shares: so the vote is a network that every framework has.

    `features`: (N, d) finite numbers; `targets`: (N,) class indices; `groups`: (N,) what items belong to: items of the same group do not
    vote for each other.

    Source: Nadaraya, Theory of Probability and its Applications 9, 1964; Watson, Sankhya A 26, 1964.

    Deviations: it stands for k nearest neighbours, whose choice of k no layer makes; h is chosen by the log-loss of each example by
    the others, among seven from the median distance to the nearest one, or, where examples are there twice, a share of all distances.
    """
    x = checked_features(features, least=2, what="A vote of neighbours")
    rows = checked_targets(targets, count=len(x), classes=classes)
    members = checked_groups(groups, count=len(x))
    own = np.arange(len(x)) if members is None else members
    mean, scale = spread_out(x, standardise=True)
    table, truth = ((x - mean) / scale).astype(np.float64), np.eye(classes)[rows]
    halves, each = 0.5 * np.square(table).sum(axis=1), range(0, len(x), max(_CHUNK // len(x), 1))
    step = each.step
    distances = np.empty(len(x))
    for start in each:
        here = slice(start, start + step)
        distances[here] = 2 * (halves[here] - _similar(table, halves, own=own, here=here).max(axis=1))
    widths = max(float(np.median(distances)), _LEAST * 2 * float(halves.mean()), 1e-12) * _WIDTHS
    shares = np.empty((len(widths), len(x), classes))
    for start in each:
        here = slice(start, start + step)
        similar = _similar(table, halves, own=own, here=here)
        for place, width in enumerate(widths):
            shares[place, here] = softmax(similar / width, axis=1) @ truth
    factors = [fit_temperature(one, truth) for one in shares]
    losses = [log_loss(factor * one, rows) for factor, one in zip(factors, shares, strict=True)]
    best = int(np.argmin(losses))
    width, factor = float(widths[best]), factors[best]
    weight = table / width / scale
    layer = HiddenLayer(weight.astype(np.float32), (-(weight @ mean) - halves / width).astype(np.float32), "softmax")
    path = tuple(zip(widths.tolist(), losses, strict=True))
    head = (factor * truth.T, np.zeros(classes))
    return LayeredProbe(layer, LinearProbe(*head, width, factor * shares[best], factor, held_out_name(members), path))


def _similar(table: np.ndarray, halves: np.ndarray, *, own: np.ndarray, here: slice) -> np.ndarray:
    """Return (n, N) scores z z_i - |z_i|^2 / 2 of some examples with all others; -inf with those of the same group."""
    scores: np.ndarray = table[here] @ table.T - halves
    scores[own[here, None] == own] = -np.inf
    return scores
