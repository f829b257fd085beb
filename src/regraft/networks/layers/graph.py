"""PyTorch modules made of plain data: a list of layers, each with its settings and what it reads. Nothing here needs Keras."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from ...errors import NetworkError

__all__ = [
    "LAYERS",
    "SOURCE",
    "Affine",
    "Attention",
    "Concatenate",
    "DotAttention",
    "Function",
    "Join",
    "LayerGraph",
    "Lookup",
    "MeanOfKept",
    "Over",
    "Pad",
    "Permute",
    "Rectifier",
    "Recurrent",
    "Repeat",
    "Reshape",
    "Select",
    "Unequal",
    "attended",
    "graph_module",
    "layer_of",
]

SOURCE = "layers"
"""The origin of a network that is made of such a list."""
_INPUT = "input"
_NUMBERS = (bool, int, float, str, type(None))


class Permute(nn.Module):
    """Axes in another order: `axes` of the value read, the batch first."""

    def __init__(self, axes: Sequence[int]) -> None:
        super().__init__()
        self.axes = tuple(axes)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value with its axes in that order."""
        return value.permute(self.axes)


class Reshape(nn.Module):
    """Each item in another shape."""

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value with items of that shape."""
        return value.reshape(value.shape[0], *self.shape)


class Select(nn.Module):
    """One position along an axis, at an index."""

    def __init__(self, axis: int, index: int) -> None:
        super().__init__()
        self.axis, self.index = axis, index

    def forward(self, value: Tensor) -> Tensor:
        """Return the value at that position, without the axis."""
        return value.select(self.axis, self.index)


class Pad(nn.Module):
    """A `value`, or the edge "repeated", around the last axes, cut where negative: `sizes` as `torch.nn.functional.pad` has them."""

    def __init__(self, sizes: Sequence[int], value: float | str = 0.0) -> None:
        super().__init__()
        self.sizes, self.mode = list(sizes), "replicate" if value == "repeated" else "constant"
        self.value = None if value == "repeated" else float(value)

    def forward(self, value: Tensor) -> Tensor:
        """Return the value with its edges."""
        return functional.pad(value, self.sizes, self.mode, self.value)


class Over(nn.Module):
    """The mean, variance, sum or largest value (`kind`), or whether "any" is true, over `axes`, which stay as one where `keep` says so."""

    def __init__(self, kind: str, axes: Sequence[int], *, keep: bool = False) -> None:
        super().__init__()
        kinds: dict[str, Callable[..., Tensor]] = {
            "mean": torch.mean,
            "var": _variance,
            "max": torch.amax,
            "sum": torch.sum,
            "any": torch.any,
        }
        self.reduce = kinds[kind]
        self.axes, self.keep = tuple(axes), keep

    def forward(self, value: Tensor) -> Tensor:
        """Return the value without these axes."""
        return self.reduce(value, dim=self.axes, keepdim=self.keep)


def _variance(value: Tensor, dim: tuple[int, ...], *, keepdim: bool) -> Tensor:
    """Return the mean squared deviation from the mean: torch.var takes ten times as long."""
    return (value - value.mean(dim, keepdim=True)).square().mean(dim, keepdim=keepdim)


class Join(nn.Module):
    """Several values as one, element by element: `kind` says how, such as "add" or "maximum"."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.join = _PAIRS[kind]

    def forward(self, *values: Tensor) -> Tensor:
        """Return them joined from the first to the last."""
        made = values[0]
        for value in values[1:]:
            made = self.join(made, value)
        return made / len(values) if self.kind == "average" else made


_PAIRS: dict[str, Callable[..., Tensor]] = {
    **{"average": torch.add, "add": torch.add, "subtract": torch.sub, "multiply": torch.mul, "divide": torch.div},
    **{"maximum": torch.maximum, "minimum": torch.minimum, "logicaland": torch.logical_and, "logicalor": torch.logical_or},
}


class Concatenate(nn.Module):
    """Several values side by side along an axis."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *values: Tensor) -> Tensor:
        """Return them as one."""
        return torch.cat(values, self.axis)


class Unequal(nn.Module):
    """A mask: whether a value is another `number`."""

    def __init__(self, number: float) -> None:
        super().__init__()
        self.number = number

    def forward(self, value: Tensor) -> Tensor:
        """Return the mask, of the shape of the `value`."""
        return value != self.number


class MeanOfKept(nn.Module):
    """The mean (N, d) of the steps (N, T, d) that a mask (N, T) keeps; `keep` leaves one step, (N, 1, d)."""

    def __init__(self, *, keep: bool) -> None:
        super().__init__()
        self.keep = keep

    def forward(self, value: Tensor, mask: Tensor) -> Tensor:
        """Return the mean of the `value` where the `mask` is true."""
        share = mask.unsqueeze(-1).to(value.dtype)
        return (value * share).sum(1, keepdim=self.keep) / share.sum(1, keepdim=self.keep)


class Affine(nn.Module):
    """A value times `scale` plus `offset`, numbers that training leaves as they are; `size` of them along the last axis, or one."""

    scale: Tensor
    offset: Tensor

    def __init__(self, size: int = 1) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(size))
        self.register_buffer("offset", torch.zeros(size))

    def forward(self, value: Tensor) -> Tensor:
        """Return the `value`, scaled and shifted."""
        return value * self.scale + self.offset


class Lookup(nn.Embedding):
    """An embedding of whole numbers that are given as real ones."""

    def forward(self, value: Tensor) -> Tensor:
        """Return the vectors of the numbers, `value`."""
        return super().forward(value.long())


class Repeat(nn.Module):
    """A vector (N, d) for each of `count` steps, (N, count, d)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, value: Tensor) -> Tensor:
        """Return the `value`, repeated."""
        return value[:, None].expand(-1, self.count, -1)


class Rectifier(nn.Module):
    """Keras' ReLU: a slope below the threshold, and a largest value."""

    def __init__(self, *, slope: float, threshold: float, largest: float | None) -> None:
        super().__init__()
        self.slope, self.threshold, self.largest = slope, threshold, largest

    def forward(self, value: Tensor) -> Tensor:
        """Return the value, rectified."""
        made = torch.where(value >= self.threshold, value, self.slope * (value - self.threshold))
        return made if self.largest is None else made.clamp_max(self.largest)


class Function(nn.Module):
    """A function without weights of which PyTorch has no module; `kind` is its name."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.function: Callable[[Tensor], Tensor] = {
            "exp": torch.exp,
            "sin": torch.sin,
            "cos": torch.cos,
            "atan": torch.atan,
            "abs": torch.abs,
            "sqrt": torch.sqrt,
            "square": torch.square,
        }[kind]

    def forward(self, value: Tensor) -> Tensor:
        """Return the function of the value."""
        return self.function(value)


class Recurrent(nn.Module):
    """A recurrent layer over steps (N, T, d): its outputs (N, T, u), or the last ones (N, u)."""

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
    ) -> None:
        super().__init__()
        self.cells = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN": nn.RNN}[kind](inputs, units, batch_first=True, bidirectional=both)
        self.kind, self.steps, self.backwards, self.joined = kind, steps, backwards, joined

    def forward(self, value: Tensor, mask: Tensor | None = None) -> Tensor:
        """Return what the cells give for the steps, `value`; those whose `mask` (N, T) is false change no state.

        They give the output before them, or, in both directions, zeros, as in Keras.
        """
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
        """Return the outputs (N, T, u) of each direction: kept steps are moved together, and their outputs back to where they came from."""
        length, size = value.shape[1], self.cells.hidden_size
        upto = mask.long().cumsum(1)  # how many are kept up to each step
        kept, steps = upto[:, -1:], torch.arange(length, device=value.device)
        first = torch.where(mask, upto - 1, kept + steps - upto)  # kept ones first, the others behind them

        def run(place: Tensor, back: Tensor, *, there: Tensor, part: slice) -> Tensor:
            moved = torch.zeros_like(value).scatter(1, place.unsqueeze(-1).expand_as(value), value)
            outputs: Tensor = self.cells(moved)[0][..., part]
            return outputs.gather(1, back.clamp(0, length - 1).unsqueeze(-1).expand(-1, -1, size)) * there.unsqueeze(-1)

        made = [run(first, upto - 1, there=upto > 0, part=slice(0, size))]
        if self.cells.bidirectional:  # from the last step, kept ones last
            before, start = upto - mask.long(), length - kept
            made.append(run((first + start) % length, start + before, there=before < kept, part=slice(size, 2 * size)))
        return made


class Attention(nn.Module):
    """Attention of several heads; the weights of a head stand together, as Keras has them."""

    def __init__(self, *, inputs: Sequence[int], heads: int, sizes: Sequence[int], outputs: int, bias: bool, causal: bool) -> None:
        super().__init__()
        (query, key, value), (size, value_size) = inputs, sizes
        self.heads, self.causal = heads, causal
        self.query, self.key = nn.Linear(query, heads * size, bias), nn.Linear(key, heads * size, bias)
        self.value, self.output = nn.Linear(value, heads * value_size, bias), nn.Linear(heads * value_size, outputs, bias)

    def forward(self, query: Tensor, *read: Tensor) -> Tensor:
        """Return the values (N, T, outputs), first of what is `read`, that each `query` attends to by the keys, then a mask (N, T, S)."""
        value, key, mask = (*read, None, None)[:3]
        parts = (self.query(query), self.key(value if key is None else key), self.value(value))
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        made: Tensor = self.output(attended(queries, keys, values, mask, causal=self.causal).transpose(1, 2).flatten(2))
        return made


def attended(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, *, causal: bool
) -> Tensor:  # over the limit: attention has four
    """Return the values of all heads (N, heads, T, d) that the queries attend to where a mask (N, T, S) is true, or to all."""
    bias = None
    if mask is not None:
        if causal:
            mask = mask & torch.ones(query.shape[2], key.shape[2], dtype=torch.bool, device=mask.device).tril()
        bias = torch.where(mask.unsqueeze(1), 0.0, -0.7 * torch.finfo(query.dtype).max)
    return functional.scaled_dot_product_attention(query, key, value, bias, is_causal=causal and bias is None)


class DotAttention(nn.Module):
    """Attention without weights of its own: queries and keys are multiplied as they are."""

    def forward(self, query: Tensor, *read: Tensor) -> Tensor:
        """Return the values, the first that is `read`, that each `query` attends to by the keys, the last one."""
        return functional.scaled_dot_product_attention(query, read[-1], read[0], scale=1.0)


LAYERS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (
        *(
            nn.Linear,
            nn.Embedding,
            nn.Flatten,
            nn.Identity,
            nn.LayerNorm,
            nn.GroupNorm,
            nn.Upsample,
            nn.Dropout,
            nn.Dropout1d,
            nn.Dropout2d,
        ),
        *(
            nn.Conv1d,
            nn.Conv2d,
            nn.Conv3d,
            nn.ConvTranspose1d,
            nn.ConvTranspose2d,
            nn.ConvTranspose3d,
            nn.BatchNorm1d,
            nn.BatchNorm2d,
            nn.BatchNorm3d,
        ),
        *(
            nn.MaxPool1d,
            nn.MaxPool2d,
            nn.MaxPool3d,
            nn.AvgPool1d,
            nn.AvgPool2d,
            nn.AvgPool3d,
            nn.AdaptiveAvgPool1d,
            nn.ReLU,
            nn.ReLU6,
            nn.Sigmoid,
            nn.Tanh,
        ),
        *(nn.Softmax, nn.LogSoftmax, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish, nn.Softplus, nn.Softsign, nn.Hardsigmoid),
        *(nn.Hardswish, nn.Hardtanh, nn.LeakyReLU, nn.LogSigmoid, nn.PReLU, nn.Tanhshrink),
        *(Lookup, Permute, Reshape, Select, Pad, Over, Join, Concatenate, Unequal, Affine, Repeat, Rectifier, Function, Recurrent),
        *(Attention, DotAttention, MeanOfKept),
    )
}
"""Every kind of layer by its name; the settings of one are the arguments of its class."""


def layer_of(kind: str, settings: Mapping[str, Any]) -> nn.Module:
    """Return a layer of a `kind`, drawn anew, with `settings` as JSON has them."""
    return LAYERS[kind](**{name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()})


class LayerGraph(nn.Module):
    """Layers that read one another's values.

    Each step is plain data: "name", "kind" (one of `LAYERS`), "of" (the names of what it reads; "input" is what the network takes),
    and "settings". The names are those of its modules.
    """

    def __init__(self, steps: Sequence[Mapping[str, Any]], outputs: Sequence[str]) -> None:
        super().__init__()
        self.steps: list[tuple[str, tuple[str, ...]]] = []
        known = {_INPUT}
        for step in steps:
            name, kind, read = str(step["name"]), step["kind"], tuple(map(str, step["of"]))
            if kind not in LAYERS or not known.issuperset(read) or not read or name in known or not _is_plain(step["settings"]):
                raise NetworkError(f"The layer {name!r} of the kind {kind!r}, which reads {', '.join(read)}, is none that regraft writes.")
            known.add(name)
            self.add_module(name, layer_of(kind, step["settings"]))
            self.steps.append((name, read))
        if not outputs or not known.issuperset(outputs):
            raise NetworkError(f"The network returns {', '.join(outputs) or 'nothing'}; its layers are {', '.join(sorted(known))[:200]}.")
        self.outputs = tuple(outputs)

    def forward(self, x: Tensor) -> Any:
        """Return the outputs for a batch `x`: one tensor, or several."""
        values = {_INPUT: x}
        for name, read in self.steps:
            values[name] = self.get_submodule(name)(*(values[each] for each in read))
        found = tuple(values[name] for name in self.outputs)
        return found[0] if len(found) == 1 else found


def _is_plain(settings: Any) -> bool:
    values = settings.values() if isinstance(settings, Mapping) else [object()]
    flat = [part for value in values for part in (value if isinstance(value, list | tuple) else [value])]
    return all(isinstance(part, _NUMBERS) for part in flat)


def graph_module(origin: Mapping[str, Any]) -> LayerGraph:
    """Return the module, its weights drawn anew, of a network that is made of layers."""
    steps, outputs = origin.get("layers"), origin.get("outputs")
    if not isinstance(steps, list) or not isinstance(outputs, list):
        raise NetworkError(f"The origin {origin.get('source')!r} holds no list of layers; it holds {', '.join(map(str, origin))}.")
    return LayerGraph(steps, outputs)
