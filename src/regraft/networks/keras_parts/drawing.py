"""Draw the weights of Keras layers anew, with their own initialisers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from ... import randomness
from ...errors import NetworkError
from .library import keras
from .structure import named_modules, variables_below

__all__ = ["draw_", "drawn", "seeded"]

_global_state: Any = keras.src.backend.common.global_state
_KERAS_GENERATOR = ("global_random_seed", "global_seed_generator")
"""The seed of Keras' own generator, and the generator, which is made of that seed where there is none."""


def drawn(initializer: Any, shape: tuple[int, ...], *, seed: int) -> np.ndarray:
    """Return what an initialiser draws with this seed in place of its own.

    Args:
        initializer: of a layer.
        shape: of the result.
        seed: equal seeds give equal numbers.
    """
    config = initializer.get_config()
    own = type(initializer).from_config({**config, "seed": seed} if "seed" in config else config)
    return np.asarray(keras.ops.convert_to_numpy(own(shape)), np.float32)


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed the generators that a process shares, and the one of Keras, while the context lasts; their states come back after it.

    Args:
        seed: of all of them.

    Yields:
        Nothing.
    """
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
    """Give one layer the weights of a freshly built twin.

    Args:
        name: the layer's name.
        modules: name -> layer.

    Raises:
        NetworkError: if the twin cannot be made.
    """
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
