"""Linear layers over the channels of a Keras network's input, in layers of Keras' own."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from ...errors import NetworkError
from ...randomness import seeded
from ..keras_parts.body import KerasBody
from ..keras_parts.heads import channels_last
from ..keras_parts.library import keras
from ..keras_parts.structure import graph_of, no_graph
from .inserting import Rewiring
from .opened import opened

__all__ = ["ENTRANCE_NAME", "entry_of", "over_channels", "with_entrance"]

ENTRANCE_NAME = "entrance"


def entry_of(body: KerasBody, *, module: Any) -> tuple[Any, int]:
    """Return the only input of a network's graph, and the axis of its features or channels.

    Args:
        body: tells where channels stand, by its first convolution.
        module: a private copy of its model.

    Raises:
        NetworkError: if it has no graph, takes several inputs or token ids, or another layer has the entrance's name.
    """
    graph = graph_of(module)
    if graph is None:
        raise no_graph(module)
    kinds = [tensor.dtype for tensor in graph.inputs]
    if len(kinds) != 1 or "float" not in kinds[0] or graph.inputs[0].shape[-1] is None:
        received = f"{len(kinds)} inputs of the types {', '.join(kinds)}"
        raise NetworkError(f"'{module.name}' takes {received}; a layer before the input needs one input of real numbers of known width.")
    taken = [name for name in body.modules() if name.split("_")[0] == ENTRANCE_NAME]
    if taken:
        raise NetworkError(f"The network has a layer named {taken[0]!r} already; expected no name that begins with 'entrance'. Rename it.")
    layers = [body.modules()[layer.name] for layer in body.layers]
    first = next((layer for layer in layers if hasattr(layer, "kernel_size")), None)
    rank = len(graph.inputs[0].shape)
    return graph.inputs[0], rank - 1 if rank == 2 or first is None or channels_last(first) else 1


# over the limit: a layer and its settings
def over_channels(tensor: Any, count: int, *, axis: int, name: str, zero: bool = False) -> tuple[Any, Any]:
    """Return a linear layer over the channels of a symbolic tensor, and its output with `count` channels.

    Args:
        tensor: (N, d), (N, …, d) or (N, d, …).
        count: channels of the output.
        axis: where the channels stand.
        name: of the layer.
        zero: whether its weights begin at zero.
    """
    rank, start = len(tensor.shape), {"kernel_initializer": "zeros"} if zero else {}
    if axis == rank - 1:
        layer = keras.layers.Dense(count, name=name, dtype=tensor.dtype, **start)
    else:
        kind = getattr(keras.layers, f"Conv{rank - 2}D")
        layer = kind(count, 1, data_format="channels_first", name=name, dtype=tensor.dtype, **start)
    return layer, layer(tensor)


@seeded()
def with_entrance(body: KerasBody) -> KerasBody:
    """Return a copy of a `body` with a linear layer over the features (channels) before the input, the identity at first.

    Raises:
        NetworkError: if it takes something else than one tensor of real numbers, or has no graph.
    """
    module, layers, heads = body.copied()
    tensor, axis = entry_of(body, module=module)
    width = tensor.shape[axis]
    layer, entered = over_channels(tensor, width, axis=axis, name=ENTRANCE_NAME)
    with torch.no_grad():
        layer.kernel.value.copy_(torch.from_numpy(np.eye(width, dtype="float32")).reshape(layer.kernel.shape))
    graph = opened(module)
    whole = graph.model(Rewiring().outputs(graph_of(module), {id(tensor): entered}))
    return body.anew(whole, layers, heads=heads)
