"""Layers of a private copy of a Keras model as layers of PyTorch, for inference: in one axis order, with BatchNorm folded."""

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module

from ..keras.body import KerasBody
from ..keras.library import keras
from ..keras.running import lead_, parted, read_after, run_steps_
from ..keras.structure import graph_of, steps_of
from ..parts.structure import below
from ..tracing import trace
from .from_keras import ROWS
from .graph import LayerGraph
from .keras_reader import KerasReader


def lead_by_layers_(body: KerasBody, layers: Collection[str], *, watched: Collection[str]) -> list[Module]:
    """Let PyTorch compute those of these `layers` that have a counterpart: in the graph and in each nested model, the first ones or, if
    they are more, those after the first layer without a counterpart.
    The body is a private copy, which only predicts afterwards. `watched`: layers and models that stay, because their own calls are read.
    Return the new modules; none if no layer has a counterpart."""
    models = {"": body.module, **{name: part for name, part in body.by_name.items() if graph_of(part) is not None}}
    with torch.no_grad():
        seen = {"": body.sample, **(trace(body.by_name, body.sample_run).inputs if len(models) > 1 else {})}
    made, taken = list[Module](), set[int]()
    for name, model in models.items():
        graph = graph_of(model)
        if graph is None or id(model) in taken or name not in seen:
            continue
        module, done = _leading(body, graph, given=seen[name], layers=layers, watched=watched)
        if module is not None:
            made.append(module)
            taken |= {id(part) for node in done if isinstance(node.operation, keras.Layer) for part in node.operation._flatten_layers()}
    return made


def _leading(
    body: KerasBody, graph: Any, *, given: Any, layers: Collection[str], watched: Collection[str]
) -> tuple[Module | None, list[Any]]:
    """Return the module that computes some steps of a graph from now on, and these steps: from the first one on, or from the one after the
    first without a counterpart, whichever are more. `given`: what the graph takes."""
    names = [tensor.name for tensor in graph.inputs]
    tensors = [given[name] for name in names] if isinstance(given, dict) and given.keys() >= set(names) else keras.tree.flatten(given)
    known = dict(zip(map(id, graph.inputs), tensors, strict=True))
    called = {id(part): name for name, part in body.by_name.items()}
    held = {number for number, name in called.items() if any(below(one, name) for one in watched)}
    steps, frozen = steps_of(graph), [node for node in parted(body, graph, frozen=layers)[0] if id(node.operation) not in held]
    lead, done = _stretch(graph, known, before=[], frozen=frozen)
    stop = next((node for node in frozen if node not in done), None)
    if stop is not None:
        before = steps[: steps.index(stop) + 1]
        later = _stretch(graph, known, before=before, frozen=[node for node in frozen if node not in before])
        lead, done = max((lead, done), later, key=lambda found: (found[0] is not None, len(found[1])))
    return (None, []) if lead is None else (lead(), done)


def _stretch(
    graph: Any, known: Mapping[int, Any], *, before: Sequence[Any], frozen: Sequence[Any]
) -> tuple[Callable[[], Module] | None, list[Any]]:
    """Return the `frozen` steps with a counterpart that follow the steps `before`, and a function that lets PyTorch compute them.
    `known`: the values of the sample by the ids of symbolic tensors."""
    values = dict(known)
    run_steps_(before, values, training=False)
    read = read_after(graph, frozen, made=[*graph.inputs, *(tensor for node in before for tensor in node.outputs)])
    if not frozen or not read:
        return None, []
    names = [f"read{at}" for at in range(len(read))] if len(read) > 1 else []
    tensors = [values[id(tensor)] for tensor in read]
    reader = KerasReader(dict(zip(names, tensors, strict=True)) if names else tensors[0], False, ROWS)
    done, made = reader.read_first(read, frozen)
    left = [node for node in steps_of(graph) if node not in done]
    border = read_after(graph, left, made=[tensor for node in done for tensor in node.outputs])
    if not border:
        return None, done

    def lead() -> Module:
        outputs = [reader.as_keras(made[id(tensor)]).name for tensor in border]
        needed = set(outputs)
        for step in reversed(reader.steps):
            needed |= set(step["of"]) if step["name"] in needed else set()
        steps = [step for step in reader.steps if step["name"] in needed]
        module = LayerGraph(steps, outputs, inputs=names, modules=reader.modules).eval()
        module.fold_()
        lead_(graph, partial(_run, module, names), before=before, read=read, steps=done, made=border)
        return module

    return lead, done


def _run(module: LayerGraph, names: Sequence[str], /, *tensors: Tensor) -> tuple[Tensor, ...]:
    made = module(**dict(zip(names, tensors, strict=True))) if names else module(*tensors)
    return cast(tuple[Tensor, ...], made if isinstance(made, tuple) else (made,))
