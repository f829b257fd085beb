"""Which token ids a network of texts knows, and how many of them it takes at once: found by running it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..contract import Inputs, Network
from ..tracing import trace

__all__ = ["known_positions", "known_tokens"]

_OFFSET = 2
"""Rows that a table of positions may have before that of the first position, as RoBERTa's and BART's have."""


def known_tokens(network: Network) -> int | None:
    """Return how many token ids a `network` knows, 0 to one less: the rows of the first table that
    is read; None where there is none."""
    return next(_tables(network), None)


def known_positions(network: Network, longest: int) -> int | None:
    """Return how many tokens of a text a network takes, where that is fewer than `longest`; None where it takes as many."""
    ids = _ids(network)
    shortest = min(list(_tables(network))[1:], default=longest + _OFFSET)
    if ids is None or shortest >= longest + _OFFSET or _runs(network, longest):
        return None
    low, high = ids.shape[1], longest  # it runs with as many as its sample has
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _runs(network, middle) else (low, middle)
    return low


def _ids(network: Network) -> Tensor | None:
    """Return the token ids of a `network`'s sample, (N, tokens); None where it takes none."""
    named = network.sample if isinstance(network.sample, dict) else {"": network.sample}
    return next((tensor for tensor in named.values() if not tensor.is_floating_point() and tensor.ndim == 2), None)


def _tables(network: Network) -> Iterator[int]:
    """Yield the rows of each table that is read, in the order of execution: first that of the tokens."""
    if _ids(network) is None or network.origin.get("source") == "program":
        return
    modules: dict[str, Any] = network.modules()
    network.mode_(False)
    seen = trace(modules, lambda: network.scores(network.sample) if network.heads else network.feature_batch(network.sample))
    for name in seen.order:
        rows = getattr(modules[name], "num_embeddings", None) or getattr(modules[name], "input_dim", None)
        if type(modules[name]).__name__.endswith("Embedding") and isinstance(rows, int):
            yield rows


def _runs(network: Network, length: int) -> bool:
    """Tell whether a network takes texts of that length."""
    named = network.sample if isinstance(network.sample, dict) else {"": network.sample}
    last = {name: tensor[:1, -1:] for name, tensor in named.items() if tensor.ndim == 2}
    first = {name: tensor[:1, :1].expand(1, length - 1) for name, tensor in named.items() if tensor.ndim == 2}
    made = {name: torch.cat([first[name], last[name]], 1) for name in last}
    batch: Inputs = made.get("", made)
    try:
        with torch.no_grad():
            network.scores(batch) if network.heads else network.feature_batch(batch)
    except (LookupError, RuntimeError, ValueError, TypeError):  # what a table that is too short, or a product of shapes, raises
        return False
    return True
