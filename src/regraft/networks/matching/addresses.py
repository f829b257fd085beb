"""Names that Keras makes by itself ("dense_3") say only which layer of its class is meant."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence

from .weights import Weight

__all__ = ["Places", "address_bases"]

_CONTAINERS = frozenset({"sequential", "functional", "model"})
_RECURRENT = frozenset({"lstm", "gru", "simple_rnn", "conv_lstm1d", "conv_lstm2d"})


def _snake(kind: str) -> str:
    """Return the name that Keras derives from a class: "BatchNormalization" -> "batch_normalization"."""
    spaced = re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", kind))
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", spaced).lower()


def address_bases(weights: Iterable[Weight]) -> frozenset[str]:
    """Return what self-made layer names begin with; empty where no layer class is known (PyTorch names are not self-made)."""
    kinds = {_snake(weight.kind) for weight in weights if weight.kind}
    if not kinds:
        return frozenset()
    wrapped = {f"{way}_{kind}" for way in ("forward", "backward") for kind in _RECURRENT} | {f"{kind}_cell" for kind in _RECURRENT}
    return frozenset(kinds | _CONTAINERS | _RECURRENT | wrapped)


class Places:
    """The names of one side, with addresses replaced by places ("dense_7" -> "dense#2": the third Dense layer there)."""

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
        """Return how many layers of each self-made name there are in each container."""
        return {(self._canonical[parent], base): len(members) for (parent, base), members in self._members.items()}

    def doubtful(self, other: Places) -> set[tuple[str, str]]:
        """Return the self-made names whose numbers of layers differ."""
        mine, theirs = self.counts(), other.counts()
        return {key for key in mine.keys() | theirs.keys() if mine.get(key, 0) != theirs.get(key, 0)}

    def reached(self, index: int, doubtful: Collection[tuple[str, str]]) -> tuple[str, str] | None:
        """Return the first doubtful layer name through which a weight's name goes."""
        keys = ((self._canonical[parent], base) for parent, base in self._paths[index] if base)
        return next((key for key in keys if key in doubtful), None)


def _forced(weight: Weight, depth: int, *, leaf_depth: int) -> str:
    """Return what a part of a name counts as where all names are addresses: its class; parts inside a layer keep their names."""
    if depth < leaf_depth:
        return "container"
    return _snake(weight.kind) if depth == leaf_depth else ""


def _address(part: str, bases: Collection[str], *, forced: str) -> tuple[str, int]:
    """Return base and running number of a self-made name, ("", 0) for a name that somebody chose."""
    if forced:
        return forced, 0  # the order in which they are listed decides
    found = re.fullmatch(r"(.*?)(?:_(\d+))?", part)
    base, number = (found.group(1), int(found.group(2) or 0)) if found else (part, 0)
    return (base, number) if base in bases else ("", 0)
