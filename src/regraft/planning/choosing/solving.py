"""One closed-form head on what was read of a network: its features, how it is solved, and how wrong it is on items that it did not see."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...networks.contract import Tap, TapSlice
from ...networks.parts.taps import INPUT, VECTOR
from ...probes import LinearProbe, fit_lda_probe, fit_ridge
from ...probes.common import feature_scale, typical_deviation
from ..job import Job
from ..tapped import Tapped

__all__ = ["Probed", "by_discriminants", "columns_of", "item_errors", "judged_probe", "softened", "solved_probe"]

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
        method: "ridge", "discriminant analysis", "the rows of the old head", or a weighed mean.
        probes: task of the data -> head, calibrated, of these features alone.
        rows: task of the data -> the items that it was fitted to.
        errors: (n,) of the items of the first task, each judged by a probe that did not see it: 0 or 1, or the loss.
        loss: sum over the tasks of the mean held-out loss.
        members: the probes that it is a weighed mean of; none, where it was solved by itself.
    """

    name: str
    slices: tuple[TapSlice, ...]
    method: str
    probes: Mapping[str, LinearProbe]
    rows: Rows
    errors: np.ndarray
    loss: float
    members: tuple[Probed, ...] = ()

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


def softened(job: Job, probed: Probed) -> Probed:
    """Return a `job`'s probe `probed` as one that tuning starts from: less sure."""
    probes = {}
    for name, probe in probed.probes.items():
        data = job.data_of(name)
        probes[name] = probe.softened(data.targets[probed.rows[name]], kind=data.task)
    return replace(probed, probes=probes)


def columns_of(slices: Sequence[TapSlice]) -> np.ndarray:
    """Return the columns of some `slices`, one after the other."""
    return np.concatenate([np.arange(part.start, part.stop) for part in slices])


def by_discriminants(job: Job, tapped: Tapped, *, probed: Probed, rows: np.ndarray) -> list[Probed]:
    """Return the same probe by discriminant analysis, where the tasks have classes and the features are few enough.

    Args:
        job: gives targets, groups and settings.
        tapped: what was read of all N items.
        probed: which of it.
        rows: the items (n,) to fit to.

    Returns:
        The probe alone, or nothing.
    """
    kinds = {job.data_of(name).task for name in job.tasks}
    if kinds != {"classification"} or len(probed.columns) > WIDEST_LDA:
        return []
    return [solved_probe(job, tapped, probed.name, slices=probed.slices, rows=rows, method="discriminant analysis")]


def solved_probe(  # over the limit: what a probe is made of
    job: Job, tapped: Tapped, name: str, *, slices: tuple[TapSlice, ...], rows: np.ndarray, method: str = "ridge"
) -> Probed:
    """Return a probe on some of the features.

    Args:
        job: gives targets, groups and settings.
        tapped: what was read of all N items.
        name: of the probe.
        slices: which of it.
        rows: the items (n,) to fit to.
        method: "ridge" or "discriminant analysis".
    """
    probes, used, columns = {}, {}, columns_of(slices)
    for task in job.tasks:
        used[task] = _drawn(job.known(task, rows), len(columns), seed=job.plan.seed)
        features = tapped.features[torch.from_numpy(used[task])][:, torch.from_numpy(columns)].numpy()
        probes[task] = _solved(job, task, rows=used[task], features=features, slices=slices, method=method)
    return judged_probe(job, name, slices=slices, method=method, probes=probes, rows=used)


def judged_probe(  # over the limit: what a probe is made of
    job: Job, name: str, *, slices: tuple[TapSlice, ...], method: str, probes: Mapping[str, LinearProbe], rows: Rows
) -> Probed:
    """Return heads with their held-out errors.

    Args:
        job: gives targets and losses.
        name: of the probe.
        slices: what the heads read.
        method: how they were made.
        probes: task of the data -> head.
        rows: task of the data -> the items that it was fitted to.
    """
    losses = [
        part.weight * float(part.loss(torch.from_numpy(probes[task].loo_scores).float(), part.targets[rows[task]]))
        for task, part in zip(job.tasks, job.objective().parts, strict=True)
    ]
    first = job.items.data.name
    return Probed(name, slices, method, probes, rows, item_errors(job, probes[first].loo_scores, rows=rows[first]), float(sum(losses)))


def _drawn(rows: np.ndarray, width: int, *, seed: int) -> np.ndarray:
    """Return the items (n,) themselves, or as many of them as a probe on `width` features can take."""
    most = MOST_ITEMS if width <= LARGEST else LARGEST
    return rows if len(rows) <= most else np.sort(np.random.default_rng(seed).choice(rows, most, replace=False))


def _solved(  # over the limit: what a probe is made of
    job: Job, task: str, *, rows: np.ndarray, features: np.ndarray, slices: Sequence[TapSlice], method: str
) -> LinearProbe:
    """Return the probe of one task, for features (n, D) as they are.

    Each feature is divided by its deviation and by the root of how many its block has: a wide block weighs no more than a narrow one.
    """
    data, scale = job.data_of(task), _scale_of(features, slices)
    groups = None if data.groups is None or len(np.unique(data.groups[rows])) < 2 else data.groups[rows]
    scaled = features / scale
    if method == "ridge":
        balanced = job.settings.class_weight == "balanced" and data.task == "classification"
        probe: LinearProbe = fit_ridge(
            scaled, data.targets[rows], kind=data.task, classes=len(data.classes), groups=groups, balanced=balanced
        )
    else:
        probe = fit_lda_probe(scaled, data.targets[rows], classes=len(data.classes), groups=groups)
    return replace(probe, weight=probe.weight / scale)


def _scale_of(features: np.ndarray, slices: Sequence[TapSlice]) -> np.ndarray:
    """Return what each feature is divided by; infinity for those that do not vary beside the others of their block."""
    mean, deviation = features.mean(axis=0, dtype=np.float64), features.std(axis=0, dtype=np.float64)
    blocks = np.concatenate([np.full(part.stop - part.start, part.block, dtype=object) for part in slices])
    own_units = np.concatenate([np.full(part.stop - part.start, part.block == INPUT and part.pool == VECTOR) for part in slices])
    typical, roots = np.zeros(len(mean)), np.ones(len(mean))
    for block in dict.fromkeys(blocks.tolist()):
        own = blocks == block
        roots[own] = np.sqrt(own.sum())
        typical[own] = typical_deviation(mean[own], deviation[own], dtype=features.dtype)
    typical[own_units] = 0.0  # the columns of a table: each has a unit of its own
    return np.asarray(feature_scale(mean, deviation, dtype=features.dtype, typical=typical) * roots, np.float32)


def item_errors(job: Job, scores: np.ndarray, *, rows: np.ndarray) -> np.ndarray:
    """Return how wrong `scores` (n, C) of a `job`'s items `rows` (n,) are: 0 or 1 for classes, else the loss of each; of the first task."""
    data, part = job.items.data, job.objective().parts[0]
    if data.task == "classification":
        return np.asarray(scores.argmax(1) != data.targets[rows], np.float64)
    made, targets = torch.from_numpy(np.asarray(scores)).float(), part.targets[rows]
    return np.array([float(part.loss(made[row : row + 1], targets[row : row + 1])) for row in range(len(rows))])
