"""Low-rank changes of the weights of a PyTorch network (LoRA), by the library `peft`."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError, near_names, optional_import
from ...randomness import seeded
from ..edits import LowRank
from ..torch_parts.body import TorchBody
from ..torch_parts.graft import set_submodule_
from ..torch_parts.sites import is_plain, shared_weights

__all__ = ["low_rank", "settled"]
_ADAPTER = "default"


def _changed(body: TorchBody) -> dict[str, Module]:
    return {name: module for name, module in body.modules().items() if {"base_layer", "lora_A"} <= dict(module.named_children()).keys()}


def low_rank(body: TorchBody, edit: LowRank, *, seed: int) -> TorchBody:
    """Return a copy of a `body` with W + (alpha / rank) B A in place of W in the layers of an `edit`; A is drawn from a `seed`.

    A is drawn as `peft` draws it; B is zero. A layer NAME is called "NAME.base_layer" in the copy, its new parts "NAME.lora_A.default"
    and "NAME.lora_B.default".

    Raises:
        NetworkError: if a layer cannot be changed so; all such layers are named.
        MissingExtraError: if `peft` is not installed.
    """
    layers = edit.layers
    _check(body, layers)
    peft: Any = optional_import("peft", "lora", purpose="low_rank (strategy 'lora')")
    names = "|".join(re.escape(name) for name in layers)
    settings = peft.LoraConfig(r=edit.rank, lora_alpha=edit.alpha, target_modules=f"(?:{names})", lora_dropout=0.0, bias="none")
    twin = body.copy()
    mode = twin.module.training
    with seeded(seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # such as that a turned weight was told by itself
        peft.inject_adapter_in_model(settings, twin.module, adapter_name=_ADAPTER)
    missed = sorted(set(layers) - _changed(twin).keys())
    if missed:
        raise NetworkError(f"The installed peft changes no {type(body.modules()[missed[0]]).__name__} such as {missed[0]!r}. Leave it out.")
    for module in _inside_fused(twin.module):
        module.register_forward_hook(_not_fused)
    twin.module.train(mode)
    return twin.anew(twin.found, twin.heads)


def _inside_fused(module: Module) -> list[Module]:
    """Return the changed layers inside transformer layers that read weights themselves, in inference, unless a hook listens inside."""
    layers = [layer for layer in module.modules() if isinstance(layer, torch.nn.TransformerEncoderLayer)]
    return [part for layer in layers for part in layer.children() if "base_layer" in dict(part.named_children())]


def _not_fused(*_call: Any) -> None:
    """Change nothing: that a hook is there keeps PyTorch from the fused step, which would leave the low-rank matrices out."""


def _check(body: TorchBody, layers: Collection[str]) -> None:
    """Raise unless each of the layers can be changed by low-rank matrices."""
    modules, known = body.modules(), _reasons(body)
    fits = [name for name, reason in known.items() if reason is None]
    unknown = [name for name in layers if name not in modules]
    if unknown:
        raise NetworkError(f"layers={unknown[0]!r}: the network has no layer of that name{near_names(unknown[0], fits)}")
    wrong = [f"{name!r}, {known[name]}" for name in layers if known[name]]
    if wrong:
        raise NetworkError(f"Low-rank matrices change linear layers and plain convolutions; received {'; '.join(wrong)}. Leave them out.")


def _reasons(body: TorchBody) -> dict[str, str | None]:
    """Return for each module why its weight cannot be changed by low-rank matrices; None where it can."""
    modules, called = body.modules(), set(body.order())
    shared, heads = shared_weights(modules), set(body.head_layers)
    found: dict[str, str | None] = {}
    for name, module in modules.items():
        if name in heads:
            found[name] = "a head, whose rows are trained themselves"
        elif not is_plain(module):
            found[name] = f"a {type(module).__name__}"
        elif name not in called:
            found[name] = "whose weight another module reads without calling it"
        elif name in shared:
            found[name] = "whose weight is also that of another layer"
        else:
            found[name] = _unlike(module)
    return found


def _unlike(module: Module) -> str | None:
    """Return what makes a convolution another one than `peft` takes it for; None for nothing."""
    if not isinstance(module, (torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)):
        return None
    facts = {"groups": module.groups, "dilation": max(module.dilation), "padding_mode": module.padding_mode}
    other = [f"{name}={value!r}" for name, value in facts.items() if value not in (1, "zeros")]
    return f"a {type(module).__name__} with {', '.join(other)}" if other else None


def settled(body: TorchBody) -> tuple[TorchBody, tuple[str, ...]]:
    """Return a copy of a `body` with the low-rank changes added to the weights, its layers called as before; none got a bias."""
    twin = body.copy()
    for name, module in _changed(twin).items():
        around: Any = module
        base = cast(Module, around.base_layer)
        weight = cast(Tensor, base.weight)
        with torch.no_grad():
            weight.add_(around.get_delta_weight(_ADAPTER).to(weight))
        for parameter in base.parameters():
            parameter.requires_grad_(True)  # the library froze it
        set_submodule_(twin.module, name, module=base)
    if "peft_config" in twin.module.__dict__:
        del twin.module.__dict__["peft_config"]
    return twin.anew(twin.found, twin.heads), ()
