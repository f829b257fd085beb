"""Which objects the architecture inside a Keras file may name.

Keras builds a network from names: of classes, of functions, of modules. Which object a name stands for depends on where in the file it
stands, so a list of forbidden names can always be passed by another spelling. Here a name is looked up in every place where Keras
would look, and **each** object found must be one of those reviewed below, by the module that it was written in. All else is refused.
"""

from __future__ import annotations

import builtins
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import FunctionType
from typing import Any, cast

from ...errors import NetworkError, UnsafeFileError
from ...files.text import printable
from ..keras.library import keras

__all__ = ["check_config", "serialized_parts"]

_PACKAGES = (  # every class in them only computes
    "keras.src.layers.activations",
    "keras.src.layers.attention",
    "keras.src.layers.convolutional",
    "keras.src.layers.merging",
    "keras.src.layers.normalization",
    "keras.src.layers.pooling",
    "keras.src.layers.preprocessing.image_preprocessing",
    "keras.src.layers.regularization",
    "keras.src.layers.reshaping",
    "keras.src.layers.rnn",
    "keras.src.applications",
    "keras.src.backend.torch.optimizers",
    "keras.src.constraints",
    "keras.src.dtype_policies",
    "keras.src.initializers",
    "keras.src.losses",
    "keras.src.metrics",
    "keras.src.optimizers",
    "keras.src.regularizers",
)
_MODULES = {  # of packages that hold other things too
    *(f"keras.src.layers.core.{name}" for name in ("dense", "einsum_dense", "embedding", "identity", "input_layer", "masking")),
    *(f"keras.src.layers.core.{name}" for name in ("reversible_embedding", "wrapper")),
    *(f"keras.src.layers.preprocessing.{name}" for name in ("category_encoding", "discretization", "hashed_crossing", "hashing")),
    *(f"keras.src.layers.preprocessing.{name}" for name in ("index_lookup", "integer_lookup", "mel_spectrogram", "normalization")),
    *(f"keras.src.layers.preprocessing.{name}" for name in ("pipeline", "rescaling", "stft_spectrogram", "string_lookup")),
    "keras.src.layers.preprocessing.text_vectorization",
    "keras.src.legacy.layers",
    "keras.src.activations.activations",
    "keras.src.models.functional",
    "keras.src.models.model",
    "keras.src.models.sequential",
    "keras.src.ops.core",
    "keras.src.ops.einops",
    "keras.src.ops.image",
    "keras.src.ops.linalg",
    "keras.src.ops.math",
    "keras.src.ops.nn",
    "keras.src.ops.numpy",
    "keras.src.quantizers.quantization_config",
    "keras.src.quantizers.quantizers",
    "keras.src.random.seed_generator",
}
_CALL_OTHERS = {  # they call a function that the file may name
    *("AssociativeScan", "Cond", "ForiLoop", "JVP", "Map", "Scan", "Switch", "VectorizedMap", "WhileLoop"),
    *("associative_scan", "cond", "custom_gradient", "fori_loop", "jvp", "map", "scan", "switch", "vectorize", "vectorized_map"),
    "while_loop",
}
_FUNCTIONS = (
    "keras.src.activations",
    "keras.src.losses",
    "keras.src.metrics",
    *(f"keras.src.ops.{name}" for name in ("linalg", "math", "nn", "numpy")),
)
_DATA = {"__bytes__", "__ellipsis__", "__keras_tensor__", "__numpy__", "__slice__", "__tensor__", "__tuple__", "TensorShape"}
"""Class names that stand for plain values."""
_CODE = {"Lambda", "__lambda__", "__typespec__", "CompositeTensor", "TypeSpec"}
_CODE |= {"TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"}
"""Class names that stand for code, for the message where Keras has no such class here."""
_NUMBERS = re.compile(r"bool|u?int(4|8|16|32|64)|b?float\d+\w*|complex(64|128)")
_PLACE = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|[\w+.-]+://")
_PATTERN = re.compile(r"[(){}|*+?\[\\]")


def serialized_parts(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a config that has a class name, whatever kind of value that is."""
    if isinstance(config, Mapping):
        if "class_name" in config:
            yield cast("dict[str, Any]", config)
        for value in config.values():
            yield from serialized_parts(value)
    elif isinstance(config, list):
        for value in config:
            yield from serialized_parts(value)


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise unless everything that Keras would make from a config is known to be nothing but a part of a network.

    What the model was compiled with is not made; there classes of which nothing is known pass.
    """
    unknown: list[str] = []
    compiled = {id(part) for part in serialized_parts(config.get("compile_config"))}
    for part in serialized_parts(config):
        name = part["class_name"]
        if not isinstance(name, str):
            raise NetworkError(f"{_shown(path)} has {printable(repr(name), width=60)} in place of the name of a class.")
        if name in _DATA:
            _check_value(part, path)
            continue
        found = _resolved(part)
        refused = [item for item in found if not _is_admitted(item)]
        if refused or (not found and _is_code(part)):
            raise _carries_code(part, path)
        if not found and id(part) not in compiled:
            unknown.append(_called(part))
    _check_places(config, path)
    _check_nodes(config, path)
    if unknown:
        raise NetworkError(
            f"{_shown(path)} has classes that Keras does not know: {', '.join(dict.fromkeys(unknown))}. Import them first if they are "
            "registered with keras.saving.register_keras_serializable, or pass the built model: "
            f"regraft.load(model, weights={str(path)!r})."
        )


def _shown(path: Path) -> str:
    return repr(printable(path.name))


def _called(part: Mapping[str, Any]) -> str:
    """Return what a part names: its class, or its function."""
    inner = part.get("config")
    name = inner if part["class_name"] == "function" and isinstance(inner, str) else part["class_name"]
    return printable(name, width=80)


def _carries_code(part: Mapping[str, Any], path: Path) -> UnsafeFileError:
    inner = part.get("config")
    given = inner.get("name") if isinstance(inner, Mapping) else None
    name = f"{_called(part)} {printable(given, width=80)!r}" if isinstance(given, str) else _called(part)
    what = f"names {name}, which is no known part of a network"
    if part["class_name"].split(".")[-1] in _CODE:
        what = f"carries code in {name}, which opening the file would run"
    return UnsafeFileError(
        f"{_shown(path)} {what}; expected layers without code. "
        f"Rebuild the architecture in your own code and load the weights alone: regraft.load(model, weights={str(path)!r})."
    )


# ── what a name stands for ───────────────────────────────────────────────────────────────────────────────────────────────


def _resolved(part: Mapping[str, Any]) -> list[Any]:
    """Return everything that Keras may take for a part of a config, by whichever of its ways; nothing where the right way finds nothing."""
    inner, module = part.get("config"), part.get("module")
    names = [part["class_name"], part.get("registered_name"), inner if part["class_name"] == "function" else None]
    spelled = [name for name in dict.fromkeys(names) if isinstance(name, str) and name != "function"]
    registered = [item for item in map(keras.saving.get_registered_object, spelled) if item is not None]
    bare = [item for name in spelled for item in _without_a_module(name)]
    if not isinstance(module, str) or module == "builtins":
        return registered + bare
    found = registered + [item for name in spelled for item in _of_the_module(module, name)]
    return found + bare if found else []


def _of_the_module(module: str, name: str) -> list[Any]:
    """Return what a name stands for in a module of Keras: by its public name, or as the module has it. No module is imported."""
    if module.split(".")[0] != "keras":
        return []
    public, owner = keras.src.api_export.get_symbol_from_name(f"{module}.{name}"), sys.modules.get(module)
    own = None if owner is None else vars(owner).get(name)
    return [item for item in (public, own) if item is not None]


def _without_a_module(name: str) -> list[Any]:
    """Return what a bare name stands for: a layer or a model in old files, else one of the objects that Keras knows by their names."""
    models = {"Functional": keras.src.models.Functional, "Model": keras.Model, "Sequential": keras.Sequential}
    families = [vars(keras.src.layers), models]
    for family in ("activations", "constraints", "dtype_policies", "initializers", "losses", "metrics", "optimizers", "regularizers"):
        families.append(getattr(keras.src, family).ALL_OBJECTS_DICT)
    return [family[name] for family in families if name in family]


# ── what is admitted ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_admitted(item: Any) -> bool:
    """Tell whether an object is a part of a network and no more: one of Keras' own that was reviewed, or one that the user registered."""
    home = getattr(item, "__module__", None) or ""
    if home.split(".")[0] != "keras" and callable(item):
        return True  # Keras finds objects of others only where the user registered them
    if not isinstance(item, (type, FunctionType)) or item.__name__ in _CALL_OTHERS:
        return False
    if isinstance(item, FunctionType):
        return any(home == package or home.startswith(package + ".") for package in _FUNCTIONS)
    known = home in _MODULES or any(home == package or home.startswith(package + ".") for package in _PACKAGES)
    return known and hasattr(item, "from_config")


def _is_code(part: Mapping[str, Any]) -> bool:
    """Tell whether a name that Keras does not know stands for code anyway."""
    module, name = part.get("module"), str(part["class_name"])
    root = module.split(".")[0] if isinstance(module, str) else ""
    called = _called(part)
    if root == "builtins":
        return hasattr(builtins, called)
    return name.split(".")[-1] in _CODE or root in sys.stdlib_module_names or root in {"numpy", "torch"}


def _check_value(part: Mapping[str, Any], path: Path) -> None:
    inner = part.get("config")
    if part["class_name"] not in ("__numpy__", "__tensor__"):
        return
    dtype = inner.get("dtype") if isinstance(inner, Mapping) else None
    if not isinstance(dtype, str) or not _NUMBERS.fullmatch(dtype):
        raise NetworkError(f"{_shown(path)} holds an array of {printable(repr(dtype), width=60)}; expected numbers.")


def _check_places(config: Any, path: Path) -> None:
    """Raise if a setting names a file: some layers open what they are given."""
    if isinstance(config, Mapping):
        for key, value in config.items():
            if isinstance(value, str) and key != "name" and (key == "vocabulary" or _PLACE.match(value)):
                raise UnsafeFileError(
                    f"{_shown(path)} sets {printable(key, width=60)!r} to {printable(value, width=120)!r}, which a layer would open as a "
                    "file; expected everything in the file itself. Build the model in code and pass it with its weights: "
                    f"regraft.load(model, weights={str(path)!r})."
                )
            if key == "policy_map" and isinstance(value, Mapping) and any(_PATTERN.search(str(name)) for name in value):
                raise NetworkError(f"{_shown(path)} chooses data types by patterns; expected the names of layers.")
            _check_places(value, path)
    elif isinstance(config, list):
        for value in config:
            _check_places(value, path)


def _check_nodes(config: Any, path: Path) -> None:
    """Raise if a layer is called on plain values only: Keras never writes that, and would compute it while it opens the file."""
    for part in serialized_parts(config):
        for node in part.get("inbound_nodes") or ():
            if isinstance(node, Mapping) and not any(inner["class_name"] == "__keras_tensor__" for inner in serialized_parts(node)):
                raise NetworkError(f"{_shown(path)} calls {_called(part)} on no tensor of the network; expected the graph of a network.")
