"""Fill an activation cache: each item and view goes through the frozen part once."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..console import progress
from ..data import Prepared
from ..errors import CacheError
from ..files.locks import held_folder
from ..networks.contract import Inputs, Network
from ..networks.samples import placed
from .cache import ActivationCache
from .checking import Check, pieces_of
from .cut import Cut
from .identity import Frozen, cache_identity, engine_of, frozen_identity
from .storage import CacheFolder

__all__ = ["Counter", "FrozenPass", "Kept", "default_cache_folder"]

MOST_KEPT = 2**28
"""Bytes of the caches that a run keeps in memory beside the one in use."""
MOST_NAMED = 3
"""Parts without content that are named in a note."""


def default_cache_folder() -> Path:
    """Return the folder of activation caches: `REGRAFT_CACHE`, else `regraft` in the user's cache folder."""
    given = os.environ.get("REGRAFT_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "regraft"


@dataclass
class Counter:
    """How many items went through the frozen part."""

    items: int = 0


class Kept:
    """Caches that live as long as a run, by what they are caches of, so that it computes none of them twice."""

    def __init__(self) -> None:
        self._caches: dict[str, tuple[ActivationCache, Any]] = {}

    def get(self, key: str) -> ActivationCache | None:
        """Return the cache with this key, if it is kept."""
        return self._caches[key][0] if key in self._caches else None

    def add(self, key: str, cache: ActivationCache, *, of: Any) -> None:
        """Keep a cache; the oldest ones go where all together are larger than `MOST_KEPT`.

        Args:
            key: what it is a cache of.
            cache: all of its chunks done.
            of: the objects that the key names, so that no other ones get their ids.
        """
        self._caches[key] = (cache, of)
        while len(self._caches) > 1 and sum(one.bytes for one, _ in self._caches.values()) > MOST_KEPT:
            del self._caches[next(iter(self._caches))]


@dataclass(frozen=True)
class FrozenPass:
    """Makes caches of one cut.

    Attributes:
        network: whose frozen part runs.
        cut: where it ends.
        where: a folder, or "memory".
        dtype: "float32" or "float16".
        batch_size: items at a time.
        device: where it runs.
        counter: told of every item.
        notes: told why a cache is not kept for other processes, once.
        kept: the caches that this run has in memory.
    """

    network: Network
    cut: Cut
    where: str | Path
    dtype: str = "float32"
    batch_size: int = 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    counter: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    kept: Kept = field(default_factory=Kept)

    def cached(self, items: Prepared, views: Sequence[int] = (0,)) -> ActivationCache:
        """Return the filled cache of these items and views; what a matching cache holds already is not computed again.

        Where something that decides the values has no content to compare, the cache lives as long as the process.

        Args:
            items: N prepared items.
            views: which views; row v * N + i is item i in the v-th of them.

        Returns:
            The cache, with every chunk done.

        Raises:
            CacheError: if it cannot be written, or the disk has no room.
        """
        frozen = frozen_identity(self.network, self.cut.layers)
        if self.where == "memory":
            return self._for_this_run(frozen, items, views=views)
        if frozen.opaque:
            self._say_once(_not_kept(frozen.opaque))
            return self._for_this_run(frozen, items, views=views, folder=_made(Path(self.where)))
        key, facts = self._identity(frozen, items.identity(max(views) + 1), views=views)
        rows, engine = len(items) * len(views), engine_of(self.device)
        place = CacheFolder(Path(self.where) / key, self.cut.live, rows, self.dtype, facts, engine)
        return self._from_folder(place, items, views=views)

    def _identity(self, frozen: Frozen, items: str, *, views: Sequence[int]) -> tuple[str, dict[str, Any]]:
        live = [part.name for part in self.cut.live]
        said = f"{items} {list(views)}, {self.batch_size} at a time"
        return cache_identity(frozen.digest, live, items=said, dtype=self.dtype, device=self.device.type)

    def _say_once(self, sentence: str) -> None:
        if sentence not in self.notes:
            self.notes.append(sentence)

    def _for_this_run(self, frozen: Frozen, items: Prepared, *, views: Sequence[int], folder: Path | None = None) -> ActivationCache:
        """Return a cache that lives as long as the run; the items are known by the objects that they are."""
        objects = (items.data, items.preprocessing, items.augment)
        key, _ = self._identity(frozen, f"{[id(one) for one in objects]} {items.view_seed}", views=views)
        cache = self.kept.get(key)
        if cache is None:
            cache = ActivationCache.in_memory(self.cut.live, len(items) * len(views), dtype=self.dtype, folder=folder)
            self._fill_(cache, items, views=views)
            self.kept.add(key, cache, of=objects)
        return cache

    def _from_folder(self, place: CacheFolder, items: Prepared, *, views: Sequence[int]) -> ActivationCache:
        found = place.opened()
        if found is not None and not found.missing and self._holds(found, place, items=items, views=views):
            return found
        with held_folder(place.path, error=CacheError, wait=math.inf):
            cache = place.opened(writing=True)
            if cache is None or not self._holds(cache, place, items=items, views=views):
                if cache is not None:
                    cache.close()
                cache = place.made()
            try:
                self._fill_(cache, items, views=views)
            finally:
                cache.close()
        return cache

    def _holds(self, cache: ActivationCache, place: CacheFolder, *, items: Prepared, views: Sequence[int]) -> bool:
        """Tell whether what is finished is what the network gives today."""
        exact = self.device.type == "cpu" and place.engines() == [place.engine]
        return Check(items, views, self._values, self.batch_size, exact).holds(cache)

    def _values(self, inputs: Inputs) -> list[Tensor]:
        return self.cut.frozen_part(placed(inputs, self.device, order=self.network.memory_order))

    def _fill_(self, cache: ActivationCache, items: Prepared, *, views: Sequence[int]) -> None:
        missing = cache.missing
        with progress("frozen part", sum(len(rows) for rows in missing)) as advance:
            for rows in missing:
                for piece in pieces_of(rows, len(items), batch_size=len(rows)):  # a view within the chunk; the reader makes its batches
                    first = piece.first
                    for chosen, inputs in items.batches(self.batch_size, piece.items, views[piece.view]):
                        cache.put(first, self._values(inputs))
                        first += len(chosen)
                        self.counter.items += len(chosen)
                        advance(len(chosen))
                cache.finish(rows)


def _not_kept(opaque: Sequence[str]) -> str:
    more = f" and {len(opaque) - MOST_NAMED} more" if len(opaque) > MOST_NAMED else ""
    return (
        "The frozen part is computed anew in each run: its values may depend on what has no content to compare: "
        f"{'; '.join(opaque[:MOST_NAMED])}{more}."
    )


def _made(folder: Path) -> Path:
    """Return a folder, made where it is not there.

    Raises:
        CacheError: if that cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise CacheError(
            f"The cache folder {str(folder)!r} cannot be written: {problem.strerror or problem}. Give another one with cache=."
        ) from problem
    return folder
