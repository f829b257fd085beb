"""Auto-generated Keras layer names ("dense_3"): they identify a layer only by its position among the layers of its class."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from .weights import Weight

_CONTAINERS = frozenset({"sequential", "functional", "model"})
_RECURRENT = frozenset({"lstm", "gru", "simple_rnn", "conv_lstm1d", "conv_lstm2d"})


def _snake(kind: str) -> str:
    """Return the name that Keras derives from a class: "BatchNormalization" -> "batch_normalization"."""
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


def address_bases(weights: Iterable[Weight]) -> frozenset[str]:
    """Return the stems of auto-generated layer names; empty if no layer class is known, as for PyTorch, whose names are chosen."""
    kinds = {_snake(weight.kind) for weight in weights if weight.kind}
    if not kinds:
        return frozenset()
    wrapped = {f"{way}_{kind}" for way in ("forward", "backward") for kind in _RECURRENT} | {f"{kind}_cell" for kind in _RECURRENT}
    return frozenset(kinds | _CONTAINERS | _RECURRENT | wrapped)


class Places:
    """Weight names of a file or network with auto-generated parts replaced by positions ("dense_7" -> "dense#2", the third Dense layer)."""

    def __init__(self, weights: Sequence[Weight], bases: Collection[str], *, everything: bool) -> None:
        self._members: dict[tuple[str, str], list[tuple[int, str]]] = {}
        self._paths: list[list[tuple[str, str]]] = []
        rows = [weight.name.split(".") for weight in weights]
        for weight, parts in zip(weights, rows, strict=True):
            parent, path = "", []
            leaf_depth = weight.layer.count(".")
            for depth, part in enumerate(parts[:-1]):
                base, number = _address(part, bases, forced=_forced(weight, depth, leaf_depth=leaf_depth) if everything else "")
                path.append((parent, base))
                if base and (number, part) not in self._members.setdefault((parent, base), []):
                    self._members[parent, base].append((number, part))
                parent = f"{parent}.{part}"
            self._paths.append(path)
        self._canonical: dict[str, str] = {"": ""}
        self.names = [self._place(parts, path) for parts, path in zip(rows, self._paths, strict=True)]

    def _place(self, parts: Sequence[str], path: Sequence[tuple[str, str]]) -> str:
        places = []
        for part, (parent, base) in zip(parts, path, strict=False):
            members = sorted(self._members.get((parent, base), ()), key=lambda member: member[0]) if base else []
            place = f"{base}#{[name for _, name in members].index(part)}" if base else part
            self._canonical[f"{parent}.{part}"] = f"{self._canonical[parent]}.{place}"
            places.append(place)
        return ".".join([*places, parts[-1]])

    def counts(self) -> dict[tuple[str, str], int]:
        """Return the number of layers by container and auto-generated stem."""
        return {(self._canonical[parent], base): len(members) for (parent, base), members in self._members.items()}

    def doubtful(self, other: Places) -> set[tuple[str, str]]:
        """Return the containers and stems for which the two sides have different numbers of layers."""
        mine, theirs = self.counts(), other.counts()
        return {key for key in mine.keys() | theirs.keys() if mine.get(key, 0) != theirs.get(key, 0)}

    def reached(self, index: int, doubtful: Collection[tuple[str, str]]) -> tuple[str, str] | None:
        """Return the first doubtful container and stem in the name of a weight, or None."""
        keys = ((self._canonical[parent], base) for parent, base in self._paths[index] if base)
        return next((key for key in keys if key in doubtful), None)


def _forced(weight: Weight, depth: int, *, leaf_depth: int) -> str:
    """Return the stem of a name part if all names count as auto-generated: its class, or "" for parts inside a layer."""
    if depth < leaf_depth:
        return "container"
    return _snake(weight.kind) if depth == leaf_depth else ""


def _address(part: str, bases: Collection[str], *, forced: str) -> tuple[str, int]:
    """Return the stem and number of an auto-generated name; ("", 0) for a chosen name."""
    if forced:
        return forced, 0  # members are then ordered as listed
    found = re.fullmatch(r"(.*?)(?:_(\d+))?", part)
    base, number = (found.group(1), int(found.group(2) or 0)) if found else (part, 0)
    return (base, number) if base in bases else ("", 0)
