"""Pictures fetched one by one from their source: remote folders, WebDataset tars, and Parquet files with pictures."""

from __future__ import annotations

import functools
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ...errors import DataError, near_names, optional_import
from ...files.media import picture_of
from ...files.remote import files_at, stream_of
from ...files.sizes import check_size
from ...files.text import natural_key, printable
from ...words import counted
from ..decoding.files import is_hidden, kind_of
from ..items import listed
from .examples import label_names

__all__ = ["Pictures", "pictures_at", "pictures_in_parquet", "pictures_in_tar"]

_LABELS = (".cls", ".label", ".txt")  # Extensions of the label files of a WebDataset tar; label and picture share a name
_LONGEST = 2**12  # Maximum size of a label in bytes
_GROUPS = 2  # Row groups of a Parquet file whose pictures are kept in memory
_LARGEST = 2**28  # Maximum number of bytes read of an encoded picture


class Pictures(Sequence[Any]):
    """Pictures and their labels. A picture is fetched and decoded when it is needed.
    `places`: N locations, one for each picture. `read`: function from a location to the bytes of the file. `classes`: class names by label
    number, if the source has them."""

    def __init__(self, places: Sequence[Any], targets: Sequence[Any], *, read: Callable[[Any], bytes], classes: Any = None) -> None:
        self.places, self.targets, self.read, self.classes = places, targets, read, classes

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, index: Any) -> Any:
        with picture_of(self.read(self.places[index])) as picture:
            picture.load()
            return picture.copy(), self.targets[index]


def pictures_at(url: str, labels: Any = None, *, named: bool = False) -> Pictures:
    """Return the pictures of a remote folder or file. `named`: the labels are their addresses."""
    found = files_at(url) or {url.rpartition("/")[2]: url}
    names = [name for name in found if kind_of(Path(name)) == "image" and not any(map(is_hidden, PurePosixPath(name).parts))]
    names.sort(key=natural_key)
    folders = [name.partition("/")[0] for name in names if "/" in name]
    labels = [found[name] for name in names] if named else labels
    if labels is None and (len(folders) < len(names) or len(set(folders)) < 2):
        raise DataError(
            f"{printable(url)!r} has {counted(len(names), 'picture')} among {counted(len(found), 'file')}, in "
            f"{counted(len(set(folders)), 'folder')}; expected a folder for each of two or more classes, target=, an array with the label "
            "of each picture, or the address of a table or an archive."
        )

    def read(address: str) -> bytes:
        with stream_of(address, "picture") as stream:
            return stream.read(_LARGEST)

    return Pictures([found[name] for name in names], folders if labels is None else labels, read=read)


def pictures_in_tar(source: str | Path, *, named: bool = False) -> Pictures:
    """Return the pictures of a local or remote WebDataset tar. The archive's headers are read first, each picture when needed.
    `named`: the labels are the names of the files."""
    labels: dict[str, str] = {}
    places: dict[str, tuple[int, int]] = {}
    with stream_of(source, "tar") as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if not member.isreg() or member.issparse() or is_hidden(path.name):
                continue
            if kind_of(Path(path.name)) == "image":
                places[member.name] = (member.offset_data, min(member.size, _LARGEST))
            elif path.suffix in _LABELS and member.size <= _LONGEST and (part := archive.extractfile(member)) is not None:
                labels[_key(member.name)] = part.read().decode().strip()
    known = [name if named else labels.get(_key(name), "") if labels else PurePosixPath(name).parent.name for name in places]
    without = [name for name, label in zip(places, known, strict=True) if not label]
    if without or not places:
        what = f"{len(without)} of {counted(len(places), 'picture')} without a label: {listed(without)}" if places else "no pictures"
        raise DataError(f"The archive {printable(source)!r} has {what}; expected 'x.cls' beside 'x.jpg', or a folder for each class.")

    def read(place: tuple[int, int]) -> bytes:
        with stream_of(source, "tar") as stream:
            stream.seek(place[0])
            return stream.read(place[1])

    return Pictures(list(places.values()), known, read=read)


def _key(name: str) -> str:
    """Return the common name of the files of one example: up to the first full stop in the file name."""
    path = PurePosixPath(name)
    return str(path.with_name(path.name.partition(".")[0]))


def pictures_in_parquet(source: str | Path, target: str | None, *, named: bool = False) -> Pictures | None:
    """Return the pictures in a column of a Parquet file, as Hugging Face writes them; None if there is no such column.
    `target`: the label column; None: found by its name. `named`: the labels are the numbers of the rows, from 1, behind the file's name."""
    parquet = optional_import("pyarrow.parquet", "tables", purpose="reading a Parquet file")
    with stream_of(source, "parquet") as stream:
        file = parquet.ParquetFile(stream)
        schema = file.schema_arrow
        kinds = {field.name: str(field.type).replace("large_", "") for field in schema}
        columns = [name for name, kind in kinds.items() if kind.startswith("struct<bytes: binary")]  # {"bytes": …, "path": …}
        if not columns:
            return None
        others = [name for name in schema.names if name not in columns]
        label = target or next(iter(label_names(others)), None)
        if label not in others and not named:
            near = near_names(str(target), others) if target else "; name it with target=."
            raise DataError(f"{printable(source)!r} has the columns {listed(map(repr, others))} beside its pictures, and no label{near}")
        numbers = (f"{Path(source).name}:{row}" for row in range(1, file.metadata.num_rows + 1))
        labels = list(numbers) if named else file.read(columns=[label]).column(0).to_pylist()
        groups = [file.metadata.row_group(at) for at in range(file.metadata.num_row_groups)]
        largest = max((group.total_byte_size for group in groups), default=0)
        check_size(largest, source, kind="parquet", size=stream.seek(0, io.SEEK_END))
        rows = [group.num_rows for group in groups]
        facts = json.loads((schema.metadata or {}).get(b"huggingface", b"{}")).get("info", {}).get("features", {})
    names = facts.get(label, {}).get("names") if isinstance(facts.get(label), dict) else None

    @functools.lru_cache(maxsize=_GROUPS)
    def group(at: int) -> list[Any]:
        with stream_of(source, "parquet") as stream:
            return list(parquet.ParquetFile(stream).read_row_group(at, columns=[columns[0]]).column(0).to_pylist())

    def read(place: tuple[int, int]) -> bytes:
        value = (group(place[0])[place[1]] or {}).get("bytes")
        if value is None:
            raise DataError(f"Row {place[1]} of row group {place[0]} in {printable(source)!r} holds no picture. Repair or remove it.")
        return bytes(value)

    places = [(at, row) for at, count in enumerate(rows) for row in range(count)]
    return Pictures(places, labels, read=read, classes=tuple(names) if isinstance(names, list) else None)
