"""The graph of a Keras model, opened: its steps can be called again with other inputs, and nested models in their place."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...errors import NetworkError
from ..keras_parts.library import keras
from ..keras_parts.structure import graph_of, is_tap, no_graph, steps_of
from .sizes import holds

__all__ = ["Opened", "end_of", "last_called", "mapped", "named", "named_inputs", "opened", "replay_"]


@dataclass(frozen=True)
class Opened:
    """The graph of a model in which the nested models that hold a certain layer are opened.

    Attributes:
        name: of the model.
        inputs: its symbolic inputs in their structure.
        outputs: its symbolic outputs in theirs.
        steps: the nodes, each after all that it reads.
    """

    name: str
    inputs: Any
    outputs: Any
    steps: list[Any]

    def node(self, layer: Any) -> Any:
        """Return the last call of a layer.

        Raises:
            NetworkError: if the graph does not call it.
        """
        calls = [node for node in self.steps if node.operation is layer]
        if not calls:
            raise NetworkError(f"The layer '{layer.name}' is not called in the graph of '{self.name}'; expected a layer on its way.")
        return calls[-1]

    def model(self, outputs: Any, *, inputs: Any = None) -> Any:
        """Return a model with these outputs, which holds nothing of what comes after them.

        Args:
            outputs: symbolic tensors in a structure.
            inputs: others than those of the graph; None for the same.
        """
        model = keras.Model(self.inputs if inputs is None else inputs, outputs, name=self.name)
        for operation in model.operations:
            operation._outbound_nodes.clear()
        return model

    def free_name(self, wanted: str) -> str:
        """Return a layer name made from `wanted` that no layer has, nor one that begins with it and "_"."""
        plain = re.sub(r"[^A-Za-z0-9_-]+", "_", wanted).strip("_") or "head"
        taken = {part.name for node in self.steps for part in _with_parts(node.operation)}
        taken |= {tensor.name for tensor in keras.tree.flatten(self.inputs)}
        names = (plain, *(f"{plain}_{count}" for count in range(1, 1000)))
        return next(name for name in names if not any(old == name or old.startswith(f"{name}_") for old in taken))


def _with_parts(operation: Any) -> list[Any]:
    return [operation, *operation._flatten_layers(include_self=False)] if isinstance(operation, keras.Layer) else [operation]


def opened(model: Any, *layers: Any) -> Opened:
    """Return a model's graph with `layers` at its top level.

    Args:
        model: a private copy.
        layers: of it.

    Raises:
        NetworkError: if the model, or a layer that holds one of `layers`, has no graph.
    """
    graph = graph_of(model)
    if graph is None:
        raise no_graph(model)
    steps, outputs = steps_of(graph), graph._outputs_struct
    for layer in layers:
        known: dict[int, Any] = {}
        before, steps = steps, []
        replay_(before, known, layer=layer, steps=steps)
        outputs = mapped(outputs, known)
    _rename_(graph, steps)
    return Opened(model.name, graph._inputs_struct, outputs, steps)


def _rename_(graph: Any, steps: Sequence[Any]) -> None:
    """Give layers that came out of a nested model a name of their own where the outer model has theirs."""
    taken = {operation.name: operation for operation in graph.operations}
    for step in steps:
        operation, count = step.operation, 0
        name = operation.name
        while taken.setdefault(operation.name, operation) is not operation:
            count += 1
            operation.name = f"{name}_{count}"


def mapped(structure: Any, known: Mapping[int, Any]) -> Any:
    """Return a structure of symbolic tensors with those that `known` replaces, by their id, replaced."""
    return keras.tree.map_structure(lambda value: known.get(id(value), value), structure)


def replay_(nodes: Sequence[Any], known: dict[int, Any], *, layer: Any, steps: list[Any]) -> None:
    """Append nodes to `steps`; those that read what `known` replaces are called again, and models that hold `layer` are opened.

    Args:
        nodes: of a graph, each after all that it reads.
        known: what replaces a symbolic tensor, by its id; what is made anew is added.
        layer: of which models that hold it are opened; None for none.
        steps: receives the nodes.

    Raises:
        NetworkError: if `layer` is inside a layer without a graph.
    """
    for node in nodes:
        operation = node.operation
        if operation is not layer and isinstance(operation, keras.Layer) and holds(operation, layer):
            _open_(node, known, layer=layer, steps=steps)
        elif any(id(tensor) in known for tensor in node.input_tensors):
            args, kwargs = node.arguments.convert(lambda value: known.get(id(value), value))
            outputs = operation(*args, **kwargs)
            known.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
            steps.append(operation._inbound_nodes[-1])
        else:
            steps.append(node)


def _open_(node: Any, known: dict[int, Any], *, layer: Any, steps: list[Any]) -> None:
    """Call the layers of a nested model in its place."""
    container = node.operation
    inner = graph_of(container)
    if inner is None:
        raise no_graph(container)
    read = [known.get(id(tensor), tensor) for tensor in node.input_tensors]
    known.update(zip(map(id, inner.inputs), read, strict=True))
    replay_(steps_of(inner), known, layer=layer, steps=steps)
    known.update({id(outer): known.get(id(tensor), tensor) for outer, tensor in zip(node.outputs, inner.outputs, strict=True)})


def last_called(layers: Sequence[Any]) -> Any:
    """Return the last of the layers that is called."""
    return ([layer for layer in layers if layer._inbound_nodes] or list(layers))[-1]


def end_of(graph: Opened, layers: Sequence[Any]) -> Any:
    """Return the output of the last of these layers that is called, and of the steps without weights that belong to it.

    Args:
        graph: that calls them.
        layers: of one block, in the order of execution.
    """
    node = graph.node(last_called(layers))
    at = next(index for index, step in enumerate(graph.steps) if step is node)
    made = {id(tensor) for step in graph.steps[: at + 1] for tensor in step.outputs}
    for step in graph.steps[at + 1 :]:  # an addition written as `x + y` is no layer and belongs to the block before it
        of_another = isinstance(step.operation, keras.Layer) or is_tap(step.operation)  # taps stand behind the blocks that they read
        if of_another or not all(id(tensor) in made for tensor in step.input_tensors):
            break
        made |= {id(tensor) for tensor in step.outputs}
        node = step
    return node.outputs[0]


def named_inputs(graph: Opened, further: str) -> dict[str, Any]:
    """Return the inputs by name; a single one that is not given by name so far is called "inputs" from now on.

    Args:
        graph: opened.
        further: the name of an input that is to come.

    Raises:
        NetworkError: if a name that is needed is taken.
    """
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
    """Return a symbolic tensor whose operation is called by that name: numbered names of two sessions may be the same."""
    tensor._keras_history.operation.name = name
    return tensor
