"""Write a Keras model as its owner gave it: with the layers' own `trainable` flags."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...errors import NetworkError

if TYPE_CHECKING:
    from ..keras_models import KerasNetwork

__all__ = ["as_given", "save"]


def save(network: KerasNetwork, module: Any, *, target: Path) -> None:
    """Write a model that is a network's own or shares its layers.

    Args:
        network: tells the layers' own flags.
        module: the model.
        target: a path that ends in ".keras".

    Raises:
        NetworkError: if Keras cannot serialise it.
    """
    with as_given(network):
        try:
            module.save(target)
        except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise NetworkError(
                f"Keras cannot write this {type(module).__name__}: {error}. Give the class a get_config() and register it with "
                "keras.saving.register_keras_serializable, or save the weights alone: net.module.save_weights('net.weights.h5')."
            ) from error


@contextmanager
def as_given(network: KerasNetwork) -> Iterator[None]:
    """Give the layers their own `trainable` flags while the context lasts.

    Args:
        network: whose layers these are.

    Yields:
        Nothing.
    """
    gradients = [(variable.value, variable.value.requires_grad) for variable in network._variables().values()]
    with ExitStack() as stack:
        for name, layer in network._named_with_root():
            stack.callback(vars(layer).__setitem__, "_trainable", layer._trainable)
            vars(layer)["_trainable"] = network._trainable.get(name, True)
        yield
    for value, wanted in gradients:
        value.requires_grad_(wanted)
