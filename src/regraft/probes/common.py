"""Shared parts of the probes: input checks, grouped folds, and the linear head that most probes return."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from ..errors import DataError
from ..words import counted
from .calibration import fit_temperature

FOLDS = 5  # Number of folds for probes without a closed form of the leave-one-out error
_ROUNDINGS, _LEAST, _HALF, _DEAD = 64, 1e-2, 1e-3, 1e-3
"""Limits of `feature_scale`: rounding errors, minimum relative to the typical deviation and to the mean, dead below this share of it."""
NEVER = 30.0  # Distance in nats of the logit of a class without examples below the lowest other logit

_CHUNK = 2**22  # Outputs of a hidden layer that are computed in one block

Head = tuple[np.ndarray, np.ndarray]  # weight (C, d) and bias (C,)


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """Linear head on features.
    `held_out`: how examples were held out: "leave-one-out", "leave-group-out", "5-fold", "5-fold by group" or "validation set".
    `path`: (penalty, held-out loss) of each penalty, in the order of trying; empty if only one was used."""

    weight: np.ndarray  # (C, d)
    bias: np.ndarray  # (C,). Logits are `features @ weight.T + bias`; their softmax (or sigmoid) is calibrated
    penalty: float  # chosen regularisation strength, in the unit of the method
    loo_scores: np.ndarray  # (N, C) held-out logits: each example is scored by a probe that was not fitted to it
    temperature: float  # calibration factor, already included in weight and bias; 1 for regression
    held_out: str = "leave-one-out"
    path: tuple[tuple[float, float], ...] = ()

    def scores(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the logits (N, C) of `features` (N, d)."""
        return np.asarray(np.asarray(features) @ self.weight.T + self.bias)

    def softened(self, targets: np.ndarray, *, kind: str) -> Self:
        """Return the head with a smoothed temperature, for a warm start. A head with the optimal fit leaves training little to improve.
        The temperature is fitted to targets smoothed by one additional example per class. On ten pairs of small networks and data sets,
        `full` and `partial` were 1 to 2 points better from this start than from the optimal fit. `targets`: (N,) class indices or (N, C) of
        0 and 1, of the examples that the head was fitted to."""
        if kind == "regression":
            return self
        truth = np.eye(len(self.bias))[targets] if kind == "classification" else np.asarray(targets, np.float64)
        factor = fit_temperature(self.loo_scores, truth, kind=kind, further=len(self.bias) if kind == "classification" else 2)
        scaled = {name: factor * getattr(self, name) for name in ("weight", "bias", "loo_scores", "temperature")}
        return replace(self, **scaled)


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """Fixed linear layer with an activation, before a head."""

    weight: np.ndarray  # W (M, d)
    bias: np.ndarray  # b (M,)
    activation: str = "relu"  # "relu", or "softmax" over the M outputs

    def apply(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the output (N, M), float32, of the layer for `features` (N, d)."""
        x, width = np.asarray(features), len(self.bias)
        if x.ndim != 2 or x.shape[1] != self.weight.shape[1]:
            raise DataError(f"The layer takes features (N, {self.weight.shape[1]}); received the shape {x.shape}.")
        hidden = np.empty((len(x), width), np.float32)
        for rows in blocks(len(x), max(_CHUNK // width, 1)):
            part = hidden[rows]
            np.matmul(x[rows].astype(np.float32), self.weight.T, out=part)
            part += self.bias
            part[:] = softmax(part, axis=1) if self.activation == "softmax" else np.maximum(part, 0)
        return hidden


@dataclass(frozen=True, eq=False)
class LayeredProbe:
    """Linear head on the output of a fixed layer."""

    layer: HiddenLayer
    head: LinearProbe

    @property
    def loo_scores(self) -> np.ndarray:
        """Held-out logits (N, C)."""
        return self.head.loo_scores

    @property
    def held_out(self) -> str:
        """How examples were held out: "leave-one-out" or "leave-group-out"."""
        return self.head.held_out

    def scores(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the logits (N, C) of `features` (N, d)."""
        return self.head.scores(self.layer.apply(features))


def blocks(count: int, size: int) -> Iterator[slice]:
    """Return slices of `size` rows, which cover `count` rows."""
    return (slice(start, start + size) for start in range(0, count, size))


def checked_features(features: npt.ArrayLike, *, least: int = 1, what: str = "A probe") -> np.ndarray:
    """Return features (N, d) as a float array. Raise if they are not finite or have fewer than `least` examples; `what` starts messages."""
    table = np.asarray(features)
    if table.ndim != 2 or table.shape[1] == 0:
        raise DataError(f"{what} takes features (N, d); received the shape {table.shape}. Pool or flatten them to one row an example.")
    table = table if table.dtype in (np.float32, np.float64) else table.astype(np.float64)
    row = next((row for row in _faulty_rows(table)), -1)
    if len(table) < least or row >= 0:
        finite = "all finite" if row < 0 else f"not finite in example {row}"
        raise DataError(
            f"{what} needs {least} or more examples with finite features; received {counted(len(table), 'example')}, {finite}. "
            "Features that are not finite come from a network that has diverged or from NaN in its input."
        )
    return table


def _faulty_rows(table: np.ndarray) -> Iterator[int]:
    """Yield the first non-finite row of each block. Column sums find a faulty block without a boolean table."""
    for rows in blocks(len(table), max(_CHUNK // table.shape[1], 1)):
        part = table[rows]
        with np.errstate(all="ignore"):
            fine = bool(np.isfinite(np.ones(len(part), part.dtype) @ part).all())
        if not fine:
            yield from rows.start + np.flatnonzero(~np.isfinite(part).all(axis=1))[:1]


def checked_targets(targets: npt.ArrayLike, *, count: int, classes: int) -> np.ndarray:
    """Return the class indices (N,) as int64. Raise unless `targets` are `count` whole numbers from 0 to `classes` - 1."""
    truth = np.asarray(targets)
    rows = truth.astype(np.int64) if truth.dtype.kind in "iufb" else None
    if rows is None or truth.shape != (count,) or not np.array_equal(rows, truth) or not 0 <= rows.min() <= rows.max() < classes:
        seen = f"{truth.dtype} {truth.shape}, such as {truth.ravel()[:3].tolist()}"
        raise DataError(f"Targets must be {count} whole numbers from 0 to {classes - 1}, one an example; received {seen}. Check `classes`.")
    return rows


def checked_groups(groups: npt.ArrayLike | None, *, count: int) -> np.ndarray | None:
    """Return the group index (N,) of each example, from 0; None without groups.
    `groups`: (N,) names or numbers, equal for examples that belong together (speaker, session, patient)."""
    if groups is None:
        return None
    names = np.asarray(groups)
    if names.shape != (count,):
        raise DataError(f"Expected the group of each of {counted(count, 'example')}; received the shape {names.shape}.")
    kinds, numbers = np.unique(names, return_inverse=True)
    if len(kinds) < 2:
        raise DataError(
            f"All {counted(count, 'example', verb='are')} of the group {names.tolist()[0]!r}; one can only be left out where there are 2 "
            "or more."
        )
    return numbers.astype(np.int64)


def checked_examples(
    features: npt.ArrayLike, targets: npt.ArrayLike, *, groups: npt.ArrayLike | None, classes: int, least: int = 2, what: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return features (N, d), class indices (N,) and groups (N,) after the checks of each of them."""
    x = checked_features(features, least=least, what=what)
    return x, checked_targets(targets, count=len(x), classes=classes), checked_groups(groups, count=len(x))


def folds_of(features: np.ndarray, targets: np.ndarray, *, groups: np.ndarray | None = None, count: int = FOLDS) -> np.ndarray:
    """Return the fold (N,) of each example, from 0: stratified, with whole groups, and independent of the order of the examples.
    Examples are sorted by class and by their projection on a random direction of feature space, then assigned to the folds in turn. Groups
    are assigned, largest first, to the fold with the fewest examples of their classes.
    `features`: (N, d); `targets`: (N,) class indices; `groups`: (N,) as returned by `checked_groups`."""
    direction = np.asarray(np.random.default_rng(0).standard_normal(features.shape[1]), features.dtype)
    with np.errstate(invalid="ignore"):  # the features are finite, but BLAS sometimes sets the flag on memory next to them
        places = features @ direction
    order, folds = np.lexsort((places, targets)), np.empty(len(targets), np.int64)
    if groups is None:
        folds[order] = np.arange(len(order)) % min(count, len(order))
        return folds
    content = np.zeros((int(groups.max()) + 1, int(targets.max()) + 1))
    np.add.at(content, (groups, targets), 1)
    centres = np.bincount(groups, weights=places) / content.sum(axis=1)
    held, fold_of = np.zeros((min(count, len(content)), content.shape[1])), np.empty(len(content), np.int64)
    for group in np.lexsort((centres, -content.sum(axis=1))):
        fold_of[group] = int(np.argmin(held @ content[group] / content[group].sum() + 1e-3 * held.sum(axis=1)))
        held[fold_of[group]] += content[group]
    return np.asarray(fold_of[groups])


def held_out_name(groups: np.ndarray | None, *, folds: int = 0) -> str:
    """Return the name of the held-out scheme, with `groups` or without, in `folds` folds (0: leave-one-out)."""
    if folds:
        return f"{folds}-fold by group" if groups is not None else f"{folds}-fold"
    return "leave-one-out" if groups is None else "leave-group-out"


def feature_scale(mean: np.ndarray, deviation: np.ndarray, *, dtype: npt.DTypeLike, typical: np.ndarray | float = 0.0) -> np.ndarray:
    """Return the divisor (d,) of each feature: its standard deviation with a lower bound, or infinity for a dead feature.

    A feature divided by infinity is zero, and so is its weight: dead features do not contribute.

    - A feature is dead in three cases. (1) Its deviation is at most 64 rounding errors of the larger of its mean and the typical deviation,
      because a sum of hundreds of products of typical size has an error of several such roundings. (2) Its deviation is below 0.001 of
      the typical one: a feature that is active in one of 60 examples, at a thousandth of the usual size, would get weights in the thousands
      to separate one example. (3) Its deviation is below 1e-19, where single precision cannot hold the weights and variances.
    - If a typical deviation is given, the lower bound is 0.01 of it, and 0.001 of the mean, which is one step of half precision. Smaller
      variation is lost in rounding if the network runs in half precision. The bound keeps weights below 100 per typical deviation.

    `mean`: (d,); `deviation`: (d,) standard deviations; `typical`: typical deviation of such features, a number or (d,); 0 if they have no
    common unit (columns of a table).
    """
    size, usual = np.abs(mean), np.broadcast_to(typical, mean.shape)
    dead = (deviation <= _ROUNDINGS * np.finfo(dtype).eps * np.maximum(size, usual)) | (deviation < _DEAD * usual)
    dead |= deviation < np.finfo(np.float32).tiny ** 0.5
    least = np.where(usual > 0, np.maximum(_LEAST * usual, _HALF * size), 0.0)
    return np.where(dead, np.inf, np.maximum(deviation, least))


def typical_deviation(mean: np.ndarray, deviation: np.ndarray, *, dtype: npt.DTypeLike) -> float:
    """Return the upper quartile of the `deviation` (d,) of features that vary beyond rounding of their `mean` (d,); 0 if none does.
    The upper quartile is robust: half of the channels of a network may be nearly dead, and a few may be very large."""
    alive = deviation > _ROUNDINGS * np.finfo(dtype).eps * np.abs(mean)
    return float(np.quantile(deviation[alive], 0.75, method="lower")) if alive.any() else 0.0


def mean_and_deviation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation (d,) of `features` (N, d) in float64, computed in blocks."""
    mean = np.asarray(features.mean(axis=0, dtype=np.float64))
    squares = np.zeros(len(mean))
    for rows in blocks(len(features), max(_CHUNK // len(mean), 1)):
        squares += np.square(features[rows] - mean).sum(axis=0)
    return mean, np.sqrt(squares / len(features))


def spread_out(features: np.ndarray, *, standardise: bool, alike: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean (d,) and the scale (d,) that normalise `features`, with `standardise` per feature, otherwise to a mean variance of 1.
    A constant feature has an infinite scale and becomes 0. With `alike`, the features are the outputs of one layer, and a feature that
    varies far less than the others also counts as dead (`feature_scale`)."""
    mean, deviation = mean_and_deviation(features)
    typical = typical_deviation(mean, deviation, dtype=features.dtype) if alike else 0.0
    scale = feature_scale(mean, deviation, dtype=features.dtype, typical=typical)
    if not standardise:
        live = np.isfinite(scale)
        scale = np.where(live, np.sqrt(np.square(deviation[live]).mean()) if live.any() else 1.0, np.inf)
    return mean, scale


def centred(weight: np.ndarray, bias: np.ndarray) -> Head:
    """Subtract the mean over the classes from weight (C, d) and bias (C,). The softmax is unchanged, and the logits are small."""
    return weight - weight.mean(axis=0), bias - bias.mean()


def held_out_scores(
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]], folds: np.ndarray, *, targets: np.ndarray, classes: int
) -> np.ndarray:
    """Return the cross-validated logits (N, C): each example is scored by a head fitted on the other folds.
    `fit`: function from training indices to a function that maps indices to logits (n, present classes in ascending order); `folds`: (N,)
    fold of each example; `targets`: (N,) class indices."""
    scores = np.empty((len(targets), classes))
    for fold in np.unique(folds):
        seen, unseen = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        present = np.unique(targets[seen])
        part = fit(seen)(unseen) if len(present) > 1 else np.zeros((len(unseen), len(present)))
        scores[unseen] = part.min(axis=1, keepdims=True) - NEVER
        scores[np.ix_(unseen, present)] = part
    return scores


def widened(head: Head, present: np.ndarray, *, classes: int) -> Head:
    """Extend a head of the `present` classes (indices) to all `classes`. The others get the mean weights and a lowered bias."""
    weight, bias = np.tile(head[0].mean(axis=0), (classes, 1)), np.full(classes, head[1].mean() - NEVER)
    weight[present], bias[present] = head
    return weight, bias
