"""One adaptation under way: network, data, plan, and what they have cost so far."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import Dataset, Prepared
from ..errors import DataError, SettingError
from ..files.room import large_array
from ..frontier import Counter, Cut, FrozenPass, Kept, Refusal, cacheable_layers, default_cache_folder, find_cut, frozen_up_to_head
from ..frontier.identity import frozen_digest
from ..networks.contract import Head, Network, Scores
from ..networks.tracing import capture, pooled
from ..probes import LinearProbe
from ..tasks import class_weights, fit_thresholds, loss_for
from ..training import CachedFeed, Checkpoint, Feed, HeadFeed, Objective, Settings, TaskObjective, Training, WholeFeed, train
from ..training.measured import Measured
from .plan import Plan

__all__ = ["Carried", "Clock", "Job", "Parts", "Solved", "learning_parts", "parts_of"]

UNCACHED = "The frozen part is computed every epoch"
"""How a note begins where a network cannot be taken apart."""
MOST_REFITTED = 5000
"""Training and validation examples together from which refit="auto" does without the second training."""
_NO_PART_OF_A_RUN = frozenset(
    {"reasons", "candidates", "chosen", "statistics", "false_alarm", "cache", "device", "baselines"},
)
"""Names in a plan and its settings that change nothing in how a network is trained: a run that was killed goes on with others."""


def _cache_bytes(cut: Cut, rows: int) -> int:
    return rows * sum(int(np.prod(part.shape)) * part.dtype.itemsize for part in cut.live)


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
    """Indices of the examples that are learned from, that choose, and that judge."""

    training: np.ndarray
    validation: np.ndarray
    holdout: np.ndarray


def parts_of(data: Dataset, plan: Plan, *, judged_apart: bool = False) -> Parts:
    """Split the items: what chooses something never judges it.

    Args:
        data: N items.
        plan: shares and seed.
        judged_apart: whether other items judge; then all are learned from where no class has one to spare.

    Returns:
        The parts; `validation` is empty where a class would be left with fewer than two items to learn from.

    Raises:
        DataError: if the items cannot be split, and no others judge.
        SettingError: if the plan keeps nothing aside to judge, and no others judge.
    """
    if not plan.holdout:
        if not judged_apart:
            raise SettingError("holdout=0 leaves nothing that judges. Give test=, a set that judges, or a share such as holdout=0.2.")
        return learning_parts(data, plan, rest=np.arange(len(data)), holdout=np.arange(0))
    rest, holdout = _split(data, plan.holdout, seed=plan.seed, needed=not judged_apart)
    return learning_parts(data, plan, rest=rest, holdout=holdout)


def learning_parts(data: Dataset, plan: Plan, *, rest: np.ndarray, holdout: np.ndarray) -> Parts:
    """Split the items to learn from into those that are fitted and those that choose.

    Args:
        data: N items.
        plan: share of the latter, and seed.
        rest: indices of the items to learn from.
        holdout: indices of the items that judge.

    Returns:
        The parts; `validation` is empty where a class would be left with fewer than two items to learn from, or groups cannot be split.
    """
    learning = data.subset(rest)
    counts = learning.class_counts()
    scarce = len(rest) < 8 or (len(counts) > 0 and int(counts[counts > 0].min()) < 3)
    lone_group = learning.groups is not None and len(np.unique(learning.groups)) < 3
    if scarce or lone_group or plan.validation <= 0:
        return Parts(rest, rest[:0], holdout)
    fit, validation = _split(learning, plan.validation, seed=plan.seed + 1, needed=False)
    return Parts(rest[fit], rest[validation], holdout)


def _split(data: Dataset, share: float, *, seed: int, needed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of both parts; the second is empty where no class has an item, or a group, to spare and it is not `needed`."""
    try:
        return data.split_indices(share, seed=seed)
    except DataError:
        if needed:
            raise
        return np.arange(len(data)), np.zeros(0, np.int64)


@dataclass(frozen=True)
class Solved:
    """The closed-form head of one task on the source network's features, and the (n,) items that it was solved on."""

    probe: LinearProbe
    rows: np.ndarray

    def thresholds(self, targets: np.ndarray) -> np.ndarray:
        """Return (C,) thresholds of labels, fitted to the leave-one-out scores; `targets` (N, C) are those of all items."""
        return fit_thresholds(self.probe.loo_scores, targets[self.rows])


@dataclass(frozen=True)
class Carried:
    """What a strategy leaves behind.

    Attributes:
        feed: to judge with.
        history: one dict an epoch.
        features: (N, d) of the source network, where they were computed.
        frozen: the layers that stayed frozen.
        head_features: (N, D) what the head of the adapted network reads, where it is another and they were computed.
        test_feed: the same as `feed` for the test set, where it was computed.
        solved: task of the data -> the closed-form head that the network has, where it has one.
    """

    feed: Feed
    history: list[dict[str, Any]]
    features: Tensor | None
    frozen: frozenset[str]
    head_features: Tensor | None = None
    test_feed: Feed | None = None
    solved: Mapping[str, Solved] = field(default_factory=dict)


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
        kept: caches of this run that no other one takes up.
        notes: sentences for the report.
        tasks: task of the data -> task of the network.
        new_rows: task of the network -> rows of its new classes.
        solved: task of the data -> its closed-form head, once that is solved.
        test: further items that judge, or None: then the holdout set does.
        judging_features: (n, d) the source network's features of the judging items, where they were computed.
        on_epoch: told of every epoch's entry in the history.
        candidates: what was compared, as plain data, in the order of the report.
        chosen: how the best of them was made: strategy and what goes with it.
        run_digest: of plan, data and starting weights.
        old_head: the first head as it came, before its rows were changed; None where there was none.
        helpers: tasks of heads that are trained although the data have no targets of them.
        terms: what is added to the loss, and `share` is the factor of the rest, as of `Objective`.
        rates: factors of the learning rate, as of `Training`.
        anchors: where `stay_near` pulls to, as of `Training`.
        held_out: scores by task of examples that the training had not learned from before it was repeated on all, and which examples.
        measured: the training whose settings were measured, once that is done; None where nothing was trained.
        repeats: such a training of the same strategy on fewer examples, which is to be repeated as it was; None: nothing is known yet.
    """

    network: Network
    items: Prepared
    parts: Parts
    plan: Plan
    out: Path | None = None
    resume: bool = True
    clock: Clock = field(default_factory=Clock)
    counter: Counter = field(default_factory=Counter)
    kept: Kept = field(default_factory=Kept)
    notes: list[str] = field(default_factory=list)
    tasks: Mapping[str, str] = field(default_factory=dict)
    new_rows: Mapping[str, np.ndarray] = field(default_factory=dict)
    solved: dict[str, Solved] = field(default_factory=dict)
    test: Prepared | None = None
    judging_features: Tensor | None = None
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    candidates: list[dict[str, Any]] = field(default_factory=list)
    chosen: dict[str, Any] = field(default_factory=dict)
    run_digest: str = ""
    old_head: Head | None = None
    helpers: tuple[str, ...] = ()
    terms: tuple[Callable[[Scores, np.ndarray], Tensor], ...] = ()
    share: float = 1.0
    rates: Mapping[str, float] = field(default_factory=dict)
    anchors: Mapping[str, Tensor] | None = None
    held_out: tuple[Mapping[str, np.ndarray], np.ndarray] | None = None
    measured: Measured | None = None
    repeats: Measured | None = None

    def with_network(self, network: Network) -> Job:
        """Return the same work, its clock, counter and notes shared, on another network."""
        network.module.to(self.device)
        return replace(self, network=network)

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

    @property
    def learned_from(self) -> np.ndarray:
        """The examples that do not judge, (n,), in order."""
        return np.sort(np.concatenate([self.parts.training, self.parts.validation]))

    @property
    def refits(self) -> bool:
        """Whether trainings are repeated on training and validation set together, with what was chosen."""
        wanted, examples = self.settings.refit, len(self.parts.training) + len(self.parts.validation)
        return wanted is not False and len(self.parts.validation) > 0 and (wanted is True or examples < MOST_REFITTED)

    def data_of(self, name: str) -> Dataset:
        """Return the items with the targets of the data's task `name` alone."""
        return self.items.data.of_task(name)

    def known(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return those of the `indices` whose target of the data's task `name` is known."""
        return np.asarray(indices[self.items.data.targets_of(name).known[indices]])

    @property
    def open_tasks(self) -> dict[str, str]:
        """Task of the data -> task of the network, of the heads whose rows may be changed: those that the network does not hold."""
        return {name: task for name, task in self.tasks.items() if not self.network.holds(self.network.heads[task].layer)}

    @property
    def idle_layers(self) -> frozenset[str]:
        """The layers of the heads that the data have no targets for: they stay frozen."""
        trained = {self.network.heads[task].layer for task in (*self.tasks.values(), *self.helpers)}
        return frozenset(self.network.head_layers) - trained

    def all_but_heads(self) -> frozenset[str]:
        """Return every layer but those of the heads that are trained."""
        trained = set(self.network.head_layers) - self.idle_layers
        return frozenset(layer.name for layer in self.network.layers if layer.name not in trained)

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
        self.network.freeze_(frozen | self.idle_layers)
        layers = cacheable_layers(self.network, frozen - set(self.network.head_layers))
        whole = WholeFeed(self.network, items, views, self.device, self.counter if layers else None)
        if not layers or self.settings.cache is None or self.network.draws:
            return whole
        with self.clock.during("frozen"):
            sample = items.batch(np.arange(3) % len(items))
            cut = find_cut(self.network, layers, sample=sample)
            if isinstance(cut, Refusal):
                self.notes.append(f"{UNCACHED}: {cut.reason}.")
                return whole
            if self.plan.strategy == "auto" and self.too_large(_cache_bytes(cut, len(items) * views)):
                return whole
            where = default_cache_folder() if self.settings.cache == "auto" else self.settings.cache
            fill = FrozenPass(
                self.network,
                cut,
                where,
                self.settings.dtype,
                device=self.device,
                counter=self.counter,
                notes=self.notes,
                kept=self.kept,
            )
            plain = fill.cached(items)
            position = np.full(len(items), -1)
            if views == 1:
                return CachedFeed(cut, plain, None, position, 1, self.device)
            learned_from = self.learned_from if self.refits else self.parts.training
            position[learned_from] = np.arange(len(learned_from))
            chosen = items.of(items.data.subset(learned_from))
            return CachedFeed(cut, plain, fill.cached(chosen, range(1, views)), position, views, self.device)

    def too_large(self, needed: int) -> bool:
        """Tell whether a cache of `needed` bytes that nobody asked for would take over a quarter of the free disk."""
        folder = default_cache_folder()
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        large = bool(needed > shutil.disk_usage(existing).free / 4)
        if large:
            self.notes.append(f"A cache of {needed / 2**30:.1f} GiB would take over a quarter of the free disk; none is kept there.")
        return large

    def head_feed(self, feed: Feed) -> HeadFeed:
        """Return the heads' features of all items, computed by one pass of `feed`."""
        with self.clock.during("frozen"):
            return HeadFeed(self.network, self.features(feed, np.arange(len(self.items))), self.device)

    def features(self, feed: Feed, indices: np.ndarray) -> Tensor:
        """Return what the heads read of the items `indices` of a feed, (n, d), view 0."""
        network = self.network
        network.mode_(False)
        head = network.modules()[network.head.layer]
        parts = [indices[start : start + 64] for start in range(0, len(indices), 64)]
        made, filled = torch.zeros(0, network.head.features), 0
        with torch.inference_mode(), capture(head) as found:
            for _, payload in feed.batches([(part, np.zeros(len(part), np.int64)) for part in parts]):
                feed.scores(payload)
                rows = pooled(found["input"], channels_last=network.family == "keras" or found["input"].ndim == 3).float().cpu()
                made = made if filled else torch.from_numpy(large_array((len(indices), rows.shape[1]), np.dtype(np.float32)))
                made[filled : filled + len(rows)] = rows
                filled += len(rows)
        return made

    def keep_features_(self, features: Tensor, frozen: frozenset[str]) -> None:
        """Keep the source network's features of the judging items for the baselines, before anything is trained.

        Args:
            features: (N, d) of the items learned from.
            frozen: layers, for the cut of a test set.
        """
        if self.test is None:
            self.judging_features = features[self.parts.holdout]
        else:
            self.judging_features = self.features(self.feed(frozen, self.test), np.arange(len(self.test)))

    def objective(self) -> Objective:
        """Return what is minimised: the weighted sum of each task's loss against its targets."""
        weights = self.settings.task_weights or {}
        parts = tuple(self._part(name, task, weight=float(weights.get(name, 1.0))) for name, task in self.tasks.items())
        return Objective(parts, self.terms, self.share)

    def _part(self, name: str, task: str, *, weight: float) -> TaskObjective:
        data, settings, several = self.items.data.targets_of(name), self.settings, len(self.tasks) > 1
        targets = torch.from_numpy(np.array(data.values))
        if data.task == "regression" and targets.ndim == 1:
            targets = targets[:, None]
        given = settings.class_weight if isinstance(settings.class_weight, str) or name == self.items.data.name else None
        shares = None
        if given is not None and data.task == "classification":
            shares = class_weights(data.taken(self.parts.training).counts(), given)
        by_class = None if shares is None else torch.from_numpy(np.asarray(shares, np.float32)).to(self.device)
        smoothing = 0.0 if several and data.task == "regression" else settings.label_smoothing
        return TaskObjective(task, loss_for(data.task), targets, by_class, smoothing, weight)

    def train(self, stage: str, feed: Feed, *, frozen: frozenset[str], settings: Settings | None = None) -> list[dict[str, object]]:
        """Train what is not frozen.

        Args:
            stage: a word for the history and the name of the checkpoint.
            feed: batches and scores.
            frozen: layers that stay frozen.
            settings: other than the plan's, or None.

        Returns:
            The history of this stage; nothing where the network holds all that is left.
        """
        training = self.training(stage, feed, frozen=frozen, settings=settings)
        self.network.freeze_(training.frozen)
        if not any(one.requires_grad for names in self.network.layer_parameters().values() for one in names.values()):
            return []
        with self.clock.during("train"):
            return train(training)

    def training(
        self, stage: str, feed: Feed, *, frozen: frozenset[str], settings: Settings | None = None, most: int | None = None
    ) -> Training:
        """Return what `train` carries out, on `most` examples at most where that is given.

        Args:
            stage: a word for the history and the name of the checkpoint.
            feed: batches and scores.
            frozen: layers that stay frozen.
            settings: other than the plan's, or None.
            most: learn from so many examples at most, or None.

        Returns:
            All that the training needs.
        """
        fit = self.parts.training
        if most is not None and len(fit) > most:
            fit = np.sort(np.random.default_rng(self.plan.seed).choice(fit, most, replace=False))
        return Training(
            self.network,
            feed,
            self.objective(),
            fit,
            self.parts.validation,
            settings or self.settings,
            self.plan.seed,
            frozen | self.idle_layers,
            self.checkpoint(stage),
            stage,
            self.on_epoch,
            self.rates,
            self.anchors,
        )

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
        targets = [self.items.data.targets_of(name) for name in self.tasks]
        learned = hashlib.blake2b(b"".join(np.ascontiguousarray(part.values).tobytes() for part in targets), digest_size=12).hexdigest()
        plan = {name: value for name, value in self.plan.to_dict().items() if name not in _NO_PART_OF_A_RUN}
        plan["settings"] = {name: value for name, value in plan["settings"].items() if name not in _NO_PART_OF_A_RUN}
        facts = [plan, self.items.identity(self.plan.views), learned, frozen_digest(self.network, layers)]
        self.run_digest = hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest()

    def frozen_for_head(self) -> frozenset[str]:
        """Return all layers before the heads."""
        return frozen_up_to_head(self.network)
