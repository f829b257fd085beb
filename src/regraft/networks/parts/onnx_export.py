"""PyTorch's exporter to ONNX, kept quiet, and the proof that what it wrote computes the same."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError, RegraftError, optional_import
from ...files.formats import reason_of
from ..family import Body
from .protocols import Inputs
from .record import Record
from .recurrent import translations

__all__ = ["WholeNetwork", "batches_of", "check_size", "input_names", "onnx_model", "prove", "sample_tensors", "why_not_exported"]

_OPSET = 20
_LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one ONNX file; some are left for the graph."""
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2
"""By how much results may differ from PyTorch's, relative to the largest one; the second where there are weights of 16 bits."""


class WholeNetwork(Module):
    """What a network computes as a module whose forward takes its tensors in the order of its sample; subclasses say what that is.

    Attributes:
        module: the network's own.
    """

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.module = network.module
        self.__dict__["network"] = network  # no module

    def inputs(self, tensors: Sequence[Tensor]) -> Inputs:
        """Return `tensors` as the network takes them: by name, where they have names."""
        sample = self.__dict__["network"].sample
        return dict(zip(sample, tensors, strict=True)) if isinstance(sample, dict) else tensors[0]


def sample_tensors(sample: Inputs) -> tuple[Tensor, ...]:
    """Return the tensors of a `sample` on the CPU, in order."""
    return tuple(tensor.cpu() for tensor in (sample.values() if isinstance(sample, dict) else (sample,)))


def input_names(sample: Inputs) -> list[str]:
    """Return the names of the tensors of a `sample`; none where it is one without a name."""
    return list(sample) if isinstance(sample, dict) else []


def batches_of(network: Body | Record, *, longer: Sequence[Mapping[int, Any]] = ()) -> Iterator[list[Tensor]]:
    """Yield a batch of one example and one of three, of different conditions where the network takes their codes."""
    names = input_names(network.sample)
    for count in (1, 3):
        tensors = [tensor[torch.arange(count) % len(tensor)] for tensor in sample_tensors(network.sample)]
        if network.coding is not None:
            tensors[names.index("condition")] = torch.arange(count) % len(network.code_table())
        for at, axes in enumerate(longer if count > 1 else ()):
            for axis in axes:
                tensors[at] = torch.cat([tensors[at], tensors[at].narrow(axis, 0, 1)], axis)
        yield tensors


def check_size(state: Mapping[str, Tensor], *, purpose: str) -> None:
    """Check, before any work, that the libraries are there and the weights fit into one file."""
    for name in ("onnx", "onnxscript", "onnxruntime"):
        optional_import(name, "onnx", purpose=purpose)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > _LARGEST:
        raise NetworkError(f"its weights take {size / 2**30:.1f} GiB, and one ONNX file holds 2 GiB")


def onnx_model(
    whole: WholeNetwork,
    sample: Sequence[Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Sequence[Mapping[int, torch.export.Dim]],
    exported: Callable[[], None] = lambda: None,
) -> Any:
    """Return a module as PyTorch's exporter translates it."""
    whole.__dict__["network"].name_for_export_()
    with _quiet():
        program = torch.export.export(whole, tuple(sample), dynamic_shapes={"tensors": tuple(map(dict, axes))}, strict=False)
        exported()
        made: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
            input_names=list(inputs),
            output_names=list(outputs),
            custom_translation_table=dict(translations()),
        )
    return made.model_proto


def why_not_exported(problem: BaseException) -> str:
    """Return why an export failed, in one line: what the exporter gives as the cause of the `problem`, where it gives one."""
    while problem.__cause__ is not None and not isinstance(problem, RegraftError):
        problem = problem.__cause__
    reason = reason_of(problem)
    return "its forward fixes the number of examples in a batch" if reason.startswith("Constraints violated") else reason


def prove(
    whole: Module,
    program: Callable[..., Mapping[str, Tensor]],
    *,
    batches: Iterable[Sequence[Tensor]],
    outputs: Sequence[str],
    state: Mapping[str, Tensor],
) -> float:
    """Compare what a program computes with what the module does.

    `program`: the same in another form: tensors -> tensors by name; result: The largest difference, relative to the largest value of its
    output.
    """
    coarse = any(tensor.is_floating_point() and tensor.element_size() < 4 for tensor in state.values())
    largest = 0.0
    for tensors in batches:
        with torch.no_grad():
            expected, found = whole(*tensors), program(*tensors)
        for name, values in zip(outputs, expected, strict=True):
            scale = float(values.abs().nan_to_num().max()) if values.numel() else 0.0
            limit = (_HALF_TOLERANCE if coarse else _TOLERANCE) * scale + 1e-6
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
def _quiet() -> Iterator[None]:
    """Let the exporter say nothing while the context lasts: it prints whole graphs where it fails."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with torch.no_grad(), warnings.catch_warnings(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
