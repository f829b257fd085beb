"""Modules around a network that change it inside or before its input: by channel, by the code of a condition, by a linear layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import torch
from torch import Tensor
from torch.nn import Conv1d, Conv2d, Conv3d, Embedding, Linear, Module, ModuleList, Parameter

from ..parts.coding import CODE_SPREAD
from ..parts.scaling import film, lhuc
from .graft import Graft
from .sites import Site, changed_at, fold_

__all__ = [
    "AdjustedNetwork",
    "Adjustment",
    "CodeMap",
    "CodeTable",
    "CodedNetwork",
    "EntranceNetwork",
    "GivenInput",
    "ResidualEntrance",
    "over_channels",
]

_OVER_CHANNELS: dict[int, type[Module]] = {3: Conv1d, 4: Conv2d, 5: Conv3d}


def over_channels(old: int, new: int, *, rank: int, last: bool) -> Module:
    """Return a linear layer over the channels of values of `rank` axes, at every position alike."""
    kind: Any = Linear if last or rank == 2 else _OVER_CHANNELS[rank]
    return cast(Module, kind(old, new) if kind is Linear else kind(old, new, 1))


class Adjustment(Module):
    """What the values of one site are scaled with by channel, and shifted by: LHUC or FiLM; at first it changes nothing, to the bit.

    Attributes:
        a: of "lhuc": (C,), zero at first: the scale is 2 sigmoid(a).
        g, b: of "film": scale and shift, (C,) each, one and zero at first.
    """

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
        """Return the values of a site, changed."""
        scale, shift = (None if numbers is None else site.spread(numbers.to(values.dtype), values) for numbers in self.change())
        return film(values, cast(Tensor, scale), shift=shift)


class _AtSites(Graft):
    """A network with a part of its own at each of some sites.

    Attributes:
        sites: where, in the order of execution.
    """

    at_sites: ClassVar[str]
    """The attribute that holds the parts, in the order of the sites."""

    sites: tuple[Site, ...]

    def put_parts_(self, parts: Mapping[Site, Module]) -> None:
        """Have these parts, in the order of the sites."""
        self.sites = tuple(parts)
        setattr(self, self.at_sites, ModuleList(parts.values()))

    def by_site(self) -> dict[Site, Module]:
        """Return the part of each site."""
        return dict(zip(self.sites, cast(ModuleList, getattr(self, self.at_sites)), strict=True))

    def keep_sites_(self, kept: Sequence[bool]) -> None:
        """Keep those of the sites for which `kept` says so."""
        self.put_parts_({site: part for (site, part), keep in zip(self.by_site().items(), kept, strict=True) if keep})


class AdjustedNetwork(_AtSites):
    """A network whose values at some sites are scaled and shifted by channel, by an `Adjustment` each, while that is trained."""

    inside: ClassVar[frozenset[str]] = frozenset({"adjusting"})
    at_sites: ClassVar[str] = "adjusting"
    adjusting: ModuleList

    def __init__(self, network: Module, parts: Mapping[Site, Adjustment]) -> None:
        super().__init__(network)
        self.put_parts_(parts)

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Return what the network returns, its values changed on the way."""
        modules = self.by_site()
        with changed_at(self.network, self.sites, change=lambda site, values: cast(Tensor, modules[site](values, site))):
            return self.network(*tensors, **named)


class CodeTable(Embedding):
    """The codes of conditions: row numbers (N,) become codes (N, size)."""

    def reset_parameters(self) -> None:
        """Draw small codes; row 0, the mean code, is zero."""
        with torch.no_grad():
            self.weight.normal_(0.0, CODE_SPREAD)
            self.weight[0] = 0


class CodeMap(Linear):
    """The linear map from codes (N, `size`) to shifts (N, `channels`) at one site; zero at first, so that nothing changes."""

    def __init__(self, size: int, channels: int) -> None:
        super().__init__(size, channels, bias=False)

    def reset_parameters(self) -> None:
        """Set the map to zero."""
        with torch.no_grad():
            self.weight.zero_()


class ResidualEntrance(Module):
    """An adaptation network: x + W2 relu(W1 x + b1 + B1 s) + b2 + B2 s over the features (channels) of the input.

    Each of its two layers reads the code: W and B together read [x; s]. W2, b2 and both B are zero at first: x passes as it is.

    Attributes:
        first: W1 and b1.
        last: W2 and b2.
        maps: B1 (h, size) and B2 (channels, size); None where the code of one condition has been folded into b1 and b2.
        channels_last: whether the features are the last axis.

    Source: Abdel-Hamid & Jiang (ICASSP 2013), the adaptation network. Deviation: its output is added to the input and begins at zero.
    """

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
        """Return the inputs, of the same shape, changed as their codes (N, size) have it."""
        hidden = self._shifted(self.first(inputs), codes, layer=0).relu()
        return inputs + self._shifted(self.last(hidden), codes, layer=1)

    def _shifted(self, values: Tensor, codes: Tensor | None, *, layer: int) -> Tensor:
        """Return what a layer gave, with its map of the codes added."""
        if codes is None or self.maps is None:
            return values
        shift = cast(Tensor, self.maps[layer](codes.to(values.dtype)))
        ones = (1,) * (values.ndim - 2)
        return values + (shift.reshape(shift.shape[0], *ones, -1) if self.channels_last else shift.reshape(shift.shape[0], -1, *ones))

    def fold_(self, code: Tensor) -> None:
        """Make the shifts of one code (size,) part of the biases, and read none any more."""
        with torch.no_grad():
            for layer, own in zip((self.first, self.last), self.maps or (), strict=True):
                fold_(layer, shift=own(code.to(cast(Tensor, own.weight))))
        self.maps = None


class EntranceNetwork(Graft):
    """A network with a module before its input, whose shape it keeps."""

    entrance: Module

    def __init__(self, network: Module, entrance: Module) -> None:
        super().__init__(network, entrance=entrance)

    def forward(self, *tensors: Tensor) -> Any:
        """Return what the network returns for the changed input."""
        return self.network(self.entrance(tensors[0]), *tensors[1:])


class CodedNetwork(_AtSites):
    """A network that takes the code of a condition beside each item.

    Attributes:
        codes: the table of codes, (1 + K, size).
        single: whether the network takes one tensor, here called "inputs", rather than named ones.
        sites: where codes are added before the activation, in the order of execution.
        maps: the linear map for each site.
        entrance: what reads input and code before the network; None where nothing does.
        filled: name and shape of the input of the network that the code is; None where it is none.
    """

    inside: ClassVar[frozenset[str]] = frozenset({"codes", "maps"})
    at_sites: ClassVar[str] = "maps"
    maps: ModuleList

    def __init__(self, network: Module, codes: CodeTable, *, single: bool, maps: Mapping[Site, CodeMap]) -> None:
        super().__init__(network)
        self.codes = codes
        self.single = single
        self.put_parts_(maps)
        self.entrance: ResidualEntrance | None = None
        self.filled: tuple[str, tuple[int, ...], torch.dtype] | None = None

    def forward(self, condition: Tensor, **named: Tensor) -> Any:
        """Return what the network returns.

        `condition`: (N,) row numbers of the table of codes.
        """
        if self.filled is not None:
            name, shape, dtype = self.filled
            named[name] = cast(Tensor, self.codes(condition)).reshape(-1, *shape).to(dtype)
        if self.entrance is not None:
            named["inputs"] = self.entrance(named["inputs"], self.codes(condition))
        known: list[Tensor] = []
        maps = self.by_site()

        def shifted(site: Site, values: Tensor) -> Tensor:
            if not known:  # looked up at the first site, so that what runs before it does not depend on the condition
                known.append(self.codes(condition))
            return values + site.spread(maps[site](known[0]).to(values.dtype), values)

        with changed_at(self.network, self.sites, change=shifted):
            return self.network(named["inputs"]) if self.single else self.network(**named)


class _Constant(Module):
    """Holds a tensor, `value`, that is saved and not trained."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.register_buffer("value", value)


class GivenInput(Graft):
    """A network one of whose inputs is the same for all items.

    Attributes:
        network: the network; it takes named tensors.
        given: holds its value for one item, (1, …).
        only: what the network calls the only other input, which then comes without a name; "" where there are several.
    """

    former_parts: ClassVar[Mapping[str, str]] = {"given.value": "value"}

    def __init__(self, network: Module, name: str, *, value: Tensor, only: str = "") -> None:
        super().__init__(network)
        self.name = name
        self.only = only
        self.given = _Constant(value)

    def forward(self, *tensors: Tensor, **named: Tensor) -> Any:
        """Return what the network returns for its other inputs."""
        value, given = cast(Tensor, self.given.value), {self.only: tensors[0]} if tensors else named
        count = next(iter(given.values())).shape[0]
        return self.network(**given, **{self.name: value.expand(count, *value.shape[1:])})
