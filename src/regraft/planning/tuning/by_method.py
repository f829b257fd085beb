"""A training in the form of a method: its check, its beginning and its end."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from torch import Tensor

from ...data import Dataset, with_conditions
from ...errors import DataError, NetworkError
from ...methods import METHODS, Method, PreparedNetwork
from ...networks.network import Network, Scores
from ...words import counted
from ..plan import Plan
from ..setup import Parts, Setup


def check_method(network: Network, data: Dataset, *, plan: Plan, parts: Parts) -> None:
    """Raise if the plan's strategy is a method that does not suit the network or the data, such as data without the conditions it needs."""
    if plan.strategy in METHODS:
        _begun(network, data, plan=plan, parts=parts)


def _conditions(data: Dataset, parts: Parts) -> tuple[str, ...]:
    """Return the names of the conditions in the training set, sorted; `DataError` if there are fewer than two."""
    others = "Choose strategy='bias' or 'scale_shift', which need none."
    if data.conditions is None:
        raise DataError(
            f"strategy='codes' learns a code for each condition; received {counted(len(data), 'example')} without conditions. Read them "
            f"with condition=, the name of a column or an array as long as the examples. {others}"
        )
    found = tuple(dict.fromkeys(sorted(str(name) for name in data.conditions[parts.training])))
    if len(found) < 2:
        raise DataError(
            f"strategy='codes' learns from two conditions or more, better ten; the {counted(len(parts.training), 'example')} to learn from "
            f"have {len(found)}: {', '.join(map(repr, found))}. {others}"
        )
    return found


def _begun(network: Network, data: Dataset, *, plan: Plan, parts: Parts) -> PreparedNetwork:
    method = METHODS[plan.strategy]
    conditions = _conditions(data, parts) if method.by_condition else ()
    try:
        return method.begin(network, options=method.filled(plan.options), conditions=conditions, seed=plan.seed)
    except NetworkError as error:
        name = f"strategy={method.name!r}"
        raise type(error)(str(error) if str(error).startswith(name) else f"{name}: {error}") from error


@dataclass(frozen=True)
class Tuning:
    """A training in the form of a method: `setup` has the network in that form, `frozen` the layers and names not trained."""

    method: Method
    setup: Setup
    frozen: frozenset[str]

    def finished(self) -> Network:
        """Return the network in the final form of the method; its preprocessing knows the conditions, if there are any."""
        network = self.method.end(self.setup.network)
        if network.coding is not None:
            network.preprocessing = with_conditions(self.setup.items.preprocessing, network.coding.conditions)
        return network


def begun_method(setup: Setup, *, strategy: str, options: Mapping[str, Any]) -> Tuning:
    """Return a training by a method, for a setup with trained heads; the setup's network does not change."""
    plan = replace(setup.plan, strategy=strategy, options=dict(options))
    begun = _begun(setup.network, setup.items.data, plan=plan, parts=setup.parts)
    training = _with_begun(setup.on(begun.network), begun)
    if begun.network.coding is not None:
        training = with_conditions_of(training, begun.network.coding.conditions)
    return Tuning(METHODS[strategy], training, begun.frozen)


def _with_begun(setup: Setup, begun: PreparedNetwork) -> Setup:
    """Return the setup with the learning rates and the penalty of a method."""
    penalty, share = begun.penalty, 1 / max(len(setup.parts.training), 1)
    added = replace(setup.additions, rates=begun.rates)
    if penalty is None:
        return replace(setup, additions=added)

    def term(_scores: Scores, _indices: np.ndarray) -> Tensor:
        return share * penalty()

    return replace(setup, additions=replace(added, terms=(*added.terms, term)))


def with_conditions_of(setup: Setup, names: Sequence[str]) -> Setup:
    """Return the setup with examples that include the row of their condition; other conditions get the mean code."""
    sample = setup.network.sample
    own = next((name for name in sample if name != "condition"), "inputs") if isinstance(sample, dict) else "inputs"
    changed = with_conditions(setup.items.preprocessing, names, lenient=True, inputs=own)
    test = None if setup.test is None else setup.test.of(setup.test.data, changed)
    return replace(setup, items=setup.items.of(setup.items.data, changed), test=test)
