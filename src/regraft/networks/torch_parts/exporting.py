"""A PyTorch network as one file without its classes: in ONNX form beside its weights, or as a PyTorch program for use elsewhere."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from inspect import Parameter, Signature, signature
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError, RegraftError, optional_import
from ...files.formats import reason_of
from ...files.onnx_form import check_onnx_
from ...files.writing import write_bytes
from ..contract import Inputs
from ..tracing import capture
from .programs import FEATURES, OnnxProgram, input_name, logits_name
from .record import TorchRecord

__all__ = ["PROGRAM_FILE", "UNOPENED_PROGRAM_FILE", "LogitsAndFeatures", "export_module", "exported_onnx", "write_program"]

PROGRAM_FILE = "network.onnx"
UNOPENED_PROGRAM_FILE = "network.pt2"
"""What earlier versions saved in its place: a program that only code can open."""
_OPSET = 20
_LARGEST = 2**31 - 2**20
"""Bytes of weights that fit into one ONNX file; some are left for the graph."""
_TOLERANCE, _HALF_TOLERANCE = 1e-4, 1e-2
"""By how much results may differ from PyTorch's, relative to the largest one; the second where there are weights of 16 bits."""


class LogitsAndFeatures(Module):
    """What a network computes as a module's result: the logits of each head with rows of its own, then what the head reads.

    It takes named tensors in the order of the network's sample.
    """

    def __init__(self, network: TorchRecord) -> None:
        super().__init__()
        self.module = network.module
        self.__dict__["network"] = network

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (N, C) of each head, in their order, and the features (N, d), all in single precision."""
        network = self.__dict__["network"]
        inputs = dict(zip(network.sample, tensors, strict=True)) if isinstance(network.sample, dict) else tensors[0]
        own = [task for task, head in network.heads.items() if head.groups is None]
        if not own:
            scores = network.scores(inputs)
            return *(values.float() for values in scores.values()), network.feature_batch(inputs).float()
        with capture(network.module.get_submodule(network.head.layer)) as seen:
            scores = network.scores(inputs)
        features = seen["input"] if seen["input"].ndim == 2 else network.feature_batch(inputs)
        return *(scores[task].float() for task in own), features.float()


def exported_onnx(network: TorchRecord) -> tuple[bytes, dict[str, str]]:
    """Return a network in ONNX form, its batch axis free, once it has given PyTorch's results for two sizes of a batch.

    Args:
        network: on the CPU, in inference mode; a private copy.

    Returns:
        The content of the file, and what opening it needs to know: the name of the table of codes, where there is one.

    Raises:
        MissingExtraError: if a library is not installed.
        NetworkError: if its weights are too many, or the results are others.
        Exception: whatever the exporter raises: not every forward can be exported.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        optional_import(name, "onnx", purpose="A file that opens without the class")
    size = sum(tensor.numel() * tensor.element_size() for tensor in network.state().values())
    if size > _LARGEST:
        raise NetworkError(f"its weights take {size / 2**30:.1f} GiB, and one ONNX file holds 2 GiB")
    whole = LogitsAndFeatures(network).eval()
    model = _translated(whole, _tensors(network.sample))
    told = _codes_of(whole, network, model=model)
    check_onnx_(model, what="the ONNX form")
    content: bytes = model.SerializeToString()
    _prove(whole, OnnxProgram(content, _names(network.sample)), network=network)
    return content, told


def write_program(network: TorchRecord, folder: Path) -> dict[str, str]:
    """Write a network in ONNX form beside its weights, so that it predicts where its class is not; where that fails, say so.

    Args:
        network: of a class of the user's own.
        folder: with its weights.

    Returns:
        What opening the file needs to know, or, as "no_program", why there is none.
    """
    twin = network.copy()
    twin.module.cpu()
    twin.mode_(False)
    try:
        content, told = exported_onnx(twin)
    except Exception as problem:  # not every forward can be exported; the weights are saved all the same
        own = str(network.origin.get("class", "")).rpartition(".")[2] or "MyNetwork"
        reason = _reason_of(problem)
        warnings.warn(
            f"The network is saved, but opens only with its class: it was not written in ONNX form ({reason}). Open its folder with "
            f"regraft.load(folder, architecture={own}).",
            stacklevel=2,
        )
        return {"no_program": reason}
    write_bytes(folder / PROGRAM_FILE, content)
    return told


def _reason_of(problem: BaseException) -> str:
    """Return why an export failed, in one line: what the exporter gives as the cause, where it gives one."""
    while problem.__cause__ is not None and not isinstance(problem, RegraftError):
        problem = problem.__cause__
    reason = reason_of(problem)
    return "its forward fixes the number of examples in a batch" if reason.startswith("Constraints violated") else reason


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


def _tensors(sample: Inputs) -> tuple[Tensor, ...]:
    return tuple(tensor.cpu() for tensor in (sample.values() if isinstance(sample, dict) else (sample,)))


def _names(sample: Inputs) -> list[str]:
    return list(sample) if isinstance(sample, dict) else []


def _translated(whole: LogitsAndFeatures, sample: tuple[Tensor, ...]) -> Any:
    """Return the model that PyTorch's exporter makes, an `onnx.ModelProto` with our names for inputs and outputs."""
    axes = ({0: torch.export.Dim("batch", min=1)},) * len(sample)
    with _quiet():
        count = len(whole(*sample))
        program = torch.export.export(whole, sample, dynamic_shapes={"tensors": axes}, strict=False)
        made: Any = torch.onnx.export(
            program,
            (),
            dynamo=True,
            opset_version=_OPSET,
            external_data=False,
            verbose=False,
            input_names=[input_name(index) for index in range(len(sample))],
            output_names=[*map(logits_name, range(count - 1)), FEATURES],
        )
    return made.model_proto


def _codes_of(whole: LogitsAndFeatures, network: TorchRecord, *, model: Any) -> dict[str, str]:
    """Return under which name the model holds the table of codes: opening a folder puts there what its code files say.

    Raises:
        NetworkError: if the model does not hold the table as it is.
    """
    if network.coding is None:
        return {}
    table = network.code_table()
    name = next(name for name, parameter in whole.named_parameters() if parameter is table)
    held = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
    if held is None or tuple(held.dims) != tuple(table.shape):
        raise NetworkError(f"the exporter changed the table of codes {name!r}, which has to stay as it is")
    return {"codes": name}


def _prove(whole: LogitsAndFeatures, program: OnnxProgram, *, network: TorchRecord) -> None:
    """Raise unless the ONNX form gives the module's results, for one example and for three.

    Raises:
        NetworkError: with what differs.
    """
    coarse = any(tensor.is_floating_point() and tensor.element_size() < 4 for tensor in network.state().values())
    for count in (1, 3):
        tensors = [tensor[torch.arange(count) % len(tensor)] for tensor in _tensors(network.sample)]
        if network.coding is not None:
            tensors[_names(network.sample).index("condition")] = torch.arange(count) % len(network.code_table())
        with torch.no_grad():
            expected, found = whole(*tensors), program(*tensors)
        for name, values in zip(program.outputs, expected, strict=True):
            scale = float(values.abs().nan_to_num().max()) if values.numel() else 0.0
            limit = (_HALF_TOLERANCE if coarse else _TOLERANCE) * scale + 1e-6
            if found[name].shape != values.shape or not torch.allclose(found[name], values, rtol=0, atol=limit, equal_nan=True):
                raise NetworkError(
                    f"for a batch of {count}, {name} is not what PyTorch gives (within {limit:.1g}): the network draws at random, or "
                    "depends on the size of the batch"
                )


class _Named(Module):
    """A module that takes tensors by name, its forward without free keywords: a program with them cannot be called."""

    def __init__(self, module: Module, names: Sequence[str]) -> None:
        super().__init__()
        self.module = module

        def forward(**named: Tensor) -> Any:
            return module(**named)

        forward.__dict__["__signature__"] = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
        self.__dict__["forward"] = forward


def export_module(module: Module, sample: Inputs, *, path: Path) -> None:
    """Write an exported program of a module in inference mode, its batch axis free.

    Args:
        module: any.
        sample: a batch that it takes.
        path: ends in `.pt2`.
    """
    axes = {0: torch.export.Dim("batch", min=1)}
    takes = signature(module.forward).parameters
    if isinstance(sample, dict):
        explicit = takes.keys() >= sample.keys()
        whole = module if explicit else _Named(module, list(sample))
        program = torch.export.export(whole.eval(), (), dict(sample), dynamic_shapes={name: axes for name in sample})
    else:
        first = next(iter(takes.values()))
        starred = first.kind is Parameter.VAR_POSITIONAL
        program = torch.export.export(module.eval(), (sample,), dynamic_shapes={first.name: (axes,)} if starred else (axes,))
    torch.export.save(program, path)
