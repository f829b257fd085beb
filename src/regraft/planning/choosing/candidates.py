"""Candidates of the strategy "auto": each is a strategy with its options and what is known of it so far."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from ...errors import NetworkError, SettingError, near_names
from ...freezing import frozen_up_to, frozen_up_to_head, held_layers
from ...methods import METHODS
from ...networks.network import Network
from ...words import counted
from ..plan import BASES, THIRDS, Plan
from ..setup import Log, Setup
from ..tuning.by_method import check_method
from .probing import block_of

ENOUGH_FOR_SCRATCH = 10  # Examples per class from which training from scratch is a candidate
ENOUGH_CONDITIONS = 10  # Conditions in the training set from which codes can be learned
_STRATEGIES = ("probe", "head", "partial", "full", "surgical", "scratch", *METHODS)
_KEYS = ("strategy", "name", "frozen", "block", "base", "options")


@dataclass
class Candidate:
    """One way to adapt the network."""

    strategy: str  # "probe", "head", "partial", "full", "surgical", "scratch" or the name of a method
    name: str
    frozen: int | str | None = None
    block: str | None = None
    base: str = "head"
    predicted: float | None = None  # expected seconds
    seconds: float | None = None
    estimate: float | None = None  # accuracy, or the loss of tasks other than classification
    interval: tuple[float, float] | None = None  # 95 % interval of the estimate
    why: str = ""
    figure: str = field(default="accuracy")
    options: Mapping[str, Any] = field(default_factory=dict)  # options of the method that differ from its defaults
    losses: Sequence[float] = ()  # loss on the validation set after each epoch of its trial; empty without one

    def to_dict(self) -> dict[str, Any]:
        """Return the candidate as plain data."""
        known: dict[str, Any] = {name: getattr(self, name) for name in ("strategy", "name", "frozen", "block", "base")}
        known |= {"options": dict(self.options)} if self.options else {}
        known |= {"losses": [float(f"{loss:.4g}") for loss in self.losses if math.isfinite(loss)]} if len(self.losses) else {}
        figures = {"estimate": self.estimate, "interval": None if self.interval is None else list(self.interval), "figure": self.figure}
        taken = {"predicted": self.predicted, "seconds": self.seconds}
        return {**known, **{name: None if value is None else round(value, 3) for name, value in taken.items()}, **figures, "why": self.why}


def strategy_fields(of: Plan | Candidate) -> dict[str, Any]:
    """Return the fields of a plan that make the strategy `of` a plan or a candidate, without those at their defaults, and its options."""
    given = {name: getattr(of, name) for name in ("strategy", "frozen", "block", "base")}
    kept = {name: value for name, value in given.items() if value is not None and (name, value) != ("base", "head")}
    return kept | dict(of.options)


def candidates_of(setup: Setup, log: Log, *, base: str, dissimilar: bool) -> tuple[list[Candidate], bool]:
    """Return the candidates beside the probes, and whether the plan asks for exactly these."""
    made = _made(setup, log, base=base, dissimilar=dissimilar)
    given = [_read(one) for one in setup.plan.candidates if one["strategy"] != "probe"]
    asked = bool(given) and [*map(strategy_fields, given)] != [*map(strategy_fields, made)]
    return (given, True) if asked else (made, False)


def _made(setup: Setup, log: Log, *, base: str, dissimilar: bool) -> list[Candidate]:
    """Return the candidates that suit network and data, the most different ones first."""
    heads = set(setup.network.head_layers)
    with_heads = (number for number, block in enumerate(setup.network.blocks, start=1) if not heads.isdisjoint(block.layers))
    count = next(with_heads, len(setup.network.blocks))
    depths = [depth for depth in sorted({count // 2, count * 3 // 4} - {0}) if _leaves_more(setup, depth)]
    partial = [Candidate("partial", f"above block {depth}", frozen=depth) for depth in depths]
    made = [Candidate("head", "head"), *_by_condition(setup, log)]
    if not _trains_below(setup, Candidate("full", "full")):
        return made
    made += [Candidate("full", "full"), *partial[:1]]
    data = setup.items.data
    enough = ENOUGH_FOR_SCRATCH * (max(len(data.classes), 1) if data.task == "classification" else 1)
    if dissimilar or len(setup.known(data.name, setup.parts.training)) >= enough:
        made.append(Candidate("scratch", "from scratch"))
    made += [*partial[1:], *([Candidate("full", "full, from the probe", base="probe")] if base == "probe" else [])]
    if setup.keeps_classes and count > 1:
        thirds = [Candidate("surgical", f"{third} third", block=third) for third in THIRDS]
        made += [one for one in thirds if _trains_below(setup, one)]
    return made


def _by_condition(setup: Setup, log: Log) -> list[Candidate]:
    """Return the candidates for examples with known conditions: codes or, with too few conditions for codes, smaller methods."""
    if setup.items.data.conditions is None:
        return []
    count = len(np.unique(setup.items.data.conditions[setup.parts.training]))
    names = ("codes",) if count >= ENOUGH_CONDITIONS else ("bias", "scale_shift")
    if count < ENOUGH_CONDITIONS:
        log.notes.append(
            f"The examples to learn from have {counted(count, 'condition')}; codes are learned from about {ENOUGH_CONDITIONS} or more. "
            "'bias' and 'scale_shift' were considered in place of 'codes'."
        )
    made = []
    for name in names:
        try:
            check_method(setup.network, setup.items.data, plan=replace(setup.plan, strategy=name, options={}), parts=setup.parts)
            made.append(Candidate(name, name))
        except NetworkError as problem:
            log.notes.append(f"Not considered: {problem}")
    return made


def _read(one: Mapping[str, Any]) -> Candidate:
    known = {name: one[name] for name in _KEYS if name in one}
    return Candidate(**{"name": str(one["strategy"]), **known})


def check_blocks(network: Network, plan: Plan) -> None:
    """Raise if a plan names an unknown block, or a candidate that the network cannot be trained as."""
    if plan.strategy == "partial":
        frozen_up_to(network, plan.frozen or 0)
    if plan.strategy == "probe" and plan.frozen is not None:
        block_of(network, plan.frozen)
    for one in plan.candidates if plan.strategy == "auto" else ():
        strategy, block, base = one["strategy"], one.get("block"), one.get("base", "head")
        if strategy not in _STRATEGIES:
            raise SettingError(f"candidates: strategy={strategy!r} is not known{near_names(str(strategy), _STRATEGIES)}")
        if (strategy == "surgical" and block not in THIRDS) or base not in BASES:
            raise SettingError(f"candidates: {strategy!r} with block={block!r}, base={base!r}; expected {THIRDS} and {BASES}.")
        if strategy == "partial":
            frozen_up_to(network, one.get("frozen") or 0)


def frozen_layers(network: Network, of: Plan | Candidate) -> frozenset[str]:
    """Return the layers that the strategy `of` a plan or a candidate freezes after the head is trained, including those that are held."""
    held = held_layers(network)
    if of.strategy == "partial":
        return frozen_up_to(network, of.frozen or 0) | held
    if of.strategy != "surgical":
        return held
    open_layers = {name for one in surgical_blocks(network, of.block or THIRDS[0]) for name in one}
    return (frozenset(layer.name for layer in network.layers) - open_layers - set(network.head_layers)) | held


def surgical_blocks(network: Network, third: str) -> list[tuple[str, ...]]:
    """Return the layers of each block in one third of the blocks below the head; at least one block.
    Source: surgical fine-tuning (Lee et al., ICLR 2023, section 3)."""
    heads = set(network.head_layers)
    below = [block.layers for block in network.blocks if heads.isdisjoint(block.layers)]
    place = THIRDS.index(third)
    first = min(len(below) * place // 3, max(len(below) - 1, 0))
    return below[first : max(first + 1, len(below) * (place + 1) // 3)]


def below_probe(network: Network, layers: frozenset[str]) -> frozenset[str]:
    """Return what is frozen if tuning starts from a probe: these layers, and the probe itself.
    The probe's class weights include the inverse scales of features from every depth, so no learning rate suits all of them."""
    return frozenset(network.head_layers) | {layer.name for layer in network.layers if layer.name in layers}


def _leaves_more(setup: Setup, depth: int) -> bool:
    """Tell whether freezing `depth` blocks leaves more than the head to train."""
    return (
        depth < len(setup.network.blocks)
        and frozen_up_to(setup.network, depth) < frozen_up_to_head(setup.network)
        and _trains_below(setup, Candidate("partial", "", frozen=depth))
    )


def _trains_below(setup: Setup, one: Candidate) -> bool:
    """Tell whether a candidate trains anything below the heads; the held layers may leave nothing."""
    frozen = frozen_layers(setup.network, one) | set(setup.network.head_layers)
    return any(layer.parameters and layer.name not in frozen for layer in setup.network.layers)
