"""Which parameters of a module no training changes: notes at the modules that own them, so that a copy or a wrapper keeps them."""

from __future__ import annotations

from collections.abc import Collection

from torch.nn import Module

__all__ = ["FRESH", "NOTES", "hand_on_", "held_parameters", "mark_", "note_flags_", "release_"]

NOTES = ("_frozen_by_owner", "_frozen_by_plan")
"""Attributes of a module: names of those of its own parameters that its owner, or a plan, has frozen."""
FRESH = "_never_trained"
"""Attribute of a module that was built here and that nothing has trained yet."""


def note_flags_(module: Module) -> None:
    """Take note of the parameters that the owner of a `module` has frozen; later changes of `requires_grad` say nothing of that."""
    mark_(module, {name for name, parameter in module.named_parameters(remove_duplicate=False) if not parameter.requires_grad}, given=True)


def mark_(module: Module, names: Collection[str], *, given: bool) -> None:
    """Take note of exactly these parameters.

    Args:
        module: the whole.
        names: as in its state.
        given: whether its owner froze them; else a plan did.
    """
    note = NOTES[0] if given else NOTES[1]
    for place, part in module.named_modules():
        prefix = f"{place}." if place else ""
        own = frozenset(name for name in part._parameters if prefix + name in names)
        vars(part).pop(note, None)
        if own:
            vars(part)[note] = own


def held_parameters(module: Module, *, given: bool) -> set[str]:
    """Return the names in the state of a `module` of the parameters that its owner froze where that is `given`, else those of a plan."""
    note = NOTES[0] if given else NOTES[1]
    return {f"{place}.{name}" if place else name for place, part in module.named_modules() for name in vars(part).get(note, ())}


def hand_on_(old: Module, new: Module) -> None:
    """Note of a module that takes the place of an `old` one what was noted of that; a parameter that the `new` one has not is left out."""
    for note in NOTES:
        own = vars(old).get(note, frozenset()) & new._parameters.keys()
        if own:
            vars(new)[note] = own


def release_(module: Module) -> None:
    """Forget what was noted of a `module` and of what is in it."""
    for part in module.modules():
        for note in NOTES:
            vars(part).pop(note, None)
