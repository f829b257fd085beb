"""Reader for pairs (X, y)."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, near_names
from ...words import counted
from ..check import checked
from ..dataset import Dataset
from ..decoding.files import kind_of
from ..items import LazyItems, Padding, Parts, are_inputs, as_numpy, by_name_instead, file_names, padded_to, padding_of
from .examples import examples_of
from .targets import ReadOptions, is_missing, named_labels
from .tasks import ExampleFacts, as_padded, built, targets_by_task


def read_arrays(source: Sequence[Any], options: ReadOptions) -> Dataset:
    """Read a pair of examples and labels. An array or memory map X is kept, not copied.
    `source`: (X, y). X is an array or tensor (N, ...), a data frame of numbers, a list of N texts, paths, PIL images or arrays, or a
    mapping from the name of each network input to one of these. y is as `make_targets` takes it, or a mapping from task to such labels, of
    which some may be missing."""
    if len(source) != 2:
        raise DataError(f"A tuple of {len(source)} was received; expected a pair (X, y) of examples and their labels.")
    if isinstance(options.kind, Mapping) and not isinstance(source[0], Mapping):
        raise DataError(f"kind={dict(options.kind)!r} names inputs, and X is no mapping of inputs; expected one kind.")
    values, padding = _padded(source[0]) if options.kind in (None, "array") else (source[0], None)
    items, kind = parts_of(values, options.kind) if isinstance(values, Mapping) else _items(values, options.kind)
    labels = source[1] if options.target is None else options.target
    if labels is None:
        raise DataError(
            f"The data are {list(source[0])} and no target; expected target=: the name of one of them if they are columns of a table, or "
            f"an array of {counted(len(items), 'label')} if they are the inputs of a network."
        )
    if isinstance(labels, str):
        raise DataError(
            f"target={labels!r} names a column, and (X, y) has no columns; expected an array of {counted(len(items), 'label')}."
        )
    labels = as_numpy(labels) if hasattr(labels, "toarray") else labels
    if len(items) == 0:
        size = f"the shape {items.shape}" if isinstance(items, np.ndarray) else counted(0, "example")
        raise DataError(f"The data are empty: X has {size}; expected one example or more.")
    if np.isscalar(labels) or getattr(labels, "ndim", 1) == 0:
        raise DataError(f"target={labels!r}: expected one label for each of the {counted(len(items), 'example')}.")
    if not isinstance(labels, Mapping) and len(labels) != len(items):
        if are_inputs(source[0]) and len(source[0][0]) == len(labels):
            raise DataError(by_name_instead(source[0]))
        raise DataError(f"X has {counted(len(items), 'example')} and y has {len(labels)}; expected one label for each example.")
    data = built(
        items,
        kind,
        tasks=targets_by_task(labels, options, count=len(items)),
        beside=ExampleFacts.of(options, len(items)),
        options=options,
        names=file_names(items),
    )
    data = data if padding is None else as_padded(data, padding)
    return data if file_names(items) or isinstance(items, LazyItems) else checked(data, options.skip_bad)


def read_examples(source: Any, options: ReadOptions) -> Dataset:
    """Read a data set of PyTorch, Hugging Face or TensorFlow, or anything else that yields examples.
    A source with index and length is read example by example when needed."""
    found = examples_of(source, options.target)
    labels, options, foreign = found.labels, dataclasses.replace(options, target=None), tuple[str, ...]()
    if found.classes is not None and options.task != "regression":
        labels, options, foreign = named_labels(labels, found.classes, options=options)
    data = read_arrays((found.items, labels), options)
    return dataclasses.replace(data, notes=(found.note, *foreign, *data.notes))


def parts_of(values: Mapping[str, Any], kind: str | Mapping[str, str] | None = None) -> tuple[Parts, str]:
    """Return a mapping from network inputs to N examples each as `Parts`, and its kind, "parts".
    `values`: name of the input -> N examples, as X of a pair (X, y)."""
    kinds = kind if isinstance(kind, Mapping) else {}
    unknown = [name for name in kinds if name not in values]
    if unknown or not values or not isinstance(kind, Mapping | None):
        near = (
            near_names(str(unknown[0]), list(values))
            if unknown
            else ": expected the kind of each input by name, such as {'photo': 'image'}"
        )
        raise DataError(f"X has the inputs {list(values)}, and kind={kind!r} was given{near}")
    found = {str(name): _items(one, kinds.get(name)) for name, one in values.items()}
    return Parts({name: items for name, (items, _) in found.items()}, {name: kind for name, (_, kind) in found.items()}), "parts"


def _padded(values: Any) -> tuple[Any, Padding | None]:
    """Return arrays that differ in length as one array, padded with zeros; anything else as it is."""
    of_objects = isinstance(values, np.ndarray) and values.dtype.kind == "O"
    arrays = list(values) if isinstance(values, list | tuple) or of_objects else []
    if not arrays or not all(isinstance(one, np.ndarray) or hasattr(one, "detach") for one in arrays):
        return values, None
    arrays = [as_numpy(one) for one in arrays]
    padding = padding_of(one.shape for one in arrays)
    return (values, None) if padding is None else (np.stack([padded_to(one, padding.shape) for one in arrays]), padding)


def _items(values: Any, kind: str | None) -> tuple[list[Any] | LazyItems | np.ndarray, str]:
    """Return X as a data set stores it, and its kind."""
    if isinstance(values, LazyItems):
        first = values[0]
        if isinstance(first, str) or hasattr(first, "__fspath__"):
            return _listed_items(list(values), kind)
        return values, kind or ("image" if type(first).__module__.split(".")[0] == "PIL" else "array")
    if isinstance(values, list | tuple) and values and not isinstance(values[0], int | float | list | tuple):
        return _listed_items(list(values), kind)
    array = as_numpy(values)
    if array.ndim == 0:
        raise DataError(f"X is a single {type(values).__name__}; expected N examples.")
    if array.dtype.kind in "OUS" and array.ndim == 1:
        return _listed_items(array.tolist(), kind)
    if array.dtype.kind == "O":
        cells = [np.nan if is_missing(cell) else cell for cell in array.ravel().tolist()]
        odd = next((cell for cell in cells if not isinstance(cell, int | float | np.number | np.bool_)), None)
        if odd is not None:
            raise DataError(f"X has the shape {array.shape} and holds {odd!r} ({type(odd).__name__}); expected numbers.")
        array = np.array(cells, dtype=np.float64).reshape(array.shape)
    if array.dtype.kind not in "biuf":
        raise DataError(f"X has the shape {array.shape} and the type {array.dtype}; expected numbers, or a list of texts or paths.")
    if kind == "text":
        raise DataError(f"X has the shape {array.shape} and the type {array.dtype}; expected a list of texts for kind='text'.")
    return array, kind or "array"


def _listed_items(values: list[Any], kind: str | None) -> tuple[list[Any] | np.ndarray, str]:
    first = values[0] if values else ""
    if isinstance(first, str) and kind not in ("image", "audio"):
        names = kind is None and all(isinstance(value, str) and kind_of(Path(value)) for value in values)
        if not (names and os.path.isfile(first)):
            return values, "text"
    if isinstance(first, str | Path):
        paths = [Path(value) for value in values]
        found = kind or kind_of(paths[0])
        if found is None:
            raise DataError(f"The kind of {paths[0]} is unknown by its extension; expected an image or audio file. Say it with kind=.")
        return paths, found
    if type(first).__module__.split(".")[0] == "PIL":
        return values, "image"
    return _array_items([as_numpy(value) for value in values], kind)


def _array_items(arrays: list[np.ndarray], kind: str | None) -> tuple[list[Any] | np.ndarray, str]:
    shapes = {array.shape for array in arrays}
    if any(array.dtype.kind not in "biuf" for array in arrays):
        raise DataError(f"X is a list of {arrays[0].dtype} values; expected numbers, texts, paths or images.")
    if len(shapes) == 1:
        return np.stack(arrays), kind or "array"
    if kind in ("image", "audio"):
        return list(arrays), kind
    sizes = sorted(shapes)[:3]
    raise DataError(
        f"The examples of X differ in shape, such as {sizes}; expected one shape, or one but for the length, or kind='image' or "
        "kind='audio'."
    )
