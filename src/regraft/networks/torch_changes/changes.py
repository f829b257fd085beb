"""Other networks out of a PyTorch network: with a head, a branch, a layer on top, other inputs, or cut short.

Each function leaves the network as it is, works on a copy, and has the copy take note of the edit: opening a saved folder repeats the
edits in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import numpy as np
import torch
from torch.nn import Module

from ...errors import NetworkError, near_names
from ..account import Account
from ..contract import Coding, Head
from ..parts.taps import Tap, checked_points, refuse_read_input
from ..samples import sample_of
from ..torch_parts.graft import find_graft, module_at, present_name, set_submodule_
from ..torch_parts.heads import FoundHead
from ..torch_parts.programs import refuse_program
from ..torch_parts.record import TorchRecord
from ..torch_parts.rows import last_axis
from ..torch_parts.summed import parted_rows
from ..tracing import capture
from . import adjusting, codes, surgery
from .channels import channel_rule, first_convolution, note_channel_count_, with_other_channels
from .conditioned import CodedNetwork
from .wrappers import BranchedNetwork

__all__ = ["edited_by", "ended", "tapped", "with_channels", "with_columns", "with_head", "with_stack"]

N = TypeVar("N", bound=TorchRecord)


def with_head(network: N, head: Head) -> N:
    """Return a copy whose head of that task has these rows; a network without a head gets one, a further task a branch.

    Args:
        network: any but an exported program.
        head: the rows.

    Raises:
        NetworkError: if this is an exported program, or the rows do not fit what the head reads.
    """
    refuse_program(network.origin, "given another head")
    expected = network.heads.get(head.task, network.head).features if network.heads else head.features
    if expected != head.features:
        raise NetworkError(f"The rows have {head.features} features; the network has {expected}. Give rows of that length.")
    branch = bool(network.heads) and head.task != network.head.task
    twin = network.edited("head", {**_size(head), "branch": branch}, parts=list(head.parts))
    if not network.heads:
        attached = surgery.attached(twin.module, head)
        twin.module = attached
        return twin.reopened({head.task: FoundHead(attached.name_of("head"), "linear", "result")}, {head.task: head})
    if head.task in network.heads:
        layers = network.layers_of(head.task)
        for layer, own in _parted(network, head).items():
            twin.module = surgery.resized(twin.module, layer, head=own)
        if network.heads[head.task].binary and not head.binary:
            surgery.end_differently_(twin.module, network.sample, activation=head.activation)
        if head.task == network.head.task:
            surgery.note_class_count_(twin.module, len(head.in_layer().weight))
        for layer in layers:
            twin.recount_(layer)
        twin.heads[head.task] = replace(head, layer=layers[0])
        return twin
    _refuse_sum(network, "another task")
    chosen = not isinstance(network.module, BranchedNetwork) and _choice_commutes(network)
    twin.module, layer = surgery.branched(twin.module, network.head, head=head, chosen=chosen)
    return twin.reopened({**network.found, head.task: FoundHead(layer, "linear", "layer")}, {**network.heads, head.task: head})


def _parted(network: TorchRecord, head: Head) -> dict[str, Head]:
    """Return by layer what each layer of a head gets of its rows."""
    found, whole = network.found[head.task], head.in_layer()
    layers = [module_at(network.module, name) for name in found.layers]
    if len(layers) == 1:
        return {found.layer: head}
    shares = [share for _, share in found.shares]
    parts = parted_rows(np.asarray(whole.weight), np.asarray(whole.bias), layers=layers, shares=shares)
    return {name: replace(whole, weight=weight, bias=bias) for name, (weight, bias) in zip(found.layers, parts, strict=True)}


def _refuse_sum(network: TorchRecord, what: str) -> None:
    """Raise where the head is made of several layers that read different features, and `what` is to read the same as one of them."""
    layers = network.layers_of(network.head.task)
    if len(layers) > 1:
        raise NetworkError(
            f"The logits of this network are the sum of {len(layers)} layers that read different features, {', '.join(map(repr, layers))}; "
            f"expected a single layer to put {what} beside. Cut the network before them with regraft.cut."
        )


def _choice_commutes(network: TorchRecord) -> bool:
    """Tell whether what follows the head (the choice of one token) may as well come before it."""
    head = module_at(network.module, network.head.layer)
    network.mode_(False)
    with torch.no_grad():
        with capture(head) as seen:
            scores = network.scores(network.sample)[network.head.task]
        if seen["input"].ndim <= 2 or not last_axis(head) or network.found[network.head.task].reading != "result":
            return False
        swapped = network.scores_of_layer(network.head.layer, network.feature_batch(network.sample))
        return bool(torch.allclose(swapped, scores[:, -swapped.shape[1] :], rtol=1e-4, atol=1e-5))


def with_stack(network: N, head: Head, *, activation: str, dropout: float = 0.0) -> N:
    """Return a copy with a new head on top of the first head's raw scores.

    Args:
        network: has a head.
        head: the rows.
        activation: what the old scores go through.
        dropout: share of the activated scores that training drops.
    """
    refuse_program(network.origin, "given another head")
    twin = network.edited("stack", {**_size(head), "activation": activation, **({"dropout": dropout} if dropout else {})})
    first = network.found[network.head.task]
    tapped = "" if first.reading == "result" and len(network.found) == 1 else first.layer
    stacked = surgery.stacked(twin.module, tapped, head=head, activation=activation, dropout=dropout)
    twin.module, own = stacked, replace(head, activation="linear")
    return twin.reopened({head.task: FoundHead(stacked.name_of("head"), "linear", "result")}, {head.task: own})


def ended(network: N, block: str) -> N:
    """Return a copy that ends at the output of a block.

    Args:
        network: any but an exported program.
        block: its name.

    Raises:
        NetworkError: if there is no such block.
    """
    refuse_program(network.origin, "cut")
    found = next((known for known in network.blocks if known.name == block), None)
    if found is None:
        raise NetworkError(f"The network has no block {block!r}{near_names(block, [known.name for known in network.blocks])}")
    twin = network.edited("cut", {"block": block})
    names = [layer.name for layer in network.layers]
    twin.module = surgery.ended(twin.module, found, layers=names, order=network.order(), sample=network.sample)
    return twin.reopened({}, {})


def tapped(network: N, points: Sequence[Tap]) -> N:
    """Return a copy without a head whose output are the pooled outputs of several blocks side by side, (N, D).

    Args:
        network: any but an exported program.
        points: the blocks and their pools.
    """
    refuse_program(network.origin, "tapped")
    taps, names = checked_points(points, [block.name for block in network.blocks]), [layer.name for layer in network.layers]
    twin = network.edited("taps", {"points": [[tap.block, list(tap.pools)] for tap in taps]})
    twin.module = surgery.tapped(twin.module, taps, blocks=network.blocks, layers=names, order=network.order(), sample=network.sample)
    twin.statistics = twin.unknown = None
    if find_graft(twin.module, CodedNetwork) is None:  # of a network tapped at its input alone nothing is left that reads codes
        twin.coding = None
    return twin.reopened({}, {})


def with_channels(network: N, count: int) -> N:
    """Return a copy whose first convolution reads `count` channels.

    Raises:
        NetworkError: if the network does not begin with a convolution over channels.
    """
    refuse_program(network.origin, "given other channels")
    if isinstance(network.sample, dict) or network.sample.ndim < 3:
        raise NetworkError(f"channels={count} needs a network that takes pictures or signals; this one takes {network.input_shape}.")
    modules, old = network.modules(), network.sample.shape[1]
    refuse_read_input(network.tap_slices, f"channels={count}")
    name = first_convolution(modules, network.order(), channels=old)
    twin = network.edited("channels", {"count": count})
    set_submodule_(twin.module, name, module=with_other_channels(modules[name], count))
    note_channel_count_(twin.module, name, old=old, new=count)
    twin.take_sample_(sample_of((count, *network.sample.shape[2:])).to(network.sample.device))
    note = f"'{name}' reads {count} channels: {channel_rule(old, count)}"
    twin.account = network.account.joined(Account({"reshaped": [f"{name}.weight"]}, notes=(note,)))
    return twin.reopened(network.found, network.heads)


def with_columns(network: N, count: int) -> N:
    """Return a copy whose head also reads `count` numbers beside each item.

    Raises:
        NetworkError: if the network has no head, or several.
    """
    refuse_program(network.origin, "given further inputs")
    if len(network.heads) != 1:
        raise NetworkError(f"Further inputs go to one head; this network has {len(network.heads)}: {', '.join(network.heads) or 'none'}.")
    _refuse_sum(network, "columns")
    head, twin = network.head, network.edited("columns", {"count": count})
    wide = replace(head, weight=np.concatenate([head.weight, np.zeros((len(head.weight), count), np.float32)], 1))
    twin.module = surgery.joined(twin.module, head.layer, head=wide, count=count)
    own = network.sample if isinstance(network.sample, dict) else {"inputs": network.sample}
    columns = sample_of((count,), batch=len(next(iter(own.values()))))
    twin.take_sample_({**own, "columns": columns.to(next(iter(own.values())).device)})
    return twin.reopened(network.found, {head.task: wide})


def edited_by(network: N, edits: Sequence[Mapping[str, Any]], *, former: bool = False) -> N:
    """Repeat edits that another network with this module's origin has noted; new rows are zero.

    Args:
        edits: plain data, in order.
        former: they name layers as folders of format 1 do.

    Returns:
        The network.
    """
    for edit in edits:
        made: N = _EDITS[edit["edit"]](network, _with_present_names(edit, network.module) if former else edit)
        network = made
    return network


def _with_present_names(edit: Mapping[str, Any], module: Module) -> dict[str, Any]:
    """Return an edit of a folder of format 1 with the names that the `module` before the edit has now."""
    found, now = dict(edit), partial(present_name, module)
    if edit["edit"] == "cut":
        found["block"] = now(edit["block"])
    elif edit["edit"] == "taps":
        found["points"] = [[now(block), pools] for block, pools in edit["points"]]
    elif edit["edit"] == "biased":
        found["layers"] = [now(name) for name in edit["layers"]]
    elif edit["edit"] == "codes":
        found["coding"] = {**edit["coding"], "points": [now(name) for name in edit["coding"].get("points", ())]}
    coded = find_graft(module, CodedNetwork)
    if edit["edit"] == "folded" and coded is not None:
        found["biased"] = [present_name(coded.network, name) for name in edit["biased"]]
    return found


def _size(head: Head) -> dict[str, Any]:
    """Return what making a head of the same size again needs, as plain data."""
    return {"task": head.task, "rows": len(head.in_layer().weight), "features": head.features, "bias": bool(head.bias.any())}


def _empty_head(edit: Mapping[str, Any], network: TorchRecord) -> Head:
    """Return a head of the noted size; a bias other than zero makes sure that there is one. The first head may have been renamed since."""
    weight = np.zeros((edit["rows"], edit["features"]), np.float32)
    bias = np.full(edit["rows"], edit.get("bias", True), np.float32)
    task = edit["task"] if edit.get("branch") or not network.heads else network.head.task
    return Head(task, None, "classification", "linear", "", weight, bias, tuple(edit.get("parts", ())))


_EDITS: dict[str, Callable[[Any, Mapping[str, Any]], Any]] = {
    "head": lambda network, edit: with_head(network, _empty_head(edit, network)),
    "stack": lambda network, edit: with_stack(
        network, _empty_head(edit, network), activation=edit["activation"], dropout=edit.get("dropout") or 0.0
    ),
    "cut": lambda network, edit: ended(network, edit["block"]),
    "channels": lambda network, edit: with_channels(network, edit["count"]),
    "columns": lambda network, edit: with_columns(network, edit["count"]),
    "codes": lambda network, edit: codes.coded(network, Coding.from_dict(edit["coding"]), seed=0),
    "folded": lambda network, edit: codes.refolded(network, edit["biased"]),
    "biased": lambda network, edit: adjusting.biased(network, edit["layers"]),
    "entrance": lambda network, _edit: adjusting.with_entrance(network),
    "taps": lambda network, edit: tapped(network, [Tap(block, tuple(pools)) for block, pools in edit["points"]]),
}
