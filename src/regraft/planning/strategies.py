"""What each strategy does with a job. A strategy chooses what is frozen; the loop is the same for all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..frontier import frozen_before, held_layers, matching_layers
from ..methods import METHODS
from ..training.recipe import DRAWN
from .choosing.auto import choose_and_carry_out
from .choosing.bases import probe_base, read_depths, with_probe
from .choosing.candidates import below_probe, frozen_layers
from .choosing.convex import loop_reason, solved_heads
from .choosing.probing import probe_at
from .choosing.solving import softened
from .job import Carried, Job
from .plan import AUTO_BLOCK, THROUGH_LAYERS
from .starting import solve_heads_, solve_only_
from .tuning.stages import by_method, trained_head, trained_layers
from .tuning.thirds import third_by_gradient
from .tuning.tuned import starts_of, tuned, usual_rate

__all__ = ["Carried", "run_strategy"]

History = list[dict[str, Any]]


def run_strategy(job: Job) -> Carried:
    """Carry out the plan's strategy on the job's network.

    Args:
        job: its network is changed in place.

    Returns:
        How to judge it, and the history.
    """
    return _STRATEGIES[job.plan.strategy](job)


def _head(job: Job) -> Carried:
    """Everything but the heads is frozen: they are solved where nothing needs a loop, else trained."""
    if job.plan.fresh:
        return _with_fresh(job, None, stage="head")
    frozen = job.frozen_for_head()
    feed = job.feed(frozen)
    features = job.features(feed, np.arange(len(job.items)))
    job.keep_features_(features, frozen)
    needed = loop_reason(job)
    solved = None if needed and job.plan.probe not in THROUGH_LAYERS else solved_heads(job, feed, frozen=frozen, features=features)
    if solved is not None:
        return solved
    solve_heads_(job, feed, features=features)
    return Carried(feed, job.train("head", feed, frozen=frozen), features=features, frozen=frozen)


def _tuned(job: Job, frozen: frozenset[str], *, stage: str) -> Carried:
    """Linear probing, then fine-tuning from that head (LP-FT: Kumar et al., ICLR 2022)."""
    feed = job.feed(frozen)
    history, features = trained_head(job, feed, frozen=frozen)
    history += trained_layers(job, feed, frozen=frozen, stage=stage, features=features)
    return Carried(feed, history, features=features, frozen=frozen)


def _with_fresh(job: Job, frozen: frozenset[str] | None, *, stage: str) -> Carried:
    """Train fresh layers and the heads from their start, on what is below them; then what is not frozen, where that is more.

    Args:
        job: with the names of the layers in its plan.
        frozen: layers of the second training; None: there is none.
        stage: a word for the history of the second training.
    """
    network = job.network
    fresh = matching_layers(network, job.plan.fresh or (), setting="fresh")
    below = frozen_before(network, fresh) | held_layers(network)
    feed, usual = job.feed(below), usual_rate(network, job.settings, drawn=True)
    history = tuned(job, feed, frozen=below, stage="fresh layers", starts=starts_of(job, frozen=below), usual=usual)
    job.notes.append(f"Trained from their start, with the head, on what is below them: {', '.join(sorted(fresh))}.")
    if frozen is None:
        return Carried(feed, history, features=None, frozen=below)
    feed, usual = job.feed(frozen), usual_rate(network, job.settings)
    history += tuned(job, feed, frozen=frozen, stage=stage, starts=starts_of(job, frozen=frozen), usual=usual)
    return Carried(feed, history, features=None, frozen=frozen)


def _partial(job: Job) -> Carried:
    """Everything up to a block is frozen."""
    return _from_base(job)


def _full(job: Job) -> Carried:
    """Nothing is frozen."""
    return _from_base(job)


def _surgical(job: Job) -> Carried:
    """One third of the blocks is trained, and the heads (Lee et al., ICLR 2023)."""
    if job.plan.block != AUTO_BLOCK:
        return _from_base(job)
    below = job.frozen_for_head()
    history, features = trained_head(job, job.feed(below), frozen=below)
    frozen = frozen_layers(job.network, strategy="surgical", frozen=None, block=third_by_gradient(job))
    feed = job.feed(frozen)
    history += trained_layers(job, feed, frozen=frozen, stage="surgical", features=features)
    return Carried(feed, history, features=features, frozen=frozen)


def _from_base(job: Job) -> Carried:
    if job.plan.base == "probe":
        return _tuned_probe(job, stage=job.plan.strategy)
    layers = frozen_layers(job.network, strategy=job.plan.strategy, frozen=job.plan.frozen, block=job.plan.block)
    return _with_fresh(job, layers, stage=job.plan.strategy) if job.plan.fresh else _tuned(job, layers, stage=job.plan.strategy)


def _scratch(job: Job) -> Carried:
    """Nothing is kept but what the network holds: the same architecture, freshly drawn."""
    job.network = job.network.reinitialised(job.plan.seed)
    frozen = held_layers(job.network)
    feed, network = job.feed(frozen), job.network
    start = {name: tensor.detach().clone() for name, tensor in network.state().items()}
    usual = usual_rate(network, job.settings, drawn=True)
    history = tuned(job, feed, frozen=frozen, stage="scratch", starts={DRAWN: lambda _rows: start}, usual=usual)
    return Carried(feed, history, features=None, frozen=frozen)


def _tuned_probe(job: Job, *, stage: str) -> Carried:
    """Fine-tune from the closed-form head on all depths."""
    rows = job.parts.training
    tapped = read_depths(job)
    layers = frozen_layers(job.network, strategy=job.plan.strategy, frozen=job.plan.frozen, block=job.plan.block)
    probed = probe_at(replace(job, plan=replace(job.plan, frozen=None)), tapped, rows=rows)
    base = probe_base(job, tapped, probed=softened(job, probed))
    if tapped.head_features is not None:
        solve_only_(job, tapped.head_features)
        job.judging_features = tapped.head_features[job.parts.holdout] if job.test is None else read_depths(job, job.test).head_features
    job.network = base.job.network
    frozen = below_probe(job.network, layers)
    feed = job.feed(frozen)
    usual = usual_rate(job.network, job.settings)
    history = tuned(job, feed, frozen=frozen, stage=stage, starts=starts_of(job, frozen=frozen), usual=usual)
    return Carried(feed, history, tapped.head_features, frozen)


_STRATEGIES: dict[str, Callable[[Job], Carried]] = {
    "auto": choose_and_carry_out,
    "probe": with_probe,
    "head": _head,
    "partial": _partial,
    "full": _full,
    "surgical": _surgical,
    "scratch": _scratch,
    **dict.fromkeys(METHODS, by_method),
}
