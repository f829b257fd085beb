"""Columns of CSV, Parquet and JSON Lines files, and advice for tables in other formats."""

import gzip
import importlib.util
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, optional_import
from ...files.formats import opening
from ...files.sizes import check_size
from ...files.text import printable
from ...words import counted
from ..items import as_numpy, listed
from .csv_files import MOST_COLUMNS, columns_of_csv, distinct_names, names_of_csv, texts_of_csv

__all__ = ["TABLE_EXTENSIONS", "Columns", "columns_of_file", "distinct_names", "how_else", "keeps_types", "names_of_file", "texts_of_file"]

TABLE_EXTENSIONS = (".csv", ".tsv", ".tab", ".gz", ".parquet", ".jsonl", ".ndjson")

Columns = dict[str, np.ndarray]

_REMEDY = "Save it again as CSV in UTF-8, with quotes around fields that hold a separator or a quote."
BATCH_ROWS = 2**16  # Rows of a Parquet file that are decompressed at a time
POINTER_BYTES = 8
_LINES = (".jsonl", ".ndjson")
_UNPACKED = 2**20
_OTHERS = {
    ".xlsx .xls .xlsm .ods": "Save the sheet as CSV in UTF-8, or give the data frame that pandas.read_excel returns",
    ".feather .arrow": "Write it as Parquet, or give the data frame that pandas.read_feather returns",
    ".json": "Write one object a line (.jsonl), or give the data frame that pandas.read_json returns",
    ".dta": "Save it as CSV, or give the data frame that pandas.read_stata returns",
    ".sav .zsav": "Save it as CSV, or give the data frame that pandas.read_spss returns",
    ".sas7bdat .xpt": "Save it as CSV, or give the data frame that pandas.read_sas returns",
    ".mat": "Give the arrays that scipy.io.loadmat returns as a pair (X, y), or save them as .npz",
    ".arff": "Save it as CSV, or give what scipy.io.arff.loadarff returns as a data frame",
    ".db .sqlite .sqlite3": "Write the query's result as CSV or Parquet, or give the data frame that pandas.read_sql returns",
    ".pkl .pickle .joblib": "Reading a pickle runs code: have the program that wrote it write Parquet or .npz",
    ".zip .bz2 .xz .zst .7z .rar": "Unpack it first; of packed files, .csv.gz and .tsv.gz are read",
}
"""File extensions of other table formats -> advice."""


def columns_of_file(path: Path) -> tuple[Columns, tuple[str, ...]]:
    """Return the columns of a CSV (comma, semicolon or tab, also gzipped), Parquet or JSON Lines file.
    The result is name -> values in file order, and notes on what was left out or inferred."""
    if path.suffix.lower() == ".parquet":
        with opening(path, "parquet", remedy="Write it again, or give a CSV file."):
            return _from_parquet(path)
    if path.suffix.lower() in _LINES:
        with opening(path, "lines"):
            return _from_lines(path)
    with _csv_in(path) as plain:
        return columns_of_csv(plain)


def names_of_file(path: Path) -> list[str]:
    """Return the column names of a file as `columns_of_file` reads it. Only the first lines of a CSV are read."""
    if path.suffix.lower() == ".parquet":
        parquet = optional_import("pyarrow.parquet", "tables", purpose="reading a Parquet file")
        with opening(path, "parquet", remedy="Write it again, or give a CSV file."), path.open("rb") as stream:
            return list(parquet.ParquetFile(stream).schema_arrow.names)
    if path.suffix.lower() in _LINES:
        return list(columns_of_file(path)[0])
    with _csv_in(path) as plain:
        return names_of_csv(plain)


def texts_of_file(path: Path, name: str) -> np.ndarray | None:
    """Return a column as written, for labels such as 1.10, which would lose characters as numbers.
    The result is (N,) texts with None for an empty field; or None for a file that stores types."""
    if keeps_types(path):
        return None
    with _csv_in(path) as plain:
        return texts_of_csv(plain, name)


def keeps_types(path: Path) -> bool:
    """Return whether a file stores the types of its columns, unlike a CSV."""
    return path.suffix.lower() in (".parquet", *_LINES)


def how_else(path: Path) -> str:
    """Return advice for a table in an unsupported format, as a sentence; "" if there is none."""
    return next((f"{told}." for endings, told in _OTHERS.items() if path.suffix.lower() in endings.split()), "")


@contextmanager
def _csv_in(path: Path) -> Iterator[Path]:
    """Yield a CSV path; a gzipped CSV is decompressed into a temporary folder."""
    with opening(path, "csv", remedy=_REMEDY):
        if path.suffix.lower() != ".gz":
            yield path
            return
        if Path(path.stem).suffix.lower() not in (".csv", ".tsv", ".tab"):
            raise DataError(f"{printable(path)} is packed; expected .csv.gz or .tsv.gz. Unpack it first.")
        with tempfile.TemporaryDirectory() as folder:
            plain, held = Path(folder, path.stem), 0
            with gzip.open(path, "rb") as stream, plain.open("wb") as out:
                while part := stream.read(_UNPACKED):
                    held += len(part)
                    check_size(held, path, kind="csv")
                    out.write(part)
            yield plain


def _from_lines(path: Path) -> tuple[Columns, tuple[str, ...]]:
    """Read one JSON object per line; absent keys are missing values."""
    pandas, rows = optional_import("pandas", "tables", purpose="reading a JSON Lines file"), []
    with path.open(encoding="utf-8-sig") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                rows.append(json.loads(line))
            except ValueError as error:
                raise DataError(f"Line {number} of {printable(path.name)} is no JSON: {error}. Expected one object a line.") from error
            if not isinstance(rows[-1], dict):
                raise DataError(
                    f'Line {number} of {printable(path.name)} is {line.strip()[:40]!r}; expected an object, such as {{"a": 1}}.'
                )
    names = list(dict.fromkeys(name for row in rows for name in row))
    nested = [name for name in names if any(isinstance(row.get(name), list | dict) for row in rows)]
    frame = pandas.DataFrame({name: [row.get(name) for row in rows] for name in names if name not in nested})
    notes = (f"columns that hold lists or structures were not read: {listed(nested)}",) if nested else ()
    return {name: as_numpy(frame[name]) for name in frame}, notes


# ── Parquet ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _from_parquet(path: Path) -> tuple[Columns, tuple[str, ...]]:
    """Read all columns except lists and structures. Repeated texts share one object in memory."""
    arrow, parquet = (optional_import(name, "tables", purpose="reading a Parquet file") for name in ("pyarrow", "pyarrow.parquet"))
    kinds = arrow.types
    with path.open("rb") as stream:
        declared = parquet.ParquetFile(stream)
        schema = declared.schema_arrow
        index = {name for name in (schema.pandas_metadata or {}).get("index_columns", ()) if isinstance(name, str)}  # of a data frame
        _check_declared(declared.metadata, schema, path=path)
        distinct_names(schema.names, printable(path.name))
        kept = [field for field in schema if not kinds.is_nested(field.type) and field.name not in index]
        texts = [field.name for field in kept if kinds.is_string(field.type) or kinds.is_large_string(field.type)]
        stream.seek(0)
        reader, read, held = parquet.ParquetFile(stream, read_dictionary=texts), {}, 0
        for field in kept:  # column by column, because a page of each may decompress to 2 GiB
            parts = []
            for batch in reader.iter_batches(BATCH_ROWS, columns=[field.name]):
                parts.append(batch.column(field.name))
                held += parts[-1].nbytes + (_text_bytes(parts[-1]) if field.name in texts else 0)
                check_size(held, path, kind="parquet")
            read[field.name] = arrow.chunked_array(parts, type=None if parts else field.type)
    table = arrow.table(read)
    nested = [f"{field.name} ({field.type})" for field in schema if kinds.is_nested(field.type)]
    notes = (f"columns that hold lists or structures were not read: {listed(nested)}",) if nested else ()
    return _arrow_columns(table, [field.name for field in kept]), notes


def _check_declared(facts: Any, schema: Any, *, path: Path) -> None:
    if facts.num_columns > MOST_COLUMNS:
        raise DataError(f"'{printable(path)}' has {counted(facts.num_columns, 'column')}; expected {MOST_COLUMNS:,} at most.")
    groups = [facts.row_group(at) for at in range(facts.num_row_groups)]
    unpacked = sum(group.total_byte_size for group in groups)  # not per column: pyarrow crashes on damaged metadata
    rows = max(facts.num_rows, sum(group.num_rows for group in groups))
    check_size(max(unpacked, rows * sum(_width(field.type) for field in schema)), path, kind="parquet")


def _width(kind: Any) -> int:
    """Return the minimum number of bytes of a value; a text takes a pointer."""
    try:
        return max(1, int(kind.bit_width) // 8)
    except ValueError:  # no fixed width
        return POINTER_BYTES


def _text_bytes(coded: Any) -> int:
    """Return the total length of all texts of a column, counting repeated ones each time."""
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
    """Return the values of a dictionary-encoded column; equal texts are one object."""
    parts = []
    for chunk in column.chunks:
        values = chunk.dictionary.to_numpy(zero_copy_only=False)
        if chunk.null_count:
            values = np.append(values.astype(object), [None])
        parts.append(values[chunk.indices.fill_null(len(chunk.dictionary)).to_numpy(zero_copy_only=False)])
    return np.concatenate(parts) if parts else np.empty(0, dtype=object)
