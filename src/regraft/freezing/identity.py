"""Identity of a feature cache: a digest that changes whenever the cached values would."""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..networks.fingerprints.values import Structure
from ..networks.network import Network
from ..networks.parts.code_files import COUNTER
from ..networks.parts.protocols import chosen_rows
from ..networks.parts.structure import prefixes
from .units import on_network

_FORMAT = 2  # Version of the layout of a cache and the meaning of its values; caches of other versions do not match


@dataclass(frozen=True)
class FrozenIdentity:
    """Identity of a frozen part.
    `opaque`: paths of objects that affect the values but have no content to compare. They may differ in another process."""

    digest: str  # digest of the weights and the structure of its layers; the same in every process
    opaque: tuple[str, ...] = ()


def frozen_identity(network: Network, layers: Collection[str]) -> FrozenIdentity:
    """Return the identity of some layers, from weights and statistics, options, plain attributes, and code."""
    structure = _settled(network, layers)
    digest = hashlib.blake2b(structure.text.encode("utf-8", errors="surrogatepass"), digest_size=16)
    wanted = set(layers)
    # a module around frozen layers may own a buffer without being a layer
    around = {outer for layer in layers for outer in prefixes(layer)} - {layer.name for layer in network.layers}
    for name, tensor in sorted(network.state().items()):
        if name.endswith(COUNTER):
            continue
        if name.rpartition(".")[0] in wanted | around or not wanted.isdisjoint(prefixes(name)[1:]):
            digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return FrozenIdentity(digest.hexdigest(), structure.opaque)


def _settled(network: Network, layers: Collection[str]) -> Structure:
    """Return the structure without values that a forward pass changes, such as counters and data of the last batch.
    Such values are not part of the identity, as long as the same batch gives the same output. Two runs on different batches show which
    values these are. Networks made of installed libraries only are not run, because library objects are not inspected."""
    structure = network.body.structure(layers)
    if not structure.own:
        return structure
    ignored: frozenset[str] = frozenset()
    for _ in range(3):  # a value that grows shows its path only in a later run
        seen = []
        for rows in ([0, 1], [0, 1, 0]):
            network.mode_(False)
            with torch.no_grad():
                network.scores(chosen_rows(on_network(network, network.sample), rows))
            seen.append(network.body.structure(layers, ignored=ignored))
        if seen[0].text == seen[1].text:
            return seen[1]
        ignored |= _changed(seen[0].leaves, seen[1].leaves)
    return replace(seen[1], opaque=(*seen[1].opaque, "what changes whenever the network runs"))


def _changed(before: Mapping[str, str], after: Mapping[str, str]) -> frozenset[str]:
    """Return the paths of values that differ; for containers that grow or shrink, the path of the container."""
    moved = {place.rpartition(".")[0] for place in before.keys() ^ after.keys()}
    return frozenset(moved | {place for place in before.keys() & after.keys() if before[place] != after[place]})


def cache_identity(  # over the limit: what a value depends on
    frozen: str, live: Collection[str], *, items: str, dtype: str, device: str = "cpu", engine: str = "eager"
) -> tuple[str, dict[str, Any]]:
    """Return the folder name of a cache and the facts that it is the digest of."""
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
    """Return the folder name of a cache: the digest of its facts."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=12).hexdigest()


def engine_of(device: torch.device) -> str:
    """Return what determines the rounding of values besides the network and the batch size: device, CPU capability, threads."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    capability = torch.backends.cpu.get_cpu_capability()
    return f"{name}, {capability}, {torch.get_num_threads()} threads, MKL-DNN {torch._C._has_mkldnn}"
