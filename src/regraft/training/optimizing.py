"""PyTorch optimizers by name, or from a function of the user."""

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import Parameter
from torch.optim import Optimizer

from ..errors import SettingError

Groups = list[dict[str, Any]]
_KINDS: dict[str, Callable[..., Optimizer]] = {
    "adamw": torch.optim.AdamW,
    "adam": torch.optim.Adam,
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
    "nadam": torch.optim.NAdam,
    "adagrad": torch.optim.Adagrad,
    "adamax": torch.optim.Adamax,
}
OPTIMIZERS = tuple(_KINDS)
_FUSED = ("adamw", "adam", "sgd")  # Optimizers with a fused implementation: one call for all parameters


def named_optimizer(name: str, groups: Groups, *, momentum: float) -> Optimizer:
    """Return the optimizer of that name, fused where possible. The caller sets its learning rate."""
    options: dict[str, Any] = {"momentum": momentum} if name in ("sgd", "rmsprop") else {}
    options |= {"nesterov": momentum > 0} if name == "sgd" else {}
    if name in _FUSED and all(
        parameter.is_floating_point() and parameter.device.type in ("cpu", "cuda") for group in groups for parameter in group["params"]
    ):
        options["fused"] = True
    return _KINDS[name](groups, lr=1.0, **options)


def optimizer_by(factory: Callable[..., Any], groups: Groups) -> Optimizer:
    """Return the optimizer that a function of the user makes from parameter groups."""
    try:
        made = factory(groups)
    except Exception as error:
        raise SettingError(f"optimizer= failed on groups of parameters: {type(error).__name__}: {error}") from error
    if not isinstance(made, Optimizer) or isinstance(made, torch.optim.LBFGS):
        raise SettingError(
            f"optimizer= returned {type(made).__name__}; expected an optimizer of PyTorch whose step needs no closure, such as "
            "lambda params: torch.optim.SGD(params, lr=0.01)."
        )
    return made


def factory_rate(factory: Callable[..., Any]) -> float:
    """Return the default learning rate of the optimizer that `factory` makes."""
    return float(optimizer_by(factory, [{"params": [Parameter(torch.zeros(1))]}]).defaults.get("lr", 1e-3))
