"""Match of the data's tasks with the network's heads, and the network with heads for all tasks."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import ArrayPreprocessing, Dataset, PreparedData
from ..data.dataset import with_targets
from ..errors import DataError, InputError, SettingError, near_names
from ..heads import branch, retarget
from ..networks.account import Account
from ..networks.network import Inputs, Network
from ..networks.samples import sample_of
from ..tasks import KINDS, LOSSES, chosen_loss, metric_name, metric_problems
from ..training.courses import monitor_problem
from ..words import counted
from .plan import THROUGH_LAYERS, Plan
from .preparing import output_names

PROBE_KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("lda", "svm", "class_mean", "knn"), ("classification",)),
    "logistic": ("classification", "multi-label"),
}
"""Setting of `probe=` -> the kinds of task that it can solve, if not all."""
NewRows = dict[str, np.ndarray]  # Task of the network -> row indices of its new classes


def matched_tasks(net: Network, data: Dataset) -> dict[str, str]:
    """Return the task of the network for each task of the data, in the order of the data.
    A task with the name of a head goes to that head. The first task of the data goes to the first head, unless another task has its name.
    Every other task gets a branch of its own name. A first head with the default name "main" takes the name of the data's first task."""
    first = net.head.task if net.heads else "main"
    found = {name: name for name in data.tasks}
    if data.name not in net.heads and first not in (*data.tasks, "main"):
        found[data.name] = first
    return found


def placed_tasks(net: Network, data: Dataset) -> list[str]:
    """Return the tasks of the network that are regressions and whose outputs have no names: their weights are carried over by place."""
    found = []
    for name, task in matched_tasks(net, data).items():
        head = net.heads.get(task, net.head if net.heads and name == data.name else None)
        found += [task] if head is not None and head.classes is None and data.targets_of(name).task == "regression" else []
    return found


def as_heads_say(net: Network, data: Dataset) -> Dataset:
    """Return the data with ambiguous labels read as the kind of the network's own head.
    Whole numbers can be classes or regression targets. Rows with a single 1 can be one-hot classes or multi-label. Two whole numbers stay
    classes, since a network with a single output also separates two classes."""
    for name, task in matched_tasks(net, data).items():
        own, head = data.targets_of(name), net.heads.get(task, net.head if net.heads and name == data.name else None)
        if head is None or head.kind not in own.also or (head.kind == "regression" and len(own.classes) < 3):
            continue
        of = f" of {name!r}" if data.further else ""
        why = f"as the network's head is one of the kind {head.kind!r}; else say task={own.task!r}"
        data = data.as_task(head.kind, name=name, note=f"the labels{of} are read as those of the kind {head.kind!r}, {why}")
    return data


def same_tasks(test: Dataset, data: Dataset) -> Dataset:
    """Return the test set with the tasks, kinds and classes of the data; its first task is renamed if only the name differs."""
    name = data.name
    named = test if name in test.tasks or test.name in data.tasks else replace(test, name=name)
    if name not in named.tasks or not named.targets_of(name).known.any():
        raise DataError(f"The test set has no target of the task {name!r}; it has {', '.join(map(repr, test.tasks))}. Give it targets.")
    known = {task: named.targets_of(task) for task in data.tasks if task in named.tasks}
    whole = with_targets(named, known, partial=named.partial or bool(named.further))
    for task in whole.tasks:
        whole = _of_kind(whole, data.targets_of(task).task, name=task)
        whole = whole.with_classes(data.targets_of(task).classes, task)
        there, here = (len(output_names(one.of_task(task))) for one in (data, whole))
        if there != here:
            raise DataError(
                f"The test set has {counted(here, 'number')} of each example for the task {task!r}; the data have {there}. Give as many."
            )
    return whole


def _of_kind(test: Dataset, kind: str, *, name: str) -> Dataset:
    try:
        return test.as_task(kind, name=name)
    except DataError as error:
        raise DataError(f"The test set does not go with the data: the task {name!r} is a {kind} there. {error}") from error


def task_problems(data: Dataset, plan: Plan, *, holdout: np.ndarray) -> Iterator[InputError]:
    """Yield an error for each conflict between a plan and the data's tasks.
    `holdout` (n,) holds the indices of the holdout set; it is empty if there is only a test set. `SettingError`: a weight for an unknown
    task, or a start, probe, loss or metric that does not suit a task. `DataError`: no example of the holdout set has a target of the first
    task."""
    for name in plan.settings.task_weights or {}:
        if name not in data.tasks:
            yield SettingError(f"task_weights: the data have no task {name!r}{near_names(name, data.tasks)}")
    other = [name for name in data.tasks if data.targets_of(name).task != "classification"]
    if plan.start == "imprint" and other:
        yield SettingError(
            f"start='imprint' averages the examples of each class; the task {other[0]!r} is {data.targets_of(other[0]).task}. "
            f"Choose 'probe'."
        )
    unsuited = [name for name in data.tasks if data.targets_of(name).task not in PROBE_KINDS.get(plan.probe, KINDS)]
    if unsuited:
        kinds = " and ".join(PROBE_KINDS[plan.probe])
        yield SettingError(
            f"probe={plan.probe!r} solves heads of {kinds}; the task {unsuited[0]!r} is {data.targets_of(unsuited[0]).task}. "
            "Choose 'ridge', or leave it out."
        )
    if plan.probe in THROUGH_LAYERS and data.further:
        yield SettingError(
            f"probe={plan.probe!r} puts a layer before one head; the data have {len(data.tasks)} tasks: {', '.join(data.tasks)}. "
            "Choose 'ridge', or give one of them."
        )
    if data.weights is not None and (plan.strategy == "probe" or plan.probe in THROUGH_LAYERS):
        yield SettingError(
            "sample_weight= goes with a training; here heads are solved, and all examples count the same. Choose strategy='head'."
        )
    yield from _loss_problems(data, plan)
    yield from _figure_problems(data, plan)
    if len(holdout) and not data.known[holdout].any():
        yield DataError(
            f"None of the {counted(len(holdout), 'example')} that judge has a target of the task {data.name!r}. Raise holdout=."
        )


def _loss_problems(data: Dataset, plan: Plan) -> Iterator[SettingError]:
    """Yield an error for each reason why the plan's loss cannot be used for the data."""
    settings = plan.settings
    for name in settings.loss if isinstance(settings.loss, Mapping) else ():
        if name not in data.tasks:
            yield SettingError(f"loss: the data have no task {name!r}{near_names(name, data.tasks)}")
    for name, held in settings.functions.items():
        if isinstance(held, str):
            yield SettingError(
                f"The plan was made with {name}= {held!r}, which a plan as plain data cannot hold. Give the function again: "
                f"dataclasses.replace(plan, settings=dataclasses.replace(plan.settings, {name}=function))."
            )
            return
    for name in data.tasks:
        wanted, own = plan.loss_of(name, first=data.name), data.targets_of(name)
        values = own.values[own.known]
        if isinstance(wanted, str) and own.task not in LOSSES[wanted]:
            suited = [loss for loss, kinds in LOSSES.items() if own.task in kinds]
            yield SettingError(
                f"loss={wanted!r} is for {' and '.join(LOSSES[wanted])}; the task {name!r} is {own.task}: {', '.join(suited)}."
            )
        elif wanted in ("msle", "poisson") and len(values) and values.min() < 0:
            yield SettingError(f"loss={wanted!r} needs targets of 0 or more; those of {name!r} begin at {values.min():.4g}. Choose 'mse'.")
        elif wanted not in (None, "cross_entropy", "mse") and settings.label_smoothing:
            yield SettingError(f"label_smoothing={settings.label_smoothing} goes with loss='cross_entropy'; leave one of them out.")
        elif callable(wanted):
            yield from _tried_out(wanted, values[:2], outputs=len(output_names(data.of_task(name))), kind=own.task)


def _figure_problems(data: Dataset, plan: Plan) -> Iterator[SettingError]:
    """Yield an error for each metric that cannot be computed, and for a monitored figure that does not exist."""
    settings, own, outputs = plan.settings, data.targets_of(data.name), len(output_names(data.of_task(data.name)))
    if own.known.any() and not any(isinstance(held, str) for held in settings.functions.values()):
        for problem in metric_problems(settings.metrics, own.values[own.known], outputs=outputs, kind=own.task):
            yield SettingError(problem)
    known = ["train_loss", "validation_loss"]
    known += ["validation_accuracy"] if own.task == "classification" else []
    known += [f"validation_{metric_name(metric)}" for metric in settings.metrics]
    known += [f"{name}_{figure}" for name in data.tasks for figure in ("loss", "accuracy")] if data.further else []
    problem = monitor_problem(settings.monitor, known=known)
    if problem:
        yield SettingError(problem)


def _tried_out(loss: Callable[..., Any], values: np.ndarray, *, outputs: int, kind: str) -> Iterator[SettingError]:
    """Try the user's loss on two examples and yield what is wrong with it."""
    targets = torch.from_numpy(values.reshape(len(values), -1) if kind == "regression" else np.array(values))
    try:
        found = chosen_loss(loss, kind)(torch.zeros(len(values), outputs, requires_grad=True), targets)
    except SettingError as error:
        yield error
        return
    if not found.requires_grad:
        yield SettingError("loss= returned a number without a gradient; compute it from the logits by operations of PyTorch.")


def changed_heads(net: Network, items: PreparedData, *, plan: Plan, fit: np.ndarray) -> tuple[Network, NewRows]:
    """Return a copy of the network with the fitted preprocessing and a head for each task of the data, and the rows of new classes.
    `fit` (n,) holds the indices of the training set."""
    data, tasks = items.data, matched_tasks(net, items.data)
    changed, account, new = net.copy(), Account(), NewRows()
    changed.sample = _sample_like(net, items)
    # a derived head is replaced by one with its own class weights if the data have targets for it
    changed.heads = {task: head for task, head in net.heads.items() if not head.groups or task not in tasks.values()}
    changed.account = Account()
    if net.heads and data.name not in net.heads and net.head.task == "main" and "main" not in data.tasks:
        changed.rename_task_("main", data.name)
    first = changed.head.task if net.heads else "main"
    for name in sorted(tasks, key=lambda name: tasks[name] != first):  # the first head comes first: branches need it
        own, task = data.of_task(name), tasks[name]
        changed = _with_task(changed, own, task=task, plan=plan if name == data.name else replace(plan, rename={}))
        added = set(changed.account.entries.get("new", ()))
        new[task] = np.array([row for row, known in enumerate(output_names(own)) if known in added], np.int64)
        shown = own.subset(fit[own.known[fit]])
        if plan.start in ("imprint", "probe"):
            _check_shown(shown, new[task], start=plan.start)
        if plan.start == "auto" and own.task == "regression" and len(shown) and len(new[task]) == len(output_names(own)):
            changed = _at_the_means(changed, shown, task=task)
        account, changed.account = account.joined(changed.account), Account()
    measured = items.preprocessing.measured
    account = account.joined(Account(notes=(f"preprocessing {measured}",))) if measured else account
    changed.account, changed.preprocessing = net.account.of_weights().joined(account), items.preprocessing
    if net.heads and changed.head.classes == net.head.classes:  # otherwise heads derived from it are no longer valid
        derived = {task: head for task, head in net.heads.items() if head.groups and task not in tasks.values()}
        changed.heads = {**changed.heads, **derived}
    return changed, new


def _sample_like(net: Network, items: PreparedData) -> Inputs:
    """Return the network's sample, with the length of the examples if the network takes waveforms of any length, or padded arrays."""
    own, old = items.preprocessing, net.sample
    padded = isinstance(own, ArrayPreprocessing) and own.padded is not None
    if not isinstance(old, Tensor) or not old.is_floating_point() or not (padded or (own.kind == "audio" and old.ndim == 2)):
        return old
    first = items.batch(np.arange(1))
    known = isinstance(first, Tensor) and first.ndim == old.ndim and first.shape != old[:1].shape
    return sample_of(first.shape[1:]) if known and isinstance(first, Tensor) else old


def _with_task(net: Network, data: Dataset, *, task: str, plan: Plan) -> Network:
    """Return the network with the classes of the data's only task: an existing head keeps class weights by name, a new one is a branch."""
    names, start = output_names(data), plan.start if plan.start in ("random", "mean") else "zeros"
    if not net.heads or task in net.heads:
        known, net = task if net.heads else None, _with_named_outputs(net, data, task=task)
        changed = retarget(net, names, kind=data.task, task=known, rename=plan.rename, start=start, seed=plan.seed)
        if not net.heads:
            changed.rename_task_(changed.head.task, task)
        return changed
    if plan.rename:
        raise SettingError(f"rename={plan.rename}: the task {task!r} is new, so that it has no old names. Leave it out.")
    branched = branch(net, task, names, kind=data.task, start=start, seed=plan.seed)
    branched.account = replace(branched.account, notes=(f"the task {task!r} has a new head on the same features",))
    return branched


def _with_named_outputs(net: Network, data: Dataset, *, task: str) -> Network:
    """Return the network with names for the outputs of a regression that have none, so that their weights are carried over.
    Unlike classes, the numbers that a network predicts are known by their place."""
    head = net.heads.get(task)
    names = output_names(data)
    plain = head is not None and head.classes is None and head.activation == "linear" and not head.binary and head.groups is None
    if head is None or not plain or data.task != "regression" or len(head.weight) != len(names):
        return net
    named = net.copy()
    named.heads = {**net.heads, task: replace(head, classes=names)}
    return named


def _check_shown(shown: Dataset, new: np.ndarray, *, start: str) -> None:
    counts = shown.class_counts()
    lacking = [shown.classes[row] for row in new if len(counts) and not counts[row]]
    if lacking:
        raise DataError(
            f"The examples to learn from show no example of {', '.join(map(repr, lacking[:5]))}; start={start!r} needs one of "
            f"every new class."
        )


def _at_the_means(net: Network, shown: Dataset, *, task: str) -> Network:
    """Start the outputs of a regression at the targets' means, which training would take long to reach."""
    means = np.asarray(shown.targets, np.float32).reshape(len(shown), -1).mean(0)
    changed = net.with_head(replace(net.heads[task], bias=means))
    changed.account = net.account
    return changed
