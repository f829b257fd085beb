"""Weights as named arrays: NumPy `.npz` and MATLAB `.mat`, read without running code, for networks of both families."""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import numpy as np
from scipy.io import loadmat, whosmat

from ...errors import AmbiguousMatchError, NetworkError, UnsafeFileError
from ...files.formats import opening
from ...files.sizes import open_archive, refuse_expansion
from ...files.text import printable
from ...words import counted
from ..account import Account
from ..matching import ORDER, Weight, WeightMatches, fill_, match

ARRAY_ENDINGS = (".npz", ".mat")
_PICKLES = (".pkl", ".pickle", ".pkl.gz", ".pickle.gz", ".joblib")
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
_NUMBERS = ("double", "single", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")
_SHORT = {"w": "weight", "W": "weight", "b": "bias"}
_UNNAMED = re.compile(r"^arr_\d+$")
_HDF5 = b"\x89HDF"


def refuse_pickle(path: Path) -> None:
    """Raise if the file name is that of a pickle, which theanets and other libraries write."""
    name = path.name.lower()
    if name.endswith(_PICKLES):
        plain = printable(path.name)
        raise UnsafeFileError(
            f"{plain!r} is a pickle, and opening one runs code that it brings. Where you trust whoever made it, convert it once where it "
            "was made. A model of scikit-learn: to_onnx of skl2onnx writes an .onnx file. A network of theanets, whose arrays weights= "
            f"takes: net = theanets.Network.load({plain!r}); "
            'numpy.savez("weights.npz", **{p.name: p.get_value() for p in net.params})'
        )


def _of_archive(path: Path) -> dict[str, np.ndarray]:
    found = {}
    with open_archive(path, error=NetworkError) as archive:
        for part in archive.infolist():
            name, shown = part.filename.removesuffix(".npy"), printable(repr(part.filename), width=80)
            with archive.open(part) as stream:
                _check_header(stream, size=part.file_size, shown=shown)
            with archive.open(part) as stream:
                found[name] = np.asarray(np.lib.format.read_array(stream, allow_pickle=False))
    return found


def _check_header(stream: IO[bytes], *, size: int, shown: str) -> None:
    version = np.lib.format.read_magic(stream)
    if version not in _HEADERS:
        raise NetworkError(f"Its part {shown} has the .npy version {version}; expected one of {list(_HEADERS)}.")
    shape, _, dtype = _HEADERS[version](stream)
    if dtype.hasobject:
        raise UnsafeFileError(
            f"Its part {shown} holds objects, which are a pickle, and reading one runs code. Save plain arrays of numbers."
        )
    if dtype.kind not in "biuf" or min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize > size:
        raise NetworkError(f"Its part {shown} declares {shape} of the type {dtype}, and holds {size:,} bytes; expected numbers, all there.")


def _of_matlab(path: Path) -> dict[str, np.ndarray]:
    """Return the variables of a MATLAB file of version 4 to 7. Row and column vectors become one-dimensional."""
    with path.open("rb") as file:
        start = file.read(4)
    if start == _HDF5 or not start:
        raise NetworkError(
            f"{printable(path)!r} is in MATLAB's version 7.3, or empty; expected version 7: save(file, '-struct', 's', '-v7')."
        )
    declared = whosmat(path)
    wrong = [f"{name}: {kind}" for name, _, kind in declared if kind not in _NUMBERS]
    if wrong:
        raise NetworkError(
            f"{printable(path)!r} holds {printable(', '.join(wrong[:6]), width=200)}; expected full arrays of numbers alone."
        )
    total = sum(8 * math.prod(max(side, 0) for side in shape) for _, shape, _ in declared)
    refuse_expansion(total, stored=path.stat().st_size, what=repr(printable(path)), error=NetworkError)
    held = loadmat(path, variable_names=[name for name, _, _ in declared])
    arrays = {name: np.asarray(held[name]) for name, _, _ in declared}
    return {name: values.ravel() if values.ndim == 2 and 1 in values.shape else values for name, values in arrays.items()}


def put_arrays_(path: Path, target: Sequence[Weight], *, heads: Collection[str]) -> Account:
    """Load the arrays of a file into the weights of a network by name, else by order. Matrices are transposed if more match that way."""
    with opening(path, "weight arrays"):
        arrays = _of_archive(path) if path.suffix.lower() == ".npz" else _of_matlab(path)
    if not arrays:
        raise NetworkError(f"{printable(path)!r} holds no arrays; expected weights by name.")
    named, shapes = _named(arrays, target), {weight.name: weight.shape for weight in target}
    tries: list[tuple[int, bool, list[Weight], WeightMatches]] = []
    problems: list[NetworkError] = []
    for turned in (False, True):
        whole = {name: values.T if turned and values.ndim == 2 else values for name, values in named.items()}
        source = [_weight(name, values, shape=shapes.get(name, values.shape)) for name, values in whole.items()]
        try:
            found = match(source, target, head=set(heads))
            tries.append((len(found.pairs), turned, source, found))
        except AmbiguousMatchError:
            raise
        except NetworkError as error:
            problems.append(error)
    if not tries:
        raise problems[0]
    _, turned, source, found = max(tries, key=lambda each: (each[0], not each[1]))
    matrices = [source[given].shape for given, _, _ in found.pairs if len(source[given].shape) == 2]
    notes = ["matrices of the file were transposed: they are the other way round here"] if turned else []
    if matrices and all(rows == columns for rows, columns in matrices):
        notes.append("all matrices are square: whether they are the other way round cannot be told, and they were taken as they are")
    if all(map(_UNNAMED.match, arrays)):
        found = replace(found, account=replace(found.account, rules=dict.fromkeys(found.account.rules, ORDER)))
    return fill_(source, target, found=found).joined(Account(notes=tuple(notes)))


def _weight(name: str, values: np.ndarray, *, shape: Sequence[int]) -> Weight:
    """Return an array as a weight, with the sides of 1 of the `shape` that it has in the network: MATLAB drops the last ones, and makes a
    matrix of a vector. Sides of 1 elsewhere say in which order the axes stand."""
    vector = values.size == max(values.shape, default=1) == max(shape, default=1) == math.prod(shape)
    values = values.reshape(shape) if vector or _without_last_ones(values.shape) == _without_last_ones(shape) else values
    return Weight(name, values.shape, name.rpartition(".")[0], "", values)


def _without_last_ones(shape: Sequence[int]) -> Sequence[int]:
    return shape if not shape or shape[-1] != 1 else _without_last_ones(shape[:-1])


def _named(arrays: Mapping[str, np.ndarray], target: Sequence[Weight]) -> dict[str, np.ndarray]:
    """Return the arrays under dotted names, which match those of the network where only the spelling differs."""
    if all(_UNNAMED.match(name) for name in arrays):
        if len(arrays) != len(target):
            shown = ", ".join(f"{weight.name} {weight.shape}" for weight in target[:8])
            raise NetworkError(
                f"Received {counted(len(arrays), 'array')} without names; expected {len(target)}, in this order: {shown}. Or name them."
            )
        return dict(zip((weight.name for weight in target), arrays.values(), strict=True))
    spelled = {re.sub(r"\W", "_", weight.name): weight.name for weight in target}
    found: dict[str, Any] = {}
    for name, values in arrays.items():
        plain = re.sub(r"\W", "_", name)
        layer, _, own = name.replace("/", ".").rpartition(".")
        long = f"{layer}.{_SHORT.get(own, own)}" if layer else name
        found[spelled.get(plain) or spelled.get(plain.removeprefix("x")) or long] = values
    return found
