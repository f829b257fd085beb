"""Dropout on what the heads read, and a penalty on the size of their rows: both for training steps alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional

from ..networks.contract import Network

__all__ = ["dropped", "l1_norm"]


@contextmanager
def dropped(network: Network, share: float) -> Iterator[None]:
    """Drop numbers that the heads read, and scale up the others, while the context lasts.

    All heads of a run lose the same numbers: a branch may read what the first head was given, and would lose some of it twice.

    Source: Srivastava et al., JMLR 15 (2014), section 4, in the form with the scale in training.
    """
    if not share:
        yield
        return
    modules = network.modules()
    drop = _Drop(share)
    with ExitStack() as stack:
        stack.callback(network.module.register_forward_pre_hook(drop.began).remove)
        stack.callback(network.module.register_forward_hook(drop.ended).remove)
        for layer in network.head_layers:
            stack.callback(modules[layer].register_forward_pre_hook(drop.read, with_kwargs=True).remove)
        yield


class _Drop:
    """The hooks of one training step: on the heads, and around the network, which need not be what calls the heads.

    Attributes:
        given: what the first head of this run was given, before and after.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self.inside = False
        self.given: tuple[Tensor, Tensor] | None = None

    def began(self, *_call: Any) -> None:
        """Take note that the network starts."""
        self.inside, self.given = True, None

    def ended(self, *_call: Any) -> None:
        """Take note that it has come to its end."""
        self.inside, self.given = False, None

    def read(self, _module: Module, *call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return what a head reads in place of what it was called with, `call`: arguments and keywords."""
        args, kwargs = call
        named = [*zip(range(len(args)), args, strict=True), *kwargs.items()]
        place, values = named[0]
        if self.given is not None and values is not self.given[0] and self.inside:
            return args, kwargs  # made of what was dropped for another head
        if self.given is None or values is not self.given[0]:
            self.given = (values, functional.dropout(values, self.share))
        made = dict(named) | {place: self.given[1]}
        return tuple(made[at] for at in range(len(args))), {name: made[name] for name in kwargs}


def l1_norm(network: Network) -> Tensor:
    """Return the sum of the absolute weights of the rows that are trained, biases left out, a scalar with its gradient.

    Source: Tibshirani, JRSS B 58 (1996), equation 1. Of the heads alone: it leaves each class few features. Weights of a trained
    backbone would be pulled away from what they have learned.
    """
    parameters = network.layer_parameters()
    rows = [one for layer in network.head_layers for one in parameters[layer].values() if one.ndim > 1 and one.requires_grad]
    return torch.stack([one.abs().sum() for one in rows]).sum() if rows else torch.zeros(())
