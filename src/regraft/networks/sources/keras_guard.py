"""Allow-list for the architecture inside a Keras file.

Keras builds a network from the names of classes, functions and modules. The object behind a name depends on the position of the name in the
file, so another spelling can always bypass a list of forbidden names. This module looks a name up in every place where Keras would look.
**Each** object found must come from one of the reviewed modules below. Everything else is refused.
"""

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

_PACKAGES = (  # all classes in these packages only compute
    *(f"keras.src.layers.{name}" for name in ("activations", "attention", "convolutional", "merging", "normalization", "pooling")),
    *(f"keras.src.layers.{name}" for name in ("preprocessing.image_preprocessing", "regularization", "reshaping", "rnn")),
    *(f"keras.src.{name}" for name in ("applications", "backend.torch.optimizers", "constraints", "dtype_policies", "initializers")),
    *(f"keras.src.{name}" for name in ("losses", "metrics", "optimizers", "regularizers")),
)
_MODULES = {  # single modules of packages that also hold other things
    *(f"keras.src.layers.core.{name}" for name in ("dense", "einsum_dense", "embedding", "identity", "input_layer", "masking")),
    *(f"keras.src.layers.core.{name}" for name in ("reversible_embedding", "wrapper")),
    *(f"keras.src.layers.preprocessing.{name}" for name in ("category_encoding", "discretization", "hashed_crossing", "hashing")),
    *(f"keras.src.layers.preprocessing.{name}" for name in ("index_lookup", "integer_lookup", "mel_spectrogram", "normalization")),
    *(f"keras.src.layers.preprocessing.{name}" for name in ("pipeline", "rescaling", "stft_spectrogram", "string_lookup")),
    *(f"keras.src.{name}" for name in ("layers.preprocessing.text_vectorization", "legacy.layers", "activations.activations")),
    *(f"keras.src.models.{name}" for name in ("functional", "model", "sequential")),
    *(f"keras.src.ops.{name}" for name in ("core", "einops", "image", "linalg", "math", "nn", "numpy")),
    *(f"keras.src.{name}" for name in ("quantizers.quantization_config", "quantizers.quantizers", "random.seed_generator")),
}
_CALL_OTHERS = {  # these call a function that the file may name
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
"""Class names of plain values."""
_CODE = {"Lambda", "__lambda__", "__typespec__", "CompositeTensor", "TypeSpec", "TorchModuleWrapper", "JaxLayer", "FlaxLayer", "TFSMLayer"}
"""Class names of code. They select the error message where this Keras has no such class."""
_NUMBERS = re.compile(r"bool|u?int(4|8|16|32|64)|b?float\d+\w*|complex(64|128)")
_PLACE = re.compile(r"[/~\\]|[A-Za-z]:[/\\]|[\w+.-]+://")
_PATTERN = re.compile(r"[(){}|*+?\[\\]")


def serialized_parts(config: Any) -> Iterator[dict[str, Any]]:
    """Yield every part of a config that has a class name."""
    if isinstance(config, Mapping):
        if "class_name" in config:
            yield cast("dict[str, Any]", config)
        for value in config.values():
            yield from serialized_parts(value)
    elif isinstance(config, list):
        for value in config:
            yield from serialized_parts(value)


def check_config(config: Mapping[str, Any], path: Path) -> None:
    """Raise unless everything that Keras would build from a config is a known part of a network.
    Unknown classes in the compile config pass, because the model is not compiled."""
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
    """Return the name of the class or function in a part."""
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


# ── resolving names ──────────────────────────────────────────────────────────────────────────────────────────────────────


def _resolved(part: Mapping[str, Any]) -> list[Any]:
    """Return every object that Keras may resolve a part to, by any of its lookups. Return nothing if the module lookup finds nothing."""
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
    """Return the objects that a name stands for in a Keras module: its public name and the module attribute. No module is imported."""
    if module.split(".")[0] != "keras":
        return []
    public, owner = keras.src.api_export.get_symbol_from_name(f"{module}.{name}"), sys.modules.get(module)
    own = None if owner is None else vars(owner).get(name)
    return [item for item in (public, own) if item is not None]


def _without_a_module(name: str) -> list[Any]:
    """Return the objects that a bare name stands for: layers, models (in old files), and other objects that Keras finds by name."""
    models = {"Functional": keras.src.models.Functional, "Model": keras.Model, "Sequential": keras.Sequential}
    families = [vars(keras.src.layers), models]
    for family in ("activations", "constraints", "dtype_policies", "initializers", "losses", "metrics", "optimizers", "regularizers"):
        families.append(getattr(keras.src, family).ALL_OBJECTS_DICT)
    return [family[name] for family in families if name in family]


# ── admitted objects ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _is_admitted(item: Any) -> bool:
    """Return whether an object is a reviewed Keras object or one that the user registered."""
    home = getattr(item, "__module__", None) or ""
    if home.split(".")[0] != "keras" and callable(item):
        return True  # Keras finds foreign objects only if the user registered them
    if not isinstance(item, (type, FunctionType)) or item.__name__ in _CALL_OTHERS:
        return False
    if isinstance(item, FunctionType):
        return any(home == package or home.startswith(package + ".") for package in _FUNCTIONS)
    known = home in _MODULES or any(home == package or home.startswith(package + ".") for package in _PACKAGES)
    return known and hasattr(item, "from_config")


def _is_code(part: Mapping[str, Any]) -> bool:
    """Return whether a name that Keras does not know stands for code anyway."""
    module, name = part.get("module"), str(part["class_name"])
    root = module.split(".")[0] if isinstance(module, str) else ""
    called = _called(part)
    if root == "builtins":
        return hasattr(builtins, called)
    return name.split(".")[-1] in _CODE or root in sys.stdlib_module_names or root in {"numpy", "torch"}


def _check_value(part: Mapping[str, Any], path: Path) -> None:
    inner = part.get("config")
    dtype = inner.get("dtype") if isinstance(inner, Mapping) else None
    if part["class_name"] in ("__numpy__", "__tensor__") and not (isinstance(dtype, str) and _NUMBERS.fullmatch(dtype)):
        raise NetworkError(f"{_shown(path)} holds an array of {printable(repr(dtype), width=60)}; expected numbers.")


def _check_places(config: Any, path: Path) -> None:
    """Raise if a setting names a file, because some layers open it."""
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
    """Raise if a layer is called on plain values only. Keras never writes such a call, and would compute it while opening the file."""
    for part in serialized_parts(config):
        for node in part.get("inbound_nodes") or ():
            if isinstance(node, Mapping) and not any(inner["class_name"] == "__keras_tensor__" for inner in serialized_parts(node)):
                raise NetworkError(f"{_shown(path)} calls {_called(part)} on no tensor of the network; expected the graph of a network.")
