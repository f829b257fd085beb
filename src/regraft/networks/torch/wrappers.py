"""Wrapper modules for edits: a head on top, branches beside the head, numeric columns joined to the features, an early end."""

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import Linear, Module, ModuleDict

from ..editing.taps import Point, first_outputs, pooled_points
from ..parts.protocols import Inputs
from ..parts.taps import TapSlice
from ..tracing import activated, as_tensor, capture, pooled, read_by
from .graft import Graft, module_at


def call_module(module: Module, inputs: Inputs) -> Any:
    """Call a module with one batch: a tensor or named tensors."""
    return module(**inputs) if isinstance(inputs, dict) else module(inputs)


class AttachedHead(Graft):
    """A network whose output, averaged over all positions, passes through an activation into a new linear `head`, (C, d).
    `tapped`: name of an old head whose output is taken instead of the network's; "" for the network's own.
    `activation`: one of `parts.head.ACTIVATIONS`.
    `dropout`: fraction of the activated outputs that training drops."""

    former: ClassVar[str] = "backbone"

    def __init__(self, network: Module, head: Linear, *, tapped: str = "", activation: str = "linear", dropout: float = 0.0) -> None:
        super().__init__(network)
        self.tapped = tapped
        self.activation = activation
        self.dropout = torch.nn.Dropout(dropout) if dropout else None
        self.head = head

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return logits (N, C) for the network's inputs."""
        if self.tapped:
            old = module_at(self.network, self.tapped)
            with capture(old) as found:
                self.network(*tensors, **named)
            output, last = found["output"], isinstance(old, Linear)
        else:
            output = cast(Tensor, as_tensor(self.network(*tensors, **named)))
            last = output.ndim == 3
        values = activated(pooled(output, channels_last=last).to(self.head.weight.dtype), self.activation)
        return cast(Tensor, self.head(values if self.dropout is None else self.dropout(values)))


class BranchedNetwork(Graft):
    """A network with further linear heads, `branches`, that read the same features as its own head.
    `chosen`: whether a step after the head (the choice of one token) also selects the features of the branches."""

    def __init__(self, network: Module, tapped: str, *, task: str, chosen: bool) -> None:
        super().__init__(network)
        self.tapped = tapped
        self.task = task
        self.chosen = chosen
        self.branches = ModuleDict()

    def forward(self, *tensors: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return, by task, the network's own result and the logits (N, C) of each branch."""
        head = module_at(self.network, self.tapped)
        with capture(head, replace_by_input=self.chosen) as found:
            result = cast(Tensor, as_tensor(self.network(*tensors, **named)))
        features = result if self.chosen else read_by(head, found.of_examples("input", result), channels_last=isinstance(head, Linear))
        own = head(features) if self.chosen else result
        return {self.task: own, **{name: branch(features) for name, branch in self.branches.items()}}


class EndedNetwork(Graft):
    """A network up to the output of one of its modules, without the modules that run only later.
    `stops`: whether the run stops at the end. False if the rest runs through, as an exported program needs."""

    def __init__(self, network: Module, end: str) -> None:
        super().__init__(network)
        self.end = end
        self.stops = True

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Return the output of the last module, joined if a loop calls it for parts of the batch."""
        modules, run = {self.end: module_at(self.network, self.end)}, partial(self.network, *tensors, **named)
        return first_outputs(modules, given=named or tensors, run=run, stops=self.stops)[self.end]


class TappedNetwork(Graft):
    """Pooled outputs of several modules of a network, concatenated; `points` says how they are read.
    `slices` are the columns of the result that belong to each tap; `stops` is as in `EndedNetwork`."""

    def __init__(self, network: Module, points: Sequence[Point], *, slices: tuple[TapSlice, ...] = ()) -> None:
        super().__init__(network)
        self.points = tuple(points)
        self.slices = slices
        self.stops = True

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return the pooled outputs, (N, D)."""
        whole = named.get("attention_mask")

        def mask(_values: Tensor, start: int, stop: int) -> Tensor | None:
            return whole if whole is None or stop - start >= whole.shape[0] else whole[start:stop]

        modules = {point.module: module_at(self.network, point.module) for point in self.points if point.module is not None}
        run, given = partial(self.network, *tensors, **named), named or tensors[0]
        return pooled_points(self.points, modules, given=given, run=run, mask=mask, stops=self.stops)


class Join(Module):
    """Concatenation of features (N, d) and numbers (N, k) into (N, d + k), at every position if there are several.
    `features`: d, which identifies the feature axis: the last one, or the second for maps (N, d, …)."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features

    def forward(self, inputs: Tensor, columns: Tensor) -> Tensor:
        """Return the features concatenated with the columns."""
        axis = inputs.ndim - 1 if inputs.shape[-1] == self.features else 1
        shape = [inputs.shape[0], *(1,) * (inputs.ndim - 1)]  # not len(): export would fix that number
        shape[axis] = -1
        sizes = list(inputs.shape)
        sizes[axis] = columns.shape[1]
        return torch.cat([inputs, columns.to(inputs.dtype).reshape(shape).expand(sizes)], dim=axis)


class JoinedNetwork(Graft):
    """A network whose head, `widened`, also reads numeric columns of each example; None if the head has been removed."""

    inside: ClassVar[frozenset[str]] = frozenset({"join"})

    def __init__(self, network: Module, widened: str, *, features: int) -> None:
        super().__init__(network)
        self.widened: str | None = widened
        self.former_layers = {widened: f"{widened}.linear".lstrip(".")}
        self.join = Join(features)

    def forward(self, columns: Tensor, **named: Tensor) -> Any:
        """Return the network's result for its inputs ("inputs" if it takes one tensor) and columns (N, k)."""
        with ExitStack() as stack:
            if self.widened is not None:
                head = module_at(self.network, self.widened)
                stack.enter_context(head.register_forward_pre_hook(lambda _head, args: (self.join(args[0], columns), *args[1:])))
            return self.network(named["inputs"]) if list(named) == ["inputs"] else self.network(**named)
