"""The strategies: each chooses what is frozen and where training starts, and in which order it is trained."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..errors import NetworkError
from ..freezing import frozen_before, frozen_up_to_head, held_layers, matching_layers
from ..methods.gradients import relative_norms
from ..networks.network import Network
from ..networks.parts.coding import ENTRANCE, LAYERS, in_condition
from ..networks.samples import placed
from ..training import CachedFeed, Feed, WholeFeed
from ..training.recipe import DRAWN
from .choosing.auto import choose_and_carry_out
from .choosing.bases import probe_base, read_depths, read_test, source_of, with_probe
from .choosing.candidates import below_probe, frozen_layers, strategy_fields, surgical_blocks
from .choosing.convex import loop_reason, solved_heads
from .choosing.probing import probe_at
from .choosing.solving import softened
from .passes import features_of, feed_of, judging_features, train_heads, train_heads_alone, whole_feeds
from .plan import AUTO_BLOCK, THIRDS, THROUGH_LAYERS
from .setup import Log, Outcome, Setup, Source
from .starting import solve_heads_
from .tuning.by_method import begun_method, with_conditions_of
from .tuning.switches import taught
from .tuning.training import History, starts_of, tuned, weights_of

__all__ = ["names_in", "run_strategy", "take_over_"]

MOST_LOOKED_AT = 256  # Largest number of examples whose mean gradient is computed
Strategy = Callable[[Setup, Log], Outcome]


def run_strategy(setup: Setup, log: Log) -> Outcome:
    """Run the plan's strategy; return the adapted network, what evaluates it, and the history.
    Trained weights of the setup's network are changed in place. Nothing else is changed."""
    outcome = _STRATEGIES.get(setup.plan.strategy, _by_method)(setup, log)
    if outcome.chosen or outcome.measured is None:
        return outcome
    return replace(outcome, chosen=strategy_fields(setup.plan) | outcome.measured.chosen())


def _head(setup: Setup, log: Log) -> Outcome:
    """Freeze everything but the heads; solve them in closed form where no setting needs the epoch loop, else train them."""
    if setup.plan.fresh:
        return _with_fresh(setup, log, frozen=None)
    network = setup.network
    if setup.apart:
        return _measured(setup, log, frozen=setup.all_but_heads, stage="head")
    frozen = frozen_up_to_head(network)
    feed = feed_of(setup, log, frozen=frozen)
    features = features_of(network, feed, indices=np.arange(len(setup.items)))
    source = Source(features, judging_features(setup, log, features=features, frozen=frozen))
    if setup.plan.probe in THROUGH_LAYERS or not loop_reason(setup):
        solved = solved_heads(setup, log, feed=feed, frozen=frozen, source=source)
        if solved is not None:
            return solved
    source = replace(source, probes=solve_heads_(setup, log, feed=feed, features=features))
    return Outcome(network, feed, frozen, train_heads(setup, log, feed=feed, frozen=frozen), source)


def _with_fresh(setup: Setup, log: Log, *, frozen: frozenset[str] | None) -> Outcome:
    """Train the fresh layers and the heads on the features below them, then train what is not `frozen`.
    `frozen` holds the layers that are frozen in the second training. If it is None, there is no second training."""
    network = setup.network
    fresh = matching_layers(network, setup.plan.fresh or (), setting="fresh")
    below = frozen_before(network, fresh) | held_layers(network)
    outcome = _measured(setup, log, frozen=below, stage="fresh layers", drawn=True)
    log.notes.append(f"Layers trained from their initial values, with the head, on the features below them: {', '.join(sorted(fresh))}.")
    if frozen is None:
        return outcome
    after = _measured(setup, log, frozen=frozen, stage=setup.plan.strategy)
    return replace(after, history=[*outcome.history, *after.history])


def _measured(setup: Setup, log: Log, *, frozen: frozenset[str], stage: str, drawn: bool = False) -> Outcome:
    """Train what is not frozen from the present weights, with measured settings; `drawn`: at a rate for newly initialised layers."""
    feed, starts = feed_of(setup, log, frozen=frozen), starts_of(setup, frozen=frozen)
    return tuned(setup, log, feed=feed, frozen=frozen, stage=stage, starts=starts, drawn=drawn)


def _surgical(setup: Setup, log: Log) -> Outcome:
    """Train one third of the blocks and the heads (Lee et al., ICLR 2023)."""
    if setup.plan.block != AUTO_BLOCK:
        return _from_base(setup, log)
    below = frozen_up_to_head(setup.network)
    head = _trained_head(setup, log, feed=feed_of(setup, log, frozen=below), frozen=below)
    frozen = frozen_layers(setup.network, replace(setup.plan, block=_third_by_gradient(setup, log)))
    return _trained_layers(setup, log, head=head, feed=feed_of(setup, log, frozen=frozen), frozen=frozen, stage="surgical")


def _from_base(setup: Setup, log: Log) -> Outcome:
    """Train what the plan does not freeze, starting from a trained or a solved head ("partial", "full", "surgical" with a named third)."""
    plan = setup.plan
    frozen = frozen_layers(setup.network, plan)
    if plan.base == "probe":
        tapped = read_depths(setup, log)
        anywhere = replace(setup, plan=replace(setup.plan, frozen=None))
        probed = probe_at(anywhere, tapped, rows=setup.parts.training)
        source = source_of(setup, tapped=tapped, tested=read_test(setup, log))
        own = probe_base(setup, tapped, probed=softened(setup, probed)).setup
        outcome = _measured(own, log, frozen=below_probe(own.network, frozen), stage=setup.plan.strategy)
        return replace(outcome, source=source)
    if plan.fresh:
        return _with_fresh(setup, log, frozen=frozen)
    if setup.apart:
        return _measured(setup, log, frozen=frozen, stage=plan.strategy)
    feed = feed_of(setup, log, frozen=frozen)
    head = _trained_head(setup, log, feed=feed, frozen=frozen)
    return _trained_layers(setup, log, head=head, feed=feed, frozen=frozen, stage=plan.strategy)


@dataclass(frozen=True)
class _HeadFirst:
    """State after the heads are trained (the first half of LP-FT: Kumar et al., ICLR 2022)."""

    source: Source  # features of the source network, for the baselines
    features: Tensor  # (N, d) input of the heads, for all examples
    history: History


def _trained_head(setup: Setup, log: Log, *, feed: Feed, frozen: frozenset[str], form: Setup | None = None) -> _HeadFirst:
    """Solve the heads of the setup's network in place, then train them on their features.
    `form`: setup of the form of a method in which they are solved, whose `feed` and `frozen` layers are given; None: in the network's."""
    solving = form or setup
    with log.clock.during("frozen"):
        features = features_of(solving.network, feed, indices=np.arange(len(setup.items)))
    judging = judging_features(solving, log, features=features, frozen=frozen)
    source = Source(features, judging, solve_heads_(solving, log, feed=feed, features=features))
    if form is not None:
        for task, head in setup.network.heads.items():
            weight, bias = form.network.rows(form.network.heads[task].layer)
            setup.network.set_rows_(head.layer, weight, bias=bias)
    return _HeadFirst(source, features, train_heads_alone(setup, log, features=features))


def _trained_layers(  # over the limit: what is trained, and on what
    setup: Setup, log: Log, *, head: _HeadFirst, feed: Feed, frozen: frozenset[str], stage: str
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


def _third_by_gradient(setup: Setup, log: Log) -> str:
    """Return the third of the blocks with the largest gradient relative to its weights, computed in inference mode.
    Source: surgical fine-tuning (Lee et al., ICLR 2023, section 4.2, Auto-RGN). Deviation: regraft compares whole thirds once, before
    training, and trains the third with the largest value. The authors scale the learning rate of every layer in every step."""
    network, parameters = setup.network, setup.network.layer_parameters()
    layers = {third: [name for block in surgical_blocks(network, third) for name in block] for third in THIRDS}
    network.freeze_(setup.all_but_heads - {name for names in layers.values() for name in names})
    parts = {
        third: [one for name in names for one in parameters.get(name, {}).values() if one.requires_grad] for third, names in layers.items()
    }
    network.mode_(False)
    fit = np.random.default_rng(setup.plan.seed).permutation(setup.parts.training)[:MOST_LOOKED_AT]
    feed = WholeFeed(network, setup.items, 1, setup.device)
    with torch.enable_grad():
        scores = feed.scores(feed.batch(fit, np.zeros(len(fit), np.int64)))
        norms = relative_norms(setup.objective()(scores, fit), parts)
    best = max(THIRDS, key=lambda third: norms[third])
    said = ", ".join(f"{third} {norms[third]:.3g}" for third in THIRDS)
    log.notes.append(f"The {best} third of the blocks was trained: its gradient is the largest in proportion to its weights ({said}).")
    return best


def _scratch(setup: Setup, log: Log) -> Outcome:
    """Train the same architecture from newly initialised weights; held layers keep their weights."""
    setup = replace(setup, network=setup.network.reinitialised(setup.plan.seed))
    frozen, start = held_layers(setup.network), weights_of(setup.network, frozenset())
    feed = feed_of(setup, log, frozen=frozen)
    return tuned(setup, log, feed=feed, frozen=frozen, stage="scratch", starts={DRAWN: lambda _rows: start}, drawn=True)


def _by_method(setup: Setup, log: Log) -> Outcome:
    """Train the heads in place, then the network in the form of a method, and return it in the method's final form."""
    plan = setup.plan
    if setup.network.coding is not None:
        setup = with_conditions_of(setup, setup.network.coding.conditions)
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


def _head_first(setup: Setup, log: Log) -> _HeadFirst:
    """Solve and train the heads.
    If a part of the network stays frozen in the method's form, the heads are solved in that form, since its feature cache is already
    filled."""
    form = begun_method(setup, strategy=setup.plan.strategy, options=setup.plan.options)
    plain = replace(setup.plan, views=1)  # heads read only view 0
    own = replace(form.setup, additions=setup.additions, plan=plain)
    feed = feed_of(own, log, frozen=form.frozen)
    if not isinstance(feed, CachedFeed):
        frozen = frozen_up_to_head(setup.network)
        return _trained_head(setup, log, feed=feed_of(setup, log, frozen=frozen), frozen=frozen)
    return _trained_head(setup, log, feed=feed, frozen=form.frozen, form=own)


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


_STRATEGIES: dict[str, Strategy] = {
    "auto": choose_and_carry_out,
    "probe": with_probe,
    "head": _head,
    "partial": _from_base,
    "full": _from_base,
    "surgical": _surgical,
    "scratch": _scratch,
}
