"""Resize layers in a private copy of a Keras model: classes of a head, features that it reads, channels of the input."""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from ...errors import NetworkError
from ...randomness import seeded
from ...words import counted
from ..parts.head import Head
from .heads import channels_last, kernel_of
from .library import keras
from .structure import graph_of, steps_of

_ACTIVATIONS = ("softmax", "sigmoid", "log_softmax")
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_NORMALISERS = (keras.layers.Normalization, keras.layers.BatchNormalization)


def resize_(  # over the limit: a head and the layers around it
    model: Any, layer: Any, *, head: Head, activation: str, others: Collection[Any] | None = None, beside: Collection[Any] = ()
) -> None:
    """Give a layer of a private copy the class weights of `head` and update what depends on their number.
    `others` are the layers of the other heads, which keep their activations. None: the layer itself holds the activation. The layers
    `beside` it have their new rows already."""
    old, head = layer.kernel.shape[-1], head.in_layer()
    put_rows_(layer, head)
    if head.activation != activation and others is None:
        layer.activation = keras.activations.get(head.activation)
    elif head.activation != activation:  # of the layer, or of one after it
        parts = [part for part in model._flatten_layers(include_self=False) if not isinstance(part, keras.Model)]
        after = parts[next(at for at, part in enumerate(parts) if part is layer) :]
        after = [part for part in after if not any(part is other for other in others or ())]
        carriers = [part for part in after if getattr(getattr(part, "activation", None), "__name__", "") in _ACTIVATIONS]
        if any(isinstance(part, keras.layers.Softmax) for part in after):
            raise NetworkError(
                f"The scores go through a Softmax layer of their own; expected a head whose activation can become {head.activation!r}."
            )
        for part in carriers[1:]:
            part.activation = keras.activations.linear
        (carriers[0] if carriers else layer).activation = keras.activations.get(head.activation)
    if len(head.weight) != old:
        _refresh_shapes_(model, [layer, *beside], sizes={old: len(head.weight)})
    retrack_(model)


def retrack_(model: Any) -> None:
    """Refresh the variable lists of a model and all its containers."""
    containers: list[Any] = [model, *model._flatten_layers(include_self=False)]
    for container in containers:
        if "_torch_params" in container._modules:
            del container._modules["_torch_params"]
            container._track_variables()


def put_rows_(layer: Any, head: Head) -> None:
    """Give a linear layer the size and the class weights (C, d) of `head`. The layer keeps its place in the graph."""
    config, head = layer.get_config(), head.in_layer()
    config["units" if "units" in config else "filters"] = len(head.weight)
    config["use_bias"] = bool(config.get("use_bias", True)) or bool(np.any(head.bias))
    config |= {"lora_rank": None} if getattr(layer, "lora_enabled", False) else {}  # the new weights are whole
    free, kernel = (None,) * (len(layer.kernel.shape) - 2), kernel_of(layer, head.weight)
    width = kernel.shape[-2]
    shape = (None, *free, width) if channels_last(layer) else (None, width, *free)
    _rebuild_(layer, config, shape=shape, resized=width != layer.kernel.shape[-2])
    with torch.no_grad():
        layer.kernel.value.copy_(torch.from_numpy(np.ascontiguousarray(kernel)))
        if layer.use_bias:
            layer.bias.value.copy_(torch.from_numpy(head.bias))


def reset_(layer: Any, settings: Mapping[str, Any]) -> None:
    """Rebuild a layer with other settings. It keeps its place in the graph and the values of its variables."""
    if not settings:
        return
    old = {variable.name: variable.value for variable in layer.variables}
    _rebuild_(layer, layer.get_config() | dict(settings), shape=layer.get_build_config()["input_shape"], resized=False)
    with torch.no_grad():
        for variable in layer.variables:
            before = old.get(variable.name)
            same = before is not None and before.shape == variable.value.shape
            variable.value.copy_(before if same else torch.full_like(variable.value, float(variable.name == "gamma")))


def taken_activation_(layer: Any, *, name: str) -> Any | None:
    """Remove a layer's activation and return it as a layer called `name`; None if it has none."""
    activation = layer.activation
    if activation is keras.activations.linear:
        return None
    apart = keras.layers.Activation(activation, name=name, dtype=layer.dtype_policy)
    put_activation_(layer, keras.activations.linear)
    return apart


def put_activation_(layer: Any, activation: Any) -> None:
    """Set a layer's activation."""
    if isinstance(activation, keras.Layer) or isinstance(layer.activation, keras.Layer):  # an activation that is a layer is a sublayer
        reset_(layer, {"activation": keras.activations.serialize(activation)})
        if isinstance(activation, keras.Layer):
            vars(layer).pop("activation", None)  # the old function would shadow the sublayer
    else:
        layer.activation = activation


@seeded()
def _rebuild_(layer: Any, config: Mapping[str, Any], *, shape: Sequence[int | None], resized: bool) -> None:
    """Replace the contents of `layer` with those of a freshly built one. It keeps its place in the graph.
    `resized`: whether the input shape differs from the previous one."""
    fresh = type(layer).from_config(dict(config))
    fresh.build(tuple(shape))
    kept = {"_inbound_nodes", "_outbound_nodes", "build", "quantize", "_parent_path", "_path", "_auto_config", "name"}
    kept |= {key for key in vars(layer) if "_hooks" in key} | (set() if resized else {"_build_shapes_dict"})
    names = {variable.name: variable.path for variable in layer.variables}
    vars(layer).update({key: value for key, value in vars(fresh).items() if key not in kept})
    for variable in layer.variables:
        variable._path = names.get(variable.name, variable.path)


def _refresh_shapes_(container: Any, layers: Collection[Any], *, sizes: Mapping[int, int]) -> None:
    """Recompute the shapes of the symbolic tensors that depend on `layers`. `sizes`: the new size of each old one, for a Reshape."""

    def adapt(node: Any, reads: bool) -> bool:
        operation = node.operation
        inside = any(operation is layer or holds(operation, layer) for layer in layers)
        if inside and isinstance(operation, keras.Model):
            _refresh_shapes_(operation, layers, sizes=sizes)
        if reads and isinstance(operation, keras.layers.Reshape):
            operation.target_shape = tuple(sizes.get(size, size) for size in operation.target_shape)
        if reads or inside:
            _note_input_shape_(operation, node)
        return reads or inside

    graph = graph_of(container)
    if graph is not None:
        _propagate_(graph, set(), adapt=adapt)


def _propagate_(graph: Any, changed: set[int], *, adapt: Callable[[Any, bool], bool]) -> bool:
    """Recompute the shapes of the symbolic tensors in a graph, from those `changed` (by id) on. Return whether an output is among them.
    `adapt` fits the operation of a node to its input; it is given whether the node reads a changed tensor, and returns whether its output
    changes."""
    for node in steps_of(graph):
        if adapt(node, not changed.isdisjoint(map(id, node.input_tensors))):
            spec = node.operation.compute_output_spec(*node.arguments.args, **node.arguments.kwargs)
            for tensor, new in zip(node.outputs, keras.tree.flatten(spec), strict=True):
                tensor._shape = new.shape
                changed.add(id(tensor))
    return not changed.isdisjoint(map(id, graph.outputs))


def holds(container: Any, layer: Any) -> bool:
    """Tell whether `layer` is somewhere below `container`, which may be any operation."""
    return isinstance(container, keras.Layer) and any(part is layer for part in container._flatten_layers(include_self=False))


def _note_input_shape_(operation: Any, node: Any) -> None:
    """Update the shape with which a layer is rebuilt after loading."""
    shapes = getattr(operation, "_build_shapes_dict", None)
    if shapes and len(shapes) == 1 and len(node.input_tensors) == 1 and not isinstance(operation, keras.Model):
        operation._build_shapes_dict = {next(iter(shapes)): node.input_tensors[0].shape}


# ── channels ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def rechannel_(model: Any, count: int, *, first: Any) -> tuple[list[Any], int]:
    """Let a model with a graph take examples of `count` channels by summing or repeating the channels of its first convolutions.
    Return the layers with resized weights and the old number of channels."""
    graph = graph_of(model)
    if graph is None or len(graph.inputs) != 1:
        received = "is no functional or Sequential model" if graph is None else f"takes {counted(len(graph.inputs), 'tensor')}"
        raise NetworkError(f"{type(model).__name__} '{model.name}' {received}; other channels need a functional model with one input.")
    _refuse_other(first)
    tensor = graph.inputs[0]
    axis = len(tensor.shape) - 1 if channels_last(first) else 1
    if len(tensor.shape) != first.rank + 2:
        raise NetworkError(f"The input has shape {tuple(tensor.shape)}; expected {first.rank + 2} axes, as the convolution '{first.name}'.")
    if tensor.shape[axis] == count:
        return [], count
    old, shape = tensor.shape[axis], [count if at == axis else size for at, size in enumerate(tensor.shape)]
    changed: dict[int, Any] = {}
    try:
        if _rechannel_graph_(model, [shape], axis=axis, changed=changed):
            raise NetworkError(f"The channels of the input reach the output of '{model.name}'; expected a convolution on every way.")
    except (ValueError, TypeError) as error:
        if isinstance(error, NetworkError):
            raise
        raise NetworkError(f"'{model.name}' cannot take {counted(count, 'channel')} in place of {old}: {error}") from error
    retrack_(model)
    return list(changed.values()), old


def _refuse_other(first: Any) -> None:
    """Raise if the first layer with weights is not a convolution over all channels."""
    plain = isinstance(first, _CONVOLUTIONS) and type(first).__name__.startswith("Conv") and first.groups == 1
    if not plain:
        received = "no layer with weights" if first is None else f"{type(first).__name__} '{first.name}'"
        raise NetworkError(f"The network begins with {received}; expected a convolution (Conv1D, Conv2D, Conv3D) over all channels.")


def _rechannel_graph_(container: Any, shapes: Sequence[Sequence[int | None]], *, axis: int, changed: dict[int, Any]) -> bool:
    """Propagate new input shapes through a graph up to its convolutions. Return whether they reach its output."""
    graph: Any = graph_of(container)
    for tensor, shape in zip(graph.inputs, shapes, strict=True):
        tensor._shape = tensor._keras_history.operation._batch_shape = tuple(shape)
    if len(shapes) == 1 and getattr(container, "_build_shapes_dict", None):
        container._build_shapes_dict = {key: tuple(shapes[0]) for key in container._build_shapes_dict}

    def adapt(node: Any, reads: bool) -> bool:
        if reads and graph_of(node.operation) is not None:
            return _rechannel_graph_(node.operation, [tensor.shape for tensor in node.input_tensors], axis=axis, changed=changed)
        return reads and _rechannel_step_(node, axis=axis, changed=changed)

    return _propagate_(graph, set(map(id, graph.inputs)), adapt=adapt)


def _rechannel_step_(node: Any, *, axis: int, changed: dict[int, Any]) -> bool:
    """Adapt one layer to its new input. Return whether its output has other channels too."""
    layer, shape = node.operation, node.input_tensors[0].shape
    if not isinstance(layer, keras.Layer):
        return True
    if isinstance(layer, _CONVOLUTIONS):
        _refuse_other(layer)
        old, new = layer.kernel.shape[-2], shape[axis]
        if id(layer) not in changed and old != new:
            _refit_(layer, shape, change=lambda values: _over_channels(values, new, scaled=True, at=-2))
            changed[id(layer)] = layer
        return False
    if isinstance(layer, keras.layers.Rescaling):
        layer.scale, layer.offset = (_in_channels(value, shape[axis]) for value in (layer.scale, layer.offset))
    elif isinstance(layer, _NORMALISERS) and id(layer) not in changed:
        _refit_(layer, shape, change=lambda values: _in_channels(values, shape[axis]))
        changed[id(layer)] = layer
    elif layer.weights and id(layer) not in changed:
        raise NetworkError(f"'{layer.name}' ({type(layer).__name__}) comes before the first convolution; expected layers without weights.")
    _note_input_shape_(layer, node)
    return True


def _over_channels(values: np.ndarray, count: int, *, scaled: bool, at: int) -> np.ndarray:
    """Return numbers for `count` channels: the old ones summed (`scaled`) or averaged into one, or repeated in turn."""
    old = values.shape[at]
    taken = values.take(np.arange(count) % old, at) * (old / count if scaled else 1)
    if count == 1:
        taken = values.sum(at, keepdims=True) if scaled else values.mean(at, keepdims=True)
    return np.asarray(taken, values.dtype)


def _in_channels(values: Any, count: int) -> Any:
    """Return per-channel numbers for another number of channels; a single number stays as it is."""
    array = np.asarray(values, np.float64)
    if array.ndim == 0:
        return values
    return _over_channels(array, count, scaled=False, at=-1).tolist()


def _refit_(layer: Any, shape: Sequence[int | None], *, change: Callable[[np.ndarray], Any]) -> None:
    """Rebuild a layer for another shape and copy its old weights, changed where their size differs."""
    config = layer.get_config()
    config.update({key: change(config[key]) for key in ("mean", "variance") if isinstance(config.get(key), (list, tuple, np.ndarray))})
    old = {variable.name: variable.value.detach().cpu().numpy() for variable in layer.variables}
    _rebuild_(layer, config, shape=shape, resized=True)
    for variable in layer.variables:
        before = old[variable.name]
        variable.assign(before if before.shape == tuple(variable.shape) else np.asarray(change(before), before.dtype))
    if isinstance(layer, keras.layers.Normalization):
        layer.finalize_state()
