"""What the old head says while the network is tuned: the settings `distill` and `co_tuning`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...data import Dataset
from ...errors import SettingError
from ...methods.co_tuning import class_relation, related_chances
from ...methods.distill import TEMPERATURE, SoftTargets, old_chances
from ...networks.contract import Head, Network
from ..job import Job
from ..plan import Plan
from ..profiling.old_head import shared_rows

__all__ = ["OLD_HEAD", "check_switches", "taught"]

OLD_HEAD = "old head"
"""The task of the head that is there for the training alone."""


def check_switches(net: Network, data: Dataset, *, plan: Plan) -> None:
    """Raise if the plan asks for what the old head says, and it cannot say anything.

    Args:
        net: the network as it came.
        data: what it is adapted to.
        plan: with the settings.

    Raises:
        SettingError: naming the setting, and what is lacking.
    """
    settings = plan.settings
    for name, value in (("distill", settings.distill), ("co_tuning", settings.co_tuning)):
        if value and data.task != "classification":
            raise SettingError(f"{name}={value} needs targets that are classes; the task {data.name!r} is {data.task}. Leave it out.")
        if value and (not net.heads or net.head.kind != "classification" or net.head.groups is not None or len(net.head.weight) < 2):
            what = f"one of kind {net.head.kind!r} with {len(net.head.weight)} rows" if net.heads else "none"
            raise SettingError(f"{name}={value} needs the network's old head, with two classes or more; received {what}. Leave it out.")
    if settings.co_tuning and (shared_rows(net.head, data.classes) >= 0).all():
        raise SettingError(
            f"co_tuning={settings.co_tuning} is for classes other than the old ones; all {len(data.classes)} are rows of the old head "
            "already. Use distill= in its place."
        )


def taught(job: Job, features: Tensor) -> Job:
    """Return the work with what the old head says among what is minimised; the same work where that is not asked for.

    What it says is recorded once, on the plain items, before the network is tuned. Where it goes on being trained, the network is a
    copy with one more head.

    Args:
        job: with its heads trained.
        features: (N, d) what they read.
    """
    settings, data, head = job.settings, job.items.data, job.old_head
    if head is None or not (settings.distill or settings.co_tuning):
        return job
    scores = features.numpy() @ head.weight.T + head.bias
    if settings.co_tuning:
        fit, targets = job.known(data.name, job.parts.training), data.targets
        relation = class_relation(scores[fit], targets[fit], classes=len(data.classes))
        job.notes.append(f"Co-Tuning: the {len(head.weight)} old classes went on being taught, with weight {settings.co_tuning:g}.")
        return _with_old_head(job, head, term=SoftTargets(OLD_HEAD, _tensor(related_chances(relation, targets)), settings.co_tuning))
    rows, share = shared_rows(head, data.classes), settings.distill
    if (rows >= 0).all():
        term = SoftTargets(job.tasks[data.name], _tensor(old_chances(scores, rows)), share)
        job.notes.append(f"A share of {share:g} of the targets is what the old head said of the plain items before the network was tuned.")
        return replace(job, terms=(*job.terms, term), share=1 - share)
    job.notes.append(f"A share of {share:g} of the loss holds the {len(head.weight)} old classes at what they were on the plain items.")
    term = SoftTargets(OLD_HEAD, _tensor(old_chances(scores, temperature=TEMPERATURE)), share, TEMPERATURE)
    return replace(_with_old_head(job, head, term=term), share=1 - share)


def _with_old_head(job: Job, head: Head, *, term: SoftTargets) -> Job:
    old = replace(head, task=OLD_HEAD, classes=None, parts=(), thresholds=None, activation="linear")
    with_it = job.with_network(job.network.with_head(old))
    return replace(with_it, terms=(*job.terms, term), helpers=(*job.helpers, OLD_HEAD))


def _tensor(chances: np.ndarray) -> Tensor:
    return torch.from_numpy(np.asarray(chances, np.float32))
