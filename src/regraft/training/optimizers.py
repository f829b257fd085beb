"""Optimizers, and learning rates by depth."""

from collections.abc import Iterable, Mapping, Sequence

from torch.nn import Parameter
from torch.optim import Optimizer

from ..networks.network import Network
from .optimizing import named_optimizer, optimizer_by
from .settings import Settings

__all__ = ["depth_factors", "make_optimizer", "set_rate_", "trained_depth"]


def depth_factors(trained_blocks: int, layer_decay: float | None) -> list[float]:
    """Return the learning-rate factor of each trained block, lowest first; the top block has 1.
    `layer_decay`: factor from one block to the block below, in (0, 1]; None: 1.
    Source: discriminative fine-tuning (Howard & Ruder, ACL 2018, section 3.2)."""
    decay = 1.0 if layer_decay is None else layer_decay
    return [decay ** (trained_blocks - 1 - index) for index in range(trained_blocks)]


def make_optimizer(network: Network, settings: Settings, *, rates: Mapping[str, float] | None = None) -> Optimizer:
    """Return the optimizer of all trainable parameters, in groups by depth and by weight decay.
    Vectors (biases, normalisation) have no weight decay. `rates`: parameter name as in `state()` -> learning-rate factor; such a parameter
    gets its own group without weight decay."""
    parameters = network.layer_parameters()
    apart = {id(one): factor for names in parameters.values() for name, one in names.items() if (factor := (rates or {}).get(name))}
    by_block = [
        [parameter for name in names for parameter in parameters.get(name, {}).values() if parameter.requires_grad]
        for names in _by_depth(network)
    ]
    every = [parameter for group in parameters.values() for parameter in group.values() if parameter.requires_grad]
    trained = _apart([*by_block, every])
    groups = []
    for block, factor in zip(trained, depth_factors(len(trained), settings.layer_decay), strict=True):
        matrices = [parameter for parameter in block if parameter.ndim > 1 and id(parameter) not in apart]
        vectors = [parameter for parameter in block if parameter.ndim <= 1 and id(parameter) not in apart]
        groups += [
            {"params": chosen, "factor": factor, "weight_decay": decay}
            for chosen, decay in ((matrices, settings.weight_decay), (vectors, 0.0))
            if chosen
        ]
        groups += [{"params": [one], "factor": apart[id(one)], "weight_decay": 0.0} for one in block if id(one) in apart]
    if callable(settings.optimizer):  # the user's function sets its own weight decay
        return optimizer_by(
            settings.optimizer, [{name: value for name, value in group.items() if name != "weight_decay"} for group in groups]
        )
    return named_optimizer(settings.optimizer, groups, momentum=settings.momentum)


def trained_depth(network: Network) -> int:
    """Return the number of blocks with trainable parameters; all heads count as one block."""
    parameters = network.layer_parameters()
    return sum(any(one.requires_grad for name in names for one in parameters.get(name, {}).values()) for names in _by_depth(network))


def _by_depth(network: Network) -> list[tuple[str, ...]]:
    """Return the layers of each block, lowest first. Blocks with heads are merged, because all heads read the same features."""
    heads = set(network.head_layers)
    below = [block.layers for block in network.blocks if heads.isdisjoint(block.layers)]
    return [*below, tuple(name for block in network.blocks if not heads.isdisjoint(block.layers) for name in block.layers)]


def _apart(blocks: Iterable[Sequence[Parameter]]) -> list[list[Parameter]]:
    """Return the blocks that hold parameters, each parameter once, in the first of its blocks: tied parameters in the lowest, and in the
    last those of no block."""
    seen, found = set[int](), list[list[Parameter]]()
    for block in blocks:
        own = {id(parameter): parameter for parameter in block if id(parameter) not in seen}
        seen |= own.keys()
        found += [list(own.values())] if own else []
    return found


def set_rate_(optimizer: Optimizer, rate: float) -> None:
    """Set the learning rate of every group: the head's `rate` times the group's factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
