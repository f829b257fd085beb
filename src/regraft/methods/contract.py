"""Interface of adaptation methods: options, the start and the end of training. The training loop is not part of a method."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from ..networks.network import Network

__all__ = ["Method", "Option", "PrepareFunction", "PreparedNetwork", "are_names"]


@dataclass(frozen=True)
class Option:
    """One option of a method, or one setting of a training.

    Attributes:
        default: default value.
        rule: expected values, as text for messages.
        holds: predicate that accepts valid values.
    """

    default: Any
    rule: str
    holds: Callable[[Any], bool]

    def accepts(self, value: Any) -> bool:
        """Return whether a value is valid. A value of the wrong type is not."""
        try:
            return bool(self.holds(value))
        except (TypeError, AttributeError, ValueError):  # the last one: arrays have no truth value
            return False


def are_names(value: Any) -> bool:
    """Return whether a value is None or a sequence of names."""
    return value is None or (not isinstance(value, str) and len(value) > 0 and all(isinstance(name, str) for name in value))


@dataclass(frozen=True)
class PreparedNetwork:
    """Network prepared for training.

    Attributes:
        network: the training form, a copy of the given network.
        frozen: names of layers, and of single parameters as in `state()`, that are not trained.
        rates: parameter name as in `state()` -> factor of the learning rate. These parameters have no weight decay.
        penalty: returns a scalar that is divided by the number of training examples and added to the loss; None for no penalty.
    """

    network: Network
    frozen: frozenset[str]
    rates: Mapping[str, float] = field(default_factory=dict)
    penalty: Callable[[], Tensor] | None = None


class PrepareFunction(Protocol):
    """Function that prepares a network with trained heads for training. The given network is not changed."""

    def __call__(self, network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> PreparedNetwork:
        """Return the network prepared for training.

        Args:
            network: network with its heads.
            options: all options of the method.
            conditions: condition names, for methods with `by_condition`.
            seed: seed for new parameters.
        """


End = Callable[["Network"], "Network"]
"""Function from the trained network to the copy that is kept, without the parts that only training needs."""
During = Callable[["Network"], AbstractContextManager[Any]]  # Function from the network to a context that is active during training


@dataclass(frozen=True)
class Method:
    """Adaptation method.

    Attributes:
        name: name of the strategy.
        summary: short description for messages.
        begin: makes the training form.
        end: turns the trained network into the one that is kept; a copy, for methods that add nothing for training alone.
        during: context that is active during training.
        options: name -> option, given as keywords of `regraft.adapt`.
        settings: default training settings of the method.
        by_condition: whether the examples need conditions.
    """

    name: str
    summary: str
    begin: PrepareFunction
    end: End = lambda network: network.copy()
    during: During = nullcontext
    options: Mapping[str, Option] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_condition: bool = False

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return option name -> value for all options, from `given` or the defaults."""
        return {name: given.get(name, option.default) for name, option in self.options.items()}

    def problems(self, given: Mapping[str, Any]) -> Iterator[str]:
        """Yield an error message for each unknown option or invalid value.

        Args:
            given: name -> value.

        Yields:
            Sentences.
        """
        for name, value in given.items():
            if name not in self.options:
                yield f"{name}={value!r} does not go with strategy={self.name!r}, which takes {', '.join(self.options) or 'no options'}."
            elif not self.options[name].accepts(value):
                yield f"{name}={value!r}: expected {self.options[name].rule}."
