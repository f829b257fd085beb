"""Vocabulary size and maximum length of a text network, found by running it."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from ..network import Inputs, Network
from ..parts.protocols import by_name
from ..tracing import trace

_OFFSET = 2  # Rows before the first position that a table of positions may have, as in RoBERTa and BART


def known_tokens(network: Network) -> int | None:
    """Return the vocabulary size: the rows of the first embedding table that runs; None without one."""
    return next(_tables(network), None)


def known_positions(network: Network, longest: int) -> int | None:
    """Return the largest number of tokens that a network takes, or None if it takes `longest`."""
    ids = _ids(network)
    shortest = min(list(_tables(network))[1:], default=longest + _OFFSET)
    if ids is None or shortest >= longest + _OFFSET or _runs(network, longest):
        return None
    low, high = ids.shape[1], longest  # it runs with the length of its sample
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _runs(network, middle) else (low, middle)
    return low


def _ids(network: Network) -> Tensor | None:
    """Return the token ids (N, tokens) of a network's sample, or None."""
    return next((tensor for tensor in by_name(network.sample).values() if not tensor.is_floating_point() and tensor.ndim == 2), None)


def _tables(network: Network) -> Iterator[int]:
    """Yield the number of rows of each embedding table, in execution order; the first is the vocabulary."""
    if _ids(network) is None or network.body.only_predicts:
        return
    modules: dict[str, Any] = network.modules()
    network.mode_(False)
    seen = trace(modules, lambda: network.scores(network.sample) if network.heads else network.feature_batch(network.sample))
    for name in seen.order:
        rows = getattr(modules[name], "num_embeddings", None) or getattr(modules[name], "input_dim", None)
        if type(modules[name]).__name__.endswith("Embedding") and isinstance(rows, int):
            yield rows


def _runs(network: Network, length: int) -> bool:
    """Return whether a network takes texts of this length."""
    named = by_name(network.sample)
    last = {name: tensor[:1, -1:] for name, tensor in named.items() if tensor.ndim == 2}
    first = {name: tensor[:1, :1].expand(1, length - 1) for name, tensor in named.items() if tensor.ndim == 2}
    made = {name: torch.cat([first[name], last[name]], 1) for name in last}
    batch: Inputs = made.get("", made)
    try:
        with torch.no_grad():
            network.scores(batch) if network.heads else network.feature_batch(batch)
    except (LookupError, RuntimeError, ValueError, TypeError):  # a table that is too short, or a shape mismatch
        return False
    return True
