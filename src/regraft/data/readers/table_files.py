"""The columns of CSV and Parquet files."""

from __future__ import annotations

import csv
import importlib.util
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, optional_import
from ...files.formats import opening
from ...files.sizes import check_size
from ...files.text import printable
from ..items import as_numpy, listed

__all__ = ["Columns", "columns_of_file", "distinct_names"]

Columns = dict[str, np.ndarray]

MOST_COLUMNS = 2**20
"""Of a table; a reader takes some KiB for each of them, however short the file is."""
FIRST_ROWS = 20
"""So many rows tell whether a column of digits holds names such as 007."""
CHUNK_BYTES = 2**22
BATCH_ROWS = 2**16
"""Rows of a Parquet file that are unpacked at once."""
POINTER_BYTES = 8
_FIELD_LIMIT = threading.Lock()
"""Held while the standard library's limit of a field, which is one for the whole program, is raised."""


def columns_of_file(path: Path) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of a CSV (comma, semicolon or tab), TSV or Parquet file.

    Args:
        path: the file; the first line of a CSV names the columns.

    Returns:
        Name -> values, in the file's order; and notes on the columns that were left out.

    Raises:
        DataError: if the file cannot be read, a CSV is empty or its lines differ in their number of fields, or two columns have one name.
    """
    if path.suffix.lower() == ".parquet":
        with opening(path, "parquet", remedy="Write it again, or give a CSV file."):
            return _from_parquet(path)
    with opening(path, "csv", remedy="Save it again as CSV in UTF-8, with quotes around fields that hold a separator or a quote."):
        return _from_csv(path), ()


def distinct_names(names: Sequence[str], table: str) -> None:
    """Raise if columns share a name: which of them is meant cannot be told.

    Args:
        names: of the columns.
        table: what it is called, for the message.

    Raises:
        DataError: listing those names.
    """
    repeated = [repr(name) for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{table} has several columns of the same name: {listed(repeated)}. Rename or remove them.")


# ── Parquet ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _from_parquet(path: Path) -> tuple[Columns, tuple[str, ...]]:
    """Read the columns that are neither lists nor structures; a text that comes a million times stays one text in memory."""
    arrow, parquet = (optional_import(name, "tables", purpose="reading a Parquet file") for name in ("pyarrow", "pyarrow.parquet"))
    kinds = arrow.types
    with path.open("rb") as stream:
        declared = parquet.ParquetFile(stream)
        schema, index = declared.schema_arrow, _index_columns(declared.schema_arrow)
        _check_declared(declared.metadata, schema, path=path)
        distinct_names(schema.names, printable(path.name))
        kept = [field for field in schema if not kinds.is_nested(field.type) and field.name not in index]
        texts = [field.name for field in kept if kinds.is_string(field.type) or kinds.is_large_string(field.type)]
        stream.seek(0)
        parts, held = [], 0
        for batch in parquet.ParquetFile(stream, read_dictionary=texts).iter_batches(BATCH_ROWS, columns=[field.name for field in kept]):
            held += batch.nbytes + sum(_text_bytes(batch[name]) for name in texts)
            check_size(held, path, kind="parquet")
            parts.append(batch)
    table = arrow.Table.from_batches(parts) if parts else arrow.schema(kept).empty_table()
    nested = [f"{field.name} ({field.type})" for field in schema if kinds.is_nested(field.type)]
    notes = (f"columns that hold lists or structures were not read: {listed(nested)}",) if nested else ()
    return _arrow_columns(table, [field.name for field in kept]), notes


def _index_columns(schema: Any) -> set[str]:
    """Return the columns in which pandas keeps the index of a data frame: they are not among its columns."""
    facts = schema.pandas_metadata or {}
    return {name for name in facts.get("index_columns", ()) if isinstance(name, str)}


def _check_declared(facts: Any, schema: Any, *, path: Path) -> None:
    if facts.num_columns > MOST_COLUMNS:
        raise DataError(f"'{printable(path)}' has {facts.num_columns:,} columns; expected {MOST_COLUMNS:,} at most.")
    groups = [facts.row_group(at) for at in range(facts.num_row_groups)]
    unpacked = sum(group.column(at).total_uncompressed_size for group in groups for at in range(group.num_columns))
    rows = max(facts.num_rows, sum(group.num_rows for group in groups))
    check_size(max(unpacked, rows * sum(_width(field.type) for field in schema)), path, kind="parquet")


def _width(kind: Any) -> int:
    """Return how many bytes a value takes at least; a text takes a reference to it."""
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:  # not of a fixed width
        return POINTER_BYTES


def _text_bytes(coded: Any) -> int:
    """Return how long all texts of a column are together, as if each stood by itself."""
    compute = optional_import("pyarrow.compute", "tables", purpose="reading a Parquet file")
    lengths = compute.binary_length(coded.dictionary).cast("int64")
    return int(compute.sum(lengths.take(coded.indices)).as_py() or 0)


def _arrow_columns(table: Any, names: list[str]) -> Columns:
    coded = {name: _coded(table[name]) for name in names if hasattr(table[name].type, "value_type")}
    others = [name for name in names if name not in coded]
    if importlib.util.find_spec("pandas") is None:
        plain = {name: np.asarray(table[name].to_numpy()) for name in others}
    else:
        frame = table.select(others).to_pandas()
        plain = {name: as_numpy(frame[name]) for name in others}
    return {name: coded[name] if name in coded else plain[name] for name in names}


def _coded(column: Any) -> np.ndarray:
    """Return the values of a column that is kept as distinct values and their numbers; equal texts are one object."""
    parts = []
    for chunk in column.chunks:
        values = chunk.dictionary.to_numpy(zero_copy_only=False)
        if chunk.null_count:
            values = np.append(values.astype(object), [None])
        parts.append(values[chunk.indices.fill_null(len(chunk.dictionary)).to_numpy(zero_copy_only=False)])
    return np.concatenate(parts) if parts else np.empty(0, dtype=object)


# ── CSV ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _from_csv(path: Path) -> Columns:
    """Read a CSV with pandas where it is installed (fast for wide tables), else with the standard library; same result.

    Only empty fields are missing: a class may be called "NA" or "None".
    """
    try:
        separator = _separator(path)
        return _from_csv_plain(path, separator) if importlib.util.find_spec("pandas") is None else _from_csv_pandas(path, separator)
    except UnicodeDecodeError as error:
        raise DataError(
            f"'{printable(path)}' is not text in UTF-8: {error.reason} ({error.object[error.start : error.end]!r}). It may be in another "
            "encoding, such as cp1252 (Windows) or UTF-16. Save it as CSV in UTF-8."
        ) from error


def _from_csv_pandas(path: Path, separator: str) -> Columns:
    pandas = optional_import("pandas", "tables", purpose="reading a CSV file")
    names, padded = _head(path, separator)
    how = {"sep": separator, "names": names, "header": 0, "index_col": False, "dtype": padded}
    frame = pandas.read_csv(path, keep_default_na=False, na_values=[""], **how)
    if len(frame) and frame[names[-1]].isna().any():  # a line that is too short ends in missing values
        with _lines(path, separator) as reader:
            _check_lengths([(reader.line_num, len(row)) for row in reader if row][1:], path, count=len(names))
    return {name: as_numpy(frame[name]) for name in names}


def _from_csv_plain(path: Path, separator: str) -> Columns:
    with _lines(path, separator, strict=True) as reader:
        names = _names(next(reader), path)
        rows = [(reader.line_num, row) for row in reader if row]
    _check_lengths([(line, len(row)) for line, row in rows], path, count=len(names))
    return {name: _typed([row[index] for _, row in rows]) for index, name in enumerate(names)}


def _separator(path: Path) -> str:
    """Return what separates the fields of the first line, after a check that the file is text."""
    with path.open("rb") as stream:
        if any(b"\0" in chunk for chunk in iter(lambda: stream.read(CHUNK_BYTES), b"")):
            raise DataError(
                f"'{printable(path)}' holds null characters, as binary files and files in UTF-16 do; expected text in UTF-8. Save it as "
                "CSV in UTF-8."
            )
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = stream.readline()
    if not header.strip():
        raise DataError(f"{printable(path)} is empty; expected a first line of column names and one line for each item.")
    separator = max(",", ";", "\t", key=header.count)
    if header.count(separator) >= MOST_COLUMNS:
        raise DataError(f"'{printable(path)}' has {header.count(separator) + 1:,} columns; expected {MOST_COLUMNS:,} at most.")
    return separator


def _head(path: Path, separator: str) -> tuple[list[str], dict[str, type[str]]]:
    """Return the names of the columns, and those that begin with a number such as 007: names of files, which must stay texts."""
    with _lines(path, separator) as reader:
        names = _names(next(reader), path)
        rows = [(reader.line_num, row) for row, _ in zip((row for row in reader if row), range(FIRST_ROWS), strict=False)]
    _check_lengths([(line, len(row)) for line, row in rows], path, count=len(names))
    return names, {name: str for at, name in enumerate(names) if any(_is_padded(row[at]) for _, row in rows)}


def _names(header: Sequence[str], path: Path) -> list[str]:
    """Return the names of the columns; those without one are numbered, as pandas does it."""
    names = [name or f"Unnamed: {at}" for at, name in enumerate(header)]
    distinct_names(names, printable(path.name))
    return names


@contextmanager
def _lines(path: Path, separator: str, *, strict: bool = False) -> Iterator[Any]:
    """Yield a reader of the lines of a CSV, whose fields may be of any length."""
    with _FIELD_LIMIT, path.open(encoding="utf-8-sig", newline="") as stream:
        before = csv.field_size_limit(2**31 - 1)
        try:
            yield csv.reader(stream, delimiter=separator, strict=strict)
        finally:
            csv.field_size_limit(before)


def _check_lengths(lengths: Sequence[tuple[int, int]], path: Path, *, count: int) -> None:
    """Raise if lines, given by their numbers and lengths, have another number of fields than there are columns."""
    wrong = [line for line, length in lengths if length != count]
    if wrong:
        raise DataError(
            f"{printable(path.name)} has lines with another number of fields than its {count} columns: lines {listed(wrong)}. Put quotes "
            "around fields that hold the separator, or repair these lines."
        )


def _is_padded(text: str) -> bool:
    return len(text) > 1 and text.isdecimal() and text[0] == "0"


def _typed(texts: list[str]) -> np.ndarray:
    """Return texts as integers, else floats (empty: NaN), else texts (empty: None); one long text takes no room in the other rows."""
    if not any(_is_padded(text) for text in texts):
        for kind in (np.int64, np.float64):
            try:
                return np.array([text if text or kind is np.int64 else "nan" for text in texts], dtype=object).astype(kind)
            except (ValueError, OverflowError):
                continue
    return np.array([text or None for text in texts], dtype=object)
