"""What can be told of a network and data before anything is trained: what fits, what would be kept, and what stands on both sides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ...data import Dataset, Summary
from ...data.items import listed
from ...errors import InputError
from ...networks.contract import Network
from ...networks.names import rows_of
from ..plan import Plan
from ..preparing import check_inputs, notes_on_length, prepared_for, windowed
from ..setup import Parts, parts_of
from ..tasks import as_heads_say
from .weights import fit_on

__all__ = ["equal_across", "with_network"]

_SHOWN = 3


def with_network(net: Network, data: Dataset, *, plan: Plan) -> Summary:
    """Return the summary of data with what `adapt` would make of them with a network: nothing is trained or written.

    Args:
        net: the network; it is not changed.

    Returns:
        The summary of the data as the network's head has them read, with "network" among its facts; what does not go together is
        among its problems.
    """
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
    """Return which classes of the first head would be kept, added and dropped."""
    if not net.heads or data.task == "regression" or not net.head.classes or net.head.groups is not None:
        return {"head": f"{net.head.kind}, {len(net.head.weight)} rows without names"} if net.heads else {"head": "none"}
    rows = rows_of(data.classes, net.head.classes)
    kept, new = [name for name in data.classes if name in rows], [name for name in data.classes if name not in rows]
    dropped = [name for row, name in enumerate(net.head.classes) if row not in rows.values()]
    return {"classes_kept": kept, "classes_new": new, "classes_dropped": dropped}


def equal_across(data: Dataset, parts: Parts, *, test: Dataset | None = None) -> list[str]:
    """Return a warning where examples that are equal byte by byte are both learned from and judged on.

    Args:
        test: further examples that judge; the holdout set is told of as well.

    Returns:
        One sentence for each set that judges, with how many and which; none where all is well.
    """
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
                f"Warning: {len(copies)} of {len(judges)} examples of the {part} set are equal, byte by byte, to examples that are learned "
                f"from ({listed(named, _SHOWN)}): the figures may be better than on new examples. {remedy}"
            )
    return told
