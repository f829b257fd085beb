"""Fit of the codes of several conditions at once. Each has a prior whose weight is chosen on its own examples.

Shape letters: V conditions, n examples of one condition, K known codes, M numbers per code.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ...errors import SettingError, near_names
from ...methods.prior import WEIGHTS, CodePrior, chosen_weight, first_weight
from ...training.full_batch import FITS, Minimum, minimise
from .losses import CodeLosses

STARTS = ("mean", "zero", "nearest")
UNSUPERVISED = ("pseudo", "entropy")
FOLDS = 5  # Maximum number of cross-validation folds
FEWEST = 5  # Minimum number of examples for choosing the prior's weight by cross-validation


@dataclass(frozen=True)
class FitSettings:
    """Settings of the fit of codes.
    `start`: initial code: "mean", "zero", "nearest" (the known code with the lowest loss on the examples), or its numbers, (M,). `prior`:
    weight of the prior, >= 0; None: no prior. "auto": 1 for one or two examples, else 0.3; from five examples on, chosen by
    cross-validation."""

    start: Any = "mean"
    fit: str = "lbfgs"  # "lbfgs", "adam" or "normalised"
    steps: int | None = None  # maximum number of steps; None: the default of the method
    step: float | None = None  # step size; None: the default of the method
    prior: str | float | None = "auto"
    unsupervised: str | None = None  # None, "pseudo" (labels predicted with the initial code) or "entropy"
    seed: int = 0  # seed of the cross-validation folds

    def __post_init__(self) -> None:
        wanted = {"start": STARTS, "fit": FITS, "unsupervised": (None, *UNSUPERVISED)}
        for name, valid in wanted.items():
            value = getattr(self, name)
            given = name == "start" and not isinstance(value, str)
            if not given and value not in valid:
                raise SettingError(f"{name}={value!r} is not known{near_names(str(value), map(str, valid))}")
        number = isinstance(self.prior, int | float) and not isinstance(self.prior, bool)
        if not (self.prior is None or self.prior == "auto" or (number and 0 <= float(self.prior) < math.inf)):
            raise SettingError(f"prior={self.prior!r}: expected 'auto', a weight >= 0 such as 1, or None.")


@dataclass(frozen=True)
class FittedCodes:
    """Fitted codes."""

    codes: np.ndarray  # (V, M)
    weights: np.ndarray  # (V,) weights of the prior; 0 without a prior, infinite if the prior's mean was kept
    before: np.ndarray  # (V,) mean loss per example at the start
    after: np.ndarray  # (V,) mean loss per example at the codes
    evaluations: int  # number of evaluations of a row of codes


def rows_needed(counts: Sequence[int], *, choosing: bool) -> int:
    """Return the number of codes that are fitted at once. `counts`: examples per condition; `choosing`: whether to cross-validate."""
    tried = sum(_folds(count) for count in counts) * sum(math.isfinite(weight) for weight in WEIGHTS) if choosing else 0
    return max(len(counts), tried, 1)


def fit_codes(losses: CodeLosses, fitting: FitSettings, *, prior: CodePrior | None, start: np.ndarray) -> FittedCodes:
    """Fit one code for each row of `losses`, independently of the other rows. `prior`: over codes, or None; `start`: (V, M)."""
    members = losses.members
    before = np.array([part.mean() for part in losses.each(start, members)])
    weights, spent = _weights(losses, fitting, prior=prior, start=start)
    codes, free = start.copy(), np.flatnonzero(np.isfinite(weights))
    if prior is not None:
        codes[np.isinf(weights)] = prior.mean
    if len(free):
        losses.members = [members[int(row)] for row in free]
        found = _minimised(losses, fitting, prior=prior, weights=weights[free], start=start[free])
        codes[free], spent, losses.members = found.values, spent + found.evaluations, members
    after = np.array([part.mean() for part in losses.each(codes, members)])
    return FittedCodes(codes, weights, before, after, spent)


def _folds(count: int) -> int:
    return min(count, FOLDS) if count >= FEWEST else 0


def _weights(losses: CodeLosses, fitting: FitSettings, *, prior: CodePrior | None, start: np.ndarray) -> tuple[np.ndarray, int]:
    """Return the prior's weight for each condition, (V,), and the number of evaluations to choose it."""
    count = len(losses.members)
    if prior is None or fitting.prior is None:
        return np.zeros(count), 0
    if fitting.prior != "auto":
        return np.full(count, float(fitting.prior)), 0
    weights, spent = np.array([first_weight(len(part)) for part in losses.members]), 0
    chosen = [row for row in range(count) if _folds(len(losses.members[row]))]
    if chosen and fitting.unsupervised is None:
        left_out, spent = _left_out(losses, fitting, prior=prior, start=start, rows=chosen)
        weights[chosen] = [chosen_weight(tried) for tried in left_out]
    return weights, spent


def _left_out(
    losses: CodeLosses, fitting: FitSettings, *, prior: CodePrior, start: np.ndarray, rows: Sequence[int]
) -> tuple[list[np.ndarray], int]:
    """Return the loss of each example with a code fitted without it, (W, n) for each row, and the number of evaluations.
    The last of the W weights is infinite (the prior's mean). Each other weight and fold has its own code; all are fitted together."""
    members, tried = losses.members, [weight for weight in WEIGHTS if math.isfinite(weight)]
    folds = {row: _folded(members[row], fitting.seed) for row in rows}
    held = [part for row in rows for part in folds[row] for _ in tried]
    kept = [np.setdiff1d(members[row], part) for row in rows for part in folds[row] for _ in tried]
    owner = np.array([row for row in rows for _ in folds[row] for _ in tried], np.int64)
    losses.members = kept
    weights = np.array([weight for row in rows for _ in folds[row] for weight in tried])
    found = _minimised(losses, fitting, prior=prior, weights=weights, start=start[owner])
    by_row = losses.each(found.values, held)
    losses.members = [members[row] for row in rows]
    at_mean = losses.each(np.tile(prior.mean, (len(rows), 1)), losses.members)
    losses.members, tables, at = members, [], 0
    for place, row in enumerate(rows):
        order = np.argsort(np.concatenate(folds[row]))
        count = len(folds[row]) * len(tried)
        by_weight = [np.concatenate(by_row[at + w : at + count : len(tried)])[order] for w in range(len(tried))]
        tables.append(np.stack([*by_weight, at_mean[place][np.argsort(members[row])]]))
        at += count
    return tables, found.evaluations


def _folded(members: np.ndarray, seed: int) -> list[np.ndarray]:
    """Return the examples in cross-validation folds."""
    order = np.random.default_rng(seed).permutation(len(members))
    return [np.sort(members[part]) for part in np.array_split(order, _folds(len(members)))]


def _minimised(losses: CodeLosses, fitting: FitSettings, *, prior: CodePrior | None, weights: np.ndarray, start: np.ndarray) -> Minimum:
    """Minimise the loss plus the weighted penalty of the prior, both per example.
    L-BFGS works on whitened codes, in which the prior is isotropic."""
    how, steps, step = fitting.fit, fitting.steps, fitting.step
    counts = np.array([len(part) for part in losses.members], np.float64)

    def plain(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, gradient = losses(values, rows)
        return found / counts[rows], gradient / counts[rows, None]

    if prior is None or not weights.any():
        return minimise(how, plain, start=start, steps=steps, step=step)
    known, shares = prior, weights / counts

    def penalised(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, gradient = plain(values, rows)
        return found + shares[rows] * known.penalty(values), gradient + shares[rows, None] * known.gradient(values)

    def whitened(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found, gradient = plain(known.coloured(values), rows)
        return found + shares[rows] * 0.5 * np.square(values).sum(1), gradient @ known.factor + shares[rows, None] * values

    if how != "lbfgs":
        return minimise(how, penalised, start=start, steps=steps, step=step)
    reached = minimise(how, whitened, start=known.whitened(start), steps=steps, step=step)
    return Minimum(known.coloured(reached.values), reached.losses, reached.path, reached.evaluations)
