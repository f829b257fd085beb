"""Which layers of a Keras network are frozen, wholly or in part, and what that means for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch.nn import Module

from ...errors import NetworkError, near_names
from ..parts.structure import below, prefixes
from .structure import is_leaf, variables_below

__all__ = ["frozen_names", "inference", "set_gradients_", "still_modules"]


def frozen_names(
    wanted: Collection[str], layers: Collection[str], *, modules: Mapping[str, Any], variables: Collection[str]
) -> frozenset[str]:
    """Return the names of layers and variables that the given names stand for: a container for all layers in it.

    Args:
        wanted: names of layers, containers or variables.
        layers: names of all layers.
        modules: name -> layer, containers too.
        variables: names of all variables.

    Raises:
        NetworkError: if a name is none of these.
    """
    unknown = [name for name in wanted if name not in modules and name not in variables]
    if unknown:
        raise NetworkError(f"No layer is called {unknown[0]!r}{near_names(unknown[0], [*layers, *variables])}")
    exact = {name for name in wanted if name in layers or name not in modules}
    return frozenset(exact | {name for name in layers for container in set(wanted) - exact if below(name, container)})


def set_gradients_(layers: Iterable[str], modules: Mapping[str, Any], *, frozen: Collection[str]) -> set[str]:
    """Let all variables but the frozen ones have gradients, and return the layers that are frozen wholly.

    Args:
        layers: names of all layers.
        modules: name -> layer.
        frozen: names of layers and variables.
    """
    whole, frozen = set(), set(frozen)
    for name in layers:
        trainable = variables_below(name, modules, trainable_only=True)
        for key, variable in variables_below(name, modules).items():
            variable.value.requires_grad_(key in trainable and name not in frozen and key not in frozen)
        if name in frozen or (trainable and frozen.issuperset(trainable)):
            whole.add(name)
    return whole


def still_modules(modules: Mapping[str, Any], frozen: Collection[str]) -> list[Any]:
    """Return the layers that run as in inference: the frozen ones, those with a frozen variable, and what is inside them.

    Args:
        modules: name -> layer.
        frozen: names of layers and variables.
    """
    touched = {name for one in frozen for name in prefixes(one)}
    still = {name for name in touched if name in modules and is_leaf(modules[name])}
    return [layer for name, layer in modules.items() if not still.isdisjoint(prefixes(name))]


def inference(_module: Module, *call: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Return the arguments of a `call` of a layer as in inference; a forward pre-hook of the `_module`."""
    args, kwargs = call
    return (args, {**kwargs, "training": False}) if "training" in kwargs else None
