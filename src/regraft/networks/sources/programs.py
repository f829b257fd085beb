"""Networks without their classes, for prediction only: the ONNX form in a saved folder, and PyTorch programs that the user trusts."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor

from ...errors import NetworkError, UnsafeFileError
from ...files.formats import opening
from ...files.onnx_form import read_onnx
from ...words import counted
from ..account import Account
from ..names import checked_classes
from ..network import Coding, Head, Inputs, Network, Scores
from ..onnx.program import FEATURES, OnnxProgram, logits_name
from ..parts.code_files import table_with_files
from ..parts.head import HeadLocation, told_binary
from ..parts.onnx_export import input_names
from ..parts.protocols import by_name
from ..predictions import result_head
from ..torch.body import TorchBody, inspected
from ..torch.exporting import PROGRAM_FILE
from ..torch.family import TORCH
from ..torch.programs import TorchProgram
from ..torch.wrappers import call_module
from .torch_files import read_torch_weights

_UNOPENED = "network.pt2"
"""Exported program that earlier versions saved instead. Opening the folder does not read it; opening the file needs `trust=True`."""


class _ProgramBody(TorchBody):
    """Body of a network without its class: its module gives the logits of each head and the features by name."""

    only_predicts: ClassVar[bool] = True

    def refuse_change(self, done: str) -> None:
        raise NetworkError(
            f"This network is the exported program of {cast(Any, self.module).own}: it predicts, but cannot be {done}. "
            "Open its folder with architecture=, a module or a function that makes it."
        )

    def own_scores(self, inputs: Inputs) -> Scores:
        results = call_module(self.module, inputs)
        return {task: results[found.layer] for task, found in self.found.items()} or {"main": results[logits_name(0)]}

    def feature_batch(self, inputs: Inputs) -> Tensor:
        results = call_module(self.module, inputs)
        if FEATURES not in results:
            self.refuse_change("asked for features")
        return cast(Tensor, results[FEATURES])


def open_program(folder: Path, facts: Mapping[str, Any], *, sample: Inputs) -> Network:
    """Open a network of a user's own class without the class. It predicts, but cannot be adapted further.
    The network knows the conditions whose code files lie in the folder."""
    own, path = str(facts["network"]["origin"].get("class", "your class")), folder / PROGRAM_FILE
    if not path.is_file():
        raise _refusal(folder, facts, own=own)
    remedy = f"Open the folder with {_line(folder, own)}."
    model, _ = read_onnx(path, remedy=remedy)
    coding = _with_codes_(model, facts, folder=folder, remedy=remedy)
    program = OnnxProgram(model.SerializeToString(), input_names(sample))
    program.own = own
    network = Network(TORCH, inspected(program, sample, kind=_ProgramBody), {"source": "program", "class": own}, Account())
    network.coding = coding
    heads = [head for head in facts["heads"] if not head.get("groups")]
    _check_outputs(network, heads, remedy=remedy)
    tensors = read_torch_weights(folder / Path(facts["network"]["file"]).name)
    network.body.found = {head["task"]: HeadLocation(logits_name(index), head["activation"]) for index, head in enumerate(heads)}
    network.heads = {head["task"]: _head_of(head, tensors) for head in heads}
    network.account = Account(notes=(f"opened without its class {own}: it predicts; to adapt it further, give architecture=",))
    program.seconds = None
    return network


def open_torch_program(path: Path, *, trust: bool) -> Network:
    """Open a PyTorch program that the user names, if `trust` is set. Its reader runs code from the file."""
    if not trust:
        raise UnsafeFileError(
            f"{str(path)!r} is a PyTorch program: opening one runs code that the file brings. Where you trust whoever made it, trust=True "
            "opens it to inspect, predict and evaluate. To adapt it, give a file of its weights and architecture=, a module or a function "
            "that makes it."
        )
    with opening(path, "program"):
        program = TorchProgram(path)
        body = inspected(program, program.sample, kind=_ProgramBody)
        body.open_(program.free)
        network = Network(TORCH, body, {"source": "program", "class": program.own}, Account())
        with torch.no_grad():
            made = network.scores(network.sample)["main"]
    activation = "softmax" if program.probabilities else "linear"
    network.body.found = {"main": HeadLocation(logits_name(0), activation)}
    network.heads = {"main": replace(result_head(made), activation=activation)}
    notes = [f"a PyTorch program, {path.name}, that was trusted: it predicts and nothing else"]
    notes += ["it returns probabilities: their logarithms are taken for its logits"] if program.probabilities else []
    network.account = Account(notes=tuple(notes))
    return network


def _line(folder: Path, own: str) -> str:
    """Return the call that opens a folder with its class."""
    return f"regraft.load({str(folder)!r}, architecture={own.rpartition('.')[2]})"


def _refusal(folder: Path, facts: Mapping[str, Any], *, own: str) -> NetworkError:
    """Return the error for a folder without an ONNX form of its network."""
    about = f"The network in {str(folder)!r} is of the class {own}, which is never imported by itself"
    remedy = f"Give it with architecture=, a module or a function that makes it: {_line(folder, own)}."
    old, weights = folder / _UNOPENED, folder / Path(facts["network"]["file"]).name
    if not old.is_file():
        reason = facts["network"].get("no_program")
        return NetworkError(f"{about}{f', and has no ONNX form beside it ({reason})' if reason else ''}. {remedy}")
    if not weights.is_file():
        remedy = (
            f"The folder holds no {weights.name}: the weights are in {old.name} alone. Where you trust whoever made it, "
            f"regraft.load({str(old)!r}, trust=True) opens that file."
        )
    return UnsafeFileError(
        f"{about}. Its {old.name}, saved by an earlier version, is a PyTorch program: opening one runs code that the file brings, so it is "
        f"never opened out of a folder. {remedy}"
    )


def _with_codes_(model: Any, facts: Mapping[str, Any], *, folder: Path, remedy: str) -> Coding | None:
    """Write the codes of a folder's code files into a model's table. Return the coding with their conditions."""
    if not facts.get("coding"):
        return None
    coding, name = Coding.from_dict(facts["coding"]), facts["network"].get("codes")
    held = next((tensor for tensor in model.graph.initializer if tensor.name == name), None)
    shape = (1 + len(coding.conditions), coding.size)
    if held is None or tuple(held.dims) != shape or len(held.raw_data) != 4 * math.prod(shape):
        raise NetworkError(
            f"{PROGRAM_FILE} in {str(folder)!r} holds no table of codes {name!r} for the {counted(len(coding.conditions), 'condition')} of "
            f"regraft.json: one of the two files is of another network. {remedy}"
        )
    old = np.frombuffer(held.raw_data, "<f4").reshape(shape)
    names, table = table_with_files(coding, old, folder=folder, digest=str(facts.get("digest")))
    held.dims[0] = len(table)
    held.raw_data = np.ascontiguousarray(table, "<f4").tobytes()
    return replace(coding, conditions=names)


def _check_outputs(network: Network, heads: Sequence[Mapping[str, Any]], *, remedy: str) -> None:
    """Raise unless a program outputs the features and the logits of these heads."""
    with torch.no_grad():
        found = cast(dict[str, Tensor], network.module(*by_name(network.sample).values()))
    shapes = {name: list(values.shape[1:]) for name, values in found.items()}
    expected = {logits_name(index): [head["rows"]] for index, head in enumerate(heads)}
    expected |= {FEATURES: [heads[0]["features"]]} if heads else {}
    if {name: shapes.get(name) for name in expected} != expected or FEATURES not in shapes or logits_name(0) not in shapes:
        raise NetworkError(
            f"{PROGRAM_FILE} gives outputs of the shapes {shapes}; the heads of regraft.json expect {expected}. One of the two files is of "
            f"another network. {remedy}"
        )


def _head_of(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Head:
    """Return a head with its class weights. They are NaN if the weights file does not hold them directly."""
    rows, features = 1 if head.get("binary") else head["rows"], head["features"]
    weight, bias = tensors.get(f"{head['layer']}.weight"), tensors.get(f"{head['layer']}.bias")
    values = np.full((rows, features), np.nan, np.float32)
    if weight is not None and weight.numel() == rows * features:
        values = weight.float().reshape(rows, features).numpy()
    shift = bias.float().numpy() if bias is not None and bias.shape == (rows,) else np.zeros(rows, np.float32)
    classes = checked_classes(head["classes"]) if head["classes"] else None
    found = Head(head["task"], classes, head["kind"], head["activation"], head["layer"], values, shift)
    return replace(told_binary(found, head), classes=classes)
