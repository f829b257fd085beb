"""What tuning starts from: the trained head of the network, or the closed-form head on several depths (LP-FT)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Prepared
from ...training import Feed, HeadFeed, WholeFeed
from ..job import Carried, Job, Solved
from ..starting import solve_heads_, solve_only_
from ..tapped import Tapped, default_points, tapped_features
from .probing import probe_at, probed_network
from .solving import Probed

__all__ = [
    "Base",
    "carried_by_probe",
    "head_base",
    "learning_rows",
    "probe_base",
    "read_by_probe",
    "read_depths",
    "scratch_base",
    "with_probe",
]


@dataclass
class Base:
    """Where candidates start.

    Attributes:
        job: the work, on a network of its own.
        features: (N, d) what its head reads at this start; None from scratch.
        history: how it came there.
    """

    job: Job
    features: Tensor | None
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def head_feed(self) -> Feed:
        """Batches for the head alone, where its features are known; else for the whole network."""
        job = self.job
        if self.features is None:
            return WholeFeed(job.network, job.items, job.plan.views, job.device)
        return HeadFeed(job.network, self.features, job.device)


def read_depths(job: Job, items: Prepared | None = None) -> Tapped:
    """Read the job's network at every depth, in one pass over the items.

    Args:
        job: its network is not changed.
        items: others than those learned from (a test set).

    Returns:
        What was read of all of them.
    """
    settings, items = job.settings, items or job.items
    settings = replace(settings, cache="memory") if job.network.draws and settings.cache is not None else settings
    if settings.cache == "auto":
        points = default_points(job.network)
        width = job.network.tapped(points).tap_slices[-1].stop + (job.network.head.features if job.network.heads else 0)
        settings = replace(settings, cache="memory") if job.too_large(4 * width * len(items)) else settings
    tapped = tapped_features(job.network, items, settings=settings, device=job.device, counter=job.counter, clock=job.clock)
    job.notes.extend(note for note in tapped.notes if note not in job.notes)
    return tapped


def head_base(job: Job, features: Tensor) -> Base:
    """Return the network with its heads solved, then trained on their features.

    Args:
        job: its network is copied.
        features: (N, d) what the heads read.
    """
    base = Base(job.with_network(job.network.copy()), features)
    whole = WholeFeed(base.job.network, job.items, 1, job.device)
    solve_heads_(base.job, whole, features=features, scored=base.head_feed)
    settings = replace(job.settings, unfreeze_every=None)
    base.history = base.job.train("head", base.head_feed, frozen=base.job.all_but_heads(), settings=settings)
    return base


def probe_base(job: Job, tapped: Tapped, *, probed: Probed) -> Base:
    """Return the network that has a probe as its head.

    Args:
        job: with the network that was read.
        tapped: what was read of all N items.
        probed: which of it, and the heads.
    """
    return Base(job.with_network(probed_network(job, probed)), read_by_probe(tapped, probed))


def read_by_probe(tapped: Tapped, probed: Probed) -> Tensor:
    """Return what the head that was `probed` reads, (N, D), of what was `tapped` of N items."""
    features = tapped.features[:, torch.from_numpy(probed.columns)]
    return features if probed.layer is None else torch.from_numpy(probed.layer.apply(features.numpy()))


def scratch_base(job: Job) -> Base:
    """Return the same architecture, freshly drawn, as a start for a `job`."""
    return Base(job.with_network(job.network.reinitialised(job.plan.seed)), None)


def with_probe(job: Job) -> Carried:
    """Carry out the strategy "probe": one pass, and heads in closed form, fitted to all items that do not judge.

    Args:
        job: gets the network that has them.

    Returns:
        How to judge it; nothing was trained.
    """
    tapped = read_depths(job)
    probed = probe_at(job, tapped, rows=learning_rows(job))
    said = f"{probed.error:.1%} wrong" if job.items.data.task == "classification" else f"loss {probed.error:.4g}"
    held_out = probed.probes[job.items.data.name].held_out
    job.notes.append(f"The head reads {probed.name}: {len(probed.columns)} features, by {probed.method}; {held_out}: {said}.")
    return carried_by_probe(job, tapped, probed=probed)


def carried_by_probe(job: Job, tapped: Tapped, *, probed: Probed) -> Carried:
    """Give the job the network that has a probe as its head, the baselines what they need, and return how to judge it.

    Args:
        job: gets the network, with thresholds where labels need them.
        tapped: what was read of all N items.
        probed: the heads.
    """
    source, test_feed = tapped.head_features, None
    base = probe_base(job, tapped, probed=probed)
    if job.test is not None:
        judged = read_depths(job, job.test)
        job.judging_features = judged.head_features
        test_feed = HeadFeed(base.job.network, read_by_probe(judged, probed), job.device)
    elif source is not None:
        job.judging_features = source[job.parts.holdout]
    if source is not None:
        solve_only_(job, source)
    lost = [task for task in job.network.heads if task not in base.job.network.heads]
    if lost:
        job.notes.append(f"The data have no targets of {', '.join(map(repr, lost))}: these heads read other features, and were left out.")
    job.network = base.job.network
    solved = {name: Solved(probe, probed.rows[name]) for name, probe in probed.probes.items()}
    return Carried(base.head_feed, [], source, job.frozen_for_head(), base.features, test_feed, solved)


def learning_rows(job: Job) -> np.ndarray:
    """Return a `job`'s items that do not judge, those that choose included: a closed form needs nobody to choose its epoch."""
    return np.sort(np.concatenate([job.parts.training, job.parts.validation]))
