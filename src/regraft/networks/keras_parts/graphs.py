"""Build other models out of the layers of a private copy: with a further head, with one on top, cut short, reading more.

The layers are shared with the copy, which is not to be used afterwards.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ...errors import NetworkError
from ..contract import Head
from ..taps import GRID, STD_FLOOR, Tap, nothing_left, pools_at
from .heads import channels_last, rows_of
from .library import keras
from .sizes import holds, put_rows_
from .structure import TAPS, graph_of, is_tap, steps_of

__all__ = ["attached", "branched", "columned", "ended", "grouped", "only_output", "stacked", "tapped", "wrapped"]


@dataclass(frozen=True)
class _Opened:
    """The graph of a model in which the nested models that hold a certain layer are opened.

    Attributes:
        name: of the model.
        inputs: its symbolic inputs in their structure.
        outputs: its symbolic outputs in theirs.
        steps: the nodes, each after all that it reads.
    """

    name: str
    inputs: Any
    outputs: Any
    steps: list[Any]

    def node(self, layer: Any) -> Any:
        """Return the last call of a layer.

        Raises:
            NetworkError: if the graph does not call it.
        """
        calls = [node for node in self.steps if node.operation is layer]
        if not calls:
            raise NetworkError(f"The layer '{layer.name}' is not called in the graph of '{self.name}'; expected a layer on its way.")
        return calls[-1]

    def model(self, outputs: Any, *, inputs: Any = None) -> Any:
        """Return a model with these outputs, which holds nothing of what comes after them."""
        model = keras.Model(self.inputs if inputs is None else inputs, outputs, name=self.name)
        for operation in model.operations:
            operation._outbound_nodes.clear()
        return model

    def free_name(self, wanted: str) -> str:
        """Return a layer name made from `wanted` that no layer has, nor one that begins with it and "_"."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted).strip("_") or "head"
        taken = {part.name for node in self.steps for part in _with_parts(node.operation)}
        taken |= {tensor.name for tensor in keras.tree.flatten(self.inputs)}
        names = (plain, *(f"{plain}_{count}" for count in range(1, 1000)))
        return next(name for name in names if not any(old == name or old.startswith(f"{name}_") for old in taken))


def _with_parts(operation: Any) -> list[Any]:
    return [operation, *operation._flatten_layers(include_self=False)] if isinstance(operation, keras.Layer) else [operation]


def _opened(model: Any, *layers: Any) -> _Opened:
    """Return a model's graph with `layers` at its top level.

    Raises:
        NetworkError: if the model, or a layer that holds one of `layers`, has no graph.
    """
    graph = graph_of(model)
    if graph is None:
        raise _no_graph(model)
    steps, outputs = steps_of(graph), graph._outputs_struct
    for layer in layers:
        known: dict[int, Any] = {}
        before, steps = steps, []
        _replay_(before, known, layer=layer, steps=steps)
        outputs = _mapped(outputs, known)
    _rename_(graph, steps)
    return _Opened(model.name, graph._inputs_struct, outputs, steps)


def _rename_(graph: Any, steps: Sequence[Any]) -> None:
    """Give layers that came out of a nested model a name of their own where the outer model has theirs."""
    taken = {operation.name: operation for operation in graph.operations}
    for step in steps:
        operation, count = step.operation, 0
        name = operation.name
        while taken.setdefault(operation.name, operation) is not operation:
            count += 1
            operation.name = f"{name}_{count}"


def _no_graph(model: Any) -> NetworkError:
    return NetworkError(
        f"{type(model).__name__} '{model.name}' has no graph of layers; expected a functional or Sequential model. "
        "Make the change in the class's own code and load its weights with weights=, or build the model with the functional API."
    )


def _mapped(structure: Any, known: Mapping[int, Any]) -> Any:
    return keras.tree.map_structure(lambda value: known.get(id(value), value), structure)


def _replay_(nodes: Sequence[Any], known: dict[int, Any], *, layer: Any, steps: list[Any]) -> None:
    """Append nodes to `steps`; those that read what `known` replaces are called again, and models that hold `layer` are opened.

    Raises:
        NetworkError: if `layer` is inside a layer without a graph.
    """
    for node in nodes:
        operation = node.operation
        if operation is not layer and isinstance(operation, keras.Layer) and holds(operation, layer):
            _open_(node, known, layer=layer, steps=steps)
        elif any(id(tensor) in known for tensor in node.input_tensors):
            args, kwargs = node.arguments.convert(lambda value: known.get(id(value), value))
            outputs = operation(*args, **kwargs)
            known.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
            steps.append(operation._inbound_nodes[-1])
        else:
            steps.append(node)


def _open_(node: Any, known: dict[int, Any], *, layer: Any, steps: list[Any]) -> None:
    """Call the layers of a nested model in its place."""
    container = node.operation
    inner = graph_of(container)
    if inner is None:
        raise _no_graph(container)
    read = [known.get(id(tensor), tensor) for tensor in node.input_tensors]
    known.update(zip(map(id, inner.inputs), read, strict=True))
    _replay_(steps_of(inner), known, layer=layer, steps=steps)
    known.update({id(outer): known.get(id(tensor), tensor) for outer, tensor in zip(node.outputs, inner.outputs, strict=True)})


def _pool(rank: int, name: str, *, like: Any = None) -> list[Any]:
    """Return the layer that averages a tensor of that many axes over its positions, in a list; none where there are no positions."""
    pools = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D, 5: keras.layers.GlobalAveragePooling3D}
    layout = "channels_last" if like is None or channels_last(like) else "channels_first"
    return [pools[rank](name=f"{name}_pool", data_format=layout)] if rank in pools else []


def _dense(name: str, head: Head) -> Any:
    return keras.layers.Dense(len(head.weight), activation=head.activation, name=name)


def _run(steps: Sequence[Any], tensor: Any) -> Any:
    for step in steps:
        tensor = step(tensor)
    return tensor


def _fitting(head: Head, features: int, *, what: str) -> None:
    """Raise if a head's rows have another number of features.

    Raises:
        NetworkError: naming both.
    """
    if features != head.features:
        raise NetworkError(f"The rows have {head.features} features; {what} has {features}. Give rows of that length.")


def wrapped(model: Any, inputs: Any) -> Any:
    """Return a functional model around one that has no graph of its own; one with a graph is returned as it is.

    Args:
        model: a private copy.
        inputs: symbolic inputs; None where they are not known.

    Raises:
        NetworkError: if the model has no graph and its input is not known.
    """
    if graph_of(model) is not None:
        return model
    if inputs is None:
        raise _no_graph(model)
    return keras.Model(inputs, model(inputs))


def attached(model: Any, head: Head, *, sample_output: torch.Tensor, inputs: Any) -> tuple[Any, Any]:
    """Return a copy's output averaged over its positions with a new head on top, and the new layer.

    Args:
        model: a private copy of a model without a head.
        head: the rows (C, d).
        sample_output: what the model returns for a sample, (N, d), or (N, …, d).
        inputs: symbolic inputs of the new model, for models that have none of their own.

    Raises:
        NetworkError: if the rows have another number of features than the output.
    """
    _fitting(head, sample_output.shape[-1], what="the network's output")
    taken = {layer.name for layer in model._flatten_layers()}
    names = ("head", *(f"head_{count}" for count in range(1, 1000)))
    name = next(name for name in names if not {name, f"{name}_pool"} & taken)  # fixed names: the identity of a cache has them
    dense = _dense(name, head)
    steps = [*_pool(sample_output.ndim, name), dense]
    if isinstance(model, keras.Sequential):
        for step in steps:
            model.add(step)
        whole = model
    else:
        entry, output = (model.input, model.output) if graph_of(model) is not None else (inputs, model(inputs))
        whole = keras.Model(entry, _run(steps, output), name=model.name if graph_of(model) is not None else None)
    put_rows_(dense, head)
    return whole, dense


def branched(model: Any, layer: Any, *, head: Head) -> tuple[Any, Any]:
    """Return a model with a further output, a new head that reads what the first head reads, and the new layer.

    Args:
        model: a private copy.
        layer: its first head.
        head: the rows (C, d); the layer is named after its task.

    Raises:
        NetworkError: if the rows do not fit, or the model has no graph.
    """
    _fitting(head, rows_of(layer)[0].shape[1], what=f"what the first head '{layer.name}' reads")
    graph = _opened(model, layer)
    features = graph.node(layer).input_tensors[0]
    name = graph.free_name(head.task)
    dense = _dense(name, head)
    output = _run([*_pool(len(features.shape), name, like=layer), dense], features)
    put_rows_(dense, head)
    if isinstance(graph.outputs, dict):
        return graph.model({**graph.outputs, head.task: output}), dense
    return graph.model([*keras.tree.flatten(graph.outputs), output]), dense


def stacked(model: Any, layer: Any, *, head: Head, activation: str, output: int | None) -> tuple[Any, Any]:
    """Return a model whose only output is a new head that reads the first head's activated scores, and the new layer.

    Args:
        model: a private copy.
        layer: its first head.
        head: the rows (M, C).
        activation: what the scores go through.
        output: the number of the model's output that is the raw scores; None where `layer` gives them.

    Raises:
        NetworkError: if the rows do not fit, or the model has no graph.
    """
    _fitting(head, layer.kernel.shape[-1], what=f"the first head '{layer.name}', whose scores they read,")
    graph = _opened(model, layer if output is None else None)
    name = graph.free_name("head")
    scores = graph.node(layer).outputs[0] if output is None else keras.tree.flatten(graph.outputs)[output]
    plain = output is None and len(scores.shape) == 2
    layer.activation = keras.activations.get(activation if plain else "linear")
    between = [] if plain else [*_pool(len(scores.shape), name, like=layer), keras.layers.Activation(activation, name=f"{name}_activation")]
    dense = _dense(name, head)
    result = _run([*between, dense], scores)
    put_rows_(dense, head)
    return graph.model(result), dense


def ended(model: Any, layers: Sequence[Any]) -> Any:
    """Return a model that ends with the last of these layers that is called, and the steps without weights that belong to it.

    Args:
        model: a private copy.
        layers: of one block, in the order of execution.

    Raises:
        NetworkError: if the model has no graph.
    """
    graph = _opened(model, _last(layers))
    return graph.model(_end(graph, layers))


def _last(layers: Sequence[Any]) -> Any:
    """Return the last of the layers that is called."""
    return ([layer for layer in layers if layer._inbound_nodes] or list(layers))[-1]


def _end(graph: _Opened, layers: Sequence[Any]) -> Any:
    """Return the output of the last of these layers that is called, and of the steps without weights that belong to it."""
    node = graph.node(_last(layers))
    at = next(index for index, step in enumerate(graph.steps) if step is node)
    made = {id(tensor) for step in graph.steps[: at + 1] for tensor in step.outputs}
    for step in graph.steps[at + 1 :]:  # an addition written as `x + y` is no layer and belongs to the block before it
        if isinstance(step.operation, keras.Layer) or not all(id(tensor) in made for tensor in step.input_tensors):
            break
        made |= {id(tensor) for tensor in step.outputs}
        node = step
    return node.outputs[0]


def tapped(model: Any, points: Sequence[Tap], *, layers: Mapping[str, Sequence[Any]]) -> Any:
    """Return a model whose only output are the pooled outputs of several blocks side by side, (N, D).

    The pooling is made of operations, not layers: it stands on the side of the cut on which the block stands.

    Args:
        model: a private copy.
        points: the blocks and their pools.
        layers: of each of the blocks, in the order of execution.

    Raises:
        NetworkError: if the model has no graph, nothing of the points can be read, or the names of the pooling are taken.
    """
    graph = _opened(model, *map(_last, layers.values()))
    taken = [step.operation.name for step in graph.steps if is_tap(step.operation)]
    if taken:
        raise NetworkError(f"The network has taps already, such as {taken[0]!r}; expected none. Tap the network that they were made of.")
    entry = next((tensor for tensor in keras.tree.flatten(graph.inputs) if "float" in tensor.dtype), None)
    parts = []
    for tap in points:
        own = layers.get(tap.block, ())
        parts += _pools(_end(graph, own) if own else entry, tap, channels_first=not all(map(channels_last, own)))
    if not parts:
        raise nothing_left(points)
    return graph.model(_named(TAPS, keras.ops.concatenate(parts, axis=1)))


def _pools(values: Any, tap: Tap, *, channels_first: bool) -> list[Any]:
    """Return the pools of a symbolic tensor; none where it is None or holds no real numbers. Each is called after pool and block."""
    if values is None or "float" not in values.dtype or len(values.shape) < 2:
        return []
    mask = getattr(values, "_keras_mask", None) if len(values.shape) == 3 else None
    if mask is not None:
        mask = _named(f"{TAPS}_mask.{tap.block}", keras.ops.expand_dims(mask, -1))
    wide = "float64" if values.dtype == "float64" else "float32"
    values = _named(f"{TAPS}_values.{tap.block}", keras.ops.cast(values, wide))
    if channels_first and len(values.shape) > 2:
        values = _named(f"{TAPS}_last.{tap.block}", keras.ops.moveaxis(values, 1, -1))
    parts = {pool: _pooled(values, pool, mask=mask) for pool in pools_at(tap.pools, len(values.shape))}
    for pool, part in parts.items():
        _name_steps_(part, f"{TAPS}_{pool}.{tap.block}")
    return list(parts.values())


def _pooled(values: Any, pool: str, *, mask: Any) -> Any:
    """Return one pool of values (N, *positions, C) as (N, width)."""
    ops, channels = keras.ops, values.shape[-1]
    if pool == "token":
        return ops.take(values, 0, axis=1)
    if pool == "mean":
        return _mean(values, mask)
    if pool == "std":
        variance = ops.var(values, axis=_positions(values)) if mask is None else _masked_variance(values, mask)
        return ops.sqrt(variance + STD_FLOOR)
    if pool in {"rows", "columns"}:
        values = _on_grid(ops.mean(values, axis=2 if pool == "rows" else 1))
        channels *= values.shape[1]
    return ops.reshape(values, (-1, channels))


def _positions(values: Any) -> tuple[int, ...]:
    return tuple(range(1, len(values.shape) - 1))


def _mean(values: Any, mask: Any) -> Any:
    """Return the mean over all positions, or over those that a mask (N, L, 1) keeps."""
    ops = keras.ops
    if mask is None:
        return ops.mean(values, axis=_positions(values))
    return ops.sum(ops.where(mask, values, 0.0), axis=1) / ops.maximum(ops.sum(ops.cast(mask, values.dtype), axis=1), 1.0)


def _masked_variance(values: Any, mask: Any) -> Any:
    return _mean(keras.ops.square(values - keras.ops.expand_dims(_mean(values, mask), 1)), mask)


def _on_grid(line: Any) -> Any:
    """Return the means of a line (N, L, C) over at most `GRID` cells of it, as adaptive average pooling makes them."""
    size = line.shape[1]
    if size is None:
        return keras.ops.adaptive_average_pool(line, GRID, data_format="channels_last")
    cells = min(GRID, size)
    shares = np.zeros((cells, size), np.float32)  # a product, as releases before Keras 3.13 have no adaptive pooling
    for at in range(cells):
        inside = slice(at * size // cells, -(-(at + 1) * size // cells))
        shares[at, inside] = 1 / (inside.stop - inside.start)
    return line if cells == size else keras.ops.matmul(shares, line)


def _name_steps_(tensor: Any, name: str) -> None:
    """Name the operation that made a tensor, and, numbered, those before it up to the last one with a name of the taps."""
    waiting, count = [tensor], 0
    while waiting:
        operation, node, _ = waiting.pop()._keras_history
        if not is_tap(operation):
            operation.name = f"{name}.{count}" if count else name
            count += 1
            waiting += operation._inbound_nodes[node].input_tensors


def columned(model: Any, layer: Any, *, count: int) -> Any:
    """Return a model whose head also reads a further input named "columns"; the new weights are zero.

    Args:
        model: a private copy.
        layer: its only head, a Dense layer.
        count: numbers in each item's columns.

    Raises:
        NetworkError: if the model has no graph, its head reads maps or is called twice, or a name is taken.
    """
    graph = _opened(model, layer)
    node = graph.node(layer)
    features = node.input_tensors[0]
    if len(features.shape) != 2 or sum(step.operation is layer for step in graph.steps) != 1:
        received = f"reads values of shape {tuple(features.shape)}" if len(features.shape) != 2 else "is called more than once"
        raise NetworkError(f"The head '{layer.name}' {received}; columns are joined to one vector of features for each item, (N, d).")
    inputs = _named_inputs(graph)
    columns = keras.Input((count,), name="columns", dtype=features.dtype)
    joined = keras.layers.Concatenate(name=f"{graph.free_name('columns')}_joined")([features, columns])
    weight, bias = rows_of(layer)
    wider = np.concatenate([weight, np.zeros((len(weight), count), np.float32)], 1)
    put_rows_(layer, replace(_plain_head(layer), weight=wider, bias=bias))
    known = {id(node.outputs[0]): layer(joined)}
    after = graph.steps[next(at for at, step in enumerate(graph.steps) if step is node) + 1 :]
    _replay_(after, known, layer=layer, steps=[])
    return graph.model(_mapped(graph.outputs, known), inputs={**inputs, "columns": columns})


def _plain_head(layer: Any) -> Head:
    weight, bias = rows_of(layer)
    return Head("main", None, "classification", "linear", layer.name, weight, bias)


def _named_inputs(graph: _Opened) -> dict[str, Any]:
    """Return the inputs by name; a single one that is not given by name so far is called "inputs" from now on.

    Raises:
        NetworkError: if a name that is needed is taken.
    """
    inputs = keras.tree.flatten(graph.inputs)
    unnamed = len(inputs) == 1 and not isinstance(graph.inputs, dict)
    wanted = {"columns", "inputs"} if unnamed else {"columns"}
    taken = wanted & ({step.operation.name for step in graph.steps} | ({tensor.name for tensor in inputs} - {"inputs"}))
    if taken:
        raise NetworkError(f"The network has an input or a layer named {min(taken)!r} already; expected none. Rename it before loading.")
    if unnamed:
        inputs[0].name = inputs[0]._keras_history.operation.name = "inputs"
    return {tensor.name: tensor for tensor in inputs}


def only_output(model: Any, output: int) -> Any:
    """Return a model with one of its outputs alone; one without a graph is returned as it is.

    Args:
        model: a private copy.
        output: the number of the output.
    """
    graph = graph_of(model)
    if graph is None or len(graph.outputs) == 1:
        return model
    return _Opened(model.name, graph._inputs_struct, None, []).model(graph.outputs[output])


def grouped(model: Any, heads: Collection[Head], *, output: int, reading: str) -> Any:
    """Return a model with a further output for each derived head: sums of the first head's probabilities.

    Args:
        model: a private copy with a graph.
        heads: those that have groups.
        output: the number of the output that belongs to the first head.
        reading: what that output is of the raw scores: "linear", "softmax" or "log_softmax".
    """
    graph = graph_of(model)
    opened = _Opened(model.name, graph._inputs_struct, graph._outputs_struct, steps_of(graph))  # type: ignore[union-attr]
    first = keras.tree.flatten(opened.outputs)[output]
    chances = {
        "linear": lambda: _named("probabilities", keras.ops.softmax(first)),
        "log_softmax": lambda: _named("p", keras.ops.exp(first)),
    }
    probabilities = chances[reading]() if reading in chances else first
    sums = {}
    for head in heads:
        name = opened.free_name(head.task)
        columns = [_group(probabilities, members, name=f"{name}_{at}") for at, members in enumerate(head.groups or ())]
        sums[head.task] = _named(name, keras.ops.concatenate(columns, axis=1))
    if isinstance(opened.outputs, dict):
        return opened.model({**opened.outputs, **sums})
    return opened.model([*keras.tree.flatten(opened.outputs), *sums.values()])


def _group(probabilities: Any, members: Sequence[int], *, name: str) -> Any:
    taken = _named(f"{name}_take", keras.ops.take(probabilities, list(members), axis=1))
    return _named(f"{name}_sum", keras.ops.sum(taken, axis=1, keepdims=True))


def _named(name: str, tensor: Any) -> Any:
    """Name the operation that made a symbolic tensor: numbered names of two sessions may be the same."""
    tensor._keras_history.operation.name = name
    return tensor
