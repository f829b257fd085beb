"""Items of no known class: scores of not belonging, and the choice between them by hiding classes in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from sklearn.metrics import roc_auc_score

from ..errors import DataError, SettingError, near_names
from ..files.schema import Plain, checked
from .common import checked_features, checked_groups, checked_targets, folds_of
from .knn import nearest, unit_rows
from .statistics import ClassStatistics, fit_lda, shrunk_covariance, statistics_of

__all__ = ["UNKNOWN_SCORES", "UnknownChoice", "UnknownJudge", "choose_unknown", "unknown_scores"]

UNKNOWN_SCORES = ("combined", "energy", "mahalanobis", "max_logit", "max_probability", "nearest", "neighbour", "relative", "vim")
_OF_ITEMS = ("combined", "nearest", "neighbour")
"""Scores that need the features of known items."""
_LEAST_AUROC = 0.6
"""A choice whose area under the curve may be below this, two standard errors taken off, tells too little to rely on."""
_NEIGHBOURS = 5
_CHUNK = 2**22
_REPEATS = 5


@dataclass(frozen=True)
class UnknownChoice:
    """Which score tells unknown items best, and from where on; plain numbers, to be saved with a network.

    Attributes:
        score: one of `UNKNOWN_SCORES`.
        threshold: an item that scores above it is unknown.
        false_alarm: the share of known items, not fitted on, that score above it.
        auroc: for each score, the mean over repeats of the area under the curve; 0.5 is chance.
        auroc_error: for each score, the standard error of that mean.
        detected: for each score, the share of unknown items found at the false-alarm rate.
        repeats: how often classes were hidden; each class was once.
    """

    score: str
    threshold: float
    false_alarm: float
    auroc: dict[str, float]
    auroc_error: dict[str, float]
    detected: dict[str, float]
    repeats: int

    @property
    def weak(self) -> bool:
        """Whether the chosen score told hidden classes from known ones too badly to rely on."""
        return self.auroc[self.score] - 2 * self.auroc_error[self.score] < _LEAST_AUROC

    def described(self) -> str:
        """Return how well it tells items of no known class, as a sentence."""
        area, found = self.auroc[self.score], self.detected[self.score]
        how = f"with classes hidden in turn, the score {self.score!r} tells them with an area under the curve of {area:.2f}"
        said = f"Examples of no known class: {how}; at {self.false_alarm:.0%} false alarms it finds {found:.0%}."
        return (
            f"{said} That is too little to rely on: the features do not separate unknown examples from known ones." if self.weak else said
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and dictionaries."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> UnknownChoice:
        """Return the choice that `to_dict` gave."""
        checked(data, _Choice, what="The choice of a score of unknown examples", error=DataError)
        return cls(**{field.name: data[field.name] for field in fields(cls)})


class _Choice(Plain):
    """A choice as it stands in a file, with what the judge adds to it."""

    score: Literal[UNKNOWN_SCORES]  # type: ignore[valid-type]  # the names in one place
    threshold: float
    false_alarm: Annotated[float, Field(gt=0.0, lt=1.0)]
    auroc: dict[str, float]
    auroc_error: dict[str, float]
    detected: dict[str, float]
    repeats: int
    every: Annotated[int, Field(ge=1)] = 1


class UnknownJudge:
    """Tells which items belong to no class that a network knows, from the features that its head reads.

    `reference`: (R, d) those features of known items, for scores that need them; None for others.
    """

    def __init__(self, choice: UnknownChoice, statistics: ClassStatistics, *, every: int = 1, reference: np.ndarray | None = None) -> None:
        self.choice = choice
        self.statistics = statistics
        self.every = every
        self.reference = reference if choice.score in _OF_ITEMS else None

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return how little each item belongs to any known class, (N,), of features (N, d)."""
        looked_at = np.asarray(features)[:, :: self.every]
        names, reference = (self.choice.score,), self.reference
        return unknown_scores(looked_at, statistics=self.statistics, names=names, reference=reference)[self.choice.score]

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return whether each item is unknown, (N,) bool, of features (N, d)."""
        return np.asarray(self.scores(features) > self.choice.threshold)

    def check(self, width: int) -> None:
        """Raise unless it looks at features of this width."""
        looked_at, known = len(range(0, width, self.every)), self.statistics.means.shape[1]
        if looked_at != known:
            raise DataError(f"It knows {known} features and looks at {looked_at} of {width}; both must be of one network.")

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as plain data; the statistics are saved beside it."""
        return {**self.choice.to_dict(), "every": self.every}

    def own_arrays(self) -> dict[str, np.ndarray] | None:
        """Return what it needs as arrays; None where that is the statistics of all features, which a network keeps itself."""
        if self.reference is None:
            return self.statistics.to_arrays() if self.every > 1 else None
        return {**self.statistics.to_arrays(), "reference": self.reference}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], arrays: Mapping[str, npt.ArrayLike]) -> UnknownJudge:
        """Return the judge that `to_dict` gave."""
        choice, statistics = UnknownChoice.from_dict(data), ClassStatistics.from_arrays(arrays)
        reference = np.asarray(arrays["reference"]) if "reference" in arrays else None
        if choice.score in _OF_ITEMS and reference is None:
            raise DataError(f"The score {choice.score!r} of unknown examples needs the features of known examples, which are missing.")
        if reference is not None and (reference.ndim != 2 or not len(reference) or reference.shape[1] != statistics.means.shape[1]):
            shape = f"{statistics.means.shape[1]} features"
            raise DataError(f"The features of known examples have the shape {reference.shape}; expected one or more rows of {shape}.")
        if reference is not None and not (reference.dtype.kind == "f" and np.isfinite(reference).all()):
            raise DataError(f"The features of known examples are of type {reference.dtype}; expected finite floating-point numbers.")
        return cls(choice, statistics, every=int(data.get("every", 1)), reference=reference)


def unknown_scores(
    features: npt.ArrayLike,
    *,
    statistics: ClassStatistics,
    names: Sequence[str] = UNKNOWN_SCORES,
    reference: npt.ArrayLike | None = None,
) -> dict[str, np.ndarray]:
    """Return how little each item belongs to any known class; higher is less.

    - max_probability: minus the highest probability, the softmax of the logits, which are those of shrinkage LDA.
    - max_logit: minus the highest logit.
    - energy: minus the log of the sum of the exponentials of the logits.
    - mahalanobis: the lowest squared distance to a class mean, in the covariance within classes.
    - relative: that, less the squared distance to the mean of all in the covariance of all.
    - nearest: the lowest squared distance to an item of `reference`, in the covariance within classes.
    - combined: the sum of nearest and relative, which are in the same units.
    - neighbour: one less the cosine with the fifth-nearest item of `reference`.
    - vim: the length of the part of the features outside the directions in which known items vary most, less the log of the sum of the
      exponentials of the logits.

    `features`: (N, d) finite numbers; `reference`: (R, d) known items; "nearest", "combined" and "neighbour" need them; result: For each
    name, (N,).

    Source: Hendrycks & Gimpel, ICLR 2017 (maximum probability); Vaze et al., ICLR 2022, section 4 (maximum logit); Liu et al., NeurIPS
    2020, equation 4 (energy); Lee et al., NeurIPS 2018, equation 2 (Mahalanobis); Ren et al., arXiv:2106.09022, equation 3 (relative);
    Sun et al., ICML 2022, section 3 (neighbours); Wang et al., CVPR 2022, section 4 (ViM). Deviations: "nearest" and "combined" are our
    own; for ViM half of the directions are principal, around the mean of all, and the scale that the paper takes from items is taken
    from the class means and the covariance.
    """
    unknown = next((name for name in names if name not in UNKNOWN_SCORES), None)
    if unknown is not None:
        raise SettingError(f"No score of unknown examples is called {unknown!r}{near_names(unknown, UNKNOWN_SCORES)}")
    lacking = [name for name in names if name in _OF_ITEMS and reference is None]
    if lacking:
        raise SettingError(f"The score {lacking[0]!r} needs `reference`, the features of known examples; give it, or leave the score out.")
    x = checked_features(features, what="A score of unknown examples")
    if x.shape[1] != statistics.means.shape[1]:
        raise DataError(f"Features are {x.shape[1]} wide, the statistics {statistics.means.shape[1]}; both must be of one network.")
    found: dict[str, np.ndarray] = {}
    if {"max_logit", "max_probability", "energy", "vim"} & set(names):
        rows = fit_lda(statistics)
        table = x @ rows[0].T + rows[1]
        total = np.asarray(logsumexp(table, axis=1))
        found |= {"max_logit": -table.max(axis=1), "energy": -total, "max_probability": -np.exp(table.max(axis=1) - total)}
        found |= {"vim": _residual(x, statistics, rows=rows) - total} if "vim" in names else {}
    if {"mahalanobis", "relative", "nearest", "combined"} & set(names):
        found |= _distances(x, statistics, reference=None if reference is None else np.asarray(reference))
    if "neighbour" in names and reference is not None:
        known = unit_rows(np.asarray(reference, np.float64))
        cosines, _ = nearest(unit_rows(x), known, count=min(_NEIGHBOURS, len(known)))
        found["neighbour"] = 1 - cosines[:, -1]
    return {name: found[name] for name in names}


def _whole(statistics: ClassStatistics) -> tuple[np.ndarray, ClassStatistics]:
    """Return the mean (d,) of all items, and their statistics as if they were of one class."""
    counts = statistics.counts
    middle = counts @ statistics.means / counts.sum()
    scaled = (statistics.means - middle) * np.sqrt(counts)[:, None]
    return middle, ClassStatistics(("all",), np.array([counts.sum()]), middle[None], statistics.scatter + scaled.T @ scaled)


def _distances(x: np.ndarray, statistics: ClassStatistics, *, reference: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the scores (N,) that are squared distances of features whitened by the covariance within classes, or by that of all."""
    middle, whole = _whole(statistics)
    within, total = (np.linalg.cholesky(shrunk_covariance(part)) for part in (statistics, whole))
    inside = _whitened(x, middle, by=within)
    near = _least(inside, _whitened(statistics.means[statistics.counts > 0], middle, by=within))
    relative = near - np.square(_whitened(x, middle, by=total)).sum(axis=1)
    found = {"mahalanobis": near, "relative": relative}
    if reference is not None:
        found["nearest"] = _least(inside, _whitened(reference, middle, by=within))
        found["combined"] = found["nearest"] + relative
    return found


def _whitened(x: np.ndarray, middle: np.ndarray, *, by: np.ndarray) -> np.ndarray:
    return np.asarray(solve_triangular(by, (x - middle).T, lower=True).T)


def _least(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the squared distance (N,) of each row to the nearest row of `known`."""
    lengths, least = np.square(known).sum(axis=1), np.empty(len(x))
    for start in range(0, len(x), step := max(_CHUNK // len(known), 1)):
        part = x[start : start + step]
        least[start : start + step] = np.square(part).sum(axis=1) + (lengths - 2 * part @ known.T).min(axis=1)
    return np.maximum(least, 0.0)


def _residual(x: np.ndarray, statistics: ClassStatistics, *, rows: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the virtual logit of ViM (N,): lengths outside the principal directions, on the scale of the largest logits."""
    middle, whole = _whole(statistics)
    spread, directions = np.linalg.eigh(whole.covariance)  # in ascending order
    outside = max(x.shape[1] // 2, 1)
    length = np.sqrt(max(float(spread[:outside].sum()), np.finfo(np.float64).tiny))
    means, counts = statistics.means[statistics.counts > 0], statistics.counts[statistics.counts > 0]
    largest = float(counts @ np.abs((means @ rows[0].T + rows[1]).max(axis=1)) / counts.sum())
    return np.asarray(largest / length * np.linalg.norm((x - middle) @ directions[:, :outside], axis=1))


def choose_unknown(
    features: npt.ArrayLike,
    targets: npt.ArrayLike,
    *,
    groups: npt.ArrayLike | None = None,
    false_alarm: float = 0.05,
    seed: int = 0,
) -> UnknownChoice:
    """Hide a fifth of the classes in turn, see which score tells their items from known ones, and set its threshold.

    In each of five repeats the probe is fitted on four fifths of the items of the classes that are left; the fifth, and the items of the
    hidden classes, are scored. The threshold is taken with all classes known, from items that were not fitted on: at most the share
    `false_alarm` of known items lies above it. A group is not both fitted on and scored as known.

    The first of the scores stays unless another is better by more than the standard error of the difference: few hidden classes say little.

    Source: Scheirer et al., IEEE TPAMI 35, 2013, section 5 (classes hidden for open-set tests);
    Breiman et al., Classification and Regression Trees, 1984, section 3.4.3 (the rule of one standard error).
    """
    if not 0 < false_alarm < 1:
        raise SettingError(f"false_alarm={false_alarm} is out of its range; expected a share between 0 and 1, such as 0.05.")
    x = checked_features(features, least=6, what="The choice of a score of unknown examples")
    given, names = np.asarray(targets), UNKNOWN_SCORES
    rows = checked_targets(given, count=len(x), classes=int(given.max(initial=0)) + 1 if given.dtype.kind in "iu" else 0)
    kinds, rows = np.unique(rows, return_inverse=True)
    if len(kinds) < 3:
        raise DataError(f"Hiding classes in turn needs 3 or more of them; received {len(kinds)}. Give examples that are unknown instead.")
    folds = folds_of(x, rows, groups=checked_groups(groups, count=len(x)), count=_REPEATS)
    hidden_in = np.random.default_rng(seed).permutation(len(kinds)) % min(_REPEATS, len(kinds))
    repeats = [
        _hidden(x, rows, hidden=hidden_in == turn, unseen=folds == turn % (folds.max() + 1), names=names)
        for turn in range(int(hidden_in.max()) + 1)
    ]
    auroc = {name: [_auroc(*repeat[name]) for repeat in repeats] for name in names}
    best = max(names, key=lambda name: float(np.mean(auroc[name])))
    gain = np.subtract(auroc[best], auroc[names[0]])
    best = names[0] if gain.mean() <= gain.std(ddof=1) / np.sqrt(len(gain)) else best
    nobody = np.zeros(len(kinds), bool)
    known = [_hidden(x, rows, hidden=nobody, unseen=folds == fold, names=[best])[best][0] for fold in np.unique(folds)]
    return UnknownChoice(
        best,
        _quantile(np.concatenate(known), false_alarm),
        false_alarm,
        {name: float(np.mean(values)) for name, values in auroc.items()},
        {name: float(np.std(values, ddof=1) / np.sqrt(len(values))) for name, values in auroc.items()},
        {name: float(np.mean([_found(*repeat[name], false_alarm=false_alarm) for repeat in repeats])) for name in names},
        len(repeats),
    )


def _hidden(
    x: np.ndarray, rows: np.ndarray, *, hidden: np.ndarray, unseen: np.ndarray, names: Sequence[str]
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return for each score those of known items that were not fitted on, and those of the items of the hidden classes."""
    away = hidden[rows]
    fitted, known = ~away & ~unseen, ~away & unseen
    seen, here = np.unique(rows[fitted], return_inverse=True)
    known &= np.isin(rows, seen)  # a class of which no item was fitted on is not known
    if not known.any():
        raise DataError(
            f"None of the {int((~away & unseen).sum())} examples kept aside is of a class with other examples to fit on; "
            "give 2 or more examples (groups) of each class."
        )
    statistics = statistics_of(x[fitted], here, classes=[str(kind) for kind in seen])
    asked = np.concatenate([x[known], x[away]])
    scores = unknown_scores(asked, statistics=statistics, names=names, reference=x[fitted])
    return {name: (values[: known.sum()], values[known.sum() :]) for name, values in scores.items()}


def _auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    truth = np.concatenate([np.zeros(len(known)), np.ones(len(unknown))])
    return float(roc_auc_score(truth, np.concatenate([known, unknown])))


def _quantile(known: np.ndarray, false_alarm: float) -> float:
    """Return the lowest of the scores that at most this share of the items exceeds."""
    return float(np.quantile(known, 1 - false_alarm, method="higher"))


def _found(known: np.ndarray, unknown: np.ndarray, *, false_alarm: float) -> float:
    return float((unknown > _quantile(known, false_alarm)).mean())
