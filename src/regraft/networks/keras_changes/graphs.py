"""Build other models out of the layers of a private copy: with a further head, with one on top, cut short, reading more.

The layers are shared with the copy, which is not to be used afterwards.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from ...errors import NetworkError
from ...randomness import seeded
from ..keras_parts.heads import channels_last, is_wide, rows_of
from ..keras_parts.library import keras
from ..keras_parts.structure import graph_of, no_graph, steps_of
from ..parts.head import Head
from .opened import Opened, end_of, last_called, mapped, named, named_inputs, opened, replay_
from .sizes import put_rows_

__all__ = ["attached", "beside", "branched", "columned", "ended", "grouped", "only_output", "stacked", "wrapped"]


def _pool(rank: int, name: str, *, like: Any = None) -> list[Any]:
    """Return the layer that averages a tensor of that many axes over its positions, in a list; none where there are no positions."""
    pools = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D, 5: keras.layers.GlobalAveragePooling3D}
    layout = "channels_last" if like is None or channels_last(like) else "channels_first"
    return [pools[rank](name=f"{name}_pool", data_format=layout)] if rank in pools else []


@seeded()
def _dense(name: str, head: Head) -> Any:
    return keras.layers.Dense(len(head.in_layer().weight), activation=head.activation, name=name)


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
    """Return a functional `model` of symbolic `inputs` around a private copy without a graph of its own; one with a graph as it is.

    Raises:
        NetworkError: if the model has no graph and its input is not known (None).
    """
    if graph_of(model) is not None:
        return model
    if inputs is None:
        raise no_graph(model)
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
        entry, result = (model.input, model.output) if graph_of(model) is not None else (inputs, model(inputs))
        whole = keras.Model(entry, _run(steps, keras.tree.flatten(result)[0]), name=model.name if graph_of(model) is not None else None)
    put_rows_(dense, head)
    return whole, dense


def branched(model: Any, layer: Any, *, head: Head) -> tuple[Any, Any]:
    """Return a `model`, a private copy, with a further `head` that reads what its first one, `layer`, reads; and the new layer.

    Raises:
        NetworkError: if the rows do not fit, or the model has no graph.
    """
    _fitting(head, rows_of(layer)[0].shape[1], what=f"what the first head '{layer.name}' reads")
    graph = opened(model, layer)
    features = graph.node(layer).input_tensors[0]
    name = graph.free_name(head.task)
    if is_wide(layer):
        dense = layer.from_config(layer.get_config() | {"name": name, "filters": len(head.in_layer().weight), "activation": "linear"})
        steps = [dense, *_pool(len(features.shape), name, like=layer), keras.layers.Activation(head.activation)]
    else:
        dense = _dense(name, head)
        steps = [*_pool(len(features.shape), name, like=layer), dense]
    output = _run(steps, features)
    put_rows_(dense, head)
    if isinstance(graph.outputs, dict):
        return graph.model({**graph.outputs, head.task: output}), dense
    return graph.model([*keras.tree.flatten(graph.outputs), output]), dense


def stacked(model: Any, layer: Any, *, head: Head, activation: str, output: int | None, steps: Sequence[Any] = ()) -> tuple[Any, Any]:
    """Return a model whose only output is a new head that reads the first head's activated scores, and the new layer.

    Args:
        model: a private copy.
        layer: its first head.
        head: the rows (M, C).
        activation: what the scores go through.
        output: the number of the model's output that is the raw scores; None where `layer` gives them.
        steps: layers that the activated scores go through.

    Raises:
        NetworkError: if the rows do not fit, or the model has no graph.
    """
    _fitting(head, layer.kernel.shape[-1], what=f"the first head '{layer.name}', whose scores they read,")
    graph = opened(model, layer if output is None else None)
    name = graph.free_name("head")
    scores = graph.node(layer).outputs[0] if output is None else keras.tree.flatten(graph.outputs)[output]
    plain = output is None and len(scores.shape) == 2
    layer.activation = keras.activations.get(activation if plain else "linear")
    between = [] if plain else [*_pool(len(scores.shape), name, like=layer), keras.layers.Activation(activation, name=f"{name}_activation")]
    dense = _dense(name, head)
    result = _run([*between, *steps, dense], scores)
    put_rows_(dense, head)
    return graph.model(result), dense


def ended(model: Any, layers: Sequence[Any]) -> Any:
    """Return a `model`, a private copy, that ends with the last of the `layers` of a block that is called, and the steps after it.

    Raises:
        NetworkError: if the model has no graph.
    """
    graph = opened(model, last_called(layers))
    return graph.model(end_of(graph, layers))


def columned(model: Any, layer: Any, *, count: int) -> Any:
    """Return a `model`, a private copy, whose only head, the Dense `layer`, also reads a further input "columns" of `count` numbers.

    The new weights are zero.

    Raises:
        NetworkError: if the model has no graph, its head reads maps or is called twice, or a name is taken.
    """
    graph = opened(model, layer)
    node = graph.node(layer)
    features = node.input_tensors[0]
    if len(features.shape) != 2 or sum(step.operation is layer for step in graph.steps) != 1:
        received = f"reads values of shape {tuple(features.shape)}" if len(features.shape) != 2 else "is called more than once"
        raise NetworkError(f"The head '{layer.name}' {received}; columns are joined to one vector of features for each item, (N, d).")
    inputs = named_inputs(graph, "columns")
    columns = keras.Input((count,), name="columns", dtype=features.dtype)
    joined = keras.layers.Concatenate(name=f"{graph.free_name('columns')}_joined")([features, columns])
    weight, bias = rows_of(layer)
    wider = np.concatenate([weight, np.zeros((len(weight), count), np.float32)], 1)
    put_rows_(layer, replace(_plain_head(layer), weight=wider, bias=bias))
    known = {id(node.outputs[0]): layer(joined)}
    after = graph.steps[next(at for at, step in enumerate(graph.steps) if step is node) + 1 :]
    replay_(after, known, layer=layer, steps=[])
    return graph.model(mapped(graph.outputs, known), inputs={**inputs, "columns": columns})


def _plain_head(layer: Any) -> Head:
    weight, bias = rows_of(layer)
    return Head("main", None, "classification", "linear", layer.name, weight, bias)


def beside(models: Sequence[Any]) -> Any:
    """Return one model of the `models`, private copies that take the same inputs, with their results side by side."""
    entry = keras.tree.map_structure(
        lambda given: keras.Input(batch_shape=given.shape, dtype=given.dtype, name=given.name), models[0].input
    )
    for number, model in enumerate(models):
        model.name = f"part_{number}"  # the names of a model's layers are unlike each other
    return keras.Model(entry, keras.layers.Concatenate(name="parts")([model(entry) for model in models]))


def only_output(model: Any, output: int) -> Any:
    """Return a `model`, a private copy, with its `output` of that number alone; one without a graph is returned as it is."""
    graph = graph_of(model)
    if graph is None or len(graph.outputs) == 1:
        return model
    return Opened(model.name, graph._inputs_struct, None, []).model(graph.outputs[output])


def grouped(model: Any, heads: Collection[Head], *, output: int, reading: str) -> Any:
    """Return a model with a further output for each derived head: sums of the first head's probabilities.

    Args:
        model: a private copy with a graph.
        heads: those that have groups.
        output: the number of the output that belongs to the first head.
        reading: what that output is of the raw scores: "linear", "softmax" or "log_softmax".
    """
    graph = graph_of(model)
    whole = Opened(model.name, graph._inputs_struct, graph._outputs_struct, steps_of(graph))  # type: ignore[union-attr]
    first = keras.tree.flatten(whole.outputs)[output]
    chances = {
        "linear": lambda: named("probabilities", keras.ops.softmax(first)),
        "log_softmax": lambda: named("p", keras.ops.exp(first)),
    }
    probabilities = chances[reading]() if reading in chances else first
    sums = {}
    for head in heads:
        name = whole.free_name(head.task)
        columns = [_group(probabilities, members, name=f"{name}_{at}") for at, members in enumerate(head.groups or ())]
        sums[head.task] = named(name, keras.ops.concatenate(columns, axis=1))
    if isinstance(whole.outputs, dict):
        return whole.model({**whole.outputs, **sums})
    return whole.model([*keras.tree.flatten(whole.outputs), *sums.values()])


def _group(probabilities: Any, members: Sequence[int], *, name: str) -> Any:
    taken = named(f"{name}_take", keras.ops.take(probabilities, list(members), axis=1))
    return named(f"{name}_sum", keras.ops.sum(taken, axis=1, keepdims=True))
