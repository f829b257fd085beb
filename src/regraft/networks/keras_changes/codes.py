"""Codes of conditions in a Keras body, in layers of Keras' own: the file opens in plain Keras."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NetworkError, near_names
from ..keras_parts.body import KerasBody
from ..keras_parts.drawing import seeded
from ..keras_parts.library import keras
from ..keras_parts.points import Site, channel_axis, sites_of
from ..keras_parts.structure import CODES, CONDITION, graph_of, is_code
from ..parts.coding import CODE_SPREAD, ENTRANCE, INPUT, LAYERS, Coding, drawn_codes
from .entrances import ENTRANCE_NAME, entry_of, over_channels
from .folding import fold_
from .inserting import Rewiring, Step
from .opened import named, named_inputs, opened
from .sizes import put_activation_, reset_, retrack_, taken_activation_

__all__ = ["coded", "folded", "put_codes_"]

_WIDEST_HIDDEN = 256
"""Most hidden units of an adaptation network before the input, unless the codes are larger."""


@dataclass
class _Entry:
    """How the codes come in.

    Attributes:
        inputs: the inputs of the new model, by name, but for the condition.
        code: the symbolic code (N, size).
        known: what replaces a symbolic tensor, by its id.
        pass_: puts the codes where they are read.
        points: the names of the points.
    """

    inputs: dict[str, Any]
    code: Any
    known: dict[int, Any]
    pass_: Rewiring
    points: tuple[str, ...] = ()


@seeded(0)
def coded(body: KerasBody, coding: Coding, *, seed: int) -> KerasBody:
    """Return a copy of a `body` that takes a condition beside each item, as its `coding` says; `seed` draws the first codes.

    Raises:
        NetworkError: if it has no graph, or has no place for them.
    """
    _refuse_taken_names(body)
    module, layers, heads = body.copied()
    graph = opened(module)
    replaced = coding.into == f"{INPUT}{CONDITION}"
    inputs = named_inputs(graph, CODES if replaced else CONDITION)
    condition = keras.Input((), name=CONDITION, dtype="int32")
    entry = _Entry(inputs, condition, {}, Rewiring(coded=True))
    if coding.into == LAYERS:
        _enter_layers_(entry, body, coding=coding, layers=layers)
    elif coding.into == ENTRANCE:
        with seeded(seed):
            _enter_entrance_(entry, body, coding=coding, module=module)
    else:
        _enter_input_(entry, coding)
    outputs = entry.pass_.outputs(graph_of(module), entry.known, code=entry.code)
    whole = graph.model(outputs, inputs={**entry.inputs, CONDITION: condition})
    sample = body.sample if isinstance(body.sample, dict) else {"inputs": body.sample}
    kept = {name: tensor for name, tensor in sample.items() if name in entry.inputs}
    zeros = torch.zeros(len(next(iter(sample.values()))), dtype=torch.int64)
    twin = body.anew(whole, entry.pass_.renewed(layers), heads=heads, sample={**kept, CONDITION: zeros})
    twin.coding = replace(coding, points=entry.points)
    put_codes_(twin, drawn_codes(coding, seed=seed))
    return twin


def _refuse_taken_names(body: KerasBody) -> None:
    """Raise if a layer of a network has a name that those of codes are to have."""
    taken = [name for name, layer in body.modules().items() if layer.name == CODES or is_code(layer)]
    if taken:
        raise NetworkError(f"The network has a layer named {taken[0]!r} already; expected no name that begins with 'codes'. Rename it.")


def _looked_up(condition: Any, coding: Coding, *, dtype: str) -> Any:
    drawn = keras.initializers.RandomNormal(stddev=CODE_SPREAD)
    table = keras.layers.Embedding(1 + len(coding.conditions), coding.size, embeddings_initializer=drawn, name=CODES, dtype=dtype)
    return table(condition)


# ── what takes the code ──────────────────────────────────────────────────────────────────────────────────────────────────


def _enter_layers_(entry: _Entry, body: KerasBody, *, coding: Coding, layers: Mapping[str, Any]) -> None:
    """Let each point add its own linear map of the code.

    Raises:
        NetworkError: if a point is not there, or there is none.
    """
    sites = sites_of(body)
    wrong = [name for name in coding.points if name not in sites]
    if wrong:
        raise NetworkError(f"The network has no point {wrong[0]!r}{near_names(wrong[0], sites)}")
    if not sites:
        raise NetworkError(f"'{body.module.name}' has no linear layer or convolution before its head; codes have no place to go.")
    entry.points = tuple(name for name in sites if name in coding.points) or tuple(sites)
    chosen = {name: sites[name] for name in entry.points}
    names = {id(layer): name for name, layer in body.modules().items()}
    entry.code = _looked_up(entry.code, coding, dtype=next(iter(chosen.values())).linear.variable_dtype)
    for name, site in chosen.items():
        own = Site(layers[name], layers[names[id(site.linear)]], site.channels)
        entry.pass_.behind[id(own.layer)] = _shifted_by_code(own)


def _shifted_by_code(site: Site) -> Step:
    """Return the step that adds a linear map of the code, zero at first; the layer's own activation comes after it."""
    name, policy = site.layer.name, site.layer.dtype_policy
    activation = taken_activation_(site.linear, name=f"{CODES}_then_{name}") if site.layer is site.linear else None
    to = keras.layers.Dense(site.channels, use_bias=False, kernel_initializer="zeros", name=f"{CODES}_to_{name}", dtype=policy)
    plus = keras.layers.Add(name=f"{CODES}_plus_{name}", dtype=policy)

    def step(values: Any, code: Any) -> Any:
        shift, rank = to(code), len(values.shape)
        if rank > 2:
            shape = [1] * (rank - 1)
            shape[channel_axis(site.layer, rank) - 1] = site.channels
            shift = keras.layers.Reshape(shape, name=f"{CODES}_at_{name}", dtype=policy)(shift)
        shifted = plus([values, shift])
        return shifted if activation is None else activation(shifted)

    return step


def _enter_entrance_(entry: _Entry, body: KerasBody, *, coding: Coding, module: Any) -> None:
    """Let a network of two layers before the input, the second linear, read the code in both; it adds what it makes to the input.

    Source: Abdel-Hamid & Jiang (ICASSP 2013), the adaptation network. Deviation: its output is added to the input and begins at zero.
    """
    tensor, axis = entry_of(body, module=module)
    width = tensor.shape[axis]
    code = entry.code = _looked_up(entry.code, coding, dtype=tensor.dtype)
    values = tensor
    for name, count, activation in (("hidden", max(coding.size, min(width, _WIDEST_HIDDEN)), "relu"), ("last", width, "linear")):
        layer, values = over_channels(values, count, axis=axis, name=f"{ENTRANCE_NAME}_{name}", zero=name == "last")
        layer.activation = keras.activations.get(activation)
        values = _shifted_by_code(Site(layer, layer, count))(values, code)
    entry.known[id(tensor)] = keras.layers.Add(name=f"{ENTRANCE_NAME}_sum", dtype=tensor.dtype)([tensor, values])
    entry.pass_.coded = False


def _enter_input_(entry: _Entry, coding: Coding) -> None:
    """Let the code take the place of an input.

    Raises:
        NetworkError: if that input has no fixed size.
    """
    name = coding.into.removeprefix(INPUT)
    tensor = entry.inputs.pop(name)
    if None in tensor.shape[1:]:
        raise NetworkError(f"A code cannot be the input {name!r} of shape {tuple(tensor.shape[1:])}; expected a fixed one.")
    entry.code = _looked_up(entry.code, coding, dtype=tensor.dtype)
    shaped = keras.layers.Reshape(tensor.shape[1:], name=f"{CODES}_at_{name}", dtype=tensor.dtype)
    entry.known[id(tensor)] = entry.code if len(tensor.shape) == 2 else shaped(entry.code)
    entry.pass_.coded = False


# ── the table ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def put_codes_(body: KerasBody, table: np.ndarray) -> None:
    """Give a `body` that takes codes another `table` of them, (1 + K, size)."""
    layer = cast(Any, body.modules()[CODES])
    if len(table) != layer.input_dim:
        reset_(layer, {"input_dim": len(table)})
        retrack_(body.module)
        body.recount_([CODES])
    with torch.no_grad():
        target = body.code_table()
        target.copy_(torch.from_numpy(table.copy()).to(target))


# ── back to a plain network ──────────────────────────────────────────────────────────────────────────────────────────────


def folded(body: KerasBody, code: Tensor) -> tuple[KerasBody, tuple[str, ...]]:
    """Return a `body` without its codes, one `code` of (size,) for all items, and the names of layers that got a bias for it.

    It goes into the biases; where the code is an input, that becomes a constant.
    """
    module, layers, heads = body.copied()
    graph = opened(module)
    inputs = dict(graph.inputs)
    known, taken, created = {}, inputs.pop(CONDITION), list[str]()
    filled = cast(Coding, body.coding).into.startswith(INPUT)
    if filled:
        known[id(taken)] = _zeros_like(next(iter(inputs.values())))
        reset_(layers[CODES], {"input_dim": 1})
        pass_ = Rewiring()
        with torch.no_grad():
            layers[CODES].embeddings.value.copy_(code[None])
    else:
        pass_ = Rewiring(skipped=_without_codes_(layers, code, created=created))
    first = next(iter(inputs))
    plain = len(inputs) == 1 and (filled or first == "inputs")
    whole = graph.model(pass_.outputs(graph_of(module), known), inputs=inputs[first] if plain else inputs)
    sample = {name: tensor for name, tensor in cast("dict[str, Tensor]", body.sample).items() if name != CONDITION}
    twin = body.anew(whole, pass_.renewed(layers), heads=heads, sample=sample[first] if plain else sample)
    twin.coding = None
    return twin, tuple(created)


def _zeros_like(tensor: Any) -> Any:
    """Return a symbolic zero for each item of a tensor, (N,) int32, whatever the tensor holds."""
    zeros = named(f"{CODES}_zeros", keras.ops.zeros_like(tensor, dtype="int32"))
    axes = tuple(range(1, len(tensor.shape)))
    return named(f"{CODES}_row", keras.ops.max(zeros, axis=axes)) if axes else zeros


def _without_codes_(layers: Mapping[str, Any], code: Tensor, *, created: list[str]) -> dict[int, int | None]:
    """Fold the code (size,) into the layers that read it, and return which layers are to be skipped, as `Rewiring` takes them."""
    skipped: dict[int, int | None] = {}
    for name, layer in layers.items():
        if not is_code(layer):
            continue
        prefix, _, own = name.rpartition(f"{CODES}_")
        role, _, target = own.partition("_")
        skipped[id(layer)] = 0 if role in {"plus", "then"} else None
        if role == "to":
            with torch.no_grad():
                if fold_(layers[prefix + target], shift=code @ layer.kernel.value.to(code)):
                    created.append(prefix + target)
        elif role == "then":
            put_activation_(layers[prefix + target], layer.activation)
    return skipped
