"""Files of a Keras model, with the original `trainable` flags of its layers: in the layout of Keras 3, or in that of Keras 2."""

import json
import logging
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

from ...errors import NetworkError
from ...files.writing import replaced_file
from ..tracing import replaced
from .body import KerasBody
from .clone import cloned
from .library import keras
from .structure import graph_of, named_modules, sublayers

WEIGHTS_ALONE = ".weights.h5"
_NUMBER = re.compile(r"_\d+$")


def save(body: KerasBody, module: Any, *, target: Path) -> None:
    """Write a model that belongs to a body or shares its layers, or its weights alone (`.weights.h5`). The write is atomic."""
    alone = target.name.lower().endswith(WEIGHTS_ALONE)
    ending = WEIGHTS_ALONE if alone else target.suffix.lower()  # Keras chooses the layout by it
    quiet = [(logging.getLogger("absl"), "disabled", True)]  # Keras warns there that .h5 is a legacy format
    with as_given(body), replaced(quiet), replaced_file(target, ending=ending) as partial:
        try:
            (module.save_weights if alone else module.save)(partial)
        except (TypeError, ValueError, NotImplementedError, AttributeError) as error:
            raise NetworkError(
                f"Keras cannot write this {type(module).__name__}: {error}. Give the class a get_config() and register it with "
                "keras.saving.register_keras_serializable, or save the weights alone: net.module.save_weights('net.weights.h5')."
            ) from error


@contextmanager
def as_given(body: KerasBody) -> Iterator[None]:
    """Restore the original `trainable` flags of the layers while the context lasts."""
    gradients = [(variable.value, variable.value.requires_grad) for variable in body.variables().values()]
    with replaced([(layer, "_trainable", body.given_trainable.get(name, True)) for name, layer in body.named_with_root()]):
        yield
    for value, wanted in gradients:
        value.requires_grad_(wanted)


def is_without_graph(model: Any) -> bool:
    """Tell whether a model, or a model nested in it, has no graph of layers."""
    return any(isinstance(part, keras.Model) and graph_of(part) is None for part in (model, *sublayers(model)))


def layer_names(model: Any) -> list[str]:
    """Return the own names of a model and all layers in it."""
    return [layer.name for layer in (model, *named_modules(model).values())]


def rename_layers_(model: Any, names: Sequence[str]) -> None:
    """Give the layers of a model the names from another instance of its class: Keras numbers default names per process."""
    layers = [model, *named_modules(model).values()]
    own, known = ([_NUMBER.sub("", name) for name in every] for every in (layer_names(model), names))
    for block in SequenceMatcher(None, own, known, autojunk=False).get_matching_blocks():
        for layer, name in zip(layers[block.a : block.a + block.size], names[block.b : block.b + block.size], strict=True):
            layer.name = name


_VERSION = "2.15.0"
_SHAPES = ("InputLayer", "Flatten", "Reshape", "Permute", "RepeatVector", "Dropout", "SpatialDropout1D", "SpatialDropout2D", "Masking")
_SPATIAL = ("Conv", "SeparableConv", "ZeroPadding", "Cropping", "UpSampling", "MaxPooling", "AveragePooling")
_LAYERS = frozenset(
    {
        *("Dense", "Embedding", "LSTM", "GRU", "SimpleRNN", "Bidirectional", "TimeDistributed", "DepthwiseConv2D", "Conv2DTranspose"),
        *("BatchNormalization", "LayerNormalization", "Activation", "ReLU", "LeakyReLU", "ELU", "Softmax", "Rescaling", "Conv3D"),
        *("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum", "Concatenate", "Dot", "GaussianNoise", "GaussianDropout"),
        *(f"{kind}{axes}D" for kind in (*_SPATIAL, "GlobalMaxPooling", "GlobalAveragePooling") for axes in (1, 2)),
        *_SHAPES,
    }
)
"""Layers that are the same in Keras 2."""
_MODELS = ("Functional", "Sequential")
_NEWER = frozenset(
    {"quantization_config", "optional", "synchronized", "zero_output_for_mask", "rms_scaling", "use_cudnn", "lora_rank", "lora_alpha"}
    | {"input_axes", "output_axes"}
)
"""Settings that Keras 2 does not know."""
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}, "InputLayer": {"batch_shape": "batch_input_shape"}}
_RECURRENT = ("LSTM", "GRU", "SimpleRNN")
_LOSSES = {"classification": "categorical_crossentropy", "multi-label": "binary_crossentropy", "regression": "mean_squared_error"}
_TOLERANCE = 1e-5
_TOP = "top_level_model_weights"
_INSTEAD = "Export it as .keras or .onnx, or for Keras 3 alone with weights_format='keras3'."


def write_keras2(module: Any, sample: Any, *, kinds: Sequence[str], target: Path) -> None:
    """Write a model in Keras 2 form, or its weights alone, after checking that Keras opens the file and computes the same result."""
    alone = target.name.lower().endswith(WEIGHTS_ALONE)
    if not alone and type(module).__name__ not in _MODELS:
        raise NetworkError(f"A model of the class {type(module).__name__} has no architecture in Keras 2's form. {_INSTEAD}")
    config = None if alone else _old_model({"class_name": type(module).__name__, "config": module.get_config()})
    with replaced_file(target, ending=".h5") as partial:
        with h5py.File(partial, "w") as file:
            weights = file if alone else file.create_group("model_weights")
            if not alone:
                file.attrs["model_config"] = json.dumps(config).encode()
                losses = [_LOSSES[kind] for kind in kinds]
                optimizer = {"class_name": "Adam", "config": {"name": "Adam", "learning_rate": 0.001}}
                training = {"optimizer_config": optimizer, "loss": losses[0] if len(losses) == 1 else losses}
                file.attrs["training_config"] = json.dumps({**training, "metrics": None, "loss_weights": None}).encode()
            for place in (file, weights):
                place.attrs["backend"], place.attrs["keras_version"] = b"tensorflow", _VERSION.encode()
            _write_weights(weights, module)
        _prove(module, partial, sample=sample, alone=alone)


def _prove(module: Any, path: Path, *, sample: Any, alone: bool) -> None:
    """Raise unless Keras opens the file and computes the same result."""
    try:
        if alone:
            again = cloned(module)
            for variable in again.weights:
                variable.value.data.zero_()
            again.load_weights(path)
        else:
            known = {name: getattr(keras.layers, name) for name in _LAYERS}  # Keras does not look up layers inside other layers
            again = keras.saving.load_model(path, compile=False, safe_mode=True, custom_objects=known)
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about inputs as a list
            outputs = [keras.tree.flatten(one(sample, training=False)) for one in (module, again)]
    except (TypeError, ValueError, AttributeError, KeyError) as error:
        raise NetworkError(f"Keras does not open the model in Keras 2's form: {str(error).splitlines()[0]}. {_INSTEAD}") from error
    for expected, found in zip(*outputs, strict=True):
        largest = float(expected.abs().max())
        if not float((expected - found).abs().max()) <= _TOLERANCE * max(largest, 1.0):
            raise NetworkError(f"In Keras 2's form the model computes something else. {_INSTEAD}")


def _write_weights(group: h5py.Group, model: Any) -> None:
    """Write the weights of each layer, and of the model itself, in the order that Keras 2 reads: trainable ones first."""
    group.attrs["layer_names"] = np.array([layer.name.encode() for layer in model.layers])
    held = {layer.name: (*layer.trainable_weights, *layer.non_trainable_weights) for layer in model.layers}
    for layer, variables in {**held, _TOP: (*model._trainable_variables, *model._non_trainable_variables)}.items():
        place, names = group.create_group(layer), list[str]()
        for variable in variables:
            path = variable.path.split("/")
            path = "/".join(path[path.index(layer) :] if layer in path else path)  # Keras 2 leaves the model's name out
            names.append(f"{path}:0" if f"{path}:0" not in names else f"{path}_{len(names)}:0")
            place.create_dataset(names[-1], data=variable.value.detach().cpu().numpy())
        place.attrs["weight_names"] = np.array([name.encode() for name in names])


def _old_model(model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the description of a model or layer in Keras 2 form."""
    kind, config = model["class_name"], dict(model["config"])
    if kind == "Sequential":
        layers = [_old_model(layer) for layer in config["layers"]]
        return {"class_name": kind, "config": {"name": config["name"], "layers": layers}}
    if kind == "Functional":
        layers = [
            {**_old_model(layer), "name": name, "inbound_nodes": [_old_node(node, name) for node in layer["inbound_nodes"]]}
            for layer in config["layers"]
            for name in [layer["name"]]
        ]
        ends = {name: config[name] for name in ("input_layers", "output_layers")}
        ends = {name: [found] if not isinstance(found, dict) and isinstance(found[0], str) else found for name, found in ends.items()}
        return {"class_name": kind, "config": {"name": config["name"], "layers": layers, **ends}}
    if kind not in _LAYERS:
        raise NetworkError(f"The layer {config.get('name')!r} ({kind}) is not the same in Keras 2, or is not there. {_INSTEAD}")
    return {"class_name": kind, "config": dict(_old_settings(kind, config))}


def _old_settings(kind: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, value in config.items():
        if name in _NEWER or (name == "seed" and (kind in _RECURRENT or isinstance(value, dict))):
            continue
        if name in ("layer", "backward_layer") and isinstance(value, dict):
            yield name, _old_model(value)
        elif name.endswith("activation") and isinstance(value, dict):
            raise NetworkError(f"The layer {config.get('name')!r} has an activation of its own, {value.get('class_name')}. {_INSTEAD}")
        else:
            yield _RENAMED.get(kind, {}).get(name, name), _old_value(value)


def _old_value(value: Any) -> Any:
    """Return a setting without the additions of Keras 3: class modules, registered names, dtype policies."""
    if isinstance(value, list | tuple):
        return [_old_value(part) for part in value]
    if isinstance(value, dict) and "class_name" in value:
        kind, config = value["class_name"], value.get("config") or {}
        if kind.endswith("DTypePolicy"):
            return config["name"]
        return {"class_name": kind, "config": {name: part for name, part in config.items() if name not in _NEWER}}
    return value


def _old_node(node: Mapping[str, Any], name: str) -> list[list[Any]]:
    """Return one reference per input of a layer: layer name, call index, output index, and further call arguments."""
    tensors = _tensors(node["args"])
    given = {key: value for key, value in node["kwargs"].items() if value is not None}
    if len(node["args"]) != 1 or any(_tensors(value) for value in given.values()):
        raise NetworkError(f"The layer {name!r} takes several inputs by name, which is not written in Keras 2's form. {_INSTEAD}")
    return [[*place, given] for place in tensors]


def _tensors(value: Any) -> list[list[Any]]:
    """Return, in order, the references to tensors in a part of a node."""
    if isinstance(value, dict):
        return [list(value["config"]["keras_history"])] if value.get("class_name") == "__keras_tensor__" else []
    return [place for part in value for place in _tensors(part)] if isinstance(value, list | tuple) else []
