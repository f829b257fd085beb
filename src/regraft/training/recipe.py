"""How a training is set: rate, decay by depth, BatchNorm and start are chosen by short trainings, then everything is trained again.

found_recipe     successive halving on the validation set, or on folds where that is small
trained_by       a training with what was chosen, until its validation loss no longer falls
refitted         the same once more, on all examples that do not judge
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from torch import Tensor

from ..console import duration, say
from .checkpoints import InMemory, Store
from .courses import monitored_by, most_epochs
from .loop import Trained, Training, all_logits, loss_of, restore_, trained
from .optimizers import trained_depth
from .settings import Settings

__all__ = [
    "DRAWN",
    "MOVING_STATISTICS",
    "Chosen",
    "Comparison",
    "Folds",
    "Measured",
    "Recipe",
    "Short",
    "Starts",
    "course_of",
    "first_short",
    "found_recipe",
    "measured_training",
    "moving_statistics",
    "put_start_",
    "refitted",
    "short_epochs",
    "trained_by",
    "with_recipe",
]

Starts = Mapping[str, Callable[[np.ndarray], Mapping[str, Tensor]]]
"""Name -> what gives the weights, as in `state()`, with which a training on the examples (n,) may begin."""
Folds = Sequence[tuple[np.ndarray, np.ndarray]]
DRAWN = "drawn"
"""The start with all weights freshly drawn: no depth of it is nearer to what is wanted than another."""
MOVING_STATISTICS = (".running_mean", ".running_var", ".moving_mean", ".moving_variance")
"""How the names of the moving statistics of BatchNorm layers end in `state()`, in torch and Keras."""
FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
"""Learning rates that are compared, in terms of the usual one: two and a half decades."""
LOWEST = (0.3, 0.1)
"""Shares of the head's learning rate that the lowest trained block has, for the decays that are compared with 1."""
ROUND = 20
"""Steps of the shortest training that says anything."""
SHARE = 0.5
"""Epochs that a comparison may take, in terms of the longest training."""
LARGEST = 1000
"""Examples that a short training learns from and is judged by at most."""
ROOM = 2**31
"""Bytes that the states of all short trainings may take together; where they are larger, a training starts again in place of going on."""


@dataclass(frozen=True)
class Recipe:
    """How a training is set.

    Attributes:
        lowest: share of it that the lowest trained block has; 1 for one rate at all depths.
        batch_norm: "batch" or "frozen": the statistics that BatchNorm layers use while they are trained.
        start: a name of one of the starts that were offered.
    """

    learning_rate: float
    lowest: float = 1.0
    batch_norm: str = "batch"
    start: str = "as it is"

    def words(self) -> str:
        """Return it in words, for messages and reports."""
        said = f"learning rate {self.learning_rate:.2g}"
        said += f", {self.lowest:g} of it at the lowest block" if self.lowest < 1 else ""
        said += ", frozen statistics of BatchNorm" if self.batch_norm == "frozen" else ""
        return said + {"solved": ", from solved heads", "plain": ", from the heads as they came"}.get(self.start, "")


@dataclass(frozen=True)
class Comparison:
    """What a short training came to."""

    recipe: Recipe
    epochs: int
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {**asdict(self.recipe), "epochs": self.epochs, "loss": self.loss}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Comparison:
        """Return the comparison that `to_dict` gave as `plain` data."""
        recipe = {name: value for name, value in plain.items() if name not in ("epochs", "loss")}
        return cls(Recipe(**recipe), plain["epochs"], plain["loss"])


@dataclass(frozen=True)
class Chosen:
    """What was chosen by comparisons.

    Attributes:
        tried: epochs that the best was trained for on all examples of its training; 0 where it was on a part of them.
        begun: the states in which it stands then, one for each fold; None where one was not kept.
    """

    recipe: Recipe
    compared: list[Comparison] = field(default_factory=list)
    tried: int = 0
    begun: Sequence[Mapping[str, Any] | None] = (None,)


@dataclass
class Short:
    """A short training that may go on.

    Attributes:
        trainings: of each fold.
        curves: the loss after each epoch, of each fold; they may be longer.
    """

    recipe: Recipe
    trainings: Sequence[Training]
    epochs: int = 0
    curves: list[list[float]] = field(default_factory=list)

    def go_on_(self, epochs: int, starts: Starts) -> None:
        """Compare what further epochs come to; train for them, from the start of the recipe on, where that has not been done."""
        self.epochs += epochs
        if self.curves and len(self.curves[0]) >= self.epochs:
            return
        self.curves = []
        for one in self.trainings:
            put_start_(one, self.recipe, starts=starts)
            self.curves.append([loss_of(entry, one.settings) for entry in trained(replace(one, until=self.epochs)).history])

    @property
    def loss(self) -> float:
        """The lowest loss so far, the mean over the folds."""
        return float(np.mean([curve[: self.epochs] for curve in self.curves], axis=0).min())

    def announced_(self, compared: int, training: int) -> None:
        """Say after the second epoch how long everything will take."""

        def told(entry: Mapping[str, Any]) -> None:
            if entry["epoch"] == self.trainings[0].initial_epoch + 2:
                seconds = [epochs * entry["seconds"] for epochs in (compared * len(self.trainings), training)]
                say(f"{entry['stage']}: comparing settings takes about {duration(seconds[0])}, training up to {duration(seconds[1])}")

        self.trainings = [replace(self.trainings[0], on_epoch=told), *self.trainings[1:]]

    def states(self) -> list[Mapping[str, Any] | None]:
        """Return the states in which its trainings stand, where they were kept."""
        return [None if one.checkpoint is None else one.checkpoint.read() for one in self.trainings]


def put_start_(training: Training, recipe: Recipe, *, starts: Starts) -> None:
    """Put the weights of the start that a `recipe` names, one of the `starts`, into the network of a training."""
    restore_(training.network.state(), starts[recipe.start](training.fit))


def with_recipe(training: Training, recipe: Recipe) -> Training:
    """Return a `training` that is set by a `recipe`."""
    network = training.network
    frozen = training.frozen | (moving_statistics(training) if recipe.batch_norm == "frozen" else frozenset())
    network.freeze_(frozen)
    depth = trained_depth(network)
    given = training.settings.layer_decay
    decay = recipe.lowest ** (1 / max(depth - 1, 1)) if given is None else given
    settings = replace(training.settings, learning_rate=recipe.learning_rate, layer_decay=decay)
    return replace(training, settings=settings, frozen=frozen)


def moving_statistics(training: Training) -> frozenset[str]:
    """Return the names in `state()` of the moving statistics of all BatchNorm layers that a `training` trains."""
    network = training.network
    layers = {layer.name for layer in network.layers} - training.frozen
    return frozenset(name for name in network.state() if name.endswith(MOVING_STATISTICS) and name.rpartition(".")[0] in layers)


def first_short(training: Training, *, usual: float, starts: Starts) -> Short:
    """Return the short training that a comparison without folds begins with, not begun: the usual rate, from the first start."""
    part = _smaller(training, training.fit, validation=training.validation)
    return _short([part], _usual_recipe(training.settings, usual, starts=starts), room=ROOM / 16)


def found_recipe(training: Training, *, usual: float, starts: Starts, folds: Folds = (), first: Short | None = None) -> Chosen:
    """Choose how a training is set by short trainings that begin where it will.

    First learning rates are compared, then the best of them with decays by depth, with frozen statistics of BatchNorm and from other
    starts; the best of all are continued. So is the usual rate in any case: what falls fast at first need not lead far.

    `folds`: (training set, validation set) pairs in place of those of the training; `first`: what `first_short` gave of this training, as
    far as it has come; None: not begun.

    Source: successive halving (Jamieson & Talwalkar, AISTATS 2016). Deviation: candidates of the second round depend on the first.
    """
    settings = training.settings
    given = _usual_recipe(settings, usual, starts=starts)
    parts = [
        _smaller(one, fit, validation=validation)
        for fit, validation in folds or [(training.fit, training.validation)]
        for one in (training,)
    ]
    length, allowed = short_epochs(settings, len(training.fit), each=len(parts[0].fit))
    few = allowed < 16 * length
    with_others = () if few else ("decay", "statistics")
    alone = settings.learning_rate is not None and not _others(training, given, of=with_others, starts=starts)
    if alone or not len(parts[0].validation) or allowed < 5 * length or settings.epochs == 0:
        return Chosen(given, begun=[None] * len(parts))
    factors = (1.0,) if settings.learning_rate else tuple(factor for factor in FACTORS if not few or 0.3 <= factor <= 3)
    count = len(factors) + len(_others(training, given, of=with_others, starts=starts))
    room = ROOM / (count * len(parts))
    tried = [_short(parts, replace(given, learning_rate=given.learning_rate * factor), room=room) for factor in factors]
    if first is not None and not folds:
        tried[factors.index(1.0)] = replace(first, epochs=0)
    usual_one = tried[factors.index(1.0)]
    tried[0].announced_((count + 2 * (3 if few else 4)) * length, (len(parts) + 1) * most_epochs(settings, len(training.fit)))
    _run_(tried, length, starts=starts)
    best = min(tried, key=_loss)
    others = [_short(parts, one, room=room) for one in _others(training, best.recipe, of=with_others, starts=starts)]
    _run_(others, length, starts=starts)
    tried += others
    last = sorted(tried, key=_loss)[: 2 if few else 3]
    last += [] if usual_one in last else [usual_one]
    if len(tried) > 1:
        _run_(last, 2 * length, starts=starts)
    chosen = min(last, key=_loss)
    compared = [Comparison(one.recipe, one.epochs, one.loss) for one in sorted(tried, key=lambda one: (-one.epochs, one.loss))]
    if settings.unfreeze_every or not all(map(_is_whole, parts, folds or [(training.fit, training.validation)])):
        return Chosen(chosen.recipe, compared, begun=[None] * len(parts))
    return Chosen(chosen.recipe, compared, chosen.epochs, chosen.states())


def short_epochs(settings: Settings, examples: int, *, each: int | None = None) -> tuple[int, float]:
    """Return how many epochs the shortest training of a comparison has, and how many all of them together may have.

    `settings`: with the number of epochs, or None; `each`: how many of them a short training learns from; None: as many as it may.
    """
    each = min(examples, LARGEST) if each is None else each
    allowed = SHARE * most_epochs(settings, examples) * examples / each
    return max(-(-ROUND // max(1, round(each / settings.batch_size))), int(allowed / 16)), allowed


def _usual_recipe(settings: Settings, usual: float, *, starts: Starts) -> Recipe:
    """Return the usual recipe, with what the settings give."""
    return Recipe(settings.learning_rate or usual, 1.0, _statistics(settings), next(iter(starts)))


def _loss(one: Short) -> float:
    return one.loss


def _run_(shorts: Sequence[Short], epochs: int, *, starts: Starts) -> None:
    """Train each for further epochs."""
    for one in shorts:
        one.go_on_(epochs, starts)
        length = f"{one.epochs} epoch" + ("s" if one.epochs > 1 else "")
        name, sign = monitored_by(one.trainings[0].settings.monitor, one.trainings[0].settings.mode)
        figure = f"{(name or 'validation_loss').replace('_', ' ')} {sign * one.loss:.4g}"
        say(f"{one.trainings[0].stage}, compared: {one.recipe.words()}: {figure} within {length}")


def _others(training: Training, best: Recipe, *, of: Container[str], starts: Starts) -> list[Recipe]:
    """Return what is compared with the best learning rate: other starts, and what is named by `of`."""
    settings, found = training.settings, list[Recipe]()
    if "decay" in of and settings.layer_decay is None and trained_depth(training.network) > 2 and best.start != DRAWN:
        found += [replace(best, lowest=lowest) for lowest in LOWEST]
    if "statistics" in of and settings.batch_norm == "auto" and moving_statistics(training) and best.start != DRAWN:
        found.append(replace(best, batch_norm="frozen"))
    return found + [replace(best, start=name) for name in starts if name != best.start]


def _is_whole(part: Training, rows: tuple[np.ndarray, np.ndarray]) -> bool:
    """Return whether a short training learns from all examples and is judged by all."""
    return len(part.fit) == len(rows[0]) and len(part.validation) == len(rows[1])


def _statistics(settings: Settings) -> str:
    """Return which statistics BatchNorm layers usually use while they are trained: those of a batch of one example say nothing."""
    return "frozen" if settings.batch_norm == "frozen" or (settings.batch_norm == "auto" and settings.batch_size == 1) else "batch"


def _smaller(training: Training, fit: np.ndarray, *, validation: np.ndarray) -> Training:
    """Return a training on few examples, without checkpoint, patience and listeners."""
    draw = np.random.default_rng(training.seed)
    fit, validation = (np.sort(draw.choice(part, LARGEST, replace=False)) if len(part) > LARGEST else part for part in (fit, validation))
    settings = replace(training.settings, patience=None, unfreeze_every=None)
    return replace(training, fit=fit, validation=validation, settings=settings, on_epoch=None, checkpoint=None, phase="search")


def _short(parts: Sequence[Training], recipe: Recipe, *, room: float) -> Short:
    """Return a short training by a recipe, with this room in bytes for the state of each part."""
    return Short(recipe, [replace(with_recipe(part, recipe), checkpoint=InMemory(room)) for part in parts])


def trained_by(training: Training, chosen: Chosen, *, starts: Starts, part: int = 0) -> Trained:
    """Train as was chosen until the validation loss no longer falls, and leave the best weights in the network.

    The short training that won the comparison goes on, where it learned from the same examples. A run that was killed in between
    repeats it, with the same result.

    Result: Where the training stands at its end.
    """
    put_start_(training, chosen.recipe, starts=starts)
    return trained(replace(with_recipe(training, chosen.recipe), begun=chosen.begun[part], tried=chosen.tried))


def course_of(state: Trained) -> tuple[int, int]:
    """Return how many steady and how many falling epochs the `state` of a finished training was reached in."""
    if state.course.falls:
        return state.course.turned, state.course.epochs
    return state.best_epoch, 0


def refitted(training: Training, recipe: Recipe, *, starts: Starts, course: tuple[int, int], rows: np.ndarray) -> Trained:
    """Train by a recipe on more examples, for as many epochs as was best before.

    `rows`: (n,) examples to learn from; none judge; result: Where the training stands at its end.
    """
    settings = replace(training.settings, patience=None)
    again = replace(training, fit=rows, validation=rows[:0], settings=settings, course=course, phase="refit", keep_start=False)
    put_start_(again, recipe, starts=starts)
    return trained(with_recipe(again, recipe))


History = list[dict[str, Any]]


@dataclass
class Measured:
    """A training whose settings were measured.

    Attributes:
        training: the training, as it was asked for.
        starts: name -> weights before it.
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

        `rows`: (n,) the examples; `checkpoint`: where to go on from, or None.
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

    `starts`: name -> weights before it; the first is the usual one; `folds`: (training set, validation set) pairs that choose in place of
    those of the training; then the network is left with the weights of the last fold, to be trained again on all examples.
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
