"""A training whose settings are measured: short comparisons, the training, and its repetition on more examples."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .checkpoints import Store
from .courses import monitored_by
from .loop import Training, all_logits
from .recipe import Chosen, Comparison, Folds, Recipe, Short, Starts, course_of, found_recipe, refitted, trained_by, with_recipe

__all__ = ["Measured", "measured_training"]

History = list[dict[str, Any]]


@dataclass
class Measured:
    """A training whose settings were measured.

    Attributes:
        training: the training, as it was asked for.
        starts: name -> weights before it.
        recipe: what was chosen.
        compared: all that was compared.
        history: one entry for each short training, then one for each epoch.
        course: steady and falling epochs of the best.
        kept_start: whether nothing was better than the weights before the training.
        held_out: scores by task of examples that the training had not learned from, and which examples; None where there are none.
    """

    training: Training
    starts: Starts
    recipe: Recipe
    compared: list[Comparison]
    history: History
    course: tuple[int, int] = (0, 0)
    kept_start: bool = False
    held_out: tuple[Mapping[str, np.ndarray], np.ndarray] | None = None

    def chosen(self) -> dict[str, Any]:
        """Return what was chosen, as settings."""
        settings = with_recipe(self.training, self.recipe).settings
        return {"learning_rate": settings.learning_rate, "layer_decay": settings.layer_decay, "batch_norm": self.recipe.batch_norm}

    def refit_(self, rows: np.ndarray, checkpoint: Store | None) -> History:
        """Train again with what was chosen, for as long as was best.

        Args:
            rows: (n,) the examples.
            checkpoint: where to go on from, or None.

        Returns:
            The history of it.
        """
        again = replace(self.training, checkpoint=checkpoint)
        history = refitted(again, self.recipe, starts=self.starts, course=self.course, rows=rows).history
        self.history += history
        return history


def measured_training(  # over the limit: what is measured, on what, and what is known of it
    training: Training,
    *,
    usual: float,
    starts: Starts,
    folds: Folds = (),
    known: Store | None = None,
    first: Short | None = None,
    during: Callable[[str], AbstractContextManager[None]] | None = None,
) -> Measured:
    """Choose how a training is set, and carry it out.

    Args:
        usual: learning rate in the middle of those that are compared.
        starts: name -> weights before it; the first is the usual one.
        folds: (training set, validation set) pairs that choose in place of those of the training; then the network is left with the
            weights of the last fold, to be trained again on all examples.
        known: where the choice is kept, for a run that goes on.
        first: as of `found_recipe`.
        during: what counts the time of the comparison, as "compare".

    Returns:
        What came of it.
    """
    kept = known.read() if known is not None else None
    if kept is None:
        with during("compare") if during else nullcontext():
            chosen = found_recipe(training, usual=usual, starts=starts, folds=folds, first=first)
        if known is not None:
            told = json.dumps([one.to_dict() for one in chosen.compared])
            known.write({"recipe": json.dumps(vars(chosen.recipe)), "compared": told, "tried": chosen.tried})
    else:
        compared = [Comparison.from_dict(one) for one in json.loads(kept["compared"])]
        chosen = Chosen(Recipe(**json.loads(kept["recipe"])), compared, kept["tried"], [None] * max(len(folds), 1))
    found = Measured(training, starts, chosen.recipe, chosen.compared, [_entry(training, one) for one in chosen.compared])
    if folds:
        _train_folds_(found, folds, chosen=chosen)
    else:
        state = trained_by(training, chosen, starts=starts)
        found.history += state.history
        found.course, found.kept_start = course_of(state), state.kept_start
        if len(training.validation):
            found.held_out = all_logits(training.network, training.feed, indices=training.validation), training.validation
    return found


def _entry(training: Training, one: Comparison) -> dict[str, Any]:
    """Return the entry of a short training in the history."""
    plain, (name, sign) = one.to_dict(), monitored_by(training.settings.monitor, training.settings.mode)
    figure = {name or "validation_loss": sign * plain.pop("loss")}
    return {"stage": training.stage, "phase": "search", "epoch": plain.pop("epochs"), **figure, **plain}


def _train_folds_(found: Measured, folds: Folds, *, chosen: Chosen) -> None:
    """Train on each fold, and take the longest; the scores of all folds together are held out."""
    training, courses, scores, kept = found.training, [], [], []
    for number, (fit, validation) in enumerate(folds, start=1):
        one = replace(training, fit=fit, validation=validation, checkpoint=None, phase=f"fold {number}")
        state = trained_by(one, chosen, starts=found.starts, part=number - 1)
        found.history += state.history
        courses.append(course_of(state))
        kept.append(state.kept_start)
        scores.append(all_logits(training.network, training.feed, indices=validation))
    found.course = max(courses)  # on few examples some fold is at its best early by chance, and too long costs less than too short
    found.kept_start = sum(kept) > len(kept) / 2
    rows = np.concatenate([validation for _, validation in folds])
    found.held_out = {task: np.concatenate([part[task] for part in scores]) for task in scores[0]}, rows
