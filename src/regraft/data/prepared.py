"""A data set prepared for a network: batches by index and view, and the identity of their content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import SettingError
from ..networks.parts.protocols import Inputs
from .dataset import Dataset
from .decoding.threads import in_threads, prefetched
from .items import Clip, in_files
from .preprocessings.augmenting import augment_key
from .preprocessings.conditions_preprocessing import known_conditions
from .preprocessings.preprocessing import Preprocessing


class PreparedData:
    """Data set with a network's preprocessing. Examples are read for each batch and not kept.
    `preprocessing`: fitted to the data if it was not fitted before. `augment`: augmentation of the views: "light", "photo" or a
    callable."""

    # over the limit: items, and how their views are made
    def __init__(
        self, data: Dataset, preprocessing: Preprocessing, *, view_seed: int = 0, augment: str | Callable[..., Any] = "light"
    ) -> None:
        data = preprocessing.dataset(data) if data.part_names else data  # a part that is the only one, where no input has a name
        self.preprocessing = preprocessing if preprocessing.fitted else preprocessing.fit(data)
        self.data = self.preprocessing.dataset(data)
        self.view_seed = view_seed
        self.augment = augment
        self._viewing = self.preprocessing.viewing(augment)

    @property
    def in_turn(self) -> bool:
        """Whether the consuming thread must make the batches, because a callable draws from the global random generators."""
        return callable(self.augment)

    def of(self, data: Dataset, preprocessing: Preprocessing | None = None) -> PreparedData:
        """Return other data, or another preprocessing, with the same view settings."""
        return PreparedData(data, preprocessing or self.preprocessing, view_seed=self.view_seed, augment=self.augment)

    def __len__(self) -> int:
        return len(self.data)

    def batch(self, indices: Sequence[int] | np.ndarray, view: int = 0) -> Inputs:
        """Return some examples as one batch: a tensor (n, ...), or named tensors (n, length).
        `indices`: (n,); `view`: 0 for the plain examples, k > 0 for their k-th augmented copy."""
        mixed = (np.random.SeedSequence([self.view_seed, int(index)]) for index in indices)  # neighbouring examples are independent
        seeds = [int(one.generate_state(1, np.uint64)[0]) for one in mixed] if view else None
        return (self._viewing if view else self.preprocessing).batch_of(self.data, indices, view=view, seeds=seeds)

    # over the limit: size, items and view are what a batch is called by everywhere
    def batches(
        self, batch_size: int, indices: Sequence[int] | np.ndarray | None = None, view: int = 0
    ) -> Iterator[tuple[np.ndarray, Inputs]]:
        """Yield consecutive batches, each with its indices (b,) int64. For files, the next batch is read while the current one is in use.
        `indices`: (n,) examples in this order; None: all. `view`: 0 for the plain examples, k > 0 for their k-th augmented copy."""
        if batch_size < 1:
            raise SettingError(f"batch_size={batch_size} is out of range; expected 1 or more.")
        order = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
        ahead = in_files(self.data.items, self.data.kind) and not (view and self.in_turn)
        yield from prefetched(lambda part: self.batch(part, view), parts, ahead=ahead)

    def identity(self, views: int) -> str:
        """Return a digest of everything that determines the batches."""
        hasher = hashlib.blake2b(digest_size=16)
        hasher.update(json.dumps([self.preprocessing.to_dict(), self.data.kind, len(self)], sort_keys=True).encode())
        if views > 1:
            own = [] if self.augment == "light" else [augment_key(self.augment)]
            hasher.update(json.dumps([views, self.view_seed, *own]).encode())
        if self.data.conditions is not None and known_conditions(self.preprocessing) is not None:
            hasher.update(json.dumps([str(condition) for condition in self.data.conditions]).encode())
        of_files = len(self) > 0 and isinstance(self.data.items[0], Path | Clip)
        rows = range(len(self))
        for digest in in_threads(self.data.digest, rows) if of_files else map(self.data.digest, rows):
            hasher.update(digest)
        return hasher.hexdigest()
