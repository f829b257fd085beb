"""A small batch for a Keras model, and calling the model with a batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ...errors import NetworkError
from ..parts.protocols import Inputs
from ..samples import sample_of
from .library import keras
from .structure import graph_of

__all__ = ["called", "sample_for", "shapes_of"]

_FREE_SIZES = (32, 224, 64, 96, 128, 16, 299)


def called(model: Any, inputs: Inputs, *, training: bool) -> Any:
    """Call a model with one batch; named tensors go to the inputs of that name.

    Args:
        model: the model.
        inputs: one batch.
        training: the mode.

    Returns:
        What the model returns.
    """
    graph = graph_of(model)
    if isinstance(inputs, dict) and graph is not None and not isinstance(graph.input, dict):
        return model([inputs[tensor.name] for tensor in graph.inputs], training=training)
    return model(inputs, training=training)


def shapes_of(model: Any) -> dict[str, Any]:
    """Return the shapes of one item that a functional model states: "inputs" for the only one, "named_inputs" for several."""
    graph = graph_of(model)
    if graph is None:
        return {}
    shapes = {tensor.name: tuple(tensor.shape[1:]) for tensor in graph.inputs}
    return {"inputs": next(iter(shapes.values()))} if len(shapes) == 1 and not isinstance(graph.input, dict) else {"named_inputs": shapes}


def sample_for(model: Any, inputs: Sequence[int] | None) -> Inputs:
    """Return a batch of two that a model accepts.

    Args:
        model: built, or to be built by running it.
        inputs: the shape of one item, where it is known.

    Raises:
        NetworkError: if none is accepted; the message asks for `inputs=`.
    """
    problem: Exception | None = None
    for size in _FREE_SIZES:
        sample = _sample(model, inputs, size=size)
        try:
            with torch.no_grad():
                called(model, sample, training=False)
            return sample
        except Exception as error:  # Keras and the user's own layers raise errors of any class
            problem = error
    received = f"items of shape {tuple(inputs)}" if inputs is not None else "no shape of its items"
    raise NetworkError(
        f"{type(model).__name__} '{model.name}' cannot be run on a sample: received {received}. "
        f"Give the shape of one item without the batch, such as inputs=(224, 224, 3). Last problem: {problem}"
    )


def _sample(model: Any, inputs: Sequence[int] | None, *, size: int) -> Inputs:
    graph = graph_of(model)
    if graph is None:
        shape = tuple(inputs) if inputs is not None else _built_shape(model)
        integers = len(shape) == 1 and any(isinstance(layer, keras.layers.Embedding) for layer in model._flatten_layers())
        return sample_of(_sized(shape, size), integers=integers)
    if len(graph.inputs) == 1 and not isinstance(graph.input, dict):
        return _tensor(graph.inputs[0], inputs, size=size)
    return {tensor.name: _tensor(tensor, None, size=size) for tensor in graph.inputs}


def _tensor(symbolic: Any, inputs: Sequence[int] | None, *, size: int) -> torch.Tensor:
    shape = tuple(inputs) if inputs is not None else tuple(symbolic.shape[1:])
    return sample_of(_sized(shape, size), integers="int" in symbolic.dtype)


def _sized(shape: Sequence[int | None], size: int) -> tuple[int, ...]:
    return tuple(size if length is None else int(length) for length in shape)


def _built_shape(model: Any) -> tuple[int | None, ...]:
    """Return the shape of one item with which a subclassed model was built.

    Raises:
        NetworkError: if it has not been built, or takes more than one tensor.
    """
    shapes = [shape for shape in (getattr(model, "_build_shapes_dict", None) or {}).values() if isinstance(shape, (tuple, list))]
    if len(shapes) != 1 or any(isinstance(part, (tuple, list, dict)) for part in shapes[0]):
        raise NetworkError(
            f"{type(model).__name__} '{model.name}' does not state the shape of what it takes ({len(shapes)} shapes known). "
            "Give the shape of one item without the batch, such as inputs=(224, 224, 3)."
        )
    return tuple(shapes[0][1:])
