"""Setup and log of a strategy: the setup is fixed, the log records what was done and what it cost."""

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
from ..data import Dataset, PreparedData
from ..errors import DataError, SettingError
from ..freezing import Counter, RunCaches
from ..freezing.identity import frozen_identity
from ..networks.network import Head, Network, Scores
from ..probes import LinearProbe
from ..tasks import chosen_loss, class_weights, fit_thresholds
from ..training import Checkpoint, Feed, Objective, Settings, TaskObjective
from ..training.recipe import MeasuredTraining
from .plan import Plan

MOST_REFITTED = 5000  # Number of training and validation examples from which refit="auto" skips the second training
_NO_PART_OF_A_RUN = frozenset(
    (
        *("reasons", "candidates", "chosen", "statistics", "false_alarm", "cache", "device", "engine", "cluster", "baselines"),
        *("callbacks", "log_with"),
    )
)
"""Names in a plan and its settings that do not affect the trained weights: a killed run can resume with other values."""


@dataclass
class Clock:
    """Seconds by kind of work. Nested work counts only as its own kind, so the kinds add up to the total."""

    began: float = field(default_factory=time.perf_counter)
    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(STEPS, 0.0))
    running: list[str] = field(default_factory=list)
    since: float = 0.0

    @contextmanager
    def during(self, kind: str) -> Iterator[None]:
        """Measure a piece of work of one of the kinds in `console.STEPS`, and show it on the terminal."""
        self._turn()
        self.running.append(kind)
        try:
            with progress(STEPS[kind]):
                yield
        finally:
            self._turn()
            self.running.pop()

    def _turn(self) -> None:
        """Add the time since the last turn to the innermost kind."""
        now = time.perf_counter()
        if self.running:
            self.seconds[self.running[-1]] += now - self.since
        self.since = now

    def cost(self, counter: Counter | None = None) -> dict[str, float]:
        """Return the seconds by kind and in total and, from a counter, the number of examples that passed through the frozen part."""
        self._turn()
        total = time.perf_counter() - self.began
        always = () if counter is None else ("read", "frozen", "train")
        found = {kind: round(spent, 3) for kind, spent in self.seconds.items() if spent or kind in always} | {"total": round(total, 3)}
        if counter is None:
            return found
        log = counter.engines
        found["frozen_forward_examples"] = counter.items
        return found | ({"engine_building": round(log.building, 3), "engine_saved": round(log.saved, 3)} if log.building else {})


@dataclass
class Log:
    """Record of a running strategy, the only object that changes.
    `on_epoch`: called with the history entry of every epoch; an exception ends the training."""

    clock: Clock = field(default_factory=Clock)  # seconds so far
    counter: Counter = field(default_factory=Counter)  # number of examples that passed through the frozen part
    kept: RunCaches = field(default_factory=RunCaches)  # feature caches of this run
    notes: list[str] = field(default_factory=list)
    on_epoch: Callable[[Mapping[str, Any]], None] | None = None
    kept_heads: bool = False  # whether the last training of the heads alone had no epoch that was better than its start


@dataclass(frozen=True)
class Parts:
    """Indices of the training, the validation and the holdout set."""

    training: np.ndarray
    validation: np.ndarray
    holdout: np.ndarray

    @property
    def learned_from(self) -> np.ndarray:
        """Indices (n,) of the training and the validation set together, sorted."""
        return np.sort(np.concatenate([self.training, self.validation]))


def parts_of(data: Dataset, plan: Plan, *, judged_apart: bool = False) -> Parts:
    """Split the examples into training, validation and holdout set.
    The validation set is empty if `plan.validation` is 0, if there are fewer than 8 examples or 3 groups, or if a class would keep fewer
    than two training examples."""
    if not plan.holdout:
        if not judged_apart:
            raise SettingError("holdout=0 leaves nothing that judges. Give test=, a set that judges, or a share such as holdout=0.2.")
        return learning_parts(data, plan, rest=np.arange(len(data)), holdout=np.arange(0))
    rest, holdout = _split(data, plan.holdout, seed=plan.seed, needed=not judged_apart)
    return learning_parts(data, plan, rest=rest, holdout=holdout)


def learning_parts(data: Dataset, plan: Plan, *, rest: np.ndarray, holdout: np.ndarray) -> Parts:
    """Split `rest` into training and validation set.
    The validation set is empty if `plan.validation` is 0, if there are fewer than 8 examples or 3 groups, or if a class would keep fewer
    than two training examples."""
    learning = data.subset(rest)
    counts = learning.class_counts()
    scarce = len(rest) < 8 or (len(counts) > 0 and int(counts[counts > 0].min()) < 3)
    lone_group = learning.groups is not None and len(np.unique(learning.groups)) < 3
    if scarce or lone_group or plan.validation <= 0:
        return Parts(rest, rest[:0], holdout)
    fit, validation = _split(learning, plan.validation, seed=plan.seed + 1, needed=False)
    return Parts(rest[fit], rest[validation], holdout)


def _split(data: Dataset, share: float, *, seed: int, needed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the indices of both parts; if no class has a spare example or group, the second is empty, or `DataError` if it is `needed`."""
    try:
        return data.split_indices(share, seed=seed)
    except DataError:
        if needed:
            raise
        return np.arange(len(data)), np.zeros(0, np.int64)


@dataclass(frozen=True)
class _Additions:
    """Additions of a method, or of a switch that uses the old head, to a training.
    `terms`: terms added to the loss, and `share`, the factor of the task losses, as in `Objective`."""

    terms: tuple[Callable[[Scores, np.ndarray], Tensor], ...] = ()
    share: float = 1.0
    rates: Mapping[str, float] = field(default_factory=dict)  # factors of the learning rate, as in `Training`
    helpers: tuple[str, ...] = ()  # tasks whose heads are trained although the data have no targets for them


@dataclass(frozen=True)
class Checkpoints:
    """Checkpoints of the trainings of a run."""

    folder: Path
    digest: str  # digest of the run, from `run_digest`
    resume: bool = True  # whether to resume from existing checkpoints


def usable_device(name: str | None) -> torch.device:
    """Return the device called `name`, or the fastest one if it is None; `SettingError` if the machine has no such device."""
    wanted = name or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=wanted)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"device={wanted!r} cannot be used here: {str(error).splitlines()[0]} Leave it out, or give 'cpu'.") from error
    return torch.device(wanted)


@dataclass(frozen=True, eq=False)
class Setup:
    """Everything that a strategy is given, for one network. Only the weights of the network change.
    `repeats`: earlier training of the same strategy on fewer examples, to repeat with the same settings; None if there is none."""

    network: Network  # the network to adapt, with its new head
    items: PreparedData  # the examples with the network's preprocessing
    parts: Parts
    plan: Plan
    tasks: Mapping[str, str]  # task of the data -> task of the network
    new_rows: Mapping[str, np.ndarray]  # task of the network -> row indices of its new classes
    test: PreparedData | None = None  # test set; None means that the holdout set is used for the evaluation
    old_head: Head | None = None  # the first head before its class weights were changed; None if there was none
    checkpoints: Checkpoints | None = None  # checkpoints of the trainings; None without an output folder
    additions: _Additions = field(default_factory=_Additions)
    repeats: MeasuredTraining | None = None

    def on(self, network: Network) -> Setup:
        """Return the same setup with another network, which is moved to the device."""
        network.body.move_(self.device)
        return replace(self, network=network)

    @property
    def settings(self) -> Settings:
        """Settings of the plan."""
        return self.plan.settings

    @property
    def device(self) -> torch.device:
        """Device on which the network runs."""
        return usable_device(self.settings.device)

    @property
    def refits(self) -> bool:
        """Whether trainings are repeated on training and validation set together, with the chosen settings."""
        wanted, examples = self.settings.refit, len(self.parts.training) + len(self.parts.validation)
        return wanted is not False and len(self.parts.validation) > 0 and (wanted is True or examples < MOST_REFITTED)

    def data_of(self, name: str) -> Dataset:
        """Return the examples with only the targets of the task `name`."""
        return self.items.data.of_task(name)

    def known(self, name: str, indices: np.ndarray) -> np.ndarray:
        """Return the `indices` whose target of the task `name` is known."""
        return np.asarray(indices[self.items.data.targets_of(name).known[indices]])

    @property
    def open_tasks(self) -> dict[str, str]:
        """Task of the data -> task of the network, for the heads that may change: those that the network does not hold."""
        held = {task for task in self.tasks.values() if any(map(self.network.holds, self.network.body.layers_of(task)))}
        return {name: task for name, task in self.tasks.items() if task not in held}

    @property
    def apart(self) -> bool:
        """Whether a trained head reads other features than the first head. If so, no head is solved in closed form."""
        return any(self.network.heads[task].apart for task in self.tasks.values())

    @property
    def idle_layers(self) -> frozenset[str]:
        """Layers of the heads without targets in the data; they stay frozen."""
        trained = {layer for task in (*self.tasks.values(), *self.additions.helpers) for layer in self.network.body.layers_of(task)}
        return frozenset(self.network.head_layers) - trained

    @property
    def all_but_heads(self) -> frozenset[str]:
        """Every layer except those of the trained heads."""
        trained = set(self.network.head_layers) - self.idle_layers
        return frozenset(layer.name for layer in self.network.layers if layer.name not in trained)

    @property
    def keeps_classes(self) -> bool:
        """Whether all classes of the first task, or all outputs of a regression, were carried over from the old head."""
        data = self.items.data
        return data.task != "multi-label" and not len(self.new_rows.get(self.tasks[data.name], np.zeros(1)))

    def checkpoint(self, stage: str) -> Checkpoint | None:
        """Return the checkpoint of a stage, or None without an output folder. Unless the run resumes, an existing file is removed."""
        if self.checkpoints is None:
            return None
        made = Checkpoint(self.checkpoints.folder / f"{stage}.pt", self.checkpoints.digest)
        if not self.checkpoints.resume:
            made.path.unlink(missing_ok=True)
        return made

    def objective(self) -> Objective:
        """Return the objective: the weighted sum of the losses of all tasks."""
        return Objective(tuple(map(self.objective_of, self.tasks)), self.additions.terms, self.additions.share)

    def objective_of(self, name: str) -> TaskObjective:
        """Return the objective of the task `name` of the data."""
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
        weight = float((settings.task_weights or {}).get(name, 1.0))
        return TaskObjective(self.tasks[name], own, targets, by_class, smoothing, weight, **further)

    def _sample_weight(self) -> Tensor | None:
        """Return the weight of each example, (N,), with mean 1 on the training set; None if all count the same."""
        weights = self.items.data.weights
        if weights is None:
            return None
        mean = float(weights[self.parts.training].mean())
        return torch.from_numpy(np.asarray(weights / mean if mean else weights, np.float32))


def run_digest(setup: Setup) -> str:
    """Return a digest of plan, data and starting weights, which identifies the checkpoints of a run."""
    layers = [layer.name for layer in setup.network.layers]
    targets = [setup.items.data.targets_of(name) for name in setup.tasks]
    learned = hashlib.blake2b(b"".join(np.ascontiguousarray(part.values).tobytes() for part in targets), digest_size=12).hexdigest()
    plan = {name: value for name, value in setup.plan.to_dict().items() if name not in _NO_PART_OF_A_RUN}
    plan["settings"] = {name: value for name, value in plan["settings"].items() if name not in _NO_PART_OF_A_RUN}
    weights = setup.items.data.weights
    plan |= {} if weights is None else {"sample_weight": hashlib.blake2b(weights.tobytes(), digest_size=12).hexdigest()}
    facts = [plan, setup.items.identity(setup.plan.views), learned, frozen_identity(setup.network, layers).digest]
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest()


def differences(plan: Plan, other: Plan) -> list[str]:
    """Return the names of what decides a result and differs between two plans."""
    first, second = ({**plain, **plain["options"], **plain["settings"]} for plain in (plan.to_dict(), other.to_dict()))
    unused = {*_NO_PART_OF_A_RUN, "options", "settings"} - {"statistics", "false_alarm", "baselines"}
    return [name for name in {**first, **second} if name not in unused and first.get(name) != second.get(name)]


def whole_digest(setup: Setup, digest: str) -> str:
    """Return a digest of everything that decides a result: the run, its evaluation, and what is stored with it."""
    plan, test = setup.plan, setup.test
    judged = None if test is None else [test.identity(1), *(str(test.data.targets_of(name).values.tobytes()) for name in test.data.tasks)]
    facts = [digest, judged, plan.statistics, plan.false_alarm, plan.settings.baselines]
    return hashlib.blake2b(json.dumps(facts).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True)
class ClosedFormHead:
    """Closed-form head of one task, and the (n,) examples that it was solved on."""

    probe: LinearProbe
    rows: np.ndarray

    def thresholds(self, targets: np.ndarray) -> np.ndarray:
        """Return (C,) label thresholds fitted to the leave-one-out logits; `targets` (N, C) are those of all examples."""
        return fit_thresholds(self.probe.loo_scores, targets[self.rows])


@dataclass(frozen=True)
class Source:
    """Features of the source network before training, as far as they were computed; the baselines are made from them."""

    features: Tensor | None = None  # (N, d), filled in for the examples that are learned from
    judging: Tensor | None = None  # (n, d) features of the test set, or of the holdout set without one
    probes: Mapping[str, ClosedFormHead] = field(default_factory=dict)  # task of the data -> closed-form head on these features


@dataclass(frozen=True)
class Outcome:
    """Result of a strategy.
    `head_features`: (N, D) input of the adapted network's head, if it differs from the source features and was computed."""

    network: Network
    feed: Feed
    frozen: frozenset[str]  # the layers that stayed frozen
    history: list[dict[str, Any]] = field(default_factory=list)
    source: Source = field(default_factory=Source)  # features of the source network
    head_features: Tensor | None = None
    test_feed: Feed | None = None  # feed of the test set, if it was made
    solved: Mapping[str, ClosedFormHead] = field(default_factory=dict)  # task of the data -> closed-form head that the network has, if any
    measured: MeasuredTraining | None = None  # training whose settings were measured; None if there was none
    candidates: tuple[dict[str, Any], ...] = ()  # compared candidates as plain data, in the order of the report
    chosen: Mapping[str, Any] = field(default_factory=dict)  # strategy and options of the best candidate

    @property
    def held_out(self) -> tuple[Mapping[str, np.ndarray], np.ndarray] | None:
        """Logits by task of examples that were not learned from before the training was repeated on all, and their indices."""
        return None if self.measured is None else self.measured.held_out
