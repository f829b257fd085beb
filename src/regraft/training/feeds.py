"""Where a training gets its batches and scores from: the feature cache, or the whole network."""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..data import Prepared
from ..data.decoding.threads import prefetched
from ..files.room import release_pages
from ..freezing import ActivationCache, Counter, Cut
from ..networks.contract import Inputs, Network, Scores
from ..networks.samples import placed

__all__ = ["CachedFeed", "Feed", "HeadFeed", "WholeFeed"]

RELEASED = 8
"""Batches after which the memory of mapped files is let go of."""

Payload = Inputs | list[Tensor]


class Feed(abc.ABC):
    """Batches of N items by index and view, and the raw scores of a batch.

    Attributes:
        views: how many views there are; view 0 is the plain item.
    """

    views: int

    @abc.abstractmethod
    def batch(self, indices: np.ndarray, views: np.ndarray) -> Payload:
        """Return the items of some indices, each in its own of the views; both arrays are (B,)."""

    @abc.abstractmethod
    def scores(self, payload: Payload) -> Scores:
        """Return the raw scores (B, C) of a payload by task."""

    @abc.abstractmethod
    def batches(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, Payload]]:
        """Yield the indices and the batch of each of the parts (indices, views)."""


@dataclass(frozen=True)
class CachedFeed(Feed):
    """The frozen part comes from the cache; only the trainable part is run.

    Attributes:
        plain: view 0 of all N items.
        augmented: views 1, 2, … of the fitting items, or None.
        position: (N,) row of each item within a view of `augmented`; -1 where it has none.
        device: where the trainable part runs.
    """

    cut: Cut
    plain: ActivationCache
    augmented: ActivationCache | None
    position: np.ndarray
    views: int
    device: torch.device

    def batch(self, indices: np.ndarray, views: np.ndarray) -> list[Tensor]:
        """Return the live outputs of some items, each in one view."""
        if self.augmented is None or not views.any():
            return [tensor.to(self.device) for tensor in self.plain.get(indices)]
        per_view = int((self.position >= 0).sum())
        plain, other = np.flatnonzero(views == 0), np.flatnonzero(views > 0)
        back = np.argsort(np.concatenate([plain, other]))
        rows = (views[other] - 1) * per_view + self.position[indices[other]]
        halves = zip(self.plain.get(indices[plain]), self.augmented.get(rows), strict=True)
        return [torch.cat(half)[back].to(self.device) for half in halves]

    def scores(self, payload: Payload) -> Scores:
        """Return the raw scores of a batch of live outputs."""
        return self.cut.trainable_part(payload if isinstance(payload, list) else [])

    def batches(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, Payload]]:
        """Yield the indices and the live outputs of each part."""
        yield from _released(self, parts)


@dataclass(frozen=True)
class WholeFeed(Feed):
    """The whole network runs on every item in every epoch.

    Attributes:
        device: where the network runs.
        counter: told of every item, where the network has a frozen part that is computed again.
    """

    network: Network
    items: Prepared
    views: int
    device: torch.device
    counter: Counter | None = None

    def batch(self, indices: np.ndarray, views: np.ndarray) -> Inputs:
        """Return some items as the network takes them, each in one view."""
        kinds = np.unique(views)
        if len(kinds) == 1:
            return self.items.batch(indices, int(kinds[0]))
        parts = [np.flatnonzero(views == kind) for kind in kinds]
        batches = [self.items.batch(indices[part], int(kind)) for part, kind in zip(parts, kinds, strict=True)]
        return _joined(batches, torch.from_numpy(np.argsort(np.concatenate(parts))))

    def scores(self, payload: Payload) -> Scores:
        """Return the raw scores of a batch of inputs."""
        inputs = payload[0] if isinstance(payload, list) else payload
        order = self.network.training_order(self.device) if torch.is_grad_enabled() else self.network.memory_order
        return self.network.scores(placed(inputs, self.device, order=order))

    def batches(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, Payload]]:
        """Yield the indices and the batch of each part; the next one is read while the present one is in use."""
        if not parts:
            return
        ready = ((part, self.batch(*part)) for part in parts) if self.items.in_turn else prefetched(lambda part: self.batch(*part), parts)
        for (indices, _views), payload in ready:
            if self.counter is not None:
                self.counter.items += len(indices)
            yield indices, payload


@dataclass(frozen=True)
class HeadFeed(Feed):
    """The head alone, on features in memory.

    Attributes:
        features: (N, d) what the head reads.
        device: where the head runs.
        views: always 1.
    """

    network: Network
    features: Tensor
    device: torch.device
    views: int = 1

    def batch(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        """Return the features of some items."""
        return self.features[indices].to(self.device)

    def scores(self, payload: Payload) -> Scores:
        """Return the raw scores of a batch of features."""
        return self.network.scores_of_features(payload) if isinstance(payload, Tensor) else {}

    def batches(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, Payload]]:
        """Yield the indices and the features of each part."""
        yield from _released(self, parts)


def _released(feed: Feed, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[tuple[np.ndarray, Payload]]:
    """Yield the indices and the batch of each of the parts of a `feed`, and let go of the memory that reading its files has filled."""
    for number, (indices, views) in enumerate(parts):
        yield indices, feed.batch(indices, views)
        if number % RELEASED == 0:
            release_pages()


def _joined(batches: Sequence[Inputs], order: Tensor) -> Inputs:
    first = batches[0]
    if isinstance(first, dict):
        return {name: torch.cat([batch[name] for batch in batches if isinstance(batch, dict)])[order] for name in first}
    return torch.cat([batch for batch in batches if isinstance(batch, Tensor)])[order]
