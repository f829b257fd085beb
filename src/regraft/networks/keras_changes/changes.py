"""Other networks out of a Keras network: with a head, a branch, a layer on top, other inputs, or cut short.

Each function leaves the network as it is and works on a copy. What holds in every family is checked before, in `editing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from ...errors import NetworkError
from ..account import Account
from ..edits import Biased, Channels, Codes, Columns, Cut, Edit, InputLayer, LowRank, Rows, ScaleShift, Stack, Taps
from ..keras_parts.body import KerasBody
from ..keras_parts.clone import cloned
from ..keras_parts.heads import FoundHead, outputs_of
from ..keras_parts.library import keras
from ..keras_parts.samples import called, sample_for, shapes_of
from ..keras_parts.structure import CODES, graph_of
from ..parts.head import Head
from ..parts.layers import Block
from ..parts.taps import INPUT, Tap
from ..samples import sample_of
from ..tracing import as_tensor, head_reading, trace
from . import adjusting, codes, entrances, folding, graphs, low_ranks, subclassed, tapping
from .sizes import rechannel_, resize_

__all__ = ["EDITS", "with_groups", "with_one_output"]


def _entry(body: KerasBody) -> Any | None:
    """Return a symbolic input like the sample; None where that is named tensors."""
    if isinstance(body.sample, dict):
        return None
    return keras.Input(tuple(body.input_shape), dtype=str(body.sample.dtype).split(".")[-1])


def _new(head: Head) -> FoundHead:
    return FoundHead("", head.activation, False)


def _with_head(body: KerasBody, head: Head) -> KerasBody:
    if not body.found:
        return _with_first_head(body, head)
    return _with_rows(body, head) if head.task in body.found else _with_branch(body, head)


def _with_rows(body: KerasBody, head: Head) -> KerasBody:
    """Return a network whose head of that task has other rows.

    Raises:
        NetworkError: if the copy does not give one score a row.
    """
    twin, found = body.copy(), body.found[head.task]
    first = found is body.first
    others = [twin.modules()[other.layer] for other in body.found.values() if other is not found]
    resize_(twin.module, twin.modules()[found.layer], head=head, activation=found.activation, others=others if first else None)
    twin.found = {**body.found, head.task: replace(found, activation=head.activation)}
    twin.heads = {**body.heads, head.task: replace(head, layer=found.layer)}
    if first and len(head.weight) != len(body.head.weight):
        twin.heads = {task: known for task, known in twin.heads.items() if known.groups is None}
    twin.recount_([found.layer])
    if graph_of(twin.module) is not None and not found.whole:
        return twin  # the symbolic shapes behind the head were computed anew, which is a check
    width = twin.scores_of_run(twin.sample_run)[head.task].shape[-1]
    if width != len(head.in_layer().weight):
        raise NetworkError(
            f"The changed network gives {width} scores for {len(head.in_layer().weight)} rows: a step after the head fixes their number. "
            "Make the model with the new number of classes in code and load its weights with weights=."
        )
    return twin


def _with_first_head(body: KerasBody, head: Head) -> KerasBody:
    module, layers, _ = body.copied()
    with torch.no_grad():
        output = cast(Tensor, as_tensor(called(module, body.sample, training=False)))
    whole, dense = graphs.attached(module, head, sample_output=output, inputs=_entry(body))
    return body.anew(whole, layers, heads=[(head, _new(head), dense)])


def _with_branch(body: KerasBody, head: Head) -> KerasBody:
    module, layers, heads = body.copied()
    whole, dense = graphs.branched(module, layers[body.first.layer], head=head)
    return body.anew(whole, layers, heads=[*heads, (head, _new(head), dense)])


def with_one_output(body: KerasBody) -> KerasBody:
    """Return a network with only the output that the head belongs to, its layers shared.

    Args:
        body: given up by the caller; a model without a graph stays whole.
    """
    first = body.first
    module = graphs.only_output(body.module, first.output)
    if module is body.module:
        return body
    return body.anew(module, body.modules(), heads=[(body.head, replace(first, output=0), body.modules()[first.layer])])


def _with_stack(body: KerasBody, edit: Stack, *, head: Head) -> KerasBody:
    old = body.head
    module, layers, _ = body.copied()
    layer, output = layers[old.layer], body.first.output if body.first.whole else None
    if graph_of(module) is None:
        layer.activation, output = keras.activations.linear, 0
        _check_output(body, module)
    steps = [keras.layers.Dropout(edit.dropout)] if edit.dropout else []
    model = graphs.wrapped(module, _entry(body))
    whole, dense = graphs.stacked(model, layer, head=head, activation=edit.between, output=output, steps=steps)
    return body.anew(whole, layers, heads=[(replace(head, task=old.task), _new(head), dense)])


def _check_output(body: KerasBody, module: Any) -> None:
    """Raise if a copy whose head is linear does not return the raw scores.

    Raises:
        NetworkError: saying what to do.
    """
    with torch.no_grad():
        result = as_tensor(called(module, body.sample, training=False))
        scores = body.scores_of_run(body.sample_run)[body.head.task]
    if result is None or result.shape != scores.shape or not torch.allclose(result, scores, rtol=1e-4, atol=1e-5):
        raise NetworkError(
            f"{type(module).__name__} '{module.name}' has no graph, and its result is not the raw scores of its head; expected a "
            "functional or Sequential model. Put the new layer into the class's own code and load its weights with weights=."
        )


def _ended(body: KerasBody, block: str) -> KerasBody:
    """Return a network that ends with a block; it has a head only where the block ends with one."""
    found = next(one for one in body.blocks if one.name == block)
    if found is body.blocks[-1] and set(body.head_layers) & set(found.layers):
        return body.copy()
    module, layers, heads = body.copied()
    if graph_of(module) is None:
        end = _ends(body, [found]).get(found.name)
        if end is None:
            raise NetworkError(f"The block {block!r} is never called: its weights are read by other code, or not at all. Cut elsewhere.")
        subclassed.ended_at(module, end)
        return _without_codes(body.anew(module, layers, heads=[]), body)
    whole = graphs.ended(module, [layers[name] for name in found.layers])
    last = whole.outputs[0]._keras_history.operation
    return _without_codes(body.anew(whole, layers, heads=[place for place in heads if place[1] and place[2] is last]), body)


def _tapped(body: KerasBody, taps: Sequence[Tap]) -> KerasBody:
    members = {block.name: block.layers for block in body.blocks if block.name != INPUT}
    module, layers, _ = body.copied()
    if graph_of(module) is None:
        whole, wanted = module, {tap.block for tap in taps}
        ends = _ends(body, [block for block in body.blocks if block.name in wanted])
        subclassed.read_at(module, taps, ends=ends, sample=body.sample)
    else:
        own = {tap.block: [layers[name] for name in members[tap.block]] for tap in taps if tap.block in members}
        whole = tapping.tapped(module, taps, layers=own)
    return _without_codes(body.anew(whole, layers, heads=[]), body)


def _without_codes(twin: KerasBody, body: KerasBody) -> KerasBody:
    """Return what a network was cut down to, which knows no conditions but those of codes that are still there."""
    twin.coding = body.coding if CODES in twin.modules() else None
    return twin


def _ends(body: KerasBody, blocks: Sequence[Block]) -> dict[str, str]:
    """Return the last layer of each of some blocks of a model without a graph, by block; those that are never called are left out."""
    order = trace(body.modules(), body.sample_run).order
    found = {block.name: subclassed.end_layer(block, body.layers, called_ones=order) for block in blocks}
    return {block: end for block, end in found.items() if end is not None}


def with_groups(body: KerasBody) -> Any:
    """Return the module of a body, or, where there are derived heads, a copy that has them as outputs."""
    derived = [head for head in body.heads.values() if head.groups is not None]
    if not derived or graph_of(body.module) is None:
        return body.module
    with torch.no_grad():
        result = outputs_of(body.sample_run())[body.first.output]
        scores = body.scores_of_run(body.sample_run)[body.head.task]
    reading = head_reading(scores, result, channels_last=True)
    if reading not in {"linear", "softmax", "log_softmax"}:
        return body.module
    return graphs.grouped(cloned(body.module), derived, output=body.first.output, reading=reading)


def _with_channels(body: KerasBody, count: int) -> KerasBody:
    """Return a network that takes items of another number of channels.

    What stands before the first convolution and has numbers by channel (Normalization, Rescaling) has their mean, or repeats them.
    """
    weighted = [layer.name for layer in body.layers if layer.parameters and not layer.kind.endswith("Normalization")]
    twin = body.copy()
    changed, old = rechannel_(twin.module, count, first=twin.modules()[weighted[0]] if weighted else None)
    shape = shapes_of(twin.module).get("inputs")
    if shape is not None and isinstance(body.sample, Tensor):
        twin.input_shape = tuple(shape)
        shape = [now or before for now, before in zip(shape, body.sample.shape[1:], strict=True)]
    twin.sample = sample_for(twin.module, shape)
    names = [name for name, layer in twin.modules().items() if any(layer is other for other in changed)]
    twin.recount_(names)
    if names:
        rule = f"summed over the {old} old channels" if count == 1 else f"repeated in turn, scaled by {old}/{count}"
        note = f"the network takes {count} channels in place of {old}: the weights of its first convolution were {rule}"
        twin.account = Account({"reshaped": names}, notes=(note,))
    return twin


def _with_columns(body: KerasBody, count: int) -> KerasBody:
    """Return a network whose head also reads numbers beside each item.

    Raises:
        NetworkError: if its head is no Dense layer.
    """
    name = body.first.layer
    if not isinstance(body.modules()[name], keras.layers.Dense):
        raise NetworkError(f"The head '{name}' is a {type(body.modules()[name]).__name__}, which reads maps; columns need a Dense head.")
    module, layers, heads = body.copied()
    whole = graphs.columned(module, layers[name], count=count)
    sample = body.sample if isinstance(body.sample, dict) else {"inputs": body.sample}
    twin = body.anew(whole, layers, heads=heads, sample={**sample, "columns": sample_of((count,))})
    twin.refresh_heads_()
    return twin


EDITS: Mapping[type[Edit], Callable[..., KerasBody]] = {
    Rows: lambda body, _edit, head, _seed: _with_head(body, head),
    Stack: lambda body, edit, head, _seed: _with_stack(body, edit, head=head),
    Cut: lambda body, edit, _head, _seed: _ended(body, edit.block),
    Taps: lambda body, edit, _head, _seed: _tapped(body, edit.points),
    Channels: lambda body, edit, _head, _seed: _with_channels(body, edit.count),
    Columns: lambda body, edit, _head, _seed: _with_columns(body, edit.count),
    Codes: lambda body, edit, _head, seed: codes.coded(body, edit.coding, seed=seed),
    InputLayer: lambda body, _edit, _head, _seed: entrances.with_entrance(body),
    ScaleShift: lambda body, edit, _head, _seed: adjusting.adjusted(body, edit),
    LowRank: lambda body, edit, _head, seed: low_ranks.low_rank(body, edit, seed=seed),
    Biased: lambda body, edit, _head, _seed: folding.biased(body, edit.layers),
}
"""What carries out each kind of edit, from body, edit, head and seed."""
