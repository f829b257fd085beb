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
        members: dict[tuple[str, str], list[tuple[int, str]]] = {}  # container and stem -> number and name of each layer
        paths: list[list[tuple[str, str, str]]] = []  # container, stem and name of each part above a weight
        for weight in weights:
            parent, path, leaf_depth = "", [], weight.layer.count(".")
            for depth, part in enumerate(weight.name.split(".")[:-1]):
                base, number = _address(part, bases)
                forced = _snake(weight.kind) if depth == leaf_depth else "container" if depth < leaf_depth else ""
                if everything and forced:
                    base, number = forced, 0  # members are then ordered as listed
                path.append((parent, base, part))
                if base and (number, part) not in members.setdefault((parent, base), []):
                    members[parent, base].append((number, part))
                parent = f"{parent}.{part}"
            paths.append(path)
        self.names: list[str] = []
        self.counts: dict[tuple[str, str], int] = {}  # number of layers by container and auto-generated stem
        self._keys: list[list[tuple[str, str]]] = []  # containers and stems of the auto-generated parts of each name
        for weight, path in zip(weights, paths, strict=True):
            place, keys = "", []
            for parent, base, part in path:
                if base:
                    alike = [name for _, name in sorted(members[parent, base], key=lambda member: member[0])]
                    keys.append((place, base))
                    self.counts[place, base] = len(alike)
                place = f"{place}.{base}#{alike.index(part)}" if base else f"{place}.{part}"
            self.names.append(f"{place}.{weight.name.rpartition('.')[2]}"[1:])
            self._keys.append(keys)

    def doubtful(self, other: Places) -> set[tuple[str, str]]:
        """Return the containers and stems for which the two sides have different numbers of layers."""
        return {key for key in self.counts.keys() | other.counts.keys() if self.counts.get(key, 0) != other.counts.get(key, 0)}

    def reached(self, index: int, doubtful: Collection[tuple[str, str]]) -> tuple[str, str] | None:
        """Return the first doubtful container and stem in the name of a weight, or None."""
        return next((key for key in self._keys[index] if key in doubtful), None)


def _address(part: str, bases: Collection[str]) -> tuple[str, int]:
    """Return the stem and number of an auto-generated name; ("", 0) for a chosen name."""
    found = re.fullmatch(r"(.*?)(?:_(\d+))?", part)
    base, number = (found.group(1), int(found.group(2) or 0)) if found else (part, 0)
    return (base, number) if base in bases else ("", 0)
