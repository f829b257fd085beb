"""Class names: comparison and lookup."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

from ..errors import NetworkError, near_names


def exact_name(name: object) -> str:
    """Return the form by which class names are compared: Unicode NFC, trimmed."""
    return unicodedata.normalize("NFC", str(name)).strip()


def normal_name(name: object) -> str:
    """Return the form for case-insensitive lookup: `exact_name`, case-folded."""
    return exact_name(name).casefold()


def rows_of(names: Iterable[str], known: Sequence[str]) -> dict[str, int]:
    """Return the row in `known` of each name that is found: exactly, or else case-insensitively.
    The case-insensitive match requires that exactly one of `names` and one of `known` have that spelling, so that no two names share a
    row."""
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
    """Return the class names as strings; an empty name or a duplicate is an error."""
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
    """Return the row of the class called `name`; case is ignored if the match is unique."""
    found = rows_of([name], classes)
    if found:
        return found[name]
    if not classes:
        raise NetworkError(f"No class is called {name!r}: this network has no class names; give them with classes=.")
    raise NetworkError(f"No class is called {name!r}{near_names(str(name), classes)}")
