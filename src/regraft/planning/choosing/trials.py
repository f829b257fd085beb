"""Short trainings of a candidate, at several learning rates, judged on the items that choose."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ...methods import METHODS
from ...networks.contract import Network
from ...probes import fit_temperature, log_loss
from ...training import Feed, Settings, WholeFeed, all_raw_scores, find_rate
from ..job import Job, Parts
from ..tuning.stages import Tuning, begun_method
from .bases import Base
from .blending import blended_, restore_, snapshot
from .candidates import Candidate, below_probe, frozen_layers
from .solving import item_errors

__all__ = ["MOST_TRIED", "Run", "Trial", "first_epochs", "trial_of"]

MOST_TRIED = 1000
"""Items that a trial learns from, and that judge it, at most."""
USUAL_RATE = 1e-3
"""Learning rate of the head in the first trials, with optimizers that scale their steps: from solved rows the loss can only rise, so that a
range test stops at rates that change nothing."""
FEWEST_STEPS = 20
"""Steps of the first trial, where the epochs of the settings allow it: fewer say little of where a training leads."""


@dataclass(frozen=True)
class Run:
    """One training of a candidate.

    Attributes:
        factor: of the learning rate of the first trials.
        state: weights at the end, of the best epoch.
        errors: (m,) of the choosing items, as `item_errors`.
        loss: on them; of classes after the best temperature, so that too sure is not taken for wrong.
        history: one dict an epoch, from the start of the candidate on.
    """

    factor: float
    state: dict[str, Tensor] = field(repr=False)
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
    """

    candidate: Candidate
    base: Base
    job: Job
    frozen: frozenset[str]
    start: dict[str, Tensor]
    feed: Feed
    runs: list[Run] = field(default_factory=list)
    tuning: Tuning | None = None

    @property
    def best(self) -> Run:
        """The run with the lowest loss."""
        return min(self.runs, key=lambda run: run.loss)

    @property
    def rate(self) -> float:
        """The learning rate of the head that the factors multiply."""
        if self.base.rate is None:
            given = self.job.settings.learning_rate
            if given is None and (self.job.settings.optimizer == "sgd" or self.tuning is not None):
                given = find_rate(self.job.training("rate", self.feed, frozen=self.frozen, most=MOST_TRIED))
            self.base.rate = USUAL_RATE if given is None else given
        return self.base.rate

    def run_(self, factor: float, *, epochs: int) -> Run:
        """Train from the start, and keep what came of it.

        Args:
            factor: of the learning rate.
            epochs: how many.

        Returns:
            What came of it.
        """
        began = time.perf_counter()
        rate = self.rate * factor
        restore_(self.job.network, self.start)
        settings = replace(self.job.settings, epochs=epochs, learning_rate=rate, patience=None, unfreeze_every=None)
        number = len(self.runs) + 1
        stage = "-".join(["try", *re.findall(r"\w+", self.candidate.name), str(number)])
        history = self._trained(_smaller(self.job), stage, feed=self.feed, settings=settings, most=MOST_TRIED)
        run = self._judged(factor, history)
        self.runs.append(run)
        self.candidate.seconds = (self.candidate.seconds or 0.0) + time.perf_counter() - began
        return run

    def finished(self, epochs: int) -> tuple[Run, Feed]:
        """Train the best run to its end, on all items, then mix it with its start.

        Args:
            epochs: at most so many.

        Returns:
            What came of it, and the feed of all items; the job's network has its weights.
        """
        began, best = time.perf_counter(), self.best
        restore_(self.job.network, best.state)
        feed = self.feed if _is_small(self.job) else self.job.feed(self.frozen)
        settings = replace(self.job.settings, epochs=epochs, learning_rate=self.rate * best.factor)
        strategy = self.candidate.strategy
        stage = "from scratch" if strategy == "scratch" else strategy  # the yardstick of the same name has its own checkpoint
        history = self._trained(self.job, stage, feed=feed, settings=settings)
        if strategy != "scratch":
            share = blended_(self.job.network, self.start, judged=lambda: self._loss(feed)[0])
            self.candidate.why = f"chosen; {share:.0%} of the way from the weights before tuning to those after"
        feed = self._settled(feed)
        run = self._judged(best.factor, [*best.history, *history], feed=feed)
        self.candidate.seconds = (self.candidate.seconds or 0.0) + time.perf_counter() - began
        return run, feed

    def _trained(self, job: Job, stage: str, *, feed: Feed, settings: Settings, most: int | None = None) -> list[dict[str, Any]]:
        if self.tuning is not None:
            return replace(self.tuning, job=job).train(stage, feed, settings=settings, most=most)
        return job.train(stage, feed, frozen=self.frozen, settings=settings, most=most)

    def _settled(self, feed: Feed) -> Feed:
        """Take the network as its method leaves it, where it is one, and return a feed of it."""
        if self.tuning is None:
            return feed
        self.job, self.frozen = self.job.with_network(self.tuning.finished()), frozenset()
        return WholeFeed(self.job.network, self.job.items, 1, self.job.device)

    def untrained_(self) -> Run:
        """Return the start itself as a run, kept with the others: a head that is trained already."""
        self.runs.append(self._judged(0.0, []))
        return self.runs[-1]

    def _judged(self, factor: float, history: list[dict[str, Any]], *, feed: Feed | None = None) -> Run:
        loss, scores = self._loss(feed or self.feed)
        first = self.job.items.data.name
        rows = self.job.known(first, self.job.parts.select)
        known = self.job.items.data.targets_of(first).known[self.job.parts.select]
        errors = item_errors(self.job, scores[self.job.tasks[first]][known], rows=rows)
        return Run(factor, snapshot(self.job.network, self.frozen), errors, loss, history)

    def _loss(self, feed: Feed) -> tuple[float, dict[str, np.ndarray]]:
        """Return the loss on the choosing items, and their scores by task."""
        select, data = self.job.parts.select, self.job.items.data
        scores = all_raw_scores(self.job.network, feed, indices=select)
        if len(self.job.tasks) > 1 or data.task != "classification":
            return self.job.objective().figures(scores, select)["select_loss"], scores
        mine = scores[self.job.tasks[data.name]].astype(np.float64)
        return log_loss(fit_temperature(mine, np.eye(mine.shape[1])[data.targets[select]]) * mine, data.targets[select]), scores


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
    """Return a trial in the form that a method gives the network; its learning rate is found for itself."""
    usual, given = Settings().to_dict(), job.settings.to_dict()
    suited = {name: value for name, value in METHODS[candidate.strategy].settings.items() if given[name] == usual[name]}
    job = replace(job, plan=replace(job.plan, settings=replace(job.settings, **suited)))
    tuning = begun_method(job, strategy=candidate.strategy, options=candidate.options)
    job = tuning.job
    feed = job.feed(tuning.frozen) if _is_small(job) else WholeFeed(job.network, job.items, job.plan.views, job.device)
    start = snapshot(job.network, tuning.frozen)
    return Trial(candidate, replace(base, rate=None), replace(job, anchors=start), tuning.frozen, start, feed, tuning=tuning)


def first_epochs(job: Job) -> int:
    """Return the epochs of the first trials of a `job`."""
    items = min(len(job.parts.fit), MOST_TRIED)
    steps = max(1, round(items / job.settings.batch_size))
    return max(1, min(max(2, -(-FEWEST_STEPS // steps)), job.settings.epochs // 4))


def _is_small(job: Job) -> bool:
    """Tell whether trials may as well read the frozen part's outputs of all items."""
    return len(job.items) <= 2 * MOST_TRIED


def _smaller(job: Job) -> Job:
    """Return the same work with no more choosing items than a trial needs to find its best epoch."""
    select = job.parts.select
    if len(select) <= MOST_TRIED:
        return job
    drawn = np.sort(np.random.default_rng(job.plan.seed).choice(select, MOST_TRIED, replace=False))
    return replace(job, parts=Parts(job.parts.fit, drawn, job.parts.valid))
