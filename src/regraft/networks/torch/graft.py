"""One kind of wrapper for every edit of a PyTorch network: what it adds gets names of its own, what was there keeps its names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar, cast

from torch.nn import Module

from ..parts.structure import below

__all__ = [
    "Graft",
    "find_graft",
    "for_exporter_",
    "former_name",
    "grafts",
    "module_at",
    "present_name",
    "set_submodule_",
    "within",
    "without",
]

G = TypeVar("G", bound="Graft")

_NETWORK = "network"


class Graft(Module):
    """A network with one edit. To every reader of names it is the network itself, with the parts of the edit beside its children.

    `named_modules`, `named_parameters`, `get_submodule`, `state_dict` and `load_state_dict` name the layers of the network as the network
    does. A part is called by its attribute; where the network has a child of that name, a number is added. The name "" stands for the
    innermost network, which is the user's own module.

    Attributes:
        network: the network, which may be a graft as well.
    """

    network: Module
    inside: ClassVar[frozenset[str]] = frozenset()
    """Attributes of those parts that are called while the network runs."""
    former: ClassVar[str] = _NETWORK
    """What stood before the names of the network's layers in folders of format 1."""
    former_parts: ClassVar[Mapping[str, str]] = {}
    """Names within this module -> those in folders of format 1, where they differ."""
    former_layers: Mapping[str, str] = {}
    """Names in the network -> those in folders of format 1, where they differ."""

    as_built = False
    """Whether PyTorch is given the names by which attributes lead to a module: its exporter needs them."""

    def __init__(self, network: Module, **before: Module) -> None:
        super().__init__()
        for attribute, part in before.items():
            self.add_module(attribute, part)
        self.network = network

    def parts(self) -> dict[str, str]:
        """Return the name of each part of the edit -> its attribute."""
        taken, found = set(_names_in(self.network)), dict[str, str]()
        for attribute in self._modules:
            if attribute != _NETWORK:
                found[_free(attribute, taken)] = attribute
        return found

    def name_of(self, attribute: str) -> str:
        """Return the name of the part that is this `attribute`."""
        return next(name for name, own in self.parts().items() if own == attribute)

    def named_modules(  # over the limit: the signature is PyTorch's
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Yield the modules with their names, this one and the network both as ""."""
        memo = set() if memo is None else memo
        if self.as_built:
            yield from super().named_modules(memo, prefix, remove_duplicate)
            return
        if self in memo:
            return
        if remove_duplicate:
            memo.add(self)
        yield prefix, self
        names = {attribute: name for name, attribute in self.parts().items()}
        for attribute, part in self._modules.items():
            inside = prefix if attribute == _NETWORK else f"{prefix}.{names[attribute]}" if prefix else names[attribute]
            if part is not None:
                yield from part.named_modules(memo, inside, remove_duplicate)

    def get_submodule(self, target: str) -> Module:
        """Return the module called `target`, as `named_modules` names it."""
        return super().get_submodule(target) if self.as_built else module_at(self, target)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return the state by the names of `named_modules`.

        `destination`: receives the state; None for a new mapping.
        """
        if self.as_built:
            return super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        names = {attribute: f"{prefix}{name}." for name, attribute in self.parts().items()}
        for attribute, part in self._modules.items():
            if part is not None:
                inside = names.get(attribute, prefix)
                destination = part.state_dict(*args, destination=destination, prefix=inside, keep_vars=keep_vars)
        return destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Put the names under which PyTorch looks for what is in here in the place of those of `state_dict`."""
        parts = self.parts()
        for key in [] if self.as_built else [key for key in state_dict if key.startswith(prefix)]:
            first, dot, rest = key.removeprefix(prefix).partition(".")
            inside = f"{parts[first]}{dot}{rest}" if first in parts else f"{_NETWORK}.{first}{dot}{rest}"
            state_dict[prefix + inside] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _free(name: str, taken: set[str]) -> str:
    """Return a name that is not `taken`, and take it."""
    free = next(one for one in (name, *(f"{name}_{number}" for number in range(2, 2 + len(taken) + 1))) if one not in taken)
    taken.add(free)
    return free


def _names_in(module: Module) -> list[str]:
    """Return the names of what a module holds itself."""
    if isinstance(module, Graft):
        return [*_names_in(module.network), *module.parts()]
    return [*module._modules, *module._parameters, *module._buffers]


def grafts(module: Module) -> list[Graft]:
    """Return the edits around a network, outermost first, of a `module` with or without them."""
    found = []
    while isinstance(module, Graft):
        found.append(module)
        module = module.network
    return found


def for_exporter_(module: Module) -> None:
    """Let a private copy of a `module` have the names that PyTorch's exporter can follow from attribute to attribute."""
    for graft in grafts(module):
        graft.as_built = True


def module_at(root: Module, name: str) -> Module:
    """Return the module called `name` in a `root` with edits or without: "" is the network without its edits."""
    first, _, rest = name.partition(".")
    while isinstance(root, Graft):
        attribute = root.parts().get(first)
        if attribute is not None:
            return cast(Module, getattr(root, attribute)).get_submodule(rest)
        root = root.network
    return root.get_submodule(name)


def find_graft(module: Module, kind: type[G]) -> G | None:
    """Return the outermost edit of a `kind` around the network in a `module`; None without one."""
    return next((graft for graft in grafts(module) if isinstance(graft, kind)), None)


def without(module: Module, edit: Graft, *, by: Module | None = None) -> Module:
    """Return a private copy of a module without one of the edits around it.

    `by`: what comes in its place; None for the network in it.
    """
    if module is edit:
        return edit.network if by is None else by
    outer = next(graft for graft in grafts(module) if graft.network is edit)
    outer.network = edit.network if by is None else by
    return module


def former_name(module: Module, name: str) -> str:
    """Return what folders of format 1 call the layer or parameter that is now called `name` in a `module` with edits."""
    start = ""
    while isinstance(module, Graft):
        first, dot, rest = name.partition(".")
        attribute = module.parts().get(first)
        if attribute is not None:
            inside = f"{attribute}{dot}{rest}"
            return start + module.former_parts.get(inside, inside)
        name = _moved(name, module.former_layers)
        start, module = f"{start}{module.former}.", module.network
    return f"{start}{name}".rstrip(".")


def present_name(module: Module, name: str) -> str:
    """Return what the layer, block or parameter that folders of format 1 call `name` is called in a `module` with the same edits."""
    moved = dict[str, str]()
    while isinstance(module, Graft):
        if not name or not below(name, module.former):
            known = {former: present for present, former in module.former_parts.items()}
            attribute, dot, rest = known.get(name, name).partition(".")
            names = {own: visible for visible, own in module.parts().items()}
            return f"{names.get(attribute, attribute)}{dot}{rest}"
        name = name.removeprefix(module.former).removeprefix(".")
        moved |= {former: present for present, former in module.former_layers.items()}
        module = module.network
    return _moved(name, moved)


def _moved(name: str, known: Mapping[str, str]) -> str:
    """Return a name whose beginning is one of those `known` with the other one in its place."""
    old = next((old for old in known if below(name, old)), None)
    return name if old is None else f"{known[old]}.{name.removeprefix(old).removeprefix('.')}".strip(".")


def within(module: Module) -> list[str]:
    """Return the names of those parts of the edits around a network that are called while it runs, of a `module` with or without them."""
    return [name for graft in grafts(module) for name, attribute in graft.parts().items() if attribute in graft.inside]


def set_submodule_(root: Module, name: str, *, module: Module) -> Module:
    """Put a module at the place called `name` in the tree below `root`; return the root: the module itself where the name is ""."""
    parent, _, child = name.rpartition(".")
    holder = module_at(root, parent) if parent else root
    while isinstance(holder, Graft) and child not in holder.parts():
        if not name and not isinstance(holder.network, Graft):
            child = _NETWORK
            break
        holder = holder.network
    if not child:
        return module
    setattr(holder, holder.parts().get(child, child) if isinstance(holder, Graft) else child, module)
    return root
