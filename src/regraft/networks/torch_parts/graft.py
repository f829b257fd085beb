"""One kind of wrapper for every edit of a PyTorch network: what it adds gets names of its own, what was there keeps its names."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from torch.nn import Module

__all__ = ["Graft", "grafts", "set_submodule_", "within"]

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

    def __init__(self, network: Module) -> None:
        super().__init__()
        self.network = network

    def parts(self) -> dict[str, str]:
        """Return the name of each part of the edit -> its attribute."""
        taken, found = set(_names_in(self.network)), dict[str, str]()
        for attribute in self._modules:
            if attribute != _NETWORK:
                found[_free(attribute, taken)] = attribute
        return found

    def named_modules(  # over the limit: the signature is PyTorch's
        self, memo: set[Module] | None = None, prefix: str = "", remove_duplicate: bool = True
    ) -> Iterator[tuple[str, Module]]:
        """Yield the modules with their names, this one and the network both as "".

        Args:
            memo: modules that were met already.
            prefix: of all names.
            remove_duplicate: yield each module once.
        """
        memo = set() if memo is None else memo
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
        first, _, rest = target.partition(".")
        attribute = self.parts().get(first)
        return self.network.get_submodule(target) if attribute is None else super().get_submodule(attribute).get_submodule(rest)

    def state_dict(self, *args: Any, destination: Any = None, prefix: str = "", keep_vars: bool = False) -> Any:
        """Return the state by the names of `named_modules`.

        Args:
            args: none; PyTorch passes on what earlier versions took.
            destination: receives the state; None for a new mapping.
            prefix: of all names.
            keep_vars: the parameters themselves, not detached.
        """
        names = {attribute: f"{prefix}{name}." for name, attribute in self.parts().items()}
        for attribute, part in self._modules.items():
            if part is not None:
                inside = names.get(attribute, prefix)
                destination = part.state_dict(*args, destination=destination, prefix=inside, keep_vars=keep_vars)
        return destination

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Put the names under which PyTorch looks for what is in here in the place of those of `state_dict`."""
        parts = self.parts()
        for key in [key for key in state_dict if key.startswith(prefix)]:
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


def within(module: Module) -> list[str]:
    """Return the names of those parts of the edits around a network that are called while it runs, of a `module` with or without them."""
    return [name for graft in grafts(module) for name, attribute in graft.parts().items() if attribute in graft.inside]


def set_submodule_(root: Module, name: str, *, module: Module) -> Module:
    """Put a module at the place called `name` in the tree below `root`; return the root: the module itself where the name is ""."""
    parent, _, child = name.rpartition(".")
    holder = root.get_submodule(parent) if parent else root
    while isinstance(holder, Graft) and child not in holder.parts():
        if not name and not isinstance(holder.network, Graft):
            child = _NETWORK
            break
        holder = holder.network
    if not child:
        return module
    setattr(holder, holder.parts().get(child, child) if isinstance(holder, Graft) else child, module)
    return root
