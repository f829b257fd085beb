"""Recurrent layers as single ONNX operators, with a free number of steps, in the copy of a network that is translated to ONNX.

PyTorch's exporter would fix the number of steps, and write the cells of Keras out step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

GATES = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}
"""Gate order of ONNX, as positions in PyTorch. Keras has PyTorch's order for an LSTM, and that of ONNX for a GRU."""


def weights_of(directions: Sequence[Sequence[Tensor]], order: Sequence[int]) -> list[Tensor]:
    """Return kernel (D, G · u, d), recurrent kernel (D, G · u, u) and bias (D, 2 · G · u) in the gate order of ONNX.
    For each direction: both kernels, and both biases (G · u,) or none. `order`: positions of ONNX's gates in them."""
    parts = [[torch.cat([one.detach().chunk(len(order))[at] for at in order]) for one in direction] for direction in directions]
    kernel, recurrent = (torch.stack([part[at] for part in parts]) for at in (0, 1))
    return [kernel, recurrent, torch.stack([torch.cat(bias) if bias else one.new_zeros(2 * len(one)) for one, _, *bias in parts])]


def cells(kind: str, steps: Tensor, *, weights: Sequence[Tensor], states: Sequence[Tensor], **settings: Any) -> tuple[Tensor, list[Tensor]]:
    """Return outputs (N, T, D · u) and last states (D, N, u) of a layer in D directions, as an operator that only ONNX can compute.
    `states`: the initial states, (D, N, u) each. `settings`: attributes of the operator."""
    directions, count, units = states[0].shape
    outputs, *last = torch.onnx.ops.symbolic_multi_out(
        kind,
        [steps.transpose(0, 1), *weights, None, *states],
        attrs={"hidden_size": units, "direction": "bidirectional" if directions > 1 else "forward", **settings},
        dtypes=[steps.dtype] * (1 + len(states)),
        shapes=[(steps.shape[1], directions, count, units), *[(directions, count, units)] * len(states)],
        version=20,
    )
    return outputs.permute(2, 0, 1, 3).flatten(2), last


def cells_as_operators(modules: Iterable[nn.Module]) -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Yield, for `replaced`, what makes PyTorch's recurrent layers one operator for each depth, unless they have a projection."""
    for layer in modules:
        known = isinstance(layer, nn.LSTM | nn.GRU | nn.RNN) or getattr(layer, "operator", None) is not None
        if isinstance(layer, nn.RNNBase) and known and not layer.proj_size and "forward" not in vars(layer):
            directions, parts = 1 + layer.bidirectional, layer.all_weights
            weights = [weights_of(parts[at : at + directions], GATES[_kind(layer)]) for at in range(0, len(parts), directions)]
            yield layer, "forward", partial(_run, layer, layer.forward, weights)


def cells_of_any_length() -> Iterator[tuple[Any, str, Any]]:
    """Yield, for `replaced`, what lets `torch.export` trace a recurrent layer by the shapes of its results. It would unroll the steps."""
    for name in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        operator: Any = getattr(torch.ops.aten, name).input
        traced = dict.fromkeys((torch._C.DispatchKey.CompositeImplicitAutograd, torch._C.DispatchKey.Autograd), _shaped)
        yield operator, "py_kernels", {**operator.py_kernels, **traced}
        yield operator, "_dispatch_cache", {}


# over the limit: the operator's arguments
def _shaped(
    value: Tensor, hx: Any, _weights: Any, _biases: bool, _depth: int, _dropout: float, _train: bool, both: bool, _first: bool
) -> Any:
    states = hx if isinstance(hx, list | tuple) else [hx]
    return value.new_empty(*value.shape[:2], states[0].shape[-1] * (1 + both)), *(one.new_empty(one.shape) for one in states)


def _kind(layer: nn.RNNBase) -> str:
    return layer.mode.partition("_")[0]


# over the limit: PyTorch calls it so
def _run(layer: nn.RNNBase, usual: Callable[..., Any], weights: Sequence[Sequence[Tensor]], /, steps: Any, hx: Any = None) -> Any:
    """Return all outputs and the last states, as PyTorch does."""
    if not isinstance(steps, Tensor) or steps.ndim != 3:
        return usual(steps, hx)
    value, directions, kind = steps if layer.batch_first else steps.transpose(0, 1), 1 + layer.bidirectional, _kind(layer)
    settings: dict[str, Any] = {"linear_before_reset": 1} if kind == "GRU" else {}
    if kind == "RNN":
        settings["activations"] = [layer.mode.partition("_")[2].title()] * directions
    settings |= getattr(layer, "operator", {})
    first, lasts = hx if isinstance(hx, tuple) else [hx] * (1 + (kind == "LSTM")), []
    for depth, one in enumerate(weights):
        own = slice(depth * directions, (depth + 1) * directions)
        states = [value.new_zeros(directions, value.shape[0], layer.hidden_size) if state is None else state[own] for state in first]
        value, last = cells(kind, value, weights=one, states=states, **settings)
        lasts.append(last)
    ends = [torch.cat(parts) for parts in zip(*lasts, strict=True)]
    return value if layer.batch_first else value.transpose(0, 1), tuple(ends) if len(ends) > 1 else ends[0]
