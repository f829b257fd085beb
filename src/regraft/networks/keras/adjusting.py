"""Edits inside a Keras network or before its input, and their folding: scales, shifts, low-rank changes, codes, a linear layer."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NetworkError
from ...words import counted
from ..edits import AddedBiases, Codes, InputLayer, LowRank, ScaleShift
from ..family import EditTable
from ..parts.coding import CODE_SPREAD, ENTRANCE, INPUT, LAYERS, Coding, drawn_codes
from ..parts.protocols import by_name
from ..parts.scaling import film, lhuc
from .body import KerasBody
from .flat_graph import Rewiring, Step, named, named_inputs, opened
from .heads import channels_last
from .library import keras
from .running import seeded
from .sizes import put_activation_, reset_, retrack_, taken_activation_
from .structure import ADJUSTED, CODES, CONDITION, Site, graph_of, is_code, no_graph

_ENTRANCE = "entrance"


# ── scales and shifts ────────────────────────────────────────────────────────────────────────────────────────────────────


class _Adjustment(keras.layers.Layer):  # type: ignore[misc]  # Keras comes through a door without types
    """A channel-wise scale, with "film" also a shift. Initially it changes nothing."""

    def __init__(self, form: str, axis: int, *, name: str, dtype: Any) -> None:
        super().__init__(name=name, dtype=dtype)
        self.form, self.axis, self.supports_masking = form, axis, True

    def build(self, input_shape: Sequence[int | None]) -> None:
        """Create the parameters, (C,) each."""
        shape = (input_shape[self.axis],)
        if self.form == "lhuc":
            self.a = self.add_weight(shape=shape, initializer="zeros", name="a")
        else:
            self.g = self.add_weight(shape=shape, initializer="ones", name="g")
            self.b = self.add_weight(shape=shape, initializer="zeros", name="b")

    def call(self, inputs: Any) -> Any:
        """Return the scaled and shifted values, in the same shape."""
        shape = [-1 if axis == self.axis else 1 for axis in range(-len(inputs.shape), 0)]
        scale, shift = self.by_channel()
        return film(inputs, scale.reshape(shape), shift=None if shift is None else shift.reshape(shape))

    def by_channel(self) -> tuple[Tensor, Tensor | None]:
        """Return the scale (C,) and the shift (C,); None for no shift."""
        return (lhuc(self.a.value), None) if self.form == "lhuc" else (self.g.value, self.b.value)


def _adjusted(twin: KerasBody, edit: ScaleShift, **_: Any) -> KerasBody:
    """Scale and shift the values at the hook points of an `edit` by channel. `settled` folds the result."""
    plain, pass_, added = twin.copy(), Rewiring(), dict[str, str]()
    for name, site in twin.chosen_sites(edit.points).items():
        pass_.behind[id(site.layer)] = _adjusting(site, edit.form)
        added[name] = f"{name[: -len(site.layer.name)]}{ADJUSTED}{site.layer.name}"
    whole = opened(twin.module).model(pass_.outputs(graph_of(twin.module), {}))
    twin.anew(whole, renewed=pass_.models)
    twin.plain, twin.adjusting = plain, added
    return twin


def _adjusting(site: Site, form: str) -> Step:
    """Return the step that scales and shifts a layer's values before the layer's own activation."""
    change = _Adjustment(form, site.axis, name=f"{ADJUSTED}{site.layer.name}", dtype=site.layer.dtype_policy)
    return _before_activation(site, ADJUSTED, change=lambda values, _code: change(values))


def _before_activation(site: Site, prefix: str, *, change: Step) -> Step:
    """Return the step that makes a change before a layer's own activation, which becomes a layer; `prefix` is that of its name."""
    activation = taken_activation_(site.linear, name=f"{prefix}then_{site.layer.name}") if site.layer is site.linear else None
    return change if activation is None else lambda values, code: activation(change(values, code))


def _fold_(layer: Any, *, scale: Tensor | None = None, shift: Tensor | None = None) -> bool:
    """Fold a channel-wise scale (C,) and shift (C,) of a layer's pre-activation into its weights. Return whether it gained a bias."""
    normal = isinstance(layer, keras.layers.BatchNormalization)
    created = shift is not None and not (layer.center if normal else layer.bias is not None)
    factor, offset = _with_places_(layer, scale=scale is not None, shift=shift is not None)
    with torch.no_grad():
        if scale is not None:
            kernel, kind = factor.value, type(layer).__name__
            if kind.startswith("Depthwise"):  # (…, input channels, outputs per input channel)
                kernel.mul_(scale.reshape(kernel.shape[-2:]))
            else:
                kernel.mul_(scale[:, None] if kind.endswith("Transpose") else scale)
            if offset is not None:
                offset.value.mul_(scale)
        if shift is not None:
            offset.value.add_(shift)
    return created


def _biased(twin: KerasBody, edit: AddedBiases, **_: Any) -> KerasBody:
    for name in edit.layers:
        _with_places_(twin.by_name[name], scale=False, shift=True)
    retrack_(twin.module)
    twin.recount_(edit.layers)
    return twin


def _with_places_(layer: Any, *, scale: bool, shift: bool) -> tuple[Any, Any]:
    """Return the variables that hold a layer's scale and shift. Create the requested ones if they are missing."""
    if isinstance(layer, keras.layers.BatchNormalization):
        missing = {"scale": scale and not layer.scale, "center": shift and not layer.center}
        reset_(layer, {key: True for key, wanted in missing.items() if wanted})
        return layer.gamma, layer.beta
    if shift and layer.bias is None:
        reset_(layer, {"bias_axes": layer.equation[-1]} if isinstance(layer, keras.layers.EinsumDense) else {"use_bias": True})
    return layer.pointwise_kernel if hasattr(layer, "pointwise_kernel") else layer.kernel, layer.bias


# ── low-rank changes ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _low_rank(twin: KerasBody, edit: LowRank, *, seed: int, **_: Any) -> KerasBody:
    """Replace W with W + (alpha / rank) A B in the layers of an `edit`, by Keras' own `enable_lora`; `seed` draws A.
    Source: LoRA (Hu et al. 2022). Deviation: Keras draws A with "he_uniform"."""
    modules = twin.by_name
    faults = dict.fromkeys(twin.head_layers, "a head, whose weights are trained themselves")
    faults |= {name: f"a {type(one).__name__}" for name, one in modules.items() if not hasattr(one, "enable_lora")}
    own = {name for name, one in modules.items() if getattr(one, "lora_enabled", False) or getattr(one, "quantization_mode", None)}
    faults |= dict.fromkeys(own, "which has a low-rank change of its own, or is quantised")
    edit.check({name: faults.get(name) for name in modules})
    twin.plain = twin.copy()
    with seeded(seed):
        for layer in map(modules.__getitem__, edit.layers):
            try:
                layer.enable_lora(edit.rank, b_initializer="zeros", lora_alpha=edit.alpha)
            except (ValueError, NotImplementedError) as error:
                raise NetworkError(f"Keras cannot give the layer {layer.name!r} a low-rank change: {error}") from error
    retrack_(twin.module)
    twin.recount_(edit.layers)
    return twin


# ── back to a plain network ──────────────────────────────────────────────────────────────────────────────────────────────


def settled(body: KerasBody) -> tuple[KerasBody, tuple[str, ...]]:
    """Return a copy of a `body` with its training form folded into the weights, and the names of layers that gained a bias."""
    twin = cast(KerasBody, body.plain).copy()
    trained, created = body.variables(), []
    with torch.no_grad():
        for name, variable in twin.variables().items():
            layer, _, own = name.rpartition(".")
            module, value = body.by_name.get(layer), trained[name].value if name in trained else None
            kept = getattr(twin.by_name.get(layer), "lora_enabled", False)  # a low-rank change of the user's own stays apart
            if getattr(module, "lora_enabled", False) and not kept and own in {"kernel", "embeddings"}:  # as its layer uses it
                value = getattr(module, own)
                value = getattr(value, "value", value)
            if value is None or value.shape != variable.value.shape:
                received = "nothing" if value is None else f"shape {tuple(value.shape)}"
                raise NetworkError(
                    f"The network was changed in its training form: '{name}' has {received}; expected {tuple(variable.value.shape)}."
                )
            variable.value.copy_(value)
        for name, layer in body.adjusting.items():
            scale, shift = body.by_name[layer].by_channel()
            if _fold_(twin.by_name[name], scale=scale, shift=shift if shift is not None and bool(shift.any()) else None):
                created.append(name)
    twin.sample, twin.input_shape, twin.coding, twin.training = body.sample, body.input_shape, body.coding, body.training
    twin.heads, twin.found, twin.draws, twin.untrained = dict(body.heads), body.found, body.draws, body.untrained
    twin.recount_(body.adjusting)
    return twin, tuple(created)


# ── a layer before the input ─────────────────────────────────────────────────────────────────────────────────────────────


def _entry_of(body: KerasBody) -> tuple[Any, int]:
    """Return the only input of a body's graph and its feature (channel) axis, which follows the layout of the first convolution."""
    graph = graph_of(body.module)
    if graph is None:
        raise no_graph(body.module)
    kinds = [tensor.dtype for tensor in graph.inputs]
    if len(kinds) != 1 or "float" not in kinds[0] or graph.inputs[0].shape[-1] is None:
        received = f"{counted(len(kinds), 'input')} of the types {', '.join(kinds)}"
        raise NetworkError(
            f"'{body.module.name}' takes {received}; a layer before the input needs one input of real numbers of known width."
        )
    taken = [name for name in body.by_name if name.split("_")[0] == _ENTRANCE]
    if taken:
        raise NetworkError(f"The network has a layer named {taken[0]!r} already; expected no name that begins with 'entrance'. Rename it.")
    layers = [body.by_name[layer.name] for layer in body.layers]
    first = next((layer for layer in layers if hasattr(layer, "kernel_size")), None)
    rank = len(graph.inputs[0].shape)
    return graph.inputs[0], rank - 1 if rank == 2 or first is None or channels_last(first) else 1


# over the limit: a layer and its settings
def _over_channels(tensor: Any, count: int, *, axis: int, name: str, zero: bool = False) -> tuple[Any, Any]:
    """Return a linear layer over the channels (`axis`) of a symbolic tensor, and its output with `count` channels.
    With `zero` its weights start at zero."""
    rank, start = len(tensor.shape), {"kernel_initializer": "zeros"} if zero else {}
    if axis == rank - 1:
        layer = keras.layers.Dense(count, name=name, dtype=tensor.dtype, **start)
    else:
        kind = getattr(keras.layers, f"Conv{rank - 2}D")
        layer = kind(count, 1, data_format="channels_first", name=name, dtype=tensor.dtype, **start)
    return layer, layer(tensor)


def _with_entrance(twin: KerasBody, _edit: InputLayer, **_: Any) -> KerasBody:
    """Put a linear layer over the features (channels) before the input, initialised to the identity."""
    tensor, axis = _entry_of(twin)
    width = tensor.shape[axis]
    layer, entered = _over_channels(tensor, width, axis=axis, name=_ENTRANCE)
    with torch.no_grad():
        layer.kernel.value.copy_(torch.from_numpy(np.eye(width, dtype="float32")).reshape(layer.kernel.shape))
    pass_ = Rewiring()
    return twin.anew(opened(twin.module).model(pass_.outputs(graph_of(twin.module), {id(tensor): entered})), renewed=pass_.models)


@seeded(0)
def _coded(twin: KerasBody, edit: Codes, *, seed: int, **_: Any) -> KerasBody:
    """Let the network take a condition with each example; `seed` draws the first codes.
    "entrance" is an adaptation network of two layers before the input; both read the code. Source: Abdel-Hamid & Jiang (ICASSP 2013).
    Deviation: its output is added to the input and starts at zero."""
    coding, taken = edit.coding, [name for name, layer in twin.by_name.items() if layer.name == CODES or is_code(layer)]
    if taken:
        raise NetworkError(f"The network has a layer named {taken[0]!r} already; expected no name that begins with 'codes'. Rename it.")
    graph, pass_, known = opened(twin.module), Rewiring(coded=coding.into == LAYERS), dict[int, Any]()
    inputs = named_inputs(graph, CODES if coding.into == f"{INPUT}{CONDITION}" else CONDITION)
    condition = keras.Input((), name=CONDITION, dtype="int32")
    chosen = twin.chosen_sites(coding.points) if coding.into == LAYERS else {}
    if coding.into == LAYERS:
        code = _looked_up(condition, coding, dtype=next(iter(chosen.values())).linear.variable_dtype)
        pass_.behind |= {id(site.layer): _shifted_by_code(site) for site in chosen.values()}
    elif coding.into == ENTRANCE:
        with seeded(seed):
            tensor, axis = _entry_of(twin)
            values, width = tensor, tensor.shape[axis]
            code = _looked_up(condition, coding, dtype=tensor.dtype)
            for name, count, activation in (("hidden", coding.hidden(width), "relu"), ("last", width, "linear")):
                layer, values = _over_channels(values, count, axis=axis, name=f"{_ENTRANCE}_{name}", zero=name == "last")
                layer.activation = keras.activations.get(activation)
                values = _shifted_by_code(Site(layer, layer, count, axis - len(tensor.shape)))(values, code)
        known[id(tensor)] = keras.layers.Add(name=f"{_ENTRANCE}_sum", dtype=tensor.dtype)([tensor, values])
    else:
        name = coding.into.removeprefix(INPUT)
        tensor = inputs.pop(name)
        if None in tensor.shape[1:]:
            raise NetworkError(f"A code cannot be the input {name!r} of shape {tuple(tensor.shape[1:])}; expected a fixed one.")
        code = _looked_up(condition, coding, dtype=tensor.dtype)
        shaped = keras.layers.Reshape(tensor.shape[1:], name=f"{CODES}_at_{name}", dtype=tensor.dtype)
        known[id(tensor)] = code if len(tensor.shape) == 2 else shaped(code)
    whole = graph.model(pass_.outputs(graph_of(twin.module), known, code=code), inputs={**inputs, CONDITION: condition})
    sample = by_name(twin.sample, "inputs")
    kept = {name: values for name, values in sample.items() if name in inputs}
    zeros = torch.zeros(len(next(iter(sample.values()))), dtype=torch.int64)
    twin.anew(whole, sample={**kept, CONDITION: zeros}, renewed=pass_.models)
    twin.coding = replace(coding, points=tuple(chosen))
    twin.put_codes_(drawn_codes(coding, seed=seed))
    return twin


def _looked_up(condition: Any, coding: Coding, *, dtype: str) -> Any:
    drawn = keras.initializers.RandomNormal(stddev=CODE_SPREAD)
    table = keras.layers.Embedding(1 + len(coding.conditions), coding.size, embeddings_initializer=drawn, name=CODES, dtype=dtype)
    return table(condition)


def _shifted_by_code(site: Site) -> Step:
    """Return the step that adds a linear map of the code, initially zero, before the layer's own activation."""
    name, policy = site.layer.name, site.layer.dtype_policy
    to = keras.layers.Dense(site.channels, use_bias=False, kernel_initializer="zeros", name=f"{CODES}_to_{name}", dtype=policy)
    plus = keras.layers.Add(name=f"{CODES}_plus_{name}", dtype=policy)

    def shifted(values: Any, code: Any) -> Any:
        shift, shape = to(code), [1] * (len(values.shape) - 1)
        if len(shape) > 1:
            shape[site.axis] = site.channels
            shift = keras.layers.Reshape(shape, name=f"{CODES}_at_{name}", dtype=policy)(shift)
        return plus([values, shift])

    return _before_activation(site, f"{CODES}_", change=shifted)


# ── back to a plain network ──────────────────────────────────────────────────────────────────────────────────────────────


def folded(twin: KerasBody, code: Tensor) -> tuple[KerasBody, tuple[str, ...]]:
    """Fold one `code` (size,), used for all examples, into a private copy. Also return the names of layers that gained a bias.
    The code goes into the biases. If it replaces an input, that input becomes a constant."""
    graph, layers, created = opened(twin.module), twin.by_name, list[str]()
    inputs, known, skipped = dict(graph.inputs), dict[int, Any](), dict[int, int | None]()
    taken, filled = inputs.pop(CONDITION), cast(Coding, twin.coding).into.startswith(INPUT)
    if filled:  # the row of every example is 0, an integer made of an input of any type
        entry = next(iter(inputs.values()))
        zeros = named(f"{CODES}_zeros", keras.ops.zeros_like(entry, dtype="int32"))
        axes = tuple(range(1, len(entry.shape)))
        known[id(taken)] = named(f"{CODES}_row", keras.ops.max(zeros, axis=axes)) if axes else zeros
        reset_(layers[CODES], {"input_dim": 1})
        with torch.no_grad():
            layers[CODES].embeddings.value.copy_(code[None])
    for name, layer in [] if filled else [(name, layer) for name, layer in layers.items() if is_code(layer)]:
        prefix, _, own = name.rpartition(f"{CODES}_")
        role, _, target = own.partition("_")
        skipped[id(layer)] = 0 if role in {"plus", "then"} else None
        if role == "to":
            with torch.no_grad():
                if _fold_(layers[prefix + target], shift=code @ layer.kernel.value.to(code)):
                    created.append(prefix + target)
        elif role == "then":
            put_activation_(layers[prefix + target], layer.activation)
    first, pass_ = next(iter(inputs)), Rewiring(skipped=skipped)
    plain = len(inputs) == 1 and (filled or first == "inputs")
    whole = graph.model(pass_.outputs(graph_of(twin.module), known), inputs=inputs[first] if plain else inputs)
    sample = {name: tensor for name, tensor in cast("dict[str, Tensor]", twin.sample).items() if name != CONDITION}
    twin.anew(whole, sample=sample[first] if plain else sample, renewed=pass_.models)
    twin.coding = None
    return twin, tuple(created)


INSIDE: EditTable = {Codes: _coded, InputLayer: _with_entrance, ScaleShift: _adjusted, LowRank: _low_rank, AddedBiases: _biased}
"""The functions of the edits that add layers inside a network or before its input."""
