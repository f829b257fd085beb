"""Dropout on the heads' inputs, and an L1 penalty on their class weights; both in training steps only."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional

from ..networks.network import Network


@contextmanager
def dropped(network: Network, share: float) -> Iterator[None]:
    """Apply dropout to the heads' inputs while the context lasts. `share`: dropout rate.
    All heads of a forward pass share one mask: a branch may read the input of the first head, and dropout must not apply twice.
    Source: Srivastava et al., JMLR 15 (2014), section 4, with the scaling in training."""
    if not share:
        yield
        return
    modules = network.modules()
    drop = _HeadDropout(share)
    with ExitStack() as stack:
        stack.callback(network.module.register_forward_pre_hook(drop.began).remove)
        stack.callback(network.module.register_forward_hook(drop.ended).remove)
        for layer in network.head_layers:
            stack.callback(modules[layer].register_forward_pre_hook(drop.read, with_kwargs=True).remove)
        yield


class _HeadDropout:
    """Hooks of one training step: on the heads, and on the network, because heads can also be called without it.
    `given`: input of the first head in this forward pass, before and after dropout."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.inside = False
        self.given: tuple[Tensor, Tensor] | None = None

    def began(self, *_call: Any) -> None:
        """Record that a forward pass starts."""
        self.inside, self.given = True, None

    def ended(self, *_call: Any) -> None:
        """Record that a forward pass ends."""
        self.inside, self.given = False, None

    def read(self, _module: Module, *call: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the arguments of a head after dropout. `call`: positional and keyword arguments."""
        args, kwargs = call
        named = [*zip(range(len(args)), args, strict=True), *kwargs.items()]
        place, values = named[0]
        if self.given is not None and values is not self.given[0] and self.inside:
            return args, kwargs  # computed from the dropped input of another head
        if self.given is None or values is not self.given[0]:
            self.given = (values, functional.dropout(values, self.share))
        made = dict(named) | {place: self.given[1]}
        return tuple(made[at] for at in range(len(args))), {name: made[name] for name in kwargs}


def l1_norm(network: Network) -> Tensor:
    """Return the L1 norm of the heads' trained weights, without biases, as a scalar with gradient.
    The penalty leaves each class few features. It applies to the heads only: it would pull a pretrained backbone away from its weights.
    Source: Tibshirani, JRSS B 58 (1996), equation 1."""
    parameters = network.layer_parameters()
    rows = [one for layer in network.head_layers for one in parameters[layer].values() if one.ndim > 1 and one.requires_grad]
    return torch.stack([one.abs().sum() for one in rows]).sum() if rows else torch.zeros(())
