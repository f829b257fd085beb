"""Put steps into the graph of a Keras model, behind the outputs of some of its layers, or take them out. Nested models stay nested."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..keras_parts.library import keras
from ..keras_parts.structure import CODE_INPUT, graph_of, steps_of
from .opened import Opened, mapped

__all__ = ["Rewiring", "Step"]

Step = Callable[[Any, Any], Any]
"""Symbolic output of a layer, and the symbolic code or None -> what others read in its place."""


@dataclass
class Rewiring:
    """A pass over a graph in which layers keep their names and places.

    Attributes:
        behind: the steps to put behind the outputs of layers, by the layers' id.
        skipped: layers that are left out, by their id, with the number of the input that is read in place of their output; None where
            nothing is left that reads it.
        coded: whether nested models that are made anew take the code as a further input; where layers are skipped, they lose that input.
        models: nested models that were made anew, by the id of the old one; filled in the course of the pass.
    """

    behind: dict[int, Step] = field(default_factory=dict)
    skipped: Mapping[int, int | None] = field(default_factory=dict)
    coded: bool = False
    models: dict[int, Any] = field(default_factory=dict)

    def outputs(self, graph: Any, known: dict[int, Any], *, code: Any = None) -> Any:
        """Return the outputs of a graph, in their structure, after the pass.

        Args:
            graph: of a private copy.
            known: what replaces a symbolic tensor, by its id; more is added.
            code: the symbolic code (N, size); None for none.
        """
        for node in steps_of(graph):
            read = self.skipped.get(id(node.operation), -1)
            if read is None:
                continue
            outputs = [node.input_tensors[read]] if read >= 0 else self._called(node, known, code=code)
            outputs = [known.get(id(tensor), tensor) for tensor in outputs]
            step = self.behind.get(id(node.operation))
            if step is not None:
                outputs = [step(outputs[0], code)]
            known.update({id(old): new for old, new in zip(node.outputs, outputs, strict=True) if new is not old})
        return mapped(graph._outputs_struct, known)

    def renewed(self, layers: Mapping[str, Any]) -> dict[str, Any]:
        """Return layers by name with the nested models that were made anew in their places."""
        return {name: self.models.get(id(layer), layer) for name, layer in layers.items()}

    def _called(self, node: Any, known: Mapping[int, Any], *, code: Any) -> list[Any]:
        """Return what a step gives now; it is called again where what it reads, or what it is, has changed."""
        operation = self._renewed(node.operation, code)
        if operation is node.operation and not any(id(tensor) in known for tensor in node.input_tensors):
            return list(node.outputs)
        args, kwargs = node.arguments.convert(lambda value: known.get(id(value), value))
        if operation is not node.operation:
            read = keras.tree.flatten(args[0] if args else kwargs.pop("inputs"))
            args = (_single([*read, code] if self.coded else read[: len(operation.inputs)]), *args[1:])  # the code comes last
        return list(keras.tree.flatten(operation(*args, **kwargs)))

    def _renewed(self, model: Any, code: Any) -> Any:
        """Return a nested model made anew where the pass changes something in it, else the operation itself."""
        graph = graph_of(model)
        if graph is None or not {id(part) for part in model._flatten_layers()} & {*self.behind, *self.skipped}:
            return model
        if id(model) not in self.models:
            inputs = [tensor for tensor in graph.inputs if not self.skipped or tensor.name != CODE_INPUT]
            inner = keras.Input(code.shape[1:], dtype=code.dtype, name=CODE_INPUT) if self.coded else None
            outputs = self.outputs(graph, {}, code=inner)
            given = _single(inputs if inner is None else [*inputs, inner])
            self.models[id(model)] = Opened(model.name, given, None, []).model(outputs)
        return self.models[id(model)]


def _single(tensors: list[Any]) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors
