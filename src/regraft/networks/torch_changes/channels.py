"""Other input channels: the first convolution's weights summed or repeated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import NetworkError
from ..parts.structure import prefixes
from ..torch_parts.plain import copied

__all__ = ["channel_rule", "first_convolution", "note_channel_count_", "with_other_channels"]

_CONVOLUTIONS = (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


def first_convolution(modules: Mapping[str, Module], order: Sequence[str], *, channels: int) -> str:
    """Return the name of the layer that reads the network's input channels.

    Args:
        modules: name -> module.
        order: names by the beginning of their first call.
        channels: of the input.

    Returns:
        The name of the first layer with weights that is called; containers that hold weights (a class token) are not layers.

    Raises:
        NetworkError: if that layer is no ungrouped convolution over so many channels.
    """
    weighted = [name for name in order if list(modules[name].parameters(recurse=False)) and not list(modules[name].children())]
    first = modules[weighted[0]] if weighted else None
    if isinstance(first, _CONVOLUTIONS) and first.groups == 1 and first.in_channels == channels:
        return weighted[0]
    received = f"'{weighted[0]}', a {type(first).__name__}" if weighted else "no layer with weights"
    raise NetworkError(f"channels= changes a convolution over the {channels} input channels; the network begins with {received}.")


def note_channel_count_(module: Module, name: str, *, old: int, new: int) -> None:
    """Let the modules of a `module` around the convolution `name`, and their config (Transformers), know its channels: `new` for `old`."""
    modules = dict(module.named_modules())
    for outer in (modules[prefix] for prefix in prefixes(name)[1:]):
        for holder in (outer, getattr(outer, "config", None)):
            if getattr(holder, "num_channels", None) == old:
                setattr(holder, "num_channels", new)  # noqa: B010  # a module's own attribute, unknown to its type


def channel_rule(old: int, new: int) -> str:
    """Return in words how weights over `old` channels become weights over `new` ones."""
    return f"summed over its {old} channels" if new == 1 else f"its {old} channels repeated in turn, scaled by {old}/{new}"


def with_other_channels(layer: Module, count: int) -> Module:
    """Return a copy of a convolution that reads `count` channels.

    One channel takes the sum of the old ones: the response to a grey picture is that to the same picture in every channel. Other
    counts take the old channels in turn, scaled so that the response keeps its size.

    Args:
        layer: a convolution, groups 1.
        count: of the new input.

    Returns:
        The convolution.
    """
    new: Any = copied(layer)
    weight = cast(Tensor, layer.weight).detach()
    old = weight.shape[1]
    changed = weight.sum(1, keepdim=True) if count == 1 else weight[:, torch.arange(count) % old] * (old / count)
    new.weight = Parameter(changed.contiguous())
    new.in_channels = count
    return cast(Module, new)
