"""What the strategy "head" does where nothing in it needs an epoch loop: heads by a convex solver, on what they read."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...probes import LinearProbe, fit_logistic, fit_ridge, fit_temperature
from ...probes.common import spread_out
from ...training import Feed, HeadFeed
from ..job import Carried, Job, Solved
from ..plan import THROUGH_LAYERS
from ..starting import solve_only_, start_from_
from .probing import with_rows
from .solving import WORDS, drawn, logistic_loss, solved_by, through_layer

__all__ = ["loop_reason", "solved_heads"]

FOLDED = 2000
"""Examples up to which folds of all of them judge the penalties; beyond, the validation set does."""
MOST_NUMBERS = 2**28
"""Numbers that the solver holds at most, 1 GiB; beyond, the loop runs."""


def loop_reason(job: Job) -> str:
    """Return what in a `job` needs an epoch loop over its heads, such as "dropout=0.2"; nothing where they can be solved."""
    changed = list(job.plan.of_the_loop())
    changed += ["a network that draws at random"] if job.network.draws else []
    changed += ["a further loss"] if job.terms or job.share != 1.0 else []
    wide = len(job.items) * job.network.head.features
    changed += [f"{len(job.items):,} examples of {job.network.head.features:,} features"] if wide > MOST_NUMBERS else []
    return ", ".join(changed)


def solved_heads(job: Job, feed: Feed, *, frozen: frozenset[str], features: Tensor) -> Carried | None:
    """Solve the heads on what they read, with the penalty that held-out examples choose, on all examples that do not judge.

    Classes by multinomial logistic regression, labels by one logistic regression each, numbers by ridge regression with its exact
    leave-one-out error; or by the probe that the plan asks for. Where rows were carried over, the penalty is also tried on the distance
    from these, and they may stay as they are; what has the lowest held-out loss is taken.

    Args:
        job: its heads are changed in place.
        feed: whose scores the heads make.
        frozen: the layers below the heads.
        features: (N, d) what the heads read.

    Returns:
        How to judge the network, with one entry of the history for each penalty that was tried; None where a head is no plain linear
        layer, and the loop has to do.
    """
    if job.plan.probe in THROUGH_LAYERS:
        return _through_layer(job, frozen=frozen, features=features)
    solve_only_(job, features)
    rows_before = {task: job.network.rows(job.network.heads[task].layer) for task in job.tasks.values()}
    solved, history = dict[str, Solved](), list[dict[str, Any]]()
    for name, task in job.open_tasks.items():
        began = time.perf_counter()
        with job.clock.during("train"):
            found = _solved(job, name, features=features)
        if found is None or not start_from_(job, task, solved=Solved(found.probe, found.rows), feed=feed, features=features):
            for layer_task, (weight, bias) in rows_before.items():
                job.network.set_rows_(job.network.heads[layer_task].layer, weight, bias=bias)
            return None
        solved[name] = Solved(found.probe, found.rows)
        history += found.entries(len(history), seconds=time.perf_counter() - began)
        job.notes.append(found.words(name, several=len(job.tasks) > 1))
    return Carried(feed, history, features=features, frozen=frozen, solved=solved)


@dataclass(frozen=True, eq=False)
class _Found:
    """A head of one task.

    Attributes:
        probe: the rows; its held-out scores are of `rows`.
        rows: (n,) the examples that judged it.
        fitted: how many it was fitted to.
        method: in words.
    """

    probe: LinearProbe
    rows: np.ndarray
    fitted: int
    method: str

    def entries(self, before: int, *, seconds: float) -> list[dict[str, Any]]:
        """Return an entry of the history for each penalty; `before` are there already."""
        each = round(seconds / max(len(self.probe.path), 1), 3)
        return [
            {"stage": "head", "epoch": before + number, "penalty": penalty, "validation_loss": loss, "seconds": each}
            for number, (penalty, loss) in enumerate(self.probe.path, start=1)
        ]

    def words(self, name: str, *, several: bool) -> str:
        """Return a sentence for the report."""
        head = f"The head of {name!r}" if several else "The head"
        if self.method == _KEPT:
            return f"{head} keeps its rows: nothing that was solved has a lower loss on the {len(self.rows):,} examples that judged it."
        by = {"leave-one-out": "leaving each example out", "leave-group-out": "leaving each group out", "validation set": "validation set"}
        judged = by.get(self.probe.held_out, self.probe.held_out)
        tried = f"the penalty {self.probe.penalty:.3g} of {len(self.probe.path)} by {judged}, " if self.probe.path else ""
        return f"{head} was solved by {self.method}: {tried}then fitted to {self.fitted:,} examples."


_KEPT = "the rows that were carried over"


def _solved(job: Job, name: str, *, features: Tensor) -> _Found | None:
    """Return the head of one task; None where there is too little to solve it."""
    data, rows = job.data_of(name), job.known(name, np.sort(np.concatenate([job.parts.training, job.parts.validation])))
    few = len(rows) < 3 or (data.task == "classification" and len(np.unique(data.targets[rows])) < 2)
    if few or job.network.heads[job.tasks[name]].groups is not None:
        return None
    table = features[rows].numpy()
    if job.plan.probe not in ("auto", "logistic") and data.task != "regression":
        scale, method = spread_out(table, standardise=True)[1], WORDS[job.plan.probe]
        return _Found(solved_by(job, name, rows=rows, features=table, scale=scale, method=method), rows, len(rows), method)
    if data.task == "regression":
        return _numbers(job, name, rows=rows, table=table)
    judges = None if len(rows) <= FOLDED or not len(job.parts.validation) else np.flatnonzero(np.isin(rows, job.parts.validation))
    judges = None if judges is None or not len(judges) else judges
    judged = rows if judges is None else rows[judges]
    every = [_logistic(job, name, rows=rows, table=table, judges=judges, base=base) for base in _bases(job, name)]
    found = [_Found(probe, judged, len(rows), WORDS["logistic"]) for probe in every]
    found += _kept(job, name, rows=judged, features=features)
    return min(found, key=lambda one: _loss(job, name, found=one))


def _bases(job: Job, name: str) -> list[tuple[np.ndarray, np.ndarray] | None]:
    """Return what the penalty may pull to: nothing, and the rows of the present head where some were carried over."""
    task = job.tasks[name]
    weight, bias = job.network.rows(job.network.heads[task].layer)
    carried = np.setdiff1d(np.arange(len(weight)), job.new_rows.get(task, np.zeros(0, np.int64)))
    return [None, (weight.astype(np.float64), bias.astype(np.float64))] if len(carried) and weight[carried].any() else [None]


def _logistic(  # over the limit: what a head is solved from
    job: Job, name: str, *, rows: np.ndarray, table: np.ndarray, judges: np.ndarray | None, base: tuple[np.ndarray, np.ndarray] | None
) -> LinearProbe:
    data, groups = job.data_of(name), job.data_of(name).groups
    grouped = judges is None and groups is not None and len(np.unique(groups[rows])) > 1
    loss = logistic_loss(job, name)
    if base is not None:
        loss = replace(loss, offset=table @ base[0].T + base[1])
    own = groups[rows] if grouped and groups is not None else None
    probe = fit_logistic(table, data.targets[rows], classes=len(data.classes), groups=own, loss=loss, judges=judges)
    if base is None:
        return probe
    factor = probe.temperature
    return replace(probe, weight=probe.weight + factor * base[0], bias=probe.bias + factor * base[1])


def _kept(job: Job, name: str, *, rows: np.ndarray, features: Tensor) -> list[_Found]:
    """Return the present head as it is, but for its temperature, where all its rows were carried over."""
    task, data = job.tasks[name], job.data_of(name)
    if len(job.new_rows.get(task, np.zeros(1))):
        return []
    weight, bias = (part.astype(np.float64) for part in job.network.rows(job.network.heads[task].layer))
    scores = features[rows].numpy() @ weight.T + bias
    truth = np.eye(len(bias))[data.targets[rows]] if data.task == "classification" else data.targets[rows]
    factor = fit_temperature(scores, truth, kind=data.task)
    return [_Found(LinearProbe(factor * weight, factor * bias, 0.0, factor * scores, factor), rows, 0, _KEPT)]


def _loss(job: Job, name: str, *, found: _Found) -> float:
    part = next(part for part in job.objective().parts if part.task == job.tasks[name])
    return float(part.loss(torch.from_numpy(found.probe.loo_scores).float(), part.targets[found.rows]))


def _numbers(job: Job, name: str, *, rows: np.ndarray, table: np.ndarray) -> _Found:
    """Return ridge regression, with each feature standardised or as it is: what leaves the lower error on examples left out."""
    data, groups = job.data_of(name), job.data_of(name).groups
    groups = None if groups is None or len(np.unique(groups[rows])) < 2 else groups[rows]
    every = [fit_ridge(table, data.targets[rows], kind="regression", groups=groups, standardise=each) for each in (True, False)]
    probe = min(every, key=lambda one: min(loss for _, loss in one.path))
    return _Found(probe, rows, len(rows), "ridge regression")


def _through_layer(job: Job, *, frozen: frozenset[str], features: Tensor) -> Carried:
    """Put a layer that nothing trains before the head, and solve the head on what it gives."""
    (name, task), *_ = job.tasks.items()
    rows = job.known(name, np.sort(np.concatenate([job.parts.training, job.parts.validation])))
    rows, method = drawn(rows, features.shape[1], seed=job.plan.seed), WORDS[job.plan.probe]
    solve_only_(job, features)
    with job.clock.during("train"):
        made = through_layer(job, name, rows=rows, features=features[rows].numpy(), method=method)
        layer, probe = made.layer, made.head
        hidden = torch.from_numpy(layer.apply(features.numpy()))
    lost = [other for other in job.network.heads if other != task]
    if lost:
        job.notes.append(f"The heads {', '.join(map(repr, lost))} read other features than the new layer gives, and were left out.")
    account, preprocessing = job.network.account, job.network.preprocessing
    job.network = with_rows(job.network, job.network.heads[task], probe=probe, layer=layer)
    job.network.account, job.network.preprocessing = account, preprocessing
    job.network.module.to(job.device)
    job.notes.append(f"The head is {method}: it reads {len(layer.bias):,} features that a further layer makes of {features.shape[1]:,}.")
    feed, test_feed = HeadFeed(job.network, hidden, job.device), None
    if job.test is not None and job.judging_features is not None:
        test_feed = HeadFeed(job.network, torch.from_numpy(layer.apply(job.judging_features.numpy())), job.device)
    return Carried(feed, [], features, job.frozen_for_head(), hidden, test_feed, {name: Solved(probe, rows)})
