"""Graft, the wrapper of every edit of a PyTorch network: its own parts get new names, the network's layers keep theirs."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, TypeVar, cast

from torch.nn import Module

from ..parts.structure import numbered

G = TypeVar("G", bound="Graft")

_NETWORK = "network"


class Graft(Module):
    """A network with one edit. By names it looks like the network itself, with the parts of the edit beside its children.
    `named_modules`, `named_parameters`, `get_submodule`, `state_dict` and `load_state_dict` use the network's own layer names. A part is
    named after its attribute; a number is added if the network has a child of that name. The name "" stands for the innermost network,
    which is the user's own module."""

    network: Module  # the network, which may itself be a graft
    inside: ClassVar[frozenset[str]] = frozenset()  # Attributes of the parts that are called while the network runs
    former: ClassVar[str] = _NETWORK  # Prefix of the network's layer names in format-1 folders
    former_parts: ClassVar[Mapping[str, str]] = {}  # Names in this module -> names in format-1 folders, where they differ
    former_layers: Mapping[str, str] = {}  # Names in the network -> names in format-1 folders, where they differ

    as_built = False  # Whether PyTorch sees the real attribute paths of modules, which its exporter needs

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
                found[free := next(name for name in numbered(attribute, 2) if name not in taken)] = attribute
                taken.add(free)
        return found

    def name_of(self, attribute: str) -> str:
        """Return the name of the part stored in this `attribute`."""
        return next(name for name, own in self.parts().items() if own == attribute)

    def named_modules(  # over the limit: the signature is PyTorch's
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Yield the modules with their names. This module and the network are both ""."""
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
            yield from cast(Module, part).named_modules(memo, inside, remove_duplicate)

    def get_submodule(self, target: str) -> Module:
        """Return the module that `named_modules` calls `target`."""
        return super().get_submodule(target) if self.as_built else module_at(self, target)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return the state under the names of `named_modules`.
        `destination`: mapping to fill; None for a new one."""
        if self.as_built:
            return super().state_dict(*args, destination=destination, prefix=prefix, keep_vars=keep_vars)
        names = {attribute: f"{prefix}{name}." for name, attribute in self.parts().items()}
        for attribute, part in self._modules.items():
            inside = names.get(attribute, prefix)
            destination = cast(Module, part).state_dict(*args, destination=destination, prefix=inside, keep_vars=keep_vars)
        return destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Translate the keys of `state_dict` into the attribute paths that PyTorch looks up."""
        parts = self.parts()
        for key in [] if self.as_built else [key for key in state_dict if key.startswith(prefix)]:
            first, dot, rest = key.removeprefix(prefix).partition(".")
            inside = f"{parts[first]}{dot}{rest}" if first in parts else f"{_NETWORK}.{first}{dot}{rest}"
            state_dict[prefix + inside] = state_dict.pop(key)
        super()._load_from_state_dict(state_dict, prefix, *args)


def _names_in(module: Module) -> list[str]:
    """Return the names of a module's own children, parameters and buffers."""
    if isinstance(module, Graft):
        return [*_names_in(module.network), *module.parts()]
    return [*module._modules, *module._parameters, *module._buffers]


def grafts(module: Module) -> list[Graft]:
    """Return the edits around the network in a `module`, outermost first; empty without edits."""
    found = []
    while isinstance(module, Graft):
        found.append(module)
        module = module.network
    return found


def for_exporter_(module: Module) -> None:
    """Let a private copy use the real attribute paths of its modules, which PyTorch's exporter follows."""
    for graft in grafts(module):
        graft.as_built = True


def module_at(root: Module, name: str) -> Module:
    """Return the module called `name` in `root`, with or without edits. "" is the network without its edits."""
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
    """Remove one of the edits around the network from a private copy and return the module.
    `by`: replacement for the edit; None for the network inside it."""
    if module is edit:
        return edit.network if by is None else by
    outer = next(graft for graft in grafts(module) if graft.network is edit)
    outer.network = edit.network if by is None else by
    return module


def within(module: Module) -> list[str]:
    """Return the names of the edit parts that are called while the network runs."""
    return [name for graft in grafts(module) for name, attribute in graft.parts().items() if attribute in graft.inside]


def set_submodule_(root: Module, name: str, *, module: Module) -> Module:
    """Replace the module `name` below `root` and return the root. The name "" replaces the root itself."""
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
