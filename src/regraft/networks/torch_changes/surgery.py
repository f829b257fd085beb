"""Operations on a private copy of a module: each returns the changed module, or ends in `_` and changes it in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Identity, Linear, Module, Sigmoid, Softmax

from ...errors import NetworkError
from ...randomness import seeded
from ..parts.head import Head
from ..parts.layers import Block
from ..parts.protocols import Inputs
from ..parts.structure import below, prefixes
from ..parts.taps import INPUT, Tap, nothing_left, slices_of
from ..samples import three_items
from ..torch_parts.graft import module_at, set_submodule_, within
from ..torch_parts.holding import hand_on_
from ..torch_parts.rows import like, put_
from ..torch_parts.taps import Point, read_input, read_point, run_reading, width_hint
from ..tracing import as_tensor, flat_tensors, trace
from .wrappers import (
    AttachedHead,
    BranchedNetwork,
    EndedNetwork,
    JoinedNetwork,
    StackedHead,
    TappedNetwork,
    branch_name,
    call_module,
    forget_,
    with_class_counts,
)

__all__ = [
    "attached",
    "branched",
    "end_differently_",
    "ended",
    "joined",
    "note_class_count_",
    "resized",
    "stacked",
    "tapped",
]


def _rows(head: Head) -> tuple[Tensor, Tensor]:
    own = head.in_layer()
    return torch.from_numpy(np.asarray(own.weight, np.float32)), torch.from_numpy(np.asarray(own.bias, np.float32))


def _device(module: Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def resized(module: Module, layer: str, *, head: Head) -> Module:
    """Return the module with a layer with the rows of `head` in the place of a row layer."""
    (weight, bias), old = _rows(head), module_at(module, layer)
    new = like(old, weight, bias, parts=head.parts)
    hand_on_(old, new)
    return set_submodule_(module, layer, module=new)


def end_differently_(module: Module, sample: Inputs, *, activation: str) -> None:
    """Put the last step of another `activation` in the place of the sigmoid that ends a `module`, as a `sample` shows; nothing else."""
    modules, training = dict(module.named_modules()), module.training
    seen = trace(modules, partial(call_module, module.eval(), sample))
    module.train(training)
    result = cast(Tensor, as_tensor(seen.result))
    ends = [name for name in seen.order if isinstance(modules[name], Sigmoid) and seen.outputs[name].data_ptr() == result.data_ptr()]
    if ends and activation != "sigmoid":
        set_submodule_(module, ends[-1], module=Softmax(dim=1) if activation == "softmax" else Identity())


def note_class_count_(module: Module, count: int) -> None:
    """Keep the class count that some libraries store in a module beside its head (timm: num_classes; Transformers: config.num_labels)."""
    for owner in with_class_counts(module):
        config = getattr(owner, "config", None)
        for holder, name in ((owner, "num_classes"), (owner, "num_labels"), (config, "num_labels")):
            if isinstance(getattr(holder, name, None), int):
                setattr(holder, name, count)


@seeded()
def attached(module: Module, head: Head) -> AttachedHead:
    """Return a module without a `head` with one on its pooled output."""
    weight, bias = _rows(head)
    whole = AttachedHead(module, head.features, classes=len(weight)).to(_device(module))
    put_(whole.head, weight, bias=bias)
    return whole.train(module.training)


@seeded()
def branched(module: Module, tapped: Head, *, head: Head, chosen: bool) -> tuple[BranchedNetwork, str]:
    """Return a module with a further head, and the name of its layer.

    Args:
        module: with a head, and perhaps with branches.
        tapped: its first head, whose input the branch reads.
        head: the rows of the branch.
        chosen: whether what follows the first head also chooses what the branch reads.
    """
    whole = module if isinstance(module, BranchedNetwork) else BranchedNetwork(module, tapped.layer, task=tapped.task, chosen=chosen)
    weight, bias = _rows(head)
    name = branch_name(head.task, list(whole.branches))
    layer = Linear(weight.shape[1], len(weight)).to(_device(module))
    put_(layer, weight, bias=bias)
    whole.branches[name] = layer
    return whole.train(module.training), f"{whole.name_of('branches')}.{name}"


@seeded()
def stacked(module: Module, tapped: str, *, head: Head, activation: str, dropout: float) -> StackedHead:
    """Return a module with a new head on its activated raw scores.

    Args:
        module: with a head.
        tapped: name of the layer whose averaged output are the raw scores, or "" where the module's own result is.
        head: rows (M, C).
        activation: one of `ACTIVATIONS`.
        dropout: share of the activated scores that training drops.
    """
    weight, bias = _rows(head)
    sizes = (head.features, len(weight))
    whole = StackedHead(module, tapped, activation=activation, sizes=sizes, dropout=dropout).to(_device(module))
    put_(whole.head, weight, bias=bias)
    return whole.train(module.training)


def joined(module: Module, layer: str, *, head: Head, count: int) -> JoinedNetwork:
    """Return a `module` whose head, a `layer`, gets the wide rows of `head` (C, d + count), which also read `count` numbers."""
    weight, bias = _rows(head)
    wide = like(module_at(module, layer), weight, bias, parts=head.parts)
    mode = module.training
    return JoinedNetwork(set_submodule_(module, layer, module=wide), layer, features=head.features - count).train(mode)


def ended(module: Module, block: Block, *, layers: Sequence[str], order: Sequence[str], sample: Inputs) -> EndedNetwork:
    """Return a module that ends at the output of a block; what runs only later is taken out of it.

    Args:
        module: the whole network.
        block: the last one to keep.
        layers: names of all layers in the order of execution.
        order: names of all modules that were called, by the beginning of their first call.
        sample: a batch that it takes.

    Raises:
        NetworkError: if no part of the block is called.
    """
    last = _end_of(module, block, layers=layers, order=order)
    if last is None:
        raise NetworkError(
            f"The block {block.name!r} is never called: its weights are read by other code, or not at all. Cut at another block."
        )
    end = EndedNetwork(module, last)
    _take_later_out_(module, block, layers=layers, order=order)
    end.stops = not _runs_through(end, sample)
    return end.train(module.training)


def _end_of(module: Module, block: Block, *, layers: Sequence[str], order: Sequence[str]) -> str | None:
    """Return the name of the largest module that ends with a block and holds no layer outside it; None where none of it is called."""
    modules: Mapping[str, Module] = dict(module.named_modules())
    aside = within(module)
    inside = {name for name in block.layers if name and not _is_aside(name, aside)} or {""}
    outside = {outer for name in layers if name not in block.layers for outer in prefixes(name)}
    last = next((name for name in reversed(order) if name in inside and name not in outside), None)
    if not last:
        return last
    return next(outer for outer in reversed(prefixes(last)) if outer not in outside and outer in modules)


def _is_aside(name: str, aside: Sequence[str]) -> bool:
    return any(below(name, other) for other in aside)


def _take_later_out_(module: Module, block: Block, *, layers: Sequence[str], order: Sequence[str]) -> None:
    """Put an Identity in the place of what runs only after a block."""
    inside = set(block.layers)
    later = layers[max(layers.index(name) for name in inside) + 1 :]
    aside = within(module)  # a table of codes that is not read any more stays: the conditions are known all the same
    gone = [name for name in later if name in order and not any(below(other, name) for other in inside) and not _is_aside(name, aside)]
    for name in gone:
        if not any(below(name, other) for other in gone if other != name):
            set_submodule_(module, name, module=Identity())
    forget_(module, gone)


def _runs_through(end: EndedNetwork | TappedNetwork, sample: Inputs) -> bool:
    """Tell whether what was left behind the end of a network runs as well, with no larger tensors than before the end."""
    before = end.training
    end.eval()
    end.stops = False
    try:
        with ExitStack() as stack, torch.no_grad():
            watch = _refuse_swelling()
            for module in end.modules():
                if not list(module.children()):
                    stack.callback(module.register_forward_hook(watch).remove)
            call_module(end, sample)
    except Exception:  # the rest of any Python forward may fail in any way without its modules
        return False
    finally:
        end.train(before)
    return True


def _refuse_swelling() -> Callable[..., None]:
    """Return a forward hook that raises where a module that was taken out hands on more than twice as much as any layer gave before:
    where branches of such modules are put side by side again and again, each time multiplies their channels.
    """
    largest = 0

    def hook(module: Module, _args: Any, output: Any) -> None:
        nonlocal largest
        size = max((tensor.numel() for tensor in flat_tensors(output)), default=0)
        if not isinstance(module, Identity):
            largest = max(largest, size)
        elif largest and size > 2 * largest:
            raise ValueError(f"{size} numbers behind the end of the network, at most {largest} before")

    return hook


def tapped(
    module: Module, points: Sequence[Tap], *, blocks: Sequence[Block], layers: Sequence[str], order: Sequence[str], sample: Inputs
) -> TappedNetwork:
    """Return a module whose result are the pooled outputs of several blocks; what runs only after the last of them is taken out.

    Args:
        module: the whole network.
        points: the blocks and their pools.
        blocks: all blocks.
        layers: names of all layers in the order of execution.
        order: names of all modules that were called, by the beginning of their first call.
        sample: two items that it takes.

    Raises:
        NetworkError: if nothing of the points can be read.
    """
    names = {tap.block for tap in points} - {INPUT}
    found = {block.name: _end_of(module, block, layers=layers, order=order) for block in blocks if block.name in names}
    ends = {name: end for name, end in found.items() if end is not None}  # what is never called gives nothing
    chosen = [block for block in blocks if block.name in ends]
    hints = {block.name: _hint(module, [name for name in layers if name in block.layers], given=True) for block in chosen}
    hints[INPUT] = _hint(module, layers, given=False)
    mode = module.training
    read = _read_points(module.eval(), points, ends=ends, hints=hints, sample=sample)
    kept = [block for block in chosen if block.name in {point.block for point in read}]
    if kept:
        _take_later_out_(module, max(kept, key=lambda block: max(map(layers.index, block.layers))), layers=layers, order=order)
    whole = TappedNetwork(module if kept else Identity(), read).eval()
    whole.slices = slices_of([(point.block, pool, width) for point in read for pool, width in point.widths()])
    whole.stops = not _runs_through(whole, sample)
    return whole.train(mode)


def _hint(module: Module, layers: Sequence[str], *, given: bool) -> tuple[int, bool]:
    return width_hint([module_at(module, name) for name in layers], given=given)


def _read_points(
    module: Module, points: Sequence[Tap], *, ends: Mapping[str, str], hints: Mapping[str, tuple[int, bool]], sample: Inputs
) -> list[Point]:
    """Run two items and three, and return how each place is read; those without real numbers for each item are left out.

    Raises:
        NetworkError: if none is left.
    """
    runs = []
    with torch.no_grad():
        for batch in (sample, three_items(sample)):
            seen: dict[str | None, Tensor | None] = {None: read_input(batch)}
            names = list(dict.fromkeys(ends.values()))
            if names:
                run_reading(module, names, run=partial(call_module, module, batch), keep=seen.__setitem__, stops=True)
            runs.append(seen)
    found = []
    for tap in points:
        end = ends.get(tap.block)
        if end is None and tap.block != INPUT:
            continue
        point = read_point(tap, end, two=runs[0].get(end), three=runs[1].get(end), hint=hints[tap.block])
        found += [] if point is None else [point]
    if not found:
        raise nothing_left(points)
    return found
