"""Raw examples: lazy selection without copies, content digests, and lists for messages."""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..errors import DataError
from ..files.formats import opening
from ..files.room import check_unchanged
from ..files.text import printable

DIGEST_BYTES = 16
CHUNK_BYTES = 2**22  # Bytes of an array that are processed at a time
MOST_DENSE = 2**33  # Maximum size in bytes of a sparse matrix converted to a dense array
_FILES = {"image": "picture", "audio": "recording"}


@dataclass(frozen=True, eq=False)
class ArrayView(Sequence[Any]):
    """Selected rows of an array or memory map, in a given order, read when needed."""

    base: np.ndarray  # (N, ...) the whole array
    indices: np.ndarray  # (n,) rows of `base`

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | slice) -> Any:
        return ArrayView(self.base, self.indices[index]) if isinstance(index, slice) else self.base[self.indices[index]]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.base[self.indices], dtype=dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the selected rows as one array."""
        return (len(self.indices), *self.base.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one number."""
        return self.base.dtype


@dataclass(frozen=True, eq=False)
class Clip:
    """Window of a recording, used as one example."""

    source: Any  # the recording: a path, or a waveform
    start: float  # start of the window in seconds
    seconds: float
    of: int  # index of the recording in the data that the windows were made from
    name: str


@dataclass(frozen=True, eq=False)
class Parts(Sequence[Any]):
    """Examples with several parts, one for each network input. Example i is a mapping from part name to element i of the part."""

    parts: Mapping[str, Sequence[Any] | np.ndarray]  # name -> N raw examples
    kinds: Mapping[str, str]  # name -> their kind: "array", "image", "audio" or "text"
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # name -> the table columns that they were read from

    def __post_init__(self) -> None:
        counts = {name: len(items) for name, items in self.parts.items()}
        if len(set(counts.values())) != 1:
            raise DataError(f"The inputs differ in length: {counts}; expected one example of each for every example.")

    def __len__(self) -> int:
        return len(next(iter(self.parts.values())))

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.rows(np.arange(len(self))[index])
        return {name: items[index] for name, items in self.parts.items()}

    def rows(self, indices: np.ndarray) -> Parts:
        """Return the examples at `indices`, (n,) int64, as `as_rows` does."""
        return Parts({name: as_rows(items, indices) for name, items in self.parts.items()}, self.kinds, self.columns)

    def digest(self, index: int) -> bytes:
        """Return the digest of the content of example `index` over all its parts, 16 bytes."""
        hasher = _hasher()
        for name, items in self.parts.items():
            hasher.update(json.dumps(name).encode() + item_digest(items[index], self.kinds[name]))
        return hasher.digest()


class LazyItems(Sequence[Any]):
    """Examples, or their names, that a function makes when they are needed. A lock makes them one at a time, as it need not be thread-safe.
    `indices`: (n,) the argument of the function for each example. `padded`: how they are brought to one length, if so."""

    def __init__(self, made: Callable[[int], Any], indices: np.ndarray, *, padded: Padding | None = None) -> None:
        self.made, self.indices, self.padded, self._one = made, indices, padded, threading.Lock()

    def __reduce__(self) -> Any:
        return LazyItems, (self.made, self.indices)  # each process has its own lock

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self.of(np.arange(len(self))[index])
        with self._one:
            return self.made(int(self.indices[index]))

    def of(self, rows: np.ndarray) -> LazyItems:
        """Return a lazy selection of the examples at `rows`, (n,)."""
        return LazyItems(self.made, self.indices[rows])


class Padding(NamedTuple):
    """Bringing arrays that differ in length along one axis to one shape: zeros are added at their ends."""

    axis: int
    shape: tuple[int, ...]
    note: str


def padding_of(shapes: Iterable[tuple[int, ...]]) -> Padding | None:
    """Return how arrays of these shapes are brought to that of the longest; None unless they differ along one of two or more axes."""
    known = set(shapes)
    sides = list(zip(*known, strict=True)) if len(set(map(len, known))) == 1 else []
    axes = [at for at, lengths in enumerate(sides) if len(set(lengths)) > 1]
    if len(axes) != 1 or len(sides) < 2:
        return None
    span = f"{min(sides[axes[0]])} to {max(sides[axes[0]])}"
    note = f"examples are {span} long along their axis {axes[0]}; shorter ones are padded with zeros at the end"
    return Padding(axes[0], tuple(map(max, sides)), note)


def padded_to(array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array with zeros added at the end of each axis that is shorter than in `shape`, and the end of longer ones left out."""
    made, common = np.zeros(shape, array.dtype), tuple(map(slice, map(min, array.shape, shape)))
    made[common] = array[common]
    return made


def take(items: Sequence[Any] | np.ndarray, indices: Sequence[int] | np.ndarray) -> np.ndarray | list[Any]:
    """Return the examples at `indices`, (n,), in memory: an array (n, ...) if `items` is an array, else a list of n raw examples."""
    rows = np.asarray(indices, dtype=np.int64)
    if isinstance(items, ArrayView):
        return take(items.base, items.indices[rows])
    if isinstance(items, np.ndarray):
        check_unchanged(items)
        return np.asarray(items[rows])
    return [items[int(index)] for index in rows]


def spread_rows(count: int, most: int) -> np.ndarray:
    """Return the indices of up to `most` of `count` examples, evenly spread from the first to the last, int64."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(np.int64))


def chunks_of(items: Sequence[Any] | np.ndarray) -> Iterator[tuple[int, np.ndarray | list[Any]]]:
    """Yield N arrays in parts of about `CHUNK_BYTES`, as `take` returns them, each with the index of its first array."""
    step = max(1, CHUNK_BYTES // max(1, np.asarray(items[0]).nbytes)) if len(items) else 1
    for start in range(0, len(items), step):
        yield start, take(items, np.arange(start, min(start + step, len(items))))


def as_rows(items: Sequence[Any] | np.ndarray, indices: np.ndarray) -> Sequence[Any]:
    """Return a lazy selection of the examples at `indices`, (n,) int64: a view of an array's rows, else a list of references."""
    if isinstance(items, Parts):
        return items.rows(indices)
    if isinstance(items, ArrayView):
        return ArrayView(items.base, items.indices[indices])
    if isinstance(items, np.ndarray):
        return ArrayView(items, indices)
    if isinstance(items, LazyItems):
        return items.of(indices)
    return [items[int(index)] for index in indices]


def in_files(items: Sequence[Any] | np.ndarray, kind: str) -> bool:
    """Return whether examples are files, or windows of recordings, which are read and decoded for each batch."""
    lazy = isinstance(items, np.ndarray | ArrayView | LazyItems | Parts)
    return not lazy and kind != "text" and len(items) > 0 and isinstance(items[0], str | Path | Clip)


def file_names(items: Sequence[Any] | np.ndarray) -> tuple[str, ...] | None:
    """Return the names of examples that are a list of paths; None for any others."""
    return tuple(map(str, items)) if isinstance(items, list) and items and isinstance(items[0], Path) else None


def whole_items(items: Sequence[Any] | np.ndarray) -> np.ndarray | None:
    """Return for each of N examples the index of its recording, (N,) int64, counted from 0; None if the examples are not windows."""
    if isinstance(items, np.ndarray | ArrayView) or not len(items) or not isinstance(items[0], Clip):
        return None
    return np.unique([item.of for item in items], return_inverse=True)[1]


def mean_of_windows(values: np.ndarray, items: Sequence[Any] | np.ndarray) -> np.ndarray:
    """Return the mean over the windows of each recording.
    `values`: (N, …), one for each example; result: (recordings, …), or `values` if the examples are not windows."""
    owners = whole_items(items)
    if owners is None:
        return values
    sums = np.zeros((int(owners.max()) + 1, *values.shape[1:]), np.float64)
    np.add.at(sums, owners, values)
    counts = np.bincount(owners).reshape(-1, *(1,) * (values.ndim - 1))
    return (sums / counts).astype(values.dtype)


def as_numpy(values: Any) -> np.ndarray:
    """Return an array, tensor, series or list as a NumPy array, without a copy where possible."""
    if type(values).__module__.split(".")[0] == "torch":
        return np.asarray(values.detach().cpu().numpy())
    if is_frame(values):
        return np.asarray(values.to_numpy())
    if type(values).__module__.startswith("scipy.sparse"):
        return np.asarray(_dense(values))
    if isinstance(values, np.ma.MaskedArray) and np.ma.is_masked(values):
        empty: Any = np.nan if values.dtype.kind in "biuf" else None
        return np.asarray(np.where(np.ma.getmaskarray(values), empty, values.data))
    try:
        if isinstance(values, list | tuple) and str in (found := {*map(type, values)}) and len(found) > 1:
            return np.array(values, dtype=object)  # numpy would turn a missing value into the text "nan"
        return np.asarray(values)
    except ValueError:
        ragged = np.empty(len(values), dtype=object)
        ragged[:] = values
        return ragged


def _dense(sparse: Any) -> np.ndarray:
    """Convert a sparse SciPy matrix to a dense array."""
    size = math.prod(sparse.shape) * sparse.dtype.itemsize
    if size > MOST_DENSE:
        raise DataError(
            f"A sparse matrix of the shape {sparse.shape} takes {size / 2**30:,.1f} GiB as an array; expected {MOST_DENSE / 2**30:.0f} GiB "
            "at most. Leave out columns, or reduce them with sklearn.decomposition.TruncatedSVD first."
        )
    return np.asarray(sparse.toarray())


def is_frame(value: Any) -> bool:
    """Return whether a value is a pandas or polars object, without importing either library."""
    return type(value).__module__.split(".")[0] in ("pandas", "polars")


def as_frame(value: Any) -> Any:
    """Return a table of Arrow, or a lazy frame of polars, as the data frame that it holds; any other value as it is."""
    library = type(value).__module__.split(".")[0]
    if library == "pyarrow" and hasattr(value, "to_pandas"):
        return value.to_pandas()
    return value.collect() if library == "polars" and hasattr(value, "collect") else value


def without_labels(items: Any) -> Any:
    """Return X of a pair (X, y), as `read` takes it; any other value as it is. A tuple may also hold two examples: it is a pair if X is a
    data frame, a mapping, or texts, or has more axes than y."""
    if not isinstance(items, tuple) or len(items) != 2:
        return items
    x, y = map(as_frame, items)
    if isinstance(x, Mapping) or isinstance(y, Mapping):
        return items if isinstance(x, Mapping) and isinstance(y, Mapping) else x
    if isinstance(x, str | bytes | Path) or not (hasattr(x, "__len__") and hasattr(y, "__len__")) or len(x) != len(y):
        return items
    first, second = as_numpy(x), as_numpy(y)
    texts = first.ndim == 1 and all(isinstance(one, str | Path) for one in first.tolist())
    return x if texts or first.ndim > second.ndim > 0 else items


def are_inputs(items: Any) -> bool:
    """Return whether a list holds one array (N, …) for each of several inputs, as Keras takes them, and not N examples of one input."""
    if not isinstance(items, list | tuple) or len(items) < 2 or not all(hasattr(one, "shape") and len(one.shape) for one in items):
        return False
    shapes = [tuple(one.shape) for one in items]
    return len({shape[0] for shape in shapes}) == 1 and len({*shapes}) > 1 and max(map(len, shapes)) > 1


def by_name_instead(items: Sequence[Any], names: Sequence[str] = ("first", "second")) -> str:
    """Return an error message for a list of inputs (`are_inputs`); `names`: those of the network, or examples of names."""
    given = ", ".join(f"{name!r}: …" for name in names)
    return f"X is a list of {len(items)} arrays of {len(items[0])} examples each; expected the inputs of the network by name: {{{given}}}."


def is_bunch(value: Any) -> bool:
    """Return whether a value is a data set as scikit-learn's loaders return it: a mapping with examples and labels."""
    return isinstance(value, Mapping) and type(value).__name__ == "Bunch" and {"data", "target"} <= value.keys()


def alone(items: Any) -> Any:
    """Return the examples of a data set of scikit-learn, or of a mapping that holds nothing else; any other value as it is."""
    if is_bunch(items):
        return items["data"]
    return next(iter(items.values())) if isinstance(items, Mapping) and len(items) == 1 else items


def item_digest(item: Any, kind: str) -> bytes:
    """Return the blake2b digest of an example's content, 16 bytes."""
    if isinstance(item, Clip):
        return digest_with(item_digest(item.source, "audio"), ("start", "seconds"), values=np.array([item.start, item.seconds]))
    if isinstance(item, Path) or (isinstance(item, str) and kind in ("image", "audio")):
        with opening(item, _FILES.get(kind, "picture")) as path, path.open("rb") as stream:
            return hashlib.file_digest(stream, _hasher).digest()
    hasher = _hasher()
    if isinstance(item, str):
        hasher.update(item.encode(errors="surrogatepass"))
    else:
        array = np.ascontiguousarray(item)
        hasher.update(f"{array.dtype.str}{np.shape(item)}".encode())
        hasher.update(array.tobytes())
    return hasher.digest()


def digest_with(digest: bytes, names: Sequence[str], *, values: np.ndarray) -> bytes:
    """Return an example's digest combined with the numbers beside it, 16 bytes. `values`: (k,)."""
    hasher = _hasher()
    for part in (digest, json.dumps(list(names)).encode(), np.asarray(values, dtype=np.float32).tobytes()):
        hasher.update(part)
    return hasher.digest()


def _hasher() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=DIGEST_BYTES)


def listed(values: Iterable[object], shown: int = 5) -> str:
    """Return values for a message: the first few, then "and N more", each as plain text on one line."""
    texts = list(values)
    more = len(texts) - shown
    return ", ".join(printable(text) for text in texts[:shown]) + (f" and {more} more" if more > 0 else "")
