"""Codes of conditions in a PyTorch network."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module, Parameter

from ...errors import NetworkError
from ...randomness import seeded
from ..parts.coding import ENTRANCE, INPUT, LAYERS, Coding, drawn_codes
from ..parts.points import points_in
from ..torch_parts.body import TorchBody, codes_around
from ..torch_parts.graft import module_at, without
from ..torch_parts.sites import fold_
from .adjusting import chosen_sites, place_of_input, points_of, wrapped
from .conditioned import CodedNetwork, CodeTable, EntranceNetwork, GivenInput, ResidualEntrance

__all__ = ["coded", "folded", "put_codes_"]
_CONDITION = "condition"
_WIDEST_HIDDEN = 256
"""Most hidden units of an adaptation network before the input, unless the codes are larger."""


@seeded()
def coded(body: TorchBody, coding: Coding, *, seed: int) -> TorchBody:
    """Return a copy of a `body` that takes a condition beside each item, as its `coding` says; `seed` draws the first codes.

    Raises:
        NetworkError: if it has an input called "condition" of its own, or cannot be changed so.
    """
    if isinstance(body.sample, dict) and _CONDITION in body.sample and coding.into != f"{INPUT}{_CONDITION}":
        raise NetworkError(f"The network has an input called {_CONDITION!r} of its own; expected none. Give it another name.")
    single = not isinstance(body.sample, dict)
    table = CodeTable(1 + len(coding.conditions), coding.size)
    table.weight = Parameter(torch.from_numpy(drawn_codes(coding, seed=seed)))
    with seeded(seed):  # of the layers that do not begin as zero
        around, full, rest = _around(body, coding, table=table, single=single)
    twin = body.copy()
    around.network = twin.module
    count = len(next(iter(rest.values())))
    twin.take_sample_({**rest, _CONDITION: torch.zeros(count, dtype=torch.int64, device=next(iter(rest.values())).device)})
    twin.coding = full
    return wrapped(twin, around)


def _around(body: TorchBody, coding: Coding, *, table: CodeTable, single: bool) -> tuple[CodedNetwork, Coding, dict[str, Tensor]]:
    """Return the wrapper without its body, the coding with its points, and the rest of the sample."""
    own = body.sample if isinstance(body.sample, dict) else {"inputs": body.sample}
    if coding.into == LAYERS:
        names = coding.points or [point.name for point in points_in(points_of(body), None)]
        sites = chosen_sites(body, names)
        return CodedNetwork(table, single=single, sites=sites), replace(coding, points=tuple(site.name for site in sites)), own
    around = CodedNetwork(table, single=single)
    if coding.into == ENTRANCE:
        place, sample = place_of_input(body, "An adaptation network before the input")
        hidden = max(coding.size, min(place.channels, _WIDEST_HIDDEN))
        entrance = ResidualEntrance(place.channels, coding.size, hidden=hidden, rank=sample.ndim, last=place.channels_last)
        around.entrance = entrance.to(sample.dtype)
        return around, coding, own
    name = coding.into.removeprefix(INPUT)
    around.filled = (name, tuple(own[name].shape[1:]), own[name].dtype)
    return around, coding, {other: tensor for other, tensor in own.items() if other != name}


def put_codes_(body: TorchBody, table: np.ndarray) -> None:
    """Give a `body` that takes codes another `table` of them, (1 + K, size)."""
    around = codes_around(body)
    old = around.codes.weight
    around.codes.num_embeddings = len(table)
    around.codes.weight = Parameter(torch.from_numpy(table.copy()).to(old), requires_grad=old.requires_grad)
    body.recount_(around.name_of("codes"))


def folded(body: TorchBody, code: Tensor) -> tuple[TorchBody, tuple[str, ...]]:
    """Return the network without its codes, one `code` of (size,) for all items, and the names of layers that got a bias for it."""
    twin = body.copy()
    around = codes_around(twin)
    created = []
    with torch.no_grad():
        for site, own in zip(around.sites, around.maps, strict=True):
            if fold_(module_at(around.network, site.name), shift=own(code)):
                created.append(site.name)
    twin.coding = None
    only = _drop_condition_(twin, around)
    plain = around.filled is None and around.entrance is None
    twin.module = without(twin.module, around, by=None if plain else _with_fixed_code(around, code, only=only))
    return twin.anew(twin.found, twin.heads), tuple(created)


def _drop_condition_(twin: TorchBody, around: CodedNetwork) -> str:
    """Let the network take its other inputs, where one is left as a tensor without a name; return what that was called, or ""."""
    rest = {name: tensor for name, tensor in cast(dict[str, Tensor], twin.sample).items() if name != _CONDITION}
    alone = (around.single and list(rest) == ["inputs"]) or (around.filled is not None and len(rest) == 1)
    twin.take_sample_(next(iter(rest.values())) if alone else rest)
    return next(iter(rest)) if alone else ""


def _with_fixed_code(around: CodedNetwork, code: Tensor, *, only: str) -> Module:
    """Return a wrapper for codings whose code cannot go into biases of the network: it is constant."""
    if around.filled is not None:
        name, shape, dtype = around.filled
        return GivenInput(around.network, name, value=code.detach().reshape(1, *shape).to(dtype), only=only)
    entrance = cast(ResidualEntrance, around.entrance)
    entrance.fold_(code)
    return EntranceNetwork(around.network, entrance)
