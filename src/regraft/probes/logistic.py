"""Logistic regression with an L2 penalty, fitted along a path of penalties.

Shape letters: N examples, C classes (or labels), d features, r <= d coordinates in which the problem is solved.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional

from ..errors import DataError, SettingError, near_names
from .calibration import fit_temperature
from .common import (
    NEVER,
    LinearProbe,
    blocks,
    centred,
    checked_features,
    checked_groups,
    checked_targets,
    folds_of,
    held_out_name,
    spread_out,
    widened,
)

GRID = np.geomspace(1e-6, 1e5, 45)  # Inverse penalties, four per decade, strongest penalty first
STRIDE = 4  # Grid step of the coarse search: one decade
LEAST_GAIN = 5e-4  # Minimum decrease of the held-out loss per decade, in nats. With less, weaker penalties are not tried
_SINGLE = 2**20  # Number of entries above which products are computed in float32. Sums over blocks, and steps, stay in float64
_PATH_STEPS, _LAST_STEPS = 100, 500  # Maximum number of L-BFGS steps along the path, and with the chosen penalty
_PATH_TOLERANCE, _LAST_TOLERANCE, _ROUNDING = 1e-6, 1e-8, 3e-7
"""Tolerance of the mean loss (a tenth of that of the gradient) along the path and for the final fit; rounding error of float32."""
_KINDS = ("classification", "multi-label")
_BLOCK = 4096


@dataclass(frozen=True, eq=False)
class LogisticLoss:
    """Data term of the objective."""

    kind: str = "classification"  # "classification" (softmax) or "multi-label" (one sigmoid per label)
    class_weight: np.ndarray | None = None  # (C,) weights >= 0 of the classes or labels; None for equal weights
    item_weight: np.ndarray | None = None  # (N,) weights >= 0 of the examples; None for equal weights
    label_smoothing: float = 0.0  # in [0, 1), as in `regraft.tasks.chosen_loss`
    offset: np.ndarray | None = None  # (N, C) fixed logits that are added to those of the head; None for none
    fixed: int = 0  # number of leading classes without own weights; their logits are the offset
    device: str = "cpu"  # device for the products, for example "cuda"


PLAIN = LogisticLoss()


def fit_logistic(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    classes: int,
    groups: npt.ArrayLike | None = None,
    standardise: bool = True,
    loss: LogisticLoss = PLAIN,
    judges: np.ndarray | None = None,
) -> LinearProbe:
    """Select the penalty with the lowest held-out log loss, then fit logistic regression on all examples with it, by L-BFGS.
    The objective is sum_i w_i loss(x_i W + b + o_i, y_i) + |W|^2 / (2 C_inverse). The loss is the cross entropy or, for multi-label, the
    sum of binary cross entropies. Penalties are tried from strong to weak in steps of a decade, each started from the previous solution,
    until the held-out loss stops falling. Then half and quarter decades around the best one are tried.
    `features`: (N, d) finite numbers; `targets`: (N,) class indices, or (N, C) of 0 and 1 ("multi-label"); `groups`: (N,) groups whose
    examples are left out together; `judges`: (m,) indices of the validation set that selects the penalty and is part of the final fit, or
    None for 5 folds. The probe applies to unscaled features. Its `penalty` is the factor of |W|^2 / 2. Its held-out logits are those of the
    `judges`, in their order, or of all examples. With an offset, add `temperature` times the offset to its logits.
    Source: Radford et al. (CLIP), ICML 2021, appendix A.3 (the path); Liu & Nocedal, Mathematical Programming 45, 1989 (L-BFGS).
    Deviations: features are centred and scaled first, and constant features get no weight. If there are more features than examples, the
    problem is solved in the span of the examples, which has the same minimum."""
    x = checked_features(features, least=2, what="Logistic regression")
    members = checked_groups(groups, count=len(x))
    y = _wanted(targets, loss, count=len(x), classes=classes)
    mean, scale = spread_out(x, standardise=standardise)
    basis, roots = _basis(x, mean, scale=scale)
    table = basis.table(roots)
    problem = _Problem(torch.as_tensor(table, device=loss.device), y, loss, np.flatnonzero(y.sum(axis=0) > 0))
    if judges is None:
        folds = folds_of(table, y.argmax(axis=1), groups=members)
        parts = [(np.flatnonzero(folds != fold), np.flatnonzero(folds == fold)) for fold in np.unique(folds)]
    else:
        parts = [(np.setdiff1d(np.arange(len(x)), judges), np.asarray(judges))]
    path = _Path(problem, parts, len(x) if judges is None else len(judges), judges)
    with threadpool_limits(1, user_api="blas"):  # torch has its own threads, and the two pools would wait for each other
        place = path.search_()
        solved = problem.of(np.arange(len(x))).solved(GRID[place], path.nearest(place), steps=_LAST_STEPS, tolerance=_LAST_TOLERANCE)
    weight, bias = basis.back(solved[:-1], roots), solved[-1]
    if loss.kind == "classification":
        weight, bias = centred(*widened((weight, bias), problem.present, classes=classes))
    scores, factor = path.best
    words = held_out_name(members, folds=len(parts)) if judges is None else "validation set"
    tried = tuple((1 / float(GRID[one]), path.losses[one]) for one in path.order)
    final = (factor * weight, factor * (bias - weight @ mean))
    return LinearProbe(*final, 1 / float(GRID[place]), factor * scores, factor, words, tried)


def _wanted(targets: npt.ArrayLike, loss: LogisticLoss, *, count: int, classes: int) -> np.ndarray:
    """Return the targets as a table (N, C) of 0 and 1."""
    if loss.kind not in _KINDS:
        raise SettingError(f"kind={loss.kind!r} is unknown{near_names(loss.kind, _KINDS)}")
    if loss.kind == "multi-label":
        y = np.asarray(targets, np.float64)
        if y.shape != (count, classes) or not np.isfinite(y).all():
            raise DataError(f"Expected finite targets ({count}, {classes}), one row an example; received the shape {y.shape}.")
        return y
    rows = checked_targets(targets, count=count, classes=classes)
    present = np.unique(rows)
    if len(present) < 2:
        raise DataError(
            f"Logistic regression needs examples of 2 or more classes; received {count} of class {present[0]}. "
            "Add examples of another class."
        )
    return np.asarray(np.eye(classes)[rows])


@dataclass(frozen=True, eq=False)
class _Basis:
    """Orthogonal basis of the centred and scaled features, and the conversion back to weights of the unscaled features.
    In these coordinates the Hessian of the loss is nearly diagonal, so a step size per direction works well."""

    x: np.ndarray  # (N, d) unscaled
    mean: np.ndarray  # (d,)
    scale: np.ndarray  # (d,)
    vectors: np.ndarray  # (d, r), or (N, r) if there are fewer examples than features

    def block(self, rows: slice, columns: slice) -> np.ndarray:
        """Return the centred and scaled features of the given rows and columns."""
        part: npt.NDArray[np.floating] = self.x[rows, columns].astype(self.dtype)
        part -= self.mean[columns].astype(self.dtype)
        part /= self.scale[columns].astype(self.dtype)
        return part

    @property
    def dtype(self) -> npt.DTypeLike:
        """Type for the products."""
        return np.float32 if self.x.size > _SINGLE else np.float64

    @property
    def tall(self) -> bool:
        """Whether there are at least as many examples as features."""
        return bool(self.x.shape[0] >= self.x.shape[1])

    def gram(self) -> np.ndarray:
        """Return the smaller Gram matrix of the features; sums over blocks are in float64."""
        count, width = self.x.shape
        gram = np.zeros((min(count, width),) * 2)
        for part in blocks(count if self.tall else width, _BLOCK):
            block = self.block(part, slice(None)).T if self.tall else self.block(slice(None), part)
            gram += block @ block.T
        return gram

    def table(self, roots: np.ndarray) -> np.ndarray:
        """Return the coordinates (N, r); `roots` (r,) are their lengths."""
        if not self.tall:
            return np.asarray(self.vectors * roots, self.dtype)
        made = np.empty((len(self.x), len(roots)), self.dtype)
        for rows in blocks(len(self.x), _BLOCK):
            np.matmul(self.block(rows, slice(None)), self.vectors.astype(self.dtype), out=made[rows])
        return made

    def back(self, weight: np.ndarray, roots: np.ndarray) -> np.ndarray:
        """Convert weights (r, C) of the coordinates to weights (C, d) of the unscaled features."""
        if self.tall:
            return np.asarray((self.vectors @ weight / self.scale[:, None]).T)
        inner = self.vectors @ (weight / np.maximum(roots, 1e-15)[:, None])
        parts = [self.block(slice(None), columns).T @ inner for columns in blocks(self.x.shape[1], _BLOCK)]
        return np.asarray((np.concatenate(parts) / self.scale[:, None]).T)


def _basis(x: np.ndarray, mean: np.ndarray, *, scale: np.ndarray) -> tuple[_Basis, np.ndarray]:
    """Return the basis and the lengths (r,) of its coordinates, without directions of rounding size."""
    plain = _Basis(x, mean, scale, np.empty((0, 0)))
    squares, vectors = np.linalg.eigh(plain.gram())
    least = 1e-6 if x.size > _SINGLE else len(squares) * np.finfo(np.float64).eps
    kept = squares > max(float(squares[-1]), 1e-30) * least
    kept[-1] = True  # constant features: keep one direction of length zero
    return _Basis(x, mean, scale, vectors[:, kept]), np.sqrt(np.maximum(squares[kept], 0))


@dataclass(frozen=True, eq=False)
class _Problem:
    """Optimisation problem: examples, targets, loss, and the classes that occur."""

    x: Tensor  # (n, r)
    y: np.ndarray  # (n, C) of 0 and 1
    loss: LogisticLoss
    present: np.ndarray  # for a softmax, the columns to fit

    def of(self, rows: np.ndarray) -> _Problem:
        """Return the problem restricted to the examples `rows`."""
        if len(rows) == len(self.y):
            return self
        weight, offset = (None if values is None else values[rows] for values in (self.loss.item_weight, self.loss.offset))
        loss = replace(self.loss, item_weight=weight, offset=offset)
        return _Problem(self.x[torch.from_numpy(rows)], self.y[rows], loss, np.flatnonzero(self.y[rows].sum(axis=0) > 0))

    @property
    def columns(self) -> np.ndarray:
        """Columns of the targets that have a column of weights."""
        return self.present if self.loss.kind == "classification" else np.arange(self.y.shape[1])

    def _shares(self) -> np.ndarray:
        """Return the weight (n, columns) of each target of each example, normalised to 1 on average over the examples."""
        smooth, columns = self.loss.label_smoothing, self.columns
        weight = np.ones(self.y.shape[1]) if self.loss.class_weight is None else np.asarray(self.loss.class_weight, np.float64)
        items = np.ones(len(self.y)) if self.loss.item_weight is None else np.asarray(self.loss.item_weight, np.float64)
        if self.loss.kind == "classification":
            spread = self.y[:, columns] * (1 - smooth) + smooth / len(columns)
            shares = spread * weight[columns] * items[:, None]
            return np.asarray(shares * len(self.y) / max(float((self.y @ weight) @ items), 1e-30))
        shares = np.broadcast_to(weight, self.y.shape) * items[:, None]
        return np.asarray(shares * self.y.size / max(float(shares.sum()), 1e-30))

    def solved(self, inverse: float, start: np.ndarray | None, *, steps: int, tolerance: float) -> np.ndarray:
        """Solve for an inverse penalty. Return weights and, in the last row, biases (r + 1, columns); `start` has the same shape."""
        count, columns, first = len(self.y), self.columns, int((self.columns < self.loss.fixed).sum())
        whole, shape = (self.x.shape[1] + 1, len(columns)), (self.x.shape[1] + 1, len(columns) - first)
        if self.loss.kind == "classification" and len(columns) < 2:
            return np.zeros(whole)
        shares = self.y[:, self.columns].mean(axis=0)
        curvature = max(float((shares * (1 - shares)).mean()), 1e-6)
        squares = self.x.square().mean(dim=0).double().cpu().numpy()
        lowest = np.append(np.full(len(squares), 1 / (inverse * len(self.y))), 0.0)
        steepness = np.asarray(np.sqrt(curvature * np.append(squares, 1.0) + lowest)[:, None])
        made: dict[str, Tensor] = {}
        offset = None if self.loss.offset is None else self.loss.offset[:, columns]
        smooth = self.loss.label_smoothing
        for name, values in (("shares", self._shares()), ("truth", self.y * (1 - smooth) + smooth / 2), ("offset", offset)):
            if values is not None:
                made[name] = torch.as_tensor(values, dtype=self.x.dtype, device=self.x.device)

        def evaluated(numbers: np.ndarray) -> tuple[float, np.ndarray]:
            values = numbers.reshape(shape) / steepness
            theta = torch.as_tensor(values, dtype=self.x.dtype, device=self.x.device)
            scores = torch.addmm(theta[-1], self.x, theta[:-1])
            if "offset" in made:
                own, scores = scores, made["offset"].clone()
                scores[:, first:] += own
            if self.loss.kind == "classification":
                logs = functional.log_softmax(scores, dim=1)
                value = -(made["shares"] * logs).sum(dtype=torch.float64)
                excess = logs.exp_() * made["shares"].sum(dim=1, keepdim=True) - made["shares"]
            else:
                value = (made["shares"] * (functional.softplus(scores) - made["truth"] * scores)).sum(dtype=torch.float64)
                excess = made["shares"] * (torch.sigmoid(scores) - made["truth"])
            excess = excess[:, first:]
            slope = torch.cat([self.x.T @ excess, excess.sum(dim=0, keepdim=True)]).double().cpu().numpy() / count
            slope[:-1] += values[:-1] / (inverse * count)
            return float(value) / count + float(np.square(values[:-1]).sum()) / (2 * inverse * count), (slope / steepness).ravel()

        begin = np.zeros(shape) if start is None or start.shape != whole else start[:, first:] * steepness
        tolerance = tolerance if self.x.dtype == torch.float64 else max(tolerance, _ROUNDING)
        options = {"maxiter": steps, "maxcor": 20, "gtol": 10 * tolerance, "ftol": tolerance, "maxls": 10}
        found = minimize(evaluated, begin.ravel(), jac=True, method="L-BFGS-B", options=options).x.reshape(shape)
        return np.pad(found / steepness, ((0, 0), (first, 0)))

    def scores(self, solved: np.ndarray, fitted: _Problem) -> np.ndarray:
        """Return the logits (n, C) of these examples from the solution of a `fitted` problem. Classes it lacks are lowest."""
        theta = torch.as_tensor(solved, dtype=self.x.dtype, device=self.x.device)
        made = torch.addmm(theta[-1], self.x, theta[:-1]).double().cpu().numpy()
        columns = fitted.columns
        made = made if self.loss.offset is None else made + self.loss.offset[:, columns]
        scores = np.empty(self.y.shape)
        scores[:] = made.min(axis=1, keepdims=True) - NEVER
        scores[:, columns] = made
        return scores


@dataclass
class _Path:
    """Held-out logits and losses along the grid. Each fold starts from its solution at the next stronger penalty."""

    problem: _Problem
    parts: list[tuple[np.ndarray, np.ndarray]]
    held: int
    judges: np.ndarray | None
    losses: dict[int, float] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)
    best: tuple[np.ndarray, float] = (np.empty(0), 1.0)

    def __post_init__(self) -> None:
        self.solutions: list[dict[int, np.ndarray]] = [{} for _ in self.parts]
        self.truth = self.problem.y if self.judges is None else self.problem.y[self.judges]

    def nearest(self, place: int, part: int = 0) -> np.ndarray | None:
        """Return the solution of a fold at the nearest penalty that is equal or stronger, or None."""
        known = [one for one in self.solutions[part] if one <= place]
        return self.solutions[part][max(known)] if known else None

    def try_(self, place: int) -> None:
        """Fit every fold at one penalty, unless done before."""
        if not 0 <= place < len(GRID) or place in self.losses:
            return
        scores = np.empty((self.held, self.problem.y.shape[1]))
        for part, (seen, unseen) in enumerate(self.parts):
            fitted, judged = self.problem.of(seen), self.problem.of(unseen)
            near = self.nearest(place, part)
            self.solutions[part][place] = fitted.solved(GRID[place], near, steps=_PATH_STEPS, tolerance=_PATH_TOLERANCE)
            rows = unseen if self.judges is None else slice(None)
            scores[rows] = judged.scores(self.solutions[part][place], fitted)
        self.losses[place] = _log_loss(scores, self.truth, kind=self.problem.loss.kind)
        self.order.append(place)
        if self.losses[place] <= min(self.losses.values()):
            self.best = (scores, fit_temperature(scores, self.truth, kind=self.problem.loss.kind))

    def search_(self) -> int:
        """Compute losses, coarse to fine. Return the grid index of the lowest."""
        lowest = np.inf
        for place in range(0, len(GRID), STRIDE):
            self.try_(place)
            moved = lowest < self.losses[0] - 20 * LEAST_GAIN  # the strongest penalties all keep the weights near zero
            if self.losses[place] > lowest - (LEAST_GAIN if moved else 0.0):
                break
            lowest = self.losses[place]
        stride = STRIDE
        while stride > 1:
            stride //= 2
            best = min(self.losses, key=lambda place: (self.losses[place], place))
            self.try_(best - stride)
            self.try_(best + stride)
        return min(self.losses, key=lambda place: (self.losses[place], place))


def _log_loss(scores: np.ndarray, truth: np.ndarray, *, kind: str) -> float:
    """Return the mean log loss of logits (n, C), in nats; for multi-label the mean over examples and labels."""
    if kind == "multi-label":
        return float((np.logaddexp(0, scores) - truth * scores).mean())
    return float(-(truth * log_softmax(scores, axis=1)).sum(axis=1).mean())
