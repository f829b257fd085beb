"""Modules around a network: a head on top, branches beside its head, numbers joined before it, an early end."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Linear, Module, ModuleDict
from torch.utils._pytree import tree_map_only

from ...errors import NetworkError
from ..contract import Inputs
from ..parts.head import ACTIVATIONS
from ..parts.structure import below
from ..parts.taps import TapSlice
from ..torch_parts.graft import Graft
from ..torch_parts.sites import Site
from ..torch_parts.taps import Point, Reached, listening, read_input, run_reading
from ..tracing import as_tensor, capture, pooled
from .conditioned import AdjustedNetwork, CodedNetwork, EntranceNetwork, GivenInput

__all__ = [
    "AttachedHead",
    "BranchedNetwork",
    "EndedNetwork",
    "Join",
    "JoinedNetwork",
    "StackedHead",
    "TappedNetwork",
    "branch_name",
    "call_module",
    "edits_of",
    "exchanged",
    "find_wrapper",
    "forget_sites_",
    "inner_networks",
    "inner_sites",
    "side_modules",
    "tap_slices",
]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch.nn.functional, name) for name in ACTIVATIONS if name not in ("linear", "softmax")},
    "linear": lambda scores: scores,
    "softmax": lambda scores: scores.softmax(-1),
}


def call_module(module: Module, inputs: Inputs) -> Any:
    """Call a module with one batch, inputs that are a tensor or named tensors, and return what it returns."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


class AttachedHead(Module):
    """A backbone without a head, its output averaged over all positions, and a linear head on top.

    Attributes:
        backbone: any module whose output holds a tensor.
        features: the width d of its averaged output; the head is `Linear(features, classes)`.
        classes: the number of rows C.
    """

    def __init__(self, backbone: Module, features: int, *, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = Linear(features, classes)

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return raw scores (N, C) of whatever the backbone takes.

        Raises:
            NetworkError: if the backbone returns no tensor.
        """
        output = as_tensor(self.backbone(*tensors, **named))
        if output is None:
            raise NetworkError(f"The backbone {type(self.backbone).__name__} returned no tensor.")
        return cast(Tensor, self.head(pooled(output, channels_last=output.ndim == 3)))


class StackedHead(Module):
    """A network whose raw scores go through an activation and a new linear head.

    Attributes:
        backbone: the network with its old head.
        tapped: name of the old head within it, whose averaged output are the raw scores; "" where they are the network's own result.
        activation: one of `ACTIVATIONS`.
        sizes: (C, M): the old scores and the rows of the new head.
        dropout: share of the activated scores that training drops.
    """

    def __init__(self, backbone: Module, tapped: str, *, activation: str, sizes: tuple[int, int], dropout: float) -> None:
        super().__init__()
        self.backbone = backbone
        self.tapped = tapped
        self.activation = activation
        self.dropout = torch.nn.Dropout(dropout) if dropout else None
        self.head = Linear(*sizes)

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return raw scores (N, M) of whatever the backbone takes."""
        if self.tapped:
            old = self.backbone.get_submodule(self.tapped)
            with capture(old) as found:
                self.backbone(*tensors, **named)
            scores = pooled(found["output"], channels_last=isinstance(old, Linear))
        else:
            scores = cast(Tensor, as_tensor(self.backbone(*tensors, **named)))
        scores = _ACTIVATIONS[self.activation](scores)
        return cast(Tensor, self.head(scores if self.dropout is None else self.dropout(scores)))


class BranchedNetwork(Module):
    """A network with further heads that read what its own head reads.

    Attributes:
        network: the network.
        tapped: name of its head.
        chosen: whether a step after the head (the choice of one token) also chooses what the branches read.
        branches: a linear head for each further task.
    """

    def __init__(self, network: Module, tapped: str, *, task: str, chosen: bool) -> None:
        super().__init__()
        self.network = network
        self.tapped = tapped
        self.task = task
        self.chosen = chosen
        self.branches = ModuleDict()

    def forward(self, *tensors: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return the network's own result and the raw scores (N, C) of each branch, by task."""
        head = self.network.get_submodule(self.tapped)
        with capture(head, replace_by_input=self.chosen) as found:
            result = cast(Tensor, as_tensor(self.network(*tensors, **named)))
        features = result if self.chosen else pooled(found["input"], channels_last=isinstance(head, Linear))
        own = head(features) if self.chosen else result
        return {self.task: own, **{name: branch(features) for name, branch in self.branches.items()}}


class EndedNetwork(Module):
    """A network up to the output of one of its modules.

    Attributes:
        network: the network; what runs after the end has been taken out.
        end: name of the module.
        stops: whether the run ends there; False where what is left of the rest runs through (an exported program needs that).
    """

    def __init__(self, network: Module, end: str) -> None:
        super().__init__()
        self.network = network
        self.end = end
        self.stops = True

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Return the output of the module at the end."""
        seen: list[Any] = []

        def keep(_module: Module, _args: Any, output: Any) -> None:
            if self.stops:
                seen.append(output)
                raise Reached
            seen.append(tree_map_only(Tensor, torch.clone, output))  # what still runs may change it in place

        with listening(self.network.get_submodule(self.end), keep), suppress(Reached):
            self.network(*tensors, **named)
        return seen[0]


class TappedNetwork(Module):
    """Outputs of several modules of a network, pooled and put side by side.

    Attributes:
        network: the network; what runs after the last of them has been taken out.
        points: where it is read, and how.
        slices: which columns of the result come from where.
        stops: as in `EndedNetwork`.
    """

    def __init__(self, network: Module, points: Sequence[Point], *, slices: tuple[TapSlice, ...] = ()) -> None:
        super().__init__()
        self.network = network
        self.points = tuple(points)
        self.slices = slices
        self.stops = True

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return the pooled outputs, (N, D), of whatever the network takes.

        Raises:
            NetworkError: if one of the modules gave no tensor in this run.
        """
        points = {point.module: point for point in self.points}
        parts: dict[str | None, list[Tensor]] = {}

        def keep(module: str | None, values: Tensor | None) -> None:
            if values is not None:
                parts[module] = points[module].pooled(values, named.get("attention_mask"))

        if None in points:
            keep(None, read_input(named or tensors[0]))
        names = [name for name in points if name is not None]
        if names:
            run_reading(self.network, names, run=lambda: self.network(*tensors, **named), keep=keep, stops=self.stops)
        missing = [point.block for name, point in points.items() if name not in parts]
        if missing:
            raise NetworkError(f"The block {missing[0]!r} gave no output in this run; expected one for each tap. Leave its tap out.")
        return torch.cat([part for name in points for part in parts[name]], 1)


class Join(Module):
    """Puts numbers beside features: (N, d) and (N, k) become (N, d + k), at every position where there are several.

    Attributes:
        features: d, so that the features' axis is known: the last one, or, for maps (N, d, …), the second.
    """

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features
        self.columns: Tensor | None = None

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the inputs, features, with the numbers that lie ready beside them.

        Raises:
            NetworkError: if none lie ready.
        """
        if self.columns is None:
            raise NetworkError(f"Received features of shape {tuple(inputs.shape)} without columns; call the whole network with columns=.")
        axis = inputs.ndim - 1 if inputs.shape[-1] == self.features else 1
        shape = [inputs.shape[0], *(1,) * (inputs.ndim - 1)]  # not len(): an exported program would keep that number
        shape[axis] = -1
        sizes = list(inputs.shape)
        sizes[axis] = self.columns.shape[1]
        return torch.cat([inputs, self.columns.to(inputs.dtype).reshape(shape).expand(sizes)], dim=axis)


class JoinedNetwork(Module):
    """A network whose head also reads numbers that stand beside each item.

    Attributes:
        network: the network; before its head stands a `Join`.
        join: name of that.
    """

    def __init__(self, network: Module, join: str) -> None:
        super().__init__()
        self.network = network
        self.join = join

    def forward(self, columns: Tensor, **named: Tensor) -> Any:
        """Return what the network returns for its inputs ("inputs" where it takes one tensor) and columns (N, k)."""
        place = cast(Join, self.network.get_submodule(self.join))
        place.columns = columns
        try:
            return self.network(named["inputs"]) if list(named) == ["inputs"] else self.network(**named)
        finally:
            place.columns = None


_INNER: dict[type[Module], str] = {
    **dict.fromkeys((BranchedNetwork, JoinedNetwork, EndedNetwork, TappedNetwork), "network"),
    **dict.fromkeys((AdjustedNetwork, CodedNetwork, EntranceNetwork, GivenInput), "network"),
    **dict.fromkeys((AttachedHead, StackedHead), "backbone"),
}
"""Wrapper -> what it calls the network in it."""
_NAMES: dict[type[Module], str] = {StackedHead: "tapped", BranchedNetwork: "tapped", EndedNetwork: "end", JoinedNetwork: "join"}
"""Wrapper -> the attribute in which it keeps the name of a module of that network."""
_WITHIN: dict[type[Module], tuple[str, ...]] = {CodedNetwork: ("codes", "maps")}
"""Wrapper -> its own modules that are called while the network runs."""
_BEFORE = (CodedNetwork, EntranceNetwork)
"""Wrappers that may have a module "entrance" before the network."""


def inner_networks(module: Module) -> list[Module]:
    """Return the module and the networks inside its wrappers, outermost first; a new head on top ends the search."""
    found = [module]
    while _INNER.get(type(found[-1])) == "network":
        found.append(cast(Module, found[-1].network))
    return found


def _wrappers(module: Module) -> list[tuple[str, Module]]:
    """Return all wrappers around a module, outermost first, with the beginning of the names of what is in them ("" or "….")."""
    found, prefix = list[tuple[str, Module]](), ""
    while type(module) in _INNER:
        found.append((prefix, module))
        inner = _INNER[type(module)]
        prefix, module = prefix if isinstance(module, Graft) else f"{prefix}{inner}.", getattr(module, inner)
    return found


def find_wrapper(module: Module, kind: type[Module]) -> tuple[str, Module] | None:
    """Return the wrapper of a kind around a module, and with what the names of its modules begin ("" or "…."); None without one."""
    return next(((prefix, wrapper) for prefix, wrapper in _wrappers(module) if type(wrapper) is kind), None)


def side_modules(module: Module, *, before: bool = True) -> list[str]:
    """Return the names of the modules of wrappers that stand beside the network: codes, maps, what is adjusted.

    Args:
        module: with wrappers or without.
        before: an entrance before the network among them.
    """
    found = []
    for prefix, wrapper in _wrappers(module):
        if isinstance(wrapper, Graft):
            found += [prefix + name for name, attribute in wrapper.parts().items() if attribute in wrapper.inside]
        found += [prefix + name for name in _WITHIN.get(type(wrapper), ())]
        found += [f"{prefix}entrance"] if before and isinstance(wrapper, _BEFORE) else []
    return found


def inner_sites(module: Module) -> list[Site]:
    """Return the sites at which the wrappers around a network change it, of a `module` with wrappers or without."""
    return [site for _, wrapper in _wrappers(module) if isinstance(wrapper, (AdjustedNetwork, CodedNetwork)) for site in wrapper.sites]


def forget_sites_(module: Module, gone: Sequence[str]) -> None:
    """Let the wrappers of a `module` leave alone what has been taken out of the network in it; `gone` are the names."""
    for prefix, wrapper in _wrappers(module):
        if isinstance(wrapper, (AdjustedNetwork, CodedNetwork)):
            start = prefix if isinstance(wrapper, Graft) else f"{prefix}network."
            wrapper.keep_sites_([not any(below(start + site.name, name) for name in gone) for site in wrapper.sites])


def exchanged(module: Module, kind: type[Module], *, by: Callable[[Module], Module] | None = None) -> tuple[Module, Callable[[str], str]]:
    """Take the wrapper of a kind out of the wrappers around a network, or put another one in its place.

    Args:
        module: a private copy; one of its wrappers is of that kind.
        kind: of the wrapper.
        by: makes the other one of it, with the network by the same name; None for none.

    Returns:
        The changed module, and what becomes of the names of its parts.
    """
    if type(module) is kind:
        if by is not None:
            return by(module), lambda name: name
        plain = isinstance(module, Graft)
        return cast(Module, module.network), lambda name: name if plain else name.removeprefix("network.")
    own: Any = module
    inner = _INNER[type(module)]
    part, renamed = exchanged(getattr(own, inner), kind, by=by)
    setattr(own, inner, part)
    if type(module) in _NAMES:
        setattr(own, _NAMES[type(module)], renamed(getattr(own, _NAMES[type(module)])))
    if isinstance(module, TappedNetwork):
        module.points = tuple(replace(point, module=point.module and renamed(point.module)) for point in module.points)
    if isinstance(module, Graft):
        return module, renamed
    start = f"{inner}."
    return module, lambda name: start + renamed(name.removeprefix(start)) if name.startswith(start) else name


def edits_of(module: Module) -> list[Module]:
    """Return the wrappers around a `module` that have no names, outermost first."""
    return [wrapper for _, wrapper in _wrappers(module) if isinstance(wrapper, Graft)]


def tap_slices(module: Module) -> tuple[TapSlice, ...]:
    """Return which features a module's heads read of which tap; none where they read something else."""
    backbone = next(inner for inner in inner_networks(module) if type(inner) not in _TRANSPARENT)
    backbone = backbone.backbone if isinstance(backbone, AttachedHead) else backbone
    backbone = next(inner for inner in inner_networks(backbone) if type(inner) not in _TRANSPARENT)
    return backbone.slices if isinstance(backbone, TappedNetwork) else ()


_TRANSPARENT = (AdjustedNetwork, BranchedNetwork, CodedNetwork, EntranceNetwork, GivenInput)
"""Wrappers that hand on the features of the network in them as they are."""


def branch_name(task: str, taken: Mapping[str, Any] | Sequence[str]) -> str:
    """Return a name for the branch of a task that a module may have, unlike those taken."""
    name = re.sub(r"\W", "_", task) or "branch"
    return name if name not in taken else f"{name}_{len(taken)}"
