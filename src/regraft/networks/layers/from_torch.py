"""Table of PyTorch operators and their Keras counterparts. A program with any other operator is refused by operator and layer name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..keras.library import keras
from .keras_reader import ACTIVATIONS, same_edges
from .torch_reader import LEAST, Operation, Row, States, TorchReader, TorchValue, axes_of, each, edged, last_of, plain
from .torch_shapes import SHAPES

# ── layers with weights ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _linear(reader: TorchReader, call: Operation) -> TorchValue:
    weight, bias, axes = call["weight"], call["bias"], call.value.axes
    axes = axes if axes[-1] == len(axes) - 1 else tuple(range(len(axes)))
    value = reader.turned(call, call.value, axes=axes)
    made = reader.layer(call, keras.layers.Dense, value, weights=[weight.T, bias], units=len(weight), use_bias=bias is not None)
    return TorchValue(made, axes)


def _convolution(reader: TorchReader, call: Operation) -> TorchValue:
    weight, bias, groups, given = (call[name] for name in ("weight", "bias", "groups", "padding"))
    rank = weight.ndim - 2
    sizes, strides, rates = list(weight.shape[2:]), each(call["stride"], rank), each(call["dilation"], rank)
    even = [same_edges(0, (size - 1) * rate + 1, stride=1) for size, rate in zip(sizes, rates, strict=True)]
    padding = {"same": even, "valid": [(0, 0)] * rank}[given] if isinstance(given, str) else [(side, side) for side in each(given, rank)]
    same = set(strides) == {1} and padding == even
    value = reader.last(call, call.value)
    value = value if same else edged(reader, call, tensor=value, sides=padding)
    channels, kernel = weight.shape[1] * groups, weight.movedim((0, 1), (-1, -2))
    kind, own = f"Conv{rank}D", {"filters": len(weight), "groups": groups}
    if groups == channels > 1 and rank < 3 and len(set(strides)) == 1:
        kernel = kernel.reshape(*sizes, channels, -1)
        kind, own = f"DepthwiseConv{rank}D", {"depth_multiplier": kernel.shape[-1]}
    own |= {"kernel_size": sizes, "strides": strides, "dilation_rate": rates}
    padded = {"padding": "same" if same else "valid", "use_bias": bias is not None}
    return last_of(reader.layer(call, getattr(keras.layers, kind), value, weights=[kernel, bias], **padded, **own))


def _transposed(reader: TorchReader, call: Operation) -> TorchValue:
    weight, bias = call["weight"], call["bias"]
    rank = weight.ndim - 2
    sizes, strides = list(weight.shape[2:]), each(call["stride"], rank)
    if call["groups"] != 1 or set(each(call["dilation"], rank)) != {1}:
        raise call.refusal(f"groups={call['groups']}, dilation={call['dilation']}")
    kind = getattr(keras.layers, f"Conv{rank}DTranspose")
    settings = {"filters": weight.shape[1], "kernel_size": sizes, "strides": strides, "use_bias": bias is not None}
    made = reader.layer(call, kind, reader.last(call, call.value), weights=[weight.movedim((0, 1), (-1, -2)), bias], **settings)
    further = [max(stride - size, 0) for size, stride in zip(sizes, strides, strict=True)]  # Keras adds these at the end
    ends = zip(each(call["padding"], rank), each(call["output_padding"], rank), further, strict=True)
    return last_of(edged(reader, call, tensor=made, sides=[(-side, more - side - own) for side, more, own in ends]))


def _norm(reader: TorchReader, call: Operation) -> TorchValue:
    """Convert batch, layer and group normalisation."""
    weights, layers = [call["weight"], call["bias"]], keras.layers
    settings = {"epsilon": call["eps"], "scale": weights[0] is not None, "center": weights[1] is not None}
    if call.kind == "layer_norm":
        value, rank = reader.turned(call, call.value), len(call.value.axes)
        settings["axis"] = list(range(rank - len(call["normalized_shape"]), rank))
        return plain(reader.layer(call, layers.LayerNormalization, value, weights=weights, **settings))
    value = reader.last(call, call.value)
    if call.kind == "group_norm":
        return last_of(reader.layer(call, layers.GroupNormalization, value, weights=weights, groups=call["num_groups"], **settings))
    if call["running_mean"] is None or call["training"]:
        raise call.refusal("statistics of the batch itself")
    weights += [call["running_mean"], call["running_var"]]
    return last_of(reader.layer(call, layers.BatchNormalization, value, weights=weights, momentum=1 - call["momentum"], **settings))


def _embedding(reader: TorchReader, call: Operation) -> TorchValue:
    table, at = list(call.given.values())[:2]
    at = at[0] if isinstance(at, list) and len(at) == 1 else at
    if not isinstance(at, TorchValue) or not isinstance(table, Tensor) or table.ndim != 2:
        raise call.refusal("indices that are no input, or of a value of the network")
    value = reader.turned(call, at)
    settings = {"input_dim": table.shape[0], "output_dim": table.shape[1]}
    return plain(reader.layer(call, keras.layers.Embedding, value, weights=[table], **settings))


def _prelu(reader: TorchReader, call: Operation) -> TorchValue:
    value = reader.last(call, call.value)
    channels, rank = value.shape[-1], len(value.shape)
    slopes = call["weight"].expand(channels).reshape([1] * (rank - 2) + [channels])
    return last_of(reader.layer(call, keras.layers.PReLU, value, weights=[slopes], shared_axes=list(range(1, rank - 1)) or None))


_CELLS = {"lstm": ("LSTM", (0, 1, 2, 3)), "gru": ("GRU", (1, 0, 2)), **dict.fromkeys(("rnn_tanh", "rnn_relu"), ("SimpleRNN", (0,)))}
"""Keras layer of each operator, and its gate order as positions in PyTorch."""


def _recurrent(reader: TorchReader, call: Operation) -> list[Any]:
    kind, order = _CELLS[call.kind]
    count, both = call["num_layers"], call["bidirectional"]
    if any(one is not None for one in (call["hx"] if isinstance(call["hx"], list) else [call["hx"]])):
        raise call.refusal("first states")
    directions, used = 1 + both, {node.args[1] for node in call.node.users if node.users}
    size, axes = 2 + 2 * call["has_biases"], (0, 1, 2) if call["batch_first"] else (1, 0, 2)
    value, parts = reader.turned(call, call.value, axes=axes), call["params"]
    if len(parts) != count * directions * size:
        raise call.refusal("projections")
    states: list[Any] = []
    for depth in range(count):
        own = [parts[at : at + size] for at in range(depth * directions * size, (depth + 1) * directions * size, size)]
        weights = [weight for part in own for weight in _cell_weights(part, kind, order=order)]
        whole, units = depth + 1 < count or 0 in used, len(own[0][1].T)
        settings = {"return_sequences": whole, "use_bias": call["has_biases"], "name": reader.name(call, f"cells{depth}")}
        settings |= {"activation": "relu"} if call.kind == "rnn_relu" else {}
        cells = getattr(keras.layers, kind)(units, **settings)
        layer = keras.layers.Bidirectional(cells, name=reader.name(call, f"both{depth}")) if both else cells
        value = layer(value)
        layer.set_weights(weights)
        layer.trainable = not reader.held(call.layer)
        if used - {0}:
            ends = [value[:, -1, :units], value[:, 0, units:]] if whole else [value[:, :units], value[:, units:]]
            states += ends if both else ends[:1] if whole else [value]
    last = value
    if states and (count > 1 or 0 in used):
        last = keras.layers.Concatenate(name=reader.name(call, "states"))(states) if len(states) > 1 else states[0]
    return [TorchValue(value, axes) if 0 in used else None, States(last, states), None]


def _cell_weights(part: Sequence[Tensor], kind: str, *, order: Sequence[int]) -> list[Tensor]:
    kernel, recurrent, *biases = (torch.cat([one.chunk(len(order), 0)[at] for at in order]) for one in part)
    bias = [] if not biases else [torch.stack(biases)] if kind == "GRU" else [biases[0] + biases[1]]
    return [kernel.T, recurrent.T, *bias]


def _masked_cells(reader: TorchReader, call: Operation) -> TorchValue:
    """Convert a `graph.Recurrent` layer that has a mask, or that PyTorch does not have."""
    parts, steps, both, after = call["weights"], call["steps"], len(call["weights"]) > 4, call["after"]
    kind, order = _CELLS[{"RNN": "rnn_tanh"}.get(call["kind"], call["kind"].lower())]
    settings = {"return_sequences": steps, "go_backwards": call["backwards"], "name": reader.name(call, "cells")}
    names = {made: name for name, (made, _) in ACTIVATIONS.items()}
    own = dict(zip(("recurrent_activation", "activation"), (names[one] for one in call["activations"].split(",") if one), strict=False))
    settings |= {name: one for name, one in own.items() if kind != "SimpleRNN" or name == "activation"}
    settings |= {"reset_after": after} if kind == "GRU" else {}
    layer = getattr(keras.layers, kind)(parts[1].shape[1], **settings)
    if both:
        layer = keras.layers.Bidirectional(layer, merge_mode=call["joined"], name=reader.name(call, "both"))
    made = layer(reader.turned(call, call.value), mask=None if call["mask"] is None else reader.turned(call, call["mask"]))
    weights = [_cell_weights(parts[at : at + 4], kind if after else "", order=order) for at in range(0, len(parts), 4)]
    layer.set_weights([weight.detach() for each in weights for weight in each])
    layer.trainable = not reader.held(call.layer)
    return plain(made)


def _attention(reader: TorchReader, call: Operation) -> TorchValue:
    heads, end, whole = call["heads"], call["output_weight"], call["output_bias"]
    weights: list[Tensor] = []
    for name in ("query", "key", "value"):
        kernel, bias = call[f"{name}_weight"], call[f"{name}_bias"]
        weights += [kernel.T.reshape(kernel.shape[1], heads, -1), *([] if whole is None else [bias.reshape(heads, -1)])]
    weights += [end.T.reshape(heads, -1, len(end)), *([] if whole is None else [whole])]
    settings = {"num_heads": heads, "key_dim": len(call["key_weight"]) // heads, "value_dim": len(call["value_weight"]) // heads}
    query, key, value = (reader.turned(call, call[name]) for name in ("query", "key", "value"))
    layer = keras.layers.MultiHeadAttention(**settings, output_shape=len(end), use_bias=whole is not None, name=reader.name(call, "heads"))
    mask = None if call["mask"] is None else reader.turned(call, call["mask"])
    made = layer(query, value, key, attention_mask=mask, use_causal_mask=call["causal"])
    layer.set_weights([one.detach().cpu().float().numpy() for one in weights])
    layer.trainable = not reader.held(call.layer)
    return plain(made)


# ── functions ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


_USUAL = {"alpha": 1, "beta": 1, "threshold": 20}  # Settings of activations that Keras cannot change


def _activation(name: str) -> Row:
    def row(reader: TorchReader, call: Operation) -> Any:
        given = {setting: call[setting] for setting in _USUAL if setting in call.given}
        if any(number != _USUAL[setting] for setting, number in given.items()):
            raise call.refusal(", ".join(f"{setting}={number}" for setting, number in given.items()))
        return reader.layer(call, keras.layers.Activation, call.value.tensor, activation=name)

    return row


def _function(name: str) -> Row:
    return lambda _reader, call: getattr(keras.ops, name)(call.value.tensor)


def _with_settings(reader: TorchReader, call: Operation) -> Any:
    value, layers, kind = call.value.tensor, keras.layers, call.kind
    if kind == "gelu":
        exact = call["approximate"] == "none"
        return reader.layer(call, layers.Activation, value, activation="gelu") if exact else keras.ops.gelu(value, approximate=True)
    if kind == "leaky_relu":
        return reader.layer(call, layers.LeakyReLU, value, negative_slope=float(call["negative_slope"]))
    if kind == "elu":
        if (call["scale"], call["input_scale"]) != (1, 1):
            raise call.refusal(f"scale={call['scale']}")
        return reader.layer(call, layers.ELU, value, alpha=float(call["alpha"]))
    least, largest = (call["min_val"], call["max_val"]) if kind == "hardtanh" else (call.given.get("min"), call.given.get("max"))
    if kind == "hardtanh" and (least, largest) == (0, 6):
        return reader.layer(call, layers.ReLU, value, max_value=6.0)
    if not all(isinstance(limit, int | float | None) for limit in (least, largest)):
        raise call.refusal("values as limits")
    return keras.ops.clip(value, LEAST if least is None else least, -LEAST if largest is None else largest)


def _softmax(reader: TorchReader, call: Operation) -> Any:
    (axis,) = axes_of(call, call["dim"])
    if call.kind == "log_softmax":
        return keras.ops.log_softmax(call.value.tensor, axis=axis)
    axis = -1 if axis == len(call.value.axes) - 1 else axis
    return reader.layer(call, keras.layers.Softmax, call.value.tensor, axis=axis)


def _dropout(reader: TorchReader, call: Operation) -> Any:
    rate, rank = float(call["p"]), len(call.value.axes)
    if call.kind == "feature_dropout" and rank in (3, 4):
        kind = getattr(keras.layers, f"SpatialDropout{rank - 2}D")
        return last_of(reader.layer(call, kind, reader.last(call, call.value), rate=rate))
    return reader.layer(call, keras.layers.Dropout, call.value.tensor, rate=rate) if rate else call.value


_JOINS = {"add": "Add", "sub": "Subtract", "mul": "Multiply", "div": "Divide", "maximum": "Maximum", "minimum": "Minimum"}


def _join(reader: TorchReader, call: Operation) -> TorchValue:
    one, two = list(call.given.values())[:2]
    if call.kind == "rsub":
        call, one, two = replace(call, kind="sub"), two, one
    if call.given.get("alpha", 1) != 1 or call.given.get("rounding_mode") is not None:
        raise call.refusal(f"alpha={call.given.get('alpha')}, rounding_mode={call.given.get('rounding_mode')}")
    if not isinstance(one, TorchValue) or not isinstance(two, TorchValue):
        return _with_number(reader, call, one=one, two=two)
    axes = one.axes if len(one.axes) == len(two.axes) else None
    values = [reader.turned(call, value, axes=axes) for value in (one, two)]
    made = keras.ops.divide(*values) if call.kind == "div" else reader.layer(call, getattr(keras.layers, _JOINS[call.kind]), values)
    return TorchValue(made, axes) if axes else plain(made)


def _squared_difference(reader: TorchReader, call: Operation) -> Any:
    one, two = call["self"], call["target"]
    if call["reduction"] != 0 or not isinstance(two, TorchValue):
        raise call.refusal("a mean over examples, or weights")
    return keras.ops.square(keras.ops.subtract(one.tensor, reader.turned(call, two, axes=one.axes)))


def _with_number(reader: TorchReader, call: Operation, *, one: Any, two: Any) -> TorchValue:
    """Convert a value plus, minus, times or divided by constants: one number, one per channel, or an array. Trained weights are refused."""
    value, other = (one, two) if isinstance(one, TorchValue) else (two, one)
    first = value is one
    trained = isinstance(other, Tensor) and other.requires_grad
    if trained or not isinstance(other, int | float | Tensor) or (call.kind in ("maximum", "minimum")):
        raise call.refusal(f"the weights {next(iter(call.names.values()), '')!r} beside a value")
    numbers = torch.as_tensor(other, dtype=torch.float32)
    tensor, axes = value.tensor, value.axes
    if numbers.numel() > 1:
        wide = [axis for axis, side in zip(range(len(axes) - numbers.ndim, len(axes)), numbers.shape, strict=True) if side > 1]
        if numbers.ndim > len(axes):
            raise call.refusal(f"numbers of the shape {tuple(numbers.shape)} beside a value")
        if len(wide) > 1:
            pair = [reader.turned(call, value), numbers.clamp_min(LEAST).cpu().numpy()]
            return plain(getattr(keras.ops, _JOINS[call.kind].lower())(*(pair if first else pair[::-1])))
        order = [axis for axis in range(len(axes)) if axis != wide[0]] + wide
        axes = tuple(order.index(axis) for axis in range(len(axes)))
        tensor = reader.turned(call, value, axes=axes)
    if call.kind == "div" and not first:
        raise call.refusal("a number divided by a value")
    given = numbers.flatten().double()
    zero, one_ = torch.zeros_like(given), torch.ones_like(given)
    pairs = {"add": (one_, given), "mul": (given, zero), "sub": (one_, -given) if first else (-one_, given), "div": (1 / given, zero)}
    scale, offset = (part.tolist() if part.numel() > 1 else part.item() for part in pairs[call.kind])
    return TorchValue(reader.layer(call, keras.layers.Rescaling, tensor, scale=scale, offset=offset), axes)


def _concatenate(reader: TorchReader, call: Operation) -> TorchValue:
    values = [value.together if isinstance(value, States) else value for value in call["tensors"]]
    if not all(isinstance(value, TorchValue) for value in values):
        raise call.refusal("weights beside values")
    axes = values[0].axes
    axis = axes[call["dim"] % len(axes)]
    tensors = [reader.turned(call, value, axes=axes) for value in values]
    return TorchValue(reader.layer(call, keras.layers.Concatenate, tensors, axis=-1 if axis == len(axes) - 1 else axis), axes)


ROWS: dict[str, Row] = {
    **{"linear": _linear, "batch_norm": _norm, "layer_norm": _norm, "group_norm": _norm, "embedding": _embedding, "index": _embedding},
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **dict.fromkeys(_CELLS, _recurrent),
    **{"attention": _attention, "cells": _masked_cells, "prelu": _prelu, "cat": _concatenate},
    "zeros": lambda _reader, _call: None,  # initial states
    **{name: _activation(name) for name in ("relu", "relu6", "sigmoid", "tanh", "silu", "selu", "celu", "mish", "log_sigmoid")},
    **{"hardswish": _activation("hard_silu"), "hardsigmoid": _activation("hard_sigmoid"), "softplus": _activation("softplus")},
    **dict.fromkeys(("gelu", "leaky_relu", "elu", "hardtanh", "clamp", "clamp_max", "clamp_min"), _with_settings),
    **{name: _function(name) for name in ("exp", "log", "sin", "cos", "abs", "sqrt", "rsqrt", "square", "reciprocal")},
    **{"atan": _function("arctan"), "neg": _function("negative"), "softmax": _softmax, "log_softmax": _softmax},
    **dict.fromkeys(("dropout", "feature_dropout"), _dropout),
    "mse_loss": _squared_difference,
    **dict.fromkeys(("add", "sub", "rsub", "mul", "div", "maximum", "minimum"), _join),
    **SHAPES,
}
"""Converter for each operator, by short name."""
