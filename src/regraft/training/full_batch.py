"""Full-batch minimisation of many small vectors at once: each row is its own problem, and all rows are evaluated together.

Shape letters: V rows, A of them active, M numbers per row.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingError, near_names

__all__ = ["FITS", "Evaluate", "Minimum", "adam", "lbfgs", "minimise", "normalised", "value_and_gradient"]

Evaluate = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""Function from values (A, M) and their row indices (A,) to the loss (A,) and the gradient (A, M) of each row."""

FITS = ("lbfgs", "adam", "normalised")
STEPS = {"lbfgs": 50, "adam": 200, "normalised": 200}
SIZES = {"lbfgs": 1.0, "adam": 0.02, "normalised": 0.01}
MEMORY = 10
SHORTEST = 8  # Maximum number of step lengths that the line search of L-BFGS tries
FIRST = 1e-4
"""Minimum relative decrease of a row's loss that the first step aims at by linear extrapolation. A step of this size shows the curvature
however small the gradient is. A hundred times the default tolerance."""
SMALL = 1e-5  # Keeps the normalised step finite where the gradient vanishes
TINY = 1e-30  # Keeps the first step of L-BFGS finite where the gradient vanishes; added to a squared length


@dataclass(frozen=True)
class Minimum:
    """Result of a minimisation."""

    values: np.ndarray  # (V, M) float64
    losses: np.ndarray  # (V,) losses at the values
    path: np.ndarray  # (S + 1, V) losses before the first step and after each step; a converged row keeps its last loss
    evaluations: int  # number of evaluations, summed over the rows


class _EvaluationCounter:
    """Wrapper of an evaluation function that counts the evaluated rows."""

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate = evaluate
        self.rows = 0

    def __call__(self, values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.rows += len(rows)
        losses, gradient = self.evaluate(values, rows)
        return np.asarray(losses, np.float64), np.asarray(gradient, np.float64)


def minimise(fit: str, evaluate: Evaluate, *, start: np.ndarray, steps: int | None = None, step: float | None = None) -> Minimum:
    """Minimise each row with the method `fit`, one of `FITS`.
    `start`: (V, M). `steps`: maximum number of steps, 1 or more; None: 50 for L-BFGS, 200 for the others. `step`: step size, above 0; None:
    0.02 for Adam, 0.01 for normalised steps. L-BFGS ignores it."""
    if fit not in FITS:
        raise SettingError(f"fit={fit!r} is not known{near_names(str(fit), FITS)}")
    count, size = STEPS[fit] if steps is None else steps, SIZES[fit] if step is None else step
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise SettingError(f"steps={steps!r} is out of range; expected a whole number, 1 or more, such as {STEPS[fit]}.")
    if not isinstance(size, int | float) or not 0 < size < float("inf"):
        raise SettingError(f"step={step!r} is out of range; expected a number above 0, such as {SIZES[fit]}.")
    if fit == "lbfgs":
        return lbfgs(evaluate, start, steps=count)
    return (adam if fit == "adam" else normalised)(evaluate, start, steps=count, step=size)


def value_and_gradient(parts: Iterable[tuple[Tensor, np.ndarray]], parameter: Tensor, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of losses of each row, (count,) float64, and the gradient of their total, in the shape of the parameter.
    `parts`: batches of losses (B,) that depend on the parameter, with the row of each, (B,) in 0 … count - 1."""
    totals, gradient = np.zeros(count), torch.zeros_like(parameter, requires_grad=False)
    for losses, rows in parts:
        gradient += torch.autograd.grad(losses.sum(), parameter)[0]
        np.add.at(totals, rows, losses.detach().double().cpu().numpy())
    return totals, gradient.double().cpu().numpy()


def normalised(evaluate: Evaluate, start: np.ndarray, *, steps: int, step: float) -> Minimum:
    """Minimise with steps of constant length: z <- z - step * g / (rms(g) + 1e-5), with the RMS over one row. `start`: (V, M)."""

    def move(values: np.ndarray, gradient: np.ndarray, _number: int) -> np.ndarray:
        scale = np.sqrt(np.square(gradient).mean(axis=1, keepdims=True)) + SMALL
        return np.asarray(values - step * gradient / scale)

    return _walked(evaluate, start, steps=steps, move=move)


def adam(evaluate: Evaluate, start: np.ndarray, *, steps: int, step: float) -> Minimum:
    """Minimise by Adam with beta 0.9 and 0.999. `start`: (V, M). Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1."""
    first, second = np.zeros(start.shape), np.zeros(start.shape)

    def move(values: np.ndarray, gradient: np.ndarray, number: int) -> np.ndarray:
        first[:] = 0.9 * first + 0.1 * gradient
        second[:] = 0.999 * second + 0.001 * np.square(gradient)
        mean, square = first / (1 - 0.9**number), second / (1 - 0.999**number)
        return np.asarray(values - step * mean / (np.sqrt(square) + 1e-8))

    return _walked(evaluate, start, steps=steps, move=move)


def _walked(evaluate: Evaluate, start: np.ndarray, *, steps: int, move: Callable[[np.ndarray, np.ndarray, int], np.ndarray]) -> Minimum:
    counted, values, rows = _EvaluationCounter(evaluate), np.array(start, np.float64), np.arange(len(start))
    losses, gradient = counted(values, rows)
    path = [losses]
    for number in range(1, steps + 1):
        values = move(values, gradient, number)
        losses, gradient = counted(values, rows)
        path.append(losses)
    return Minimum(values, losses, np.array(path), counted.rows)


class _Memory:
    """L-BFGS memory: the last steps of each row and the changes of its gradient. Pairs without positive curvature have no effect.
    `pairs`: steps and gradient changes, (V, M) each, with the inverse of their inner product (V,), 0 for a pair without effect. `scale`:
    (V,) initial inverse-Hessian scale from the last valid pair of each row; NaN before the first."""

    def __init__(self, count: int) -> None:
        self.pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.scale = np.full(count, np.nan)

    def add(self, step: np.ndarray, change: np.ndarray) -> None:
        """Store one pair per row; both are (V, M), zero in rows that did not move."""
        curvature, square = (step * change).sum(1), np.square(change).sum(1)
        good = curvature > 1e-10 * np.sqrt(np.square(step).sum(1) * square)
        inverse = np.where(good, 1.0 / np.where(good, curvature, 1.0), 0.0)
        self.scale = np.where(good, curvature / np.where(good, square, 1.0), self.scale)
        self.pairs = [*self.pairs[1 - MEMORY :], (step, change, inverse)]

    def direction(self, gradient: np.ndarray, rows: np.ndarray, *, losses: np.ndarray) -> np.ndarray:
        """Return the search direction of each row, (A, M), from its gradient (A, M) and its loss (A,), which must not be 0."""
        left, weights = gradient.copy(), []
        for step, change, inverse in reversed(self.pairs):
            weight = inverse[rows] * (step[rows] * left).sum(1)
            left -= weight[:, None] * change[rows]
            weights.append(weight)
        square = np.square(gradient).sum(1)
        first = np.maximum(1.0 / np.maximum(1.0, np.sqrt(square)), FIRST * losses / np.maximum(square, TINY))
        left *= np.where(np.isnan(self.scale[rows]), first, self.scale[rows])[:, None]
        for (step, change, inverse), weight in zip(self.pairs, reversed(weights), strict=True):
            left += (weight - inverse[rows] * (change[rows] * left).sum(1))[:, None] * step[rows]
        return -left


def lbfgs(evaluate: Evaluate, start: np.ndarray, *, steps: int = 50, tolerance: float = 1e-6) -> Minimum:
    """Minimise by L-BFGS. Each row has its own memory and line search, so that its path does not depend on the other rows.
    `start`: (V, M). The last values are also the best.
    Source: Liu & Nocedal 1989, Mathematical Programming 45; Nocedal & Wright, Numerical Optimization, algorithms 7.4 and 3.1.
    Deviations: the line search checks the Armijo condition alone and no curvature condition; pairs without positive curvature are left out.
    Before any curvature is known, the step follows the gradient with a length of at most 1, or more if the loss would change little."""
    counted, values, memory = _EvaluationCounter(evaluate), np.array(start, np.float64), _Memory(len(start))
    losses, gradient = counted(values, np.arange(len(values)))
    path, at_work = [losses.copy()], np.abs(gradient).max(1, initial=0.0) > 0
    for _ in range(steps):
        rows = np.flatnonzero(at_work)
        sizes = np.maximum(np.abs(losses[rows]), tolerance)
        direction = memory.direction(gradient[rows], rows, losses=sizes)
        expected = -(gradient[rows] * direction).sum(1) > tolerance * sizes
        at_work[rows] = expected
        rows, direction = rows[expected], direction[expected]
        if not len(rows):
            break
        before = values.copy(), losses.copy(), gradient.copy()
        _search_((values, losses, gradient), counted, rows=rows, direction=direction)
        memory.add(values - before[0], gradient - before[2])
        at_work &= before[1] - losses > tolerance * np.maximum(np.abs(losses), tolerance)
        path.append(losses.copy())
    return Minimum(values, losses, np.array(path), counted.rows)


def _search_(state: tuple[np.ndarray, np.ndarray, np.ndarray], evaluate: Evaluate, *, rows: np.ndarray, direction: np.ndarray) -> None:
    """Backtracking line search, in place. A row without a sufficient decrease stays where it is."""
    values, losses, gradient = state
    slope, length, waiting = (gradient[rows] * direction).sum(1), np.ones(len(rows)), np.arange(len(rows))
    for _ in range(SHORTEST):
        chosen = rows[waiting]
        tried = values[chosen] + length[waiting, None] * direction[waiting]
        found, slopes = evaluate(tried, chosen)
        good = found <= losses[chosen] + 1e-4 * length[waiting] * slope[waiting]
        done = chosen[good]
        values[done], losses[done], gradient[done] = tried[good], found[good], slopes[good]
        waiting = waiting[~good]
        if not len(waiting):
            return
        with np.errstate(all="ignore"):  # to the minimum of the parabola through the loss, its slope and the tried loss
            lowest = -length[waiting] * slope[waiting] / (2 * (found[~good] - losses[rows[waiting]] - length[waiting] * slope[waiting]))
        length[waiting] *= np.asarray(np.where(np.isfinite(lowest), lowest, 0.1).clip(0.1, 0.5))
