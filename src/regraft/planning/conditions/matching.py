"""Assignment of examples to conditions, and the targets of the network's heads for them."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from typing import cast

import numpy as np
import torch

from ...data import Dataset, Targets
from ...data.dataset import with_targets
from ...data.items import listed
from ...errors import DataError, NetworkError, SettingError, near_names
from ...networks.network import Head, Network
from ...networks.parts.coding import MEAN
from ...words import counted
from .items import CodedItems
from .losses import Aim, CodeLosses


def condition_groups(data: Dataset, names: str | Sequence[str] | None, *, known: Collection[str]) -> dict[str, np.ndarray]:
    """Return condition -> example indices (n,), in the order of `names`, or of the data.
    `names`: one condition or several; None: all conditions of the data. `known`: conditions that must not be given again."""
    given = None if data.conditions is None else np.array([str(name) for name in data.conditions])
    if names is None and given is None:
        raise DataError(
            f"The data, {counted(len(data), 'example')}, have no conditions, and no name was given. Read them with condition=, a column or "
            "an array, or give the name of the condition that all of them are of."
        )
    several = names is None or (isinstance(names, Iterable) and not isinstance(names, str))
    asked: list[str] = list(names or ()) if several else [cast(str, names)]
    wanted = asked if names is not None or given is None else list(dict.fromkeys(given.tolist()))
    if not wanted or not len(data):
        raise DataError(
            f"{counted(len(data), 'example')} of {counted(len(wanted), 'condition', verb='were')} received; expected one or more of each."
        )
    other = [name for name in wanted if not isinstance(name, str)]
    if other:
        raise SettingError(
            f"Received {other[0]!r} ({type(other[0]).__name__}) as the name of a condition; expected text, {str(other[0])!r}."
        )
    if MEAN in wanted or "" in wanted or len(set(wanted)) < len(wanted):
        raise SettingError(
            f"Received {listed(map(repr, wanted))} as names of conditions; expected different ones, none empty, none {MEAN!r}."
        )
    old = [name for name in wanted if name in known]
    if old:
        raise SettingError(f"The code of {listed(map(repr, old))} is known already. Choose another name, or fit it anew with replace=True.")
    if given is None:
        if len(wanted) > 1:
            shown = listed(map(repr, wanted))
            raise DataError(f"The examples of {len(wanted)} conditions ({shown}) cannot be told apart. Read them with condition=.")
        return {wanted[0]: np.arange(len(data))}
    absent = [name for name in wanted if not (given == name).any()]
    if absent:
        raise DataError(f"The data have no examples of the condition {absent[0]!r}{near_names(absent[0], sorted(set(given.tolist())))}")
    return {name: np.flatnonzero(given == name) for name in wanted}


def with_heads_of(net: Network, data: Dataset, *, supervised: bool) -> Dataset:
    """Return the data with each task named as its head, and targets in the order of the head's classes; unchanged if unsupervised."""
    if not supervised:
        return data
    found: dict[str, Targets] = {}
    for task in data.tasks:
        first = task == data.name and task not in net.heads and net.head.task not in data.tasks
        name = net.head.task if first else task
        if name not in net.heads:
            raise DataError(f"The network has no head for the task {name!r}{near_names(name, net.heads)}")
        found[name] = _ordered(data.targets_of(task), net.heads[name])
    return with_targets(data, found)


def _ordered(targets: Targets, head: Head) -> Targets:
    """Return targets in the order of the head's classes."""
    if targets.task != head.kind:
        raise DataError(
            f"The head {head.task!r} is of the kind {head.kind!r}; the data have targets of the kind {targets.task!r}. Give labels, or fit "
            "without them: unsupervised='pseudo' or 'entropy'."
        )
    if head.kind == "regression":
        return targets
    if head.classes is None:
        raise NetworkError(
            f"The head {head.task!r} has {counted(len(head.weight), 'output')} without names. Give classes= when the network is loaded."
        )
    return targets.with_classes(head.classes)


def aims_of(held: CodedItems, data: Dataset, *, how: str | None, codes: np.ndarray, members: Sequence[np.ndarray]) -> tuple[Aim, ...]:
    """Return the aims of the heads for the examples.
    `how`: None: the given targets; "pseudo": predictions of the first head with the codes `codes` (V, M); "entropy": entropy
    minimisation."""
    if how is None:
        aims = target_aims(data)
        known = np.any([aim.weights.numpy() > 0 for aim in aims], axis=0)
        without = [row for row, part in enumerate(members) if not known[part].any()]
        if without:
            raise DataError(
                f"{counted(len(without), 'condition', verb='have', of=len(members))} no example with a target; expected one or more of "
                "each."
            )
        return aims
    head, ones = held.network.head, torch.ones(len(data))
    if head.kind == "regression":
        raise NetworkError(f"unsupervised={how!r}: the head {head.task!r} gives numbers, not classes. Give targets.")
    if how == "entropy":
        return (Aim(head.task, head.kind, None, ones),)
    rows = np.arange(len(members))
    held.put_(codes, 1 + rows)
    order = np.concatenate(members)
    with torch.no_grad():
        parts = [scores[head.task] for _, scores in held.scores(1 + np.repeat(rows, [len(part) for part in members]), order)]
    raw = torch.cat(parts)[torch.from_numpy(np.argsort(order))].cpu()
    guessed = raw.argmax(1) if head.kind == "classification" else (raw >= 0).float()
    return (Aim(head.task, head.kind, guessed, ones),)


def target_aims(data: Dataset) -> tuple[Aim, ...]:
    """Return the aims from the targets of `data`, whose tasks are named as the heads."""
    aims = []
    for name in data.tasks:
        own = data.targets_of(name)
        values = np.where(own.values < 0, 0, own.values) if own.task == "classification" else np.nan_to_num(own.values)
        aims.append(Aim(name, own.task, torch.from_numpy(values), torch.from_numpy(own.known.astype(np.float32))))
    return tuple(aims)


def scaled(held: CodedItems, aims: Sequence[Aim], *, codes: np.ndarray, members: Sequence[np.ndarray]) -> tuple[Aim, ...]:
    """Return the aims on the device of the examples, with squared errors divided by twice their mean, per condition.
    This makes them negative log-likelihoods up to a constant, like the other losses, so that the prior has the same scale for all.
    `codes`: (V, M) codes at which the mean is taken."""
    found = []
    for aim in aims:
        weights = aim.weights.clone()
        if aim.kind == "regression":
            errors = CodeLosses(held, [_placed(aim, held)], members=members).each(codes, members)
            for part, own in zip(members, errors, strict=True):
                known = max(1, int((weights[part] > 0).sum()))
                weights[part] *= known / max(2.0 * float(own.sum()), 1e-12)
        found.append(_placed(replace(aim, weights=weights), held))
    return tuple(found)


def _placed(aim: Aim, held: CodedItems) -> Aim:
    device = held.table.device
    return replace(aim, targets=None if aim.targets is None else aim.targets.to(device), weights=aim.weights.to(device))
