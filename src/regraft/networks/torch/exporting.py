"""A PyTorch network as ONNX beside its weights, so that its folder opens without its class."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Module

from ...errors import NetworkError
from ...files.onnx_form import check_onnx_
from ...files.writing import write_bytes
from ..onnx.program import FEATURES, OnnxProgram, input_name, logits_name
from ..parts.onnx_export import WholeNetwork, check_size, lengths_of, onnx_model, prove, sample_tensors, ways_of, why_not_exported
from ..tracing import capture
from .body import TorchBody
from .graft import module_at

GRAPH = "graph_of_file"  # Module attribute that holds the bytes of the ONNX graph that the module was made from
PROGRAM_FILE = "network.onnx"


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
    *ways, last = ways_of(lengths_of(body))
    for lengths in ways:
        with suppress(Exception):  # exporters raise anything
            return _exported(body, lengths)
    return _exported(body, last)


def _exported(body: TorchBody, lengths: Sequence[Mapping[int, str]]) -> tuple[bytes, dict[str, str]]:
    whole, sample, told = _LogitsAndFeatures(body).eval(), sample_tensors(body.sample), dict[str, str]()
    with torch.no_grad():
        count = len(whole(*sample))
    inputs, outputs = [input_name(index) for index in range(len(sample))], [*map(logits_name, range(count - 1)), FEATURES]
    model = onnx_model(whole, sample, inputs=inputs, outputs=outputs, lengths=lengths)
    if body.coding is not None:
        table = body.code_table()
        told["codes"] = name = next(name for name, parameter in whole.named_parameters() if parameter is table)
        held = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
        if held is None or tuple(held.dims) != tuple(table.shape):
            raise NetworkError(f"the exporter changed the table of codes {name!r}, which has to stay as it is")
    check_onnx_(model, what="the ONNX form")
    content: bytes = model.SerializeToString()
    program = OnnxProgram(content, whole.names)
    prove(body, whole, program=program, outputs=program.outputs, lengths=lengths)
    return content, told


def write_program(body: TorchBody, folder: Path, *, own: str) -> dict[str, str]:
    """Write a network as ONNX beside its weights, so that it predicts without its class. Warn if that fails.
    Return the facts needed to open the file, or the reason for its absence under "no_program"."""
    twin = body.copy()
    twin.ready_for_export_()
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


def write_graph(module: Module, folder: Path) -> None:
    """Write the ONNX graph that a module, or a submodule, was made from. Opening the folder needs it."""
    for part in module.modules():
        if isinstance(content := getattr(part, GRAPH, None), bytes):
            write_bytes(folder / PROGRAM_FILE, content)
            return
    raise NetworkError(f"{type(module).__name__} does not hold the graph of the ONNX file that it came from. Save its weights instead.")
