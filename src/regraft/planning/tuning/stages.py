"""The stages of tuning: the heads first, then what is below them, by a selection of layers or by a method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Dataset, with_conditions
from ...errors import DataError, NetworkError
from ...methods import METHODS, Begun, Method
from ...networks.contract import Network, Scores
from ...networks.parts.coding import ENTRANCE, LAYERS, in_condition
from ...networks.samples import placed
from ...training import CachedFeed, Feed, HeadFeed, WholeFeed
from ..job import Carried, Job, Parts
from ..plan import Plan
from ..starting import solve_heads_
from .names import names_in, take_over_
from .switches import taught
from .tuned import starts_of, tuned, usual_rate

__all__ = ["Tuning", "begun_method", "by_method", "check_method", "trained_head", "trained_layers"]

History = list[dict[str, Any]]


def trained_head(job: Job, feed: Feed, *, frozen: frozenset[str]) -> tuple[History, Tensor]:
    """Solve the heads, then train them on what they read (the first half of LP-FT: Kumar et al., ICLR 2022).

    Args:
        job: its heads are changed in place.
        feed: of the whole network or of what is above a frontier.
        frozen: the layers below that frontier.

    Returns:
        The history, and what the heads read of all items, (N, d).
    """
    features = _solved_head(job, feed, frozen=frozen)
    return _train_head_(job, features), features


def _solved_head(job: Job, feed: Feed, *, frozen: frozenset[str]) -> Tensor:
    """Solve the heads, and return what they read of all items, (N, d)."""
    features = job.head_feed(feed).features
    job.keep_features_(features, frozen)
    solve_heads_(job, feed, features=features)
    return features


def _train_head_(job: Job, features: Tensor) -> History:
    alone = replace(job.settings, unfreeze_every=None)
    return job.train("head", HeadFeed(job.network, features, job.device), frozen=job.all_but_heads(), settings=alone)


def trained_layers(job: Job, feed: Feed, *, frozen: frozenset[str], stage: str, features: Tensor) -> History:
    """Train what is not frozen, with what the old head says where that is asked for.

    Args:
        job: its network is changed in place; its heads have been trained.
        feed: of the job's network, for these frozen layers.
        frozen: layers.
        stage: a word for the history.
        features: (N, d) what the heads read before.

    Returns:
        The history.
    """
    other = taught(job, features)
    same = other.network is job.network
    still = frozen if same else names_in(other.network, frozen)
    starts, usual = starts_of(other, frozen=still, features=features), usual_rate(other.network, job.settings)
    history = tuned(other, feed if same else other.feed(still), frozen=still, stage=stage, starts=starts, usual=usual)
    if not same:
        take_over_(job.network, other.network)
        job.held_out, job.measured = other.held_out, other.measured
    return history


def check_method(network: Network, data: Dataset, *, plan: Plan, parts: Parts) -> None:
    """Raise if the plan's strategy is a method that does not go with the network or the data.

    Args:
        network: with its heads.
        data: what it is adapted to.
        plan: with the method's options.
        parts: which items are learned from.

    Raises:
        DataError: if the method needs conditions, and there are none, or fewer than two among the items that are learned from.
        NetworkError: if the network cannot be changed so.
    """
    method = METHODS.get(plan.strategy)
    if method is not None:
        conditions = _conditions(data, parts) if method.by_condition else ()
        _begun(method, network, plan=plan, conditions=conditions)


def _conditions(data: Dataset, parts: Parts) -> tuple[str, ...]:
    """Return the conditions that can be learned from, in order: those of the fitting items."""
    others = "Choose strategy='bias' or 'scale_shift', which need none."
    if data.conditions is None:
        raise DataError(
            f"strategy='codes' learns a code for each condition; received {len(data)} items without conditions. Read them with "
            f"condition=, the name of a column or an array as long as the items. {others}"
        )
    found = tuple(dict.fromkeys(sorted(str(name) for name in data.conditions[parts.training])))
    if len(found) < 2:
        raise DataError(
            f"strategy='codes' learns from two conditions or more, better ten; the {len(parts.training)} items to learn from "
            f"have {len(found)}: {', '.join(map(repr, found))}. {others}"
        )
    return found


def _begun(method: Method, network: Network, *, plan: Plan, conditions: Sequence[str]) -> Begun:
    try:
        return method.begin(network, options=method.filled(plan.options), conditions=conditions, seed=plan.seed)
    except NetworkError as error:
        raise type(error)(f"strategy={method.name!r}: {error}") from error


@dataclass(frozen=True)
class Tuning:
    """A training in the form that a method gives a network.

    Attributes:
        method: which.
        job: the work, with the training form and all that goes with it.
        frozen: layers, and single names, that are not trained.
        conditions: that codes are learned of.
    """

    method: Method
    job: Job
    frozen: frozenset[str]
    conditions: tuple[str, ...]

    def finished(self) -> Network:
        """Return the network as the method leaves it; its preprocessing knows the conditions, where there are any."""
        network = self.method.end(self.job.network)
        if network.coding is not None:
            network.preprocessing = with_conditions(self.job.items.preprocessing, network.coding.conditions)
        return network


def begun_method(job: Job, *, strategy: str, options: Mapping[str, Any]) -> Tuning:
    """Return a training by a method.

    Args:
        job: with trained heads; its network is left as it is.
        strategy: the method's name.
        options: of the method; those that are left out have their defaults.
    """
    method = METHODS[strategy]
    conditions = _conditions(job.items.data, job.parts) if method.by_condition else ()
    begun = _begun(method, job.network, plan=replace(job.plan, options=dict(options)), conditions=conditions)
    training = _with_begun(job.with_network(begun.network), begun)
    if begun.network.coding is not None:
        _take_conditions_(training, begun.network.coding.conditions)
    return Tuning(method, training, begun.frozen, conditions)


def by_method(job: Job) -> Carried:
    """Train the heads, then the network in the form that a method gives it, and keep it as the method leaves it.

    Args:
        job: its network is replaced.

    Returns:
        How to judge it, and the history.
    """
    plan = job.plan
    if job.network.coding is not None:
        _take_conditions_(job, job.network.coding.conditions)
    history, features = _head_first(job)
    other = taught(job, features)
    tuning = begun_method(other, strategy=plan.strategy, options=plan.options)
    starts, usual = starts_of(tuning.job, frozen=tuning.frozen), usual_rate(tuning.job.network, tuning.job.settings)
    with tuning.method.during(tuning.job.network):
        history += tuned(tuning.job, tuning.job.feed(tuning.frozen), frozen=tuning.frozen, stage=plan.strategy, starts=starts, usual=usual)
    finished = tuning.finished()
    if other.network is not job.network:  # without the old head: the same method again, with the weights that it came to
        plain = begun_method(job, strategy=plan.strategy, options=plan.options).finished()
        take_over_(plain, finished)
        finished = plain
    job.network, job.items, job.test = finished, tuning.job.items, tuning.job.test
    job.held_out, job.measured = tuning.job.held_out, tuning.job.measured
    finished.module.to(job.device)
    _note_idle_codes_(job)
    feed = WholeFeed(finished, job.items, 1, job.device)
    test_feed = None if job.test is None else WholeFeed(finished, job.test, 1, job.device)
    return Carried(feed, history, features, frozenset(), None, test_feed)


def _head_first(job: Job) -> tuple[History, Tensor]:
    """Solve and train the heads; return the history, and what they read of all items, (N, d).

    Where some of the network stays frozen in the form in which it is trained, they are solved in that form: its frozen part has run then.
    """
    form = begun_method(job, strategy=job.plan.strategy, options=job.plan.options)
    own = replace(form.job, terms=job.terms, rates=job.rates, plan=replace(job.plan, views=1))  # heads read the plain examples
    feed = own.feed(form.frozen)
    if not isinstance(feed, CachedFeed):
        frozen = job.frozen_for_head()
        return trained_head(job, job.feed(frozen), frozen=frozen)
    features = _solved_head(own, feed, frozen=form.frozen)
    job.judging_features = own.judging_features
    for task, head in job.network.heads.items():
        weight, bias = own.network.rows(own.network.heads[task].layer)
        job.network.set_rows_(head.layer, weight, bias=bias)
    return _train_head_(job, features), features


def _note_idle_codes_(job: Job) -> None:
    """Take note where no code changes what the trained network says: what reads them is still zero."""
    network = job.network
    if network.coding is None or network.coding.into not in (LAYERS, ENTRANCE):
        return
    network.mode_(False)
    batch = placed(job.items.batch(job.parts.training[:8]), job.device, order=network.memory_order)
    with torch.no_grad():
        mean, *others = (network.scores(in_condition(batch, row)) for row in range(min(3, 1 + len(network.coding.conditions))))
    if all(torch.equal(mean[task], scores[task]) for scores in others for task in mean):
        job.notes.append(
            "The codes change nothing: no epoch of their training was better than the start on the choosing items. More epochs, another "
            "learning rate, or conditions that matter more to the answer may change that."
        )


def _with_begun(job: Job, begun: Begun) -> Job:
    penalty, share = begun.penalty, 1 / max(len(job.parts.training), 1)
    if penalty is None:
        return replace(job, rates=begun.rates)

    def term(_scores: Scores, _indices: np.ndarray) -> Tensor:
        return share * penalty()

    return replace(job, rates=begun.rates, terms=(*job.terms, term))


def _take_conditions_(job: Job, names: Sequence[str]) -> None:
    """Let the items be read with the rows of their conditions; others than these have the mean code."""
    sample = job.network.sample
    own = next((name for name in sample if name != "condition"), "inputs") if isinstance(sample, dict) else "inputs"
    changed = with_conditions(job.items.preprocessing, names, lenient=True, inputs=own)
    job.items = job.items.of(job.items.data, changed)
    job.test = None if job.test is None else job.test.of(job.test.data, changed)
