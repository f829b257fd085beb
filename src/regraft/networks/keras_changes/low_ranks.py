"""Low-rank changes of the weights of a Keras body, with Keras' own `enable_lora`: a training form that is added to the weights."""

from __future__ import annotations

import inspect
from typing import Any

import torch

from ...errors import NetworkError, near_names
from ..edits import LowRank
from ..keras_parts.body import KerasBody
from ..keras_parts.drawing import seeded
from .folding import begun
from .sizes import retrack_

__all__ = ["low_rank"]


def low_rank(body: KerasBody, edit: LowRank, *, seed: int) -> KerasBody:
    """Return a copy of a `body` with W + (alpha / rank) A B in place of W in the layers of an `edit`; A is drawn from a `seed`.

    Source: LoRA (Hu et al. 2022). Deviation: Keras draws A with "he_uniform".

    Raises:
        NetworkError: if a layer is not there or cannot be changed so, or is a head.
    """
    for name in edit.layers:
        _refuse_other(body, name)
    twin = body.copy()
    with seeded(seed):
        for name in edit.layers:
            _enable_(twin.modules()[name], edit.rank, alpha=edit.alpha)
    retrack_(twin.module)
    begun(twin, body)
    twin.recount_(edit.layers)
    return twin


def _refuse_other(body: KerasBody, name: str) -> None:
    """Raise if a layer cannot be changed so.

    Raises:
        NetworkError: naming it.
    """
    modules = body.modules()
    able = [other for other, module in modules.items() if hasattr(module, "enable_lora") and other not in body.head_layers]
    if name not in able:
        kind = f"is a {type(modules[name]).__name__}" if name in modules else "is not there"
        what = "is a head" if name in body.head_layers else kind
        raise NetworkError(
            f"layers={name!r}: that layer {what}; expected layers that Keras can give a low-rank change{near_names(name, able)}"
        )
    layer: Any = modules[name]
    if layer.lora_enabled or getattr(layer, "quantization_mode", None):
        raise NetworkError(f"The layer {name!r} has a low-rank change of its own, or is quantised; expected a plain one.")


def _enable_(layer: Any, rank: int, *, alpha: float) -> None:
    """Give a layer a low-rank change that is zero at first.

    Raises:
        NetworkError: if Keras refuses it.
    """
    scaled = "lora_alpha" in inspect.signature(layer.enable_lora).parameters
    try:
        layer.enable_lora(rank, b_initializer="zeros", **({"lora_alpha": alpha} if scaled else {}))
    except (ValueError, NotImplementedError) as error:
        raise NetworkError(f"Keras cannot give the layer {layer.name!r} a low-rank change: {error}") from error
    if not scaled:  # releases before Keras 3.9 know no alpha: the larger A gives the same product at first
        with torch.no_grad():
            factor = next(variable for variable in layer.variables if variable.name.endswith("_a") and "lora" in variable.name)
            factor.value.mul_(alpha / rank)
