"""Operators of a converted ONNX graph in a form that PyTorch trains and exports.

Shapes, axes and limits are Python's numbers, because PyTorch's exporter does not look into tensors.
"""

from __future__ import annotations

import importlib
import operator
from collections.abc import Callable, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, functional

from ...errors import NetworkError
from ..layers.graph import LAYERS, stateless

_FAR = 2**31 - 1  # A limit from here on means the end of an axis
_MOST = 2**63  # The largest number of 64 bits, which stand for the end of an axis
_OVER = {"ReduceMean": "mean", "ReduceMax": "max", "ReduceSum": "sum"}
_NUMBERED = ("Reshape", "Expand", "Pad", "Unsqueeze", "Squeeze", "Split", "Tile", "Clip", "Resize", "Slice", "CumSum", "TopK", "Trilu")
"""Operators whose inputs after the first are no values of the network."""
_MAKERS = ("Range", "ConstantOfShape")
"""Operators of which no input is a value of the network."""
_SETTINGS = ("axis", "axes", "starts", "ends", "start", "end", "keepdims")


# over the limit: the operator's inputs, or its attributes before opset 10
def _part_of(sizes: Any, starts: Any, ends: Any, axes: Any = (0,), steps: Any = (1,)) -> Any:
    start, end, axis, step = (int(one[0]) for one in (starts, ends, axes, steps))
    return sizes[(slice(None),) * axis + (slice(start, end, step),)]


def _divided(one: Any, other: Any) -> Any:
    """Return a quotient without its fraction, as ONNX divides whole numbers; the exporter's symbols are not below zero."""
    whole = one // other
    return whole + 1 if isinstance(whole, int) and whole < 0 and whole * other != one else whole


def _axes(axes: Any) -> tuple[int, ...] | None:
    return None if axes is None else tuple(map(int, axes))


_SIZES: dict[str, Callable[..., Any]] = {
    "Shape": lambda value, start=0, end=None: np.array(list(value.shape), object)[start:end],
    "Size": lambda value: np.prod(np.array(list(value.shape), object)),
    **{"Add": operator.add, "Sub": operator.sub, "Mul": operator.mul, "Mod": operator.mod, "Neg": operator.neg},
    **{"Equal": operator.eq, "Less": operator.lt, "Greater": operator.gt, "Div": np.frompyfunc(_divided, 2, 1)},
    **{"Max": lambda *sizes: reduce(np.maximum, sizes), "Min": lambda *sizes: reduce(np.minimum, sizes)},
    "Where": lambda which, one, other: np.where(np.asarray(which, bool), one, other),
    **dict.fromkeys(("Identity", "Cast"), lambda sizes: sizes),
    "Slice": _part_of,
    "Gather": lambda sizes, index, axis=0: np.take(sizes, np.asarray(index, int), axis),
    "Concat": lambda *parts, axis: np.concatenate(parts, axis),
    "Squeeze": lambda sizes, axes=None: np.squeeze(sizes, _axes(axes)),
    "Unsqueeze": lambda sizes, axes: np.expand_dims(sizes, _axes(axes) or ()),
    "Reshape": lambda sizes, shape: np.reshape(sizes, _axes(shape) or ()),
    "ReduceProd": lambda sizes, axes=None, keepdims=1: np.prod(sizes, _axes(axes), keepdims=bool(keepdims)),
}
"""Operators as functions of arrays of Python's numbers, or of the exporter's symbols for them."""


def _sliced(value: Tensor, *limits: Any, own: Sequence[Any] = ()) -> Tensor:
    """Return the part of a value along several axes, or the value reversed. `own`: starts, ends, axes, steps, if they are no inputs."""
    starts, ends, axes, steps = (*(limits or own), None, None)[:4]
    for at, (start, end) in enumerate(zip(starts, ends, strict=True)):
        axis, step = (axes[at] if axes else at) % value.ndim, steps[at] if steps else 1
        value = value.flip(axis) if step < 0 else value[(slice(None),) * axis + (slice(start, end, step),)]
    return value


def _merged_axes(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return a value whose last two axes, and the order of whose elements, are those of the value reshaped to `sizes`: only a transposition
    of the last two axes and a Reshape read it."""
    return value if list(sizes[-2:]) == list(value.shape[-2:]) else value.reshape(*sizes)


def _expanded(value: Tensor, sizes: Sequence[int]) -> Tensor:
    """Return a value repeated along axes of size 1, in the shape that it and `sizes` have in common."""
    own = [1] * (len(sizes) - value.ndim) + list(value.shape)
    wide = [1] * (value.ndim - len(sizes)) + list(sizes)
    return value.expand([one if isinstance(size, int) and size == 1 else size for one, size in zip(own, wide, strict=True)])


_Slice, _Merge, _Expand = stateless("_Slice", _sliced), stateless("_Merge", _merged_axes), stateless("_Expand", _expanded)
_Swap = stateless("_Swap", lambda value: value.transpose(-1, -2))
_Pick = stateless("_Pick", lambda value, at: value[at.long().unbind(-1)])  # the last axis of `at` holds the places along the first axes


class _Fill(Module):
    """A constant in a shape."""

    constant: Tensor

    def __init__(self, constant: Tensor) -> None:
        super().__init__()
        self.register_buffer("constant", constant)

    def forward(self, sizes: Sequence[int]) -> Tensor:
        """Return the constant in the shape `sizes`."""
        return self.constant.expand(list(sizes))


class _Norm(Module):
    """Layer normalisation over the last axis, with weights that the graph holds."""

    def __init__(self, eps: float) -> None:
        super().__init__()
        self.eps = eps

    def forward(self, value: Tensor, *weights: Tensor) -> Tensor:
        """Return the normalised value."""
        weight, bias = (*weights, None)[:2]
        return functional.layer_norm(value, weights[0].shape, weight, bias, self.eps)


def take_operators_(module: Any, model: Any) -> None:
    """Let a converted graph compute in Python's numbers what follows from shapes, and change operators that cannot be exported.
    Tables of embeddings and weights of layer normalisation become parameters."""
    onnx, sizes = importlib.import_module("onnx"), set[str]()
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer if len(tensor.dims) < 2}
    plain = not any(one.HasField("g") or len(one.graphs) for node in model.graph.node for one in node.attribute)
    merged = _merged(model.graph)
    for node in model.graph.node:
        name, settings = module.mapping[node.output[0]], {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        numbers = [held.get(one) for one in node.input]
        if plain and _counts(node, settings, numbers=numbers, sizes=sizes):
            sizes.add(node.output[0])
            delattr(module, name)
            own = {one: value for one, value in settings.items() if one in _SETTINGS}
            setattr(module, name, partial(_counted, kind=node.op_type, numbers=numbers, settings=own))
        else:
            if node.output[0] in merged:
                setattr(module, name, _Merge() if node.op_type == "Reshape" else _Swap())
            _give_numbers_(module, name, node=node, numbers=numbers, sizes=sizes)
            _take_weights_(module, name, node=node)


def _merged(graph: Any) -> set[str]:
    """Return the outputs of Reshape and Transpose operators that only exchange the last two axes of a value: the exporter of PyTorch merges
    the others before and separates them after."""
    readers: dict[str, list[Any]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found, ends = set[str](), {one.name for one in graph.output}
    for node in graph.node:
        first, after = node.output[0], readers.get(node.output[0], [])
        if node.op_type == "Reshape" and len(after) == 1 and after[0].op_type == "Transpose" and first not in ends:
            turned = after[0]
            last = all(one.op_type == "Reshape" for one in readers.get(turned.output[0], []))
            if last and turned.output[0] not in ends and [list(one.ints) for one in turned.attribute] == [[0, 2, 1]]:
                found |= {first, turned.output[0]}
    return found


def _take_weights_(module: Any, name: str, *, node: Any) -> None:
    """Let a table of embeddings or a layer normalisation have parameters, and a lookup by several places be one that can be exported."""
    layer, read = getattr(module, name), [f"_initializer_{one}" for one in node.input]
    weights = [getattr(module, one, None) for one in read]
    table = node.op_type == "Gather" and not getattr(layer, "dim", 1) and weights[0] is not None and weights[0].ndim == 2
    norm = node.op_type == "LayerNormalization" and len(node.output) == 1 and layer.axis == -1 and weights[1] is not None
    if node.op_type == "GatherND" and not layer.batch_dims:
        setattr(module, name, _Pick())
    elif norm:
        setattr(module, name, _Norm(layer.eps))
    for one, values in zip(read, weights, strict=True):
        if (table or norm) and values is not None and values.is_floating_point() and not isinstance(values, torch.nn.Parameter):
            delattr(module, one)
            module.register_parameter(one, torch.nn.Parameter(values))


def _counts(node: Any, settings: Mapping[str, Any], *, numbers: Sequence[Any], sizes: set[str]) -> bool:
    """Return whether a node computes sizes from shapes."""
    if node.op_type in ("Shape", "Size"):
        return True
    whole = "to" not in settings or settings["to"] in (6, 7, 9)  # a Cast to int32, int64 or bool
    known = all(one in sizes or (number is not None and number.dtype.kind in "ib") for one, number in zip(node.input, numbers, strict=True))
    return node.op_type in _SIZES and known and whole and not sizes.isdisjoint(node.input)


def _counted(*values: Any, kind: str, numbers: Sequence[Any], settings: Mapping[str, Any]) -> np.ndarray:
    """Return sizes as an array of Python's numbers. `numbers` replace the values that are constants."""
    given = [value if number is None else number.astype(object) for value, number in zip(values, numbers, strict=True)]
    made = np.asarray(_SIZES[kind](*given, **settings), object)
    if any(isinstance(one, int) and abs(one) > _MOST for one in made.flat):  # Python's numbers grow without end
        raise NetworkError(f"its operator {kind} computes a size above {_MOST:,}")
    return made


def _give_numbers_(module: Any, name: str, *, node: Any, numbers: Sequence[Any], sizes: set[str]) -> None:
    """Let an operator read its shapes, axes and limits as numbers where they are constants or follow from shapes."""
    layer, kind, counted = getattr(module, name), node.op_type, [one in sizes for one in node.input]
    reads = kind in _NUMBERED or kind in _MAKERS
    plain = [None if number is None or not reads else number.tolist() for number in numbers]
    if kind in _NUMBERED:
        plain[0] = None
    places = range(1 if kind in _NUMBERED else 0, len(node.input))
    known = all(counted[at] or plain[at] is not None or not node.input[at] for at in places)
    axes = numbers[1].tolist() if len(numbers) > 1 and numbers[1] is not None else getattr(layer, "dim", None)
    if kind in _OVER and axes:
        layer = LAYERS["Over"](kind=_OVER[kind], axes=tuple(axes), keep=layer.keepdim)
        layer.register_forward_pre_hook(_alone)
    elif kind == "Gather" and numbers[1] is not None and not numbers[1].ndim:
        layer = LAYERS["Select"](axis=layer.dim, index=int(numbers[1]))
        layer.register_forward_pre_hook(_alone)
    elif kind == "Slice" and known and _forwards(*plain[1:]):
        layer = _Slice(own=(layer.starts, layer.ends, layer.dim))
    elif kind == "Expand" and known:
        layer = _Expand()
    elif kind == "ConstantOfShape" and known:
        layer = _Fill(layer.constant)
    elif not isinstance(layer, Module) and any(counted):  # torch.cat, which the library gives a list
        layer = partial(_joined, layer)
    if isinstance(layer, Module) and (reads or any(counted)):
        layer.register_forward_pre_hook(partial(_with_numbers, numbers=plain, plain=reads))
    setattr(module, name, layer)


def _forwards(*limits: Any) -> bool:
    """Return whether a Slice operator, of which some limits are known, reverses whole axes only."""
    starts, ends, _, steps = (*limits, None, None, None, None)[:4]
    back = [at for at, step in enumerate(steps or []) if step < 0]
    known = starts is not None and ends is not None
    return all(known and steps[at] == -1 and ends[at] <= -_FAR and (starts[at] == -1 or starts[at] >= _FAR) for at in back)


def _joined(join: Callable[..., Tensor], *values: Any) -> Tensor:
    return join(_as_tensors(values))


def _alone(_layer: Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
    return given[:1]


def _with_numbers(_layer: Module, given: tuple[Any, ...], *, numbers: Sequence[Any], plain: bool) -> tuple[Any, ...]:
    values = [one if number in (None, []) else number for one, number in zip(given, numbers, strict=False)]
    return tuple(_as_tensors([one.tolist() if plain and isinstance(one, np.ndarray) else one for one in values]))


def _as_tensors(values: Sequence[Any]) -> list[Any]:
    """Return values with sizes as tensors, on the device of the others."""
    device = next((one.device for one in values if isinstance(one, Tensor)), None)
    return [torch.tensor(one.tolist(), device=device) if isinstance(one, np.ndarray) else one for one in values]
