"""Trainings whose settings are measured: short comparisons, the training, and then once more on all examples that do not judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor

from ...errors import DataError
from ...networks.contract import Network
from ...training import Feed, HeadFeed, Settings, Training
from ...training.loop import restore_
from ...training.measured import Measured, measured_training
from ...training.recipe import Folds, Starts, put_start_, refitted
from ..folds import folds_of
from ..job import Job, Parts
from ..starting import solve_heads_

__all__ = ["note_", "starts_of", "tuned", "usual_rate"]

FEW_TO_CHOOSE = 20
"""Validation examples below which folds take the place of one split."""
FOLDS = 3
History = list[dict[str, Any]]


ATTENTION_RATE, OTHER_RATE = 1e-4, 1e-3
"""Usual learning rates of adaptive optimizers: of trained networks with attention (Devlin et al., NAACL 2019, appendix A.3, fine-tunes at
2e-5 to 5e-5), and of all others."""


def usual_rate(network: Network, settings: Settings, *, drawn: bool = False) -> float:
    """Return the learning rate around which others are compared.

    Args:
        network: what is trained.
        settings: with the optimizer; "sgd" takes ten times the rate.
        drawn: whether the weights are freshly drawn.
    """
    attends = any("Attention" in type(module).__name__ for module in network.modules().values())
    rate = (3 * ATTENTION_RATE if drawn else ATTENTION_RATE) if attends else OTHER_RATE
    return 10 * rate if settings.optimizer == "sgd" else rate


def tuned(job: Job, feed: Feed, *, frozen: frozenset[str], stage: str, starts: Starts, usual: float) -> History:
    """Train what is not frozen with settings that are measured, then again on training and validation set, where that is asked for.

    Args:
        job: its network is changed in place; it is told what was compared, and keeps the scores of examples that were not learned from.
        feed: of the job's network.
        frozen: layers.
        stage: a word for the history.
        starts: name -> weights that the training may begin with.
        usual: learning rate in the middle of those that are compared.

    Returns:
        The history.
    """
    training = job.training(stage, feed, frozen=frozen)
    if job.repeats is not None:
        return _repeated_(job, training, starts=starts)
    with job.clock.during("train"):
        found = measured_training(training, usual=usual, starts=starts, folds=_folds_for(job), known=job.checkpoint(f"{stage}-choice"))
        rows = job.learned_from
        if found.kept_start:
            put_start_(replace(training, fit=rows if job.refits else training.fit), found.recipe, starts=starts)
        elif job.refits and job.settings.epochs != 0:
            found.refit_(rows, job.checkpoint(f"{stage}-refit"))
    note_(job, found, refitted=job.refits and not found.kept_start)
    return found.history


def _repeated_(job: Job, training: Training, *, starts: Starts) -> History:
    """Carry out a training that is known, on the examples of the job, and return its history.

    Args:
        job: with what it repeats.
        training: to be repeated.
        starts: name -> weights that the training may begin with.
    """
    known = job.repeats
    if known is None:
        raise ValueError("there is nothing to repeat")
    recipe = known.recipe if known.recipe.start in starts else replace(known.recipe, start=next(iter(starts)))
    if known.kept_start:
        put_start_(training, recipe, starts=starts)
        return []
    with job.clock.during("train"):
        return refitted(training, recipe, starts=starts, course=known.course, rows=training.fit).history


def note_(job: Job, found: Measured, *, refitted: bool) -> None:
    """Tell a job what was compared and chosen for a training.

    Args:
        job: gets notes, the settings, and the scores of examples that were not learned from.
        found: the training.
        refitted: whether it was repeated on training and validation set.
    """
    job.held_out, job.measured = found.held_out, found
    stage, plan = found.training.stage, job.plan
    given = {"strategy": plan.strategy, "frozen": plan.frozen, "block": plan.block, "base": None if plan.base == "head" else plan.base}
    own = {name: value for name, value in given.items() if value is not None} | plan.options
    job.chosen.update(own | job.chosen | found.chosen())
    by = f"by {len(found.compared)} short trainings" if found.compared else "as given, or usual where nothing was"
    job.notes.append(f"Settings of {stage!r}, {by}: {found.recipe.words()}.")
    if found.kept_start:
        job.notes.append(
            f"Nothing of the training {stage!r} was kept: the network before it has a lower validation loss than any of its epochs."
        )
    elif refitted:
        rows, epochs = len(job.learned_from), sum(found.course)
        job.notes.append(f"Then {stage!r} was trained again for {epochs} epochs on the {rows} training and validation examples together.")


def _folds_for(job: Job) -> Folds:
    """Return the folds that choose where the validation set of a `job` is too small; none where it is not, or nothing can be split."""
    fit, validation = job.parts.training, job.parts.validation
    if len(validation) >= FEW_TO_CHOOSE or not job.plan.validation or job.settings.refit is False:
        return ()
    rows, data = np.sort(np.concatenate([fit, validation])), job.items.data
    part = data.subset(rows)
    counts = part.class_counts()
    fewest = int(counts[counts > 0].min()) if data.task == "classification" and part.groups is None and len(counts) else len(rows)
    count = min(FOLDS, fewest, len(rows) if part.groups is None else len(np.unique(part.groups)))
    if count < 2:
        return ()
    try:
        return folds_of(data, rows, folds=count, holdout=0.0, seed=job.plan.seed)
    except (DataError, ValueError):
        return ()


def starts_of(job: Job, *, frozen: frozenset[str], features: Tensor | None = None) -> Starts:
    """Return what a training may begin with: the weights at hand, and the same with the heads as they came.

    The heads at hand have been solved on the training set. A training on other examples begins with heads that were solved on these.

    Args:
        job: with its heads solved.
        frozen: layers that are not trained.
        features: (N, d) what the heads read; None where the heads have not been solved.
    """
    network, fit = job.network, job.parts.training
    now = _weights(job, frozen)
    own = [head for head in network.heads.values() if head.groups is None]
    solved = {head.layer: network.rows(head.layer) for head in own}
    changed = [head for head in own if not all(map(np.array_equal, solved[head.layer], (head.weight, head.bias)))]
    if not changed or features is None:
        return {"as it is": lambda _rows: now}
    known: dict[bytes, dict[str, Tensor]] = {fit.tobytes(): now}

    def plain(_rows: np.ndarray) -> dict[str, Tensor]:
        for head in changed:
            network.set_rows_(head.layer, head.weight, bias=head.bias)
        return now | _weights(job, frozen, only=[head.layer for head in changed])

    def solved_on(rows: np.ndarray) -> dict[str, Tensor]:
        if rows.tobytes() not in known:
            start = plain(rows)
            restore_({name: network.state()[name] for name in start}, start)
            alone = replace(job, parts=Parts(rows, rows[:0], job.parts.holdout), solved={}, notes=[])
            solve_heads_(alone, HeadFeed(network, features, job.device), features=features)
            known[rows.tobytes()] = now | _weights(job, frozen, only=[head.layer for head in changed])
        return known[rows.tobytes()]

    return {"solved": solved_on, "plain": plain}


def _weights(job: Job, frozen: frozenset[str], *, only: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return copies of what training may change, or of the weights of some layers."""
    named = ((name, name.rpartition(".")[0], tensor) for name, tensor in job.network.state().items())
    wanted = (one for one in named if (frozen.isdisjoint(one[:2]) if only is None else one[1] in only))
    return {name: tensor.detach().clone() for name, _, tensor in wanted}
