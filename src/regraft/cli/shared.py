"""What the commands share: the door to the library, options, and how results are printed."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import DataError, InputError

__all__ = ["checked_kind", "class_names", "library", "opened", "print_json", "read_data", "size_of"]


def library(room: str = "") -> Any:
    """Return the library, or one of its rooms.

    The commands import it here, when one runs, and not at the top of their files: torch takes seconds to import, and
    `regraft --help` must not wait for it.

    Args:
        room: such as "data" or "report"; "" for `regraft` itself.

    Returns:
        The module.
    """
    return importlib.import_module(f"regraft.{room}" if room else "regraft")


def class_names(path: Path | None) -> list[str] | None:
    """Read class names, one a line or as a JSON list.

    Args:
        path: the file, or None.

    Returns:
        The names in order; None without a file.

    Raises:
        InputError: if the file cannot be read or holds no names.
    """
    if path is None:
        return None
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix.lower() == ".json" else text.splitlines()
    except (OSError, ValueError) as error:
        raise InputError(f"The class names in {str(path)!r} cannot be read: {error}. Expected one name a line, or a .json list.") from error
    names = [str(name).strip() for name in found if str(name).strip()] if isinstance(found, list) else []
    if not names:
        raise InputError(f"{str(path)!r} holds no class names; expected one name a line, or a .json list.")
    return names


def opened(source: str, weights: Path | None = None, *, source_classes: Path | None = None) -> Any:
    """Open a network.

    Args:
        source: as `regraft.load` takes it.
        weights: a weights-only file put into it.
        source_classes: file with the class names of its rows.

    Returns:
        The network.
    """
    return library().load(source, weights=weights, classes=class_names(source_classes))


def read_data(source: str, *, target: list[str] | None = None, **options: Any) -> Any:
    """Read the data that a command was given.

    Args:
        source: a folder, CSV or Parquet file.
        target: columns; one is handed on as a name, several as a list (multi-label).
        options: as `regraft.read` takes them; those that are None are left out.

    Returns:
        The data set.
    """
    given = {name: value for name, value in options.items() if value is not None}
    if target:
        given["target"] = target[0] if len(target) == 1 else target
    return library().read(source, **given)


def checked_kind(network: Any, data: Any) -> None:
    """Raise unless a network takes items of the kind that the data have.

    Args:
        network: with its preprocessing.
        data: the data set.

    Raises:
        DataError: naming both kinds.
    """
    kind = network.preprocessing.kind
    if data.kind not in (kind, "array"):
        raise DataError(f"The network takes items of the kind {kind!r}; received data of the kind {data.kind!r}.")


def print_json(content: Mapping[str, Any] | list[Any]) -> None:
    """Print `content` as JSON on stdout."""
    print(json.dumps(content, ensure_ascii=False, indent=1, default=str))


def size_of(count: float) -> str:
    """Return `count` bytes for people, such as "12.5 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
