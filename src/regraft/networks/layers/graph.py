"""PyTorch modules built from plain data: a list of layers with their settings and inputs. Nothing here needs Keras."""

import functools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...errors import NetworkError

__all__ = ["LAYERS", "SOURCE", "Affine", "Attention", "Cells", "LayerGraph", "Lookup", "Recurrent", "graph_module", "layer_of", "stateless"]

SOURCE = "layers"  # Origin of a network that is built from such a list
_INPUT = "input"
_CONVOLUTIONS, _NORMS = (nn.Conv1d, nn.Conv2d, nn.Conv3d), (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)
_NUMBERS = (bool, int, float, str, type(None))


class _Stateless(nn.Module):
    """Layer without weights: a function of the values that it reads and of its settings."""

    compute: ClassVar[Callable[..., Tensor]]

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        kind = settings.get("kind")
        if kind not in _KINDS.get(type(self).__name__, (kind,)):
            raise NetworkError(f"The function {kind!r} is none that regraft writes.")
        self.settings = settings

    def forward(self, *values: Tensor) -> Tensor:
        """Return the function of the values."""
        return type(self).compute(*values, **self.settings)


def stateless(name: str, compute: Callable[..., Tensor]) -> type[nn.Module]:
    """Return a class of layer without weights. `compute` takes the values that the layer reads, then its settings by name."""
    return type(name, (_Stateless,), {"compute": staticmethod(compute), "__module__": compute.__module__})


def _padded(tensor: Tensor, /, sizes: Sequence[int], *, value: float | str = 0.0) -> Tensor:
    """Pad the last axes. `sizes` follow `torch.nn.functional.pad`; negative ones crop. `value="repeated"` replicates edges."""
    return functional.pad(tensor, sizes, "replicate") if value == "repeated" else functional.pad(tensor, sizes, value=float(value))


def _variance(value: Tensor, dim: tuple[int, ...], *, keepdim: bool) -> Tensor:
    """Return the population variance. torch.var takes ten times as long."""
    return (value - value.mean(dim, keepdim=True)).square().mean(dim, keepdim=keepdim)


_OVER: dict[str, Callable[..., Tensor]] = {"mean": torch.mean, "var": _variance, "max": torch.amax, "sum": torch.sum, "any": torch.any}
_PAIRS: dict[str, Callable[..., Tensor]] = {
    **{"average": torch.add, "add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div},
    **{"maximum": torch.maximum, "minimum": torch.minimum, "logicaland": torch.logical_and, "logicalor": torch.logical_or},
}
_BY_ELEMENT: dict[str, Callable[..., Tensor]] = {one: getattr(torch, one) for one in ("exp", "sin", "cos", "atan", "abs", "sqrt", "square")}
_KINDS = {"Over": _OVER, "Join": _PAIRS, "Function": _BY_ELEMENT}  # Layers with a setting "kind", and its values


def _combined(*values: Tensor, kind: str) -> Tensor:
    """Combine several values by element, from first to last."""
    made = functools.reduce(_PAIRS[kind], values)
    return made / len(values) if kind == "average" else made


def _mean_of_kept(value: Tensor, mask: Tensor, *, keep: bool) -> Tensor:
    """Return the mean (N, d) over the steps (N, T, d) that a mask (N, T) keeps. With `keep` the result is (N, 1, d)."""
    share = mask.unsqueeze(-1).to(value.dtype)
    return (value * share).sum(1, keepdim=keep) / share.sum(1, keepdim=keep)


def _rectified(value: Tensor, *, slope: float, threshold: float, largest: float | None) -> Tensor:
    """Return the ReLU as Keras defines it, with a slope below a threshold and a maximum."""
    made = torch.where(value >= threshold, value, slope * (value - threshold))
    return made if largest is None else made.clamp_max(largest)


def _dot(*values: Tensor, axes: Sequence[int], normalize: bool) -> Tensor:
    """Return the dot product (N, …) of two values along an axis of each; with `normalize`, of values of unit length along it.
    The other axes of the first value stand before those of the second."""
    parts = []
    for value, axis in zip(values, axes, strict=True):
        length = value.square().sum(axis, keepdim=True).sqrt().clamp_min(1e-12) if normalize else None
        moved = (value if length is None else value / length).transpose(axis, -1)
        parts.append(moved.unsqueeze(1) if moved.ndim == 2 else moved)
    made = torch.matmul(parts[0], parts[1].transpose(1, 2))
    return made.flatten(1) if min(value.ndim for value in values) == 2 else made


_FUNCTIONS: dict[str, Callable[..., Tensor]] = {
    "Permute": lambda value, axes: value.permute(axes),  # of all axes, the batch axis first
    "Reshape": lambda value, shape: value.reshape(value.shape[0], *shape),  # of each example
    "Select": lambda value, axis, index: value.select(axis, index),
    "Slice": lambda value, axis, start, end: value[(slice(None),) * axis + (slice(start, end),)],
    "Pad": _padded,
    "Over": lambda value, kind, axes, keep=False: _OVER[kind](value, dim=axes, keepdim=keep),
    "Join": _combined,
    "Concatenate": lambda *values, axis: torch.cat(values, axis),
    "Unequal": lambda value, number: value != number,  # a mask
    "MeanOfKept": _mean_of_kept,
    "Repeat": lambda value, count: value[:, None].expand(-1, count, -1),  # of a vector (N, d) for `count` steps
    "Rectifier": _rectified,
    "Function": lambda value, kind: _BY_ELEMENT[kind](value),
    "Dot": _dot,
    "DotAttention": lambda query, *read: functional.scaled_dot_product_attention(query, read[-1], read[0], scale=1.0),
}
"""Layers without weights, by name. They read values, then take settings by name. DotAttention reads the values first and the keys last."""


class Affine(nn.Module):
    """Affine map with fixed numbers: value * `scale` + `offset`. There are `size` of each along the last axis, or one."""

    scale: Tensor
    offset: Tensor

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("offset", torch.zeros(size))

    def forward(self, value: Tensor) -> Tensor:
        """Return the scaled and shifted value."""
        return value * self.scale + self.offset


class Lookup(nn.Embedding):
    """Embedding of integers that arrive as floats."""

    def forward(self, value: Tensor) -> Tensor:
        """Return the vectors of the integers in `value`."""
        return super().forward(value.long())


class Cells(nn.RNNBase):
    """Recurrent layer that PyTorch does not have: other activations, or a GRU that resets the state before its linear map.
    `activations`: of the gates, and of the state. A layer of kind "RNN" has no gates."""

    def __init__(self, kind: str, *, inputs: int, units: int, both: bool, activations: Sequence[str], after: bool) -> None:
        super().__init__("RNN_TANH" if kind == "RNN" else kind, inputs, units, batch_first=True, bidirectional=both)
        if len(activations) != 2 or not STEPWISE.keys() >= set(activations):
            raise NetworkError(f"A recurrent layer has the activations {activations}; expected two of {', '.join(STEPWISE)}.")
        self.kind, self.after, (self.gate, self.inner) = kind, after, (STEPWISE[name] for name in activations)
        wanted = {"LSTM": (0, 1, 1), "GRU": (0, 1), "RNN": (1,)}[kind]
        known = [_OF_ONNX.get(activations[at]) for at in wanted]
        order = {"linear_before_reset": int(after)} if kind == "GRU" else {}
        self.operator = {**order, "activations": known * (1 + both)} if all(known) else None
        """Attributes of the ONNX operator; None if ONNX has none."""

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        """Return all outputs (N, T, D · u) and the last ones of each direction (D, N, u)."""
        made = []
        for at, (kernel, recurrent, *bias) in enumerate(self.all_weights):
            steps = functional.linear(value.flip(1) if at else value, kernel, bias[0])
            state = memory = value.new_zeros(value.shape[0], self.hidden_size)
            outputs = []
            for step in steps.unbind(1):
                state, memory = self._step(step, (state, memory), weights=(recurrent, bias[1]))
                outputs.append(state)
            made.append(torch.stack(outputs, 1))
        last = torch.stack([one[:, -1] for one in made])
        return torch.cat([one.flip(1) if at else one for at, one in enumerate(made)], -1), last

    def _step(self, step: Tensor, before: tuple[Tensor, Tensor], *, weights: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return the next state and memory cell, (N, u) each, from the linear map (N, G · u) of one step."""
        (state, memory), size = before, self.hidden_size
        if self.kind == "GRU" and not self.after:
            recurrent, bias = weights
            reset, update = self.gate(step[:, : 2 * size] + functional.linear(state, recurrent[: 2 * size], bias[: 2 * size])).chunk(2, 1)
            new = self.inner(step[:, 2 * size :] + functional.linear(reset * state, recurrent[2 * size :], bias[2 * size :]))
            return (1 - update) * new + update * state, memory
        whole = functional.linear(state, *weights)
        if self.kind == "GRU":
            reset, update = self.gate((step + whole)[:, : 2 * size]).chunk(2, 1)
            new = self.inner(step[:, 2 * size :] + reset * whole[:, 2 * size :])
            return (1 - update) * new + update * state, memory
        if self.kind == "RNN":
            return self.inner(step + whole), memory
        enter, forget, new, leave = (step + whole).chunk(4, 1)
        memory = self.gate(forget) * memory + self.gate(enter) * self.inner(new)
        return self.gate(leave) * self.inner(memory), memory


STEPWISE: dict[str, Callable[[Tensor], Tensor]] = {
    **{"Tanh": torch.tanh, "Sigmoid": torch.sigmoid, "ReLU": torch.relu, "Softsign": functional.softsign, "Identity": torch.clone},
    **{"Softplus": functional.softplus, "Hardsigmoid": functional.hardsigmoid, "ELU": functional.elu, "SELU": torch.selu},
    **{"SiLU": functional.silu, "GELU": functional.gelu, "Mish": functional.mish, "Hardtanh": functional.hardtanh},
}
"""Activations of recurrent layers, by the names of PyTorch's layers."""
_OF_ONNX = {"Tanh": "Tanh", "Sigmoid": "Sigmoid", "ReLU": "Relu", "Softsign": "Softsign", "Softplus": "Softplus"}


class Recurrent(nn.Module):
    """Recurrent layer over steps (N, T, d). It returns all outputs (N, T, u) or the last ones (N, u).
    `own`: the settings "activations" and "after" of `Cells`; without them, the layer is PyTorch's."""

    def __init__(
        self,
        kind: str,
        *,
        inputs: int,
        units: int,
        both: bool = False,
        steps: bool = False,
        backwards: bool = False,
        joined: str = "concat",
        **own: Any,
    ) -> None:
        super().__init__()
        if own:
            self.cells: nn.RNNBase = Cells(kind, inputs=inputs, units=units, both=both, **own)
        else:
            self.cells = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind](inputs, units, batch_first=True, bidirectional=both)
        self.own, self.kind, self.steps, self.backwards, self.joined = own, kind, steps, backwards, joined

    def forward(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return the outputs for the steps in `value`. Steps whose `mask` (N, T) is false do not change the state.
        As in Keras, a masked step repeats the output before it, or gives zeros if the layer is bidirectional."""
        if self.backwards:
            value, mask = value.flip(1), None if mask is None else mask.flip(1)
        if mask is None:
            outputs, states = self.cells(value)
            last = states[0] if isinstance(states, tuple) else states
            made: Tensor = outputs if self.steps else last.transpose(0, 1).flatten(1)
        else:
            parts = self._masked(value, mask)
            shown = [part * mask.unsqueeze(-1) for part in parts] if len(parts) > 1 else parts
            made = torch.cat(shown if self.steps else [parts[0][:, -1], *(part[:, 0] for part in parts[1:])], -1)
        if self.joined == "concat":
            return made
        forward, backward = made.chunk(2, -1)
        joined = forward * backward if self.joined == "mul" else forward + backward
        return joined / 2 if self.joined == "ave" else joined

    def _masked(self, value: Tensor, mask: Tensor) -> list[Tensor]:
        """Return the outputs (N, T, u) of each direction. Kept steps are moved together first, and their outputs are moved back after."""
        length, size = value.shape[1], self.cells.hidden_size
        upto = mask.long().cumsum(1)  # number of kept steps up to each step
        kept, steps = upto[:, -1:], torch.arange(length, device=value.device)
        first = torch.where(mask, upto - 1, kept + steps - upto)  # kept steps first, then the others

        def run(place: Tensor, back: Tensor, *, there: Tensor, part: slice) -> Tensor:
            moved = torch.zeros_like(value).scatter(1, place.unsqueeze(-1).expand_as(value), value)
            outputs: Tensor = self.cells(moved)[0][..., part]
            return outputs.gather(1, back.clamp(0, length - 1).unsqueeze(-1).expand(-1, -1, size)) * there.unsqueeze(-1)

        made = [run(first, upto - 1, there=upto > 0, part=slice(0, size))]
        if self.cells.bidirectional:  # runs from the last step, with the kept steps at the end
            before, start = upto - mask.long(), length - kept
            moved = first + start
            place = torch.where(moved < length, moved, moved - length)
            made.append(run(place, start + before, there=before < kept, part=slice(size, 2 * size)))
        return made


class Attention(nn.Module):
    """Multi-head attention. The weights of a head are contiguous, as in Keras."""

    def __init__(self, *, inputs: Sequence[int], heads: int, sizes: Sequence[int], outputs: int, bias: bool, causal: bool) -> None:
        super().__init__()
        (query, key, value), (size, value_size) = inputs, sizes
        self.heads, self.causal = heads, causal
        self.query, self.key = nn.Linear(query, heads * size, bias), nn.Linear(key, heads * size, bias)
        self.value, self.output = nn.Linear(value, heads * value_size, bias), nn.Linear(heads * value_size, outputs, bias)

    def forward(self, query: Tensor, *read: Tensor) -> Tensor:
        """Return the attended values (N, T, outputs). `read` holds the values, then optionally the keys and a mask (N, T, S)."""
        value, key, mask = (*read, None, None)[:3]
        parts = (self.query(query), self.key(value if key is None else key), self.value(value))
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        made: Tensor = self.output(self.attended(queries, keys, values, mask, causal=self.causal).transpose(1, 2).flatten(2))
        return made

    @staticmethod
    # over the limit: attention has four
    def attended(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
        """Return the attended values of all heads (N, heads, T, d). Queries attend where the mask (N, T, S) is true; None: everywhere."""
        bias = None
        if mask is not None:
            if causal:
                mask = mask & torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=mask.device).tril()
            bias = torch.where(mask.unsqueeze(1), 0.0, -0.7 * torch.finfo(query.dtype).max)
        return functional.scaled_dot_product_attention(query, key, value, bias, is_causal=causal and bias is None)


_OF_TORCH = (
    "Linear Embedding Flatten Identity LayerNorm GroupNorm Upsample Dropout Dropout1d Dropout2d Conv1d Conv2d Conv3d "
    "ConvTranspose1d ConvTranspose2d ConvTranspose3d BatchNorm1d BatchNorm2d BatchNorm3d MaxPool1d MaxPool2d MaxPool3d "
    "AvgPool1d AvgPool2d AvgPool3d AdaptiveAvgPool1d ReLU ReLU6 Sigmoid Tanh Softmax LogSoftmax ELU SELU CELU GELU SiLU "
    "Mish Softplus Softsign Hardsigmoid Hardswish Hardtanh LeakyReLU LogSigmoid PReLU Tanhshrink"
)
_OWN: dict[str, type[nn.Module]] = {kind.__name__: kind for kind in (Lookup, Affine, Recurrent, Attention)}
_OWN |= {name: stateless(name, one) for name, one in _FUNCTIONS.items()}
globals().update(_OWN)  # where pickle looks them up
LAYERS: dict[str, type[nn.Module]] = {name: getattr(nn, name) for name in _OF_TORCH.split()} | _OWN
"""Layer classes by name. A step's settings are the arguments of its class."""


def layer_of(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """Return a layer of a `kind` with random weights. `settings` are values from JSON."""
    return LAYERS[kind](**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})


class LayerGraph(nn.Module):
    """Graph of layers.
    Each step is plain data: "name", "kind" (a key of `LAYERS`), "of" (names of its inputs, where "input" is a network's only input), and
    "settings". The step names are also the module names. `inputs` names the inputs of a network that takes several. `modules` are the
    layers by name, if they exist already; else they have random weights."""

    def __init__(
        self,
        steps: Sequence[Mapping[str, Any]],
        outputs: Sequence[str],
        *,
        inputs: Sequence[str] = (),
        modules: Mapping[str, nn.Module] = MappingProxyType({}),
    ) -> None:
        super().__init__()
        self.steps: list[tuple[str, tuple[str, ...]]] = []
        known = set(map(str, inputs)) or {_INPUT}
        for step in steps:
            name, kind, read = str(step["name"]), step["kind"], tuple(map(str, step["of"]))
            if kind not in LAYERS or not known.issuperset(read) or not read or name in known or not _is_plain(step["settings"]):
                raise NetworkError(f"The layer {name!r} of the kind {kind!r}, which reads {', '.join(read)}, is none that regraft writes.")
            known.add(name)
            self.add_module(name, modules[name] if name in modules else layer_of(kind, step["settings"]))
            self.steps.append((name, read))
        if not outputs or not known.issuperset(outputs):
            raise NetworkError(f"The network returns {', '.join(outputs) or 'nothing'}; its layers are {', '.join(sorted(known))[:200]}.")
        self.outputs = tuple(outputs)
        last = {each: name for name, read in self.steps for each in read if each not in self.outputs}
        self._done: dict[str, list[str]] = {}  # values that no later step reads, by step: a value is dropped as soon as it can be
        for each, name in last.items():
            self._done.setdefault(name, []).append(each)

    def fold_(self) -> None:
        """Fold each BatchNorm in inference mode into the convolution whose output it alone reads."""
        readers = Counter(each for _, read in self.steps for each in read) + Counter(self.outputs)
        for name, (first, *_) in self.steps:
            norm, before = self.get_submodule(name), self._modules.get(first)
            if isinstance(norm, _NORMS) and isinstance(before, _CONVOLUTIONS) and readers[first] == 1:
                self._modules[first], self._modules[name] = fuse_conv_bn_eval(before, norm), nn.Identity()

    def forward(self, x: Tensor | None = None, **named: Tensor) -> Any:
        """Return the output for a batch `x` or named inputs, or a tuple of several outputs."""
        values = {**({} if x is None else {_INPUT: x, "x": x}), **named}  # a named input may be called x
        for name, read in self.steps:
            values[name] = self.get_submodule(name)(*(values[each] for each in read))
            for each in self._done.get(name, ()):
                del values[each]
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found


def _is_plain(settings: Any) -> bool:
    values = settings.values() if isinstance(settings, Mapping) else [object()]
    flat = [part for value in values for part in (value if isinstance(value, list | tuple) else [value])]
    return all(isinstance(part, _NUMBERS) for part in flat)


def graph_module(origin: Mapping[str, Any]) -> LayerGraph:
    """Return the module of a network that is built from layers, with random weights."""
    steps, outputs, inputs = origin.get("layers"), origin.get("outputs"), origin.get("inputs", [])
    if not all(isinstance(one, list) for one in (steps, outputs, inputs)):
        raise NetworkError(f"The origin {origin.get('source')!r} holds no list of layers; it holds {', '.join(map(str, origin))}.")
    return LayerGraph(steps, outputs, inputs=inputs)  # type: ignore[arg-type]  # lists, as checked
