"""What the probes share: checked inputs, folds that keep groups whole, and the linear head that most of them give."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from ..errors import DataError
from .calibration import fit_temperature, log_loss

__all__ = [
    "FOLDS",
    "NEVER",
    "Grid",
    "LinearProbe",
    "checked_features",
    "checked_groups",
    "checked_targets",
    "fit_path",
    "folds_of",
    "held_out_name",
    "held_out_scores",
    "spread_out",
    "widened",
]

FOLDS = 5
"""Parts of the data where a probe has no closed form for the items left out."""
_SMALL = 2**28
"""Products a step below which a solver runs on one thread: those of numpy and scipy wait for each other, ten times as long as they work."""
NEVER = 30.0
"""How far, in nats, the score of a class without items stays below the lowest of the others."""

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
        held_out: how the unseen items were chosen: "leave-one-out", "leave-group-out", "5-fold" or "5-fold by group".
    """

    weight: np.ndarray
    bias: np.ndarray
    penalty: float
    loo_scores: np.ndarray
    temperature: float
    held_out: str = "leave-one-out"

    def scores(self, features: npt.ArrayLike) -> np.ndarray:
        """Return the raw scores (N, C) of `features` (N, d)."""
        return np.asarray(np.asarray(features) @ self.weight.T + self.bias)

    def softened(self, targets: np.ndarray, *, kind: str) -> Self:
        """Return the same head less sure, as one to train on from: what fits best already leaves training hardly a way down.

        Its temperature fits targets that one further item of every class smooths. From such rows `full` and `partial` came out 1 to 2
        points better, on ten pairs of small networks and data, than from those that fit best.

        Args:
            targets: of the N items that it was fitted to, (N,) class indices, or (N, C) of 0 and 1.
            kind: "classification", "multi-label" or "regression", whose scores stay as they are.
        """
        if kind == "regression":
            return self
        truth = np.eye(len(self.bias))[targets] if kind == "classification" else np.asarray(targets, np.float64)
        factor = fit_temperature(self.loo_scores, truth, kind=kind, further=len(self.bias) if kind == "classification" else 2)
        scaled = {name: factor * getattr(self, name) for name in ("weight", "bias", "loo_scores", "temperature")}
        return replace(self, **scaled)


def checked_features(features: npt.ArrayLike, *, least: int = 1, what: str = "A probe") -> np.ndarray:
    """Return features (N, d) as an array that is known to be finite.

    Args:
        features: (N, d) numbers.
        least: N must not be lower.
        what: who asks, the first words of the message.

    Returns:
        The array as given, or float64 where it held whole numbers.

    Raises:
        DataError: if the shape is another, there are fewer items, or a number is not finite.
    """
    table = np.asarray(features)
    if table.ndim != 2 or table.shape[1] == 0:
        raise DataError(f"{what} takes features (N, d); received the shape {table.shape}. Pool or flatten them to one row an item.")
    table = table if table.dtype in (np.float32, np.float64) else table.astype(np.float64)
    row = next((row for row in _faulty_rows(table)), -1)
    if len(table) < least or row >= 0:
        finite = "all finite" if row < 0 else f"not finite in item {row}"
        raise DataError(
            f"{what} needs {least} or more items with finite features; received {len(table)} items, {finite}. "
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

    Args:
        targets: (N,) whole numbers from 0 to C-1.
        count: N.
        classes: C.

    Returns:
        The indices.

    Raises:
        DataError: if the shape is another, or a number is no class.
    """
    truth = np.asarray(targets)
    rows = truth.astype(np.int64) if truth.dtype.kind in "iufb" else None
    if rows is None or truth.shape != (count,) or not np.array_equal(rows, truth) or not 0 <= rows.min() <= rows.max() < classes:
        seen = f"{truth.dtype} {truth.shape}, such as {truth.ravel()[:3].tolist()}"
        raise DataError(f"Targets must be {count} whole numbers from 0 to {classes - 1}, one an item; received {seen}. Check `classes`.")
    return rows


def checked_groups(groups: npt.ArrayLike | None, *, count: int) -> np.ndarray | None:
    """Return a number from 0 for the group of each item, (N,), or None where none were given.

    Args:
        groups: (N,) names or numbers, the same for items that belong together (speaker, session, patient).
        count: N.

    Returns:
        The numbers.

    Raises:
        DataError: if there is not one group an item, or only one group in all.
    """
    if groups is None:
        return None
    names = np.asarray(groups)
    if names.shape != (count,):
        raise DataError(f"Expected the group of each of {count} items; received the shape {names.shape}.")
    kinds, numbers = np.unique(names, return_inverse=True)
    if len(kinds) < 2:
        raise DataError(f"All {count} items are of the group {names.tolist()[0]!r}; one can only be left out where there are 2 or more.")
    return numbers.astype(np.int64)


def folds_of(features: np.ndarray, targets: np.ndarray, *, groups: np.ndarray | None = None, count: int = FOLDS) -> np.ndarray:
    """Return the fold of each item: classes spread evenly, groups kept whole, the order of the rows without influence.

    Items are ordered by their class and their place along one random direction of feature space, then dealt out in turn; groups go,
    the largest first, to the fold that has fewest items of their classes.

    Args:
        features: (N, d).
        targets: (N,) class indices.
        groups: (N,) numbers of `checked_groups`.
        count: folds; fewer where there are fewer items or groups.

    Returns:
        (N,) numbers from 0.
    """
    places = features @ np.asarray(np.random.default_rng(0).standard_normal(features.shape[1]), features.dtype)
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


def spread_out(features: np.ndarray, *, standardise: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean and the scale, (d,) each, that bring `features` to mean 0 and, with `standardise`, to deviation 1 per feature.

    Without it, one scale brings the mean variance to 1. A feature that does not vary keeps its scale.
    """
    mean = np.asarray(features.mean(axis=0, dtype=np.float64))
    spread = np.asarray(np.square(features - mean).mean(axis=0, dtype=np.float64))
    real = spread > np.square(64 * np.finfo(features.dtype).eps * np.abs(mean))
    if not standardise:
        spread = np.full_like(spread, spread.mean())
    return mean, np.where(real if standardise else real.any(), np.sqrt(spread), 1.0)


def held_out_scores(
    fit: Callable[[np.ndarray], Callable[[np.ndarray], np.ndarray]], folds: np.ndarray, *, targets: np.ndarray, classes: int
) -> np.ndarray:
    """Return the scores (N, C) of each item by a head that was fitted on the other folds.

    Args:
        fit: from the rows to fit on, to a function from rows to their scores (n, classes present there, ascending).
        folds: (N,) the fold of each item.
        targets: (N,) class indices.
        classes: C.

    Returns:
        The scores; a class that a head did not see scores `NEVER` below the lowest.
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


@dataclass(frozen=True, eq=False)
class Grid:
    """Strengths to choose from.

    Attributes:
        values: of `C`, the inverse of the penalty, ascending.
        stride: the distance of those tried first.
        calibrated: the scores mean log-probabilities as they come; else each strength is judged after one factor is fitted to its scores.
    """

    values: np.ndarray
    stride: int
    calibrated: bool


@dataclass
class _Path:
    """Held-out scores and their loss along a grid of strengths; the estimators of the folds go on from where they were."""

    x: np.ndarray
    rows: np.ndarray
    folds: np.ndarray
    classes: int
    estimator: Any
    grid: Grid
    losses: np.ndarray
    best: tuple[np.ndarray, float] = (np.empty(0), 1.0)

    def __post_init__(self) -> None:
        self.wanted = np.eye(self.classes)[self.rows]
        self.started: dict[int, Any] = {int(fold): clone(self.estimator) for fold in np.unique(self.folds)}

    def try_(self, place: int) -> None:
        """Fit at one strength in every fold, once."""
        if not 0 <= place < len(self.grid.values) or np.isfinite(self.losses[place]):
            return

        def fit(seen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
            model = self.started[int(next(iter(set(self.started) - set(self.folds[seen].tolist()))))]
            model.set_params(C=float(self.grid.values[place])).fit(self.x[seen], self.rows[seen])
            weight, bias = _two_rows(model.coef_, model.intercept_)
            return lambda unseen: self.x[unseen] @ weight.T + bias

        scores = held_out_scores(fit, self.folds, targets=self.rows, classes=self.classes)
        factor = fit_temperature(scores, self.wanted)
        self.losses[place] = log_loss(scores if self.grid.calibrated else factor * scores, self.rows)
        if self.losses[place] <= self.losses.min():
            self.best = (scores, factor)


def fit_path(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    classes: int,
    groups: npt.ArrayLike | None,
    estimator: Any,
    grid: Grid,
    standardise: bool,
) -> LinearProbe:
    """Fit a linear classifier of scikit-learn at the strength with the lowest held-out log-loss.

    Every so many strengths are tried first, from the strongest penalty on, until the loss has risen twice in a row; then the
    neighbours of the best at half the distance, and so on.

    Args:
        features: (N, d) finite numbers.
        targets: (N,) class indices.
        classes: C.
        groups: (N,) what items belong to, or None.
        estimator: with a parameter `C`, the inverse of the penalty; with `warm_start` it goes on from the fit before.
        grid: the strengths.
        standardise: divide each feature by its deviation; else all by one number.

    Returns:
        The probe, for features as given; its `penalty` is 1 / C.

    Raises:
        DataError: if the items are of fewer than 2 classes.
    """
    name = type(estimator).__name__
    x = checked_features(features, least=2, what=name)
    rows = checked_targets(targets, count=len(x), classes=classes)
    members = checked_groups(groups, count=len(x))
    present = np.unique(rows)
    if len(present) < 2:
        raise DataError(f"{name} needs items of 2 or more classes; received {len(x)} of class {present[0]}. Add items of another class.")
    mean, scale = spread_out(x, standardise=standardise)
    table = ((x - mean) / scale).astype(x.dtype)
    folds = folds_of(table, rows, groups=members)
    path = _Path(table, rows, folds, classes, estimator, grid, np.full(len(grid.values), np.inf))
    with threadpool_limits(1 if table.size * classes < _SMALL else None, user_api="blas"):
        place = _search_(path)
        model = clone(estimator).set_params(C=float(grid.values[place])).fit(table, rows)
    weight, bias = widened(_two_rows(model.coef_, model.intercept_), present, classes=classes)
    weight = weight.astype(np.float64) / scale
    scores, factor = path.best
    words = held_out_name(members, folds=len(path.started))
    return LinearProbe(factor * weight, factor * (bias - weight @ mean), 1 / float(grid.values[place]), factor * scores, factor, words)


def _search_(path: _Path) -> int:
    """Fill in losses of `path`, coarse to fine; return the place of the lowest."""
    risen, lowest, stride = 0, np.inf, path.grid.stride
    for place in range(0, len(path.grid.values), stride):
        path.try_(place)
        risen = risen + 1 if path.losses[place] > lowest else 0
        lowest = min(lowest, path.losses[place])
        if risen == 2:
            break
    while stride > 1:
        stride //= 2
        best = int(np.argmin(path.losses))
        path.try_(best - stride)
        path.try_(best + stride)
    return int(np.argmin(path.losses))


def _two_rows(weight: np.ndarray, bias: np.ndarray) -> Head:
    """Return scikit-learn's one row of two classes as two of opposite signs, with the same probabilities; more rows as they are."""
    return (np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2) if len(weight) == 1 else (weight, bias)
