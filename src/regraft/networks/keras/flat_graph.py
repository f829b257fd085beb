"""The opened graph of a Keras model: call its steps again with other inputs, insert steps or remove them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ...errors import NetworkError
from ..parts.structure import numbered
from .library import keras
from .sizes import holds
from .structure import CODE_INPUT, graph_of, is_tap, no_graph, steps_of


@dataclass(frozen=True)
class _FlatGraph:
    """The graph of a model whose nested models are opened where they hold given layers."""

    name: str
    inputs: Any
    outputs: Any
    steps: list[Any]  # the nodes, in topological order

    def node(self, layer: Any) -> Any:
        """Return the last call of a layer."""
        calls = [node for node in self.steps if node.operation is layer]
        if not calls:
            raise NetworkError(f"The layer '{layer.name}' is not called in the graph of '{self.name}'; expected a layer on its way.")
        return calls[-1]

    def model(self, outputs: Any, *, inputs: Any = None) -> Any:
        """Return a model with these outputs and without the layers after them.
        `inputs`: other inputs; None for those of the graph."""
        model = keras.Model(self.inputs if inputs is None else inputs, outputs, name=self.name)
        for operation in model.operations:
            operation._outbound_nodes.clear()
        return model

    def with_outputs(self, further: Mapping[str, Any]) -> Any:
        """Return a model with `further` outputs after the existing ones, named if these are named."""
        named_ones = isinstance(self.outputs, dict)
        return self.model({**self.outputs, **further} if named_ones else [*keras.tree.flatten(self.outputs), *further.values()])

    def free_name(self, wanted: str) -> str:
        """Return a layer name made from `wanted` that no layer has or starts with (followed by "_")."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted).strip("_") or "head"
        layers = [node.operation for node in self.steps if isinstance(node.operation, keras.Layer)]
        taken = {node.operation.name for node in self.steps} | {part.name for layer in layers for part in layer._flatten_layers()}
        taken |= {tensor.name for tensor in keras.tree.flatten(self.inputs)}
        return next(name for name in numbered(plain) if not any(old == name or old.startswith(f"{name}_") for old in taken))


def opened(model: Any, *layers: Any) -> _FlatGraph:
    """Return a model's graph with `layers` at its top level."""
    graph = graph_of(model)
    if graph is None:
        raise no_graph(model)
    steps, outputs = steps_of(graph), graph._outputs_struct
    for layer in layers:
        pass_, known = Rewiring(layer=layer), dict[int, Any]()
        pass_.run_(steps, known)
        steps, outputs = pass_.steps, mapped(outputs, known)
    taken = {operation.name: operation for operation in graph.operations}
    for step in steps:  # names of layers from nested models may clash with those of the outer model
        operation = step.operation
        operation.name = next(name for name in numbered(operation.name) if taken.setdefault(name, operation) is operation)
    return _FlatGraph(model.name, graph._inputs_struct, outputs, steps)


def mapped(structure: Any, known: Mapping[int, Any]) -> Any:
    """Return a structure of symbolic tensors with the replacements in `known`, by id."""
    return keras.tree.map_structure(lambda value: known.get(id(value), value), structure)


def last_called(layers: Sequence[Any]) -> Any:
    """Return the last layer that is called."""
    return ([layer for layer in layers if layer._inbound_nodes] or list(layers))[-1]


def end_of(graph: _FlatGraph, layers: Sequence[Any]) -> Any:
    """Return the output of the last called layer of `layers`, after the weightless operations that belong to it."""
    node = graph.node(last_called(layers))
    at = next(index for index, step in enumerate(graph.steps) if step is node)
    made = {id(tensor) for step in graph.steps[: at + 1] for tensor in step.outputs}
    for step in graph.steps[at + 1 :]:  # an addition written as `x + y` is not a layer: it belongs to the block before it
        of_another = isinstance(step.operation, keras.Layer) or is_tap(step.operation)  # taps come after the blocks that they read
        if of_another or not all(id(tensor) in made for tensor in step.input_tensors):
            break
        made |= {id(tensor) for tensor in step.outputs}
        node = step
    return node.outputs[0]


def named_inputs(graph: _FlatGraph, further: str) -> dict[str, Any]:
    """Return the inputs by name. A single unnamed input is renamed to "inputs"."""
    inputs = keras.tree.flatten(graph.inputs)
    unnamed = len(inputs) == 1 and not isinstance(graph.inputs, dict)
    wanted = {further, "inputs"} if unnamed else {further}
    taken = wanted & ({step.operation.name for step in graph.steps} | ({tensor.name for tensor in inputs} - {"inputs"}))
    if taken:
        raise NetworkError(f"The network has an input or a layer named {min(taken)!r} already; expected none. Rename it before loading.")
    if unnamed:
        inputs[0].name = inputs[0]._keras_history.operation.name = "inputs"
    return {tensor.name: tensor for tensor in inputs}


def named(name: str, tensor: Any) -> Any:
    """Return a symbolic tensor after naming its operation: numbered default names may clash between sessions."""
    tensor._keras_history.operation.name = name
    return tensor


def beside(models: Sequence[Any]) -> Any:
    """Return one model that concatenates the results of `models`, private copies with the same inputs."""
    entry = keras.tree.map_structure(
        lambda given: keras.Input(batch_shape=given.shape, dtype=given.dtype, name=given.name), models[0].input
    )
    for number, model in enumerate(models):
        model.name = f"part_{number}"  # the layer names in a model must be unique
    return keras.Model(entry, keras.layers.Concatenate(name="parts")([model(entry) for model in models]))


Step = Callable[[Any, Any], Any]  # Maps a layer's symbolic output, and the symbolic code or None, to the tensor that others read instead


@dataclass
class Rewiring:
    """A pass over a graph: the steps whose inputs or operations change are called again; layers keep their names.
    `skipped`: layers to leave out, by id, with the index of the input that replaces their output; None if nothing reads it."""

    behind: dict[int, Step] = field(default_factory=dict)  # steps to insert after the outputs of layers, by layer id
    skipped: Mapping[int, int | None] = field(default_factory=dict)
    coded: bool = False  # whether rebuilt nested models take the code as a further input. When layers are skipped, they lose that input
    layer: Any = None  # a layer whose nested models are opened, so that it is at the top level; None opens none
    models: dict[int, Any] = field(default_factory=dict)  # rebuilt nested models, by the id of the old one; filled during the pass
    steps: list[Any] = field(default_factory=list)  # the nodes after the pass, in topological order; filled during the pass

    def outputs(self, graph: Any, known: dict[int, Any], *, code: Any = None) -> Any:
        """Return the outputs of a graph, in their structure, after the pass.
        `known`: replaced symbolic tensors, by id, extended during the pass; `code`: the symbolic code (N, size), or None."""
        self.run_(steps_of(graph), known, code=code)
        return mapped(graph._outputs_struct, known)

    def run_(self, nodes: Sequence[Any], known: dict[int, Any], *, code: Any = None) -> None:
        """Pass over `nodes`, in topological order."""
        called = any(node.operation is self.layer for node in nodes)
        for node in nodes:
            operation = node.operation
            read = self.skipped.get(id(operation), -1)
            if read is None:
                continue
            around = self.layer is not None and operation is not self.layer and holds(operation, self.layer)
            if around and (graph_of(operation) is not None or not called):  # a layer of the user may hold one that is called here too
                outputs = self._opened(node, known)
            else:
                outputs = [node.input_tensors[read]] if read >= 0 else self._called(node, known, code=code)
            outputs = [known.get(id(tensor), tensor) for tensor in outputs]
            step = self.behind.get(id(operation))
            if step is not None:
                outputs = [step(outputs[0], code)]
            known.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True) if new is not old})

    def _opened(self, node: Any, known: dict[int, Any]) -> list[Any]:
        """Return the outputs of a nested model after calls of its layers in its place."""
        inner = graph_of(node.operation)
        if inner is None:
            raise no_graph(node.operation)
        known.update({id(own): known.get(id(given), given) for own, given in zip(inner.inputs, node.input_tensors, strict=True)})
        self.run_(steps_of(inner), known)
        return list(inner.outputs)

    def _called(self, node: Any, known: Mapping[int, Any], *, code: Any) -> list[Any]:
        """Return the outputs of a step. It is called again if its inputs or its operation changed."""
        operation = self._renewed(node.operation, code)
        if operation is node.operation and not any(id(tensor) in known for tensor in node.input_tensors):
            self.steps.append(node)
            return list(node.outputs)
        args, kwargs = node.arguments.convert(lambda value: known.get(id(value), value))
        if operation is not node.operation:
            read = keras.tree.flatten(args[0] if args else kwargs.pop("inputs"))
            args = (_single([*read, code] if self.coded else read[: len(operation.inputs)]), *args[1:])  # the code comes last
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        self.steps.append(operation._inbound_nodes[-1])
        return list(outputs)

    def _renewed(self, model: Any, code: Any) -> Any:
        """Return a rebuilt nested model if the pass changes something in it, else the operation itself."""
        graph = graph_of(model)
        if graph is None or not {id(part) for part in model._flatten_layers()} & {*self.behind, *self.skipped}:
            return model
        if id(model) not in self.models:
            inputs = [tensor for tensor in graph.inputs if not self.skipped or tensor.name != CODE_INPUT]
            inner = keras.Input(code.shape[1:], dtype=code.dtype, name=CODE_INPUT) if self.coded else None
            outputs = self.outputs(graph, {}, code=inner)
            given = _single(inputs if inner is None else [*inputs, inner])
            self.models[id(model)] = opened(model).model(outputs, inputs=given)
        return self.models[id(model)]


def _single(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors
