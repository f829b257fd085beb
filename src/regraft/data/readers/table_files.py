"""The columns of CSV and Parquet files."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path

import numpy as np

from ...errors import DataError, optional_import
from ..items import as_numpy, listed

__all__ = ["Columns", "columns_of_file"]

Columns = dict[str, np.ndarray]


def columns_of_file(path: Path) -> Columns:
    """Return the columns of a CSV (comma, semicolon or tab), TSV or Parquet file.

    Args:
        path: the file; the first line of a CSV names the columns.

    Returns:
        Name -> values, in the file's order.

    Raises:
        DataError: if a CSV is empty or its lines differ in their number of fields.
    """
    return _from_parquet(path) if path.suffix.lower() == ".parquet" else _from_csv(path)


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
