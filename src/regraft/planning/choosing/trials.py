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
from ..passes import feed_of, training_of
from ..setup import Log, Parts, Setup
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
        setup: with its network.
        log: gets notes and the time.
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
    setup: Setup
    log: Log
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
        return self.setup.settings.learning_rate or usual_rate(self.setup.network, self.setup.settings, drawn=self._is_drawn)

    @property
    def _is_drawn(self) -> bool:
        return self.candidate.strategy == "scratch"

    def run_(self, *, epochs: int) -> Run:
        """Train from the start for a few `epochs`, keep what came of it, and return that."""
        began = time.perf_counter()
        settings = replace(self.setup.settings, epochs=epochs, learning_rate=self.rate, patience=None, unfreeze_every=None)
        stage = "-".join(["try", *re.findall(r"\w+", self.candidate.name)])
        with self._form():
            training = training_of(
                _smaller(self.setup), self.log, stage=stage, feed=self.feed, frozen=self.frozen, settings=settings, most=MOST_TRIED
            )
            with self.log.clock.during("train"):
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
            What came of it, and the feed of all items; the setup's network has its weights.
        """
        began = time.perf_counter()
        restore_(self.setup.network, self.start)
        feed = self.feed if _is_small(self.setup) else feed_of(self.setup, self.log, frozen=self.frozen)
        strategy, setup = self.candidate.strategy, self.setup
        stage = "from scratch" if self._is_drawn else strategy  # the yardstick of the same name has its own checkpoint
        settings = replace(setup.settings, epochs=epochs)
        training = training_of(setup, self.log, stage=stage, feed=feed, frozen=self.frozen, settings=settings)
        starts: Starts = {DRAWN if self._is_drawn else "as it is": lambda _rows: self.start}
        with self.log.clock.during("train"), self._form():
            self.found = measured_training(training, usual=self.rate, starts=starts, known=setup.checkpoint(f"{stage}-choice"))
        if not self._is_drawn:
            self.share = blended_(setup.network, self.start, judged=lambda: self._loss(feed)[0])
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
        setup, found = self.setup, self.found
        found.held_out = all_logits(setup.network, feed, indices=setup.parts.validation), setup.parts.validation
        refits = setup.refits and not found.kept_start and self.share > 0
        if refits:
            with self.log.clock.during("train"), self._form():
                again = found.refit_(setup.parts.learned_from, setup.checkpoint(f"{found.training.stage}-refit"))
            mix_(setup.network, self.start, share=self.share)
            run = replace(run, history=[*run.history, *again])
        note_(self.log, found, refitted_on=len(setup.parts.learned_from) if refits else None)
        return run, self._settled(feed)

    def _form(self) -> AbstractContextManager[None]:
        """Return what holds in a training by the method, where it is one."""
        return nullcontext() if self.tuning is None else self.tuning.method.during(self.setup.network)

    def _settled(self, feed: Feed) -> Feed:
        """Take the network as its method leaves it, where it is one, and return a feed of it."""
        if self.tuning is None:
            return feed
        self.setup, self.frozen = self.setup.on(self.tuning.finished()), frozenset()
        return WholeFeed(self.setup.network, self.setup.items, 1, self.setup.device)

    def untrained_(self) -> Run:
        """Return the start itself as a run, kept with the others: a head that is trained already."""
        self.runs.append(self._judged([]))
        return self.runs[-1]

    def _judged(self, history: list[dict[str, Any]], *, feed: Feed | None = None) -> Run:
        loss, scores = self._loss(feed or self.feed)
        first = self.setup.items.data.name
        rows = self.setup.known(first, self.setup.parts.validation)
        known = self.setup.items.data.targets_of(first).known[self.setup.parts.validation]
        errors = item_errors(self.setup, scores[self.setup.tasks[first]][known], rows=rows)
        return Run(errors, loss, history)

    def _loss(self, feed: Feed) -> tuple[float, dict[str, np.ndarray]]:
        """Return the loss on the choosing items, and their scores by task."""
        validation, data = self.setup.parts.validation, self.setup.items.data
        scores = all_logits(self.setup.network, feed, indices=validation)
        if len(self.setup.tasks) > 1 or data.task != "classification":
            return self.setup.objective().figures(scores, validation)["validation_loss"], scores
        mine = scores[self.setup.tasks[data.name]].astype(np.float64)
        return log_loss(fit_temperature(mine, np.eye(mine.shape[1])[data.targets[validation]]) * mine, data.targets[validation]), scores


def trial_of(candidate: Candidate, base: Base, *, source: Network, log: Log) -> Trial:
    """Return a trial with a network of its own.

    Args:
        candidate: what is tried.
        base: where it starts.
        source: the network that the candidate's blocks are those of.
        log: gets notes and the time.
    """
    setup = base.setup.on(base.setup.network.copy())
    if candidate.strategy == "head":
        frozen = setup.all_but_heads
        return Trial(candidate, base, setup, log, frozen, snapshot(setup.network, frozen), replace(base, setup=setup).head_feed)
    tuning = _tuning(candidate, setup) if candidate.strategy in METHODS else None
    if tuning is not None:
        setup, frozen = tuning.setup, tuning.frozen
    else:
        layers = frozen_layers(source, strategy=candidate.strategy, frozen=candidate.frozen, block=candidate.block)
        frozen = below_probe(setup.network, layers) if candidate.base == "probe" else layers
    small = _is_small(setup)
    feed = feed_of(setup, log, frozen=frozen) if small else WholeFeed(setup.network, setup.items, setup.plan.views, setup.device)
    start = snapshot(setup.network, frozen)
    anchored = replace(setup, additions=replace(setup.additions, anchors=start))
    return Trial(candidate, base, anchored, log, frozen, start, feed, tuning=tuning)


def _tuning(candidate: Candidate, setup: Setup) -> Tuning:
    """Return a training in the form that a method gives the network, with its usual settings where none are given."""
    usual, given = Settings().to_dict(), setup.settings.to_dict()
    suited = {name: value for name, value in METHODS[candidate.strategy].settings.items() if given[name] == usual[name]}
    setup = replace(setup, plan=replace(setup.plan, settings=replace(setup.settings, **suited)))
    return begun_method(setup, strategy=candidate.strategy, options=candidate.options)


def first_epochs(setup: Setup) -> int:
    """Return the epochs of the first trials of a `setup`."""
    items = min(len(setup.parts.training), MOST_TRIED)
    steps = max(1, round(items / setup.settings.batch_size))
    return max(1, min(max(2, -(-FEWEST_STEPS // steps)), most_epochs(setup.settings, len(setup.parts.training)) // 4))


def _is_small(setup: Setup) -> bool:
    """Tell whether trials may as well read the frozen part's outputs of all items."""
    return len(setup.items) <= 2 * MOST_TRIED


def _smaller(setup: Setup) -> Setup:
    """Return the same work with no more choosing items than a trial needs to find its best epoch."""
    validation = setup.parts.validation
    if len(validation) <= MOST_TRIED:
        return setup
    drawn = np.sort(np.random.default_rng(setup.plan.seed).choice(validation, MOST_TRIED, replace=False))
    return replace(setup, parts=Parts(setup.parts.training, drawn, setup.parts.holdout))
