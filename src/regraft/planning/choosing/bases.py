"""Starts of tuning: the network with its trained head, or with the closed-form head on several depths (LP-FT)."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...data import PreparedData
from ...freezing import frozen_up_to_head
from ...training import Feed, HeadFeed, WholeFeed
from ...words import counted
from ..passes import too_large, train_heads_alone, whole_feeds
from ..setup import ClosedFormHead, Log, Outcome, Setup, Source
from ..starting import solve_heads_, solved_heads_of
from ..tap_features import TapFeatures, default_points, tapped_features
from .probing import probe_at, probed_network
from .solving import ProbeHeads


@dataclass(frozen=True, eq=False)
class Base:
    """Start of candidates."""

    setup: Setup
    features: Tensor | None  # (N, d) input of the head at this start; None from scratch
    history: list[dict[str, Any]] = field(default_factory=list)

    @property
    def head_feed(self) -> Feed:
        """Feed of the head alone if its features are known; else of the whole network."""
        setup = self.setup
        if self.features is None:
            return WholeFeed(setup.network, setup.items, setup.plan.views, setup.device)
        return HeadFeed(setup.network, self.features, setup.device)


def read_depths(setup: Setup, log: Log, *, items: PreparedData | None = None) -> TapFeatures:
    """Read the network at every depth in one pass over the examples."""
    network, settings, compared = setup.network, setup.settings, setup.parts.learned_from if items is None else np.arange(0)
    items = items or setup.items
    settings = replace(settings, cache="memory") if network.body.draws and settings.cache is not None else settings
    if settings.cache == "auto":
        width = network.tapped(default_points(network)).body.tap_slices[-1].stop + (network.head.features if network.heads else 0)
        settings = replace(settings, cache="memory") if too_large(4 * width * len(items), log) else settings
    how: dict[str, Any] = {"settings": settings, "device": setup.device, "counter": log.counter, "clock": log.clock}
    tapped = tapped_features(network, items, compared=compared, **how)
    log.notes.extend(note for note in tapped.notes if note not in log.notes)
    return tapped


def read_test(setup: Setup, log: Log) -> TapFeatures | None:
    """Read the network at every depth in one pass over the test set; None without one."""
    return None if setup.test is None else read_depths(setup, log, items=setup.test)


def source_of(setup: Setup, *, tapped: TapFeatures, tested: TapFeatures | None) -> Source:
    """Return the source network's features, as far as the passes over the examples (`tapped`) and the test set (`tested`) read them."""
    features = tapped.head_features
    if features is None:
        return Source()
    judging = features[setup.parts.holdout] if tested is None else tested.head_features
    return Source(features, judging, solved_heads_of(setup, features))


def head_base(setup: Setup, log: Log, *, features: Tensor) -> Base:
    """Return the network with its heads solved, then trained on `features`."""
    base = Base(setup.on(setup.network.copy()), features)
    own = base.setup
    solve_heads_(own, log, feed=whole_feeds(own)[0], features=features, scored=base.head_feed)
    return replace(base, history=train_heads_alone(own, log, features=features))


def probe_base(setup: Setup, tapped: TapFeatures, *, probed: ProbeHeads) -> Base:
    """Return the network with a probe as its head."""
    return Base(setup.on(probed_network(setup, probed)), _read_by_probe(tapped, probed))


def _read_by_probe(tapped: TapFeatures, probed: ProbeHeads) -> Tensor:
    """Return the input (N, D) of the head `probed` for the N examples of `tapped`."""
    features = tapped.taken(np.arange(len(tapped.features)), probed.columns)
    return torch.from_numpy(features if probed.layer is None else probed.layer.apply(features))


def with_probe(setup: Setup, log: Log) -> Outcome:
    """Run the strategy "probe": one pass, then closed-form heads fitted to training and validation set. Nothing is trained."""
    tapped = read_depths(setup, log)
    probed = probe_at(setup, tapped, rows=setup.parts.learned_from)
    said = f"{100 * probed.error:.1f} % wrong" if setup.items.data.task == "classification" else f"loss {probed.error:.4g}"
    held_out = probed.probes[setup.items.data.name].held_out
    log.notes.append(f"The head reads {probed.name}: {counted(len(probed.columns), 'feature')}, by {probed.method}; {held_out}: {said}.")
    return outcome_of_probe(setup, log, tapped=tapped, probed=probed)


def outcome_of_probe(setup: Setup, log: Log, *, tapped: TapFeatures, probed: ProbeHeads) -> Outcome:
    """Return the network with a probe as its head, and what evaluates it."""
    base, tested = probe_base(setup, tapped, probed=probed), read_test(setup, log)
    network = base.setup.network
    lost = [task for task in setup.network.heads if task not in network.heads]
    if lost:
        log.notes.append(f"The data have no targets of {', '.join(map(repr, lost))}: these heads read other features, and were left out.")
    return Outcome(
        network,
        base.head_feed,
        frozen_up_to_head(network),
        source=source_of(setup, tapped=tapped, tested=tested),
        head_features=base.features,
        test_feed=None if tested is None else HeadFeed(network, _read_by_probe(tested, probed), setup.device),
        solved={name: ClosedFormHead(probe, probed.rows[name]) for name, probe in probed.probes.items()},
    )
