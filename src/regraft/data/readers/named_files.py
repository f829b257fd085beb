"""Lookup of the files that a table names, limited to one folder unless the user allows more."""

import functools
import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path

from ...errors import UnsafeFileError
from ...files.text import printable
from ...words import counted
from ..decoding.files import files_below, kind_of
from ..items import listed


class FilesBelow:
    """Images and audio files below a folder. They are found by path, or without extension or folder if the match is unique.
    `folder`: the folder of the files. `outside`: whether a name may leave the folder: as an absolute path, by "..", or through a link."""

    def __init__(self, folder: Path, *, outside: bool) -> None:
        self.folder, self.outside = folder, outside
        self.paths = [path for path in files_below(folder) if kind_of(path)]
        self._known = frozenset(self.paths)
        self._exact = {path.relative_to(folder).as_posix(): path for path in self.paths}
        self._loose: dict[str, list[Path]] = {}
        for relative, path in self._exact.items():
            for key in {str(Path(relative).with_suffix("").as_posix()), path.name, path.stem}:
                self._loose.setdefault(key, []).append(path)
        self._root = os.path.realpath(folder)
        self._start = Path(os.path.abspath(folder)).as_posix().rstrip("/") + "/"
        self._real_folder = functools.cache(os.path.realpath)

    def find(self, value: str) -> Path | None:
        """Return the file that a table value names; None if there is none."""
        text = self._inner(value)
        if self.outside and _leaves(text) and kind_of(Path(text)) and os.path.isfile(self.folder / text):
            return self.folder / text
        found = self._loosely(text)
        return self._exact.get(text) or (found[0] if len(found) == 1 else None)

    def fitting(self, value: str) -> list[str]:
        """Return the paths, within the folder, of several files that match a value; empty if one matches exactly or uniquely."""
        text = self._inner(value)
        found = [] if text in self._exact else self._loosely(text)
        return [path.relative_to(self.folder).as_posix() for path in found] if len(found) > 1 else []

    def _loosely(self, text: str) -> list[Path]:
        whole = self._loose.get(text, [])
        return whole if len(whole) == 1 else self._loose.get(text.rsplit("/", 1)[-1], whole)

    def leads_out(self, value: str) -> bool:
        """Return whether a value names an image or audio file outside the folder."""
        text = self._inner(value)
        return _leaves(text) and kind_of(Path(text)) is not None

    def check(self, values: Sequence[str], found: Sequence[Path | None], *, table: str) -> tuple[str, ...]:
        """Raise if a file outside the folder would be opened without permission.
        The result is a note on names that lead outside but were found in the folder by file name alone."""
        if self.outside:
            return ()
        leading = [value for value, path in zip(values, found, strict=True) if (self._is_linked(path) if path else self.leads_out(value))]
        if leading:
            raise UnsafeFileError(
                f"{len(leading)} of {counted(len(values), 'row')} of {table} name files outside {printable(self.folder)}: "
                f"{listed(leading)}. A table from somebody else could name any file of yours; nothing was opened. Give the folder that "
                "holds all files as files=, or allow it with outside=True."
            )
        moved = [value for value in values if self.leads_out(value)]
        return (
            (f"{counted(len(moved), 'name', verb='lead')} outside the folder; the files of that name in it were taken: {listed(moved)}",)
            if moved
            else ()
        )

    def name_of(self, path: Path) -> str:
        """Return the path of a file within the folder; its absolute path if it lies outside."""
        return path.relative_to(self.folder).as_posix() if path in self._known else os.path.abspath(path)

    def unused(self, used: Sequence[Path]) -> list[str]:
        """Return the files of the folder that are not in `used`."""
        taken = set(used)
        return [path.relative_to(self.folder).as_posix() for path in self.paths if path not in taken]

    def _inner(self, value: str) -> str:
        """Return a name as a normalised path with "/", relative to the folder if it lies in it."""
        text = value.strip().replace("\\", "/")
        text = posixpath.normpath(text) if text else text
        return text.removeprefix(self._start)

    def _is_linked(self, path: Path) -> bool:
        """Return whether a file below the folder is a link to a place outside."""
        real = os.path.realpath(path) if path.is_symlink() else os.path.join(self._real_folder(path.parent), path.name)
        return os.path.commonpath([self._root, real]) != self._root


def _leaves(text: str) -> bool:
    """Return whether a path with "/" is absolute, also in Windows form, or leads above its start by ".."."""
    return text == ".." or text.startswith(("../", "/")) or re.match(r"[A-Za-z]:/", text) is not None
