"""Fill an activation cache: each item and view goes through the frozen part once."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..console import progress
from ..data import Prepared
from ..networks.contract import Inputs, Network
from ..networks.samples import placed
from .cache import ActivationCache, only_one
from .cut import Cut
from .identity import cache_identity, frozen_digest

__all__ = ["Counter", "FrozenPass", "default_cache_folder"]


def default_cache_folder() -> Path:
    """Return the folder of activation caches: `REGRAFT_CACHE`, else `regraft` in the user's cache folder."""
    given = os.environ.get("REGRAFT_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "regraft"


@dataclass
class Counter:
    """How many items went through the frozen part."""

    items: int = 0


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
    """

    network: Network
    cut: Cut
    where: str | Path
    dtype: str = "float32"
    batch_size: int = 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    counter: Counter = field(default_factory=Counter)

    def cached(self, items: Prepared, views: Sequence[int] = (0,)) -> ActivationCache:
        """Return the filled cache of these items and views; what a matching cache holds already is not computed again.

        Args:
            items: N prepared items.
            views: which views; row v * N + i is item i in the v-th of them.

        Returns:
            The cache, with every chunk done.

        Raises:
            CacheError: if it cannot be written, or the disk has no room.
        """
        rows = len(items) * len(views)
        if self.where == "memory":
            cache = ActivationCache.in_memory(self.cut.live, rows, dtype=self.dtype)
            self._fill_(cache, items, views=views)
            return cache
        highest = max(views) + 1
        key, facts = cache_identity(
            frozen_digest(self.network, self.cut.layers),
            [part.name for part in self.cut.live],
            items=f"{items.identity(highest)} {list(views)}",
            dtype=self.dtype,
        )
        folder = Path(self.where) / key
        with only_one(folder):
            cache = ActivationCache.on_disk(folder, self.cut.live, rows=rows, dtype=self.dtype, facts=facts)
            if not self._agrees(cache, items, views=views):
                cache.done[:] = 0
            self._fill_(cache, items, views=views)
        return cache

    def _agrees(self, cache: ActivationCache, items: Prepared, *, views: Sequence[int]) -> bool:
        """Compute two rows again and compare: code that no digest sees may have changed."""
        if not cache.done.size or not cache.done[0]:
            return True
        fresh = self._values(items.batch(range(min(2, len(items))), views[0]))
        return all(
            torch.allclose(now.cpu().float(), kept.float(), rtol=1e-3, atol=1e-3 * float(now.abs().max() + 1e-6))
            for now, kept in zip(fresh, cache.get(np.arange(len(fresh[0]))), strict=True)
        )

    def _values(self, inputs: Inputs) -> list[Tensor]:
        return self.cut.frozen_part(placed(inputs, self.device, layout=self.network.layout))

    def _fill_(self, cache: ActivationCache, items: Prepared, *, views: Sequence[int]) -> None:
        missing = cache.missing
        with progress("frozen part", sum(len(rows) for rows in missing)) as advance:
            for rows in missing:
                for view, first, indices in _by_view(rows, len(items)):
                    self._fill_rows_(cache, first, items=items, indices=indices, view=views[view])
                cache.finish(rows)
                advance(len(rows))

    def _fill_rows_(self, cache: ActivationCache, first: int, *, items: Prepared, indices: np.ndarray, view: int) -> None:
        for chosen, inputs in items.batches(self.batch_size, indices, view):
            cache.put(first, self._values(inputs))
            first += len(chosen)
            self.counter.items += len(chosen)


def _by_view(rows: range, count: int) -> list[tuple[int, int, np.ndarray]]:
    """Split a chunk of rows where one view ends and the next begins: (view, first row, item indices)."""
    parts = []
    start = rows.start
    while start < rows.stop:
        view = start // count
        stop = min(rows.stop, (view + 1) * count)
        parts.append((view, start, np.arange(start, stop) - view * count))
        start = stop
    return parts
