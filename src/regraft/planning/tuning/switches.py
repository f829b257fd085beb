"""The old head as a teacher during tuning: the settings `distill` and `co_tuning`."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...data import Dataset
from ...errors import InputError, SettingError
from ...methods.co_tuning import class_relation, related_chances
from ...methods.distill import TEMPERATURE, SoftTargets, old_chances
from ...networks.network import Head, Network
from ...words import counted
from ..plan import Plan
from ..profiling.probing import shared_rows
from ..setup import Log, Setup

OLD_HEAD = "old head"  # Task of the head that exists only during the training


def switch_problems(net: Network, data: Dataset, *, plan: Plan) -> Iterator[InputError]:
    """Yield a `SettingError` for each reason why the old head cannot teach as the plan asks."""
    settings = plan.settings
    usable = bool(net.heads) and net.head.kind == "classification" and net.head.groups is None and len(net.head.weight) > 1
    for name, value in (("distill", settings.distill), ("co_tuning", settings.co_tuning)):
        if value and data.task != "classification":
            yield SettingError(f"{name}={value} needs targets that are classes; the task {data.name!r} is {data.task}. Leave it out.")
        if value and not usable:
            what = f"one of kind {net.head.kind!r} with {counted(len(net.head.weight), 'output')}" if net.heads else "none"
            yield SettingError(f"{name}={value} needs the network's old head, with two classes or more; received {what}. Leave it out.")
    if settings.co_tuning and usable and data.task == "classification" and (shared_rows(net.head, data.classes) >= 0).all():
        yield SettingError(
            f"co_tuning={settings.co_tuning} is for classes other than the old ones; all {len(data.classes)} are classes of the old head "
            "already. Use distill= in its place."
        )


def taught(setup: Setup, log: Log, *, features: Tensor) -> Setup:
    """Return the setup with the loss terms of the old head; the same setup if no setting asks for them.
    The old head's outputs are recorded once, on the plain examples, before tuning. If the old head is trained as well, the network is a
    copy with one more head.
    `features` (N, d) are the inputs of the heads."""
    settings, data, head = setup.settings, setup.items.data, setup.old_head
    if head is None or not (settings.distill or settings.co_tuning):
        return setup
    scores = features.numpy() @ head.weight.T + head.bias
    if settings.co_tuning:
        fit, targets = setup.known(data.name, setup.parts.training), data.targets
        relation = class_relation(scores[fit], targets[fit], classes=len(data.classes))
        log.notes.append(
            f"Co-Tuning: the {counted(len(head.weight), 'old class', verb='were')} trained along, with weight {settings.co_tuning:g}."
        )
        return _with_old_head(setup, head, term=SoftTargets(OLD_HEAD, _tensor(related_chances(relation, targets)), settings.co_tuning))
    rows, share = shared_rows(head, data.classes), settings.distill
    if (rows >= 0).all():
        term = SoftTargets(setup.tasks[data.name], _tensor(old_chances(scores, rows)), share)
        log.notes.append(f"A share of {share:g} of each target is the old head's output for the plain example before tuning.")
        return _with_term(setup, term, share=1 - share)
    log.notes.append(
        f"A share of {share:g} of the loss keeps the outputs of the {counted(len(head.weight), 'old class')} as they were on the plain "
        "examples."
    )
    term = SoftTargets(OLD_HEAD, _tensor(old_chances(scores, temperature=TEMPERATURE)), share, TEMPERATURE)
    return _with_old_head(setup, head, term=term, share=1 - share)


def _with_old_head(setup: Setup, head: Head, *, term: SoftTargets, share: float = 1.0) -> Setup:
    old = replace(head, task=OLD_HEAD, classes=None, parts=(), thresholds=None, activation="linear")
    taught_too = _with_term(setup.on(setup.network.with_head(old)), term, share=share)
    helpers = (*setup.additions.helpers, OLD_HEAD)
    return replace(taught_too, additions=replace(taught_too.additions, helpers=helpers))


def _with_term(setup: Setup, term: SoftTargets, *, share: float) -> Setup:
    return replace(setup, additions=replace(setup.additions, terms=(*setup.additions.terms, term), share=share))


def _tensor(chances: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(chances, np.float32))
