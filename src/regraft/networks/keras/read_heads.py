"""Keras heads without a linear layer of Keras (a layer of the user, cosines, logits times a constant) become a Dense layer in the graph."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from ..account import Account
from ..parts.head import HeadLocation
from ..tracing import in_columns
from .body import KerasBody
from .flat_graph import opened
from .library import keras
from .running import run_steps_
from .sizes import put_rows_
from .structure import graph_of, steps_of

_ENDS: dict[str, Callable[[Tensor], Tensor]] = {"sigmoid": torch.logit, "softmax": torch.log, "linear": lambda logits: logits}
_MOST, _TRIED = 2**24, 16  # Largest number of values of the vectors that find the rows; number of random vectors that prove them


def with_read_head(body: KerasBody) -> KerasBody:
    """Return the body with a Dense layer for the end of its graph, if that is linear in the features or in their direction (cosines).
    The features are the vector that the last layers with a matrix of weights read. The caller gives the body up."""
    graph = graph_of(body.module)
    if body.found or graph is None or len(graph.outputs) != 1 or len(graph.outputs[0].shape) > 2:
        return body
    end, features = _end_of(graph)
    width = features.shape[1] if end and len(features.shape) == 2 else None
    if width is None or width * width > _MOST:
        return body

    def run(values: Tensor) -> Tensor:
        known = {id(features): values}
        with torch.no_grad():
            run_steps_(end, known, training=False)
        return in_columns(known[id(graph.outputs[0])]).double()

    device = body.module.weights[0].value.device
    found = _rows(run, torch.eye(width, device=device))
    if found is None:
        return body
    activation, turned, weight, bias = found
    whole = opened(body.module)
    own = HeadLocation(whole.free_name("head"), activation)
    head = own.head(weight.cpu().float().numpy(), bias.cpu().float().numpy(), task="main")
    layer = keras.layers.Dense(len(bias), activation=activation, name=own.layer)
    output = layer(keras.layers.UnitNormalization(name=whole.free_name("direction"))(features) if turned else features)
    put_rows_(layer, head)
    before = copy.copy(body)
    twin = body.anew(whole.model(output), {"main": (head, own)})
    twin.refresh_heads_()
    twin.unread, twin.end_read = before, True
    names = ", ".join(repr(node.operation.name) for node in end)
    twin.account = Account(notes=(f"{names} at the end of the graph became one linear layer, {own.layer!r}, which gives the same logits",))
    return twin


def _end_of(graph: Any) -> tuple[list[Any], Any]:
    """Return the last steps of which one has a matrix of weights and which read a single tensor, and that tensor; no steps if there are
    none."""
    steps, read = list[Any](), {id(graph.outputs[0]): graph.outputs[0]}
    for node in reversed(steps_of(graph)):
        if not any(id(made) in read for made in node.outputs):
            continue
        read = {key: tensor for key, tensor in read.items() if all(tensor is not made for made in node.outputs)}
        read |= {id(tensor): tensor for tensor in node.input_tensors}
        steps.insert(0, node)
        if len(read) == 1 and any(len(weight.shape) > 1 for step in steps for weight in getattr(step.operation, "weights", ())):
            return steps, next(iter(read.values()))
    return [], None


def _rows(run: Any, units: Tensor) -> tuple[str, bool, Tensor, Tensor] | None:
    """Return the activation, whether only the direction of the features is read, and the weight (C, d) and bias (C,) that give what `run`
    gives; None if there are none. `units`: (d, d), the unit vectors."""
    drawn = torch.from_numpy(np.random.default_rng(0).normal(size=(_TRIED, len(units))).astype("float32")).to(units.device)
    try:
        made = run(torch.cat([torch.zeros_like(units[:1]), units, drawn]))
    except Exception:  # a layer of the user may raise anything
        return None
    for name, inverse in _ENDS.items():
        logits = inverse(made)
        if name == "softmax":
            logits = logits - logits.mean(1, keepdim=True)
        bias, rows, wanted = logits[0], logits[1 : len(units) + 1] - logits[0], logits[len(units) + 1 :]
        for turned in (False, True):
            read = (functional.normalize(drawn) if turned else drawn).double()
            gap, spread = (read @ rows + bias - wanted).abs().max(), (wanted - wanted.mean(0)).abs().max()
            if logits.isfinite().all() and gap <= 1e-4 * spread:
                return name, turned, rows.T, bias
    return None
