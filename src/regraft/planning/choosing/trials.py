"""Trainings of a candidate: a short one for the comparison, then one with measured settings, as its strategy trains."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...console import speaking
from ...freezing.spread import check_seen, sent
from ...methods import METHODS
from ...networks.network import Network
from ...scale import on_cluster
from ...training import Feed, Settings, Training, WholeFeed, all_logits
from ...training.loop import copied, restore_
from ...training.recipe import DRAWN, LARGEST, MeasuredTraining, ShortTraining, Starts, first_short, short_epochs
from ..passes import feed_of, training_of
from ..setup import Log, Setup
from ..tuning.by_method import Tuning, begun_method
from ..tuning.training import folds_for, measured_training, refit_, refitted, split_of, starts_of, usual_rate, weights_of
from .bases import Base
from .candidates import Candidate, below_probe, frozen_layers
from .solving import HeldOutErrors, held_out

__all__ = ["Trial", "blended_", "mix_", "on_workers", "trial_epochs", "trial_of"]

TrialState = tuple[int, list[list[float]], Mapping[str, Any] | None] | None
"""Epochs and curves of a trial's short training and its state if that was kept; None before it has begun."""
LENGTH = 3  # Length of a trial, as a multiple of the shortest training that compares settings: it equals the longest one


@dataclass
class Trial:
    """A candidate with its own network."""

    candidate: Candidate
    history: list[dict[str, Any]]  # history of the head that the candidate starts from
    setup: Setup
    log: Log
    frozen: frozenset[str]  # layers that are not trained
    starts: Starts  # name -> start weights, as in its strategy; empty if nothing below the head is trained
    feed: Feed
    tuning: Tuning | None = None  # form of the method, if the strategy is one
    short: ShortTraining | None = None  # the short training for the comparison, after it has begun
    found: MeasuredTraining | None = None  # the training with measured settings, after it has run
    share: float = 1.0  # share of the way from start to trained weights that is kept

    @property
    def rate(self) -> float:
        """Learning rate of the plan, or the usual one."""
        drawn = self.candidate.strategy == "scratch"
        return self.setup.settings.learning_rate or usual_rate(self.setup.network, self.setup.settings, drawn=drawn)

    def run_(self, *, epochs: int) -> HeldOutErrors:
        """Train for further epochs at the usual rate, like the first comparison of settings; return the held-out errors."""
        began = time.perf_counter()
        with self._form(), self.log.clock.during("compare"):
            self.short = self.short or self._first()
            self.short.go_on_(epochs, self.starts)
            self.candidate.losses = self.short.curve.tolist()
            run = self.judged()
        self.candidate.seconds = (self.candidate.seconds or 0.0) + time.perf_counter() - began
        return run

    def _first(self) -> ShortTraining:
        return first_short(self._training(self.setup.settings), usual=self.rate, starts=self.starts)

    def sent(self) -> Trial:
        """Return the trial as workers run it: without what only this process has, such as callbacks and further cluster use."""
        settings = replace(self.setup.settings, callbacks=(), log_with=None, cluster=None)
        setup = replace(self.setup, plan=replace(self.setup.plan, settings=settings), test=None, checkpoints=None)
        short = self.short or self._first()
        start = self.starts[short.recipe.start](short.trainings[0].fit)
        tuning = None if self.tuning is None else replace(self.tuning, setup=setup)
        return replace(self, setup=setup, log=Log(), starts={short.recipe.start: lambda _rows: start}, tuning=tuning, short=None)

    def state(self) -> TrialState:
        """Return how far the short training has come."""
        if self.short is None:
            return None
        return self.short.epochs, self.short.curves, self.short.states()[0]

    def resume_(self, state: TrialState) -> None:
        """Continue from a state that the trial had in another process."""
        if state is None:
            return
        self.short = self._first()
        self.short.epochs, self.short.curves, content = state
        self.candidate.losses = self.short.curve.tolist()
        store = self.short.trainings[0].checkpoint
        if content is not None and store is not None:
            store.write(dict(content))

    def finished(self, epochs: int | None) -> HeldOutErrors:
        """Train with measured settings, as the strategy does; return the errors on the validation set or, if it is small, on folds.
        `epochs` is the largest number of epochs; None follows the settings."""
        began, setup, first = time.perf_counter(), self.setup, self.short if epochs is None and _is_small(self.setup) else None
        self.feed = self.feed if _is_small(setup) else feed_of(setup, self.log, frozen=self.frozen)
        training = self._training(setup.settings if epochs is None else replace(setup.settings, epochs=epochs))
        folds, known = folds_for(setup), setup.checkpoint(f"{training.stage}-choice")
        how: dict[str, Any] = {"known": known, "first": first, "during": self.log.clock.during}
        with self.log.clock.during("train"), self._form():
            self.found = found = measured_training(training, usual=self.rate, starts=self.starts, folds=folds, **how)
            if found.recipe.start == "as it is" and not folds and not found.kept_start:
                start = dict(self.starts[found.recipe.start](training.fit))
                self.share = blended_(setup.network, start, judged=lambda: self.judged().loss)
                self.candidate.why = f"chosen; {100 * self.share:.0f} % of the change of weights is kept"
                found.held_out = self._held_out()
        self.candidate.seconds = (self.candidate.seconds or 0.0) + time.perf_counter() - began
        return self._judged(*(found.held_out or self._held_out()))

    def judged_further(self, run: HeldOutErrors, *, doubtful: Callable[[HeldOutErrors], bool]) -> HeldOutErrors:
        """Evaluate a finished training on folds of the training set as well, each held out of a repetition, while it is doubtful."""
        if self.found is None:
            raise ValueError("the trial has not been finished")
        setup, found, began, network = self.setup, self.found, time.perf_counter(), self.setup.network
        trained, judged = weights_of(network, self.frozen), [self._held_out()]
        with self.log.clock.during("compare"), self._form():
            for _, fold in split_of(setup, setup.parts.training):
                if not doubtful(run):
                    break
                others = np.setdiff1d(setup.parts.learned_from, fold)
                refitted(replace(found.training, checkpoint=None), found.recipe, starts=found.starts, course=found.course, rows=others)
                if self.share < 1:
                    mix_(network, dict(self.starts[found.recipe.start](others)), share=self.share)
                judged.append((all_logits(network, self.feed, indices=fold), fold))
                scores = {task: np.concatenate([part[task] for part, _ in judged]) for task in judged[0][0]}
                run = self._judged(scores, np.concatenate([rows for _, rows in judged]))
        restore_(network.state(), trained)
        self.candidate.seconds = (self.candidate.seconds or 0.0) + time.perf_counter() - began
        return run

    def refitted(self) -> Feed:
        """Refit on training and validation set if the setup says so, bring the network into its method's final form; return a feed."""
        if self.found is None:
            raise ValueError("the trial has not been finished")
        with self.log.clock.during("train"), self._form():
            refit_(self.setup, self.log, found=self.found)
            if self.share < 1:
                mix_(self.setup.network, dict(self.starts[self.found.recipe.start](self.setup.parts.training)), share=self.share)
        if self.tuning is None:
            return self.feed
        self.setup, self.frozen = self.setup.on(self.tuning.finished()), frozenset()
        return WholeFeed(self.setup.network, self.setup.items, 1, self.setup.device)

    def judged(self) -> HeldOutErrors:
        """Return the errors of the present network on the validation set."""
        return self._judged(*self._held_out())

    def _training(self, settings: Settings) -> Training:
        """Return the training of the strategy; stage "from scratch" keeps its checkpoint apart from that of the baseline "scratch"."""
        stage = "from scratch" if self.candidate.strategy == "scratch" else self.candidate.strategy
        return training_of(self.setup, self.log, stage=stage, feed=self.feed, frozen=self.frozen, settings=settings)

    def _form(self) -> AbstractContextManager[None]:
        """Return the context that the method needs during training; an empty one without a method."""
        return nullcontext() if self.tuning is None else self.tuning.method.during(self.setup.network)

    def _held_out(self) -> tuple[Mapping[str, np.ndarray], np.ndarray]:
        """Return the logits of the validation set by task, and its indices."""
        validation = self.setup.parts.validation
        return all_logits(self.setup.network, self.feed, indices=validation), validation

    def _judged(self, scores: Mapping[str, np.ndarray], rows: np.ndarray) -> HeldOutErrors:
        """Return the errors of logits by task."""
        setup, data = self.setup, self.setup.items.data
        run = held_out(setup, scores[setup.tasks[data.name]], rows=rows)
        if len(setup.tasks) > 1 or data.task != "classification":
            return replace(run, loss=setup.objective().figures(scores, rows)["validation_loss"])
        return run


def trial_of(candidate: Candidate, base: Base, *, source: Network, log: Log) -> Trial:
    """Return a trial of a candidate with its own network."""
    setup = base.setup.on(base.setup.network.copy())
    if candidate.strategy == "head":
        return Trial(candidate, base.history, setup, log, setup.all_but_heads, {}, replace(base, setup=setup).head_feed)
    tuning, method = None, METHODS.get(candidate.strategy)
    if method is not None:  # with its default settings where none are given
        usual, given = Settings().to_dict(), setup.settings.to_dict()
        suited = {name: value for name, value in method.settings.items() if given[name] == usual[name]}
        setup = replace(setup, plan=replace(setup.plan, settings=replace(setup.settings, **suited)))
        tuning = begun_method(setup, strategy=candidate.strategy, options=candidate.options)
        setup, frozen = tuning.setup, tuning.frozen
    else:
        layers = frozen_layers(source, candidate)
        frozen = below_probe(setup.network, layers) if candidate.base == "probe" else layers
    feed = feed_of(setup, log, frozen=frozen) if _is_small(setup) else WholeFeed(setup.network, setup.items, setup.plan.views, setup.device)
    start = weights_of(setup.network, frozen)
    if candidate.strategy == "scratch":
        starts: Starts = {DRAWN: lambda _rows: start}
    else:
        starts = starts_of(setup, frozen=frozen, features=base.features if tuning is None and candidate.base == "head" else None)
    return Trial(candidate, base.history, setup, log, frozen, starts if start else {}, feed, tuning)


def on_workers(trials: Sequence[Trial], *, epochs: int, cluster: str) -> Iterator[HeldOutErrors]:
    """Run each trial for further epochs as a task of the cluster; yield their errors on the validation set, in order."""
    if any(isinstance(one.feed, WholeFeed) for one in trials):
        check_seen(trials[0].setup.items.data, cluster)
    threads = torch.get_num_threads()
    shared = ([one.sent() for one in trials], epochs, threads)
    content = sent(shared, [one.setup.network for one in trials], values=_two_scores)
    pieces = [(number, one.state()) for number, one in enumerate(trials)]
    for trial, (run, state, seconds) in zip(
        trials, on_cluster(_task, content, pieces=pieces, cluster=cluster, threads=threads), strict=True
    ):
        trial.resume_(state)
        trial.candidate.seconds = seconds
        yield run


def _two_scores(shared: tuple[list[Trial], int, int]) -> list[Tensor]:
    scores = [all_logits(one.setup.network, one.feed, indices=one.setup.parts.validation[:2]) for one in shared[0]]
    return [torch.from_numpy(part) for by_task in scores for part in by_task.values()]


def _task(shared: tuple[list[Trial], int, int], piece: tuple[int, TrialState]) -> tuple[HeldOutErrors, TrialState, float | None]:
    """Run one of the trials in a worker; return its errors, its state and the seconds that it has taken."""
    (trials, epochs, threads), (number, state) = shared, piece
    torch.set_num_threads(threads)
    trial = trials[number]
    trial.resume_(state)
    with speaking(False):
        run = trial.run_(epochs=epochs)
    return run, trial.state(), trial.candidate.seconds


def trial_epochs(setup: Setup) -> tuple[int, int]:
    """Return the epochs of a `setup`'s trials before the first comparison and after it; on `LARGEST` examples at most."""
    shortest, allowed = short_epochs(setup.settings, len(setup.parts.training))
    last = max(1, min(LENGTH * shortest, int(allowed / 2)))
    return min(shortest, last), max(last - shortest, 0)


def _is_small(setup: Setup) -> bool:
    """Tell whether the data are small enough for trials to use the feature cache of all examples."""
    return len(setup.items) <= 2 * LARGEST


POINTS = 11


def blended_(network: Network, start: dict[str, Tensor], *, judged: Callable[[], float]) -> float:
    """Set a network to the mix (1 - a) start + a present with the lowest loss, a in 0, 0.1, …, 1; return a.
    Among equal losses the highest a wins. Moving averages of BatchNorm are mixed as well; integers keep their present value.
    Source: weight-space ensembles (Wortsman et al., CVPR 2022, equation 1)."""
    state = network.state()
    tuned = copied({name: state[name] for name in start})
    losses = {}
    for step in reversed(range(POINTS)):
        share = step / (POINTS - 1)
        restore_(state, _mixed(start, tuned, share=share))
        losses[share] = judged()
    best = min(losses, key=lambda share: (losses[share], -share))
    restore_(state, _mixed(start, tuned, share=best))
    return best


def mix_(network: Network, start: dict[str, Tensor], *, share: float) -> None:
    """Set a `network` to the mix (1 - share) start + share present."""
    state = network.state()
    restore_(state, _mixed(start, copied({name: state[name] for name in start}), share=share))


def _mixed(start: dict[str, Tensor], tuned: dict[str, Tensor], *, share: float) -> dict[str, Tensor]:
    if share == 1.0:
        return tuned
    return {name: torch.lerp(start[name], values, share) if values.is_floating_point() else values for name, values in tuned.items()}
