"""Synonyms in class names ("tabby, tabby cat"): find the class that an alternative name means."""

from collections.abc import Iterable, Sequence
from functools import cache

from ..errors import MissingExtraError, optional_import
from ..networks.names import normal_name

_HABIT = 0.25  # Minimum share of names with a comma for commas to mean synonyms. About half of ImageNet's names have one
_IMAGENET = 1000
_SAME = 0.95  # Minimum share of matching names for a list to count as ImageNet's. Libraries have renamed a few (two cranes, two maillots)


def alias_form(name: str) -> str:
    """Return the form of a name for comparing aliases: `normal_name` with underscores as spaces and runs of spaces collapsed."""
    return " ".join(normal_name(name).replace("_", " ").split())


def aliases(classes: Sequence[str]) -> dict[str, int]:
    """Return alias -> class index (0 … C-1), for names without an exact match. Look up a name as `aliases(classes).get(alias_form(name))`.
    Every full name in `alias_form` is an alias of its own class. If at least a quarter of the names contain ", ", the parts between the
    commas are aliases too; in other lists they are not, so "Smith, John" stays one name. If the list is ImageNet-1k's and timm is
    installed, all WordNet lemmas of a class are aliases: torchvision's "tabby", Keras' "golden_retriever" and timm's "tabby, tabby cat" are
    all found. A list is ImageNet-1k's if it has 1,000 names and at least 95 % of them are, or contain, a lemma of the class at their
    position; the remaining names get no lemmas. A full name is never an alias of another class. An ambiguous alias is left out."""
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
    """Return the lemmas of each ImageNet-1k class, each alone and as timm's full name; empty sets without timm."""
    try:
        timm_data = optional_import("timm.data", "vision", purpose="ImageNet's synonyms")
    except MissingExtraError:
        return [frozenset()] * _IMAGENET
    listed = timm_data.ImageNetInfo("imagenet-1k").label_descriptions()
    return [frozenset(map(alias_form, (lemmas, *lemmas.split(", ")))) for lemmas in listed]
