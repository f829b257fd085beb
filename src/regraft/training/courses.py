"""How long a training goes on, which epoch is the best, and what becomes of the learning rate on the way."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .settings import Settings

__all__ = [
    "Course",
    "PlateauFactor",
    "cosine_factor",
    "monitor_problem",
    "monitored_by",
    "most_epochs",
    "patience_of",
    "steady_factor",
    "value_of",
]

STEPS, FEWEST, MOST = 4000, 20, 200
"""Steps after which a training ends at the latest where no number of epochs is given, and the bounds of that number of epochs."""
FEWEST_WAITED = 50
"""Steps without progress before which no training ends whose number of epochs is not given."""
FALLING = 0.25
"""Length of the falling part of a training, in terms of the part before it."""


def most_epochs(settings: Settings, examples: int, *, judged: bool = True) -> int:
    """Return after how many epochs a training ends at the latest.

    `settings`: with the number of epochs, or None for as many as there is progress.
    """
    if settings.epochs is not None:
        return settings.epochs
    if not judged:
        return FEWEST
    steps = max(1, round(examples / settings.batch_size))
    return min(max(math.ceil(STEPS / steps), FEWEST), MOST)


def patience_of(settings: Settings, examples: int) -> int | None:
    """Return after how many epochs without progress a training ends; None for never. Epochs of a step or two count for less."""
    if settings.patience is None:
        return None
    steps = max(1, round(examples / settings.batch_size))
    return max(settings.patience, math.ceil(FEWEST_WAITED / steps)) if settings.epochs is None else settings.patience


@dataclass
class Course:
    """Where a training with the schedule "auto" stands: a steady learning rate, then one that falls to zero.

    Source: warm-up, stable, decay (Hu et al., MiniCPM, COLM 2024, section 4). It needs no length in advance: the falling part begins when
    the validation loss no longer falls, from the best weights so far.

    Attributes:
        start: epoch at which the rate begins to fall; None before.
        turned: how many epochs the weights had been trained for from which the falling part went on.
    """

    start: int | None = None
    epochs: int = 0
    turned: int = 0

    @property
    def falls(self) -> bool:
        """Whether the falling part has begun."""
        return self.start is not None

    def fall_(self, epoch: int, *, epochs: int) -> None:
        """Begin the falling part at an epoch, to last so many epochs."""
        self.start, self.epochs, self.turned = epoch, epochs, epoch

    def is_over(self, epoch: int) -> bool:
        """Tell whether both parts are over at an epoch."""
        return self.start is not None and epoch >= self.start + self.epochs

    @staticmethod
    def falling(steady: int) -> int:
        """Return the length of the falling part after so many steady epochs."""
        return max(1, round(FALLING * steady))

    @staticmethod
    def steady(limit: int) -> int:
        """Return after how many epochs the rate begins to fall at the latest, where a training may have `limit` of them."""
        return limit - round(limit * FALLING / (1 + FALLING))


def steady_factor(step: int, each: int, *, warmup: float, course: Course) -> float:
    """Return the factor of the learning rate under the schedule "auto": a rise within the first epoch, steady, then a straight fall."""
    if course.start is not None:
        return max(1 - (step - course.start * each) / (course.epochs * each), 1e-3)
    rising = min(int(warmup * 10 * each), each)
    return (step + 1) / (rising + 1) if step < rising else 1.0


def cosine_factor(step: int, steps: int, *, warmup: float) -> float:
    """Return the factor of the learning rate: a linear rise, then half a cosine down to 0.

    Source: Loshchilov & Hutter, ICLR 2017, equation 5, without restarts.
    """
    rising = int(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


@dataclass
class PlateauFactor:
    """Reduce on plateau: the learning rate is multiplied by a factor after some epochs without progress."""

    factor: float = 1.0
    best: float = math.inf
    waited: int = 0

    def see_(self, loss: float, *, factor: float = 0.1, patience: int = 2) -> None:
        """Take note of the loss of an epoch.

        `factor`: what the learning rate is multiplied with, in (0, 1).
        """
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > patience:
            self.factor, self.waited = self.factor * factor, 0


_FALLING = ("loss", "error", "rmse", "mae", "mse")
"""How names of figures end that are better the lower they are, where nobody says."""


def monitored_by(monitor: str | None, mode: str) -> tuple[str | None, float]:
    """Return the name in the history of what chooses the epoch, and 1.0 or -1.0, which makes the lowest the best.

    `monitor`: a name as in the history or in Keras ("val_accuracy", "loss"), or of a metric alone; None for the usual loss.
    """
    if monitor is None:
        return None, 1.0
    name = "train_loss" if monitor == "loss" else monitor.replace("val_", "validation_", 1) if monitor.startswith("val_") else monitor
    name = name if name.startswith(("validation_", "train_")) or name.endswith(("_loss", "_accuracy")) else f"validation_{name}"
    falls = mode == "min" or (mode == "auto" and name.endswith(_FALLING) and "neg_" not in name)
    return name, 1.0 if falls else -1.0


def monitor_problem(monitor: str | None, *, known: Iterable[str]) -> str:
    """Return what is wrong with a `monitor` where the history has the figures `known`, or ""."""
    name, _ = monitored_by(monitor, "auto")
    figures = list(known)
    return "" if name is None or name in figures else f"monitor={monitor!r} is no figure of an epoch; here these are: {', '.join(figures)}"


def value_of(entry: Mapping[str, Any], *names: str) -> float:
    """Return the first of these figures that an `entry` has; infinite where it has none, or no finite one."""
    value = next((entry[name] for name in names if name in entry), math.inf)
    return float(value) if math.isfinite(value) else math.inf
