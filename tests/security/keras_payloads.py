"""Keras files as an attacker would make them: a small network, with one part exchanged."""

from __future__ import annotations

import base64
import copy
import io
import json
import os
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import h5py
import torch

from regraft.networks.keras.library import keras

L = keras.layers
SECRET = b"the user's own secret, 32 bytes."
Config = dict[str, Any]


def network() -> Any:
    return keras.Sequential(
        [keras.Input((4,), name="in"), L.Dense(8, activation="relu", name="first"), L.Dense(3, name="last")], name="small"
    )


def parts_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def write_archive(path: Path, parts: Mapping[str, bytes], **named: Any) -> Path:
    with zipfile.ZipFile(path, "w", **named) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


def with_config(folder: Path, change: Callable[[Config], Any], *, layout: str, model: Any = None) -> Path:
    """Write a full model whose architecture has been changed.

    Args:
        folder: receives the file.
        change: gets the config and changes it, or returns another.
        layout: "keras" or "h5".
        model: in place of the small network.
    """
    made = network() if model is None else model
    path = folder / f"model.{layout}"
    made.save(folder / f"plain.{layout}")
    if layout == "keras":
        parts = parts_of(folder / "plain.keras")
        config = json.loads(parts["config.json"])
        parts["config.json"] = json.dumps(change(config) or config).encode()
        return write_archive(path, parts)
    path.write_bytes((folder / "plain.h5").read_bytes())
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        file.attrs["model_config"] = json.dumps(change(config) or config)
    return path


# ── objects that a config may name ───────────────────────────────────────────────────────────────────────────────────────


def named(module: str | None, name: str, /, **config: Any) -> Config:
    """Return a serialised object; without a module it is one of Keras 2."""
    return {"class_name": name, "config": {"name": "evil", **config}} | (
        {} if module is None else {"module": module, "registered_name": None}
    )


def function(module: str, name: str) -> Config:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


class _Pickled(torch.nn.Module):
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        super().__init__()
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def torch_wrapper(marker: Path, *, module: str | None, name: str) -> Config:
    buffer = io.BytesIO()
    torch.save(_Pickled(marker), buffer)
    return named(module, name, module=base64.b64encode(buffer.getvalue()).decode())


def python_lambda(marker: Path) -> Config:
    code = compile(f"lambda x: __import__('os').mkdir({str(marker)!r})", "evil", "eval").co_consts[0]
    return {"class_name": "__lambda__", "config": {"value": keras.src.utils.python_utils.func_dump(_function(code))}}


def _function(code: Any) -> Any:
    def carrier(x: Any) -> Any:
        return x

    carrier.__code__ = code.replace(co_freevars=())
    return carrier


def unsafe_objects(marker: Path, secret: Path) -> dict[str, Config]:
    """Return objects, each of which is code, runs code, or reads a file."""
    ways = {
        "lambda": named("keras.layers", "Lambda", function=python_lambda(marker)),
        "lambda, dotted": named("keras", "layers.Lambda", function=python_lambda(marker)),
        "lambda, from its own module": named("keras.src.layers.core.lambda_layer", "Lambda", function=python_lambda(marker)),
        "lambda, from a package above": named("keras.src.layers", "Lambda", function=python_lambda(marker)),
        "lambda of a function of Keras": named("keras.layers", "Lambda", function=function("keras.utils", "get_file")),
        "lambda alone": python_lambda(marker),
        "torch": torch_wrapper(marker, module="keras.layers", name="TorchModuleWrapper"),
        "torch, dotted": torch_wrapper(marker, module="keras", name="layers.TorchModuleWrapper"),
        "torch, from its own module": torch_wrapper(marker, module="keras.src.utils.torch_utils", name="TorchModuleWrapper"),
        "jax": named("keras.layers", "JaxLayer", call_fn=None),
        "flax": named("keras.layers", "FlaxLayer", module=None),
        "saved model": named("keras.layers", "TFSMLayer", filepath=str(secret)),
        "saved model, from its own module": named("keras.src.export.tfsm_layer", "TFSMLayer", filepath="near"),
        "type of TensorFlow": {"class_name": "__typespec__", "spec_name": "system", "module": "os", "registered_name": None, "config": []},
        "tensor of TensorFlow": {"class_name": "CompositeTensor", "spec": {}, "tensors": [], "config": {}},
        "function of the system": function("os", "mkdir"),
        "class of the system": named("os", "mkdir"),
        "builtin function": function("builtins", "exec"),
        "builtin class": named("builtins", "exec"),
        "download": function("keras.utils", "get_file"),
        "download, from its own module": function("keras.src.utils.file_utils", "get_file"),
        "download, as a class": named("keras.utils", "get_file", origin=secret.as_uri()),
        "data set": function("keras.datasets.mnist", "load_data"),
        "picture written": function("keras.visualization", "plot_image_gallery"),
        "safe mode off": function("keras.config", "enable_unsafe_deserialization"),
        "safe mode off, as a class": named("keras.config", "enable_unsafe_deserialization"),
        "data type for all": function("keras.config", "set_dtype_policy"),
        "loader": function("keras.saving", "load_model"),
        "loader, as a class": named("keras.saving", "load_model", filepath=str(secret)),
        "loader of objects": function("keras.src.saving.serialization_lib", "deserialize_keras_object"),
        "application": function("keras.applications", "VGG16"),
        "features of tables": named("keras.utils", "FeatureSpace", features={}),
        **{
            f"operation that calls a function: {name}": named("keras.src.ops.core", name)
            for name in ("Switch", "Map", "Scan", "AssociativeScan", "Cond", "WhileLoop", "ForiLoop", "VectorizedMap")
        },
        "function that calls a function": function("keras.ops", "vectorized_map"),
        "array of pointers": {"class_name": "__numpy__", "config": {"value": [1], "dtype": "object"}},
        "vocabulary in a file": named("keras.layers", "StringLookup", vocabulary=str(secret)),
        "vocabulary in a near file": named("keras.layers", "IntegerLookup", vocabulary=secret.name),
        "vocabulary of a text layer": named("keras.layers", "TextVectorization", vocabulary=str(secret)),
        "address in a setting": named("keras.layers", "Dense", units=2, filepath="https://example.org/x"),
    }
    old = {
        "Lambda": named(None, "Lambda", function=["4wEAAAAAAAAA", None, None]),
        "torch": torch_wrapper(marker, module=None, name="TorchModuleWrapper"),
        "saved model": named(None, "TFSMLayer", filepath=str(secret)),
        "function of the layers' module": {"class_name": "deserialize", "config": {"config": python_lambda(marker)}},
        "decorator of the layers' module": {"class_name": "keras_export", "config": {"path": "x"}},
        "builtins of the layers' module": {"class_name": "__builtins__", "config": {}},
        "module within the layers' module": {"class_name": "serialization_lib", "config": {}},
        "vocabulary in a file": named(None, "StringLookup", vocabulary=str(secret)),
    }
    return ways | {f"Keras 2: {name}": way for name, way in old.items()}


# ── where a config may hold them ─────────────────────────────────────────────────────────────────────────────────────────


def _layer(config: Config, evil: Config) -> None:
    config["config"]["layers"].insert(2, {**evil})


def _activation(config: Config, evil: Config) -> None:
    config["config"]["layers"][1]["config"]["activation"] = evil


def _initializer(config: Config, evil: Config) -> None:
    config["config"]["layers"][1]["config"]["kernel_initializer"] = evil


def _data_type(config: Config, evil: Config) -> None:
    config["config"]["layers"][1]["config"]["dtype"] = evil


def _inner_layer(config: Config, evil: Config) -> None:
    config["config"]["layers"].insert(2, named("keras.layers", "TimeDistributed", name="wrap", layer=evil))


def _nested(config: Config, evil: Config) -> None:
    inner = copy.deepcopy(config)
    inner["config"]["layers"][2] = evil
    config["config"]["layers"].insert(2, inner)


def _build(config: Config, evil: Config) -> None:
    config["config"]["layers"][1]["build_config"] = {"input_shape": evil}


def _compiled_inside(config: Config, evil: Config) -> None:
    inner = copy.deepcopy(config)
    inner["compile_config"] = {"optimizer": evil, "loss": evil}
    config["config"]["layers"].insert(2, inner)


def _whole(config: Config, evil: Config) -> None:
    config.clear()
    config.update(evil)


PLACES = {
    "layer": _layer,
    "activation": _activation,
    "initializer": _initializer,
    "data type": _data_type,
    "layer of a wrapper": _inner_layer,
    "layer of a nested model": _nested,
    "build": _build,
    "compiled, nested": _compiled_inside,
    "the whole": _whole,
}
