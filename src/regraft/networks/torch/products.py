"""Heads without a layer: a product in a module's own code (`x @ self.weight`, cosines, a temperature) becomes a linear layer."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Identity, Linear, LogSoftmax, Module, Sigmoid, Softmax
from torch.overrides import TorchFunctionMode

from ...errors import NetworkError
from ...randomness import seeded
from ..account import Account
from ..parts.head import HeadLocation
from ..parts.protocols import changed
from ..tracing import as_tensor, flat_tensors, is_transformed
from .body import TorchBody
from .graft import Graft
from .heads import put_
from .wrappers import call_module

_PRODUCTS = frozenset({"linear", "matmul", "__matmul__", "__rmatmul__", "mm", "addmm", "einsum"})
_ENDS: dict[str, type[Module]] = {"linear": Identity, "softmax": Softmax, "log_softmax": LogSoftmax, "sigmoid": Sigmoid}
_Tensors = list[Tensor | None]


class _Products(TorchFunctionMode):
    """Record the tensors that go into the last `most` matrix products within the context, or into all of them.
    None stands for tensors that do not have two axes, as in attention, because they may be large."""

    def __init__(self, most: int | None = None) -> None:
        super().__init__()
        self.seen: deque[_Tensors] = deque(maxlen=most)

    # over the limit: the signature is PyTorch's
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(function, "__name__", "") in _PRODUCTS and not is_transformed():
            self.seen.append([tensor if tensor.ndim == 2 else None for tensor in flat_tensors([args, kwargs or {}])])
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

    def facts(self) -> dict[str, Any]:
        """Return where the head was read, as plain data for `at_read_head`."""
        return {"call": self.call, "operand": self.operand, "end": next(name for name, kind in _ENDS.items() if type(self.end) is kind)}


def at_read_head(body: TorchBody, *, call: int, operand: int, end: str) -> TorchBody:
    """Return the body with a linear layer of zeros where the head of a saved network was read: here the class weights in the code may be
    zeros or random, so that no head is found. The caller gives the body up."""
    with torch.no_grad(), body.at_rest():
        result, products = _run(body.module, body.sample)
    tensor = products[-call][operand] if len(products) >= call and len(products[-call]) > operand else None
    if result is None or tensor is None or result.ndim != 2:
        raise NetworkError("Its code computes the logits in another way than that of the network which was saved.")
    weight, ones = torch.zeros(result.shape[1], tensor.shape[1]), torch.ones(result.shape[1])
    return _taken_out(body, call, operand=operand, weight=weight, found=(end, ones, 0 * ones))


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
        for operand, features, weight in _pairs(tensors, others, shape=result.shape):
            found = _explained(features.double() @ weight.double(), result.double())
            if found is not None and _trains_alike(body.module, batch, call=call, weight=weight):
                return _taken_out(body, call, operand=operand, weight=weight.T, found=found)
    return body


def _run(module: Module, batch: Any, *, most: int | None = None) -> tuple[Tensor | None, list[_Tensors]]:
    with _Products(most) as products:
        result = as_tensor(call_module(module, batch))
    return result, list(products.seen)


def read_again(body: TorchBody, account: Account) -> Account:
    """Read the class weights of the head from the module's code again, unless the weights file that was put in has the layer of the head.
    Return the `account` of that file without this layer."""
    graft = body.module
    if not isinstance(graft, ReadHead):
        return account
    names = {f"{graft.name_of('head')}.{part}" for part in ("weight", "bias")}
    if names.isdisjoint([*account.entries.get("missing", ()), *account.entries.get("reshaped", ())]):
        return account
    inside = copy.copy(body)
    inside.module, inside.heads, inside.found = graft.network, {}, {}
    head = next(iter(with_read_head(inside).heads.values()), None)
    if head is None or head.weight.shape != body.head.weight.shape:
        raise NetworkError("With the weights of this file, the logits are no product of features and class weights in the network's code.")
    own = head.in_layer()
    put_(graft.head, own.weight, bias=own.bias)
    entries = {key: [name for name in listed if name not in names] for key, listed in account.entries.items()}
    return replace(account, entries={key: listed for key, listed in entries.items() if listed})


def _trains_alike(module: Module, batch: Any, *, call: int, weight: Tensor) -> bool:
    """Tell whether the product with this class weight (d, C) is `call` products before the end in training, too: a second classifier may
    follow there."""
    buffers = [(own, own.clone()) for own in module.buffers()]
    active = [(part, part.training) for part in module.modules()]
    try:
        with seeded(0), torch.no_grad():
            _, products = _run(module.train(), batch, most=call)
    except Exception:  # a forward may need labels in training
        return False
    finally:
        for part, training in active:
            part.training = training
        for own, before in buffers:
            own.copy_(before)
    there = [tensor for tensor in products[0] if tensor is not None] if len(products) == call else []
    return any(tensor.shape == one.shape and torch.allclose(tensor, one) for tensor in there for one in (weight, weight.T))


def _pairs(tensors: _Tensors, others: _Tensors, *, shape: Sequence[int]) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Yield the possible features (N, d) of a product of the `shape` (N, C), with their place among its tensors, and the possible class
    weights (d, C): tensors that are the same for another batch (`others`)."""
    flat = {at: tensor for at, tensor in enumerate(tensors) if tensor is not None and tensor.is_floating_point()}
    both = [(one, other) for one, other in zip(tensors, others, strict=False) if one is not None and other is not None]
    fixed = {id(one) for one, other in both if one.shape == other.shape and torch.equal(one, other)}
    for operand, features in ((at, one) for at, one in flat.items() if id(one) not in fixed and len(one) == shape[0]):
        wanted = (features.shape[1], shape[1])
        for weight in (one for one in flat.values() if id(one) in fixed):
            yield from ((operand, features, one.detach()) for one in (weight, weight.T) if one.shape == wanted)


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
    own = HeadLocation(made.name_of("head"), {"log_softmax": "softmax"}.get(end, end), end == "linear")
    twin = body.anew(made, {"main": (own.head(rows, shift, task="main"), own)})
    twin.account = Account(notes=(f"its code computes the logits without a layer for them: they became one, {own.layer!r}",))
    return twin
