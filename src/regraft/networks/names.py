"""Class names: how they compare, and finding one."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from ..errors import NetworkError, near_names

__all__ = ["checked_classes", "exact_name", "index_of", "normal_name", "rows_of"]


def exact_name(name: object) -> str:
    """Return the form of a name in which class names are the same or different: Unicode NFC, trimmed."""
    return unicodedata.normalize("NFC", str(name)).strip()


def normal_name(name: object) -> str:
    """Return the form of a name in which one spelling may stand for another: as `exact_name`, case-folded."""
    return exact_name(name).casefold()


def rows_of(names: Iterable[str], known: Sequence[str]) -> dict[str, int]:
    """Return the row of each name that is among class names: exactly, else but for its case where only one fits.

    Result: Name -> row, without those that are not found. A name is found but for its case only where one of `names` and one of `known`
    have that spelling, so that no two names find one row.
    """
    names = tuple(names)
    exact = {exact_name(name): row for row, name in enumerate(known)}
    folded = {normal_name(name): row for row, name in enumerate(known)}
    fitting = [Counter(map(normal_name, {exact_name(name) for name in side})) for side in (names, known)]
    found: dict[str, int] = {}
    for name in names:
        form = normal_name(name)
        if exact_name(name) in exact:
            found[name] = exact[exact_name(name)]
        elif all(side[form] == 1 for side in fitting):
            found[name] = folded[form]
    return found


def checked_classes(classes: Iterable[object]) -> tuple[str, ...]:
    """Return class names as strings in their order."""
    names = tuple(str(name) for name in classes)
    if not names:
        raise NetworkError("The list of classes is empty; expected at least one class name.")
    seen: dict[str, str] = {}
    for name in names:
        key = exact_name(name)
        if not key:
            raise NetworkError(f"A class name is empty: received {name!r} among {len(names)} names.")
        if key in seen:
            raise NetworkError(f"Two class names are the same once trimmed: {seen[key]!r} and {name!r}. Rename one.")
        seen[key] = name
    return names


def index_of(name: str, classes: Sequence[str]) -> int:
    """Return the row of the class called `name`, exactly or, where only one fits, but for its case."""
    found = rows_of([name], classes)
    if found:
        return found[name]
    if not classes:
        raise NetworkError(f"No class is called {name!r}: this network has no class names; give them with classes=.")
    raise NetworkError(f"No class is called {name!r}{near_names(str(name), classes)}")
