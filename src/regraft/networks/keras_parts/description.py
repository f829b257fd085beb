"""Text that changes whenever the computation of a Keras model changes, its weights left aside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from .structure import graph_of, steps_of

__all__ = ["described", "own_code", "wiring"]


def described(layer: Any) -> str:
    """Return a layer's class and config; its Python attributes of plain types where it has no config."""
    kind = f"{type(layer).__module__}.{type(layer).__qualname__}"
    try:
        config = layer.get_config()
    except NotImplementedError:
        config = {key: value for key, value in sorted(vars(layer).items()) if isinstance(value, (bool, int, float, str))}
    unnamed = {key: value for key, value in config.items() if key not in {"trainable", "layers"}}
    return f"{kind} {json.dumps(unnamed, sort_keys=True, default=repr)}"


def own_code(model: Any, modules: Mapping[str, Any]) -> list[str]:
    """Return the byte code of `call` of every class that is not Keras' own.

    Args:
        model: the model.
        modules: name -> layer.
    """
    kinds = {type(part) for part in (model, *modules.values()) if type(part).__module__.split(".")[0] != "keras"}
    return sorted(f"{kind.__module__}.{kind.__qualname__} {_code(kind.call)}" for kind in kinds)


def _code(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return f"{code.co_code.hex()} {code.co_consts!r} {code.co_names!r}" if code is not None else ""


def wiring(model: Any, modules: Mapping[str, Any]) -> list[str]:
    """Return one line for each step of the functional graphs: what it reads and with which arguments it is called.

    Args:
        model: the model.
        modules: name -> layer, for the nested graphs and the names.
    """
    names = {id(module): name for name, module in modules.items()}
    lines = []
    for name, part in [("", model), *modules.items()]:
        graph = graph_of(part)
        if graph is None:
            continue
        numbers = {id(tensor): f"input {at}" for at, tensor in enumerate(graph.inputs)}
        for at, node in enumerate(steps_of(graph)):
            reads = [numbers.get(id(tensor), "?") for tensor in node.input_tensors]
            plain = {key: value for key, value in node.arguments.kwargs.items() if isinstance(value, (bool, int, float, str, tuple))}
            lines.append(f"{name}#{at} {names.get(id(node.operation), type(node.operation).__name__)} {reads} {plain}")
            numbers.update({id(tensor): f"{at}.{index}" for index, tensor in enumerate(node.outputs)})
    return lines
