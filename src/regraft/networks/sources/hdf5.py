"""Check HDF5 files before any of their numbers is read.

HDF5 is a file system within a file. A data set may lie in any other file of the machine (external storage, virtual data sets, external
links). A group may contain itself. A few bytes may declare a shape of 10^12 numbers. Keras writes none of these.
"""

import math
from collections.abc import Iterator
from typing import IO, Any

from ...errors import NetworkError, UnsafeFileError, optional_import
from ...files.sizes import refuse_expansion
from ...files.text import printable

_DEEPEST = 100
_HEAP = b"GCOL\x01"  # First bytes of a global heap, which holds texts
_BLOCK = 2**20
_FILTERS = {1: "gzip", 2: "shuffle", 3: "checksum", 32000: "lzf"}
_INTEGER, _FLOAT, _STRING, _OPAQUE, _ENUM = 0, 1, 3, 5, 8  # HDF5 type classes
_NUMBERS = (_INTEGER, _FLOAT, _ENUM, _OPAQUE)  # Type classes of data sets. Booleans are enumerations, and bfloat16 is opaque
_FACTS = (_INTEGER, _FLOAT, _ENUM, _STRING)  # Type classes of attributes


def _h5() -> Any:
    return optional_import("h5py", "keras", purpose="reading an HDF5 file")


def check_h5(file: Any, *, size: int, shown: str, texts: bool = False) -> None:
    """Raise unless everything in an HDF5 file lies in the file itself, once, and has the declared size.
    `size` is the size of the file in bytes."""
    if file.id.get_create_plist().get_sizes() != (8, 8):
        raise NetworkError(f"{shown} holds addresses or lengths that are not of 8 bytes; expected a file as Keras writes it.")
    if file.userblock_size:
        raise NetworkError(f"{shown} begins with {file.userblock_size} bytes that are no HDF5; expected a file as Keras writes it.")
    declared = 0
    for item, name in _items(file, shown):
        _check_attributes(item, size=size, what=f"{shown}, {name!r},")
        if isinstance(item, _h5().Dataset):
            declared += _checked_size(item, allowed=(*_NUMBERS, _STRING) if texts else _NUMBERS, what=f"{shown}: the data set {name!r}")
    refuse_expansion(declared, stored=size, what=shown, error=NetworkError)


def check_heaps(stream: IO[bytes], shown: str) -> None:
    """Raise if a heap of texts holds an object of length zero, which would put the library into an endless loop.
    `stream` is the file before the library opens it; its position is moved."""
    for start in _heaps(stream):
        end, at = start + int.from_bytes(_read_at(stream, start + 8, size=8), "little"), start + 16
        while at + 16 <= end and len(head := _read_at(stream, at, size=16)) == 16:
            number, length = int.from_bytes(head[:2], "little"), int.from_bytes(head[8:], "little")
            step = (length + 7) // 8 * 8 + 16 if number else length  # the size of free space includes its own header
            if step % 2**64 == 0:
                raise NetworkError(f"{shown} is damaged: a heap of texts holds a part of 0 bytes; expected a file as Keras writes it.")
            at += step


def _heaps(stream: IO[bytes]) -> Iterator[int]:
    """Yield the positions of heaps. The file is read in blocks: a mapped one would end the process if another program shortened it."""
    start, overlap = 0, len(_HEAP) - 1
    while len(block := _read_at(stream, start, size=_BLOCK)) > overlap:
        at = block.find(_HEAP)
        while at >= 0:
            yield start + at
            at = block.find(_HEAP, at + 1)
        start += len(block) - overlap


def _read_at(stream: IO[bytes], at: int, *, size: int) -> bytes:
    stream.seek(min(at, 2**63 - 1))
    return stream.read(size)


def _items(file: Any, shown: str) -> Iterator[tuple[Any, str]]:
    """Yield every group and data set with its name, each group once. The walk is iterative, because the file chooses the depth."""
    root = file["/"]
    waiting = [(root, "/", 0)]
    seen = {address(root)}
    while waiting:
        group, path, depth = waiting.pop()
        yield group, path
        if depth == _DEEPEST:
            raise NetworkError(f"{shown} nests groups deeper than {_DEEPEST}; expected a file as Keras writes it.")
        for key in group:
            name = printable(f"{path}{key}", width=120)
            link = group.get(key, getlink=True)
            if not isinstance(link, _h5().HardLink):
                raise UnsafeFileError(
                    f"{shown} holds {name!r} as a link to another place ({type(link).__name__}), which could be any file of this machine; "
                    "expected everything in the file itself. It is not opened."
                )
            item = group[key]
            if isinstance(item, _h5().Dataset):
                yield item, name
            elif not isinstance(item, _h5().Group):
                raise NetworkError(f"{shown} holds {name!r}, which is neither a group nor a data set.")
            elif address(item) in seen:
                raise NetworkError(f"{shown} holds the group {name!r} at two places, so that it may contain itself; expected a tree.")
            else:
                seen.add(address(item))
                waiting.append((item, f"{path}{key}/", depth + 1))


def address(item: Any) -> tuple[int, int]:
    """Return a key that identifies an object of a file, however it was reached."""
    facts = _h5().h5o.get_info(item.id)
    return facts.fileno, facts.addr


def _check_attributes(item: Any, *, size: int, what: str) -> None:
    for key in item.attrs:
        attribute = _h5().h5a.open(item.id, key.encode("utf-8", errors="surrogateescape"))
        kind = attribute.get_type()
        if kind.get_class() not in _FACTS:
            raise NetworkError(f"{what} has an attribute {printable(key, width=80)!r} that is neither text nor a number.")
        if math.prod(attribute.shape or ()) * kind.get_size() > size:
            raise NetworkError(f"{what} has an attribute {printable(key, width=80)!r} that declares more than the file holds.")


def _checked_size(data: Any, *, allowed: tuple[int, ...], what: str) -> int:
    """Return the size of a data set in memory, in bytes. Raise if its numbers are not stored plainly in the file."""
    facts = data.id.get_create_plist()
    if facts.get_external_count() or facts.get_layout() == _h5().h5d.VIRTUAL:
        raise UnsafeFileError(f"{what} takes its numbers from other files; expected them in the file itself. It is not opened.")
    filters = [facts.get_filter(index)[0] for index in range(facts.get_nfilters())]
    if not set(filters) <= set(_FILTERS):
        raise UnsafeFileError(
            f"{what} is packed with the HDF5 filters {sorted(filters)}, for which HDF5 would load a plugin; expected none, "
            f"or {', '.join(_FILTERS.values())}. Save it again without them."
        )
    kind = data.id.get_type()
    if data.shape is None or kind.get_class() not in allowed or (kind.get_class() == _OPAQUE and not is_bfloat16(data)):
        raise NetworkError(f"{what} holds {printable(data.dtype, width=80)} and no numbers; expected weights.")
    declared = math.prod(data.shape) * kind.get_size()
    if not filters and data.id.get_storage_size() < declared:
        raise NetworkError(
            f"{what} declares the shape {data.shape}, {declared:,} bytes, and holds {data.id.get_storage_size():,}; nothing was read. "
            "The file is damaged, or made to fill the memory."
        )
    return int(max(declared, math.prod(data.chunks or ()) * kind.get_size()))  # a chunk is decompressed as a whole


def is_bfloat16(data: Any) -> bool:
    """Return whether a data set holds bfloat16 numbers as Keras writes them. HDF5 has no type for them."""
    return bool(data.dtype.itemsize == 2 and data.dtype.kind == "V" and data.attrs.get("dtype") == "bfloat16")
