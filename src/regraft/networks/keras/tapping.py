"""Make the pooled outputs of several blocks the only output of a Keras model: in its graph, or by hooks without one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..editing.taps import Point, read_input, read_points, run_reading
from ..parts.taps import GRID, STD_FLOOR, Tap, grid_shares, nothing_left, pools_at
from .body import KerasBody
from .heads import channels_last
from .library import keras
from .opened import end_of, last_called, named, opened
from .running import called
from .structure import READ, TAPS, is_tap, named_modules

__all__ = ["become_", "read_at", "tapped"]


def tapped(model: Any, points: Sequence[Tap], *, layers: Mapping[str, Sequence[Any]]) -> Any:
    """Return a model whose only output is the concatenated pooled outputs of several blocks, (N, D).

    The pooling consists of operations, not layers, so that it is on the same side of the freeze boundary as its block.
    """
    graph = opened(model, *map(last_called, layers.values()))
    for step in graph.steps:  # rename existing taps, so that the names are free for the new ones
        if is_tap(step.operation):
            step.operation.name = f"{TAPS}_before.{step.operation.name}"
    entry = next((tensor for tensor in keras.tree.flatten(graph.inputs) if "float" in tensor.dtype), None)
    parts = []
    for tap in points:
        own = layers.get(tap.block, ())
        parts += _pools(end_of(graph, own) if own else entry, tap, channels_first=not all(map(channels_last, own)))
    if not parts:
        raise nothing_left(points)
    return graph.model(named(TAPS, keras.ops.concatenate(parts, axis=1)))


def _pools(values: Any, tap: Tap, *, channels_first: bool) -> list[Any]:
    """Return the pools of a symbolic tensor, each named after pool and block; empty if it is None or not floating-point."""
    if values is None or "float" not in values.dtype or len(values.shape) < 2:
        return []
    mask = getattr(values, "_keras_mask", None) if len(values.shape) == 3 else None
    if mask is not None:
        mask = named(f"{TAPS}_mask.{tap.block}", keras.ops.expand_dims(mask, -1))
    wide = "float64" if values.dtype == "float64" else "float32"
    values = named(f"{TAPS}_values.{tap.block}", keras.ops.cast(values, wide))
    if channels_first and len(values.shape) > 2:
        values = named(f"{TAPS}_last.{tap.block}", keras.ops.moveaxis(values, 1, -1))
    parts = {pool: _pooled(values, pool, mask=mask) for pool in pools_at(tap.pools, len(values.shape))}
    for pool, part in parts.items():
        _name_steps_(part, f"{TAPS}_{pool}.{tap.block}")
    return list(parts.values())


def _pooled(values: Any, pool: str, *, mask: Any) -> Any:
    """Return one pool of values (N, *positions, C) as (N, width)."""
    ops, channels = keras.ops, values.shape[-1]
    if pool == "token":
        return ops.take(values, 0, axis=1)
    if pool in {"mean", "std"} and mask is None:
        positions = tuple(range(1, len(values.shape) - 1))
        return ops.mean(values, axis=positions) if pool == "mean" else ops.sqrt(ops.var(values, axis=positions) + STD_FLOOR)
    if pool in {"mean", "std"}:  # over the positions that a mask (N, L, 1) keeps

        def mean(values: Any) -> Any:
            return ops.sum(ops.where(mask, values, 0.0), axis=1) / ops.maximum(ops.sum(ops.cast(mask, values.dtype), axis=1), 1.0)

        return mean(values) if pool == "mean" else ops.sqrt(mean(ops.square(values - ops.expand_dims(mean(values), 1))) + STD_FLOOR)
    if pool in {"rows", "columns"}:
        values = _on_grid(ops.mean(values, axis=2 if pool == "rows" else 1))
        channels *= values.shape[1]
    return ops.reshape(values, (-1, channels))


def _on_grid(line: Any) -> Any:
    """Return the means of a line (N, L, C) over at most `GRID` cells, as in adaptive average pooling."""
    size = line.shape[1]
    if size is None:
        return keras.ops.adaptive_average_pool(line, GRID, data_format="channels_last")
    cells = min(GRID, size)
    return line if cells == size else keras.ops.matmul(grid_shares(size, cells), line)  # Keras before 3.13 has no adaptive pooling


def _name_steps_(tensor: Any, name: str) -> None:
    """Name the operation that made a tensor. Number those before it, back to the last one with a tap name."""
    waiting, count = [tensor], 0
    while waiting:
        operation, node, _ = waiting.pop()._keras_history
        if not is_tap(operation):
            operation.name = f"{name}.{count}" if count else name
            count += 1
            waiting += operation._inbound_nodes[node].input_tensors


def read_at(body: KerasBody, points: Sequence[Tap], *, ends: Mapping[str, str]) -> None:
    """Let a model return the concatenated pooled outputs of some of its layers, (N, D), instead of its own result.

    The model gets a subclass of its class, so that layer and weight names stay. `ends` maps the called blocks to their last layers.
    """
    modules, model = body.modules(), body.module

    def hint(tap: Tap, values: Tensor | None) -> tuple[int, bool]:
        last = tap.block not in ends or channels_last(modules[ends[tap.block]])
        return 0 if values is None else values.shape[-1 if last else 1], not last

    run = partial(called, model, training=False)
    found = tuple(read_points(points, ends, modules=modules, sample=body.sample, run=run, hint=hint))

    def result(seen: Mapping[str | None, Any]) -> Tensor:
        pools = [point.pooled(seen[point.module], getattr(seen[point.module], "_keras_mask", None)) for point in found]
        return torch.cat([part for own in pools for part in own], 1)

    become_(model, [point.module for point in found if point.module is not None], found=found, result=result)


def become_(model: Any, ends: Sequence[str], *, found: tuple[Point, ...], result: Callable[[Mapping[str | None, Any]], Any]) -> None:
    """Let a model, a private copy, return a `result` of its input (None) and the outputs of the layers `ends` in place of its own."""
    kind = type(model)

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        seen: dict[str | None, Any] = {None: read_input(args[0] if args else next(iter(kwargs.values())))}
        modules = named_modules(self)
        run_reading({name: modules[name] for name in ends}, run=lambda: kind.call(self, *args, **kwargs), keep=seen.__setitem__, stops=True)
        return result(seen)

    model.__class__ = type(kind.__name__, (kind,), {"call": call, READ: found, "__module__": kind.__module__})
