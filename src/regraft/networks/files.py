"""Weights files of PyTorch: opened without running code, put into a network with an account; and the saved folder."""

from __future__ import annotations

import importlib.metadata
import json
import os
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import Module

from ..errors import NetworkError, UnsafeFileError
from .account import Account
from .contract import Head, Network
from .matching import Weight, match
from .torch_modules import TorchNetwork

__all__ = ["FACTS_FILE", "put_weights_", "read_facts", "read_torch_weights", "versions", "write_json", "write_network"]

FACTS_FILE = "regraft.json"
_COUNTERS = ("num_batches_tracked",)


def read_torch_weights(path: Path) -> dict[str, Tensor]:
    """Read a `.safetensors`, `.pt` or `.pth` file of named tensors; nothing in it is ever run.

    Args:
        path: the file.

    Returns:
        name -> tensor, in the file's order; tensors inside "state_dict", "model" and the like are found.

    Raises:
        UnsafeFileError: if the file is a pickle of objects rather than of tensors.
        NetworkError: if it is no such file, or holds no tensors.
    """
    if not path.is_file():
        raise NetworkError(f"There is no weights file {str(path)!r}.")
    try:
        content = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UnsafeFileError(
            f"{str(path)!r} is a pickle that holds objects, not only tensors; opening it would run code, so it is refused. "
            "Where you trust it, save its weights once as tensors: torch.save(model.state_dict(), 'weights.pt'), and give that file."
        ) from error
    except (SafetensorError, RuntimeError, EOFError, OSError) as error:
        raise NetworkError(f"{str(path)!r} cannot be read as a weights file: {str(error).splitlines()[0]}") from error
    tensors = _tensors_inside(content)
    if not tensors:
        raise NetworkError(f"{str(path)!r} holds no named tensors; expected a state dict.")
    return tensors


def _tensors_inside(content: Any) -> dict[str, Tensor]:
    if not isinstance(content, Mapping):
        return {}
    for key in ("state_dict", "model_state_dict", "model", "network", "ema"):
        if isinstance(content.get(key), Mapping):
            return _tensors_inside(content[key])
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def _weights_of(tensors: Mapping[str, Tensor]) -> list[Weight]:
    return [
        Weight(name, tuple(tensor.shape), name.rpartition(".")[0], "", tensor) for name, tensor in tensors.items() if not name.endswith(_COUNTERS)
    ]


def put_weights_(network: TorchNetwork, tensors: Mapping[str, Tensor]) -> Account:
    """Put named tensors into a network of any similar architecture.

    Args:
        network: receives them.
        tensors: name -> tensor.

    Returns:
        The account of the match: matched and by which rule, reshaped, missing, unexpected.

    Raises:
        AmbiguousMatchError: if a tensor could go to more than one place.
        NetworkError: if nothing matches.
    """
    source, target = _weights_of(tensors), _weights_of(network.state())
    head = {head.layer for head in network.heads.values()}
    found = match(source, target, head=head)
    with torch.no_grad():
        for given, taken, _rule in found.pairs:
            cast(Tensor, target[taken].value).copy_(cast(Tensor, source[given].value))
    return found.account


def versions() -> dict[str, str]:
    """Return the versions of regraft and of the libraries that a saved network depends on, as far as installed."""
    found = {}
    for name in ("regraft", "torch", "keras", "timm", "torchvision", "transformers", "numpy"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def write_json(path: Path, content: Any) -> None:
    """Write JSON so that the file is either the old or the new one, never half of it."""
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        json.dump(content, file, ensure_ascii=False, indent=1)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_network(network: Network, folder: Path) -> None:
    """Write weights, then `regraft.json` last: a folder without it is not a saved network.

    Args:
        network: any family.
        folder: made where it is not there.

    Raises:
        NetworkError: if the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / FACTS_FILE).unlink(missing_ok=True)
        facts = dict(network.write(folder))
    except OSError as error:
        raise NetworkError(f"The folder {str(folder)!r} cannot be written: {error.strerror or error}") from error
    heads = [
        {"task": head.task, "classes": list(head.classes) if head.classes else None, "kind": head.kind, "activation": head.activation}
        | {"layer": head.layer, "rows": len(head.weight), "features": head.features}
        for head in network.heads.values()
    ]
    content = {
        "format": 1,
        "family": network.family,
        "network": facts,
        "heads": heads,
        "preprocessing": network.preprocessing.to_dict(),
        "lineage": network.origin.get("lineage", []),
        "account": network.account.to_dict(),
        "versions": versions(),
    }
    write_json(folder / FACTS_FILE, content)


def read_facts(folder: Path) -> dict[str, Any]:
    """Read `regraft.json` of a saved folder.

    Args:
        folder: written by `write_network`.

    Returns:
        Its content.

    Raises:
        NetworkError: if it is missing or not readable.
    """
    path = folder / FACTS_FILE
    if not path.is_file():
        raise NetworkError(f"{str(folder)!r} is not a folder saved by regraft: it has no {FACTS_FILE}. An interrupted run is continued by the same 'adapt'.")
    try:
        return cast(dict[str, Any], json.loads(path.read_text(encoding="utf-8")))
    except ValueError as error:
        raise NetworkError(f"{str(path)!r} is not readable JSON: {error}") from error
