"""Class names: how they compare, and finding one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from ..errors import NetworkError, near_names

__all__ = ["checked_classes", "index_of", "normal_name"]


def normal_name(name: str) -> str:
    """Return the form of a name in which class names compare: Unicode NFC, trimmed, case-folded."""
    return unicodedata.normalize("NFC", str(name)).strip().casefold()


def checked_classes(classes: Iterable[object]) -> tuple[str, ...]:
    """Return class names as strings in their order.

    Args:
        classes: one name a row.

    Returns:
        The names as they were written.

    Raises:
        NetworkError: if there are none, one is empty, or two become one when compared.
    """
    names = tuple(str(name) for name in classes)
    if not names:
        raise NetworkError("The list of classes is empty; expected at least one class name.")
    seen: dict[str, str] = {}
    for name in names:
        key = normal_name(name)
        if not key:
            raise NetworkError(f"A class name is empty: received {name!r} among {len(names)} names.")
        if key in seen:
            raise NetworkError(f"Two class names are the same once trimmed and case-folded: {seen[key]!r} and {name!r}. Rename one.")
        seen[key] = name
    return names


def index_of(name: str, classes: Sequence[str]) -> int:
    """Return the row of the class called `name`.

    Raises:
        NetworkError: if it is not among `classes`; the nearest names are listed.
    """
    wanted = normal_name(name)
    for index, known in enumerate(classes):
        if normal_name(known) == wanted:
            return index
    if not classes:
        raise NetworkError(f"No class is called {name!r}: this network has no class names; give them with classes=.")
    raise NetworkError(f"No class is called {name!r}{near_names(str(name), classes)}")
