"""Networks of keras.applications by name, with the preprocessing of their training."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import NetworkError, near_names
from ...files.formats import reason_of
from ...files.given import unreachable_weights
from ...files.text import printable
from ..keras.family import open_keras
from ..keras.library import keras
from ..network import Network
from ..parts.head import Head
from .zoo import image_spec


def open_application(source: str, *, pretrained: bool, inputs: Sequence[int] | None = None) -> tuple[Network, dict[str, Any]]:
    """Open a network of keras.applications, with ImageNet class names on its head and its preprocessing as plain data.
    `inputs` is (height, width, 3). With it, the network comes without its ImageNet head."""
    make = _called(source.partition(":")[2])
    options = {} if inputs is None else {"input_shape": tuple(inputs), "include_top": False}
    if pretrained:
        try:
            with redirect_stdout(sys.stderr):  # Keras reports downloads on stdout, where the commands write their results
                model = make(weights="imagenet", **options)
        except Exception as error:  # Keras wraps any error of a download in a bare Exception
            _untrained(make, options, source=source)  # report a network that cannot be built at all first
            raise NetworkError(unreachable_weights(source, reason_of(error))) from error
    else:
        model = _untrained(make, options, source=source)
    network = open_keras(model, origin={"source": source}, take=True)
    names = _class_names()
    if network.heads and names is not None and len(names) == len(network.head.weight):
        network.name_classes_(names)
    return network, _spec(sys.modules[make.__module__], network.input_shape)


def _called(name: str) -> Any:
    known = [each for each in dir(keras.applications) if each[:1].isupper()]
    if name not in known:
        raise NetworkError(f"keras.applications has no network called {printable(name)!r}{near_names(name, known)}")
    return getattr(keras.applications, name)


def application(name: str, shape: Sequence[int | None], *, head: Head) -> Any:
    """Return a keras.applications model with random weights for examples of `shape`, with the output size and activation of `head`."""
    last = None if head.activation == "linear" else head.activation
    options = {"input_shape": tuple(shape), "classes": len(head.in_layer().weight), "classifier_activation": last}
    return _untrained(_called(name), options, source=f"keras:{name}")


def _untrained(make: Any, options: dict[str, Any], *, source: str) -> Any:
    """Build a network with random weights."""
    try:
        return make(weights=None, **options)
    except ValueError as error:
        raise NetworkError(f"{source!r} cannot be made with {options or 'its own input size'}: {error}") from error


def _class_names() -> tuple[str, ...] | None:
    """Return the ImageNet class names if Keras has fetched them already. Nothing is downloaded."""
    tools = sys.modules[keras.applications.imagenet_utils.decode_predictions.__module__]
    index = tools.CLASS_INDEX
    if index is None:
        return None
    labels = [index[str(number)] for number in range(len(index))]
    return tuple(name if [other for _, other in labels].count(name) == 1 else f"{name} ({code})" for code, name in labels)


def _spec(home: ModuleType, shape: Sequence[int | None]) -> dict[str, Any]:
    """Measure what `preprocess_input` of a module does: output = factor * pixel + offset per channel, possibly in reverse channel order.
    `shape` is (height, width, channels) of one example."""

    def answer(*pixel: int) -> np.ndarray:
        made = home.preprocess_input(np.broadcast_to(np.array(pixel, np.float32), (1, 2, 2, 3)).copy(), data_format="channels_last")
        return np.asarray(np.asarray(made)[0, 0, 0], np.float64)

    black, red, white = answer(0, 0, 0), answer(255, 0, 0), answer(255, 255, 255)
    factor = (white - black) / 255
    mean, std = ([float(f"{value:.6g}") + 0.0 for value in values] for values in (-black / factor, 1 / factor))
    height, width, channels = (int(size) if size else 224 for size in shape)
    spec = image_spec((height, width, channels), mean, std=std) | {"layout": "channels_last", "interpolation": "bilinear", "scale": 1.0}
    return spec | {"bgr": bool(abs(red - black)[2] > abs(red - black)[0])}
