"""Fold what was trained beside the weights of a Keras network into them: scales and shifts by channel, and whole training forms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...errors import NetworkError
from ..keras_parts.body import KerasBody, TrainingForm
from ..keras_parts.library import keras
from .sizes import reset_, retrack_

__all__ = ["TrainingForm", "begun", "biased", "fold_", "settled"]


def fold_(layer: Any, *, scale: Tensor | None = None, shift: Tensor | None = None) -> bool:
    """Let a layer give its output times `scale` plus `shift`, before its activation.

    Args:
        layer: of a point.
        scale: (C,); None for ones.
        shift: (C,); None for zeros. Where the layer has no bias, it gets one.

    Returns:
        Whether it got one.
    """
    created = shift is not None and not _has_bias(layer)
    factor, offset = _with_places_(layer, scale=scale is not None, shift=shift is not None)
    with torch.no_grad():
        if scale is not None:
            plain = isinstance(layer, keras.layers.BatchNormalization)
            factor.value.copy_(factor.value * scale if plain else _by_output(layer, factor.value, scale=scale))
            if offset is not None:
                offset.value.mul_(scale)
        if shift is not None:
            offset.value.add_(shift)
    return created


def _has_bias(layer: Any) -> bool:
    """Tell whether a `layer` of a point has a shift by channel."""
    return bool(layer.center) if isinstance(layer, keras.layers.BatchNormalization) else layer.bias is not None


def biased(body: KerasBody, layers: Sequence[str]) -> KerasBody:
    """Return a copy of a `body` in which these `layers` of points have a bias, zero at first."""
    twin = body.copy()
    for name in layers:
        _with_places_(twin.modules()[name], scale=False, shift=True)
    retrack_(twin.module)
    twin.recount_(layers)
    return twin


def _with_places_(layer: Any, *, scale: bool, shift: bool) -> tuple[Any, Any]:
    """Return the variables that hold a layer's scale and its shift; those that are wanted are made where they are missing."""
    if isinstance(layer, keras.layers.BatchNormalization):
        missing = {"scale": scale and not layer.scale, "center": shift and not layer.center}
        reset_(layer, {key: True for key, wanted in missing.items() if wanted})
        return layer.gamma, layer.beta
    if shift and layer.bias is None:
        reset_(layer, {"bias_axes": layer.equation[-1]} if isinstance(layer, keras.layers.EinsumDense) else {"use_bias": True})
    return layer.pointwise_kernel if hasattr(layer, "pointwise_kernel") else layer.kernel, layer.bias


def _by_output(layer: Any, kernel: Tensor, *, scale: Tensor) -> Tensor:
    """Return a linear layer's kernel with its outputs scaled by channel, (C,)."""
    kind = type(layer).__name__
    if kind.startswith("Depthwise"):  # (…, channels read, outputs for each of these)
        return kernel * scale.reshape(kernel.shape[-2:])
    return kernel * (scale[:, None] if kind.endswith("Transpose") else scale)


# ── training forms ───────────────────────────────────────────────────────────────────────────────────────────────────────


def begun(body: KerasBody, plain: KerasBody, *, adjusting: Mapping[str, str] | None = None) -> KerasBody:
    """Return a body, which is marked as the training form of another one.

    Args:
        body: given up by the caller.
        plain: the network as it was; a copy is kept.
        adjusting: name of a point -> name of the layer that scales and shifts there.
    """
    body.form = TrainingForm(plain.copy(), adjusting or {})
    return body


def settled(body: KerasBody) -> tuple[KerasBody, tuple[str, ...]]:
    """Return a copy of a `body`, its training form folded into the weights, and the names of layers that got a bias for it.

    Raises:
        NetworkError: if its layers have been changed since it got its training form.
    """
    form = body.form
    if form is None:
        return body.copy(), ()
    twin = form.plain.copy()
    trained, created = body.variables(), []
    with torch.no_grad():
        for name, variable in twin.variables().items():
            _take_(variable, name, trained=trained, body=body)
        for name, layer in form.adjusting.items():
            scale, shift = body.modules()[layer].by_channel()  # type: ignore[operator]
            if fold_(twin.modules()[name], scale=scale, shift=shift if shift is not None and bool(shift.any()) else None):
                created.append(name)
    twin.sample, twin.input_shape, twin.coding, twin.training = body.sample, body.input_shape, body.coding, body.training
    twin.heads, twin.found, twin.draws, twin.untrained = dict(body.heads), body.found, body.draws, body.untrained
    twin.recount_([*form.adjusting])
    return twin, tuple(created)


def _take_(variable: Any, name: str, *, trained: Mapping[str, Any], body: KerasBody) -> None:
    """Copy a trained variable; a kernel with a low-rank change is taken as its layer uses it.

    Raises:
        NetworkError: if it is not there, or has another size.
    """
    layer, _, own = name.rpartition(".")
    given = trained.get(name)
    value = None if given is None else given.value
    module = body.modules().get(layer)
    if getattr(module, "lora_enabled", False) and own in {"kernel", "embeddings"}:
        value = getattr(module, own)
        value = getattr(value, "value", value)
    if value is None or value.shape != variable.value.shape:
        received = "nothing" if value is None else f"shape {tuple(value.shape)}"
        raise NetworkError(
            f"The network was changed in its training form: '{name}' has {received}; expected {tuple(variable.value.shape)}."
        )
    variable.value.copy_(value)
