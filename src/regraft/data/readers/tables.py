"""Reading tables: CSV and Parquet files, pandas and polars data frames."""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, near_names, optional_import
from ..check import checked
from ..dataset import Dataset
from ..decoding.files import EXTENSIONS, existing_folder, files_below, kind_of, kind_of_files
from ..items import as_numpy, listed
from .targets import ReadOptions, Targets, label_array, make_targets

__all__ = ["TABLE_EXTENSIONS", "read_frame", "read_table"]

TABLE_EXTENSIONS = (".csv", ".tsv", ".parquet")
TARGET_NAMES = ("label", "target", "class", "category", "y")
SHORT_TEXT = 12
"""Below this mean length, in characters, a column of strings may be a code rather than a text; a note says so."""

Columns = dict[str, np.ndarray]


@dataclass
class _Table:
    """Columns of equal length, and which of them have been given a meaning."""

    columns: Columns
    name: str
    used: set[str] = field(default_factory=set)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, wanted: str, what: str) -> np.ndarray:
        if wanted not in self.columns:
            raise DataError(f"{self.name} has no column {wanted!r} for {what}{near_names(wanted, self.columns)}")
        self.used.add(wanted)
        return self.columns[wanted]

    def free(self) -> Columns:
        return {name: values for name, values in self.columns.items() if name not in self.used}


def read_table(path: Path, options: ReadOptions) -> Dataset:
    """Read a CSV (comma, semicolon or tab), TSV or Parquet file.

    Args:
        path: the file; the first line of a CSV names the columns.
        options: see `read`; where `files` is not given and a column names files beside the table, those are the items.

    Returns:
        The data: files where a column names them, else the longest text column, else the numeric columns.

    Raises:
        DataError: if the table is empty, a column is unknown or ambiguous, or files of it do not exist.
    """
    columns = _from_parquet(path) if path.suffix.lower() == ".parquet" else _from_csv(path)
    table = _Table(columns, path.name)
    if options.files is None and options.kind not in ("text", "array") and _names_files(table, path.parent):
        options = dataclasses.replace(options, files=path.parent)
    return _read_columns(table, options)


def read_frame(frame: Any, options: ReadOptions) -> Dataset:
    """Read a pandas or polars data frame.

    Args:
        frame: the data frame; neither library is imported for it.
        options: see `read`.

    Returns:
        The data, chosen as for a file.

    Raises:
        DataError: as for a file.
    """
    columns = {str(name): as_numpy(frame[name]) for name in frame.columns}
    return _read_columns(_Table(columns, "The data frame"), options)


def _from_parquet(path: Path) -> Columns:
    if importlib.util.find_spec("pandas") is None:
        parquet = optional_import("pyarrow.parquet", "tables", purpose="reading a Parquet file")
        table = parquet.read_table(path)
        return {name: np.asarray(table[name].to_numpy()) for name in table.column_names}
    frame = optional_import("pandas", "tables", purpose="reading a Parquet file").read_parquet(path)
    return {str(name): as_numpy(frame[name]) for name in frame.columns}


def _from_csv(path: Path) -> Columns:
    """Read a CSV with pandas where it is installed (fast for wide tables), else with the standard library; same result.

    Only empty fields are missing: a class may be called "NA" or "None".
    """
    separator = _separator(path)
    if importlib.util.find_spec("pandas") is None:
        return _from_csv_plain(path, separator)
    pandas = optional_import("pandas", "tables", purpose="reading a CSV file")
    frame = pandas.read_csv(path, sep=separator, keep_default_na=False, na_values=[""], dtype=_padded_columns(path, separator))
    return {str(name): as_numpy(frame[name]) for name in frame.columns}


def _separator(path: Path) -> str:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
    if not header.strip():
        raise DataError(f"{path} is empty; expected a first line of column names and one line for each item.")
    return max(",", ";", "\t", key=header.count)


def _padded_columns(path: Path, separator: str) -> dict[str, type[str]]:
    """Return the columns that begin with a number such as 007: names of files, which must stay texts."""
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.DictReader(stream, delimiter=separator)
        rows = [row for row, _ in zip(reader, range(20), strict=False)]
    return {str(name): str for name in reader.fieldnames or () if any(_is_padded(row.get(name) or "") for row in rows)}


def _is_padded(text: str) -> bool:
    return len(text) > 1 and text.isdecimal() and text[0] == "0"


def _from_csv_plain(path: Path, separator: str) -> Columns:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        reader = csv.reader(stream, delimiter=separator)
        header = next(reader)
        rows = [row for row in reader if row]
    wrong = [str(line + 2) for line, row in enumerate(rows) if len(row) != len(header)]
    if wrong:
        raise DataError(f"{path.name} has lines with another number of fields than its {len(header)} columns: lines {listed(wrong)}.")
    return {name: _typed([row[index] for row in rows]) for index, name in enumerate(header)}


def _typed(texts: list[str]) -> np.ndarray:
    """Return texts as integers, else floats (empty: NaN), else texts (empty: None)."""
    if not any(_is_padded(text) for text in texts):
        for kind in (np.int64, np.float64):
            try:
                return np.array([text if text or kind is np.int64 else "nan" for text in texts]).astype(kind)
            except ValueError:
                continue
    return np.array([text or None for text in texts], dtype=object)


def _read_columns(table: _Table, options: ReadOptions) -> Dataset:
    if not len(table):
        raise DataError(f"{table.name} is empty: {len(table.columns)} columns and no rows; expected one row for each item.")
    groups = _labels(table, options.group, what="group")
    conditions = _labels(table, options.condition, what="condition")
    target = _target_columns(table, options)
    if options.files is not None:
        return _file_items(table, options, labels=(target, groups, conditions))
    items, kind, note = _own_items(table, options.kind)
    targets = _targets(target, options)
    data = Dataset(items, targets.values, targets.classes, kind, targets.task, groups, conditions, notes=(note, *targets.notes))
    return checked(data, options.skip_bad)


def _labels(table: _Table, wanted: Any, *, what: str) -> np.ndarray | None:
    return label_array(table.column(wanted, what) if isinstance(wanted, str) else wanted, len(table), what=what)


Target = tuple[np.ndarray, tuple[str, ...] | None]
"""Labels, and the class names where several columns are the labels."""


def _target_columns(table: _Table, options: ReadOptions) -> Target:
    wanted = options.target
    if wanted is None:
        wanted = _default_target(table)
    if isinstance(wanted, str):
        return table.column(wanted, "target"), None
    if isinstance(wanted, list | tuple) and wanted and all(isinstance(name, str) and name in table.columns for name in wanted):
        return np.column_stack([table.column(name, "target") for name in wanted]), tuple(wanted)
    array = as_numpy(wanted)
    if len(array) != len(table):
        raise DataError(f"target has {len(array)} labels and {table.name} has {len(table)} rows; expected one for each row.")
    return array, None


def _default_target(table: _Table) -> str:
    free = list(table.free())
    if not free:
        raise DataError(f"{table.name} has no column left for target: its columns are {listed(table.columns)}.")
    named = [name for wanted in TARGET_NAMES for name in free if name.strip().lower() == wanted]
    return named[0] if named else free[-1]


def _targets(target: Target, options: ReadOptions, *, rows: np.ndarray | None = None) -> Targets:
    values, names = target
    if names is None:
        return make_targets(values if rows is None else values[rows], options.classes)
    return make_targets(values if rows is None else values[rows], names)


def _own_items(table: _Table, kind: str | None) -> tuple[list[str | None] | np.ndarray, str, str]:
    """Return items from the table itself: texts, or rows of numbers; and a note on the choice."""
    free = table.free()
    texts = {name: values for name, values in free.items() if values.dtype.kind in "OUST"}
    numbers = {name: values for name, values in free.items() if values.dtype.kind in "biuf"}
    if texts and kind in (None, "text"):
        return _text_items(texts)
    if kind in ("image", "audio"):
        raise DataError(f"{table.name} is read as kind={kind!r} and no column of it names files; expected files= with their folder.")
    if not numbers or kind == "text":
        wanted = "texts" if kind == "text" else "texts or numbers"
        raise DataError(f"{table.name} has no column of {wanted} besides target, group and condition: {listed(table.columns, 12)}.")
    note = f"items are the {len(numbers)} numeric columns: {listed(numbers)}" + (f"; left out: {listed(texts)}" if texts else "")
    return np.column_stack([values.astype(np.float32) for values in numbers.values()]), "array", note


def _text_items(texts: Columns) -> tuple[list[str | None], str, str]:
    lengths = {name: np.mean([len(str(value)) for value in values]) for name, values in texts.items()}
    name = max(lengths, key=lambda column: lengths[column])
    note = f"items are the texts of the column {name!r}"
    if lengths[name] < SHORT_TEXT:
        note += f", {lengths[name]:.0f} characters long on average; for the numeric columns give kind='array'"
    return [value if isinstance(value, str) else None for value in texts[name].tolist()], "text", note


def _file_items(table: _Table, options: ReadOptions, *, labels: tuple[Target, np.ndarray | None, np.ndarray | None]) -> Dataset:
    folder = existing_folder(Path(options.files), "The folder of the files")
    found = _Files(folder)
    column = _file_column(table, found)
    values = [str(value) for value in table.columns[column].tolist()]
    matches = [found.find(value) for value in values]
    missing = [value for value, path in zip(values, matches, strict=True) if path is None]
    if missing and not options.skip_bad:
        raise DataError(
            f"{len(missing)} of {len(values)} rows of {table.name} name files that are not in {folder}: {listed(missing)}. "
            "Add the files, remove the rows, or leave them out with skip_bad=True."
        )
    kind = kind_of_files([path for path in matches if path], folder, kind=options.kind)
    rows = np.array([row for row, path in enumerate(matches) if path and kind_of(path) == kind], dtype=np.int64)
    paths = [path for path in matches if path and kind_of(path) == kind]
    target, groups, conditions = labels
    targets = _targets(target, options, rows=rows)
    return Dataset(
        paths,
        targets.values,
        targets.classes,
        kind,
        targets.task,
        groups=None if groups is None else groups[rows],
        conditions=None if conditions is None else conditions[rows],
        names=tuple(path.relative_to(folder).as_posix() for path in paths),
        notes=(*_file_notes(missing, found.unused(paths), others=len(values) - len(paths) - len(missing)), *targets.notes),
    )


def _file_notes(missing: list[str], unused: list[str], *, others: int) -> Iterable[str]:
    if missing:
        yield f"left out {len(missing)} rows whose files do not exist: {listed(missing)}"
    if others:
        yield f"left out {others} rows whose files are of another kind"
    if unused:
        yield f"{len(unused)} files of the folder have no row: {listed(unused)}"


class _Files:
    """The images and audio files below a folder, found by path, or, where only one file fits, without extension or folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = [path for path in files_below(folder) if kind_of(path)]
        self.exact = {path.relative_to(folder).as_posix(): path for path in self.paths}
        self.loose: dict[str, Path | None] = {}
        for relative, path in self.exact.items():
            for key in {str(Path(relative).with_suffix("").as_posix()), path.name, path.stem}:
                self.loose[key] = None if key in self.loose else path

    def find(self, value: str) -> Path | None:
        text = value.strip().replace("\\", "/").removeprefix("./")
        return self.exact.get(text) or self.loose.get(text) or self.loose.get(text.rsplit("/", 1)[-1])

    def unused(self, used: list[Path]) -> list[str]:
        taken = set(used)
        return [path.relative_to(self.folder).as_posix() for path in self.paths if path not in taken]


def _file_column(table: _Table, found: _Files) -> str:
    """Return the column of which most values name files."""
    counts = {name: sum(found.find(str(value)) is not None for value in values.tolist()) for name, values in table.free().items()}
    best = max(counts, key=lambda name: counts[name], default=None)
    if best is None or not counts[best]:
        first = {name: str(values[0]) for name, values in table.free().items()}
        shown = listed(path.name for path in found.paths) or f"no file with {listed(EXTENSIONS['image'] + EXTENSIONS['audio'], 8)}"
        raise DataError(
            f"No column of {table.name} names files in {found.folder}: it holds {shown}; the first row is {first}; "
            "expected one column of file names, with or without extension."
        )
    return best


def _names_files(table: _Table, folder: Path) -> bool:
    """Return whether the first value of a column is a file beside the table."""
    firsts = [values[0] for values in table.columns.values() if len(values) and values.dtype.kind in "OUT"]
    return any(isinstance(value, str) and kind_of(Path(value)) and (folder / value).is_file() for value in firsts)
