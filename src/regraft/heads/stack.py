"""Stack: put a new head on top of the old logits."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from ..errors import SettingError, checked_call, near_names
from ..networks.account import Account
from ..networks.names import checked_classes
from ..networks.network import Network
from ..networks.parts.head import ACTIVATIONS
from ..randomness import own_state
from .starts import Start, empty_head, ready_for, started


# over the limit: the public contract, and the same start options as elsewhere
@checked_call
@own_state()
def stack(
    net: Network, classes: Sequence[str], *, activation: str = "relu", start: str = "zeros", data: Any = None, seed: int = 0
) -> Network:
    """Put a new head on top of the old logits, which become its features.

    Use it if the old classes describe the new ones, for example phonemes for words or objects for scenes. The old head becomes part of the
    backbone: `adapt(strategy="head")` keeps it unchanged, "full" also trains it.

    Args:
        net: the network. It is not changed.
        classes: M class names of the new head.
        activation: activation applied to the old logits: "relu", "linear", "softmax", "sigmoid", "tanh", "gelu", "elu", "selu", "silu" or
            "softplus".
        start: initialisation of the new class weights: "zeros", "random", "imprint" or "probe".
        data: examples of the new classes, for "imprint" and "probe".
        seed: seed for "random".

    Returns:
        A network whose only head reads the C old logits after the activation.

    Raises:
        SettingError: if the activation is unknown.
        NetworkError: if the network has no head.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> higher = regraft.stack(net, ["insect", "mammal"])
        >>> higher.classes, higher.head.weight.shape
        (('insect', 'mammal'), (2, 3))
    """
    if activation not in ACTIVATIONS:
        raise SettingError(f"activation={activation!r} is not known{near_names(str(activation), ACTIVATIONS)}")
    asked, names = Start(start, data, seed), checked_classes(classes)
    net, items = ready_for(net, data)
    net = net.with_head(net.head.as_softmax()) if net.head.binary else net
    old = net.head
    head = empty_head(old.task, names, kind="classification", features=len(old.weight))
    stacked = net.with_stack(head, activation)
    none = (head.weight[:0], head.bias[:0])
    filled = started(stacked, stacked.head, new=np.arange(len(names)), old=none, start=replace(asked, data=items))
    if start != "zeros":
        stacked.set_rows_(filled.layer, filled.weight, bias=filled.bias)
        stacked.body.refresh_heads_()
    below = f"the {len(old.weight)} old scores ({activation}) are the features of the new head; the old head is part of the backbone"
    stacked.account = net.account.of_weights().joined(Account({"new": list(names)}, notes=(below,)))
    return stacked
