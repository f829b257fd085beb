"""Export of a network of either family as one ONNX file, for use without regraft, PyTorch and Keras."""

from __future__ import annotations

import glob
import hashlib
import importlib
import json
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import NetworkError, RegraftError
from ..files.formats import writable
from ..files.onnx_form import check_onnx_, put_weights_, weights_apart
from ..files.writing import replaced_file, write_bytes
from .folders import versions
from .onnx.frozen import parts_of, put_parts_
from .onnx.program import OnnxProgram
from .parts.head import Head
from .parts.onnx_export import (
    NotTracedError,
    WholeNetwork,
    batches_of,
    check_libraries,
    input_names,
    lengths_of,
    onnx_model,
    prove,
    sample_tensors,
    warn_of_length,
    ways_of,
    why_not_exported,
)
from .parts.onnx_steps import as_picture, check_steps, put_steps_, sample_items
from .parts.record import Record
from .tracing import replaced

_APART = 2**24  # Bytes of weights from which the checks compute with one copy of them, apart from the model
_ROUNDING = 0.05  # Largest difference of results, relative to the largest one, if pixels are rounded at another step


class _Whole(WholeNetwork):
    """Module that returns the logits and probabilities of each head, or the values of a regression; `tasks` gives their order."""

    def __init__(self, network: Record, tasks: Sequence[str] = ()) -> None:
        super().__init__(network)
        self.__dict__["tasks"] = tasks

    def scores(self, tensors: Sequence[Tensor]) -> Mapping[str, Tensor]:
        """Return the logits of each task."""
        found: Mapping[str, Tensor] = self.__dict__["network"].scores(self.inputs(tensors))
        return found

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the outputs in the order of `_outputs`, as float32."""
        network, scores = self.__dict__["network"], self.scores(tensors)
        found: list[Tensor] = []
        for task in self.__dict__["tasks"] or scores:
            logits, kind = scores[task].float(), _kind(network.heads.get(task))
            found.append(logits)
            if kind != "regression":
                found.append(logits.sigmoid() if kind == "multi-label" else logits.softmax(1))
        return tuple(found)


def write_onnx(network: Record, path: Path, *, preprocessing: bool = False) -> Path:
    """Write a network as an ONNX file, after ONNX has checked it and ONNX Runtime has matched PyTorch on one and on three examples.
    Inputs keep the network's names, or are called "input". Each head has the outputs "logits" and "probabilities", or "value" for a
    regression; with several heads they are prefixed with the task ("main.logits"). The batch axis is dynamic, and so are the lengths that
    the network leaves open. The metadata hold, as JSON, the class names ("classes" of the first head, "tasks" of all), the preprocessing
    and the library versions. A Keras network is written as PyTorch's layers, if it can be made of them, and otherwise as it is. Parts that
    ONNX Runtime runs are copied from the file that they come from.
    With the preprocessing in the graph, images are uint8 (N, H, W, C) of any size, with the network's number of channels; rows of numbers
    are raw."""
    network.body.refuse_change("exported")
    try:
        check_libraries("Writing an ONNX file")
        if preprocessing:
            check_steps(network.preprocessing.to_dict())
        model, weights = _model(network)
        if preprocessing:
            _put_preprocessing_(model, network, weights=weights)
        importlib.import_module("onnx.checker").check_model(_with_inputs(model, weights) if weights else model)
    except Exception as problem:  # not every forward can be exported
        if isinstance(problem, RegraftError) and not isinstance(problem, NetworkError):
            raise
        instead = "".join(f" Export it as {ending}." for ending in network.kind.own_endings[:1])
        if parts_of(network.modules()):
            instead = " Save it: regraft predict runs the folder, and adapt trains its head further."
        elif network.family == "torch" and isinstance(problem.__cause__, NotTracedError):
            instead = " Nor can PyTorch export it as .pt2: save it as a folder, which regraft opens."
        raise NetworkError(f"The network cannot be written as an ONNX file: {why_not_exported(problem)}.{instead}") from problem
    put_weights_(model, weights)
    with writable(path.parent, error=NetworkError):
        _write(model, path, weights=weights)
    return path


def _with_inputs(model: Any, weights: Mapping[str, np.ndarray]) -> Any:
    """Return a copy of a model with the weights that are apart from it as inputs, because the checker would look for their file."""
    helper, whole = importlib.import_module("onnx.helper"), type(model).FromString(model.SerializeToString())
    for tensor in [tensor for tensor in whole.graph.initializer if tensor.name in weights]:
        whole.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
        whole.graph.initializer.remove(tensor)
    return whole


def _write(model: Any, path: Path, *, weights: Mapping[str, np.ndarray]) -> None:
    """Write a model, and before it the weights that are apart from it, as a file beside it that is named after its content.
    A former model of this name keeps its own weights until the new model replaces it; they are then removed."""
    fine = path.name.isprintable() and not {":", "\\"} & set(path.name)  # names that a reader takes from a model
    stem, beside = (path.name if fine else "network.onnx"), None
    if weights:
        parts, digest = [np.ascontiguousarray(values).view(np.uint8).data for values in weights.values()], hashlib.blake2b(digest_size=8)
        for part in parts:
            digest.update(part)
        beside = path.with_name(f"{stem}.{digest.hexdigest()}.data")
        with replaced_file(beside) as file, file.open("wb") as stream:
            stream.writelines(parts)
        for tensor in model.graph.initializer:
            for entry in tensor.external_data:
                entry.value = beside.name if entry.key == "location" else entry.value
    write_bytes(path, model.SerializeToString())
    for other in path.parent.glob(f"{glob.escape(stem)}.{'[0-9a-f]' * 16}.data") if fine else ():
        if other != beside:
            other.unlink(missing_ok=True)


def _model(network: Record) -> tuple[Any, dict[str, np.ndarray]]:
    """Return the `onnx.ModelProto` of a network, after comparing it with the network, and the weights that are apart from it."""
    plain = _Whole(_on_cpu(network)).eval()
    own = plain.__dict__["network"]
    sample, names = sample_tensors(own.sample), input_names(own.sample)
    tasks, inputs = list(plain.scores(sample)), names or ["input"]
    plain.__dict__["tasks"], outputs = tasks, _outputs(network, tasks)
    free = lengths_of(own.body)
    if any(tensor.ndim == 2 and not tensor.is_floating_point() for tensor in sample) and not _takes(own, free):
        free = [{} for _ in sample]
    problems: list[Exception] = []
    for lengths, make in product(ways_of(free), _forms(own)):
        try:
            whole = _Whole(make().for_export(), tasks).eval()
            parts = parts_of(own.modules())
            with replaced((part, "forward", part.as_node) for part in parts):
                model = onnx_model(whole, sample, inputs=inputs, outputs=outputs, lengths=lengths)
            put_parts_(model, parts)
            check_onnx_(model, what="the ONNX file")
            model, weights = weights_apart(model, most=_APART)
            program = OnnxProgram(model.SerializeToString(), names, called=inputs, weights=weights)
            difference = prove(own.body, plain, program=program, outputs=outputs, lengths=lengths)
            break
        except Exception as problem:  # exporters raise anything
            problems.append(problem)
    else:
        reasons = dict.fromkeys(why_not_exported(problem).partition(". Exp")[0] for problem in problems)  # not what to do instead
        raise NetworkError("; ".join(reasons)) from problems[-1]
    if any(free) and not any(lengths):
        warn_of_length(sample, what="ONNX file")
    _name_axes_(model, lengths)
    _add_facts_(model, _metadata(own, difference))
    return model, weights


def _forms(network: Any) -> list[Callable[[], Record]]:
    """Return functions that make the networks to export, in the order in which they are tried; each has the axes of `network`."""
    if network.family == "torch":
        return [lambda: network]
    return [partial(network.kind.becomes["torch"], network, "as it is"), lambda: network]


def _add_facts_(model: Any, facts: Mapping[str, Any]) -> None:
    for key, value in facts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = key, json.dumps(value)


def _put_preprocessing_(model: Any, network: Record, *, weights: Mapping[str, np.ndarray]) -> None:
    """Prepend the preprocessing to the graph, and record how much the results differ from those of the Python preprocessing.
    Differences are relative to the largest value of an output over all images, because the logits of a single image may be near zero."""
    plain, called = network.preprocessing.to_dict(), [value.name for value in model.graph.input]
    own = next(at for at, name in enumerate(called) if name not in ("columns", "condition"))
    put_steps_(model, plain, items=called[own])
    program = OnnxProgram(model.SerializeToString(), called, called=called, weights=weights)
    whole = _Whole(_on_cpu(network)).eval()
    ready, reader = [tensor[:1] for tensor in sample_tensors(network.sample)], network.preprocessing
    raw, off, scales = list(ready), [], []
    while hasattr(reader, "inner"):
        if "mean" in (outer := reader.to_dict()):  # columns: normalisation maps the mean to zero
            at = called.index("columns")
            raw[at], ready[at] = torch.tensor([outer["mean"]]), torch.zeros_like(ready[at])
        reader = reader.inner
    for item in sample_items(plain) or [raw[own][0].numpy()]:
        raw[own] = torch.from_numpy(item[None])
        (batch,) = reader.batches([as_picture(item)] if item.dtype == "uint8" else item[None], 1)
        ready[own] = next(iter(batch.values())) if isinstance(batch, dict) else batch
        with torch.no_grad():
            pairs = list(zip(whole(*ready), program(*raw).values(), strict=True))
        off.append([float((values - other).abs().max()) for values, other in pairs])
        scales.append([float(values.abs().max()) for values, _ in pairs])
    largest = float((np.max(off, axis=0) / np.max(scales, axis=0).clip(1e-12)).max())
    if not largest <= _ROUNDING:
        raise NetworkError(f"with the preprocessing in the graph, its results differ by {largest:.2g} of the largest one. Leave it out")
    _add_facts_(model, {"preprocessing_inside": True, "preprocessing_difference": float(f"{largest:.2g}")})


def _on_cpu(network: Record) -> Record:
    plain = network.copy()
    plain.mode_(False)
    plain.body.move_(torch.device("cpu"))
    return plain


def _kind(head: Head | None) -> str:
    return "regression" if head is None else head.kind


def _outputs(network: Record, tasks: Sequence[str]) -> list[str]:
    """Return the names of the outputs for some tasks, in order."""
    kinds = {task: ("value",) if _kind(network.heads.get(task)) == "regression" else ("logits", "probabilities") for task in tasks}
    return [kind if len(tasks) == 1 else f"{task}.{kind}" for task in tasks for kind in kinds[task]]


def _takes(network: Record, free: Sequence[Mapping[int, Any]]) -> bool:
    """Return whether a network takes longer texts than its sample."""
    names, (_, longer) = input_names(network.sample), batches_of(network.body, longer=free)
    try:
        with torch.no_grad():
            network.scores(dict(zip(names, longer, strict=True)) if names else longer[0])
    except Exception:  # a model with a fixed length may fail in any way
        return False
    return True


def _name_axes_(model: Any, lengths: Sequence[Mapping[int, str]]) -> None:
    """Rename the dynamic axes of inputs and outputs from the exporter's symbols to readable names."""
    names = {
        value.type.tensor_type.shape.dim[axis].dim_param: name
        for value, each in zip(model.graph.input, lengths, strict=True)
        for axis, name in {0: "batch", **each}.items()
    }
    for value in (*model.graph.input, *model.graph.output):
        for size in value.type.tensor_type.shape.dim:
            if size.dim_param in names:
                size.dim_param = names[size.dim_param]


def _metadata(network: Record, difference: float) -> dict[str, Any]:
    first = next(iter(network.heads.values()), None)
    tasks = {
        task: {name: getattr(head, name) for name in ("kind", "classes", "thresholds", "activation", "binary")}
        for task, head in network.heads.items()
    }
    conditions = [] if network.coding is None else ["mean", *network.coding.conditions]
    facts = {
        "classes": None if first is None else first.classes,
        "tasks": tasks,
        "preprocessing": network.preprocessing.to_dict(),
        "conditions": conditions or None,
        "versions": versions(),
        "largest_difference": float(f"{difference:.2g}"),
    }
    return {key: value for key, value in facts.items() if value is not None}
