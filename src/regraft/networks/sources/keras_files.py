"""Open Keras files without running code that they carry, and put weights files into a network."""

from __future__ import annotations

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np
import torch

from ...errors import NetworkError, UnsafeFileError
from ..account import Account
from ..keras_models import KerasNetwork
from ..keras_parts.library import keras
from ..keras_parts.structure import is_leaf, own_variables
from ..keras_parts.weights import is_addressed, opened_h5, read_keras_weights
from ..matching import Weight, match
from ..parts.structure import below

__all__ = ["assign_", "is_full_model", "open_keras_file", "put_keras_weights_", "read_keras_weights", "target_weights"]

_CODE = ("Lambda", "__lambda__", "TorchModuleWrapper", "JaxLayer", "FlaxLayer")
_GONE = {
    "DepthwiseConv2D": ("groups",),
    "LSTM": ("time_major",),
    "GRU": ("time_major",),
    "SimpleRNN": ("time_major",),
    "Conv2DTranspose": ("groups",),
}
"""Settings that Keras 2 wrote and Keras 3 does not know; all of them at their only working value."""


def _config(path: Path) -> dict[str, Any] | None:
    """Return the architecture inside a file, None where there is none."""
    if path.suffix == ".keras":
        try:
            with zipfile.ZipFile(path) as archive:
                return cast("dict[str, Any]", json.loads(archive.read("config.json")))
        except (OSError, KeyError, zipfile.BadZipFile, json.JSONDecodeError) as error:
            raise NetworkError(
                f"{path.name!r} cannot be read as a .keras file ({error}). Save the model again with model.save()."
            ) from error
    with opened_h5(path) as file:
        text = file.attrs.get("model_config")
    return None if text is None else cast("dict[str, Any]", json.loads(text))


def is_full_model(path: str | Path) -> bool:
    """Tell whether a file holds an architecture beside weights.

    Args:
        path: a `.keras`, `.h5` or `.hdf5` file.

    Returns:
        False for weights only.
    """
    return _config(Path(path)) is not None


def open_keras_file(path: str | Path) -> Any:
    """Open a full Keras model, written by Keras 3 or Keras 2.

    Args:
        path: a `.keras`, `.h5` or `.hdf5` file.

    Returns:
        The keras.Model, not compiled.

    Raises:
        UnsafeFileError: if the file carries code (Lambda layers, pickled modules).
        NetworkError: if it holds weights only, has classes that are not known, or cannot be read.
    """
    source = Path(path)
    if not source.is_file():
        raise NetworkError(f"There is no file {str(path)!r}; expected a Keras model (.keras, .h5, .hdf5).")
    config = _config(source)
    if config is None:
        raise NetworkError(
            f"{source.name!r} holds weights without an architecture. Build the network in code and pass both: "
            f"regraft.load(model, weights={str(path)!r})."
        )
    _refuse_code(config, source)
    _refuse_unknown(config, source)
    try:
        return _loaded(source, config)
    except Exception as error:  # Keras raises errors of any class for a config that it does not understand
        raise NetworkError(
            f"Keras cannot open {source.name!r}: {str(error).splitlines()[0] if str(error) else type(error).__name__}. "
            f"Build the model in code and pass it with its weights: regraft.load(model, weights={str(path)!r})."
        ) from error


def _parts(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every serialised object of a config."""
    if isinstance(config, Mapping):
        if isinstance(config.get("class_name"), str):
            yield cast("dict[str, Any]", config)
        for value in config.values():
            yield from _parts(value)
    elif isinstance(config, list):
        for value in config:
            yield from _parts(value)


def _refuse_code(config: dict[str, Any], path: Path) -> None:
    """Raise if a config carries code.

    Raises:
        UnsafeFileError: naming the layer.
    """
    for part in _parts(config):
        inner = part.get("config")
        if part["class_name"] not in _CODE:
            continue
        name = inner.get("name", part["class_name"]) if isinstance(inner, Mapping) else part["class_name"]
        raise UnsafeFileError(
            f"{path.name!r} carries code in {part['class_name']} {name!r}, which opening the file would run; expected layers without code. "
            f"Rebuild the architecture in your own code and load the weights alone: regraft.load(model, weights={str(path)!r})."
        )


def _refuse_unknown(config: dict[str, Any], path: Path) -> None:
    """Raise if a config names classes that are neither Keras' own nor registered; Keras would import their modules.

    Raises:
        NetworkError: naming the classes.
    """
    unknown = []
    for part in _parts(config):
        module, name = part.get("module"), part.get("registered_name") or part["class_name"]
        own = str(module).split(".")[0] in {"keras", "builtins"}
        if "module" in part and not (own and ">" not in str(name)) and keras.saving.get_registered_object(name) is None:
            unknown.append(part["class_name"])
    if unknown:
        raise NetworkError(
            f"{path.name!r} has classes that Keras does not know: {', '.join(dict.fromkeys(unknown))}. Import them first if they are "
            "registered with keras.saving.register_keras_serializable, or pass the built model: "
            f"regraft.load(model, weights={str(path)!r})."
        )


def _loaded(path: Path, config: dict[str, Any]) -> Any:
    if path.suffix == ".keras" or not _drop_gone_settings_(config):
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    with tempfile.TemporaryDirectory() as folder:
        mended = Path(shutil.copy(path, Path(folder) / path.name))
        mended.chmod(0o600)
        _write_config_(mended, config)
        return keras.saving.load_model(mended, compile=False, safe_mode=True)


def _write_config_(path: Path, config: dict[str, Any]) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(config)


def _drop_gone_settings_(config: dict[str, Any]) -> bool:
    """Take settings of Keras 2 that Keras 3 refuses out of a config; tell whether there were any."""
    dropped = False
    for part in _parts(config):
        inner = part.get("config")
        for key in _GONE.get(part["class_name"], ()):
            if isinstance(inner, dict) and inner.get(key) in (False, 1, None) and key in inner:
                del inner[key]
                dropped = True
    return dropped


def target_weights(network: KerasNetwork, *, numbered: bool = False) -> list[Weight]:
    """Return a network's weights without seeds, their values shared with it.

    Args:
        network: a Keras network.
        numbered: call a weight by its number within the layer, as Keras 3 files do, in place of its name.
    """
    modules = network.modules()
    weights = []
    for name, module in modules.items():
        leaf = next((other for other in modules if is_leaf(modules[other]) and below(name, other)), name)
        kind = type(modules[leaf]).__name__
        seeds = {id(generator.state) for generator in cast(Any, module)._seed_generators}
        variables = [(key, value) for key, value in own_variables(name, module).items() if id(value) not in seeds]
        for number, (key, variable) in enumerate(variables):
            weights.append(Weight(f"{name}.{number}" if numbered else key, tuple(variable.shape), leaf, kind, variable.value))
    return weights


def assign_(given: Weight, taken: Weight) -> None:
    """Copy the numbers of one weight into another of the same shape, in place.

    Args:
        given: of a file.
        taken: of the network.
    """
    with torch.no_grad():
        taken.value.copy_(torch.from_numpy(np.ascontiguousarray(given.value)))


def put_keras_weights_(network: KerasNetwork, path: str | Path) -> Account:
    """Put the weights of a Keras file into a network of a similar architecture.

    Args:
        network: receives them.
        path: `.weights.h5`, `.h5`, `.hdf5` or `.keras`.

    Returns:
        The account: matched and by which rule, reshaped, missing, unexpected.

    Raises:
        AmbiguousMatchError: if weights could go to more than one place; nothing has been changed.
        NetworkError: if nothing matches, or the file cannot be read.
    """
    source = read_keras_weights(path)
    addressed = is_addressed(path)
    target = target_weights(network, numbered=addressed)
    found = match(source, target, head={head.layer for head in network.heads.values()}, by_address=addressed)
    for given, taken, _rule in found.pairs:
        assign_(source[given], target[taken])
    readable = {weight.name: named.name for weight, named in zip(target, target_weights(network), strict=True)}
    return _renamed(found.account, readable)


def _renamed(account: Account, readable: Mapping[str, str]) -> Account:
    """Return an account that calls the network's weights by their names in place of their numbers."""
    ours = {key: [readable.get(name, name) for name in names] for key, names in account.entries.items() if key != "unexpected"}
    rules = {readable.get(name, name): rule for name, rule in account.rules.items()}
    notes = tuple(" ".join([readable.get(note.split(" ")[0], note.split(" ")[0]), *note.split(" ")[1:]]) for note in account.notes)
    return Account({**account.entries, **ours}, rules, notes)
