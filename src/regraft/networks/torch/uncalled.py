"""Find the module that reads the parameters of modules that are never called, by running with NaN in place of these parameters."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch.nn import Module, Parameter

from ..parts.structure import uncalled
from ..tracing import flat_tensors

__all__ = ["readers"]

_END = ""
_Calls = list[tuple[str, bool]]


def readers(modules: Mapping[str, Module], called: Collection[str], *, run: Callable[[], Any]) -> dict[str, str]:
    """Return the first call that depends on the parameters of each module that is not called itself.

    `modules`: name -> module, in inference mode.
    """
    held = {name: [one for one in modules[name].parameters(recurse=False) if one.is_floating_point()] for name in uncalled(modules, called)}
    held = {name: parameters for name, parameters in held.items() if parameters}
    if not held:
        return {}
    plain = _calls(modules, run)
    if _first_difference(plain, _poisoned(modules, [one for group in held.values() for one in group], run=run)) is None:
        return {}
    found = {name: _first_difference(plain, _poisoned(modules, group, run=run)) for name, group in held.items()}
    return {name: reader for name, reader in found.items() if reader is not None}


def _poisoned(modules: Mapping[str, Module], parameters: Collection[Parameter], *, run: Callable[[], Any]) -> _Calls:
    kept = [one.data for one in parameters]
    try:
        for one in parameters:
            one.data = torch.full_like(one.data, torch.nan)
        return _calls(modules, run)
    finally:
        for one, values in zip(parameters, kept, strict=True):
            one.data = values


def _calls(modules: Mapping[str, Module], run: Callable[[], Any]) -> _Calls:
    """Return the calls of a run in order, each with whether its inputs hold NaN. The last entry is the result or the failure."""
    calls: _Calls = []

    def note(name: str) -> Callable[..., None]:
        return lambda _module, args, kwargs: calls.append((name, _holds_nan((args, kwargs))))

    with ExitStack() as stack, torch.no_grad():
        for name, module in modules.items():
            stack.callback(module.register_forward_pre_hook(note(name), with_kwargs=True).remove)
        try:
            calls.append((_END, _holds_nan(run())))
        except Exception:  # a forward may raise anything on NaN
            calls.append((_END, True))
    return calls


def _holds_nan(values: Any) -> bool:
    return any(bool(one.isnan().any()) for one in flat_tensors(values))


def _first_difference(plain: _Calls, poisoned: _Calls) -> str | None:
    """Return the first call that sees NaN in the poisoned run only; None if there is none."""
    return next((name for (name, spoilt), (_, clean) in zip(poisoned, plain, strict=False) if spoilt and not clean), None)
