"""`regraft predict`: predict labels and probabilities of raw files, as CSV or JSON lines."""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import typer

from ...console import show_csv, show_json, tell, tell_notes
from ...errors import InputError, near_names
from ...files.given import NO_RULE, lacks_rule
from ...files.remote import fetched, is_url, suffix_of
from ...files.text import printable
from ...words import counted
from .. import options
from ..guard import command
from ..shared import check_given, columns_for, listed_names, run_by, to_run

_SEVERAL = 5  # Number of examples from which the share of unknown ones says something about the data


def add_to(app: typer.Typer) -> None:
    """Add the command `predict` to `app`."""
    examples = [
        "regraft predict adapted/ new_photos/ --unknown",
        "regraft predict adapted/ 'inbox/**/*.jpg' --probabilities",
        "regraft predict adapted/ new.csv --files images/ --pass id,date --format jsonl",
    ]
    command(app, "predict", _predict, panel="Use", examples=examples)


def _predict(  # noqa: PLR0913  # over the limit: the options of the command
    folder: options.RunArgument,
    files: options.ItemsArgument = None,
    *,
    text: options.Texts = None,
    columns: options.Columns = None,
    beside: options.FilesFolder = None,
    condition: options.OneCondition = None,
    head: options.HeadLayer = None,
    channels: options.Channels = None,
    architecture: options.Architecture = None,
    trust: options.Trust = False,
    form: options.Form = options.Format.csv,
    probabilities: options.Probabilities = False,
    unknown: options.Unknown = False,
    engine: options.Engine = None,
    cluster: options.Cluster = None,
    raw_cells: options.RawCells = False,
    passed: options.Passed = None,
    outside: options.Outside = False,
    skip_bad: options.SkipBad = False,
) -> None:
    """Print the label and probability of each example, for each task. The network's own preprocessing is applied."""
    asked, shown = listed_names(columns, option="--columns"), listed_names(passed, option="--pass")
    check_given(folder, *(files or []), reading={"files": beside, "columns": asked, "pass": shown}, engine=engine)
    if unknown and lacks_rule(folder):
        raise InputError(NO_RULE)
    running = run_by(folder, engine, cluster=cluster)
    net = to_run(folder, head=head, channels=channels, architecture=architecture, trust=trust)
    data = _items(net, files or [], texts=text or [], columns=columns_for(net, asked), beside=beside, outside=outside)
    if skip_bad:
        from ...data import checked

        data = checked(data, True)
        tell_notes(data.notes)
    found = net.predict(data, condition, unknown=unknown, **running)
    for run in running.values():
        tell_notes(run.notes)
    if unknown and net.unknown.choice.weak:
        tell(f"Warning: {net.unknown.choice.described()}")
    if found.unknown is not None and len(data) >= _SEVERAL and found.unknown.mean() > 0.5:
        tell(
            f"Note: {counted(int(found.unknown.sum()), 'example', verb='are', of=len(data))} called unknown. They are of other classes, or "
            "differ from the training examples otherwise (another speaker, device or style), which the rule does not tell apart: look at "
            "some of them. If they are of known classes, adapt the network with examples of that kind."
        )
    if net.preprocessing.inferred and not net.preprocessing.fitted:
        tell(f"Note: the network carries no preprocessing of its own and takes {net.preprocessing.describe()}.")
    told = {task: _told(one, net.heads[task].kind, probabilities=probabilities) for task, one in found.tasks.items()}
    passed_on = _passed_on([Path(file) for file in files or [] if not is_url(file)], data, wanted=shown)
    named = [{"file": data.name_of(index)} | {name: values[index] for name, values in passed_on.items()} for index in range(len(data))]
    if form is options.Format.jsonl:
        _print_lines(named, told)
    else:
        show_csv(_rows(named, told), raw=raw_cells)


def _passed_on(files: list[Path], data: Any, *, wanted: list[str] | None) -> dict[str, list[str]]:
    """Return the `wanted` columns of the input table, or by default its id column; empty if the input is not a table."""
    from ...data.readers.table_files import columns_of_file, texts_of_file
    from ...data.readers.tables import TABLE_EXTENSIONS

    if len(files) != 1 or files[0].suffix.lower() not in TABLE_EXTENSIONS or data.groups is None:
        if wanted:
            raise InputError(f"--pass {','.join(wanted)} names columns of a table; received no CSV or Parquet file. Leave it out.")
        return {}
    columns, _ = columns_of_file(files[0])
    names = wanted or [name for name in columns if name.strip().lower() == "id"]
    lacking = [name for name in names if name not in columns]
    if lacking:
        raise InputError(f"--pass {lacking[0]}: {printable(files[0].name)} has no such column{near_names(lacking[0], columns)}")
    found = {}
    for name in names:
        as_written = texts_of_file(files[0], name)
        values = columns[name] if as_written is None else as_written
        found[name] = ["" if value is None else str(value) for value in values[data.groups.astype(int)]]
    return found


def _items(net: Any, files: list[Any], *, texts: list[str], columns: list[str] | None, beside: Path | None, outside: bool) -> Any:
    """Read the unlabelled examples with their names."""
    from ...data.items import listed
    from ...data.readers.tables import TABLE_EXTENSIONS
    from ...data.readers.unlabelled import read_elsewhere, read_files

    kind = net.preprocessing.item_kind
    if texts and (kind != "text" or columns):
        takes = f"this one takes examples of the kind {kind!r}" + (f" with the columns {', '.join(columns)} beside them" if columns else "")
        raise InputError(f"--text goes with a network that reads texts alone; {takes}. Give FILES.")
    if not files and not texts:
        raise InputError(f"No examples were given; expected FILES{' or --text' if kind == 'text' else ''}.")
    alone = len(files) == 1 and not (texts or beside)
    if not alone and any(map(is_url, files)):
        raise InputError(f"Received {listed(files)}; expected one address alone, without --text and --files.")
    if columns and any(map(is_url, files)) and suffix_of(files[0]) in TABLE_EXTENSIONS:
        with fetched(files[0]) as path:
            read = _of_table(net, [path], columns=columns, beside=None, outside=False)
        return dataclasses.replace(read, names=tuple(name.replace(str(path), files[0]) for name in read.names or ()) or None)
    found = read_elsewhere(files[0], kind, texts=True) if alone and not columns else None
    if found is not None:
        return found
    tables = [path for path in files if suffix_of(path) in TABLE_EXTENSIONS]
    if tables and texts:
        raise InputError(f"Received --text and the table {printable(tables[0])}; expected one of them.")
    if columns or tables or beside is not None:
        return _of_table(net, files, columns=columns or [], beside=beside, outside=outside)
    read = read_files(files, kind) if files else None
    if not texts:
        return read
    named = [*texts, *(read.items if read else [])]
    names = (*(f"text {number}" for number, _ in enumerate(texts, start=1)), *((read.names or ()) if read else ()))
    return dataclasses.replace(net.preprocessing.dataset(named), names=names)


def _of_table(net: Any, files: list[Path], *, columns: list[str], beside: Path | None, outside: bool) -> Any:
    """Read examples and additional columns from a table. Examples without a name are named after their row."""
    from ...data.items import listed
    from ...data.readers.tables import TABLE_EXTENSIONS, read_unlabelled

    if len(files) != 1 or suffix_of(files[0]) not in TABLE_EXTENSIONS:
        shown = listed(files)
        if not columns:
            raise InputError(
                f"Received {shown}; expected one CSV or Parquet file that names, or holds, the examples, or other files alone."
            )
        raise InputError(
            f"The network reads the columns {', '.join(columns)} beside each example; received {shown}. Give a CSV or Parquet file with "
            "them that names, or holds, the examples."
        )
    own = net.preprocessing
    how: dict[str, Any] = {"rows": own.row_columns, "inputs": own.input_columns, "files": beside, "outside": outside}
    data = read_unlabelled(files[0], own.item_kind, columns=columns, numbered=True, **how)
    tell_notes(data.notes)
    names = data.names or tuple(f"{files[0]}:{int(row) + 1}" for row in (() if data.groups is None else data.groups))
    return dataclasses.replace(data, names=names)


def _told(found: Any, kind: str, *, probabilities: bool) -> list[dict[str, Any]]:
    """Return for each example of one task the label, its probability unless a regression, and optionally all probabilities."""
    rows: list[dict[str, Any]] = [{"label": label} for label in found.labels]
    for row, strange in zip(rows, [] if found.unknown is None else found.unknown, strict=False):
        row["unknown"] = bool(strange)
    for row, chances in zip(rows, found.probabilities, strict=True):
        if kind != "regression":
            row["probability"] = float(chances.max())
        if probabilities:
            row["probabilities"] = dict(zip(found.classes, map(float, chances), strict=True))
    return rows


def _rows(named: list[dict[str, str]], told: Mapping[str, list[dict[str, Any]]]) -> Iterator[list[str]]:
    """Yield the headings, then one row per example. Columns of further tasks have the task name as a prefix."""
    first = next(iter(told))
    for index, beside in enumerate(named):
        cells = [*beside.items()]
        for task, rows in told.items():
            cells += [(key if task == first else f"{task}.{key}", value) for key, value in _cells(rows[index])]
        if not index:
            yield [key for key, _ in cells]
        yield [value for _, value in cells]


def _cells(row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "label", row["label"]
    if "probability" in row:
        yield "probability", f"{row['probability']:.6f}"
    if "unknown" in row:
        yield "unknown", "yes" if row["unknown"] else "no"
    for name, chance in row.get("probabilities", {}).items():
        yield f"p({name})", f"{chance:.6f}"


def _print_lines(named: list[dict[str, str]], told: Mapping[str, list[dict[str, Any]]]) -> None:
    """Print one JSON object per example: the first task at the top level, several tasks under "tasks", passed columns under "columns"."""
    for index, beside in enumerate(named):
        by_task = {task: rows[index] for task, rows in told.items()}
        line = {"file": beside["file"], **next(iter(by_task.values()))} | ({"tasks": by_task} if len(by_task) > 1 else {})
        passed = {name: value for name, value in beside.items() if name != "file"}
        show_json(line | ({"columns": passed} if passed else {}), indent=None)
