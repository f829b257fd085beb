"""Wrapper modules that change a network inside or before its input: by channel, by the code of a condition, by a linear layer."""

from collections.abc import Mapping
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import Conv1d, Conv2d, Conv3d, Embedding, Linear, Module, ModuleList, Parameter

from ..parts.coding import CODE_SPREAD
from ..parts.scaling import film, lhuc
from .graft import Graft
from .sites import Site, changed_at, fold_, spread

_OVER_CHANNELS: dict[int, type[Module]] = {3: Conv1d, 4: Conv2d, 5: Conv3d}


def over_channels(old: int, new: int, *, rank: int, last: bool) -> Module:
    """Return a linear layer over the channels of values with `rank` axes, the same at every position."""
    kind: Any = Linear if last or rank == 2 else _OVER_CHANNELS[rank]
    return cast(Module, kind(old, new) if kind is Linear else kind(old, new, 1))


class Adjustment(Module):
    """Channel-wise scale and shift at one hook point: LHUC or FiLM. The initial values leave the network bit-identical.
    `a`: "lhuc" parameter (C,), initially zero: the scale is 2 sigmoid(a).
    `g`, `b`: "film" scale and shift, (C,) each, initially one and zero."""

    def __init__(self, channels: int, form: str) -> None:
        super().__init__()
        self.form = form
        if form == "lhuc":
            self.a = Parameter(torch.zeros(channels))
        else:
            self.g, self.b = Parameter(torch.ones(channels)), Parameter(torch.zeros(channels))

    def change(self) -> tuple[Tensor, Tensor | None]:
        """Return scale and shift, (C,) each; None for no shift."""
        return (lhuc(self.a), None) if self.form == "lhuc" else (self.g, self.b)

    def forward(self, values: Tensor, site: Site) -> Tensor:
        """Return the scaled and shifted values of a hook point."""
        scale, shift = (None if numbers is None else site.spread(numbers.to(values.dtype), values) for numbers in self.change())
        return film(values, cast(Tensor, scale), shift=shift)


class _SiteModules(Graft):
    """A network with one added module at each of several hook points."""

    at_sites: ClassVar[str]  # Name of the attribute that holds the added modules, in the order of the hook points

    sites: tuple[Site, ...]  # the hook points, in the order of execution

    def put_parts_(self, parts: Mapping[Site, Module]) -> None:
        """Set the added modules, in the order of the hook points."""
        self.sites = tuple(parts)
        setattr(self, self.at_sites, ModuleList(parts.values()))

    def by_site(self) -> dict[Site, Module]:
        """Return the added module of each hook point."""
        return dict(zip(self.sites, cast(ModuleList, getattr(self, self.at_sites)), strict=True))


class AdjustedNetwork(_SiteModules):
    """A network during training with a channel-wise `Adjustment` at each of several hook points."""

    inside: ClassVar[frozenset[str]] = frozenset({"adjusting"})
    at_sites: ClassVar[str] = "adjusting"
    adjusting: ModuleList

    def __init__(self, network: Module, parts: Mapping[Site, Adjustment]) -> None:
        super().__init__(network)
        self.put_parts_(parts)

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Return the network's result with the adjustments applied."""
        modules = self.by_site()
        with changed_at(self.network, self.sites, change=lambda site, values: cast(Tensor, modules[site](values, site))):
            return self.network(*tensors, **named)


class CodeTable(Embedding):
    """Embedding of conditions: row indices (N,) to codes (N, size)."""

    def reset_parameters(self) -> None:
        """Draw small codes. Row 0, the mean code, is zero."""
        with torch.no_grad():
            self.weight.normal_(0.0, CODE_SPREAD)
            self.weight[0] = 0


class CodeMap(Linear):
    """Linear map from codes (N, `size`) to shifts (N, `channels`) at one hook point. Initially zero, so that nothing changes."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__(size, channels, bias=False)

    def reset_parameters(self) -> None:
        """Set the map to zero."""
        with torch.no_grad():
            self.weight.zero_()


class ResidualEntrance(Module):
    """An adaptation network: x + W2 relu(W1 x + b1 + B1 s) + b2 + B2 s over the features (channels) of the input.
    Both layers read the code s: W and B together act on [x; s]. W2, b2 and both B start at zero, so x passes unchanged.
    `first`: W1 and b1.
    `last`: W2 and b2.
    `maps`: B1 (h, size) and B2 (channels, size); None once the code of one condition is folded into b1 and b2.
    `channels_last`: whether the features are the last axis.
    Source: Abdel-Hamid & Jiang (ICASSP 2013), the adaptation network. Deviation: its output is added to the input and starts at zero."""

    def __init__(self, channels: int, size: int, *, hidden: int, rank: int, last: bool) -> None:
        super().__init__()
        self.channels_last = last
        self.first = over_channels(channels, hidden, rank=rank, last=last)
        self.last = over_channels(hidden, channels, rank=rank, last=last)
        self.maps: ModuleList | None = ModuleList([CodeMap(size, hidden), CodeMap(size, channels)])
        with torch.no_grad():
            for parameter in self.last.parameters():
                parameter.zero_()

    def forward(self, inputs: Tensor, codes: Tensor | None = None) -> Tensor:
        """Return the inputs, in the same shape, adapted to their codes (N, size)."""
        hidden = self._shifted(self.first(inputs), codes, layer=0).relu()
        return inputs + self._shifted(self.last(hidden), codes, layer=1)

    def _shifted(self, values: Tensor, codes: Tensor | None, *, layer: int) -> Tensor:
        """Return a layer's output plus its map of the codes."""
        if codes is None or self.maps is None:
            return values
        return values + spread(self.maps[layer](codes.to(values.dtype)), values, last=self.channels_last)

    def fold_(self, code: Tensor) -> None:
        """Fold one code (size,) into the biases and drop the code maps."""
        with torch.no_grad():
            for layer, own in zip((self.first, self.last), self.maps or (), strict=True):
                fold_(layer, shift=own(code.to(cast(Tensor, own.weight))))
        self.maps = None


class EntranceNetwork(Graft):
    """A network with a shape-preserving module before its input."""

    entrance: Module

    def __init__(self, network: Module, entrance: Module) -> None:
        super().__init__(network, entrance=entrance)

    def forward(self, *tensors: Tensor) -> Any:
        """Return the network's result for the transformed input."""
        return self.network(self.entrance(tensors[0]), *tensors[1:])


class CodedNetwork(_SiteModules):
    """A network that takes the code of a condition with each example.
    `codes`: the table of codes, (1 + K, size).
    `single`: whether the network takes one tensor, here called "inputs", rather than named ones.
    `sites`: hook points where codes are added before the activation, in the order of execution.
    `entrance`: adaptation network before the input that reads the code; None if there is none.
    `filled`: name, shape and type of the network input that the code replaces; None if it replaces none."""

    inside: ClassVar[frozenset[str]] = frozenset({"codes", "maps"})
    at_sites: ClassVar[str] = "maps"
    maps: ModuleList  # the linear map of each hook point

    def __init__(self, network: Module, codes: CodeTable, *, single: bool, maps: Mapping[Site, CodeMap]) -> None:
        super().__init__(network)
        self.codes = codes
        self.single = single
        self.put_parts_(maps)
        self.entrance: ResidualEntrance | None = None
        self.filled: tuple[str, tuple[int, ...], torch.dtype] | None = None

    def forward(self, condition: Tensor, **named: Tensor) -> Any:
        """Return the network's result.
        `condition`: (N,) row indices into the table of codes."""
        if self.filled is not None:
            name, shape, dtype = self.filled
            named[name] = cast(Tensor, self.codes(condition)).reshape(-1, *shape).to(dtype)
        if self.entrance is not None:
            named["inputs"] = self.entrance(named["inputs"], self.codes(condition))
        known: list[Tensor] = []
        maps = self.by_site()

        def shifted(site: Site, values: Tensor) -> Tensor:
            if not known:  # looked up at the first hook point, so that earlier layers do not depend on the condition
                known.append(self.codes(condition))
            return values + site.spread(maps[site](known[0]).to(values.dtype), values)

        with changed_at(self.network, self.sites, change=shifted):
            return self.network(named["inputs"]) if self.single else self.network(**named)


class GivenInput(Graft):
    """A network of named inputs with one of them fixed to the same value, (1, …), for all examples.
    `only` is the network's name for its only other input, which is then passed without a name; "" if there are several."""

    former_parts: ClassVar[Mapping[str, str]] = {"given.value": "value"}

    def __init__(self, network: Module, name: str, *, value: Tensor, only: str = "") -> None:
        super().__init__(network)
        self.name = name
        self.only = only
        self.given = Module()
        self.given.register_buffer("value", value)

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Return the network's result for its other inputs."""
        value, given = cast(Tensor, self.given.value), {self.only: tensors[0]} if tensors else named
        count = next(iter(given.values())).shape[0]
        return self.network(**given, **{self.name: value.expand(count, *value.shape[1:])})
