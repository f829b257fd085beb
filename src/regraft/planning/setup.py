"""What a strategy is given: a setup that nobody changes, and a log that takes down what it did and what that cost."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..console import STEPS, progress
from ..data import Dataset, Prepared
from ..errors import DataError, SettingError
from ..freezing import Counter, Kept
from ..freezing.identity import frozen_digest
from ..networks.contract import Head, Network, Scores
from ..probes import LinearProbe
from ..tasks import chosen_loss, class_weights, fit_thresholds
from ..training import Checkpoint, Feed, Objective, Settings, TaskObjective
from ..training.recipe import Measured
from .plan import Plan

__all__ = [
    "Additions",
    "Checkpoints",
    "Clock",
    "Log",
    "Outcome",
    "Parts",
    "Setup",
    "Solved",
    "Source",
    "learning_parts",
    "parts_of",
    "run_digest",
    "usable_device",
    "whole_digest",
]

MOST_REFITTED = 5000
"""Training and validation examples together from which refit="auto" does without the second training."""
_NO_PART_OF_A_RUN = frozenset(
    {
        "reasons",
        "candidates",
        "chosen",
        "statistics",
        "false_alarm",
        "cache",
        "device",
        "engine",
        "cluster",
        "baselines",
        "callbacks",
        "log_with",
    }
)
"""Names in a plan and its settings that change nothing in how a network is trained: a run that was killed goes on with others."""


@dataclass
class Clock:
    """Seconds by kind of work. Work within other work counts as its own kind alone, so that the kinds add up to the total."""

    began: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    running: list[str] = field(default_factory=list)
    since: float = 0.0

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Count the time of a piece of work, one of `console.STEPS`, and show it on the terminal."""
        self._turn()
        self.running.append(kind)
        try:
            with progress(STEPS[kind]):
                yield
        finally:
            self._turn()
            self.running.pop()

    def _turn(self) -> None:
        """Charge the time since the last turn to the innermost kind."""
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def cost(self, counter: Counter) -> dict[str, float]:
        """Return the seconds by kind, in total, and the examples that the counter saw go through the frozen part."""
        self._turn()
        total, log = time.perf_counter() - self.began, counter.engines
        return {
            **{kind: round(spent, 3) for kind, spent in self.seconds.items() if spent or kind in ("read", "frozen", "train")},
            "total": round(total, 3),
            "frozen_forward_items": counter.items,
            **({"engine_building": round(log.building, 3), "engine_saved": round(log.saved, 3)} if log.building else {}),
        }


@dataclass
class Log:
    """What is taken down while a strategy is carried out: the only thing that changes.

    Attributes:
        clock: seconds so far.
        counter: examples that went through the frozen part.
        kept: feature caches of this run that no other one takes up.
        on_epoch: told of every epoch's entry in the history; what it raises ends the training.
    """

    clock: Clock = field(default_factory=Clock)
    counter: Counter = field(default_factory=Counter)
    kept: Kept = field(default_factory=Kept)
    notes: list[str] = field(default_factory=list)
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None


@dataclass(frozen=True)
class Parts:
    """Indices of the training, the validation and the holdout set: the examples that are learned from, that choose, and that judge."""

    training: np.ndarray
    validation: np.ndarray
    holdout: np.ndarray

    @property
    def learned_from(self) -> np.ndarray:
        """The examples that do not judge, (n,), in order."""
        return np.sort(np.concatenate([self.training, self.validation]))


def parts_of(data: Dataset, plan: Plan, *, judged_apart: bool = False) -> Parts:
    """Split the examples: what chooses something never judges it.

    Result: The parts; `validation` is empty where a class would be left with fewer than two examples to learn from.
    """
    if not plan.holdout:
        if not judged_apart:
            raise SettingError("holdout=0 leaves nothing that judges. Give test=, a set that judges, or a share such as holdout=0.2.")
        return learning_parts(data, plan, rest=np.arange(len(data)), holdout=np.arange(0))
    rest, holdout = _split(data, plan.holdout, seed=plan.seed, needed=not judged_apart)
    return learning_parts(data, plan, rest=rest, holdout=holdout)


def learning_parts(data: Dataset, plan: Plan, *, rest: np.ndarray, holdout: np.ndarray) -> Parts:
    """Split the examples to learn from into training and validation set.

    Result: The parts; `validation` is empty where a class would be left with fewer than two examples to learn from, or groups cannot be
    split.
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
class Additions:
    """What a method, or what the old head says, adds to a training.

    Attributes:
        terms: what is added to the loss, and `share` is the factor of the rest, as of `Objective`.
        rates: factors of the learning rate, as of `Training`.
        helpers: tasks of heads that are trained although the data have no targets of them.
    """

    terms: tuple[Callable[[Scores, np.ndarray], Tensor], ...] = ()
    share: float = 1.0
    rates: Mapping[str, float] = field(default_factory=dict)
    helpers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checkpoints:
    """Where the trainings of a run go on from.

    Attributes:
        digest: of the run, as of `run_digest`.
        resume: whether to go on from those that are there.
    """

    folder: Path
    digest: str
    resume: bool = True

    def of_stage(self, stage: str) -> Checkpoint:
        """Return that of one `stage`; one that is there is removed where nothing is to be resumed."""
        checkpoint = Checkpoint(self.folder / f"{stage}.pt", self.digest)
        if not self.resume:
            checkpoint.path.unlink(missing_ok=True)
        return checkpoint


def usable_device(name: str | None) -> torch.device:
    """Return the device called `name`, or the fastest there is for None; `SettingError` if the machine has no such device."""
    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"device={wanted!r} cannot be used here: {str(error).splitlines()[0]} Leave it out, or give 'cpu'.") from error
    return torch.device(wanted)


@dataclass(frozen=True, eq=False)
class Setup:
    """What is known before a strategy begins, on some network. No field and nothing in one changes, but for the network's weights.

    Attributes:
        network: what is adapted, with its new head.
        items: the examples as the network takes them.
        tasks: task of the data -> task of the network.
        new_rows: task of the network -> rows of its new classes.
        test: further examples that judge, or None: then the holdout set does.
        old_head: the first head as it came, before its rows were changed; None where there was none.
        checkpoints: where trainings go on from; None without a folder.
        repeats: a training of the same strategy on fewer examples, which is to be repeated as it was; None: nothing is known yet.
    """

    network: Network
    items: Prepared
    parts: Parts
    plan: Plan
    tasks: Mapping[str, str]
    new_rows: Mapping[str, np.ndarray]
    test: Prepared | None = None
    old_head: Head | None = None
    checkpoints: Checkpoints | None = None
    additions: Additions = field(default_factory=Additions)
    repeats: Measured | None = None

    def on(self, network: Network) -> Setup:
        """Return the same with another network, which is moved to the device."""
        network.move_(self.device)
        return replace(self, network=network)

    @property
    def settings(self) -> Settings:
        """The settings of the plan."""
        return self.plan.settings

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return usable_device(self.settings.device)

    @property
    def refits(self) -> bool:
        """Whether trainings are repeated on training and validation set together, with what was chosen."""
        wanted, examples = self.settings.refit, len(self.parts.training) + len(self.parts.validation)
        return wanted is not False and len(self.parts.validation) > 0 and (wanted is True or examples < MOST_REFITTED)

    def data_of(self, name: str) -> Dataset:
        """Return the examples with the targets of the data's task `name` alone."""
        return self.items.data.of_task(name)

    def known(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return those of the `indices` whose target of the data's task `name` is known."""
        return np.asarray(indices[self.items.data.targets_of(name).known[indices]])

    @property
    def open_tasks(self) -> dict[str, str]:
        """Task of the data -> task of the network, of the heads whose rows may be changed: those that the network does not hold."""
        held = {task for task in self.tasks.values() if any(map(self.network.holds, self.network.layers_of(task)))}
        return {name: task for name, task in self.tasks.items() if task not in held}

    @property
    def apart(self) -> bool:
        """Whether a head that is trained reads other features than the first one: then none is solved in closed form."""
        return any(self.network.heads[task].apart for task in self.tasks.values())

    @property
    def idle_layers(self) -> frozenset[str]:
        """The layers of the heads that the data have no targets for: they stay frozen."""
        trained = {layer for task in (*self.tasks.values(), *self.additions.helpers) for layer in self.network.layers_of(task)}
        return frozenset(self.network.head_layers) - trained

    @property
    def all_but_heads(self) -> frozenset[str]:
        """Every layer but those of the heads that are trained."""
        trained = set(self.network.head_layers) - self.idle_layers
        return frozenset(layer.name for layer in self.network.layers if layer.name not in trained)

    @property
    def keeps_classes(self) -> bool:
        """Whether the first task has classes, and all of them were carried over from the old head."""
        data = self.items.data
        return data.task == "classification" and not len(self.new_rows.get(self.tasks[data.name], np.zeros(1)))

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """Return where a stage goes on from, or None without a folder."""
        return None if self.checkpoints is None else self.checkpoints.of_stage(stage)

    def objective(self) -> Objective:
        """Return what is minimised: the weighted sum of each task's loss against its targets."""
        weights = self.settings.task_weights or {}
        parts = tuple(self._part(name, task, weight=float(weights.get(name, 1.0))) for name, task in self.tasks.items())
        return Objective(parts, self.additions.terms, self.additions.share)

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
        wanted = self.plan.loss_of(name, first=self.items.data.name)
        own = chosen_loss(wanted, data.task)
        metrics = settings.metrics if name == self.items.data.name else ()
        calibrates = wanted in (None, "cross_entropy")
        further: dict[str, Any] = {"kind": data.task, "metrics": metrics, "calibrates": calibrates, "sample_weight": self._sample_weight()}
        return TaskObjective(task, own, targets, by_class, smoothing, weight, **further)

    def _sample_weight(self) -> Tensor | None:
        """Return how much each example counts, (N,), 1 on the mean of those that are learned from; None where all count the same."""
        weights = self.items.data.weights
        if weights is None:
            return None
        mean = float(weights[self.parts.training].mean())
        return torch.from_numpy(np.asarray(weights / mean if mean else weights, np.float32))


def run_digest(setup: Setup) -> str:
    """Return a digest of plan, data and starting weights, by which a run knows its own checkpoints."""
    layers = [layer.name for layer in setup.network.layers]
    targets = [setup.items.data.targets_of(name) for name in setup.tasks]
    learned = hashlib.blake2b(b"".join(np.ascontiguousarray(part.values).tobytes() for part in targets), digest_size=12).hexdigest()
    plan = {name: value for name, value in setup.plan.to_dict().items() if name not in _NO_PART_OF_A_RUN}
    plan["settings"] = {name: value for name, value in plan["settings"].items() if name not in _NO_PART_OF_A_RUN}
    weights = setup.items.data.weights
    plan |= {} if weights is None else {"sample_weight": hashlib.blake2b(weights.tobytes(), digest_size=12).hexdigest()}
    facts = [plan, setup.items.identity(setup.plan.views), learned, frozen_digest(setup.network, layers)]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest()


def whole_digest(setup: Setup, digest: str) -> str:
    """Return a digest of all that decides a result: of the run, and of what judges it and is kept with it."""
    plan, test = setup.plan, setup.test
    judged = None if test is None else [test.identity(1), *(str(test.data.targets_of(name).values.tobytes()) for name in test.data.tasks)]
    facts = [digest, judged, plan.statistics, plan.false_alarm, plan.settings.baselines]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class Solved:
    """The closed-form head of one task, and the (n,) examples that it was solved on."""

    probe: LinearProbe
    rows: np.ndarray

    def thresholds(self, targets: np.ndarray) -> np.ndarray:
        """Return (C,) thresholds of labels, fitted to the leave-one-out scores; `targets` (N, C) are those of all examples."""
        return fit_thresholds(self.probe.loo_scores, targets[self.rows])


@dataclass(frozen=True)
class Source:
    """What the source network's features say, before anything is trained: what the baselines are made of, as far as it was computed.

    Attributes:
        features: (N, d) of the examples learned from.
        judging: (n, d) of the examples that judge, those of the holdout or the test set.
        probes: task of the data -> its closed-form head on these features.
    """

    features: Tensor | None = None
    judging: Tensor | None = None
    probes: Mapping[str, Solved] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """What a strategy leaves behind.

    Attributes:
        frozen: the layers that stayed frozen.
        source: what the source network's features say.
        head_features: (N, D) what the head of the adapted network reads, where it is another and they were computed.
        test_feed: the same as `feed` for the test set, where it was computed.
        solved: task of the data -> the closed-form head that the network has, where it has one.
        measured: the training whose settings were measured; None where there was none.
        candidates: what was compared, as plain data, in the order of the report.
        chosen: how the best of them was made: strategy and what goes with it.
    """

    network: Network
    feed: Feed
    frozen: frozenset[str]
    history: list[dict[str, Any]] = field(default_factory=list)
    source: Source = field(default_factory=Source)
    head_features: Tensor | None = None
    test_feed: Feed | None = None
    solved: Mapping[str, Solved] = field(default_factory=dict)
    measured: Measured | None = None
    candidates: tuple[dict[str, Any], ...] = ()
    chosen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def held_out(self) -> tuple[Mapping[str, np.ndarray], np.ndarray] | None:
        """Scores by task of examples that the training had not learned from before it was repeated on all, and which examples."""
        return None if self.measured is None else self.measured.held_out
