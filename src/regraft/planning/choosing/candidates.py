"""What is compared: each candidate is a strategy with what goes with it, and what is known of it so far."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ...errors import SettingError, near_names
from ...frontier import frozen_up_to
from ...networks.contract import Network
from ..job import Job
from ..plan import BASES, THIRDS, Plan
from .probing import block_of

__all__ = ["Candidate", "below_probe", "candidates_of", "check_blocks", "frozen_layers", "surgical_blocks"]

ENOUGH_FOR_SCRATCH = 50
"""Items a class from which training from scratch is a candidate."""
_STRATEGIES = ("probe", "head", "partial", "full", "surgical", "scratch")
_KEYS = ("strategy", "name", "frozen", "block", "base")


@dataclass
class Candidate:
    """One way to adapt the network.

    Attributes:
        strategy: "probe", "head", "partial", "full", "surgical" or "scratch".
        name: for people.
        frozen: as in a plan.
        block: as in a plan.
        base: as in a plan.
        predicted: seconds.
        seconds: that it took.
        estimate: accuracy, or the loss of other tasks.
        interval: of the estimate, 95 %.
        why: what came of it.
    """

    strategy: str
    name: str
    frozen: int | str | None = None
    block: str | None = None
    base: str = "head"
    predicted: float | None = None
    seconds: float | None = None
    estimate: float | None = None
    interval: tuple[float, float] | None = None
    why: str = ""
    figure: str = field(default="accuracy")

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        known = {"strategy": self.strategy, "name": self.name, "frozen": self.frozen, "block": self.block, "base": self.base}
        figures = {"estimate": self.estimate, "interval": None if self.interval is None else list(self.interval), "figure": self.figure}
        taken = {"predicted": self.predicted, "seconds": self.seconds}
        return {**known, **{name: None if value is None else round(value, 3) for name, value in taken.items()}, **figures, "why": self.why}

    def chosen(self) -> dict[str, Any]:
        """Return what a plan of this candidate alone says."""
        given = {"strategy": self.strategy, "frozen": self.frozen, "block": self.block, "base": self.base}
        return {name: value for name, value in given.items() if value is not None and (name, value) != ("base", "head")}


def candidates_of(job: Job, *, base: str, dissimilar: bool) -> list[Candidate]:
    """Return what suits network and data, beside the probes.

    Args:
        job: with its network and plan, whose own candidates come first of all.
        base: what candidates start from that train a part of the network: "head" or "probe".
        dissimilar: whether the network's features are of little use for the data.
    """
    given = [one for one in job.plan.candidates if one["strategy"] != "probe"]
    if given:
        return [_read(one) for one in given]
    count = _blocks_below_head(job.network)
    depths = sorted({count * 3 // 4, count // 2} - {0}, reverse=True)
    made = [Candidate("head", "head")]
    made += [Candidate("partial", f"above block {depth}", frozen=depth, base=base) for depth in depths if _leaves_more(job, depth)]
    made += [Candidate("full", "full", base=base)] + ([Candidate("full", "full, from its own head")] if base == "probe" else [])
    if _same_classes(job) and count > 1:
        made += [Candidate("surgical", f"{third} third", block=third, base=base) for third in THIRDS]
    if dissimilar or _items_a_class(job) >= ENOUGH_FOR_SCRATCH:
        made.append(Candidate("scratch", "from scratch"))
    return made


def _read(one: Mapping[str, Any]) -> Candidate:
    known = {name: one[name] for name in _KEYS if name in one}
    return Candidate(**{"name": str(one["strategy"]), **known})


def check_blocks(network: Network, plan: Plan) -> None:
    """Raise if a plan, edited or not, names a block that is not there, or a candidate that the network cannot be trained as.

    Args:
        network: with its head.
        plan: what is to be done.

    Raises:
        SettingError: naming the first that does not fit, and what would.
    """
    if plan.strategy == "partial":
        frozen_up_to(network, plan.frozen or 0)
    if plan.strategy == "probe" and plan.frozen is not None:
        block_of(network, plan.frozen)
    for one in plan.candidates if plan.strategy == "auto" else ():
        strategy, block, base = one["strategy"], one.get("block"), one.get("base", "head")
        if strategy not in _STRATEGIES:
            raise SettingError(f"candidates: strategy={strategy!r} is not known{near_names(str(strategy), _STRATEGIES)}.")
        if (strategy == "surgical" and block not in THIRDS) or base not in BASES:
            raise SettingError(f"candidates: {strategy!r} with block={block!r}, base={base!r}; expected {THIRDS} and {BASES}.")
        if strategy == "partial":
            frozen_up_to(network, one.get("frozen") or 0)


def frozen_layers(network: Network, *, strategy: str, frozen: int | str | None, block: str | None) -> frozenset[str]:
    """Return the layers that a strategy freezes once the head is trained.

    Args:
        network: as it came, not tapped.
        strategy: "partial", "full" or "surgical"; all others freeze nothing.
        frozen: as in a plan.
        block: as in a plan.
    """
    if strategy == "partial":
        return frozen_up_to(network, frozen or 0)
    if strategy != "surgical":
        return frozenset()
    open_layers = {name for one in surgical_blocks(network, block or THIRDS[0]) for name in one}
    return frozenset(layer.name for layer in network.layers) - open_layers - set(network.head_layers)


def surgical_blocks(network: Network, third: str) -> list[tuple[str, ...]]:
    """Return the layers of each block of one third of those below the head, at least one block.

    Source: surgical fine-tuning (Lee et al., ICLR 2023, section 3).

    Args:
        network: with its head.
        third: "first", "middle" or "last".
    """
    heads = set(network.head_layers)
    below = [block.layers for block in network.blocks if heads.isdisjoint(block.layers)]
    place = THIRDS.index(third)
    first = min(len(below) * place // 3, max(len(below) - 1, 0))
    return below[first : max(first + 1, len(below) * (place + 1) // 3)]


def below_probe(network: Network, layers: frozenset[str]) -> frozenset[str]:
    """Return what is frozen where tuning starts from a probe: these layers, and the probe itself.

    Its rows have the inverse scales of features of every depth, so that no learning rate suits all of them.

    Args:
        network: the tapped one, in which layers may have longer names.
        layers: names in the network as it came.
    """
    heads = frozenset(network.head_layers)
    return heads | frozenset(
        layer.name
        for layer in network.layers
        if layer.name not in heads and any(layer.name == name or layer.name.endswith(f"network.{name}") for name in layers)
    )


def _blocks_below_head(network: Network) -> int:
    heads = set(network.head_layers)
    with_heads = (number for number, block in enumerate(network.blocks, start=1) if not heads.isdisjoint(block.layers))
    return next(with_heads, len(network.blocks))


def _leaves_more(job: Job, depth: int) -> bool:
    """Tell whether freezing so many blocks leaves more than the head to train."""
    return depth < len(job.network.blocks) and frozen_up_to(job.network, depth) < job.frozen_for_head()


def _same_classes(job: Job) -> bool:
    """Tell whether the classes are the old ones: then only the condition is new."""
    first = job.tasks[job.items.data.name]
    return job.items.data.task == "classification" and not len(job.new_rows.get(first, np.zeros(1)))


def _items_a_class(job: Job) -> float:
    data = job.items.data
    learned = len(job.known(data.name, job.parts.fit))
    return learned / max(len(data.classes), 1) if data.task == "classification" else learned
