"""Class names: comparison and lookup."""

import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..errors import NetworkError, near_names
from ..words import counted


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


def shifted(names: Sequence[str], known: Sequence[str]) -> str:
    """Return a warning if new class names are whole numbers that count from 1 and the `known` ones from 0, or the reverse; else ""."""
    new, old = (
        next((first for first in (0, 1) if {*side} == {*map(str, range(first, first + len(side)))}), None) for side in (names, known)
    )
    if new is None or old is None or new == old or len(names) != len(known):
        return ""
    return (
        f"Warning: the labels count from {new} and the classes of the network from {old}; class weights are matched by these numbers as "
        "names. If both count the same classes, each class got the weights of its neighbour: shift the labels, or load the network with "
        f"classes= that count from {new}."
    )


def by_number(classes: Any) -> Any:
    """Return the class names of {number: name} or {name: number}, as other libraries hold them, in a list; anything else unchanged."""
    sides = [[*classes], [*classes.values()]] if isinstance(classes, Mapping) else []
    for numbers, names in (sides, sides[::-1]) if sides else ():
        if all(isinstance(number, int) for number in numbers) and sorted(numbers) == [*range(len(numbers))]:
            return [name for _, name in sorted(zip(numbers, names, strict=True))]
    return classes


def checked_classes(classes: Iterable[object]) -> tuple[str, ...]:
    """Return the class names as strings; an empty name or a duplicate is an error."""
    if isinstance(classes, str | bytes) or not isinstance(classes, Iterable):
        raise NetworkError(f"classes={classes!r}; expected the name of each class in a list, such as ['cat', 'dog'] or range(10).")
    names = tuple(str(name) for name in classes)
    if not names:
        raise NetworkError("The list of classes is empty; expected at least one class name.")
    seen: dict[str, str] = {}
    for name in names:
        key = exact_name(name)
        if not key:
            raise NetworkError(f"A class name is empty: received {name!r} among {counted(len(names), 'name')}.")
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
