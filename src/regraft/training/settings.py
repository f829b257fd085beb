"""Training settings, checked before anything starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, fields, make_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, TypedDict, Unpack, get_args, get_type_hints

import torch

from ..data.preprocessings.augmenting import CALLABLE, plain_name
from ..errors import SettingError, name_here, unknown_setting
from ..files.text import shown
from ..freezing.engines import ENGINES
from ..methods.contract import Option
from ..tasks import LOSSES, loss_problems
from .callbacks import HOOKS, callback_problems
from .optimizing import OPTIMIZERS, factory_rate

__all__ = ["OPTIMIZERS", "SCHEDULES", "SettingKeywords", "Settings", "is_whole"]

SCHEDULES = ("auto", "cosine", "plateau", "constant")
_SEVERAL = ("metrics", "callbacks")  # Settings that hold a list; a single value becomes a list of one
BATCH_NORMS = ("auto", "batch", "frozen")


def is_whole(value: Any) -> bool:
    """Return whether a value is an int and not a bool."""
    return isinstance(value, int) and not isinstance(value, bool)


def _is_loss(value: Any) -> bool:
    if isinstance(value, Mapping):
        return bool(value) and all(isinstance(name, str) and _is_loss(one) for name, one in value.items())
    return value is None or value in LOSSES or callable(value) or (isinstance(value, str) and value.startswith(CALLABLE))


def _is_callback(value: Any) -> bool:
    named = isinstance(value, str) and value.startswith(CALLABLE)
    return named or (not isinstance(value, str | type) and (callable(value) or any(hasattr(value, hook) for hook in HOOKS)))


def _weights(value: Any) -> bool:
    return not isinstance(value, (str, Mapping)) and len(value) > 0 and all(weight >= 0 for weight in value)


def _device(value: Any) -> bool:
    try:
        return isinstance(value, str) and torch.device(value).type != "meta"
    except RuntimeError:
        return False


_ABOVE_OR_NONE = ("a number above 0, or None", lambda value: value is None or value > 0)
_NOT_NEGATIVE = ("a number, 0 or more", lambda value: 0 <= value < float("inf"))
_SHARE = ("a number in [0, 1)", lambda value: 0 <= value < 1)
_COUNT_OR_NONE = ("a whole number, 1 or more, or None", lambda value: value is None or (is_whole(value) and value >= 1))


class SettingKeywords(TypedDict, total=False):
    """The settings as keywords: each with its type, its default, what is expected, and a function that tells whether a value is that.

    `Settings` and the estimators of scikit-learn take names and defaults from here; editors complete the keywords.
    """

    epochs: Annotated[
        int | None, None, "a whole number, 0 or more, or None", lambda value: value is None or (is_whole(value) and value >= 0)
    ]
    batch_size: Annotated[int, 32, "a whole number, 1 or more", lambda value: is_whole(value) and value >= 1]
    optimizer: Annotated[
        Any,
        "adamw",
        f"one of {', '.join(OPTIMIZERS)}, or a function that makes one from groups of parameters",
        lambda value: value in OPTIMIZERS or callable(value) or value.startswith(CALLABLE),
    ]
    loss: Annotated[
        Any, None, f"one of {', '.join(LOSSES)}, a function of logits and targets, a mapping from task to these, or None", _is_loss
    ]
    learning_rate: Annotated[float | None, None, *_ABOVE_OR_NONE]
    weight_decay: Annotated[float, 0.01, "a number, 0 or more", lambda value: value >= 0]
    dropout: Annotated[float, 0.0, *_SHARE]
    l1: Annotated[float, 0.0, *_NOT_NEGATIVE]
    stay_near: Annotated[float, 0.0, *_NOT_NEGATIVE]
    distill: Annotated[float, 0.0, *_SHARE]
    co_tuning: Annotated[float, 0.0, *_NOT_NEGATIVE]
    momentum: Annotated[float, 0.9, *_SHARE]
    schedule: Annotated[str, "auto", f"one of {', '.join(SCHEDULES)}", lambda value: value in SCHEDULES]
    plateau_factor: Annotated[float, 0.1, "a number in (0, 1)", lambda value: 0 < value < 1]
    plateau_patience: Annotated[int, 2, "a whole number, 0 or more", lambda value: is_whole(value) and value >= 0]
    min_learning_rate: Annotated[float, 0.0, *_NOT_NEGATIVE]
    decay: Annotated[float, 0.0, *_NOT_NEGATIVE]
    warmup: Annotated[float, 0.05, *_SHARE]
    layer_decay: Annotated[float | None, None, "a number in (0, 1], or None", lambda value: value is None or 0 < value <= 1]
    batch_norm: Annotated[str, "auto", f"one of {', '.join(BATCH_NORMS)}", lambda value: value in BATCH_NORMS]
    refit: Annotated[str | bool, "auto", "'auto', True, False or 'all'", lambda value: isinstance(value, bool) or value in ("auto", "all")]
    unfreeze_every: Annotated[int | None, None, *_COUNT_OR_NONE]
    patience: Annotated[int | None, 10, *_COUNT_OR_NONE]
    min_delta: Annotated[float, 0.0, "a number, 0 or more", lambda value: value >= 0]
    clip_norm: Annotated[float | None, None, *_ABOVE_OR_NONE]
    class_weight: Annotated[
        Any,
        None,
        "'balanced', a list with one weight a class (0 or more) in the order of the classes, or None",
        lambda value: value is None or value == "balanced" or _weights(value),
    ]
    label_smoothing: Annotated[float, 0.0, *_SHARE]
    metrics: Annotated[
        str | Callable[..., Any] | Sequence[Any],
        (),
        "names of scorers of scikit-learn, or functions of true and predicted targets",
        lambda value: all(isinstance(one, str) or callable(one) for one in value),
    ]
    monitor: Annotated[
        str | None, None, "the name of a figure of the history, or None", lambda value: value is None or isinstance(value, str)
    ]
    mode: Annotated[str, "auto", "'auto', 'min' or 'max'", lambda value: value in ("auto", "min", "max")]
    callbacks: Annotated[
        Any,
        (),
        "objects with hooks such as on_epoch_end(epoch, logs), or functions of an epoch and its figures",
        lambda value: all(map(_is_callback, value)),
    ]
    log_with: Annotated[
        Any,
        None,
        "the name of a tracker such as 'tensorboard', a tracker of accelerate, or None",
        lambda value: not isinstance(value, bool),
    ]
    cache: Annotated[str | Path | None, "auto", "a folder, 'memory' or None", lambda value: value is None or isinstance(value, str)]
    dtype: Annotated[str, "float32", "float32 or float16", lambda value: value in ("float32", "float16")]
    engine: Annotated[str, "auto", f"one of {', '.join(ENGINES)}", lambda value: value in ENGINES]
    cluster: Annotated[
        str | None,
        None,
        "'auto', 'ray://HOST:PORT' or None",
        lambda value: value is None or value == "auto" or str(value).startswith("ray://"),
    ]
    precision: Annotated[str, "float32", "one of auto, float32, bfloat16", lambda value: value in ("auto", "float32", "bfloat16")]
    device: Annotated[str | None, None, "a device such as 'cpu' or 'cuda', or None", lambda value: value is None or _device(value)]
    task_weights: Annotated[
        Mapping[str, float] | None,
        None,
        "task -> weight (a number above 0), or None",
        lambda value: value is None or all(isinstance(name, str) and 0 < weight < float("inf") for name, weight in value.items()),
    ]
    baselines: Annotated[bool, False, "True or False", lambda value: isinstance(value, bool)]


_KINDS = get_type_hints(SettingKeywords)
_TABLE = {name: Option(*get_args(kind)[1:]) for name, kind in get_type_hints(SettingKeywords, include_extras=True).items()}
if TYPE_CHECKING:

    class _Values:
        """What `make_dataclass` gives."""

        __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

        def __init__(self, **values: Unpack[SettingKeywords]) -> None: ...

        def __getattr__(self, name: str) -> Any: ...
else:
    _Values = make_dataclass("_Values", [(name, _KINDS[name], one.default) for name, one in _TABLE.items()], frozen=True)


class Settings(_Values):
    """Settings of a training.

    Attributes:
        epochs: maximum number of passes over the training set. 0 trains nothing. None: until the validation loss stops falling.
        batch_size: number of examples per optimizer step.
        optimizer: "adamw", "adam", "sgd" (with Nesterov momentum), "rmsprop", "nadam", "adagrad" or "adamax"; or a function that makes
            a PyTorch optimizer from parameter groups. Its learning rate is used if `learning_rate` is not given.
        loss: training loss of the first task, or a mapping from task to loss: "cross_entropy", "focal" or "hinge" (classes, labels),
            "mse", "mae", "huber", "msle" or "poisson" (numbers), or a function of logits (B, C) and targets that returns a scalar or
            (B,). None: cross-entropy or squared error. The validation loss is the same. With a given loss, heads are trained, not
            solved in closed form.
        learning_rate: learning rate of the head. None: chosen by short trainings on the validation set.
        weight_decay: decoupled for "adamw", L2 otherwise. It applies to weights, not to biases and normalisation parameters.
        dropout: dropout rate of the input of the heads, in [0, 1).
        l1: factor of the L1 norm of the heads' trained class weights in the loss, 0 or more.
        stay_near: strength of the pull of trained weights below the heads to their initial values, 0 or more; 0 turns it off.
        distill: share of the loss whose target is the output of the old head, in [0, 1); 0 turns it off.
        co_tuning: factor of the loss that trains the old head on targets derived from the new classes, 0 or more; 0 turns it off.
        momentum: momentum of "sgd" and "rmsprop", in [0, 1).
        schedule: "auto" (constant, then a linear fall to 0 once the validation loss stops falling), "cosine", "plateau" (multiplied by
            `plateau_factor` after `plateau_patience` epochs without progress) or "constant".
        plateau_factor: factor of the learning rate under the schedule "plateau", in (0, 1).
        plateau_patience: number of epochs without progress that "plateau" tolerates.
        min_learning_rate: lower bound of the head's learning rate under every schedule.
        decay: the learning rate is divided by 1 + decay * (steps so far), in addition to the schedule.
        warmup: share of all steps in which the learning rate rises from 0, in [0, 1). With "auto": share of the first ten epochs, at
            most one epoch.
        layer_decay: factor of the learning rate from one block to the block below, in (0, 1]. None: chosen by short trainings from 1
            and the values that give the lowest trained block 0.3 and 0.1 of the head's learning rate.
        batch_norm: statistics that trained BatchNorm layers use: "batch" (of the batch), "frozen" (the stored ones) or "auto" (chosen
            by short trainings).
        unfreeze_every: number of epochs between the stages of staged unfreezing: the head first, then block by block from the top.
            None trains everything from the start.
        patience: number of epochs without a lower validation loss after which the learning rate falls (schedule "auto") or training
            stops. None never stops early.
        refit: train again on training and validation set with the chosen settings. "auto": if they have fewer than 5,000 examples;
            True; False; "all": on the holdout set as well, after the evaluation.
        min_delta: smallest decrease of the loss that counts as progress.
        clip_norm: maximum norm of the gradient; None turns clipping off.
        class_weight: "balanced", one weight per class, or None.
        label_smoothing: in [0, 1).
        cache: folder of feature caches; "memory"; None ("none") to compute the frozen part in every epoch; "auto": the user's cache
            folder.
        dtype: dtype of cached features, "float32" or "float16".
        engine: engine that computes frozen parts on a CPU: "eager" (plain PyTorch), "layers" (layers of PyTorch in place of Keras' own),
            "compile" (torch.compile), "onnxruntime" or "openvino". "auto": the fastest installed one if the pass is long enough to pay for
            building it, else "eager".
        precision: precision of frozen parts. "float32"; "bfloat16": used if the leave-one-out accuracy of a probe on such features of
            256 examples is within one standard error of the one in single precision; "auto": the same, if bfloat16 is also faster.
        cluster: Ray cluster whose workers compute frozen parts and the trials of a search, and train together with this process if
            more than a head is trained: "ray://HOST:PORT", or "auto" for the cluster of this machine. None: this machine alone.
        device: device such as "cpu" or "cuda"; None: the best one of the machine.
        metrics: additional metrics of the first task in the history ("validation_NAME"), the scores and the report: names of
            scikit-learn scorers, or functions of the true and the predicted targets.
        monitor: figure that chooses the best epoch, by its name in the history or in Keras, such as "val_accuracy". None: the
            validation loss, after temperature scaling for classes.
        mode: "min", "max", or "auto": names that end in "loss", "error", "rmse", "mae" or "mse" are minimised, all others maximised.
        callbacks: objects with hooks as in Keras, or functions of the epoch number (from 0) and its figures.
        log_with: "tensorboard", "mlflow", "wandb" or another tracker of accelerate, or a tracker object. It receives the figures of
            every epoch and the final scores. Files go to the folder "logs" beside the result, or to the working directory.
        task_weights: task -> weight (above 0) of its loss in the sum, for data with several tasks; 1 for tasks that are left out.
        baselines: also train the same architecture from scratch, as a baseline.
    """

    @classmethod
    def of(cls, given: Mapping[str, Any], *, also: Sequence[str] = ()) -> Settings:
        """Return the settings from keywords, after checking every value; omitted names keep their defaults.

        `also`: further valid names, for suggestions in error messages.
        """
        if not isinstance(given, Mapping):
            raise SettingError(f"The settings are {str(given)[:80]!r}; expected names with values.")
        known = [field.name for field in fields(cls)]
        problems = [unknown_setting(name, [*known, *also]) for name in given if name not in known]
        values = {name: value for name, value in given.items() if name in known}
        if isinstance(values.get("cache"), str | Path):
            values["cache"] = None if values["cache"] == "none" else str(values["cache"])
        for name in values.keys() & set(_SEVERAL):
            one = values[name]
            values[name] = tuple(one) if isinstance(one, list | tuple) else () if one is None else (one,)
        problems += [
            f"{name}={shown(values[name])}: expected {one.rule}{_called_here(values[name], one.rule)}"
            for name, one in _TABLE.items()
            if name in values and not one.accepts(values[name])
        ]
        problems += [] if problems else _together(values)
        if problems:
            raise SettingError("; ".join(problems))
        made = values.get("optimizer")
        return cls(**{**({"learning_rate": factory_rate(made)} if callable(made) else {}), **values})

    @property
    def functions(self) -> dict[str, Any]:
        """Setting -> its value that plain data cannot hold: a callable or object, or the name that plain data store instead."""
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


def _called_here(value: Any, rule: str) -> str:
    """Return the end of a message that names the value of a rule for one of another library; "" for others."""
    here = name_here(value) if isinstance(value, str) else None
    return f"; here it is called {here!r}" if here is not None and here in rule else ""


def _together(values: Mapping[str, Any]) -> list[str]:
    """Return the conflicts between values that are each valid, and what else of another library cannot run here."""
    plateau = [name for name in ("plateau_factor", "plateau_patience") if values.get(name, _TABLE[name].default) != _TABLE[name].default]
    found = [
        f"{name}={values[name]!r} goes with schedule='plateau'; received {values.get('schedule', 'auto')!r}"
        for name in plateau
        if values.get("schedule") != "plateau"
    ]
    made = values.get("optimizer")
    own = [name for name in ("weight_decay", "momentum") if name in values and values[name] != _TABLE[name].default]
    found += [f"{name}={values[name]!r} goes with optimizers by name; set it in your function" for name in own if callable(made)]
    return found + loss_problems(values.get("loss")) + callback_problems(values.get("callbacks", ()))


def _plain_loss(loss: Any) -> Any:
    """Return the setting `loss` as plain data: functions by name."""
    if isinstance(loss, Mapping):
        return {name: _plain_loss(one) for name, one in loss.items()}
    return None if loss is None else plain_name(loss)
