"""All errors that regraft raises on purpose.

    RegraftError
    ├── InputError            the user's input or a setting is wrong (exit code 2 of the commands)
    │   ├── NetworkError      the network cannot be opened, inspected or changed as asked
    │   │   ├── UnsafeFileError     opening the file would run code or read elsewhere
    │   │   └── AmbiguousMatchError weights could go to more than one place
    │   ├── DataError         the data set cannot be used as it stands
    │   ├── SettingError      a setting is unknown or out of its range
    │   └── CacheError        the folder or disk of a feature cache does not serve
    └── MissingExtraError     an optional library is not installed (also an ImportError)

Every message says what was received, what was expected and what to do.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Iterable
from types import ModuleType

__all__ = [
    "AmbiguousMatchError",
    "CacheError",
    "DataError",
    "InputError",
    "MissingExtraError",
    "NetworkError",
    "RegraftError",
    "SettingError",
    "UnsafeFileError",
    "name_here",
    "near_names",
    "optional_import",
    "unknown_setting",
]


_ELSEWHERE: dict[str, str] = {
    "learning_rate": "lr base_lr max_lr lr_max lr0 learning_rate_init eta",
    "clip_norm": "clipnorm global_clipnorm grad_clip clip_grad clip_grad_norm max_grad_norm gradient_clip_val",
    "weight_decay": "l2 wd weight_decay_rate",
    "epochs": "n_epochs num_epochs max_epochs nb_epoch nb_epochs num_train_epochs max_iter epoch",
    "batch_size": "bs batch per_device_train_batch_size train_batch_size",
    "optimizer": "opt optim opt_func optimiser",
    "validation": "validation_split val_split valid_pct validation_fraction val_size select",
    "holdout": "test_split test_size valid",
    "test": "validation_data val_data eval_dataset test_data validation_set",
    "seed": "random_state random_seed",
    "patience": "early_stopping early_stopping_patience n_iter_no_change",
    "schedule": "scheduler lr_scheduler lr_scheduler_type lr_schedule learning_rate_schedule",
    "loss": "criterion loss_fn loss_func loss_function",
    "min_learning_rate": "min_lr eta_min lr_min",
    "plateau_factor": "lr_factor reduce_lr_factor",
    "warmup": "warmup_ratio warmup_steps warmup_epochs",
    "frozen": "freeze freeze_layers n_frozen frozen_layers freeze_at freeze_until",
    "label_smoothing": "smoothing label_smooth label_smoothing_factor",
    "dropout": "dropout_rate drop_rate drop dropout_p",
    "augment": "augmentation data_augmentation transforms aug",
    "budget": "max_time time_limit timeout time_budget",
    "out": "output_dir save_path save_dir checkpoint_dir default_root_dir logdir log_dir",
    "class_weight": "class_weights",
    "layer_decay": "layerwise_lr_decay llrd layer_lr_decay",
    "stay_near": "l2_sp",
    "trials": "n_trials n_iter max_trials num_trials",
}
"""Name here -> what it is called in Keras, PyTorch, scikit-learn, fastai, timm, Lightning, Transformers and Optuna."""
_HERE = {other: name for name, others in _ELSEWHERE.items() for other in others.split()}

_NONE = {
    "verbose": "progress is shown where the output is a terminal",
    "nesterov": "optimizer='sgd' has Nesterov momentum",
    "fp16": "training is in single precision; dtype= is that of cached activations",
    "bf16": "training is in single precision; dtype= is that of cached activations",
    "precision": "training is in single precision; dtype= is that of cached activations",
    "mixed_precision": "training is in single precision; dtype= is that of cached activations",
    "shuffle": "examples are shuffled in every epoch, by seed=",
}
"""What other libraries can set and regraft cannot -> what holds in its place."""


class RegraftError(Exception):
    """Root of every error that regraft raises on purpose.

    Example:
        >>> import regraft
        >>> try:
        ...     regraft.load("there/is/none.keras")
        ... except regraft.RegraftError as error:
        ...     print(type(error).__name__)
        NetworkError
    """


class InputError(RegraftError, ValueError):
    """The user's input or a setting is wrong; nothing has been started."""


class NetworkError(InputError):
    """A network cannot be opened, inspected or changed as asked."""


class UnsafeFileError(NetworkError):
    """Opening a file would run code that it carries, or read a place that the user did not name."""


class AmbiguousMatchError(NetworkError):
    """Weights of a file could go to more than one place of the network."""


class DataError(InputError):
    """A data set cannot be used as it stands."""


class SettingError(InputError):
    """A setting is unknown or out of its range."""


class MissingExtraError(RegraftError, ImportError):
    """An optional library is needed and not installed."""


class CacheError(InputError):
    """The folder or disk of a feature cache does not serve."""


def name_here(name: str) -> str | None:
    """Return what regraft calls a setting that other libraries call `name`; None where nothing is known."""
    return _HERE.get(name.lower().replace("-", "_"))


def near_names(name: str, names: Iterable[str], *, count: int = 3) -> str:
    """Return the names closest to `name`, as the end of an error message.

    Args:
        name: what was received.
        names: what would have been valid.
        count: at most so many are named.

    Returns:
        `"; here it is called 'a'"` where other libraries call it `name`; `"; did you mean 'a', 'b'?"`; or, where nothing is near,
        `"; valid: 'a', 'b', …"`.
    """
    options = [str(option) for option in names]
    here = name_here(name)
    if here in options:
        return f"; here it is called {here!r}"
    near = difflib.get_close_matches(name, options, n=count, cutoff=0.5)
    if near:
        return "; did you mean " + ", ".join(repr(option) for option in near) + "?"
    shown = ", ".join(repr(option) for option in options[:12])
    return f"; valid: {shown}{', …' if len(options) > 12 else ''}" if options else ""


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return what is wrong with a setting of this `name`, with the nearest `known` ones, or with what holds in its place."""
    return f"there is no setting {name!r}: {_NONE[name]}" if name in _NONE else f"unknown setting {name!r}{near_names(name, known)}"


def optional_import(module: str, extra: str, *, purpose: str) -> ModuleType:
    """Import an optional library, or say how to install it.

    Args:
        module: dotted name, such as `"timm"`.
        extra: the extra of regraft that brings it, such as `"vision"`.
        purpose: what needs it, for the message, such as `"'timm:resnet18'"`.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs the library '{module}', which is not installed. Install it with: pip install 'regraft[{extra}]'"
        ) from error
