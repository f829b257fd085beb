"""Reader for a folder of class folders."""

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from ...errors import DataError
from ...files.text import natural_key, printable
from ...words import counted
from ..dataset import Dataset
from ..decoding.files import existing_folder, files_below, is_hidden, kind_of, kind_of_files
from ..items import listed
from .array_files import array_items
from .targets import ReadOptions, label_array
from .tasks import ExampleFacts, built, targets_by_task

SPLIT_NAMES = {"train", "training", "valid", "val", "validation", "dev", "test", "testing"}


def read_folder(folder: Path, options: ReadOptions) -> Dataset:
    """Read images, audio files or arrays (.npy), one folder for each class; with `target` labels, all files below the folder.
    No file is opened."""
    existing_folder(folder, "The folder of the data")
    files = files_below(folder) if options.target is not None else _class_files(folder)
    files, linked = (files, []) if options.target is not None else _once(files, folder)
    kind = kind_of_files(files, folder, kind=options.kind)
    paths = [path for path in files if kind_of(path) == kind]
    others = [path.relative_to(folder).as_posix() for path in files if kind_of(path) != kind]
    notes = [*linked, *([f"{counted(len(others), 'file')} of another kind than {kind}, not read: {listed(others)}"] if others else [])]
    if options.target is not None:
        if not isinstance(options.target, Mapping):
            label_array(options.target, len(paths), what="target")
        tasks = targets_by_task(options.target, options, count=len(paths))
    else:
        notes += _empty_classes(folder, paths, skip=options.skip_bad)
        tasks = targets_by_task([path.relative_to(folder).parts[0] for path in paths], ReadOptions(), count=len(paths))
    data = built(
        array_items(paths) if kind == "array" else paths,
        kind,
        tasks=tasks,
        beside=ExampleFacts.of(options, len(paths)),
        options=options,
        names=tuple(path.relative_to(folder).as_posix() for path in paths),
        notes=notes,
    )
    classes = options.classes_of(data.name, first=True)
    return data if classes is None else data.with_classes(classes)


def _class_folders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and not is_hidden(path.name)]
    return sorted(found, key=lambda path: natural_key(path.name))


def _class_files(folder: Path) -> list[Path]:
    classes = _class_folders(folder)
    if not classes:
        count = len(files_below(folder))
        raise DataError(
            f"{printable(folder)} has no class folders, but {counted(count, 'file')}; expected one folder for each class. "
            "Move the files, or give their labels in a CSV with files=, or as target=."
            if count
            else f"{printable(folder)} is empty; expected one folder for each class, with its files."
        )
    names = [path.name.lower() for path in classes]
    if set(names) <= SPLIT_NAMES and all(_class_folders(path) for path in classes):
        learned = next((path for path in classes if path.name.lower().startswith("train")), classes[0])
        judges = next((path for path in classes[::-1] if path != learned and path.name.lower().startswith("test")), None)
        judges = judges or next((path for path in classes if path != learned), None)
        other = "" if judges is None else f", and another as test={str(printable(judges))!r}"
        raise DataError(
            f"The folders of {printable(folder)} look like splits, not classes: {listed(names)}. "
            f"Give one of them as the data, such as {printable(learned)}{other}."
        )
    return [path for part in classes for path in files_below(part)]


def _once(files: list[Path], folder: Path) -> tuple[list[Path], list[str]]:
    """Return each file of a class once, even if several links lead to it, and notes on the links."""
    places: dict[tuple[int, int], list[Path]] = {}
    for path in files:
        try:
            facts = path.stat()
        except OSError:  # a broken link raises when it is opened
            continue
        if stat.S_ISREG(facts.st_mode):
            places.setdefault((facts.st_dev, facts.st_ino), []).append(path)
    root, omitted, crossing = os.path.realpath(folder), [], []
    for paths in (paths for paths in places.values() if len(paths) > 1):
        by_class: dict[str, list[Path]] = {}
        for path in sorted(paths, key=lambda one: os.path.realpath(one) != os.path.join(root, one.relative_to(folder))):
            by_class.setdefault(path.relative_to(folder).parts[0], []).append(path)
        omitted += [path for own in by_class.values() for path in own[1:]]
        crossing += [paths[0].relative_to(folder).as_posix()] if len(by_class) > 1 else []
    shown = listed(path.relative_to(folder).as_posix() for path in omitted)
    notes = [f"{counted(len(omitted), 'link')} to files that are read already, not read: {shown}"] if omitted else []
    several_classes = f"{counted(len(crossing), 'file')} in several classes through links: {listed(crossing)}; no network can tell those"
    notes += [several_classes] if crossing else []
    left_out = set(omitted)
    return [path for path in files if path not in left_out], notes


def _empty_classes(folder: Path, paths: list[Path], *, skip: bool) -> list[str]:
    """Return a note on empty class folders if `skip`; otherwise raise if there are any."""
    filled = {path.relative_to(folder).parts[0] for path in paths}
    empty = [path.name for path in _class_folders(folder) if path.name not in filled]
    if empty and not skip:
        raise DataError(
            f"Class folders of {printable(folder)} are empty: {listed(map(repr, empty))}; expected files in each. "
            "Fill or remove them, or leave them out with skip_bad=True."
        )
    return [f"left out empty class folders: {listed(map(repr, empty))}"] if empty else []
