"""Cut the graph of a Keras model at the border of its frozen layers and run the two parts apart."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..family import Body
from ..parts.protocols import Inputs, Scores
from ..parts.structure import below
from .library import keras
from .structure import graph_of, steps_of

__all__ = ["Split", "split_graph"]

Split = tuple[Callable[[Inputs], list[Tensor]], Callable[[Sequence[Tensor]], Scores]]


def split_graph(body: Body, frozen: Collection[str], *, scores: Callable[[Callable[[], Any]], Scores]) -> Split | None:
    """Return the frozen and the live part of a body as functions, None where its graph cannot be cut so.

    Args:
        body: of a Keras model.
        frozen: names of layers.
        scores: makes scores of a run.
    """
    graph = graph_of(body.module)
    if graph is None or len(graph.inputs) != 1:
        return None
    frozen_steps, live_steps = _parted(body, graph, frozen=set(frozen))
    made = {id(tensor) for node in frozen_steps for tensor in node.outputs}
    if any(id(tensor) not in made and id(tensor) not in _ids(graph.inputs) for node in frozen_steps for tensor in node.input_tensors):
        return None
    border = _border(graph, live_steps, made=made | _ids(graph.inputs))
    if not frozen_steps or not live_steps or any(getattr(tensor, "_keras_mask", None) is not None for tensor in border):
        return None

    def frozen_part(inputs: Inputs) -> list[Tensor]:
        with torch.no_grad():
            known = {id(graph.inputs[0]): inputs}
            _run_(frozen_steps, known, training=False)
        return [known[id(tensor)] for tensor in border]  # type: ignore[misc]

    def live_part(tensors: Sequence[Tensor]) -> Scores:
        def run() -> Any:
            known: dict[int, Any] = {id(symbolic): tensor for symbolic, tensor in zip(border, tensors, strict=True)}
            _run_(live_steps, known, training=body.training)
            return [known[id(tensor)] for tensor in graph.outputs]

        return scores(run)

    return _Part(body, frozen, 0, frozen_part), _Part(body, frozen, 1, live_part)


@dataclass(frozen=True, eq=False)
class _Part:
    """One of the two functions; in another process the graph is cut once more, for its tensors are known by where they are."""

    body: Body
    frozen: Collection[str]
    which: int
    run: Callable[..., Any]

    def __call__(self, values: Any) -> Any:
        return self.run(values)

    def __reduce__(self) -> Any:
        return _part, (self.which, (self.body, frozenset(self.frozen)))


def _part(which: int, cut: tuple[Body, Collection[str]]) -> Any:
    split = cut[0].split(cut[1])
    return None if split is None else split[which]


def _ids(tensors: Sequence[Any]) -> set[int]:
    return {id(tensor) for tensor in tensors}


def _parted(body: Body, graph: Any, *, frozen: set[str]) -> tuple[list[Any], list[Any]]:
    """Divide the steps: a layer's step is frozen with all its layers; a step without weights if all that it reads is."""
    names = {id(module): name for name, module in body.modules().items()}
    known = [layer.name for layer in body.layers]
    made = _ids(graph.inputs)
    frozen_steps: list[Any] = []
    live_steps: list[Any] = []
    for node in steps_of(graph):
        name = names.get(id(node.operation))
        inside = [layer for layer in known if name is not None and below(layer, name)]
        still = frozen.issuperset(inside) if inside else all(id(tensor) in made for tensor in node.input_tensors)
        (frozen_steps if still else live_steps).append(node)
        made |= _ids(node.outputs) if still else set()
    return frozen_steps, live_steps


def _border(graph: Any, live_steps: Sequence[Any], *, made: set[int]) -> list[Any]:
    """Return the tensors that live steps read, or the model returns, and the frozen part makes."""
    read = [tensor for node in live_steps for tensor in node.input_tensors] + list(graph.outputs)
    return list({id(tensor): tensor for tensor in read if id(tensor) in made}.values())


def _run_(steps: Sequence[Any], known: dict[int, Any], *, training: bool) -> None:
    """Run nodes of a graph in order and put what they make into `known`, by the symbolic tensor's id."""
    for node in steps:
        args, kwargs = node.arguments.fill_in(known)
        if "training" in getattr(node.operation, "_call_context_args", ()):
            kwargs["training"] = training
        outputs = node.operation(*args, **kwargs)
        known.update(zip(map(id, node.outputs), keras.tree.flatten(outputs), strict=True))
