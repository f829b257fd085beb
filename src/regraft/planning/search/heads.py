"""Further layers below the head, made of the head operations that every network has."""

from __future__ import annotations

from dataclasses import replace

from ...data import Dataset
from ...heads import retarget, stack
from ...networks.contract import Network
from ..plan import Plan
from ..preparing import output_names

__all__ = ["deepened"]


def deepened(  # over the limit: the three names of the space
    net: Network, data: Dataset, *, plan: Plan, head_layers: int = 0, head_units: int = 0, head_activation: str = "relu"
) -> tuple[Network, Plan]:
    """Put layers of random rows between the backbone and a new head, and let the plan train them too.

    The old head's place is taken by the first of them; its rows are not kept.

    Args:
        net: the network; it is not changed.
        data: of one classification; gives the classes of the new head.
        plan: with the strategy "head", which becomes "partial" up to the last layer below the old head, or "full".
        head_layers: how many; 0 returns network and plan as they are.
        head_units: rows of each.
        head_activation: what follows each of them, "relu" or "linear".

    Returns:
        The network and the plan.
    """
    if not head_layers:
        return net, plan
    below = [layer.name for layer in net.layers if layer.name not in net.head_layers and layer.parameters]
    units = [f"unit {index}" for index in range(head_units)]
    made = retarget(net, units, start="random", seed=plan.seed)
    for number in range(1, head_layers):
        made = stack(made, units, activation=head_activation, start="random", seed=plan.seed + number)
    made = stack(made, output_names(data), activation=head_activation)
    if plan.strategy != "head":
        return made, plan
    if not below:
        return made, replace(plan, strategy="full")
    kept = next(layer.name for layer in made.layers if f".{layer.name}".endswith(f".{below[-1]}"))  # stacking puts a prefix before names
    return made, replace(plan, strategy="partial", frozen=kept)
