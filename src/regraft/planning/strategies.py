"""What each strategy does with a job. A strategy chooses what is frozen; the loop is the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from ..console import say
from ..frontier import frozen_up_to
from ..training import Feed, all_raw_scores
from .job import Job
from .starting import solve_heads_

__all__ = ["Carried", "run_strategy"]

History = list[dict[str, Any]]
COMPARED_EPOCHS = 2
COMPARED_ITEMS = 1000


@dataclass(frozen=True)
class Carried:
    """What a strategy leaves behind.

    Attributes:
        feed: to judge with.
        history: one dict an epoch.
        features: (N, d) of the source network, where they were computed.
        frozen: the layers that stayed frozen.
    """

    feed: Feed
    history: History
    features: Tensor | None
    frozen: frozenset[str]


def run_strategy(job: Job) -> Carried:
    """Carry out the plan's strategy on the job's network.

    Args:
        job: its network is changed in place.

    Returns:
        How to judge it, and the history.
    """
    return _STRATEGIES[job.plan.strategy](job)


def _head(job: Job) -> Carried:
    """Everything but the heads is frozen."""
    frozen = job.frozen_for_head()
    feed = job.feed(frozen)
    features = job.features(feed, np.arange(len(job.items)))
    job.keep_features_(features, frozen)
    solve_heads_(job, feed, features=features)
    return Carried(feed, job.train("head", feed, frozen=frozen), features=features, frozen=frozen)


def _tuned(job: Job, frozen: frozenset[str], *, stage: str) -> Carried:
    """Linear probing, then fine-tuning from that head (LP-FT: Kumar et al., ICLR 2022)."""
    feed = job.feed(frozen)
    head_feed = job.head_feed(feed)
    job.keep_features_(head_feed.features, frozen)
    solve_heads_(job, feed, features=head_feed.features)
    history: History = job.train("head", head_feed, frozen=job.all_but_heads(), settings=replace(job.settings, unfreeze_every=None))
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
    chosen = _preferred_frontier(job, carried.feed)
    if chosen is None:
        return carried
    frozen = frozen_up_to(job.network, chosen)
    feed = job.feed(frozen)
    history = carried.history + job.train("partial" if chosen else "full", feed, frozen=frozen)
    return Carried(feed, history, features=carried.features, frozen=frozen)


def _preferred_frontier(job: Job, head_feed: Feed) -> int | None:
    """Train a little above each of a few frontiers, from the same head, and return the one that beats the head alone by most.

    Args:
        job: with the trained head; its network is left as it was.
        head_feed: to judge the head alone with.

    Returns:
        A number of frozen blocks, or None if no frontier beats the head on the selection items.
    """
    start = {name: tensor.detach().clone() for name, tensor in job.network.state().items()}
    before = _merit(job, head_feed)
    best, chosen = before, None
    trial = replace(job.settings, epochs=COMPARED_EPOCHS, patience=None, unfreeze_every=None)
    for depth in _depths(job):
        frozen = frozen_up_to(job.network, depth)
        feed = job.feed(frozen)
        job.train(f"compare-{depth}", feed, frozen=frozen, settings=trial, most=COMPARED_ITEMS)
        merit = _merit(job, feed)
        job.notes.append(f"Frontier at block {depth} of {len(job.network.blocks)} after {COMPARED_EPOCHS} epochs: {_said(job, merit)}.")
        say(job.notes[-1])
        if merit > best:
            best, chosen = merit, depth
        _restore_(job, start)
    ending = "the head alone is kept" if chosen is None else f"the frontier at block {chosen} is taken"
    job.notes.append(f"The head alone: {_said(job, before)}; {ending}. Judged on the {len(job.parts.select)} selection items.")
    return chosen


def _depths(job: Job) -> list[int]:
    """Return the numbers of frozen blocks to compare: three quarters, half and none, as far as they leave more than the head to train."""
    heads, head_alone = set(job.network.head_layers), job.frozen_for_head()
    with_heads = (number for number, block in enumerate(job.network.blocks, start=1) if not heads.isdisjoint(block.layers))
    count = next(with_heads, len(job.network.blocks))
    return [
        depth
        for depth in sorted({count * 3 // 4, count // 2, 0}, reverse=True)
        if depth < count and frozen_up_to(job.network, depth) < head_alone
    ]


def _merit(job: Job, feed: Feed) -> float:
    """Return the share of the selection items that is classified rightly; for other tasks, and for several, minus the loss on them."""
    select = job.parts.select
    found = job.objective().figures(all_raw_scores(job.network, feed, indices=select), select)
    return found["select_accuracy"] if _by_accuracy(job) else -found["select_loss"]


def _by_accuracy(job: Job) -> bool:
    return len(job.tasks) == 1 and job.items.data.task == "classification"


def _said(job: Job, merit: float) -> str:
    return f"{merit:.1%} right" if _by_accuracy(job) else f"loss {-merit:.4g}"


def _restore_(job: Job, start: dict[str, Tensor]) -> None:
    for name, tensor in job.network.state().items():
        tensor.copy_(start[name])


_STRATEGIES: dict[str, Callable[[Job], Carried]] = {"auto": _auto, "head": _head, "partial": _partial, "full": _full, "scratch": _scratch}
