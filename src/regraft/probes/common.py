"""What the probes share: checked inputs, folds that keep groups whole, and the linear head that most of them give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import numpy.typing as npt
from scipy.special import softmax

from ..errors import DataError
from .calibration import fit_temperature

__all__ = [
    "FOLDS",
    "NEVER",
    "Head",
    "HiddenLayer",
    "LayeredProbe",
    "LinearProbe",
    "centred",
    "checked_features",
    "checked_groups",
    "checked_targets",
    "feature_scale",
    "folds_of",
    "held_out_name",
    "held_out_scores",
    "mean_and_deviation",
    "spread_out",
    "typical_deviation",
    "widened",
]

FOLDS = 5
"""Parts of the data where a probe has no closed form for the items left out."""
_ROUNDINGS, _LEAST, _HALF, _DEAD = 64, 1e-2, 1e-3, 1e-3
"""Of `feature_scale`: roundings, share of the typical deviation, share of the mean, share of the typical deviation of what is dead."""
NEVER = 30.0
"""How far, in nats, the score of a class without items stays below the lowest of the others."""

_CHUNK = 2**22
"""Outputs of a hidden layer that are computed at once."""

Head = tuple[np.ndarray, np.ndarray]
"""weight (C, d) and bias (C,)."""


@dataclass(frozen=True, eq=False)
class LinearProbe:
    """A linear head on features.

    Attributes:
        weight: (C, d).
        bias: (C,); raw scores are `features @ weight.T + bias`, scaled so that their softmax (sigmoid) is calibrated.
        penalty: the strength that was chosen, in the unit of the method.
        loo_scores: (N, C) raw scores of each item by a probe that did not see it.
        temperature: the scale that was put into weight and bias; 1 for regression.
        held_out: how the unseen items were chosen: "leave-one-out", "leave-group-out", "5-fold", "5-fold by group" or "validation set".
        path: each penalty that was tried with its held-out loss, in the order of trying; empty where none was compared.
    """

    weight: np.ndarray
    bias: np.ndarray
    penalty: float
    loo_scores: np.ndarray
    temperature: float
    held_out: str = "leave-one-out"
    path: tuple[tuple[float, float], ...] = ()

    def scores(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the raw scores (N, C) of `features` (N, d)."""
        return np.asarray(np.asarray(features) @ self.weight.T + self.bias)

    def softened(self, targets: np.ndarray, *, kind: str) -> Self:
        """Return the same head less sure, as one to train on from: what fits best already leaves training hardly a way down.

        Its temperature fits targets that one further item of every class smooths. From such rows `full` and `partial` came out 1 to 2
        points better, on ten pairs of small networks and data, than from those that fit best.

        `targets`: of the N items that it was fitted to, (N,) class indices, or (N, C) of 0 and 1.
        """
        if kind == "regression":
            return self
        truth = np.eye(len(self.bias))[targets] if kind == "classification" else np.asarray(targets, np.float64)
        factor = fit_temperature(self.loo_scores, truth, kind=kind, further=len(self.bias) if kind == "classification" else 2)
        scaled = {name: factor * getattr(self, name) for name in ("weight", "bias", "loo_scores", "temperature")}
        return replace(self, **scaled)


@dataclass(frozen=True, eq=False)
class HiddenLayer:
    """A linear layer that nothing trains and an activation, which stand before a head.

    Attributes:
        weight: W (M, d).
        bias: b (M,).
        activation: "relu", or "softmax" over the M outputs.
    """

    weight: np.ndarray
    bias: np.ndarray
    activation: str = "relu"

    def apply(self, features: npt.ArrayLike) -> np.ndarray:
        """Return what the layer makes of `features` (N, d).

        `features`: (N, d); result: (N, M) float32.
        """
        x, width = np.asarray(features), len(self.bias)
        if x.ndim != 2 or x.shape[1] != self.weight.shape[1]:
            raise DataError(f"The layer takes features (N, {self.weight.shape[1]}); received the shape {x.shape}.")
        hidden = np.empty((len(x), width), np.float32)
        for start in range(0, len(x), step := max(_CHUNK // width, 1)):
            part = hidden[start : start + step]
            np.matmul(x[start : start + step].astype(np.float32), self.weight.T, out=part)
            part += self.bias
            part[:] = softmax(part, axis=1) if self.activation == "softmax" else np.maximum(part, 0)
        return hidden


@dataclass(frozen=True, eq=False)
class LayeredProbe:
    """A linear head that reads features through a layer."""

    layer: HiddenLayer
    head: LinearProbe

    @property
    def loo_scores(self) -> np.ndarray:
        """Return the raw scores (N, C) of each item by the probe that did not see it."""
        return self.head.loo_scores

    @property
    def held_out(self) -> str:
        """Return "leave-one-out" or "leave-group-out"."""
        return self.head.held_out

    def scores(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the raw scores (N, C) of `features` (N, d)."""
        return self.head.scores(self.layer.apply(features))


def checked_features(features: npt.ArrayLike, *, least: int = 1, what: str = "A probe") -> np.ndarray:
    """Return features (N, d) as an array that is known to be finite.

    `features`: (N, d) numbers.
    """
    table = np.asarray(features)
    if table.ndim != 2 or table.shape[1] == 0:
        raise DataError(f"{what} takes features (N, d); received the shape {table.shape}. Pool or flatten them to one row an example.")
    table = table if table.dtype in (np.float32, np.float64) else table.astype(np.float64)
    row = next((row for row in _faulty_rows(table)), -1)
    if len(table) < least or row >= 0:
        finite = "all finite" if row < 0 else f"not finite in example {row}"
        raise DataError(
            f"{what} needs {least} or more examples with finite features; received {len(table)} examples, {finite}. "
            "Features that are not finite come from a network that has diverged or from NaN in its input."
        )
    return table


def _faulty_rows(table: np.ndarray) -> Iterator[int]:
    """Yield the first row of each block of rows that is not finite; the sum of a block tells without a table of truths."""
    step = max(2**22 // table.shape[1], 1)
    for start in range(0, len(table), step):
        part = table[start : start + step]
        with np.errstate(all="ignore"):
            fine = bool(np.isfinite(np.ones(len(part), part.dtype) @ part).all())
        if not fine:
            yield from start + np.flatnonzero(~np.isfinite(part).all(axis=1))[:1]


def checked_targets(targets: npt.ArrayLike, *, count: int, classes: int) -> np.ndarray:
    """Return class indices (N,) as int64.

    `targets`: (N,) whole numbers from 0 to C-1.
    """
    truth = np.asarray(targets)
    rows = truth.astype(np.int64) if truth.dtype.kind in "iufb" else None
    if rows is None or truth.shape != (count,) or not np.array_equal(rows, truth) or not 0 <= rows.min() <= rows.max() < classes:
        seen = f"{truth.dtype} {truth.shape}, such as {truth.ravel()[:3].tolist()}"
        raise DataError(f"Targets must be {count} whole numbers from 0 to {classes - 1}, one an example; received {seen}. Check `classes`.")
    return rows


def checked_groups(groups: npt.ArrayLike | None, *, count: int) -> np.ndarray | None:
    """Return a number from 0 for the group of each item, (N,), or None where none were given.

    `groups`: (N,) names or numbers, the same for items that belong together (speaker, session, patient).
    """
    if groups is None:
        return None
    names = np.asarray(groups)
    if names.shape != (count,):
        raise DataError(f"Expected the group of each of {count} examples; received the shape {names.shape}.")
    kinds, numbers = np.unique(names, return_inverse=True)
    if len(kinds) < 2:
        raise DataError(f"All {count} examples are of the group {names.tolist()[0]!r}; one can only be left out where there are 2 or more.")
    return numbers.astype(np.int64)


def folds_of(features: np.ndarray, targets: np.ndarray, *, groups: np.ndarray | None = None, count: int = FOLDS) -> np.ndarray:
    """Return the fold of each item: classes spread evenly, groups kept whole, the order of the rows without influence.

    Items are ordered by their class and their place along one random direction of feature space, then dealt out in turn; groups go,
    the largest first, to the fold that has fewest items of their classes.

    `features`: (N, d); `targets`: (N,) class indices; `groups`: (N,) numbers of `checked_groups`; result: (N,) numbers from 0.
    """
    direction = np.asarray(np.random.default_rng(0).standard_normal(features.shape[1]), features.dtype)
    with np.errstate(invalid="ignore"):  # the features are finite; BLAS was seen to set the flag by what it reads beside them
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
    """Return how items were left out, in words: with `groups` or without, in so many `folds` or, for 0, each alone."""
    if folds:
        return f"{folds}-fold by group" if groups is not None else f"{folds}-fold"
    return "leave-one-out" if groups is None else "leave-group-out"


def feature_scale(mean: np.ndarray, deviation: np.ndarray, *, dtype: npt.DTypeLike, typical: np.ndarray | float = 0.0) -> np.ndarray:
    """Return what each feature is divided by (d,): its deviation, kept away from zero; infinity where nothing but rounding varies.

    A feature divided by infinity is zero, and so is a weight: dead features have no part in any class.

    - Dead: the deviation is at most 64 roundings of the larger of its mean and the typical deviation. A sum of hundreds of products of
      typical size is wrong by some roundings of that size, whatever it comes to. So is one whose deviation is below 0.001 of the typical:
      a feature that fires once in 60 items, by a thousandth of the others, would get weights of thousands to tell that one item. And so is
      one below 1e-19, whose weights, and variances, single precision cannot hold.
    - Beside a typical deviation, it counts as at least 0.01 of that, and as 0.001 of the mean, which is one step of half precision: what
      varies by less cannot be told from rounding once the network runs in half precision, and weights stay below 100 a typical deviation.

    `mean`: (d,); `deviation`: (d,) standard deviations; `typical`: deviation of features like these, one number or (d,); 0 where they have
    no common unit (columns of a table).
    """
    size, usual = np.abs(mean), np.broadcast_to(typical, mean.shape)
    dead = (deviation <= _ROUNDINGS * np.finfo(dtype).eps * np.maximum(size, usual)) | (deviation < _DEAD * usual)
    dead |= deviation < np.finfo(np.float32).tiny ** 0.5
    least = np.where(usual > 0, np.maximum(_LEAST * usual, _HALF * size), 0.0)
    return np.where(dead, np.inf, np.maximum(deviation, least))


def typical_deviation(mean: np.ndarray, deviation: np.ndarray, *, dtype: npt.DTypeLike) -> float:
    """Return the upper quartile of each `deviation` (d,) of features of this `dtype` that vary beside their `mean`; 0 where none does.

    Half of the channels of a network may be as good as dead, and a few may be huge; neither moves the upper quartile.

    `mean`: (d,); `deviation`: (d,) standard deviations.
    """
    alive = deviation > _ROUNDINGS * np.finfo(dtype).eps * np.abs(mean)
    return float(np.quantile(deviation[alive], 0.75, method="lower")) if alive.any() else 0.0


def mean_and_deviation(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the standard deviation (d,) of `features` (N, d), in blocks, float64."""
    mean = np.asarray(features.mean(axis=0, dtype=np.float64))
    squares, step = np.zeros(len(mean)), max(2**22 // len(mean), 1)
    for start in range(0, len(features), step):
        squares += np.square(features[start : start + step] - mean).sum(axis=0)
    return mean, np.sqrt(squares / len(features))


def spread_out(features: np.ndarray, *, standardise: bool, alike: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the scale, (d,) each, that bring `features` to mean 0 and, with `standardise`, to deviation 1 per feature.

    Without it, one scale brings the mean variance to 1. A feature that does not vary has an infinite scale: it becomes 0. With `alike`
    they are the outputs of one layer, so that what varies far less than the others counts as dead too (`feature_scale`).
    """
    mean, deviation = mean_and_deviation(features)
    typical = typical_deviation(mean, deviation, dtype=features.dtype) if alike else 0.0
    scale = feature_scale(mean, deviation, dtype=features.dtype, typical=typical)
    if not standardise:
        live = np.isfinite(scale)
        scale = np.where(live, np.sqrt(np.square(deviation[live]).mean()) if live.any() else 1.0, np.inf)
    return mean, scale


def centred(weight: np.ndarray, bias: np.ndarray) -> Head:
    """Return weight (C, d) and bias (C,) less their means over the classes: a softmax gives the same, and the scores are small numbers."""
    return weight - weight.mean(axis=0), bias - bias.mean()


def held_out_scores(
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]], folds: np.ndarray, *, targets: np.ndarray, classes: int
) -> np.ndarray:
    """Return the scores (N, C) of each item by a head that was fitted on the other folds.

    `fit`: from the rows to fit on, to a function from rows to their scores (n, classes present there, ascending); `folds`: (N,) the fold of
    each item; `targets`: (N,) class indices.
    """
    scores = np.empty((len(targets), classes))
    for fold in np.unique(folds):
        seen, unseen = np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)
        present = np.unique(targets[seen])
        if len(present) < 2:
            part = np.zeros((len(unseen), len(present)))
        else:
            part = fit(seen)(unseen)
        scores[unseen] = part.min(axis=1, keepdims=True) - NEVER
        scores[np.ix_(unseen, present)] = part
    return scores


def widened(head: Head, present: np.ndarray, *, classes: int) -> Head:
    """Return a head of all `classes` from one of those `present` (class indices): the others get the mean row, lowered."""
    weight, bias = np.tile(head[0].mean(axis=0), (classes, 1)), np.full(classes, head[1].mean() - NEVER)
    weight[present], bias[present] = head
    return weight, bias
