"""Carry out a plan: split, change the head, train what the strategy leaves open, judge."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..data import Dataset, Prepared, check_trainable
from ..errors import SettingError
from ..heads import retarget
from ..networks.contract import Network
from ..networks.folders import FACTS_FILE
from .job import Clock, Job, parts_of
from .judging import Judged, baselines, compared_with, judged_parts, worst_items
from .plan import Plan
from .preparing import output_names, preprocessing_for
from .result import Result
from .strategies import run_strategy

__all__ = ["carry_out"]


def carry_out(
    net: Network, data: Dataset, *, plan: Plan, test: Dataset | None = None, out: str | Path | None = None, resume: bool = True
) -> Result:
    """Adapt a network to data as a plan says.

    Args:
        net: the network; it is not changed.
        data: N checked items.
        plan: what to do; its classes are the data's where it names none.
        test: further items that judge.
        out: folder for checkpoints and, at the end, the saved result.
        resume: go on from the checkpoints in `out`.

    Returns:
        The adapted network with history, scores, baselines and cost.

    Raises:
        InputError: if network, data, plan or folder do not fit together; nothing has been started then.
    """
    clock = Clock()
    check_trainable(data)
    plan = replace(plan, classes=plan.classes or data.classes)
    folder = _claimed(out, resume)
    with clock.during("read"):
        data = data.with_classes(plan.classes) if data.classes else data
        items = Prepared(data, preprocessing_for(net, data), view_seed=plan.seed)
        job = Job(_changed_head(net, items), items, parts_of(data, plan), plan, folder, resume, clock)
        if test is not None:
            job.test = Prepared(test.with_classes(plan.classes) if test.classes else test, items.preprocessing)
        job.network.module.to(job.device)
        job.begin_()
    carried = run_strategy(job)
    parts = judged_parts(job, carried)
    scores, adapted = {name: part.figures for name, part in parts.items()}, list(parts.values())[-1]
    others = baselines(job, carried, adapted=adapted)
    if plan.settings.baselines and plan.strategy != "scratch":
        others["scratch"] = compared_with(_from_scratch(net, job), adapted)
    job.network.freeze_(frozenset())
    job.network.mode_(False)
    job.network.refresh_heads_()
    plan = plan.with_reasons(*job.notes)
    result = Result(job.network, plan, carried.history, scores, others, clock.cost(job.counter), _facts(job, adapted))
    if folder is not None:
        result.save(folder)
        shutil.rmtree(folder / "run", ignore_errors=True)
    return result


def _claimed(out: str | Path | None, resume: bool) -> Path | None:
    """Return the folder once it is known that it can be written and holds no other result."""
    if out is None:
        return None
    folder = Path(out)
    if resume and (folder / FACTS_FILE).is_file():
        raise SettingError(
            f"{str(folder)!r} already holds a finished network. Give another folder with out=, or resume=False to replace it."
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / "writable.partial"
        probe.write_text("", encoding="utf-8")
        probe.unlink()
    except OSError as error:
        raise SettingError(
            f"The folder {str(folder)!r} cannot be written: {error.strerror or error}. Give another one with out=."
        ) from error
    return folder


def _changed_head(net: Network, items: Prepared) -> Network:
    """Return a copy of the network with the data's classes as its head and the fitted preprocessing."""
    data = items.data
    changed = retarget(net, output_names(data), kind=data.task)
    if data.task == "regression" and not changed.account.entries.get("kept"):
        head = changed.head  # the outputs start at the targets' means: a rate for the weights would take long to get there
        means = np.asarray(data.targets, np.float32).reshape(len(data), -1).mean(0)
        changed = changed.with_head(replace(head, bias=means))
    changed.preprocessing = items.preprocessing
    return changed


def _from_scratch(net: Network, job: Job) -> Judged:
    """Train the same architecture from scratch on the same items."""
    plan = replace(job.plan, strategy="scratch", frozen=None, settings=replace(job.settings, learning_rate=None, unfreeze_every=None))
    other = Job(_changed_head(net, job.items), job.items, job.parts, plan, job.out, job.resume)
    other.network.module.to(other.device)
    other.test = job.test
    other.begin_()
    return list(judged_parts(other, run_strategy(other)).values())[-1]


def _facts(job: Job, adapted: Judged) -> dict[str, Any]:
    data, parts, network = job.items.data, job.parts, job.network
    blocks = network.blocks
    tried = {"head", "partial", "full"} if job.plan.strategy == "auto" else {job.plan.strategy}
    tried |= {"scratch"} if job.settings.baselines else set()
    counts = {name: int(count) for name, count in zip(data.classes, data.class_counts(), strict=False)}
    split = {"fit": len(parts.fit), "select": len(parts.select), "valid": len(parts.valid)}
    return {
        "network": {
            "name": str(network.origin.get("source", network.family)),
            "family": network.family,
            "parameters": sum(block.parameters for block in blocks),
            "blocks": len(blocks),
            "head": network.head.layer,
        },
        "data": {"items": len(data), "classes": len(data.classes), "counts": counts, "split": split, "notes": list(data.notes)},
        "preprocessing": job.items.preprocessing.describe(),
        "worst": worst_items(adapted),
        "not_tried": sorted({"head", "partial", "full", "scratch"} - tried),
        "warnings": []
        if len(parts.select)
        else ["Too few items to keep some aside for choosing; the last epoch with the lowest fitting loss was kept."],
    }
