"""Heads of several Dense layers whose outputs are averaged or added: opened as one layer that reads what all of them read, side by side."""

from __future__ import annotations

from ..account import Account
from ..keras_parts.body import KerasBody
from ..keras_parts.heads import FoundHead, head_of, rows_of
from ..keras_parts.library import keras
from ..keras_parts.structure import graph_of
from ..parts.head import Head
from ..torch_parts.summed import joined_rows, summed_layers
from ..tracing import as_tensor, trace
from .opened import opened
from .sizes import put_rows_

__all__ = ["with_joined_heads"]


def with_joined_heads(body: KerasBody) -> KerasBody:
    """Return a network whose result, the sum of several Dense layers that read vectors, comes from one layer with all their weights.

    What it computes is the same but for rounding: sum of s_i (W_i x_i + b_i) = [s_1 W_1, s_2 W_2, …] [x_1, x_2, …] + sum of s_i b_i.

    Args:
        body: without a head; any other, and one whose result is no such sum, is returned as it is.
    """
    if body.found or graph_of(body.module) is None or isinstance(body.sample, dict):
        return body
    modules = body.modules()
    seen = trace(modules, body.sample_run)
    result = as_tensor(seen.result)
    linear = keras.activations.linear
    dense = [name for name in seen.order if isinstance(modules[name], keras.layers.Dense) and modules[name].activation is linear]
    vectors = [name for name in dense if seen.inputs[name].ndim == 2]
    if result is None or result.ndim != 2 or len(vectors) < 2:
        return body
    found = summed_layers(modules, seen, names=vectors, result=result, run=body.sample_run)
    if found is None:
        return body
    shares, activation = found
    module, layers, _ = body.copied()
    graph = opened(module, *(layers[name] for name, _ in shares))
    weight, bias = joined_rows([rows_of(layers[name]) for name, _ in shares], [share for _, share in shares])
    read = [graph.node(layers[name]).input_tensors[0] for name, _ in shares]
    features = keras.layers.Concatenate(name=graph.free_name("heads_joined"))(read)
    head = keras.layers.Dense(len(weight), activation=activation, name=graph.free_name("head"))
    whole = graph.model(head(features))
    put_rows_(head, Head("main", None, "classification", activation, head.name, weight, bias))
    one = FoundHead(head.name, activation, False)
    twin = body.anew(whole, layers, heads=[(head_of(one, head), one, head)])
    names = ", ".join(f"{share:g} × {name!r}" for name, share in shares)
    note = f"the result is a sum of layers, {names}: they became one layer, {head.name!r}, which reads what they read side by side"
    twin.account = Account(notes=(note,))
    return twin
