"""How the rows of the heads start, solved in closed form on features, before anything is trained."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..heads.starts import Rows, aligned_rows, imprinted_rows
from ..probes import LinearProbe, fit_ridge
from ..probes.common import spread_out
from ..training import Feed, TaskObjective, all_logits
from .choosing.solving import WORDS, solved_by
from .job import Job, Solved

__all__ = ["solve_heads_", "solve_only_", "start_from_"]

LARGEST_SOLVED = 5000
"""Items or features, whichever are fewer, up to which the closed-form probe takes seconds."""
MOST_SOLVED = 20_000
"""Items that the closed-form probe is fitted to at most: more would cost memory and change little."""


def solve_heads_(job: Job, feed: Feed, *, features: Tensor, scored: Feed | None = None) -> None:
    """Solve the closed-form probe of each task, and let the rows start as the plan says.

    With start="auto" the probe's rows are taken where its leave-one-out loss is lower than the loss of the present rows (some may have
    been carried over by name); neither has seen the items that it is judged by. With "probe" and "imprint" the new rows are filled in.

    Args:
        job: its heads are changed in place.
        feed: whose scores the heads make.
        features: (N, d) what the heads read.
        scored: a cheaper feed that gives the same scores, for those of the present rows.
    """
    fit, asked = job.parts.training, job.plan.start
    if job.settings.epochs == 0 and asked not in ("probe", "imprint"):
        return
    fit = _drawn(job, fit)
    before = all_logits(job.network, scored or feed, indices=fit) if asked == "auto" else {}
    for name, part in zip(job.tasks, job.objective().parts, strict=True):
        known = part.known(fit).numpy()
        if name not in job.open_tasks:
            _solved(job, name, rows=fit[known], features=features)
            continue
        solved = _start_of(job, name, solved=_solved(job, name, rows=fit[known], features=features), features=features)
        if asked == "auto" and solved is not None and _is_better(solved.probe, part, rows=solved.rows, before=before[part.task][known]):
            start_from_(job, part.task, solved=solved, feed=feed, features=features)
        elif asked in ("probe", "imprint"):
            _fill_(job, name, solved=solved, rows=fit[known], features=features)


def solve_only_(job: Job, features: Tensor) -> None:
    """Solve the closed-form probe of each task, as a yardstick; the heads stay as they are.

    Args:
        job: keeps the probes.
        features: (N, d) what the source network's heads read.
    """
    fit = _drawn(job, job.parts.training)
    for name, part in zip(job.tasks, job.objective().parts, strict=True):
        _solved(job, name, rows=fit[part.known(fit).numpy()], features=features)


def _drawn(job: Job, fit: np.ndarray) -> np.ndarray:
    return fit if len(fit) <= MOST_SOLVED else np.sort(np.random.default_rng(job.plan.seed).choice(fit, MOST_SOLVED, replace=False))


def _solved(job: Job, name: str, *, rows: np.ndarray, features: Tensor) -> Solved | None:
    if len(rows) < 3 or min(len(rows), features.shape[1]) > LARGEST_SOLVED:
        return None
    data = job.data_of(name)
    probe = fit_ridge(features[rows].numpy(), data.targets[rows], kind=data.task, classes=len(data.classes))
    job.solved[name] = Solved(probe.softened(data.targets[rows], kind=data.task), rows)
    return job.solved[name]


def _start_of(job: Job, name: str, *, solved: Solved | None, features: Tensor) -> Solved | None:
    """Return what a head starts from: the probe that the plan asks for, less sure as every start, or else the one that was solved."""
    if solved is None or job.plan.probe in ("auto", "ridge"):
        return solved
    rows, data = solved.rows, job.data_of(name)
    table = features[rows].numpy()
    probe = solved_by(job, name, rows=rows, features=table, scale=spread_out(table, standardise=True)[1], method=WORDS[job.plan.probe])
    return Solved(probe.softened(data.targets[rows], kind=data.task), rows)


def _is_better(probe: LinearProbe, part: TaskObjective, *, rows: np.ndarray, before: np.ndarray) -> bool:
    targets, after = part.targets[rows], torch.from_numpy(probe.loo_scores).float()
    return bool(part.loss(after, targets) < part.loss(torch.from_numpy(before), targets))


def start_from_(job: Job, task: str, *, solved: Solved, feed: Feed, features: Tensor) -> bool:
    """Put the probe's rows into a head, if the network then gives the probe's scores; else leave the head as it was.

    Where a ReLU follows the head (SqueezeNet), a shift of all classes by the same amount keeps it open: a softmax does not see it.

    Args:
        job: its network is changed in place.
        task: of the network.
        solved: the probe.
        feed: whose scores the head makes.
        features: (N, d) what the head reads.

    Returns:
        Whether the head has the probe's rows.
    """
    network, head, probe, few = job.network, job.network.heads[task], solved.probe, solved.rows[:64]
    rows = network.rows(head.layer)
    expected = features[few].numpy() @ probe.weight.T + probe.bias
    scale = float(np.abs(expected).max()) + 1e-6
    for shift in (0.0, 2 * scale, 8 * scale, 32 * scale) if head.kind == "classification" else (0.0,):
        if not network.set_rows_(head.layer, probe.weight, bias=probe.bias + shift):
            return False
        real = all_logits(network, feed, indices=few)[task] - shift
        if np.allclose(real, expected, rtol=1e-2, atol=1e-2 * scale):
            return True
    network.set_rows_(head.layer, rows[0], bias=rows[1])
    return False


def _fill_(job: Job, name: str, *, solved: Solved | None, rows: np.ndarray, features: Tensor) -> None:
    """Fill in the new rows of a head from the probe, or from the mean directions of their classes."""
    task = job.tasks[name]
    head, new = job.network.heads[task], job.new_rows[task]
    kept = np.setdiff1d(np.arange(len(head.weight)), new)
    carried = (head.weight[kept], head.bias[kept])
    made = _imprinted(job, name, rows=rows, features=features, kept=carried) if job.plan.start == "imprint" else None
    if job.plan.start == "probe" and solved is not None:
        made = aligned_rows(solved.probe.weight[new], solved.probe.bias[new], kept=carried)
    weight, bias = head.weight.copy(), head.bias.copy()
    if made is not None:
        weight[new], bias[new] = made
    if len(new) and (made is None or not job.network.set_rows_(head.layer, weight, bias=bias)):
        why = "the head has no place for them" if made is not None else f"{len(rows)} items with {features.shape[1]} features"
        job.notes.append(f"New rows of {name!r} start at zero, not as {job.plan.start!r}: {why}.")


def _imprinted(job: Job, name: str, *, rows: np.ndarray, features: Tensor, kept: Rows) -> Rows:
    targets, new = job.data_of(name).targets[rows], job.new_rows[job.tasks[name]]
    inside = np.isin(targets, new)
    return imprinted_rows(features[rows[inside]].numpy(), np.searchsorted(new, targets[inside]), count=len(new), kept=kept)
