"""Readers for tables: CSV and Parquet files, data frames, records, and columns by name."""

import dataclasses
import itertools
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import DataError, near_names
from ...files.text import printable
from ...words import counted
from ..check import checked
from ..dataset import PART_OF_EXAMPLE, Dataset, input_use
from ..decoding.files import EXTENSIONS, existing_folder, kind_of, kind_of_files
from ..items import Parts, as_frame, as_numpy, is_bunch, is_frame, listed, take
from .array_files import array_items
from .arrays import parts_of
from .columns import column_facts, column_numbers
from .csv_files import distinct_names, numbers_in_texts
from .examples import TARGET_NAMES
from .named_files import FilesBelow
from .table_files import TABLE_EXTENSIONS as TABLE_EXTENSIONS
from .table_files import Columns, columns_of_file, keeps_types, texts_of_file
from .targets import ReadOptions, is_missing
from .tasks import MAIN, ExampleFacts, built, targets_by_task

_NAMELESS = re.compile(r"|Unnamed: 0(\.\d+)?")  # Names that the index of a data frame gets when it is written to a file
FEW_ROWS = 8  # With this few rows or fewer, any column may count the rows by chance
SHORT_LABEL = 24  # Mean length in characters below which repeated texts beside two or more numeric columns are labels, not examples
SHORT_TEXT = 12  # Mean length in characters below which single words beside numbers are names, codes or dates, not examples


@dataclass
class _Table:
    """Columns of equal length and the use of those already assigned."""

    columns: Columns
    name: str
    path: Path | None = None
    notes: tuple[str, ...] = ()
    used: dict[str, str] = field(default_factory=dict)
    rows: tuple[str, ...] = ()  # columns that an example consists of; empty: those that look like it

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def column(self, wanted: str, what: str) -> np.ndarray:
        for wrong in absent_columns(self.columns, {what: wanted}, table=self.name):
            raise DataError(wrong)
        self.used[wanted] = what
        return self.columns[wanted]

    def names(self, column: str) -> np.ndarray:
        """Return a column of names as written in the file, so that 1.10 and 1.1 differ."""
        values = self.columns[column]
        texts = texts_of_file(self.path, column) if self.path is not None and values.dtype.kind in "fb" else None
        return values if texts is None else texts

    def free(self) -> Columns:
        return {name: values for name, values in self.columns.items() if name not in self.used}

    def told(self, data: Dataset, items: Iterable[str]) -> Dataset:
        """Return the data with a record of how each column was used. `items` are the columns that form the examples."""
        uses = {**dict.fromkeys(items, PART_OF_EXAMPLE), **self.used}
        facts = tuple(column_facts(name, values, use=uses.get(name, "left out")) for name, values in self.columns.items())
        return dataclasses.replace(data, table=facts)


def absent_columns(columns: Iterable[str], wanted: Mapping[str, str | Iterable[str] | None], *, table: str) -> Iterator[str]:
    """Yield one message for each wanted column that the table lacks. `wanted` maps a use to one name, several names, or None."""
    held = dict.fromkeys(columns)
    for what, names in wanted.items():
        for name in [names] if isinstance(names, str) else names or ():
            if name not in held:
                yield f"{table} has no column {name!r} for {what}{near_names(name, held)}"


def is_table(source: Any, named: Any = ()) -> bool:
    """Return whether a value is the path of a table, or a table in memory; `named` as in `columns_in`."""
    if isinstance(source, str | Path):
        return Path(source).suffix.lower() in TABLE_EXTENSIONS
    return columns_in(source, named) is not None


def columns_in(source: Any, named: Any = ()) -> Mapping[str, Any] | None:
    """Return the columns of a table in memory by name; None for anything else. A table is a data frame, a list of records (mappings), a
    data set of scikit-learn with names, or a mapping of which `named` (a name, names, or a mapping to these) says that its keys are
    columns. Any other mapping holds the inputs of a network."""
    source = as_frame(source)
    if is_bunch(source):
        values, names = source["data"], [*map(str, () if source.get("feature_names") is None else source["feature_names"])]
        known = not is_frame(values) and np.ndim(values) == 2 and len(names) == np.shape(values)[1]
        return dict(zip(names, as_numpy(values).T, strict=True)) if known else columns_in(values)
    if is_frame(source) and hasattr(source, "columns"):
        distinct_names([str(name) for name in source.columns], "The data frame")
        return {str(name): source[name] for name in source.columns}
    if isinstance(source, Mapping) and _are_columns(named, source):
        return {str(name): values for name, values in source.items()}
    if isinstance(source, list) and source and all(isinstance(row, Mapping) for row in source):
        return {str(name): [row.get(name) for row in source] for name in dict.fromkeys(itertools.chain(*source))}
    return None


def _are_columns(named: Any, columns: Mapping[str, Any]) -> bool:
    if isinstance(named, Mapping):
        return all(_are_columns(one, columns) for one in named.values())
    return isinstance(named, str) or (isinstance(named, list | tuple) and len(named) > 0 and all(one in columns for one in map(str, named)))


def read_table(path: Path, options: ReadOptions) -> Dataset:
    """Read a CSV (comma, semicolon or tab), TSV or Parquet file.
    The examples are files if a column names them, else the longest text column, else the numeric columns."""
    table = _file_table(path)
    if options.files is None and options.inputs is None and options.kind not in ("text", "array") and _names_files(table, path.parent):
        options = dataclasses.replace(options, files=path.parent)
    return _read_columns(table, options)


def read_columns(columns: Mapping[str, Any], options: ReadOptions) -> Dataset:
    """Read a table in memory, as `columns_in` gives it. The examples are chosen as for a file."""
    return _read_columns(_table_of(columns), options)


def read_unlabelled(  # noqa: PLR0913  # over the limit: a table, and what its columns are
    source: Any,
    kind: str,
    *,
    columns: Sequence[str],
    rows: Sequence[str] = (),
    files: Path | None = None,
    outside: bool = False,
    inputs: Mapping[str, Sequence[str]] | None = None,
    numbered: bool = False,
) -> Dataset:
    """Read examples and the columns beside them from a table, without looking for targets.
    `source` is a path, or a table in memory; all keys of a mapping are then columns. `rows` are the columns that an example consists of;
    empty: as they are found. `files` is the folder of the named files; None: the table's folder. `inputs` maps each input of a network with
    several inputs to its columns; `kind` is then "parts". The targets of the result are zeros without meaning."""
    path = Path(source) if isinstance(source, str | Path) else None
    if path is not None and not path.exists():
        raise DataError(f"The table does not exist: {printable(path)}. Check the path; relative paths start at {Path.cwd()}.")
    table = _table_of(columns_in(source, rows) or source) if path is None else _file_table(path)
    beside = path is not None and kind in ("image", "audio")
    if rows:
        for wrong in absent_columns(table.columns, {"the network": rows}, table=table.name):
            raise DataError(wrong)
        table.columns, table.rows = {name: table.columns[name] for name in (*rows, *columns)}, tuple(rows)
    zeros = np.zeros(len(table), dtype=np.float32)
    files = files or (path.parent if path is not None and beside else None)
    given = kind if inputs is None else None
    numbers = np.arange(len(table)) if numbered else None
    options = ReadOptions(zeros, files, kind=given, group=numbers, columns=list(columns) or None, outside=outside, inputs=inputs)
    return _read_columns(table, dataclasses.replace(options, task="regression"))


def _file_table(path: Path) -> _Table:
    columns, notes = columns_of_file(path)
    if keeps_types(path):
        columns = {name: _plain(values) for name, values in columns.items()}
    return _Table(columns, printable(path.name), path, notes)


def _table_of(columns: Mapping[str, Any]) -> _Table:
    found = {name: as_numpy(values) for name, values in columns.items()}
    sizes = {name: len(values) if values.ndim else 1 for name, values in found.items()}
    if len({*sizes.values()}) > 1:
        raise DataError(f"The columns of the table differ in length: {sizes}; expected one value of each for every row.")
    rows = {name: values if values.ndim < 2 else np.fromiter(values.tolist(), object, len(values)) for name, values in found.items()}
    return _Table({name: _plain(np.atleast_1d(values)) for name, values in rows.items()}, "The table")


def _plain(values: np.ndarray) -> np.ndarray:
    """Convert objects to numbers if all are numbers or missing (as NaN); otherwise replace missing values by None."""
    if values.dtype.kind != "O":
        return values
    cells = [None if is_missing(value) else value for value in values.tolist()]
    if any(cell is not None for cell in cells) and all(cell is None or isinstance(cell, int | float | Decimal) for cell in cells):
        numbers = np.array([np.nan if cell is None else float(cell) for cell in cells])
        return numbers.astype(bool) if all(isinstance(cell, bool) for cell in cells) else numbers
    plain = np.empty(len(cells), dtype=object)
    plain[:] = cells
    return plain


def _holds_texts(values: np.ndarray) -> bool:
    return values.dtype.kind in "UST" or (values.dtype.kind == "O" and any(isinstance(value, str) for value in values))


def _read_columns(table: _Table, options: ReadOptions) -> Dataset:
    if not len(table):
        raise DataError(f"{table.name} is empty: {counted(len(table.columns), 'column')} and no rows; expected one row for each example.")
    beside = _beside(table, options)
    target, classes = _target_columns(table, options)
    options = dataclasses.replace(options, classes={**(options.classes or {}), **classes} or None)
    if options.files is not None and options.inputs is None:
        return _file_items(table, options, target=target, beside=beside)
    items, kind, note, columns = _own_items(table, options.kind) if options.inputs is None else _inputs(table, options)
    tasks = targets_by_task(target, options, count=len(table))
    data = built(items, kind, tasks=tasks, beside=beside, options=options, notes=(*table.notes, note))
    return checked(table.told(data, columns), options.skip_bad)


def _beside(table: _Table, options: ReadOptions) -> ExampleFacts:
    """Return what stands beside the examples, from the columns that the options name, or from their values."""
    given: dict[str, Any] = {}
    for what, wanted in (("group", options.group), ("condition", options.condition)):
        if isinstance(wanted, str):
            table.column(wanted, what)
            given[what] = table.names(wanted)
    if isinstance(options.weight, str):
        given["weight"] = table.column(options.weight, "sample_weight")
    columns = [options.columns] if isinstance(options.columns, str) else options.columns
    if isinstance(columns, list | tuple) and all(isinstance(name, str) for name in columns):
        given["columns"] = {name: table.column(name, "columns") for name in columns}
    return ExampleFacts.of(dataclasses.replace(options, **given), len(table))


Classes = dict[str | None, tuple[str, ...]]


def _target_columns(table: _Table, options: ReadOptions) -> tuple[Any, Classes]:
    """Return the labels, of one task or by task, and the class names of tasks whose labels span several columns."""
    if not isinstance(options.target, Mapping):
        wanted = _default_target(table) if options.target is None else options.target
        values, names = _task_columns(table, wanted, said=options.task_of(MAIN))
        return values, {} if names is None else {None: names}
    found = {
        str(task): _task_columns(table, wanted, of=f" of task {task!r}", said=options.task_of(str(task)))
        for task, wanted in options.target.items()
    }
    return {task: values for task, (values, _) in found.items()}, {task: names for task, (_, names) in found.items() if names is not None}


def _task_columns(table: _Table, wanted: Any, *, said: str | None, of: str = "") -> tuple[Any, tuple[str, ...] | None]:
    if isinstance(wanted, str | int | np.generic) or (isinstance(wanted, tuple) and str(wanted) in table.columns):
        name = str(wanted)
        values = table.column(name, f"target{of}")
        fractions = said not in (None, "regression") and values.dtype.kind == "f" and bool((values % 1 > 0).any())  # 1.10 is not 1.1
        return (table.names(name) if fractions or values.dtype.kind == "b" else values), None
    if isinstance(wanted, list | tuple) and wanted and all(isinstance(name, str) and name in table.columns for name in wanted):
        return np.column_stack([table.column(name, "target") for name in wanted]), tuple(wanted)
    array = wanted if isinstance(wanted, list | tuple) else as_numpy(wanted)
    if len(array) != len(table):
        raise DataError(
            f"target{of} has {counted(len(array), 'label')} and {table.name} has {counted(len(table), 'row')}; expected one for each row."
        )
    return array, None


def _default_target(table: _Table) -> str:
    free = list(table.free())
    if not free:
        raise DataError(f"{table.name} has no column left for target: its columns are {listed(table.columns)}.")
    named = [name for wanted in TARGET_NAMES for name in free if name.strip().lower() == wanted]
    if not named and len(free) > 1:
        table.notes += (f"the labels are the last column, {free[-1]!r}; for another give target=",)
    return named[0] if named else free[-1]


def _own_items(table: _Table, kind: str | None) -> tuple[list[str | None] | np.ndarray, str, str, list[str]]:
    """Return examples from the table itself (texts or rows of numbers), their kind, a note on the choice, and their columns."""
    free, notes = (table.free(), ()) if kind == "text" else numbers_in_texts(table.free())
    table.columns, table.notes = {**table.columns, **free}, tuple(dict.fromkeys((*table.notes, *notes)))
    rows = [name for name, values in free.items() if len(free) > 1 and _names_rows(name, values) and name not in table.rows]
    wrong = [name for name in table.rows if free[name].dtype.kind not in "biuf"]
    if wrong:
        raise DataError(
            f"The network reads numbers from {counted(len(table.rows), 'column')} of {table.name}; these hold others: {listed(wrong)}."
        )
    held = {name: values for name, values in free.items() if name not in rows}
    texts = {name: values for name, values in held.items() if _holds_texts(values)}
    numbers = {name: values for name, values in held.items() if values.dtype.kind in "biuf"}
    named = [name for name, values in texts.items() if kind is None and all(kind_of(Path(str(value))) for value in values)]
    if named:
        first = printable(str(texts[named[0]][0]))
        raise DataError(
            f"The column {named[0]!r} of {table.name} names files, and the first is not there: {first!r}. "
            "Give the folder that holds them as files=, or kind='text' where the names themselves are to be read."
        )
    if texts and (kind == "text" or (kind is None and not (numbers and all(_are_labels(one, len(numbers)) for one in texts.values())))):
        lengths = {name: np.mean([len(str(value)) for value in values]) for name, values in texts.items()}
        name = max(lengths, key=lambda column: lengths[column])
        note = f"examples are the texts of the column {name!r}" + _note_on_others([*(one for one in texts if one != name), *numbers], rows)
        note += "; for the numeric columns give kind='array'" if numbers else ""
        return [value if isinstance(value, str) else None for value in texts[name].tolist()], "text", note, [name]
    if kind in ("image", "audio"):
        raise DataError(f"{table.name} is read as kind={kind!r} and no column of it names files; expected files= with their folder.")
    if not numbers or kind == "text":
        wanted = "texts" if kind == "text" else "texts or numbers"
        raise DataError(
            f"{table.name} has no column of {wanted} besides target, group, condition and columns: {listed(table.columns, 12)}."
        )
    note = f"an example is the row of {counted(len(numbers), 'numeric column')}: {listed(numbers, 20)}"
    note += _note_on_others([name for name in free if name not in numbers and name not in rows], rows)
    note += "; for texts give kind='text'" if texts and kind is None else ""
    counting = [name for name, values in numbers.items() if _counts_rows(values)]
    if counting:
        note += f"; the column {counting[0]!r} numbers the rows: as an index it gives the labels of sorted rows away, remove it then"
    items = np.empty((len(table), len(numbers)), np.float32)
    for at, values in enumerate(numbers.values()):
        items[:, at] = values
    return items, "array", note, list(numbers)


def _inputs(table: _Table, options: ReadOptions) -> tuple[Parts, str, str, list[str]]:
    """Return the examples for several inputs, each from one column or from number columns, with their kind, a note and the columns."""
    found: dict[str, Any] = {}
    named = {str(name): (wanted,) if isinstance(wanted, str) else tuple(wanted) for name, wanted in (options.inputs or {}).items()}
    for name, wanted in named.items():
        columns = [table.column(column, input_use(name)) for column in wanted]
        if len(columns) == 1 and columns[0].dtype.kind in "OUST":
            found[name] = [value if isinstance(value, str) else None for value in columns[0].tolist()]
        else:
            found[name] = column_numbers(dict(zip(wanted, columns, strict=True)), len(table))[0]
    items, kind = parts_of(found, options.kind)
    note = "; ".join(f"input {name!r}: {listed(wanted)}" for name, wanted in named.items())
    return dataclasses.replace(items, columns=named), kind, note, [column for wanted in named.values() for column in wanted]


def _names_rows(name: str, values: np.ndarray) -> bool:
    """Return whether a column is the unnamed index that data frames and spreadsheets write in front."""
    if _NAMELESS.fullmatch(name) is None:
        return False
    if values.dtype.kind == "f":
        return bool((values == np.round(values)).all())
    short = values.dtype.kind in "OUT" and len({*map(str, values)}) == len(values) and np.mean([*map(len, map(str, values))]) < SHORT_LABEL
    return values.dtype.kind in "iu" or bool(short)


def _counts_rows(values: np.ndarray) -> bool:
    """Return whether numbers are 0, 1, 2, … or 1, 2, 3, … in row order."""
    return len(values) > FEW_ROWS and values[0] in (0, 1) and bool((np.diff(values.astype(np.float64)) == 1).all())


def _note_on_others(others: list[str], rows: list[str]) -> str:
    note = f"; left out: {listed(others)}" if others else ""
    return note + (f"; left out, as it numbers or names the rows and has no name: {listed(rows)}" if rows else "")


def _are_labels(values: np.ndarray, numbers: int) -> bool:
    """Return whether texts beside this many number columns are names, codes or dates, not examples: short, or few and repeated."""
    found = {str(value) for value in values.tolist()}
    length = float(np.mean([len(name) for name in found]))
    single_words = not any(" " in name.strip() for name in found)
    return (single_words and length < SHORT_TEXT) or (numbers > 1 and 2 * len(found) <= len(values) and length < SHORT_LABEL)


def _file_items(table: _Table, options: ReadOptions, *, target: Any, beside: ExampleFacts) -> Dataset:
    folder = existing_folder(Path(options.files), "The folder of the files")
    found = FilesBelow(folder, outside=options.outside)
    column = _file_column(table, found)
    values = [str(value) for value in table.names(column).tolist()]
    matches = [found.find(value) for value in values]
    moved = found.check(values, matches, table=table.name)
    missing = [value for value, path in zip(values, matches, strict=True) if path is None]
    several = {value: found.fitting(value) for value in missing if found.fitting(value)}
    if several and not options.skip_bad:
        shown = listed(f"{value!r} ({listed(names, 3)})" for value, names in several.items())
        raise DataError(
            f"{table.name}: {counted(len(several), 'name', verb='fit')} several files in {printable(folder)}: {shown}. Write their paths "
            "within the folder."
        )
    if missing and not options.skip_bad:
        raise DataError(
            f"{table.name}: {counted(len(missing), 'row', verb='name', of=len(values))} files that are not in {printable(folder)}: "
            f"{listed(missing)}. Add the files, remove the rows, or leave them out with skip_bad=True."
        )
    kind = kind_of_files([path for path in matches if path], folder, kind=options.kind)
    rows = np.array([row for row, path in enumerate(matches) if path and kind_of(path) == kind], dtype=np.int64)
    paths = [path for path in matches if path and kind_of(path) == kind]
    target = {task: take(one, rows) for task, one in target.items()} if isinstance(target, Mapping) else take(target, rows)
    data = built(
        array_items(paths) if kind == "array" else paths,
        kind,
        tasks=targets_by_task(target, options, count=len(paths)),
        beside=beside.taken(rows),
        options=options,
        names=tuple(found.name_of(path) for path in paths),
        notes=(
            *table.notes,
            *moved,
            *_file_notes(missing, list(several), unused=found.unused(paths), others=len(values) - len(paths) - len(missing)),
        ),
    )
    return table.told(data, [column])


def _file_notes(missing: list[str], several: list[str], *, unused: list[str], others: int) -> Iterable[str]:
    if several:
        yield f"left out rows whose names fit several files: {listed(several)}"
    missing = [value for value in missing if value not in several]
    if missing:
        yield f"left out {counted(len(missing), 'row')} whose files do not exist: {listed(missing)}"
    if others:
        yield f"{counted(others, 'row')} with a file of another kind, not read"
    if unused:
        yield f"{counted(len(unused), 'file')} of the folder without a row: {listed(unused)}"


def _file_column(table: _Table, found: FilesBelow) -> str:
    """Return the column in which the most values name files."""
    free = {name: [str(value) for value in table.names(name).tolist()] for name in table.free()}
    counts = {name: sum(found.find(value) is not None or found.leads_out(value) for value in values) for name, values in free.items()}
    if not any(counts.values()):  # report names that match several files, unless only a few values match at all
        counts = {name: sum(bool(found.fitting(value)) for value in values) for name, values in free.items()}
        counts = {name: count if 2 * count > len(table) else 0 for name, count in counts.items()}
    best = max(counts, key=lambda name: counts[name], default=None)
    if best is None or not counts[best]:
        first = {printable(name): printable(values[0], width=60) for name, values in free.items()}
        shown = listed(path.name for path in found.paths) or f"no file with {listed(EXTENSIONS['image'] + EXTENSIONS['audio'], 8)}"
        raise DataError(
            f"No column of {table.name} names files in {printable(found.folder)}: it holds {shown}; the first row is {first}; "
            "expected one column of file names, with or without extension."
        )
    return best


def names_files_beside(path: Path) -> bool:
    """Return whether a column of the table at `path` names files relative to the table's folder. No file is opened but the table."""
    return _names_files(_file_table(path), path.parent)


def _names_files(table: _Table, folder: Path) -> bool:
    """Return whether the first value of a column names a file relative to the table's folder. No file is opened."""
    firsts = [values[0] for values in table.columns.values() if len(values) and values.dtype.kind in "OUT"]
    named = [value.strip().replace("\\", "/") for value in firsts if isinstance(value, str)]  # Windows path separators
    return any(kind_of(Path(value)) and os.path.isfile(folder / value) for value in named)
