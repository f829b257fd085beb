"""Carry out a plan: split, change the head, train what the strategy leaves open, judge."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from ..console import say
from ..data import Dataset, Prepared, check_trainable
from ..errors import SettingError
from ..files.locks import held_folder
from ..methods import METHODS
from ..networks.contract import Network
from ..networks.folders import FACTS_FILE, settled
from ..report.candidates import was_tried
from ..training import Settings, clear_
from .choosing.candidates import check_blocks
from .finishing import calibrate_, fit_thresholds_, keep_statistics_, merged_history, note_idle_heads_
from .history import History
from .job import UNCACHED, Carried, Clock, Job, Parts, parts_of
from .judging import Judged, baselines, compared_with, judged_parts, scores_of, worst_items
from .plan import ALL, Plan
from .preparing import check_inputs, prepared_for
from .result import Result, save_result
from .strategies import run_strategy
from .tasks import changed_heads, check_tasks, matched_tasks, same_tasks
from .trained import check_trained, hold_
from .tuning.stages import check_method
from .tuning.switches import check_switches

__all__ = ["carry_out"]

TOO_FEW = "Too few items to keep some aside for choosing; the last epoch with the lowest fitting loss was kept."


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
        if test_items is not None:
            items.preprocessing.check_values(test_items.data)
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
    runs, facts = {job.run_digest}, _facts(job, adapted)
    if job.settings.refit == "all" and len(parts.holdout):
        job, carried = _on_everything(net, job, items=items, history=carried.history)
    keep_statistics_(job, carried)
    note_idle_heads_(job, carried)
    if plan.settings.baselines and plan.strategy != "scratch":
        scratch, run = _from_scratch(net, replace(job, items=items, test=test_items))
        others["scratch"] = compared_with(scratch, adapted)
        runs.add(run)
    if {plan.strategy, job.chosen.get("strategy")} & {"full", "scratch"}:
        job.network.origin.pop("weights", None)  # they are no longer those that it began with
    job.network.hold_(None)
    job.network.freeze_(frozenset())
    job.network.mode_(False)
    job.network.refresh_heads_()
    history = merged_history(net.history, carried.history)
    job.network.history = tuple(history)
    earlier = () if plan.chosen else plan.reasons  # those of an earlier choice are not those of this one
    plan = replace(plan, reasons=tuple(dict.fromkeys([*earlier, *job.notes])), candidates=tuple(job.candidates), chosen=dict(job.chosen))
    result = Result(job.network, plan, History(history), scores, others, clock.cost(job.counter), facts)
    if out is not None:
        save_result(result, out, finish=lambda folder: clear_(folder / "run", runs), error=SettingError)
    return result


def _job(  # over the limit: what a run is made of
    net: Network, items: Prepared, *, plan: Plan, parts: Parts, out: Path | None, resume: bool, test: Prepared | None
) -> Job:
    """Return the work on a copy of the network that has a head for each task, once it is known that all fits together."""
    check_inputs(net, items.preprocessing)
    check_tasks(items.data, plan, holdout=parts.holdout)
    check_switches(net, items.data, plan=plan)
    network, new_rows = changed_heads(net, items, plan=plan, fit=parts.training)
    hold_(network, plan, new_rows=new_rows)
    check_blocks(network, plan)
    check_method(network, items.data, plan=plan, parts=parts)
    notes = check_trained(network, plan)
    for note in notes:
        say(note)
    tasks, old = matched_tasks(net, items.data), net.head if net.heads else None
    job = Job(network, items, parts, plan, out, resume, tasks=tasks, new_rows=new_rows, test=test, old_head=old, notes=notes)
    network.module.to(job.device)
    job.begin_()
    return job


def _from_scratch(net: Network, job: Job) -> tuple[Judged, str]:
    """Train the same architecture from scratch on the same examples; return how its first task is judged, and the digest of that run.

    Rate, length and schedule are its own: those of the adaptation are for a network that is trained already.
    """
    own = ("epochs", "learning_rate", "schedule", "warmup", "layer_decay", "batch_norm", "unfreeze_every", "patience")
    usual = Settings()
    plain = replace(job.settings, stay_near=0.0, distill=0.0, co_tuning=0.0, **{name: getattr(usual, name) for name in own})
    plan = replace(job.plan, strategy="scratch", frozen=None, options={}, trainable=ALL, settings=plain)
    other = _job(net, job.items, plan=plan, parts=job.parts, out=job.out, resume=job.resume, test=job.test)
    carried = run_strategy(other)
    calibrate_(other, carried)
    fit_thresholds_(other, carried)
    return list(judged_parts(other, carried).values())[-1][job.items.data.name], other.run_digest


def _on_everything(net: Network, job: Job, *, items: Prepared, history: Sequence[dict[str, Any]]) -> tuple[Job, Carried]:
    """Carry out what was chosen once more, on all examples, those that have judged included.

    Args:
        net: the network as it came.
        job: carried out and judged.
        items: all examples.
        history: of the job.

    Returns:
        The work on all examples, and how to read its network; nothing judges that network.
    """
    everything, none = np.arange(len(items)), np.arange(0)
    chosen, names = dict(job.chosen), ("strategy", "frozen", "block", "base")
    own = {name: chosen[name] for name in names if name in chosen} if job.plan.strategy == "auto" else {}
    method = METHODS.get(str(own.get("strategy")))
    options = {name: value for name, value in chosen.items() if name in method.options} if method else job.plan.options
    plan = replace(job.plan, **own, options=options, budget=None, candidates=())
    again = _job(net, items, plan=plan, parts=Parts(everything, none, none), out=None, resume=False, test=None)
    again.clock, again.counter, again.repeats, again.held_out = job.clock, job.counter, job.measured, job.held_out
    carried = run_strategy(again)
    calibrate_(again, carried)
    fit_thresholds_(again, carried)
    said = f"After it was judged, the network was made once more, from all {len(items)} examples: the figures are of the one before."
    again.notes = [*job.notes, said]
    again.chosen, again.candidates = job.chosen, job.candidates
    return again, replace(carried, history=[*history, *carried.history])


def _facts(job: Job, adapted: Judged) -> dict[str, Any]:
    data, parts, network = job.items.data, job.parts, job.network
    blocks = network.blocks
    tried = {str(one["strategy"]) for one in job.candidates if was_tried(one)} or {job.plan.strategy}
    tried |= {"scratch"} if job.settings.baselines else set()
    several = {name: {"kind": data.targets_of(name).task, "known": int(data.targets_of(name).known.sum())} for name in data.tasks}
    counts = {name: int(count) for name, count in zip(data.classes, data.class_counts(), strict=False)}
    split = {"training": len(parts.training), "validation": len(parts.validation), "holdout": len(parts.holdout)}
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
        "kept_start": job.measured.training.stage if job.measured is not None and job.measured.kept_start else None,
        "uncached": any(note.startswith(UNCACHED) for note in job.notes),
        "random_weights": network.origin.get("weights") == "random",
        "preprocessing": job.items.preprocessing.describe(),
        "worst": worst_items(adapted),
        "candidates": list(job.candidates),
        "not_tried": sorted({"probe", "head", "partial", "full", "scratch"} - tried),
        "warnings": [note for note in job.notes if note.startswith("Warning: ")] + ([] if len(parts.validation) else [TOO_FEW]),
    }
