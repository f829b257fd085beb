"""What each strategy does with a job. A strategy chooses what is frozen; the loop is the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ..console import say
from ..frontier import frozen_up_to
from ..tasks import paired_difference
from ..training import Feed, raw_scores
from .job import Job

__all__ = ["Carried", "run_strategy"]

History = list[dict[str, Any]]
COMPARED_EPOCHS = 2


class Carried:
    """What a strategy leaves behind: the feed to judge with, the history, the source network's features, and the frozen layers."""

    def __init__(self, feed: Feed, history: History, *, features: Tensor | None, frozen: frozenset[str]) -> None:
        self.feed = feed
        self.history = history
        self.features = features
        self.frozen = frozen


def run_strategy(job: Job) -> Carried:
    """Carry out the plan's strategy on the job's network.

    Args:
        job: its network is changed in place.

    Returns:
        How to judge it, and the history.
    """
    return _STRATEGIES[job.plan.strategy](job)


def _head(job: Job) -> Carried:
    """Everything but the head is frozen."""
    frozen = job.frozen_for_head()
    feed = job.feed(frozen)
    features = job.features(feed, len(job.items))
    job.keep_features_(features, frozen)
    job.solve_head_(feed, features)
    return Carried(feed, job.train("head", feed, frozen=frozen), features=features, frozen=frozen)


def _tuned(job: Job, frozen: frozenset[str], *, stage: str) -> Carried:
    """Linear probing, then fine-tuning from that head (LP-FT: Kumar et al., ICLR 2022)."""
    feed = job.feed(frozen)
    head_feed = job.head_feed(feed)
    job.keep_features_(head_feed.features, frozen)
    job.solve_head_(feed, head_feed.features)
    history: History = job.train("head", head_feed, frozen=job.all_but_head(), settings=replace(job.settings, unfreeze_every=None))
    history += job.train(stage, feed, frozen=frozen)
    return Carried(feed, history, features=head_feed.features, frozen=frozen)


def _partial(job: Job) -> Carried:
    """Everything up to a block is frozen."""
    return _tuned(job, frozen_up_to(job.network, job.plan.frozen or 0), stage="partial")


def _full(job: Job) -> Carried:
    """Nothing is frozen."""
    return _tuned(job, frozenset(), stage="full")


def _scratch(job: Job) -> Carried:
    """Nothing is kept: the same architecture, freshly drawn."""
    job.network = job.network.reinitialised(job.plan.seed)
    feed = job.feed(frozenset())
    return Carried(feed, job.train("scratch", feed, frozen=frozenset()), features=None, frozen=frozenset())


def _auto(job: Job) -> Carried:
    """Head first; then the frontier that a short comparison on the selection items prefers, if any beats the head."""
    carried = _head(job)
    if not len(job.parts.select) or not job.settings.epochs:
        job.notes.append("Too few items to compare frontiers: the head alone was trained.")
        return carried
    start = {name: tensor.detach().clone() for name, tensor in job.network.state().items()}
    before = _right(job, carried.feed)
    best, chosen = before, None
    trial = replace(job.settings, epochs=COMPARED_EPOCHS, patience=None, unfreeze_every=None)
    for depth in _depths(job):
        feed = job.feed(frozen_up_to(job.network, depth))
        job.train(f"compare-{depth}", feed, frozen=frozen_up_to(job.network, depth), settings=trial)
        right = _right(job, feed)
        say(f"frontier at block {depth}: {right.mean():.1%} of the selection items right, the head alone {before.mean():.1%}")
        job.notes.append(
            f"Compared: frozen up to block {depth}, {COMPARED_EPOCHS} epochs: {right.mean():.1%} of {len(right)} selection items right."
        )
        if right.mean() > best.mean():
            best, chosen = right, depth
        _restore_(job, start)
    if chosen is None:
        job.notes.append(f"The head alone was kept: no frontier beat its {before.mean():.1%} on the selection items.")
        return carried
    gain = paired_difference(best, before)
    job.notes.append(
        f"Frontier at block {chosen} of {len(job.network.blocks)}: {gain['difference'] * 100:+.1f} points over the head "
        "on the selection items."
    )
    frozen = frozen_up_to(job.network, chosen)
    feed = job.feed(frozen)
    return Carried(
        feed, carried.history + job.train("partial" if chosen else "full", feed, frozen=frozen), features=carried.features, frozen=frozen
    )


def _depths(job: Job) -> list[int]:
    """Return the numbers of frozen blocks to compare: three quarters, half and none."""
    count = len(job.network.blocks)
    return sorted({count * 3 // 4, count // 2, 0} - {count}, reverse=True)


def _right(job: Job, feed: Feed) -> np.ndarray:
    """Return whether each selection item is classified rightly; for other tasks, minus its squared error."""
    objective = job.objective()
    scores = raw_scores(job.network, feed, task=objective.task, indices=job.parts.select)
    targets = objective.targets[job.parts.select].numpy()
    if targets.ndim == 1:
        return np.asarray(scores.argmax(1) == targets)
    return np.asarray(-((scores - targets) ** 2).mean(1))


def _restore_(job: Job, start: dict[str, Tensor]) -> None:
    for name, tensor in job.network.state().items():
        tensor.copy_(start[name])


_STRATEGIES: dict[str, Callable[[Job], Carried]] = {"auto": _auto, "head": _head, "partial": _partial, "full": _full, "scratch": _scratch}
