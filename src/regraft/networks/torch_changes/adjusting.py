"""Scales and shifts by channel in a PyTorch body, trained, then folded into its weights; and a linear layer before its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor

from ...errors import NetworkError, near_names
from ...randomness import seeded
from ..edits import ScaleShift
from ..parts.points import Point
from ..parts.protocols import Inputs
from ..parts.taps import INPUT, Tap
from ..samples import three_items
from ..torch_parts.body import TorchBody
from ..torch_parts.graft import Graft, find_graft, module_at, without
from ..torch_parts.sites import Site, find_sites, fold_, give_bias_
from ..torch_parts.taps import Point as Place
from ..torch_parts.taps import read_point, width_hint
from .conditioned import AdjustedNetwork, Adjustment, EntranceNetwork, Film, Lhuc, over_channels
from .wrappers import call_module, side_modules

__all__ = [
    "adjusted",
    "biased",
    "chosen_sites",
    "place_of_input",
    "points_of",
    "settled",
    "with_entrance",
    "wrapped",
]
_FORMS: Mapping[str, Callable[[int], Adjustment]] = {"lhuc": Lhuc, "film": Film}
_WIDEST = 4096
"""Widest vector before which a linear layer is put: its weight would have the square of that many numbers."""


def points_of(body: TorchBody) -> tuple[Point, ...]:
    """Return where a `body` can be shifted or scaled by channel: no layer of an edit, no head, nothing behind the first head."""
    blocks = {layer: block.name for block in body.blocks for layer in block.layers}
    return tuple(Point(site.name, blocks[site.name], site.channels) for site in _sites_of(body))


def _sites_of(body: TorchBody) -> list[Site]:
    """Return the sites of all points of a `body`."""
    modules, aside = body.modules(), side_modules(body.module)
    without = {name for name in modules if any(name == other or name.startswith(f"{other}.") for other in aside)}
    heads = body.head_layers
    run = partial(call_module, body.module)
    runs = [partial(run, batch) for batch in (body.sample, three_items(body.sample), _twice_the_first(body.sample))]
    was_training = [name for name, module in modules.items() if module.training]
    body.module.eval()
    found = find_sites(modules, runs, without=without | set(heads), until=heads[0] if heads else None)
    for name in was_training:
        modules[name].training = True
    return found


def _twice_the_first(sample: Inputs) -> Inputs:
    if isinstance(sample, dict):
        return {name: tensor[:1].expand_as(tensor) for name, tensor in sample.items()}
    return sample[:1].expand_as(sample)


def chosen_sites(body: TorchBody, names: Sequence[str]) -> list[Site]:
    """Return the sites of the points of a `body` with these `names`, in the order of execution.

    Raises:
        NetworkError: if one is unknown; the nearest names are listed.
    """
    sites = {site.name: site for site in _sites_of(body)}
    wrong = [name for name in names if name not in sites]
    if wrong:
        raise NetworkError(f"The network has no linear layer or convolution {wrong[0]!r} to be changed{near_names(wrong[0], sites)}")
    return [site for name, site in sites.items() if name in set(names)]


def wrapped(twin: TorchBody, module: Graft) -> TorchBody:
    """Return a body, a private copy (`twin`), with an edit around it, the `module`; it is inspected anew."""
    device = next((parameter.device for parameter in twin.module.parameters()), torch.device("cpu"))
    mode = twin.module.training
    twin.module = module.to(device).train(mode)
    return twin.anew(twin.found, twin.heads)


def adjusted(body: TorchBody, edit: ScaleShift) -> TorchBody:
    """Return a copy of a `body` whose values at the points of an `edit` are scaled and shifted by channel.

    Raises:
        NetworkError: if a point is unknown.
    """
    sites = chosen_sites(body, edit.points)
    twin = body.copy()
    return wrapped(twin, AdjustedNetwork(twin.module, sites, kind=_FORMS[edit.form]))


def settled(body: TorchBody) -> tuple[TorchBody, tuple[str, ...]]:
    """Return a copy of a `body`, its adjustments folded into the weights, and the names of layers that got a bias for it."""
    twin = body.copy()
    around = find_graft(twin.module, AdjustedNetwork)
    if around is None:
        return twin, ()
    created = []
    for site, adjusting in zip(around.sites, around.adjusting, strict=True):
        scale, shift = cast(Adjustment, adjusting).change()
        if fold_(module_at(around.network, site.name), scale=scale, shift=shift):
            created.append(site.name)
    twin.module = without(twin.module, around)
    return twin.anew(twin.found, twin.heads), tuple(created)


def biased(body: TorchBody, layers: Sequence[str]) -> TorchBody:
    """Return a copy of a `body` in which these `layers`, linear ones or convolutions, have a bias, zero at first."""
    twin = body.copy()
    for name in layers:
        give_bias_(module_at(twin.module, name))
    return twin.anew(twin.found, twin.heads)


def place_of_input(body: TorchBody, change: str) -> tuple[Place, Tensor]:
    """Return where the features (channels) of a network's input are, and two items.

    Args:
        body: takes one tensor.
        change: what is to be done with it, for the message.

    Raises:
        NetworkError: if it takes token ids, several inputs, or vectors that are too wide.
    """
    sample = body.sample
    if isinstance(sample, dict) or not sample.is_floating_point():
        received = f"the inputs {', '.join(sample)}" if isinstance(sample, dict) else "token ids"
        raise NetworkError(f"{change} reads one input of real numbers; this network takes {received}. Change its layers instead.")
    layers = [module_at(body.module, layer.name) for layer in body.layers]
    three = cast(Tensor, three_items(sample))
    place = read_point(Tap(INPUT, ("mean",)), None, two=sample, three=three, hint=width_hint(layers, given=False))
    if place is None or place.channels > _WIDEST or sample.ndim > 5:
        raise NetworkError(
            f"{change} reads vectors of at most {_WIDEST} features, or channels; this network takes items of shape {body.input_shape}. "
            "Change its layers instead."
        )
    return place, sample


@seeded()
def with_entrance(body: TorchBody) -> TorchBody:
    """Return a copy of a `body` with a linear layer over the features (channels) before the input, the identity at first."""
    place, sample = place_of_input(body, "A linear layer before the input")
    entrance = over_channels(place.channels, place.channels, rank=sample.ndim, last=place.channels_last)
    weight, bias = cast(Tensor, entrance.weight), cast(Tensor, entrance.bias)
    with torch.no_grad():
        weight.copy_(torch.eye(place.channels).reshape(weight.shape))
        bias.zero_()
    twin = body.copy()
    return wrapped(twin, EntranceNetwork(twin.module, entrance.to(sample.dtype)))
