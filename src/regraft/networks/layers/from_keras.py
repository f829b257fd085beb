"""Table of Keras layers and their PyTorch counterparts. A network with any other layer is refused by name before conversion."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from ..parts.taps import grid_shares
from .graph import STEPWISE
from .keras_reader import ACTIVATIONS, Call, KerasReader, KerasValue, Row, array_of, refusal, same_edges


def _dense(reader: KerasReader, call: Call) -> KerasValue:
    (value,) = map(reader.as_keras, call.values)
    kernel, bias = array_of(call.layer.kernel), call.layer.use_bias
    weights = {"weight": kernel.T} | ({"bias": array_of(call.layer.bias)} if bias else {})
    made = reader.add(call.layer, "Linear", value, weights=weights, in_features=len(kernel), out_features=len(kernel.T), bias=bias)
    return reader.activated(call.layer, made)


def _padded(
    reader: KerasReader, layer: Any, *, value: KerasValue, sizes: Sequence[int], strides: Sequence[int], fill: Any = 0.0
) -> tuple[KerasValue, list[int]]:
    """Return a value, padded explicitly if the padding is uneven, and the even padding that the layer itself applies."""
    lengths, edges = value.tensor.shape[1:], [(0, 0)] * len(sizes)
    if layer.padding == "same" and max(strides) > 1 and len(layer._inbound_nodes) == 1 and None in layer.input.shape[1:-1]:
        raise refusal(layer, f"strides {tuple(strides)} and padding 'same' over lengths that are open ({tuple(lengths)} here)")
    if layer.padding == "causal":
        edges = [(sizes[0] - 1, 0)]
    elif layer.padding == "same":
        edges = [same_edges(length, size, stride=step) for length, size, step in zip(lengths[1:], sizes, strides, strict=True)]
    if all(before == behind for before, behind in edges):
        return value, [before for before, _ in edges]
    flat = [side for pair in reversed(edges) for side in pair]
    return reader.add(layer, "Pad", value, part="_edges", sizes=flat, value=fill), [0] * len(edges)


def _convolution(reader: KerasReader, call: Call) -> KerasValue:
    return _convolved(reader, call.layer, value=call.value, kernel=array_of(call.layer.kernel), groups=call.layer.groups)


def _depthwise(reader: KerasReader, call: Call) -> KerasValue:
    return _convolved(reader, call.layer, value=call.value, kernel=_by_channel(call.layer.kernel), groups=call.layer.kernel.shape[-2])


def _by_channel(variable: Any) -> np.ndarray:
    """Return the kernel of a depthwise layer (…, channels, multiplier) as that of a grouped convolution (…, 1, channels · multiplier)."""
    kernel = array_of(variable)
    return kernel.reshape(*kernel.shape[:-2], 1, -1)


def _convolved(  # over the limit: a layer and what its kernel says
    reader: KerasReader, layer: Any, *, value: KerasValue, kernel: np.ndarray, groups: int, part: str = ""
) -> KerasValue:
    rank = kernel.ndim - 2
    strides, rates = _each(layer.strides, rank), _each(layer.dilation_rate, rank)
    sizes = [(size - 1) * rate + 1 for size, rate in zip(kernel.shape[:rank], rates, strict=True)]
    value, padding = _padded(reader, layer, value=reader.spatial(layer, value), sizes=sizes, strides=strides)
    further: dict[str, Any] = {"stride": strides, "padding": padding, "dilation": rates, "groups": groups}
    made = reader.placed(layer, _with_kernel(reader, layer, value=value, kernel=kernel, part=part, **further))
    return made if part else reader.activated(layer, made)


def _with_kernel(  # over the limit: a layer and what its kernel says
    reader: KerasReader, layer: Any, *, value: KerasValue, kernel: np.ndarray, kind: str = "Conv", part: str = "", **further: Any
) -> KerasValue:
    """Return the value of a new convolution with a Keras kernel, (…, input channels, output channels); a `part` of a layer has no bias."""
    ends = kernel.shape[-2] * further.get("groups", 1), kernel.shape[-1]
    entering, leaving = ends if kind == "Conv" else ends[::-1]
    settings = {"in_channels": entering, "out_channels": leaving, "kernel_size": list(kernel.shape[:-2]), **further}
    bias = layer.use_bias and not part
    weights = {"weight": np.moveaxis(kernel, (-1, -2), (0, 1))} | ({"bias": array_of(layer.bias)} if bias else {})
    return reader.add(layer, f"{kind}{kernel.ndim - 2}d", value, weights=weights, part=part, **settings, bias=bias)


def _each(given: Any, rank: int) -> list[int]:
    return [int(one) for one in given] if isinstance(given, list | tuple) else [int(given)] * rank


def _separable(reader: KerasReader, call: Call) -> KerasValue:
    depth, point = _by_channel(call.layer.depthwise_kernel), array_of(call.layer.pointwise_kernel)
    groups = call.layer.depthwise_kernel.shape[-2]
    made = _convolved(reader, call.layer, value=call.value, kernel=depth, groups=groups, part="_depthwise")
    value = _with_kernel(reader, call.layer, value=reader.spatial(call.layer, made), kernel=point)
    return reader.activated(call.layer, reader.placed(call.layer, value))


def _transposed(reader: KerasReader, call: Call) -> KerasValue:
    kernel, rank = array_of(call.layer.kernel), call.layer.rank
    strides, rates = _each(call.layer.strides, rank), _each(call.layer.dilation_rate, rank)
    if call.layer.output_padding is not None or any(rate > 1 for rate in rates):
        raise refusal(call.layer, f"output_padding={call.layer.output_padding}, dilation_rate={call.layer.dilation_rate}")
    sizes, value = kernel.shape[:rank], reader.spatial(call.layer, call.value)
    further = [max(stride - size, 0) for size, stride in zip(sizes, strides, strict=True)]
    made = _with_kernel(reader, call.layer, value=value, kernel=kernel, kind="ConvTranspose", stride=strides, output_padding=further)
    if call.layer.padding == "same" and any(size > stride for size, stride in zip(sizes, strides, strict=True)):
        cut = [max(size - stride, 0) for size, stride in zip(sizes, strides, strict=True)]
        flat = [side for each in reversed(cut) for side in (-(each // 2), -(each - each // 2))]
        made = reader.add(call.layer, "Pad", made, part="_cut", sizes=flat)
    return reader.activated(call.layer, reader.placed(call.layer, made))


def _norm(reader: KerasReader, call: Call) -> KerasValue:
    """Convert batch, layer and group normalisation."""
    layer, kind, rank = call.layer, type(call.layer).__name__, call.value.tensor.ndim
    axes = sorted(axis % rank for axis in (layer.axis if isinstance(layer.axis, list | tuple) else [layer.axis]))
    last = axes == list(range(rank - len(axes), rank))
    if not last and (kind == "LayerNormalization" or axes != [1]):
        raise refusal(layer, f"axis={layer.axis} of {rank}")
    weights = {name: array_of(one) for name, one in (("weight", layer.gamma), ("bias", layer.beta)) if one is not None}
    if kind == "LayerNormalization":
        shape = list(reader.as_keras(call.value).tensor.shape[axes[0] :])
        return reader.add(layer, "LayerNorm", reader.as_keras(call.value), weights=weights, normalized_shape=shape, eps=layer.epsilon)
    value = reader.turned(call.value, first=last)
    channels = value.tensor.shape[1]
    if kind == "GroupNormalization":
        groups = channels if layer.groups == -1 else layer.groups
        return reader.add(layer, "GroupNorm", value, weights=weights, num_groups=groups, num_channels=channels, eps=layer.epsilon)
    weights |= {"running_mean": array_of(layer.moving_mean), "running_var": array_of(layer.moving_variance)}
    settings = {"num_features": channels, "eps": layer.epsilon, "momentum": 1 - layer.momentum}
    made = reader.add(layer, f"BatchNorm{max(rank - 2, 1)}d", value, weights=weights, **settings)
    return KerasValue(made.name, made.tensor, first=last and rank > 2)


def _embedding(reader: KerasReader, call: Call) -> KerasValue:
    table = array_of(call.layer.embeddings)
    settings = {"num_embeddings": table.shape[0], "embedding_dim": table.shape[1]}
    kind = "Lookup" if call.value.tensor.is_floating_point() else "Embedding"
    return reader.add(call.layer, kind, call.value, weights={"weight": table}, first=False, **settings)


def _both_ways(reader: KerasReader, call: Call) -> KerasValue:
    parts = [call.layer.forward_layer, call.layer.backward_layer]
    kind, other = (type(part).__name__ for part in parts)
    if kind not in _CELLS or call.layer.merge_mode not in ("concat", "sum", "mul", "ave"):
        raise refusal(call.layer, f"a {kind} with merge_mode={call.layer.merge_mode!r}")
    if kind != other or any(len({getattr(part, name, None) for part in parts}) > 1 for name in _ALIKE):
        raise refusal(call.layer, f"a backward layer ({other}) that differs from the forward one in kind, size or activation")
    return _cells(reader, call, parts=parts)


_ALIKE = ("units", "activation", "recurrent_activation", "reset_after", "return_sequences")
_CELLS = {"LSTM": ("LSTM", (0, 1, 2, 3)), "GRU": ("GRU", (1, 0, 2)), "SimpleRNN": ("RNN", (0,))}
"""Kind of `graph.Recurrent` for each Keras layer, and its gate order as positions in Keras."""


def _cells(reader: KerasReader, call: Call, *, parts: Sequence[Any]) -> KerasValue:
    one, (kind, order) = parts[0], _CELLS[type(parts[0]).__name__]
    mask = call.named.get("mask")
    if len(call.values) > 1 or one.return_state or one.stateful:
        raise refusal(call.layer, "states that are given, returned or kept")
    own = [getattr(one, name, None) for name in ("recurrent_activation", "activation")]  # a SimpleRNN has the second only
    named = [
        "sigmoid" if each is None else getattr(each, "__name__", "own") if each.__module__.startswith("keras.") else "own" for each in own
    ]
    activations = [ACTIVATIONS.get(name, ("",))[0] for name in named]
    if not STEPWISE.keys() >= set(activations):
        raise refusal(call.layer, f"the activations {', '.join(map(repr, named))} at each step")
    after = getattr(one, "reset_after", True)
    weights: dict[str, np.ndarray] = {}
    for part, end in zip(parts, ("", "_reverse"), strict=False):
        kernel, recurrent = (_gates(array_of(each), order).T for each in (part.cell.kernel, part.cell.recurrent_kernel))
        bias = array_of(part.cell.bias) if part.use_bias else np.zeros((2, len(kernel)), np.float32)
        bias = _gates(bias if bias.ndim == 2 else np.stack([bias, np.zeros_like(bias)]), order)
        weights |= {f"cells.weight_ih_l0{end}": kernel, f"cells.weight_hh_l0{end}": recurrent}
        weights |= {f"cells.bias_ih_l0{end}": bias[0], f"cells.bias_hh_l0{end}": bias[1]}
    settings = {"kind": kind, "inputs": weights["cells.weight_ih_l0"].shape[1], "units": one.units, "both": len(parts) > 1}
    joined = call.layer.merge_mode if len(parts) > 1 else "concat"
    settings |= {"steps": one.return_sequences, "backwards": one.go_backwards, "joined": joined}
    settings |= {} if after and activations == ["Sigmoid", "Tanh"] else {"activations": activations, "after": after}
    read = [reader.as_keras(call.value), *([] if mask is None else [mask])]
    return reader.add(call.layer, "Recurrent", *read, weights=weights, **settings)


def _gates(values: np.ndarray, order: Sequence[int]) -> np.ndarray:
    parts = np.split(values, len(order), axis=-1)
    return np.concatenate([parts[at] for at in order], axis=-1)


def _attention(reader: KerasReader, call: Call) -> KerasValue:
    given = {name: one for name, one in call.named.items() if one is not None and one is not False}
    causal = bool(given.pop("use_causal_mask", False))
    read = [*call.values, *(given.pop(name) for name in ("query", "value", "key") if isinstance(given.get(name), KerasValue))]
    wide = {"query": [-1, 1], "value": [1, -1], "key": [1, -1]}
    masks = [given.pop("attention_mask")] if isinstance(given.get("attention_mask"), KerasValue) else []
    for name, shape in wide.items():
        if isinstance(given.get(f"{name}_mask"), KerasValue):
            masks.append(reader.add(call.layer, "Reshape", given.pop(f"{name}_mask"), part=f"_{name}_mask", shape=shape))
    if len(masks) > 1:
        masks = [reader.add(call.layer, "Join", *masks, part="_mask", kind="logicaland")]
    if given or call.layer._attention_axes not in (None, (1,)) or read[0].tensor.ndim != 3:
        raise refusal(call.layer, f"numbers as {', '.join(given)}" if given else "attention over several axes")
    query, value, key = map(reader.as_keras, (*read, *read[1:2])[:3])
    dense = {name: getattr(call.layer, f"_{name}_dense") for name in ("query", "key", "value", "output")}
    *kernels, end = (array_of(part.kernel) for part in dense.values())
    matrices = [*(kernel.reshape(len(kernel), -1) for kernel in kernels), end.reshape(-1, end.shape[-1])]
    weights = {f"{name}.weight": matrix.T for name, matrix in zip(dense, matrices, strict=True)}
    if call.layer._use_bias:
        weights |= {f"{name}.bias": array_of(part.bias) for name, part in dense.items()}
    settings = {"inputs": [len(kernel) for kernel in kernels], "heads": call.layer._num_heads, "outputs": end.shape[-1]}
    settings |= {"sizes": [kernels[1].shape[-1], kernels[2].shape[-1]], "bias": call.layer._use_bias, "causal": causal}
    return reader.add(call.layer, "Attention", query, value, key, *masks, weights=weights, **settings)


def _dot_attention(reader: KerasReader, call: Call) -> KerasValue:
    if call.layer.use_scale or call.layer.score_mode != "dot":
        raise refusal(call.layer, f"use_scale={call.layer.use_scale}, score_mode={call.layer.score_mode!r}")
    return reader.add(call.layer, "DotAttention", *map(reader.as_keras, call.values))


def _dot(reader: KerasReader, call: Call) -> KerasValue:
    values, axes = [reader.as_keras(value) for value in call.values], call.layer.axes
    ranks = [value.tensor.ndim for value in values]
    if set(ranks) - {2, 3}:
        raise refusal(call.layer, f"values of {ranks[0]} and {ranks[1]} axes, not 2 or 3")
    axes = [axis % rank for axis, rank in zip([axes, axes] if isinstance(axes, int) else axes, ranks, strict=True)]
    return reader.add(call.layer, "Dot", *values, axes=axes, normalize=bool(call.layer.normalize))


def _pooling(reader: KerasReader, call: Call) -> KerasValue:
    rank = call.value.tensor.ndim - 2
    own: dict[str, Any]
    largest = type(call.layer).__name__.startswith("Max")
    kind, fill, own = ("Max", "-inf", {}) if largest else ("Avg", "repeated", {"count_include_pad": False})
    sizes, strides, value = _each(call.layer.pool_size, rank), _each(call.layer.strides, rank), reader.spatial(call.layer, call.value)
    value, padding = _padded(reader, call.layer, value=value, sizes=sizes, strides=strides, fill=fill)
    made = reader.add(call.layer, f"{kind}Pool{rank}d", value, padding=padding, kernel_size=sizes, stride=strides, **own)
    return reader.placed(call.layer, made)


def _global(reader: KerasReader, call: Call) -> KerasValue:
    value = reader.spatial(call.layer, call.value)
    axes, kind = list(range(2, value.tensor.ndim)), "max" if "Max" in type(call.layer).__name__ else "mean"
    if isinstance(mask := call.named.get("mask"), KerasValue):
        return reader.add(call.layer, "MeanOfKept", reader.as_keras(call.value), mask, keep=call.layer.keepdims)
    made = reader.add(call.layer, "Over", value, kind=kind, axes=axes, keep=call.layer.keepdims)
    return reader.placed(call.layer, made) if call.layer.keepdims else KerasValue(made.name, made.tensor)


def _reshape(reader: KerasReader, call: Call) -> KerasValue:
    """Convert a Reshape layer (shape of one example) or `keras.ops.reshape` (shape with the batch axis)."""
    value, items = reader.as_keras(call.value), getattr(call.layer, "target_shape", None)
    first, *rest = (-1, *items) if items is not None else call.layer.newshape
    if first != -1 or (items is None and (-1 in rest or math.prod(rest) != value.tensor[0].numel())):
        raise refusal(call.layer, f"the shape {tuple(call.layer.newshape)}, which may mix examples")
    if tuple(rest) == tuple(value.tensor.shape[1:]):
        return value
    shape = list(rest)
    if -1 in shape:
        shape[shape.index(-1)] = value.tensor[0].numel() // -math.prod(shape)
    return reader.add(call.layer, "Reshape", value, shape=shape)


def _permute(reader: KerasReader, call: Call) -> KerasValue:
    """Convert a Permute layer, or the Keras functions that move axes."""
    value, layer, kind = reader.as_keras(call.value), call.layer, type(call.layer).__name__
    marked = np.empty(range(1, value.tensor.ndim + 1))
    if kind == "Permute":
        axes = [0, *layer.dims]
    else:
        moved = np.moveaxis(marked, layer.source, layer.destination) if kind == "Moveaxis" else np.transpose(marked, layer.axes)
        axes = [side - 1 for side in moved.shape]
    if axes[0] != 0:
        raise refusal(layer, "an order of axes that mixes examples")
    return reader.add(layer, "Permute", value, axes=axes)


def _with_axis(reader: KerasReader, call: Call) -> KerasValue:
    value, axis = reader.as_keras(call.value), call.layer.axis
    shape = np.expand_dims(np.empty(tuple(value.tensor.shape)), axis).shape
    if shape[0] != len(value.tensor):
        raise refusal(call.layer, f"axis={axis}, which mixes examples")
    return reader.add(call.layer, "Reshape", value, shape=list(shape[1:]))


def _cast(_reader: KerasReader, call: Call) -> KerasValue:
    if call.layer.dtype != "float32":
        raise refusal(call.layer, f"dtype={call.layer.dtype!r}")
    return call.value


def _reduced(reader: KerasReader, call: Call) -> KerasValue:
    value, given = call.value, call.layer.axis
    rank, keep = value.tensor.ndim, call.layer.keepdims
    axes = sorted(axis % rank for axis in (given if isinstance(given, list | tuple) else [0 if given is None else given]))
    if 0 in axes:
        raise refusal(call.layer, f"axis={given}, which mixes examples")
    first = value.first and (keep or rank - 1 not in axes)
    own = [_own_axis(value, axis) for axis in axes]
    return reader.add(call.layer, "Over", value, first=first, kind=type(call.layer).__name__.lower(), axes=own, keep=keep)


def _own_axis(value: KerasValue, axis: int) -> int:
    """Return the position of a Keras axis in a value."""
    axis %= value.tensor.ndim
    return axis if not value.first else 1 if axis == value.tensor.ndim - 1 else axis + 1


def _selected(reader: KerasReader, call: Call) -> KerasValue:
    """Convert indexing with one integer for an axis, or with a slice of it."""
    value, *given = call.values
    made: KerasValue = value
    taken = dict(enumerate(given)) if type(call.layer).__name__ == "GetItem" else {call.layer.axis or 0: given[0]}
    wanted = {axis % made.tensor.ndim: one for axis, one in taken.items() if one != slice(None)}
    right = [isinstance(one, int) or (isinstance(one, slice) and one.step in (None, 1)) for one in wanted.values()]
    if not wanted or not all(right) or 0 in wanted:
        raise refusal(call.layer, f"{', '.join(map(str, given))} taken of a value, not positions that follow one another")
    for axis in sorted(wanted, reverse=True):
        one, own, part = wanted[axis], _own_axis(made, axis), "" if axis == min(wanted) else f"_{axis}"
        if isinstance(one, int):
            made = reader.add(call.layer, "Select", made, part=part, first=made.first and axis != made.tensor.ndim - 1, axis=own, index=one)
        else:
            made = reader.add(call.layer, "Slice", made, part=part, axis=own, start=one.start or 0, end=one.stop)
    return made


def _product(reader: KerasReader, call: Call) -> KerasValue:
    """Convert a product with the pooling weights of adaptive average pooling."""
    shares, value = call.values
    if isinstance(shares, KerasValue) or not isinstance(value, KerasValue) or value.tensor.ndim != 3:
        raise refusal(call.layer, "a product that is no pooling of (N, L, C) to fewer positions")
    shares = np.asarray(torch.as_tensor(shares).cpu())
    if shares.ndim != 2 or not np.allclose(shares, grid_shares(shares.shape[1], len(shares)), atol=1e-6):
        raise refusal(call.layer, f"an array of the shape {shares.shape} that is no pooling to fewer positions")
    return reader.add(call.layer, "AdaptiveAvgPool1d", reader.channels_first(value), output_size=len(shares))


def _edge(reader: KerasReader, call: Call) -> KerasValue:
    cut = type(call.layer).__name__.startswith("Cropping")
    given = call.layer.cropping if cut else call.layer.padding
    pairs = [given] if isinstance(given[0], int) else given
    flat = [(-side if cut else side) for pair in reversed(pairs) for side in pair]
    return reader.placed(call.layer, reader.add(call.layer, "Pad", reader.spatial(call.layer, call.value), sizes=flat))


def _upsampling(reader: KerasReader, call: Call) -> KerasValue:
    mode = getattr(call.layer, "interpolation", "nearest")
    if mode not in ("nearest", "bilinear"):
        raise refusal(call.layer, f"interpolation={mode!r}")
    factor = _each(call.layer.size, call.value.tensor.ndim - 2)
    own: dict[str, Any] = {"align_corners": False} if mode == "bilinear" else {}
    made = reader.add(call.layer, "Upsample", reader.spatial(call.layer, call.value), scale_factor=factor, mode=mode, **own)
    return reader.placed(call.layer, made)


def _join(reader: KerasReader, call: Call) -> KerasValue:
    if not all(isinstance(value, KerasValue) for value in call.values):
        return _with_number(reader, call)
    aim = call.value.first if len({value.tensor.ndim for value in call.values}) == 1 else False
    kind = type(call.layer).__name__.lower().removeprefix("true")
    return reader.add(call.layer, "Join", *(reader.turned(value, first=aim) for value in call.values), kind=kind)


def _with_number(reader: KerasReader, call: Call) -> KerasValue:
    """Convert a value plus, minus, times or divided by a number."""
    kind, numbers = type(call.layer).__name__.removeprefix("True"), [one for one in call.values if isinstance(one, int | float)]
    first = kind in ("Subtract", "Divide") and bool(numbers) and numbers[0] is call.values[0]
    if len(call.values) != 2 or len(numbers) != 1 or kind not in ("Add", "Subtract", "Multiply", "Divide") or first:
        raise refusal(call.layer, "an array in place of a value, or a number in the first place")
    (value,), number = (one for one in call.values if isinstance(one, KerasValue)), float(numbers[0])
    if kind in ("Add", "Subtract"):
        weights = {"scale": 1.0, "offset": number if kind == "Add" else -number}
    else:
        weights = {"scale": number if kind == "Multiply" else 1.0 / number, "offset": 0.0}
    return reader.add(call.layer, "Affine", value, weights=weights)


def _concatenate(reader: KerasReader, call: Call) -> KerasValue:
    axis, values = _own_axis(call.value, call.layer.axis), (reader.turned(value, first=call.value.first) for value in call.values)
    return reader.add(call.layer, "Concatenate", *values, axis=axis)


def _relu(reader: KerasReader, call: Call) -> KerasValue:
    slope, threshold, largest = float(call.layer.negative_slope or 0), float(call.layer.threshold or 0), call.layer.max_value
    if not slope and not threshold and largest in (None, 6):
        return reader.add(call.layer, "ReLU" if largest is None else "ReLU6", call.value)
    largest = None if largest is None else float(largest)
    return reader.add(call.layer, "Rectifier", call.value, slope=slope, threshold=threshold, largest=largest)


def _prelu(reader: KerasReader, call: Call) -> KerasValue:
    slopes = array_of(call.layer.alpha)
    if slopes.size not in (slopes.shape[-1], slopes.shape[0]):
        raise refusal(call.layer, f"slopes of the shape {slopes.shape}, not one for each channel (shared_axes=)")
    value = reader.channels_first(call.value) if slopes.size == slopes.shape[-1] else reader.as_keras(call.value)
    return reader.add(call.layer, "PReLU", value, weights={"weight": slopes.ravel()}, num_parameters=slopes.size)


def _softmax(reader: KerasReader, call: Call) -> KerasValue:
    if isinstance(call.layer.axis, list | tuple):
        raise refusal(call.layer, f"axis={call.layer.axis}")
    return reader.add(call.layer, "Softmax", reader.as_keras(call.value), dim=call.layer.axis)


def _operation(reader: KerasReader, call: Call) -> KerasValue:
    kind, settings = ACTIVATIONS[type(call.layer).__name__.lower()]
    return reader.add(call.layer, kind, call.value, **settings)


def _unequal(reader: KerasReader, call: Call) -> KerasValue:
    if isinstance(call.values[-1], KerasValue) or np.ndim(call.values[-1]):
        raise refusal(call.layer, "two values that it compares, not one with a number")
    return reader.add(call.layer, "Unequal", reader.as_keras(call.value), number=float(call.values[-1]))


def _masking(reader: KerasReader, call: Call) -> KerasValue:
    value = reader.as_keras(call.value)
    mask = reader.add(call.layer, "Unequal", value, part="_unequal", number=float(call.layer.mask_value))
    kept = reader.add(call.layer, "Over", mask, part="_kept", kind="any", axes=[-1], keep=True)
    return reader.add(call.layer, "Join", value, kept, kind="multiply")


def _each_step(reader: KerasReader, call: Call) -> KerasValue:
    """Convert a layer that is applied to each step, if it works on the last axis only."""
    inner = call.layer.layer
    if type(inner).__name__ not in ("Dense", "Activation", "Dropout", "ReLU", "LeakyReLU", "Rescaling"):
        raise refusal(call.layer, f"a {type(inner).__name__} for each step")
    return ROWS[type(inner).__name__](reader, Call(inner, call.values, call.named))


def _dropout(reader: KerasReader, call: Call) -> KerasValue:
    kind = type(call.layer).__name__
    value = call.value if kind == "Dropout" else reader.channels_first(call.value)
    return reader.add(call.layer, kind.removeprefix("Spatial").capitalize(), value, p=float(call.layer.rate))


def _affine(reader: KerasReader, call: Call) -> KerasValue:
    layer = call.layer
    if type(layer).__name__ == "Rescaling":
        scale, offset = np.ravel(layer.scale).astype(np.float32), np.ravel(layer.offset).astype(np.float32)
    else:
        if layer.mean.numel() not in (1, layer.mean.shape[-1]):
            raise refusal(layer, f"axis={layer.axis}")
        mean, deviation = (np.ravel(np.asarray(each.detach().cpu())) for each in (layer.mean, layer.variance**0.5))
        deviation = np.maximum(deviation, 1e-7)
        scale, offset = (deviation, mean) if layer.invert else (1 / deviation, -mean / deviation)
    size = max(len(scale), len(offset))
    value = reader.as_keras(call.value) if size > 1 else call.value
    weights = {"scale": np.broadcast_to(scale, size), "offset": np.broadcast_to(offset, size)}
    return reader.add(call.layer, "Affine", value, weights=weights, size=size)


_AUGMENTING = (
    "Flip Rotation Zoom Translation Contrast Brightness Shear Hue Saturation Sharpness Perspective Erasing GaussianBlur ColorJitter"
)
_IN_TRAINING = ("GaussianNoise", "GaussianDropout", *(f"Random{kind}" for kind in _AUGMENTING.split()))

ROWS: dict[str, Row] = {
    "Dense": _dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _convolution),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys((f"Conv{rank}DTranspose" for rank in (1, 2, 3)), _transposed),
    **dict.fromkeys(("BatchNormalization", "LayerNormalization", "GroupNormalization"), _norm),
    **{"Embedding": _embedding, "Bidirectional": _both_ways, "MultiHeadAttention": _attention, "Attention": _dot_attention},
    "Dot": _dot,
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), lambda reader, call: _cells(reader, call, parts=[call.layer])),
    **dict.fromkeys((f"{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)), _pooling),
    **dict.fromkeys((f"Global{kind}Pooling{rank}D" for kind in ("Max", "Average") for rank in (1, 2, 3)), _global),
    "Flatten": lambda reader, call: reader.add(call.layer, "Flatten", reader.as_keras(reader.spatial(call.layer, call.value))),
    **{"Reshape": _reshape, "Permute": _permute},
    "RepeatVector": lambda reader, call: reader.add(call.layer, "Repeat", call.value, count=call.layer.n),
    **dict.fromkeys((f"{kind}{rank}D" for kind in ("ZeroPadding", "Cropping") for rank in (1, 2, 3)), _edge),
    **dict.fromkeys(("UpSampling1D", "UpSampling2D", "UpSampling3D"), _upsampling),
    **dict.fromkeys(("Add", "Subtract", "Multiply", "TrueDivide", "Divide", "Average", "Maximum", "Minimum"), _join),
    **{"LogicalAnd": _join, "LogicalOr": _join, "NotEqual": _unequal, "Masking": _masking, "TimeDistributed": _each_step},
    **dict.fromkeys(("Relu", "Sigmoid", "Tanh"), _operation),
    **{"Concatenate": _concatenate, "ReLU": _relu, "PReLU": _prelu},
    "Activation": lambda reader, call: reader.activated(call.layer, call.value),
    "LeakyReLU": lambda reader, call: reader.add(call.layer, "LeakyReLU", call.value, negative_slope=float(call.layer.negative_slope)),
    "ELU": lambda reader, call: reader.add(call.layer, "ELU", call.value, alpha=float(call.layer.alpha)),
    "Softmax": _softmax,
    **dict.fromkeys(("Dropout", "SpatialDropout1D", "SpatialDropout2D"), _dropout),
    **dict.fromkeys(("ActivityRegularization", "Identity", *_IN_TRAINING), lambda _reader, call: call.value),
    **dict.fromkeys(("Rescaling", "Normalization"), _affine),
    **{"Cast": _cast, "Matmul": _product},
    **dict.fromkeys(
        ("Sqrt", "Square"), lambda reader, call: reader.add(call.layer, "Function", call.value, kind=type(call.layer).__name__.lower())
    ),
    **dict.fromkeys(("Mean", "Var", "Sum", "Max", "Any"), _reduced),
    **{"Take": _selected, "GetItem": _selected, "Moveaxis": _permute, "Transpose": _permute, "ExpandDims": _with_axis},
}
"""Converter for each layer or function of Keras, by class name. Layers that change something in training only are skipped."""
