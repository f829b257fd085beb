"""Attention as a single operator that PyTorch's exporter keeps whole, for a private copy that is read and thrown away."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .graph import Attention

__all__ = ["whole_attention_"]

_PARTS = ("query", "key", "value")


def whole_attention_(module: nn.Module) -> None:
    """Let all attention within a `module` run as one operator each, where no mask is given."""
    for part in module.modules():
        if isinstance(part, Attention):
            object.__setattr__(part, "forward", functools.partial(_own, part))
        elif isinstance(part, nn.MultiheadAttention) and part._qkv_same_embed_dim and part.bias_k is None and part.batch_first:
            object.__setattr__(part, "forward", functools.partial(_torch, part, part.forward))


def _own(layer: Attention, query: Tensor, *read: Tensor) -> Tensor:
    linear = [getattr(layer, name) for name in _PARTS]
    weights, biases = [one.weight for one in linear], [one.bias for one in linear]
    return _operator()(query, read[-1], read[0], *weights, *biases, layer.output.weight, layer.output.bias, layer.heads, layer.causal)


def _torch(layer: nn.MultiheadAttention, usual: Callable[..., Any], /, *read: Tensor, **named: Any) -> Any:
    masked = len(read) != 3 or named.get("key_padding_mask") is not None or named.get("attn_mask") is not None
    if masked:
        return usual(*read, **named)
    weights = layer.in_proj_weight.chunk(3)
    biases = [None] * 3 if layer.in_proj_bias is None else list(layer.in_proj_bias.chunk(3))
    end = layer.out_proj
    return _operator()(*read, *weights, *biases, end.weight, end.bias, layer.num_heads, False), None


@functools.cache
def _operator() -> Callable[..., Tensor]:
    def run(*given: Any) -> Tensor:
        *tensors, heads, causal = given
        inputs, weights, biases, (end, bias) = tensors[:3], tensors[3:6], tensors[6:9], tensors[9:]
        whole = [functional.linear(*one) for one in zip(inputs, weights, biases, strict=True)]
        query, key, value = (part.reshape(*part.shape[:-1], heads, -1).transpose(1, 2) for part in whole)
        made = functional.scaled_dot_product_attention(query, key, value, is_causal=causal)
        return functional.linear(made.transpose(1, 2).flatten(2), end, bias)

    def shapes(*given: Any) -> Tensor:
        made: Tensor = given[0].new_empty(*given[0].shape[:-1], len(given[9]))
        return made

    tensors = [f"Tensor {name}" for name in (*_PARTS, *(f"{name}_weight" for name in _PARTS))]
    tensors += [*(f"Tensor? {name}_bias" for name in _PARTS), "Tensor output_weight", "Tensor? output_bias"]
    schema = f"({', '.join(tensors)}, int heads, bool causal) -> Tensor"
    made: Any = torch.library.custom_op("regraft::attention", run, mutates_args=(), schema=schema)
    made.register_fake(shapes)
    operator: Callable[..., Tensor] = made
    return operator
