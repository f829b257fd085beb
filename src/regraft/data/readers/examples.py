"""Readers for data sets of other libraries: by index (PyTorch, Hugging Face), or in one pass (DataLoaders and other iterables)."""

import itertools
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, near_names
from ...files.media import picture_of
from ...files.text import printable
from ...words import counted
from ..decoding.files import kind_of
from ..items import LazyItems, as_numpy, listed

__all__ = ["TARGET_NAMES", "Examples", "are_examples", "examples_alone", "examples_of", "label_names"]

TARGET_NAMES = ("label", "target", "class", "category", "y")  # Names by which the target of an example is found if it is not specified
_LABELS = ("targets", "labels")  # Attributes in which torchvision data sets store all labels, so that nothing needs decoding
_KERAS = "on_epoch_end"  # Method by which a Keras `Sequence` or `PyDataset` is recognised; its indices stand for batches
_COLUMNS = "select_columns"  # Method by which a data set of Hugging Face is recognised
MOST_SHOWN = 5
PATIENCE = 30  # Seconds after which a warning says that an iterable has not ended
_ADVICE = "expected (example, label), or a mapping in which target= names the label"


@dataclass(frozen=True, eq=False)
class Examples:
    """Examples and labels of another library's data set."""

    items: Any  # N examples: an array, a list, or examples made when they are needed
    labels: Any
    note: str
    classes: tuple[str, ...] | None = None  # class names by label number, if the data set has them


def are_examples(source: Any) -> bool:
    """Return whether a value yields examples, by index or by iteration. A list does if its elements are pairs.
    The result is False for arrays, tables, texts, mappings and pairs (X, y)."""
    if isinstance(source, str | bytes | Mapping | np.ndarray) or any(hasattr(source, one) for one in ("to_numpy", "detach", "toarray")):
        return False
    if isinstance(source, tuple | list):
        return len(source) > 2 and all(isinstance(one, tuple) and len(one) == 2 for one in source[:MOST_SHOWN])
    return _is_indexed(source) or isinstance(source, Iterable)


def examples_of(source: Any, target: Any) -> Examples:
    """Return the examples and labels of a data set of another library.
    `source`: a `torch.utils.data.Dataset` or `DataLoader`, a Hugging Face `datasets.Dataset`, a `tf.data.Dataset`, or anything that yields
    (example, label) or mappings, by index or by iteration, singly or in batches.
    `target`: key of the label in a mapping; None: inferred."""
    loader, inner = _is_loader(source), _loaded(source)
    if inner is not source:
        found = examples_of(inner, target)
        return replace(found, note=f"{found.note}; order, sampler and batches of the DataLoader are not used")
    if isinstance(target, str) or target is None:
        return _mapped(source, target) if _is_mapped(source) else _once(source, target, batched=loader)
    raise DataError(f"target is a {type(target).__name__}; a data set of another library takes the name of its label, or none.")


def examples_alone(source: Any) -> Iterator[Any]:
    """Yield the examples of a data set of another library, dropping any labels; those of a DataLoader in the order of its data set."""
    source = _loaded(source)
    mapped, batched = _is_mapped(source), _is_loader(source) or hasattr(source, _KERAS)
    for example in _given(source):
        pair = isinstance(example, tuple | list) and len(example) == 2
        item = example[0] if pair else _only(example) if isinstance(example, Mapping) else example
        if batched or (pair and not mapped and _is_batch(_Example(*example))):
            yield from map(_item, item)
        else:
            yield _item(item)


def label_names(names: Iterable[Any]) -> list[Any]:
    """Return the names that may be the name of the label, the most likely first."""
    given = list(names)
    return [name for one in TARGET_NAMES for name in given if str(name).lower() in (one, f"{one}s")]


def _is_mapped(source: Any) -> bool:
    """Return whether a value gives one example for an index; a Keras data set and a DataLoader give batches."""
    return _is_indexed(source) and not hasattr(source, _KERAS)


def _is_loader(source: Any) -> bool:
    return hasattr(source, "dataset") and hasattr(source, "collate_fn")


def _loaded(source: Any) -> Any:
    """Return the data set of a DataLoader that batches a map-style one in the default way, else the source itself."""
    mapped = _is_loader(source) and _is_mapped(source.dataset) and getattr(source.collate_fn, "__name__", "") == "default_collate"
    return source.dataset if mapped else source


def _is_indexed(source: Any) -> bool:
    return hasattr(source, "__getitem__") and hasattr(source, "__len__")


def _only(example: Mapping[str, Any]) -> Any:
    """Return the one part of an example that is not its label."""
    labels = label_names(example)
    parts = [name for name in example if name not in labels]
    if len(parts) != 1:
        raise DataError(f"An example has the parts {listed(map(repr, example), 12)}; expected one beside its label. Remove the others.")
    return example[parts[0]]


# ── by index ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _mapped(source: Any, target: str | None) -> Examples:
    count, kind = len(source), f"{type(source).__module__.split('.')[0]}.{type(source).__name__}"
    if not count:
        raise DataError(f"The data set ({kind}) is empty; expected one example or more.")
    tensors = getattr(source, "tensors", None)
    if isinstance(tensors, tuple) and len(tensors) == 2:
        return Examples(as_numpy(tensors[0]), as_numpy(tensors[1]), f"examples and labels are the tensors of the {kind}")
    first = _example(source, 0, target=target)
    label, item = first.names
    columns, classes = getattr(source, "column_names", None), _class_names(source, label)
    if isinstance(columns, list) and label in columns:  # Hugging Face: reading one column decodes no other
        labels: Any = [one if isinstance(one, list) else _plain(one) for one in source[label]]
    else:
        labels = _labels_of(source, count, target=target)
        if classes is None and not any(map(np.ndim, labels[:1])):  # rows of 0 and 1 are no numbers of classes
            classes = getattr(source, "classes", None)
    items: Any = LazyItems(lambda index: _item(_example(source, index, target=target).item), np.arange(count))
    if columns and isinstance(first.item, str | int | float):
        items = list(source[item])
    how = f"{f'the column {label!r}' if label else 'the second part of each example'} is the label"
    note = f"{counted(count, 'example')} of the {kind}, each asked for by index when it is needed; {how}"
    return Examples(items, labels, note, tuple(map(str, classes)) if classes and _count(labels) else None)


def _class_names(source: Any, label: str) -> Any:
    """Return the class names that a Hugging Face data set has for a column of labels, or of lists of labels; None if it has none."""
    features = getattr(source, "features", None)  # of other data sets, this may be anything
    feature = features.get(label) if isinstance(features, Mapping) else None
    return getattr(getattr(feature, "feature", feature), "names", None)


def _count(labels: Any) -> bool:
    """Return whether labels are integers, or lists of integers, so that they can index class names."""
    flat = itertools.chain.from_iterable(one if isinstance(one, list | np.ndarray) else [one] for one in labels)
    return as_numpy(list(flat)).dtype.kind in "iu"


def _labels_of(source: Any, count: int, *, target: str | None) -> Any:
    for name in _LABELS:
        found = getattr(source, name, None)
        if target is None and found is not None and not callable(found) and len(found) == count:
            labels = as_numpy(found)
            if labels.ndim and str(_plain(_example(source, 0, target=None).label)) == str(labels[0]):
                return labels
    return [_plain(_example(source, index, target=target).label) for index in range(count)]


@dataclass(frozen=True, eq=False)
class _Example:
    item: Any
    label: Any
    names: tuple[str, str] = ("", "")


def _example(source: Any, index: int, *, target: str | None) -> _Example:
    try:
        example = source[index]
    except Exception as error:  # the user's data set may raise anything
        raise DataError(f"The data set failed for example {index}: {type(error).__name__}: {error}. Repair it, or leave it out.") from error
    return _parted(example, target, index=index, columns=hasattr(source, _COLUMNS))


def _parted(example: Any, target: str | None, *, index: int, columns: bool) -> _Example:
    if isinstance(example, Mapping):
        names = list(example)
        wanted = [target] if target else label_names(names)[:1]
        label = wanted[0] if wanted and wanted[0] in names else None
        others = [name for name in names if name != label]
        if label is None or len(others) != 1:
            near = near_names(str(target), names) if target else "."
            how = " Leave out the other columns with select_columns, or give the data set's to_pandas() as a table." if columns else ""
            shown = listed(map(repr, names), 12)
            raise DataError(f"Example {index} has the parts {shown}; {_ADVICE} and one other is the example{near}{how}")
        return _Example(example[others[0]], example[label], (label, others[0]))
    if isinstance(example, tuple | list) and len(example) == 2 and target is None:
        return _Example(*example)
    what = counted(len(example), "part") if isinstance(example, tuple | list) else f"a {type(example).__name__}"
    raise DataError(f"Example {index} is {what}{f' and has no names, such as target={target!r}' if target else ''}; {_ADVICE}.")


def _plain(value: Any) -> Any:
    """Return a label as a number, text or array."""
    if isinstance(value, str | bytes | int | float) or value is None:
        return value
    array = as_numpy(value)
    return array.item() if array.ndim == 0 else array


def _item(value: Any) -> Any:
    if isinstance(value, str) or type(value).__module__.startswith("PIL") or hasattr(value, "__fspath__"):
        return value
    if isinstance(value, Mapping) and {*value} == {"bytes", "path"}:  # Hugging Face, with decode=False
        return _stored(value["bytes"], str(value["path"] or ""))
    made = as_numpy(value)
    if made.dtype.kind == "O" and not made.ndim:
        how = " of a recording: cast its column with Audio(decode=False)" if {*dir(value)} & {"get_all_samples", "keys"} else ""
        raise DataError(f"An example is a {type(value).__name__}; expected numbers, a text, a path or a picture{how}.")
    return made


def _stored(content: bytes | None, path: str) -> Any:
    """Return the picture in an encoded file, or the path of a file that is not read yet."""
    if content is None:
        return Path(path)
    if kind_of(Path(path)) == "audio":
        raise DataError(f"An example holds the bytes of the recording {printable(path)!r}; expected the path of a file. Write it to one.")
    with picture_of(content) as picture:
        picture.load()
        return picture.copy()


# ── once through ───────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _once(source: Any, target: str | None, *, batched: bool) -> Examples:
    items: list[Any] = []
    labels: list[Any] = []
    name, columns, begun, told = "", hasattr(source, _COLUMNS), time.monotonic(), False
    for index, example in enumerate(_given(source)):
        found = _parted(example, target, index=index, columns=columns)
        name = found.names[0]
        single = not batched and not _is_batch(found)
        items += [_item(found.item)] if single else [_item(one) for one in found.item]
        labels += [_plain(found.label)] if single else [_plain(one) for one in found.label]
        if not told and time.monotonic() - begun > PATIENCE:
            told = True
            warnings.warn(
                f"The {type(source).__name__} has given {counted(len(items), 'example')} in {PATIENCE} s and goes on. All are read into "
                "memory before anything starts: if it never ends, as generators for Keras do, interrupt, and let it end after one pass.",
                stacklevel=2,
            )
        if len(items) != len(labels):
            raise DataError(f"Batch {index} has other numbers of examples and of labels: {len(found.item)} and {len(found.label)}.")
    if not items:
        raise DataError(f"The data set ({type(source).__name__}) gave no example; expected one or more. An iterator can be read only once.")
    note = f"{counted(len(items), 'example')} of the {type(source).__name__}, read once through and held in memory"
    classes = _class_names(source, name)
    return Examples(items, labels, note, tuple(map(str, classes)) if classes and _count(labels) else None)


def _is_batch(example: _Example) -> bool:
    """Return whether this is a batch: labels and examples have equal length along the first axis."""
    if isinstance(example.label, str | bytes | int | float) or example.label is None or isinstance(example.item, str | bytes):
        return False
    labels, items = np.shape(example.label), len(example.item) if isinstance(example.item, list | tuple) else np.shape(example.item)[:1]
    return len(labels) > 0 and (labels[0],) == (items if isinstance(items, tuple) else (items,))


def _given(source: Any) -> Iterator[Any]:
    iterator = (source[index] for index in range(len(source))) if _is_indexed(source) else iter(source)
    for index in itertools.count():
        try:
            yield next(iterator)
        except StopIteration:
            return
        except DataError:
            raise
        except Exception as error:  # the user's iterable may raise anything
            raise DataError(f"The data set failed at example {index}: {type(error).__name__}: {error}. Repair it.") from error
