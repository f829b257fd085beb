"""Replace layers by single operators that PyTorch's exporter keeps whole. This changes a private copy that is discarded after reading."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from .graph import Attention, Recurrent

_PARTS = ("query", "key", "value")


def whole_layers_(module: nn.Module) -> None:
    """Make attention layers, and recurrent layers that have a mask or are `Cells`, run as one operator each."""
    for part in module.modules():
        if isinstance(part, Attention):
            object.__setattr__(part, "forward", functools.partial(_own, part))
        elif isinstance(part, Recurrent):
            object.__setattr__(part, "forward", functools.partial(_cells, part, part.forward))
        elif isinstance(part, nn.TransformerEncoder):  # would ask the values of its mask whether it is causal
            object.__setattr__(part, "forward", functools.partial(_encoder, part.forward))
        elif isinstance(part, nn.MultiheadAttention) and part._qkv_same_embed_dim and part.bias_k is None and part.batch_first:
            object.__setattr__(part, "forward", functools.partial(_torch, part, part.forward))


def _own(layer: Attention, query: Tensor, *read: Tensor) -> Tensor:
    value, key, mask = (*read, None, None)[:3]
    linear, end = [getattr(layer, name) for name in _PARTS], layer.output
    weights, biases = [one.weight for one in linear], [one.bias for one in linear]
    three = (query, value if key is None else key, value)
    return _attention()(*three, *weights, *biases, end.weight, end.bias, mask, layer.heads, layer.causal)


def _by_head(given: Sequence[Tensor], weights: Sequence[Tensor], *, biases: Sequence[Tensor | None], heads: int) -> Any:
    """Return queries, keys and values, (N, heads, T, d) each."""
    whole = [functional.linear(*one) for one in zip(given, weights, biases, strict=True)]
    return [part.reshape(*part.shape[:-1], heads, -1).transpose(1, 2) for part in whole]


def _torch(layer: nn.MultiheadAttention, usual: Callable[..., Any], /, *read: Tensor, **named: Any) -> Any:
    left_out, more = named.get("key_padding_mask"), named.get("attn_mask")
    if len(read) != 3 or (more is not None and more.ndim != 2):
        return usual(*read, **named)
    weights = layer.in_proj_weight.chunk(3)
    biases = [None] * 3 if layer.in_proj_bias is None else list(layer.in_proj_bias.chunk(3))
    end = layer.out_proj
    if more is not None or (left_out is not None and left_out.dtype != torch.bool):
        masks = [*([] if left_out is None else [_added(left_out)[:, None, None]]), *([] if more is None else [_added(more)])]
        query, key, value = _by_head(read, weights, biases=biases, heads=layer.num_heads)
        made = functional.scaled_dot_product_attention(query, key, value, functools.reduce(torch.add, masks))
        return end(made.transpose(1, 2).flatten(2)), None
    mask = None if left_out is None else left_out.logical_not().unsqueeze(1)
    return _attention()(*read, *weights, *biases, end.weight, end.bias, mask, layer.num_heads, False), None


def _encoder(usual: Callable[..., Tensor], /, *read: Tensor, **named: Any) -> Tensor:
    return usual(*read, **({} if len(read) > 3 else {"is_causal": False}) | named)  # the fourth, by position, is is_causal


def _added(mask: Tensor) -> Tensor:
    """Return a mask as numbers that are added to the scores. A mask of truth values marks what is left out."""
    return torch.zeros_like(mask, dtype=torch.float32).masked_fill(mask, -torch.inf) if mask.dtype == torch.bool else mask


def _cells(layer: Recurrent, usual: Callable[..., Tensor], /, *read: Tensor) -> Tensor:
    if len(read) < 2 and not layer.own:
        return usual(*read)
    weights = [weight for part in layer.cells.all_weights for weight in part]
    value, mask = (*read, None)[:2]
    own = (",".join(layer.own.get("activations", ())), layer.own.get("after", True))
    return _recurrent()(value, mask, weights, layer.kind, layer.steps, layer.backwards, layer.joined, *own)


@functools.cache
def _recurrent() -> Callable[..., Tensor]:
    """Return an operator that is only exported: what a recurrent layer reads depends on the inputs."""

    def shapes(value: Tensor, mask: Tensor | None, weights: list[Tensor], *how: Any) -> Tensor:
        units = weights[1].shape[1] * (2 if len(weights) > 4 and how[3] == "concat" else 1)
        return value.new_empty(*value.shape[: 2 if how[1] else 1], units)

    def run(*_given: Any) -> Tensor:
        raise NotImplementedError("regraft::cells is only exported")

    schema = "(Tensor value, Tensor? mask, Tensor[] weights, str kind, bool steps, bool backwards, str joined, str activations, bool after)"
    return _operator("cells", f"{schema} -> Tensor", run=run, shapes=shapes)


@functools.cache
def _attention() -> Callable[..., Tensor]:
    def run(*given: Any) -> Tensor:
        *tensors, end, bias, mask, heads, causal = given
        query, key, value = _by_head(tensors[:3], tensors[3:6], biases=tensors[6:], heads=heads)
        made = Attention.attended(query, key, value, mask, causal=causal)
        return functional.linear(made.transpose(1, 2).flatten(2), end, bias)

    def shapes(*given: Any) -> Tensor:
        made: Tensor = given[0].new_empty(*given[0].shape[:-1], len(given[9]))
        return made

    tensors = [f"Tensor {name}" for name in (*_PARTS, *(f"{name}_weight" for name in _PARTS))]
    tensors += [*(f"Tensor? {name}_bias" for name in _PARTS), "Tensor output_weight", "Tensor? output_bias", "Tensor? mask"]
    schema = f"({', '.join(tensors)}, int heads, bool causal) -> Tensor"
    return _operator("attention", schema, run=run, shapes=shapes)


def _operator(name: str, schema: str, *, run: Callable[..., Tensor], shapes: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Register a PyTorch operator, in place of one of this name: two threads may do so at once. `shapes` returns an empty result."""
    made: Any = torch.library.custom_op(f"regraft::{name}", run, mutates_args=(), schema=schema)
    made.register_fake(shapes)
    operator: Callable[..., Tensor] = made
    return operator
