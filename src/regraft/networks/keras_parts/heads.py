"""The head of a Keras model: find it, read it, change its size on a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...errors import NetworkError
from ..contract import Head, Layer
from ..tracing import Trace, capture, flat_tensors, head_reading
from .library import keras
from .structure import graph_of, steps_of

__all__ = ["FoundHead", "attached", "channels_last", "find_head", "head_of", "linear_activation", "resize_", "rows_of"]

_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax")


@dataclass(frozen=True)
class FoundHead:
    """A linear layer from which the model's scores follow.

    Attributes:
        layer: its name.
        activation: "linear", "softmax" or "sigmoid".
        whole: whether the raw scores are the model's own result (a step without weights follows), not the layer's output.
    """

    layer: str
    activation: str
    whole: bool


def _is_linear(layer: Any) -> bool:
    """Tell whether a layer is a Dense layer or a convolution over single positions."""
    if isinstance(layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)):
        return set(layer.kernel_size) == {1} and layer.groups == 1 and type(layer).__name__.startswith("Conv")
    return isinstance(layer, keras.layers.Dense)


def channels_last(layer: Any) -> bool:
    """Tell whether the class axis of the layer's output is the last one."""
    return getattr(layer, "data_format", "channels_last") != "channels_first"


@contextmanager
def linear_activation(layer: Any) -> Iterator[None]:
    """Take a layer's activation away while the context lasts.

    Args:
        layer: a linear layer.

    Yields:
        Nothing.
    """
    before = layer.activation
    layer.activation = keras.activations.linear
    try:
        yield
    finally:
        layer.activation = before


def find_head(modules: Mapping[str, Any], layers: Sequence[Layer], *, seen: Trace, run: Callable[[], Any]) -> FoundHead | None:
    """Find the linear layer from which the model's result follows.

    Args:
        modules: name -> layer.
        layers: in the order of execution.
        seen: the trace of one run.
        run: makes the same run again.

    Returns:
        The head, or None: the result is an embedding, a feature map, or follows from no linear layer.

    Raises:
        NetworkError: if several outputs have a head each.
    """
    results = [result for result in flat_tensors(seen.result) if result.ndim == 2]
    found: dict[str, FoundHead] = {}
    for name in reversed([layer.name for layer in layers if layer.name in seen.outputs and _is_linear(modules[layer.name])]):
        if results and len(found) < len(results):
            head = _explained(name, modules[name], results=results, run=run)
            found.update({name: head} if head else {})
    if len(found) > 1:
        candidates = ", ".join(repr(name) for name in reversed(found))
        raise NetworkError(
            f"The network has two candidates for its head or more: {candidates}, one for each of its {len(results)} outputs. Give a model "
            "with one of these outputs, keras.Model(model.inputs, model.outputs[0]): regraft takes one head= at a time."
        )
    return next(iter(found.values()), None)


def _explained(name: str, layer: Any, *, results: Sequence[torch.Tensor], run: Callable[[], Any]) -> FoundHead | None:
    width = layer.units if isinstance(layer, keras.layers.Dense) else layer.filters
    if width not in {result.shape[-1] for result in results}:
        return None
    with torch.no_grad(), linear_activation(layer), capture(layer) as seen:
        run()
    for result in results:
        reading = head_reading(seen["output"], result, channels_last=channels_last(layer))
        embedding = reading == "tail" and seen["output"].ndim == 2  # a Dense layer whose ReLU makes the result
        if reading is not None and not embedding:
            return FoundHead(name, {"tail": "linear", "log_softmax": "softmax"}.get(reading, reading), reading == "tail")
    return None


def rows_of(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of a linear layer's weight (C, d) and bias (C,)."""
    kernel = layer.kernel.value.detach().cpu().float().numpy()
    weight = np.ascontiguousarray(kernel.reshape(-1, kernel.shape[-1]).T)
    return weight, layer.bias.value.detach().cpu().float().numpy().copy() if layer.use_bias else np.zeros(len(weight), np.float32)


def head_of(found: FoundHead, layer: Any) -> Head:
    """Return a head's rows as copies, without class names.

    Args:
        found: what is known of it.
        layer: the layer itself.
    """
    weight, bias = rows_of(layer)
    kind = "classification"
    if found.activation == "sigmoid" and len(weight) > 1:
        kind = "multi-label"
    elif found.activation == "linear" and len(weight) == 1:
        kind = "regression"
    return Head("main", None, kind, found.activation, found.layer, weight, bias)


def resize_(model: Any, layer: Any, *, head: Head, activation: str) -> None:
    """Give a layer of a private copy the rows of `head`, whatever their number, and mend what depends on their number.

    Args:
        model: the copy.
        layer: its head.
        head: the rows (C, d).
        activation: the activation that the model has now; where `head.activation` differs, it is changed.

    Raises:
        NetworkError: if the rows have another number of features, or the activation cannot be changed.
    """
    old = layer.kernel.shape[-1]
    features = int(np.prod(layer.kernel.shape[:-1]))
    if features != head.features:
        raise NetworkError(f"The rows have {head.features} features; the head '{head.layer}' reads {features}. Give rows of that length.")
    _replace_variables_(layer, head)
    if head.activation != activation:
        _set_activation_(model, layer, wanted=head.activation)
    if len(head.weight) != old:
        _refresh_shapes_(model, layer, sizes={old: len(head.weight)})
    containers: list[Any] = [model, *model._flatten_layers(include_self=False)]
    for container in containers:
        if "_torch_params" in container._modules:
            del container._modules["_torch_params"]
            container._track_variables()


def _replace_variables_(layer: Any, head: Head) -> None:
    """Put the inner life of a freshly built layer of the right size into `layer`, which keeps its place in the graph."""
    config = layer.get_config()
    config["units" if "units" in config else "filters"] = len(head.weight)
    config["use_bias"] = bool(config.get("use_bias", True)) or bool(np.any(head.bias))
    fresh = type(layer).from_config(config)
    shape = layer.kernel.shape
    fresh.build((None,) * (len(shape) - 1) + (shape[-2],) if channels_last(layer) else (None, shape[-2]) + (None,) * (len(shape) - 2))
    kept = {"_inbound_nodes", "_outbound_nodes", "build", "quantize", "_parent_path", "_path", "_build_shapes_dict", "_auto_config"}
    kept |= {key for key in vars(layer) if "_hooks" in key}
    names = {variable.name: variable.path for variable in layer.variables}
    vars(layer).update({key: value for key, value in vars(fresh).items() if key not in kept})
    for variable in layer.variables:
        variable._path = names.get(variable.name, variable.path)
    with torch.no_grad():
        layer.kernel.value.copy_(torch.from_numpy(head.weight.T.copy()).reshape(layer.kernel.shape))
        if layer.use_bias:
            layer.bias.value.copy_(torch.from_numpy(head.bias))


def _set_activation_(model: Any, layer: Any, *, wanted: str) -> None:
    carriers = [part for part in _after(model, layer) if getattr(getattr(part, "activation", None), "__name__", "") in _ACTIVATIONS]
    if any(isinstance(part, keras.layers.Softmax) for part in _after(model, layer)):
        raise NetworkError(f"The scores go through a Softmax layer of their own; expected a head whose activation can become {wanted!r}.")
    for part in carriers[1:]:
        part.activation = keras.activations.linear
    (carriers[0] if carriers else layer).activation = keras.activations.get(wanted)


def _after(model: Any, layer: Any) -> list[Any]:
    """Return `layer` and the layers that come after it by order of definition."""
    parts = [part for part in model._flatten_layers(include_self=False) if not isinstance(part, keras.Model)]
    return parts[next(at for at, part in enumerate(parts) if part is layer) :]


def _refresh_shapes_(container: Any, layer: Any, *, sizes: Mapping[int, int]) -> bool:
    """Recompute the shapes of the symbolic tensors that depend on `layer`; tell whether the result of `container` does."""
    graph = graph_of(container)
    if graph is None:
        return any(part is layer for part in container._flatten_layers())
    changed: set[int] = set()
    for node in steps_of(graph):
        operation = node.operation
        reads = any(id(tensor) in changed for tensor in node.input_tensors)
        inside = operation is layer or (isinstance(operation, keras.Layer) and _holds(operation, layer))
        if inside and isinstance(operation, keras.Model):
            _refresh_shapes_(operation, layer, sizes=sizes)
        if not (reads or inside):
            continue
        if reads and isinstance(operation, keras.layers.Reshape):
            operation.target_shape = tuple(sizes.get(size, size) for size in operation.target_shape)
        spec = operation.compute_output_spec(*node.arguments.args, **node.arguments.kwargs)
        for tensor, new in zip(node.outputs, keras.tree.flatten(spec), strict=True):
            tensor._shape = new.shape
            changed.add(id(tensor))
        _note_input_shape_(operation, node)
    return bool(changed)


def _holds(container: Any, layer: Any) -> bool:
    """Tell whether `layer` is somewhere below `container`."""
    return any(part is layer for part in container._flatten_layers(include_self=False))


def _note_input_shape_(operation: Any, node: Any) -> None:
    """Keep the shape with which a layer is built again after loading."""
    shapes = getattr(operation, "_build_shapes_dict", None)
    if shapes and len(shapes) == 1 and len(node.input_tensors) == 1 and not isinstance(operation, keras.Model):
        operation._build_shapes_dict = {next(iter(shapes)): node.input_tensors[0].shape}


def attached(model: Any, head: Head, *, sample_output: torch.Tensor, inputs: Any) -> tuple[Any, str]:
    """Return a copy's output averaged over its positions with a new head on top, and the new layer's name.

    Args:
        model: a private copy of a model without a head.
        head: the rows (C, d).
        sample_output: what the model returns for a sample, (N, d), or (N, …, d).
        inputs: symbolic inputs of the new model, for models that have none of their own.

    Raises:
        NetworkError: if the rows have another number of features than the output.
    """
    if sample_output.shape[-1] != head.features:
        raise NetworkError(f"The rows have {head.features} features; the network's output has {sample_output.shape[-1]}.")
    taken = {layer.name for layer in model._flatten_layers()}
    names = ("head", *(f"head_{count}" for count in range(1, 1000)))
    name = next(name for name in names if not {name, f"{name}_pool"} & taken)  # fixed names: the identity of a cache has them
    dense = keras.layers.Dense(len(head.weight), activation=head.activation, name=name)
    pools = {3: keras.layers.GlobalAveragePooling1D, 4: keras.layers.GlobalAveragePooling2D, 5: keras.layers.GlobalAveragePooling3D}
    steps: list[Any] = [pools[sample_output.ndim](name=f"{name}_pool")] if sample_output.ndim in pools else []
    if isinstance(model, keras.Sequential):
        for step in [*steps, dense]:
            model.add(step)
        whole = model
    else:
        entry, output = (model.input, model.output) if graph_of(model) is not None else (inputs, model(inputs))
        for step in [*steps, dense]:
            output = step(output)
        whole = keras.Model(entry, output, name=model.name if graph_of(model) is not None else None)
    _replace_variables_(dense, head)
    return whole, name
