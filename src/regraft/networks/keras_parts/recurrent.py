"""Recurrent Keras layers as single operators, where they mean the same: an exporter would write out each step otherwise."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..parts.recurrent import GATES, operator

__all__ = ["as_operators_"]


def as_operators_(layers: Iterable[Any]) -> None:
    """Let LSTM and GRU layers run as one operator each, where no mask is given; those with other activations stay as they are.

    Args:
        layers: of a private copy in inference mode, to be exported and thrown away.
    """
    for layer in layers:
        if type(layer).__name__ in GATES and type(layer).__module__.startswith("keras.") and _is_usual(layer):
            object.__setattr__(layer, "inner_loop", partial(_run, layer, layer.inner_loop))


def _is_usual(layer: Any) -> bool:
    usual = layer.activation.__name__ == "tanh" and layer.recurrent_activation.__name__ == "sigmoid"
    return usual and not layer.stateful and bool(getattr(layer, "reset_after", True))


def _run(layer: Any, stepwise: Any, *, sequences: Tensor, initial_state: Any, mask: Any, training: bool = False) -> Any:
    """Return the last output, all outputs and the last states, as Keras does."""
    if mask is not None:
        return stepwise(sequences, initial_state, mask, training=training)
    kind, cell = type(layer).__name__, layer.cell
    kernel, recurrent = cell.kernel.value, cell.recurrent_kernel.value
    wide = GATES[kind] * layer.units
    bias = cell.bias.value if layer.use_bias else torch.zeros((wide,) if kind == "LSTM" else (2, wide), dtype=kernel.dtype)
    steps = sequences.flip(1) if layer.go_backwards else sequences
    first = initial_state if isinstance(initial_state, list | tuple) else [initial_state]
    outputs, *states = operator(kind)(steps, kernel, recurrent, bias, *first)
    return states[0], outputs, states
