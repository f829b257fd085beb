"""Heads without a layer: a product in a module's own code (`x @ self.weight`, cosines, a temperature) becomes a linear layer."""

from __future__ import annotations

import copy
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from torch.nn import Identity, Linear, LogSoftmax, Module, Parameter, Sigmoid, Softmax
from torch.overrides import TorchFunctionMode

from ...errors import NetworkError
from ...randomness import seeded
from ..account import Account
from ..parts.head import HeadLocation
from ..parts.protocols import Inputs, by_name, changed
from ..tracing import activated, as_tensor, flat_tensors, head_reading, in_columns, is_transformed
from .body import TorchBody
from .graft import Graft
from .heads import put_
from .plain import copied
from .wrappers import call_module

_PRODUCTS = ("linear", "matmul", "__matmul__", "__rmatmul__", "mm", "addmm", "einsum")
_MOVES = frozenset({
    "__getitem__", "__get__", "cat", "clone", "contiguous", "detach", "expand", "flatten", "float", "mean", "movedim", "permute", "reshape",
    "squeeze", "stack", "sum", "to", "transpose", "unsqueeze", "view",
})  # fmt: skip
"""Functions that hooks call as well: their calls are not counted."""
_ENDS: dict[str, type[Module]] = {"linear": Identity, "softmax": Softmax, "log_softmax": LogSoftmax, "sigmoid": Sigmoid}
_TRIED = 256  # Number of calls before the end of a run whose tensors may be the features


class _Call(NamedTuple):
    """A call of a function of PyTorch: its name, and its tensors and its result, with None for those that are not of two axes and real."""

    name: str
    tensors: list[Tensor | None]


class _Place(NamedTuple):
    """Where a tensor is read: a number of calls of some functions before the end of a run, and its place in `_Call.tensors`."""

    call: int
    operand: int
    functions: tuple[str, ...]


class _Reading(NamedTuple):
    """Features (N, d), where they are read, and what gives the result from them: a weight (C, d), a bias (C,) and an activation."""

    features: Tensor
    place: _Place
    weight: Tensor
    bias: Tensor
    end: str


class _Calls(TorchFunctionMode):
    """Record the calls within the context: of some functions or all, the last `most` or all.
    `put`: values for a tensor of a call, both by number. `tracked`: operands of that many examples get gradients."""

    def __init__(
        self,
        most: int | None = None,
        *,
        functions: tuple[str, ...] = (),
        put: tuple[int, int, Tensor] | None = None,
        tracked: int = 0,
    ) -> None:
        super().__init__()
        self.seen: deque[_Call] = deque(maxlen=most)
        self.functions, self.put, self.tracked, self.count = functions, put, tracked, 0

    # over the limit: the signature is PyTorch's
    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        named, name = kwargs or {}, getattr(function, "__name__", "")
        if is_transformed() or (self.functions and name not in self.functions):
            return function(*args, **named)
        flat = [one if one.ndim == 2 and one.is_floating_point() else None for one in flat_tensors([args, named])]
        if self.tracked and torch.is_grad_enabled() and (name.startswith("__") or not name.endswith("_")):
            for one in flat:
                if one is not None and len(one) == self.tracked and not (one.requires_grad or one.is_inference()):
                    one.requires_grad_(not isinstance(one, Parameter))
        put = self.put if self.put is not None and self.put[0] == self.count else None
        if put is not None and put[1] < len(flat):
            cast(Tensor, flat[put[1]]).detach().copy_(put[2])
        try:
            made = function(*args, **named)
        except RuntimeError:
            if not self.tracked:
                raise
            with torch.no_grad():  # it changes a tensor in place that has got gradients here
                made = function(*args, **named)
        if put is not None and put[1] == len(flat):
            made.detach().copy_(put[2])
        flat.append(made if isinstance(made, Tensor) and made.ndim == 2 and made.is_floating_point() else None)
        self.seen.append(_Call(name, flat))
        self.count += 1
        return made


class ReadHead(Graft):
    """A network whose own code multiplies features by class weights; the layer `head` computes its logits from the same features, which
    are read at a `place` in each run."""

    def __init__(self, network: Module, place: _Place, *, head: Linear, end: Module) -> None:
        super().__init__(network)
        self.place = place
        self.head = head
        self.end = end

    def forward(self, *tensors: Tensor, **named: Tensor) -> Tensor:
        """Return the network's result, (N, C), for its inputs."""
        with _Calls(self.place.call, functions=self.place.functions) as calls:
            self.network(*tensors, **named)
        return cast(Tensor, self.end(self.head(calls.seen[0].tensors[self.place.operand])))

    def facts(self) -> dict[str, Any]:
        """Return where the head was read, as plain data for `at_read_head`."""
        end = next(name for name, kind in _ENDS.items() if type(self.end) is kind)
        return {**self.place._asdict(), "functions": list(self.place.functions), "end": end}


# over the limit: what a saved folder tells
def at_read_head(body: TorchBody, *, call: int, operand: int, end: str, functions: Sequence[str] = _PRODUCTS) -> TorchBody:
    """Return the body with a linear layer of zeros where the head of a saved network was read: here the class weights in the code may be
    zeros or random, so that no head is found. Folders of earlier versions do not name the `functions`. The caller gives the body up."""
    place = _Place(call, operand, tuple(functions))
    with torch.no_grad(), body.at_rest():
        result, calls = _run(body.module, body.sample, calls=_Calls(call, functions=place.functions))
    tensors = calls[0].tensors if len(calls) == call else []
    tensor = tensors[operand] if len(tensors) > operand else None
    if result is None or tensor is None:
        raise NetworkError("Its code computes the logits in another way than that of the network which was saved.")
    weight, bias = torch.zeros(result.shape[1], tensor.shape[1]), torch.zeros(result.shape[1])
    return _taken_out(body, _Reading(tensor, place, weight, bias, end))


def with_read_head(body: TorchBody) -> TorchBody:
    """Return the body with a linear layer for its head if its logits are linear in a tensor (N, d) of its own code, by class weights in it.
    The caller gives the body up.
    Cosines are linear in normalised features, with rows of the length of their scale."""
    module, batch = body.module, changed(body.sample, lambda tensor: torch.cat([tensor, tensor.flip(-1)]))
    try:
        with body.at_rest(), _without_gradients(module), torch.enable_grad():
            found = next((one for one in _linear(module, batch) if _trains_alike(module, batch, found=one)), None)
    except Exception:  # a forward may raise anything on other values
        return body
    return body if found is None else _taken_out(body, found)


def _run(module: Module, batch: Inputs, *, calls: _Calls) -> tuple[Tensor | None, list[_Call]]:
    """Return the result (N, C) of a module, None if it has another form, and the calls; (N,) is one number for each example."""
    with calls:
        result = as_tensor(call_module(module, batch))
    result = None if result is None else in_columns(result)
    return result if result is not None and result.ndim == 2 else None, list(calls.seen)


@contextmanager
def _without_gradients(module: Module) -> Iterator[None]:
    """Let no weight of a module get a gradient within the context."""
    held = [*module.buffers(), *(one for part in module.modules() for one in vars(part).values() if isinstance(one, Tensor))]
    flags = [(one, one.requires_grad) for one in (*module.parameters(), *held) if one.is_leaf]
    try:
        for one, _ in flags:
            one.requires_grad_(False)
        yield
    finally:
        for one, flag in flags:
            one.requires_grad_(flag)


def _linear(module: Module, batch: Inputs) -> Iterator[_Reading]:
    """Yield the tensors (N, d) of a run in which the logits are linear, the nearest to the result first, if class weights are read behind
    them."""
    result, calls = _run(module, batch, calls=_Calls(tracked=_count(batch)))
    turned = changed(batch, lambda tensor: tensor.flip(0)[1:])
    _, others = _run(module, turned, calls=_Calls(tracked=_count(turned)))  # without gradients, PyTorch's layers may call other functions
    if result is None or not result.requires_grad or len(calls) != len(others):
        return
    places = _places(calls, others, count=len(result))
    tensors, plain = [tensor for tensor, _ in places], result.detach()
    same = [tensor for tensor in tensors if tensor.shape == result.shape]
    ends = [(tensor, head_reading(tensor.detach(), plain, channels_last=True) or "linear") for tensor in same]
    # the first such tensor of a run: softmax may subtract the largest logit itself
    logits, end = next(((tensor, end) for tensor, end in reversed(ends) if end != "linear"), (result, "linear"))
    if end == "linear" and _are_probabilities(plain):
        return
    summed = (logits - logits.detach().mean(0)) @ torch.arange(1, logits.shape[1] + 1).to(logits).sqrt()
    gradients = torch.autograd.grad(summed.sum(), tensors, retain_graph=True, allow_unused=True)
    for (tensor, place), gradient in zip(places, gradients, strict=True):
        if gradient is None or not _constant(gradient):
            continue
        if not _constant(summed.double() - (tensor.double() * gradient.double()).sum(1), beside=summed):
            continue
        if tensor.shape == logits.shape and not _has_weights(_rows(logits, tensor, start=0)):
            continue  # scales of C logits are C x C numbers
        weight = _weight(logits, tensor)
        rest = logits.detach().double() - tensor.detach().double() @ weight.double().T
        found = _Reading(tensor, place, weight, rest.mean(0), end)
        if _constant(rest, beside=logits) and _has_weights(weight) and _holds(module, batch, calls=calls, found=found):
            yield found


def _weight(logits: Tensor, tensor: Tensor) -> Tensor:
    """Return the weight (C, d) with which logits (N, C) follow from a tensor (N, d): N rows of it by one backward pass.
    If C > d, N columns of it by a backward pass through a backward pass, which is linear in the gradients (N, C) that it is given."""
    many, source, aim = logits.shape[1] > tensor.shape[1], logits, tensor
    if many:
        aim = torch.zeros_like(logits).requires_grad_()
        source = torch.autograd.grad(logits, tensor, aim, create_graph=True)[0]
    weight = torch.cat([_rows(source, aim, start=start) for start in range(0, source.shape[1], len(source))])
    return weight.T if many else weight


def _rows(result: Tensor, source: Tensor, *, start: int) -> Tensor:
    """Return up to N rows, from one on, of the weight with which a result (N, C) follows from a tensor (N, d)."""
    chosen = torch.zeros_like(result)
    chosen[:, start : start + len(chosen)].fill_diagonal_(1)
    return torch.autograd.grad(result, source, chosen, retain_graph=True)[0][: result.shape[1] - start].detach()


def _count(batch: Inputs) -> int:
    return len(next(iter(by_name(batch).values())))


def _are_probabilities(result: Tensor) -> bool:
    """Tell whether a result (N, C) holds probabilities of classes or their logarithms: logits that are linear in features are neither."""
    sums = [one.sum(1) for one in (result, result.exp())]
    return result.shape[1] > 1 and any(bool(torch.allclose(one, torch.ones_like(one), atol=1e-5)) for one in sums)


def _places(calls: Sequence[_Call], others: Sequence[_Call], *, count: int) -> list[tuple[Tensor, _Place]]:
    """Return the tensors of `count` examples in the last calls that differ in the calls for other examples, and where they are read: the
    nearest one to the result first."""
    places, passed, given = dict[int, tuple[Tensor, _Place]](), Counter[str](), set[int]()
    for one, other in zip(calls[: -_TRIED - 1 : -1], others[: -_TRIED - 1 : -1], strict=True):
        passed[one.name] += 1
        if one.name in _MOVES:
            continue
        for operand, (tensor, again) in enumerate(zip(one.tensors, other.tensors, strict=False)):
            if tensor is None or again is None or not tensor.requires_grad or len(tensor) != count or tensor.shape[1] < 2:
                continue  # a single number makes no features, also where several logits are made of it
            gives = operand == len(one.tensors) - 1  # adapters may change what a product gives, and add products behind it
            if tensor.shape[1] != again.shape[1] or _equal(tensor, again) or (gives and (one.name in _PRODUCTS or "conv" in one.name)):
                continue
            if id(tensor) not in given if gives else id(tensor) not in places:  # dropout gives in inference what it reads
                places[id(tensor)] = tensor, _Place(passed[one.name], operand, (one.name,))
                given |= {id(tensor)} if gives else set()
    return list(places.values())


def _equal(one: Tensor, other: Tensor | None) -> bool:
    return other is not None and one.shape == other.shape and torch.equal(one, other)


def _constant(values: Tensor, *, beside: Tensor | None = None) -> bool:
    """Tell whether all examples have the same values, measured by the spread of other values (N, …), or by the values themselves."""
    values = values.detach()
    gap = (values - values.mean(0)).abs().max()
    if beside is None:
        return bool(gap <= 1e-4 * values.abs().max())
    beside = beside.detach()
    spread = (beside - beside.mean(0)).abs().max()
    return bool(spread > 1e-2 * beside.abs().max()) and bool(gap <= 1e-4 * spread)


def _has_weights(weight: Tensor) -> bool:
    """Tell whether a weight (C, d) is more than a choice, a mean or a scale of numbers that are there: these read no number twice. Nor do
    numbers less their mean have one."""
    used = weight[weight != 0].abs()
    if len(weight) == 1:
        return len(used) > 1 and not torch.allclose(used, used[:1], rtol=1e-4)
    if len(weight) == weight.shape[1]:
        others = weight[~torch.eye(len(weight), dtype=torch.bool, device=weight.device)]
        if others.std() <= 1e-4 * weight.abs().max() and weight.diagonal().std() <= 1e-4 * weight.abs().max():
            return False
    return bool(((weight != 0).sum(0) > 1).any())


def _holds(module: Module, batch: Inputs, *, calls: list[_Call], found: _Reading) -> bool:
    """Tell whether random features in place of those of a run give what the weight and the bias say: gradients tell of their
    surroundings only."""
    first = next((at, place) for at, one in enumerate(calls) for place, tensor in enumerate(one.tensors) if tensor is found.features)
    for at in dict.fromkeys((first, (_at(calls, found.place), found.place.operand))):  # calls between them may change it in place
        with seeded(0):
            drawn = torch.randn_like(found.features.detach()) * found.features.detach().std()
            result, _ = _run(module, batch, calls=_Calls(put=(*at, drawn), tracked=_count(batch)))
        wanted = activated((drawn.double() @ found.weight.double().T + found.bias).to(drawn), found.end)
        if result is not None and torch.allclose(result.detach(), wanted, rtol=1e-3, atol=1e-4 * float(wanted.abs().max())):
            return True
    return False


def _at(calls: Sequence[_Call], place: _Place) -> int:
    """Return the number of the call in which a place is."""
    return [at for at, one in enumerate(calls) if one.name in place.functions][-place.call]


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


def _trains_alike(module: Module, batch: Inputs, *, found: _Reading) -> bool:
    """Tell whether, in training too, the same calls with the same class weights read the tensor at this place: a second classifier may
    follow there."""
    twin, turned, uses = copied(module), changed(batch, lambda tensor: tensor.flip(0)[1:]), list[list[_Call]]()
    try:
        with seeded(0), torch.no_grad():
            for values, training in ((batch, False), (turned, False), (batch, True)):
                uses.append(_uses(_run(twin.train(training), values, calls=_Calls())[1], found.place))
    except Exception:  # a forward may need labels in training
        return False
    if len({tuple(use.name for use in one) for one in uses}) > 1:
        return False
    rows = [zip(same.tensors, again.tensors, now.tensors, strict=False) for same, again, now in zip(*uses, strict=True)]
    fixed = [(same, now) for row in rows for same, again, now in row if same is not None and _equal(same, again)]
    return all(_equal(same, now) for same, now in fixed)


def _uses(calls: Sequence[_Call], place: _Place) -> list[_Call]:
    """Return the calls that read the tensor at a place."""
    at = _at(calls, place)
    tensor, gives = calls[at].tensors[place.operand], place.operand == len(calls[at].tensors) - 1
    return [one for one in calls[(at + 1) * gives :] if any(own is tensor for own in one.tensors[:-1])]


@seeded()
def _taken_out(body: TorchBody, found: _Reading) -> TorchBody:
    rows, shift = (one.float().cpu().numpy() for one in (found.weight, found.bias))
    layer = Linear(rows.shape[1], len(rows))
    put_(layer, rows, bias=shift)
    made = ReadHead(body.module, found.place, head=layer, end=_ENDS[found.end](*[1] * ("softmax" in found.end)))
    own = HeadLocation(made.name_of("head"), {"log_softmax": "softmax"}.get(found.end, found.end), found.end == "linear")
    twin = body.anew(made, {"main": (own.head(rows, shift, task="main"), own)})
    twin.account = Account(notes=(f"its code computes the logits without a layer for them: they became one, {own.layer!r}",))
    return twin
