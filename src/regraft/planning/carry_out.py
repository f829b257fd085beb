"""Execution of a plan: split the data, change the head, train what the strategy leaves open, evaluate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ..console import say
from ..data import Dataset, PreparedData, check_trainable
from ..errors import InputError, SettingError
from ..files.locks import held_folder
from ..files.text import shown
from ..freezing import check_engine
from ..methods import METHODS
from ..networks.account import UNNAMED, UNUSED, Account
from ..networks.network import Network
from ..training import Settings, clear_
from ..training.callbacks import Tracker
from ..words import counted
from .checking import equal_across, fit_on
from .choosing.attaching import ATTACHED, attached
from .choosing.candidates import check_blocks
from .finishing import calibrate_, fit_thresholds_, keep_statistics_, leave_ready_, merged_history, note_idle_heads_
from .judging import TaskEvaluation, baselines, compared_with, judged_parts, reliability_of, scores_of, worst_items
from .passes import UNCACHED
from .plan import ALL, Plan
from .preparing import check_inputs, notes_on_length, prepared_for, try_out, windowed
from .result import History, Result, check_unfinished, finished_run, network_facts, reopened, save_result, saved_plan
from .setup import Checkpoints, Log, Outcome, Parts, Setup, differences, parts_of, run_digest, whole_digest
from .strategies import run_strategy
from .tasks import changed_heads, matched_tasks, placed_tasks, same_tasks, task_problems
from .trainable import check_trained, hold_, with_fresh, without_solving
from .tuning.by_method import check_method
from .tuning.switches import switch_problems

TOO_FEW = "Too few examples for a validation set: the last epoch with the lowest training loss was kept."


def carry_out(  # over the limit: network, data and plan, and how a folder goes on
    net: Network,
    data: Dataset,
    *,
    plan: Plan,
    test: Dataset | None = None,
    out: str | Path | None = None,
    resume: bool = True,
    reopen: Callable[[Path], Network] | None = None,
) -> Result:
    """Adapt a network to data as a plan says; return the adapted network with history, scores, baselines and cost.
    `reopen` opens the network of a finished folder. If it is None, a finished folder is an error."""
    net.body.refuse_change("adapted")
    check_engine(plan.settings.engine, plan.settings.cluster)
    check_trainable(data, judged_apart=test is not None)
    with nullcontext() if out is None else held_folder(out) as folder:
        finished = None
        if folder is not None:
            finished = finished_run(folder) if resume and reopen is not None else None
            if finished is None:
                check_unfinished(folder, resume, shown=out, remedy=_ANEW)
        with Tracker(plan.settings.log_with, (folder or Path()) / "logs", plan=plan.to_dict()) as tracker:
            log = Log(on_epoch=tracker.see)
            made = _carried_out(net, data, plan=plan, test=test, out=folder, resume=resume, finished=finished, log=log)
            if made is not None:
                tracker.end(made.scores, [] if folder is None else [*folder.glob("plan.json"), *folder.glob("report.html")])
                return made
        if folder is None or reopen is None or finished is None:
            raise SettingError(f"{str(out)!r} holds no finished result that could be returned.")
        say(f"{str(out)!r} holds the finished result of the same network, data and plan: it is returned. resume=False starts again.")
        return reopened(folder, reopen(folder))


_ANEW = ", or resume=False to replace it"


def _other(saved: Plan, plan: Plan) -> str:
    """Return how a call differs from the one that left the `saved` plan, and what to do about it."""
    found = differences(saved, plan)
    if not found:
        return "of the same plan with another network, other data or another test set. Give another folder with out="
    there, here = ({"strategy": one.strategy, **one.given()} for one in (saved, plan))
    made, now = ([f"{name}={shown(given[name])}" for name in found if name in given] for given in (there, here))
    alone = [f"{name}=" for name in here if name in found and name not in there]  # this call gives it, the other left it at its default
    made += [f"no {', '.join(alone)}"] if alone else []
    now = now or [f"no {', '.join(f'{name}=' for name in found)}"]
    old = ", ".join(made)
    return (
        f"of another plan: it was made with {old}, and this call has {', '.join(now)}. Give {old} to get that result, another folder "
        "with out="
    )


def _carried_out(  # noqa: PLR0913  # over the limit: as `carry_out`
    net: Network, data: Dataset, *, plan: Plan, test: Dataset | None, out: Path | None, resume: bool, finished: str | None, log: Log
) -> Result | None:
    """Carry out a plan; return None if `finished`, the digest of the run whose result is in `out`, equals the digest of this run."""
    plan = with_fresh(net, replace(plan, classes=plan.classes or data.classes))
    plan = without_solving(net, plan, tasks=matched_tasks(net, data).values())
    with log.clock.during("read"):
        data = data.with_classes(plan.classes) if data.classes else data
        data, test = windowed(net, data), None if test is None else windowed(net, test, as_of=data)
        parts = parts_of(data, plan, judged_apart=test is not None)
        items = prepared_for(net, data, plan=plan, rows=parts.training)
        tested = None if test is None else same_tasks(test, data)
        test_items = None if tested is None else PreparedData(tested, items.preprocessing.widened(tested))
        if test_items is not None:
            try_out(net, test_items)
            items.preprocessing.check_values(test_items.data)
        fit = fit_on(net, items, rows=parts.training)
        net = attached(net, items, rows=parts.training)
        setup, notes = checked_setup(net, items, plan=plan, parts=parts, test=test_items)
        notes += [] if fit is None else [fit.words()]
        notes += notes_on_length(items)
        notes += [note for note in net.account.notes if note.startswith(ATTACHED)]
        told = [*data.notes, *(() if test is None else test.notes), *setup.network.account.notes]
        notes += [note for note in told if note.startswith("Warning: ") and note not in net.account.notes]
        notes += equal_across(items.data, parts, test=None if test_items is None else test_items.data)
        for note in notes:
            say(note)
        log.notes += notes
        setup = setup if out is None else replace(setup, checkpoints=Checkpoints(out / "run", run_digest(setup), resume))
        run = None if setup.checkpoints is None else whole_digest(setup, setup.checkpoints.digest)
        if finished is not None and finished == run:
            return None
        if finished is not None and out is not None:
            raise SettingError(f"{str(out)!r} already holds a finished network, {_other(saved_plan(out), plan)}{_ANEW}.")
        if data.weights is not None and plan.strategy == "auto":
            log.notes.append("sample_weight acts on trainings; closed-form heads count all examples equally.")
        if plan.augment == "auto" and items.augment == "photo":
            log.notes.append(
                "The pictures look like photographs: views are cropped, mirrored and changed in colour. To avoid this, set augment='light'."
            )
    outcome = adapted(setup, log)
    with log.clock.during("evaluate"):
        found = judged_parts(setup, log, outcome=outcome)
        judged = list(found.values())[-1][data.name]
        scores, others = scores_of(setup, outcome.source, parts=found), baselines(setup, outcome.source, adapted=judged)
    facts = _facts(setup, log, outcome=outcome, judged=judged) | ({} if run is None else {"run": run})
    final, last = (setup, outcome)
    if plan.settings.refit == "all" and len(parts.holdout):
        final, last = _on_everything(net, log, setup=setup, outcome=outcome)
    keep_statistics_(final, log, outcome=last)
    note_idle_heads_(final, log, outcome=last)
    digests = {setup.checkpoints.digest} if setup.checkpoints else set()
    if plan.settings.baselines and plan.strategy != "scratch":
        with log.clock.during("baselines"):
            scratch, digest = _from_scratch(net, setup, notes=log.notes)
        others["scratch"] = compared_with(scratch, judged)
        digests.add(digest)
    network = last.network
    if {plan.strategy, outcome.chosen.get("strategy")} & {"full", "scratch"}:
        network.origin.pop("weights", None)  # the pretrained weights have changed
    leave_ready_(network)
    if fit is not None:
        network.account = network.account.joined(Account(notes=(fit.words(),), figures={"arriving_means_shift": fit.shift}))
        facts |= {"weights_fit": fit.words() if fit.is_poor else ""}
    history = merged_history(net.history, last.history)
    network.history = tuple(history)
    earlier = () if plan.chosen else plan.reasons  # reasons of an earlier choice do not apply to this one
    reasons = tuple(dict.fromkeys([*earlier, *log.notes]))
    plan = replace(plan, reasons=reasons, candidates=outcome.candidates, chosen=dict(outcome.chosen))
    result = Result(network, plan, History(history), scores, others, log.clock.cost(log.counter), facts)
    if out is not None:
        with log.clock.during("save"):
            cost = partial(log.clock.cost, log.counter)
            save_result(result, out, finish=lambda folder: clear_(folder / "run", digests), cost=cost, error=SettingError)
    return result


def checked_setup(
    net: Network, items: PreparedData, *, plan: Plan, parts: Parts, test: PreparedData | None = None
) -> tuple[Setup, list[str]]:
    """Return the setup of a strategy, after checking that network, data and plan fit together, and notes for the user."""
    check_inputs(net, items.preprocessing)
    problems = [*task_problems(items.data, plan, holdout=parts.holdout), *switch_problems(net, items.data, plan=plan)]
    notes: list[str] = []
    try:
        network, new_rows = changed_heads(net, items, plan=plan, fit=parts.training)
        hold_(network, plan, new_rows=new_rows, placed=placed_tasks(net, items.data))
        tasks, old = matched_tasks(net, items.data), net.head if net.heads else None
        setup = Setup(network, items, parts, plan, tasks, new_rows, test=test, old_head=old).on(network)
    except InputError as problem:
        raise _joined([*problems, problem]) from problem
    checks: tuple[Callable[[], object], ...] = (
        lambda: check_blocks(setup.network, plan),
        lambda: bool(without_solving(setup.network, plan, tasks=setup.tasks.values())),
        lambda: check_method(setup.network, items.data, plan=plan, parts=parts),
        lambda: notes.extend(check_trained(setup.network, plan)),
    )
    for check in checks:
        try:
            check()
        except InputError as problem:
            problems.append(problem)
    if problems:
        raise _joined(problems) from problems[0]
    return setup, notes


def _joined(problems: Sequence[InputError]) -> InputError:
    """Return one error of the class of the first of `problems` that contains all their messages."""
    return type(problems[0])(" ".join(dict.fromkeys(map(str, problems))))


def adapted(setup: Setup, log: Log) -> Outcome:
    """Run a plan's strategy, then calibrate the probabilities and fit the thresholds on examples that were not learned from."""
    with log.clock.during("solve"):
        outcome = run_strategy(setup, log)
    with log.clock.during("evaluate"):
        calibrate_(setup, log, outcome=outcome)
        fit_thresholds_(setup, outcome)
    return outcome


def _from_scratch(net: Network, setup: Setup, *, notes: list[str]) -> tuple[TaskEvaluation, str]:
    """Train the same architecture from scratch on the same examples; return the evaluation of its first task and the digest of the run.
    Learning rate, epochs and schedule are the defaults: those of the adaptation suit a network that is already trained. What was chosen is
    added to the `notes`."""
    own = ["epochs", "learning_rate", "schedule", "warmup", "layer_decay"]
    own += ["batch_norm", "unfreeze_every", "patience", "callbacks", "log_with"]
    usual = Settings()
    plain = replace(setup.settings, stay_near=0.0, distill=0.0, co_tuning=0.0, **{name: getattr(usual, name) for name in own})
    plan = replace(setup.plan, strategy="scratch", frozen=None, options={}, trainable=ALL, settings=plain)
    log = Log()
    other, _ = checked_setup(net, setup.items, plan=plan, parts=setup.parts, test=setup.test)
    digest = "" if setup.checkpoints is None else run_digest(other)
    if setup.checkpoints is not None:
        other = replace(other, checkpoints=replace(setup.checkpoints, digest=digest))
    outcome = adapted(other, log)
    notes += [f"The baseline from scratch: {note}" for note in log.notes if "'scratch'" in note]
    return list(judged_parts(other, log, outcome=outcome).values())[-1][setup.items.data.name], digest


def _on_everything(net: Network, log: Log, *, setup: Setup, outcome: Outcome) -> tuple[Setup, Outcome]:
    """Refit the chosen setting on all examples, including the holdout set; return the new setup and outcome.
    Nothing evaluates this network."""
    items, names = setup.items, ("strategy", "frozen", "block", "base")
    everything, none = np.arange(len(items)), np.arange(0)
    own = {name: outcome.chosen[name] for name in names if name in outcome.chosen} if setup.plan.strategy == "auto" else {}
    method = METHODS.get(str(own.get("strategy")))
    options = {name: value for name, value in outcome.chosen.items() if name in method.options} if method else setup.plan.options
    plan = replace(setup.plan, **own, options=options, budget=None, candidates=())
    again_log = Log(log.clock, log.counter)
    again, _ = checked_setup(net, items, plan=plan, parts=Parts(everything, none, none))
    again = replace(again, repeats=outcome.measured)
    last = adapted(again, again_log)
    log.notes.append(
        f"After the evaluation, the network was trained again on all {counted(len(items), 'example')}. The metrics are of the network "
        "before that."
    )
    return again, replace(last, history=[*outcome.history, *last.history])


def _facts(setup: Setup, log: Log, *, outcome: Outcome, judged: TaskEvaluation) -> dict[str, Any]:
    data, parts, network, measured = setup.items.data, setup.parts, outcome.network, outcome.measured
    several = {name: {"kind": data.targets_of(name).task, "known": int(data.targets_of(name).known.sum())} for name in data.tasks}
    counts = {name: int(count) for name, count in zip(data.classes, data.recordings().class_counts(), strict=False)}
    whole = data.recordings()
    used = {"training": parts.training, "validation": parts.validation, "holdout": parts.holdout}
    split = {name: len(data.subset(rows).recordings()) for name, rows in used.items()}
    heads_alone = measured is None and not outcome.solved and "head" in (setup.plan.strategy, outcome.chosen.get("strategy"))
    kept = measured.training.stage if measured is not None and measured.kept_start else "head" if heads_alone and log.kept_heads else None
    on_output = f"{ATTACHED}: the new one reads its pooled output." if setup.old_head is None else ""
    return {
        "network": network_facts(network),
        "data": {"examples": len(whole), "classes": len(data.classes), "counts": counts, "split": split, "notes": list(data.notes)}
        | {"read": [list(row) for row in whole.summary().rows() if row[0] != "note"]}
        | ({"tasks": several} if data.further else {}),
        "kept_start": kept,
        "uncached": any(note.startswith(UNCACHED) for note in log.notes),
        "random_weights": network.origin.get("weights") == "random",
        "preprocessing": network.preprocessing.describe(),
        "attached": next((note for note in log.notes if note.startswith(ATTACHED)), on_output),
        "measured": setup.items.preprocessing.measured,
        "dropped": " ".join(f"{note}." for note in setup.network.account.notes if UNUSED in note or UNNAMED in note),
        "worst": worst_items(judged),
        "reliability": reliability_of(judged),
        "candidates": list(outcome.candidates),
        "warnings": [note for note in log.notes if note.startswith("Warning: ")] + ([] if len(parts.validation) else [TOO_FEW]),
    }
