"""`codes`: learn a small vector (code) for every condition, which shifts the activations of the network."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ..errors import NetworkError
from ..freezing import added_parameters, frozen_but, head_parameters
from ..networks.network import Coding, Network
from ..networks.parts.coding import ENTRANCE, LAYERS
from ..networks.parts.structure import points_in
from ..words import counted
from .contract import Method, Option, PreparedNetwork, are_names

__all__ = ["METHOD", "TRAININGS", "mean_code", "shared_rows"]

Table = TypeVar("Table", Tensor, np.ndarray)
TRAININGS = ("joint", "direct", "entrance")
SIZE = 50  # Default size of a code, if the widest shifted layer has at least as many channels
FASTER = 10.0  # Factor of the learning rate for codes: a code receives gradients only from examples of its own condition
DROPPED = 0.5  # Default dropout rate of the heads' inputs: without errors on the training examples, codes would learn nothing
SHARED = 0.1  # Share of the examples in a step that use the mean code, so that it works for examples of unknown condition


def mean_code(table: Table) -> Table:
    """Return the mean (size,) of the K codes in a table (1 + K, size). Row 0 holds the mean code and is excluded."""
    mean: Table = table[1:].mean(0)
    return mean


def shared_rows(rows: Tensor, chance: Tensor, *, share: float) -> Tensor:
    """Replace a random share of code indices by 0, the mean code.

    Source: condition dropout, as for class labels in Ho & Salimans, arXiv:2207.12598, section 3.2. Deviation: the mean of the codes is
    used instead of a separate code.

    Args:
        rows: (N,) rows in the code table.
        chance: (N,) uniform random numbers in [0, 1).
        share: share to replace, in [0, 1].

    Returns:
        (N,) rows in the code table.
    """
    return torch.where(chance.reshape(rows.shape) < share, torch.zeros_like(rows), rows)


def _begin(network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> PreparedNetwork:
    """Add codes to the network and freeze what the chosen training does not train.

    A layer computes W h + b + B s before its activation. A linear layer, zero at first, computes B s from the code s of the example. In
    convolutions, B s is one value per channel, the same at every position, and added after the BatchNorm that follows.

    Source: Xue et al., TASLP 22(12), 2014, equation 4 and sections III and IV. "joint" also trains the weights, "direct" trains the codes
    and the layers that read them, "entrance" trains the codes and a network before the input (Abdel-Hamid & Jiang, ICASSP 2013).
    Deviations: the heads are always trained, because they may be new, and have no code. Codes have a Gaussian prior with the penalty
    |s|² / 2. A share of the examples uses the mean code. If the network has codes already, "direct" and "entrance" train only the codes
    and the heads.

    Raises:
        NetworkError: if the network has no hook point for codes, or its codes have another size.
    """
    known = network.coding
    twin = _further(network, conditions, size=options["size"]) if known else _coded(network, options, conditions=conditions, seed=seed)
    table = twin.body.code_table()
    name = next(name for names in twin.layer_parameters().values() for name, parameter in names.items() if parameter is table)
    added = {name} if known else added_parameters(network, twin)
    frozen = frozenset[str]() if options["training"] == "joint" else frozen_but(twin, {*added, *head_parameters(twin)})
    rows = [1 + index for index, condition in enumerate(twin.coding.conditions if twin.coding else ()) if condition in conditions]
    return PreparedNetwork(twin, frozen, {name: FASTER}, lambda: table[rows].square().sum() / 2)


def _coded(network: Network, options: Mapping[str, Any], *, conditions: Sequence[str], seed: int) -> Network:
    """Return a copy of the network with codes for these conditions.

    Raises:
        NetworkError: if the code is longer than the widest shifted layer has channels.
    """
    names, size = tuple(conditions), options["size"]
    if options["training"] == "entrance":
        return network.coded(Coding(size or SIZE, names, ENTRANCE, (), names), seed=seed)
    points = points_in(network.points(), options["blocks"])
    widest = max(point.channels for point in points)
    if size is not None and size > widest:
        raise NetworkError(
            f"size={size}: the widest layer that the codes shift has {widest} channels, and a longer code could say nothing more there. "
            f"Give {widest} or less."
        )
    return network.coded(Coding(size or min(SIZE, widest), names, LAYERS, tuple(point.name for point in points), names), seed=seed)


def _further(network: Network, conditions: Sequence[str], *, size: int | None) -> Network:
    """Return a copy of a network with codes, extended by new conditions. Their codes start at the mean code.

    Raises:
        NetworkError: if `size` differs from the size of the existing codes.
    """
    coding, table = network.coding, network.body.code_table().detach().cpu().numpy()
    if coding is None or size not in (None, coding.size):
        raise NetworkError(f"size={size}: the network has codes of {counted(table.shape[1], 'number')} already; leave size= out.")
    new = {name: table[0] for name in conditions if name not in coding.conditions}
    return network.recoded(*coding.joined(table, new))


@contextmanager
def _mean_in_place(network: Network) -> Iterator[None]:
    """Use the mean of all codes as row 0 of the table, and in training also for a random share of the examples."""
    table, modules = network.body.code_table(), network.modules()
    owned = network.layer_parameters()
    place: Module = next(modules[layer] for layer, names in owned.items() if any(parameter is table for parameter in names.values()))

    def before(_module: Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
        if not torch.is_grad_enabled():  # evaluation, not training
            return arguments
        rows = arguments[0]
        return (shared_rows(rows, torch.rand(rows.shape, device=rows.device), share=SHARED), *arguments[1:])

    def after(_module: Module, arguments: tuple[Any, ...], output: Tensor) -> Tensor:
        mean = mean_code(table).detach().to(output.dtype)  # detached: otherwise all codes drift together
        return torch.where((arguments[0] == 0)[..., None], mean, output)

    with place.register_forward_pre_hook(before), place.register_forward_hook(after):
        yield


def _end(network: Network) -> Network:
    """Return a copy whose stored mean code is the mean of the learned codes.

    Raises:
        NetworkError: if the network has no codes.
    """
    coding = network.coding
    if coding is None:
        raise NetworkError("Received a network that takes no codes; expected the one that was trained with them.")
    table = network.body.code_table().detach().cpu().numpy().copy()
    table[0] = mean_code(table)
    twin = network.recoded(coding.conditions, table)
    twin.coding = replace(coding, learned=coding.conditions)
    return twin


def _is_size(value: Any) -> bool:
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)


METHOD = Method(
    "codes",
    "a small code for every condition",
    _begin,
    end=_end,
    during=_mean_in_place,
    options={
        "size": Option(None, f"a whole number, 1 or more, or None for {SIZE}", _is_size),
        "blocks": Option(None, "names of blocks, or None for all", are_names),
        "training": Option("joint", f"one of {', '.join(TRAININGS)}", lambda value: value in TRAININGS),
    },
    settings={"layer_decay": 1.0, "dropout": DROPPED},
    by_condition=True,
)
