"""Tracing of a forward pass: which modules are called, in which order, with which inputs and outputs.

Forward hooks serve both families, because Keras 3 layers are torch modules on the torch backend.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, is_dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module, functional
from torch.nn.modules.conv import _ConvNd
from torch.nn.utils.rnn import PackedSequence


@dataclass
class Trace:
    """Record of one run.
    `outputs`: name -> output of its last call; of all its calls for a module that a loop calls for single examples."""

    modules: Mapping[str, Any]  # name -> module, of all that may be called
    run: Callable[[], Any]  # runs them again
    order: list[str] = field(default_factory=list)  # module names, ordered by the start of their first call
    inputs: dict[str, Any] = field(default_factory=dict)  # name -> first positional argument of its last call
    outputs: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    main: Tensor | None = None  # the main tensor of the result


def is_transformed() -> bool:
    """Return whether a transform of `torch.func` (vmap, grad, jvp) runs: the tensors of its calls mean nothing after it."""
    return torch._C._functorch.maybe_current_level() is not None


@contextmanager
def hooked(
    modules: Mapping[str, Module],
    *,
    before: Callable[[str, Any, Any], None] | None = None,
    after: Callable[[str, Any], None] | None = None,
    first: bool = False,
) -> Iterator[None]:
    """Call `before` with the name, the arguments and the named arguments of each call of some modules, and `after` with the name and the
    output, within the context. With `first`, `after` comes before the hooks that are there already, which may change the output.
    Calls within a transform of `torch.func` are passed over."""

    def outside(seen: Callable[..., None], *given: Any) -> None:
        if not is_transformed():
            seen(*given)

    with ExitStack() as stack:
        for name, module in modules.items():
            if before is not None:
                hook = partial(lambda name, _module, *call: outside(before, name, *call), name)
                stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
            if after is not None:
                hook = partial(lambda name, _module, _args, output: outside(after, name, output), name)
                stack.callback(module.register_forward_hook(hook, prepend=first).remove)
        yield


def trace(modules: Mapping[str, Module], run: Callable[[], Any]) -> Trace:
    """Call `run` and return a record of the calls of `modules` (by name); modules that are not called are absent.
    The record keeps all inputs and outputs, so the batch should be small."""
    seen, outputs = Trace(modules, run), defaultdict[str, list[Any]](list)

    def before(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if name not in seen.inputs:
            seen.order.append(name)
        seen.inputs[name] = args[0] if args else next(iter(kwargs.values()), None)

    with torch.no_grad(), hooked(modules, before=before, after=lambda name, output: outputs[name].append(output)):
        seen.result = run()
    seen.main = as_tensor(seen.result)
    seen.outputs = {name: _of_examples(calls, seen.main) for name, calls in outputs.items()}
    return seen


def _of_examples(calls: Sequence[Any], result: Tensor | None) -> Any:
    """Return the value of the last call; those of all calls, joined, if each was for some of the examples of a `result` (N, …)."""
    if result is None or (len(calls) == 1 and isinstance(calls[0], Tensor) and calls[0].ndim > 1):
        return calls[-1]  # sizes are not looked at: an exporter would fix the number of examples
    found = joined(calls, len(result))
    return calls[-1] if found is None else found


def joined(calls: Sequence[Any], count: int) -> Tensor | None:
    """Return the values of all calls, (count, …), if each was for some of the examples; otherwise None."""
    if not all(isinstance(one, Tensor) and one.ndim for one in calls):
        return None
    rows = [one[None] if one.ndim == 1 else one for one in calls]
    return torch.cat(rows) if sum(map(len, rows)) == count and len({one.shape[1:] for one in rows}) == 1 else None


class CallRecord(dict[str, Tensor]):
    """The "input" and "output" of a module's last call."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Tensor, Tensor]] = []

    def of_examples(self, key: str, result: Tensor | None) -> Tensor:
        """Return the same of all calls, (N, …), for a module that a loop called for single examples of a `result` (N, …)."""
        return cast(Tensor, _of_examples([call[key == "output"] for call in self.calls], result))


@contextmanager
def capture(module: Module, *, replace_by_input: bool = False) -> Iterator[CallRecord]:
    """Record the input and output of one module within the context.
    With `replace_by_input` the module returns its input instead of its output."""
    found = CallRecord()

    def hook(_module: Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Tensor) -> Tensor | None:
        found["input"] = args[0] if args else next(iter(kwargs.values()))
        found["output"] = output
        found.calls.append((found["input"], output))
        return found["input"] if replace_by_input else None

    with module.register_forward_hook(hook, with_kwargs=True):
        yield found


@contextmanager
def watching(heads: Sequence[Module], *, channels_last: bool) -> Iterator[Callable[[Tensor | None], Tensor]]:
    """Record the inputs of the layers of one head within the context.
    The yielded function takes the result (N, …) of the last batch and returns its features (N, d), averaged over positions."""
    with ExitStack() as stack:
        seen = [stack.enter_context(capture(head)) for head in heads]

        def features(result: Tensor | None) -> Tensor:
            inputs = [one.of_examples("input", result) for one in seen]
            for one in seen:
                one.calls.clear()
            lasts = [channels_last or values.ndim == 3 for values in inputs]
            parts = [read_by(head, values, channels_last=last) for head, values, last in zip(heads, inputs, lasts, strict=True)]
            return parts[0] if len(parts) == 1 else torch.cat(parts, 1)

        yield features


def flat_tensors(value: Any) -> list[Tensor]:
    """Return the tensors in nested tuples, lists, mappings and dataclasses, in order; packed sequences are skipped."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, PackedSequence):  # has no batch axis
        return []
    if isinstance(value, Mapping):
        return [tensor for part in value.values() for tensor in flat_tensors(part)]
    if isinstance(value, (tuple, list)):
        return [tensor for part in value for tensor in flat_tensors(part)]
    return flat_tensors(vars(value)) if is_dataclass(value) and hasattr(value, "__dict__") else []


def named_logits(result: Any) -> Tensor | None:
    """Return the tensor named "logits" in the result of a forward pass (mapping, named tuple or dataclass), or None."""
    found = result.get("logits") if isinstance(result, Mapping) else getattr(result, "logits", None)
    return found if isinstance(found, Tensor) else None


def as_tensor(result: Any) -> Tensor | None:
    """Return the main tensor of a forward pass's result: the entry "logits", else the first tensor with axes (no loss), or None."""
    tensors = flat_tensors(result)
    found = [named_logits(result), *(tensor for tensor in tensors if tensor.ndim), *tensors]
    return next((tensor for tensor in found if tensor is not None), None)


def in_columns(result: Tensor) -> Tensor:
    """Return a result as it is, or, if it is one number for each example, (N,), as (N, 1)."""
    return result[:, None] if result.ndim == 1 else result


def pooled(values: Tensor, channels_last: bool) -> Tensor:
    """Return the mean (N, d) over all positions of values (N, d, …), or (N, …, d) if `channels_last`. Whole numbers become real ones."""
    values = values if values.is_floating_point() or values.is_complex() else values.float()
    if values.ndim <= 2:
        return in_columns(values)
    return values.flatten(1, -2).mean(1) if channels_last else values.flatten(2).mean(2)


def read_by(layer: Any, values: Tensor, *, channels_last: bool) -> Tensor:
    """Return the features (N, d) of a head's `layer` from its input `values`: its position-averaged logits are linear in them.
    For a linear layer or a 1x1 convolution they are the mean of the values over positions. For a larger kernel they are, for each kernel
    position, the mean of the values that it covers: d = channels x kernel positions."""
    kernel = getattr(layer, "kernel_size", ())
    if not isinstance(kernel, tuple) or set(kernel) <= {1} or values.ndim != len(kernel) + 2:
        return pooled(values, channels_last)
    maps = values.movedim(-1, 1) if channels_last else values
    gaps = layer.dilation if isinstance(layer, _ConvNd) else layer.dilation_rate
    beyond = [gap * (size - 1) for gap, size in zip(gaps, kernel, strict=True)]
    padding = {"valid": [(0, 0) for _ in kernel], "same": [(all_ // 2, all_ - all_ // 2) for all_ in beyond]}
    sides = padding[layer.padding] if isinstance(layer.padding, str) else [(size, size) for size in layer.padding]
    maps = functional.pad(maps, [size for side in reversed(sides) for size in side])
    ends = [size - rest for size, rest in zip(maps.shape[2:], beyond, strict=True)]
    met = []
    for place in itertools.product(*map(range, kernel)):
        starts = [at * gap for at, gap in zip(place, gaps, strict=True)]
        window = [slice(start, start + end) for start, end in zip(starts, ends, strict=True)]
        met.append(maps[(slice(None), slice(None), *window)].flatten(2).mean(2))
    return torch.stack(met, 2).flatten(1)


@contextmanager
def replaced(attributes: Iterable[tuple[Any, str, Any]]) -> Iterator[None]:
    """Set attributes of single objects, modules and classes within the context: owner, name, value. A replaced forward keeps its hooks."""
    with ExitStack() as stack:
        for owner, name, value in attributes:
            put, drop = (setattr, delattr) if isinstance(owner, type) else (object.__setattr__, object.__delattr__)
            stack.callback(put, owner, name, vars(owner)[name]) if name in vars(owner) else stack.callback(drop, owner, name)
            put(owner, name, value)
        yield


@contextmanager
def called_one_by_one() -> Iterator[None]:
    """Turn off the fused fast path of attention and transformer layers, which bypasses the calls of their inner modules in inference."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def without_padding(layer: Any) -> AbstractContextManager[None]:
    """Turn off the padding of a convolution within the context."""
    return replaced([(layer, "padding", 0 if isinstance(layer, _ConvNd) else "valid")])


@contextmanager
def other_values(tensors: Sequence[Tensor], made: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Replace the values of some tensors by `made` of them within the context."""
    kept = [one.data for one in tensors]
    try:
        for one in tensors:
            one.data = made(one.data)
        yield
    finally:
        for one, values in zip(tensors, kept, strict=True):
            one.data = values


def relative_difference(found: Tensor, wanted: Tensor) -> float:
    """Return the largest difference of tensors of one shape, relative to the largest finite number wanted; inf where one alone is NaN."""
    if not wanted.numel():
        return 0.0
    gaps = (found - wanted).abs().masked_fill((found == wanted) | (found.isnan() & wanted.isnan()), 0.0)
    scale = float(wanted.nan_to_num(0.0, 0.0, 0.0).abs().max())
    return float(gaps.max().nan_to_num(torch.inf, torch.inf)) / max(scale, 1e-12)


def activated(scores: Tensor, name: str) -> Tensor:
    """Return the scores after the activation of this name in PyTorch; "softmax" and "log_softmax" are over the last axis."""
    if name == "linear":
        return scores
    axis = {"dim": -1} if name.endswith("softmax") else {}
    return cast(Tensor, getattr(functional, name)(scores, **axis))


def head_reading(head_output: Tensor, result: Tensor, *, channels_last: bool) -> str | None:
    """Return how a network's `result` (N, C) follows from a linear layer's `head_output`, (N, C), (N, C, …) or (N, …, C).
    "linear", "softmax", "log_softmax" or "sigmoid": the activation of the output, averaged over positions. "tail": a further step without
    weights (ReLU before the average, selection of one token). None: the result does not follow from the output."""
    if result.ndim != 2 or head_output.ndim < 2 or not result.is_floating_point():
        return None
    head_output = head_output.to(result.dtype)  # with mixed precision, a layer of its own computes the activation in float32
    scores = pooled(head_output, channels_last)
    atol = 1e-5 * min(1.0, float(scores.abs().max()))
    if scores.shape == result.shape:
        for name in ("linear", "softmax", "log_softmax", "sigmoid"):
            if torch.allclose(activated(scores, name), result, rtol=1e-4, atol=atol):
                return name
        if head_output.ndim > 2 and torch.allclose(pooled(head_output.relu(), channels_last), result, rtol=1e-4, atol=atol):
            return "tail"
    if channels_last and head_output.ndim == 3 and head_output.shape[-1] == result.shape[-1]:
        same = torch.isclose(head_output, result[:, None, :], rtol=1e-4, atol=atol).all(-1).any(-1)
        return "tail" if bool(same.all()) else None
    return None
