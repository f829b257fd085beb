"""One closed-form head on what was read of a network: its features, how it is solved, and how wrong it is on items that it did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...networks.contract import Tap, TapSlice
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
from ...probes.common import HiddenLayer, feature_scale, mean_and_deviation, typical_deviation
from ..measured_input import losses_of
from ..plan import THROUGH_LAYERS
from ..setup import Setup
from ..tapped import Tapped

__all__ = [
    "WORDS",
    "HeldOut",
    "Probed",
    "by_discriminants",
    "columns_of",
    "drawn",
    "held_out",
    "item_errors",
    "judged_probe",
    "logistic_loss",
    "softened",
    "solved_by",
    "solved_probe",
    "through_layer",
]

WORDS = {
    "ridge": "ridge",
    "lda": "discriminant analysis",
    "logistic": "logistic regression",
    "svm": "a support vector machine",
    "class_mean": "class means",
    "random_projection": "ridge on random features",
    "knn": "a vote of neighbours",
}
"""Settings of `probe=` -> the method in words, as in `Probed.method`."""

MOST_ITEMS = 20_000
"""Items that a probe is fitted to at most; more would cost memory and change little."""
LARGEST = 5000
"""Items or features, whichever are fewer, up to which a probe takes seconds; beyond, so many items are drawn."""
WIDEST_LDA = 1200
"""Features up to which discriminant analysis is tried beside ridge regression: it inverts a matrix of that size for each fold."""

Rows = Mapping[str, np.ndarray]
"""Task of the data -> the items (n,) that its probe was fitted to."""


@dataclass(frozen=True, eq=False)
class Probed:
    """Closed-form heads on the same features, one for each task.

    Attributes:
        name: a block, "input", or "all depths" and what was left out, or how they were joined.
        slices: which of the features that were read.
        method: one of `WORDS`, "the rows of the old head", or a weighed mean.
        probes: task of the data -> head, calibrated, of these features alone.
        rows: task of the data -> the items that it was fitted to.
        errors: (n,) of the items of the first task, each judged by a probe that did not see it: 0 or 1, or the loss.
        loss: sum over the tasks of the mean held-out loss.
        members: the probes that it is a weighed mean of; none, where it was solved by itself.
        layer: the layer that the heads read these features through; None where they read them as they are.
    """

    name: str
    slices: tuple[TapSlice, ...]
    method: str
    probes: Mapping[str, LinearProbe]
    rows: Rows
    errors: np.ndarray
    loss: float
    members: tuple[Probed, ...] = ()
    layer: HiddenLayer | None = None

    @property
    def error(self) -> float:
        """The mean held-out error."""
        return float(self.errors.mean())

    @property
    def standard_error(self) -> float:
        """Its standard error."""
        return float(self.errors.std() / np.sqrt(max(len(self.errors), 1)))

    @property
    def columns(self) -> np.ndarray:
        """The columns of the features that were read."""
        return columns_of(self.slices)

    @property
    def taps(self) -> tuple[Tap, ...]:
        """The points that give these features."""
        pools: dict[str, list[str]] = {}
        for part in self.slices:
            pools.setdefault(part.block, []).append("mean" if part.pool == VECTOR else part.pool)
        return tuple(Tap(block, tuple(names)) for block, names in pools.items())

    @property
    def joint(self) -> bool:
        """Whether it reads more than one depth."""
        return len({part.block for part in self.slices}) > 1


def softened(setup: Setup, probed: Probed) -> Probed:
    """Return a `setup`'s probe `probed` as one that tuning starts from: less sure."""
    probes = {}
    for name, probe in probed.probes.items():
        data = setup.data_of(name)
        probes[name] = probe.softened(data.targets[probed.rows[name]], kind=data.task)
    return replace(probed, probes=probes)


def columns_of(slices: Sequence[TapSlice]) -> np.ndarray:
    """Return the columns of some `slices`, one after the other."""
    return np.concatenate([np.arange(part.start, part.stop) for part in slices])


def by_discriminants(setup: Setup, tapped: Tapped, *, probed: Probed, rows: np.ndarray) -> list[Probed]:
    """Return the same probe by discriminant analysis, where the tasks have classes and the features are few enough."""
    kinds = {setup.data_of(name).task for name in setup.tasks}
    if kinds != {"classification"} or len(probed.columns) > WIDEST_LDA:
        return []
    return [solved_probe(setup, tapped, probed.name, slices=probed.slices, rows=rows, method=WORDS["lda"])]


def solved_probe(  # over the limit: what a probe is made of
    setup: Setup, tapped: Tapped, name: str, *, slices: tuple[TapSlice, ...], rows: np.ndarray, method: str = "ridge"
) -> Probed:
    """Return a probe on some of the features."""
    probes, used, columns, layer = {}, {}, columns_of(slices), None
    for task in setup.tasks:
        used[task] = drawn(setup.known(task, rows), len(columns), seed=setup.plan.seed)
        features = tapped.taken(used[task], columns)
        if method in [WORDS[name] for name in THROUGH_LAYERS]:
            layered = through_layer(setup, task, rows=used[task], features=features, method=method)
            layer, probes[task] = layered.layer, layered.head
        else:
            features /= (scale := _scale_of(features, slices))
            probes[task] = solved_by(setup, task, rows=used[task], features=features, scale=scale, method=method)
    found = judged_probe(setup, name, slices=slices, method=method, probes=probes, rows=used)
    return replace(found, layer=layer)


def judged_probe(  # over the limit: what a probe is made of
    setup: Setup, name: str, *, slices: tuple[TapSlice, ...], method: str, probes: Mapping[str, LinearProbe], rows: Rows
) -> Probed:
    """Return heads with their held-out errors.

    `probes`: task of the data -> head; `rows`: task of the data -> the items that it was fitted to.
    """
    losses = [
        part.weight * float(part.loss(torch.from_numpy(probes[task].loo_scores).float(), part.targets[rows[task]]))
        for task, part in zip(setup.tasks, setup.objective().parts, strict=True)
    ]
    first = setup.items.data.name
    return Probed(name, slices, method, probes, rows, item_errors(setup, probes[first].loo_scores, rows=rows[first]), float(sum(losses)))


def drawn(rows: np.ndarray, width: int, *, seed: int) -> np.ndarray:
    """Return the items `rows` (n,) themselves, or as many of them, drawn by the `seed`, as a probe on `width` features can take."""
    most = MOST_ITEMS if width <= LARGEST else LARGEST
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def solved_by(  # over the limit: what a probe is made of
    setup: Setup, task: str, *, rows: np.ndarray, features: np.ndarray, scale: np.ndarray, method: str
) -> LinearProbe:
    """Return the head of one task by a method of `WORDS` that gives a linear head, for features as they were before they were divided.

    `features` (n, D) are divided by the `scale` (D,). Among several depths that is the deviation times the root of how many features
    the block has: a wide block weighs no more than a narrow one.
    """
    data = setup.data_of(task)
    targets, classes, groups = data.targets[rows], len(data.classes), _groups_of(setup, task, rows=rows)
    if method == WORDS["ridge"]:
        balanced = setup.settings.class_weight == "balanced" and data.task == "classification"
        probe: LinearProbe = fit_ridge(features, targets, kind=data.task, classes=classes, groups=groups, balanced=balanced)
    elif method == WORDS["lda"]:
        probe = fit_lda_probe(features, targets, classes=classes, groups=groups)
    elif method == WORDS["logistic"]:
        loss = logistic_loss(setup, task)
        probe = fit_logistic(features, targets, classes=classes, groups=groups, standardise=False, loss=loss)
    elif method == WORDS["svm"]:
        probe = fit_svm(features, targets, classes=classes, groups=groups, standardise=False)
    else:
        probe = fit_class_mean(features, targets, classes=classes, groups=groups).linear()
    return replace(probe, weight=probe.weight / scale)


def through_layer(  # over the limit: what a probe is made of
    setup: Setup, task: str, *, rows: np.ndarray, features: np.ndarray, method: str
) -> LayeredProbe:
    """Return the head of one task that reads the features through a layer, random or of the examples themselves."""
    data, groups = setup.data_of(task), _groups_of(setup, task, rows=rows)
    targets, classes = data.targets[rows], len(data.classes)
    if method == WORDS["knn"]:
        return fit_vote(features, targets, classes=classes, groups=groups)
    return fit_random_projection(features, targets, kind=data.task, classes=classes, groups=groups, seed=setup.plan.seed)


def logistic_loss(setup: Setup, task: str) -> LogisticLoss:
    """Return what logistic regression minimises for one task of a `setup`: class weights and label smoothing are those of training."""
    part = next(part for part in setup.objective().parts if part.task == setup.tasks[task])
    weights = None if part.class_weight is None else part.class_weight.double().cpu().numpy()
    device = str(setup.device) if setup.device.type == "cuda" else "cpu"
    return LogisticLoss(setup.data_of(task).task, weights, label_smoothing=part.label_smoothing, device=device)


def _groups_of(setup: Setup, task: str, *, rows: np.ndarray) -> np.ndarray | None:
    """Return the groups of some items, None where they are of fewer than two."""
    groups = setup.data_of(task).groups
    return None if groups is None or len(np.unique(groups[rows])) < 2 else groups[rows]


def _scale_of(features: np.ndarray, slices: Sequence[TapSlice]) -> np.ndarray:
    """Return what each feature is divided by; infinity for those that do not vary beside the others of their block."""
    mean, deviation = mean_and_deviation(features)
    blocks = np.concatenate([np.full(part.stop - part.start, part.block, dtype=object) for part in slices])
    own_units = np.concatenate([np.full(part.stop - part.start, part.block == INPUT and part.pool == VECTOR) for part in slices])
    typical, roots = np.zeros(len(mean)), np.ones(len(mean))
    for block in dict.fromkeys(blocks.tolist()):
        own = blocks == block
        roots[own] = np.sqrt(own.sum())
        typical[own] = typical_deviation(mean[own], deviation[own], dtype=features.dtype)
    typical[own_units] = 0.0  # the columns of a table: each has a unit of its own
    return np.asarray(feature_scale(mean, deviation, dtype=features.dtype, typical=typical) * roots, np.float32)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """How wrong something is on examples that it did not learn from, by the first task.

    Attributes:
        rows: (m,) which examples.
        errors: (m,) as of `item_errors`.
        losses: (m,) of classes the log-loss after the best temperature, else the errors.
        loss: the mean of these; where there are several tasks, the sum over them.
    """

    rows: np.ndarray
    errors: np.ndarray
    losses: np.ndarray
    loss: float

    def at(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return errors and losses of the examples `rows` (k,); NaN where they are not known."""
        place = {int(row): index for index, row in enumerate(self.rows)}
        found = np.array([place.get(int(row), -1) for row in rows], np.int64)
        return np.append(self.errors, np.nan)[found], np.append(self.losses, np.nan)[found]


def held_out(setup: Setup, scores: np.ndarray, *, rows: np.ndarray) -> HeldOut:
    """Return how wrong `scores` (n, C) of the first task of a `setup` are, on those of the examples `rows` (n,) that have a target."""
    data = setup.items.data
    known = data.targets_of(data.name).known[rows]
    scores, rows = scores[known].astype(np.float64), rows[known]
    errors = losses = item_errors(setup, scores, rows=rows)
    if data.task == "classification" and len(rows):
        factor = fit_temperature(scores, np.eye(scores.shape[1])[data.targets[rows]])
        losses = losses_of(factor * scores, data.targets[rows], kind=data.task)
    return HeldOut(rows, errors, losses, float(losses.mean()))


def item_errors(setup: Setup, scores: np.ndarray, *, rows: np.ndarray) -> np.ndarray:
    """Return how wrong `scores` (n, C) of the examples `rows` (n,) of a `setup` are, by the first task: 0 or 1, or the loss of each."""
    data, part = setup.items.data, setup.objective().parts[0]
    if data.task == "classification":
        return np.asarray(scores.argmax(1) != data.targets[rows], np.float64)
    made, targets = torch.from_numpy(np.asarray(scores)).float(), part.targets[rows]
    return np.array([float(part.loss(made[row : row + 1], targets[row : row + 1])) for row in range(len(rows))])
