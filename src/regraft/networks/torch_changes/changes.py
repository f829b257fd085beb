"""Other networks out of a PyTorch network: with a head, a branch, a layer on top, other inputs, or cut short.

Each function leaves the network as it is and works on a copy. What holds in every family is checked before, in `editing`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.nn import Module

from ...errors import NetworkError
from ..account import Account
from ..edits import Biased, Channels, Codes, Columns, Cut, Edit, Folded, InputLayer, LowRank, Rows, ScaleShift, Stack, Taps
from ..parts.head import Head
from ..parts.taps import Tap
from ..samples import sample_of
from ..torch_parts.body import TorchBody
from ..torch_parts.graft import find_graft, module_at, present_name, set_submodule_
from ..torch_parts.heads import FoundHead
from ..torch_parts.rows import last_axis
from ..torch_parts.summed import parted_rows
from ..tracing import capture
from . import adjusting, codes, low_ranks, surgery
from .channels import channel_rule, first_convolution, note_channel_count_, with_other_channels
from .conditioned import CodedNetwork
from .wrappers import BranchedNetwork

__all__ = ["EDITS", "with_present_names"]


def _with_head(body: TorchBody, head: Head) -> TorchBody:
    """Return a copy whose head of that task has these rows; a network without a head gets one, a further task a branch."""
    twin = body.copy()
    if not body.heads:
        attached = surgery.attached(twin.module, head)
        twin.module = attached
        return twin.anew({head.task: FoundHead(attached.name_of("head"), "linear", "result")}, {head.task: head})
    if head.task in body.heads:
        layers = body.layers_of(head.task)
        for layer, own in _parted(body, head).items():
            twin.module = surgery.resized(twin.module, layer, head=own)
        if body.heads[head.task].binary and not head.binary:
            surgery.end_differently_(twin.module, body.sample, activation=head.activation)
        if head.task == body.head.task:
            surgery.note_class_count_(twin.module, len(head.in_layer().weight))
        for layer in layers:
            twin.recount_(layer)
        twin.heads[head.task] = replace(head, layer=layers[0])
        return twin
    _refuse_sum(body, "another task")
    chosen = not isinstance(body.module, BranchedNetwork) and _choice_commutes(body)
    twin.module, layer = surgery.branched(twin.module, body.head, head=head, chosen=chosen)
    return twin.anew({**body.found, head.task: FoundHead(layer, "linear", "layer")}, {**body.heads, head.task: head})


def _parted(body: TorchBody, head: Head) -> dict[str, Head]:
    """Return by layer what each layer of a head gets of its rows."""
    found, whole = body.found[head.task], head.in_layer()
    layers = [module_at(body.module, name) for name in found.layers]
    if len(layers) == 1:
        return {found.layer: head}
    shares = [share for _, share in found.shares]
    parts = parted_rows(np.asarray(whole.weight), np.asarray(whole.bias), layers=layers, shares=shares)
    return {name: replace(whole, weight=weight, bias=bias) for name, (weight, bias) in zip(found.layers, parts, strict=True)}


def _refuse_sum(body: TorchBody, what: str) -> None:
    """Raise where the head is made of several layers that read different features, and `what` is to read the same as one of them."""
    layers = body.layers_of(body.head.task)
    if len(layers) > 1:
        raise NetworkError(
            f"The logits of this network are the sum of {len(layers)} layers that read different features, {', '.join(map(repr, layers))}; "
            f"expected a single layer to put {what} beside. Cut the network before them with regraft.cut."
        )


def _choice_commutes(body: TorchBody) -> bool:
    """Tell whether what follows the head (the choice of one token) may as well come before it."""
    head = module_at(body.module, body.head.layer)
    body.mode_(False)
    with torch.no_grad():
        with capture(head) as seen:
            scores = body.scores(body.sample)[body.head.task]
        if seen["input"].ndim <= 2 or not last_axis(head) or body.found[body.head.task].reading != "result":
            return False
        swapped = body.scores_of_layer(body.head.layer, body.feature_batch(body.sample))
        return bool(torch.allclose(swapped, scores[:, -swapped.shape[1] :], rtol=1e-4, atol=1e-5))


def _with_stack(body: TorchBody, edit: Stack, *, head: Head) -> TorchBody:
    twin = body.copy()
    first = body.found[body.head.task]
    tapped = "" if first.reading == "result" and len(body.found) == 1 else first.layer
    stacked = surgery.stacked(twin.module, tapped, head=head, activation=edit.between, dropout=edit.dropout or 0.0)
    twin.module, own = stacked, replace(head, activation="linear")
    return twin.anew({head.task: FoundHead(stacked.name_of("head"), "linear", "result")}, {head.task: own})


def _ended(body: TorchBody, block: str) -> TorchBody:
    twin, found = body.copy(), next(known for known in body.blocks if known.name == block)
    names = [layer.name for layer in body.layers]
    twin.module = surgery.ended(twin.module, found, layers=names, order=body.order(), sample=body.sample)
    return twin.anew({}, {})


def _tapped(body: TorchBody, taps: Sequence[Tap]) -> TorchBody:
    twin, names = body.copy(), [layer.name for layer in body.layers]
    twin.module = surgery.tapped(twin.module, taps, blocks=body.blocks, layers=names, order=body.order(), sample=body.sample)
    if find_graft(twin.module, CodedNetwork) is None:  # of a network tapped at its input alone nothing is left that reads codes
        twin.coding = None
    return twin.anew({}, {})


def _with_channels(body: TorchBody, count: int) -> TorchBody:
    """Return a copy whose first convolution reads `count` channels.

    Raises:
        NetworkError: if the network does not begin with a convolution over channels.
    """
    if isinstance(body.sample, dict) or body.sample.ndim < 3:
        raise NetworkError(f"channels={count} needs a network that takes pictures or signals; this one takes {body.input_shape}.")
    modules, old = body.modules(), body.sample.shape[1]
    name = first_convolution(modules, body.order(), channels=old)
    twin = body.copy()
    set_submodule_(twin.module, name, module=with_other_channels(modules[name], count))
    note_channel_count_(twin.module, name, old=old, new=count)
    twin.take_sample_(sample_of((count, *body.sample.shape[2:])).to(body.sample.device))
    note = f"'{name}' reads {count} channels: {channel_rule(old, count)}"
    twin.account = Account({"reshaped": [f"{name}.weight"]}, notes=(note,))
    return twin.anew(body.found, body.heads)


def _with_columns(body: TorchBody, count: int) -> TorchBody:
    _refuse_sum(body, "columns")
    head, twin = body.head, body.copy()
    wide = replace(head, weight=np.concatenate([head.weight, np.zeros((len(head.weight), count), np.float32)], 1))
    twin.module = surgery.joined(twin.module, head.layer, head=wide, count=count)
    own = body.sample if isinstance(body.sample, dict) else {"inputs": body.sample}
    columns = sample_of((count,), batch=len(next(iter(own.values()))))
    twin.take_sample_({**own, "columns": columns.to(next(iter(own.values())).device)})
    return twin.anew(body.found, {head.task: wide})


def with_present_names(edit: Edit, module: Module) -> Edit:
    """Return an edit of a folder of format 1 with the names that the `module` before the edit has now."""
    now = partial(present_name, module)
    match edit:
        case Cut():
            return replace(edit, block=now(edit.block))
        case Taps():
            return replace(edit, points=tuple(Tap(now(tap.block), tap.pools) for tap in edit.points))
        case Biased():
            return replace(edit, layers=tuple(map(now, edit.layers)))
        case Codes():
            return replace(edit, coding=replace(edit.coding, points=tuple(map(now, edit.coding.points))))
        case Folded():
            coded = find_graft(module, CodedNetwork)
            inner = module if coded is None else coded.network
            return replace(edit, biased=tuple(present_name(inner, name) for name in edit.biased))
    return edit


EDITS: Mapping[type[Edit], Callable[..., TorchBody]] = {
    Rows: lambda body, _edit, head, _seed: _with_head(body, head),
    Stack: lambda body, edit, head, _seed: _with_stack(body, edit, head=head),
    Cut: lambda body, edit, _head, _seed: _ended(body, edit.block),
    Taps: lambda body, edit, _head, _seed: _tapped(body, edit.points),
    Channels: lambda body, edit, _head, _seed: _with_channels(body, edit.count),
    Columns: lambda body, edit, _head, _seed: _with_columns(body, edit.count),
    Codes: lambda body, edit, _head, seed: codes.coded(body, edit.coding, seed=seed),
    InputLayer: lambda body, _edit, _head, _seed: adjusting.with_entrance(body),
    ScaleShift: lambda body, edit, _head, _seed: adjusting.adjusted(body, edit),
    LowRank: lambda body, edit, _head, seed: low_ranks.low_rank(body, edit, seed=seed),
    Biased: lambda body, edit, _head, _seed: adjusting.biased(body, edit.layers),
}
"""What carries out each kind of edit, from body, edit, head and seed."""
