"""Write a Keras model as its owner gave it: with the layers' own `trainable` flags."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ...errors import NetworkError
from ...files.writing import flush_file
from .record import KerasRecord

__all__ = ["as_given", "save"]


def save(network: KerasRecord, module: Any, *, target: Path) -> None:
    """Write a model that is a network's own or shares its layers, whole or not at all.

    Args:
        network: tells the layers' own flags.
        module: the model.
        target: a path that ends in ".keras".

    Raises:
        NetworkError: if Keras cannot serialise it.
        OSError: if it cannot be written; nothing is left behind.
    """
    partial = target.with_name(f".{target.stem}.partial.keras")  # Keras takes no other ending
    with as_given(network), ExitStack() as stack:
        stack.callback(partial.unlink, missing_ok=True)
        try:
            module.save(partial)
            flush_file(partial)
            os.replace(partial, target)
        except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise NetworkError(
                f"Keras cannot write this {type(module).__name__}: {error}. Give the class a get_config() and register it with "
                "keras.saving.register_keras_serializable, or save the weights alone: net.module.save_weights('net.weights.h5')."
            ) from error


@contextmanager
def as_given(network: KerasRecord) -> Iterator[None]:
    """Give the layers their own `trainable` flags while the context lasts.

    Args:
        network: whose layers these are.

    Yields:
        Nothing.
    """
    gradients = [(variable.value, variable.value.requires_grad) for variable in network.variables().values()]
    with ExitStack() as stack:
        for name, layer in network.named_with_root():
            stack.callback(vars(layer).__setitem__, "_trainable", layer._trainable)
            vars(layer)["_trainable"] = network.given_trainable.get(name, True)
        yield
    for value, wanted in gradients:
        value.requires_grad_(wanted)
