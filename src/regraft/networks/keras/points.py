"""Hook points of a Keras network: outputs of linear layers and convolutions, found in its graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from ..family import Body
from .heads import channels_last
from .library import keras
from .structure import graph_of, is_code, no_graph, steps_of

__all__ = ["Site", "channel_axis", "sites_of"]

_NAMES = ("Dense", "EinsumDense", *(f"{kind}{rank}D" for kind in ("Conv", "DepthwiseConv", "SeparableConv") for rank in (1, 2, 3)))
_TRANSPOSED = tuple(f"Conv{rank}DTranspose" for rank in (1, 2, 3))
_LINEAR = tuple(getattr(keras.layers, name) for name in (*_NAMES, *_TRANSPOSED) if hasattr(keras.layers, name))


@dataclass(frozen=True)
class Site:
    """One hook point.

    Attributes:
        layer: the layer whose weights a channel-wise shift or scale folds into: the linear layer, or the BatchNormalization behind it.
        linear: the linear layer; its own activation comes after the hook point.
    """

    layer: Any
    linear: Any
    channels: int


def channel_axis(layer: Any, rank: int) -> int:
    """Return the channel axis of a layer's output."""
    if isinstance(layer, keras.layers.BatchNormalization):
        return int(layer.axis) % rank
    return rank - 1 if channels_last(layer) else 1


def sites_of(body: Body) -> dict[str, Site]:
    """Return the hook points of a `body` by name. Raise if it has no graph.

    A layer has no hook point if several graphs call it, if it comes after a head, or if its weights cannot be scaled by channel.
    """
    graph = graph_of(body.module)
    if graph is None:
        raise no_graph(body.module)
    heads = {id(body.modules()[found.layer]) for found in body.found.values()}
    graphs = list(_graphs(graph, set()))
    homes = Counter(number for one in graphs for number in {id(node.operation) for node in steps_of(one)})
    excluded: set[int] = heads | {number for number, count in homes.items() if count > 1}
    _note_late_(graph, heads, reached=False, late=excluded)
    names = {id(module): name for name, module in body.modules().items()}
    found = {names[id(site.layer)]: site for one in graphs for site in _sites(one, excluded) if id(site.layer) in names}
    return {layer.name: found[layer.name] for layer in body.layers if layer.name in found}


def _graphs(graph: Any, seen: set[int]) -> Iterator[Any]:
    """Yield a graph and those of all nested models, each once."""
    if id(graph) not in seen:
        seen.add(id(graph))
        yield graph
        for node in steps_of(graph):
            inner = graph_of(node.operation)
            if inner is not None:
                yield from _graphs(inner, seen)


def _note_late_(graph: Any, heads: Collection[int], *, reached: bool, late: set[int]) -> bool:
    """Add the operations called after a head to `late`. Return whether the graph holds a head."""
    behind = {id(tensor) for tensor in graph.inputs} if reached else set()
    found = False
    for node in steps_of(graph):
        reads = any(id(tensor) in behind for tensor in node.input_tensors)
        inner = graph_of(node.operation)
        inside = id(node.operation) in heads if inner is None else _note_late_(inner, heads, reached=reads, late=late)
        found = found or inside
        late |= {id(node.operation)} if reads else set()
        behind |= {id(tensor) for tensor in node.outputs} if reads or inside else set()
    return found


def _sites(graph: Any, excluded: Collection[int]) -> Iterator[Site]:
    steps = steps_of(graph)
    readers = Counter(id(tensor) for node in steps for tensor in node.input_tensors) + Counter(map(id, graph.outputs))
    calls = Counter(id(node.operation) for node in steps)
    normalised = {
        id(node.input_tensors[0]): node.operation
        for node in steps
        if type(node.operation) is keras.layers.BatchNormalization and calls[id(node.operation)] == 1 and id(node.operation) not in excluded
    }
    seen: set[int] = set()
    for node in steps:
        linear, output = node.operation, node.outputs[0]
        if id(linear) in excluded or id(linear) in seen or not _foldable(linear):
            continue
        seen.add(id(linear))
        rank = len(output.shape)
        norm = normalised.get(id(output)) if readers[id(output)] == 1 == calls[id(linear)] else None
        plain = linear.activation is keras.activations.linear
        behind = plain and norm is not None and channel_axis(norm, rank) == channel_axis(linear, rank)  # over the same channels
        yield Site(norm if behind else linear, linear, output.shape[channel_axis(linear, rank)])


def _foldable(layer: Any) -> bool:
    """Tell whether a layer is linear and its weights can scale its output channels. Subclasses are excluded: their code may differ."""
    if type(layer) not in _LINEAR or is_code(layer) or getattr(layer, "lora_enabled", False) or getattr(layer, "quantization_mode", None):
        return False
    if not isinstance(layer, keras.layers.EinsumDense):
        return True
    read, _, rest = layer.equation.partition(",")  # the kernel contributes only the last output axis, as in a Dense layer
    kernel, _, made = rest.partition("->")
    fresh = [label for label in kernel if label not in read]
    return fresh == [made[-1]] == [kernel[-1]] and set(layer.bias_axes or "") <= set(fresh)
