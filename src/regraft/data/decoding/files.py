"""Files of data sets: kinds by extension, and search below a folder."""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from ...errors import DataError
from ...files.text import natural_key, printable
from ...words import counted
from ..items import listed

EXTENSIONS = {
    "image": (".png", ".jpg", ".jpeg", ".jfif", ".jp2", ".avif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"),
    "audio": (".wav", ".flac", ".ogg", ".mp3", ".aiff", ".aif", ".au", ".opus", ".oga", ".gsm"),
    "array": (".npy",),
}
MOST_VISITS = 16  # Maximum number of visits to a folder through links; without it a few links could form an endless tree
_OF_SYSTEMS = frozenset({
    "Thumbs.db", "ehthumbs.db", "desktop.ini", "$RECYCLE.BIN", "System Volume Information", "__MACOSX", "lost+found",
    "@eaDir", "#recycle", "#snapshot", "@Recycle", "@Recently-Snapshot",
})  # fmt: skip
"""Files and folders that operating systems and network drives (second line) put beside the user's: copies of pictures in small, and what
was deleted."""
_KIND_OF = {extension: kind for kind, extensions in EXTENSIONS.items() for extension in extensions}


def kind_of(path: Path) -> str | None:
    """Return the kind of a file by its extension: "image", "audio", "array" (one example per file), or None."""
    return _KIND_OF.get(path.suffix.lower())


def existing_folder(path: Path, what: str) -> Path:
    """Return the folder; raise if it does not exist or is a file."""
    if not path.exists():
        raise DataError(f"{what} does not exist: {printable(path)}. Check the path; relative paths start at {Path.cwd()}.")
    if not path.is_dir():
        raise DataError(f"{what} is a file: {printable(path)}; expected a folder.")
    return path


def files_below(folder: Path) -> list[Path]:
    """Return all files below a folder, in natural order."""
    return sorted(_walk(folder), key=lambda path: natural_key(path.relative_to(folder).as_posix()))


def _walk(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder. A link back to a parent folder is not followed."""
    visits: Counter[tuple[int, int]] = Counter()
    waiting = [(folder, frozenset(_place(parent) for parent in Path(os.path.realpath(folder)).parents))]
    while waiting:
        parent, above = waiting.pop()
        try:
            place, entries = _place(parent), [entry for entry in os.scandir(parent) if not is_hidden(entry.name)]
        except OSError:  # a folder without read permission, such as lost+found
            continue
        if place in above or visits[place] == MOST_VISITS:
            continue
        visits[place] += 1
        for entry in entries:
            if os.path.isdir(entry) if entry.is_symlink() else entry.is_dir():
                waiting.append((Path(entry.path), above | {place}))
            else:
                yield Path(entry.path)


def _place(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino


def is_hidden(name: str) -> bool:
    """Return whether a file or folder belongs to the operating system, not to the user."""
    return name.startswith(".") or name in _OF_SYSTEMS


def kind_of_files(paths: Iterable[Path], where: Path, *, kind: str | None) -> str:
    """Return the single kind of the files. `kind`: the user's choice, or None."""
    files = list(paths)
    kinds = [kind_of(path) for path in files]
    found = {known: kinds.count(known) for known in EXTENSIONS if known in kinds}
    if len(found) > 1 and kind is None:
        found.pop("array", None)  # arrays beside other files are taken for derived data
    if kind in found:
        return str(kind)
    if len(found) == 1 and kind is None:
        return next(iter(found))
    if found and kind is None:
        counts = " and ".join(counted(count, f"{known} file") for known, count in found.items())
        raise DataError(f"{printable(where)} holds {counts}; expected one kind. Say which with kind=, or separate them.")
    present = sorted({path.suffix.lower() or "no extension" for path in files})
    wanted = [extension for known in ([kind] if kind in EXTENSIONS else EXTENSIONS) for extension in EXTENSIONS[str(known)]]
    texts = " Texts are read from a table, such as a CSV with a column of texts and one of labels." if ".txt" in present else ""
    held = f"no file of a known kind: {counted(len(files), 'file')} with {listed(present)}" if files else "folders, and no file in them"
    raise DataError(f"{printable(where)} holds {held}; expected {listed(wanted, 20)}.{texts}")
