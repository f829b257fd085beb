"""Cut a network at a block, and join numeric columns to the features of its head."""

from collections.abc import Iterable, Sequence

from ..data import ColumnsPreprocessing, preprocessing_from_dict
from ..errors import SettingError, checked_call
from ..networks.account import Account
from ..networks.network import Network
from ..randomness import own_state


@checked_call
@own_state()
def cut(net: Network, block: str) -> Network:
    """Return a network that ends after a block. The later blocks and the head are removed.

    Args:
        net: the network. It is not changed.
        block: name of the last block to keep, one of `net.blocks`.

    Returns:
        A network whose `features` are the output of that block, averaged over positions. `regraft.retarget` gives it a head.

    Raises:
        NetworkError: if the block does not exist. The message lists similar names.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> shorter = regraft.cut(net, net.blocks[0].name)
        >>> shorter.heads, shorter.features(np.zeros((5, 4), "float32")).shape
        ({}, (5, 8))
    """
    shorter = net.ended(block)
    names = [known.name for known in net.blocks]
    gone = tuple(names[names.index(block) + 1 :])
    entries = {"dropped": list(gone)} if gone else {}
    shorter.account = net.account.of_weights().joined(Account(entries, notes=(f"the network ends at the block {block!r}",)))
    return shorter


@checked_call
@own_state()
def join(net: Network, columns: Sequence[str]) -> Network:
    """Let a network's head also read numeric columns, for example a price with each image or an hour with each headline.

    `adapt` standardises the columns with the statistics of its data. The columns are concatenated to the features before the head. Their
    weights start at zero, so the logits do not change until they are trained.

    Args:
        net: the network, with one head. It is not changed.
        columns: names of the columns. Read the data with `regraft.read(..., columns=[...])`.

    Returns:
        The network.

    Raises:
        SettingError: if no column is named, or a column is named twice.
        NetworkError: if the network does not support additional columns.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> joined = regraft.join(net, ["hour", "price"])
        >>> joined.head.weight.shape, net.head.weight.shape
        ((3, 10), (3, 8))
    """
    names = [columns] if isinstance(columns, str) else [str(name) for name in columns] if isinstance(columns, Iterable) else []
    if not names or len(set(names)) < len(names):
        raise SettingError(f"Received the columns {columns!r}; expected one or more different names.")
    joined = net.with_columns(len(names))
    joined.preprocessing = ColumnsPreprocessing(preprocessing_from_dict(net.preprocessing.to_dict()), tuple(names))
    joined.account = net.account.joined(Account(notes=(f"the head also reads the columns {', '.join(map(repr, names))}",)))
    return joined
