"""Reader for the weights in Keras files: the Keras 3 layout (`.weights.h5`, `.keras`) and the legacy layout (`.h5`, `.hdf5`)."""

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import h5py
import numpy as np

from ...errors import NetworkError
from ...files.formats import opening
from ...files.sizes import open_archive
from ...files.text import printable
from ..account import Account
from ..keras.body import KerasBody
from ..keras.structure import is_leaf, own_variables
from ..matching import Weight, fill_, match
from ..parts.structure import below
from .hdf5 import address, check_h5, check_heaps, is_bfloat16

__all__ = ["file_kind", "opened_h5", "put_keras_weights_", "read_keras_weights", "target_weights", "weight_bytes"]

_OTHER = {"optimizer", "metrics", "_metrics", "loss", "compile_metrics"}
_OF_MODEL = "top_level_model_weights"
_INSIDE = re.compile(r"(forward|backward)_.*|.*_cell(_\d+)?")


def file_kind(path: Path) -> str:
    """Return the key of `FORMATS` for a Keras file."""
    return "keras" if path.suffix.lower() == ".keras" else "h5"


@contextmanager
def opened_h5(path: str | Path) -> Iterator[h5py.File]:
    """Open the HDF5 content of a Keras file after checking it: all data lie in the file itself and have the declared size."""
    source = Path(path)
    kind = file_kind(source)
    with opening(source, kind, remedy="Save it again from Keras."):
        content: Any = source
        size, shown = source.stat().st_size, repr(printable(source.name))
        if kind == "keras":
            with open_archive(source, error=NetworkError) as archive:
                stored = archive.read("model.weights.h5")
            content, size = io.BytesIO(stored), len(stored)
            check_heaps(content, shown)
        else:
            with source.open("rb") as raw:
                check_heaps(raw, shown)
        with h5py.File(content, "r") as file:
            check_h5(file, size=size, shown=shown)
            yield file


def _legacy_group(file: Any) -> Any | None:
    """Return the group that lists the layers of a file in the legacy layout; None for the layout of Keras 3."""
    for group in (file, file.get("model_weights")):
        if group is not None and _attribute(group, "layer_names"):
            return group
    return None


def weight_bytes(path: str | Path) -> int:
    """Return the total size in bytes of all data sets in memory. Raise if Keras would read one of them more than once."""
    sizes: list[int] = []
    with opened_h5(path) as file:
        for group in (file, file.get("model_weights")):  # whichever of them Keras reads
            if isinstance(group, h5py.Group):
                _listed(group, of_model=True)
        file.visititems(lambda _, item: sizes.append(item.nbytes) if isinstance(item, h5py.Dataset) else None)
    return sum(sizes)


def read_keras_weights(path: str | Path) -> list[Weight]:
    """Return the weights of a Keras file in file order."""
    with opened_h5(path) as file:
        group = _legacy_group(file)
        weights = list(_addressed(file)) if group is None else _legacy(group)
    if not weights:
        raise NetworkError(f"{printable(Path(path).name)!r} holds no weights; expected a file written by save_weights() or save().")
    return weights


def _numbers(data: Any) -> np.ndarray:
    """Return the numbers of a data set in native byte order. bfloat16, which NumPy lacks, becomes float32."""
    value = np.asarray(data)
    if is_bfloat16(data):
        return np.asarray((value.view(np.uint16).astype(np.uint32) << 16).view(np.float32))
    if value.dtype.kind not in "biuf" or value.dtype.itemsize > 8:
        raise NetworkError(f"{printable(data.name, width=120)!r} holds {value.dtype}; expected float32 or other numbers of a network.")
    return value.astype(value.dtype.newbyteorder("="), copy=False)


# ── legacy layout (Keras 2) ──────────────────────────────────────────────────────────────────────────────────────────────


def _attribute(group: Any, name: str) -> list[str]:
    """Return a list attribute. Keras splits long lists into numbered parts."""
    parts = [name]
    if name not in group.attrs:
        parts = sorted((key for key in group.attrs if re.fullmatch(name + r"\d+", key)), key=lambda key: int(key[len(name) :]))
    return [text.decode() if isinstance(text, bytes) else str(text) for part in parts for text in group.attrs[part]]


def _listed(group: Any, *, of_model: bool = False) -> list[tuple[str, str]]:
    """Return (layer, weight name) of every weight; with `of_model`, also of those that belong to the model and none of its layers."""
    layers = _attribute(group, "layer_names")
    if of_model and _OF_MODEL in group:
        layers.append(_OF_MODEL)
    names = [(layer, name) for layer in layers for name in _attribute(group[layer], "weight_names")]
    if len({address(group[layer][name]) for layer, name in names}) < len(names):
        raise NetworkError("The file lists a weight more than once; expected each weight once, as Keras writes it.")
    return names


def _legacy(group: Any) -> list[Weight]:
    weights: list[Weight] = []
    for layer, name in _listed(group):
        *path, variable = re.sub(r":\d+$", "", name).split("/")
        path = path[path.index(layer) :] if layer in path else [layer, *path]
        path = [part for at, part in enumerate(path) if at == 0 or part != path[at - 1]]  # Keras writes some names twice
        value = _numbers(group[layer][name])
        if "seed_generator" not in path[-1]:
            weights.append(Weight(".".join([*path, variable]), value.shape, ".".join(_leaf(path)), "", value))
    return weights


def _leaf(path: Sequence[str]) -> Sequence[str]:
    """Drop the path components inside a wrapper, because a bidirectional layer counts as one leaf."""
    inside = next((at for at, part in enumerate(path) if at and _INSIDE.fullmatch(part)), len(path))
    return path[:inside]


# ── Keras 3 ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _natural(name: str) -> tuple[str, int]:
    """Return a name's base and running number: ("dense", 2) for "dense_2", ("", 7) for "7"."""
    base, _, number = name.rpartition("_")
    return (base, int(number)) if number.isdigit() else (name, 0)


def _addressed(group: Any, address: str = "", *, path: Sequence[tuple[str, str]] = ()) -> Iterator[Weight]:
    """Yield the weights of a group: its own first, then those of its children.
    `path` lists (name, class in snake case) of the layers down to the group."""
    own = group.get("vars")
    if isinstance(own, h5py.Group):
        if address:
            path = [*path, (str(own.attrs.get("name", address)), _natural(address)[0])]
        names = [name for name, _ in path]
        leaf = _leaf(names)
        kind = path[len(leaf) - 1][1] if leaf else ""
        for number in sorted(own, key=_natural):
            value = _numbers(own[number])
            yield Weight(".".join([*names, number]), value.shape, ".".join(leaf), kind, value)
    for part in sorted(group, key=_natural):
        skipped = part in {"vars", "seed_generator"} or (not address and part in _OTHER)
        if isinstance(group[part], h5py.Group) and not skipped:
            yield from _addressed(group[part], address if part == "layers" else part, path=path)


def target_weights(body: KerasBody, *, numbered: bool = False) -> list[Weight]:
    """Return the weights of a network without its seeds. The values share memory with the network.
    `numbered` names each weight by its number within the layer, as Keras 3 files do."""
    modules = body.modules()
    weights = []
    for name, module in modules.items():
        leaf = next((other for other in modules if is_leaf(modules[other]) and below(name, other)), name)
        kind = type(modules[leaf]).__name__
        seeds = {id(generator.state) for generator in cast(Any, module)._seed_generators}
        variables = [(key, value) for key, value in own_variables(name, module).items() if id(value) not in seeds]
        for number, (key, variable) in enumerate(variables):
            own = f"{name}.{number}" if numbered else key
            weights.append(Weight(own, tuple(variable.shape), leaf, kind, variable.value, label=key))
    return weights


def put_keras_weights_(body: KerasBody, path: str | Path) -> Account:
    """Load the weights of a Keras file into a network of a similar architecture.
    The returned account lists the matched weights with their rules, and the reshaped, missing and unexpected ones."""
    source = read_keras_weights(path)
    addressed = all(weight.name.rpartition(".")[2].isdigit() for weight in source)  # as Keras 3 writes them
    target = target_weights(body, numbered=addressed)
    heads = {head.layer for head in body.heads.values()}
    return fill_(source, target, found=match(source, target, head=heads, by_address=addressed))
