"""Settings of a training: one meaning everywhere, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypedDict

import torch

from ..data.preprocessings.augmenting import CALLABLE, plain_name
from ..errors import SettingError, unknown_setting
from ..freezing.engines import ENGINES
from ..tasks import LOSSES
from .callbacks import HOOKS
from .optimizing import OPTIMIZERS, factory_rate

__all__ = ["OPTIMIZERS", "SCHEDULES", "SettingKeywords", "Settings", "is_whole"]

SCHEDULES = ("auto", "cosine", "plateau", "constant")
_SEVERAL = ("metrics", "callbacks")
"""Settings that hold several; one is taken for a list of one."""
BATCH_NORMS = ("auto", "batch", "frozen")


@dataclass(frozen=True)
class Settings:
    """How a training goes.

    Attributes:
        epochs: at most so many passes over the training set; 0 trains nothing; None: until the validation loss no longer falls.
        optimizer: "adamw", "adam", "sgd" (with Nesterov momentum), "rmsprop", "nadam", "adagrad" or "adamax"; or a function that makes
            one of PyTorch's from groups of parameters, whose learning rate holds where `learning_rate` is left out.
        loss: what is minimised for the first task, or a mapping from task to that: "cross_entropy", "focal" or "hinge" (classes,
            labels), "mse", "mae", "huber", "msle" or "poisson" (numbers), or a function of logits (B, C) and targets that returns a
            scalar or (B,);
        None: cross-entropy or squared error. The validation loss is the same; heads are then trained, not solved.
        learning_rate: of the head; None: chosen by short trainings, judged on the validation set.
        weight_decay: decoupled for "adamw", else L2; of weights, not of biases and normalisation.
        dropout: share of the numbers that the heads read that are dropped in training, in [0, 1).
        l1: weight of the sum of the absolute weights of the heads' rows in what is minimised, 0 or more.
        stay_near: pull of what is trained below the heads back to where it started, 0 or more; 0 for none.
        distill: share of the loss in which what the old head says is the target, in [0, 1); 0 for none.
        co_tuning: weight of the loss in which the old head learns what its classes say of the new ones, 0 or more; 0 for none.
        momentum: of "sgd" and "rmsprop", in [0, 1).
        schedule: "auto" (steady, then falling to 0 once the validation loss no longer falls), "cosine", "plateau" (`plateau_factor`
            after `plateau_patience` epochs without progress) or "constant".
        plateau_factor: of the learning rate under the schedule "plateau", in (0, 1).
        plateau_patience: epochs without progress after which that happens.
        min_learning_rate: below which no schedule lets the head's fall.
        decay: the learning rate is divided by 1 + decay * (steps so far), beside the schedule.
        warmup: share of all steps in which the rate rises from 0, in [0, 1); with "auto", of the first ten epochs.
        layer_decay: factor of the learning rate from one block to the block below, in (0, 1]; None: chosen as the rate is, among 1 and
            those that give the lowest trained block 0.3 and 0.1 of the head's rate.
        batch_norm: statistics that BatchNorm layers use while they are trained: "batch", those of the batch; "frozen", those they have
            learned before; "auto": chosen as the rate is.
        unfreeze_every: epochs between the stages of staged unfreezing: the head first, then block by block from the top; None trains
            all at once.
        patience: epochs without progress of the validation loss after which the rate falls (schedule "auto") or training stops; None
            never stops early.
        refit: train again on training and validation set with what was chosen: "auto", where they have fewer than 5,000 examples; True;
            False; "all": on the holdout set as well, once it has judged.
        min_delta: smallest fall of the loss that counts as progress.
        clip_norm: largest norm of the gradient; None clips nothing.
        class_weight: "balanced", one weight a class, or None.
        label_smoothing: in [0, 1).
        cache: folder of feature caches, "memory", or None ("none") to compute the frozen part every epoch; "auto": the user's cache
            folder.
        dtype: of cached activations, "float32" or "float16".
        engine: what computes frozen parts on a CPU: "eager" (PyTorch as it is), "compile" (torch.compile), "onnxruntime" or "openvino";
            "auto": of those installed, the fastest, where the pass is long enough to pay for building it, else "eager".
        precision: of frozen parts: "float32"; "bfloat16", where a probe's leave-one-out accuracy on such features of 256 examples is
            within one standard error of that in single precision; "auto": where bfloat16 is faster, too.
        cluster: of Ray, whose workers compute frozen parts and the trials of a search, and train more than a head together with this
        process: "ray://HOST:PORT", or "auto" for the one that this machine is a part of; None: this machine alone.
        device: such as "cpu" or "cuda"; None: what the machine has.
        metrics: further figures of the first task, in the history ("validation_NAME"), the scores and the report: names of scorers of
            scikit-learn, or functions of the true and the predicted targets.
        monitor: the figure of an epoch that chooses the best one, as in the history or by its name in Keras, such as "val_accuracy";
            None: the validation loss, of classes after temperature scaling.
        mode: "min", "max", or "auto": names that end in "loss" fall, all others rise.
        callbacks: objects with some of the hooks of Keras, or functions of an epoch's number (from 0) and its figures.
        log_with: "tensorboard", "mlflow", "wandb" or another tracker of accelerate, or one of its objects: told of every epoch and of
            the final figures. Files go to the folder "logs" beside the result, or where the program runs.
        task_weights: task -> weight (above 0) of its loss in the sum, where the data have several; 1 for those left out.
        baselines: also train the same architecture from scratch, as a yardstick.
    """

    epochs: int | None = None
    batch_size: int = 32
    optimizer: Any = "adamw"
    loss: Any = None
    learning_rate: float | None = None
    weight_decay: float = 0.01
    dropout: float = 0.0
    l1: float = 0.0
    stay_near: float = 0.0
    distill: float = 0.0
    co_tuning: float = 0.0
    momentum: float = 0.9
    schedule: str = "auto"
    plateau_factor: float = 0.1
    plateau_patience: int = 2
    min_learning_rate: float = 0.0
    decay: float = 0.0
    warmup: float = 0.05
    layer_decay: float | None = None
    batch_norm: str = "auto"
    refit: str | bool = "auto"
    unfreeze_every: int | None = None
    patience: int | None = 10
    min_delta: float = 0.0
    clip_norm: float | None = None
    class_weight: Any = None
    label_smoothing: float = 0.0
    metrics: Sequence[Any] = ()
    monitor: str | None = None
    mode: str = "auto"
    callbacks: Sequence[Any] = ()
    log_with: Any = None
    cache: str | None = "auto"
    dtype: str = "float32"
    engine: str = "auto"
    cluster: str | None = None
    precision: str = "float32"
    device: str | None = None
    task_weights: Mapping[str, float] | None = None
    baselines: bool = False

    @classmethod
    def of(cls, given: Mapping[str, Any], *, also: Sequence[str] = ()) -> Settings:
        """Make settings from keywords.

        `given`: name -> value; names left out keep their defaults; result: The settings, every value in its range.
        """
        known = [field.name for field in fields(cls)]
        problems = [unknown_setting(name, [*known, *also]) for name in given if name not in known]
        values = {name: value for name, value in given.items() if name in known}
        if isinstance(values.get("cache"), str | Path):
            values["cache"] = None if values["cache"] == "none" else str(values["cache"])
        for name in values.keys() & set(_SEVERAL):
            one = values[name]
            values[name] = tuple(one) if isinstance(one, list | tuple) else () if one is None else (one,)
        problems += [
            f"{name}={values[name]!r}: expected {rule}"
            for name, (rule, holds) in _RULES.items()
            if name in values and not _holds(holds, values[name])
        ]
        problems += [] if problems else _together(values)
        if problems:
            raise SettingError("; ".join(problems))
        made = values.get("optimizer")
        return cls(**{**({"learning_rate": factory_rate(made)} if callable(made) else {}), **values})

    @property
    def functions(self) -> dict[str, Any]:
        """Setting -> what it holds that plain data cannot hold, or what plain data have in its place: its name."""
        losses = self.loss.values() if isinstance(self.loss, Mapping) else [self.loss]
        held = {
            "optimizer": [self.optimizer],
            "loss": losses,
            "metrics": self.metrics,
            "callbacks": self.callbacks,
            "log_with": [self.log_with],
        }
        return {name: one for name, values in held.items() for one in values if one is not None and plain_name(one).startswith(CALLABLE)}

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain data."""
        plain = {field.name: getattr(self, field.name) for field in fields(self)}
        weights = plain["class_weight"]
        plain["class_weight"] = weights if weights is None or isinstance(weights, str) else [float(weight) for weight in weights]
        plain["optimizer"], plain["loss"] = plain_name(self.optimizer), _plain_loss(self.loss)
        plain |= {name: [plain_name(one) for one in getattr(self, name)] for name in _SEVERAL}
        plain["log_with"] = None if self.log_with is None else plain_name(self.log_with)
        plain["task_weights"] = None if self.task_weights is None else {name: float(weight) for name, weight in self.task_weights.items()}
        return plain


class SettingKeywords(TypedDict, total=False):
    """The fields of `Settings` as keywords, for editors and type checkers."""

    epochs: int | None
    batch_size: int
    optimizer: Any
    loss: Any
    learning_rate: float | None
    weight_decay: float
    dropout: float
    l1: float
    stay_near: float
    distill: float
    co_tuning: float
    momentum: float
    schedule: str
    plateau_factor: float
    plateau_patience: int
    min_learning_rate: float
    decay: float
    warmup: float
    layer_decay: float | None
    batch_norm: str
    refit: str | bool
    unfreeze_every: int | None
    patience: int | None
    min_delta: float
    clip_norm: float | None
    class_weight: Any
    label_smoothing: float
    metrics: str | Callable[..., Any] | Sequence[Any]
    monitor: str | None
    mode: str
    callbacks: Any
    log_with: Any
    cache: str | Path | None
    dtype: str
    engine: str
    cluster: str | None
    precision: str
    device: str | None
    task_weights: Mapping[str, float] | None
    baselines: bool


def _holds(rule: Callable[[Any], bool], value: Any) -> bool:
    try:
        return bool(rule(value))
    except (TypeError, AttributeError):
        return False


def _is_callback(value: Any) -> bool:
    named = isinstance(value, str) and value.startswith(CALLABLE)
    return named or (not isinstance(value, str | type) and (callable(value) or any(hasattr(value, hook) for hook in HOOKS)))


def _together(values: Mapping[str, Any]) -> list[str]:
    """Return what does not go together in values that are in their ranges."""
    plateau = [name for name in ("plateau_factor", "plateau_patience") if values.get(name, _USUAL[name]) != _USUAL[name]]
    found = [
        f"{name}={values[name]!r} goes with schedule='plateau'; received {values.get('schedule', 'auto')!r}"
        for name in plateau
        if values.get("schedule") != "plateau"
    ]
    made = values.get("optimizer")
    own = [name for name in ("weight_decay", "momentum") if name in values and values[name] != _USUAL[name]]
    return found + [f"{name}={values[name]!r} goes with optimizers by name; set it in your function" for name in own if callable(made)]


def _plain_loss(loss: Any) -> Any:
    """Return the setting `loss` as plain data: functions by name."""
    if isinstance(loss, Mapping):
        return {name: _plain_loss(one) for name, one in loss.items()}
    return None if loss is None else plain_name(loss)


def _is_loss(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(name, str) and _is_loss(one) for name, one in value.items())
    return value is None or value in LOSSES or callable(value) or (isinstance(value, str) and value.startswith(CALLABLE))


def is_whole(value: Any) -> bool:
    """Tell whether a value is a whole number, and not True or False."""
    return isinstance(value, int) and not isinstance(value, bool)


def _weights(value: Any) -> bool:
    return not isinstance(value, (str, Mapping)) and len(value) > 0 and all(weight >= 0 for weight in value)


def _task_weights(value: Any) -> bool:
    return isinstance(value, Mapping) and all(isinstance(name, str) and 0 < weight < float("inf") for name, weight in value.items())


def _device(value: Any) -> bool:
    try:
        return isinstance(value, str) and torch.device(value).type != "meta"
    except RuntimeError:
        return False


_RULES: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "epochs": ("a whole number, 0 or more, or None", lambda value: value is None or (is_whole(value) and value >= 0)),
    "batch_norm": (f"one of {', '.join(BATCH_NORMS)}", lambda value: value in BATCH_NORMS),
    "refit": ("'auto', True, False or 'all'", lambda value: isinstance(value, bool) or value in ("auto", "all")),
    "batch_size": ("a whole number, 1 or more", lambda value: is_whole(value) and value >= 1),
    "optimizer": (
        f"one of {', '.join(OPTIMIZERS)}, or a function that makes one from groups of parameters",
        lambda value: value in OPTIMIZERS or callable(value) or value.startswith(CALLABLE),
    ),
    "loss": (f"one of {', '.join(LOSSES)}, a function of logits and targets, a mapping from task to these, or None", _is_loss),
    "metrics": (
        "names of scorers of scikit-learn, or functions of true and predicted targets",
        lambda value: all(isinstance(one, str) or callable(one) for one in value),
    ),
    "monitor": ("the name of a figure of the history, or None", lambda value: value is None or isinstance(value, str)),
    "mode": ("'auto', 'min' or 'max'", lambda value: value in ("auto", "min", "max")),
    "callbacks": (
        "objects with hooks such as on_epoch_end(epoch, logs), or functions of an epoch and its figures",
        lambda value: all(map(_is_callback, value)),
    ),
    "log_with": (
        "the name of a tracker such as 'tensorboard', a tracker of accelerate, or None",
        lambda value: not isinstance(value, bool),
    ),
    "plateau_factor": ("a number in (0, 1)", lambda value: 0 < value < 1),
    "plateau_patience": ("a whole number, 0 or more", lambda value: is_whole(value) and value >= 0),
    "schedule": (f"one of {', '.join(SCHEDULES)}", lambda value: value in SCHEDULES),
    "layer_decay": ("a number in (0, 1], or None", lambda value: value is None or 0 < value <= 1),
    "class_weight": (
        "'balanced', one weight a class (0 or more), or None",
        lambda value: value is None or value == "balanced" or _weights(value),
    ),
    "cache": ("a folder, 'memory' or None", lambda value: value is None or isinstance(value, str)),
    "dtype": ("float32 or float16", lambda value: value in ("float32", "float16")),
    "engine": (f"one of {', '.join(ENGINES)}", lambda value: value in ENGINES),
    "precision": ("one of auto, float32, bfloat16", lambda value: value in ("auto", "float32", "bfloat16")),
    "cluster": ("'auto', 'ray://HOST:PORT' or None", lambda value: value is None or value == "auto" or str(value).startswith("ray://")),
    "device": ("a device such as 'cpu' or 'cuda', or None", lambda value: value is None or _device(value)),
    "task_weights": ("task -> weight (a number above 0), or None", lambda value: value is None or _task_weights(value)),
    "baselines": ("True or False", lambda value: isinstance(value, bool)),
    **dict.fromkeys(
        ("min_learning_rate", "decay", "l1", "stay_near", "co_tuning"), ("a number, 0 or more", lambda value: 0 <= value < float("inf"))
    ),
    **dict.fromkeys(("weight_decay", "min_delta"), ("a number, 0 or more", lambda value: value >= 0)),
    **dict.fromkeys(("dropout", "distill", "momentum", "warmup", "label_smoothing"), ("a number in [0, 1)", lambda value: 0 <= value < 1)),
    **dict.fromkeys(("learning_rate", "clip_norm"), ("a number above 0, or None", lambda value: value is None or value > 0)),
    **dict.fromkeys(
        ("unfreeze_every", "patience"),
        ("a whole number, 1 or more, or None", lambda value: value is None or (is_whole(value) and value >= 1)),
    ),
}
_USUAL = {field.name: field.default for field in fields(Settings)}
"""Setting -> its default."""
