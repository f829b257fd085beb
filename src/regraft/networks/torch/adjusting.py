"""Edits inside a PyTorch network or before its input, and their folding: scales, codes, low-rank matrices, a linear layer."""

import re
import warnings
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import NetworkError, optional_import
from ...randomness import seeded
from ..editing.taps import Point, read_point, width_hint
from ..edits import AddedBiases, Codes, InputLayer, LowRank, ScaleShift
from ..family import EditTable
from ..parts.coding import ENTRANCE, INPUT, LAYERS, drawn_codes
from ..parts.protocols import by_name
from ..parts.taps import INPUT as ENTRY
from ..parts.taps import Tap
from ..samples import three_items
from .body import TorchBody
from .conditioned import (
    AdjustedNetwork,
    Adjustment,
    CodedNetwork,
    CodeMap,
    CodeTable,
    EntranceNetwork,
    GivenInput,
    ResidualEntrance,
    over_channels,
)
from .graft import Graft, find_graft, module_at, set_submodule_, without
from .sites import fold_, give_bias_, is_plain, shared_weights

_CONDITION = "condition"
_WIDEST = 4096  # Widest input vector that a linear layer is put before: its weight has the square of that many entries


def _adjusted(twin: TorchBody, edit: ScaleShift, **_: Any) -> TorchBody:
    """Scale and shift the values at the hook points of an `edit` by channel."""
    sites = twin.chosen_sites(edit.points).values()
    return twin.anew(AdjustedNetwork(twin.module, {site: Adjustment(site.channels, edit.form) for site in sites}))


def settled(twin: TorchBody) -> tuple[TorchBody, tuple[str, ...]]:
    """Fold adjustments or low-rank matrices into the weights of a private copy. Also return the names of layers that gained a bias."""
    around, created = find_graft(twin.module, AdjustedNetwork), []
    if around is not None:
        for site, part in zip(around.sites, around.adjusting, strict=True):
            scale, shift = cast(Adjustment, part).change()
            if fold_(module_at(around.network, site.name), scale=scale, shift=shift):
                created.append(site.name)
        twin.module = without(twin.module, around)
    changed = _changed(twin)
    twin.rename_({layer.name: layer.name for layer in twin.layers} | {f"{name}.base_layer": name for name in changed})
    for name, module in changed.items():
        base = cast(Any, module).base_layer
        with torch.no_grad():
            base.weight.add_(cast(Any, module).get_delta_weight(_ADAPTER).to(base.weight))
        for parameter in base.parameters():
            parameter.requires_grad_(True)  # peft froze it
        set_submodule_(twin.module, name, module=base)
    vars(twin.module).pop("peft_config", None)
    return twin.anew(), tuple(created)


def _biased(twin: TorchBody, edit: AddedBiases, **_: Any) -> TorchBody:
    for name in edit.layers:
        give_bias_(module_at(twin.module, name))
    return twin.anew()


def _place_of_input(body: TorchBody, change: str) -> tuple[Point, Tensor]:
    """Return the feature (channel) axis of the input and a batch of two examples. Errors name the `change`."""
    sample = body.sample
    if isinstance(sample, dict) or not sample.is_floating_point():
        received = f"the inputs {', '.join(sample)}" if isinstance(sample, dict) else "token ids"
        raise NetworkError(f"{change} reads one input of real numbers; this network takes {received}. Change its layers instead.")
    layers = [module_at(body.module, layer.name) for layer in body.layers]
    three = cast(Tensor, three_items(sample))
    place = read_point(Tap(ENTRY, ("mean",)), None, two=sample, three=three, hint=width_hint(layers, given=False))
    if place is None or place.channels > _WIDEST or sample.ndim > 5:
        raise NetworkError(
            f"{change} reads vectors of at most {_WIDEST} features, or channels; this network takes examples of shape {body.input_shape}. "
            "Change its layers instead."
        )
    return place, sample


def _with_entrance(twin: TorchBody, _edit: InputLayer, **_: Any) -> TorchBody:
    """Put a linear layer over the features (channels) before the input, initialised to the identity."""
    place, sample = _place_of_input(twin, "A linear layer before the input")
    entrance = over_channels(place.channels, place.channels, rank=sample.ndim, last=place.channels_last)
    weight, bias = cast(Tensor, entrance.weight), cast(Tensor, entrance.bias)
    with torch.no_grad():
        weight.copy_(torch.eye(place.channels).reshape(weight.shape))
        bias.zero_()
    return twin.anew(EntranceNetwork(twin.module, entrance.to(sample.dtype)))


# ── codes ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _coded(twin: TorchBody, edit: Codes, *, seed: int, **_: Any) -> TorchBody:
    """Let the network take a condition with each example; `seed` draws the first codes."""
    coding = edit.coding
    own = dict(by_name(twin.sample, "inputs"))
    if _CONDITION in own and coding.into != f"{INPUT}{_CONDITION}":
        raise NetworkError(f"The network has an input called {_CONDITION!r} of its own; expected none. Give it another name.")
    first = next(iter(own.values()))
    condition = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    table = CodeTable(1 + len(coding.conditions), coding.size)
    table.weight = Parameter(torch.from_numpy(drawn_codes(coding, seed=seed)))
    sites = twin.chosen_sites(coding.points) if coding.into == LAYERS else {}
    maps = {site: CodeMap(coding.size, site.channels) for site in sites.values()}
    around = CodedNetwork(twin.module, table, single=not isinstance(twin.sample, dict), maps=maps)
    if coding.into == ENTRANCE:
        place, sample = _place_of_input(twin, "An adaptation network before the input")
        with seeded(seed):  # for the layers that do not start at zero
            entrance = ResidualEntrance(
                place.channels, coding.size, hidden=coding.hidden(place.channels), rank=sample.ndim, last=place.channels_last
            )
        around.entrance = entrance.to(sample.dtype)
    elif coding.into != LAYERS:
        name = coding.into.removeprefix(INPUT)
        filled = own.pop(name)
        around.filled = (name, tuple(filled.shape[1:]), filled.dtype)
    twin.coding = replace(coding, points=tuple(sites) or coding.points)
    return twin.anew(around, sample={**own, _CONDITION: condition})


def folded(twin: TorchBody, code: Tensor) -> tuple[TorchBody, tuple[str, ...]]:
    """Fold one `code` (size,), used for all examples, into a private copy. Also return the names of layers that gained a bias."""
    around, created = twin.codes_around(), []
    with torch.no_grad():
        for site, own in zip(around.sites, around.maps, strict=True):
            if fold_(module_at(around.network, site.name), shift=own(code)):
                created.append(site.name)
    rest = {name: tensor for name, tensor in cast(dict[str, Tensor], twin.sample).items() if name != _CONDITION}
    alone = (around.single and list(rest) == ["inputs"]) or (around.filled is not None and len(rest) == 1)
    by: Graft | None = None
    if around.filled is not None:  # the code is an input, not a shift: it becomes a constant
        name, shape, dtype = around.filled
        value = code.detach().reshape(1, *shape).to(dtype)
        by = GivenInput(around.network, name, value=value, only=next(iter(rest)) if alone else "")
    elif around.entrance is not None:
        around.entrance.fold_(code)
        by = EntranceNetwork(around.network, around.entrance)
    twin.coding = None
    return twin.anew(without(twin.module, around, by=by), sample=next(iter(rest.values())) if alone else rest), tuple(created)


_ADAPTER = "default"


def _changed(body: TorchBody) -> dict[str, Module]:
    return {name: module for name, module in body.modules().items() if {"base_layer", "lora_A"} <= dict(module.named_children()).keys()}


def _low_rank(twin: TorchBody, edit: LowRank, *, seed: int, **_: Any) -> TorchBody:
    """Replace W with W + (alpha / rank) B A in the layers of an `edit`.
    `peft` draws A, seeded by `seed`; B is zero. In the copy a layer NAME becomes "NAME.base_layer"; its new parts are "NAME.lora_A.default"
    and "NAME.lora_B.default"."""
    layers = edit.layers
    edit.check(_faults(twin))
    peft: Any = optional_import("peft", "lora", purpose="low_rank (strategy 'lora')")
    names = "|".join(re.escape(name) for name in layers)
    settings = peft.LoraConfig(r=edit.rank, lora_alpha=edit.alpha, target_modules=f"(?:{names})", lora_dropout=0.0, bias="none")
    mode, kinds = twin.module.training, {name: type(module).__name__ for name, module in twin.modules().items()}
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # for example that peft detected a transposed weight itself
        peft.inject_adapter_in_model(settings, twin.module, adapter_name=_ADAPTER)
    missed = sorted(set(layers) - _changed(twin).keys())
    if missed:
        raise NetworkError(f"The installed peft changes no {kinds[missed[0]]} such as {missed[0]!r}. Leave it out.")
    encoders = [layer for layer in twin.module.modules() if isinstance(layer, torch.nn.TransformerEncoderLayer)]
    for part in [part for layer in encoders for part in layer.children() if "base_layer" in dict(part.named_children())]:
        part.register_forward_hook(_not_fused)
    twin.module.train(mode)
    twin.rename_({layer.name: layer.name for layer in twin.layers} | {name: f"{name}.base_layer" for name in layers})
    return twin.anew()


def _not_fused(*_call: Any) -> None:
    """Change nothing. A hook disables the fused step of PyTorch's encoder layers, which would ignore the low-rank matrices."""


def _faults(body: TorchBody) -> dict[str, str | None]:
    """Return why low-rank matrices cannot change a module, or None, for each by name."""
    modules, called = body.modules(), set(body.traced().order)
    shared, heads = shared_weights(modules), set(body.head_layers)

    def reason(name: str) -> str | None:
        module = modules[name]
        if name in heads:
            return "a head, whose weights are trained themselves"
        if not is_plain(module):
            return f"a {type(module).__name__}"
        if name not in called:
            return "whose weight another module reads without calling it"
        if name in shared:
            return "whose weight is also that of another layer"
        if not isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
            return None
        facts = {"groups": module.groups, "dilation": max(module.dilation), "padding_mode": module.padding_mode}
        other = [f"{name}={value!r}" for name, value in facts.items() if value not in (1, "zeros")]  # which peft does not support
        return f"a {type(module).__name__} with {', '.join(other)}" if other else None

    return {name: reason(name) for name in modules}


INSIDE: EditTable = {Codes: _coded, InputLayer: _with_entrance, ScaleShift: _adjusted, LowRank: _low_rank, AddedBiases: _biased}
"""The functions of the edits that add layers inside a network or before its input."""
