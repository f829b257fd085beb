"""Layers, blocks and hook points of a network, in execution order; depth is counted in blocks."""

import itertools
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import Embedding, Module, Parameter

from ...errors import NetworkError, near_names
from ..tracing import Trace, flat_tensors, hooked, other_values

_MOST_BLOCKS = 40
_OPENED = {"Sequential", "ModuleList", "ModuleDict"}  # Container classes that never form a block


@dataclass(frozen=True)
class Layer:
    """A module that owns parameters or has no submodules.
    `parameters` counts the numbers that training may change, without buffers. `kind` is the class name, for example "Conv2d"."""

    name: str
    kind: str
    parameters: int


@dataclass(frozen=True)
class Block:
    """A group of consecutive layers, the unit in which depth is counted."""

    name: str
    parameters: int
    frozen: bool
    layers: tuple[str, ...] = field(repr=False, default=())


@dataclass(frozen=True)
class Point:
    """The output of a linear layer or convolution, or of the BatchNorm that follows it, before the activation."""

    name: str  # name of the layer with this output; a shift or scale per channel can be folded into its weights
    block: str
    channels: int


def points_in(points: Sequence[Point], blocks: Collection[str] | None) -> tuple[Point, ...]:
    """Return the hook points in the named blocks; None for all blocks."""
    known = list(dict.fromkeys(point.block for point in points))
    wrong = [name for name in blocks or () if name not in known]
    if wrong:
        raise NetworkError(f"blocks={wrong[0]!r}: no block of that name has a linear layer or convolution{near_names(wrong[0], known)}")
    found = tuple(point for point in points if blocks is None or point.block in blocks)
    if not found:
        raise NetworkError(
            f"Received a network without a linear layer or convolution before its head (blocks={blocks!r}); expected one or more of them. "
            "Use another strategy, such as 'head' or 'bias'."
        )
    return found


def below(name: str, container: str) -> bool:
    """Return whether module `name` is `container` or a part of it ("" is the whole network)."""
    return container == "" or name == container or name.startswith(container + ".")


def prefixes(name: str) -> list[str]:
    """Return the names of a module and of all its containers: "a.b" gives "a.b", "a" and "" (the whole network)."""
    parts = name.split(".") if name else []
    return [".".join(parts[:end]) for end in range(len(parts), -1, -1)]


def numbered(name: str, start: int = 1) -> Iterator[str]:
    """Yield a name, then the same with numbers from `start` on, of which the first free one is taken."""
    yield name
    yield from (f"{name}_{number}" for number in itertools.count(start))


def block_end(block: Block, layers: Sequence[Layer], *, order: Sequence[str], aside: Collection[str] = ()) -> str | None:
    """Return the name of the largest module that ends with a `block` and holds no layer outside it; None if no part of it is called.
    `order` lists the called modules by the start of their first call. Modules in `aside` are ignored."""
    inside = {name for name in block.layers if name and not any(below(name, other) for other in aside)} or {""}
    outside = {outer for layer in layers if layer.name not in block.layers for outer in prefixes(layer.name)}
    last = next((name for name in reversed(order) if name in inside and name not in outside), None)
    return next(outer for outer in reversed(prefixes(last)) if outer not in outside and outer in order) if last else last


def _own_parameters(module: Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters(recurse=False))


def torch_layers(seen: Trace) -> tuple[Layer, ...]:
    """Return the layers of a torch network in inference mode, in execution order.
    A layer is a module that owns parameters or has no submodules. A parametrised weight (weight norm) belongs to its layer."""
    layers = []
    for name in _with_uncalled(seen):
        module = seen.modules[name]
        reparametrised = "parametrizations" in dict(module.named_children())
        parameters = sum(parameter.numel() for parameter in module.parameters()) if reparametrised else _own_parameters(module)
        if parameters or reparametrised or not list(module.children()):
            layers.append(Layer(name, type(module).__name__, parameters))
    return tuple(layers)


def _around(name: str, called: Collection[str]) -> str:
    """Return the nearest called module that contains `name`; "" is the network itself."""
    return next((outer for outer in prefixes(name)[1:-1] if outer in called), "")


def _with_uncalled(seen: Trace) -> list[str]:
    called, readers = set(seen.order), _readers(seen)
    behind: dict[str, list[str]] = {}
    ahead: dict[str, list[str]] = {}
    for name in _uncalled(seen.modules, called):
        around = _around(name, called)
        group = behind.setdefault(around, []) if around or name not in readers else ahead.setdefault(readers[name], [])
        group.append(name)
    unused, last = behind.pop("", []), ahead.pop("", [])
    names = [member for name in seen.order for member in (*ahead.get(name, ()), name, *behind.get(name, ()))]
    return [name for name in [*names, *last, *unused] if not _is_parametrization(name)]


def _uncalled(modules: Mapping[str, Module], called: Collection[str]) -> list[str]:
    return [name for name, module in modules.items() if name not in called and _own_parameters(module) and not _is_parametrization(name)]


def _is_parametrization(name: str) -> bool:
    return ".parametrizations" in f".{name}"


def torch_units(modules: Mapping[str, Module], *, aside: Collection[str] = ()) -> list[str]:
    """Return the names of the modules that become blocks, from `modules` in definition order.
    They are the children of the network. Containers, and children with over half of the weights, are replaced by their own children.
    Embedding tables do not count as weights: they are looked up, not computed, and would outweigh the layers of a small text encoder."""
    children: dict[str, list[str]] = {name: [] for name in modules}
    for name in modules:
        outer, _, part = name.rpartition(".")
        if name and part != "parametrizations" and name not in aside:
            children[outer].append(name)

    def computed(module: Module) -> int:
        return sum(_own_parameters(part) for part in module.modules() if not isinstance(part, Embedding))

    total = sum(_own_parameters(part) for part in modules.values() if not isinstance(part, Embedding))
    units = children[""]
    while True:
        opened: list[str] = []
        for name in units:
            inner = children[name]
            container = type(modules[name]).__name__ in _OPENED
            opened += inner if inner and (container or computed(modules[name]) > total / 2) else [name]
        if opened == units or len(opened) > 2 * _MOST_BLOCKS:
            return units
        units = opened


def blocks_of(layers: Sequence[Layer], units: Sequence[str], *, alone: bool = False) -> tuple[Block, ...]:
    """Group layers into blocks, in execution order; every block has at least one parameter.
    `units` are the names of the modules that become blocks. A layer outside all of them (for example a class token held by the network
    itself) joins the current block. Before the first unit it joins that unit's block, or forms its own block if `alone`. Units without
    parameters (pooling, activations) join the block before them."""
    groups: dict[str, list[Layer]] = {}
    met = [next((unit for unit in units if below(layer.name, unit)), None) for layer in layers]
    current = "" if alone else next((unit for unit in met if unit is not None), "")  # for parameters of the network itself
    for layer, unit in zip(layers, met, strict=True):
        current = unit or current
        groups.setdefault(current, []).append(layer)
    return merged_blocks([(name, members) for name, members in groups.items()])


def merged_blocks(groups: Sequence[tuple[str, Sequence[Layer]]]) -> tuple[Block, ...]:
    """Return blocks from `groups` (name, layers) in execution order, none of them frozen.
    A group without parameters joins the block before it, or the first block if there is none before."""
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


# ── parameters of modules that are never called ───────────────────────────────────────────────────────────────────────────

_END = ""
_Calls = list[tuple[str, bool]]


def _readers(seen: Trace) -> dict[str, str]:
    """Return the first call that depends on the parameters of each module that is not called itself, found by NaN in their place."""
    apart = [name for name in _uncalled(seen.modules, seen.order) if not _around(name, seen.order)]
    held = {name: [one for one in seen.modules[name].parameters(recurse=False) if one.is_floating_point()] for name in apart}
    held = {name: parameters for name, parameters in held.items() if parameters}
    if not held:
        return {}
    plain = _calls(seen)
    if _first_difference(plain, _poisoned(seen, [one for group in held.values() for one in group])) is None:
        return {}
    found = {name: _first_difference(plain, _poisoned(seen, group)) for name, group in held.items()}
    return {name: reader for name, reader in found.items() if reader is not None}


def _poisoned(seen: Trace, parameters: Sequence[Parameter]) -> _Calls:
    with other_values(parameters, lambda values: torch.full_like(values, torch.nan)):
        return _calls(seen)


def _calls(seen: Trace) -> _Calls:
    """Return the calls of another run in order, each with whether its inputs hold NaN. The last entry is the result or the failure."""
    calls: _Calls = []
    with torch.no_grad(), hooked(seen.modules, before=lambda name, *given: calls.append((name, _holds_nan(given)))):
        try:
            calls.append((_END, _holds_nan(seen.run())))
        except Exception:  # a forward may raise anything on NaN
            calls.append((_END, True))
    return calls


def _holds_nan(values: Any) -> bool:
    return any(bool(one.isnan().any()) for one in flat_tensors(values))


def _first_difference(plain: _Calls, poisoned: _Calls) -> str | None:
    """Return the first call that sees NaN in the poisoned run only; None if there is none."""
    return next((name for (name, spoilt), (_, clean) in zip(poisoned, plain, strict=False) if spoilt and not clean), None)
