"""Write a Keras model as its owner gave it, with the layers' own `trainable` flags, and know its layers again by their names."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

from ...errors import NetworkError
from ...files.writing import flush_file
from .body import KerasBody
from .library import keras
from .structure import graph_of, named_modules, sublayers

__all__ = ["as_given", "is_without_graph", "layer_names", "rename_layers_", "save"]

_NUMBER = re.compile(r"_\d+$")


def save(body: KerasBody, module: Any, *, target: Path) -> None:
    """Write a model that is a body's own or shares its layers, whole or not at all.

    Args:
        body: tells the layers' own flags.
        module: the model.
        target: a path that ends in ".keras".

    Raises:
        NetworkError: if Keras cannot serialise it.
        OSError: if it cannot be written; nothing is left behind.
    """
    partial = target.with_name(f".{target.stem}.partial.keras")  # Keras takes no other ending
    with as_given(body), ExitStack() as stack:
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
def as_given(body: KerasBody) -> Iterator[None]:
    """Give the layers their own `trainable` flags while the context lasts.

    Args:
        body: whose layers these are.

    Yields:
        Nothing.
    """
    gradients = [(variable.value, variable.value.requires_grad) for variable in body.variables().values()]
    with ExitStack() as stack:
        for name, layer in body.named_with_root():
            stack.callback(vars(layer).__setitem__, "_trainable", layer._trainable)
            vars(layer)["_trainable"] = body.given_trainable.get(name, True)
        yield
    for value, wanted in gradients:
        value.requires_grad_(wanted)


def is_without_graph(model: Any) -> bool:
    """Tell whether a model, or one that stands in it, has no graph of layers."""
    return any(isinstance(part, keras.Model) and graph_of(part) is None for part in (model, *sublayers(model)))


def layer_names(model: Any) -> list[str]:
    """Return the names of a model and of all layers in it, as the layers call themselves."""
    return [layer.name for layer in (model, *named_modules(model).values())]


def rename_layers_(model: Any, names: Sequence[str]) -> None:
    """Give the layers of a model the names that those of one of its class had: Keras numbers the names that it makes in each process.

    Args:
        model: a private copy.
        names: as `layer_names` returned them, of a model that may have further layers.
    """
    layers = [model, *named_modules(model).values()]
    own, known = ([_NUMBER.sub("", name) for name in every] for every in (layer_names(model), names))
    for block in SequenceMatcher(None, own, known, autojunk=False).get_matching_blocks():
        for layer, name in zip(layers[block.a : block.a + block.size], names[block.b : block.b + block.size], strict=True):
            layer.name = name
