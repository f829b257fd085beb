"""Columns of CSV files. Encoding, separator and the length of every line are checked before anything is read."""

import codecs
import csv
import importlib.util
import re
import threading
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, optional_import
from ...files.text import printable
from ...words import counted
from ..items import CHUNK_BYTES, as_numpy, listed

MOST_COLUMNS = 2**20  # Maximum number of columns of a table; a reader needs some KiB for each, however short the file is
EXACT = 2.0**53  # Above this, not every whole number is exact as a floating-point number
_FIELD_LIMIT = threading.Lock()  # Lock around raising the field size limit of the standard library, which is global to the process
_ENDS = np.isin(np.arange(256), list(b',;\t|" \r\n'))  # For each byte, whether it may precede a field
_CODE = re.compile(r"\s*(?:[+-]?0\d+|\+\d+)\s*")
"""Digits that are a code, not a number, such as 007 or +49; as a number they would lose characters."""
_LONG = re.compile(r"[+-]?\d{16,}")
_COMMA = re.compile(r"[+-]?(?:\d+|\d{1,3}(?:\.\d{3})+)(?:,\d+)?")
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")
_ABSENT = frozenset(("NA", "N/A", "#N/A", "NaN", "nan", "NULL", "Null", "null", "None", "?", "-"))
"""Common markers of a missing number; in a text column they are texts."""
_THOUSANDS = re.compile(r"[+-]?\d{1,3}(?:,\d{3})*")
_HINT = re.compile(r"\s*\"?sep=(.)\"?\s*", re.IGNORECASE)
ROWS = 2**16  # Number of rows that pandas parses at a time
_TRUTH = {"True": True, "TRUE": True, "true": True, "False": False, "FALSE": False, "false": False}
_MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
_FOREIGN = re.compile(r"[^\s,;|]*[^\x00-\x7f][^\s,;|]*")
_SHOWN = {"utf-8-sig": "UTF-8", "cp1252": "cp1252 (Windows)"}  # Any other encoding here is UTF-16


@dataclass(frozen=True)
class _Form:
    """Format of a CSV file: encoding, separator and column names."""

    encoding: str
    separator: str
    skipped: int  # number of lines before the line of column names
    names: list[str]
    codes: frozenset[str] = frozenset()  # columns in which digits are codes, such as 007; they stay texts
    notes: tuple[str, ...] = ()  # notes on what was inferred


def columns_of_csv(path: Path) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the columns of a CSV as name -> values in file order, and notes on what was inferred.
    pandas reads the file if installed (fast for wide tables), else the standard library. A column is numeric if all its fields are, also
    with decimal commas; otherwise it holds texts. Empty fields are missing. In number columns, markers such as NA are missing too; in text
    columns they are texts, because a class may be called "NA" or "None". Spaces before a field are dropped. Columns without name and
    content are left out."""
    form = _scanned(path, _form_of(path))
    found = _with_csv(path, form) if importlib.util.find_spec("pandas") is None else _with_pandas(path, form)
    columns = {name: found[name] for name in form.names if not (name.startswith("Unnamed: ") and _is_empty(found[name]))}
    notes = [note for name, values in columns.items() for note in _numbers_in(columns, name, values=values)]
    return columns, (*form.notes, *notes)


def numbers_in_texts(columns: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """Return the columns, name -> (N,), of which those of texts that a CSV file would give as numbers are numbers, and notes."""
    found, notes = dict(columns), list[str]()
    for name, values in columns.items():
        if values.dtype.kind in "biuf":
            continue
        texts = values.astype(object)
        texts[texts == ""] = None  # an empty field, as csv.DictReader gives it
        known = [text for text in texts if text is not None]
        if not known or not all(isinstance(text, str) for text in known) or any(map(_CODE.fullmatch, known)):
            continue
        if all(map(_NUMBER.fullmatch, known)) and not any(map(_LONG.fullmatch, known)):
            found[name] = texts.astype(np.float64)
        else:
            notes += _numbers_in(found, name, values=texts)
    written = [name for name, values in found.items() if values is not columns[name]]
    told = [f"numbers that are written as texts are read as numbers in the columns {listed(map(repr, written))}"] if written else []
    return found, (*told, *notes)


def names_of_csv(path: Path) -> list[str]:
    """Return the column names of a CSV from its first lines."""
    return _form_of(path).names


def texts_of_csv(path: Path, name: str) -> np.ndarray:
    """Return a column of a CSV as written: (N,) texts, None for an empty field."""
    form = _form_of(path)
    at = form.names.index(name)
    with _lines(path, form) as reader:
        next(reader)
        return np.array([row[at] or None for row in reader if row], dtype=object)


def distinct_names(names: Sequence[str], table: str) -> None:
    """Raise if several columns share a name, because the reference would be ambiguous."""
    repeated = [repr(name) for name, count in Counter(names).items() if count > 1]
    if repeated:
        raise DataError(f"{table} has several columns of the same name: {listed(repeated)}. Rename or remove them.")


# ── how it is written ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _form_of(path: Path) -> _Form:
    """Return encoding, separator and column names from the first lines."""
    encoding, notes = _encoding_of(path)
    with path.open(encoding=encoding, newline="") as stream:
        header = stream.readline()
        hint = _HINT.fullmatch(header)
        header = stream.readline() if hint else header
    if not header.strip():
        raise DataError(f"{printable(path)} is empty; expected a first line of column names and one line for each example.")
    outside = re.sub(r'"[^"]*"', "", header)
    separator = hint[1] if hint else max(",", ";", "\t", "|", key=outside.count)
    if header.count(separator) >= MOST_COLUMNS:
        raise DataError(f"'{printable(path)}' has {counted(header.count(separator) + 1, 'column')}; expected {MOST_COLUMNS:,} at most.")
    form = _Form(encoding, separator, int(hint is not None), [], notes=notes)
    with _lines(path, form) as reader:
        names = [name.strip() or f"Unnamed: {at}" for at, name in enumerate(next(reader))]  # the names that pandas gives
    unnamed = _unnamed_note(names)
    try:
        distinct_names(names, printable(path.name))
    except DataError as error:
        raise DataError(f"{error} {unnamed}" if unnamed else str(error)) from error
    return _Form(encoding, separator, form.skipped, names, notes=(*notes, *([unnamed] if unnamed else [])))


def _unnamed_note(names: list[str]) -> str:
    """Return a note if the first line may be an example: some of its fields are numbers, and they do not count the columns."""
    numbers = [name for name in names if _NUMBER.fullmatch(name)]
    if not numbers or (all(map(str.isdigit, numbers)) and set(np.diff([*map(int, numbers)]).tolist()) <= {1}):
        return ""
    return (
        f"the first line is read as the names of the columns, and some are numbers: {listed(numbers)}; if it is an example, put names above"
    )


@contextmanager
def _lines(path: Path, form: _Form) -> Iterator[Any]:
    """Yield a reader of the lines of a CSV from the column names on; fields may have any length."""
    with _FIELD_LIMIT, path.open(encoding=form.encoding, newline="") as stream:
        before = csv.field_size_limit(2**31 - 1)
        try:
            for _ in range(form.skipped):
                stream.readline()
            yield csv.reader(stream, delimiter=form.separator, strict=True, skipinitialspace=True)
        finally:
            csv.field_size_limit(before)


def _scanned(path: Path, form: _Form) -> _Form:
    """Read every line, raise on malformed ones, and return the form with the columns of codes."""
    wrong, codes = [], set[int]()
    looked_for = _may_hold_codes(path, form)
    with _lines(path, form) as reader:
        try:
            next(reader)
            began = reader.line_num
            for row in reader:
                if len(row) != len(form.names) and row:
                    wrong.append(reader.line_num + form.skipped)
                elif looked_for:
                    codes.update(at for at, field in enumerate(row) if at not in codes and _CODE.fullmatch(field))
                began = reader.line_num
        except csv.Error as error:
            what = f"in line {began + 1 + form.skipped}, or in a field that begins there, text follows a closing quote"
            if "end of data" in str(error):
                what = f"a quote that opens in line {began + 1 + form.skipped}, or in a field that begins there, is not closed"
            told = f"'{printable(path)}' cannot be read as a CSV file: {what}. Close it; quotes within a field are written twice."
            raise DataError(told) from error
    if wrong:
        raise DataError(
            f"{printable(path.name)} has lines with another number of fields than its {counted(len(form.names), 'column')}: lines "
            f"{listed(wrong)}. Put quotes around fields that hold the separator, or repair these lines."
        )
    names = frozenset(form.names[at] for at in codes)
    return _Form(form.encoding, form.separator, form.skipped, form.names, names, form.notes)


def _may_hold_codes(path: Path, form: _Form) -> bool:
    """Return whether a field may hold digits such as 007. Most files hold none, and then no field needs a check."""
    if form.encoding.startswith("utf-16"):
        return True
    with path.open("rb") as stream:
        tail = b"\n\n"
        for chunk in iter(lambda: stream.read(CHUNK_BYTES), b""):
            data = np.frombuffer(tail + chunk, np.uint8)
            begins = _ENDS[data[1:-2]] | (_ENDS[data[:-3]] & np.isin(data[1:-2], (43, 45)))  # after a separator and an optional sign
            first, digit = data[2:-1], (data[3:] - 48) < 10
            if (begins & digit & ((first == 48) | ((first == 43) & _ENDS[data[1:-2]]))).any():  # 0 or + before a digit
                return True
            tail = data[-3:].tobytes()
    return False


# ── in which encoding ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def _encoding_of(path: Path) -> tuple[str, tuple[str, ...]]:
    """Return the encoding of a text file: UTF-8, UTF-16 with or without a byte order mark, else cp1252 (Windows) if the file decodes."""
    with path.open("rb") as stream:
        start = stream.read(1024)
    marked = _MARKS.get(start[:2])
    wanted = marked or _utf_16_in(start) or "utf-8-sig"
    words, error = _decoded_words(path, wanted)
    if wanted == "utf-8-sig" and error is not None and not words and error.reason != "unexpected end of data":
        words, failed = _decoded_words(path, "cp1252")
        wanted, error = ("cp1252", None) if failed is None else (wanted, error)
    if error is not None:
        raise DataError(
            f"'{printable(path)}' is not text in {_SHOWN.get(wanted, 'UTF-16')}: {error.reason} "
            f"({error.object[error.start : error.end]!r}). It may be damaged, or in another encoding. Save it as CSV in UTF-8."
        ) from error
    if marked or wanted == "utf-8-sig":
        return wanted, ()
    shown = f": {listed(words, 3)}" if words else ""
    return wanted, (f"the file is not in UTF-8; it was read as {_SHOWN.get(wanted, 'UTF-16')}{shown}",)


def _utf_16_in(start: bytes) -> str | None:
    """Return the UTF-16 variant of a text without byte order mark, recognised by zeros in every other byte; None if it is not UTF-16."""
    zeros = [start[first::2].count(0) / max(1, len(start) // 2) for first in (0, 1)]
    if max(zeros) < 0.4 or min(zeros) > 0.1:
        return None
    return "utf-16-be" if zeros[0] > zeros[1] else "utf-16-le"


def _decoded_words(path: Path, encoding: str) -> tuple[list[str], UnicodeDecodeError | None]:
    """Decode a whole file; return the first words that are not plain ASCII, and the error if there is one."""
    decoder, words = codecs.getincrementaldecoder(encoding)(), list[str]()
    with path.open("rb") as stream:
        last = False
        while not last:
            chunk = stream.read(CHUNK_BYTES)
            last = not chunk
            try:
                text = decoder.decode(chunk, final=last)
            except UnicodeDecodeError as error:
                before = error.object[: error.start].decode(encoding, errors="ignore")
                return words or _FOREIGN.findall(before)[:3], error
            if "\0" in text:
                raise DataError(f"'{printable(path)}' holds null characters, as binary files do; expected text. Save it as CSV in UTF-8.")
            if not words and not text.isascii():
                words = _FOREIGN.findall(text)[:3]
    return words, None


# ── what it holds ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_pandas(path: Path, form: _Form) -> dict[str, np.ndarray]:
    pandas = optional_import("pandas", "tables", purpose="reading a CSV file")
    how = {"sep": form.separator, "names": form.names, "header": 0, "skiprows": form.skipped, "index_col": False, "skipinitialspace": True}
    how |= {"encoding": form.encoding, "keep_default_na": False, "na_values": [""]}
    parts: dict[str, list[np.ndarray]] = {name: [] for name in form.names}
    reader = pandas.read_csv(path, dtype=dict.fromkeys(form.codes, str), chunksize=ROWS, **how)
    with warnings.catch_warnings(), reader as chunks:
        warnings.simplefilter("ignore", pandas.errors.DtypeWarning)  # columns of mixed types are read again below
        for chunk in chunks:  # in parts: the whole table takes several times the memory of its numbers
            for name, several in parts.items():
                several.append(_kept(as_numpy(chunk[name]), pandas))
    truth = {name for name, several in parts.items() if len({part.dtype.kind == "b" for part in several}) > 1}
    columns = {name: np.concatenate(parts.pop(name)) if parts[name] else np.empty(0, object) for name in form.names}
    again = [name for name, values in columns.items() if name in truth or _is_mixed(values) or _may_lose_digits(values)]
    if again:
        texts = pandas.read_csv(path, dtype=str, usecols=again, **how)
        columns |= {name: as_numpy(texts[name]) if name in truth else _settled(columns[name], as_numpy(texts[name])) for name in again}
    return columns


def _kept(values: np.ndarray, pandas: Any) -> np.ndarray:
    """Return a part of a column in less memory: fractions as float32, the type of examples and targets, and equal texts as one object."""
    if values.dtype == np.float64 and (values % 1 > 0).any():
        return values.astype(np.float32)
    if values.dtype != object:
        return values
    codes, distinct = pandas.factorize(values, use_na_sentinel=False)
    return np.asarray(distinct[codes])


def _with_csv(path: Path, form: _Form) -> dict[str, np.ndarray]:
    with _lines(path, form) as reader:
        next(reader)
        rows = [row for row in reader if row]
    texts = {name: np.array([row[at] or None for row in rows], dtype=object) for at, name in enumerate(form.names)}
    return {name: values if name in form.codes else _settled(_typed(values), values) for name, values in texts.items()}


def _typed(texts: np.ndarray) -> np.ndarray:
    """Return texts as booleans, else integers, else floats (empty: NaN), else unchanged.
    The intermediate array holds objects, so that one long text does not widen every row."""
    if len(texts) and all(text in _TRUTH for text in texts):
        return np.array([_TRUTH[text] for text in texts])
    for kind in (np.int64, np.float64):
        try:
            return np.array(["nan" if text is None and kind is np.float64 else text for text in texts], dtype=object).astype(kind)
        except (ValueError, OverflowError, TypeError):
            continue
    return texts


def _settled(values: np.ndarray, texts: np.ndarray) -> np.ndarray:
    """Return the texts of a column of mixed types or of integers too long for floats; else its values."""
    if _is_mixed(values):
        return texts
    if _may_lose_digits(values) and any(_LONG.fullmatch(text) for text in texts if isinstance(text, str)):
        return texts
    return values


def _is_mixed(values: np.ndarray) -> bool:
    return values.dtype.kind == "O" and not all(value is None or isinstance(value, str) or value != value for value in values)


def _may_lose_digits(values: np.ndarray) -> bool:
    return values.dtype.kind == "f" and bool((np.abs(values) >= EXACT).any())


def _is_empty(values: np.ndarray) -> bool:
    if values.dtype.kind == "f":
        return bool(np.isnan(values).all())
    return values.dtype.kind == "O" and not any(isinstance(value, str) for value in values)


def _numbers_in(columns: dict[str, np.ndarray], name: str, *, values: np.ndarray) -> list[str]:
    """Replace a text column by numbers if it holds numbers with missing markers or decimal commas; return notes."""
    texts = [value for value in values if isinstance(value, str)] if values.dtype.kind == "O" else []
    absent = sorted({text for text in texts if text in _ABSENT}) if any(text in _ABSENT or "," in text for text in texts) else []
    known = [text for text in texts if text not in _ABSENT] if absent else texts
    if not known or (not absent and not any("," in text for text in known)) or any(map(_CODE.fullmatch, known)):
        return []
    notes = [f"the column {name!r} holds numbers; missing are the fields with {listed(map(repr, absent))}"] if absent else []
    comma = next((text for text in known if "," in text), None)
    if not all(map((_NUMBER if comma is None else _COMMA).fullmatch, known)):
        return []
    if comma is not None and all(map(_THOUSANDS.fullmatch, known)):
        return [f"the column {name!r} holds texts: whether the comma in {comma!r} separates thousands or decimals cannot be told"]
    if comma is not None:
        notes.append(f"the column {name!r} was read as numbers with decimal commas, such as {comma!r}")
    elif any(map(_LONG.fullmatch, known)):
        return []
    plain = ["nan" if value is None or value in _ABSENT or value != value else value for value in values]
    plain = plain if comma is None else [value.replace(".", "").replace(",", ".") for value in plain]
    columns[name] = np.array(plain, dtype=object).astype(np.float64)
    return notes
