"""PyTorch's exporter to ONNX, kept quiet, and the proof that what it wrote computes the same."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError, RegraftError, optional_import
from ...files.formats import reason_of
from .recurrent import translations

__all__ = ["check_size", "onnx_model", "prove", "why_not_exported"]

_OPSET = 20
_LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one ONNX file; some are left for the graph."""
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2
"""By how much results may differ from PyTorch's, relative to the largest one; the second where there are weights of 16 bits."""


def check_size(state: Mapping[str, Tensor], *, purpose: str) -> None:
    """Check, before any work, that the libraries are there and the weights fit into one file.

    Args:
        state: all weights by name.
        purpose: what the libraries are for, the subject of a sentence.

    Raises:
        MissingExtraError: if a library is not installed.
        NetworkError: if the weights are too many.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        optional_import(name, "onnx", purpose=purpose)
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    if size > _LARGEST:
        raise NetworkError(f"its weights take {size / 2**30:.1f} GiB, and one ONNX file holds 2 GiB")


def onnx_model(
    whole: Module,
    sample: Sequence[Tensor],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Sequence[Mapping[int, torch.export.Dim]],
) -> Any:
    """Return a module as PyTorch's exporter translates it.

    Args:
        whole: in inference mode; its forward takes `*tensors` and returns a tuple of tensors.
        sample: a batch, on the CPU.
        inputs: a name for each tensor that it takes.
        outputs: a name for each tensor that it returns.
        axes: for each tensor that it takes, which of its axes are free.

    Returns:
        An `onnx.ModelProto`.

    Raises:
        Exception: whatever the exporter raises: not every forward can be exported. `why_not_exported` gives the reason.
    """
    with _quiet():
        program = torch.export.export(whole, tuple(sample), dynamic_shapes={"tensors": tuple(map(dict, axes))}, strict=False)
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
    batches: Sequence[Sequence[Tensor]],
    outputs: Sequence[str],
    state: Mapping[str, Tensor],
) -> float:
    """Compare what a program computes with what the module does.

    Args:
        whole: the module.
        program: the same in another form: tensors -> tensors by name.
        batches: some batches, of different sizes.
        outputs: the names of what the module returns, in order.
        state: all weights by name; where some have 16 bits, results may differ more.

    Returns:
        The largest difference, relative to the largest value of its output.

    Raises:
        NetworkError: with what differs.
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
