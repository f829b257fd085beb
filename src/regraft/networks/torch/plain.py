"""Modules in the form regraft works with: a copy, unwrapped, in float32."""

import copy
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
from torch import Tensor
from torch.jit import ScriptModule
from torch.nn import DataParallel, Module, TransformerEncoder
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import parametrizations, remove_weight_norm
from torch.nn.utils.weight_norm import WeightNorm

from ...errors import NetworkError

_OF_TORCH = ("_modules", "_parameters", "_buffers")
M = TypeVar("M", bound=Module)
T = TypeVar("T")


def copied(module: M) -> M:
    """Return a deep copy of a `module`, even if it holds computed tensors (old weight norm, spectral norm).
    Objects that cannot be copied (a lock, an open file, a generator) are shared."""
    own = [held for part in module.modules() for name, held in vars(part).items() if name not in _OF_TORCH]
    known: dict[int, Any] = {id(held): held.detach().clone() for held in own if isinstance(held, Tensor) and not held.is_leaf}
    try:
        return copy.deepcopy(module, dict(known))
    except Exception:  # the user's objects may raise anything
        for held in own:
            try:
                copy.deepcopy(held, dict(known))
            except Exception:
                known[id(held)] = held
        return copy.deepcopy(module, known)


def unwrapped(module: Module) -> tuple[Module, tuple[str, ...]]:
    """Return the module inside its wrappers (`torch.compile`, `DataParallel`), and notes for the report."""
    notes: list[str] = []
    while True:
        compiled = getattr(module, "_orig_mod", None)
        inner = module.module if isinstance(module, DataParallel | DistributedDataParallel) else compiled
        if not isinstance(inner, Module):
            break
        notes.append(f"opened without the {type(module).__name__} around it")
        module = inner
    scripted = [name or "the whole" for name, part in module.named_modules() if isinstance(part, ScriptModule)]
    if scripted:
        raise NetworkError(
            f"Received a module of which {scripted[0]!r} is scripted or traced: its layers cannot be reached. Give the module that it was "
            "made from."
        )
    return module, tuple(notes)


def made_plain(module: M) -> tuple[M, tuple[str, ...]]:
    """Give a private copy parametrised weight norm, a positional input and encoders without nested tensors. Also return notes."""
    notes: list[str] = []
    taken = list(inspect.signature(module.forward).parameters.values())
    needed = [one.name for one in taken if one.kind is one.KEYWORD_ONLY and one.default is one.empty]
    if len(needed) == 1 and all(one.kind in (one.KEYWORD_ONLY, one.VAR_KEYWORD) for one in taken):
        module.register_forward_pre_hook(_NamedInputHook(needed[0]), with_kwargs=True)
    for name, part in module.named_modules():
        if isinstance(part, TransformerEncoder) and getattr(part, "use_nested_tensor", False):
            part.use_nested_tensor = False
            part.layers[-1].register_forward_hook(_ZeroPadding(), with_kwargs=True)
        for hook in [hook for hook in part._forward_pre_hooks.values() if isinstance(hook, WeightNorm)]:
            given = [cast(Tensor, getattr(part, f"{hook.name}_{end}")) for end in ("g", "v")]
            values = [one.detach().clone() for one in given]
            remove_weight_norm(part, hook.name)
            parametrizations.weight_norm(part, hook.name, hook.dim)
            held = part.get_submodule(f"parametrizations.{hook.name}")
            for at, (one, value) in enumerate(zip(given, values, strict=True)):
                own = cast(Tensor, getattr(held, f"original{at}"))
                own.data.copy_(value)
                own.requires_grad_(one.requires_grad)
            notes.append(f"the weight norm of {name!r} is in PyTorch's newer form")
    return module, tuple(notes)


@dataclass(frozen=True)
class _NamedInputHook:
    """Pre-hook that passes the positional input of a module by `name`."""

    name: str

    # over the limit: the signature is PyTorch's
    def __call__(self, _module: Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return (), {self.name: args[0], **named} if args else named


@dataclass(frozen=True)
class MappingHook:
    """Pre-hook that passes the named inputs of a module as one mapping."""

    # over the limit: the signature is PyTorch's
    def __call__(self, _module: Module, args: tuple[Any, ...], named: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
        return None if args else ((named,), {})


@dataclass(frozen=True)
class _ZeroPadding:
    """Hook that zeroes the padding at the end of sequences, as PyTorch's encoder does in inference with nested tensors.
    Nested tensors are disabled because a frozen layer cannot hand them to a trained one, hooks cannot pool them and exporters do not
    support them."""

    # over the limit: the signature is PyTorch's
    def __call__(self, _layer: Module, _args: Any, named: dict[str, Any], output: Tensor) -> Tensor | None:
        mask = named.get("src_key_padding_mask")
        if mask is None or named.get("src_mask") is not None or output.ndim != 3:
            return None
        padding = mask != 0  # a float mask marks padding with -inf
        ends = (padding[:, 1:] >= padding[:, :-1]).all()
        return output.masked_fill((padding & ends)[..., None], 0)


def tensors_of(module: Module, *, keep_vars: bool = False) -> dict[str, Tensor]:
    """Return the tensors of a module's state by name, without what quantised layers pack; `keep_vars` as in `Module.state_dict`."""
    state: dict[str, Any] = module.state_dict(keep_vars=keep_vars)
    return {name: held for name, held in state.items() if isinstance(held, Tensor) and not held.is_quantized}


def in_single_precision(module: Module, found: Callable[[bool], T]) -> tuple[T, tuple[str, ...]]:
    """Convert a private copy to float32 if none of its parameters has that type, and return the result of `found`.
    A module that casts its inputs, and so runs only in its original type, is restored."""
    given = {name: one.dtype for name, one in tensors_of(module).items() if one.is_floating_point()}
    kinds = {one.dtype for one in module.parameters() if one.is_floating_point()}
    if not kinds or torch.float32 in kinds:
        return found(False), ()
    module.float()
    try:
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in kinds))
        return found(True), (f"computes in float32; its weights came as {names}",)
    except NetworkError:
        for name, one in tensors_of(module, keep_vars=True).items():
            one.data = one.data.to(given.get(name, one.dtype))
        return found(False), ()
