"""Operations on a private copy of a module: each returns the changed module, or ends in `_` and changes it in place."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import Identity, Linear, Module, Sequential

from ..contract import Block, Head
from ..structure import below, prefixes
from .rows import like, put_, set_submodule_
from .wrappers import AttachedHead, BranchedNetwork, EndedNetwork, Join, JoinedNetwork, StackedHead, branch_name, inner_networks

__all__ = ["attached", "branched", "ended", "joined", "note_class_count_", "resize_", "stacked"]


def _rows(head: Head) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.asarray(head.weight, np.float32)), torch.from_numpy(np.asarray(head.bias, np.float32))


def _device(module: Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def resize_(module: Module, layer: str, *, head: Head) -> None:
    """Put a layer with the rows of `head` in the place of a row layer of the module."""
    weight, bias = _rows(head)
    set_submodule_(module, layer, module=like(module.get_submodule(layer), weight, bias, parts=head.parts))


def note_class_count_(module: Module, count: int) -> None:
    """Keep the class count that some libraries store in a module beside its head (timm: num_classes; Transformers: config.num_labels)."""
    for owner in inner_networks(module):
        config = getattr(owner, "config", None)
        for holder, name in ((owner, "num_classes"), (owner, "num_labels"), (config, "num_labels")):
            if isinstance(getattr(holder, name, None), int):
                setattr(holder, name, count)


def attached(module: Module, head: Head) -> AttachedHead:
    """Return a module without a head with one on its pooled output; its layer is called "head"."""
    weight, bias = _rows(head)
    whole = AttachedHead(module, head.features, classes=len(weight)).to(_device(module))
    put_(whole.head, weight, bias=bias)
    return whole.train(module.training)


def branched(module: Module, tapped: Head, *, head: Head, chosen: bool) -> tuple[BranchedNetwork, str]:
    """Return a module with a further head, and the name of its layer.

    Args:
        module: with a head, and perhaps with branches.
        tapped: its first head, whose input the branch reads.
        head: the rows of the branch.
        chosen: whether what follows the first head also chooses what the branch reads.
    """
    whole = module if isinstance(module, BranchedNetwork) else BranchedNetwork(module, tapped.layer, task=tapped.task, chosen=chosen)
    weight, bias = _rows(head)
    name = branch_name(head.task, list(whole.branches))
    layer = Linear(weight.shape[1], len(weight)).to(_device(module))
    put_(layer, weight, bias=bias)
    whole.branches[name] = layer
    return whole.train(module.training), f"branches.{name}"


def stacked(module: Module, tapped: str, *, head: Head, activation: str) -> StackedHead:
    """Return a module with a new head on its activated raw scores; its layer is called "head".

    Args:
        module: with a head.
        tapped: name of the layer whose averaged output are the raw scores, or "" where the module's own result is.
        head: rows (M, C).
        activation: "relu", "linear" or "softmax".
    """
    weight, bias = _rows(head)
    whole = StackedHead(module, tapped, activation=activation, sizes=(head.features, len(weight))).to(_device(module))
    put_(whole.head, weight, bias=bias)
    return whole.train(module.training)


def joined(module: Module, layer: str, *, head: Head, count: int) -> JoinedNetwork:
    """Return a module whose head also reads numbers, and is now called "LAYER.linear".

    Args:
        module: with a head.
        layer: its name.
        head: the wide rows (C, d + count).
        count: of the numbers.
    """
    weight, bias = _rows(head)
    wide = like(module.get_submodule(layer), weight, bias, parts=head.parts)
    parts: OrderedDict[str, Module] = OrderedDict(join=Join(head.features - count), linear=wide)
    set_submodule_(module, layer, module=Sequential(parts))
    return JoinedNetwork(module, f"{layer}.join").train(module.training)


def ended(module: Module, block: Block, *, layers: Sequence[str], order: Sequence[str]) -> EndedNetwork:
    """Return a module that ends at the output of a block; what runs only later is taken out of it.

    Args:
        module: the whole network.
        block: the last one to keep.
        layers: names of all layers in the order of execution.
        order: names of all modules that were called, by the beginning of their first call.
    """
    modules: Mapping[str, Module] = dict(module.named_modules())
    inside = set(block.layers)
    later = layers[max(layers.index(name) for name in inside) + 1 :]
    outside = {outer for name in layers if name not in inside for outer in prefixes(name)}
    last = next(name for name in reversed(order) if name in inside)
    end = next(outer for outer in reversed(prefixes(last)) if outer not in outside and outer in modules)
    gone = [name for name in later if name in order and not any(below(other, name) for other in inside)]
    for name in gone:
        if not any(below(name, other) for other in gone if other != name):
            set_submodule_(module, name, module=Identity())
    return EndedNetwork(module, end).train(module.training)
