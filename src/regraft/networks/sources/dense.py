"""Dense networks that other tools wrote as PMML, rebuilt as PyTorch modules from the sizes of their layers."""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import NetworkError
from ...files.pmml.reading import read_pmml
from ...files.text import printable
from .zoo import SourceModule

_ACTIVATIONS = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "softsign": nn.Softsign}


def open_dense(path: Path) -> SourceModule:
    """Open the neural network of a PMML file as PyTorch layers in single precision.
    The result carries class names, preprocessing, and a note that lists the columns in order."""
    found, notes = read_pmml(path)
    sizes = [f"{len(layer.bias)}{'' if layer.activation == 'linear' else layer.activation}" for layer in found.layers]
    name = ",".join([str(len(found.columns)), *sizes])  # such as "4,8tanh,3"
    module = dense_module(name)
    with torch.no_grad():
        for linear, layer in zip((part for part in module if isinstance(part, nn.Linear)), found.layers, strict=True):
            linear.weight.copy_(torch.from_numpy(layer.weight))
            linear.bias.copy_(torch.from_numpy(layer.bias))
    scaling = {} if found.mean is None or found.std is None else {"mean": found.mean.tolist(), "std": found.std.tolist()}
    plain: dict[str, Any] = {"kind": "array", "shape": [len(found.columns)], **scaling}
    columns = f"it takes the columns {', '.join(map(printable, found.columns))}, in this order, and predicts {printable(found.target)}"
    sample = torch.zeros(2, len(found.columns))
    return SourceModule(module, {"source": f"dense:{name}"}, sample, found.classes, plain, notes=[columns, *notes])


def dense_module(name: str) -> nn.Sequential:
    """Return dense layers with random weights, for a name such as "4,8tanh,3"."""
    sizes = [(part.rstrip("abcdefghijklmnopqrstuvwxyz"), part.lstrip("0123456789")) for part in name.split(",")]
    right = all(size.isascii() and size.isdigit() and int(size) and (not kind or kind in _ACTIVATIONS) for size, kind in sizes)
    if len(sizes) < 2 or not right:
        raise NetworkError(f"Dense layers of the sizes {printable(repr(name), width=100)} are unknown; expected such as '4,8tanh,3'.")
    parts: list[nn.Module] = []
    for (before, _), (size, kind) in pairwise(sizes):
        parts += [nn.Linear(int(before), int(size)), *([_ACTIVATIONS[kind]()] if kind else [])]
    return nn.Sequential(*parts)
