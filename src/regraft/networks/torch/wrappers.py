"""Modules around a network: a head on top, branches beside its head, numbers joined before it, an early end."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import Linear, Module, ModuleDict
from torch.utils._pytree import tree_map_only

from ...errors import NetworkError
from ..parts.head import ACTIVATIONS
from ..parts.protocols import Inputs
from ..parts.structure import below
from ..parts.taps import TapSlice
from ..tracing import as_tensor, capture, pooled, read_by
from .conditioned import AdjustedNetwork, CodedNetwork, EntranceNetwork, GivenInput
from .graft import Graft, grafts, module_at
from .taps import Point, Reached, ended_by, listening, read_input, run_reading

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
    "forget_",
    "side_modules",
    "tap_slices",
    "with_class_counts",
]

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    **{name: getattr(torch.nn.functional, name) for name in ACTIVATIONS if name not in ("linear", "softmax")},
    "linear": lambda scores: scores,
    "softmax": lambda scores: scores.softmax(-1),
}


def call_module(module: Module, inputs: Inputs) -> Any:
    """Call a module with one batch, inputs that are a tensor or named tensors, and return what it returns."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


class AttachedHead(Graft):
    """A network without a head, its output averaged over all positions, and a linear head on top.

    Attributes:
        network: any module whose output holds a tensor.
        head: a linear layer (C, d) over its averaged output.
    """

    former: ClassVar[str] = "backbone"

    def __init__(self, network: Module, head: Linear) -> None:
        super().__init__(network)
        self.head = head

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return raw scores (N, C) of whatever the network takes."""
        output = as_tensor(self.network(*tensors, **named))
        if output is None:
            raise NetworkError(f"The backbone {type(self.network).__name__} returned no tensor.")
        return cast(Tensor, self.head(pooled(output, channels_last=output.ndim == 3)))


class StackedHead(Graft):
    """A network whose raw scores go through an activation and a new linear head.

    Attributes:
        tapped: name of the old head within it, whose averaged output are the raw scores; "" where they are the network's own result.
        activation: one of `ACTIVATIONS`.
        head: a linear layer (M, C) over the C old scores.
        dropout: share of the activated scores that training drops.
    """

    former: ClassVar[str] = "backbone"

    def __init__(self, network: Module, tapped: str, *, activation: str, head: Linear, dropout: float) -> None:
        super().__init__(network)
        self.tapped = tapped
        self.activation = activation
        self.dropout = torch.nn.Dropout(dropout) if dropout else None
        self.head = head

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return raw scores (N, M) of whatever the network takes."""
        if self.tapped:
            old = module_at(self.network, self.tapped)
            with capture(old) as found:
                self.network(*tensors, **named)
            scores = pooled(found["output"], channels_last=isinstance(old, Linear))
        else:
            scores = cast(Tensor, as_tensor(self.network(*tensors, **named)))
        scores = _ACTIVATIONS[self.activation](scores)
        return cast(Tensor, self.head(scores if self.dropout is None else self.dropout(scores)))


class BranchedNetwork(Graft):
    """A network with further heads that read what its own head reads.

    Attributes:
        chosen: whether a step after the head (the choice of one token) also chooses what the branches read.
        branches: a linear head for each further task.
    """

    def __init__(self, network: Module, tapped: str, *, task: str, chosen: bool) -> None:
        super().__init__(network)
        self.tapped = tapped
        self.task = task
        self.chosen = chosen
        self.branches = ModuleDict()

    def forward(self, *tensors: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return the network's own result and the raw scores (N, C) of each branch, by task."""
        head = module_at(self.network, self.tapped)
        with capture(head, replace_by_input=self.chosen) as found:
            result = cast(Tensor, as_tensor(self.network(*tensors, **named)))
        features = result if self.chosen else read_by(head, found["input"], channels_last=isinstance(head, Linear))
        own = head(features) if self.chosen else result
        return {self.task: own, **{name: branch(features) for name, branch in self.branches.items()}}


class EndedNetwork(Graft):
    """A network up to the output of one of its modules.

    Attributes:
        network: the network; what runs after the end has been taken out.
        stops: whether the run ends there; False where what is left of the rest runs through (an exported program needs that).
    """

    def __init__(self, network: Module, end: str) -> None:
        super().__init__(network)
        self.end = end
        self.stops = True

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Return the output of the module at the end."""
        seen: list[Any] = []
        end = Reached()

        def keep(_module: Module, _args: Any, output: Any) -> None:
            if self.stops:
                seen.append(output)
                raise end
            seen.append(tree_map_only(Tensor, torch.clone, output))  # what still runs may change it in place

        with listening(module_at(self.network, self.end), keep), ended_by(end):
            self.network(*tensors, **named)
        return seen[0]


class TappedNetwork(Graft):
    """Outputs of several modules of a network, pooled and put side by side.

    Attributes:
        network: the network; what runs after the last of them has been taken out.
        points: where it is read, and how.
        slices: which columns of the result come from where.
        stops: as in `EndedNetwork`.
    """

    def __init__(self, network: Module, points: Sequence[Point], *, slices: tuple[TapSlice, ...] = ()) -> None:
        super().__init__(network)
        self.points = tuple(points)
        self.slices = slices
        self.stops = True

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return the pooled outputs, (N, D), of whatever the network takes."""
        points = {point.module: point for point in self.points}
        parts: dict[str | None, list[Tensor]] = {}

        def keep(module: str | None, values: Tensor | None) -> None:
            if values is not None:
                parts[module] = points[module].pooled(values, named.get("attention_mask"))

        if None in points:
            keep(None, read_input(named or tensors[0]))
        modules = {name: module_at(self.network, name) for name in points if name is not None}
        run_reading(modules, run=lambda: self.network(*tensors, **named), keep=keep, stops=self.stops)
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
        """Return the inputs, features, with the numbers that lie ready beside them."""
        if self.columns is None:
            raise NetworkError(f"Received features of shape {tuple(inputs.shape)} without columns; call the whole network with columns=.")
        axis = inputs.ndim - 1 if inputs.shape[-1] == self.features else 1
        shape = [inputs.shape[0], *(1,) * (inputs.ndim - 1)]  # not len(): an exported program would keep that number
        shape[axis] = -1
        sizes = list(inputs.shape)
        sizes[axis] = self.columns.shape[1]
        return torch.cat([inputs, self.columns.to(inputs.dtype).reshape(shape).expand(sizes)], dim=axis)


class JoinedNetwork(Graft):
    """A network whose head also reads numbers that stand beside each item.

    Attributes:
        network: the network; its head reads the wide features.
        widened: name of the head; None where it has been taken out.
        join: puts the numbers beside what the head reads.
    """

    inside: ClassVar[frozenset[str]] = frozenset({"join"})

    def __init__(self, network: Module, widened: str, *, features: int) -> None:
        super().__init__(network)
        self.widened: str | None = widened
        self.former_layers = {widened: f"{widened}.linear".lstrip(".")}
        self.join = Join(features)

    def forward(self, columns: Tensor, **named: Tensor) -> Any:
        """Return what the network returns for its inputs ("inputs" where it takes one tensor) and columns (N, k)."""
        self.join.columns = columns
        try:
            with ExitStack() as stack:
                if self.widened is not None:
                    head = module_at(self.network, self.widened)
                    stack.callback(head.register_forward_pre_hook(self._with_columns).remove)
                return self.network(named["inputs"]) if list(named) == ["inputs"] else self.network(**named)
        finally:
            self.join.columns = None

    def _with_columns(self, _head: Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return self.join(args[0]), *args[1:]


def side_modules(module: Module) -> list[str]:
    """Return the names of what the edits of a `module` add to it beside its heads: codes, maps, what is adjusted, an entrance."""
    beside = [graft for graft in grafts(module) if isinstance(graft, (AdjustedNetwork, CodedNetwork, EntranceNetwork))]
    return [name for graft in beside for name in graft.parts()]


def forget_(module: Module, gone: Sequence[str]) -> None:
    """Let the edits of a `module` leave alone what has been taken out of the network in it; `gone` are the names."""

    def is_gone(layer: str) -> bool:
        return any(below(layer, name) for name in gone)

    for graft in grafts(module):
        if isinstance(graft, (AdjustedNetwork, CodedNetwork)):
            graft.keep_sites_([not is_gone(site.name) for site in graft.sites])
        elif isinstance(graft, JoinedNetwork) and graft.widened is not None and is_gone(graft.widened):
            graft.widened = None


def with_class_counts(module: Module) -> list[Module]:
    """Return the module and the networks inside of its edits whose classes are those of its own head, outermost first."""
    found = [module]
    while isinstance(module, Graft) and not isinstance(module, (AttachedHead, StackedHead)):
        module = module.network
        found.append(module)
    return found


def tap_slices(module: Module) -> tuple[TapSlice, ...]:
    """Return which features a module's heads read of which tap; none where they read something else."""
    opaque = [graft for graft in grafts(module) if not isinstance(graft, _TRANSPARENT)]
    opaque = opaque[1:] if opaque and isinstance(opaque[0], AttachedHead) else opaque
    return opaque[0].slices if opaque and isinstance(opaque[0], TappedNetwork) else ()


_TRANSPARENT = (AdjustedNetwork, BranchedNetwork, CodedNetwork, EntranceNetwork, GivenInput)
"""Edits that hand on the features of the network in them as they are."""


def branch_name(task: str, taken: Mapping[str, Any] | Sequence[str]) -> str:
    """Return a name for the branch of a task that a module may have, unlike those taken."""
    name = re.sub(r"\W", "_", task) or "branch"
    return name if name not in taken else f"{name}_{len(taken)}"
