"""ONNX files that cannot be trained: ONNX Runtime runs them in parts, and the final linear layer becomes a PyTorch head."""

import functools
import hashlib
import importlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import NetworkError
from ...files.onnx_form import is_standard
from .reading import keep_, leading_to, nodes_of, read_by
from .session import run_session, session_of

__all__ = ["FROZEN", "OnnxPart", "frozen_graph", "frozen_module", "parts_of", "put_parts_"]

FROZEN = "regraft_frozen"
"""Metadata key under which a graph in a saved folder records how to run it."""
_MOST_PARTS = 12
_LENGTHS = (16, 128, 512, 1024)
_RATE = 16000
_DTYPES = {"tensor(float)": "float32", "tensor(int64)": "int64", "tensor(int32)": "int32", "tensor(bool)": "bool"}
_ENDS: dict[str, Callable[[], nn.Module]] = {"Softmax": functools.partial(nn.Softmax, -1), "Sigmoid": nn.Sigmoid}
_BATCH = -1
_PARTS = "regraft.parts"
"""Domain of the operators that stand for parts until their graphs are put in their place."""


class OnnxPart(nn.Module):
    """Part of a network that ONNX Runtime runs, from one value (the first part: from all inputs) to another, examples along the first axis.
    `fills` holds the type, shape and number that fill each other input, by name."""

    def __init__(self, content: bytes, *, entries: Sequence[str], fills: Mapping[str, Sequence[Any]], single: bool) -> None:
        super().__init__()
        asked = {one.name for one in _session(content).get_inputs()}
        self.content, self.entries, self.single = content, tuple(entries), single
        self.entry = ", ".join(map(repr, entries))
        self.fills = {name: fill for name, fill in fills.items() if name in asked}
        self.weights = nn.Parameter(torch.zeros(1), requires_grad=False)  # placeholder: a block must have weights

    def forward(self, *values: Tensor) -> Tensor:
        """Return the part's output."""
        if torch.compiler.is_exporting():
            raise NetworkError(f"{self.entry} and what follows run in ONNX Runtime, which no exporter of PyTorch reads")
        asking = [list(value.shape) for value in values if value.requires_grad]
        if torch.is_grad_enabled() and asking:
            raise NetworkError(
                f"This part of the network runs in ONNX Runtime, which gives no gradients; it received {asking[0]} that asks for "
                "them. Train what stands behind it: strategy='head', a probe, or layers on top (hidden=, regraft.stack)."
            )
        plain = [value.detach().cpu().contiguous().numpy() for value in values]
        count = len(plain[0])
        batches = [[value[at : at + 1] for value in plain] for at in range(count)] if self.single else [plain]
        return torch.from_numpy(np.concatenate([self._run(*batch) for batch in batches])).to(values[0].device)

    @property
    def key(self) -> str:
        """The name of the operator that stands for this part in an export."""
        return f"part_{hashlib.sha256(self.content).hexdigest()[:16]}"

    def as_node(self, *values: Tensor) -> Tensor:
        """Return the output as a single operator, for an export that `put_parts_` completes."""
        if self.single:
            raise NetworkError(f"{self.entry} and what follows take one example at a time, and an exported file takes batches")
        shapes: list[list[Any]] = [list(value.shape[1:]) for value in values]
        free = {side.node.hint: side for shape in shapes for side in shape if not isinstance(side, int)}
        longer = [
            [[2, *(side if isinstance(side, int) else side.node.hint + more for side in shape)] for shape in shapes]
            for more in (0, bool(free))
        ]
        one, two = (self._run(*(np.zeros(shape, np.float32) for shape in each)).shape[1:] for each in longer)
        sides = [first if first == second else free.get(first, first) for first, second in zip(one, two, strict=True)]
        return torch.onnx.ops.symbolic(f"{_PARTS}::{self.key}", values, dtype=torch.float32, shape=(values[0].shape[0], *sides), version=1)

    def graph(self, node: Any, opset: int) -> tuple[list[Any], list[Any]]:
        """Return nodes and initializers that compute the output of a `node` made by `as_node` from its input."""
        onnx = importlib.import_module("onnx")
        made, held = onnx.helper.make_node, onnx.numpy_helper.from_array
        model, prefix = onnx.ModelProto.FromString(self.content), f"{node.output[0]}/"
        if next(one.version for one in model.opset_import if not one.domain) != opset:
            model = onnx.version_converter.convert_version(model, opset)
        graph = onnx.compose.add_prefix_graph(model.graph, prefix)
        nodes = [made("Identity", [given], [prefix + entry]) for given, entry in zip(node.input, self.entries, strict=True)]
        tensors = list(graph.initializer)
        if self.fills:
            tensors.append(held(np.ones(1, np.int64), f"{prefix}one"))
            nodes.append(made("Shape", [node.input[0]], [f"{prefix}count"], start=0, end=1))
        for name, fill in self.fills.items():
            whole = prefix + name
            tensors.append(held(_filled(fill, 1), f"{whole}/one" if _BATCH in fill[1] else whole))
            if _BATCH in fill[1]:
                sides = [f"{prefix}count" if side == _BATCH else f"{prefix}one" for side in fill[1]]
                nodes.append(made("Concat", sides, [f"{whole}/shape"], axis=0))
                nodes.append(made("Expand", [f"{whole}/one", f"{whole}/shape"], [whole]))
        return [*nodes, *graph.node, made("Identity", [graph.output[0].name], list(node.output))], tensors

    def _run(self, *values: np.ndarray) -> np.ndarray:
        feeds = dict(zip(self.entries, values, strict=True))
        feeds |= {name: _filled(fill, len(values[0])) for name, fill in self.fills.items()}
        made = np.asarray(run_session(_session(self.content), feeds)[0], np.float32)
        return made.reshape(-1, 1) if made.ndim == 1 else made

    def __deepcopy__(self, _memo: Any) -> Self:
        """Return the part itself, because it never changes."""
        return self


class _NamedInputChain(nn.Sequential):
    """Parts of which the first takes several inputs by name."""

    def forward(self, **inputs: Tensor) -> Tensor:  # type: ignore[override]  # they have names
        """Return the output of the last part."""
        first, *rest = self.children()
        value: Tensor = first(*(inputs[name] for name in cast(OnnxPart, first).entries))
        for part in rest:
            value = part(value)
        return value


@functools.lru_cache(maxsize=256)
def _session(content: bytes) -> Any:
    """Return the session of a part. The module itself does not hold it, because sessions cannot be compared."""
    return session_of(content, threads=torch.get_num_threads())


def _filled(fill: Sequence[Any], count: int) -> np.ndarray:
    kind, shape, number = fill
    return np.full([count if side == _BATCH else side for side in shape], number, kind)


def frozen_graph(model: Any) -> tuple[Any, Tensor | dict[str, Tensor]]:
    """Return a model whose metadata record how to run it in parts, and two random examples; of several inputs, by name."""
    session = session_of(model.SerializeToString(), threads=torch.get_num_threads())
    entries, fills, single = _inputs(session)
    count, draws = 1 if single else 2, np.random.default_rng(0)
    filled = {name: _filled(fill, count) for name, fill in fills.items()}
    lengths = _LENGTHS if any(not isinstance(side, int) for one in entries for side in one.shape[1:]) else _LENGTHS[:1]
    for length in lengths:
        shapes = {one.name: [count, *(side if isinstance(side, int) else length for side in one.shape[1:])] for one in entries}
        sample = {name: draws.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
        try:
            run_session(session, sample | filled, seconds=60.0)
            break
        except NetworkError:
            if length == lengths[-1]:
                raise
    cuts = _whole_cuts(model, list(sample), feeds=sample | filled)
    entered = model.metadata_props.add()
    entered.key = FROZEN
    entered.value = json.dumps({"entries": list(sample), "fills": fills, "single": single, "cuts": cuts})
    items = {name: torch.from_numpy(np.concatenate([value, value]) if single else value) for name, value in sample.items()}
    return model, items if len(items) > 1 else next(iter(items.values()))


def _inputs(session: Any) -> tuple[list[Any], dict[str, list[Any]], bool]:
    """Return the inputs for examples, the fill values of the other inputs (states, rates), and whether examples run one by one."""
    asked = session.get_inputs()
    real = [one for one in asked if one.type == "tensor(float)" and len(one.shape) > 1]
    free = [one for one in real if not isinstance(one.shape[0], int)]
    if not real or any(one.type not in _DTYPES for one in asked):
        shown = ", ".join(f"{one.name} {one.type} {one.shape}" for one in asked)
        raise NetworkError(f"The file takes {shown}; expected real numbers by example, and states beside them.")
    entries = free or real[:1]
    entry, single = entries[0], not free
    fills: dict[str, list[Any]] = {}
    for one in (one for one in asked if one not in entries):
        shape = [side if isinstance(side, int) else _BATCH for side in one.shape]
        rate = "int" in one.type and any(word in one.name.lower() for word in ("sr", "rate"))
        fills[one.name] = [_DTYPES[one.type], shape, _RATE if rate else 0]
        single = single or (len(shape) > 1 and _BATCH not in shape)
    if single and isinstance(entry.shape[0], int) and entry.shape[0] != 1:
        raise NetworkError(f"The file takes {entry.name} of the shape {entry.shape}; expected a free number of examples, or one.")
    return entries, fills, single


def _whole_cuts(model: Any, entries: Sequence[str], *, feeds: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of cut values, in order. Everything that depends on the input passes through each, examples along the first axis."""
    nodes, end = list(model.graph.node), model.graph.output[0].name
    reads = [read_by(node) for node in nodes]
    last = {name: at for at, names in enumerate(reads) for name in names}
    live, found = set(entries), list[str]()
    for at, node in enumerate(nodes):
        if live & reads[at] or node.op_type == "If":
            live |= {name for name in node.output if name}
        live = {name for name in live if last.get(name, -1) > at}
        if len(live) == 1 and live.issubset(node.output):
            found += live
    head = _head(model)
    found = [*(name for name in found if name != end), end]
    if head is not None and head[0] in found:
        found = found[: found.index(head[0]) + 1]
    probe = type(model).FromString(model.SerializeToString())
    keep_(probe.graph.output, [importlib.import_module("onnx").ValueInfoProto(name=name) for name in found])
    session = session_of(probe.SerializeToString())
    made, count = dict(zip(found, run_session(session, feeds), strict=True)), len(feeds[entries[0]])
    fine = [name for name, value in made.items() if value.dtype == np.float32 and value.ndim and len(value) == count]
    if not fine:
        raise NetworkError(f"None of the {len(found)} values that hold all of the network has examples along its first axis.")
    return fine[::-1][:: math.ceil(len(fine) / _MOST_PARTS)][::-1]


def _head(model: Any) -> tuple[str, np.ndarray, np.ndarray, str | None] | None:
    """Return the input name, weights, bias and following activation of the final linear layer; None if there is none."""
    to_array = importlib.import_module("onnx.numpy_helper").to_array
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    node: Any = makers.get(model.graph.output[0].name)
    after, bias = None, cast(Any, None)
    if node is not None and node.op_type in _ENDS:
        node, after = makers.get(node.input[0]), node.op_type
    if node is not None and node.op_type == "Add":
        biases, others = [name for name in node.input if name in held], [name for name in node.input if name not in held]
        if len(biases) != 1 or len(others) != 1:
            return None
        node, bias = makers.get(others[0]), to_array(held[biases[0]]).ravel()
    if node is None or node.op_type not in ("MatMul", "Gemm") or node.input[1] not in held:
        return None
    options = {one.name: one.f if one.type == 1 else one.i for one in node.attribute}
    if options.get("transA", 0) or options.get("alpha", 1.0) != 1 or options.get("beta", 1.0) != 1:
        return None
    weight = to_array(held[node.input[1]])
    weight = weight if options.get("transB", 0) else weight.T
    if node.op_type == "Gemm" and len(node.input) > 2:
        if node.input[2] not in held:
            return None
        bias = to_array(held[node.input[2]]).ravel() + (0 if bias is None else bias)
    bias = np.zeros(len(weight), np.float32) if bias is None else np.broadcast_to(bias, len(weight))
    return node.input[0], np.ascontiguousarray(weight), np.ascontiguousarray(bias), after


def frozen_module(model: Any, how: str) -> nn.Module:
    """Return a network of parts that ONNX Runtime runs, followed by its linear head if it has one."""
    try:
        told = json.loads(how)
        entries = list(map(str, told["entries"] if "entries" in told else [told["entry"]]))
        fills, single, cuts = dict(told["fills"]), bool(told["single"]), list(map(str, told["cuts"]))
        _, last = entries[0], cuts[-1]  # none of them is empty
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
        raise NetworkError(f"The graph notes {how[:60]!r} of its parts; expected what regraft writes. Save the network again.") from error
    head, whole = _head(model), nn.Sequential() if len(entries) == 1 else _NamedInputChain()
    for start, stop in zip([entries, *([cut] for cut in cuts)], cuts, strict=False):
        part = OnnxPart(_part(model, start, stop=stop), entries=start, fills=fills, single=single)
        whole.add_module(f"part_{len(whole)}", part)
    if head is not None and head[0] == last:
        _, weight, bias, after = head
        linear = nn.Linear(weight.shape[1], len(weight))
        linear.weight.data, linear.bias.data = torch.from_numpy(weight.copy()), torch.from_numpy(bias.copy())
        whole.add_module("head", linear)
        if after is not None:
            whole.add_module("probabilities", _ENDS[after]())
    return whole.eval()


def _part(model: Any, start: Sequence[str], *, stop: str) -> bytes:
    """Return the serialized part of a model that computes the value `stop` from the values `start`."""
    onnx, (kept, needed) = importlib.import_module("onnx"), leading_to(model.graph, stop, start=start)
    if not needed.issuperset(start):
        raise NetworkError(
            f"The value {stop!r} of the graph does not follow from {', '.join(map(repr, start))}. Its parts are those of another network."
        )
    free = functools.partial(onnx.helper.make_tensor_value_info, elem_type=onnx.TensorProto.FLOAT, shape=None)
    inputs = [one for one in model.graph.input if one.name in needed and one.name not in start]
    known = {one.name: one for one in model.graph.input}
    entries = [known.get(name, free(name)) for name in start]
    tensors = [tensor for tensor in model.graph.initializer if tensor.name in needed]
    graph = onnx.helper.make_graph(kept, "part", [*entries, *inputs], [free(stop)], tensors)
    made = onnx.helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    content: bytes = made.SerializeToString()
    return content


def parts_of(modules: Mapping[str, nn.Module]) -> list[OnnxPart]:
    """Return the parts among some modules that ONNX Runtime runs, each once."""
    return list({id(part): part for part in modules.values() if isinstance(part, OnnxPart)}.values())


def put_parts_(model: Any, parts: Sequence[OnnxPart]) -> None:
    """Put the graphs of parts in the place of the nodes of an `onnx.ModelProto` that stand for them."""
    known = {part.key: part for part in parts}
    opset = next(one.version for one in model.opset_import if not one.domain)
    nodes, tensors = [], []
    for node in model.graph.node:
        own = known[node.op_type].graph(node, opset) if node.domain == _PARTS else ([node], [])
        nodes += own[0]
        tensors += own[1]
    keep_(model.graph.node, nodes)
    model.graph.initializer.extend(tensors)
    keep_(model.opset_import, [one for one in model.opset_import if one.domain != _PARTS])
    missing = {node.domain for node in nodes_of(model.graph) if not is_standard(node)} - {one.domain for one in model.opset_import}
    model.opset_import.extend(importlib.import_module("onnx.helper").make_opsetid(domain, 1) for domain in missing)
