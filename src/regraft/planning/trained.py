"""What a plan trains, given what the owner of the network has frozen: told, and refused where nothing is left."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..errors import SettingError
from ..frontier import counted_layers, frozen_up_to, held_layers, matching_layers
from ..methods import METHODS
from ..networks.contract import Network
from .choosing.candidates import frozen_layers
from .plan import ALL, AUTO_BLOCK, Plan

__all__ = ["check_trained", "hold_"]

DRAWS = (
    "The network draws at random, in inference too: nothing is cached, closed-form heads are solved on one draw, and its figures and "
    "predictions differ from call to call."
)


def hold_(network: Network, plan: Plan, *, new_rows: Mapping[str, np.ndarray]) -> None:
    """Let a network hold what the plan says, else what its owner has frozen; a head with new rows is trained in any case.

    Args:
        network: with its heads; its account takes note of the layers.
        plan: with `trainable`.
        new_rows: task of the network -> rows of its new classes.

    Raises:
        SettingError: if the plan names a layer that is not there.
    """
    if plan.trainable == ALL:
        network.hold_(())
    elif plan.trainable is not None:
        wanted = matching_layers(network, plan.trainable, setting="trainable")
        network.hold_([layer.name for layer in network.layers if layer.parameters and layer.name not in wanted])
    for task, rows in new_rows.items():
        if len(rows) and network.heads[task].groups is None:
            network.release_(network.heads[task].layer)
    network.account = network.account.with_frozen(_held_names(network))


def _held_names(network: Network) -> list[str]:
    """Return what a `network` holds, in the order of execution."""
    place = {layer.name: at for at, layer in enumerate(network.layers)}
    return sorted(network.held, key=lambda name: (place.get(name, place.get(name.rpartition(".")[0], len(place))), name))


def _last_frozen(network: Network, frozen: int | str) -> str:
    """Return a sentence on where the frozen part of a plan ends."""
    chosen, count = frozen_up_to(network, frozen), counted_layers(frozen)
    names = [layer.name for layer in network.layers if layer.name in chosen]
    last = network.counted()[count - 1] if count else names[-1] if names else "none"
    weights = sum(layer.parameters > 0 for layer in network.layers if layer.name in chosen)
    return f"frozen={frozen!r}: {weights} layers with weights, and the last frozen layer is {last!r}."


def check_trained(network: Network, plan: Plan) -> list[str]:
    """Raise if what a network holds leaves a plan nothing to train; else return what is to be said of it.

    Args:
        network: with its heads.
        plan: with a strategy.

    Raises:
        SettingError: saying which layers are frozen, and by whom.
    """
    held, further = _held_names(network), [DRAWS] if network.draws else []
    further += [_last_frozen(network, plan.frozen)] if plan.strategy == "partial" and plan.frozen else []
    if not held:
        return further
    owner = "its freeze flags" if plan.trainable is None else "trainable="
    shown = ", ".join(map(repr, held[:4])) + (f", … ({len(held) - 4} more)" if len(held) > 4 else "")
    said = f"Frozen by {owner}, and not trained: {shown}."
    if plan.strategy in ("auto", "probe", *METHODS) or plan.block == AUTO_BLOCK:
        return [said, *further]
    frozen = held_layers(network) | {layer.name for layer in network.layers if layer.name in network.held}
    if plan.strategy == "head":
        frozen |= {layer.name for layer in network.layers} - set(network.head_layers)
    else:
        frozen |= frozen_layers(network, strategy=plan.strategy, frozen=plan.frozen, block=plan.block)
    left = {layer.name for layer in network.layers if layer.parameters and layer.name not in frozen}
    if not left:
        raise SettingError(
            f"strategy={plan.strategy!r} has nothing to train: {shown} {'is' if len(held) == 1 else 'are'} frozen by {owner}. "
            "Give trainable='all', or the names of the layers to train."
        )
    alone = plan.strategy != "head" and left <= set(network.head_layers)
    said += f" strategy={plan.strategy!r} trains the head alone: all below it is frozen." if alone else ""
    return [said, *further]
