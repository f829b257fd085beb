"""Ridge regression on features, with the penalty chosen by the exact leave-one-out error from one decomposition."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from ..errors import DataError, SettingError, near_names
from .calibration import fit_temperature
from .common import (
    LinearProbe,
    blocks,
    centred,
    checked_features,
    checked_groups,
    checked_targets,
    feature_scale,
    held_out_name,
    typical_deviation,
)

PENALTIES = np.geomspace(1e-6, 1e3, 37)  # Candidate penalties, in units of the mean squared singular value
_KINDS = ("classification", "multi-label", "regression")
_LARGE = 2**24  # Number of entries above which features are read in float32 blocks and the path is evaluated on a sample of the examples
_JUDGED = 8192  # Size of that random sample
_BLOCK = 4096
_STRIP = 256
_WHOLE_PATH = 2e10  # Number of operations up to which every penalty is tried; above it, every fourth, then those around the best


@dataclass(frozen=True, eq=False)
class _System:
    """Decomposition of the weighted and centred features R (X - m) / s = U diag(√squares) V', for the path of penalties."""

    x: np.ndarray  # (n, d) unscaled
    y: np.ndarray  # (n, C)
    root: np.ndarray  # (n,) square roots of the example weights; their mean square is 1
    mean: np.ndarray  # (d,)
    scale: np.ndarray  # (d,)
    single: bool  # float32
    squares: np.ndarray  # (r,)
    vectors: np.ndarray  # V (d, r) if there are more examples than features, else U (n, r)
    projected: np.ndarray  # (1 + r, C): [root / √n, U]' R Y

    @property
    def tall(self) -> bool:
        return len(self.x) > len(self.mean)

    def shrink(self, penalty: float) -> np.ndarray:
        return np.concatenate([[1.0], self.squares / (self.squares + penalty)])

    def left(self, rows: np.ndarray | slice) -> np.ndarray:
        """Return [root / √n, U] for the given rows. The first column is the intercept, which is not penalised."""
        if self.tall:
            basis = self.vectors / np.sqrt(self.squares)
            directions = _block(self, rows) @ (basis.astype(np.float32) if self.single else basis)
        else:
            directions = self.vectors[rows]
        first = (self.root[rows] / np.sqrt(len(self.x))).astype(directions.dtype)
        return np.concatenate([first[:, None], directions], axis=1)

    def solve(self, penalty: float) -> tuple[np.ndarray, np.ndarray]:
        """Return weight (C, d) and bias (C,) for the unscaled features."""
        inner = self.projected[1:] / (self.squares + penalty)[:, None]
        if self.tall:
            weight = self.vectors @ (np.sqrt(self.squares)[:, None] * inner)
        else:
            factor = (self.vectors @ inner).astype(np.float32 if self.single else np.float64)
            weight = np.concatenate([_block(self, slice(None), columns=columns).T @ factor for columns in blocks(self.x.shape[1], _BLOCK)])
        weight = (weight / self.scale[:, None]).T.astype(np.float64)
        return weight, self.projected[0] / np.sqrt(len(self.x)) - weight @ self.mean


def fit_ridge(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    kind: str = "classification",
    classes: int = 0,
    groups: npt.ArrayLike | None = None,
    balanced: bool = False,
    standardise: bool = False,
) -> LinearProbe:
    """Fit ridge regression to one-hot (or real) targets and choose the penalty by the exact leave-one-out error.
    With the centred features X = U S V', the hat matrix is H = 1/N + U diag(s² / (s² + λ)) U'. The leave-one-out residual of example i is
    (y_i - ŷ_i) / (1 - h_i). The residuals of a group G under the fit without G are (I - H_GG)⁻¹ (y_G - ŷ_G). The `penalty` of the probe is
    in the unit of squared features.
    `features`: (N, d) finite numbers; `targets`: (N,) class indices, (N, C) of 0 and 1 (multi-label), or (N, C) numbers (regression);
    `groups`: (N,) groups (speaker, session, patient) whose examples are left out together.
    Source: the PRESS statistic (Allen, Technometrics 16, 1974); Hastie, Tibshirani & Friedman, The Elements of Statistical Learning, 2009,
    equation 7.64; for groups Cook & Weisberg, Residuals and Influence in Regression, 1982, chapter 3 (deletion of several rows). The
    temperature is fitted to the held-out scores (Guo et al., ICML 2017, section 4.2).
    Deviations: example weights and feature scales are computed once from all examples, also for the leave-one-out error. More than 2²⁴
    entries are read in float32 blocks. Then a random sample of 8,192 examples (whole groups) selects the penalty; the held-out scores are
    computed for all examples."""
    if kind not in _KINDS:
        raise SettingError(f"kind={kind!r} is unknown{near_names(kind, _KINDS)}")
    if balanced and kind != "classification":
        raise SettingError(f"balanced=True weighs the examples of each class; it has no meaning for kind={kind!r}. Leave it out.")
    x = checked_features(features, least=3, what="Ridge regression")
    y, root = _wanted(targets, kind=kind, classes=classes, count=len(x), balanced=balanced)
    members = checked_groups(groups, count=len(x))
    system = _decomposed(x, y, root=root, standardise=standardise)
    penalty, loo, path = _chosen(system, members)
    middle = 0.5 if kind == "multi-label" else 0.0
    loo -= middle
    temperature = 1.0 if kind == "regression" else fit_temperature(loo, y, kind=kind)
    weight, bias = system.solve(penalty)
    weight, bias = centred(weight, bias) if kind == "classification" else (weight, bias)
    loo *= temperature
    return LinearProbe(temperature * weight, temperature * (bias - middle), penalty, loo, temperature, held_out_name(members), path)


def _wanted(targets: npt.ArrayLike, *, kind: str, classes: int, count: int, balanced: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the targets (N, C) and the square roots (N,) of the example weights."""
    if kind == "classification":
        rows = checked_targets(targets, count=count, classes=classes)
        counts = np.bincount(rows, minlength=classes)
        weights = count / ((counts > 0).sum() * counts[rows]) if balanced else np.ones(count)
        return np.eye(classes)[rows], np.sqrt(weights)
    y = np.asarray(targets, np.float64)
    if y.ndim == 0 or len(y) != count or not np.isfinite(y).all():
        finite = bool(np.isfinite(y).all())
        raise DataError(f"Expected finite targets ({count}, C), one row an example; received the shape {y.shape}, finite: {finite}.")
    return y.reshape(count, -1), np.ones(count)


def _block(system: _System, rows: np.ndarray | slice, *, columns: slice = slice(None)) -> np.ndarray:
    """Return the weighted, centred and scaled features of the given rows and columns."""
    dtype = np.float32 if system.single else np.float64
    part: npt.NDArray[np.floating] = system.x[rows, columns].astype(dtype)
    part -= system.mean[columns].astype(dtype)
    if (system.scale != 1.0).any():
        part /= system.scale[columns].astype(dtype)
    if (system.root != 1.0).any():
        weights: npt.NDArray[np.floating] = system.root[rows].astype(dtype)
        part *= weights[:, None]
    return part


def _decomposed(x: np.ndarray, y: np.ndarray, *, root: np.ndarray, standardise: bool) -> _System:
    """Return the decomposition from the smaller Gram matrix; sums over blocks are in float64."""
    count, width, single = len(x), x.shape[1], x.size > _LARGE
    weights, ones, empty = np.square(root), np.ones(width), np.empty(0)
    mean = sum((weights[rows].astype(x.dtype) @ x[rows] for rows in blocks(count, _BLOCK)), np.zeros(width)) / count
    y_mean = weights @ y / count
    system = _System(x, y, root, mean, ones, single, empty, empty, empty)
    if standardise:
        spread = sum((np.square(_block(system, rows)).sum(axis=0) for rows in blocks(count, _BLOCK)), np.zeros(width)) / count
        typical = typical_deviation(mean, np.sqrt(spread), dtype=x.dtype)
        scale = feature_scale(mean, np.sqrt(spread), dtype=x.dtype, typical=typical)
        system = replace(system, scale=scale)
    wanted = root[:, None] * (y - y_mean)
    gram, crossed = np.zeros((min(x.shape),) * 2), np.zeros((width, y.shape[1]))
    for part in blocks(count if system.tall else width, _BLOCK):
        if system.tall:
            block = _block(system, part)
            crossed += block.T @ wanted[part].astype(block.dtype)
        else:
            block = _block(system, slice(None), columns=part).T
        gram += block.T @ block
    squares, vectors = _eigen(gram, single=single)
    inner = vectors.T @ crossed / np.sqrt(squares)[:, None] if system.tall else vectors.T @ wanted
    projected = np.concatenate([np.sqrt(count) * y_mean[None], inner])
    return replace(system, squares=squares, vectors=vectors, projected=projected)


def _eigen(gram: np.ndarray, *, single: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the eigenvalues (r,) of a Gram matrix above rounding errors, and their eigenvectors (n, r)."""
    squares, vectors = np.linalg.eigh(gram)
    highest = max(float(squares[-1]), 1e-30)
    kept = squares > (max(1e-6 * highest, 1e-5 * float(squares.mean())) if single else highest * len(squares) * np.finfo(np.float64).eps)
    if not kept.any():
        kept[-1] = True  # constant features: keep one zero direction, so that the probe predicts the mean
        vectors = np.zeros_like(vectors)
    return np.maximum(squares[kept], 1e-12), vectors[:, kept]


def _chosen(system: _System, groups: np.ndarray | None) -> tuple[float, np.ndarray, tuple[tuple[float, float], ...]]:
    """Return the penalty with the lowest held-out error, its held-out predictions (N, C), and (penalty, squared error) of all tried
    penalties, strongest first."""
    judged = _judges(system, groups)
    left, part = system.left(judged), None if groups is None else groups[judged]
    y, root = system.y[judged], system.root[judged]
    penalties, errors = PENALTIES * system.squares.mean(), np.full(len(PENALTIES), np.inf)

    def try_(places: np.ndarray) -> None:
        for place in places[np.isinf(errors[places])]:
            predicted = _held_out(left, system.shrink(penalties[place]), projected=system.projected, y=y, root=root, groups=part)
            errors[place] = np.square((predicted - y) * root[:, None]).mean()

    cost = 2.0 * left.size * y.shape[1] * len(penalties)
    places = np.arange(len(penalties))
    try_(places if cost <= _WHOLE_PATH else places[::4])
    best = int(np.argmin(errors))
    try_(places[max(best - 3, 0) : best + 4])
    penalty = float(penalties[np.argmin(errors)])
    tried = tuple((float(penalties[place]), float(errors[place])) for place in places[::-1] if np.isfinite(errors[place]))
    if len(judged) < len(system.x):
        return penalty, _held_out_blocks(system, penalty, groups=groups), tried
    return penalty, _held_out(left, system.shrink(penalty), projected=system.projected, y=y, root=root, groups=part), tried


def _judges(system: _System, groups: np.ndarray | None) -> np.ndarray:
    """Return the indices of the examples that evaluate the path: all, or for large data about 8,192, in whole groups."""
    count = len(system.x)
    if not system.single or count <= _JUDGED or not system.tall:
        return np.arange(count)
    draw = np.random.default_rng(0)
    if groups is None:
        return np.sort(draw.permutation(count)[:_JUDGED])
    sizes = np.bincount(groups)
    order = draw.permutation(len(sizes))
    taken = order[: max(int(np.searchsorted(np.cumsum(sizes[order]), _JUDGED)), 2)]
    return np.flatnonzero(np.isin(groups, taken))


def _held_out(
    left: np.ndarray, shrink: np.ndarray, *, projected: np.ndarray, y: np.ndarray, root: np.ndarray, groups: np.ndarray | None
) -> np.ndarray:
    """Return leave-one-out (or leave-group-out) predictions (n, C). `left` must hold all rows of each group."""
    residual = root[:, None] * y - left @ (shrink[:, None] * projected).astype(left.dtype)
    if groups is None:
        leverage = np.square(left) @ shrink.astype(left.dtype)
        return np.asarray(y - residual / (root * np.maximum(1 - leverage, 1e-9))[:, None])
    half = left * np.sqrt(shrink).astype(left.dtype)
    order = np.argsort(groups, kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(groups[order])) + 1):
        residual[rows] = _without(half[rows].astype(np.float64), residual[rows])
    return np.asarray(y - residual / root[:, None])


def _without(half: np.ndarray, residual: np.ndarray) -> np.ndarray:
    """Return (I - A A')⁻¹ r for the rows A of one group, from the smaller of two systems (Woodbury)."""
    if half.shape[0] <= half.shape[1]:
        return np.asarray(np.linalg.solve(np.eye(len(half)) - half @ half.T, residual))
    return np.asarray(residual + half @ np.linalg.solve(np.eye(half.shape[1]) - half.T @ half, half.T @ residual))


def _held_out_blocks(system: _System, penalty: float, *, groups: np.ndarray | None) -> np.ndarray:
    """Return the held-out predictions (N, C) of all examples, in blocks, for large data."""
    predicted, shrink = np.empty(system.y.shape), system.shrink(penalty)
    if groups is not None:
        order = np.argsort(groups, kind="stable")
        ends = np.cumsum(np.bincount(groups))
        for block in np.split(order, np.unique(ends[np.searchsorted(ends, np.arange(_BLOCK, len(order), _BLOCK))])):
            if len(block):
                given = {"projected": system.projected, "y": system.y[block], "root": system.root[block], "groups": groups[block]}
                predicted[block] = _held_out(system.left(block), shrink, **given)
        return predicted
    # (G + λ)⁻¹ = L L': L is triangular, which saves half of the products compared with eigenvectors
    inverse = (system.vectors * (1 / (system.squares + penalty) - 1 / penalty)) @ system.vectors.T + np.eye(len(system.vectors)) / penalty
    factor = np.linalg.cholesky(inverse).astype(np.float32)
    strips = [(start, np.ascontiguousarray(factor[start:, start : start + _STRIP])) for start in range(0, len(factor), _STRIP)]
    inner = system.projected[1:] * (np.sqrt(system.squares) / (system.squares + penalty))[:, None]
    weight = (system.vectors @ inner).astype(np.float32)
    y_mean = system.projected[0] / np.sqrt(len(system.x))
    for rows in blocks(len(system.x), _BLOCK):
        block, root, y = _block(system, rows), system.root[rows], system.y[rows]
        residual = root[:, None] * (y - y_mean) - block @ weight
        leverage = np.square(root) / len(system.x)
        for start, strip in strips:
            turned = block[:, start:] @ strip
            leverage += np.einsum("ij,ij->i", turned, turned)
        predicted[rows] = y - residual / (root * np.maximum(1 - leverage, 1e-9))[:, None]
    return predicted
