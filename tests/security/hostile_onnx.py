"""Hostile ONNX files, made of a sound one: each a function of the model that `regraft` wrote, and the name of what refuses it."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

Change = Callable[[Any, Path], None]
"""Changes a model; the path is a file outside of the folder."""


class Small(nn.Module):
    """A class of the user's own, whose folder has the network in ONNX form beside the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.low, self.fc = nn.Linear(6, 5), nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.low(x).relu())


def value(name: str, kind: int = TensorProto.FLOAT, shape: list[int] | None = None) -> Any:
    return helper.make_tensor_value_info(name, kind, shape)


def outside(location: str, *, size: int = 8, marked: bool = True) -> Any:
    """A tensor whose numbers lie in another file."""
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[size])
    if marked:
        tensor.data_location = TensorProto.EXTERNAL
    else:
        tensor.raw_data = np.zeros(size, np.float32).tobytes()
    for key, text in (("location", location), ("offset", "0"), ("length", str(4 * size))):
        tensor.external_data.add(key=key, value=text)
    return tensor


def added(model: Any, *nodes: Any) -> None:
    """Put further nodes before those that are there."""
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *own])


def constant(tensor: Any) -> Any:
    return helper.make_node("Constant", [], ["stolen_value"], value=tensor)


def branch(*, nodes: list[Any] | None = None, tensors: list[Any] | None = None) -> Any:
    """A graph without inputs, as `If` takes it."""
    held = tensors or [numpy_helper.from_array(np.zeros(1, np.float32), "none")]
    return helper.make_graph([*(nodes or []), helper.make_node("Identity", [held[0].name], ["out"])], "branch", [], [value("out")], held)


def chosen(graph: Any, name: str = "chosen") -> list[Any]:
    """Nodes that run a graph within the graph."""
    yes = helper.make_node("Constant", [], [f"{name}_yes"], value=numpy_helper.from_array(np.array(True)))
    return [yes, helper.make_node("If", [f"{name}_yes"], [name], then_branch=graph, else_branch=branch())]


def looped(tensors: list[Any] | None = None) -> list[Any]:
    """A loop that never ends; with tensors of its own."""
    inside = [value("i", TensorProto.INT64, []), value("go", TensorProto.BOOL, []), value("v")]
    nodes = [helper.make_node("Identity", ["go"], ["go_on"]), helper.make_node("Identity", ["v"], ["v_on"])]
    body = helper.make_graph(nodes, "body", inside, [value("go_on", TensorProto.BOOL, []), value("v_on")], tensors or [])
    most = helper.make_node("Constant", [], ["most"], value=numpy_helper.from_array(np.array(2**62)))
    yes = helper.make_node("Constant", [], ["yes"], value=numpy_helper.from_array(np.array(True)))
    return [most, yes, helper.make_node("Loop", ["most", "yes", "input.0"], ["looped"], body=body)]


def scanned() -> Any:
    body = helper.make_graph([helper.make_node("Identity", ["v"], ["w"])], "body", [value("v")], [value("w")])
    return helper.make_node("Scan", ["input.0"], ["scanned"], body=body, num_scan_inputs=1)


def function(domain: str, name: str, nodes: list[Any]) -> Any:
    return helper.make_function(domain, name, ["a"], ["b"], nodes, [helper.make_opsetid("", 20)])


def _external(model: Any, path: Path) -> None:
    first = model.graph.initializer[0]
    shape, name = list(first.dims), first.name
    first.CopyFrom(outside(str(path), size=int(np.prod(shape))))
    del first.dims[:]
    first.dims.extend(shape)
    first.name = name


def _sparse(model: Any, path: Path) -> None:
    indices = numpy_helper.from_array(np.arange(8), "at")
    model.graph.sparse_initializer.add(values=outside(str(path)), indices=indices, dims=[8])


def _training(model: Any, path: Path) -> None:
    model.training_info.add().initialization.CopyFrom(branch(tensors=[outside(str(path))]))


def _function(model: Any, path: Path) -> None:
    model.functions.append(function("own", "Steal", [constant(outside(str(path)))]))


def _overridden(model: Any, _path: Path) -> None:
    model.functions.append(function("", "Relu", [helper.make_node("Identity", ["a"], ["b"])]))


def _domain(model: Any, _path: Path) -> None:
    model.opset_import.append(helper.make_opsetid("evil.example", 1))
    added(model, helper.make_node("Run", ["input.0"], ["ran"], domain="evil.example"))


def _imported(model: Any, _path: Path) -> None:
    model.opset_import.append(helper.make_opsetid("evil.example", 1))


def _compiled(model: Any, path: Path) -> None:
    node = helper.make_node("EPContext", ["input.0"], ["ran"], domain="com.microsoft", ep_cache_context=str(path), embed_mode=0)
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    added(model, node)


UNSAFE: dict[str, Change] = {
    "weights out of another file": _external,
    "weights out of a file beside": lambda model, path: _external(model, Path(path.name)),
    "weights out of a file above": lambda model, path: _external(model, Path("..", "..", path.name)),
    "another file named, weights there": lambda model, path: model.graph.initializer.append(outside(str(path), marked=False)),
    "constant": lambda model, path: added(model, constant(outside(str(path)))),
    "list of tensors in an attribute": lambda model, path: model.graph.node[0].attribute.append(
        helper.make_attribute("more", [outside(str(path))])
    ),
    "graph in a graph": lambda model, path: added(model, *chosen(branch(tensors=[outside(str(path))]))),
    "constant in a graph in a graph": lambda model, path: added(
        model, *chosen(branch(nodes=chosen(branch(nodes=[constant(outside(str(path)))]), "inner")))
    ),
    "loop with weights out of another file": lambda model, path: added(model, *looped([outside(str(path))])),
    "endless loop": lambda model, _path: added(model, *looped()),
    "endless loop in a graph": lambda model, _path: added(model, *chosen(branch(nodes=looped()))),
    "scan": lambda model, _path: added(model, scanned()),
    "sparse weights": _sparse,
    "training": _training,
    "function": _function,
    "function in the place of an operator": _overridden,
    "operator of another domain": _domain,
    "operator of another domain in a graph": lambda model, _path: added(
        model, *chosen(branch(nodes=[helper.make_node("Run", [], ["ran"], domain="evil.example")]))
    ),
    "operators of the engine": _imported,
    "compiled operator": _compiled,
}


def _dims(*sizes: int) -> Change:
    def change(model: Any, _path: Path) -> None:
        tensor = model.graph.initializer[0]
        del tensor.dims[:]
        tensor.dims.extend(sizes)

    return change


def blown_up(*sizes: int) -> Change:
    """Numbers that are made while the network runs; the logits depend on them."""

    def change(model: Any, _path: Path) -> None:
        model.graph.initializer.append(numpy_helper.from_array(np.array(sizes, np.int64), "sizes"))
        made = [helper.make_node("ConstantOfShape", ["sizes"], ["many"]), helper.make_node("ReduceSum", ["many"], ["one"], keepdims=0)]
        added(model, *made)
        model.graph.node.append(helper.make_node("Add", ["logits.0", "one"], ["blown"]))
        model.graph.output[0].name = "blown"

    return change


def doubled(model: Any, _path: Path) -> None:
    """Doubles its input sixty times."""
    names = ["input.0", *(f"twice{index}" for index in range(60))]
    added(model, *(helper.make_node("Concat", [one, one], [two], axis=0) for one, two in itertools.pairwise(names)))
    model.graph.node.append(helper.make_node("ReduceSum", [names[-1]], ["all"], keepdims=0))
    model.graph.node.append(helper.make_node("Add", ["logits.0", "all"], ["blown"]))
    model.graph.output[0].name = "blown"


def _kind(kind: int) -> Change:
    def change(model: Any, _path: Path) -> None:
        model.graph.input[0].type.tensor_type.elem_type = kind

    return change


def _text(model: Any, _path: Path) -> None:
    model.graph.initializer.append(TensorProto(name="words", data_type=TensorProto.STRING, dims=[1], string_data=[b"word"]))


def _renamed(model: Any, _path: Path) -> None:
    model.graph.node[0].op_type = "NoSuchOperator"


def _circle(model: Any, _path: Path) -> None:
    added(model, helper.make_node("Identity", ["b"], ["a"]), helper.make_node("Identity", ["a"], ["b"]))


DAMAGED: dict[str, Change] = {
    "sizes that are not there": _dims(2**40),
    "sizes whose product is past any number": _dims(2**62, 2**62, 2**62),
    "negative sizes": _dims(-5, -6),
    "numbers in two places": lambda model, _path: model.graph.initializer[0].float_data.append(1.0),
    "type without numbers": lambda model, _path: setattr(model.graph.initializer[0], "data_type", 99),
    "text among the weights": _text,
    "more memory than there is": blown_up(2**45),
    "sizes that overflow": blown_up(2**40, 2**40),
    "no graph": lambda model, _path: model.ClearField("graph"),
    "no outputs": lambda model, _path: model.graph.ClearField("output"),
    "output left out": lambda model, _path: model.graph.output.pop(),
    "output that nothing makes": lambda model, _path: setattr(model.graph.output[0], "name", "nothing"),
    "input left out": lambda model, _path: model.graph.input.pop(),
    "further input": lambda model, _path: model.graph.input.append(value("more", shape=[2])),
    "input of texts": _kind(TensorProto.STRING),
    "input of no type": _kind(0),
    "operator that is not there": _renamed,
    "circle": _circle,
    "operators of the future": lambda model, _path: setattr(model.opset_import[0], "version", 9999),
    "format of the future": lambda model, _path: setattr(model, "ir_version", 9999),
}

HARMLESS: dict[str, Change] = {
    "settings for the engine": lambda model, _path: helper.set_model_props(
        model, {"ort_config": '{"session_options": {"optimized_model_filepath": "written"}}'}
    ),
    "claims about sizes": lambda model, _path: model.graph.value_info.append(value(model.graph.node[0].output[0], shape=[9, 9])),
    "documentation": lambda model, _path: setattr(model, "doc_string", "<script>\x1b[31m"),
}


def raw_files(sound: bytes) -> dict[str, bytes]:
    """Contents that are no model."""
    return {
        "empty": b"",
        "text": b"not a model",
        "zeros": bytes(5000),
        "format of the engine": b"\x18\x00\x00\x00ORTM" + bytes(200),
        "archive": b"PK\x03\x04" + bytes(200),
        **{f"cut at {part}/7": sound[: len(sound) * part // 7] for part in range(1, 7)},
        "nested without end": _nested(3000),
    }


def _nested(depth: int) -> bytes:
    """A model whose graph holds a node that holds a graph, and so on."""
    content = b""
    for field in (b"\x3a", *(b"\x32", b"\x2a", b"\x0a") * depth)[::-1]:  # model.graph, then attribute.g, node.attribute, graph.node
        size, length = len(content), b""
        while True:
            length += bytes([size % 128 | (128 if size > 127 else 0)])
            size //= 128
            if not size:
                break
        content = field + length + content
    return content


def written(model: Any) -> bytes:
    return bytes(model.SerializeToString())


def parsed(content: bytes) -> Any:
    return onnx.ModelProto.FromString(content)
