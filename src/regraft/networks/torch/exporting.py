"""A PyTorch network as a file without its classes: ONNX beside the weights, or an exported PyTorch program for use elsewhere."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from inspect import Parameter, Signature, signature
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError
from ...files.onnx_form import check_onnx_
from ...files.writing import write_bytes
from ..family import Body
from ..parts.onnx_export import (
    WholeNetwork,
    batches_of,
    check_size,
    dimensions,
    input_names,
    is_coarse,
    lengths_of,
    onnx_model,
    prove,
    sample_tensors,
    silenced,
    warn_of_length,
    ways_of,
    why_not_exported,
)
from ..parts.protocols import Inputs, on_device
from ..parts.recurrent import cells_of_any_length
from ..tracing import capture, flat_tensors, replaced
from .body import TorchBody
from .graft import for_exporter_, module_at
from .programs import FEATURES, OnnxProgram, input_name, logits_name

GRAPH = "graph_of_file"  # Module attribute that holds the bytes of the ONNX graph that the module was made from
PROGRAM_FILE = "network.onnx"
UNOPENED_PROGRAM_FILE = "network.pt2"
"""Exported program that earlier versions saved instead. Opening the folder does not read it; opening the file needs `trust=True`."""


class _LogitsAndFeatures(WholeNetwork):
    """The logits of each head with its own class weights, then the features that the head reads."""

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the logits (N, C) of each head, in order, and the features (N, d), all in float32."""
        network, inputs = self.__dict__["network"], self.inputs(tensors)
        own = [task for task, head in network.heads.items() if head.groups is None]
        if not own:
            scores = network.scores(inputs)
            return *(values.float() for values in scores.values()), network.feature_batch(inputs).float()
        with ExitStack() as stack:
            heads = [module_at(network.module, name) for name in network.layers_of(network.head.task)]
            seen = [stack.enter_context(capture(head)) for head in heads]
            scores = network.scores(inputs)
        read = [one["input"] for one in seen]
        features = network.feature_batch(inputs) if read[0].ndim > 2 else read[0] if len(read) == 1 else torch.cat(read, 1)
        return *(scores[task].float() for task in own), features.float()


def _exported_onnx(body: TorchBody) -> tuple[bytes, dict[str, str]]:
    """Return a network as ONNX with a free batch axis, verified against PyTorch at two batch sizes, and its name of the table of codes.
    Opening a folder fills that table from its code files. Tokens and open axes are free as well, if the exporter keeps them so."""
    check_size(body.state(), purpose="A file that opens without the class")
    *ways, last = ways_of(lengths_of(body, texts=True))
    for lengths in ways:
        with suppress(Exception):  # exporters raise anything
            return _exported(body, lengths)
    return _exported(body, last)


def _exported(body: TorchBody, lengths: Sequence[Mapping[int, str]]) -> tuple[bytes, dict[str, str]]:
    whole, sample, told = _LogitsAndFeatures(body).eval(), sample_tensors(body.sample), dict[str, str]()
    with torch.no_grad():
        count = len(whole(*sample))
    inputs, outputs = [input_name(index) for index in range(len(sample))], [*map(logits_name, range(count - 1)), FEATURES]
    model = onnx_model(whole, sample, inputs=inputs, outputs=outputs, axes=dimensions(lengths))
    if body.coding is not None:
        table = body.code_table()
        told["codes"] = name = next(name for name, parameter in whole.named_parameters() if parameter is table)
        held = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
        if held is None or tuple(held.dims) != tuple(table.shape):
            raise NetworkError(f"the exporter changed the table of codes {name!r}, which has to stay as it is")
    check_onnx_(model, what="the ONNX form")
    content: bytes = model.SerializeToString()
    program = OnnxProgram(content, input_names(body.sample))
    prove(whole, program, batches=batches_of(body, longer=lengths), outputs=program.outputs, coarse=is_coarse(body))
    return content, told


def write_program(body: TorchBody, folder: Path, *, own: str) -> dict[str, str]:
    """Write a network as ONNX beside its weights, so that it predicts without its class. Warn if that fails.
    Return the facts needed to open the file, or the reason for its absence under "no_program"."""
    twin = body.copy()
    twin.ready_for_export_()
    for_exporter_(twin.module)
    try:
        content, told = _exported_onnx(twin)
    except Exception as problem:  # not every forward can be exported; the weights are saved anyway
        reason = why_not_exported(problem)
        warnings.warn(
            f"The network is saved, but opens only with its class: it was not written in ONNX form ({reason}). Open its folder with "
            f"regraft.load(folder, architecture={own.rpartition('.')[2] or 'MyNetwork'}).",
            stacklevel=2,
        )
        return {"no_program": reason}
    write_bytes(folder / PROGRAM_FILE, content)
    return told


class _NamedInputs(Module):
    """A module that takes tensors by name. Its forward has no free keywords: an exported program with them cannot be called."""

    def __init__(self, module: Module, names: Sequence[str], *, run: Callable[[dict[str, Tensor]], Any] | None = None) -> None:
        super().__init__()
        self.module = module

        def forward(**named: Tensor) -> Any:
            return module(**named) if run is None else run(named)

        forward.__dict__["__signature__"] = Signature([Parameter(name, Parameter.POSITIONAL_OR_KEYWORD) for name in names])
        self.__dict__["forward"] = forward


def export_module(body: Body, module: Module, *, path: Path, by_name: Callable[[dict[str, Tensor]], Any] | None = None) -> None:
    """Write a module in inference mode as an exported program with a free batch axis; open axes are free, if the exporter keeps them so.
    The module takes the sample of `body`. `by_name` runs it on tensors by name, if its forward does not take them as keywords."""
    names, device = input_names(body.sample), next((one.device for one in module.parameters()), torch.device("cpu"))
    whole = (lambda **named: by_name(named)) if by_name is not None and names else module

    def results(run: Callable[..., Any], tensors: Sequence[Tensor]) -> list[Tensor]:
        given: Any = on_device(dict(zip(names, tensors, strict=True)) if names else tensors[0], device)
        return [one.cpu() for one in flat_tensors(run(**given) if names else run(given))]

    def prove_lengths(called: Callable[..., Any], lengths: Sequence[Mapping[int, str]]) -> None:
        shown = [str(at) for at, _ in enumerate(results(whole, sample_tensors(body.sample)))]
        prove(
            lambda *tensors: results(whole, tensors),
            lambda *tensors: dict(zip(shown, results(called, tensors), strict=True)),
            batches=batches_of(body, longer=lengths),
            outputs=shown,
            coarse=is_coarse(body),
        )

    problems: list[Exception] = []
    free = lengths_of(body, texts=True)
    for lengths in ways_of(free):
        try:
            content = BytesIO()
            program = exported_program(module, on_device(body.sample, device), by_name=by_name, lengths=lengths)
            if any(lengths):
                prove_lengths(program.module(), lengths)
            with silenced():
                torch.export.save(program, content)
            break
        except Exception as problem:  # not every forward can be exported
            problems.append(problem)
    else:
        reason, name = why_not_exported(problems[-1]), type(module).__name__
        raise NetworkError(f"{name} cannot be written as an exported program: {reason}. Export it as .onnx, or save it.") from problems[-1]
    if not any(lengths) and any(free):
        with suppress(Exception):  # a network of one length may fail on others in any way
            results(whole, [*batches_of(body, longer=free)][-1])
            warn_of_length(sample_tensors(body.sample), what="exported program", stacklevel=5)
    write_bytes(path, content.getvalue())


def exported_program(
    module: Module,
    sample: Inputs,
    *,
    by_name: Callable[[dict[str, Tensor]], Any] | None = None,
    lengths: Sequence[Mapping[int, str]] = (),
) -> Any:
    """Return a module in inference mode as an exported program with a free batch axis. `lengths`: further free axes of each input."""
    takes = signature(module.forward).parameters
    axes = dimensions(lengths or [{}] * (len(sample) if isinstance(sample, dict) else 1))
    if isinstance(sample, dict):
        whole = module if takes.keys() >= sample.keys() else _NamedInputs(module, list(sample), run=by_name)
        given: Any = ((), dict(sample), dict(zip(sample, axes, strict=True)))
    else:
        first = next(iter(takes.values()))
        whole, given = module, ((sample,), {}, {first.name: tuple(axes)} if first.kind is Parameter.VAR_POSITIONAL else tuple(axes))
    with silenced(), replaced(cells_of_any_length()):
        return torch.export.export(whole.eval(), *given[:2], dynamic_shapes=given[2])


def write_graph(module: Module, folder: Path) -> None:
    """Write the ONNX graph that a module, or a submodule, was made from. Opening the folder needs it."""
    for part in module.modules():
        if isinstance(content := getattr(part, GRAPH, None), bytes):
            write_bytes(folder / PROGRAM_FILE, content)
            return
    raise NetworkError(f"{type(module).__name__} does not hold the graph of the ONNX file that it came from. Save its weights instead.")
