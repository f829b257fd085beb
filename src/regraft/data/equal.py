"""Detection of examples that are equal byte by byte, in one pass and without reading files that cannot have an equal."""

from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .decoding.threads import in_threads
from .items import ArrayView, Clip, chunks_of


def first_equal(items: Sequence[Any] | np.ndarray, kind: str, *, digest: Callable[[int], bytes]) -> np.ndarray:
    """Return for each example the index of the first example equal to it, (N,) int64; its own index if no earlier one is equal.
    Rows of an array are first compared by a hash of their bytes, files by their length. Only candidates with equal
    values are read for their digest. A file that cannot be read equals no other."""
    first = np.arange(len(items))
    keys = _keys(items, kind)
    if isinstance(keys, np.ndarray):
        _, groups, counts = np.unique(keys, return_inverse=True, return_counts=True)
        suspects = np.flatnonzero(counts[groups] > 1)
    else:
        often = Counter(keys)
        suspects = np.array([index for index, key in enumerate(keys) if often[key] > 1], dtype=np.int64)
    seen: dict[bytes, int] = {}
    for index, found in _digests(suspects, digest):
        first[index] = seen.setdefault(found, index)
    return first


def equal_in(
    items: Sequence[Any] | np.ndarray,
    others: Sequence[Any] | np.ndarray,
    *,
    kind: str,
    digest: Callable[[int], bytes],
    other_digest: Callable[[int], bytes],
) -> np.ndarray:
    """Return for each example the index of the first equal example in `others`, (N,) int64; -1 if none is equal."""
    found = np.full(len(items), -1)
    mine, theirs = _keys(items, kind), _keys(others, kind)
    known: dict[bytes, int] = {}
    for index, one in _digests(_among(theirs, mine), other_digest):
        known.setdefault(one, index)
    for index, one in _digests(_among(mine, theirs), digest):
        found[index] = known.get(one, -1)
    return found


def _among(keys: np.ndarray | list[Hashable], others: np.ndarray | list[Hashable]) -> np.ndarray:
    """Return the indices of the keys that occur in `others`."""
    if isinstance(keys, np.ndarray) and isinstance(others, np.ndarray):
        return np.flatnonzero(np.isin(keys, others))
    known = set(others)
    return np.array([index for index, key in enumerate(keys) if key in known], dtype=np.int64)


def _digests(indices: np.ndarray, digest: Callable[[int], bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield indices with digests; files that cannot be read are left out."""
    made = in_threads(lambda at: _digest(digest, at), indices.tolist())
    yield from ((index, found) for index, found in zip(indices.tolist(), made, strict=True) if found is not None)


def _digest(digest: Callable[[int], bytes], index: int) -> bytes | None:
    try:
        return digest(index)
    except (InputError, OSError):
        return None


def _keys(items: Sequence[Any] | np.ndarray, kind: str) -> np.ndarray | list[Hashable]:
    """Return keys that are equal for equal examples and need no file content: an array (N,) for rows of an array."""
    if isinstance(items, np.ndarray | ArrayView) and items.dtype.kind in "biuf":
        rows = (row for _, part in chunks_of(items) for row in np.asarray(part))
        return np.fromiter((hash(row.tobytes()) for row in rows), np.int64, count=len(items))
    return [_sketch(item, kind) for item in items]


def _sketch(item: Any, kind: str) -> Hashable:
    if isinstance(item, Clip):
        return _sketch(item.source, "audio"), item.start, item.seconds
    if isinstance(item, Path) or (isinstance(item, str) and kind in ("image", "audio")):
        try:
            return Path(item).stat().st_size
        except OSError:
            return None
    return item if isinstance(item, str) else getattr(item, "shape", getattr(item, "size", None))
