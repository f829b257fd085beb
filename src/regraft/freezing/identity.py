"""What a feature cache is a cache of: a digest that changes whenever the cached values would."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..networks.contract import Network
from ..networks.fingerprints.values import Structure
from ..networks.parts.code_files import COUNTER
from ..networks.parts.structure import prefixes
from .units import on_network, rows_of

__all__ = ["Frozen", "cache_identity", "engine_of", "frozen_digest", "frozen_identity", "key_of"]

_FORMAT = 2
"""Raised when the layout of a cache or the meaning of its values changes: caches of older versions then do not match."""


@dataclass(frozen=True)
class Frozen:
    """What a frozen part is.

    Attributes:
        digest: of the bytes and the structure of its layers; the same in every process.
        opaque: what decides its values and has no content to compare, by place. Another process may have another one.
    """

    digest: str
    opaque: tuple[str, ...] = ()


def frozen_identity(network: Network, layers: Collection[str]) -> Frozen:
    """Return what some layers are: bytes of weights and statistics, options, plain attributes, and the code that they run."""
    structure = _settled(network, layers)
    digest = hashlib.blake2b(structure.text.encode("utf-8", errors="surrogatepass"), digest_size=16)
    wanted = set(layers)
    # a module that holds frozen layers may hold a buffer of its own without being a layer
    around = {outer for layer in layers for outer in prefixes(layer)} - {layer.name for layer in network.layers}
    for name, tensor in sorted(network.state().items()):
        if name.endswith(COUNTER):
            continue
        if name.rpartition(".")[0] in wanted | around or not wanted.isdisjoint(prefixes(name)[1:]):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return Frozen(digest.hexdigest(), structure.opaque)


def _settled(network: Network, layers: Collection[str]) -> Structure:
    """Return the structure without what runs of the network change: counters, and what a module keeps of the last batch.

    No such value is part of what the network is, as long as it gives the same for the same batch; two runs of batches that differ show
    which they are. Installed libraries are not looked through, so that their networks need not be run for this.
    """
    structure = network.structure(layers)
    if not structure.own:
        return structure
    ignored: frozenset[str] = frozenset()
    for _ in range(3):  # what grows shows where it grows only once
        seen = []
        for rows in ([0, 1], [0, 1, 0]):
            network.mode_(False)
            with torch.no_grad():
                network.scores(rows_of(on_network(network, network.sample), rows))
            seen.append(network.structure(layers, ignored=ignored))
        if seen[0].text == seen[1].text:
            return seen[1]
        ignored |= _changed(seen[0].leaves, seen[1].leaves)
    return replace(seen[1], opaque=(*seen[1].opaque, "what changes whenever the network runs"))


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> frozenset[str]:
    """Return the places of values that differ; of what grows or shrinks, the place of the whole."""
    moved = {place.rpartition(".")[0] for place in before.keys() ^ after.keys()}
    return frozenset(moved | {place for place in before.keys() & after.keys() if before[place] != after[place]})


def frozen_digest(network: Network, layers: Collection[str]) -> str:
    """Return a digest of the bytes and the structure of some layers."""
    return frozen_identity(network, layers).digest


def cache_identity(  # over the limit: what a value depends on
    frozen: str, live: Collection[str], *, items: str, dtype: str, device: str = "cpu", engine: str = "eager"
) -> tuple[str, dict[str, Any]]:
    """Return the name of a cache and the facts from which it is made."""
    facts = {
        "format": _FORMAT,
        "frozen": frozen,
        "live": sorted(live),
        "items": items,
        "dtype": dtype,
        "device": device,
        "torch": str(torch.__version__),
    }
    facts |= {} if engine == "eager" else {"engine": engine}
    return key_of(facts), facts


def key_of(facts: Mapping[str, Any]) -> str:
    """Return the name of the folder of a cache with these facts."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest()


def engine_of(device: torch.device) -> str:
    """Return what decides how a network's values are rounded, beside the network and the size of a batch."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {capability}, {torch.get_num_threads()} threads, MKL-DNN {torch._C._has_mkldnn}"
