"""Trainings whose settings are measured: short comparisons, the training, and then once more on all examples that do not judge."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from ...data import Dataset
from ...errors import DataError
from ...networks.contract import Network
from ...training import Feed, HeadFeed, Settings, Training
from ...training.courses import most_epochs
from ...training.loop import restore_
from ...training.recipe import Folds, Measured, Starts, measured_training, put_start_, refitted
from ..passes import training_of
from ..setup import Log, Outcome, Parts, Setup
from ..starting import solve_heads_

__all__ = ["FOLDS", "Fold", "folds_for", "folds_of", "refit_", "split_of", "starts_of", "tuned", "usual_rate", "weights_of"]

FEW_TO_CHOOSE = 20
"""Validation examples below which folds take the place of one split."""
FOLDS = 3
FEWEST_STEPS = 200
"""Steps below which a training is too short to learn class weights from zeros, and to be compared with others."""
History = list[dict[str, Any]]


ATTENTION_RATE, OTHER_RATE = 1e-4, 1e-3
"""Usual learning rates of adaptive optimizers: of trained networks with attention (Devlin et al., NAACL 2019, appendix A.3, fine-tunes at
2e-5 to 5e-5), and of all others."""

Fold = tuple[np.ndarray, np.ndarray]
"""Indices of the items to learn from, and of those that try the plan."""


def folds_of(data: Dataset, rest: np.ndarray, *, folds: int | None, holdout: float, seed: int) -> list[Fold]:
    """Return how the items that do not judge are split.

    `folds`: how many, or None for one split; `holdout`: share of the part that tries, where `folds` is None.
    """
    part = data.subset(rest)
    if folds is None:
        learn, judge = part.split_indices(holdout, seed=seed + 2)
        return [(rest[learn], rest[judge])]
    stratified, grouped = data.task == "classification", part.groups is not None
    if part.groups is not None and len(np.unique(part.groups)) < folds:
        count = len(np.unique(part.groups))
        raise DataError(f"folds={folds}: {count} groups are left to search with; expected one a fold or more. Ask for fewer folds.")
    counts = part.class_counts()
    if stratified and not grouped and counts[counts > 0].min() < folds:
        name, few = data.classes[int(np.where(counts > 0, counts, counts.max()).argmin())], int(counts[counts > 0].min())
        raise DataError(f"folds={folds}: {few} examples of the class {name!r} are left to search with; expected one a fold or more.")
    kind = {(True, True): StratifiedGroupKFold, (True, False): StratifiedKFold, (False, True): GroupKFold, (False, False): KFold}
    splitter = kind[stratified, grouped](folds, shuffle=True, random_state=seed)
    parts = splitter.split(rest, part.targets if stratified else None, part.groups)
    return [(rest[np.sort(learn)], rest[np.sort(judge)]) for learn, judge in parts]


def usual_rate(network: Network, settings: Settings, *, drawn: bool = False) -> float:
    """Return the learning rate around which others are compared."""
    attends = any("Attention" in type(module).__name__ for module in network.modules().values())
    rate = (3 * ATTENTION_RATE if drawn else ATTENTION_RATE) if attends else OTHER_RATE
    return 10 * rate if settings.optimizer == "sgd" else rate


def tuned(  # over the limit: what is trained, from where
    setup: Setup, log: Log, *, feed: Feed, frozen: frozenset[str], stage: str, starts: Starts, drawn: bool = False
) -> Outcome:
    """Train what is not frozen with settings that are measured, then again on training and validation set, where that is asked for.

    The setup's network is changed in place. `starts` are the weights by name that the training may begin with; `drawn` tells that they are
    freshly drawn, which takes a higher rate.
    """
    training = training_of(setup, log, stage=stage, feed=feed, frozen=frozen)
    if setup.repeats is not None:
        history = _repeated_(log, setup.repeats, training=training, starts=starts)
        return Outcome(setup.network, feed, frozen, history, measured=setup.repeats)
    usual = usual_rate(setup.network, setup.settings, drawn=drawn)
    with log.clock.during("train"):
        how: dict[str, Any] = {"known": setup.checkpoint(f"{stage}-choice"), "during": log.clock.during}
        found = measured_training(training, usual=usual, starts=starts, folds=folds_for(setup), **how)
        refit_(setup, log, found=found)
    return Outcome(setup.network, feed, frozen, found.history, measured=found)


def refit_(setup: Setup, log: Log, *, found: Measured) -> None:
    """Repeat a training on training and validation set, where that is asked for; leave its start in the network, where that was better."""
    training, rows, refits = found.training, setup.parts.learned_from, setup.refits and setup.settings.epochs != 0
    if found.kept_start:
        put_start_(replace(training, fit=rows if setup.refits else training.fit), found.recipe, starts=found.starts)
    elif refits:
        found.refit_(rows, setup.checkpoint(f"{training.stage}-refit"))
    _note_(log, found, refitted_on=len(rows) if refits and not found.kept_start else None)


def _repeated_(log: Log, known: Measured, *, training: Training, starts: Starts) -> History:
    """Carry out a training whose settings and length are `known`, on other examples, and return its history.

    `starts`: name -> weights that it may begin with.
    """
    recipe = known.recipe if known.recipe.start in starts else replace(known.recipe, start=next(iter(starts)))
    if known.kept_start:
        put_start_(training, recipe, starts=starts)
        return []
    with log.clock.during("train"):
        return refitted(training, recipe, starts=starts, course=known.course, rows=training.fit).history


def _note_(log: Log, found: Measured, *, refitted_on: int | None) -> None:
    """Take down what was compared and chosen for a training.

    `refitted_on`: how many examples of training and validation set it was repeated on; None: it was not.
    """
    stage = found.training.stage
    by = f"by {len(found.compared)} short trainings" if found.compared else "as given, or usual where nothing was"
    log.notes.append(f"Settings of {stage!r}, {by}: {found.recipe.words()}.")
    if found.kept_start:
        log.notes.append(
            f"Nothing of the training {stage!r} was kept: the network before it has a lower validation loss than any of its epochs."
        )
    elif refitted_on is not None:
        log.notes.append(
            f"Then {stage!r} was trained again for {sum(found.course)} epochs on the {refitted_on} training and validation examples "
            "together."
        )


def folds_for(setup: Setup) -> Folds:
    """Return the folds that choose where the validation set of a `setup` is too small; none where it is not, or nothing can be split."""
    if len(setup.parts.validation) >= FEW_TO_CHOOSE or not setup.plan.validation or setup.settings.refit is False:
        return ()
    return split_of(setup, setup.parts.learned_from)


def split_of(setup: Setup, rows: np.ndarray) -> Folds:
    """Return examples `rows` of a `setup` in folds; none where they cannot be split."""
    data = setup.items.data
    part = data.subset(rows)
    counts = part.class_counts()
    fewest = int(counts[counts > 0].min()) if data.task == "classification" and part.groups is None and len(counts) else len(rows)
    count = min(FOLDS, fewest, len(rows) if part.groups is None else len(np.unique(part.groups)))
    if count < 2:
        return ()
    try:
        return folds_of(data, rows, folds=count, holdout=0.0, seed=setup.plan.seed)
    except (DataError, ValueError):
        return ()


def starts_of(setup: Setup, *, frozen: frozenset[str], features: Tensor | None = None) -> Starts:
    """Return what a training may begin with: the weights at hand; or, of heads that were solved, these or the heads as they came.

    Classes begin as they came: class weights kept by name, zeros for new classes. From solved ones the loss is low at once, and what is
    below the head hardly moves away from features that were learned for other classes. Numbers, whose scale has to be learned,
    may begin with either. Solved are the heads of trainings of few steps, and those that the plan asks for (`start`, `probe`).

    `features`: (N, d) what the heads read; None where the heads have not been solved.
    """
    network, fit = setup.network, setup.parts.training
    now = weights_of(network, frozen)
    own = [head for head in network.heads.values() if head.groups is None]
    solved = {head.layer: network.rows(head.layer) for head in own}
    changed = [head for head in own if not all(map(np.array_equal, solved[head.layer], (head.weight, head.bias)))]
    if not changed or features is None:
        return {"as it is": lambda _rows: now}
    known: dict[bytes, dict[str, Tensor]] = {fit.tobytes(): now}
    layers = [layer for head in changed for layer in network.layers_of(head.task)]

    def plain(_rows: np.ndarray) -> dict[str, Tensor]:
        for head in changed:
            network.set_rows_(head.layer, head.weight, bias=head.bias)
        return now | weights_of(network, frozen, only=layers)

    def solved_on(rows: np.ndarray) -> dict[str, Tensor]:
        if rows.tobytes() not in known:
            start = plain(rows)
            restore_(network.state(), start)
            alone = replace(setup, parts=Parts(rows, rows[:0], setup.parts.holdout))
            solve_heads_(alone, Log(), feed=HeadFeed(network, features, setup.device), features=features)
            known[rows.tobytes()] = now | weights_of(network, frozen, only=layers)
        return known[rows.tobytes()]

    steps = most_epochs(setup.settings, len(fit)) * -(-len(fit) // setup.settings.batch_size)
    if (setup.plan.start, setup.plan.probe) != ("auto", "auto") or steps < FEWEST_STEPS:
        return {"solved": solved_on}
    return {"solved": solved_on, "plain": plain} if any(head.kind == "regression" for head in own) else {"plain": plain}


def weights_of(network: Network, frozen: frozenset[str], *, only: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return copies of what training may change of a `network`, moving averages among it, or of the weights of some layers."""
    named = ((name, name.rpartition(".")[0], tensor) for name, tensor in network.state().items())
    wanted = (one for one in named if (frozen.isdisjoint(one[:2]) if only is None else one[1] in only))
    return {name: tensor.detach().clone() for name, _, tensor in wanted}
