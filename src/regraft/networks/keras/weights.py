"""The weights of Keras layers: freezing, in whole or in part, and redrawing."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from torch.nn import Module

from ... import randomness
from ..parts.structure import prefixes
from .library import keras
from .structure import is_leaf, own_variables

__all__ = ["drawn", "held_names", "inference", "seeded"]


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
