"""Exported programs of a PyTorch network: what it computes, without its classes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from ..contract import Inputs
from .wrappers import AttachedHead, BranchedNetwork, EndedNetwork, JoinedNetwork, StackedHead, TappedNetwork

if TYPE_CHECKING:
    from ..torch_modules import TorchNetwork

__all__ = ["RawScores", "export_module", "export_raw_scores"]


_STARRED = (AttachedHead, StackedHead, BranchedNetwork, EndedNetwork, TappedNetwork)  # their inputs stand behind * and **


class RawScores(Module):
    """A network's raw scores as a module's result, a tensor for each task with rows of its own: what the saved program computes.

    It takes named tensors in the order of the network's sample: programs with free keywords do not load everywhere.
    """

    def __init__(self, network: TorchNetwork) -> None:
        super().__init__()
        self.module = network.module
        self.__dict__["network"] = network

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the raw scores (N, C) of each head, in their order."""
        network = self.__dict__["network"]
        named = isinstance(network.sample, dict)
        scores = network.scores(dict(zip(network.sample, tensors, strict=True)) if named else tensors[0])
        own = [scores[task] for task, head in network.heads.items() if head.groups is None]
        return tuple(own or scores.values())


def export_raw_scores(network: TorchNetwork, path: Path) -> None:
    """Write an exported program of a network's raw scores to the path, its batch axis free."""
    sample = tuple(network.sample.values()) if isinstance(network.sample, dict) else (network.sample,)
    axes = ({0: torch.export.Dim("batch", min=1)},) * len(sample)
    program = torch.export.export(RawScores(network).eval(), sample, dynamic_shapes={"tensors": axes})
    torch.export.save(program, path)


def export_module(module: Module, sample: Inputs, *, path: Path) -> None:
    """Write an exported program of a module in inference mode, its batch axis free.

    Args:
        module: any.
        sample: a batch that it takes.
        path: ends in `.pt2`.
    """
    axes = {0: torch.export.Dim("batch", min=1)}
    starred = isinstance(module, _STARRED)
    if isinstance(sample, dict):
        free = {name: axes for name in sample}
        shapes: Any = {"named": free} if starred else free
        if isinstance(module, JoinedNetwork):
            shapes = {"columns": axes, "named": {name: axes for name in sample if name != "columns"}}
        program = torch.export.export(module.eval(), (), dict(sample), dynamic_shapes=shapes)
    else:
        program = torch.export.export(module.eval(), (sample,), dynamic_shapes={"tensors": (axes,)} if starred else (axes,))
    torch.export.save(program, path)
