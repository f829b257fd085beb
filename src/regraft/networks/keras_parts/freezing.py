"""Which layers of a Keras network are frozen, wholly or in part, and what that means for them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from torch.nn import Module

from ...errors import NetworkError, near_names
from ..parts.structure import below, prefixes
from .structure import is_leaf, own_variables, variables_below

__all__ = ["frozen_names", "held_names", "inference", "renamed", "set_gradients_", "still_modules"]


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


def held_names(modules: Mapping[str, Any], trainable: Mapping[str, bool]) -> frozenset[str]:
    """Return the layers, and single variables, that the owner of a model has frozen.

    A layer without weights is none of them: as in Keras, its flag says nothing (dropout goes on). That of the model itself does not
    count either: setting it sets those of all layers, so that a layer which differs was meant to.

    Args:
        modules: name -> layer, containers too.
        trainable: name -> the flag that it came with.
    """
    frozen = {name for name in modules if not all(trainable.get(outer, True) for outer in prefixes(name)[:-1])}
    holding = {
        outer for name, part in modules.items() if part._trainable_variables or part._non_trainable_variables for outer in prefixes(name)
    }
    whole = {name for name in frozen & holding if is_leaf(modules[name])}
    single = {
        key
        for name in modules.keys() - frozen
        for key, variable in own_variables(name, modules[name], trainable_only=True).items()
        if not variable.trainable
    }
    return frozenset(whole | single)


def renamed(names: Iterable[str], now: Mapping[str, str]) -> frozenset[str]:
    """Return what layers and variables are called in a model made of the same layers; those that are gone are left out.

    Args:
        names: of layers and variables.
        now: old name of a layer -> its new one.
    """
    found = set[str]()
    for name in names:
        layer = next((outer for outer in prefixes(name) if outer in now), None)
        if layer is not None:
            found.add(now[layer] + name[len(layer) :])
    return frozenset(found)


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
