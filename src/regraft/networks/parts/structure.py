"""From a trace to layers and blocks, the units in which depth is counted."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from torch.nn import Embedding, Module

from .layers import Block, Layer

__all__ = ["below", "block_end", "blocks_of", "merged_blocks", "prefixes", "torch_layers", "torch_units", "uncalled"]

_MOST_BLOCKS = 40
_OPENED = {"Sequential", "ModuleList", "ModuleDict"}
"""Kinds of modules that are never a block of their own."""


def below(name: str, container: str) -> bool:
    """Tell whether the module called `name` is `container` or a part of it ("" is the whole network)."""
    return container == "" or name == container or name.startswith(container + ".")


def prefixes(name: str) -> list[str]:
    """Return the name of a module and of all that contain it: "a.b" gives "a.b", "a" and "" (the whole network)."""
    parts = name.split(".") if name else []
    return [".".join(parts[:end]) for end in range(len(parts), -1, -1)]


def block_end(block: Block, layers: Sequence[Layer], *, order: Sequence[str], aside: Collection[str] = ()) -> str | None:
    """Return the name of the largest module that ends with a `block` and holds no layer outside it; None where none of it is called.

    `order` are the names of the modules that a run calls, by the beginning of their first call; modules `aside` end no block.
    """
    inside = {name for name in block.layers if name and not any(below(name, other) for other in aside)} or {""}
    outside = {outer for layer in layers if layer.name not in block.layers for outer in prefixes(layer.name)}
    last = next((name for name in reversed(order) if name in inside and name not in outside), None)
    return next(outer for outer in reversed(prefixes(last)) if outer not in outside and outer in order) if last else last


def _own_parameters(module: Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def torch_layers(modules: Mapping[str, Module], order: Sequence[str], *, readers: Mapping[str, str]) -> tuple[Layer, ...]:
    """Return the layers of a torch network in the order of execution.

    A layer is a module that owns parameters or has no modules below it. A parametrised weight (weight norm) belongs to its layer.

    `modules`: name -> module, containers too.
    """
    layers = []
    for name in _with_uncalled(modules, order, readers=readers):
        module = modules[name]
        reparametrised = "parametrizations" in dict(module.named_children())
        parameters = sum(parameter.numel() for parameter in module.parameters()) if reparametrised else _own_parameters(module)
        if parameters or reparametrised or not list(module.children()):
            layers.append(Layer(name, type(module).__name__, parameters))
    return tuple(layers)


def _around(name: str, called: Collection[str]) -> str:
    """Return the nearest called module around one, "" where that is the network itself."""
    return next((outer for outer in prefixes(name)[1:-1] if outer in called), "")


def _with_uncalled(modules: Mapping[str, Module], order: Sequence[str], *, readers: Mapping[str, str]) -> list[str]:
    called = set(order)
    behind: dict[str, list[str]] = {}
    ahead: dict[str, list[str]] = {}
    for name in _uncalled(modules, called):
        around = _around(name, called)
        group = behind.setdefault(around, []) if around or name not in readers else ahead.setdefault(readers[name], [])
        group.append(name)
    unused, last = behind.pop("", []), ahead.pop("", [])
    names = [member for name in order for member in (*ahead.get(name, ()), name, *behind.get(name, ()))]
    return [name for name in [*names, *last, *unused] if not _is_parametrization(name)]


def _uncalled(modules: Mapping[str, Module], called: Collection[str]) -> list[str]:
    return [name for name, module in modules.items() if name not in called and _own_parameters(module) and not _is_parametrization(name)]


def _is_parametrization(name: str) -> bool:
    return ".parametrizations" in f".{name}"


def uncalled(modules: Mapping[str, Module], called: Collection[str]) -> list[str]:
    """Return the names of the modules with parameters of their own that were not called, nor any module around them but the network.

    `modules`: name -> module, containers too.
    """
    return [name for name in _uncalled(modules, called) if not _around(name, called)]


def torch_units(modules: Mapping[str, Module], *, aside: Collection[str] = ()) -> list[str]:
    """Return the module names that become blocks: children, with containers and any child holding over half of the weights opened.

    Embedding tables do not count: they are looked up, not computed, and would outweigh the layers of a small text encoder.

    `modules`: name -> module, in the order of definition.
    """
    children = _children(modules, aside)
    total = sum(_own_parameters(part) for part in modules.values() if not isinstance(part, Embedding))
    units = children[""]
    while True:
        opened: list[str] = []
        for name in units:
            inner = children[name]
            container = type(modules[name]).__name__ in _OPENED
            opened += inner if inner and (container or _computed_parameters(modules[name]) > total / 2) else [name]
        if opened == units or len(opened) > 2 * _MOST_BLOCKS:
            return units
        units = opened


def _computed_parameters(module: Module) -> int:
    return sum(_own_parameters(part) for part in module.modules() if not isinstance(part, Embedding))


def _children(modules: Mapping[str, Module], aside: Collection[str]) -> dict[str, list[str]]:
    """Return the names of the modules in each module, without those `aside`."""
    found: dict[str, list[str]] = {name: [] for name in modules}
    for name in modules:
        outer, _, part = name.rpartition(".")
        if name and part != "parametrizations" and name not in aside:
            found[outer].append(name)
    return found


def blocks_of(layers: Sequence[Layer], units: Sequence[str], *, alone: bool = False) -> tuple[Block, ...]:
    """Group layers into blocks in the order of execution.

    `units`: names of the modules that become blocks; a layer outside all of them (parameters held by the network itself, such as a class
    token) joins the block that is open when it is met; result: Blocks with at least one parameter each: units without parameters (pooling,
    activations) join the block before them.
    """
    groups: dict[str, list[Layer]] = {}
    met = [next((unit for unit in units if below(layer.name, unit)), None) for layer in layers]
    current = "" if alone else next((unit for unit in met if unit is not None), "")  # what the network itself holds comes first
    for layer, unit in zip(layers, met, strict=True):
        current = unit or current
        groups.setdefault(current, []).append(layer)
    return merged_blocks([(name, members) for name, members in groups.items()])


def merged_blocks(groups: Sequence[tuple[str, Sequence[Layer]]]) -> tuple[Block, ...]:
    """Join groups without parameters to the block before them (the first ones to the block after).

    `groups`: (name, layers) in the order of execution; result: The blocks, none of them frozen.
    """
    merged: list[tuple[str, list[Layer]]] = []
    waiting: list[Layer] = []
    for name, members in groups:
        if sum(layer.parameters for layer in members):
            merged.append((name, [*waiting, *members]))
            waiting = []
        elif merged:
            merged[-1][1].extend(members)
        else:
            waiting.extend(members)
    if waiting:
        merged.append((groups[0][0], waiting))
    return tuple(
        Block(name, sum(layer.parameters for layer in members), False, tuple(layer.name for layer in members)) for name, members in merged
    )
