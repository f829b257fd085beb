"""Strided 1x1 convolutions of Keras, whose backward pass ends the process on a CPU: their positions are picked first.

Keras 3.15 computes convolutions channels-last on PyTorch, and the gradients of these are written outside of their memory by torch 2.14.1
(8 → 16 channels, 62 x 62, batch 32, stride 2), in Keras's own `fit` too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from .library import keras

__all__ = ["hook_strided_"]


def hook_strided_(layers: Iterable[Any]) -> list[Any]:
    """Let those of the layers that need it compute their gradients otherwise; return the handles of the hooks."""
    hooks = []
    for layer in layers:
        if isinstance(layer, keras.layers.Conv2D) and type(layer).__name__ == "Conv2D":
            strides = tuple(layer.strides)
            if set(layer.kernel_size) == {1} and set(strides) != {1}:
                hooks.append(layer.register_forward_pre_hook(_thinned))
                hooks.append(layer.register_forward_hook(_Restored(strides), always_call=True))
    return hooks


def _thinned(layer: Any, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
    values = args[0] if args else None
    if not isinstance(values, Tensor) or values.device.type != "cpu" or not torch.is_grad_enabled() or set(layer.strides) == {1}:
        return None
    steps = [slice(None, None, step) for step in layer.strides]
    layer.strides = (1,) * len(steps)
    return (values[(slice(None), slice(None), *steps) if layer.data_format == "channels_first" else (slice(None), *steps)], *args[1:])


class _Restored:
    """Gives a layer its `strides` again."""

    def __init__(self, strides: tuple[int, ...]) -> None:
        self.strides = strides

    def __call__(self, layer: Any, *_call: Any) -> None:
        if tuple(layer.strides) != self.strides:
            layer.strides = self.strides
