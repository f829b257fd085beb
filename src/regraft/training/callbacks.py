"""User callbacks, and experiment trackers from accelerate."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker, get_available_trackers

from ..errors import MissingExtraError, SettingError, near_names

HOOKS = (
    *("on_train_begin", "on_epoch_begin", "on_train_batch_begin", "on_train_batch_end", "on_epoch_end", "on_train_end"),
    *("set_model", "set_params"),
)
"""Hooks that are called if a callback object has them."""


_SETTINGS = {
    "ReduceLROnPlateau": "schedule='plateau'",
    "LearningRateScheduler": "learning_rate= and schedule=",
    "TensorBoard": "log_with='tensorboard'",
}
"""Callback of Keras that needs what only `fit` of Keras has (the optimizer of the model, TensorFlow) -> the settings that do the same."""


def callback_problems(given: Sequence[Any]) -> list[str]:
    """Return an error message for each callback that can only run in Keras."""
    of_keras = [kind.__name__ for one in given for kind in type(one).__mro__ if kind.__module__.partition(".")[0] == "keras"]
    return [
        f"callbacks: {name} of Keras needs what only model.fit has; expected callbacks that read the figures. Leave it out and set {here}"
        for name, here in _SETTINGS.items()
        if name in of_keras
    ]


def _keras_logs(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return a history entry with its own names and those of Keras: "loss", "val_loss", "val_accuracy"."""
    named = {name.replace("validation_", "val_", 1): value for name, value in entry.items() if name.startswith("validation_")}
    return {**entry, **named, **({"loss": entry["train_loss"]} if "train_loss" in entry else {})}


def _without_epoch(logs: Mapping[str, Any]) -> dict[str, Any]:
    """Return logs as Keras has them: the number of the epoch is an argument of its own, and callbacks add it to the logs themselves."""
    return {name: value for name, value in logs.items() if name != "epoch"}


class Callbacks:
    """Callbacks of one training. An exception from a callback ends the training; a run with a folder can be resumed."""

    def __init__(self, given: Sequence[Any], module: Any, *, first: int = 0, advance: Callable[[float], None]) -> None:
        """Store the callbacks. `first`: number of earlier epochs; `advance`: called with the share of an epoch that each step is."""
        self._given = tuple(given)
        self._module, self.first = module, first
        self._advance = advance
        self._flagged = hasattr(module, "stop_training")

    def begin(self, **params: Any) -> None:
        """Announce the start of training. `params`: "epochs" and "steps"."""
        if self._given:
            self._module.stop_training = False
        self.call("set_model", self._module)
        self.call("set_params", {"verbose": 0, **params})
        self.call("on_train_begin", {})

    def step_ended(self, step: int, loss: float, *, of: int) -> None:
        """Report the loss of a step. `of`: steps per epoch."""
        self._advance(1 / of)
        self.call("on_train_batch_end", step, {"loss": loss})

    def epoch_ended(self, entry: Mapping[str, Any]) -> bool:
        """Report the history entry of an epoch. Return whether a callback set `stop_training` of the model, as Keras callbacks do."""
        logs = _keras_logs(entry)
        for one in self._given:
            if callable(one) and not any(hasattr(one, hook) for hook in HOOKS):
                one(entry["epoch"] - 1, dict(logs))
        self.call("on_epoch_end", entry["epoch"] - 1, _without_epoch(logs))
        return bool(self._given) and getattr(self._module, "stop_training", False) is True

    def end(self, entry: Mapping[str, Any]) -> None:
        """Announce the end of training, with the last history entry. Remove `stop_training` from a module that did not have it."""
        self.call("on_train_end", _without_epoch(_keras_logs(entry)))
        if self._given and not self._flagged:
            del self._module.stop_training

    def call(self, hook: str, *values: Any) -> None:
        """Call a hook of every callback that has it."""
        for one in self._given:
            if hasattr(one, hook):
                getattr(one, hook)(*values)


PROJECT = "regraft"


class Tracker:
    """Experiment tracker of a run: logs every epoch of all its trainings, with consecutive steps, and the final scores.
    A run of the tracker begins with the first figures: an adaptation that is refused leaves none. One that fails is marked as failed where
    the tracker knows such a state."""

    def __init__(self, wanted: Any, folder: Path, *, plan: Mapping[str, Any]) -> None:
        """Check the tracker. `wanted`: its name, a tracker object of accelerate, or None for no tracking; `plan`: logged at the start."""
        self._tracker = None if wanted is None else _opened(wanted, folder)
        self._plan = {**plan, **plan.get("settings", {})}
        self._step = 0
        self._started = False

    def see(self, entry: Mapping[str, Any]) -> None:
        """Log the history entry of an epoch, with names "STAGE/NAME", or "STAGE/PHASE/NAME" for a training of several in a stage."""
        self._step += 1
        place = "/".join(str(entry[name]) for name in ("stage", "phase") if entry.get(name, "train") != "train")
        self._log({f"{place}/{name}": value for name, value in entry.items()})

    def end(self, scores: Mapping[str, Any], files: Sequence[Path]) -> None:
        """Log the final scores (part -> name -> value) with names "PART/NAME", and the files where the tracker takes some."""
        figures = ((part, {**found, **found.get("metrics", {})}) for part, found in scores.items())
        self._log({f"{part}/{name}": value for part, found in figures for name, value in found.items()})
        keep = getattr(self._tracker, "log_artifact", None)
        for file in files:
            if keep is not None:
                keep(str(file))

    def _log(self, figures: Mapping[str, Any]) -> None:
        if self._tracker is None:
            return
        if not self._started:
            self._tracker.start()
            self._started = True
            plain = {name: value for name, value in self._plan.items() if isinstance(value, bool | int | float | str)}
            self._tracker.store_init_configuration(plain)
        finite = {name: value for name, value in figures.items() if isinstance(value, float) and math.isfinite(value)}
        self._tracker.log(finite, step=self._step)

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *raised: Any) -> None:
        if self._tracker is None or not self._started:
            return
        leave = getattr(self._tracker.tracker, "__exit__", None)
        if kind is None or leave is None:
            self._tracker.finish()
        else:
            leave(kind, *raised)  # the runs of MLflow and wandb then have the state "failed"


def _opened(wanted: Any, folder: Path) -> GeneralTracker:
    if isinstance(wanted, GeneralTracker):
        return wanted
    known = {str(name): kind for name, kind in LOGGER_TYPE_TO_CLASS.items()}
    if wanted not in known:
        raise SettingError(f"log_with={wanted!r} is no tracker that accelerate knows{near_names(str(wanted), known)}")
    if wanted not in map(str, get_available_trackers()):
        raise MissingExtraError(f"log_with={wanted!r} needs its library, which is not installed. Install it with: pip install {wanted}")
    kind = known[wanted]
    return kind(PROJECT, folder) if kind.requires_logging_directory else kind(PROJECT)
