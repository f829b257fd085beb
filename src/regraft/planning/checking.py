"""Checks of a network and a data set before training: classes kept and added, equal examples across parts, fit of the weights."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.nn import Module

from ..data import Dataset, PreparedData, Summary, preprocessing_from_dict
from ..data.items import listed, take
from ..errors import InputError
from ..networks.matching import by_order
from ..networks.names import rows_of
from ..networks.network import Inputs, Network
from ..networks.norms import Norm, misfit
from ..networks.sources.zoo import timm_siblings
from ..words import counted
from .plan import Plan
from .preparing import check_inputs, notes_on_length, prepared_for, windowed
from .setup import Parts, parts_of
from .tasks import as_heads_say

__all__ = ["EXAMPLES", "MATCHED", "WeightsFit", "equal_across", "fit_on", "weights_fit", "with_network"]

_SHOWN = 3


def with_network(net: Network, data: Dataset, *, plan: Plan) -> Summary:
    """Return the summary of the data with what `adapt` would do with them and the network. Nothing is trained or written."""
    data = as_heads_say(net, data)
    summary = data.summary()
    facts: dict[str, Any] = {"name": str(net.origin.get("source", net.family)), "takes": net.preprocessing.describe()}
    notes, problems = list(summary.facts["notes"]), list(summary.facts["problems"])
    parts = None
    try:
        data = windowed(net, data)
        parts = parts_of(data, plan)
        items = prepared_for(net, data, plan=plan, rows=parts.training)
        check_inputs(net, items.preprocessing)
        items.batch(np.arange(min(2, len(data))))
        facts["takes"] = items.preprocessing.describe()
        notes += notes_on_length(items)
        fit = fit_on(net, items, rows=parts.training)
        notes += [] if fit is None else [fit.words()]
    except InputError as problem:
        problems += [] if str(problem) in problems else [str(problem)]
    if parts is not None:
        facts["split"] = {part: len(data.subset(getattr(parts, part)).recordings()) for part in ("training", "validation", "holdout")}
        notes += equal_across(data, parts)
    facts |= _classes(net, data)
    return replace(summary, facts={**summary.facts, "network": facts, "notes": notes, "problems": problems})


def _classes(net: Network, data: Dataset) -> Mapping[str, Any]:
    """Return the classes of the first head that would be kept, added and dropped."""
    if not net.heads or data.task == "regression" or not net.head.classes or net.head.groups is not None:
        return {"head": f"{net.head.kind}, {counted(len(net.head.weight), 'output')} without names"} if net.heads else {"head": "none"}
    rows = rows_of(data.classes, net.head.classes)
    kept, new = [name for name in data.classes if name in rows], [name for name in data.classes if name not in rows]
    dropped = [name for row, name in enumerate(net.head.classes) if row not in rows.values()]
    return {"classes_kept": kept, "classes_new": new, "classes_dropped": dropped}


def equal_across(data: Dataset, parts: Parts, *, test: Dataset | None = None) -> list[str]:
    """Return a warning for the holdout and the test set if they contain examples byte-equal to examples that are learned from."""
    learned = data.subset(parts.learned_from)
    judging = {} if not len(parts.holdout) else {"holdout": (data.subset(parts.holdout), "Keep them on one side with group='byte-equal'.")}
    judging |= {} if test is None else {"test": (test, "Remove them from one of the two.")}
    told = []
    for part, (judges, remedy) in judging.items():
        equal = judges.equal_to(learned)
        copies = np.flatnonzero(equal >= 0)
        if len(copies):
            named = (f"{learned.name_of(int(equal[at]))} = {judges.name_of(int(at))}" for at in copies)
            told.append(
                f"Warning: {counted(len(copies), f'{part} example', verb='are', of=len(judges))} equal, byte by byte, to examples that are "
                f"learned from ({listed(named, _SHOWN)}): the figures may be better than on new examples. {remedy}"
            )
    return told


EXAMPLES = 32  # Largest number of examples with which the fit of the weights is measured
MATCHED = "weights were matched by order, not by name"  # Part of the message about the fit of the weights
FIRST = 10  # Number of BatchNorm layers that are measured, in the order of execution
POOR, BETTER = 0.3, 0.7
"""Shift in running standard deviations from which a network is doubted, and the relative shift below which a sibling is named instead."""


@dataclass(frozen=True)
class WeightsFit:
    """Agreement between the inputs of the first BatchNorm layers and their running means."""

    shift: float  # mean distance between batch means and running means, in running standard deviations
    layers: int
    examples: str  # the examples of the measurement, in words
    sibling: tuple[str, float] | None = None  # architecture of a similar name that fits best, and its shift; None if none fits better

    @property
    def is_poor(self) -> bool:
        """Whether the weights seem to belong to another architecture."""
        return self.shift > POOR or self.sibling is not None

    def words(self) -> str:
        """Return the measurement as sentences; a warning if the weights seem to belong to another architecture."""
        said = (
            f"The {MATCHED}. On {self.examples}, the means that arrive at the first {self.layers} BatchNorm "
            f"layers differ from their running means by {self.shift:.2f} running standard deviations"
        )
        if not self.is_poor:
            return f"{said}: the weights fit this architecture."
        doubt = "the weights may be those of another architecture (padding, epsilon, activation), or the data are unlike its training data"
        other = "" if self.sibling is None else f" timm's {self.sibling[0]!r} fits better ({self.sibling[1]:.2f}): give the weights to it."
        return f"Warning: {said[0].lower()}{said[1:]}: {doubt}.{other}"


def fit_on(net: Network, items: PreparedData, *, rows: np.ndarray) -> WeightsFit | None:
    """Measure the fit of the weights on up to 32 of the user's examples; return None if there is nothing to measure.
    Only the examples `rows` (n,) are used."""
    if not by_order(net.account):  # checked before the batch, which may name conditions that the network has yet to learn
        return None
    shown = rows[:: max(1, len(rows) // EXAMPLES)][:EXAMPLES]
    return weights_fit(net, list(take(items.data.items, shown)), batch=items.batch(shown), examples=f"{len(shown)} of your examples")


def weights_fit(net: Network, items: Sequence[Any], *, batch: Inputs, examples: str) -> WeightsFit | None:
    """Measure whether weights that were matched only by order fit the architecture of the network.
    Returns None if the weights were matched by name, or if no BatchNorm layer can be measured."""
    if not by_order(net.account):
        return None
    twin = net.copy()
    twin.mode_(False)
    own = misfit(twin.modules(), [batch], run=twin.scores if twin.heads else twin.feature_batch, first=FIRST, measure=Norm.shift)
    if own is None:
        return None
    others: dict[str, float] = {}
    for name, opened in timm_siblings(net.module) if isinstance(net.module, Module) else ():
        if not _filled_(opened.module, net) or opened.preprocessing is None:
            continue
        size = {side: value for side, value in net.preprocessing.to_dict().items() if side in ("height", "width")}
        taken = preprocessing_from_dict(opened.preprocessing | size).batch(list(items))
        run = opened.module.eval()
        found = misfit(dict(opened.module.named_modules()), [taken], run=run, first=FIRST, measure=Norm.shift)
        others |= {} if found is None else {name: found[0]}
    best = min(others, key=others.__getitem__, default=None)
    sibling = (best, others[best]) if best is not None and others[best] < BETTER * own[0] else None
    return WeightsFit(own[0], own[1], examples, sibling)


def _filled_(module: Module, net: Network) -> bool:
    """Copy the weights of a network, without its heads, into a module in their order; return False if the shapes differ."""
    own = [value for name, value in net.state().items() if name.rpartition(".")[0] not in net.head_layers]
    head = {id(value) for layer in net.head_layers for value in dict(module.named_modules()).get(layer, Module()).parameters()}
    other = [value for value in module.state_dict(keep_vars=True).values() if id(value) not in head]
    if [value.shape for value in own] != [value.shape for value in other]:
        return False
    with torch.no_grad():
        for target, value in zip(other, own, strict=True):
            target.copy_(value)
    return True
