"""Open Keras files without running code that they carry, and load weights files into a network."""

import json
import math
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import h5py

from ...errors import NetworkError
from ...files.formats import opening
from ...files.sizes import memory, open_archive
from ...files.text import printable
from ..edits import Cut, Taps, edit_from_dict
from ..keras.body import KerasBody
from ..keras.clone import cloned
from ..keras.family import open_keras
from ..keras.library import keras
from ..keras.saving import is_without_graph, rename_layers_
from ..keras.structure import graph_of, named_modules
from ..matching import by_shape
from ..network import Network
from .building import Limits, building
from .keras_guard import check_config, serialized_parts
from .keras_weights import file_kind, opened_h5, put_keras_weights_, weight_bytes

_GONE = dict.fromkeys(("DepthwiseConv2D", "Conv2DTranspose"), "groups") | dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), "time_major")
"""Layer -> the setting that Keras 2 wrote and Keras 3 rejects. It has only one working value."""


def _config(path: Path) -> dict[str, Any] | None:
    """Return the architecture in a file; None if the file holds weights only."""
    with opening(path, file_kind(path), remedy="Save the model again with model.save()."):
        if file_kind(path) == "keras":
            with open_archive(path, error=NetworkError) as archive:
                config = json.loads(archive.read("config.json"))
        else:
            with opened_h5(path) as file:
                text = file.attrs.get("model_config")
            if text is None:
                return None
            config = json.loads(text.decode("utf-8") if isinstance(text, bytes) else str(text))
    if not isinstance(config, dict):
        raise NetworkError(f"{printable(path.name)!r} describes its model by {type(config).__name__}; expected a mapping.")
    return config


def is_full_model(path: str | Path) -> bool:
    """Return whether a file holds an architecture in addition to weights."""
    return _config(Path(path)) is not None


def open_keras_file(path: str | Path) -> Any:
    """Open a full Keras model written by Keras 3 or Keras 2. The returned keras.Model is not compiled."""
    source = Path(path)
    config = _config(source)
    if config is None:
        raise NetworkError(
            f"{printable(source.name)!r} holds weights without an architecture. Build the network in code and pass both: "
            f"regraft.load(model, weights={str(path)!r})."
        )
    remedy = f"Build the model in code and pass it with its weights: regraft.load(model, weights={str(path)!r})."
    with opening(source, file_kind(source), remedy=remedy):
        check_config(config, source)
        with building(repr(printable(source.name)), Limits.of_bytes(weight_bytes(source))):
            model = _loaded(source, config)
        _check_shapes(model, source)
    return model


def open_saved_keras(path: Path, facts: Mapping[str, Any], *, model: Any = None) -> Network:
    """Open the network of a saved folder with its weights and edits. The class names are read elsewhere.
    `model` is an instance of the user's class as it was before its edits, which are applied again. It is None if the file holds the whole
    architecture."""
    told, source = facts["network"], {"source": str(path.parent)}
    edits = tuple(edit_from_dict(edit) for edit in told.get("edits", ()))
    if model is None:
        try:
            network = open_keras(open_keras_file(path), origin=source, take=True, heads=facts["heads"])
            if is_without_graph(network.module) and any(isinstance(edit, Cut | Taps) for edit in edits):
                raise NetworkError(f"No file holds where a {told['layers'][0]!r} without a graph of layers ends.")
        except NetworkError as error:
            raise type(error)(
                f"{error} Open the folder with architecture=, a model or a function that makes it: "
                "regraft.load(folder, architecture=MyModel)."
            ) from error
        network.edits = edits
        return network
    own = cloned(model)
    rename_layers_(own, told.get("layers", ()))
    there = named_modules(own)
    chosen = {head["task"]: head["layer"] for head in facts["heads"] if head["layer"] in there and not head.get("groups")}
    first = None if len(getattr(own, "outputs", None) or ()) < 2 else chosen if len(chosen) > 1 else next(iter(chosen.values()), None)
    named = {name: shape for name, (shape, _) in told.get("sample", {}).items()}
    network = open_keras(own, inputs=told.get("inputs") or named or None, take=True, head=first)
    for edit in edits:
        network = network.edited(edit)
    account = put_keras_weights_(cast(KerasBody, network.body), path)
    if by_shape(account) or account.entries.get("missing"):
        raise NetworkError(
            f"The layers of {type(network.module).__name__} have other names than those that were saved. Give them names of their own, "
            "layers.Dense(12, name='first'), or open the folder in a new process: Keras numbers the names that it makes."
        )
    network.account = account
    network.body.refresh_heads_()
    return network


def _check_shapes(model: Any, path: Path) -> None:
    """Raise if one example's output of a layer exceeds a quarter of the memory, because running such a model would exhaust the machine."""
    room = memory()
    for step in getattr(graph_of(model), "operations", ()) if room else ():
        for node in step._inbound_nodes:
            sizes = [math.prod(size or 1 for size in tensor.shape) for tensor in node.output_tensors]
            if room is not None and max(sizes, default=0) * 4 > room / 4:
                raise NetworkError(
                    f"{printable(path.name)!r}: the layer {printable(step.name)!r} gives {max(sizes):,} numbers for one example; "
                    f"this machine has {room:,} bytes of memory. Build the model with a smaller input and pass it with its weights."
                )
        if isinstance(step, keras.Model):
            _check_shapes(step, path)


def _loaded(path: Path, config: dict[str, Any]) -> Any:
    if path.suffix == ".keras":
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    names = {part["class_name"] for part in serialized_parts(config) if not part.get("module")}
    own = {name: getattr(keras.layers, name) for name in names if isinstance(getattr(keras.layers, name, None), type)}
    how = {"compile": False, "safe_mode": True, "custom_objects": own}  # Keras 3 does not find nested layers without a module itself
    if not _drop_gone_settings_(config):
        return keras.saving.load_model(path, **how)
    with tempfile.TemporaryDirectory() as folder:
        mended = Path(shutil.copy(path, Path(folder) / path.name))
        mended.chmod(0o600)
        with h5py.File(mended, "r+") as file:
            file.attrs["model_config"] = json.dumps(config)
        return keras.saving.load_model(mended, **how)


def _drop_gone_settings_(config: dict[str, Any]) -> bool:
    """Remove the Keras 2 settings that Keras 3 rejects from a config. Return whether there were any."""
    dropped = False
    for part in serialized_parts(config):
        inner, key = part.get("config"), _GONE.get(part["class_name"])
        if isinstance(inner, dict) and key in inner and inner[key] in (False, 1, None):
            del inner[key]
            dropped = True
    return dropped
