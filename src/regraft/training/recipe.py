"""Choice of learning rate, layer decay, BatchNorm statistics and start by short trainings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from operator import attrgetter
from typing import Any

import numpy as np
from torch import Tensor

from ..console import duration, say
from ..words import counted
from .checkpoints import MemoryStore
from .courses import monitored_by, most_epochs, steps_of
from .feeds import MOVING_STATISTICS
from .loop import Training, loss_of, restore_, trained
from .optimizers import trained_depth
from .settings import Settings

Starts = Mapping[str, Callable[[np.ndarray], Mapping[str, Tensor]]]
"""Name -> function from a training set, (n,) indices, to initial weights, named as in `state()`."""
Folds = Sequence[tuple[np.ndarray, np.ndarray]]
DRAWN = "drawn"  # Name of the start with random weights. No layer is pretrained, so layer decay and frozen statistics are not compared
FACTORS = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)  # Learning rates to compare, relative to the usual one: two and a half decades
LOWEST = (0.3, 0.1)  # Layer decays to compare with none, as the lowest trained block's share of the head's learning rate
ROUND = 20  # Minimum number of steps of a short training
SHARE = 0.5  # Maximum number of epochs of a comparison, relative to the longest training
LARGEST = 1000  # Maximum size of the training set and of the validation set of a short training
ROOM = 2**31  # Bytes for the states of all short trainings together. A training whose state does not fit restarts instead of continuing
_STARTS = {"as it is": "", DRAWN: "", "solved": ", from solved heads", "plain": ", from the given heads"}


@dataclass(frozen=True)
class Recipe:
    """Settings of a training that short trainings can choose."""

    learning_rate: float
    lowest: float = 1.0  # share of the learning rate that the lowest trained block has; 1: one learning rate at all depths
    batch_norm: str = "batch"  # statistics that trained BatchNorm layers use, "batch" or "frozen"
    start: str = "as it is"  # name of the initial weights, a key of `Starts`: one of `_STARTS`, or the plan's `start`

    def words(self) -> str:
        """Return a description for messages and reports."""
        said = f"learning rate {self.learning_rate:.2g}"
        said += f", {self.lowest:g} of it at the lowest block" if self.lowest < 1 else ""
        said += ", frozen statistics of BatchNorm" if self.batch_norm == "frozen" else ""
        return said + _STARTS.get(self.start, f", start={self.start!r}")


@dataclass(frozen=True)
class Comparison:
    """Result of a short training."""

    recipe: Recipe
    epochs: int
    loss: float

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as plain data."""
        return {**asdict(self.recipe), "epochs": self.epochs, "loss": self.loss}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Comparison:
        """Return the comparison from the `plain` data of `to_dict`."""
        recipe = {name: value for name, value in plain.items() if name not in ("epochs", "loss")}
        return cls(Recipe(**recipe), plain["epochs"], plain["loss"])


@dataclass(frozen=True)
class ChosenRecipe:
    """Outcome of the comparisons."""

    recipe: Recipe
    compared: list[Comparison] = field(default_factory=list)
    tried: int = 0  # number of epochs of the best short training if it used all examples; 0 if it used a part of them
    begun: Sequence[Mapping[str, Any] | None] = (None,)  # state of the best short training in each fold; None if it was not kept


@dataclass
class ShortTraining:
    """Short training that can be continued."""

    recipe: Recipe
    trainings: Sequence[Training]  # one training per fold
    epochs: int = 0  # number of epochs that are compared so far
    curves: list[list[float]] = field(default_factory=list)  # loss after each epoch, per fold; may be longer than `epochs`

    def go_on_(self, epochs: int, starts: Starts) -> None:
        """Add epochs to the comparison, and train for them if the curves are too short."""
        self.epochs += epochs
        if self.curves and len(self.curves[0]) >= self.epochs:
            return
        self.curves = []
        for one in self.trainings:
            put_start_(one, self.recipe, starts=starts)
            self.curves.append([loss_of(entry, one.settings) for entry in trained(replace(one, until=self.epochs)).history])

    @property
    def curve(self) -> np.ndarray:
        """Mean loss over the folds after each epoch so far."""
        mean: np.ndarray = np.mean([curve[: self.epochs] for curve in self.curves], axis=0)
        return mean

    @property
    def loss(self) -> float:
        """Lowest loss so far of the mean curve over the folds."""
        return float(self.curve.min())

    def announced_(self, compared: int, training: int) -> None:
        """Print the expected total time after the second epoch. `compared`, `training`: epochs of the comparison and of the training."""

        def told(entry: Mapping[str, Any]) -> None:
            if entry["epoch"] == self.trainings[0].initial_epoch + 2:
                seconds = [epochs * entry["seconds"] for epochs in (compared * len(self.trainings), training)]
                say(f"{entry['stage']}: comparing settings takes about {duration(seconds[0])}, training up to {duration(seconds[1])}")

        self.trainings = [replace(self.trainings[0], on_epoch=told), *self.trainings[1:]]

    def states(self) -> list[Mapping[str, Any] | None]:
        """Return the state of each training; None if it was not kept."""
        return [None if one.checkpoint is None else one.checkpoint.read() for one in self.trainings]


def put_start_(training: Training, recipe: Recipe, *, starts: Starts) -> None:
    """Load the initial weights that the `recipe` names into the network."""
    restore_(training.network.state(), starts[recipe.start](training.fit))


def with_recipe(training: Training, recipe: Recipe) -> Training:
    """Return the `training` with the settings of the `recipe`. A given `layer_decay` takes precedence."""
    network = training.network
    frozen = training.frozen | (_moving_statistics(training) if recipe.batch_norm == "frozen" else frozenset())
    network.freeze_(frozen)
    depth = trained_depth(network)
    given = training.settings.layer_decay
    decay = recipe.lowest ** (1 / max(depth - 1, 1)) if given is None else given
    settings = replace(training.settings, learning_rate=recipe.learning_rate, layer_decay=decay)
    return replace(training, settings=settings, frozen=frozen)


def _moving_statistics(training: Training) -> frozenset[str]:
    """Return the names in `state()` of the moving statistics of all trained BatchNorm layers."""
    network = training.network
    layers = {layer.name for layer in network.layers} - training.frozen
    return frozenset(name for name in network.state() if name.endswith(MOVING_STATISTICS) and name.rpartition(".")[0] in layers)


def first_short(training: Training, *, usual: float, starts: Starts) -> ShortTraining:
    """Return the first short training of a comparison without folds, not yet started: the usual learning rate, from the first start."""
    part = _smaller(training, training.fit, validation=training.validation)
    return _short([part], _usual_recipe(training.settings, usual, starts=starts), room=ROOM / 16)


def found_recipe(
    training: Training, *, usual: float, starts: Starts, folds: Folds = (), first: ShortTraining | None = None
) -> ChosenRecipe:
    """Choose the recipe of a training by short trainings from the same initial weights. The first round compares learning rates. The second
    combines the best one with layer decays, frozen BatchNorm statistics and other starts. The best of both rounds are continued. The usual
    learning rate is always continued: a loss that falls fast at first need not end low. `folds`: (training set, validation set) pairs that
    replace those of the training. `first`: the short training of `first_short`, which may have run already; None: make a new one. Source:
    successive halving (Jamieson & Talwalkar, AISTATS 2016). Deviation: candidates of the second round depend on the first."""
    settings = training.settings
    given = _usual_recipe(settings, usual, starts=starts)
    rows = folds or [(training.fit, training.validation)]
    parts = [_smaller(training, fit, validation=validation) for fit, validation in rows]
    length, allowed = short_epochs(settings, len(training.fit), each=len(parts[0].fit))
    few = allowed < 16 * length
    others_of = partial(_others, training, few=few, starts=starts)
    alone = settings.learning_rate is not None and not others_of(given)
    if alone or not len(parts[0].validation) or allowed < 5 * length or settings.epochs == 0:
        return ChosenRecipe(given, begun=[None] * len(parts))
    factors = (1.0,) if settings.learning_rate else tuple(factor for factor in FACTORS if not few or 0.3 <= factor <= 3)
    count = len(factors) + len(others_of(given))
    room = ROOM / (count * len(parts))
    tried = [_short(parts, replace(given, learning_rate=given.learning_rate * factor), room=room) for factor in factors]
    if first is not None and not folds:
        tried[factors.index(1.0)] = replace(first, epochs=0)
    usual_one = tried[factors.index(1.0)]
    tried[0].announced_((count + 2 * (3 if few else 4)) * length, (len(parts) + 1) * most_epochs(settings, len(training.fit)))
    _run_(tried, length, starts=starts)
    best = min(tried, key=attrgetter("loss"))
    others = [_short(parts, one, room=room) for one in others_of(best.recipe)]
    _run_(others, length, starts=starts)
    tried += others
    last = sorted(tried, key=attrgetter("loss"))[: 2 if few else 3]
    last += [] if usual_one in last else [usual_one]
    if len(tried) > 1:
        _run_(last, 2 * length, starts=starts)
    chosen = min(last, key=attrgetter("loss"))
    compared = [Comparison(one.recipe, one.epochs, one.loss) for one in sorted(tried, key=lambda one: (-one.epochs, one.loss))]
    whole = all((len(part.fit), len(part.validation)) == (*map(len, own),) for part, own in zip(parts, rows, strict=True))
    if settings.unfreeze_every or not whole:
        return ChosenRecipe(chosen.recipe, compared, begun=[None] * len(parts))
    return ChosenRecipe(chosen.recipe, compared, chosen.epochs, chosen.states())


def short_epochs(settings: Settings, examples: int, *, each: int | None = None) -> tuple[int, float]:
    """Return the number of epochs of the shortest training of a comparison, and the maximum number of epochs of all of them together.
    `examples`: size of the training set. `each`: size of the training set of a short training; None: the maximum."""
    each = min(examples, LARGEST) if each is None else each
    allowed = SHARE * most_epochs(settings, examples) * examples / each
    return max(-(-ROUND // steps_of(settings, each)), int(allowed / 16)), allowed


def _usual_recipe(settings: Settings, usual: float, *, starts: Starts) -> Recipe:
    """Return the usual recipe, adjusted to the given settings. A batch of one example has no statistics of its own."""
    frozen = settings.batch_norm == "frozen" or (settings.batch_norm == "auto" and settings.batch_size == 1)
    return Recipe(settings.learning_rate or usual, 1.0, "frozen" if frozen else "batch", next(iter(starts)))


def _run_(shorts: Sequence[ShortTraining], epochs: int, *, starts: Starts) -> None:
    """Continue each short training for `epochs` epochs and print its loss."""
    for one in shorts:
        one.go_on_(epochs, starts)
        length = counted(one.epochs, "epoch")
        name, sign = monitored_by(one.trainings[0].settings.monitor, one.trainings[0].settings.mode)
        figure = f"{(name or 'validation_loss').replace('_', ' ')} {sign * one.loss:.4g}"
        say(f"{one.trainings[0].stage}, compared: {one.recipe.words()}: {figure} within {length}", frequent=True)


def _others(training: Training, best: Recipe, *, few: bool, starts: Starts) -> list[Recipe]:
    """Return the second round's variants of the best recipe: other starts and, unless there is time for `few` alone, other settings."""
    settings, found = training.settings, list[Recipe]()
    if not few and best.start != DRAWN:
        if settings.layer_decay is None and trained_depth(training.network) > 2:
            found += [replace(best, lowest=lowest) for lowest in LOWEST]
        if settings.batch_norm == "auto" and _moving_statistics(training):
            found.append(replace(best, batch_norm="frozen"))
    return found + [replace(best, start=name) for name in starts if name != best.start]


def _smaller(training: Training, fit: np.ndarray, *, validation: np.ndarray) -> Training:
    """Return a training on at most `LARGEST` examples, without checkpoint, patience and callback."""
    draw = np.random.default_rng(training.seed)
    fit, validation = (np.sort(draw.choice(part, LARGEST, replace=False)) if len(part) > LARGEST else part for part in (fit, validation))
    settings = replace(training.settings, patience=None, unfreeze_every=None)
    return replace(training, fit=fit, validation=validation, settings=settings, on_epoch=None, checkpoint=None, phase="search")


def _short(parts: Sequence[Training], recipe: Recipe, *, room: float) -> ShortTraining:
    """Return a short training with a recipe. `room`: bytes for the state of each part."""
    return ShortTraining(recipe, [replace(with_recipe(part, recipe), checkpoint=MemoryStore(room)) for part in parts])


History = list[dict[str, Any]]


@dataclass
class MeasuredTraining:
    """Training whose settings were chosen by measurement.
    `held_out`: task -> logits of the validation examples, and their indices; None without a validation set."""

    training: Training  # the training as requested
    starts: Starts  # name -> initial weights
    recipe: Recipe
    compared: list[Comparison]
    history: History  # one entry per short training, then one per epoch
    course: tuple[int, int] = (0, 0)  # steady and falling epochs up to the best epoch
    kept_start: bool = False  # whether no epoch was better than the initial weights
    held_out: tuple[Mapping[str, np.ndarray], np.ndarray] | None = None

    def chosen(self) -> dict[str, Any]:
        """Return the chosen settings."""
        settings = with_recipe(self.training, self.recipe).settings
        return {"learning_rate": settings.learning_rate, "layer_decay": settings.layer_decay, "batch_norm": self.recipe.batch_norm}
