"""Exported programs of a PyTorch network: what it computes, without its classes."""

from __future__ import annotations

from collections.abc import Sequence
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import Module

from ..contract import Inputs

if TYPE_CHECKING:
    from ..torch_modules import TorchNetwork

__all__ = ["RawScores", "export_module", "export_raw_scores"]


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


class _Named(Module):
    """A module that takes tensors by name, its forward without free keywords: a program with them cannot be called."""

    def __init__(self, module: Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module

        def forward(**named: Tensor) -> Any:
            return module(**named)

        forward.__dict__["__signature__"] = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
        self.__dict__["forward"] = forward


def export_module(module: Module, sample: Inputs, *, path: Path) -> None:
    """Write an exported program of a module in inference mode, its batch axis free.

    Args:
        module: any.
        sample: a batch that it takes.
        path: ends in `.pt2`.
    """
    axes = {0: torch.export.Dim("batch", min=1)}
    takes = signature(module.forward).parameters
    if isinstance(sample, dict):
        explicit = takes.keys() >= sample.keys()
        whole = module if explicit else _Named(module, list(sample))
        program = torch.export.export(whole.eval(), (), dict(sample), dynamic_shapes={name: axes for name in sample})
    else:
        first = next(iter(takes.values()))
        starred = first.kind is Parameter.VAR_POSITIONAL
        program = torch.export.export(module.eval(), (sample,), dynamic_shapes={first.name: (axes,)} if starred else (axes,))
    torch.export.save(program, path)
