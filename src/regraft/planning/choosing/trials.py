"""Trials of a candidate: a short training first, judged on the validation set, then one whose settings are measured."""

from __future__ import annotations

import re
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ...methods import METHODS
from ...networks.contract import Network
from ...probes import fit_temperature, log_loss
from ...training import Feed, Settings, WholeFeed, all_logits, train
from ...training.courses import most_epochs
from ...training.measured import Measured, measured_training
from ...training.recipe import DRAWN, Starts
from ..job import Job, Parts
from ..tuning.stages import Tuning, begun_method
from ..tuning.tuned import note_, usual_rate
from .bases import Base
from .blending import blended_, mix_, restore_, snapshot
from .candidates import Candidate, below_probe, frozen_layers
from .solving import item_errors

__all__ = ["MOST_TRIED", "Run", "Trial", "first_epochs", "trial_of"]

MOST_TRIED = 1000
"""Items that a trial learns from, and that judge it, at most."""
FEWEST_STEPS = 20
"""Steps of the first trial, where the epochs of the settings allow it: fewer say little of where a training leads."""


@dataclass(frozen=True)
class Run:
    """One training of a candidate.

    Attributes:
        errors: (m,) of the choosing items, as `item_errors`.
        loss: on them; of classes after the best temperature, so that too sure is not taken for wrong.
        history: one dict an epoch, from the start of the candidate on.
    """

    errors: np.ndarray = field(repr=False)
    loss: float
    history: list[dict[str, Any]] = field(repr=False)


@dataclass
class Trial:
    """A candidate with a network of its own.

    Attributes:
        candidate: what is tried.
        base: where it starts.
        job: the work, with its network.
        frozen: layers that are not trained.
        start: weights before tuning.
        feed: of the short trainings.
        runs: those so far.
        tuning: by which method, where it is one.
        found: the training whose settings were measured, once that is done.
        share: of the way from the start to the trained weights that is kept.
    """

    candidate: Candidate
    base: Base
    job: Job
    frozen: frozenset[str]
    start: dict[str, Tensor]
    feed: Feed
    runs: list[Run] = field(default_factory=list)
    tuning: Tuning | None = None
    found: Measured | None = None
    share: float = 1.0

    @property
    def best(self) -> Run:
        """The run with the lowest loss."""
        return min(self.runs, key=lambda run: run.loss)

    @property
    def rate(self) -> float:
        """The learning rate that is given, or the usual one."""
        return self.job.settings.learning_rate or usual_rate(self.job.network, self.job.settings, drawn=self._is_drawn)

    @property
    def _is_drawn(self) -> bool:
        return self.candidate.strategy == "scratch"

    def run_(self, *, epochs: int) -> Run:
        """Train from the start for a few `epochs`, keep what came of it, and return that."""
        began = time.perf_counter()
        settings = replace(self.job.settings, epochs=epochs, learning_rate=self.rate, patience=None, unfreeze_every=None)
        stage = "-".join(["try", *re.findall(r"\w+", self.candidate.name)])
        with self._form():
            training = _smaller(self.job).training(stage, self.feed, frozen=self.frozen, settings=settings, most=MOST_TRIED)
            with self.job.clock.during("train"):
                history = train(replace(training, phase="search"))
        run = self._judged(history)
        self.runs.append(run)
        self.candidate.seconds = (self.candidate.seconds or 0.0) + time.perf_counter() - began
        return run

    def finished(self, epochs: int) -> tuple[Run, Feed]:
        """Train with measured settings to the end, on all items, then mix with the start.

        Args:
            epochs: at most so many.

        Returns:
            What came of it, and the feed of all items; the job's network has its weights.
        """
        began = time.perf_counter()
        restore_(self.job.network, self.start)
        feed = self.feed if _is_small(self.job) else self.job.feed(self.frozen)
        strategy, job = self.candidate.strategy, self.job
        stage = "from scratch" if self._is_drawn else strategy  # the yardstick of the same name has its own checkpoint
        training = job.training(stage, feed, frozen=self.frozen, settings=replace(job.settings, epochs=epochs))
        starts: Starts = {DRAWN if self._is_drawn else "as it is": lambda _rows: self.start}
        with job.clock.during("train"), self._form():
            self.found = measured_training(training, usual=self.rate, starts=starts, known=job.checkpoint(f"{stage}-choice"))
        if not self._is_drawn:
            self.share = blended_(job.network, self.start, judged=lambda: self._loss(feed)[0])
            self.candidate.why = f"chosen; {self.share:.0%} of the way from the weights before tuning to those after"
        run = self._judged([*self.runs[0].history, *self.found.history], feed=feed)
        self.candidate.seconds = (self.candidate.seconds or 0.0) + time.perf_counter() - began
        return run, feed

    def refitted(self, run: Run, feed: Feed) -> tuple[Run, Feed]:
        """Train again on training and validation set where that is asked for, and take the network as its method leaves it.

        Args:
            run: what `finished` came to.
            feed: of all items.

        Returns:
            The run with the whole history, and a feed of the network as it is left.

        Raises:
            ValueError: if it has not been finished.
        """
        if self.found is None:
            raise ValueError("the trial has not been finished")
        job, found = self.job, self.found
        found.held_out = all_logits(job.network, feed, indices=job.parts.validation), job.parts.validation
        refits = job.refits and not found.kept_start and self.share > 0
        if refits:
            with job.clock.during("train"), self._form():
                again = found.refit_(job.learned_from, job.checkpoint(f"{found.training.stage}-refit"))
            mix_(job.network, self.start, share=self.share)
            run = replace(run, history=[*run.history, *again])
        note_(job, found, refitted=refits)
        return run, self._settled(feed)

    def _form(self) -> AbstractContextManager[None]:
        """Return what holds in a training by the method, where it is one."""
        return nullcontext() if self.tuning is None else self.tuning.method.during(self.job.network)

    def _settled(self, feed: Feed) -> Feed:
        """Take the network as its method leaves it, where it is one, and return a feed of it."""
        if self.tuning is None:
            return feed
        self.job, self.frozen = self.job.with_network(self.tuning.finished()), frozenset()
        return WholeFeed(self.job.network, self.job.items, 1, self.job.device)

    def untrained_(self) -> Run:
        """Return the start itself as a run, kept with the others: a head that is trained already."""
        self.runs.append(self._judged([]))
        return self.runs[-1]

    def _judged(self, history: list[dict[str, Any]], *, feed: Feed | None = None) -> Run:
        loss, scores = self._loss(feed or self.feed)
        first = self.job.items.data.name
        rows = self.job.known(first, self.job.parts.validation)
        known = self.job.items.data.targets_of(first).known[self.job.parts.validation]
        errors = item_errors(self.job, scores[self.job.tasks[first]][known], rows=rows)
        return Run(errors, loss, history)

    def _loss(self, feed: Feed) -> tuple[float, dict[str, np.ndarray]]:
        """Return the loss on the choosing items, and their scores by task."""
        validation, data = self.job.parts.validation, self.job.items.data
        scores = all_logits(self.job.network, feed, indices=validation)
        if len(self.job.tasks) > 1 or data.task != "classification":
            return self.job.objective().figures(scores, validation)["validation_loss"], scores
        mine = scores[self.job.tasks[data.name]].astype(np.float64)
        return log_loss(fit_temperature(mine, np.eye(mine.shape[1])[data.targets[validation]]) * mine, data.targets[validation]), scores


def trial_of(candidate: Candidate, base: Base, *, source: Network) -> Trial:
    """Return a trial with a network of its own.

    Args:
        candidate: what is tried.
        base: where it starts.
        source: the network that the candidate's blocks are those of.
    """
    job = base.job.with_network(base.job.network.copy())
    if candidate.strategy == "head":
        frozen = job.all_but_heads()
        return Trial(candidate, base, job, frozen, snapshot(job.network, frozen), replace(base, job=job).head_feed)
    if candidate.strategy in METHODS:
        return _by_method(candidate, base, job=job)
    layers = frozen_layers(source, strategy=candidate.strategy, frozen=candidate.frozen, block=candidate.block)
    frozen = below_probe(job.network, layers) if candidate.base == "probe" else layers
    feed = job.feed(frozen) if _is_small(job) else WholeFeed(job.network, job.items, job.plan.views, job.device)
    start = snapshot(job.network, frozen)
    return Trial(candidate, base, replace(job, anchors=start), frozen, start, feed)


def _by_method(candidate: Candidate, base: Base, *, job: Job) -> Trial:
    """Return a trial in the form that a method gives the network."""
    usual, given = Settings().to_dict(), job.settings.to_dict()
    suited = {name: value for name, value in METHODS[candidate.strategy].settings.items() if given[name] == usual[name]}
    job = replace(job, plan=replace(job.plan, settings=replace(job.settings, **suited)))
    tuning = begun_method(job, strategy=candidate.strategy, options=candidate.options)
    job = tuning.job
    feed = job.feed(tuning.frozen) if _is_small(job) else WholeFeed(job.network, job.items, job.plan.views, job.device)
    start = snapshot(job.network, tuning.frozen)
    return Trial(candidate, base, replace(job, anchors=start), tuning.frozen, start, feed, tuning=tuning)


def first_epochs(job: Job) -> int:
    """Return the epochs of the first trials of a `job`."""
    items = min(len(job.parts.training), MOST_TRIED)
    steps = max(1, round(items / job.settings.batch_size))
    return max(1, min(max(2, -(-FEWEST_STEPS // steps)), most_epochs(job.settings, len(job.parts.training)) // 4))


def _is_small(job: Job) -> bool:
    """Tell whether trials may as well read the frozen part's outputs of all items."""
    return len(job.items) <= 2 * MOST_TRIED


def _smaller(job: Job) -> Job:
    """Return the same work with no more choosing items than a trial needs to find its best epoch."""
    validation = job.parts.validation
    if len(validation) <= MOST_TRIED:
        return job
    drawn = np.sort(np.random.default_rng(job.plan.seed).choice(validation, MOST_TRIED, replace=False))
    return replace(job, parts=Parts(job.parts.training, drawn, job.parts.holdout))
