"""Closed-form heads on what one pass read of a network at several depths, and the network that has one of them as its head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from ...errors import NetworkError, SettingError, near_names
from ...networks.contract import Network, Tap, TapSlice
from ...networks.taps import INPUT, VECTOR
from ...probes import LinearProbe, fit_lda_probe, fit_ridge
from ..job import Job
from ..tapped import Tapped

__all__ = ["JOINT", "Probed", "best_of", "block_of", "item_errors", "probe_at", "probed_network", "probes_of", "refitted"]

JOINT = "all depths"
MOST_ITEMS = 20_000
"""Items that a probe is fitted to at most; more would cost memory and change little."""
LARGEST = 5000
"""Items or features, whichever are fewer, up to which a probe takes seconds; beyond, so many items are drawn."""
WIDEST_LDA = 1200
"""Features up to which discriminant analysis is tried beside ridge regression: it inverts a matrix of that size for each fold."""
_PLAIN = ("mean", "std", "token", VECTOR)

Rows = Mapping[str, np.ndarray]
"""Task of the data -> the items (n,) that its probe was fitted to."""


@dataclass(frozen=True, eq=False)
class Probed:
    """Closed-form heads on the same features, one for each task.

    Attributes:
        name: a block, "input", or "all depths" and what was left out.
        slices: which of the features that were read.
        method: "ridge" or "discriminant analysis".
        probes: task of the data -> head, calibrated, of these features alone.
        rows: task of the data -> the items that it was fitted to.
        errors: (n,) of the items of the first task, each judged by a probe that did not see it: 0 or 1, or the loss.
        loss: sum over the tasks of the mean held-out loss.
    """

    name: str
    slices: tuple[TapSlice, ...]
    method: str
    probes: Mapping[str, LinearProbe]
    rows: Rows
    errors: np.ndarray
    loss: float

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
        return _columns(self.slices)

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


def _columns(slices: Sequence[TapSlice]) -> np.ndarray:
    return np.concatenate([np.arange(part.start, part.stop) for part in slices])


def probes_of(job: Job, tapped: Tapped, *, rows: np.ndarray) -> list[Probed]:
    """Solve probes on each depth alone and on all of them together.

    Args:
        job: gives targets, groups and settings.
        tapped: what was read of all N items.
        rows: the items (n,) to fit to.

    Returns:
        One for each depth and for the joint sets, those that discriminant analysis solves better by it.
    """
    blocks = list(dict.fromkeys(part.block for part in tapped.slices))
    sets = {block: tuple(part for part in tapped.slices if part.block == block) for block in blocks}
    if len(blocks) > 1:
        sets[JOINT] = tapped.slices
        sets[f"{JOINT}, without the input"] = tuple(part for part in tapped.slices if part.block != INPUT)
        sets[f"{JOINT}, means and deviations"] = tuple(part for part in tapped.slices if part.pool in _PLAIN)
    made: list[Probed] = []
    for name, slices in sets.items():
        if slices and slices not in [other.slices for other in made]:
            made.append(_probed(job, tapped, name, slices=slices, rows=rows))
    promising = {id(best_of(part)) for part in ([one for one in made if one.joint], [one for one in made if not one.joint]) if part}
    return [best_of([one, *_by_discriminants(job, tapped, probed=one, rows=rows)]) if id(one) in promising else one for one in made]


def best_of(found: Sequence[Probed]) -> Probed:
    """Return the probe with the lowest held-out loss among those whose error is within half a standard error of the lowest.

    One on several depths is taken unless one on a single depth is better by a whole standard error: of many depths, one may look best
    by chance.

    Args:
        found: one or more.
    """
    lowest = min(found, key=lambda one: (one.error, one.loss))
    joint = [one for one in found if one.joint and one.error <= lowest.error + lowest.standard_error]
    best = min((one.error for one in joint), default=lowest.error)
    return min((one for one in joint or found if one.error <= best + 0.5 * lowest.standard_error), key=lambda one: one.loss)


def probe_at(job: Job, tapped: Tapped, *, rows: np.ndarray) -> Probed:
    """Return the probe that the plan asks for: of its block alone, or the best of all depths together.

    Args:
        job: its plan may name a block, or its number.
        tapped: what was read of all N items.
        rows: the items (n,) to fit to.

    Raises:
        SettingError: if the block is not there, or gives nothing that can be read.
    """
    asked = job.plan.frozen
    if asked is None:
        found = probes_of(job, tapped, rows=rows)
        return best_of([one for one in found if one.joint] or found)
    block = block_of(job.network, asked)
    slices = tuple(part for part in tapped.slices if part.block == block)
    if not slices:
        known = list(dict.fromkeys(part.block for part in tapped.slices))
        raise SettingError(f"frozen={asked!r}: the block {block!r} gives no numbers that a probe can read{near_names(block, known)}")
    plain = _probed(job, tapped, block, slices=slices, rows=rows)
    return best_of([plain, *_by_discriminants(job, tapped, probed=plain, rows=rows)])


def block_of(network: Network, asked: int | str) -> str:
    """Return the name of a block, or "input".

    Args:
        network: has the blocks.
        asked: the name, or the number of a block, from 1.

    Raises:
        SettingError: if there is none such; the nearest names are listed.
    """
    names = [block.name for block in network.blocks]
    if isinstance(asked, int):
        if not 1 <= asked <= len(names):
            raise SettingError(f"frozen={asked}: this network has {len(names)} blocks; a probe reads one of 1 to {len(names)}, or a name.")
        return names[asked - 1]
    if asked not in [*names, INPUT]:
        raise SettingError(f"frozen={asked!r}: the network has no block of that name{near_names(asked, [INPUT, *names])}")
    return asked


def refitted(job: Job, tapped: Tapped, *, probed: Probed, rows: np.ndarray) -> Probed:
    """Return the same kind of probe on the same features, fitted to other items.

    Args:
        job: gives targets, groups and settings.
        tapped: what was read of all N items.
        probed: which of it, and how.
        rows: the items (n,) to fit to.
    """
    if probed.method != "ridge":
        return _by_discriminants(job, tapped, probed=probed, rows=rows)[0]
    return _probed(job, tapped, probed.name, slices=probed.slices, rows=rows)


def _by_discriminants(job: Job, tapped: Tapped, *, probed: Probed, rows: np.ndarray) -> list[Probed]:
    """Return the same probe by discriminant analysis, where the tasks have classes and the features are few enough."""
    kinds = {job.data_of(name).task for name in job.tasks}
    if kinds != {"classification"} or len(probed.columns) > WIDEST_LDA:
        return []
    return [_probed(job, tapped, probed.name, slices=probed.slices, rows=rows, method="discriminant analysis")]


def _probed(  # over the limit: what a probe is made of
    job: Job, tapped: Tapped, name: str, *, slices: tuple[TapSlice, ...], rows: np.ndarray, method: str = "ridge"
) -> Probed:
    probes, used, losses, errors = {}, {}, [], np.zeros(0)
    columns = _columns(slices)
    for task, part in zip(job.tasks, job.objective().parts, strict=True):
        used[task] = _drawn(job.known(task, rows), len(columns), seed=job.plan.seed)
        features = tapped.features[torch.from_numpy(used[task])][:, torch.from_numpy(columns)].numpy()
        probes[task] = _solved(job, task, rows=used[task], features=features, slices=slices, method=method)
        scores = torch.from_numpy(probes[task].loo_scores).float()
        losses.append(part.weight * float(part.loss(scores, part.targets[used[task]])))
        if task == job.items.data.name:
            errors = item_errors(job, probes[task].loo_scores, rows=used[task])
    return Probed(name, slices, method, probes, used, errors, float(sum(losses)))


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
    spread, mean = features.std(axis=0), np.abs(features).mean(axis=0)
    real = spread > 64 * np.finfo(np.float32).eps * mean
    widths: dict[str, int] = {}
    for part in slices:
        widths[part.block] = widths.get(part.block, 0) + part.stop - part.start
    roots = np.concatenate([np.full(part.stop - part.start, np.sqrt(widths[part.block])) for part in slices])
    return np.where(real, spread, 1.0).astype(np.float32) * roots.astype(np.float32)


def item_errors(job: Job, scores: np.ndarray, *, rows: np.ndarray) -> np.ndarray:
    """Return how wrong `scores` (n, C) of a `job`'s items `rows` (n,) are: 0 or 1 for classes, else the loss of each; of the first task."""
    data, part = job.items.data, job.objective().parts[0]
    if data.task == "classification":
        return np.asarray(scores.argmax(1) != data.targets[rows], np.float64)
    made, targets = torch.from_numpy(np.asarray(scores)).float(), part.targets[rows]
    return np.array([float(part.loss(made[row : row + 1], targets[row : row + 1])) for row in range(len(rows))])


def probed_network(job: Job, probed: Probed) -> Network:
    """Return a network whose head is what was `probed`, on the job's network as it was when it was read; further tasks are branches.

    Raises:
        NetworkError: if the network gives other features than those that were read.
    """
    network = job.network.tapped(probed.taps)
    found = [(part.block, part.pool, part.stop - part.start) for part in network.tap_slices]
    wanted = [(part.block, part.pool, part.stop - part.start) for part in probed.slices]
    if found != wanted:
        raise NetworkError(f"The tapped network gives {found[:3]} …; expected {wanted[:3]} …. Read it anew, without its cache.")
    order = list(job.network.heads)
    for name, task in sorted(job.tasks.items(), key=lambda pair: order.index(pair[1])):
        probe, head = probed.probes[name], job.network.heads[task]
        weight, bias = probe.weight.astype(np.float32), probe.bias.astype(np.float32)
        network = network.with_head(replace(head, layer="", parts=(), groups=None, thresholds=None, weight=weight, bias=bias))
    network.preprocessing, network.account = job.network.preprocessing, job.network.account
    return network
