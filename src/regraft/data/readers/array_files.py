"""Reader for arrays of numbers in .npy, .npz and HDF5 files."""

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np

from ...errors import DataError, UnsafeFileError, near_names, optional_import
from ...files import room
from ...files.formats import opening
from ...files.sizes import check_size, open_archive
from ...files.text import printable
from ...networks.sources.hdf5 import check_h5, check_heaps
from ..items import LazyItems, listed, padded_to, padding_of

ARRAY_EXTENSIONS = (".npy", ".npz", ".h5", ".hdf5")
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
"""Header readers by format version. Version 3 differs only for structured types, which are not numbers."""
_ITEMS = ("x", "data", "features", "inputs", "images", "samples", "arr_0")
_LABELS = ("y", "labels", "label", "targets", "target", "classes", "arr_1")
_ADVICE = "Write it again with numpy.save."
Header = tuple[tuple[int, ...], np.dtype[Any]]


def read_array(path: Path, *, mapped: bool = False, kinds: str = "biuf") -> np.ndarray:
    """Read a .npy file of numbers with one axis or more. Its header is checked against the file size before any allocation.
    `mapped`: map a large file. A small one is read, as another program may write it again. `kinds` are the allowed NumPy kinds."""
    with opening(path, "array", remedy=_ADVICE) as checked, checked.open("rb") as stream:
        size = checked.stat().st_size
        _, dtype = _header(stream, size=size, shown=f"'{printable(checked)}'", kinds=kinds)
        stream.seek(0)
        if mapped and dtype.isnative and size > room.IN_MEMORY:
            return room.in_file(np.lib.format.open_memmap(checked, mode="r"), of_user=checked)
        return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))


def array_items(paths: Sequence[Path]) -> LazyItems:
    """Return files with one example each as examples that are read when needed; those that differ in length are padded with zeros."""
    shapes: dict[tuple[int, ...], Path] = {}
    for path in paths:
        with opening(path, "array", remedy=_ADVICE) as checked, checked.open("rb") as stream:
            shape, _ = _header(stream, size=checked.stat().st_size, shown=f"'{printable(checked)}'")
        shapes.setdefault(shape, path)
    padding = padding_of(shapes)
    if padding is not None:
        return LazyItems(lambda index: padded_to(read_array(paths[index]), padding.shape), np.arange(len(paths)), padded=padding)
    if len(shapes) > 1:
        shown = listed(f"{shape} in {path.name}" for shape, path in shapes.items())
        raise DataError(f"The arrays differ in shape: {shown}; expected one shape for all files, or one but for the length.")
    return LazyItems(lambda index: read_array(paths[index]), np.arange(len(paths)))


def array_file(path: Path, target: Any) -> tuple[np.ndarray, Any, str]:
    """Return the examples (N, ...) and labels (N) of a .npy, .npz or HDF5 file, and a note on the arrays used.
    `target`: name of the label array in the file, or of a .npy file of labels beside it or elsewhere; or N labels; None: inferred."""
    if path.suffix.lower() == ".npz":
        return _from_archive(path, target)
    if path.suffix.lower() in (".h5", ".hdf5"):
        return _from_h5(path, target)
    items = read_array(path, mapped=True)
    if target is not None and not isinstance(target, str):
        return items, target, f"examples are the rows of {printable(path.name)}"
    beside = [path.with_name(target), Path(target)] if target else [path.with_name(f"{name}.npy") for name in _LABELS[:-1]]
    found = next((one for one in beside if one.is_file() and one != path), None)
    if found is None:
        wanted = f"the file {target!r}, beside it or from here" if target else f"{listed(f'{name}.npy' for name in _LABELS[:-1])} beside it"
        raise DataError(
            f"{printable(path)} holds examples and no labels, and there is no {wanted}. Name a .npy file of labels with target=."
        )
    note = f"examples are the rows of {printable(path.name)}, labels those of {printable(found.name)}"
    return items, read_array(found, kinds="biufUS"), note


def _from_archive(path: Path, target: Any) -> tuple[np.ndarray, Any, str]:
    with opening(path, "arrays", remedy="Write it again with numpy.savez.") as checked, open_archive(checked, error=DataError) as archive:
        shown = f"'{printable(checked)}'"
        parts = {name.removesuffix(".npy"): archive.getinfo(name) for name in archive.namelist() if name.endswith(".npy")}

        def read(name: str, kinds: str) -> np.ndarray:
            size = parts[name].file_size
            check_size(size, checked, kind="arrays")
            with archive.open(parts[name]) as stream:
                _header(stream, size=size, shown=f"{shown}: {printable(name)}", kinds=kinds)
            with archive.open(parts[name]) as stream:
                return np.asarray(np.lib.format.read_array(stream, allow_pickle=False))

        return _pair_of(list(parts), target, read=read, shown=shown)


def _from_h5(path: Path, target: Any) -> tuple[np.ndarray, Any, str]:
    h5py = optional_import("h5py", "keras", purpose="reading an HDF5 file")
    with opening(path, "h5_arrays", remedy="Write it again with h5py, or as .npz.") as checked, checked.open("rb") as raw:
        shown, size = f"'{printable(checked)}'", checked.stat().st_size
        check_heaps(raw, shown)
        with h5py.File(checked, "r") as file:
            check_h5(file, size=size, shown=shown, texts=True)
            parts: dict[str, Any] = {}
            file.visititems(lambda name, one: parts.update({name: one}) if isinstance(one, h5py.Dataset) else None)

            def read(name: str, kinds: str) -> np.ndarray:
                part = parts[name]
                check_size(part.nbytes, checked, kind="array")
                if h5py.check_string_dtype(part.dtype) is not None:
                    if "U" not in kinds:
                        raise DataError(f"{shown}: {printable(name)} holds texts; expected numbers, (examples, …).")
                    return np.asarray(part.asstr()[()]).astype(np.str_)
                if part.dtype.kind not in "biuf" or not part.shape:
                    received = f"an array of the shape {part.shape} and the type {part.dtype}"
                    raise DataError(f"{shown}: {printable(part.name)} holds {received}; expected numbers, (examples, …).")
                return np.asarray(part[()])

            return _pair_of(list(parts), target, read=read, shown=shown)


def _pair_of(names: list[str], target: Any, *, read: Callable[[str, str], np.ndarray], shown: str) -> tuple[np.ndarray, Any, str]:
    """Return the examples and labels of a file of several arrays, as `array_file` does.
    `read`: function from the name of an array and its allowed NumPy kinds to the array."""
    if isinstance(target, str) and target not in names:
        raise DataError(f"{shown} has no array {target!r} for target{near_names(target, names)}")
    label = target if isinstance(target, str) else "" if target is not None else _found(names, _LABELS)
    free = [name for name in names if name != label]
    item = _found(free, _ITEMS) or (free[0] if len(free) == 1 else None)
    if label is None or item is None:
        raise DataError(
            f"{shown} holds the arrays {listed(map(repr, names), 12)}; expected X and y, or one with the labels that target= names and one "
            "other."
        )
    others = [name for name in free if name != item]
    note = f"examples are the array {item!r}, labels {label!r}" + (f"; left out: {listed(map(repr, others))}" if others else "")
    return read(item, "biuf"), read(label, "biufUS") if label else target, note


def _found(names: list[str], wanted: tuple[str, ...]) -> str | None:
    """Return the array with one of these names, alone or as the training part (x_train)."""
    forms = [form for one in wanted for form in (one, f"{one}_train", f"train_{one}")]
    return next((name for form in forms for name in names if name.lower() == form), None)


def _header(stream: IO[bytes], *, size: int, shown: str, kinds: str = "biuf") -> Header:
    """Return the shape and type that a .npy file of `size` bytes declares; `kinds` are the allowed NumPy kinds."""
    mark = stream.read(2)
    stream.seek(0)
    if mark == b"PK":
        raise DataError(f"{shown} is an archive of several arrays (.npz); expected one array (.npy). Write it with numpy.save.")
    version = np.lib.format.read_magic(stream)
    if version not in _READERS:
        raise DataError(f"{shown} has the .npy version {version}; expected one of {list(_READERS)}. {_ADVICE}")
    shape, _, dtype = _READERS[version](stream)
    if dtype.hasobject:
        raise UnsafeFileError(
            f"{shown} holds objects, which are a pickle, and reading one runs code. Convert it to an array of numbers; save arrays of "
            "different lengths as one .npy file each, in a folder for each class."
        )
    if dtype.kind not in kinds or not shape or min(shape) < 0:
        raise DataError(f"{shown} holds an array of the shape {shape} and the type {dtype}; expected numbers, (examples, …).")
    declared, held = math.prod(shape) * dtype.itemsize, size - stream.tell()
    if declared > held:
        raise DataError(
            f"{shown} declares an array of the shape {shape} and {declared:,} bytes, and holds {held:,} bytes. It is cut off or damaged; "
            "write it again."
        )
    return shape, dtype
