"""What a method of adaptation is: what it needs, how a training with it begins, and how it ends. No method owns a loop."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from torch import Tensor

if TYPE_CHECKING:
    from ..networks.contract import Network

__all__ = ["Begin", "Begun", "Method", "Option", "are_names", "copied", "nothing_more"]


@dataclass(frozen=True)
class Option:
    """One option of a method.

    Attributes:
        default: its value where nobody gives one.
        rule: what is expected, for people.
        holds: whether a value is so.
    """

    default: Any
    rule: str
    holds: Callable[[Any], bool]

    def accepts(self, value: Any) -> bool:
        """Return whether a value follows the rule; one of another kind does not."""
        try:
            return bool(self.holds(value))
        except TypeError:
            return False


def are_names(value: Any) -> bool:
    """Return whether a value is None or a sequence of names."""
    return value is None or (not isinstance(value, str) and len(value) > 0 and all(isinstance(name, str) for name in value))


@dataclass(frozen=True)
class Begun:
    """A network ready to be trained.

    Attributes:
        network: the training form, a network of its own.
        frozen: layers, and single names as in `state()`, that are not trained.
        rates: name as in `state()` -> factor of the learning rate; such a parameter has no weight decay.
        penalty: gives a scalar that is added to the loss, in proportion to 1 / (number of items learned from); None for nothing.
    """

    network: Network
    frozen: frozenset[str]
    rates: Mapping[str, float] = field(default_factory=dict)
    penalty: Callable[[], Tensor] | None = None


class Begin(Protocol):
    """From a network with trained heads to what is trained; the network is left as it is."""

    def __call__(self, network: Network, *, options: Mapping[str, Any], conditions: Sequence[str], seed: int) -> Begun:
        """Return the training form.

        Args:
            network: with its heads.
            options: all of the method's.
            conditions: names, where the method goes by condition.
            seed: equal seeds give equal networks.
        """


End = Callable[["Network"], "Network"]
"""From the trained network to a copy as it is kept: without what was there for the training alone."""
During = Callable[["Network"], AbstractContextManager[None]]
"""What holds while the network is trained, and is undone afterwards."""


def copied(network: Network) -> Network:
    """Return a copy of the network: nothing was added for the training alone."""
    return network.copy()


def nothing_more(network: Network) -> AbstractContextManager[None]:
    """Return a context in which nothing else holds for a network."""
    return nullcontext()


@dataclass(frozen=True)
class Method:
    """One way to change a network's parameters.

    Attributes:
        name: of the strategy.
        summary: half a sentence for people.
        begin: makes the training form.
        end: undoes it, with what was learned.
        during: what holds in between.
        options: name -> option, taken as keywords of `regraft.adapt`.
        settings: those of the training that suit it, where nobody gives others.
        by_condition: whether the items need conditions.
    """

    name: str
    summary: str
    begin: Begin
    end: End = copied
    during: During = nothing_more
    options: Mapping[str, Option] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    by_condition: bool = False

    def filled(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return every option with its value, `given` or default."""
        return {name: given.get(name, option.default) for name, option in self.options.items()}

    def problems(self, given: Mapping[str, Any]) -> Iterator[str]:
        """Yield what is wrong with options.

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
