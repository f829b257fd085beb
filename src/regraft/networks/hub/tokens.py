"""Vocabulary size and maximum length of a text network, found by running it."""

from typing import Any

import torch

from ..network import Network
from ..parts.protocols import by_name
from ..samples import failure
from ..tracing import trace

_SHORT = (LookupError, RuntimeError, ValueError, TypeError)  # Errors of a table that is too short, and of shapes that do not fit
_OFFSET = 2  # Rows before the first position that a table of positions may have, as in RoBERTa and BART


def text_limits(network: Network, longest: int | None) -> tuple[int | None, int | None]:
    """Return the vocabulary size, which is the number of rows of the first embedding table that runs, and the largest number of tokens that
    a network takes. None for a network without a table, and if it takes `longest` tokens, or none were asked for."""
    ids = next((tensor for tensor in by_name(network.sample).values() if not tensor.is_floating_point() and tensor.ndim == 2), None)
    if ids is None or network.body.only_predicts:
        return None, None
    tables = _tables(network)
    vocabulary = tables[0] if tables else None
    if longest is None or min(tables[1:], default=longest + _OFFSET) >= longest + _OFFSET or _runs(network, longest):
        return vocabulary, None
    low, high = ids.shape[1], longest  # it runs with the length of its sample
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _runs(network, middle) else (low, middle)
    return vocabulary, low


def _tables(network: Network) -> list[int]:
    """Return the number of rows of each embedding table, in execution order; the first is the vocabulary."""
    modules: dict[str, Any] = network.modules()
    network.mode_(False)
    seen = trace(modules, lambda: network.scores(network.sample) if network.heads else network.feature_batch(network.sample))
    embeddings = [modules[name] for name in seen.order if type(modules[name]).__name__.endswith("Embedding")]
    rows = [getattr(one, "num_embeddings", None) or getattr(one, "input_dim", None) for one in embeddings]
    return [count for count in rows if isinstance(count, int)]


def _runs(network: Network, length: int) -> bool:
    """Return whether a network takes texts of this length."""
    named = by_name(network.sample)
    last = {name: tensor[:1, -1:] for name, tensor in named.items() if tensor.ndim == 2}
    first = {name: tensor[:1, :1].expand(1, length - 1) for name, tensor in named.items() if tensor.ndim == 2}
    made = {name: torch.cat([first[name], last[name]], 1) for name in last}
    run = network.scores if network.heads else network.feature_batch
    return failure(run, made.get("", made), caught=_SHORT) is None
