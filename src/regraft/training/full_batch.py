"""Minimise functions of many small vectors at once: every row is a problem of its own, and all rows are evaluated together.

Shape letters: V rows, A of them at work, M numbers in each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import SettingError, near_names

__all__ = ["FITS", "Evaluate", "Minimised", "adam", "lbfgs", "minimise", "normalised", "value_and_gradient"]

Evaluate = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""From values (A, M) and which rows they are of (A,) to the loss of each row (A,) and its gradient (A, M)."""

FITS = ("lbfgs", "adam", "normalised")
STEPS = {"lbfgs": 50, "adam": 200, "normalised": 200}
SIZES = {"lbfgs": 1.0, "adam": 0.02, "normalised": 0.01}
MEMORY = 10
SHORTEST = 8
"""Times that a step of L-BFGS is shortened before its row is taken to have arrived."""
FIRST = 1e-4
"""Share of its loss by which the first step of a row would lower it, at the least, if it fell on as steeply: however small the gradient,
such a step shows how the loss bends. A hundred times the usual tolerance."""
SMALL = 1e-5
"""Keeps the normalised step finite where the gradient vanishes."""
TINY = 1e-30
"""Keeps the first step of L-BFGS finite there; of a squared length."""


@dataclass(frozen=True)
class Minimised:
    """Where the rows came to.

    Attributes:
        values: (V, M) float64.
        losses: (V,) at the values.
        path: (S + 1, V) losses before the first step and after each; a row that has arrived keeps its last one.
        evaluations: how many times a row was evaluated, over all rows.
    """

    values: np.ndarray
    losses: np.ndarray
    path: np.ndarray
    evaluations: int


class _Counted:
    """Counts the rows that are evaluated."""

    def __init__(self, evaluate: Evaluate) -> None:
        self.evaluate = evaluate
        self.rows = 0

    def __call__(self, values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        self.rows += len(rows)
        losses, gradient = self.evaluate(values, rows)
        return np.asarray(losses, np.float64), np.asarray(gradient, np.float64)


def minimise(fit: str, evaluate: Evaluate, *, start: np.ndarray, steps: int | None = None, step: float | None = None) -> Minimised:
    """Minimise each row by the way of that name.

    `start`: (V, M); `steps`: at most so many, 1 or more; None: 50 for L-BFGS, 200 for the others; `step`: size of a step, above 0; None:
    0.02 for Adam, 0.01 for the normalised loop. L-BFGS finds its own.
    """
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
    """Return sums of losses by row, and the gradient of all of them together.

    `parts`: batches of losses (B,) that depend on the parameter, with the row (B,) in 0 … count - 1 that each belongs to; result: (count,)
    float64, and the gradient in the shape of the parameter.
    """
    totals, gradient = np.zeros(count), torch.zeros_like(parameter, requires_grad=False)
    for losses, rows in parts:
        gradient += torch.autograd.grad(losses.sum(), parameter)[0]
        np.add.at(totals, rows, losses.detach().double().cpu().numpy())
    return totals, gradient.double().cpu().numpy()


def normalised(evaluate: Evaluate, start: np.ndarray, *, steps: int, step: float) -> Minimised:
    """Take steps of one length: z <- z - step * g / (rms(g) + 1e-5), the mean square over the numbers of one row.

    `start`: (V, M).
    """

    def move(values: np.ndarray, gradient: np.ndarray, _number: int) -> np.ndarray:
        scale = np.sqrt(np.square(gradient).mean(axis=1, keepdims=True)) + SMALL
        return np.asarray(values - step * gradient / scale)

    return _walked(evaluate, start, steps=steps, move=move)


def adam(evaluate: Evaluate, start: np.ndarray, *, steps: int, step: float) -> Minimised:
    """Minimise by Adam with the usual constants, 0.9 and 0.999.

    `start`: (V, M).

    Source: Kingma & Ba 2015, arXiv:1412.6980, algorithm 1.
    """
    first, second = np.zeros(start.shape), np.zeros(start.shape)

    def move(values: np.ndarray, gradient: np.ndarray, number: int) -> np.ndarray:
        first[:] = 0.9 * first + 0.1 * gradient
        second[:] = 0.999 * second + 0.001 * np.square(gradient)
        mean, square = first / (1 - 0.9**number), second / (1 - 0.999**number)
        return np.asarray(values - step * mean / (np.sqrt(square) + 1e-8))

    return _walked(evaluate, start, steps=steps, move=move)


def _walked(evaluate: Evaluate, start: np.ndarray, *, steps: int, move: Callable[[np.ndarray, np.ndarray, int], np.ndarray]) -> Minimised:
    counted, values, rows = _Counted(evaluate), np.array(start, np.float64), np.arange(len(start))
    losses, gradient = counted(values, rows)
    path = [losses]
    for number in range(1, steps + 1):
        values = move(values, gradient, number)
        losses, gradient = counted(values, rows)
        path.append(losses)
    return Minimised(values, losses, np.array(path), counted.rows)


class _Memory:
    """The last steps of each row and the changes of its gradient; a pair without positive curvature is kept as nothing.

    Attributes:
        pairs: steps and changes, (V, M) each, with one over their product (V,), 0 for a pair that is kept as nothing.
        scale: (V,) one over the last curvature of each row; NaN where none has been seen yet.
    """

    def __init__(self, count: int) -> None:
        self.pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
        self.scale = np.full(count, np.nan)

    def add(self, step: np.ndarray, change: np.ndarray) -> None:
        """Keep one pair for each row; both are (V, M), zero in rows that did not move."""
        curvature, square = (step * change).sum(1), np.square(change).sum(1)
        good = curvature > 1e-10 * np.sqrt(np.square(step).sum(1) * square)
        inverse = np.where(good, 1.0 / np.where(good, curvature, 1.0), 0.0)
        self.scale = np.where(good, curvature / np.where(good, square, 1.0), self.scale)
        self.pairs = [*self.pairs[1 - MEMORY :], (step, change, inverse)]

    def direction(self, gradient: np.ndarray, rows: np.ndarray, *, losses: np.ndarray) -> np.ndarray:
        """Return the step that each of the rows would take, (A, M), from their gradient (A, M) and losses (A,), which are not 0."""
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


def lbfgs(evaluate: Evaluate, start: np.ndarray, *, steps: int = 50, tolerance: float = 1e-6) -> Minimised:
    """Minimise by L-BFGS, each row with a memory and a line search of its own: together or alone, a row goes the same way.

    `start`: (V, M); result: The last values, which are also the best.

    Source: Liu & Nocedal 1989, Mathematical Programming 45; Nocedal & Wright, Numerical Optimization, algorithms 7.4 and 3.1.

    Deviations: steps are shortened until the loss falls enough (Armijo); no second condition, pairs without curvature are left out. Until
    a curvature is known, steps go along the gradient, as far as it is long but 1 at most; where that is little beside the loss, further.
    """
    counted, values, memory = _Counted(evaluate), np.array(start, np.float64), _Memory(len(start))
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
    return Minimised(values, losses, np.array(path), counted.rows)


def _search_(state: tuple[np.ndarray, np.ndarray, np.ndarray], evaluate: Evaluate, *, rows: np.ndarray, direction: np.ndarray) -> None:
    """Move rows along their directions, as far as lowers their losses enough; a row for which nothing does stays where it is."""
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
        with np.errstate(all="ignore"):  # to the lowest point of the parabola through what is known of each
            lowest = -length[waiting] * slope[waiting] / (2 * (found[~good] - losses[rows[waiting]] - length[waiting] * slope[waiting]))
        length[waiting] *= np.asarray(np.where(np.isfinite(lowest), lowest, 0.1).clip(0.1, 0.5))
