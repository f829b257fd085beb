"""What an activation cache is a cache of: a digest that changes whenever the cached values would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from typing import Any

import torch

from ..networks.contract import Network
from ..networks.parts.structure import prefixes

__all__ = ["cache_identity", "code_digest", "frozen_digest"]

_FORMAT = 2
"""Raised when the layout of a cache or the meaning of its values changes: caches of older versions then do not match."""


def frozen_digest(network: Network, layers: Collection[str]) -> str:
    """Return a digest of the bytes and the structure of some layers.

    Args:
        network: the network.
        layers: names of its frozen layers.

    Returns:
        Hexadecimal text; it differs if one weight, one moving statistic or one option of these layers differs.
    """
    digest = hashlib.blake2b(network.structure(layers).encode(), digest_size=16)
    wanted = set(layers)
    # a module that holds frozen layers may hold a buffer of its own without being a layer
    around = {outer for layer in layers for outer in prefixes(layer)} - {layer.name for layer in network.layers}
    for name, tensor in sorted(network.state().items()):
        if name.rpartition(".")[0] in wanted | around or any(name.startswith(f"{layer}.") for layer in wanted):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def code_digest(network: Network, layers: Collection[str]) -> tuple[str, tuple[str, ...]]:
    """Return a digest of the code and the attributes that some layers depend on, and what of it could not be described.

    Args:
        network: the network.
        layers: names of its frozen layers.
    """
    found = network.code(layers)
    return hashlib.blake2b(found.text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest(), found.unknown


def cache_identity(frozen: str, live: Collection[str], *, items: str, dtype: str, code: str = "") -> tuple[str, dict[str, Any]]:
    """Return the name of a cache and the facts from which it is made.

    Args:
        frozen: `frozen_digest` of the layers.
        live: names of the outputs that are kept.
        items: identity of items, preprocessing, views and view seed (`Prepared.identity`).
        dtype: "float32" or "float16".
        code: `code_digest` of the layers.

    Returns:
        A hexadecimal key and the facts as plain data.
    """
    facts = {
        "format": _FORMAT,
        "frozen": frozen,
        "code": code,
        "live": sorted(live),
        "items": items,
        "dtype": dtype,
        "torch": torch.__version__,
    }
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest(), facts
