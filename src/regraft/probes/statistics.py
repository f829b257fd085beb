"""Additive class statistics of features (counts, means, within-class scatter), and linear discriminant analysis from them.

The statistics of two data sets can be joined, so a head can be solved again without the features of the first set.
Shape letters: N examples, C classes, d features.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve

from ..errors import DataError, SettingError
from ..words import counted
from .calibration import fit_temperature
from .common import (
    FOLDS,
    NEVER,
    LinearProbe,
    blocks,
    centred,
    checked_examples,
    feature_scale,
    folds_of,
    held_out_name,
    held_out_scores,
    typical_deviation,
)

_CHUNK = 2**20  # Number of float64 values per chunk: 8 MiB, three times which is held
_FEWEST_HELD_OUT = 10  # Minimum number of held-out examples minus classes for estimating within-class deviations
_ARRAYS = ("classes", "counts", "means", "scatter")
_WRITTEN = np.float32  # Type in which networks compute features. Statistics are sums in float64


@dataclass(frozen=True, eq=False)
class ClassStatistics:
    """Sufficient statistics for linear discriminant analysis.
    `held_out`: ratio of the logits of unseen examples to those of these examples: of the distances between class means (at most 1), and of
    the within-class deviations (at least 1)."""

    classes: tuple[str, ...]
    counts: np.ndarray  # (C,) float64, number of examples of each class
    means: np.ndarray  # (C, d) float64; zeros for a class without examples
    scatter: np.ndarray  # (d, d) float64, within-class scatter: the sum over examples of (x - mean_c)(x - mean_c)'
    every: int = 1  # 1 if the d columns are all features of a head; n if they are every n-th feature, followed by the logits of the head
    held_out: tuple[float, float] = (1.0, 1.0)

    @property
    def freedom(self) -> float:
        """Degrees of freedom of the covariance: number of examples minus number of classes with examples, at least 1."""
        return max(float(self.counts.sum()) - int((self.counts > 0).sum()), 1.0)

    @property
    def covariance(self) -> np.ndarray:
        """Pooled within-class covariance (d, d)."""
        return self.scatter / self.freedom

    def variances(self) -> np.ndarray:
        """Return the variance (d,) of each feature over all examples."""
        total = max(float(self.counts.sum()), 1.0)
        middle = self.counts @ self.means / total
        return np.asarray((np.diag(self.scatter) + self.counts @ np.square(self.means - middle)) / total)

    def scale(self) -> np.ndarray:
        """Return the divisor (d,) of each feature, infinity for constant features: `feature_scale` over all examples."""
        middle, deviation = self.counts @ self.means / max(float(self.counts.sum()), 1.0), np.sqrt(self.variances())
        typical = typical_deviation(middle, deviation, dtype=_WRITTEN)
        return feature_scale(middle, deviation, dtype=_WRITTEN, typical=typical)

    def joined(self, other: ClassStatistics, *, key: Callable[[str], str] = str) -> ClassStatistics:
        """Return the statistics of both data sets together. The order and the division of the data have no effect.
        A class in both gets n = n1 + n2, the mean m1 + (m2 - m1) n2 / n, and adds n1 n2 / n (m2 - m1)(m2 - m1)' to the scatter.
        `key`: function whose values are compared to match class names; by default the names themselves.
        Source: Chan, Golub & LeVeque 1983, The American Statistician 37:242-247 (the pairwise update), for vectors and classes."""
        if (self.means.shape[1], self.every) != (other.means.shape[1], other.every):
            widths = f"{self.means.shape[1]} and {other.means.shape[1]}"
            raise DataError(f"Statistics of {widths} features cannot be joined; both must be of the same features of one network.")
        old, new = _rows(self.classes, key), _rows(other.classes, key)
        added = [row for name, row in new.items() if name not in old]
        places = old | {name: len(self.classes) + index for index, name in enumerate(name for name in new if name not in old)}
        counts = np.concatenate([self.counts, np.zeros(len(added))])
        means = np.concatenate([self.means, np.zeros((len(added), self.means.shape[1]))])
        rows = np.array([places[name] for name in new], dtype=np.int64)
        counts, means, correction = _merged(counts, means, rows=rows, new_counts=other.counts, new_means=other.means)
        names = (*self.classes, *(other.classes[row] for row in added))
        return replace(self, classes=names, counts=counts, means=means, scatter=self.scatter + other.scatter + correction)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """Return plain arrays for a file. The class names are stored as the bytes of their JSON list (uint8)."""
        names = np.frombuffer(json.dumps(self.classes).encode(), dtype=np.uint8).copy()
        arrays = {"classes": names, "counts": self.counts, "means": self.means, "scatter": self.scatter}
        arrays |= {} if self.held_out == (1.0, 1.0) else {"held_out": np.array(self.held_out)}
        return arrays if self.every == 1 else {**arrays, "every": np.array([self.every], np.int64)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, npt.ArrayLike]) -> ClassStatistics:
        """Return the statistics from the arrays of `to_arrays`, after checks."""
        missing = [name for name in _ARRAYS if name not in arrays]
        if missing:
            raise DataError(f"Class statistics lack {', '.join(missing)}; expected the arrays {', '.join(_ARRAYS)}.")
        classes = _read_names(arrays["classes"])
        try:
            counts, means, scatter = (np.array(arrays[name], dtype=np.float64) for name in _ARRAYS[1:])
        except (TypeError, ValueError) as error:
            raise DataError(f"The arrays of the class statistics are not numbers: {error}. Write them again with to_arrays().") from error
        fault = _fault(len(classes), counts, means=means, scatter=scatter)
        if fault:
            raise DataError(
                f"The class statistics of {counted(len(classes), 'class')} are damaged: {fault}. Compute them again from the data."
            )
        every, held_out = read_every(arrays.get("every", 1)), _read_held_out(arrays.get("held_out", (1.0, 1.0)))
        return cls(classes, counts, means, scatter, every, held_out)


def statistics_of(features: npt.ArrayLike, targets: npt.ArrayLike, *, classes: Sequence[str]) -> ClassStatistics:
    """Return the class statistics of features, computed in chunks: a memory-mapped array is never loaded as a whole.
    `features`: (N, d) finite numbers, N may be 0; `targets`: (N,) integers, 0 … C-1; `classes`: the C class names."""
    table, truth = features if isinstance(features, np.ndarray) else np.asarray(features), np.asarray(targets)
    if table.ndim != 2 or table.shape[1] == 0 or truth.shape != table.shape[:1]:
        raise DataError(f"Expected features (N, d) and targets (N,); received the shapes {table.shape} and {truth.shape}.")
    rows = truth.astype(np.int64)
    if not np.array_equal(rows, truth) or (len(rows) and not 0 <= rows.min() <= rows.max() < len(classes)):
        span = f"{truth.min()} … {truth.max()} ({truth.dtype})"
        raise DataError(f"Targets must be whole numbers from 0 to {len(classes) - 1}, one for each class; received {span}.")
    width = table.shape[1]
    counts, means, scatter = np.zeros(len(classes)), np.zeros((len(classes), width)), np.zeros((width, width))
    for block in blocks(len(rows), max(_CHUNK // width, 1)):
        part = table[block].astype(np.float64)
        if not np.isfinite(part).all():
            row = block.start + int(np.flatnonzero(~np.isfinite(part).all(axis=1))[0])
            raise DataError(
                f"The features of example {row} are not finite: the network has diverged, or its input holds NaN. Check the data."
            )
        here, new_counts, new_means = _centre_(part, rows[block])
        counts, means, correction = _merged(counts, means, rows=here, new_counts=new_counts, new_means=new_means)
        scatter += part.T @ part + correction
    return ClassStatistics(tuple(map(str, classes)), counts, means, scatter)


def held_out_factors(seen: tuple[np.ndarray, np.ndarray], unseen: tuple[np.ndarray, np.ndarray]) -> tuple[float, float]:
    """Return the ratios between the logits of unseen examples and of training examples, for `ClassStatistics.held_out`.
    A head is more confident on its training examples, especially if there are few examples for its number of features. For 160 sentences
    and 384 to 3,840 features, class means of unseen examples were 0.6 to 0.7 times as far apart and deviations 1.5 to 3.7 times as large.
    `seen`: logits (N, C) and class indices (N,) of the training examples; `unseen`: the same for other examples, (n, C) and (n,). With too
    few examples the result is (1, 1)."""
    classes = np.intersect1d(seen[1], unseen[1])
    apart, spread = np.zeros(2), np.zeros(2)
    parts = [
        (scores[kept], np.searchsorted(classes, targets[kept]))
        for scores, targets in (seen, unseen)
        for kept in [np.isin(targets, classes)]
    ]
    if len(classes) < 2 or len(parts[1][1]) < len(classes) + _FEWEST_HELD_OUT:
        return 1.0, 1.0
    counts = [np.bincount(targets) for _, targets in parts]
    for column in range(parts[0][0].shape[1]):
        values = [scores[:, column].astype(np.float64) for scores, _ in parts]
        means = [np.bincount(t, weights=v) / n for (_, t), v, n in zip(parts, values, counts, strict=True)]
        first = means[0] - means[0].mean()
        apart += [first @ first, first @ means[1]]
        spread += [np.square(v - m[t]).sum() / (len(v) - len(classes)) for (_, t), v, m in zip(parts, values, means, strict=True)]
    if not (apart[0] > 0 and spread[0] > 0):
        return 1.0, 1.0
    return float(np.clip(apart[1] / apart[0], 0, 1)), float(np.sqrt(max(spread[1] / spread[0], 1)))


def fit_lda(
    statistics: ClassStatistics, *, shrinkage: float | None = None, balanced: bool = True, standardise: bool = False, strength: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return the head (weight (C, d) and bias (C,)) of linear discriminant analysis, from one Cholesky decomposition in float64.
    With S = (1 - a) covariance + a trace / d I and class means m_c centred on their mean, class c has the weights S⁻¹ m_c and the bias
    -m_c' S⁻¹ m_c / 2 + ln prior_c. The mean over the classes is subtracted from both, which leaves the softmax unchanged.
    `shrinkage`: a in [0, 1], or None for the OAS formula; `standardise`: shrink towards the variances of the single features instead of
    their mean, for features without a common unit; `strength`: 1 - (1 - a) ** strength replaces the a of the formula. A class without
    examples gets the mean weights of the others and a lowered bias, so that it is never predicted.
    Source: Fisher 1936; Ledoit & Wolf 2004 for the target of the shrinkage; Chen, Wiesel, Eldar & Hero 2010, IEEE Transactions on Signal
    Processing 58:5016-5029, equation (23) (OAS), for the default a.
    Deviations: OAS uses the degrees of freedom instead of n, because the class means are estimated. Constant features get no weight, and
    the variance of nearly constant features is raised to the bound of `feature_scale`. A term of rounding size on the diagonal keeps S
    invertible. If nothing varies within classes, S is I times the mean variance of the class means."""
    if shrinkage is not None and not 0.0 <= shrinkage <= 1.0:
        raise SettingError(f"shrinkage={shrinkage} is out of its range; expected a number from 0 to 1, or None for the formula.")
    present = statistics.counts > 0
    if not present.any():
        raise DataError(f"None of the {len(present)} classes has examples; a discriminant needs at least one.")
    means, counts = statistics.means[present], statistics.counts[present]
    weight, offsets = np.zeros(means.shape), np.zeros(len(counts))
    within = _within_covariance(statistics, shrinkage=shrinkage, standardise=standardise, strength=strength)
    if len(within.unit):
        about = means - means.mean(axis=0)
        weight = within.solve(about)
        offsets = -0.5 * (about * weight).sum(axis=1) - weight @ means.mean(axis=0)
    priors = np.full(len(counts), 1.0 / len(counts)) if balanced else counts / counts.sum()
    weight, offsets = centred(weight, offsets + np.log(priors))
    every, bias = np.zeros((len(present), means.shape[1])), np.full(len(present), offsets.mean() - NEVER)
    every[present], bias[present] = weight, offsets
    return every, bias


@dataclass(frozen=True, eq=False)
class _WithinCovariance:
    """Shrunk within-class covariance of the l features that vary, in scaled units."""

    live: np.ndarray  # (d,) bool, which features vary
    unit: np.ndarray  # (l,) unit of each of them
    matrix: np.ndarray  # (l, l) S, positive definite, of features divided by their units

    def solve(self, rows: np.ndarray) -> np.ndarray:
        """Return S⁻¹ x for each of the `rows` (n, d), in the original units; 0 for constant features."""
        made = np.zeros(rows.shape)
        factor = cho_factor(self.matrix, lower=True)
        made[:, self.live] = cho_solve(factor, (rows[:, self.live] / self.unit).T).T / self.unit
        return made


def _within_covariance(statistics: ClassStatistics, *, shrinkage: float | None, standardise: bool, strength: float) -> _WithinCovariance:
    """Return the shrunk within-class covariance that `fit_lda` inverts."""
    scale, means = statistics.scale(), statistics.means[statistics.counts > 0]
    live = np.isfinite(scale)
    if not live.any():
        return _WithinCovariance(live, np.ones(0), np.zeros((0, 0)))
    unit = scale[live] if standardise else np.ones(int(live.sum()))
    about = (means[:, live] - means[:, live].mean(axis=0)) / unit
    covariance = statistics.covariance[np.ix_(live, live)] / np.outer(unit, unit)
    lacking = np.square(scale[live] / unit) - statistics.variances()[live] / np.square(unit)
    covariance[np.diag_indices(len(unit))] += np.maximum(lacking, 0)
    size = float(np.abs(means[:, live] / unit).max())
    share = 1 - (1 - _oas(covariance, statistics.freedom)) ** strength if shrinkage is None else shrinkage
    return _WithinCovariance(live, unit, _regularised(covariance, about, size=size, shrinkage=share))


def shrunk_covariance(statistics: ClassStatistics) -> np.ndarray:
    """Return the within-class covariance (d, d) of `statistics`, shrunk as in `fit_lda`, so that it is invertible.
    Source: Chen, Wiesel, Eldar & Hero 2010, IEEE Transactions on Signal Processing 58:5016-5029, equation (23)."""
    means = statistics.means[statistics.counts > 0]
    size = np.abs(means).max()
    return _regularised(statistics.covariance, means, size=size, shrinkage=_oas(statistics.covariance, statistics.freedom))


def _regularised(covariance: np.ndarray, means: np.ndarray, *, size: float, shrinkage: float) -> np.ndarray:
    """Return S (d, d), positive definite. `size` is the largest absolute value in the class means."""
    width, eps = len(covariance), np.finfo(np.float64).eps
    trace = float(np.trace(covariance))
    if trace <= width * (64 * eps * size) ** 2:  # rounding errors of constant features
        spread = float(means.var(axis=0).mean())
        return np.eye(width) * (spread if spread > 0 else 1.0)
    shrunk = (1.0 - shrinkage) * covariance
    shrunk[np.diag_indices(width)] += shrinkage * trace / width + 10 * width * eps * trace
    return shrunk


def _oas(covariance: np.ndarray, freedom: float) -> float:
    """Return the shrinkage of Chen et al. 2010, equation (23)."""
    width = len(covariance)
    squared, square = float(np.square(covariance).sum()), float(np.trace(covariance)) ** 2
    above = (1 - 2 / width) * squared + square
    below = (freedom + 1 - 2 / width) * (squared - square / width)
    return 1.0 if below <= above else above / below


def _rows(classes: Sequence[str], key: Callable[[str], str]) -> dict[str, int]:
    rows = {key(name): row for row, name in enumerate(classes)}
    if len(rows) < len(classes):
        twice = next(name for row, name in enumerate(classes) if rows[key(name)] != row)
        raise DataError(f"Two of {len(classes)} class names are the same when compared: {twice!r} is there twice. Rename one.")
    return rows


def _merged(
    counts: np.ndarray, means: np.ndarray, *, rows: np.ndarray, new_counts: np.ndarray, new_means: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Merge new counts and means into the classes `rows`. Return counts, means and the resulting addition to the scatter."""
    counts, means = counts.copy(), means.copy()
    total = counts[rows] + new_counts
    share = np.divide(new_counts, total, out=np.zeros_like(total), where=total > 0)
    gaps = new_means - means[rows]
    scaled = gaps * np.sqrt(counts[rows] * share)[:, None]
    means[rows] += gaps * share[:, None]
    counts[rows] = total
    return counts, means, scaled.T @ scaled


def _centre_(part: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subtract the class means from `part` in place. Return the classes that occur, their counts and their means."""
    here, places, counts = np.unique(rows, return_inverse=True, return_counts=True)
    order = np.argsort(places, kind="stable")
    means = np.add.reduceat(part[order], np.concatenate([[0], np.cumsum(counts)[:-1]]), axis=0) / counts[:, None]
    part -= means[places]
    return here, counts.astype(np.float64), means


def _read_names(array: npt.ArrayLike) -> tuple[str, ...]:
    try:
        names = json.loads(np.asarray(array, dtype=np.uint8).tobytes().decode())
    except (TypeError, ValueError) as error:
        raise DataError(f"The class names of the statistics cannot be read: {error}. Expected the bytes of a JSON list.") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"The class names of the statistics are no list of different strings; received {str(names)[:80]}.")
    return tuple(names)


def read_every(array: npt.ArrayLike) -> int:
    """Return n, where every n-th feature of a head was used, from the array or number of a file."""
    try:
        given = np.asarray(array)
    except ValueError:  # lists of different lengths
        given = np.asarray(None)
    if given.size != 1 or given.dtype.kind not in "iu" or given.item() < 1:
        raise DataError(f"The statistics are of every {str(array)[:40]} features; expected one whole number, 1 or more.")
    return int(given.item())


def _read_held_out(array: npt.ArrayLike) -> tuple[float, float]:
    given = np.asarray(array)
    if given.shape != (2,) or given.dtype.kind not in "fiu" or not np.isfinite(given).all() or not 0 <= given[0] <= 1 <= given[1]:
        raise DataError(f"held_out of the statistics is {str(array)[:40]}; expected a number from 0 to 1, then one of 1 or more.")
    return float(given[0]), float(given[1])


def _fault(classes: int, counts: np.ndarray, *, means: np.ndarray, scatter: np.ndarray) -> str:
    """Return what is wrong with arrays read from a file, or an empty string."""
    width = means.shape[-1] if means.ndim == 2 else 0
    if width == 0 or (counts.shape, means.shape, scatter.shape) != ((classes,), (classes, width), (width, width)):
        return f"counts, means and scatter have the shapes {counts.shape}, {means.shape}, {scatter.shape}, not (C,), (C, d), (d, d)"
    if not all(np.isfinite(array).all() for array in (counts, means, scatter)):
        return "not all numbers are finite"
    if (counts < 0).any():
        return f"the lowest count is {counts.min()}"
    diagonal = np.diag(scatter)
    if (diagonal < 0).any() or not np.allclose(scatter, scatter.T, rtol=0.0, atol=1e-9 * float(diagonal.max())):
        return "the scatter is not symmetric with a diagonal >= 0"
    return ""


def fit_lda_probe(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    classes: int,
    groups: npt.ArrayLike | None = None,
    balanced: bool = False,
) -> LinearProbe:
    """Fit shrinkage LDA. Statistics are computed once per fold and joined for each training part.
    `features`: (N, d) finite numbers; `targets`: (N,) class indices; `groups`: (N,) groups whose examples are left out together;
    `balanced`: equal priors in place of the shares of the classes.
    Source: as for `fit_lda`; the temperature is fitted to the held-out logits (Guo et al., ICML 2017, section 4.2).
    Deviations: held-out logits come from 5 folds instead of leave-one-out. The shrinkage changes with each example left out, so a rank-one
    update of the inverse is not possible."""
    x, rows, members = checked_examples(features, targets, groups=groups, classes=classes, least=3, what="Discriminant analysis")
    folds = folds_of(x, rows, groups=members)
    names = [str(index) for index in range(classes)]
    parts = {int(fold): statistics_of(x[folds == fold], rows[folds == fold], classes=names) for fold in np.unique(folds)}

    def fit(seen: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
        statistics = reduce(ClassStatistics.joined, [parts[int(fold)] for fold in np.unique(folds[seen])])
        weight, bias = fit_lda(statistics, balanced=balanced)
        present = statistics.counts > 0
        return lambda unseen: x[unseen] @ weight[present].T + bias[present]

    weight, bias = fit_lda(reduce(ClassStatistics.joined, parts.values()), balanced=balanced)
    scores = held_out_scores(fit, folds, targets=rows, classes=classes)
    factor = fit_temperature(scores, np.eye(classes)[rows])
    name = held_out_name(members, folds=min(FOLDS, len(parts)))
    return LinearProbe(factor * weight, factor * bias, -1.0, factor * scores, factor, name)
