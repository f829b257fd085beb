"""Trainings with measured settings: short comparisons, the training, then a refit on training and validation set."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold, StratifiedKFold
from torch import Tensor

from ...data import Dataset
from ...errors import DataError
from ...networks.network import Network
from ...training import Feed, HeadFeed, Settings, Training
from ...training.checkpoints import Store
from ...training.courses import monitored_by, most_epochs
from ...training.loop import TrainingState, all_logits, restore_, trained
from ...training.recipe import (
    ChosenRecipe,
    Comparison,
    Folds,
    MeasuredTraining,
    Recipe,
    ShortTraining,
    Starts,
    found_recipe,
    put_start_,
    with_recipe,
)
from ...words import counted
from ..passes import training_of
from ..setup import Log, Outcome, Parts, Setup
from ..starting import solve_heads_

FEW_TO_CHOOSE = 20  # Size of the validation set below which folds replace it
FOLDS = 3
FEWEST_STEPS = 200  # Number of steps below which a training is too short to learn class weights from zeros
History = list[dict[str, Any]]


ATTENTION_RATE, OTHER_RATE = 1e-4, 1e-3
"""Usual learning rates of adaptive optimizers for trained networks with attention, and for all others.

Devlin et al. (NAACL 2019, appendix A.3) fine-tune networks with attention at 2e-5 to 5e-5."""

Fold = tuple[np.ndarray, np.ndarray]  # Indices of the examples to learn from, and of the held-out ones


def folds_of(data: Dataset, rest: np.ndarray, *, folds: int | None, holdout: float, seed: int) -> list[Fold]:
    """Return splits of the examples `rest` into examples to learn from and held-out examples.
    `folds` is their number, or None for one split with the share `holdout` held out."""
    part = data.subset(rest)
    if folds is None:
        learn, judge = part.split_indices(holdout, seed=seed + 2)
        return [(rest[learn], rest[judge])]
    stratified, grouped = data.task == "classification", part.groups is not None
    if part.groups is not None and len(np.unique(part.groups)) < folds:
        count = len(np.unique(part.groups))
        raise DataError(
            f"folds={folds}: {counted(count, 'group', verb='are')} left to search with; expected one a fold or more. Ask for fewer folds."
        )
    counts = part.class_counts()
    if stratified and not grouped and counts[counts > 0].min() < folds:
        name, few = data.classes[int(np.where(counts > 0, counts, counts.max()).argmin())], int(counts[counts > 0].min())
        raise DataError(
            f"folds={folds}: {counted(few, 'example', verb='are')} left of the class {name!r} to search with; expected one a fold or more."
        )
    kind = {(True, True): StratifiedGroupKFold, (True, False): StratifiedKFold, (False, True): GroupKFold, (False, False): KFold}
    splitter = kind[stratified, grouped](folds, shuffle=True, random_state=seed)
    parts = splitter.split(rest, part.targets if stratified else None, part.groups)
    return [(rest[np.sort(learn)], rest[np.sort(judge)]) for learn, judge in parts]


def usual_rate(network: Network, settings: Settings, *, drawn: bool = False) -> float:
    """Return the learning rate around which others are compared; `drawn` is for newly initialised networks."""
    attends = any("Attention" in type(module).__name__ for module in network.modules().values())
    rate = (3 * ATTENTION_RATE if drawn else ATTENTION_RATE) if attends else OTHER_RATE
    return 10 * rate if settings.optimizer == "sgd" else rate


def tuned(  # over the limit: what is trained, from where
    setup: Setup, log: Log, *, feed: Feed, frozen: frozenset[str], stage: str, starts: Starts, drawn: bool = False
) -> Outcome:
    """Train what is not frozen in place with measured settings, then refit on training and validation set if the setup says so.
    `starts` maps names to start weights. `drawn` means that they are newly initialised, which takes a higher rate."""
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


def measured_training(  # over the limit: what is measured, on what, and what is known of it
    training: Training,
    *,
    usual: float,
    starts: Starts,
    folds: Folds = (),
    known: Store | None = None,
    first: ShortTraining | None = None,
    during: Callable[[str], AbstractContextManager[None]] | None = None,
) -> MeasuredTraining:
    """Choose the recipe of a training and run the training.
    `starts`: name -> initial weights; the first is the default. `folds`: (training set, validation set) pairs that replace those of the
    training. With folds, the network is left with the weights of the last fold and must be refitted on all examples. `known`: store of the
    choice, which a resumed run reads. `during`: context manager around the comparison."""
    kept = known.read() if known is not None else None
    if kept is None:
        with during("compare") if during else nullcontext():
            chosen = found_recipe(training, usual=usual, starts=starts, folds=folds, first=first)
        if known is not None:
            told = json.dumps([one.to_dict() for one in chosen.compared])
            known.write({"recipe": json.dumps(vars(chosen.recipe)), "compared": told, "tried": chosen.tried})
    else:
        compared = [Comparison.from_dict(one) for one in json.loads(kept["compared"])]
        chosen = ChosenRecipe(Recipe(**json.loads(kept["recipe"])), compared, kept["tried"], [None] * max(len(folds), 1))
    found = MeasuredTraining(training, starts, chosen.recipe, chosen.compared, [_entry(training, one) for one in chosen.compared])
    if folds:
        _train_folds_(found, folds, chosen=chosen)
    else:
        state = _trained_by(training, chosen, starts=starts)
        found.history += state.history
        found.course, found.kept_start = _course_of(state), state.kept_start
        if len(training.validation):
            found.held_out = all_logits(training.network, training.feed, indices=training.validation), training.validation
    return found


def _trained_by(training: Training, chosen: ChosenRecipe, *, starts: Starts, part: int = 0) -> TrainingState:
    """Train with the chosen recipe until the validation loss stops falling. Leave the best weights in the network; return the final state.
    If the winning short training used the same examples, it is continued. A run that was interrupted in between repeats it, with the same
    result. `part`: number of the fold."""
    start = starts[chosen.recipe.start](training.fit)
    restore_(training.network.state(), start)
    return trained(replace(with_recipe(training, chosen.recipe), begun=chosen.begun[part], tried=chosen.tried, start=start))


def _course_of(state: TrainingState) -> tuple[int, int]:
    """Return the numbers of steady and of falling epochs that led to the best weights of a finished training."""
    if state.course.falls:
        return state.course.turned, state.course.epochs
    return state.best_epoch, 0


def _entry(training: Training, one: Comparison) -> dict[str, Any]:
    """Return the history entry of a short training."""
    plain, (name, sign) = one.to_dict(), monitored_by(training.settings.monitor, training.settings.mode)
    figure = {name or "validation_loss": sign * plain.pop("loss")}
    return {"stage": training.stage, "phase": "search", "epoch": plain.pop("epochs"), **figure, **plain}


def _train_folds_(found: MeasuredTraining, folds: Folds, *, chosen: ChosenRecipe) -> None:
    """Train on each fold. Keep the longest course and the held-out logits of all folds."""
    training, courses, scores, kept = found.training, [], [], []
    for number, (fit, validation) in enumerate(folds, start=1):
        one = replace(training, fit=fit, validation=validation, checkpoint=None, phase=f"fold {number}")
        state = _trained_by(one, chosen, starts=found.starts, part=number - 1)
        found.history += state.history
        courses.append(_course_of(state))
        kept.append(state.kept_start)
        scores.append(all_logits(training.network, training.feed, indices=validation))
    found.course = max(courses)  # on few examples a fold can peak early by chance, and training too long costs less than too short
    found.kept_start = sum(kept) > len(kept) / 2
    rows = np.concatenate([validation for _, validation in folds])
    found.held_out = {task: np.concatenate([part[task] for part in scores]) for task in scores[0]}, rows


def refit_(setup: Setup, log: Log, *, found: MeasuredTraining) -> None:
    """Refit on training and validation set if the setup says so; if the start was better, put the start weights back instead."""
    training, rows, refits = found.training, setup.parts.learned_from, setup.refits and setup.settings.epochs != 0
    if found.kept_start:
        put_start_(replace(training, fit=rows if setup.refits else training.fit), found.recipe, starts=found.starts)
    elif refits:
        again = replace(training, checkpoint=setup.checkpoint(f"{training.stage}-refit"))
        found.history += refitted(again, found.recipe, starts=found.starts, course=found.course, rows=rows).history
    _note_(log, found, refitted_on=len(rows) if refits and not found.kept_start else None)


def refitted(training: Training, recipe: Recipe, *, starts: Starts, course: tuple[int, int], rows: np.ndarray) -> TrainingState:
    """Train with a recipe on the examples `rows` (n,), without a validation set, for a known number of epochs; return the final state."""
    settings = replace(training.settings, patience=None)
    again = replace(training, fit=rows, validation=rows[:0], settings=settings, course=course, phase="refit", keep_start=False)
    put_start_(again, recipe, starts=starts)
    return trained(with_recipe(again, recipe))


def _repeated_(log: Log, known: MeasuredTraining, *, training: Training, starts: Starts) -> History:
    """Repeat a training with `known` settings and length on other examples, and return its history.
    `starts` maps names to start weights."""
    recipe = known.recipe if known.recipe.start in starts else replace(known.recipe, start=next(iter(starts)))
    if known.kept_start:
        put_start_(training, recipe, starts=starts)
        return []
    with log.clock.during("train"):
        return refitted(training, recipe, starts=starts, course=known.course, rows=training.fit).history


def _note_(log: Log, found: MeasuredTraining, *, refitted_on: int | None) -> None:
    """Note what was compared and chosen for a training; `refitted_on` is the number of examples of the refit, None without one."""
    stage = found.training.stage
    by = f"chosen by {counted(len(found.compared), 'short training')}" if found.compared else "given, or the default"
    log.notes.append(f"Settings of {stage!r} ({by}): {found.recipe.words()}.")
    if found.kept_start:
        log.notes.append(
            f"Nothing of the training {stage!r} was kept: the network before it has a lower validation loss than any of its epochs."
        )
    elif refitted_on is not None:
        log.notes.append(
            f"Then {stage!r} was trained again for {counted(sum(found.course), 'epoch')} on the {refitted_on} training and validation "
            "examples together."
        )


def folds_for(setup: Setup) -> Folds:
    """Return folds that replace a small validation set of a `setup`; none if it is large enough or the data cannot be split."""
    if len(setup.parts.validation) >= FEW_TO_CHOOSE or not setup.plan.validation or setup.settings.refit is False:
        return ()
    return split_of(setup, setup.parts.learned_from)


def split_of(setup: Setup, rows: np.ndarray) -> Folds:
    """Return the examples `rows` of a `setup` in folds; none if they cannot be split."""
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
    """Return the start weights of a training by name: the present weights or, if heads were solved, these heads or the ones before.
    By default, classification starts from the heads before solving: class weights carried over by name, zeros for new classes. From a
    solved head the loss is low at once, and the layers below hardly move away from features of other classes. Regression has to learn its
    scale and may start from either. Solved heads are used for trainings with few steps, and if the plan names a `probe` or start="probe";
    another `start` of the plan is the name of its own weights.
    `features` (N, d) are the inputs of the heads; None if the heads were not solved."""
    network, fit = setup.network, setup.parts.training
    now = weights_of(network, frozen)
    own = [head for head in network.heads.values() if head.groups is None]
    solved = {head.layer: network.rows(head.layer) for head in own}
    changed = [head for head in own if not all(map(np.array_equal, solved[head.layer], (head.weight, head.bias)))]
    if not changed or features is None:
        return {"as it is": lambda _rows: now}
    known: dict[bytes, dict[str, Tensor]] = {fit.tobytes(): now}
    layers = [layer for head in changed for layer in network.body.layers_of(head.task)]

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
    asked = setup.plan.start
    if (asked, setup.plan.probe) != ("auto", "auto") or steps < FEWEST_STEPS:
        return {"solved" if asked in ("auto", "probe") else asked: solved_on}
    return {"solved": solved_on, "plain": plain} if any(head.kind == "regression" for head in own) else {"plain": plain}


def weights_of(network: Network, frozen: frozenset[str], *, only: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Return copies of the tensors of a `network` that training may change, including moving averages, or of the layers in `only`."""
    named = ((name, name.rpartition(".")[0], tensor) for name, tensor in network.state().items())
    wanted = (one for one in named if (frozen.isdisjoint(one[:2]) if only is None else one[1] in only))
    return {name: tensor.detach().clone() for name, _, tensor in wanted}
