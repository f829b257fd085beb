"""Passes over the examples of a setup: feeds of batches, features of the heads, and a stage of training."""

import shutil
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import PreparedData
from ..errors import SettingError
from ..files.room import large_array
from ..freezing import FrozenPass, Refusal, cacheable_layers, default_cache_folder, find_cut
from ..freezing.spread import check_seen
from ..networks.network import Network
from ..networks.tracing import watching
from ..training import CachedFeed, Feed, HeadFeed, Settings, Training, WholeFeed
from ..training.loop import trained
from .setup import Log, Setup

UNCACHED = "The frozen part is computed every epoch"  # Start of the note on a network without a freeze boundary
_OUTSIDE = (
    "Training ran on this machine, which is none of the cluster's: start the program on one of them, with cluster='auto', to train on all."
)


def feed_of(setup: Setup, log: Log, *, frozen: frozenset[str], items: PreparedData | None = None) -> Feed:
    """Return the feed of batches for these frozen layers: from the feature cache if there is a freeze boundary, else the whole network."""
    network, settings, learned = setup.network, setup.settings, items is None
    items, views = items or setup.items, setup.plan.views if learned else 1
    network.freeze_(frozen | setup.idle_layers)
    layers = cacheable_layers(network, frozen - set(network.head_layers))
    whole = WholeFeed(network, items, views, setup.device, log.counter if layers else None)
    if not layers or settings.cache is None or network.body.draws:
        return whole
    with log.clock.during("frozen"):
        cut = find_cut(network, layers, sample=items.batch(np.arange(3) % len(items)))
        if isinstance(cut, Refusal):
            log.notes.append(f"{UNCACHED}: {cut.reason}.")
            return whole
        example = sum(int(np.prod(part.shape)) * part.dtype.itemsize for part in cut.live)
        if setup.plan.strategy == "auto" and too_large(len(items) * views * example, log):
            return whole
        where = default_cache_folder() if settings.cache == "auto" else settings.cache
        fill = FrozenPass(network, cut, where, settings.dtype, device=setup.device, counter=log.counter, notes=log.notes, kept=log.kept)
        fill = replace(fill, engine=settings.engine, cluster=settings.cluster, precision=settings.precision)
        fill = replace(fill, compared=setup.parts.learned_from if learned else np.arange(0))
        plain = fill.cached(items)
        position = np.full(len(items), -1)
        if views == 1:
            return CachedFeed(cut, plain, None, position, 1, setup.device)
        learned_from = setup.parts.learned_from if setup.refits else setup.parts.training
        position[learned_from] = np.arange(len(learned_from))
        chosen = items.of(items.data.subset(learned_from))
        return CachedFeed(cut, plain, fill.cached(chosen, range(1, views)), position, views, setup.device)


def whole_feeds(setup: Setup) -> tuple[Feed, Feed | None]:
    """Return feeds of the plain examples, and of the test set if there is one, through the whole network of a `setup`."""
    network, device = setup.network, setup.device
    return WholeFeed(network, setup.items, 1, device), None if setup.test is None else WholeFeed(network, setup.test, 1, device)


def too_large(needed: int, log: Log) -> bool:
    """Tell whether a cache of `needed` bytes would take over a quarter of the free disk; if so, add a note to the `log`."""
    folder = default_cache_folder()
    existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
    large = bool(needed > shutil.disk_usage(existing).free / 4)
    if large:
        log.notes.append(f"A cache of {needed / 2**30:.1f} GiB would take over a quarter of the free disk; none is kept there.")
    return large


def features_of(network: Network, feed: Feed, *, indices: np.ndarray) -> Tensor:
    """Return the heads' inputs (n, d) of the examples `indices`, view 0."""
    network.mode_(False)
    heads = [network.modules()[name] for name in network.body.layers_of(network.head.task)]
    parts = [indices[start : start + 64] for start in range(0, len(indices), 64)]
    made, filled = torch.zeros(0, network.head.features), 0
    with torch.no_grad(), watching(heads, channels_last=network.layout == "channels_last") as read:
        for payload in feed.batches([(part, np.zeros(len(part), np.int64)) for part in parts]):
            rows = read(next(iter(feed.scores(payload).values()))).float().cpu()
            made = made if filled else torch.from_numpy(large_array((len(indices), rows.shape[1]), np.dtype(np.float32)))
            made[filled : filled + len(rows)] = rows
            filled += len(rows)
    return made


def judging_features(setup: Setup, log: Log, *, features: Tensor, frozen: frozenset[str]) -> Tensor:
    """Return the source network's features (n, d) of the test set, or of the holdout set without one; call it before training.
    `features` (N, d) are those of the setup's examples."""
    if setup.test is None:
        return features[setup.parts.holdout]
    feed = feed_of(setup, log, frozen=frozen, items=setup.test)
    return features_of(setup.network, feed, indices=np.arange(len(setup.test)))


def training_of(  # over the limit: what a training is made of
    setup: Setup, log: Log, *, stage: str, feed: Feed, frozen: frozenset[str], settings: Settings | None = None
) -> Training:
    """Return a stage of training of all layers that are not frozen; `settings` replaces the plan's settings if given."""
    cluster = setup.settings.cluster
    if setup.all_but_heads <= frozen:
        cluster = None  # training a head takes less time than sending it
    elif cluster not in (None, "auto"):
        cluster = None
        log.notes.extend({_OUTSIDE}.difference(log.notes))
    elif cluster is not None and isinstance(feed, WholeFeed):
        try:
            check_seen(setup.items.data, cluster)
        except SettingError as problem:
            cluster = None
            log.notes.extend({f"The training ran on this machine alone. {problem}"}.difference(log.notes))
    return Training(
        setup.network,
        feed,
        setup.objective(),
        setup.parts.training,
        setup.parts.validation,
        settings or setup.settings,
        setup.plan.seed,
        frozen | setup.idle_layers,
        setup.checkpoint(stage),
        stage,
        log.on_epoch,
        setup.additions.rates,
        cluster=cluster,
        notes=log.notes,
    )


def train_heads(
    setup: Setup, log: Log, *, feed: Feed, frozen: frozenset[str] | None = None, settings: Settings | None = None
) -> list[dict[str, Any]]:
    """Train the heads of the setup's network in place; return the history, which is empty if the network holds everything.
    `frozen` holds the layers that stay frozen; None means all but the heads. `settings` replaces the plan's settings if given."""
    frozen = setup.all_but_heads if frozen is None else frozen
    training = training_of(setup, log, stage="head", feed=feed, frozen=frozen, settings=settings)
    setup.network.freeze_(training.frozen)
    if not any(one.requires_grad for names in setup.network.layer_parameters().values() for one in names.values()):
        return []
    with log.clock.during("train"):
        state = trained(training)
    log.kept_heads = state.kept_start
    return state.history


def train_heads_alone(setup: Setup, log: Log, *, features: Tensor) -> list[dict[str, Any]]:
    """Train the heads of a `setup` in place on their inputs `features` (N, d), without gradual unfreezing; return the history."""
    feed = HeadFeed(setup.network, features, setup.device)
    return train_heads(setup, log, feed=feed, settings=replace(setup.settings, unfreeze_every=None))
