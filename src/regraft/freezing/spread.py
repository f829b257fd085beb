"""Pass of examples through a network on a cluster."""

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
"""Examples of one task, as (indices, view) pairs."""


@dataclass(frozen=True)
class Shared:
    """Data that all tasks of a pass share.

    Attributes:
        values: function from inputs to results.
        items: source of the batches.
        threads: number of threads per operator, as in the calling process, because rounding depends on it.
    """

    values: Callable[[Inputs], list[Tensor]]
    items: Prepared
    batch_size: int
    threads: int


def batches_of(shared: Shared, chunk: Chunk) -> Iterator[list[Tensor]]:
    """Yield the results of each batch of a chunk."""
    with torch.no_grad():
        for examples, view in chunk:
            for _, inputs in shared.items.batches(shared.batch_size, examples, view):
                yield shared.values(inputs)


def _task(shared: Shared, chunk: Chunk) -> list[list[Tensor]]:
    """Compute a chunk in a worker."""
    torch.set_num_threads(shared.threads)
    return list(batches_of(shared, chunk))


def spread(shared: Shared, chunks: Iterable[Chunk], *, network: Network, cluster: str) -> Iterator[list[list[Tensor]]]:
    """Return the results of the batches of each chunk, in order. Each chunk is one task of the cluster."""
    rows = np.arange(min(2, len(shared.items)))
    content = sent(shared, [network], values=lambda one: one.values(one.items.batch(rows)))
    return on_cluster(_task, content, pieces=chunks, cluster=cluster, threads=shared.threads)


def sent(shared: T, networks: Sequence[Network], *, values: Callable[[T], Sequence[Tensor]]) -> bytes:
    """Return data that hold networks, pickled. Raises `SettingError` if an unpickled copy does not compute bit-identical `values`."""

    def reduced(part: Any) -> Any:
        if isinstance(part, torch.memory_format):  # pickle would look up its name in `__main__`
            return getattr, (torch, str(part).removeprefix("torch."))
        return next((made for network in networks if (made := network.body.reduced(part)) is not NotImplemented), NotImplemented)

    content = packed(shared, reduced)
    with torch.no_grad():
        if not all(torch.equal(one, two) for one, two in zip(values(shared), values(unpacked(content)), strict=True)):
            raise SettingError("cluster=: a copy of the network for other processes computes something else. Leave cluster= out.")
    return content
