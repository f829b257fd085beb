"""Exceptions of regraft.

    RegraftError
    ├── InputError            the user's input or a setting is wrong (exit code 2 of the commands)
    │   ├── NetworkError      the network cannot be opened, inspected or changed as requested
    │   │   ├── UnsafeFileError     opening the file would run code or read other files
    │   │   └── AmbiguousMatchError weights match more than one parameter
    │   ├── DataError         the data set cannot be used in its current form
    │   ├── SettingError      a setting is unknown or out of range
    │   └── CacheError        the folder or disk of a feature cache is not usable
    └── MissingExtraError     an optional library is not installed (also an ImportError)

Every message states what was received, what was expected and what to do.
"""

import difflib
import functools
import importlib
import inspect
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from reprlib import repr as brief
from types import ModuleType
from typing import Any, ParamSpec, TypeVar

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
    "checked_call",
    "name_here",
    "near_names",
    "optional_import",
    "takes_paths",
    "unknown_setting",
]


_ELSEWHERE: dict[str, str] = {
    "learning_rate": "lr base_lr max_lr lr_max lr0 learning_rate_init eta",
    "clip_norm": "clipnorm global_clipnorm grad_clip clip_grad clip_grad_norm max_grad_norm gradient_clip_val",
    "weight_decay": "l2 wd weight_decay_rate",
    "epochs": "n_epochs num_epochs max_epochs nb_epoch nb_epochs num_train_epochs max_iter epoch",
    "batch_size": "bs batch per_device_train_batch_size train_batch_size gradient_accumulation_steps accumulate_grad_batches",
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
    "task_weights": "loss_weights",
    "layer_decay": "layerwise_lr_decay llrd layer_lr_decay",
    "stay_near": "l2_sp",
    "trials": "n_trials n_iter max_trials num_trials",
    "callbacks": "cbs callback",
    "momentum": "moms beta_1",
    "metrics": "metric scoring eval_metric",
    "min_delta": "tol",
    "classes": "n_out num_classes n_classes class_names",
}
"""Setting of regraft -> its names in Keras, PyTorch, scikit-learn, fastai, timm, Lightning, Transformers and Optuna."""
_WORDS = {
    "cross_entropy": "categorical_crossentropy sparse_categorical_crossentropy binary_crossentropy crossentropy crossentropyloss nll bce",
    "mse": "mean_squared_error mseloss squared_error",
    "mae": "mean_absolute_error l1loss absolute_error",
    "accuracy": "acc categorical_accuracy sparse_categorical_accuracy binary_accuracy",
    "adapt": "fine_tune finetune fit fit_one_cycle train learner vision_learner trainer",
    "load": "load_model load_learner from_pretrained create_model load_weights",
    "read": "imagedataloaders datablock load_data load_dataset read_csv image_dataset_from_directory",
    "predict": "get_preds infer",
    "search": "lr_find tune",
}
"""Value or function of regraft -> its names there."""
_HERE = {other: name for name, others in {**_ELSEWHERE, **_WORDS}.items() for other in others.split()}

_NONE = {
    "verbose": "progress is shown where the output is a terminal",
    "nesterov": "optimizer='sgd' has Nesterov momentum",
    "clipvalue": "gradients are clipped by their norm: clip_norm=",
    "initial_epoch": "epochs continue after those in the network's history",
    "steps_per_epoch": "an epoch is one pass over the training set",
    "mixup": "regularise with label_smoothing=, dropout= or views=",
    "num_workers": "no loader processes are used; the frozen part runs once for each example, and its outputs are cached",
    "fp16": "training is in single precision; dtype= is that of cached activations",
    "shuffle": "examples are shuffled in every epoch, by seed=",
    "freeze_epochs": "'partial' and 'full' train the head first, as long as it gains; then unfreeze_every= unfreezes block after block",
    "pretrained": "networks come with their trained weights, unless they are loaded with weights='random'",
    "hidden_layer_sizes": "further layers below the head are those of regraft.retarget(net, classes, hidden=[(100, 'relu')])",
    "batch_tfms": "augment= makes augmented copies; the network's own preprocessing prepares the examples",
    "splitter": "frozen= or trainable= names the layers that stay frozen or are trained",
}
"""Setting of other libraries that regraft does not have -> explanation of what regraft does instead."""
_NONE_TOO = {
    **dict.fromkeys(("bf16", "precision", "mixed_precision", "amp"), "fp16"),
    **dict.fromkeys(("workers", "use_multiprocessing", "dataloader_num_workers", "n_jobs", "max_queue_size"), "num_workers"),
    "item_tfms": "batch_tfms",
    **{"max_steps": "steps_per_epoch", "validation_steps": "steps_per_epoch", "cutmix": "mixup", "mixup_alpha": "mixup"},
}
"""Further setting of other libraries -> the entry of `_NONE` that explains it."""

_READING = {name: name for name in ("target", "files", "group", "condition", "kind", "columns", "outside", "inputs")}
_READING |= {name: name for name in ("sample_weight", "skip_bad", "max_length")}
_READING |= dict.fromkeys(("y", "label", "labels", "label_column", "label_col", "target_column", "y_col"), "target")
"""Keyword of `regraft.read`, or its name in other libraries -> the keyword. They are no settings of a training."""
_LOADING = frozenset(("architecture", "channels", "head", "inputs", "preprocessing", "trust", "weights"))
"""Keywords of `regraft.load`. Other functions take the network that it returns."""


class RegraftError(Exception):
    """Base class of all exceptions of regraft.

    Example:
        >>> import regraft
        >>> try:
        ...     regraft.load("there/is/none.keras")
        ... except regraft.RegraftError as error:
        ...     print(type(error).__name__)
        NetworkError
    """


class InputError(RegraftError, ValueError):
    """The user's input or a setting is invalid. Nothing has been started."""


class NetworkError(InputError):
    """A network cannot be opened, inspected or changed as requested."""


class UnsafeFileError(NetworkError):
    """Opening a file would run code stored in it, or read a location that the user did not name."""


class AmbiguousMatchError(NetworkError):
    """Weights of a file match more than one parameter of the network."""


class DataError(InputError):
    """A data set cannot be used in its current form."""


class SettingError(InputError):
    """A setting is unknown or out of range."""


class MissingExtraError(RegraftError, ImportError):
    """An optional library is required but not installed."""


class CacheError(InputError):
    """The folder or disk of a feature cache is not usable."""


def name_here(name: str) -> str | None:
    """Return the regraft setting for a `name` used by other libraries, or None."""
    return _HERE.get(name.lower().replace("-", "_"))


def near_names(name: object, names: Iterable[str], *, count: int = 3) -> str:
    """Return the names most similar to `name`, as the end of an error message.

    Args:
        name: the received name, or what was received in place of one.
        names: the valid names.
        count: maximum number of suggestions.

    Returns:
        `"; here it is called 'a'"` if `name` is the term of another library; `"; did you mean 'a', 'b'?"` if there are similar names;
        otherwise `"; valid: 'a', 'b', …"`.
    """
    options, text = [str(option) for option in names], str(name)
    here = name_here(text)
    if here in options:
        return f"; here it is called {here!r}"
    near = difflib.get_close_matches(text, options, n=count, cutoff=0.5)
    if near:
        return "; did you mean " + ", ".join(repr(option) for option in near) + "?"
    shown = ", ".join(repr(option) for option in options[:12])
    return f"; valid: {shown}{', …' if len(options) > 12 else ''}" if options else ""


def unknown_setting(name: str, known: Iterable[str]) -> str:
    """Return an error message for an unknown setting `name`: similar `known` names, the keyword of `regraft.read`, or what regraft does
    instead."""
    instead, here = _NONE.get(_NONE_TOO.get(name, name)), name_here(name)
    if instead is not None:
        return f"there is no setting {name!r}: {instead}"
    if elsewhere := _keyword_of(name):
        return f"unknown setting {name!r}; {elsewhere}"
    if here in _ELSEWHERE:
        return f"unknown setting {name!r}; here it is called {here!r}"
    return f"unknown setting {name!r}{near_names(name, known)}"


def _keyword_of(name: str) -> str:
    """Return, for a keyword of `regraft.read` or `regraft.load`, or its name in other libraries, what to do; else an empty text."""
    read = {"read": f"regraft.read(data, {_READING[name]}=…) as the data"} if name in _READING else {}
    places = {**read, **({"load": f"regraft.load(net, {name}=…) as the network"} if name in _LOADING else {})}
    verbs = " and of ".join(f"regraft.{verb}" for verb in places)
    return f"it is a keyword of {verbs}: give {', or '.join(places.values())}" if places else ""


Given = ParamSpec("Given")
Found = TypeVar("Found")


def _paths_checked(function: Callable[..., Any]) -> Callable[[tuple[Any, ...], Mapping[str, Any]], None]:
    """Return a function of the arguments of `function` that raises if one is annotated as a path, and is none."""
    known = inspect.signature(function).parameters
    paths = {name: str(one.annotation) for name, one in known.items()}
    paths = {name: kind for name, kind in paths.items() if re.fullmatch(r"str \| (pathlib\.)?Path( \| None)?", kind)}

    def check(args: tuple[Any, ...], named: Mapping[str, Any]) -> None:
        given = {**dict(zip(known, args, strict=False)), **named}
        for name, kind in paths.items():
            optional = kind.endswith("None")
            if name in given and not isinstance(given[name], str | os.PathLike) and not (optional and given[name] is None):
                others = ", or None" if optional else ""
                raise SettingError(f"{name}={brief(given[name])}: expected a path, as text or pathlib.Path{others}.")

    return check


def takes_paths(function: Callable[Given, Found]) -> Callable[Given, Found]:
    """Decorator: an argument that is annotated as a path, and is none, is an error."""
    check = _paths_checked(function)

    @functools.wraps(function)
    def called(*args: Given.args, **named: Given.kwargs) -> Found:
        check(args, named)
        return function(*args, **named)

    return called


def checked_call(verb: Callable[Given, Found]) -> Callable[Given, Found]:
    """Decorator of a public function: a call that its signature does not allow is an error that says what to do. So are examples and labels
    as two arguments, as other libraries take them, and what is no path where one is expected."""
    known = inspect.signature(verb).parameters
    taken = [one.name for one in known.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    needed = [name for name in taken if known[name].default is inspect.Parameter.empty]
    takes_settings = any(one.kind is one.VAR_KEYWORD for one in known.values())
    check = _paths_checked(verb)

    @functools.wraps(verb)
    def called(*args: Given.args, **named: Given.kwargs) -> Found:
        own, placed = verb.__name__, taken[: len(args)]
        if len(args) > len(taken):
            pair = f"Examples and labels are one pair: regraft.{own}({'net, ' if len(taken) > 1 else ''}(X, y)). "
            pair = pair if taken[-1] in ("data", "examples", "source") else ""
            raise SettingError(f"{own} takes {_joined(taken)} without a name; received {len(args)} values. {pair}Give options by name.")
        twice = next((name for name in placed if name in named), None)
        if twice is not None:
            raise SettingError(f"{own} takes one {twice}=; received one by its place and one by its name.")
        missing = [name for name in needed if name not in placed and name not in named]
        wrong = next((name for name in named if name not in known and not takes_settings), None)
        if wrong is not None:
            raise SettingError(f"{own} takes no {wrong!r}{_instead(wrong, known)}")
        if missing:
            raise SettingError(f"{own} takes {_joined(needed)}; received no {_joined(missing, 'and no')}.")
        check(args, named)
        return verb(*args, **named)

    return called


def _joined(names: Sequence[str], last: str = "and") -> str:
    return f" {last} ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def _instead(wrong: str, known: Collection[str]) -> str:
    """Return what to do about a keyword that a function does not have, as the end of an error message."""
    here, setting = _READING.get(wrong, wrong), name_here(wrong)
    if here in known:
        return f"; here it is called {here!r}"
    if elsewhere := _keyword_of(wrong):
        return f"; {elsewhere}"
    adapts = setting in _ELSEWHERE and setting not in known
    return f"; it is {setting}= of regraft.adapt" if adapts else near_names(wrong, known)


def optional_import(module: str, extra: str, *, purpose: str) -> ModuleType:
    """Import an optional library.

    Args:
        module: dotted name, for example `"timm"`.
        extra: the extra of regraft that installs it, for example `"vision"`.
        purpose: what needs it, for the message, for example `"'timm:resnet18'"`.

    Returns:
        The imported module.

    Raises:
        MissingExtraError: if it is not installed. The message says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise
        raise MissingExtraError(
            f"{purpose} needs the library '{module}', which is not installed. Install it with: pip install 'regraft[{extra}]'"
        ) from error
