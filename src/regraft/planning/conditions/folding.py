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
    """
    plain = net.folded(condition)
    plain.preprocessing = without_conditions(preprocessing_from_dict(net.preprocessing.to_dict()))
    plain.account = net.account.joined(Account(notes=(f"the code of {condition!r} was folded into the biases",)))
    return plain
