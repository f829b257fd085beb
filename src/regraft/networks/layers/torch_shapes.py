"""Keras counterparts of PyTorch operators without weights: pooling, shapes, slicing, products."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Node

from ..keras.library import keras
from ..parts.taps import grid_shares
from .torch_reader import BATCH, LEAST, Operation, Row, States, TorchReader, TorchValue, axes_of, channels_last, each, edged, last_of, plain


def _pooling(reader: TorchReader, call: Operation) -> TorchValue:
    rank, largest = len(call.value.axes) - 2, call.kind.startswith("max")
    sizes = each(call["kernel_size"], rank)
    strides, padding = each(call["stride"] or sizes, rank), each(call["padding"], rank)
    if largest and set(each(call["dilation"], rank)) != {1}:
        raise call.refusal(f"dilation={call['dilation']}")
    if call.given.get("divisor_override") is not None:
        raise call.refusal(f"divisor_override={call['divisor_override']}")
    inner, outer = call.value.shape[2:], call.shape[2:]
    beyond = [max((out - 1) * stride + size - side - 2 * edge, 0) if side else 0 for out, stride, size, side, edge in
              zip(outer, strides, sizes, inner, padding, strict=True)]  # fmt: skip
    value, sides = reader.last(call, call.value), [(edge, edge + more) for edge, more in zip(padding, beyond, strict=True)]
    kind, settings = (
        getattr(keras.layers, f"{'Max' if largest else 'Average'}Pooling{rank}D"),
        dict[str, Any](pool_size=sizes, strides=strides),
    )
    padded, counted = any(map(any, sides)), largest or (call["count_include_pad"] and not any(beyond))
    even = all(before == behind for before, behind in sides)  # Keras on PyTorch replicates uneven edges in average pooling
    if padded and (largest or (not counted and even)) and _as_keras_pads(call, sizes, strides=strides, sides=sides):
        return last_of(reader.layer(call, kind, value, padding="same", **settings))
    if padded and not counted:
        return _average(reader, call, value=value, sides=sides, settings=settings)
    positive = largest and _is_positive(call)
    value = edged(reader, call, tensor=value, sides=sides, fill=0.0 if positive or not largest else LEAST)
    return last_of(reader.layer(call, kind, value, **settings))


def _as_keras_pads(call: Operation, sizes: Sequence[int], *, strides: Sequence[int], sides: Sequence[tuple[int, int]]) -> bool:
    """Return whether the padding of a pooling equals padding="same"."""
    for side, size, stride, edges in zip(call.value.shape[2:], sizes, strides, sides, strict=True):
        if side is None and stride > 1:
            return False
        whole = size - 1 if side is None else max((-(-side // stride) - 1) * stride + size - side, 0)
        if edges != (whole // 2, whole - whole // 2):
            return False
    return True


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


def _is_positive(call: Operation) -> bool:
    """Return whether the operator's input is never negative, so that zero padding cannot exceed any of it."""
    return str(getattr(call.node.args[0], "target", "")).startswith(("aten.relu", "aten.sigmoid"))


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
    if name and dims == list(range(2, rank)) and 3 <= rank <= 5:
        value = reader.last(call, call.value)
        made = reader.layer(call, getattr(keras.layers, f"Global{name}Pooling{rank - 2}D"), value, keepdims=keep)
        return last_of(made) if keep else plain(made)
    if name and dims == list(range(1, rank - 1)) and 3 <= rank <= 5:
        value = reader.turned(call, call.value)
        return plain(reader.layer(call, getattr(keras.layers, f"Global{name}Pooling{rank - 2}D"), value, keepdims=keep))
    axes = tuple(axes_of(call, dims))
    made = {"mean": keras.ops.mean, "amax": keras.ops.max, "sum": keras.ops.sum, "any": keras.ops.any}[call.kind](
        call.value.tensor, axis=axes, keepdims=keep
    )
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
    rank, order = len(call.value.axes), list(range(len(call.value.axes)))
    if call.kind == "permute":
        order = [dim % rank for dim in call["dims"]]
    elif call.kind == "transpose":
        one, two = call["dim0"] % rank, call["dim1"] % rank
        order[one], order[two] = order[two], order[one]
    elif call.kind == "movedim":
        ends = sorted(zip(each(call["destination"], 1), each(call["source"], 1), strict=True), key=lambda pair: pair[0] % rank)
        order = [dim for dim in order if dim not in [source % rank for _, source in ends]]
        for place, source in ends:
            order.insert(place % rank, source % rank)
    else:
        order = order[::-1]
    return TorchValue(call.value.tensor, tuple(call.value.axes[dim] for dim in order))


def _as_numbers(_reader: TorchReader, call: Operation) -> TorchValue:
    old, new = call.node.args[0].meta["val"].dtype, call.node.meta["val"].dtype  # type: ignore[union-attr]  # a node
    if old.is_floating_point and new not in (torch.float32, torch.float64):
        raise call.refusal(f"dtype={new}")
    if old.is_floating_point or not new.is_floating_point:
        return call.value
    return TorchValue(keras.ops.cast(call.value.tensor, "float32"), call.value.axes)


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


def _slice(_reader: TorchReader, call: Operation) -> TorchValue:
    start, end, step = call["start"] or 0, call["end"], call["step"]
    if start == 0 and (end is None or end >= 2**62) and step == 1:
        return call.value
    end = None if end is None or end >= 2**62 else end
    return TorchValue(_picked(call, dim=call["dim"], index=slice(start, end, step)), call.value.axes)


def _parts(_reader: TorchReader, call: Operation) -> list[TorchValue]:
    dim, shape = call["dim"], call.value.shape
    side = shape[dim % len(shape)] or 0
    if call.kind == "unbind":
        dims = [dim % len(shape)]
        return [_without(call, _picked(call, dim=dim, index=at), dims=dims) for at in range(side)]
    if call.kind == "chunk":
        sizes = [math.ceil(side / call["chunks"])] * call["chunks"]
    else:
        given = call["split_size"] if "split_size" in call.given else call["split_sizes"]
        sizes = list(given) if isinstance(given, list) else [given] * math.ceil(side / given)
    ends = np.minimum(np.cumsum(sizes), side)
    starts = [0, *ends[:-1]]
    return [
        TorchValue(_picked(call, dim=dim, index=slice(int(start), int(end))), call.value.axes)
        for start, end in zip(starts, ends, strict=True)
    ]


def _expand(reader: TorchReader, call: Operation) -> TorchValue:
    tensor, axes, shape = call.value.tensor, call.value.axes, call.shape
    if len(shape) != len(axes) or shape[0] != BATCH:
        raise call.refusal("further axes")
    if _only_compared(call.node):
        return call.value
    for axis, old, new in zip(axes, call.value.shape, shape, strict=True):
        if old == 1 and new > 1:
            tensor = keras.ops.repeat(tensor, new, axis=axis)
    return TorchValue(tensor, axes)


def _only_compared(node: Node) -> bool:
    """Return whether only mse_loss reads a repeated value. It broadcasts by itself, in Keras as well."""
    for user in node.users:
        name = getattr(user.target, "__name__", "").partition(".")[0]
        given: Any = user.args[0]
        if name == "broadcast_tensors" and not _alone(user, given.index(node)):
            return False
        if name not in ("broadcast_tensors", "mse_loss"):
            return False
    return True


def _alone(node: Node, at: int) -> bool:
    """Return whether only mse_loss reads the output `at` of broadcast_tensors."""
    return all(_only_compared(user) for user in node.users if user.args[1] == at)


def _broadcast(_reader: TorchReader, call: Operation) -> list[TorchValue]:
    values: list[TorchValue] = call["tensors"]
    shapes = [value.shape[1:] for value in values]
    if not all(side == shapes[0] or _alone(call.node, at) for at, side in enumerate(shapes)):
        raise call.refusal(f"examples of the shapes {', '.join(map(str, shapes))}")
    return values


def _pad(reader: TorchReader, call: Operation) -> TorchValue:
    mode, sizes, rank = call.given.get("mode", "constant"), call["pad"], len(call.value.axes)
    pairs = [(sizes[at], sizes[at + 1]) for at in range(0, len(sizes), 2)][::-1]
    if mode == "replicate":
        tensor = call.value.tensor
        for axis, pair in zip(axes_of(call, list(range(rank - len(pairs), rank))), pairs, strict=True):
            ends = [(slice(None),) * axis + (slice(*end),) for end in ((0, 1), (-1, None))]
            before, behind = (
                keras.ops.repeat(tensor[end], side, axis=axis) if side else None for end, side in zip(ends, pair, strict=True)
            )
            parts = [part for part in (before, tensor, behind) if part is not None]
            tensor = keras.ops.concatenate(parts, axis=axis) if len(parts) > 1 else tensor
        return TorchValue(tensor, call.value.axes)
    if mode != "constant":
        raise call.refusal(f"mode={mode!r}")
    fill = max(float(call["value"] or 0.0), LEAST)
    axes = channels_last(rank)
    if len(pairs) < rank - 1 and 3 <= rank <= 5:
        sides = [(0, 0)] * (rank - 2 - len(pairs)) + pairs
        return last_of(edged(reader, call, tensor=reader.turned(call, call.value, axes=axes), sides=sides, fill=fill))
    if any(side < 0 for pair in pairs for side in pair) or len(pairs) >= rank:
        raise call.refusal(f"pad={sizes}")
    whole = [(0, 0)] * rank
    for dim, pair in enumerate(pairs, start=rank - len(pairs)):
        whole[call.value.axes[dim]] = pair
    return TorchValue(keras.ops.pad(call.value.tensor, whole, constant_values=fill), call.value.axes)


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
    rank = len(key.axes)
    turned = TorchValue(key.tensor, (*key.axes[: rank - 2], key.axes[-1], key.axes[-2]))
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


def _compared(reader: TorchReader, call: Operation) -> TorchValue:
    """Convert comparisons and logical operations on masks."""
    other = call["other"]
    other = reader.turned(call, other, axes=call.value.axes) if isinstance(other, TorchValue) else other
    return TorchValue(_COMPARED[call.kind](call.value.tensor, other), call.value.axes)


_COMPARED: dict[str, Any] = {
    **{"ge": keras.ops.greater_equal, "gt": keras.ops.greater, "ne": keras.ops.not_equal, "eq": keras.ops.equal},
    **{"lt": keras.ops.less, "le": keras.ops.less_equal, "greater": keras.ops.greater, "less": keras.ops.less},
    **dict.fromkeys(("logical_and", "bitwise_and", "__and"), keras.ops.logical_and),
    **dict.fromkeys(("logical_or", "bitwise_or", "__or"), keras.ops.logical_or),
}


def _not(_reader: TorchReader, call: Operation) -> TorchValue:
    return TorchValue(keras.ops.logical_not(call.value.tensor), call.value.axes)


def _where(reader: TorchReader, call: Operation) -> TorchValue:
    values, axes = [call[name] for name in ("condition", "self", "other")], call.value.axes
    if any(isinstance(value, Tensor) and (value.ndim or value.requires_grad) for value in values):
        raise call.refusal("weights beside values")
    given = (reader.turned(call, value, axes=axes) if isinstance(value, TorchValue) else float(value) for value in values)
    return TorchValue(keras.ops.where(*given), axes)


def _filled(reader: TorchReader, call: Operation) -> TorchValue:
    mask, number = call["mask"], call["value"]
    if isinstance(number, TorchValue) or getattr(number, "requires_grad", False):
        raise call.refusal("values in place of a number")
    if isinstance(mask, Tensor):  # the same for all examples
        return plain(keras.ops.where(mask.cpu().numpy(), max(float(number), LEAST), reader.turned(call, call.value)))
    marks = reader.turned(call, mask, axes=call.value.axes) if len(mask.axes) == len(call.value.axes) else mask.tensor
    return TorchValue(keras.ops.where(marks, max(float(number), LEAST), call.value.tensor), call.value.axes)


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
    "zeros_like": lambda _reader, call: TorchValue(keras.ops.zeros_like(call.value.tensor, dtype="float32"), call.value.axes),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(("upsample_nearest1d", "upsample_nearest2d", "upsample_nearest3d", "upsample_bilinear2d"), _larger),
    **{"matmul": _matmul, "bmm": _matmul, "scaled_dot_product_attention": _scaled_attention},
    **{
        **dict.fromkeys(_COMPARED, _compared),
        "logical_not": _not,
        "bitwise_not": _not,
        "where": _where,
        "flip": lambda _reader, call: TorchValue(keras.ops.flip(call.value.tensor, tuple(axes_of(call, call["dims"]))), call.value.axes),
        "masked_fill": _filled,
    },
}
"""Converter for each operator, by short name."""
