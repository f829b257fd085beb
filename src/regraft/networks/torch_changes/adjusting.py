"""Scales and shifts by channel in a PyTorch network, trained, then folded into its weights; and a linear layer before its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeVar, cast

import torch
from torch import Tensor

from ...errors import NetworkError, near_names
from ...randomness import seeded
from ..contract import Inputs, Point
from ..edits import ScaleShift
from ..parts.taps import INPUT, Tap
from ..samples import three_items
from ..torch_parts.graft import Graft, find_graft, module_at, without
from ..torch_parts.programs import refuse_program
from ..torch_parts.record import TorchRecord
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

N = TypeVar("N", bound=TorchRecord)
_FORMS: Mapping[str, Callable[[int], Adjustment]] = {"lhuc": Lhuc, "film": Film}
_WIDEST = 4096
"""Widest vector before which a linear layer is put: its weight would have the square of that many numbers."""


def points_of(network: TorchRecord) -> tuple[Point, ...]:
    """Return where a `network` can be shifted or scaled by channel: no layer of an edit, no head, nothing behind the first head."""
    refuse_program(network.origin, "shifted or scaled")
    blocks = {layer: block.name for block in network.blocks for layer in block.layers}
    return tuple(Point(site.name, blocks[site.name], site.channels) for site in _sites_of(network))


def _sites_of(network: TorchRecord) -> list[Site]:
    """Return the sites of all points of a `network`."""
    modules, aside = network.modules(), side_modules(network.module)
    without = {name for name in modules if any(name == other or name.startswith(f"{other}.") for other in aside)}
    heads = network.head_layers
    run = partial(call_module, network.module)
    runs = [partial(run, batch) for batch in (network.sample, three_items(network.sample), _twice_the_first(network.sample))]
    was_training = [name for name, module in modules.items() if module.training]
    network.module.eval()
    found = find_sites(modules, runs, without=without | set(heads), until=heads[0] if heads else None)
    for name in was_training:
        modules[name].training = True
    return found


def _twice_the_first(sample: Inputs) -> Inputs:
    if isinstance(sample, dict):
        return {name: tensor[:1].expand_as(tensor) for name, tensor in sample.items()}
    return sample[:1].expand_as(sample)


def chosen_sites(network: TorchRecord, names: Sequence[str]) -> list[Site]:
    """Return the sites of the points of a `network` with these `names`, in the order of execution.

    Raises:
        NetworkError: if one is unknown; the nearest names are listed.
    """
    sites = {site.name: site for site in _sites_of(network)}
    wrong = [name for name in names if name not in sites]
    if wrong:
        raise NetworkError(f"The network has no linear layer or convolution {wrong[0]!r} to be changed{near_names(wrong[0], sites)}")
    return [site for name, site in sites.items() if name in set(names)]


def wrapped(twin: N, module: Graft) -> N:
    """Return a network, a private copy (`twin`), with an edit around it, the `module`; it is inspected anew."""
    device = next((parameter.device for parameter in twin.module.parameters()), torch.device("cpu"))
    mode = twin.module.training
    twin.module = module.to(device).train(mode)
    return twin.reopened(twin.found, twin.heads)


def adjusted(network: N, edit: ScaleShift) -> N:
    """Return a copy of a `network` whose values at the points of an `edit` are scaled and shifted by channel.

    Raises:
        NetworkError: if a point is unknown.
    """
    sites = chosen_sites(network, edit.points)
    twin = network.copy()
    return wrapped(twin, AdjustedNetwork(twin.module, sites, kind=_FORMS[edit.form]))


def settled(network: N) -> tuple[N, tuple[str, ...]]:
    """Return a copy of a `network`, its adjustments folded into the weights, and the names of layers that got a bias for it."""
    twin = network.copy()
    around = find_graft(twin.module, AdjustedNetwork)
    if around is None:
        return twin, ()
    created = []
    for site, adjusting in zip(around.sites, around.adjusting, strict=True):
        scale, shift = cast(Adjustment, adjusting).change()
        if fold_(module_at(around.network, site.name), scale=scale, shift=shift):
            created.append(site.name)
    twin.module = without(twin.module, around)
    return twin.reopened(twin.found, twin.heads), tuple(created)


def biased(network: N, layers: Sequence[str]) -> N:
    """Return a copy of a `network` in which these `layers`, linear ones or convolutions, have a bias, zero at first."""
    twin = network.copy()
    for name in layers:
        give_bias_(module_at(twin.module, name))
    return twin.reopened(twin.found, twin.heads)


def place_of_input(network: TorchRecord, change: str) -> tuple[Place, Tensor]:
    """Return where the features (channels) of a network's input are, and two items.

    Args:
        network: takes one tensor.
        change: what is to be done with it, for the message.

    Raises:
        NetworkError: if it takes token ids, several inputs, or vectors that are too wide.
    """
    sample = network.sample
    if isinstance(sample, dict) or not sample.is_floating_point():
        received = f"the inputs {', '.join(sample)}" if isinstance(sample, dict) else "token ids"
        raise NetworkError(f"{change} reads one input of real numbers; this network takes {received}. Change its layers instead.")
    layers = [module_at(network.module, layer.name) for layer in network.layers]
    three = cast(Tensor, three_items(sample))
    place = read_point(Tap(INPUT, ("mean",)), None, two=sample, three=three, hint=width_hint(layers, given=False))
    if place is None or place.channels > _WIDEST or sample.ndim > 5:
        raise NetworkError(
            f"{change} reads vectors of at most {_WIDEST} features, or channels; this network takes items of shape {network.input_shape}. "
            "Change its layers instead."
        )
    return place, sample


@seeded()
def with_entrance(network: N) -> N:
    """Return a copy of a `network` with a linear layer over the features (channels) before the input, the identity at first."""
    place, sample = place_of_input(network, "A linear layer before the input")
    entrance = over_channels(place.channels, place.channels, rank=sample.ndim, last=place.channels_last)
    weight, bias = cast(Tensor, entrance.weight), cast(Tensor, entrance.bias)
    with torch.no_grad():
        weight.copy_(torch.eye(place.channels).reshape(weight.shape))
        bias.zero_()
    twin = network.copy()
    return wrapped(twin, EntranceNetwork(twin.module, entrance.to(sample.dtype)))
