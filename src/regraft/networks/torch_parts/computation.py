"""What the modules of a PyTorch network compute, their weights left aside."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from torch.nn import Module
from torch.nn.modules import module as of_all_modules

from ..fingerprints.values import Fingerprint, Structure
from ..parts.structure import prefixes

__all__ = ["module_structure"]


def module_structure(
    modules: Mapping[str, Module],
    layers: Collection[str],
    *,
    edits: Sequence[Module] = (),
    ignored: Collection[str] = (),
) -> Structure:
    """Return the structure of some layers: of all modules in them, and of the containers whose own code calls them.

    Args:
        modules: name -> module, all of the network.
        layers: names of some of them.
        edits: the wrappers around the network that have no names, outermost first.
        ignored: places whose values do not count.
    """
    known = {id(module): name or "the network" for name, module in modules.items()}
    known |= {id(edit): f"edit {at}" for at, edit in enumerate(edits)}
    known |= {id(held): f"{name}.{key}" for name, module in modules.items() for key, held in _held(module) if held is not None}
    prints = Fingerprint(known, ignored=ignored)
    around, chosen = {outer for layer in layers for outer in prefixes(layer)}, set(layers)
    reached = [name for name in modules if name in around or not chosen.isdisjoint(prefixes(name))]
    lines = [f"{name}: {prints.module(modules[name], name)}" for name in sorted(reached)]
    lines += [prints.module(edit, f"edit {at}") for at, edit in enumerate(edits)]
    hooks = [*of_all_modules._global_forward_pre_hooks.values(), *of_all_modules._global_forward_hooks.values()]
    lines += [prints.of(value, "hooks of all modules") for value in hooks]
    return prints.structure(lines)


def _held(module: Module) -> list[tuple[str, Any]]:
    """Return the parameters and buffers of a module that `state()` holds; they have bytes of their own."""
    saved = [(name, held) for name, held in module._buffers.items() if name not in module._non_persistent_buffers_set]
    return [*module._parameters.items(), *saved]
