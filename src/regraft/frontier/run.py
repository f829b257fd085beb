"""Fill an activation cache: each item and view goes through the frozen part once."""

from __future__ import annotations

import os
import uuid
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
from .cache import CHUNK, ActivationCache, only_one
from .cut import Cut
from .identity import cache_identity, code_digest, frozen_digest

__all__ = ["Counter", "FrozenPass", "default_cache_folder"]


COMPARED = 12
"""Rows of a cache that are computed again before it is used."""
_PROCESS = uuid.uuid4().hex


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
        notes: told where a cache cannot be used by other processes.
    """

    network: Network
    cut: Cut
    where: str | Path
    dtype: str = "float32"
    batch_size: int = 64
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    counter: Counter = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)

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
        code, unknown = code_digest(self.network, self.cut.layers)
        if unknown:
            code = f"{code} {_PROCESS}"
            note = f"The feature cache is used by this process alone: {', '.join(unknown[:3])} cannot be compared between processes."
            if note not in self.notes:
                self.notes.append(note)
        key, facts = cache_identity(
            frozen_digest(self.network, self.cut.layers),
            [part.name for part in self.cut.live],
            items=f"{items.identity(highest)} {list(views)}",
            dtype=self.dtype,
            code=code,
        )
        folder = Path(self.where) / key
        whole = ActivationCache.finished(folder, self.cut.live, rows=rows, dtype=self.dtype, facts=facts)
        if whole is not None and self._agrees(whole, items, views=views):
            return whole
        with only_one(folder):
            cache = ActivationCache.on_disk(folder, self.cut.live, rows=rows, dtype=self.dtype, facts=facts)
            if not self._agrees(cache, items, views=views):
                cache.done[:] = 0
            self._fill_(cache, items, views=views)
        return cache

    def _agrees(self, cache: ActivationCache, items: Prepared, *, views: Sequence[int]) -> bool:
        """Compute a random dozen of the finished rows again and compare: something that no digest sees may have changed.

        Equal batches give equal bits on one machine, but these rows were computed in other batches, and the order of a sum depends on
        the size of a batch. What is allowed is 2e-5 of the largest number (float16: 2e-3), which is twenty times what was seen.
        """
        done = np.flatnonzero(np.repeat(cache.done != 0, CHUNK)[: cache.rows])
        if not len(done):
            return True
        view = int(np.random.default_rng().choice(done)) // len(items)
        done = done[done // len(items) == view]
        chosen = np.sort(np.random.default_rng().permutation(done)[:COMPARED])
        fresh = self._values(items.batch(chosen - view * len(items), views[view]))
        allowed = 2e-3 if self.dtype == "float16" else 2e-5
        return all(
            torch.allclose(now.cpu().double(), kept.double(), rtol=0, atol=allowed * float(now.abs().amax() + 1e-12), equal_nan=True)
            for now, kept in zip(fresh, cache.get(chosen), strict=True)
            if now.numel()
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
