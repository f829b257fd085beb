"""Out-of-distribution detection: scores for examples of no known class, and selection of a score by hiding classes in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import combinations
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import Field
from scipy.linalg import solve_triangular
from scipy.special import logsumexp
from scipy.stats import rankdata

from ..errors import DataError, SettingError, near_names
from ..files.schema import checked, schema_of
from ..words import counted
from .common import blocks, checked_features, checked_groups, checked_targets, folds_of
from .knn import nearest, unit_rows
from .statistics import ClassStatistics, fit_lda, read_every, shrunk_covariance, statistics_of

UNKNOWN_SCORES = ("energy", "mahalanobis", "max_logit", "max_probability", "nearest", "neighbour", "relative", "vim")
COMBINED = "combined"  # Name of a sum of several standardised scores
_SUMMED = ("max_logit", "nearest", "neighbour", "relative")
_FORMER = ("nearest", "relative")  # Parts of "combined" in folders that were saved without them
_OF_ITEMS = ("nearest", "neighbour")  # Scores that need the features of known examples
_LEAST_AUROC = 0.6  # A score whose AUROC minus two standard errors is below this value is too weak to rely on
_NEIGHBOURS = 5
_CHUNK = 2**22
_REPEATS = 5


@dataclass(frozen=True)
class UnknownChoice:
    """Selected score for unknown examples and its threshold, as plain numbers that are saved with a network."""

    score: Annotated[str, Field(pattern=f"^({'|'.join((COMBINED, *UNKNOWN_SCORES))})$")]  # one of `UNKNOWN_SCORES`, or "combined"
    threshold: float  # examples that score above it are unknown
    false_alarm: Annotated[float, Field(gt=0.0, lt=1.0)]  # the share of held-out known examples that score above the threshold
    auroc: dict[str, float]  # for each score, the mean AUROC over hidden classes; 0.5 is chance
    auroc_error: dict[str, float]  # for each score, the standard error of that mean
    detected: dict[str, float]  # for each score, the share of unknown examples detected at the false-alarm rate
    repeats: int  # number of repeats; each class is hidden in one of them
    parts: dict[Annotated[str, Field(pattern=f"^({'|'.join(UNKNOWN_SCORES)})$")], Annotated[float, Field(gt=0.0)]]
    """For each score that is summed, its standard deviation on known examples, by which it is divided."""

    @property
    def weak(self) -> bool:
        """Whether the selected score separates hidden classes from known ones too poorly to rely on."""
        return self.auroc[self.score] - 2 * self.auroc_error[self.score] < _LEAST_AUROC

    def described(self) -> str:
        """Return a sentence on how well the score detects unknown examples."""
        area, found = self.auroc[self.score], self.detected[self.score]
        named = f"the score {self.score!r}" + (f" ({' + '.join(self.parts)})" if len(self.parts) > 1 else "")
        how = f"with classes hidden in turn, {named} tells them with an area under the curve of {area:.2f}"
        said = f"Examples of no known class: {how}; at {100 * self.false_alarm:.0f} % false alarms it finds {100 * found:.0f} %."
        return (
            f"{said} That is too little to rely on: the features do not separate unknown examples from known ones." if self.weak else said
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain numbers, strings and dictionaries."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> UnknownChoice:
        """Return the choice from the data of `to_dict`, after checks."""
        kind: Any = cls  # mypy looks for the hash of an instance
        if "parts" not in data:  # of a folder saved before several scores were standardised
            data = {**data, "parts": dict.fromkeys(_FORMER if data.get("score") == COMBINED else (data.get("score", ""),), 1.0)}
        checked(data, schema_of(kind), what="The choice of a score of unknown examples", error=DataError)
        return cls(**{field.name: data[field.name] for field in fields(cls)})


class UnknownJudge:
    """Detector of examples that belong to no known class, based on the features of the head.
    `every`: use every n-th feature; `reference`: (R, d) features of known examples, for scores that need them, otherwise None."""

    def __init__(self, choice: UnknownChoice, statistics: ClassStatistics, *, every: int = 1, reference: np.ndarray | None = None) -> None:
        self.choice = choice
        self.statistics = statistics
        self.every = every
        self.reference = None if choice.parts.keys().isdisjoint(_OF_ITEMS) else reference

    def scores(self, features: np.ndarray) -> np.ndarray:
        """Return the unknown score (N,) of features (N, d); higher means less likely to be of a known class."""
        looked_at = np.asarray(features)[:, :: self.every]
        names, reference = list(self.choice.parts), self.reference
        return _total(unknown_scores(looked_at, statistics=self.statistics, names=names, reference=reference), self.choice.parts)

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Return whether each example is unknown, (N,) bool, from features (N, d)."""
        return np.asarray(self.scores(features) > self.choice.threshold)

    def check(self, width: int) -> None:
        """Raise unless the detector fits features of this width."""
        looked_at, known = len(range(0, width, self.every)), self.statistics.means.shape[1]
        if looked_at != known:
            raise DataError(f"It knows {counted(known, 'feature')} and looks at {looked_at} of {width}; both must be of one network.")

    def to_dict(self) -> dict[str, Any]:
        """Return the choice as plain data. The statistics are saved separately."""
        return {**self.choice.to_dict(), "every": self.every}

    def own_arrays(self) -> dict[str, np.ndarray] | None:
        """Return the arrays to save; None if only the statistics of all features are needed, which the network itself saves."""
        if self.reference is None:
            return self.statistics.to_arrays() if self.every > 1 else None
        return {**self.statistics.to_arrays(), "reference": self.reference}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], arrays: Mapping[str, npt.ArrayLike]) -> UnknownJudge:
        """Return the detector from the data of `to_dict` and the saved arrays."""
        choice, statistics = UnknownChoice.from_dict(data), ClassStatistics.from_arrays(arrays)
        reference = np.asarray(arrays["reference"]) if "reference" in arrays else None
        if not choice.parts.keys().isdisjoint(_OF_ITEMS) and reference is None:
            raise DataError(f"The score {choice.score!r} of unknown examples needs the features of known examples, which are missing.")
        if reference is not None and (reference.ndim != 2 or not len(reference) or reference.shape[1] != statistics.means.shape[1]):
            shape = counted(statistics.means.shape[1], "feature")
            raise DataError(f"The features of known examples have the shape {reference.shape}; expected one or more rows of {shape}.")
        if reference is not None and not (reference.dtype.kind == "f" and np.isfinite(reference).all()):
            raise DataError(f"The features of known examples are of type {reference.dtype}; expected finite floating-point numbers.")
        return cls(choice, statistics, every=read_every(data.get("every", 1)), reference=reference)


def unknown_scores(
    features: npt.ArrayLike, *, statistics: ClassStatistics, names: Sequence[str] = UNKNOWN_SCORES, reference: npt.ArrayLike | None = None
) -> dict[str, np.ndarray]:
    """Return name -> score (N,) for each requested score. Higher means less likely to be of a known class.

    - max_probability: minus the highest softmax probability. The logits are those of shrinkage LDA.
    - max_logit: minus the highest logit.
    - energy: minus the log-sum-exp of the logits.
    - mahalanobis: lowest squared Mahalanobis distance to a class mean, with the within-class covariance.
    - relative: mahalanobis minus the squared Mahalanobis distance to the overall mean with the total covariance.
    - nearest: lowest squared distance to an example of `reference`, with the within-class covariance.
    - neighbour: 1 minus the cosine with the fifth-nearest example of `reference`.
    - vim: scaled norm of the features outside the principal directions of the known examples, minus the log-sum-exp of the logits.

    `features`: (N, d) finite numbers; `reference`: (R, d) known examples, for "nearest" and "neighbour".

    Source: Hendrycks & Gimpel, ICLR 2017 (maximum probability); Vaze et al., ICLR 2022, section 4 (maximum logit); Liu et al., NeurIPS
    2020, equation 4 (energy); Lee et al., NeurIPS 2018, equation 2 (Mahalanobis); Ren et al., arXiv:2106.09022, equation 3 (relative);
    Sun et al., ICML 2022, section 3 (neighbours); Wang et al., CVPR 2022, section 4 (ViM). Deviations: "nearest" is our own. For ViM,
    half of the directions are principal and the origin is the overall mean. Its scale is computed from the class means and the
    covariance; the paper computes it from examples.
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
    if {"mahalanobis", "relative", "nearest"} & set(names):
        found |= _distances(x, statistics, reference=None if reference is None else np.asarray(reference))
    if "neighbour" in names and reference is not None:
        known = unit_rows(np.asarray(reference, np.float64))
        cosines, _ = nearest(unit_rows(x), known, count=min(_NEIGHBOURS, len(known)))
        found["neighbour"] = 1 - cosines[:, -1]
    return {name: found[name] for name in names}


def _whole(statistics: ClassStatistics) -> tuple[np.ndarray, ClassStatistics]:
    """Return the mean (d,) of all examples, and their statistics as a single class."""
    counts = statistics.counts
    middle = counts @ statistics.means / counts.sum()
    scaled = (statistics.means - middle) * np.sqrt(counts)[:, None]
    return middle, ClassStatistics(("all",), np.array([counts.sum()]), middle[None], statistics.scatter + scaled.T @ scaled)


def _distances(x: np.ndarray, statistics: ClassStatistics, *, reference: np.ndarray | None) -> dict[str, np.ndarray]:
    """Return the scores (N,) that are based on distances of features whitened by the within-class or the total covariance."""
    middle, whole = _whole(statistics)
    within, total = (np.linalg.cholesky(shrunk_covariance(part)) for part in (statistics, whole))
    inside = _whitened(x, middle, by=within)
    near = _least(inside, _whitened(statistics.means[statistics.counts > 0], middle, by=within))
    relative = near - np.square(_whitened(x, middle, by=total)).sum(axis=1)
    found = {"mahalanobis": near, "relative": relative}
    if reference is not None:
        found["nearest"] = _least(inside, _whitened(reference, middle, by=within))
    return found


def _whitened(x: np.ndarray, middle: np.ndarray, *, by: np.ndarray) -> np.ndarray:
    return np.asarray(solve_triangular(by, (x - middle).T, lower=True).T)


def _least(x: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Return the squared distance (N,) of each row to the nearest row of `known`."""
    lengths, least = np.square(known).sum(axis=1), np.empty(len(x))
    for rows in blocks(len(x), max(_CHUNK // len(known), 1)):
        least[rows] = np.square(x[rows]).sum(axis=1) + (lengths - 2 * x[rows] @ known.T).min(axis=1)
    return np.maximum(least, 0.0)


def _residual(x: np.ndarray, statistics: ClassStatistics, *, rows: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
    """Return the virtual logit (N,) of ViM: the norm outside the principal directions, scaled to the size of the largest logits."""
    middle, whole = _whole(statistics)
    spread, directions = np.linalg.eigh(whole.covariance)  # in ascending order
    outside = max(x.shape[1] // 2, 1)
    least = np.finfo(np.float64).eps * spread.sum()  # fewer examples than features leave no variance outside
    length = np.sqrt(max(float(spread[:outside].sum()), float(least), np.finfo(np.float64).tiny))
    means, counts = statistics.means[statistics.counts > 0], statistics.counts[statistics.counts > 0]
    largest = float(counts @ np.abs((means @ rows[0].T + rows[1]).max(axis=1)) / counts.sum())
    return np.asarray(largest / length * np.linalg.norm((x - middle) @ directions[:, :outside], axis=1))


def choose_unknown(
    features: npt.ArrayLike, targets: npt.ArrayLike, *, groups: npt.ArrayLike | None = None, false_alarm: float = 0.05, seed: int = 0
) -> UnknownChoice:
    """Select the score that best detects hidden classes, and set its threshold. A fifth of the classes is hidden in turn.
    In each of five repeats, the statistics are fitted on four fifths of the examples of the remaining classes. The last fifth and the
    examples of the hidden classes are scored. The threshold is set by cross-validation with all classes known: at most a share of
    `false_alarm` of the held-out known examples lies above it. A group is never both fitted and scored as known.
    The score is the sum of the four scores `_SUMMED`, each divided by its standard deviation. Fewer of them, or one alone, replace it only
    if they are better by more than the standard error of the difference over the hidden classes, because the estimates are noisy.
    Source: Scheirer et al., IEEE TPAMI 35, 2013, section 5 (classes hidden for open-set tests); Breiman et al., Classification and
    Regression Trees, 1984, section 3.4.3 (the rule of one standard error)."""
    if not 0 < false_alarm < 1:
        raise SettingError(f"false_alarm={false_alarm} is out of its range; expected a share between 0 and 1, such as 0.05.")
    x = checked_features(features, least=6, what="The choice of a score of unknown examples")
    given = np.asarray(targets)
    rows = checked_targets(given, count=len(x), classes=int(given.max(initial=0)) + 1 if given.dtype.kind in "iu" else 0)
    kinds, rows = np.unique(rows, return_inverse=True)
    if len(kinds) < 3:
        raise DataError(f"Hiding classes in turn needs 3 or more of them; received {len(kinds)}. Give examples that are unknown instead.")
    folds = folds_of(x, rows, groups=checked_groups(groups, count=len(x)), count=_REPEATS)
    hidden_in = np.random.default_rng(seed).permutation(len(kinds)) % min(_REPEATS, len(kinds))
    repeats = [
        _hidden(x, rows, hidden=hidden_in == turn, unseen=folds == turn % (folds.max() + 1)) for turn in range(int(hidden_in.max()) + 1)
    ]
    alone = {name: (name,) for name in UNKNOWN_SCORES}
    areas = {parts: np.concatenate([_areas(repeat, parts) for repeat in repeats]) for parts in {*_sets(_SUMMED), *alone.values()}}
    best = max(_sets(_SUMMED), key=lambda parts: float(areas[parts].mean()))
    gain = areas[best] - areas[_SUMMED]
    best = _SUMMED if gain.mean() <= gain.std(ddof=1) / np.sqrt(len(gain)) else best
    judged = {**alone, COMBINED: best if len(best) > 1 else _SUMMED}
    nobody = np.zeros(len(kinds), bool)
    held_out = [_hidden(x, rows, hidden=nobody, unseen=folds == fold, names=best)[0] for fold in np.unique(folds)]
    known = {name: np.concatenate([part[name] for part in held_out]) for name in best}
    spreads = _spreads(known, best)
    return UnknownChoice(
        COMBINED if len(best) > 1 else best[0],
        _quantile(_total(known, spreads), false_alarm),
        false_alarm,
        {name: float(np.mean(areas[parts])) for name, parts in judged.items()},
        {name: float(np.std(areas[parts], ddof=1) / np.sqrt(len(areas[parts]))) for name, parts in judged.items()},
        {
            name: float(np.mean([_found(*_summed(repeat, parts), false_alarm=false_alarm) for repeat in repeats]))
            for name, parts in judged.items()
        },
        len(repeats),
        spreads,
    )


_Scored = tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]
"""Scores (K,) of held-out known examples and (U,) of examples of hidden classes by name, and the classes (U,) of the latter."""


def _sets(names: Sequence[str]) -> list[tuple[str, ...]]:
    return [chosen for count in range(1, len(names) + 1) for chosen in combinations(names, count)]


def _spreads(known: Mapping[str, np.ndarray], names: Sequence[str]) -> dict[str, float]:
    """Return the standard deviations of the scores of `known` examples, 1 for a score that does not vary."""
    return {name: float(known[name].std()) or 1.0 for name in names}


def _total(scores: Mapping[str, np.ndarray], spreads: Mapping[str, float]) -> np.ndarray:
    """Return the sum (N,) of the `scores`, (N,) each, that `spreads` names, each divided by its standard deviation there."""
    return np.asarray(sum(scores[name] / spread for name, spread in spreads.items()))


def _summed(scored: _Scored, parts: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Return the sums (K,) and (U,) of the scores `parts`, divided by their standard deviations on known examples."""
    spreads = _spreads(scored[0], parts)
    return _total(scored[0], spreads), _total(scored[1], spreads)


def _areas(scored: _Scored, parts: Sequence[str]) -> np.ndarray:
    """Return the AUROC of each hidden class."""
    known, hidden = _summed(scored, parts)
    return np.array([_auroc(known, hidden[scored[2] == kind]) for kind in np.unique(scored[2])])


def _hidden(x: np.ndarray, rows: np.ndarray, *, hidden: np.ndarray, unseen: np.ndarray, names: Sequence[str] = UNKNOWN_SCORES) -> _Scored:
    """Return the scores of held-out known examples and of examples of the hidden classes."""
    away = hidden[rows]
    fitted, known = ~away & ~unseen, ~away & unseen
    seen, here = np.unique(rows[fitted], return_inverse=True)
    known &= np.isin(rows, seen)  # a class without fitted examples is not known
    if not known.any():
        raise DataError(
            f"None of the {counted(int((~away & unseen).sum()), 'example')} kept aside is of a class with other examples to fit on; "
            "give 2 or more examples (groups) of each class."
        )
    statistics = statistics_of(x[fitted], here, classes=[str(kind) for kind in seen])
    asked = np.concatenate([x[known], x[away]])
    scores = unknown_scores(asked, statistics=statistics, names=names, reference=x[fitted])
    count = int(known.sum())
    parted = ({name: values[part] for name, values in scores.items()} for part in (slice(count), slice(count, None)))
    return (*parted, rows[away])


def _auroc(known: np.ndarray, unknown: np.ndarray) -> float:
    """Return the share of pairs in which the unknown example has the higher score; a tie counts one half (Mann-Whitney)."""
    ranks = rankdata(np.concatenate([known, unknown]))[len(known) :]
    return float((ranks.mean() - (len(unknown) + 1) / 2) / len(known))


def _quantile(known: np.ndarray, false_alarm: float) -> float:
    """Return the lowest score that at most this share of the examples exceeds."""
    return float(np.quantile(known, 1 - false_alarm, method="higher"))


def _found(known: np.ndarray, unknown: np.ndarray, *, false_alarm: float) -> float:
    return float((unknown > _quantile(known, false_alarm)).mean())
