"""A pass on a cluster: what its tasks share, and what each of them computes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..data import Prepared
from ..errors import SettingError
from ..networks.contract import Inputs, Network
from ..scale import on_cluster, packed, unpacked

__all__ = ["Chunk", "Shared", "batches_of", "sent", "spread"]

T = TypeVar("T")

Chunk = Sequence[tuple[np.ndarray, int]]
"""The examples of one task, with the view of each run of them."""


@dataclass(frozen=True)
class Shared:
    """What all tasks of a pass need.

    Attributes:
        values: inputs -> results.
        items: where batches come from.
        threads: that compute one operator, as in the process that waits: with other numbers sums are rounded otherwise.
    """

    values: Callable[[Inputs], list[Tensor]]
    items: Prepared
    batch_size: int
    threads: int


def batches_of(shared: Shared, chunk: Chunk) -> Iterator[list[Tensor]]:
    """Yield the results of the batches of a `chunk`."""
    with torch.no_grad():
        for examples, view in chunk:
            for _, inputs in shared.items.batches(shared.batch_size, examples, view):
                yield shared.values(inputs)


def _task(shared: Shared, chunk: Chunk) -> list[list[Tensor]]:
    """Compute a chunk in a worker."""
    torch.set_num_threads(shared.threads)
    return list(batches_of(shared, chunk))


def spread(shared: Shared, chunks: Iterable[Chunk], *, network: Network, cluster: str) -> Iterator[list[list[Tensor]]]:
    """Return the results of the batches of each chunk, in order; each chunk is a task of a cluster."""
    rows = np.arange(min(2, len(shared.items)))
    content = sent(shared, network, values=lambda one: one.values(one.items.batch(rows)))
    return on_cluster(_task, content, pieces=chunks, cluster=cluster, threads=shared.threads)


def sent(shared: T, network: Network, *, values: Callable[[T], Sequence[Tensor]]) -> bytes:
    """Return what all tasks share as bytes, after a copy made of them has proven itself."""

    def reduced(part: Any) -> Any:
        if isinstance(part, torch.memory_format):  # pickle would look for its name in the program that was started
            return getattr, (torch, str(part).removeprefix("torch."))
        return network.reduced(part)

    content = packed(shared, reduced)
    with torch.no_grad():
        if not all(torch.equal(one, two) for one, two in zip(values(shared), values(unpacked(content)), strict=True)):
            raise SettingError("cluster=: a copy of the network for other processes computes something else. Leave cluster= out.")
    return content
