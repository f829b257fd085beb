"""A plain network out of one with codes: the code of one condition becomes part of the biases."""

from __future__ import annotations

from ...data import preprocessing_from_dict, without_conditions
from ...networks.account import Account
from ...networks.contract import Network

__all__ = ["fold"]


def fold(net: Network, condition: str) -> Network:
    """Return a network for one condition, without codes: its code is folded into the biases.

    Args:
        net: with codes; it is not changed.
        condition: that it knows, or "mean" for the mean code.

    Returns:
        A plain network, which takes items without conditions, can be exported, and costs what the network cost before it had codes.

    Raises:
        NetworkError: if the network takes no codes, or does not know the condition; the known ones are listed.

    Example:
        >>> import numpy as np, torch, regraft
        >>> module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        >>> net = regraft.load(module, classes=["ant", "bee", "cat"], inputs=(4,))
        >>> rows = np.random.default_rng(0).normal(size=(60, 4)).astype("float32")
        >>> labels = np.where(rows[:, 0] > 0, "warm", "cold")
        >>> rooms = np.where(np.arange(60) % 2, "hall", "yard")
        >>> coded = regraft.adapt(net, regraft.read((rows, labels), condition=rooms), strategy="codes", epochs=2, seed=0).network
        >>> plain = regraft.fold(coded, "hall")
        >>> same = plain.predict(rows).probabilities - coded.predict(rows, condition="hall").probabilities
        >>> bool(abs(same).max() < 1e-5)
        True
    """
    plain = net.folded(condition)
    plain.preprocessing = without_conditions(preprocessing_from_dict(net.preprocessing.to_dict()))
    plain.account = net.account.joined(Account(notes=(f"the code of {condition!r} was folded into the biases",)))
    return plain
