"""Further layers below the head, as `regraft.retarget` builds them."""

from __future__ import annotations

from ...data import Dataset
from ...heads import retarget
from ...networks.contract import Network
from ..plan import Plan
from ..preparing import output_names
from ..trained import with_fresh

__all__ = ["deepened"]


def deepened(  # over the limit: the three names of the space
    net: Network, data: Dataset, *, plan: Plan, head_layers: int = 0, head_units: int = 0, head_activation: str = "relu"
) -> tuple[Network, Plan]:
    """Put layers of random weights between the backbone and a new head, and let the plan train them first.

    The old head's place is taken by the first of them; its rows are not kept.

    Args:
        net: the network; it is not changed.
        data: of one classification; gives the classes of the new head.
        plan: with the strategy "head" or "full".
        head_layers: how many; 0 returns network and plan as they are.
        head_units: units of each.
        head_activation: what follows each of them but the first, "relu" or "linear".

    Returns:
        The network and the plan.
    """
    if not head_layers:
        return net, plan
    made = retarget(net, output_names(data), hidden=[(head_units, head_activation)] * head_layers, seed=plan.seed)
    return made, with_fresh(made, plan)
