"""Entry point for all data: `read` chooses the reader from the source."""

import dataclasses
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from reprlib import repr as brief
from typing import Any

import numpy as np

from ..errors import DataError, checked_call, near_names
from ..files.given import matching, missing_data
from ..files.remote import fetched, is_url, suffix_of
from ..files.text import printable
from ..networks.names import checked_classes
from ..words import counted
from .dataset import KINDS, PART_OF_EXAMPLE, Dataset, input_use, tell_apart
from .decoding.files import kind_of, kind_of_files
from .items import Parts, as_frame, as_numpy, is_bunch, is_frame, listed
from .readers.array_files import ARRAY_EXTENSIONS, array_file, array_items
from .readers.arrays import read_arrays, read_examples
from .readers.columns import column_facts
from .readers.examples import are_examples
from .readers.folders import read_folder
from .readers.streams import pictures_at, pictures_in_parquet, pictures_in_tar
from .readers.table_files import TABLE_EXTENSIONS, how_else
from .readers.tables import columns_in, is_table, names_files_beside, read_columns, read_table
from .readers.targets import ReadOptions, named_labels
from .readers.tasks import ExampleFacts, targets_by_task, with_tasks
from .targets import TASKS

WARNING = "Warning: "  # Begin of a note that stands in the verdict
EQUAL = "byte-equal"  # Value of `group`: examples that are equal byte by byte form one group


@checked_call
def read(  # noqa: PLR0913  # over the limit: a source and its public keywords
    source: Any,
    *,
    target: Any = None,
    files: str | Path | None = None,
    group: Any = None,
    condition: Any = None,
    kind: str | Mapping[str, str] | None = None,
    skip_bad: bool = False,
    classes: Iterable[str] | Mapping[str, Iterable[str]] | None = None,
    columns: Any = None,
    outside: bool = False,
    task: str | Mapping[str, str] | None = None,
    sample_weight: Any = None,
    inputs: Mapping[str, str | Sequence[str]] | None = None,
    max_length: int | None = None,
) -> Dataset:
    """Read data of any supported kind without decoding the examples.

    Args:
        source: a folder of class folders (images, audio), a file pattern ("photos/*/*.png"; the folder names are the classes),
            a CSV, Parquet, .npy, .npz or HDF5 file, a WebDataset .tar, the address of one of these ("s3://bucket/photos"), a data
            frame, a list of records, a pair (X, y) where X is an array, texts or file paths, or a `Dataset`. y may be a mapping from
            task to labels. For a network with several inputs, X is a mapping from input name to N examples; it may also be given alone,
            with `target`. A mapping of which `target` names a column is a table.
            Data sets of PyTorch and Hugging Face are also accepted and read example by example when needed. DataLoaders, `tf.data`
            and other iterables of (example, label) are read once from start to end.
        target: a column name, several (multi-label), or an array of N labels. For several tasks, a mapping from task name to
            one of these, with the main task first. In a mapping, labels may be missing (empty, None, NaN, or a row of those), but
            each example needs a label of at least one task.
        files: folder of the files that a table column names; default: the folder of the table. A name is looked up below
            that folder, first as a path, then by file name alone.
        group: a column name or an array of N labels; a split never separates a group. "byte-equal": examples that are equal
            byte by byte form one group.
        condition: a column name or an array of N labels.
        kind: "array", "image", "audio" or "text"; default: inferred. For several inputs, a mapping from name to kind.
        skip_bad: leave out unusable examples and note it, instead of raising.
        classes: class names of the first task in the wanted order, or a mapping from task to class names.
        columns: numbers beside each example: column names of the table, which are then used neither as examples nor as target; for
            other sources an array (N, k), or a mapping from name to (N,) array.
        outside: whether a table may name files outside that folder, by absolute paths, by "..", or through links. By default
            nothing outside is opened, because a table from someone else could name any of your files.
        task: "classification", "multi-label" or "regression", or a mapping from task name to one of these. By default, texts and
            whole numbers are classes, other numbers are regression, lists of labels and rows of 0 and 1 are multi-label.
        sample_weight: a column name or an array of N numbers, 0 or more: the weight of each example in the loss.
        inputs: for a table and a network with several inputs, a mapping from input name to the text or number column, or the number
            columns, that the input takes.
        max_length: maximum number of tokens per text in training; default: as many as the network takes.

    Returns:
        The data.

    Raises:
        DataError: if the source cannot be read as asked; one message lists all problems of one type.
        NetworkError: if a name in `classes` is empty or not unique, or `classes` is no list.
        SettingError: if `files` is no path, or `inputs` no mapping.
        UnsafeFileError: if a table names files outside its folder and `outside` is false, or a file is a pipe or device.

    Example:
        >>> import numpy as np, regraft
        >>> data = regraft.read((np.zeros((4, 2)), ["yes", "no", "yes", "yes"]), group=[1, 1, 2, 3])
        >>> data.classes, data.class_counts().tolist(), data.task
        (('no', 'yes'), [1, 3], 'classification')
    """
    for wrong in unknown_kinds(kind, task):
        raise DataError(wrong)
    if inputs is not None and not isinstance(inputs, Mapping):
        raise DataError(
            f"inputs={brief(inputs)}: expected a mapping from input name to a column, or a list of number columns. The shape of an example "
            "is inputs= of regraft.load."
        )
    equal = isinstance(group, str) and group == EQUAL
    own = None if equal else group
    options = ReadOptions(target, files, own, condition, kind, skip_bad, _class_names(classes), columns, outside, task, sample_weight)
    options = dataclasses.replace(options, inputs=inputs)
    data = _read_source(source, options)
    mixed = [*_index_notes(source, options)]
    for note in (note for note in mixed if note.startswith(WARNING)):  # a network may be evaluated, which has no verdict
        warnings.warn(note.removeprefix(WARNING), stacklevel=3)
    named = {"target": target, "files": files, "kind": kind, "columns": columns, "outside": outside, "task": task, "inputs": inputs}
    held = {fact["column"] for fact in data.table}
    reading = {**data.reading, **{name: value for name, value in named.items() if _are_words(value, held)}}
    data = dataclasses.replace(data, notes=(*mixed, *data.notes), reading=reading)
    if max_length is not None:
        if type(max_length) is not int or max_length < 1:
            raise DataError(f"max_length={max_length!r}; expected a whole number of tokens, 1 or more.")
        if data.kind != "text" and "text" not in [data.part(name).kind for name in data.part_names]:
            raise DataError(
                f"max_length={max_length} is for texts; received data of the kind {data.kind!r}. Leave it out, or give kind='text'."
            )
        data = dataclasses.replace(data, max_length=max_length)
    return dataclasses.replace(data, groups=data.duplicates().astype(np.str_)) if equal else data


def read_like(data: Dataset, other: Any, *, skip_bad: bool) -> Any:
    """Return other data; if they are a table, read with the columns that `data` were read with. The folder of the files is that of `data`,
    unless files that the table names lie beside it."""
    if not data.reading or is_bunch(other) or not is_table(other, data.reading.get("target")):
        return other
    beside = "files" in data.reading and isinstance(other, str | Path) and Path(other).is_file() and names_files_beside(Path(other))
    return read(other, skip_bad=skip_bad, **{name: value for name, value in data.reading.items() if not beside or name != "files"})


def _are_words(value: Any, columns: Collection[str]) -> bool:
    """Return whether an argument names something (True, a text, a path, or several `columns`) and holds no values of examples."""
    if isinstance(value, Mapping):
        return all(_are_words(one, columns) for one in value.values())
    several = isinstance(value, list | tuple) and all(isinstance(one, str) and one in columns for one in value)
    return value is True or isinstance(value, str | Path) or several


def unknown_kinds(kind: Any, task: Any) -> Iterator[str]:
    """Yield one message for each unknown `kind` or `task`; both arguments are as in `read`."""
    for asked in kind.values() if isinstance(kind, Mapping) else [] if kind is None else [kind]:
        if asked not in KINDS:
            yield f"No kind of data is called {asked!r}{near_names(str(asked), KINDS)}"
    for wanted in [] if task is None else task.values() if isinstance(task, Mapping) else [task]:
        if wanted not in TASKS:
            yield f"task={wanted!r} is no kind of task{near_names(str(wanted), TASKS)}"


def _is_network(source: Any) -> bool:
    own = (kind for kind in type(source).__mro__ if kind.__name__ in ("Module", "Layer", "Network"))
    return any(kind.__module__.partition(".")[0] in ("torch", "keras", "regraft") for kind in own)


def _read_source(source: Any, options: ReadOptions) -> Dataset:
    if _is_network(source):
        hint = "regraft.check takes the data first: regraft.check(data, net); other functions take the network first."
        raise DataError(f"Data were expected; received the network {type(source).__name__}. {hint}")
    columns = None if is_bunch(source) else columns_in(source, options.target)
    if options.inputs is not None and columns is None and not isinstance(source, str | Path):
        raise DataError(f"inputs={dict(options.inputs)!r} names columns of a table; received {type(source).__name__}. Give a mapping as X.")
    if is_bunch(source):
        return _read_bunch(source, options)
    if isinstance(source, Mapping) and columns is None:
        if any(hasattr(part, "column_names") and hasattr(part, "features") for part in source.values()):
            raise DataError(
                f"A {type(source).__name__} of the splits {', '.join(map(repr, source))} was received; expected one of them. Give the "
                "others separately, such as regraft.adapt(network, data['train'], test=data['test'])."
            )
        return _with_columns(read_arrays((source, None), options), source)
    if isinstance(source, Dataset):
        return _again(source, options)
    if is_url(source):
        return _read_address(source, options)
    if isinstance(source, str | Path):
        return _read_path(Path(source), options)
    if columns is not None:
        objects = isinstance(source, list) and any(np.ndim(one) and not isinstance(one, str | list | tuple) for one in source[0].values())
        return read_examples(source, options) if objects else read_columns(columns, options)
    if are_examples(source):
        return read_examples(source, options)
    if isinstance(source, tuple | list) and (isinstance(source, tuple) or len(source) == 2):
        return _pair(source, options)
    if options.target is not None and hasattr(source, "shape"):
        return read_arrays((source, None), options)
    raise DataError(
        f"Data of the type {type(source).__name__} cannot be read; expected a folder, a CSV or Parquet file, a data frame, "
        "a pair (X, y), X and target=, a Dataset, or a data set of PyTorch, Hugging Face or TensorFlow."
        + (" A list of examples needs their labels: (examples, labels), or target=." if isinstance(source, list) else "")
    )


def _read_bunch(source: Mapping[str, Any], options: ReadOptions) -> Dataset:
    """Read a data set of scikit-learn's loaders, with the names of its columns and classes."""
    values, labels, names = source["data"], source["target"], source.get("target_names")
    labels = labels if options.target is None else options.target
    known = () if names is None or options.target is not None or options.task == "regression" else tuple(map(str, names))
    numbers, foreign = as_numpy(labels) if known else np.zeros(0), tuple[str, ...]()
    if numbers.size and numbers.ndim == 1 and numbers.dtype.kind in "iu" and {*numbers.tolist()} <= {*range(len(known))}:
        labels, options, foreign = named_labels(labels, known, options=options)
    data = _pair((values, labels), dataclasses.replace(options, target=None))
    data = dataclasses.replace(data, notes=(*foreign, *data.notes))
    columns = None if is_frame(values) else columns_in(source)
    return data if columns is None else _of_columns(data, columns)


def _pair(source: Sequence[Any], options: ReadOptions) -> Dataset:
    """Read (X, y). If X is a list of records, or a data frame with non-numeric columns, it is read as a table."""
    source = [as_frame(one) for one in source]
    x: Any = source[0] if len(source) == 2 else None
    mixed = is_frame(x) and any(as_numpy(x[name]).dtype.kind not in "biuf" for name in getattr(x, "columns", ()))
    columns = columns_in(x) if mixed or isinstance(x, list) else None
    if columns is not None:
        return read_columns(columns, dataclasses.replace(options, target=source[1] if options.target is None else options.target))
    return _with_columns(read_arrays(source, options), source[0])


def _with_columns(data: Dataset, given: Any) -> Dataset:
    """Return the data with the names of the columns of X, or of its parts, that are data frames."""
    if isinstance(given, Mapping) and isinstance(data.items, Parts):
        named = {str(name): _named_columns(values) for name, values in given.items()}
        facts = [column_facts(column, values, use=input_use(name)) for name, own in named.items() for column, values in own.items()]
        columns = {name: tuple(own) for name, own in named.items() if tell_apart(tuple(own))}
        return dataclasses.replace(data, items=dataclasses.replace(data.items, columns=columns), table=tuple(facts))
    return _of_columns(data, _named_columns(given) if data.has_rows else {})


def _of_columns(data: Dataset, named: Mapping[str, Any]) -> Dataset:
    return dataclasses.replace(data, table=tuple(column_facts(name, values, use=PART_OF_EXAMPLE) for name, values in named.items()))


def _named_columns(given: Any) -> dict[str, np.ndarray]:
    """Return the columns of a data frame by name; empty if some share a name, and for anything else: they are read by position."""
    two = is_frame(given) and len(getattr(given, "shape", ())) == 2
    if not two or len({*map(str, given.columns)}) < given.shape[1]:
        return {}
    return {str(name): as_numpy(given[name]) for name in given.columns}


def _index_notes(source: Any, options: ReadOptions) -> Iterator[str]:
    """Yield a note for each pandas object beside a data frame or Series of examples whose index is not that of the examples; a warning if
    the same rows stand in another order."""
    pair = isinstance(source, tuple | list) and len(source) == 2
    index: Any = getattr(source[0] if pair else source, "index", None)
    beside = {"target": options.target, "group": options.group, "condition": options.condition, "sample_weight": options.weight}
    for name, values in (({"y": source[1]} if pair else {}) | beside).items() if hasattr(index, "equals") else ():
        other: Any = getattr(values, "index", None)
        if not hasattr(other, "equals") or index.equals(other):
            continue
        paired = "their rows belong together by position, not by index"
        if len(index) != len(other) or set(index) != set(other):
            yield f"X and {name} have different indices: {paired}"
        else:
            yield (
                f"{WARNING}X and {name} have the same index in different orders; {paired}. If the index says what belongs together, give "
                f"{name}.loc[X.index]; if not, reset_index(drop=True) of both ends this warning."
            )


def _read_path(path: Path, options: ReadOptions) -> Dataset:
    wrong = missing_data(path)
    if wrong:
        raise DataError(wrong)
    found = matching(path)
    if found:
        return _read_path(found[0], options) if len(found) == 1 and options.target is None else _read_files(path, found, options=options)
    if path.is_dir():
        return read_folder(path, options)
    streamed = _streamed(path, options)
    if streamed is not None:
        return streamed
    if path.suffix.lower() in TABLE_EXTENSIONS:
        return read_table(path, options)
    if path.suffix.lower() in ARRAY_EXTENSIONS:
        items, labels, note = array_file(path, options.target)
        data = read_arrays((items, labels), dataclasses.replace(options, target=None))
        return dataclasses.replace(data, notes=(note, *data.notes))
    known = ", ".join((*TABLE_EXTENSIONS, *ARRAY_EXTENSIONS, ".tar")).replace(".gz", ".csv.gz")
    alone = "" if kind_of(path) is None else "A data set of such files is a folder with a folder of them for each class."
    raise DataError(
        f"{printable(path)} cannot be read as data; expected a folder, or a file with one of {known}. {how_else(path)}{alone}".strip()
    )


def _read_address(url: str, options: ReadOptions) -> Dataset:
    """Read data at an address. Pictures are fetched when needed, tables and arrays at once."""
    streamed = _streamed(url, options)
    if streamed is not None:
        return streamed
    if suffix_of(url) in (*TABLE_EXTENSIONS, *ARRAY_EXTENSIONS):
        with fetched(url) as path:
            return _read_path(path, options)
    labels = None if options.target is None else as_numpy(options.target)
    return read_examples(pictures_at(url, labels), dataclasses.replace(options, target=None))


def _streamed(source: str | Path, options: ReadOptions) -> Dataset | None:
    """Return the pictures in a WebDataset tar or a Parquet file; None for any other source."""
    found = None
    if suffix_of(source) == ".tar":
        found = pictures_in_tar(source)
    elif suffix_of(source) == ".parquet" and (options.target is None or isinstance(options.target, str)):
        found = pictures_in_parquet(source, options.target)
    return None if found is None else read_examples(found, dataclasses.replace(options, target=None))


def _read_files(pattern: Path, paths: list[Path], *, options: ReadOptions) -> Dataset:
    """Read the files that match a pattern. Their labels are given, or are the names of their folders."""
    tables = [path for path in paths if path.suffix.lower() in TABLE_EXTENSIONS]
    labels, notes = options.target, []
    if tables:
        raise DataError(f"The pattern {printable(pattern)} fits {len(tables)} tables: {listed(tables)}; expected one.")
    if labels is None:
        labels, notes = [path.parent.name for path in paths], ["the classes are the names of the folders that the files lie in"]
        if len(set(labels)) < 2:
            raise DataError(
                f"The pattern {printable(pattern)} fits {counted(len(paths), 'file')} of one folder; expected those of two or more, whose "
                "names are the classes, or target=, an array with the label of each file."
            )
    kind = kind_of_files(paths, pattern, kind=str(options.kind) if options.kind else None)
    if any(kind_of(path) != kind for path in paths):
        raise DataError(f"The pattern {printable(pattern)} fits files that are not {kind} files. Narrow it, such as by '*.png'.")
    items = array_items(paths) if kind == "array" else paths
    data = read_arrays((items, labels), dataclasses.replace(options, target=None, kind=kind))
    return dataclasses.replace(data, notes=(*notes, *data.notes))


def _class_names(classes: Iterable[str] | Mapping[str, Iterable[str]] | None) -> dict[str | None, tuple[str, ...]] | None:
    if classes is None:
        return None
    named = classes.items() if isinstance(classes, Mapping) else [(None, classes)]
    return {task: checked_classes(names) for task, names in named}


def _again(data: Dataset, options: ReadOptions) -> Dataset:
    """Return the data set with the given options in place of its own values."""
    beside = ExampleFacts.of(options, len(data))
    data = dataclasses.replace(data, kind=str(options.kind or data.kind), **beside.given())
    if options.target is not None:
        several = isinstance(options.target, Mapping)
        if not several and (len(options.target) != len(data) or isinstance(options.target, str)):
            raise DataError(
                f"target has {counted(len(options.target), 'label')} for {counted(len(data), 'example')}; expected an array of one for "
                "each example."
            )
        tasks = targets_by_task(options.target, options, count=len(data))
        data = with_tasks(data, tasks, skip_bad=options.skip_bad)
    elif options.task is not None:
        wanted = options.task if isinstance(options.task, Mapping) else {data.name: options.task}
        for name, asked in wanted.items():
            data = data.as_task(asked, name=name)
    for task, classes in (options.classes or {}).items():
        data = data.with_classes(classes, task)
    return data
