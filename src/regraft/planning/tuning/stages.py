"""Stages of tuning: the heads first, then what is below them, by a selection of layers or by a method."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import Dataset, with_conditions
from ...errors import DataError, NetworkError
from ...freezing import frozen_up_to_head
from ...methods import METHODS, Begun, Method
from ...networks.contract import Network, Scores
from ...networks.parts.coding import ENTRANCE, LAYERS, in_condition
from ...networks.samples import placed
from ...training import CachedFeed, Feed
from ..passes import feed_of, head_feed, judging_features, train_heads_alone, whole_feeds
from ..plan import Plan
from ..setup import Log, Outcome, Parts, Setup, Source
from ..starting import solve_heads_
from .switches import taught
from .tuned import starts_of, tuned

__all__ = [
    "HeadFirst",
    "Tuning",
    "begun_method",
    "by_method",
    "check_method",
    "names_in",
    "take_over_",
    "trained_head",
    "trained_layers",
]

History = list[dict[str, Any]]


@dataclass(frozen=True)
class HeadFirst:
    """State after the heads are trained (the first half of LP-FT: Kumar et al., ICLR 2022).

    Attributes:
        source: features of the source network, for the baselines.
        features: (N, d) input of the heads, for all examples.
    """

    source: Source
    features: Tensor
    history: History


def trained_head(setup: Setup, log: Log, *, feed: Feed, frozen: frozenset[str]) -> HeadFirst:
    """Solve the heads of the setup's network in place, then train them on their features."""
    source, features = _solved_head(setup, log, feed=feed, frozen=frozen)
    return HeadFirst(source, features, train_heads_alone(setup, log, features=features))


def _solved_head(setup: Setup, log: Log, *, feed: Feed, frozen: frozenset[str]) -> tuple[Source, Tensor]:
    """Solve the heads; return the source for the baselines, and the features of all examples, (N, d)."""
    features = head_feed(setup, log, feed=feed).features
    judging = judging_features(setup, log, features=features, frozen=frozen)
    return Source(features, judging, solve_heads_(setup, log, feed=feed, features=features)), features


def trained_layers(  # over the limit: what is trained, and on what
    setup: Setup, log: Log, *, head: HeadFirst, feed: Feed, frozen: frozenset[str], stage: str
) -> Outcome:
    """Train what is not frozen in place, with the old head as a teacher if the settings say so; the history covers both trainings."""
    other = taught(setup, log, features=head.features)
    same = other.network is setup.network
    still = frozen if same else names_in(other.network, frozen)
    starts = starts_of(other, frozen=still, features=head.features)
    found = tuned(other, log, feed=feed if same else feed_of(other, log, frozen=still), frozen=still, stage=stage, starts=starts)
    if not same:
        take_over_(setup.network, other.network)
    history = [*head.history, *found.history]
    return replace(found, network=setup.network, feed=feed, frozen=frozen, history=history, source=head.source)


def check_method(network: Network, data: Dataset, *, plan: Plan, parts: Parts) -> None:
    """Raise if the plan's strategy is a method that does not suit the network or the data, such as data without the conditions it needs."""
    if plan.strategy in METHODS:
        _begun(network, data, plan=plan, parts=parts)


def _conditions(data: Dataset, parts: Parts) -> tuple[str, ...]:
    """Return the names of the conditions in the training set, sorted; `DataError` if there are fewer than two."""
    others = "Choose strategy='bias' or 'scale_shift', which need none."
    if data.conditions is None:
        raise DataError(
            f"strategy='codes' learns a code for each condition; received {len(data)} examples without conditions. Read them with "
            f"condition=, the name of a column or an array as long as the examples. {others}"
        )
    found = tuple(dict.fromkeys(sorted(str(name) for name in data.conditions[parts.training])))
    if len(found) < 2:
        raise DataError(
            f"strategy='codes' learns from two conditions or more, better ten; the {len(parts.training)} examples to learn from "
            f"have {len(found)}: {', '.join(map(repr, found))}. {others}"
        )
    return found


def _begun(network: Network, data: Dataset, *, plan: Plan, parts: Parts) -> Begun:
    method = METHODS[plan.strategy]
    conditions = _conditions(data, parts) if method.by_condition else ()
    try:
        return method.begin(network, options=method.filled(plan.options), conditions=conditions, seed=plan.seed)
    except NetworkError as error:
        raise type(error)(f"strategy={method.name!r}: {error}") from error


@dataclass(frozen=True)
class Tuning:
    """A training in the form of a method: `setup` has the network in that form, `frozen` the layers and names not trained."""

    method: Method
    setup: Setup
    frozen: frozenset[str]

    def finished(self) -> Network:
        """Return the network in the final form of the method; its preprocessing knows the conditions, if there are any."""
        network = self.method.end(self.setup.network)
        if network.coding is not None:
            network.preprocessing = with_conditions(self.setup.items.preprocessing, network.coding.conditions)
        return network


def begun_method(setup: Setup, *, strategy: str, options: Mapping[str, Any]) -> Tuning:
    """Return a training by a method, for a setup with trained heads; the setup's network does not change."""
    plan = replace(setup.plan, strategy=strategy, options=dict(options))
    begun = _begun(setup.network, setup.items.data, plan=plan, parts=setup.parts)
    training = _with_begun(setup.on(begun.network), begun)
    if begun.network.coding is not None:
        training = _with_conditions(training, begun.network.coding.conditions)
    return Tuning(METHODS[strategy], training, begun.frozen)


def by_method(setup: Setup, log: Log) -> Outcome:
    """Train the heads in place, then the network in the form of a method, and return it in the method's final form."""
    plan = setup.plan
    if setup.network.coding is not None:
        setup = _with_conditions(setup, setup.network.coding.conditions)
    head = _head_first(setup, log)
    other = taught(setup, log, features=head.features)
    tuning = begun_method(other, strategy=plan.strategy, options=plan.options)
    form = tuning.setup
    starts = starts_of(form, frozen=tuning.frozen)
    with tuning.method.during(form.network):
        feed = feed_of(form, log, frozen=tuning.frozen)
        found = tuned(form, log, feed=feed, frozen=tuning.frozen, stage=plan.strategy, starts=starts)
    finished = tuning.finished()
    if other.network is not setup.network:  # drop the old head: apply the method again and copy the trained weights
        plain = begun_method(setup, strategy=plan.strategy, options=plan.options).finished()
        take_over_(plain, finished)
        finished = plain
    done = replace(setup, items=form.items, test=form.test).on(finished)
    _note_idle_codes_(done, log)
    feed, test_feed = whole_feeds(done)
    return Outcome(finished, feed, frozenset(), [*head.history, *found.history], head.source, test_feed=test_feed, measured=found.measured)


def _head_first(setup: Setup, log: Log) -> HeadFirst:
    """Solve and train the heads.

    If a part of the network stays frozen in the method's form, the heads are solved in that form, since its feature cache is already
    filled.
    """
    form = begun_method(setup, strategy=setup.plan.strategy, options=setup.plan.options)
    plain = replace(setup.plan, views=1)  # heads read only view 0
    own = replace(form.setup, additions=setup.additions, plan=plain)
    feed = feed_of(own, log, frozen=form.frozen)
    if not isinstance(feed, CachedFeed):
        frozen = frozen_up_to_head(setup.network)
        return trained_head(setup, log, feed=feed_of(setup, log, frozen=frozen), frozen=frozen)
    source, features = _solved_head(own, log, feed=feed, frozen=form.frozen)
    for task, head in setup.network.heads.items():
        weight, bias = own.network.rows(own.network.heads[task].layer)
        setup.network.set_rows_(head.layer, weight, bias=bias)
    return HeadFirst(source, features, train_heads_alone(setup, log, features=features))


def _note_idle_codes_(setup: Setup, log: Log) -> None:
    """Add a note if no code changes the output of the trained network, because the layers that read the codes are still zero."""
    network = setup.network
    if network.coding is None or network.coding.into not in (LAYERS, ENTRANCE):
        return
    network.mode_(False)
    batch = placed(setup.items.batch(setup.parts.training[:8]), setup.device, order=network.body.memory_order)
    with torch.no_grad():
        mean, *others = (network.scores(in_condition(batch, row)) for row in range(min(3, 1 + len(network.coding.conditions))))
    if all(torch.equal(mean[task], scores[task]) for scores in others for task in mean):
        log.notes.append(
            "The codes change nothing: no epoch of their training was better than the start on the validation set. More epochs, another "
            "learning rate, or conditions that matter more to the answer may change that."
        )


def _with_begun(setup: Setup, begun: Begun) -> Setup:
    """Return the setup with the learning rates and the penalty of a method."""
    penalty, share = begun.penalty, 1 / max(len(setup.parts.training), 1)
    added = replace(setup.additions, rates=begun.rates)
    if penalty is None:
        return replace(setup, additions=added)

    def term(_scores: Scores, _indices: np.ndarray) -> Tensor:
        return share * penalty()

    return replace(setup, additions=replace(added, terms=(*added.terms, term)))


def _with_conditions(setup: Setup, names: Sequence[str]) -> Setup:
    """Return the setup with examples that include the row of their condition; other conditions get the mean code."""
    sample = setup.network.sample
    own = next((name for name in sample if name != "condition"), "inputs") if isinstance(sample, dict) else "inputs"
    changed = with_conditions(setup.items.preprocessing, names, lenient=True, inputs=own)
    test = None if setup.test is None else setup.test.of(setup.test.data, changed)
    return replace(setup, items=setup.items.of(setup.items.data, changed), test=test)


def names_in(network: Network, names: Iterable[str]) -> frozenset[str]:
    """Return those of the `names` of layers or parameters that exist in a network derived from another."""
    return frozenset(names) & {*(layer.name for layer in network.layers), *network.state()}


def take_over_(network: Network, trained: Network) -> None:
    """Copy weights and moving averages into a network from a trained one that has further layers."""
    found, state = trained.state(), network.state()
    missing = [name for name in state if name not in found]
    if missing:
        raise NetworkError(f"The trained network has no {missing[0]!r}; expected all {len(state)} tensors of the one it was made of.")
    with torch.no_grad():
        for name, tensor in state.items():
            tensor.copy_(found[name])
