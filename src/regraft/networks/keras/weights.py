"""The weights of Keras layers: freezing, in whole or in part, and redrawing."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.nn import Module

from ... import randomness
from ...errors import NetworkError, near_names
from ..parts.structure import below, prefixes
from .library import keras
from .structure import is_leaf, named_modules, own_variables, variables_below

__all__ = ["draw_", "drawn", "frozen_names", "held_names", "inference", "seeded", "still_modules"]


def frozen_names(
    wanted: Collection[str], layers: Collection[str], *, modules: Mapping[str, Any], variables: Collection[str]
) -> frozenset[str]:
    """Return the layers and variables that the given names stand for. A container stands for all layers in it."""
    unknown = [name for name in wanted if name not in modules and name not in variables]
    if unknown:
        raise NetworkError(f"No layer is called {unknown[0]!r}{near_names(unknown[0], [*layers, *variables])}")
    exact = {name for name in wanted if name in layers or name not in modules}
    return frozenset(exact | {name for name in layers for container in set(wanted) - exact if below(name, container)})


def held_names(modules: Mapping[str, Any], trainable: Mapping[str, bool]) -> frozenset[str]:
    """Return the layers, and single variables, that the owner of a model has frozen.

    Layers without weights do not count: as in Keras, their flag has no effect (dropout stays active). The flag of the model itself does not
    count either: setting it sets those of all layers, so a layer with another flag was set on purpose. `trainable`: the original flags.
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


def still_modules(modules: Mapping[str, Any], frozen: Collection[str]) -> list[Any]:
    """Return the layers that run in inference mode: frozen ones, those with a frozen variable, and their sublayers."""
    touched = {name for one in frozen for name in prefixes(one)}
    still = {name for name in touched if name in modules and is_leaf(modules[name])}
    return [layer for name, layer in modules.items() if not still.isdisjoint(prefixes(name))]


def inference(_module: Module, *call: Any) -> tuple[tuple[Any, ...], dict[str, Any]] | None:
    """Forward pre-hook that makes a layer's `call` run in inference mode."""
    args, kwargs = call
    return (args, {**kwargs, "training": False}) if "training" in kwargs else None


_global_state: Any = keras.src.backend.common.global_state
_KERAS_GENERATOR = ("global_random_seed", "global_seed_generator")
"""The seed of Keras' global generator, and the generator itself, which Keras creates from the seed when missing."""


def drawn(initializer: Any, shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Return what an initialiser draws with this seed instead of its own."""
    config = initializer.get_config()
    own = type(initializer).from_config({**config, "seed": seed} if "seed" in config else config)
    return np.asarray(keras.ops.convert_to_numpy(own(shape)), np.float32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the process-wide generators and that of Keras while the context lasts, then restore their states."""
    with randomness.seeded(seed):
        before = {name: _global_state.get_global_attribute(name) for name in _KERAS_GENERATOR}
        try:
            for name, value in zip(_KERAS_GENERATOR, (seed % 2**32, None), strict=True):
                _global_state.set_global_attribute(name, value)
            yield
        finally:
            for name, value in before.items():
                _global_state.set_global_attribute(name, value)


def draw_(name: str, modules: Mapping[str, Any]) -> None:
    """Give one layer the weights of a freshly built twin."""
    layer = modules[name]
    mine = variables_below(name, modules)
    if not mine or isinstance(layer, keras.layers.Normalization):
        return
    try:
        fresh = type(layer).from_config(layer.get_config())
        fresh.build_from_config(layer.get_build_config())
    except Exception as error:
        raise NetworkError(
            f"The layer '{name}' ({type(layer).__name__}) cannot be drawn anew: {error}. Give it get_config() and get_build_config(), "
            "or pass a freshly built model in place of strategy='scratch'."
        ) from error
    theirs = variables_below("fresh", {"fresh": fresh, **{f"fresh.{key}": part for key, part in named_modules(fresh).items()}})
    for variable, value in zip(mine.values(), theirs.values(), strict=True):
        variable.assign(value.value)
