"""Carry out a plan: split, change the head, train what the strategy leaves open, judge."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..data import Dataset, Prepared, check_trainable
from ..errors import SettingError
from ..files.locks import held_folder
from ..networks.contract import Network
from ..networks.folders import FACTS_FILE, settled
from ..report.candidates import was_tried
from ..training import clear_
from .choosing.candidates import check_blocks
from .finishing import calibrate_, fit_thresholds_, keep_statistics_, merged_history, note_idle_heads_
from .job import Clock, Job, Parts, parts_of
from .judging import Judged, baselines, compared_with, judged_parts, scores_of, worst_items
from .plan import Plan
from .preparing import check_inputs, prepared_for
from .result import Result, save_result
from .strategies import run_strategy
from .tasks import changed_heads, check_tasks, matched_tasks, same_tasks
from .tuning.stages import check_method
from .tuning.switches import check_switches

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
    check_trainable(data, judged_apart=test is not None)
    with nullcontext() if out is None else held_folder(out) as folder:
        if folder is not None:
            _check_unfinished(folder, resume, shown=out)
        return _carried_out(net, data, plan=plan, test=test, out=folder, resume=resume)


def _check_unfinished(folder: Path, resume: bool, *, shown: Any) -> None:
    """Raise if a folder holds a finished network that is not to be replaced."""
    settled(folder)
    if resume and (folder / FACTS_FILE).is_file():
        raise SettingError(
            f"{str(shown)!r} already holds a finished network. Give another folder with out=, or resume=False to replace it."
        )


def _carried_out(net: Network, data: Dataset, *, plan: Plan, test: Dataset | None, out: Path | None, resume: bool) -> Result:
    clock = Clock()
    plan = replace(plan, classes=plan.classes or data.classes)
    with clock.during("read"):
        data = data.with_classes(plan.classes) if data.classes else data
        items = prepared_for(net, data, plan=plan)
        test_items = None if test is None else Prepared(same_tasks(test, data), items.preprocessing)
        parts = parts_of(data, plan, judged_apart=test is not None)
        job = _job(net, items, plan=plan, parts=parts, out=out, resume=resume, test=test_items)
        job.clock = clock
        if plan.augment == "auto" and items.augment == "photo":
            job.notes.append("The pictures look like photographs: views are cropped, mirrored and coloured; else set augment='light'.")
    carried = run_strategy(job)
    calibrate_(job, carried)
    fit_thresholds_(job, carried)
    found = judged_parts(job, carried)
    adapted = list(found.values())[-1][data.name]
    scores, others = scores_of(job, carried, parts=found), baselines(job, carried, adapted=adapted)
    keep_statistics_(job, carried)
    note_idle_heads_(job, carried)
    runs = {job.run_digest}
    if plan.settings.baselines and plan.strategy != "scratch":
        scratch, run = _from_scratch(net, replace(job, items=items, test=test_items))
        others["scratch"] = compared_with(scratch, adapted)
        runs.add(run)
    job.network.freeze_(frozenset())
    job.network.mode_(False)
    job.network.refresh_heads_()
    history = merged_history(net.history, carried.history)
    job.network.history = tuple(history)
    earlier = () if plan.chosen else plan.reasons  # those of an earlier choice are not those of this one
    plan = replace(plan, reasons=tuple(dict.fromkeys([*earlier, *job.notes])), candidates=tuple(job.candidates), chosen=dict(job.chosen))
    result = Result(job.network, plan, history, scores, others, clock.cost(job.counter), _facts(job, adapted))
    if out is not None:
        save_result(result, out, finish=lambda folder: clear_(folder / "run", runs), error=SettingError)
    return result


def _job(  # over the limit: what a run is made of
    net: Network, items: Prepared, *, plan: Plan, parts: Parts, out: Path | None, resume: bool, test: Prepared | None
) -> Job:
    """Return the work on a copy of the network that has a head for each task, once it is known that all fits together."""
    check_inputs(net, items.preprocessing)
    check_tasks(items.data, plan, valid=parts.valid)
    check_switches(net, items.data, plan=plan)
    network, new_rows = changed_heads(net, items, plan=plan, fit=parts.fit)
    check_blocks(network, plan)
    check_method(network, items.data, plan=plan, parts=parts)
    tasks, old = matched_tasks(net, items.data), net.head if net.heads else None
    job = Job(network, items, parts, plan, out, resume, tasks=tasks, new_rows=new_rows, test=test, old_head=old)
    network.module.to(job.device)
    job.begin_()
    return job


def _from_scratch(net: Network, job: Job) -> tuple[Judged, str]:
    """Train the same architecture from scratch on the same items; return how its first task is judged, and the digest of that run."""
    plain = replace(job.settings, learning_rate=None, unfreeze_every=None, stay_near=0.0, distill=0.0, co_tuning=0.0)
    plan = replace(job.plan, strategy="scratch", frozen=None, options={}, settings=plain)
    other = _job(net, job.items, plan=plan, parts=job.parts, out=job.out, resume=job.resume, test=job.test)
    carried = run_strategy(other)
    calibrate_(other, carried)
    fit_thresholds_(other, carried)
    return list(judged_parts(other, carried).values())[-1][job.items.data.name], other.run_digest


def _facts(job: Job, adapted: Judged) -> dict[str, Any]:
    data, parts, network = job.items.data, job.parts, job.network
    blocks = network.blocks
    tried = {str(one["strategy"]) for one in job.candidates if was_tried(one)} or {job.plan.strategy}
    tried |= {"scratch"} if job.settings.baselines else set()
    several = {name: {"kind": data.targets_of(name).task, "known": int(data.targets_of(name).known.sum())} for name in data.tasks}
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
        "data": {"items": len(data), "classes": len(data.classes), "counts": counts, "split": split, "notes": list(data.notes)}
        | ({"tasks": several} if data.further else {}),
        "preprocessing": job.items.preprocessing.describe(),
        "worst": worst_items(adapted),
        "candidates": list(job.candidates),
        "not_tried": sorted({"probe", "head", "partial", "full", "scratch"} - tried),
        "warnings": []
        if len(parts.select)
        else ["Too few items to keep some aside for choosing; the last epoch with the lowest fitting loss was kept."],
    }
