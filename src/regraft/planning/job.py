"""One adaptation under way: network, data, plan, and what they have cost so far."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, Prepared
from ..errors import SettingError
from ..frontier import Counter, Cut, FrozenPass, Refusal, cacheable_layers, default_cache_folder, find_cut, frozen_up_to_head
from ..frontier.identity import frozen_digest
from ..networks.contract import Network
from ..networks.tracing import capture, pooled
from ..probes import RidgeProbe, fit_ridge
from ..tasks import class_weights, loss_for
from ..training import CachedFeed, Checkpoint, Feed, HeadFeed, Objective, Settings, Training, WholeFeed, raw_scores, train
from .plan import Plan

__all__ = ["Clock", "Job", "Parts", "parts_of"]

LARGEST_SOLVED = 5000
"""Items or features, whichever are fewer, up to which the closed-form probe takes seconds."""
MOST_SOLVED = 20_000
"""Items that the closed-form probe is fitted to at most: more would cost memory and change little."""
IN_MEMORY = 2**28
"""Bytes of features above which they are kept in a temporary file."""


def _room_for(count: int, width: int) -> Tensor:
    """Return an uninitialised (count, width) float32 tensor, in a file that goes with the process where it is large."""
    if count * width * 4 <= IN_MEMORY:
        return torch.empty(count, width)
    with tempfile.TemporaryFile() as file:  # the mapping outlives the name and the handle
        return torch.from_numpy(np.memmap(file, np.float32, mode="w+", shape=(count, width)))


@dataclass
class Clock:
    """Seconds by kind of work."""

    began: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "frozen": 0.0, "train": 0.0})

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Count the time of a piece of work.

        Args:
            kind: "read", "frozen" or "train".

        Yields:
            Nothing.
        """
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[kind] += time.perf_counter() - start

    def cost(self, counter: Counter) -> dict[str, float]:
        """Return the seconds by kind, in total, and the items that the counter saw go through the frozen part."""
        total = time.perf_counter() - self.began
        return {
            **{kind: round(spent, 3) for kind, spent in self.seconds.items()},
            "total": round(total, 3),
            "frozen_forward_items": counter.items,
        }


@dataclass(frozen=True)
class Parts:
    """Indices of the items that are learned from (fit), that choose (select), and that judge (valid)."""

    fit: np.ndarray
    select: np.ndarray
    valid: np.ndarray


def parts_of(data: Dataset, plan: Plan) -> Parts:
    """Split the items: what chooses something never judges it.

    Args:
        data: N items.
        plan: shares and seed.

    Returns:
        The parts; `select` is empty where a class would be left with fewer than two items to learn from.
    """
    rest, valid = data.split_indices(plan.valid, seed=plan.seed)
    learning = data.subset(rest)
    counts = learning.class_counts()
    scarce = len(rest) < 8 or (len(counts) > 0 and int(counts[counts > 0].min()) < 3)
    lone_group = learning.groups is not None and len(np.unique(learning.groups)) < 3
    if scarce or lone_group or plan.select <= 0:
        return Parts(rest, rest[:0], valid)
    fit, select = learning.split_indices(plan.select, seed=plan.seed + 1)
    return Parts(rest[fit], rest[select], valid)


@dataclass
class Job:
    """All that the strategies work with.

    Attributes:
        network: the network being adapted, with its new head; changed in place.
        items: the items as the network takes them.
        parts: which items do what.
        plan: what is done.
        out: folder for checkpoints, or None.
        resume: whether to go on from checkpoints.
        clock: seconds so far.
        counter: items that went through the frozen part.
        notes: sentences for the report.
        probe: the closed-form head on the source network's features, once it is solved.
        test: further items that judge, or None: then the valid part does.
        judging_features: (n, d) the source network's features of the judging items, where they were computed.
    """

    network: Network
    items: Prepared
    parts: Parts
    plan: Plan
    out: Path | None = None
    resume: bool = True
    clock: Clock = field(default_factory=Clock)
    counter: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    probe: RidgeProbe | None = None
    test: Prepared | None = None
    judging_features: Tensor | None = None

    @property
    def settings(self) -> Settings:
        """The settings of the plan."""
        return self.plan.settings

    @property
    def device(self) -> torch.device:
        """Where the network runs.

        Raises:
            SettingError: if the machine has no such device.
        """
        name = self.settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise SettingError(f"device={name!r} cannot be used here: {str(error).splitlines()[0]} Leave it out, or give 'cpu'.") from error
        return torch.device(name)

    def all_but_head(self) -> frozenset[str]:
        """Return every layer but the head."""
        return frozenset(layer.name for layer in self.network.layers if layer.name != self.network.head.layer)

    def feed(self, frozen: frozenset[str], items: Prepared | None = None) -> Feed:
        """Return where batches come from when these layers are frozen: the activation cache if there is a cut.

        Args:
            frozen: layers.
            items: other items than those learned from (a test set); they have no views.

        Returns:
            The feed; the cache is filled.
        """
        learned, items = items is None, items or self.items
        views = self.plan.views if learned else 1
        self.network.freeze_(frozen)
        layers = cacheable_layers(self.network, frozen)
        whole = WholeFeed(self.network, items, views, self.device, self.counter if layers else None)
        if not layers or self.settings.cache is None:
            return whole
        with self.clock.during("frozen"):
            sample = items.batch(np.arange(3) % len(items))
            cut = find_cut(self.network, layers, sample=sample)
            if isinstance(cut, Refusal):
                self.notes.append(f"The frozen part is computed every epoch: {cut.reason}.")
                return whole
            if self.plan.strategy == "auto" and self._too_large(cut, len(items) * views):
                return whole
            where = default_cache_folder() if self.settings.cache == "auto" else self.settings.cache
            fill = FrozenPass(self.network, cut, where, dtype=self.settings.dtype, device=self.device, counter=self.counter)
            plain = fill.cached(items)
            position = np.full(len(items), -1)
            if views == 1:
                return CachedFeed(cut, plain, None, position, 1, self.device)
            position[self.parts.fit] = np.arange(len(self.parts.fit))
            chosen = Prepared(items.data.subset(self.parts.fit), items.preprocessing, view_seed=items.view_seed)
            return CachedFeed(cut, plain, fill.cached(chosen, range(1, views)), position, views, self.device)

    def _too_large(self, cut: Cut, rows: int) -> bool:
        """Tell whether a cache that nobody asked for would take over a quarter of the free disk."""
        folder = default_cache_folder()
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        needed = rows * sum(int(np.prod(part.shape)) * part.dtype.itemsize for part in cut.live)
        large = bool(needed > shutil.disk_usage(existing).free / 4)
        if large:
            self.notes.append(
                f"A cache of {needed / 2**30:.1f} GiB would take over a quarter of the free disk; that frontier runs without it."
            )
        return large

    def head_feed(self, feed: Feed) -> HeadFeed:
        """Return the head's features of all items, computed by one pass of `feed`."""
        with self.clock.during("frozen"):
            return HeadFeed(self.network, self.features(feed, len(self.items)), self.device)

    def features(self, feed: Feed, count: int) -> Tensor:
        """Return what the head reads of the `count` items of a feed, (count, d), view 0."""
        network = self.network
        network.mode_(False)
        head = network.modules()[network.head.layer]
        parts = [np.arange(start, min(start + 64, count)) for start in range(0, count, 64)]
        made: Tensor | None = None
        with torch.inference_mode(), capture(head) as found:
            for indices, payload in feed.batches([(part, np.zeros(len(part), np.int64)) for part in parts]):
                feed.scores(payload)
                rows = pooled(found["input"], channels_last=network.family == "keras" or found["input"].ndim == 3).float().cpu()
                made = _room_for(count, rows.shape[1]) if made is None else made
                made[int(indices[0]) : int(indices[0]) + len(rows)] = rows
        return torch.zeros(0, network.head.features) if made is None else made

    def keep_features_(self, features: Tensor, frozen: frozenset[str]) -> None:
        """Keep the source network's features of the judging items for the baselines, before anything is trained.

        Args:
            features: (N, d) of the items learned from.
            frozen: layers, for the cut of a test set.
        """
        if self.test is None:
            self.judging_features = features[self.parts.valid]
        else:
            self.judging_features = self.features(self.feed(frozen, self.test), len(self.test))

    def solve_head_(self, feed: Feed, features: Tensor) -> None:
        """Let the head start from the closed-form probe, where that is better than the rows it has.

        The probe is judged by its leave-one-out loss, the present rows (some may have been carried over by name) by their loss;
        neither has seen the items that it is judged by.

        Args:
            feed: whose scores the head makes.
            features: (N, d) what the head reads.
        """
        network, fit, data = self.network, self.parts.fit, self.items.data
        if not self.settings.epochs or len(fit) < 3 or min(len(fit), features.shape[1]) > LARGEST_SOLVED:
            return
        objective, head = self.objective(), network.head
        if len(fit) > MOST_SOLVED:
            fit = np.sort(np.random.default_rng(self.plan.seed).choice(fit, MOST_SOLVED, replace=False))
        probe = fit_ridge(features[fit].numpy(), data.targets[fit], kind=data.task, classes=len(data.classes))
        before = torch.from_numpy(raw_scores(network, feed, task=head.task, indices=fit))
        after = torch.from_numpy(probe.loo_scores).float()
        targets = objective.targets[fit]
        self.probe = probe
        if objective.loss(after, targets) >= objective.loss(before, targets):
            return
        self._start_from_(probe, feed, features=features)

    def _start_from_(self, probe: RidgeProbe, feed: Feed, *, features: Tensor) -> None:
        """Put the probe's rows into the head, if the network then gives the probe's scores; else leave the head as it was.

        Where a ReLU follows the head (SqueezeNet), a shift of all classes by the same amount keeps it open: a softmax does not see it.
        """
        network, layer, few = self.network, self.network.head.layer, self.parts.fit[:64]
        rows = network.rows(layer)
        expected = features[few].numpy() @ probe.weight.T + probe.bias
        scale = float(np.abs(expected).max()) + 1e-6
        for shift in (0.0, 2 * scale, 8 * scale, 32 * scale) if network.head.kind == "classification" else (0.0,):
            if not network.set_rows_(layer, probe.weight, bias=probe.bias + shift):
                return
            real = raw_scores(network, feed, task=network.head.task, indices=few) - shift
            if np.allclose(real, expected, rtol=1e-2, atol=1e-2 * scale):
                return
        network.set_rows_(layer, rows[0], bias=rows[1])

    def objective(self) -> Objective:
        """Return what is minimised: the loss of the head's task against the targets."""
        data, head = self.items.data, self.network.head
        targets = torch.from_numpy(np.array(data.targets))
        if data.task == "regression" and targets.ndim == 1:
            targets = targets[:, None]
        weights = None
        if self.settings.class_weight is not None and data.task == "classification":
            weights = class_weights(data.subset(self.parts.fit).class_counts(), self.settings.class_weight)
        weight = None if weights is None else torch.from_numpy(np.asarray(weights, np.float32)).to(self.device)
        return Objective(head.task, loss_for(data.task), targets, weight, self.settings.label_smoothing)

    def train(
        self, stage: str, feed: Feed, *, frozen: frozenset[str], settings: Settings | None = None, most: int | None = None
    ) -> list[dict[str, object]]:
        """Train what is not frozen.

        Args:
            stage: a word for the history and the name of the checkpoint.
            feed: batches and scores.
            frozen: layers that stay frozen.
            settings: other than the plan's, or None.
            most: learn from so many items at most, or None.

        Returns:
            The history of this stage.
        """
        fit = self.parts.fit
        if most is not None and len(fit) > most:
            fit = np.sort(np.random.default_rng(self.plan.seed).choice(fit, most, replace=False))
        training = Training(
            self.network,
            feed,
            self.objective(),
            fit,
            self.parts.select,
            settings or self.settings,
            self.plan.seed,
            frozen,
            self.checkpoint(stage),
            stage,
        )
        with self.clock.during("train"):
            return train(training)

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """Return where a stage goes on from, or None without a folder."""
        if self.out is None:
            return None
        checkpoint = Checkpoint(self.out / "run" / f"{stage}.pt", self.run_digest)
        if not self.resume:
            checkpoint.path.unlink(missing_ok=True)
        return checkpoint

    def begin_(self) -> None:
        """Take the run's digest while the network still has its starting weights."""
        layers = [layer.name for layer in self.network.layers]
        facts = [self.plan.to_dict(), self.items.identity(self.plan.views), frozen_digest(self.network, layers)]
        self.run_digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest()

    def frozen_for_head(self) -> frozenset[str]:
        """Return all layers before the head."""
        return frozen_up_to_head(self.network)
