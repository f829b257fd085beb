"""Export of a network of dense layers as one PMML file for data-mining tools. The layers are measured on a basis, not read by name."""

import importlib.metadata
import math
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.fx import Interpreter, Node
from torch.nn import Module

from ..errors import NetworkError, RegraftError, SettingError
from ..files.formats import writable
from ..files.pmml.form import ACTIVATIONS, DenseLayer, DenseNetwork, pmml_of
from ..files.writing import write_bytes
from ..words import counted
from .parts.onnx_export import WholeNetwork, input_names, sample_tensors, silenced, why_not_exported
from .parts.onnx_steps import items_of
from .parts.record import Record

_NONLINEAR = {
    **{"relu": ("rectifier", 1.0), "tanh": ("tanh", 1.0), "sigmoid": ("logistic", 1.0), "atan": ("arctan", np.pi / 2)},
    **{"exp": ("exponential", 1.0), "sin": ("sine", 1.0), "cos": ("cosine", 1.0)},
}
"""PyTorch operator -> the activation in PMML, and the factor of its value."""
_OTHER = ("conv", "lstm", "gru", "rnn", "pool", "attention", "embedding")
"""Substrings of the names of operators and of layer classes that are not dense."""
_LARGEST = 4096  # Largest number of inputs, or of units of a layer
_RANDOM = 8
_STRAIGHT = 1e-6  # Largest deviation of the computation between two activations from W x + b, relative to the largest value
_INSTEAD = "Export it as .onnx, or its head alone with what='head'."
WHATS = ("network", "head")


class _LogitsModule(WholeNetwork):
    """Module that returns the logits of the first head."""

    def forward(self, *tensors: Tensor) -> Tensor:
        """Return (N, C)."""
        network = self.__dict__["network"]
        scores: Tensor = network.scores(self.inputs(tensors))[next(iter(network.heads))]
        return scores


def write_pmml(
    network: Record,
    path: Path,
    *,
    version: str = "4.4",
    what: str = "network",
    columns: Sequence[str] | None = None,
    target: str | None = None,
) -> Path:
    """Write a network of dense layers as a PMML file.
    `columns` names the inputs; default x1, x2, …, or feature1, feature2, … for a head alone. `target` names the prediction; default
    "class", or "value" for a regression."""
    network.body.refuse_change("exported as PMML")
    found = _dense_network(network, what=what, columns=columns, target=target)
    content = pmml_of(found, version, application=importlib.metadata.version("regraft"))
    with writable(path.parent, error=NetworkError):
        write_bytes(path, content)
    return path


def _dense_network(network: Record, *, what: str, columns: Sequence[str] | None, target: str | None) -> DenseNetwork:
    """Return a network, or its head alone, as dense layers in double precision."""
    if what not in WHATS:
        raise SettingError(f"what={what!r} is unknown; expected one of {', '.join(map(repr, WHATS))}.")
    head = next(iter(network.heads.values()), None)
    if head is None or head.kind == "multi-label" or (head.kind == "regression" and len(head.weight) != 1):
        kind = "has no head" if head is None else f"has a head of the kind {head.kind!r} with {counted(len(head.weight), 'output')}"
        raise NetworkError(f"This network {kind}; PMML describes one class an example, or one value. Export it as .onnx.")
    own = DenseLayer(np.asarray(head.weight, np.float64), np.asarray(head.bias, np.float64))
    layers = [own] if what == "head" else _layers(network)
    width = layers[0].weight.shape[1]
    mean, std = (None, None) if what == "head" else _scaling(network, width)
    names = tuple(columns or [f"{'x' if what == 'network' else 'feature'}{at}" for at in range(1, width + 1)])
    if len(names) != width:
        raise NetworkError(
            f"Received the names of {counted(len(names), 'column')}; this network takes {counted(width, 'number')}. Give one name for each."
        )
    classes = None if head.kind == "regression" else head.classes or tuple(map(str, range(len(head.weight))))
    return DenseNetwork(names, tuple(layers), target or ("value" if classes is None else "class"), classes, mean, std)


def _scaling(network: Record, width: int) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Return the mean and standard deviation, (width,) each, of the preprocessing; None if it does not normalise."""
    plain = network.preprocessing.to_dict()
    if plain["kind"] != "array" or items_of(plain) is not plain:
        raise NetworkError(f"PMML takes columns of numbers; this network takes {network.preprocessing.describe()}. {_INSTEAD}")
    if plain["mean"] is None and plain["std"] is None:
        return None, None
    shape = sample_tensors(network.sample)[0].shape[1:]
    each = [np.asarray(plain[name] if plain[name] is not None else other, np.float64) for name, other in (("mean", 0.0), ("std", 1.0))]
    mean, std = (np.broadcast_to(one if one.size in (1, shape[-1]) else one.reshape(shape), shape).reshape(width) for one in each)
    return mean, std


def _layers(network: Record) -> list[DenseLayer]:
    """Return the dense layers of a network: the part between two activations, measured on a basis, is W x + b."""
    if network.coding is not None:
        one = next(iter(network.coding.conditions), "mean")
        raise NetworkError(f"This network reads the codes of conditions; PMML has none. Give one: condition={one!r} (--condition {one}).")
    twin = network.for_export()
    if input_names(twin.sample):
        raise NetworkError(f"PMML takes one row of numbers; this network takes {', '.join(input_names(twin.sample))}. {_INSTEAD}")
    (sample,) = sample_tensors(twin.sample)
    modules = twin.modules()
    kinds = {layer.name: type(modules[layer.name]).__name__ for layer in twin.layers}
    others = [f"{name!r} ({kind})" for name, kind in kinds.items() if any(word in kind.lower() for word in _OTHER)]
    if any(kind.lower().endswith(("lstm", "gru", "rnn")) for kind in kinds.values()):
        raise _other(others)
    twin.body.name_for_export_()
    try:
        with silenced():
            axes = {"tensors": ({0: torch.export.Dim("batch", min=1)},)}
            program = torch.export.export(_LogitsModule(twin).eval(), (sample,), dynamic_shapes=axes, strict=False).module()
    except Exception as problem:  # not every forward can be exported
        if isinstance(problem, RegraftError):
            raise
        place = _place_of(problem, modules)
        if place:
            raise _other([place]) from problem
        raise NetworkError(f"The network cannot be written as PMML: {why_not_exported(problem)}. {_INSTEAD}") from problem
    walk = _Walk(program, others)
    with torch.no_grad():
        walk.measure_(sample.double() if sample.is_floating_point() else sample)
    return walk.layers


def _place_of(problem: BaseException | None, modules: Mapping[str, Module]) -> str:
    """Return the innermost layer whose forward raised a problem, with its class; "" if none did."""
    names, found = {id(module): name for name, module in modules.items() if name}, ""
    while problem is not None and not found:
        for frame, _ in traceback.walk_tb(problem.__traceback__):
            name = names.get(id(frame.f_locals.get("self")))
            found = found if name is None else f"{name!r} ({type(modules[name]).__name__})"
        problem = problem.__cause__ or problem.__context__
    return found


def _other(layers: Sequence[str]) -> NetworkError:
    return NetworkError(f"PMML describes dense layers only; this network has others: {', '.join(layers[:5])}. {_INSTEAD}")


class _Walk(Interpreter):
    """Interpreter in double precision that replaces the output of each activation by a basis, to read off the next affine map."""

    def __init__(self, program: Any, others: Sequence[str]) -> None:
        super().__init__(program, garbage_collect_values=False)
        self.extra_traceback = False  # an error is told as it is
        self.layers: list[DenseLayer] = []
        self.suspect, self.scale, self.others = "", 1.0, others
        self.live: set[Node] = set()
        """Nodes that depend on the current basis; `past` holds those that depend only on earlier ones."""
        self.past: set[Node] = set()

    def measure_(self, sample: Tensor) -> None:
        """Run the program and fill `layers`. `sample` is one batch."""
        nodes = list(self.graph.nodes)
        given = [node.meta.get("val") for node in nodes if node.op in ("placeholder", "call_function")]
        width = max(math.prod(map(int, value.shape[1:])) for value in (*given, sample) if isinstance(value, Tensor))
        self.check(nodes, width=width)
        self.count = width + 1 + _RANDOM
        self.probe = _probe(sample.shape[1:], self.count)
        scores: Tensor = self.run(self.probe, enable_io_processing=False)[0]
        self.layers.append(self.affine(scores, "identity"))

    def check(self, nodes: Sequence[Node], *, width: int) -> None:
        """Raise if the program has operators of other layers than dense ones, or if its largest `width` exceeds the limit."""
        other = next((name for node in nodes for name in _OTHER if name in _operator(node)), None)
        if other is not None:
            raise _other(self.others or [other])
        if width > _LARGEST:
            raise NetworkError(f"PMML is written for up to {_LARGEST:,} inputs and units a layer; this network has {width:,}. {_INSTEAD}")

    def run_node(self, n: Node) -> Any:
        """Return the value of a node, or a new basis if the node is an activation."""
        if n.op == "get_attr":
            value = super().run_node(n)
            return value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        if n.op == "call_module" or (n.op == "call_function" and "guard" in str(n.target)):
            return None  # shape checks
        if n.op == "placeholder":
            self.live.add(n)
            return super().run_node(n)
        known, own = _NONLINEAR.get(_operator(n)), set(n.all_input_nodes)
        if own & self.past:
            raise NetworkError(
                f"PMML is written for layers that follow one another; this network reads the input of {_operator(n) or 'its end'} once "
                f"more, from before an activation. {_INSTEAD}"
            )
        value = super().run_node(n)
        if not own & self.live or not isinstance(value, Tensor):
            return value
        if known is None:
            self.suspect = self.suspect or ("" if _operator(n) in _PLAIN else _operator(n))
            self.live.add(n)
            return value
        before: Tensor = self.env[n.all_input_nodes[0]]
        self.layers.append(self.affine(before, known[0]))
        self.probe, self.suspect, self.scale = _probe(value.shape[1:], self.count), "", known[1]
        self.past |= self.live
        self.live = {n}
        return self.probe

    # over the limit: the signature of PyTorch's interpreter
    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """Return the result of a function, with requests for float32 replaced by float64."""

        def wide(value: Any) -> Any:
            return torch.float64 if value is torch.float32 else value

        return super().call_function(target, tuple(map(wide, args)), {name: wide(value) for name, value in kwargs.items()})

    def affine(self, values: Tensor, activation: str) -> DenseLayer:
        """Return the layer whose pre-activations on the basis are `values`; it is verified on the random rows."""
        rows, found = self.probe.reshape(self.count, -1), values.reshape(self.count, -1).double()
        width = rows.shape[1]
        bias = found[0]
        weight = (found[1 : width + 1] - bias).T
        expected = rows @ weight.T + bias
        if not float((expected - found).abs().max()) <= _STRAIGHT * float(found.abs().max()):
            what = f" ({self.suspect})" if self.suspect else ""
            raise NetworkError(
                f"PMML has the activations {', '.join(ACTIVATIONS.values())}; between two of them this network computes no weighted "
                f"sum{what}. {_INSTEAD}"
            )
        return DenseLayer((weight * self.scale).numpy(), bias.numpy(), activation)


_PLAIN = frozenset({"linear", "addmm", "mm", "matmul", "add", "sub", "mul", "div", "view", "reshape", "permute", "transpose", "t", "clone"})


def _operator(node: Node) -> str:
    """Return the short name of the operator of a `node`: "relu" for aten.relu_.default."""
    name = str(node.target) if node.op == "call_function" else ""
    return name.removeprefix("aten.").partition(".")[0].rstrip("_")


def _probe(shape: Sequence[int], count: int) -> Tensor:
    """Return a basis of `count` rows of a shape: a zero row, the unit vectors, and random rows for verification."""
    width = int(np.prod(shape))
    rows = torch.zeros(count, width, dtype=torch.float64)
    rows[1 : width + 1] = torch.eye(width, dtype=torch.float64)
    rows[width + 1 :] = torch.from_numpy(np.random.default_rng(0).normal(size=(count - width - 1, width)))
    return rows.reshape(count, *shape)
