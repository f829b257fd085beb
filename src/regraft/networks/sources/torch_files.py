"""Weights files of PyTorch: opened without running code, and put into a network with an account."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file
from torch import Tensor

from ...errors import NetworkError, UnsafeFileError
from ..account import Account
from ..matching import Weight, match
from ..torch_modules import TorchNetwork

__all__ = ["put_weights_", "read_torch_weights"]

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
    except Exception as error:  # a damaged file fails in any way: SafetensorError, RuntimeError, KeyError, EOFError, ...
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise NetworkError(f"{str(path)!r} cannot be read as a weights file: {reason}") from error
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
        Weight(name, tuple(tensor.shape), name.rpartition(".")[0], "", tensor)
        for name, tensor in tensors.items()
        if not name.endswith(_COUNTERS)
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
