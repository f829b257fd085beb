"""LSTM and GRU as custom operators, which PyTorch's exporter translates with a dynamic sequence length.

For PyTorch's own LSTM and GRU the exporter would fix the length.

Weights are laid out as in Keras: kernel (d, G · u), recurrent kernel (u, G · u), and bias (4 · u,) for an LSTM, (2, 3 · u) for a GRU.
Initial states are (N, u): hidden and cell for an LSTM, one for a GRU.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["GATES", "operator", "translations"]

GATES = {"LSTM": 4, "GRU": 3}
"""Number of gates G by kind, in this order: input, forget, candidate, output (LSTM); update, reset, candidate (GRU)."""


def _lstm(*tensors: Tensor) -> tuple[Tensor, ...]:
    steps, kernel, recurrent, bias, hidden, cell = tensors
    weights = [kernel.T, recurrent.T, bias, torch.zeros_like(bias)]
    # one bias each, one layer, no dropout, inference, one direction, batch first
    outputs, last, kept = torch.lstm(steps, [hidden[None], cell[None]], weights, True, 1, 0.0, False, False, True)
    return outputs.clone(), last[0].clone(), kept[0].clone()


def _gru(*tensors: Tensor) -> tuple[Tensor, ...]:
    steps, kernel, recurrent, bias, hidden = tensors
    units = len(recurrent)
    parts = (kernel.T, recurrent.T, bias[0], bias[1])  # PyTorch has reset, update, candidate
    weights = [torch.cat([part[units : 2 * units], part[:units], part[2 * units :]]) for part in parts]
    outputs, last = torch.gru(steps, hidden[None], weights, True, 1, 0.0, False, False, True)
    return outputs.clone(), last[0].clone()


@functools.cache
def operator(kind: str) -> Callable[..., list[Tensor]]:
    """Return the operator of a kind, "LSTM" or "GRU"; the first call registers it with PyTorch.

    It takes steps (N, T, d), both kernels, the bias and the initial states; it returns the outputs (N, T, u) and the last states (N, u).
    """
    run, states = {"LSTM": (_lstm, ("hidden", "cell")), "GRU": (_gru, ("hidden",))}[kind]

    def shapes(*tensors: Tensor) -> tuple[Tensor, ...]:
        steps, first = tensors[0], tensors[4:]
        return steps.new_empty(steps.shape[0], steps.shape[1], first[0].shape[1]), *(torch.empty_like(state) for state in first)

    names, given = ("steps", "kernel", "recurrent", "bias", *states), ", ".join(["Tensor"] * (1 + len(states)))
    schema = f"({', '.join(f'Tensor {name}' for name in names)}) -> ({given})"
    made: Any = torch.library.custom_op(f"regraft::{kind.lower()}", run, mutates_args=(), schema=schema)
    made.register_fake(shapes)
    return lambda *tensors: list(made(*tensors))


def translations() -> Mapping[Callable[..., Any], Callable[..., Any]]:
    """Return the ONNX translations of the operators, for the exporter."""
    for kind in GATES:
        operator(kind)
    script = importlib.import_module("onnxscript").opset20

    def first(value: Any) -> Any:
        """Add a leading axis for directions."""
        return script.Unsqueeze(value, script.Constant(value_ints=[0]))

    def weights(kernel: Any, order: tuple[int, ...]) -> Any:
        parts = script.Split(script.Transpose(kernel, perm=[1, 0]), num_outputs=len(order), axis=0)
        return first(script.Concat(*(parts[at] for at in order), axis=0))

    def by_item(outputs: Any, *states: Any) -> tuple[Any, ...]:
        whole = script.Transpose(script.Squeeze(outputs, script.Constant(value_ints=[1])), perm=[1, 0, 2])
        return whole, *(script.Squeeze(state, script.Constant(value_ints=[0])) for state in states)

    def lstm(steps: Any, kernel: Any, recurrent: Any, bias: Any, hidden: Any, cell: Any) -> tuple[Any, ...]:
        order = (0, 3, 1, 2)  # ONNX has input, output, forget, candidate
        parts = script.Split(bias, num_outputs=4, axis=0)
        used = script.Concat(*(parts[at] for at in order), axis=0)
        both = first(script.Concat(used, script.Mul(used, script.Constant(value_float=0.0)), axis=0))
        given = (script.Transpose(steps, perm=[1, 0, 2]), weights(kernel, order), weights(recurrent, order), both, None)
        return by_item(*script.LSTM(*given, first(hidden), first(cell), hidden_size=int(recurrent.shape[0])))

    def gru(steps: Any, kernel: Any, recurrent: Any, bias: Any, hidden: Any) -> tuple[Any, ...]:
        order, units = (0, 1, 2), int(recurrent.shape[0])  # ONNX has update, reset, candidate, as Keras
        both = script.Reshape(bias, script.Constant(value_ints=[1, 6 * units]))
        given = (script.Transpose(steps, perm=[1, 0, 2]), weights(kernel, order), weights(recurrent, order), both, None)
        return by_item(*script.GRU(*given, first(hidden), hidden_size=units, linear_before_reset=1))

    return {torch.ops.regraft.lstm.default: lstm, torch.ops.regraft.gru.default: gru}
