"""Folders of format 1: the names in them of the layers and parameters of an edited PyTorch network."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch.nn import Module

from ..edits import AddedBiases, Codes, Cut, Edit, FoldedCode, Taps
from ..parts.coding import Coding
from ..parts.structure import below
from ..parts.taps import Tap
from .conditioned import CodedNetwork
from .graft import Graft, find_graft


def former_names(module: Module) -> dict[str, str]:
    """Return the former name of each layer, parameter and buffer of an edited `module`, by its present one; empty without edits."""
    found, moved, start = dict[str, str](), dict[str, str](), ""
    while isinstance(module, Graft):
        moved |= module.former_layers
        for name, attribute in module.parts().items():
            for inside in _names_in(getattr(module, attribute)):
                present = f"{name}.{inside}".rstrip(".")
                former = attribute + _moved(present, moved)[len(name) :]
                found[present] = start + module.former_parts.get(former, former)
        start, module = f"{start}{module.former}.", module.network
    return found | {name: f"{start}{_moved(name, moved)}".rstrip(".") for name in _names_in(module)} if start else {}


def _names_in(module: Module) -> set[str]:
    return {name for name, _ in module.named_modules(remove_duplicate=False)} | {*module.state_dict()}


def _moved(name: str, known: Mapping[str, str]) -> str:
    """Return a name with its known prefix replaced."""
    old = next((old for old in known if below(name, old)), None)
    return name if old is None else f"{known[old]}.{name.removeprefix(old).removeprefix('.')}".strip(".")


def present_names(module: Module) -> dict[str, str]:
    """Return the present name of each layer, parameter and buffer of an edited `module`, by its former one."""
    return {former: present for present, former in former_names(module).items()}


def with_present_names(edit: Edit, module: Module) -> Edit:
    """Return an edit from a folder of format 1 with the present names; `module` is the network before the edit."""
    names = present_names(module)
    match edit:
        case Cut():
            return replace(edit, block=names.get(edit.block, edit.block))
        case Taps():
            return replace(edit, points=tuple(Tap(names.get(tap.block, tap.block), tap.pools) for tap in edit.points))
        case AddedBiases():
            return replace(edit, layers=tuple(names.get(name, name) for name in edit.layers))
        case Codes():
            return replace(edit, coding=replace(edit.coding, points=tuple(names.get(name, name) for name in edit.coding.points)))
        case FoldedCode():
            coded = find_graft(module, CodedNetwork)
            names = names if coded is None else present_names(coded.network)
            return replace(edit, biased=tuple(names.get(name, name) for name in edit.biased))
    return edit


def with_present_facts(facts: Mapping[str, Any], module: Module, *, coding: Coding | None) -> dict[str, Any]:
    """Return the facts of `regraft.json` in a folder of format 1 with the present names; `module` and `coding` are the opened network's."""
    names, told = present_names(module), facts.get("coding")
    heads = [{**head, "layer": names.get(head["layer"], head["layer"])} for head in facts["heads"]]
    fresh = [names.get(name, name) for name in facts.get("fresh", ())]
    return {**facts, "heads": heads, "fresh": fresh, "coding": {**told, "points": list(coding.points)} if told and coding else told}
