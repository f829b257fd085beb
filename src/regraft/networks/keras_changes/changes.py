"""Other networks out of a Keras network: with a head, a branch, a layer on top, other inputs, or cut short.

Each function leaves the network as it is and works on a copy. What holds in every family is checked before, in `contract.Network`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor

from ...errors import NetworkError
from ..account import Account
from ..contract import Block, Head
from ..edits import Biased, Channels, Codes, Columns, Cut, Edit, InputLayer, LowRank, Rows, ScaleShift, Stack, Taps
from ..keras_parts.clone import cloned
from ..keras_parts.heads import FoundHead, outputs_of
from ..keras_parts.library import keras
from ..keras_parts.record import KerasRecord
from ..keras_parts.samples import called, sample_for, shapes_of
from ..keras_parts.structure import CODES, graph_of
from ..parts.taps import INPUT, Tap
from ..samples import sample_of
from ..tracing import as_tensor, head_reading, trace
from . import adjusting, codes, entrances, folding, graphs, low_ranks, subclassed, tapping
from .sizes import rechannel_, resize_

__all__ = ["changed_by", "with_groups", "with_one_output"]

N = TypeVar("N", bound=KerasRecord)


def _entry(network: KerasRecord) -> Any | None:
    """Return a symbolic input like the sample; None where that is named tensors."""
    if isinstance(network.sample, dict):
        return None
    return keras.Input(tuple(network.input_shape), dtype=str(network.sample.dtype).split(".")[-1])


def _new(head: Head) -> FoundHead:
    return FoundHead("", head.activation, False)


def changed_by(network: N, edit: Edit, *, head: Head | None, seed: int) -> N:
    """Return a copy of a `network` with one more `edit`, which may be one of a `head`; `seed` is of what is drawn.

    Raises:
        NetworkError: if the network cannot be changed so.
    """
    # pylint: disable=duplicate-code  # one line for each kind of edit, in each family
    match edit:
        case Rows():
            return _with_head(network, cast(Head, head))
        case Stack():
            return _with_stack(network, edit, head=cast(Head, head))
        case Cut():
            return _ended(network, edit.block)
        case Taps():
            return _tapped(network, edit.points)
        case Channels():
            return _with_channels(network, edit.count)
        case Columns():
            return _with_columns(network, edit.count)
        case Codes():
            return codes.coded(network, edit.coding, seed=seed)
        case InputLayer():
            return entrances.with_entrance(network)
        case ScaleShift():
            return adjusting.adjusted(network, edit)
        case LowRank():
            return low_ranks.low_rank(network, edit, seed=seed)
        case Biased():
            return folding.biased(network, edit.layers)
    raise NetworkError(f"A Keras network cannot be changed by the edit {edit!r}.")


def _with_head(network: N, head: Head) -> N:
    if not network.found:
        return _with_first_head(network, head)
    return _with_rows(network, head) if head.task in network.found else _with_branch(network, head)


def _with_rows(network: N, head: Head) -> N:
    """Return a network whose head of that task has other rows.

    Raises:
        NetworkError: if the copy does not give one score a row.
    """
    twin, found = network.copy(), network.found[head.task]
    first = found is network.first
    others = [twin.modules()[other.layer] for other in network.found.values() if other is not found]
    resize_(twin.module, twin.modules()[found.layer], head=head, activation=found.activation, others=others if first else None)
    twin.found = {**network.found, head.task: replace(found, activation=head.activation)}
    twin.heads = {**network.heads, head.task: replace(head, layer=found.layer)}
    if first and len(head.weight) != len(network.head.weight):
        twin.heads = {task: known for task, known in twin.heads.items() if known.groups is None}
    twin.recount_([found.layer])
    if graph_of(twin.module) is not None and not found.whole:
        return twin  # the symbolic shapes behind the head were computed anew, which is a check
    width = twin.own_scores(twin.sample_run)[head.task].shape[-1]
    if width != len(head.in_layer().weight):
        raise NetworkError(
            f"The changed network gives {width} scores for {len(head.in_layer().weight)} rows: a step after the head fixes their number. "
            "Make the model with the new number of classes in code and load its weights with weights=."
        )
    return twin


def _with_first_head(network: N, head: Head) -> N:
    module, layers, _ = network.copied()
    with torch.no_grad():
        output = cast(Tensor, as_tensor(called(module, network.sample, training=False)))
    whole, dense = graphs.attached(module, head, sample_output=output, inputs=_entry(network))
    return network.rebuilt(whole, layers, heads=[(head, _new(head), dense)])


def _with_branch(network: N, head: Head) -> N:
    module, layers, heads = network.copied()
    whole, dense = graphs.branched(module, layers[network.first.layer], head=head)
    return network.rebuilt(whole, layers, heads=[*heads, (head, _new(head), dense)])


def with_one_output(network: N) -> N:
    """Return a network with only the output that the head belongs to, its layers shared.

    Args:
        network: given up by the caller; a model without a graph stays whole.
    """
    first = network.first
    module = graphs.only_output(network.module, first.output)
    if module is network.module:
        return network
    return network.rebuilt(module, network.modules(), heads=[(network.head, replace(first, output=0), network.modules()[first.layer])])


def _with_stack(network: N, edit: Stack, *, head: Head) -> N:
    old = network.head
    module, layers, _ = network.copied()
    layer, output = layers[old.layer], network.first.output if network.first.whole else None
    if graph_of(module) is None:
        layer.activation, output = keras.activations.linear, 0
        _check_output(network, module)
    steps = [keras.layers.Dropout(edit.dropout)] if edit.dropout else []
    model = graphs.wrapped(module, _entry(network))
    whole, dense = graphs.stacked(model, layer, head=head, activation=edit.between, output=output, steps=steps)
    return network.rebuilt(whole, layers, heads=[(replace(head, task=old.task), _new(head), dense)])


def _check_output(network: KerasRecord, module: Any) -> None:
    """Raise if a copy whose head is linear does not return the raw scores.

    Raises:
        NetworkError: saying what to do.
    """
    with torch.no_grad():
        result = as_tensor(called(module, network.sample, training=False))
        scores = network.own_scores(network.sample_run)[network.head.task]
    if result is None or result.shape != scores.shape or not torch.allclose(result, scores, rtol=1e-4, atol=1e-5):
        raise NetworkError(
            f"{type(module).__name__} '{module.name}' has no graph, and its result is not the raw scores of its head; expected a "
            "functional or Sequential model. Put the new layer into the class's own code and load its weights with weights=."
        )


def _ended(network: N, block: str) -> N:
    """Return a network that ends with a block; it has a head only where the block ends with one."""
    found = next(one for one in network.blocks if one.name == block)
    if found is network.blocks[-1] and set(network.head_layers) & set(found.layers):
        return network.copy()
    module, layers, heads = network.copied()
    if graph_of(module) is None:
        end = _ends(network, [found]).get(found.name)
        if end is None:
            raise NetworkError(f"The block {block!r} is never called: its weights are read by other code, or not at all. Cut elsewhere.")
        subclassed.ended_at(module, end)
        return _without_codes(network.rebuilt(module, layers, heads=[]), network)
    whole = graphs.ended(module, [layers[name] for name in found.layers])
    last = whole.outputs[0]._keras_history.operation
    return _without_codes(network.rebuilt(whole, layers, heads=[place for place in heads if place[1] and place[2] is last]), network)


def _tapped(network: N, taps: Sequence[Tap]) -> N:
    members = {block.name: block.layers for block in network.blocks if block.name != INPUT}
    module, layers, _ = network.copied()
    if graph_of(module) is None:
        whole, wanted = module, {tap.block for tap in taps}
        ends = _ends(network, [block for block in network.blocks if block.name in wanted])
        subclassed.read_at(module, taps, ends=ends, sample=network.sample)
    else:
        own = {tap.block: [layers[name] for name in members[tap.block]] for tap in taps if tap.block in members}
        whole = tapping.tapped(module, taps, layers=own)
    return _without_codes(network.rebuilt(whole, layers, heads=[]), network)


def _without_codes(twin: N, network: N) -> N:
    """Return what a network was cut down to, which knows no conditions but those of codes that are still there."""
    twin.coding = network.coding if CODES in twin.modules() else None
    return twin


def _ends(network: KerasRecord, blocks: Sequence[Block]) -> dict[str, str]:
    """Return the last layer of each of some blocks of a model without a graph, by block; those that are never called are left out."""
    order = trace(network.modules(), network.sample_run).order
    found = {block.name: subclassed.end_layer(block, network.layers, called_ones=order) for block in blocks}
    return {block: end for block, end in found.items() if end is not None}


def with_groups(network: KerasRecord) -> Any:
    """Return the module of a network, or, where there are derived heads, a copy that has them as outputs."""
    derived = [head for head in network.heads.values() if head.groups is not None]
    if not derived or graph_of(network.module) is None:
        return network.module
    with torch.no_grad():
        result = outputs_of(network.sample_run())[network.first.output]
        scores = network.own_scores(network.sample_run)[network.head.task]
    reading = head_reading(scores, result, channels_last=True)
    if reading not in {"linear", "softmax", "log_softmax"}:
        return network.module
    return graphs.grouped(cloned(network.module), derived, output=network.first.output, reading=reading)


def _with_channels(network: N, count: int) -> N:
    """Return a network that takes items of another number of channels.

    What stands before the first convolution and has numbers by channel (Normalization, Rescaling) has their mean, or repeats them.
    """
    weighted = [layer.name for layer in network.layers if layer.parameters and not layer.kind.endswith("Normalization")]
    twin = network.copy()
    changed, old = rechannel_(twin.module, count, first=twin.modules()[weighted[0]] if weighted else None)
    twin.origin |= shapes_of(twin.module)
    shape = twin.origin.get("inputs")
    if shape is not None and isinstance(network.sample, Tensor):
        twin.input_shape = tuple(shape)
        shape = [now or before for now, before in zip(shape, network.sample.shape[1:], strict=True)]
    twin.sample = sample_for(twin.module, shape)
    names = [name for name, layer in twin.modules().items() if any(layer is other for other in changed)]
    twin.recount_(names)
    if names:
        rule = f"summed over the {old} old channels" if count == 1 else f"repeated in turn, scaled by {old}/{count}"
        note = f"the network takes {count} channels in place of {old}: the weights of its first convolution were {rule}"
        twin.account = network.account.joined(Account({"reshaped": names}, notes=(note,)))
    return twin


def _with_columns(network: N, count: int) -> N:
    """Return a network whose head also reads numbers beside each item.

    Raises:
        NetworkError: if its head is no Dense layer.
    """
    name = network.first.layer
    if not isinstance(network.modules()[name], keras.layers.Dense):
        raise NetworkError(f"The head '{name}' is a {type(network.modules()[name]).__name__}, which reads maps; columns need a Dense head.")
    module, layers, heads = network.copied()
    whole = graphs.columned(module, layers[name], count=count)
    sample = network.sample if isinstance(network.sample, dict) else {"inputs": network.sample}
    twin = network.rebuilt(whole, layers, heads=heads, sample={**sample, "columns": sample_of((count,))})
    twin.refresh_heads_()
    return twin
