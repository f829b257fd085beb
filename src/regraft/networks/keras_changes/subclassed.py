"""Keras models without a graph: read by hooks, as PyTorch modules are, since nothing else tells which layer follows which."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from ..keras_parts.heads import channels_last
from ..keras_parts.samples import called
from ..keras_parts.structure import READ, named_modules
from ..parts.layers import Block, Layer
from ..parts.protocols import Inputs
from ..parts.structure import below, prefixes
from ..parts.taps import INPUT, Tap, nothing_left
from ..samples import three_items
from ..torch_parts.taps import Point, Reached, ended_by, read_input, read_point
from ..tracing import as_tensor

__all__ = ["end_layer", "ended_at", "read_at"]


def end_layer(block: Block, layers: Sequence[Layer], *, called_ones: Sequence[str]) -> str | None:
    """Return the name of the largest layer that ends with a block and holds no layer outside it; None where none of it is called.

    Args:
        block: of a model without a graph.
        layers: all of the model, in the order of execution.
        called_ones: names of all layers and containers that a run calls.
    """
    last = next((name for name in reversed(block.layers) if name in called_ones), None)
    outside = [layer.name for layer in layers if layer.name not in block.layers]
    whole = [outer for outer in prefixes(last)[:-1] if outer in called_ones] if last else []
    return next((outer for outer in reversed(whole) if not any(below(name, outer) for name in outside)), None)


def read_at(model: Any, points: Sequence[Tap], *, ends: Mapping[str, str], sample: Inputs) -> None:
    """Let a model return the pooled outputs of some of its layers side by side, (N, D), in place of its own result.

    Its class becomes one of its own, made of the old one: the names of layers and weights stay.

    Args:
        model: a private copy; its class is replaced by one made of it.
        points: the blocks, or the input, and how each is pooled.
        ends: the name of the last layer of each block that is called.
        sample: two examples.

    Raises:
        NetworkError: if nothing of the points can be read.
    """
    modules, runs = named_modules(model), []
    for batch in (sample, three_items(sample)):
        seen: dict[str, Tensor | None] = {INPUT: read_input(batch)}
        with torch.no_grad(), _reading(modules, ends, seen=seen):
            called(model, batch, training=False)
        runs.append(seen)
    found = []
    for tap in points:
        two, three, end = runs[0].get(tap.block), runs[1].get(tap.block), modules.get(ends.get(tap.block, ""))
        last = end is None or channels_last(end)
        width = 0 if two is None else two.shape[-1 if last else 1]
        point = read_point(tap, ends.get(tap.block), two=two, three=three, hint=(width, not last))
        found += [] if point is None else [point]
    if not found:
        raise nothing_left(points)
    kept = {point.block: point.module for point in found if point.module is not None}
    _become_(model, kept, found=tuple(found), result=lambda seen: torch.cat([part for point in found for part in _pooled(point, seen)], 1))


def ended_at(model: Any, name: str) -> None:
    """Let a model, a private copy, return what its layer of that `name` gives, in place of its own result."""
    _become_(model, {"": name}, found=(), result=lambda seen: seen[""])


def _pooled(point: Point, seen: Mapping[str, Any]) -> list[Tensor]:
    values = seen[point.block]
    return point.pooled(values, getattr(values, "_keras_mask", None))


def _become_(model: Any, ends: Mapping[str, str], *, found: tuple[Point, ...], result: Callable[[Mapping[str, Any]], Any]) -> None:
    kind = type(model)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen: dict[str, Any] = {INPUT: read_input(args[0] if args else next(iter(kwargs.values())))}
        with _reading(named_modules(self), ends, seen=seen):
            kind.call(self, *args, **kwargs)
        return result(seen)

    model.__class__ = type(kind.__name__, (kind,), {"call": call, READ: found, "__module__": kind.__module__})


@contextmanager
def _reading(modules: Mapping[str, Any], ends: Mapping[str, str], *, seen: dict[str, Any]) -> Iterator[None]:
    """Note what layers give at their first calls while the context lasts; the run ends with the last of them."""
    missing, end = dict.fromkeys(ends), Reached()

    def reader(block: str) -> Callable[..., None]:
        def hook(_layer: Any, _args: Any, output: Any) -> None:
            if missing.pop(block, 0) is None:
                seen[block] = as_tensor(output)
            if not missing:
                raise end

        return hook

    with ExitStack() as stack:
        for block, name in ends.items():
            stack.callback(modules[name].register_forward_hook(reader(block)).remove)
        with ended_by(end):
            yield
