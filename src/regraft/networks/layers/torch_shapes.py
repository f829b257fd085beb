"""Keras counterparts of PyTorch operators without weights: pooling, shapes, slicing, products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..keras.library import keras
from ..parts.taps import grid_shares
from .keras_reader import same_edges
from .torch_reader import BATCH, LEAST, Operation, Row, States, TorchReader, TorchValue, axes_of, channels_last, each, edged, last_of, plain


def _pooling(reader: TorchReader, call: Operation) -> TorchValue:
    rank, largest = len(call.value.axes) - 2, call.kind.startswith("max")
    sizes = each(call["kernel_size"], rank)
    strides, padding = each(call["stride"] or sizes, rank), each(call["padding"], rank)
    if largest and set(each(call["dilation"], rank)) != {1}:
        raise call.refusal(f"dilation={call['dilation']}")
    if call.given.get("divisor_override") is not None:
        raise call.refusal(f"divisor_override={call['divisor_override']}")
    axes = list(zip(call.value.shape[2:], sizes, strides, strict=True))
    beyond = [
        max((out - 1) * stride + size - side - 2 * edge, 0) if side else 0
        for (side, size, stride), out, edge in zip(axes, call.shape[2:], padding, strict=True)
    ]
    value, sides = reader.last(call, call.value), [(edge, edge + more) for edge, more in zip(padding, beyond, strict=True)]
    kind = getattr(keras.layers, f"{'Max' if largest else 'Average'}Pooling{rank}D")
    settings: dict[str, Any] = {"pool_size": sizes, "strides": strides}
    padded, counted = any(map(any, sides)), largest or (call["count_include_pad"] and not any(beyond))
    even = all(before == behind for before, behind in sides)  # Keras on PyTorch replicates uneven edges in average pooling
    same = sides == [same_edges(side or 0, size, stride=stride) for side, size, stride in axes]
    same = same and all(side is not None or stride == 1 for side, _, stride in axes)
    if padded and same and (largest or (not counted and even)):
        return last_of(reader.layer(call, kind, value, padding="same", **settings))
    if padded and not counted:
        return _average(reader, call, value=value, sides=sides, settings=settings)
    never_negative = str(getattr(call.node.args[0], "target", "")).startswith(("aten.relu", "aten.sigmoid"))
    value = edged(reader, call, tensor=value, sides=sides, fill=LEAST if largest and not never_negative else 0.0)
    return last_of(reader.layer(call, kind, value, **settings))


def _average(  # over the limit: a pooling as it is called
    reader: TorchReader, call: Operation, *, value: Any, sides: Sequence[tuple[int, int]], settings: dict[str, Any]
) -> TorchValue:
    """Return average pooling in which some padded positions do not count: pool with zero padding, then rescale by the counted share."""
    inner, outer, rank = call.value.shape[2:], call.shape[2:], len(sides)
    if any(side is None for side in inner):
        raise call.refusal("edges that do not count in averages over an open length")
    scale, padding = np.ones(()), each(call["padding"], rank)
    for at, (size, stride) in enumerate(zip(settings["pool_size"], settings["strides"], strict=True)):
        edge = padding[at] if call["count_include_pad"] else 0
        start = np.arange(outer[at]) * stride - padding[at]
        counted = np.minimum(start + size, (inner[at] or 0) + edge) - np.maximum(start, -edge)
        scale = np.multiply.outer(scale, size / counted)
    pooled = getattr(keras.layers, f"AveragePooling{rank}D")
    made = reader.layer(call, pooled, edged(reader, call, tensor=value, sides=sides), **settings)
    return last_of(keras.ops.multiply(made, scale[..., None].astype("float32")))


def _adaptive(reader: TorchReader, call: Operation) -> TorchValue:
    rank, inner = len(call.value.axes) - 2, call.value.shape[2:]
    outer = each(call["output_size"], rank)
    kind = "Max" if "max" in call.kind else "Average"
    value = reader.last(call, call.value)
    if set(outer) == {1}:
        return last_of(reader.layer(call, getattr(keras.layers, f"Global{kind}Pooling{rank}D"), value, keepdims=True))
    if rank == 1 and kind == "Average" and inner[0] is not None and inner[0] % outer[0]:
        return last_of(keras.ops.matmul(grid_shares(inner[0], outer[0]), value))
    if any(side is None or side % out for side, out in zip(inner, outer, strict=True)):
        raise call.refusal(f"windows of different sizes ({inner} to {outer})")
    sizes = [side // out for side, out in zip(inner, outer, strict=True) if side]
    if set(sizes) == {1}:
        return call.value
    return last_of(reader.layer(call, getattr(keras.layers, f"{kind}Pooling{rank}D"), value, pool_size=sizes, strides=sizes))


def _without_positions(row: Row) -> Row:
    """Return the converter of an operator that also gives the positions of the largest values, which nothing may read."""
    return lambda reader, call: [row(reader, call), None]


def _reduced(reader: TorchReader, call: Operation) -> TorchValue:
    rank, keep, given = len(call.value.axes), call.given.get("keepdim"), call.given.get("dim")
    dims = sorted(dim % rank for dim in ([] if given is None else given if isinstance(given, list | tuple) else [given]))
    name = {"mean": "Average", "amax": "Max"}.get(call.kind)
    if not dims or 0 in axes_of(call, dims):
        raise call.refusal(f"dim={given}, which mixes examples")
    first, last = dims == list(range(2, rank)), dims == list(range(1, rank - 1))  # where the channels are
    if name and (first or last) and 3 <= rank <= 5:
        value = reader.last(call, call.value) if first else reader.turned(call, call.value)
        made = reader.layer(call, getattr(keras.layers, f"Global{name}Pooling{rank - 2}D"), value, keepdims=keep)
        return last_of(made) if keep and first else plain(made)
    function = getattr(keras.ops, {"amax": "max"}.get(call.kind, call.kind))
    made = function(call.value.tensor, axis=tuple(axes_of(call, dims)), keepdims=keep)
    return TorchValue(made, call.value.axes) if keep else _without(call, made, dims=dims)


def _without(call: Operation, tensor: Any, *, dims: Sequence[int]) -> TorchValue:
    """Return a value after some dimensions have been removed."""
    kept = [axis for dim, axis in enumerate(call.value.axes) if dim not in dims]
    return TorchValue(tensor, tuple(sorted(kept).index(axis) for axis in kept))


def _reshaped(reader: TorchReader, call: Operation) -> TorchValue:
    given, shape = next(iter(call.given.values())), call.shape
    if isinstance(given, States) and len(shape) == 2:
        return plain(given.whole)
    whole, axes, at = call.value.shape, call.value.axes, call.value.axes.index(0)
    to = shape.index(BATCH) if shape.count(BATCH) == 1 else 0
    parts = ((whole[:at], shape[:to]), (whole[at + 1 :], shape[to + 1 :]))
    if BATCH in shape[to + 1 :] or any(None not in own and math.prod(own) != math.prod(new) for own, new in parts):  # type: ignore[arg-type]
        raise call.refusal("a shape that mixes examples")
    if at == to and (whole[:at], whole[at + 1 :]) == (shape[:to], shape[to + 1 :]):
        return call.value
    if at or to:  # examples do not stand first: they are left out of the new shape
        moved = TorchValue(call.value.tensor, (0, *axes[:at], *axes[at + 1 :]))
        sides = [-1 if None in own and side != 1 else side for own, new in parts for side in new]
        made = keras.layers.Reshape(sides, name=reader.name(call, "shape"))(reader.turned(call, moved))
        return TorchValue(made, (*range(1, to + 1), 0, *range(to + 1, len(shape))))
    old = whole[1:]
    if len(old) > 2 and len(shape) == 3 and old[0] == shape[1] and axes == channels_last(len(old) + 1):
        return last_of(reader.layer(call, keras.layers.Reshape, call.value.tensor, target_shape=shape[:0:-1]))  # merges positions only
    thin = sum(side != 1 for side in old) < 2  # with one long axis the order of the others does not matter
    value = call.value.tensor if thin else reader.turned(call, call.value)
    if len(shape) == 2:
        return plain(reader.layer(call, keras.layers.Flatten, value) if len(value.shape) > 2 else value)
    sides = list(shape[1:])
    if old.count(None) == 1 and (length := call.node.args[0].meta["val"].shape[1 + old.index(None)]) in sides:  # type: ignore[union-attr]
        sides[sides.index(length)] = -1  # the axis of any length, which the comparison on a longer example proves
    return plain(reader.layer(call, keras.layers.Reshape, value, target_shape=sides))


def _turned(_reader: TorchReader, call: Operation) -> Any:
    given = next(iter(call.given.values()))
    if isinstance(given, States):
        return given
    marked = np.empty(range(1, len(call.value.axes) + 1))  # the length of each axis is its place
    if call.kind == "permute":
        marked = marked.transpose(call["dims"])
    elif call.kind == "transpose":
        marked = marked.swapaxes(call["dim0"], call["dim1"])
    elif call.kind == "movedim":
        marked = np.moveaxis(marked, call["source"], call["destination"])
    else:
        marked = marked.T
    return TorchValue(call.value.tensor, tuple(call.value.axes[place - 1] for place in marked.shape))


def _as_numbers(_reader: TorchReader, call: Operation) -> Any:
    old, new = call.node.args[0].meta["val"].dtype, call.node.meta["val"].dtype  # type: ignore[union-attr]  # a node
    if old.is_floating_point and new not in (torch.float32, torch.float64):
        raise call.refusal(f"dtype={new}")
    return call.value if old.is_floating_point or not new.is_floating_point else keras.ops.cast(call.value.tensor, "float32")


def _picked(call: Operation, *, dim: int, index: Any) -> Any:
    """Return a Keras tensor indexed or sliced along one PyTorch dimension."""
    (axis,) = axes_of(call, dim)
    if axis == 0:
        raise call.refusal("single examples")
    return call.value.tensor[(*(slice(None),) * axis, index)]


def _select(_reader: TorchReader, call: Operation) -> TorchValue:
    given = next(iter(call.given.values()))
    if isinstance(given, States):
        return plain(given.each[call["index"]])
    rank = len(call.value.axes)
    return _without(call, _picked(call, dim=call["dim"], index=call["index"]), dims=[call["dim"] % rank])


def _slice(_reader: TorchReader, call: Operation) -> Any:
    end = None if call["end"] is None or call["end"] >= 2**62 else call["end"]
    whole = not call["start"] and end is None and call["step"] == 1
    return call.value if whole else _picked(call, dim=call["dim"], index=slice(call["start"] or 0, end, call["step"]))


def _parts(_reader: TorchReader, call: Operation) -> list[TorchValue]:
    dim, shape = call["dim"] % len(call.value.axes), call.value.shape
    side = shape[dim] or 0
    if call.kind == "unbind":
        return [_without(call, _picked(call, dim=dim, index=at), dims=[dim]) for at in range(side)]
    if call.kind == "chunk":
        sizes = [math.ceil(side / call["chunks"])] * call["chunks"]
    else:
        given = call["split_size"] if "split_size" in call.given else call["split_sizes"]
        sizes = given if isinstance(given, list) else [given] * math.ceil(side / given)
    ends = np.minimum(np.cumsum(sizes), side).tolist()
    parts = map(slice, [0, *ends[:-1]], ends)
    return [TorchValue(_picked(call, dim=dim, index=part), call.value.axes) for part in parts]


def _expand(_reader: TorchReader, call: Operation) -> Any:
    if len(call.shape) != len(call.value.axes) or call.shape[0] != BATCH:
        raise call.refusal("further axes")
    return _repeated(call.value, call.shape)


def _repeated(value: TorchValue, shape: Sequence[int]) -> Any:
    """Return the tensor of a value whose axes of size 1 are repeated to a shape in PyTorch's axis order."""
    tensor = value.tensor
    for axis, old, new in zip(value.axes, value.shape, shape, strict=True):
        if old == 1 and new > 1:
            tensor = keras.ops.repeat(tensor, new, axis=axis)
    return tensor


def _broadcast(_reader: TorchReader, call: Operation) -> list[TorchValue]:
    values: list[TorchValue] = call["tensors"]
    shapes = [value.shape[1:] for value in values]
    if len(set(shapes)) == 1:
        return values
    if len(set(map(len, shapes))) > 1 or not all(isinstance(value, TorchValue) for value in values):
        raise call.refusal(f"examples of the shapes {', '.join(map(str, shapes))}")
    whole = [max(side or 1 for side in sides) for sides in zip(*(value.shape for value in values), strict=True)]
    return [TorchValue(_repeated(value, whole), value.axes) for value in values]


def _pad(reader: TorchReader, call: Operation) -> Any:
    mode, sizes, axes = call.given.get("mode", "constant"), call["pad"], call.value.axes
    pairs = dict(zip(axes[::-1], zip(sizes[::2], sizes[1::2], strict=True), strict=False))  # by Keras axis; the last dimension is first
    tensor, rank = call.value.tensor, len(axes)
    if mode == "replicate":
        for axis, pair in pairs.items():
            ends = [(side, (slice(None),) * axis + (end,)) for side, end in zip(pair, (slice(0, 1), slice(-1, None)), strict=True)]
            before, behind = ([keras.ops.repeat(tensor[end], side, axis=axis)] if side else [] for side, end in ends)
            tensor = keras.ops.concatenate([*before, tensor, *behind], axis=axis) if any(pair) else tensor
        return tensor
    if mode != "constant":
        raise call.refusal(f"mode={mode!r}")
    fill = max(float(call["value"] or 0.0), LEAST)
    if len(pairs) < rank - 1 and 3 <= rank <= 5:
        sides = [pairs.get(axis, (0, 0)) for axis in axes[2:]]
        return last_of(edged(reader, call, tensor=reader.last(call, call.value), sides=sides, fill=fill))
    if any(side < 0 for side in sizes) or len(pairs) >= rank:
        raise call.refusal(f"pad={sizes}")
    return keras.ops.pad(tensor, [pairs.get(axis, (0, 0)) for axis in range(rank)], constant_values=fill)


def _larger(reader: TorchReader, call: Operation) -> TorchValue:
    rank, inner, outer = len(call.value.axes) - 2, call.value.shape[2:], call.shape[2:]
    if call.given.get("align_corners") or any(side is None or out % side for side, out in zip(inner, outer, strict=True)):
        raise call.refusal(f"align_corners, or a size that is no multiple ({inner} to {outer})")
    size = [out // side for side, out in zip(inner, outer, strict=True) if side]
    own: dict[str, Any] = {"interpolation": "bilinear"} if "bilinear" in call.kind else {}
    value, kind = reader.last(call, call.value), getattr(keras.layers, f"UpSampling{rank}D")
    return last_of(reader.layer(call, kind, value, size=size if rank > 1 else size[0], **own))


def _matmul(reader: TorchReader, call: Operation) -> TorchValue:
    one, two = list(call.given.values())[:2]
    if not isinstance(one, TorchValue) or not isinstance(two, TorchValue):
        raise call.refusal(f"the weights {next(iter(call.names.values()), '')!r} outside a linear layer")
    return plain(keras.ops.matmul(reader.turned(call, one), reader.turned(call, two)))


def _scaled_attention(reader: TorchReader, call: Operation) -> TorchValue:
    query, key, value, mask = (call[name] for name in ("query", "key", "value", "attn_mask"))
    if isinstance(mask, Tensor) and mask.requires_grad:
        raise call.refusal(f"the weights {next(iter(call.names.values()), '')!r} as a mask")
    if call["is_causal"]:
        mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool).tril()
    scale = call["scale"] or 1 / math.sqrt(query.shape[-1])
    turned = TorchValue(key.tensor, (*key.axes[:-2], key.axes[-1], key.axes[-2]))
    scores = keras.ops.matmul(reader.turned(call, query), reader.turned(call, turned))
    scores = keras.layers.Rescaling(scale, name=reader.name(call, "scale"))(scores)
    if isinstance(mask, Tensor):  # the same for all examples
        kept = torch.where(mask, 0.0, LEAST) if mask.dtype == torch.bool else mask.clamp_min(LEAST)
        scores = keras.ops.add(scores, kept.float().cpu().numpy())
    elif mask is not None and mask.tensor.dtype == "bool":
        scores = keras.ops.where(reader.turned(call, mask), scores, LEAST)
    elif mask is not None:
        scores = keras.ops.add(scores, reader.turned(call, mask))
    weights = keras.layers.Softmax(name=reader.name(call, "softmax"))(scores)
    return plain(keras.ops.matmul(weights, reader.turned(call, value)))


def _compared(reader: TorchReader, call: Operation) -> Any:
    """Convert comparisons and logical operations on masks."""
    other = call["other"]
    other = reader.turned(call, other, axes=call.value.axes) if isinstance(other, TorchValue) else other
    return _COMPARED[call.kind](call.value.tensor, other)


_COMPARED: dict[str, Any] = {
    **{"ge": keras.ops.greater_equal, "gt": keras.ops.greater, "ne": keras.ops.not_equal, "eq": keras.ops.equal},
    **{"lt": keras.ops.less, "le": keras.ops.less_equal, "greater": keras.ops.greater, "less": keras.ops.less},
    **dict.fromkeys(("logical_and", "bitwise_and", "__and"), keras.ops.logical_and),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or"), keras.ops.logical_or),
}


def _where(reader: TorchReader, call: Operation) -> TorchValue:
    values, axes = [call[name] for name in ("condition", "self", "other")], call.value.axes
    if any(isinstance(value, Tensor) and (value.ndim or value.requires_grad) for value in values):
        raise call.refusal("weights beside values")
    given = (reader.turned(call, value, axes=axes) if isinstance(value, TorchValue) else float(value) for value in values)
    return TorchValue(keras.ops.where(*given), axes)


def _filled(reader: TorchReader, call: Operation) -> Any:
    mask, number = call["mask"], call["value"]
    if isinstance(number, TorchValue) or getattr(number, "requires_grad", False):
        raise call.refusal("values in place of a number")
    if isinstance(mask, Tensor):  # the same for all examples
        return plain(keras.ops.where(mask.cpu().numpy(), max(float(number), LEAST), reader.turned(call, call.value)))
    marks = reader.turned(call, mask, axes=call.value.axes) if len(mask.axes) == len(call.value.axes) else mask.tensor
    return keras.ops.where(marks, max(float(number), LEAST), call.value.tensor)


SHAPES: dict[str, Row] = {
    **dict.fromkeys((f"{kind}_pool{rank}d" for kind in ("max", "avg") for rank in (1, 2, 3)), _pooling),
    **dict.fromkeys((f"adaptive_avg_pool{rank}d" for rank in (1, 2, 3)), _adaptive),
    **dict.fromkeys((f"adaptive_max_pool{rank}d" for rank in (1, 2, 3)), _without_positions(_adaptive)),
    **dict.fromkeys((f"max_pool{rank}d_with_indices" for rank in (1, 2, 3)), _without_positions(_pooling)),
    **dict.fromkeys(("mean", "amax", "sum", "any"), _reduced),
    **dict.fromkeys(("flatten", "view", "reshape", "unsqueeze", "squeeze", "unflatten"), _reshaped),
    **dict.fromkeys(("permute", "transpose", "movedim", "t", "numpy_T"), _turned),
    **dict.fromkeys(("contiguous", "clone", "detach", "alias"), lambda _reader, call: call.value),
    **dict.fromkeys(("to", "_to_copy"), _as_numbers),
    **{"select": _select, "slice": _slice, "expand": _expand, "expand_as": _expand, "broadcast_tensors": _broadcast},
    **dict.fromkeys(("chunk", "split", "split_with_sizes", "unbind"), _parts),
    "zeros_like": lambda _reader, call: keras.ops.zeros_like(call.value.tensor, dtype="float32"),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"), _larger),
    **{"matmul": _matmul, "bmm": _matmul, "scaled_dot_product_attention": _scaled_attention},
    **dict.fromkeys(_COMPARED, _compared),
    **dict.fromkeys(("logical_not", "bitwise_not"), lambda _reader, call: keras.ops.logical_not(call.value.tensor)),
    **{"where": _where, "masked_fill": _filled},
    "flip": lambda _reader, call: keras.ops.flip(call.value.tensor, tuple(axes_of(call, call["dims"]))),
}
"""Converter for each operator, by short name."""
