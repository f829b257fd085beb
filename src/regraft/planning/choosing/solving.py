"""One closed-form head on features of a network: its features, its solver, and its errors on held-out examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...networks.network import Tap, TapSlice
from ...networks.parts.taps import INPUT, VECTOR
from ...probes import (
    LayeredProbe,
    LinearProbe,
    LogisticLoss,
    fit_class_mean,
    fit_lda_probe,
    fit_logistic,
    fit_random_projection,
    fit_ridge,
    fit_svm,
    fit_temperature,
    fit_vote,
)
from ...probes.common import HiddenLayer, feature_scale, mean_and_deviation, spread_out, typical_deviation
from ..measured_input import losses_of
from ..plan import THROUGH_LAYERS
from ..setup import Setup
from ..tap_features import TapFeatures

WORDS = {
    "ridge": "ridge",
    "lda": "discriminant analysis",
    "logistic": "logistic regression",
    "svm": "a support vector machine",
    "class_mean": "class means",
    "random_projection": "ridge on random features",
    "knn": "a vote of neighbours",
}
"""Setting of `probe=` -> name of the method, as in `Probed.method`."""

OLD_ROWS = "the class weights of the old head"
OLD_AND_RIDGE = "the weights of the old head and ridge regression on what they leave over"

MOST_ITEMS = 20_000  # Largest number of examples for a probe: more would cost memory and change little
LARGEST = 5000
"""Largest number of examples or features, whichever is smaller, for which a probe takes seconds; above, this many examples are drawn."""
WIDEST_LDA = 1200
"""Number of features up to which discriminant analysis is tried beside ridge regression: it inverts a matrix of that size for each fold."""

Rows = Mapping[str, np.ndarray]  # Task of the data -> indices (n,) of the examples that its probe was fitted to


@dataclass(frozen=True, eq=False)
class ProbeHeads:
    """Closed-form heads on the same features, one for each task."""

    name: str  # a block, "input", or "all depths" with what was left out or how they were joined
    slices: tuple[TapSlice, ...]  # slices of the features that were read
    method: str  # one of `WORDS`, `OLD_ROWS`, `OLD_AND_RIDGE`, or a weighted mean
    probes: Mapping[str, LinearProbe]  # task of the data -> calibrated head on these features alone
    rows: Rows  # task of the data -> examples that it was fitted to
    errors: np.ndarray  # (n,) held-out errors of the first task, 0 or 1, or the losses
    loss: float  # sum over the tasks of the mean held-out loss
    members: tuple[ProbeHeads, ...] = ()  # the probes of a weighted mean; empty for a single probe
    layer: HiddenLayer | None = None  # layer between features and heads; None if the heads read the features directly

    @property
    def error(self) -> float:
        """Mean held-out error."""
        return float(self.errors.mean())

    @property
    def standard_error(self) -> float:
        """Standard error of `error`."""
        return float(self.errors.std() / np.sqrt(max(len(self.errors), 1)))

    @property
    def columns(self) -> np.ndarray:
        """Columns of the features that were read."""
        return columns_of(self.slices)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """Hook points of these features."""
        pools: dict[str, list[str]] = {}
        for part in self.slices:
            pools.setdefault(part.block, []).append("mean" if part.pool == VECTOR else part.pool)
        return tuple(Tap(block, tuple(names)) for block, names in pools.items())

    @property
    def of_old(self) -> bool:
        """Whether it is the old head, or the old head with a correction."""
        return self.method in (OLD_ROWS, OLD_AND_RIDGE)

    @property
    def joint(self) -> bool:
        """Whether it reads more than one depth."""
        return len({part.block for part in self.slices}) > 1


def softened(setup: Setup, probed: ProbeHeads) -> ProbeHeads:
    """Return a `setup`'s probe `probed` with a smoothed temperature, for a warm start."""
    probes = {}
    for name, probe in probed.probes.items():
        data = setup.data_of(name)
        probes[name] = probe.softened(data.targets[probed.rows[name]], kind=data.task)
    return replace(probed, probes=probes)


def columns_of(slices: Sequence[TapSlice]) -> np.ndarray:
    """Return the columns of some `slices` in one array."""
    return np.concatenate([np.arange(part.start, part.stop) for part in slices])


def by_discriminants(setup: Setup, tapped: TapFeatures, *, probed: ProbeHeads, rows: np.ndarray) -> list[ProbeHeads]:
    """Return the same probe by discriminant analysis, if all tasks are classifications and the features are few enough."""
    kinds = {setup.data_of(name).task for name in setup.tasks}
    if kinds != {"classification"} or len(probed.columns) > WIDEST_LDA:
        return []
    return [solved_probe(setup, tapped, probed.name, slices=probed.slices, rows=rows, method=WORDS["lda"])]


def solved_probe(  # over the limit: what a probe is made of
    setup: Setup, tapped: TapFeatures, name: str, *, slices: tuple[TapSlice, ...], rows: np.ndarray, method: str = "ridge"
) -> ProbeHeads:
    """Return a probe on the features in `slices`."""
    probes, used, columns, layer = {}, {}, columns_of(slices), None
    for task in setup.tasks:
        used[task] = drawn(setup.known(task, rows), len(columns), seed=setup.plan.seed)
        features = tapped.taken(used[task], columns)
        if method in [WORDS[name] for name in THROUGH_LAYERS]:
            layered = through_layer(setup, task, rows=used[task], features=features, method=method)
            layer, probes[task] = layered.layer, layered.head
        else:
            features /= (scale := _scale_of(features, slices))
            probes[task] = _solved_by(setup, task, rows=used[task], features=features, scale=scale, method=method)
    found = judged_probe(setup, name, slices=slices, method=method, probes=probes, rows=used)
    return replace(found, layer=layer)


def judged_probe(  # over the limit: what a probe is made of
    setup: Setup, name: str, *, slices: tuple[TapSlice, ...], method: str, probes: Mapping[str, LinearProbe], rows: Rows
) -> ProbeHeads:
    """Return heads with their held-out errors.
    `probes` maps tasks of the data to heads, `rows` to the examples that they were fitted to."""
    loss = sum(setup.objective_of(task).weight * held_out_loss(setup, task, probe=probes[task], rows=rows[task]) for task in setup.tasks)
    first = setup.items.data.name
    return ProbeHeads(name, slices, method, probes, rows, item_errors(setup, probes[first].loo_scores, rows=rows[first]), float(loss))


def held_out_loss(setup: Setup, task: str, *, probe: LinearProbe, rows: np.ndarray) -> float:
    """Return the loss of a head of one task of a `setup` on its held-out logits, which are those of the examples `rows` (n,)."""
    part = setup.objective_of(task)
    return float(part.loss(torch.from_numpy(probe.loo_scores).float(), part.targets[rows]))


def drawn(rows: np.ndarray, width: int = 1, *, seed: int) -> np.ndarray:
    """Return the examples `rows` (n,), or a random part of them if they are too many for a probe on `width` features."""
    most = MOST_ITEMS if width <= LARGEST else LARGEST
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _solved_by(  # over the limit: what a probe is made of
    setup: Setup, task: str, *, rows: np.ndarray, features: np.ndarray, scale: np.ndarray, method: str
) -> LinearProbe:
    """Return the linear head of one task by a method of `WORDS`, for features before scaling.
    The given `features` (n, D) are already divided by the `scale` (D,). With several depths the scale is the deviation times the root of
    the block's number of features, so that a wide block weighs no more than a narrow one."""
    data = setup.data_of(task)
    targets, classes, groups = data.targets[rows], len(data.classes), groups_of(setup, task, rows=rows)
    balanced = setup.settings.class_weight == "balanced" and data.task == "classification"
    if method == WORDS["ridge"]:
        probe: LinearProbe = fit_ridge(features, targets, kind=data.task, classes=classes, groups=groups, balanced=balanced)
    elif method == WORDS["lda"]:
        probe = fit_lda_probe(features, targets, classes=classes, groups=groups, balanced=balanced)
    elif method == WORDS["logistic"]:
        loss = logistic_loss(setup, task)
        probe = fit_logistic(features, targets, classes=classes, groups=groups, standardise=False, loss=loss)
    elif method == WORDS["svm"]:
        probe = fit_svm(features, targets, classes=classes, groups=groups)
    else:
        probe = fit_class_mean(features, targets, classes=classes, groups=groups)
    return replace(probe, weight=probe.weight / scale)


def named_probe(setup: Setup, task: str, *, rows: np.ndarray, table: np.ndarray) -> LinearProbe:
    """Return the linear head of one task by the solver that the plan names, for the features `table` (n, d) of the examples `rows`."""
    scale = spread_out(table, standardise=True)[1]
    return _solved_by(setup, task, rows=rows, features=table / scale, scale=scale, method=WORDS[setup.plan.probe])


def through_layer(  # over the limit: what a probe is made of
    setup: Setup, task: str, *, rows: np.ndarray, features: np.ndarray, method: str
) -> LayeredProbe:
    """Return the head of one task that reads the features through a layer: random features, or the neighbours among the examples."""
    data, groups = setup.data_of(task), groups_of(setup, task, rows=rows)
    targets, classes = data.targets[rows], len(data.classes)
    if method == WORDS["knn"]:
        return fit_vote(features, targets, classes=classes, groups=groups)
    return fit_random_projection(features, targets, kind=data.task, classes=classes, groups=groups, seed=setup.plan.seed)


def logistic_loss(setup: Setup, task: str) -> LogisticLoss:
    """Return the loss of logistic regression for one task of a `setup`, with the class weighting and label smoothing of training."""
    part = setup.objective_of(task)
    weights = None if part.class_weight is None else part.class_weight.double().cpu().numpy()
    device = str(setup.device) if setup.device.type == "cuda" else "cpu"
    return LogisticLoss(setup.data_of(task).task, weights, label_smoothing=part.label_smoothing, device=device)


def groups_of(setup: Setup, task: str, *, rows: np.ndarray) -> np.ndarray | None:
    """Return the groups of some examples of a `setup`; None if there are fewer than two."""
    groups = setup.data_of(task).groups
    return None if groups is None or len(np.unique(groups[rows])) < 2 else groups[rows]


def _scale_of(features: np.ndarray, slices: Sequence[TapSlice]) -> np.ndarray:
    """Return the divisor of each feature; infinity for features that hardly vary compared with the others of their block."""
    mean, deviation = mean_and_deviation(features)
    blocks = np.concatenate([np.full(part.stop - part.start, part.block, dtype=object) for part in slices])
    own_units = np.concatenate([np.full(part.stop - part.start, part.block == INPUT and part.pool == VECTOR) for part in slices])
    typical, roots = np.zeros(len(mean)), np.ones(len(mean))
    for block in dict.fromkeys(blocks.tolist()):
        own = blocks == block
        roots[own] = np.sqrt(own.sum())
        typical[own] = typical_deviation(mean[own], deviation[own], dtype=features.dtype)
    typical[own_units] = 0.0  # columns of a table have different units
    return np.asarray(feature_scale(mean, deviation, dtype=features.dtype, typical=typical) * roots, np.float32)


@dataclass(frozen=True, eq=False)
class HeldOutErrors:
    """Held-out errors of the first task."""

    rows: np.ndarray  # (m,) the examples
    errors: np.ndarray  # (m,) as from `item_errors`
    losses: np.ndarray  # (m,) log loss at the best temperature for classes, else the errors
    loss: float  # mean of `losses`; with several tasks, the sum of the losses of all

    def at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return errors and losses of the examples `rows` (k,); NaN if unknown."""
        place = {int(row): index for index, row in enumerate(self.rows)}
        found = np.array([place.get(int(row), -1) for row in rows], np.int64)
        return np.append(self.errors, np.nan)[found], np.append(self.losses, np.nan)[found]


def held_out(setup: Setup, scores: np.ndarray, *, rows: np.ndarray) -> HeldOutErrors:
    """Return the errors of `scores` (n, C) of a `setup`'s first task, on those of the examples `rows` (n,) that have a target."""
    data = setup.items.data
    known = data.targets_of(data.name).known[rows]
    scores, rows = scores[known].astype(np.float64), rows[known]
    errors = losses = item_errors(setup, scores, rows=rows)
    if data.task == "classification" and len(rows):
        factor = fit_temperature(scores, np.eye(scores.shape[1])[data.targets[rows]])
        losses = losses_of(factor * scores, data.targets[rows], kind=data.task)
    return HeldOutErrors(rows, errors, losses, float(losses.mean()))


def gain_of(errors: np.ndarray, before: np.ndarray, *, unit: float = 1.0) -> tuple[float, float]:
    """Return how much lower `errors` (m,) are than those `before` on the same examples, and the standard error of this gain.
    A difference on one more example is added, so that a few examples that agree are not taken as certain. `unit`: least square of that
    difference, for all examples together; 0 for a regression, whose errors have the unit of the squared targets."""
    known = np.isfinite(before)
    differences = (before - errors)[known]
    count = max(len(differences), 1)
    one = max(float(np.square(before[known]).mean()), unit / count) if len(differences) else 1.0
    spread = float(np.square(differences - differences.mean()).sum()) if len(differences) else 0.0
    return float(differences.mean()) if len(differences) else 0.0, float(np.sqrt((spread + one) / count / count))


def item_errors(setup: Setup, scores: np.ndarray, *, rows: np.ndarray, task: str | None = None) -> np.ndarray:
    """Return the error of each example in `rows` (n,) from `scores` (n, C) for a `setup`'s `task` of the data: 0 or 1, or the loss.
    Without a `task`, for the first."""
    name = setup.items.data.name if task is None else task
    data, part = setup.data_of(name), setup.objective_of(name)
    if data.task == "classification":
        return np.asarray(scores.argmax(1) != data.targets[rows], np.float64)
    made, targets = torch.from_numpy(np.asarray(scores)).float(), part.targets[rows]
    return np.array([float(part.loss(made[row : row + 1], targets[row : row + 1])) for row in range(len(rows))])
