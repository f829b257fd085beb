"""Length of a training, choice of the best epoch, and learning-rate schedules."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .settings import Settings

STEPS, FEWEST, MOST = 4000, 20, 200
"""Maximum number of steps of a training without `epochs`, and the bounds of the resulting number of epochs."""
FEWEST_WAITED = 50  # Minimum patience in steps of a training without `epochs`
FALLING = 0.25  # Length of the falling part of a training, relative to the steady part


def steps_of(settings: Settings, examples: int) -> int:
    """Return the number of steps per epoch."""
    return max(1, round(examples / int(settings.batch_size)))


def most_epochs(settings: Settings, examples: int, *, judged: bool = True) -> int:
    """Return the maximum number of epochs: `settings.epochs`, or a bound from the size of the training set.
    `judged`: whether there is a validation set."""
    epochs: int | None = settings.epochs
    if epochs is not None:
        return epochs
    if not judged:
        return FEWEST
    return min(max(math.ceil(STEPS / steps_of(settings, examples)), FEWEST), MOST)


def patience_of(settings: Settings, examples: int) -> int | None:
    """Return the number of epochs without progress after which a training stops; None: never. Small training sets get more patience."""
    patience: int | None = settings.patience
    if patience is None or settings.epochs is not None:
        return patience
    return max(patience, math.ceil(FEWEST_WAITED / steps_of(settings, examples)))


@dataclass
class Course:
    """State of the schedule "auto": a steady learning rate, then a linear fall to zero.
    The length need not be known in advance: the falling part starts when the validation loss stops falling, from the best weights so far.
    Source: warm-up, stable, decay (Hu et al., MiniCPM, COLM 2024, section 4)."""

    start: int | None = None  # epoch at which the falling part starts; None before
    epochs: int = 0  # length of the falling part
    turned: int = 0  # number of epochs behind the weights from which the falling part continues

    @property
    def falls(self) -> bool:
        """Whether the falling part has started."""
        return self.start is not None

    def fall_(self, epoch: int, *, epochs: int) -> None:
        """Start the falling part at an epoch. `epochs`: its length."""
        self.start, self.epochs, self.turned = epoch, epochs, epoch

    def is_over(self, epoch: int) -> bool:
        """Return whether both parts are over at an epoch."""
        return self.start is not None and epoch >= self.start + self.epochs

    @staticmethod
    def falling(steady: int) -> int:
        """Return the length of the falling part after `steady` epochs."""
        return max(1, round(FALLING * steady))

    @staticmethod
    def steady(limit: int) -> int:
        """Return the maximum number of steady epochs in a training of at most `limit` epochs."""
        return limit - round(limit * FALLING / (1 + FALLING))


def steady_factor(step: int, each: int, *, warmup: float, course: Course) -> float:
    """Return the learning-rate factor of the schedule "auto": a rise within the first epoch, constant, then a linear fall.
    `each`: steps per epoch."""
    if course.start is not None:
        return max(1 - (step - course.start * each) / (course.epochs * each), 1e-3)
    rising = min(int(warmup * 10 * each), each)
    return (step + 1) / (rising + 1) if step < rising else 1.0


def cosine_factor(step: int, steps: int, *, warmup: float) -> float:
    """Return the learning-rate factor of the schedule "cosine": a linear rise, then half a cosine down to 0.
    Source: Loshchilov & Hutter, ICLR 2017, equation 5, without restarts."""
    rising = int(warmup * steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(steps - rising, 1)))


@dataclass
class PlateauFactor:
    """State of the schedule "plateau", which multiplies the learning rate by a factor after some epochs without progress."""

    factor: float = 1.0
    best: float = math.inf
    waited: int = 0

    def see_(self, loss: float, *, factor: float = 0.1, patience: int = 2) -> None:
        """Record the loss of an epoch. `factor`: multiplier of the learning rate, in (0, 1)."""
        if loss < self.best:
            self.best, self.waited = loss, 0
            return
        self.waited += 1
        if self.waited > patience:
            self.factor, self.waited = self.factor * factor, 0


_FALLING = ("loss", "error", "rmse", "mae", "mse")  # Endings of the names of figures that are minimised under mode="auto"


def monitored_by(monitor: str | None, mode: str) -> tuple[str | None, float]:
    """Return the history name of the monitored figure, and its sign: 1.0 to minimise it, -1.0 to maximise it.
    `monitor`: name of a figure in the history or in Keras ("val_accuracy", "loss"), or of a metric; None: the default loss."""
    if monitor is None:
        return None, 1.0
    name = "train_loss" if monitor == "loss" else monitor.replace("val_", "validation_", 1) if monitor.startswith("val_") else monitor
    name = name if name.startswith(("validation_", "train_")) or name.endswith(("_loss", "_accuracy")) else f"validation_{name}"
    falls = mode == "min" or (mode == "auto" and name.endswith(_FALLING) and "neg_" not in name)
    return name, 1.0 if falls else -1.0


def monitor_problem(monitor: str | None, *, known: Iterable[str]) -> str:
    """Return an error message if the history figures `known` do not contain the `monitor`, else ""."""
    name, _ = monitored_by(monitor, "auto")
    figures = list(known)
    return "" if name is None or name in figures else f"monitor={monitor!r} is no figure of an epoch; here these are: {', '.join(figures)}"


def value_of(entry: Mapping[str, Any], *names: str) -> float:
    """Return the value of the first of `names` in a history `entry`; infinite if there is none or it is not finite."""
    value = next((entry[name] for name in names if name in entry), math.inf)
    return float(value) if math.isfinite(value) else math.inf
