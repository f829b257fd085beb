"""Heads without a layer: a product in a module's own code (`x @ self.weight`, cosines, a temperature) becomes a linear layer."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Identity, Linear, LogSoftmax, Module, Sigmoid, Softmax
from torch.overrides import TorchFunctionMode

from ..account import Account
from ..parts.head import FoundHead
from ..parts.protocols import changed
from ..tracing import as_tensor, flat_tensors, is_transformed
from .body import TorchBody
from .graft import Graft
from .heads import put_
from .wrappers import call_module

_PRODUCTS = frozenset({"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "addmm", "einsum"})
_ENDS: dict[str, type[Module]] = {"linear": Identity, "softmax": Softmax, "log_softmax": LogSoftmax, "sigmoid": Sigmoid}


class _Products(TorchFunctionMode):
    """Record the tensors that go into each matrix product within the context; of the last `most` ones, or of all."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.seen: deque[list[Tensor]] = deque(maxlen=most)

    # over the limit: the signature is PyTorch's
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in _PRODUCTS and not is_transformed():
            self.seen.append(flat_tensors([args, kwargs or {}]))
        return function(*args, **(kwargs or {}))


class ReadHead(Graft):
    """A network whose own code multiplies features by class weights; the layer `head` computes its logits from the same features.
    `call`: how many products before the end of a run the features are read; `operand`: which tensor of that product they are."""

    def __init__(self, network: Module, call: int, *, operand: int, head: Linear, end: Module) -> None:
        super().__init__(network)
        self.call, self.operand = call, operand
        self.head = head
        self.end = end

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return the network's result, (N, C), for its inputs."""
        with _Products(self.call) as products:
            self.network(*tensors, **named)
        return cast(Tensor, self.end(self.head(products.seen[0][self.operand])))


def with_read_head(body: TorchBody) -> TorchBody:
    """Return the body with a linear layer for its head if its logits are a product of features and class weights in its own code,
    scaled or shifted per class or not. The caller gives the body up.
    Cosines are linear in normalised features, with rows of the length of their scale."""
    try:
        with torch.no_grad(), body.at_rest():
            batch = changed(body.sample, lambda tensor: torch.cat([tensor, tensor.flip(-1)]))
            own, turned = (_run(body.module, one) for one in (batch, changed(batch, lambda tensor: tensor.flip(0)[1:])))
    except Exception:  # a forward may raise anything on other values
        return body
    (result, products), (_, again) = own, turned
    if result is None or result.ndim != 2 or len(products) != len(again):
        return body
    for call, (tensors, others) in enumerate(zip(reversed(products), reversed(again), strict=True), 1):
        for operand, features, weight in _pairs(tensors, others, count=len(result)):
            found = _explained(features.double() @ weight.double(), result.double())
            if found is not None:
                return _taken_out(body, call, operand=operand, weight=weight.T, found=found)
    return body


def _run(module: Module, batch: Any) -> tuple[Tensor | None, list[list[Tensor]]]:
    with _Products() as products:
        result = as_tensor(call_module(module, batch))
    return result, list(products.seen)


def _pairs(tensors: Sequence[Tensor], others: Sequence[Tensor], *, count: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the possible features (N, d) of a product, with their place, and its class weights (d, C), which another batch leaves as they
    are."""
    flat = [tensor for tensor in tensors if tensor.ndim == 2 and tensor.is_floating_point()]
    fixed = {id(one) for one, other in zip(tensors, others, strict=False) if one.shape == other.shape and torch.equal(one, other)}
    for features in (one for one in flat if id(one) not in fixed and len(one) == count):
        operand = next(at for at, tensor in enumerate(tensors) if tensor is features)
        for weight in (one for one in flat if id(one) in fixed):
            yield from ((operand, features, one.detach()) for one in (weight, weight.T) if len(one) == features.shape[1])


def _explained(product: Tensor, result: Tensor) -> tuple[str, Tensor, Tensor] | None:
    """Return the activation, scales (C,) and bias (C,) with which the result (N, C) follows from a product (N, C); None if it does not."""
    if product.shape != result.shape:
        return None
    summed = bool(torch.allclose(result.sum(1), torch.ones_like(result[:, 0]), atol=1e-5))
    logs = bool(torch.allclose(result.exp().sum(1), torch.ones_like(result[:, 0]), atol=1e-5))
    ends = {"sigmoid": result.logit(), "linear": result}  # small logits would pass for both
    if result.shape[1] > 1 and (summed or logs):
        ends = {"softmax": result.log()} if summed else {"log_softmax": result}
        product, ends = product - product.mean(1, keepdim=True), {name: one - one.mean(1, keepdim=True) for name, one in ends.items()}
    for name, logits in ends.items():
        moved, wanted = product - product.mean(0), logits - logits.mean(0)
        scales = (moved * wanted).sum(0) / moved.square().sum(0)
        if len(ends) == 1:  # what a softmax hides, an offset of each example, hides scales of single classes too
            scales = ((moved * wanted).sum() / moved.square().sum()).expand(len(scales))
        scales = torch.where((scales - 1).abs() < 1e-6, 1.0, scales)  # what rounding left of 1
        gap, spread = (scales * moved - wanted).abs().max(), wanted.abs().max()
        if wanted.isfinite().all() and spread > 1e-2 * logits.abs().max() and gap <= 1e-4 * spread:
            return name, scales, logits.mean(0) - scales * product.mean(0)
    return None


def _taken_out(body: TorchBody, call: int, *, operand: int, weight: Tensor, found: tuple[str, Tensor, Tensor]) -> TorchBody:
    end, scales, bias = found
    rows, shift = (one.float().cpu().numpy() for one in (scales[:, None] * weight, bias))
    layer = Linear(rows.shape[1], len(rows))
    put_(layer, rows, bias=shift)
    made = ReadHead(body.module, call, operand=operand, head=layer, end=_ENDS[end](*[1] * ("softmax" in end)))
    own = FoundHead(made.name_of("head"), {"log_softmax": "softmax"}.get(end, end), end == "linear")
    twin = body.anew(made, {"main": (own.head(rows, shift, task="main"), own)})
    twin.account = Account(notes=(f"its code computes the logits without a layer for them: they became one, {own.layer!r}",))
    return twin
