"""Edits that make another PyTorch network: new heads, branches, stacked layers, other inputs, taps at several depths, or an earlier end.

Each function takes a private copy and returns the changed body. `editing` has already made the checks that all families share.
"""

import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Identity, Parameter, Sigmoid, Softmax

from ...errors import NetworkError
from ...files.formats import reason_of
from ...words import counted
from ..account import Account
from ..editing.sums import carried_rows
from ..editing.taps import block_end_of, block_ends, read_points, width_hint
from ..edits import Channels, Columns, Cut, Rows, Stack, Taps
from ..family import EditTable
from ..parts.head import Head, HeadLocation
from ..parts.protocols import by_name
from ..parts.structure import Block, below, prefixes
from ..parts.taps import INPUT, Tap, slices_of
from ..samples import sample_of
from ..tracing import as_tensor, capture, flat_tensors, hooked
from .adjusting import INSIDE
from .body import TorchBody
from .conditioned import AdjustedNetwork, CodedNetwork
from .graft import Graft, find_graft, grafts, module_at, set_submodule_, within
from .heads import CONVOLUTIONS, last_axis, like, new_head
from .plain import copied
from .products import ReadHead
from .wrappers import AttachedHead, BranchedNetwork, EndedNetwork, JoinedNetwork, TappedNetwork, call_module

# ── heads ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _with_head(twin: TorchBody, _edit: Rows, *, head: Head, **_: Any) -> TorchBody:
    """Give the head of its task these class weights. Without a head, attach one to the pooled output; add a further task as a branch."""
    if not twin.heads:
        attached = AttachedHead(twin.module, new_head(head))
        return twin.anew(attached, {head.task: (head, HeadLocation(attached.name_of("head"), "linear", True))})
    if head.task in twin.heads:
        return _with_rows(twin, head)
    _refuse_sum(twin, "another task")
    first, module = twin.head, twin.module
    if not isinstance(module, BranchedNetwork):
        module = BranchedNetwork(module, first.layer, task=first.task, chosen=_choice_commutes(twin))
    name = re.sub(r"\W", "_", head.task) or "branch"  # the name of a module
    name = name if name not in module.branches else f"{name}_{len(module.branches)}"
    module.branches[name] = new_head(head)
    own = HeadLocation(f"{module.name_of('branches')}.{name}", "linear")
    return twin.anew(module, {**twin.placed(), head.task: (head, own)})


def _with_rows(twin: TorchBody, head: Head) -> TorchBody:
    """Replace the class weights in the layers of a head."""
    layers, old = twin.layers_of(head.task), twin.heads[head.task]
    whole, beside = head.in_layer(), twin.found[head.task].beside
    rows = twin.parts_of(layers[0], whole.weight, bias=whole.bias)
    rows |= {name: carried_rows(twin.layer_rows(name), old=old.in_layer(), new=whole) for name in beside}
    tied = _tied(twin, rows)
    for name, (weight, bias) in rows.items():
        new = like(module_at(twin.module, name), replace(whole, weight=weight, bias=bias))
        twin.module = set_submodule_(twin.module, name, module=new)
    twin.untrained -= set(layers)
    if old.binary and head.activation != "sigmoid" and not head.binary:  # replace the final sigmoid by the new activation
        seen, modules = twin.traced(), twin.modules()
        result = cast(Tensor, as_tensor(seen.result)).data_ptr()
        ends = [name for name in seen.order if isinstance(modules[name], Sigmoid) and seen.outputs[name].data_ptr() == result]
        if ends:
            set_submodule_(twin.module, ends[-1], module=Softmax(dim=1) if head.activation == "softmax" else Identity())
    if head.task == twin.head.task:  # some libraries store the class count (timm: num_classes; Transformers: config.num_labels)
        owners = [twin.module]  # with the networks inside that have the classes of this head
        while isinstance(owners[-1], Graft) and not isinstance(owners[-1], AttachedHead | ReadHead):
            owners.append(owners[-1].network)
        for owner in owners:
            config = getattr(owner, "config", None)
            for holder, name in ((owner, "num_classes"), (owner, "num_labels"), (config, "num_labels")):
                if isinstance(getattr(holder, name, None), int):
                    setattr(holder, name, len(head.in_layer().weight))
    twin.note_rows_(head)
    twin.account = twin.account.joined(Account(notes=tied))
    if twin.found[head.task].others and len(head.in_layer().weight) != len(old.in_layer().weight):
        try:
            twin.traced()
        except Exception as error:  # a forward may raise anything; other parts of the network read the logits
            raise NetworkError(
                f"The head {layers[0]!r} cannot have {counted(len(twin.head.in_layer().weight), 'output')}: other parts of the network "
                f"read what it gives and fail ({reason_of(error)}). Give a module that ends with {layers[0]!r}, without these parts."
            ) from error
    return twin


def _tied(body: TorchBody, layers: Collection[str]) -> tuple[str, ...]:
    """Return a note if `layers` of a head share parameters with other modules: the head gets class weights of its own."""
    held = {id(own) for name in layers for own in module_at(body.module, name)._parameters.values() if own is not None}
    modules = body.modules().items()
    others = [name for name, module in modules if name not in layers and not held.isdisjoint(map(id, module._parameters.values()))]
    if not others:
        return ()
    both = f"{', '.join(map(repr, layers))} and {', '.join(map(repr, others))}"
    return (f"{both} shared their weights: the head has its own now. A module of yours that ties them cannot hold both; untie it first",)


def _refuse_sum(body: TorchBody, what: str) -> None:
    """Raise if the head is a sum of several layers, so that `what` has no single feature vector to read."""
    layers = body.layers_of(body.head.task)
    if len(layers) > 1:
        raise NetworkError(
            f"The logits of this network are the sum of {len(layers)} layers that read different features, {', '.join(map(repr, layers))}; "
            f"expected a single layer to put {what} beside. Cut the network before them with regraft.cut."
        )


def _choice_commutes(body: TorchBody) -> bool:
    """Tell whether the step after the head (the choice of one token) gives the same result before the head."""
    head = module_at(body.module, body.head.layer)
    with torch.no_grad(), body.at_rest():
        with capture(head) as seen:
            scores = body.scores(body.sample)[body.head.task]
        if seen["input"].ndim <= 2 or not last_axis(head) or not body.found[body.head.task].whole:
            return False
        swapped = body.scores_of_layer(body.head.layer, body.feature_batch(body.sample))
        return bool(torch.allclose(swapped, scores[:, -swapped.shape[1] :], rtol=1e-4, atol=1e-5))


def _with_stack(twin: TorchBody, edit: Stack, *, head: Head, **_: Any) -> TorchBody:
    first = twin.found[twin.head.task]
    tapped = "" if first.whole and len(twin.found) == 1 else first.layer
    stacked = AttachedHead(twin.module, new_head(head), tapped=tapped, activation=edit.between, dropout=edit.dropout or 0.0)
    own = HeadLocation(stacked.name_of("head"), "linear", True)
    return twin.anew(stacked, {head.task: (replace(head, activation="linear"), own)})


def _columns(twin: TorchBody, edit: Columns, **_: Any) -> TorchBody:
    """Give the head zero weights for further numbers per example."""
    _refuse_sum(twin, "columns")
    head, layer = twin.head, module_at(twin.module, twin.head.layer)
    wide = replace(head, weight=np.concatenate([head.weight, np.zeros((len(head.weight), edit.count), np.float32)], 1))
    new = like(layer, wide)
    joined = JoinedNetwork(set_submodule_(twin.module, head.layer, module=new), head.layer, features=head.features)
    own = by_name(twin.sample, "inputs")
    first = next(iter(own.values()))
    sample = {**own, "columns": sample_of((edit.count,), batch=len(first)).to(first.device)}
    return twin.anew(joined, {head.task: (wide, twin.found[head.task])}, sample=sample)


# ── an earlier end, several depths ───────────────────────────────────────────────────────────────────────────────────────


def _ended(twin: TorchBody, edit: Cut, **_: Any) -> TorchBody:
    """End the network at the output of a block and remove the modules that run only later."""
    block, order = next(known for known in twin.blocks if known.name == edit.block), twin.traced().order
    end = EndedNetwork(twin.module, block_end_of(twin, block, order=order, aside=within(twin.module)))
    _take_later_out_(twin, block, order=order)
    end.stops = not _runs_through(end, twin)
    return twin.anew(end, {})


def _take_later_out_(body: TorchBody, block: Block, *, order: Sequence[str]) -> None:
    """Replace the modules that run only after a block with Identity."""
    layers = [layer.name for layer in body.layers]
    later = [name for name in layers[max(map(layers.index, block.layers)) + 1 :] if name in order]
    aside = within(body.module)  # an unused table of codes stays: the conditions remain known
    gone = [name for name in later if not any(below(other, name) for other in block.layers)]
    gone = [name for name in gone if not any(below(name, other) for other in aside)]
    for name in gone:
        if not any(below(name, other) for other in gone if other != name):
            set_submodule_(body.module, name, module=Identity())
    for graft in grafts(body.module):  # edits forget the layers that they refer to
        if isinstance(graft, AdjustedNetwork | CodedNetwork):
            graft.put_parts_({site: part for site, part in graft.by_site().items() if not any(below(site.name, name) for name in gone)})
        elif isinstance(graft, JoinedNetwork) and graft.widened is not None and any(below(graft.widened, name) for name in gone):
            graft.widened = None


def _runs_through(end: EndedNetwork | TappedNetwork, body: TorchBody) -> bool:
    """Tell whether the modules left after the `end` still run, with no tensor more than twice as large as those before it.
    Removed branches that are concatenated again and again would multiply the channels each time."""
    largest, leaves = 0, {name: module for name, module in end.named_modules() if not list(module.children())}

    def watch(name: str, output: Any) -> None:
        nonlocal largest
        size = max((tensor.numel() for tensor in flat_tensors(output)), default=0)
        if not isinstance(leaves[name], Identity):
            largest = max(largest, size)
        elif largest and size > 2 * largest:
            raise ValueError(f"{size} numbers behind the end of the network, at most {largest} before")

    end.stops = False
    try:
        with hooked(leaves, after=watch), torch.no_grad(), body.at_rest():
            call_module(end, body.sample)
    except Exception:  # a forward may raise anything once its modules are removed
        return False
    return True


def _tapped(twin: TorchBody, edit: Taps, **_: Any) -> TorchBody:
    """Return the pooled outputs of several blocks and remove the modules that run only after the last of them."""
    order, layers = twin.traced().order, [layer.name for layer in twin.layers]
    wanted = {tap.block for tap in edit.points} - {INPUT}
    ends = block_ends(twin, [block for block in twin.blocks if block.name in wanted], order=order, aside=within(twin.module))
    chosen = [block for block in twin.blocks if block.name in ends]

    def hint(tap: Tap, _values: Tensor | None) -> tuple[int, bool]:
        own = next((block.layers for block in chosen if block.name == tap.block), layers)
        return width_hint([modules[name] for name in layers if name in own], given=tap.block != INPUT)

    modules = twin.modules()
    with twin.at_rest():
        read = read_points(edit.points, ends, modules=modules, sample=twin.sample, run=partial(call_module, twin.module), hint=hint)
    kept = [block for block in chosen if block.name in {point.block for point in read}]
    if kept:
        _take_later_out_(twin, max(kept, key=lambda block: max(map(layers.index, block.layers))), order=order)
    whole = TappedNetwork(twin.module if kept else Identity(), read)
    whole.slices = slices_of([(point.block, pool, width) for point in read for pool, width in point.widths()])
    whole.stops = not _runs_through(whole, twin)
    if find_graft(whole, CodedNetwork) is None:  # a network tapped only at its input has no layer left that reads codes
        twin.coding = None
    return twin.anew(whole, {})


# ── channels ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _channels(twin: TorchBody, edit: Channels, **_: Any) -> TorchBody:
    """Change the first convolution to read another number of channels.
    For one channel the old weights are summed: the response to a grey image equals that to the same image in every channel. For other
    counts the old channels repeat in turn, scaled to keep the size of the response."""
    if isinstance(twin.sample, dict) or twin.sample.ndim < 3:
        raise NetworkError(f"channels={edit.count} needs a network that takes pictures or signals; this one takes {twin.input_shape}.")
    modules, old, count = twin.modules(), twin.sample.shape[1], edit.count
    called = twin.traced().order  # containers that hold weights (such as a class token) are not layers
    name = next((name for name in called if list(modules[name].parameters(recurse=False)) and not list(modules[name].children())), None)
    first = None if name is None else modules[name]
    if name is None or not isinstance(first, CONVOLUTIONS) or first.groups != 1 or first.in_channels != old:
        received = "no layer with weights" if name is None else f"'{name}', a {type(first).__name__}"
        raise NetworkError(f"channels= changes a convolution over the {counted(old, 'input channel')}; the network begins with {received}.")
    new, weight = copied(first), first.weight.detach()
    changed = weight.sum(1, keepdim=True) if count == 1 else weight[:, torch.arange(count) % old] * (old / count)
    new.weight, new.in_channels = Parameter(changed.contiguous()), count
    set_submodule_(twin.module, name, module=new)
    for outer in (modules[prefix] for prefix in prefixes(name)[1:]):
        for holder in (outer, getattr(outer, "config", None)):
            if getattr(holder, "num_channels", None) == old:
                setattr(holder, "num_channels", count)  # noqa: B010  # a module's own attribute, unknown to its type
    rule = (
        f"summed over its {counted(old, 'channel')}"
        if count == 1
        else f"its {counted(old, 'channel')} repeated in turn, scaled by {old}/{count}"
    )
    twin.account = Account({"reshaped": [f"{name}.weight"]}, notes=(f"'{name}' reads {counted(count, 'channel')}: {rule}",))
    return twin.anew(sample=sample_of((count, *twin.sample.shape[2:])).to(twin.sample.device))


EDITS: EditTable = {Rows: _with_head, Stack: _with_stack, Cut: _ended, Taps: _tapped, Channels: _channels, Columns: _columns, **INSIDE}
