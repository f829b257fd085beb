"""Feeds: sources of a training's batches and logits, from the feature cache or the whole network."""

import abc
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import PreparedData
from ..data.decoding.threads import prefetched
from ..files.room import release_pages
from ..freezing import ActivationCache, Counter, Cut
from ..networks.network import Inputs, Network, Scores
from ..networks.padding import CHUNK, shortened, skips_padding, sorts_by_length
from ..networks.parts.protocols import by_name
from ..networks.samples import placed

MOVING_STATISTICS = (".running_mean", ".running_var", ".moving_mean", ".moving_variance")
"""Endings of the names of BatchNorm's moving statistics in `state()`, in PyTorch and Keras."""
RELEASED = 8  # Number of batches after which the memory of mapped files is released

Payload = Any  # Batch of a feed; each feed reads its own


class Feed(abc.ABC):
    """Source of batches of N examples by index and view, and of the logits of a batch."""

    views: int  # number of views; view 0 is the plain example

    @abc.abstractmethod
    def batch(self, indices: np.ndarray, views: np.ndarray) -> Payload:
        """Return a batch of examples, each in its own view; both arrays are (B,)."""

    @abc.abstractmethod
    def scores(self, payload: Payload) -> Scores:
        """Return the logits of a batch: task -> (B, C)."""

    def batches(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Payload]:
        """Yield the batch of each part (indices, views), and release the memory of mapped files at intervals."""
        for number, (indices, views) in enumerate(parts):
            yield self.batch(indices, views)
            if number % RELEASED == 0:
                release_pages()


@dataclass(frozen=True)
class CachedFeed(Feed):
    """Feed from the feature cache: only the trainable part runs."""

    cut: Cut
    plain: ActivationCache  # view 0 of all N examples
    augmented: ActivationCache | None  # views 1, 2, … of the training set, or None
    position: np.ndarray  # (N,) row of each example within a view of `augmented`; -1 if it has none
    views: int
    device: torch.device  # device of the trainable part

    def batch(self, indices: np.ndarray, views: np.ndarray) -> list[Tensor]:
        if self.augmented is None or not views.any():
            return [tensor.to(self.device) for tensor in self.plain.get(indices)]
        per_view = int((self.position >= 0).sum())
        plain, other = np.flatnonzero(views == 0), np.flatnonzero(views > 0)
        back = np.argsort(np.concatenate([plain, other]))
        rows = (views[other] - 1) * per_view + self.position[indices[other]]
        halves = zip(self.plain.get(indices[plain]), self.augmented.get(rows), strict=True)
        return [torch.cat(half)[back].to(self.device) for half in halves]

    def scores(self, payload: Payload) -> Scores:
        return self.cut.trainable_part(payload)


@dataclass(frozen=True)
class WholeFeed(Feed):
    """Feed that runs the whole network on every example in every epoch."""

    network: Network
    items: PreparedData
    views: int
    device: torch.device  # device of the network
    counter: Counter | None = None  # counts the examples if a frozen part is computed again; None otherwise
    skips: bool = field(init=False)  # whether padding that no example of a batch needs is left out, which changes no score

    def __post_init__(self) -> None:
        object.__setattr__(self, "skips", sorts_by_length(self.network.sample) and len(self.items) > 0 and self._skips())

    def _skips(self) -> bool:
        """Return whether padding changes neither the features nor the scores. A head that starts at zero shows nothing of the features,
        and BatchNorm takes its statistics in training from the padding, too."""
        network = self.network
        if any(name.endswith(MOVING_STATISTICS) for name in network.state()):
            return False
        network.mode_(False)

        def values(inputs: Inputs) -> list[Tensor]:
            inputs = placed(inputs, self.device, order=torch.contiguous_format)
            return [network.feature_batch(inputs), *network.scores(inputs).values()]

        return skips_padding(values, self.items.batch(np.arange(min(len(self.items), CHUNK))))

    def batch(self, indices: np.ndarray, views: np.ndarray) -> Inputs:
        kinds = np.unique(views)
        if len(kinds) == 1:
            return self.items.batch(indices, int(kinds[0]))
        parts = [np.flatnonzero(views == kind) for kind in kinds]
        batches = [self.items.batch(indices[part], int(kind)) for part, kind in zip(parts, kinds, strict=True)]
        order, named = torch.from_numpy(np.argsort(np.concatenate(parts))), [by_name(batch) for batch in batches]
        joined = {name: torch.cat([batch[name] for batch in named])[order] for name in named[0]}
        return joined if isinstance(batches[0], dict) else joined[""]

    def scores(self, payload: Payload) -> Scores:
        inputs = shortened(payload) if self.skips else payload
        order = self.network.body.training_order(self.device) if torch.is_grad_enabled() else self.network.body.memory_order
        return self.network.scores(placed(inputs, self.device, order=order))

    def batches(self, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Iterator[Payload]:
        """Yield the batch of each part. The next batch is prefetched unless the data must be read in order."""
        for (indices, _views), payload in prefetched(lambda part: self.batch(*part), parts, ahead=not self.items.in_turn):
            if self.counter is not None:
                self.counter.items += len(indices)
            yield payload


@dataclass(frozen=True)
class HeadFeed(Feed):
    """Feed that runs the head alone, on features in memory."""

    network: Network
    features: Tensor  # (N, d) inputs of the head
    device: torch.device  # device of the head
    views: int = 1  # always 1

    def batch(self, indices: np.ndarray, views: np.ndarray) -> Tensor:
        return self.features[indices].to(self.device)

    def scores(self, payload: Payload) -> Scores:
        return self.network.scores_of_features(payload)
