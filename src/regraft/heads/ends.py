"""Taking apart and putting together: a shorter network, and numbers beside each item."""

from __future__ import annotations

from collections.abc import Sequence

from ..data import ColumnsPreprocessing, preprocessing_from_dict
from ..errors import SettingError
from ..networks.account import Account
from ..networks.contract import Network
from ..randomness import own_state

__all__ = ["cut", "join"]


@own_state()
def cut(net: Network, block: str) -> Network:
    """Return a shorter network that ends at a block; it has no head, and the blocks behind are gone.

    Args:
        net: the network; it is not changed.
        block: the name of the last block to keep, one of `net.blocks`.

    Returns:
        A network whose `features` are that block's output, averaged over positions. `regraft.retarget` gives it a head.

    Raises:
        NetworkError: if there is no such block; the nearest names are listed.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> shorter = regraft.cut(net, net.blocks[0].name)
        >>> shorter.heads, shorter.features(np.zeros((5, 4), "float32")).shape
        ({}, (5, 8))
    """
    shorter = net.ended(block)
    shorter.statistics = shorter.unknown = None
    names = [known.name for known in net.blocks]
    gone = tuple(names[names.index(block) + 1 :])
    entries = {"dropped": list(gone)} if gone else {}
    shorter.account = net.account.of_weights().joined(Account(entries, notes=(f"the network ends at the block {block!r}",)))
    return shorter


@own_state()
def join(net: Network, columns: Sequence[str]) -> Network:
    """Let a network's head read numbers beside each item: a price beside the picture, an hour beside the headline.

    The columns are standardised by the data that the network is adapted to, and joined to the features before the head. Their weights
    start at zero, so that scores are as before until they are trained.

    Args:
        net: the network, with one head; it is not changed.
        columns: names of the columns; data are read with `regraft.read(..., columns=[...])`.

    Returns:
        The network.

    Raises:
        SettingError: if no column is named, or one twice.
        NetworkError: if the network cannot be changed so.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> joined = regraft.join(net, ["hour", "price"])
        >>> joined.head.weight.shape, net.head.weight.shape
        ((3, 10), (3, 8))
    """
    names = [columns] if isinstance(columns, str) else [str(name) for name in columns]
    if not names or len(set(names)) < len(names):
        raise SettingError(f"Received the columns {names}; expected one or more different names.")
    joined = net.with_columns(len(names))
    joined.preprocessing = ColumnsPreprocessing(preprocessing_from_dict(net.preprocessing.to_dict()), tuple(names))
    joined.statistics = joined.unknown = None
    joined.account = net.account.joined(Account(notes=(f"the head also reads the columns {', '.join(map(repr, names))}",)))
    return joined
