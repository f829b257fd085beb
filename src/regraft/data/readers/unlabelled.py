"""Reader for examples without labels, in all file formats of labelled data."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError
from ...files.formats import opening
from ...files.given import matching
from ...files.remote import fetched, is_url, suffix_of
from ...files.text import printable
from ...words import counted
from ..dataset import Dataset, unlabelled
from ..decoding.files import files_below, kind_of
from ..items import LazyItems, listed, padding_of
from .array_files import ARRAY_EXTENSIONS, array_file, read_array
from .streams import pictures_at, pictures_in_parquet, pictures_in_tar
from .table_files import TABLE_EXTENSIONS, how_else
from .tables import read_unlabelled

Named = tuple[Any, list[str]]


def is_file_of_items(text: str) -> bool:
    """Return whether a text is the path of a table, array file or text file, not an example itself."""
    return Path(text).suffix.lower() in (*TABLE_EXTENSIONS, *ARRAY_EXTENSIONS, ".txt") and Path(text).is_file()


def read_files(paths: Iterable[Path], kind: str) -> Dataset:
    """Read examples from files. The targets of the result are zeros without meaning."""
    paths = list(paths)
    by_pattern = {file for path in paths for file in matching(path)}
    found = [file for path in paths for file in (matching(path) or [path])]
    missing = [path for path in found if not path.exists()]
    if missing:
        raise DataError(f"The file does not exist: {listed(missing)}. Check the path; relative paths start at {printable(Path.cwd())}.")
    tables = [path for path in found if path.suffix.lower() in TABLE_EXTENSIONS]
    if tables and len(found) > 1:
        raise DataError(f"Received {listed(found)}; expected one table, or other files alone.")
    if tables:
        return read_unlabelled(tables[0], kind, columns=())
    if kind in ("image", "audio") and any(path.suffix.lower() not in ARRAY_EXTENSIONS for path in found):
        items: Any = [file for path in found for file in _paths_of(path, kind)]
        names = list(map(str, items))
    else:
        parts = [_lines(path) if kind == "text" else _rows(path, kind, whole=path in by_pattern) for path in found]
        names = [name for _, named in parts for name in named]
        items = [text for texts, _ in parts for text in texts] if kind == "text" else _joined([rows for rows, _ in parts], found)
    if not names:
        raise DataError(f"No examples were found in {listed(found)}; expected one or more.")
    return unlabelled(items, kind, names=tuple(names))


def read_elsewhere(source: str | Path, kind: str, *, texts: bool = False) -> Dataset | None:
    """Read unlabelled examples at an address, or the pictures of a tar or Parquet file; None for any other source.
    Pictures are fetched when needed, tables and arrays at once. `texts`: also fetch texts; else an address is a text itself."""
    suffix, found = suffix_of(source), None
    if kind == "image" and suffix in (".tar", ".parquet"):
        found = pictures_in_tar(source, named=True) if suffix == ".tar" else pictures_in_parquet(source, None, named=True)
    elif is_url(source) and kind != "text" and suffix not in (*TABLE_EXTENSIONS, *ARRAY_EXTENSIONS):
        found = pictures_at(str(source), named=True)
    if found is None and is_url(source) and (texts or kind != "text"):
        with fetched(str(source)) as path:
            data = read_files([path], kind)
        return replace(data, names=tuple(name.replace(str(path), str(source)) for name in data.names or ()) or None)
    if found is None:
        return None
    if not len(found) or kind != "image":
        raise DataError(
            f"{printable(source)!r} has {counted(len(found), 'picture')}; this network takes examples of the kind {kind!r}, one or more."
        )
    items = LazyItems(lambda index: found[index][0], np.arange(len(found)))
    return unlabelled(items, kind, names=tuple(found.targets))


def single_picture(array: np.ndarray) -> np.ndarray:
    """Return one picture, (H, W) or (H, W, C) with C of 1, 3 or 4, as a batch of one; any other array unchanged."""
    single = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4) and min(array.shape[:2]) > 4)
    return array[None] if single and array.dtype.kind in "biuf" else array


def _paths_of(path: Path, kind: str) -> list[Path]:
    """Return the files of a kind below a folder, or the single file that the path names."""
    if not path.is_dir():
        return [path]
    found = [file for file in files_below(path) if kind_of(file) == kind]
    if not found:
        raise DataError(f"{printable(path)} holds no {kind} files; expected one or more.")
    return found


def _lines(path: Path) -> Named:
    if path.is_dir():
        raise DataError(f"{printable(path)} is a folder; expected a table with a column of texts, or a .txt file with one text a line.")
    with opening(path, "text", remedy="Save it in UTF-8."):
        lines = path.read_text(encoding="utf-8").splitlines()
    named = {f"{path}:{number}": line for number, line in enumerate(lines, start=1) if line.strip()}
    return list(named.values()), list(named)


def _rows(path: Path, kind: str, *, whole: bool) -> Named:
    """Return the examples of an array file, or of a folder with one example per file, and their names."""
    if path.is_dir():
        found = _paths_of(path, "array")
        return [read_array(file) for file in found], [str(file) for file in found]
    if whole and path.suffix.lower() == ".npy":
        return read_array(path)[None], [str(path)]
    if path.suffix.lower() not in ARRAY_EXTENSIONS:
        known = listed((*TABLE_EXTENSIONS, *ARRAY_EXTENSIONS), 12)
        expected = f"expected one of {known}, or a folder of .npy files. {how_else(path)}"
        raise DataError(f"{printable(path)} is no file of numbers; {expected}".strip())
    rows = read_array(path, mapped=True) if path.suffix.lower() == ".npy" else array_file(path, ())[0]
    rows = single_picture(rows) if kind == "image" else rows
    return rows, [f"{path}:{row}" for row in range(1, len(rows) + 1)]


def _joined(parts: list[Any], paths: list[Path]) -> Any:
    """Return the rows of all parts as one array, or as a list if some of them differ in length."""
    if padding_of(row.shape for part in parts for row in part) is not None:
        return [row for part in parts for row in part]
    parts = [np.stack(part) if isinstance(part, list) else part for part in parts]
    shapes = {rows.shape[1:]: path for rows, path in zip(parts[::-1], paths[::-1], strict=True)}
    if len(shapes) > 1:
        (first, other), (second, path) = list(shapes.items())[:2]
        shown = f"{printable(other)} have the shape {first}, those of {printable(path)} {second}"
        raise DataError(f"The examples of {shown}; expected one shape.")
    return np.asarray(parts[0]) if len(parts) == 1 else np.concatenate(parts)
