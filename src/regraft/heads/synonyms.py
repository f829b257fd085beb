"""Class lists whose names are lists of synonyms ("tabby, tabby cat"): which other names mean which row."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache

from ..errors import MissingExtraError, optional_import
from ..networks.names import normal_name

__all__ = ["alias_form", "aliases"]

_HABIT = 0.25
"""Share of names with a comma from which commas separate synonyms: about half of ImageNet's have one."""
_IMAGENET = 1000
_SAME = 0.95
"""Share of names that make a list ImageNet's: libraries have renamed a few (two cranes, two maillots)."""


def alias_form(name: str) -> str:
    """Return the form of a name in which aliases compare: as `normal_name`, underscores as spaces, and one space for many."""
    return " ".join(normal_name(name).replace("_", " ").split())


def aliases(classes: Sequence[str]) -> dict[str, int]:
    """Return the names by which rows of a class list can be found where no row has exactly the name that is looked for.

    A full name in `alias_form` finds its own row. Where at least a quarter of the names contain ", ", the parts between are aliases
    too; in a list without that habit they are not, and "Smith, John" stays one name. Where the list is ImageNet-1k's and timm is
    installed, all WordNet lemmas of a class are aliases, so that torchvision's "tabby", Keras' "golden_retriever" and timm's
    "tabby, tabby cat" find the same rows. A list is ImageNet-1k's if it has 1,000 names of which at least 95 % are, or contain, a
    lemma of the class at their position; the others get no lemmas. A full name is never an alias of another row, and an alias
    that could mean two rows is left out.

    Result: alias -> row, 0 … C-1; a name is looked up as `aliases(classes).get(alias_form(name))`.
    """
    full = [alias_form(name) for name in classes]
    parts = [frozenset(map(alias_form, name.split(", "))) - {""} for name in classes]
    others = parts if sum(", " in name for name in classes) >= _HABIT * len(full) else [frozenset()] * len(full)
    known = _imagenet_lemmas() if len(full) == _IMAGENET else [frozenset()] * len(full)
    same = [not lemmas.isdisjoint({name, *split}) for lemmas, name, split in zip(known, full, parts, strict=True)]
    if sum(same) >= _SAME * _IMAGENET:
        others = [names | lemmas if fits else names for names, lemmas, fits in zip(others, known, same, strict=True)]
    taken = set(full)
    return _with_one_row(names - taken for names in others) | _with_one_row({name} for name in full)


def _with_one_row(rows: Iterable[Iterable[str]]) -> dict[str, int]:
    owners: dict[str, set[int]] = {}
    for row, names in enumerate(rows):
        for name in names:
            owners.setdefault(name, set()).add(row)
    return {name: min(held) for name, held in owners.items() if len(held) == 1}


@cache
def _imagenet_lemmas() -> list[frozenset[str]]:
    """Return the lemmas of each ImageNet-1k class, alone and as the whole list that timm shows; empty without timm."""
    try:
        timm_data = optional_import("timm.data", "vision", purpose="ImageNet's synonyms")
    except MissingExtraError:
        return [frozenset()] * _IMAGENET
    listed = timm_data.ImageNetInfo("imagenet-1k").label_descriptions()
    return [frozenset(map(alias_form, (lemmas, *lemmas.split(", ")))) for lemmas in listed]
