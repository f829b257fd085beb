"""ONNX export with PyTorch's exporter, silenced, and verification that the exported program computes the same."""

import logging
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError, RegraftError, optional_import
from ...files.formats import reason_of
from ...files.onnx_form import LARGEST
from ..family import Body
from ..tracing import hooked, replaced
from .protocols import Inputs, by_name
from .record import Record

_LOCK = threading.RLock()
_OPSET = 20
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2
"""Allowed difference from PyTorch's results, relative to the largest one; the second applies to 16-bit weights."""


class NotTracedError(NetworkError):
    """PyTorch's exporter cannot follow the forward, whatever the form of the file."""


class WholeNetwork(Module):
    """Network as a module whose forward takes the tensors of its sample in order; subclasses define the outputs.
    `module`: the network's module.
    `names`: names of the inputs, in order; empty for one unnamed tensor."""

    def __init__(self, network: Body | Record) -> None:
        super().__init__()
        self.module, self.names = network.module, input_names(network.sample)
        self.__dict__["network"] = network  # in __dict__, so that it is no submodule

    def inputs(self, tensors: Sequence[Tensor]) -> Inputs:
        """Return `tensors` in the form that the network takes: by name if its inputs are named."""
        return dict(zip(self.names, tensors, strict=True)) if self.names else tensors[0]


def sample_tensors(sample: Inputs) -> tuple[Tensor, ...]:
    """Return the tensors of a `sample` on the CPU, in order."""
    return tuple(tensor.cpu() for tensor in by_name(sample).values())


def input_names(sample: Inputs) -> list[str]:
    """Return the input names of a `sample`; empty for one unnamed tensor."""
    return list(sample) if isinstance(sample, dict) else []


def batches_of(network: Body, *, longer: Sequence[Mapping[int, Any]] = ()) -> Iterator[list[Tensor]]:
    """Yield a batch of one and a batch of three examples, with different conditions if the network takes codes.
    In the second batch the axes in `longer` (one mapping per input) are one element longer than in the sample."""
    names = input_names(network.sample)
    for count in (1, 3):
        tensors = [tensor[torch.arange(count) % len(tensor)] for tensor in sample_tensors(network.sample)]
        if network.coding is not None:
            tensors[names.index("condition")] = torch.arange(count) % len(network.code_table())
        for at, axes in enumerate(longer if count > 1 else ()):
            for axis in axes:
                tensors[at] = torch.cat([tensors[at], tensors[at].narrow(axis, 0, 1)], axis)
        yield tensors


def lengths_of(network: Body) -> list[dict[int, str]]:
    """Return the names of each input's free axes beside that of the examples: open axes and the tokens of texts."""
    names, free = input_names(network.sample), list[dict[int, str]]()
    for at, (name, tensor) in enumerate(zip(names or [""], sample_tensors(network.sample), strict=True)):
        text, stem = tensor.ndim == 2 and not tensor.is_floating_point(), f"length{at}_" if names else "length"
        own = [axis for axis, side in enumerate(network.open_shapes.get(name, ()), 1) if side is None]
        free.append({1: "tokens"} if text else {axis: f"{stem}{axis}" for axis in own})
    return free


def ways_of(free: Sequence[Mapping[int, str]]) -> list[Sequence[Mapping[int, str]]]:
    """Return what to try in order: with the free axes, and with none."""
    return [free, [{} for _ in free]] if any(free) else [free]


def dimensions(lengths: Sequence[Mapping[int, str]]) -> list[dict[int, Any]]:
    """Return the dynamic axes of each input for the exporter, which finds the shortest and longest of the `lengths` and which are equal."""
    return [{0: torch.export.Dim("batch", min=1), **dict.fromkeys(each, torch.export.Dim.AUTO)} for each in lengths]


def warn_of_length(sample: Sequence[Tensor], *, what: str) -> None:
    """Warn that an exported file takes examples of the sample's shape only, although the network has open axes."""
    shapes = ", ".join(str(tuple(tensor.shape[1:])) for tensor in sample)
    warnings.warn(
        f"The {what} takes examples of the shape {shapes} only: the exporter fixed their length. Longer and shorter ones have to be cut or "
        "padded to it.",
        stacklevel=5,
    )


def check_libraries(purpose: str) -> None:
    """Raise if an ONNX library is missing."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        optional_import(name, "onnx", purpose=purpose)


def check_size(state: Mapping[str, Tensor], *, purpose: str) -> None:
    """Raise if an ONNX library is missing or the weights do not fit into one file."""
    check_libraries(purpose)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > LARGEST:
        raise NetworkError(f"its weights take {size / 2**30:.1f} GiB, and one ONNX file holds 2 GiB")


def onnx_model(
    whole: WholeNetwork,
    sample: Sequence[Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    lengths: Sequence[Mapping[int, Any]],
    tick: Callable[[], None] | None = None,
) -> Any:
    """Return a module as an `onnx.ModelProto` with a free batch axis, made by PyTorch's exporter.
    `lengths`: further free axes of each input. `tick`: see `exporting`; it is called after `torch.export`, too."""
    with exporting(whole, tick):
        try:
            program = torch.export.export(whole, tuple(sample), dynamic_shapes={"tensors": tuple(dimensions(lengths))}, strict=False)
        except Exception as problem:  # a forward may raise anything
            raise NotTracedError(why_not_exported(problem)) from problem
        if tick is not None:
            tick()
        made: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
            input_names=list(inputs),
            output_names=list(outputs),
        )
    return made.model_proto


@contextmanager
def exporting(whole: WholeNetwork, tick: Callable[[], None] | None, *, operators: bool = True) -> Iterator[None]:
    """Silence PyTorch's exporters within the context, and give a module and functions of PyTorch the form that they follow.
    `tick` is called before each module of a run, and may raise to stop it. `operators`: let recurrent layers be operators of ONNX."""
    network = whole.__dict__["network"]
    body = network if isinstance(network, Body) else network.body
    body.name_for_export_()
    watched = nullcontext() if tick is None else hooked(dict(whole.named_modules()), before=lambda *_call: tick())
    with silenced(), body.for_onnx() if operators else nullcontext(), replaced(_exportable()), watched:
        yield


def _exportable() -> Iterator[tuple[Any, str, Callable[..., Any]]]:
    """Yield, for `replaced`, functions of PyTorch in a form that the exporter translates with any number of examples."""
    attend, squeeze, unsqueeze, times = torch.nn.functional.scaled_dot_product_attention, torch.squeeze, torch.unsqueeze, Tensor.__mul__
    from_other = Tensor.__rsub__

    def attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *more: Any, **settings: Any) -> Tensor:
        """Attend in four axes: the exporter translates no other number. `more`: `dropout_p` and what follows it, if given by position."""
        outer = query.shape[:-2]
        if query.ndim in (2, 4) or key.shape[:-2] != outer:
            return attend(query, key, value, attn_mask, *more, **settings)
        if attn_mask is not None and attn_mask.ndim > 2:
            attn_mask = attn_mask.expand(*outer, *attn_mask.shape[-2:]).flatten(0, -3).unsqueeze(1)
        query, key, value = (values.flatten(0, -3).unsqueeze(1) for values in (query, key, value))
        made = attend(query, key, value, attn_mask, *more, **settings).squeeze(1)
        return made.reshape(*outer, *made.shape[-2:])

    def squeezed(*given: Any, **named: Any) -> Any:
        """Without axes, keep those whose size is free: the number of examples may be 1."""
        if len(given) != 1 or named:
            return squeeze(*given, **named)
        ones = tuple(axis for axis, size in enumerate(given[0].shape) if isinstance(size, int) and size == 1)
        return squeeze(given[0], ones) if ones else given[0]

    def unsqueezed(input: Tensor, dim: int) -> Tensor:  # PyTorch's names
        """Give complex numbers (rotations of positions) their new axis as pairs of real ones."""
        if not input.is_complex():
            return unsqueeze(input, dim)
        return torch.view_as_complex(unsqueeze(torch.view_as_real(input), dim if dim >= 0 else dim - 1))

    def multiplied(own: Tensor, other: Any) -> Tensor:
        """Multiply complex numbers by a real one as pairs: the exporter multiplies them by complex ones only."""
        pairs = own.is_complex() and isinstance(other, int | float)
        return torch.view_as_complex(times(torch.view_as_real(own), other)) if pairs else times(own, other)

    def subtracted_from(own: Tensor, other: Any) -> Tensor:
        """Subtract whole numbers (a mask) from a fraction as fractions: the exporter cannot convert them in `1.0 - mask`."""
        return from_other(own.to(torch.result_type(own, other)), other)

    yield torch.nn.functional, "scaled_dot_product_attention", attention
    yield torch, "squeeze", squeezed
    yield Tensor, "squeeze", squeezed
    yield torch, "unsqueeze", unsqueezed
    yield Tensor, "unsqueeze", unsqueezed
    yield Tensor, "__mul__", multiplied
    yield Tensor, "__rsub__", subtracted_from


def why_not_exported(problem: BaseException) -> str:
    """Return the reason of a failed export in one line: the root cause of the `problem`, if the exporter gives one."""
    while problem.__cause__ is not None and not isinstance(problem, RegraftError):
        problem = problem.__cause__
    reason = reason_of(problem)
    if "data-dependent" in reason:
        return "the shapes that it computes depend on the values that it is given"
    return "its forward fixes the number of examples in a batch" if reason.startswith("Constraints violated") else reason


def is_coarse(network: Body | Record) -> bool:
    """Return whether a network holds weights of 16 bits, or computes in them as a Keras policy says."""
    small = (tensor.element_size() < 4 for tensor in network.state().values() if tensor.is_floating_point())
    return any(small) or any("16" in str(getattr(layer, "compute_dtype", "")) for layer in network.modules().values())


def prove(
    body: Body,
    whole: Callable[..., Sequence[Tensor]],
    *,
    program: Callable[..., Mapping[str, Tensor]],
    outputs: Sequence[str],
    lengths: Sequence[Mapping[int, Any]],
) -> float:
    """Check that an exported `program` (tensors -> tensors by name) matches the `whole` of a body on one example and on three longer ones.
    `lengths`: its free axes. Return the largest difference, relative to the largest value of its output. A difference above the tolerance
    raises `NetworkError`."""
    largest, tolerance = 0.0, _HALF_TOLERANCE if is_coarse(body) else _TOLERANCE
    for tensors in batches_of(body, longer=lengths):
        with torch.no_grad():
            expected, found = whole(*tensors), program(*tensors)
        for name, values in zip(outputs, expected, strict=True):
            scale = float(values.abs().nan_to_num().max()) if values.numel() else 0.0
            limit = tolerance * scale + 1e-6
            same = found[name].shape == values.shape and torch.allclose(found[name], values, rtol=0, atol=limit, equal_nan=True)
            if not same:
                raise NetworkError(
                    f"for a batch of {len(tensors[0])}, {name} is not what PyTorch gives (within {limit:.1g}): the network draws at "
                    "random, or depends on the size of the batch"
                )
            if values.numel() and scale:
                largest = max(largest, float((found[name] - values).abs().nan_to_num().max()) / scale)
    return largest


@contextmanager
def silenced() -> Iterator[None]:
    """Silence PyTorch's exporters within the context, because they print whole graphs when they fail.
    Other threads that enter it wait: outputs, warnings and the functions that are replaced for an exporter are global to the process."""
    with _LOCK:
        before = logging.root.manager.disable
        logging.disable(logging.CRITICAL)
        try:
            with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
                warnings.simplefilter("ignore")
                yield
        finally:
            logging.disable(before)
