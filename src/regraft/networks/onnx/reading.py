"""ONNX files of any tool as one checked graph with one output, the scores of a task, and the class names in the file."""

import ast
import importlib
import json
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ...errors import NetworkError, optional_import
from ...files.formats import opening
from ...files.onnx_form import LARGEST, check_onnx_, is_standard, of_runtime, parsed_onnx
from ...files.text import printable
from ..account import UNUSED
from ..parts.structure import numbered
from .metadata import OwnFacts, own_facts

_NAMES = ("classes", "class_names", "labels", "names")
"""Metadata keys under which tools store class names."""
_ODD = re.compile(r"[^0-9A-Za-z_]")
_SHOWN = 6


@dataclass(frozen=True)
class ForeignOnnx:
    """Network from an ONNX file."""

    model: Any  # a checked `onnx.ModelProto` with one output. Its value names are valid attribute names
    facts: OwnFacts | None  # metadata that regraft wrote; None for files of other tools
    classes: tuple[str, ...] | None  # names in output order, if the file has them
    notes: list[str] = field(default_factory=list)


def read_foreign(path: Path) -> ForeignOnnx:
    """Read and check an ONNX file, cut at the scores of its first task. Label lookups behind them are dropped.
    The scores are the logits if regraft wrote the file, else the first floating-point output."""
    onnx, shown = optional_import("onnx", "onnx", purpose="A network in ONNX form"), repr(printable(path))
    with opening(path, "onnx", remedy="Copy it again, or export the network again."):
        model = parsed_onnx(onnx, path)
        size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
        if size > LARGEST:
            raise NetworkError(
                f"{shown} has {size / 2**30:.1f} GiB of weights; up to 2 GiB are opened as a network that can be trained. regraft predict "
                "and evaluate run files of any size that regraft wrote; to adapt the network, open the original."
            )
        texts = {entry.key: entry.value for entry in model.metadata_props}
        facts = own_facts(texts, what=shown)
        wanted, others = _outputs(model.graph, facts, shown=shown)
        classes = _classes(model.graph, texts) if facts is None else None
        _scale_(model.graph)
        _start_at_zero_(model.graph)
        _cut_(model, wanted)
        check_operators(model.graph, shown=shown)
        check_onnx_(model, what=shown)
        _rename_(model.graph)
    unused = ", ".join(map(repr, map(printable, others)))
    notes = [f"cut at its output {printable(wanted)!r}; {UNUSED}: {unused}"] if others else []
    return ForeignOnnx(model, facts, classes, notes)


def _outputs(graph: Any, facts: OwnFacts | None, *, shown: str) -> tuple[str, list[str]]:
    """Return the value that holds the scores of the first task, and the names of the outputs that are left out."""
    names = [one.name for one in graph.output]
    task = None if facts is None else next(iter(facts.tasks), None)
    if facts is not None and task is not None:
        own = [name for name in (f"{task}.logits", "logits", f"{task}.value", "value") if name in names]
        if own:
            kept = {own[0], own[0].replace("logits", "probabilities")}
            return _before_both(graph, own[0], binary=facts.tasks[task].binary), [name for name in names if name not in kept]
    makers = _makers(graph)
    kinds = importlib.import_module("onnx").TensorProto
    real = (kinds.FLOAT, kinds.DOUBLE, kinds.FLOAT16, kinds.BFLOAT16)
    found: list[str] = []
    for one in graph.output:
        maker = makers.get(one.name)
        if maker is not None and maker.op_type == "ZipMap" and len(maker.input):
            found.append(maker.input[0])
        elif one.type.tensor_type.elem_type in real:
            found.append(one.name)
    if not found:
        held = ", ".join(map(printable, names[:_SHOWN])) or "none"
        raise NetworkError(f"{shown} has these outputs: {held}; expected one of real numbers. Export the network with its scores.")
    return _before_shape(graph, _before_both(graph, found[0])), found[1:]


def _makers(graph: Any) -> dict[str, Any]:
    return {name: node for node in graph.node for name in node.output}


def _before_both(graph: Any, name: str, *, binary: bool = False) -> str:
    """Return the name of p for an output (1 - p, p), as scikit-learn writes two classes; otherwise return the given name.
    `binary`: regraft wrote the output (0, z) of a head with one row, and the result is the name of z."""
    makers = _makers(graph)
    both = makers.get(name)
    if both is None or both.op_type != "Concat" or len(both.input) != 2:
        return name
    rest = makers.get(both.input[0])
    return str(both.input[1]) if binary or (rest is not None and rest.op_type == "Sub" and rest.input[1] == both.input[1]) else name


def _before_shape(graph: Any, name: str) -> str:
    """Return the value before a reshape to one column (scikit-learn), because a wider head would not fit it; otherwise the given name."""
    makers, held = _makers(graph), {tensor.name: tensor for tensor in graph.initializer}
    shaped = makers.get(name)
    if shaped is None or shaped.op_type != "Reshape" or shaped.input[1] not in held:
        return name
    summed = makers.get(shaped.input[0])
    column = importlib.import_module("onnx.numpy_helper").to_array(held[shaped.input[1]]).ravel().tolist() == [-1, 1]
    return str(shaped.input[0]) if column and summed is not None and summed.op_type in ("Add", "Gemm", "MatMul") else name


def _classes(graph: Any, texts: Mapping[str, str]) -> tuple[str, ...] | None:
    """Return the class names from the metadata of another tool, or from a label lookup in the graph."""
    for key in _NAMES:
        found = _listed(_parsed(texts[key])) if key in texts else None
        if found:
            return found
    held = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "ZipMap":
            return _listed([value for one in node.attribute for value in (*one.strings, *one.ints)])
        if node.op_type == "ArrayFeatureExtractor" and node.input[0] in held:
            tensor = held[node.input[0]]
            ints = importlib.import_module("onnx.numpy_helper").to_array(tensor).ravel().tolist() if not len(tensor.string_data) else []
            return _listed([*tensor.string_data, *ints])
    return None


def _parsed(text: str) -> Any:
    """Parse a list or mapping from text in JSON or Python syntax, without running it. Fall back to splitting at commas."""
    for read in (json.loads, ast.literal_eval):
        try:
            return read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
    return [part.strip() for part in text.split(",")] if "," in text else None


def _listed(found: Any) -> tuple[str, ...] | None:
    if isinstance(found, dict):  # position -> name
        try:
            found = [found[key] for key in sorted(found, key=int)]
        except (TypeError, ValueError):
            return None
    if not isinstance(found, list | tuple) or not all(isinstance(name, str | bytes | int | float) for name in found):
        return None
    names = tuple(name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name) for name in found)
    return names if names and len(set(names)) == len(names) else None


def _scale_(graph: Any) -> None:
    """Replace each Scaler, as which scikit-learn's scalers are written, by (x - offset) * scale."""
    helper, nodes = importlib.import_module("onnx.helper"), list(graph.node)
    for at, node in reversed(list(enumerate(nodes))):
        if (node.domain, node.op_type) == ("ai.onnx.ml", "Scaler"):
            numbers, last, made = {one.name: list(one.floats) for one in node.attribute}, node.input[0], []
            for kind, name in (("Sub", "offset"), ("Mul", "scale")):
                held, result = f"{node.output[0]}/{name}", node.output[0] if kind == "Mul" else f"{node.output[0]}/shifted"
                values = numbers.get(name) or [float(kind == "Mul")]
                graph.initializer.append(helper.make_tensor(held, 1, [len(values)], values))
                made.append(helper.make_node(kind, [last, held], [result]))
                last = result
            nodes[at : at + 1] = made
    keep_(graph.node, nodes)


_ACTIVATIONS = {"LSTM": [b"Sigmoid", b"Tanh", b"Tanh"], "GRU": [b"Sigmoid", b"Tanh"], "RNN": [b"Tanh"]}
"""Default activations of recurrent operators, for one direction."""


def _start_at_zero_(graph: Any) -> None:
    """Remove from recurrent operators what is their default: first states of zeros, which take their shape from the input, and the usual
    activations."""
    makers, numbers = _makers(graph), importlib.import_module("onnx.numpy_helper").to_array
    held = {tensor.name: tensor for tensor in graph.initializer}

    def zeros(name: str) -> bool:
        maker = makers.get(name)
        if maker is not None and maker.op_type == "ConstantOfShape":
            return not any(numbers(one.t).any() for one in maker.attribute)
        return maker is not None and maker.op_type == "Expand" and maker.input[0] in held and not numbers(held[maker.input[0]]).any()

    for node in graph.node:
        if node.op_type in _ACTIVATIONS:
            node.input[5:7] = ["" if zeros(name) else name for name in node.input[5:7]]
            usual = [_ACTIVATIONS[node.op_type] * count for count in (1, 2)]
            keep_(node.attribute, [one for one in node.attribute if one.name != "activations" or list(one.strings) not in usual])


def _cut_(model: Any, wanted: str) -> None:
    """Cut a graph at a value. Remove what only other outputs need, and operator domains that are no longer used."""
    onnx, graph = importlib.import_module("onnx"), model.graph
    held, (kept, needed) = {tensor.name for tensor in graph.initializer}, leading_to(graph, wanted)
    if not kept:
        shown = ", ".join(printable(repr(one.name), width=60) for one in graph.output[:_SHOWN])
        raise NetworkError(f"The ONNX file computes no value {printable(wanted)!r}; its outputs are {shown}.")
    keep_(graph.node, kept)
    keep_(graph.initializer, [tensor for tensor in graph.initializer if tensor.name in needed])
    keep_(graph.input, [one for one in graph.input if one.name in needed and one.name not in held])
    value = [one for one in graph.output if one.name == wanted]
    keep_(graph.output, value or [onnx.helper.make_tensor_value_info(wanted, onnx.TensorProto.FLOAT, None)])
    domains = {node.domain for node in nodes_of(graph)} | {""}
    keep_(model.opset_import, [one for one in model.opset_import if one.domain in domains or is_standard(one)])


def leading_to(graph: Any, stop: str, *, start: Collection[str] = ()) -> tuple[list[Any], set[str]]:
    """Return the nodes that compute the value `stop`, in order, and the names of the values that they read.
    What makes the values `start` is left out."""
    kept, needed = [], {stop}
    for node in reversed(graph.node):
        if needed.intersection(node.output) and not set(start).intersection(node.output):
            kept.append(node)
            needed |= read_by(node)
    return kept[::-1], needed


def keep_(field_: Any, kept: Iterable[Any]) -> None:
    """Replace the entries of a repeated field by others, which may be some of its own."""
    copies = [type(one).FromString(one.SerializeToString()) for one in kept]
    del field_[:]
    field_.extend(copies)


def _inner(node: Any) -> list[Any]:
    """Return the graphs nested in a node."""
    return [graph for one in node.attribute for graph in (*((one.g,) if one.HasField("g") else ()), *one.graphs)]


def nodes_of(graph: Any) -> Iterator[Any]:
    """Yield the nodes of a graph and of all nested graphs."""
    for node in graph.node:
        yield node
        for inner in _inner(node):
            yield from nodes_of(inner)


def read_by(node: Any) -> set[str]:
    """Return the names of the values that a node and its nested graphs read."""
    within = _inner(node)
    readers = [node, *(other for graph in within for other in nodes_of(graph))]
    outputs = {value.name for reader in readers for graph in _inner(reader) for value in graph.output}
    return {name for reader in readers for name in reader.input if name} | outputs


def check_operators(graph: Any, *, shown: str) -> None:
    """Raise if a graph calls an operator that is neither part of ONNX nor one of ONNX Runtime's that are run."""
    known = importlib.import_module("onnx.defs").has
    own = [node for node in nodes_of(graph) if not of_runtime(node) and not (is_standard(node) and known(node.op_type))]
    wrong = {f"{node.domain or 'ONNX'}: {node.op_type}" for node in own}
    if wrong:
        named = printable(", ".join(sorted(wrong)[:_SHOWN]), width=300)
        raise NetworkError(
            f"{shown} holds operators that are not those of ONNX itself ({named}). Export the network again with standard operators: "
            "opset 13 to 20, none of them fused."
        )


def _rename_(graph: Any) -> None:
    """Give each value a unique name that is valid as a module attribute."""
    taken, used = {"": ""}, set[str]()

    def name(old: str) -> str:
        if old not in taken:
            plain = _ODD.sub("_", old).strip("_")[:60] or "value"
            taken[old] = next(new for new in numbered(plain) if new.lower() not in used)
            used.add(taken[old].lower())
        return taken[old]

    def rename(part: Any) -> None:
        for value in (*part.input, *part.initializer):
            value.name = name(value.name)
        for node in part.node:
            for values in (node.output, node.input):
                values[:] = [name(old) for old in values]
            node.name = node.output[0]
            for inner in _inner(node):
                rename(inner)
        for value in part.output:
            value.name = name(value.name)

    rename(graph)
