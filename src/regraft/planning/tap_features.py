"""One pass over the data that reads a network at every depth, for the profile, the probes and the plan."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ..data import PreparedData
from ..errors import NetworkError
from ..files.room import taken
from ..freezing import ActivationCache, Counter, Cut, FrozenPass, LiveOutput, default_cache_folder
from ..networks.editing.taps import UnevenTapsError
from ..networks.network import Inputs, Network, Tap, TapSlice
from ..networks.parts.taps import INPUT, POOLS
from ..networks.tracing import watching
from ..training import Settings
from ..words import counted

if TYPE_CHECKING:
    from .setup import Clock

MOST_FEATURES = 20_000
"""Features of one example above which grids are left out, those of the widest blocks first; means and deviations always stay."""
MOST_NUMBERS = 2**29  # Features of all examples above which grids are left out: 2 GiB in a cache
_GRIDS = ("rows", "columns")


@dataclass(frozen=True, eq=False)
class TapFeatures:
    """Features of N examples at every depth, read in one pass."""

    points: tuple[Tap, ...]  # hook points and their pools; each has at least one slice
    features: Tensor  # (N, D) float32, read-only, the pooled outputs side by side, as they are in the cache
    slices: tuple[TapSlice, ...]
    head_features: Tensor | None  # (N, d) input of the first head in the same pass; None for a network without a head
    seconds: float  # duration of the pass; almost zero if the cache held the features
    notes: tuple[str, ...] = ()

    def taken(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return a copy of some of the features, (n, d), in a temporary file if it is large."""
        return taken(self.features.numpy(), rows, columns=columns)

    def columns(self, block: str) -> slice:
        """Return the columns of one block, or of "input"."""
        own = [part for part in self.slices if part.block == block]
        return slice(own[0].start, own[-1].stop)


@dataclass(frozen=True)
class FeatureNetwork:
    """A network that outputs the features, and the layers of its head, whose input is read as well."""

    network: Network
    slices: tuple[TapSlice, ...]
    heads: tuple[Module, ...]
    last: bool  # whether the channels of the head's input are the last axis

    def read(self, inputs: Inputs) -> list[Tensor]:
        """Return the features (B, D) and, if there is a head, its input (B, d)."""
        self.network.mode_(False)
        with torch.no_grad():
            if not self.heads:
                return [self._features(inputs)]
            with watching(self.heads, channels_last=self.last) as read:
                features = self._features(inputs)
        return [features, read(features).float()]

    def _features(self, inputs: Inputs) -> Tensor:
        return self.network.feature_batch(inputs)[:, : self.slices[-1].stop].float()


def default_points(network: Network) -> tuple[Tap, ...]:
    """Return the input and every block without a head as hook points, each with all pools."""
    heads = set(network.head_layers)
    blocks = [block.name for block in network.blocks if heads.isdisjoint(block.layers)]
    return tuple(Tap(name, POOLS) for name in (INPUT, *blocks))


def tapped_features(  # over the limit: what a pass needs to know
    network: Network,
    items: PreparedData,
    *,
    compared: np.ndarray | None = None,
    settings: Settings,
    device: torch.device,
    counter: Counter,
    clock: Clock,
) -> TapFeatures:
    """Read a network at its input and at all blocks before the head, in one pass over the examples.
    Grids are read as far as there is room. Features in a matching cache are not computed again. The labels of `compared` (n,) may be used
    to compare precisions; None means all examples."""
    start = time.perf_counter()
    with clock.during("frozen"):
        values, told, uneven = list[Tensor](), list[str](), tuple[str, ...]()
        while not values:
            reading, points, notes = _reading(network, count=len(items), without=uneven)
            reading.network.body.move_(device)
            where = default_cache_folder() if settings.cache == "auto" else settings.cache or "memory"
            cut = _as_cut(reading, source=network)
            fill = FrozenPass(reading.network, cut, where, device=device, counter=counter, notes=told)
            fill = replace(fill, engine=settings.engine, cluster=settings.cluster, precision=settings.precision, compared=compared)
            try:
                values = _whole(fill.cached(items))
            except UnevenTapsError as error:
                if set(uneven).issuperset(error.blocks):
                    raise
                uneven += error.blocks
        if uneven:
            told.append(f"Not read, as they do not give an output for each example: {', '.join(map(repr, uneven))}.")
    head = values[1] if len(values) > 1 else None
    return TapFeatures(points, values[0], reading.slices, head, time.perf_counter() - start, (*notes, *told))


def _reading(network: Network, *, count: int, without: Collection[str] = ()) -> tuple[FeatureNetwork, tuple[Tap, ...], tuple[str, ...]]:
    """Return the network tapped at its hook points and its head, the points that give features, and notes on what was left out."""
    points, notes = tuple(tap for tap in default_points(network) if tap.block not in without), tuple[str, ...]()
    reading, most = reading_at(network, points), min(MOST_FEATURES, MOST_NUMBERS // max(count, 1))
    if reading.slices[-1].stop > most:
        dropped = _too_wide(reading.slices, most)
        kept = [tuple(pool for pool in tap.pools if pool not in _GRIDS or tap.block not in dropped) for tap in points]
        reading = reading_at(network, [Tap(tap.block, pools) for tap, pools in zip(points, kept, strict=True)])
        read = f"{counted(len(dropped), 'wide block', verb='are')} read by pooled features alone"
        notes = (f"To keep {reading.slices[-1].stop:,} features an example, {read}.",)
    return reading, _with_slices(points, reading.slices), notes


def reading_at(network: Network, points: Sequence[Tap]) -> FeatureNetwork:
    """Return the network tapped at the points and at the block of its head, so that the head runs and its input can be read."""
    heads = set(network.body.layers_of(network.head.task)) if network.head_layers else set()
    known = {tap.block for tap in points}
    further = [Tap(block.name, ("mean",)) for block in network.blocks if heads & set(block.layers) and block.name not in known]
    tapped = network.tapped([*points, *further])
    slices = tuple(part for part in tapped.body.tap_slices if part.block in known)
    if not slices:
        raise NetworkError(
            f"None of {len(points)} points gives real numbers before the head; expected a block with a map, sequence or vector."
        )
    tapped.freeze_([layer.name for layer in tapped.layers])
    return FeatureNetwork(tapped, slices, _head_modules(network, tapped), network.layout == "channels_last")


def _too_wide(slices: Sequence[TapSlice], most: int) -> set[str]:
    """Return the blocks whose grids are left out, the widest first, so that at most `most` features remain if possible."""
    grids: dict[str, int] = {}
    for part in slices:
        if part.pool in _GRIDS:
            grids[part.block] = grids.get(part.block, 0) + part.stop - part.start
    total, dropped = slices[-1].stop, set()
    for block in sorted(grids, key=lambda name: -grids[name]):
        if total <= most:
            break
        total -= grids[block]
        dropped.add(block)
    return dropped


def _with_slices(points: Sequence[Tap], slices: Sequence[TapSlice]) -> tuple[Tap, ...]:
    """Return the points that have slices, each with the pools that were read."""
    read: dict[str, list[str]] = {}
    for part in slices:
        read.setdefault(part.block, []).append(part.pool)
    found = []
    for tap in points:
        pools = tuple(pool for pool in tap.pools if pool in read.get(tap.block, ()))
        if tap.block in read:
            found.append(Tap(tap.block, pools or tap.pools))
    return tuple(found)


def _head_modules(network: Network, tapped: Network) -> tuple[Module, ...]:
    """Return the head's layers in the tapped network, whose graph may name them differently; none if the run ends before them."""
    heads = set(network.body.layers_of(network.head.task)) if network.head_layers else set()
    ends = {block.name for block in network.blocks if heads & set(block.layers)}
    if not heads or not ends <= {part.block for part in tapped.body.tap_slices}:  # a loop may call a head for single examples
        return ()
    modules, names = tapped.modules(), network.body.layers_of(network.head.task)
    known = [next((modules[one] for one in (name, name.rpartition(".")[2]) if one in modules), None) for name in names]
    return () if None in known else tuple(one for one in known if one is not None)


def _as_cut(reading: FeatureNetwork, *, source: Network) -> Cut:
    """Return a cut behind the whole tapped network, whose outputs are the features."""
    reading.network.mode_(False)
    made = reading.read(reading.network.sample)
    digest = hashlib.blake2b(repr(reading.slices).encode(), digest_size=8).hexdigest()
    names = (f"taps {digest}", "before the head")
    live = tuple(LiveOutput(name, tuple(value.shape[1:]), value.dtype) for name, value in zip(names, made, strict=False))
    layers = frozenset(layer.name for layer in reading.network.layers)

    def again(twin: Network) -> Cut:
        return _as_cut(replace(reading, network=twin, heads=_head_modules(source, twin)), source=source)

    watched = frozenset(name for name, module in reading.network.modules().items() if module in reading.heads)
    return Cut(live, reading.read, lambda _tensors: {}, layers, again, watched)


def _whole(cache: ActivationCache) -> list[Tensor]:
    """Return the outputs in a cache, (N, width) each, without a copy if they are float32."""
    made = []
    for column in cache.columns:
        values = column.values
        if values.dtype != np.float32:
            values = taken(values, np.arange(cache.rows), dtype=np.dtype(np.float32))
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            made.append(torch.from_numpy(values))
    return made
