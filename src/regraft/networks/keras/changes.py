"""Edits that make another Keras network: new heads, branches, stacked layers, other inputs, taps at several depths, or an earlier end.

Each function takes a private copy and returns the changed body, a model built from the copy's layers. `editing` has already made the
checks that all families share.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial, wraps
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NetworkError
from ...words import counted
from ..account import Account
from ..editing.sums import carried_rows, joined_rows, summed_layers
from ..editing.taps import Point, block_end_of, block_ends, first_outputs, pooled_points, read_points
from ..edits import Channels, Columns, Cut, Rows, Stack, Taps
from ..family import EditTable
from ..parts.head import Head, HeadLocation
from ..parts.protocols import by_name
from ..parts.structure import numbered, prefixes
from ..parts.taps import GRID, INPUT, STD_FLOOR, Tap, grid_shares, nothing_left, pools_at
from ..samples import sample_of
from ..tracing import as_tensor, head_reading, in_columns, trace
from .adjusting import INSIDE
from .body import KerasBody
from .clone import cloned
from .flat_graph import Rewiring, end_of, last_called, mapped, named, named_inputs, opened
from .heads import channels_last, found_beside, is_wide, outputs_of, plain_rows, rows_of
from .library import keras
from .running import by_number, called, sample_for, shapes_of
from .sizes import put_rows_, rechannel_, resize_
from .structure import CODES, READ, TAPS, graph_of, is_tap, named_modules

# ── heads ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _pool(rank: int, name: str, *, like: Any = None) -> list[Any]:
    """Return a list with the layer that averages a tensor of `rank` axes over its positions; empty without positions.
    One number for each example, (N,), becomes (N, 1)."""
    if rank == 1:
        return [keras.layers.Reshape((1,), name=f"{name}_pool")]
    pool = getattr(keras.layers, f"GlobalAveragePooling{rank - 2}D", None)
    layout = "channels_last" if like is None or channels_last(like) else "channels_first"
    return [] if pool is None else [pool(name=f"{name}_pool", data_format=layout)]


def _run(steps: Sequence[Any], tensor: Any, *, head: Head, layer: Any = None) -> Any:
    """Apply layers to a symbolic tensor. The given `layer`, or else the last one, gets the class weights of `head`."""
    for step in steps:
        tensor = step(tensor)
    put_rows_(layer or steps[-1], head)
    return tensor


def _dense(name: str, head: Head) -> Any:
    return keras.layers.Dense(len(head.in_layer().weight), activation=head.activation, name=name)


def _with_head(twin: KerasBody, _edit: Rows, *, head: Head, **_: Any) -> KerasBody:
    """Give the head of its task these class weights. Without a head, attach one to the pooled output; add a further task as a branch."""
    if not twin.found:
        return _with_first_head(twin, head)
    if head.task in twin.found:
        return _with_rows(twin, head)
    model, layer = twin.module, twin.by_name[twin.first.layer]
    graph = opened(model, layer)
    features = graph.node(layer).input_tensors[0]
    name = graph.free_name(head.task)
    pool = _pool(len(features.shape), name, like=layer)
    if is_wide(layer):
        new = layer.from_config(layer.get_config() | {"name": name, "filters": len(head.in_layer().weight), "activation": "linear"})
        steps = [new, *pool, keras.layers.Activation(head.activation)]
    else:
        new = _dense(name, head)
        steps = [*pool, new]
    output = _run(steps, features, head=head, layer=new)
    return twin.anew(graph.with_outputs({head.task: output}), {**twin.placed(), head.task: (head, HeadLocation(name, head.activation))})


def _with_rows(twin: KerasBody, head: Head) -> KerasBody:
    """Replace the class weights of a head; their number may change. Raise if the copy does not then give one logit per class."""
    found, count = twin.found[head.task], len(twin.head.weight)
    first = found is twin.first
    others = [twin.by_name[other.layer] for other in twin.found.values() if other is not found]
    old = twin.heads[head.task]
    for name in found.beside:
        weight, bias = carried_rows(rows_of(twin.by_name[name]), old=old, new=head)
        put_rows_(twin.by_name[name], replace(head, weight=weight, bias=bias))
    beside = [twin.by_name[name] for name in found.beside]
    resize_(twin.module, twin.by_name[found.layer], head=head, activation=found.activation, others=others if first else None, beside=beside)
    twin.found = {**twin.found, head.task: replace(found, activation=head.activation)}
    if first and len(head.weight) != count:
        twin.heads = {task: known for task, known in twin.heads.items() if known.groups is None}
    twin.note_rows_(head)
    if graph_of(twin.module) is not None and not found.whole:
        return twin  # recomputing the symbolic shapes behind the head was the check
    width = twin.scores_of_run(twin.sample_run)[head.task].shape[-1]
    if width != len(head.in_layer().weight):
        raise NetworkError(
            f"The changed network gives {width} logits for {counted(len(head.in_layer().weight), 'class')}: a step after the head fixes "
            "their number. Make the model with the new number of classes in code and load its weights with weights=."
        )
    return twin


def _ends(body: KerasBody) -> tuple[Any, Any]:
    """Return the symbolic inputs of a model and its result for them; a model without a graph is called as a whole, on inputs like the
    sample."""
    if graph_of(body.module) is not None:
        return body.module.input, body.module.output
    made = {
        name: keras.Input(tuple(tensor.shape[1:]), dtype=str(tensor.dtype).split(".")[-1], name=name or None)
        for name, tensor in by_name(body.sample).items()
    }
    entry = made if isinstance(body.sample, dict) else made[""]
    return entry, called(body.module, entry, training=None)


def _with_first_head(twin: KerasBody, head: Head) -> KerasBody:
    model = twin.module
    with torch.no_grad():
        result = cast(Tensor, as_tensor(called(model, twin.sample, training=False)))
    width = in_columns(result).shape[-1]
    if width != head.features:
        given = f"The class weights have {counted(head.features, 'feature')}; the network's output has {width}."
        raise NetworkError(f"{given} Give weights of that length.")
    taken = {layer.name for layer in model._flatten_layers()}
    name = next(one for one in numbered("head") if not {one, f"{one}_pool"} & taken)  # fixed: it is part of a cache's identity
    steps = [*_pool(result.ndim, name), _dense(name, head)]
    if isinstance(model, keras.Sequential):
        vars(model)["_tracker"].unlock()  # over the limit: Keras's name; the tracker of a quantised network is locked
        for step in steps:
            model.add(step)
        put_rows_(steps[-1], head)
    else:
        entry, end = _ends(twin)
        own = None if graph_of(model) is None else model.name
        model = keras.Model(entry, _run(steps, keras.tree.flatten(end)[0], head=head), name=own)
    return twin.anew(model, {head.task: (head, HeadLocation(name, head.activation))})


def _with_stack(twin: KerasBody, edit: Stack, *, head: Head, **_: Any) -> KerasBody:
    """Let a new head, the only output, read the activated logits of the first head."""
    task, first = twin.head.task, twin.found[twin.head.task]
    model, layer, output = twin.module, twin.by_name[first.layer], first.output if first.whole else None
    if graph_of(model) is None:
        with torch.no_grad():
            scores = twin.scores_of_run(twin.sample_run)[task]
            layer.activation, output = keras.activations.linear, 0
            result = as_tensor(called(model, twin.sample, training=False))
        if result is None or result.shape != scores.shape or not torch.allclose(result, scores, rtol=1e-4, atol=1e-5):
            raise NetworkError(
                f"{type(model).__name__} '{model.name}' has no graph, and its result is not the logits of its head; expected a "
                "functional or Sequential model. Put the new layer into the class's own code and load its weights with weights=."
            )
        model = keras.Model(*_ends(twin))
    graph = opened(model, layer if output is None else None)
    name = graph.free_name("head")
    scores = graph.node(layer).outputs[0] if output is None else keras.tree.flatten(graph.outputs)[output]
    plain = output is None and len(scores.shape) == 2
    layer.activation = keras.activations.get(edit.between if plain else "linear")
    activation = keras.layers.Activation(edit.between, name=f"{name}_activation")
    between = [] if plain else [*_pool(len(scores.shape), name, like=layer), activation]
    dropout = [keras.layers.Dropout(edit.dropout)] if edit.dropout else []
    result = _run([*between, *dropout, _dense(name, head)], scores, head=head)
    return twin.anew(graph.model(result), {task: (replace(head, task=task), HeadLocation(name, head.activation))})


def _columns(twin: KerasBody, edit: Columns, **_: Any) -> KerasBody:
    """Let the only head, a Dense layer, also read a further input "columns", with zero weights."""
    layer = cast(Any, twin.by_name[twin.first.layer])
    if not isinstance(layer, keras.layers.Dense):
        raise NetworkError(f"The head '{twin.first.layer}' is a {type(layer).__name__}, which reads maps; columns need a Dense head.")
    graph = opened(twin.module, layer)
    node = graph.node(layer)
    features = node.input_tensors[0]
    if len(features.shape) != 2 or sum(step.operation is layer for step in graph.steps) != 1:
        received = f"reads values of shape {tuple(features.shape)}" if len(features.shape) != 2 else "is called more than once"
        raise NetworkError(f"The head '{layer.name}' {received}; columns are joined to one vector of features for each example, (N, d).")
    inputs = named_inputs(graph, "columns")
    columns = keras.Input((edit.count,), name="columns", dtype=features.dtype)
    joined = keras.layers.Concatenate(name=f"{graph.free_name('columns')}_joined")([features, columns])
    weight, bias = rows_of(layer)
    wider = np.concatenate([weight, np.zeros((len(weight), edit.count), np.float32)], 1)
    put_rows_(layer, HeadLocation(layer.name, "linear").head(wider, bias, task="main"))
    known = dict[int, Any]()
    Rewiring(behind={id(layer): lambda _values, _code: layer(joined)}).run_(graph.steps, known)
    whole = graph.model(mapped(graph.outputs, known), inputs={**inputs, "columns": columns})
    twin.anew(whole, sample={**by_name(twin.sample, "inputs"), "columns": sample_of((edit.count,))})
    twin.refresh_heads_()
    return twin


# ── an earlier end, several depths ───────────────────────────────────────────────────────────────────────────────────────


def _in_graph(body: KerasBody, layers: Sequence[str]) -> list[Any]:
    """Return layers of a model with a graph; in place of one inside a layer of the user the latter, which a graph calls as a whole."""
    own = ([body.by_name[name] for name in reversed(prefixes(layer)) if name] for layer in layers)  # from the outermost container on
    return [next((one for one in around if graph_of(one) is None), around[-1]) for around in own]


def _ended(twin: KerasBody, edit: Cut, **_: Any) -> KerasBody:
    """End the network at a block; its output is no head, also if the block was one."""
    found = next(one for one in twin.blocks if one.name == edit.block)
    if graph_of(twin.module) is None:
        end = block_end_of(twin, found, order=trace(twin.modules(), twin.sample_run).order)
        _become_(twin.module, [end], found=(), made=lambda read, **how: first_outputs(read, **how, stops=True)[end])
        return _without_codes(twin.anew(twin.module, {}))
    layers = _in_graph(twin, found.layers)
    graph = opened(twin.module, last_called(layers))
    whole = graph.model(end_of(graph, layers))
    return _without_codes(twin.anew(whole, {}))


def _tapped(twin: KerasBody, edit: Taps, **_: Any) -> KerasBody:
    taps = edit.points
    if graph_of(twin.module) is None:
        whole, wanted = twin.module, {tap.block for tap in taps}
        order = trace(twin.modules(), twin.sample_run).order
        _read_at_(twin, taps, ends=block_ends(twin, [block for block in twin.blocks if block.name in wanted], order=order))
    else:
        whole = _tapped_graph(twin, taps)
    return _without_codes(twin.anew(whole, {}))


def _tapped_graph(body: KerasBody, points: Sequence[Tap]) -> Any:
    """Return a model whose only output is the concatenated pooled outputs of several blocks, (N, D).
    The pooling consists of operations, not layers, so that it is on the same side of the freeze boundary as its block."""
    members = {block.name: block.layers for block in body.blocks if block.name != INPUT}
    layers = {tap.block: _in_graph(body, members[tap.block]) for tap in points if tap.block in members}
    graph = opened(body.module, *map(last_called, layers.values()))
    for step in graph.steps:  # rename existing taps, so that the names are free for the new ones
        if is_tap(step.operation):
            step.operation.name = f"{TAPS}_before.{step.operation.name}"
    entry = next((tensor for tensor in keras.tree.flatten(graph.inputs) if "float" in tensor.dtype), None)
    parts = []
    for tap in points:
        own = layers.get(tap.block, ())
        first = not all(channels_last(body.by_name[name]) for name in members.get(tap.block, ()))
        parts += _pools(end_of(graph, own) if own else entry, tap, channels_first=first)
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


def _read_at_(body: KerasBody, points: Sequence[Tap], *, ends: Mapping[str, str]) -> None:
    """Let a model return the concatenated pooled outputs of some of its layers, (N, D), instead of its own result.
    The model gets a subclass of its class, so that layer and weight names stay. `ends` maps the called blocks to their last layers."""
    modules, model = body.modules(), body.module

    def hint(tap: Tap, values: Tensor | None) -> tuple[int, bool]:
        last = tap.block not in ends or channels_last(modules[ends[tap.block]])
        return 0 if values is None else values.shape[-1 if last else 1], not last

    run = partial(called, model, training=False)
    found = tuple(read_points(points, ends, modules=modules, sample=body.sample, run=run, hint=hint))

    def made(read: Mapping[str, Any], **how: Any) -> Tensor:
        return pooled_points(found, read, **how, mask=lambda values, *_: getattr(values, "_keras_mask", None), stops=True)

    _become_(model, [point.module for point in found if point.module is not None], found=found, made=made)


def _become_(model: Any, ends: Sequence[str], *, found: tuple[Point, ...], made: Callable[..., Any]) -> None:
    """Let a model, a private copy, return what is `made` of its layers `ends` by name; `given` is a batch and `run` runs it."""
    kind = type(model)

    @wraps(kind.call)
    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        modules, given = named_modules(self), args[0] if args else {name: one for name, one in kwargs.items() if isinstance(one, Tensor)}
        given = by_number(given) if isinstance(given, list | tuple) else given
        return made({name: modules[name] for name in ends}, given=given, run=partial(kind.call, self, *args, **kwargs))

    model.__class__ = type(kind.__name__, (kind,), {"call": call, READ: found, "__module__": kind.__module__})


def _without_codes(twin: KerasBody) -> KerasBody:
    """Return a shortened network. It keeps its conditions only if the table of codes remains."""
    twin.coding = twin.coding if CODES in twin.by_name else None
    return twin


# ── channels ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _channels(twin: KerasBody, edit: Channels, **_: Any) -> KerasBody:
    """Let the network take examples with another number of channels.
    Per-channel numbers before the first convolution (Normalization, Rescaling) are averaged or repeated."""
    weighted = [layer.name for layer in twin.layers if layer.parameters and not layer.kind.endswith("Normalization")]
    before, count = twin.sample, edit.count
    changed, old = rechannel_(twin.module, count, first=twin.by_name[weighted[0]] if weighted else None)
    shape = shapes_of(twin.module).get("inputs")
    if shape is not None and isinstance(before, Tensor):
        twin.input_shape = tuple(shape)
        shape = [now or was for now, was in zip(shape, before.shape[1:], strict=True)]
    twin.sample = sample_for(twin.module, shape)
    names = [name for name, layer in twin.by_name.items() if any(layer is other for other in changed)]
    twin.recount_(names)
    if names:
        rule = f"summed over the {counted(old, 'old channel')}" if count == 1 else f"repeated in turn, scaled by {old}/{count}"
        note = f"the network takes {counted(count, 'channel')} in place of {old}: the weights of its first convolution were {rule}"
        twin.account = Account({"reshaped": names}, notes=(note,))
    return twin


# ── when a model is opened, and when it is exported ──────────────────────────────────────────────────────────────────────


def with_one_output(body: KerasBody) -> KerasBody:
    """Return the body with only the output of its head. The caller gives the body up. A model without a graph stays whole."""
    graph = graph_of(body.module)
    if graph is None or len(graph.outputs) == 1:
        return body
    model = opened(body.module).model(graph.outputs[body.first.output])
    return body.anew(model, {body.head.task: (body.head, replace(body.first, output=0))})


def with_joined_heads(body: KerasBody) -> KerasBody:
    """Replace a sum of Dense layers that read vectors with one layer over their concatenated inputs. The caller gives the body up.
    The result is equal up to rounding: sum of s_i (W_i x_i + b_i) = [s_1 W_1, s_2 W_2, …] [x_1, x_2, …] + sum of s_i b_i."""
    if body.found or graph_of(body.module) is None or isinstance(body.sample, dict):
        return body
    modules = body.by_name
    seen = trace(modules, body.sample_run)
    names = plain_rows(seen)
    if seen.main is None or seen.main.ndim != 2 or len(names) < 2:
        return body
    vectors = [name for name in names if seen.inputs[name].ndim == 2]
    found = summed_layers(seen, vectors)
    if found is None:
        more = found_beside(None, seen)
        if more is not None:
            body.found, body.heads = {"main": more}, {"main": more.head(*rows_of(modules[more.layer]), task="main")}
            body.note_apart_()
        return body
    shares, activation = found
    layers = [modules[name] for name, _ in shares]
    graph = opened(body.module, *layers)
    weight, bias = joined_rows([rows_of(layer) for layer in layers], [share for _, share in shares])
    read = [graph.node(layer).input_tensors[0] for layer in layers]
    features = keras.layers.Concatenate(name=graph.free_name("heads_joined"))(read)
    one = HeadLocation(graph.free_name("head"), activation)
    head = one.head(weight, bias, task="main")
    output = _run([keras.layers.Dense(len(weight), activation=activation, name=one.layer)], features, head=head)
    twin = body.anew(graph.model(output), {"main": (head, one)})
    twin.refresh_heads_()
    summands = ", ".join(f"{share:g} × {name!r}" for name, share in shares)
    note = f"the result is a sum of layers, {summands}: they became one layer, {one.layer!r}, which reads what they read side by side"
    twin.account = Account(notes=(note,))
    return twin


def with_groups(body: KerasBody) -> Any:
    """Return the module of a body. With derived heads, return a copy with their summed probabilities as further outputs."""
    derived = [head for head in body.heads.values() if head.groups is not None]
    if not derived or graph_of(body.module) is None:
        return body.module
    with torch.no_grad():
        result = outputs_of(body.sample_run())[body.first.output]
        scores = body.scores_of_run(body.sample_run)[body.head.task]
    reading = head_reading(scores, result, channels_last=True)
    if reading not in {"linear", "softmax", "log_softmax"}:
        return body.module
    whole = opened(cloned(body.module))
    probabilities = keras.tree.flatten(whole.outputs)[body.first.output]
    if reading == "linear":
        probabilities = named("probabilities", keras.ops.softmax(probabilities))
    elif reading == "log_softmax":
        probabilities = named("p", keras.ops.exp(probabilities))
    sums = {}
    for head in derived:
        name, columns = whole.free_name(head.task), []
        for at, members in enumerate(head.groups or ()):
            taken = named(f"{name}_{at}_take", keras.ops.take(probabilities, list(members), axis=1))
            columns.append(named(f"{name}_{at}_sum", keras.ops.sum(taken, axis=1, keepdims=True)))
        sums[head.task] = named(name, keras.ops.concatenate(columns, axis=1))
    return whole.with_outputs(sums)


EDITS: EditTable = {Rows: _with_head, Stack: _with_stack, Cut: _ended, Taps: _tapped, Channels: _channels, Columns: _columns, **INSIDE}
