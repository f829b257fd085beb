"""The heads of a Keras model: find them, read them, multiply their rows in groups."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NetworkError, near_names
from ..editing.sums import head_with_more, layers_beside
from ..parts.head import Head, HeadLocation, told_binary
from ..parts.structure import Layer
from ..tracing import Trace, capture, head_reading, pooled, replaced, without_padding
from .library import keras


def _is_linear(layer: Any) -> bool:
    """Tell whether a layer is a Dense layer or a convolution that can be a head. The weights of a quantised layer are no class weights."""
    if getattr(layer, "quantization_mode", None):
        return False
    if isinstance(layer, (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)):
        plain = not is_wide(layer) or (set(layer.strides) == {1} and layer.padding in ("valid", "same"))
        return plain and layer.groups == 1 and type(layer).__name__.startswith("Conv")
    return isinstance(layer, keras.layers.Dense)


def is_wide(layer: Any) -> bool:
    """Tell whether a linear layer is a convolution that reads several positions at once."""
    return any(size > 1 for size in getattr(layer, "kernel_size", ()))


def channels_last(layer: Any) -> bool:
    """Tell whether the class axis of the layer's output is the last one."""
    return getattr(layer, "data_format", "channels_last") != "channels_first"


def linear_activation(layer: Any) -> AbstractContextManager[None]:
    """Remove a layer's activation while the context lasts."""
    return replaced([(layer, "activation", keras.activations.linear)])


def outputs_of(result: Any) -> list[Tensor]:
    """Return the tensors in a model's result in the order of its graph's outputs (Keras sorts named outputs by name)."""
    return [tensor for tensor in keras.tree.flatten(result) if isinstance(tensor, Tensor)]


def find_heads(layers: Sequence[Layer], seen: Trace) -> dict[str, HeadLocation]:
    """Find the linear layers that produce the model's outputs.
    Return the candidates by layer name, in the order of the outputs. The result is empty if the outputs are
    embeddings or feature maps, or come from no linear layer."""
    wanted = sum(result.ndim == 2 for result in outputs_of(seen.result))
    found: dict[str, HeadLocation] = {}
    for name in reversed([layer.name for layer in layers if layer.name in seen.outputs and _is_linear(seen.modules[layer.name])]):
        if len(found) < wanted:
            head = _explained(name, seen)
            found.update({name: head} if head else {})
    return dict(sorted(found.items(), key=lambda item: item[1].output))


def chosen_head(candidates: Mapping[str, HeadLocation], head: str | None) -> HeadLocation | None:
    """Return the candidate called `head`, or the only one if `head` is None; None if there is no candidate."""
    if head is not None:
        if head not in candidates:
            known = near_names(head, candidates) or "; no output of the network follows from a linear layer: leave head= out"
            raise NetworkError(f"Received head={head!r}; expected a linear layer from which an output of the network follows{known}")
        return candidates[head]
    if len(candidates) > 1:
        raise NetworkError(
            f"The network has two candidates for its head or more: {', '.join(map(repr, candidates))}, one for each of its outputs. "
            f"Choose one with head=, for example head={next(iter(candidates))!r}, or keep them as tasks: head={list(candidates)}."
        )
    return next(iter(candidates.values()), None)


def given_heads(facts: Sequence[Mapping[str, Any]], seen: Trace) -> dict[str, tuple[HeadLocation, Head]]:
    """Return, by task, the heads with their own class weights that a saved folder describes."""
    heads, modules = dict[str, tuple[HeadLocation, Head]](), seen.modules
    for fact in facts:
        if fact.get("groups"):
            continue
        name = fact["layer"]
        if name not in modules or not _is_linear(modules[name]):
            linear = [other for other, layer in modules.items() if _is_linear(layer)]
            raise NetworkError(f"The head of the task {fact['task']!r} should be the linear layer {name!r}{near_names(name, linear)}")
        explained = _explained(name, seen) or found_beside(None, seen) or HeadLocation(name, fact["activation"])
        found = replace(found_beside(explained, seen) or explained, activation=fact["activation"])
        head = told_binary(found.head(*rows_of(modules[name]), task=fact["task"]), fact)
        classes = tuple(fact["classes"]) if fact.get("classes") else None
        parts = tuple(int(size) for size in fact.get("parts") or ())
        heads[head.task] = (found, replace(head, kind=fact.get("kind") or head.kind, classes=classes, parts=parts))
    return heads


def found_beside(found: HeadLocation | None, seen: Trace) -> HeadLocation | None:
    """Return a head with the Dense layers that add to its logits (`FoundHead.beside`); for None, the head that is found with them."""
    names = plain_rows(seen)
    if seen.main is None or seen.main.ndim != 2 or len(names) < 2:
        return found
    if found is None:
        return head_with_more(seen, names)
    if found.layer not in names or found.activation != "linear" or found.output:
        return found
    beside = layers_beside(seen, names, main=found.layer)
    return replace(found, whole=True, beside=beside) if beside else found


def plain_rows(seen: Trace) -> list[str]:
    """Return the names of the Dense layers that may be part of a head of several layers, in execution order."""
    layers = {name: seen.modules[name] for name in seen.order}
    dense = {name: layer for name, layer in layers.items() if isinstance(layer, keras.layers.Dense) and _is_linear(layer)}
    return [name for name, layer in dense.items() if layer.activation is keras.activations.linear]


def _explained(name: str, seen: Trace) -> HeadLocation | None:
    layer = seen.modules[name]
    width = layer.units if isinstance(layer, keras.layers.Dense) else layer.filters
    outputs = [(at, output) for at, output in enumerate(outputs_of(seen.result)) if output.ndim == 2]
    if width not in {output.shape[-1] for _, output in outputs}:
        return None
    with torch.no_grad(), linear_activation(layer), capture(layer) as call:
        seen.run()
    for at, output in outputs:
        reading = head_reading(call.of_examples("output", output), output, channels_last=channels_last(layer))
        embedding = reading == "tail" and (call["output"].ndim == 2 or is_wide(layer))  # the result is the output of a ReLU
        if reading is not None and not embedding:
            return HeadLocation(name, {"tail": "linear", "log_softmax": "softmax"}.get(reading, reading), reading == "tail", at)
    return None


def rows_of(layer: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return copies of a linear layer's weight (C, d) and bias (C,)."""
    whole = getattr(layer.kernel, "value", layer.kernel)  # with a low-rank change by Keras: the sum, which is no variable
    kernel = np.moveaxis(whole.detach().cpu().float().numpy(), (-1, -2), (0, 1))  # PyTorch's axis order
    weight = np.ascontiguousarray(kernel.reshape(len(kernel), -1))
    return weight, layer.bias.value.detach().cpu().float().numpy().copy() if layer.use_bias else np.zeros(len(weight), np.float32)


def kernel_of(layer: Any, weight: np.ndarray) -> np.ndarray:
    """Return class weights (C, d) in the kernel shape of a linear layer."""
    places = getattr(layer, "kernel_size", ())
    return np.moveaxis(np.asarray(weight, np.float32).reshape(len(weight), -1, *places), (0, 1), (-1, -2))


def scores_from(layer: Any, features: Tensor) -> Tensor:
    """Return the logits (N, C) that a linear layer computes from features (N, d) or from its raw input."""
    places, last = getattr(layer, "kernel_size", ()), channels_last(layer)
    if features.ndim == 2 and places:
        maps = features.reshape(len(features), -1, *places)
        with linear_activation(layer), without_padding(layer):
            return pooled(cast(Tensor, layer(maps.movedim(1, -1) if last else maps)), last)
    with linear_activation(layer):
        return pooled(cast(Tensor, layer(features)), last)


def parts_hook(parts: Sequence[int]) -> Callable[..., Tensor | None]:
    """Return a forward hook that computes a linear layer's output as if each group of rows were a separate layer."""
    ops = keras.ops

    def product(layer: Any, inputs: Tensor, *, rows: slice) -> Any:
        kernel = layer.kernel[..., rows].contiguous()  # the memory layout of a separate layer: rounding depends on it
        if kernel.is_leaf:  # PyTorch multiplies three axes in another way by a tensor that requires a gradient
            kernel.requires_grad_(layer.kernel.value.requires_grad)
        dense = isinstance(layer, keras.layers.Dense)
        scores = ops.matmul(inputs, kernel) if dense else layer.convolution_op(inputs, kernel)
        if not layer.use_bias:
            return scores
        bias, free = ops.convert_to_tensor(layer.bias)[rows], (1,) * (scores.ndim - 2)
        if not channels_last(layer):
            bias = ops.reshape(bias, (1, -1, *free))
        elif not dense:
            bias = ops.reshape(bias, (1, *free, -1))
        return ops.add(scores, bias)

    def hook(layer: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Tensor | None:
        if not isinstance(output, Tensor):  # a symbolic call
            return None
        inputs = args[0] if args else next(iter(kwargs.values()))
        whole = [product(layer, inputs, rows=slice(int(end - size), int(end))) for size, end in zip(parts, np.cumsum(parts), strict=True)]
        scores = torch.cat(whole, -1 if channels_last(layer) else 1)
        return scores if layer.activation is None else cast(Tensor, layer.activation(scores))

    return hook
