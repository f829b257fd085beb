"""Read several modules of a network in one run, and pool what they give."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional

from ..contract import Inputs
from ..taps import GRID, STD_FLOOR, pools_at
from ..tracing import as_tensor

__all__ = ["Point", "Reached", "first_outputs", "pooled_by", "read_input", "read_point"]

_CONVOLVED = (
    *(torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d),
    *(torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.GroupNorm, torch.nn.InstanceNorm1d),
)
_WIDTHS = ("out_channels", "num_features", "num_channels", "out_features", "normalized_shape", "hidden_size")


class Reached(BaseException):
    """Ends a forward pass. Not an Exception, so that no layer turns it into another error."""


@dataclass(frozen=True)
class Point:
    """One place where a network is read.

    Attributes:
        block: the name of the block, or "input".
        module: the name of the module at its end; None for the network's input.
        pools: those that its values have.
        channels_last: whether the channels are the last axis, not the one after the items.
        items_second: whether the items are on the second axis (recurrent layers that begin with time).
        cells: places of "rows" and of "columns".
    """

    block: str
    module: str | None
    pools: tuple[str, ...]
    channels_last: bool
    items_second: bool
    cells: tuple[int, int] = (0, 0)

    def arranged(self, values: Tensor) -> Tensor:
        """Return values as (N, C) or (N, C, *positions), in float32 where they are of half precision."""
        whole = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        whole = whole.transpose(0, 1) if self.items_second else whole
        return whole.movedim(-1, 1) if self.channels_last and whole.ndim > 2 else whole

    def pooled(self, values: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Return each pool of the values, (N, width).

        Args:
            values: what the module gave.
            mask: (N, L), 0 where a position of a sequence is only filling; one of another length is not applied.
        """
        arranged = self.arranged(values)
        fits = mask is not None and arranged.ndim == 3 and mask.ndim == 2 and mask.shape[1] == arranged.shape[2]
        moments = _moments(arranged, mask if fits else None) if {"mean", "std"} & set(self.pools) else {}
        return [moments[pool] if pool in moments else pooled_by(arranged, pool, cells=self.cells) for pool in self.pools]


def _moments(values: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Return mean and standard deviation over the positions of values (N, C, *positions)."""
    flat = values.flatten(2)
    if mask is None:
        variance, mean = torch.var_mean(flat, 2, correction=0)
        return {"mean": mean, "std": (variance + STD_FLOOR).sqrt()}
    kept = mask[:, None].bool()
    count = kept.sum(2).clamp(min=1)
    mean = torch.where(kept, flat, 0).sum(2) / count
    variance = torch.where(kept, flat - mean[..., None], 0).square().sum(2) / count
    return {"mean": mean, "std": (variance + STD_FLOOR).sqrt()}


def pooled_by(values: Tensor, pool: str, *, cells: tuple[int, int]) -> Tensor:
    """Return one pool of values other than mean and standard deviation.

    Args:
        values: (N, C) for "vector", (N, C, L) for "token", (N, C, H, W) for "rows" and "columns".
        pool: its name.
        cells: places of rows and of columns; their means stand one cell after the other, the channels of a cell together.

    Returns:
        (N, width).
    """
    if pool == "vector":
        return values
    if pool == "token":
        return values[:, :, 0]
    line, count = (values.mean(3), cells[0]) if pool == "rows" else (values.mean(2), cells[1])
    return functional.adaptive_avg_pool1d(line, count).transpose(1, 2).flatten(1)


def first_outputs(network: Module, names: Sequence[str], run: Callable[[], Any], *, stops: bool) -> dict[str, Tensor | None]:
    """Run a network and return what its modules gave at their first calls, the tensor in it, by name.

    Args:
        network: any.
        names: of its modules.
        run: calls it.
        stops: whether the run ends as soon as all are there.
    """
    seen: dict[str, Tensor | None] = {}

    def keep(name: str) -> Callable[..., None]:
        def hook(_module: Module, _args: Any, output: Any) -> None:
            seen.setdefault(name, as_tensor(output))
            if stops and len(seen) == len(names):
                raise Reached

        return hook

    with ExitStack() as stack:
        for name in names:
            stack.callback(network.get_submodule(name).register_forward_hook(keep(name)).remove)
        with suppress(Reached):
            run()
    return seen


def read_input(inputs: Inputs) -> Tensor | None:
    """Return what a network takes, the first real numbers among named tensors; None for token ids."""
    named = inputs if isinstance(inputs, dict) else {"": inputs}
    real = [tensor for name, tensor in named.items() if tensor.is_floating_point() and "mask" not in name and name != "columns"]
    return real[0] if real else None


def read_point(block: str, module: str | None, pools: Sequence[str], *, two: Tensor | None, three: Tensor | None, parts: Sequence[Module]) -> Point | None:
    """Return how a place is read; None where it holds no real numbers for each item.

    Args:
        block: its name.
        module: the module at its end.
        pools: those asked for.
        two: what it gives for two items.
        three: what it gives for three.
        parts: the layers that made it, or, for the input, that read it; the last one that tells its width counts.
    """
    if two is None or three is None or not two.is_floating_point() or two.ndim != three.ndim or two.ndim < 2:
        return None
    items = [axis for axis, (less, more) in enumerate(zip(two.shape, three.shape, strict=True)) if (less, more) == (2, 3)]
    found = pools_at(pools, two.ndim)
    if not found or not items or items[0] > (1 if two.ndim == 3 else 0):
        return None
    second = items[0] == 1
    last = _channels_last(two.transpose(0, 1) if second else two, parts)
    point = Point(block, module, found, last, second)
    arranged = point.arranged(two)
    sizes = [min(GRID, size) for size in arranged.shape[2:]] if arranged.ndim == 4 else [0, 0]
    return Point(block, module, found, last, second, (sizes[0], sizes[1]))


def _channels_last(values: Tensor, parts: Sequence[Module]) -> bool:
    """Tell whether the channels of values are their last axis: by the width of the last layer that has one, else by their rank."""
    known = [(part, width) for part in parts for width in [_width(part)] if width]
    layer, width = known[-1] if known else (None, 0)
    second, last = values.shape[1] == width, values.shape[-1] == width
    if second != last:
        return last
    return values.ndim == 3 and not isinstance(layer, _CONVOLVED)


def _width(layer: Module) -> int:
    """Return the number of channels that a layer gives, 0 where it does not tell."""
    for name in _WIDTHS:
        size = getattr(layer, name, None)
        size = size[-1] if isinstance(size, tuple) and size else size
        if isinstance(size, int):
            return 2 * size if name == "hidden_size" and getattr(layer, "bidirectional", False) else size
    return 0
