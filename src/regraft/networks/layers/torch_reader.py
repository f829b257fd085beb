"""Reader that turns an exported PyTorch program into a Keras graph, operator by operator. `from_torch` defines the converters.

A Keras value may hold its axes in another order than PyTorch. Transpositions are only recorded, and carried out where a layer needs another
order. Convolutions therefore read channels last, whatever stands between them.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor
from torch.fx import Node

from ...errors import NetworkError
from ...files.formats import reason_of
from ..keras.library import keras
from ..parts.structure import numbered

_ODD = re.compile(r"\W")
BATCH = -1  # Stands for the batch size in shapes
LEAST = -3e38  # Stands for minus infinity, which JSON configurations cannot hold
Row = Callable[["TorchReader", "Operation"], Any]
"""Converter of one operator: its call -> a value, a Keras tensor in the axis order of the first input, or a list of values."""


@dataclass(frozen=True)
class TorchValue:
    """Value within the network."""

    tensor: Any
    axes: tuple[int, ...]  # position in `tensor` of each axis of the PyTorch value

    @property
    def shape(self) -> tuple[int | None, ...]:
        """The shape in PyTorch's axis order; None for the batch size."""
        return tuple(self.tensor.shape[axis] for axis in self.axes)


def channels_last(rank: int) -> tuple[int, ...]:
    """Return the `Turned.axes` of a channels-last value with `rank` axes."""
    return (0, rank - 1, *range(1, rank - 1)) if rank > 2 else tuple(range(rank))


@dataclass(frozen=True)
class Operation:
    """Call of an operator."""

    node: Node
    kind: str  # short name, such as "conv2d"
    given: Mapping[str, Any]  # arguments by name: values, weights, numbers
    names: Mapping[str, str]  # names of the arguments that are weights, as the module calls them

    def __getitem__(self, name: str) -> Any:
        return self.given[name]

    @property
    def value(self) -> TorchValue:
        """The first input."""
        first = next(iter(self.given.values()))
        first = first.together if isinstance(first, States) else first
        if not isinstance(first, TorchValue):
            raise self.refusal("no value of the network in the first place")
        return first

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the output, or of the first of several, with `BATCH` for the batch size."""
        made = self.node.meta["val"]
        return tuple(side if isinstance(side, int) else BATCH for side in (made[0] if isinstance(made, tuple) else made).shape)

    @property
    def layer(self) -> str:
        """The name of the calling module."""
        weights = next(iter(self.names.values()), "")
        stack = [path for path, _ in (self.node.meta.get("nn_module_stack") or {}).values()]
        return weights.rpartition(".")[0] if weights else (stack[-1] if stack else "")

    def refusal(self, what: str) -> NetworkError:
        """Return the error for an operator that has no Keras counterpart because of `what`."""
        where = f"The layer {self.layer!r}" if self.layer else "The network"
        return NetworkError(f"{where} calls {self.kind} with {what}, which has no counterpart in Keras here. Export the network as .onnx.")


@dataclass
class TorchReader:
    """Reader of an exported program."""

    rows: Mapping[str, Row]  # converter for each operator, by short name
    held: Callable[[str], bool]  # whether a module stays frozen, by name
    called: Mapping[str, str]  # module names, by path within the program
    taken: list[str]  # names that no further layer gets
    names: dict[str, str] = field(default_factory=dict)  # Keras layer that holds the weights of a module, by module name
    _layers: dict[tuple[Node, ...], Any] = field(default_factory=dict)
    _values: dict[Node, Any] = field(default_factory=dict)
    _weights: dict[Node, str] = field(default_factory=dict)
    _fixed: set[Node] = field(default_factory=set)

    def read(self, program: Any, entries: Sequence[TorchValue]) -> list[TorchValue]:
        """Return the outputs of a program for its inputs `entries`, in order."""
        waiting = list(entries)
        graph, signature = program.graph, program.graph_signature
        graph.eliminate_dead_code()  # what no output needs may have no counterpart
        calls = [node for node in graph.nodes if node.op == "call_function"]
        held = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        known = {**held, **signature.inputs_to_lifted_tensor_constants}
        self._fixed.update(node for node in graph.nodes if node.op == "placeholder" and node.name in known)
        for node in calls:  # what no input enters is computed once
            if _kind(node) != "zeros" and self._fixed.issuperset(node.all_input_nodes):
                self._fixed.add(node)
        wrong = [node for node in calls if _kind(node) not in self.rows and not _is_size(node) and node not in self._fixed]
        if wrong:
            named = sorted({f"{_kind(node)} (in {Operation(node, '', {}, {}).layer or 'the network'!r})" for node in wrong})
            raise NetworkError(
                f"These operators of PyTorch have no counterpart in Keras here: {', '.join(named[:8])}. Expected layers of the table in "
                "docs/export.md. Export the network as .onnx, which takes all of them."
            )
        constants = {**dict(program.constants), **program.state_dict}
        for node in graph.nodes:
            if node.op == "placeholder":
                self._values[node] = constants[known[node.name]] if node.name in known else waiting.pop(0)
                if node.name in held:
                    path, _, weight = held[node.name].rpartition(".")
                    self._weights[node] = f"{self.called.get(path, path)}.{weight}"
            elif node.op == "call_function":
                self._call_(node)
        (nodes,) = graph.output_node().args
        outputs = [found for found in map(self._values.get, nodes) if isinstance(found, TorchValue)]
        self._name_functions_(outputs)
        return outputs

    def _name_functions_(self, outputs: Sequence[TorchValue]) -> None:
        """Give the Keras functions free names, because their default numbered names may collide with layer names."""
        waiting, seen = [value.tensor for value in outputs], set[int]()
        while waiting:
            operation = waiting.pop()._keras_history.operation
            if id(operation) not in seen:
                seen.add(id(operation))
                if not isinstance(operation, keras.Layer):
                    operation.name = self._free(type(operation).__name__.lower())
                waiting += [tensor for node in operation._inbound_nodes for tensor in node.input_tensors]

    def _call_(self, node: Node) -> None:
        target: Any = node.target
        if node in self._fixed:
            with torch.enable_grad():  # records whether training would change the result
                self._values[node] = target(*map(self._value, node.args), **{name: self._value(one) for name, one in node.kwargs.items()})
            held = [self._weights[source] for source in node.all_input_nodes if source in self._weights]
            if held:
                self._weights[node] = held[0]
            return
        if _is_size(node):
            self._values[node] = self._value(node.args[0])[node.args[1]] if _is_getitem(node) else BATCH
            return
        asked = target._schema.arguments
        raw = {one.name: value for one, value in zip(asked, node.args, strict=False)} | dict(node.kwargs)
        given = {one.name: self._value(raw[one.name]) if one.name in raw else one.default_value for one in asked}
        names = {name: self._weights[value] for name, value in raw.items() if isinstance(value, Node) and value in self._weights}
        call = Operation(node, _kind(node), given, names)
        try:
            made = self.rows[call.kind](self, call)
            self._values[node] = TorchValue(made, call.value.axes) if isinstance(made, keras.KerasTensor) else made
        except NetworkError:
            raise
        except Exception as problem:  # settings that Keras does not take fail in any way
            raise call.refusal(f"what Keras does not take ({reason_of(problem)})") from problem
        if str(target).split(".")[1].endswith("_") and isinstance(node.args[0], Node):
            self._values[node.args[0]] = self._values[node]  # an in-place operator changes its input
            if any(node < user and not _is_size(user) for user in _viewed_by(node.args[0])):
                raise call.refusal("a part of a value that is read whole later, in place")

    def _value(self, given: Any) -> Any:
        if isinstance(given, Node):
            return self._values[given]
        return [self._value(one) for one in given] if isinstance(given, list | tuple) else given

    def layer(self, call: Operation, kind: Any, /, *values: Any, weights: Sequence[Tensor | None] = (), **settings: Any) -> Any:
        """Return the output of a new Keras layer. Weights that are used again reuse their layer."""
        own = weights and call.names and call.layer
        read = tuple(one for one in (*call.node.args, *call.node.kwargs.values()) if isinstance(one, Node) and one in self._weights)
        if own and read in self._layers:
            return self._layers[read](*values)
        name = self._free(own or call.node.name)
        made = kind(name=name, **settings)
        result = made(*values)
        if weights:
            made.set_weights([one.detach().cpu().float().numpy() for one in weights if one is not None])
            made.trainable = not self.held(call.layer)
        if own:
            self._layers[read] = made
            self.names.setdefault(call.layer, name)
        return result

    def _free(self, name: str) -> str:
        plain = _ODD.sub("_", name).strip("_") or "layer"
        made = next(one for one in numbered(plain) if one not in self.taken)
        self.taken.append(made)
        return made

    def turned(self, call: Operation, value: TorchValue, *, axes: Sequence[int] | None = None) -> Any:
        """Return the tensor of a value in another axis order, by default PyTorch's."""
        wanted = tuple(axes) if axes is not None else tuple(range(len(value.axes)))
        if value.axes == wanted:
            return value.tensor
        order = [0] * len(wanted)
        for place, now in zip(wanted, value.axes, strict=True):
            order[place] = now
        if order[0] != 0:
            raise call.refusal("examples that do not stand along the first axis")
        return keras.layers.Permute(order[1:], name=self._free(f"{call.node.name}_axes"))(value.tensor)

    def last(self, call: Operation, value: TorchValue) -> Any:
        """Return the tensor of a value with channels last."""
        return self.turned(call, value, axes=channels_last(len(value.axes)))

    def name(self, call: Operation, part: str) -> str:
        """Return a free name for an additional layer of a call. `part` says what the layer does."""
        return self._free(f"{call.node.name}_{part}")


def _kind(node: Node) -> str:
    name = str(node.target)
    return name.split(".")[1].rstrip("_") if name.startswith(("aten.", "regraft.")) else getattr(node.target, "__name__", name)


def _is_getitem(node: Node) -> bool:
    return _kind(node) == "getitem"


def _viewed_by(node: Node) -> list[Node]:
    """Return the operators that read a value of which a node is a view; empty if it is none."""
    made, found = node, list[Node]()
    while True:
        made = cast(Node, made.args[0]) if _is_getitem(made) else made
        returned = getattr(getattr(made.target, "_schema", None), "returns", ())
        alias = returned[0].alias_info if returned else None
        if alias is None or alias.is_write:
            return found
        made = cast(Node, made.args[0])
        found += made.users


def _is_size(node: Node) -> bool:
    """Return whether a node is an indexing of several values, a size, a comparison of sizes, or an assertion."""
    return (
        _is_getitem(node)
        or _kind(node) in ("sym_size", "_assert_scalar", "_assert_tensor_metadata")
        or isinstance(node.meta.get("val"), torch.SymInt | torch.SymBool)
    )


class States:
    """Final states of a recurrent layer, (directions, N, u) in PyTorch."""

    def __init__(self, whole: Any, each: Sequence[Any]) -> None:
        self.whole, self.each = whole, each

    @property
    def together(self) -> TorchValue:
        """The states as one value, which is (N, directions, u) in Keras."""
        return TorchValue(keras.ops.stack(list(self.each), axis=1), (1, 0, 2))


def each(given: Any, rank: int) -> list[int]:
    """Return one number per axis: `given` itself, or a single number repeated `rank` times."""
    sides = [int(one) for one in given] if isinstance(given, list | tuple) else [int(given)]
    return sides * rank if len(sides) == 1 else sides


def plain(tensor: Any) -> TorchValue:
    """Return a tensor as a value in PyTorch's axis order."""
    return TorchValue(tensor, tuple(range(len(tensor.shape))))


def last_of(tensor: Any) -> TorchValue:
    """Return a tensor as a value with channels last."""
    return TorchValue(tensor, channels_last(len(tensor.shape)))


def axes_of(call: Operation, dims: Any) -> list[int]:
    """Return the Keras axes of some PyTorch dimensions of a call's input."""
    rank = len(call.value.axes)
    return [call.value.axes[dim % rank] for dim in (dims if isinstance(dims, list | tuple) else [dims])]


def edged(reader: TorchReader, call: Operation, *, tensor: Any, sides: Sequence[tuple[int, int]], fill: float = 0.0) -> Any:
    """Return a channels-last tensor with its positions padded, or cropped where negative."""
    if not any(map(any, sides)):
        return tensor
    if all(before <= 0 and behind <= 0 for before, behind in sides):
        kind, part, sides = "Cropping", "cut", [(-before, -behind) for before, behind in sides]
    elif fill or any(side < 0 for pair in sides for side in pair):
        kept = [(max(before, 0), max(behind, 0)) for before, behind in sides]
        tensor = keras.ops.pad(tensor, [(0, 0), *kept, (0, 0)], constant_values=fill)
        return edged(reader, call, tensor=tensor, sides=[(min(before, 0), min(behind, 0)) for before, behind in sides])
    else:
        kind, part = "ZeroPadding", "edges"
    rank = len(sides)
    return getattr(keras.layers, f"{kind}{rank}D")(list(sides) if rank > 1 else sides[0], name=reader.name(call, part))(tensor)
