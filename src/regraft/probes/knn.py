"""Nearest-neighbour probes. They can represent classes that form several clusters, which a linear head cannot."""

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from .calibration import fit_temperature, log_loss
from .common import HiddenLayer, LayeredProbe, LinearProbe, blocks, checked_examples, held_out_name, spread_out

_CHUNK = 2**22  # Similarities that are held in memory at once
_NEIGHBOURS, _SOFTNESS = 5, 0.07
_WIDTHS = np.geomspace(1 / 8, 8, 7)  # Squared bandwidths of `fit_vote`, in units of the median squared distance to the nearest example
_LEAST = 1e-2  # Minimum of that unit relative to the mean |z|^2, because the data may contain duplicates


def unit_rows(x: np.ndarray) -> np.ndarray:
    """Normalise the rows of `x` (N, d) to length 1, as float32. A zero row stays zero."""
    lengths = np.maximum(np.linalg.norm(x, axis=1, keepdims=True), 1e-30)
    return np.asarray((x / lengths).astype(np.float32))


def nearest(x: np.ndarray, reference: np.ndarray, *, count: int, groups: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines (N, k) and indices (N, k) of the nearest reference examples, best first. `x` and `reference` have unit rows.
    `groups` (N,) apply to both; they require `x` and `reference` to be the same examples. Examples of one group are not neighbours: their
    cosine is -inf."""
    near, rows = np.empty((len(x), count)), np.empty((len(x), count), np.int64)
    for here in blocks(len(x), max(_CHUNK // len(reference), 1)):
        cosines = x[here] @ reference.T
        if groups is not None:
            cosines[groups[here, None] == groups] = -np.inf
        best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        values = np.take_along_axis(cosines, best, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        near[here], rows[here] = np.take_along_axis(values, order, axis=1), np.take_along_axis(best, order, axis=1)
    return near, rows


def neighbour_scores(features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None) -> np.ndarray:
    """Return the log share (N, C) of each class in the vote of the 5 nearest other examples, with weights exp(cosine / 0.07).
    Examples of the same group do not vote for each other.
    Source: Wu, Xiong, Yu & Lin, CVPR 2018, section 3.4 (the vote and the temperature 0.07).
    Deviations: one additional vote is split evenly over the classes, so that all logs are finite."""
    x, rows, members = checked_examples(features, targets, groups=groups, classes=classes, what="Nearest neighbours")
    reference, count = unit_rows(x), min(_NEIGHBOURS, len(x) - 1)
    near, found = nearest(reference, reference, count=count, groups=np.arange(len(x)) if members is None else members)
    weights = np.where(np.isfinite(near), np.exp((near - np.maximum(near[:, :1], -1.0)) / _SOFTNESS), 0.0)
    votes = np.zeros((len(x), classes))
    np.add.at(votes, (np.arange(len(x))[:, None], rows[found]), weights)
    shares = count * votes / np.maximum(votes.sum(axis=1, keepdims=True), 1e-30)
    return np.asarray(np.log((shares + 1 / classes) / (count + 1)))


def fit_vote(features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: int, groups: npt.ArrayLike | None = None) -> LayeredProbe:
    """Fit a kernel vote of all examples, expressed as two linear layers with a softmax between them.
    For standardised features z, the example z_i has the weight exp(-|z - z_i|^2 / 2 h^2). |z|^2 is the same for all examples, so a softmax
    over the linear scores (z z_i - |z_i|^2 / 2) / h^2 gives the same weights. The probe therefore consists of standard layers.
    `features`: (N, d) finite numbers; `targets`: (N,) class indices; `groups`: (N,) groups whose examples do not vote for each other.
    Source: Nadaraya, Theory of Probability and its Applications 9, 1964; Watson, Sankhya A 26, 1964.
    Deviations: it replaces k nearest neighbours, whose selection of k is not a standard layer. h is chosen by the leave-one-out log loss
    among seven multiples of the median distance to the nearest example, with a lower bound for data with duplicates."""
    x, rows, members = checked_examples(features, targets, groups=groups, classes=classes, what="A vote of neighbours")
    own = np.arange(len(x)) if members is None else members
    mean, scale = spread_out(x, standardise=True)
    table, truth = ((x - mean) / scale).astype(np.float64), np.eye(classes)[rows]
    halves, each = 0.5 * np.square(table).sum(axis=1), list(blocks(len(x), max(_CHUNK // len(x), 1)))
    distances = np.empty(len(x))
    for here in each:
        distances[here] = 2 * (halves[here] - _similar(table, halves, own=own, here=here).max(axis=1))
    widths = max(float(np.median(distances)), _LEAST * 2 * float(halves.mean()), 1e-12) * _WIDTHS
    shares = np.empty((len(widths), len(x), classes))
    for here in each:
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
    """Return the scores z z_i - |z_i|^2 / 2 (n, N) between the examples `here` and all examples; -inf within a group."""
    scores: np.ndarray = table[here] @ table.T - halves
    scores[own[here, None] == own] = -np.inf
    return scores
