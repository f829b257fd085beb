"""The cut at the freeze boundary: found by running the network, and proved on a sample.

The outputs of the largest frozen modules are recorded on a sample. Then the network runs with these outputs replayed. An output is
*live* if other values in its place (NaN, for floats) change the logits. Only live outputs are stored for each example; the trainable
part runs by replaying them. This works with any Python forward.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn import Module
from torch.utils._pytree import TreeSpec, tree_flatten, tree_map_only, tree_unflatten

from ..networks.network import Inputs, Network, Scores
from ..networks.parts.protocols import by_name, chosen_rows
from ..networks.tracing import called_one_by_one, hooked, replaced
from ..randomness import seeded
from .selection import is_dropout
from .units import frozen_units, on_network, other_weights


@dataclass(frozen=True)
class LiveOutput:
    """Live output: a tensor that crosses the cut, with its shape and dtype for one example."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Cut:
    """Network in two parts.
    `trainable_part`: function from these tensors to the logits by task, with gradients if they are enabled."""

    live: tuple[LiveOutput, ...]  # outputs to store for each example
    frozen_part: Callable[[Inputs], list[Tensor]]  # function from inputs to one tensor (B, *shape) for each of `live`
    trainable_part: Callable[[Sequence[Tensor]], Scores]
    layers: frozenset[str]  # names of the layers in the frozen part
    again: Callable[[Network], Cut | Refusal]  # function from a copy of the network to its cut at the same place, or the refusal
    watched: frozenset[str] = frozenset()  # modules of the frozen part whose own calls it reads


_Parts = tuple[Callable[[Inputs], list[Tensor]], Callable[[Sequence[Tensor]], Scores]]


@dataclass(frozen=True)
class Refusal:
    """Reason why there is no cut; the network then runs without a feature cache."""

    reason: str


_Again = Callable[[Network], Cut | Refusal]
_TOLERANCE = 1e-5  # Maximum difference of the logits, relative to the largest one, of a valid cut


class _CutRefusal(Exception):
    """Signal within this file that the cut cannot be made; its message is the reason."""


class _ForwardEnd(BaseException):
    """Signal that ends a forward pass once all live outputs are seen. Not an Exception, so that no layer converts it."""


def _stop() -> None:
    """End a forward pass, except in an export: an exporter runs to the end and drops what is not returned."""
    if not torch.compiler.is_exporting():
        raise _ForwardEnd


@dataclass(frozen=True)
class _Slot:
    """Position of a batched tensor: one leaf of the output of one call of a module."""

    module: str
    call: int
    leaf: int
    axis: int  # the batch axis
    factor: int  # entries of the batch axis per example

    def by_item(self, value: Tensor) -> Tensor:
        """Return the value with the examples on the first axis, (B, …)."""
        moved = value.movedim(self.axis, 0)
        return moved if self.factor == 1 else moved.reshape(-1, self.factor, *moved.shape[1:])

    def native(self, value: Tensor) -> Tensor:
        """Invert `by_item`."""
        whole = value if self.factor == 1 else value.flatten(0, 1)
        return whole.movedim(0, self.axis)


@dataclass
class _Call:
    leaves: list[Any]
    spec: TreeSpec
    slots: list[_Slot | None]


def _recorded(network: Network, names: Sequence[str], *, inputs: Inputs) -> dict[str, list[tuple[list[Any], TreeSpec]]]:
    """Return the flattened outputs of each call of these modules."""
    record: dict[str, list[tuple[list[Any], TreeSpec]]] = {name: [] for name in names}
    modules = network.modules()

    def keep(name: str, output: Any) -> None:
        record[name].append(tree_flatten(tree_map_only(Tensor, torch.clone, output)))

    with torch.no_grad(), hooked({name: modules[name] for name in names}, after=keep, first=True):  # other hooks run again in the replay
        network.scores(inputs)
    return record


def _batch_slot(module: str, call: int, *, leaf: int, small: Any, large: Any) -> _Slot | None:
    """Return the slot of an output from its shapes for two and three examples; None if they do not depend on the batch size."""
    if not isinstance(small, Tensor) or not isinstance(large, Tensor):
        return None
    if small.ndim != large.ndim:
        raise _CutRefusal(f"the output of '{module}' has {small.ndim} axes for two examples and {large.ndim} for three")
    axes = [axis for axis, (two, three) in enumerate(zip(small.shape, large.shape, strict=True)) if two != three]
    if not axes:
        return None
    axis = axes[0]
    factor, rest = divmod(small.shape[axis], 2)
    if len(axes) > 1 or rest or large.shape[axis] != 3 * factor:
        raise _CutRefusal(f"the output of '{module}' has shape {tuple(small.shape)} for two examples and {tuple(large.shape)} for three")
    return _Slot(module, call, leaf, axis, factor)


def _calls(network: Network, names: Sequence[str], *, two: Inputs, three: Inputs) -> dict[str, list[_Call]]:
    small, large = _recorded(network, names, inputs=two), _recorded(network, names, inputs=three)
    calls: dict[str, list[_Call]] = {}
    for name in names:
        if len(small[name]) != len(large[name]):
            raise _CutRefusal(f"'{name}' is called {len(small[name])} times for two examples and {len(large[name])} times for three")
        calls[name] = []
        for number, ((leaves, spec), (others, _)) in enumerate(zip(small[name], large[name], strict=True)):
            if len(leaves) != len(others):
                raise _CutRefusal(f"'{name}' gives {len(leaves)} outputs for two examples and {len(others)} for three")
            slots = [
                _batch_slot(name, number, leaf=index, small=leaf, large=other)
                for index, (leaf, other) in enumerate(zip(leaves, others, strict=True))
            ]
            calls[name].append(_Call([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves], spec, slots))
    return calls


class _Replay:
    """Trainable part: the network with the frozen modules' outputs replayed."""

    def __init__(self, network: Network, calls: dict[str, list[_Call]], *, sample: Inputs) -> None:
        self.network = network
        self.calls = calls
        self.sample = sample
        self.live: tuple[_Slot, ...] = ()
        self.live_inputs: tuple[str, ...] = ()

    def slots(self) -> list[_Slot]:
        """Return every output that depends on the batch size."""
        return [slot for calls in self.calls.values() for call in calls for slot in call.slots if slot is not None]

    def recorded(self, slot: _Slot) -> Tensor:
        """Return the value recorded on the sample, (2, …)."""
        return slot.by_item(cast(Tensor, self.calls[slot.module][slot.call].leaves[slot.leaf]))

    def run(self, values: Mapping[_Slot, Tensor], given: Mapping[str, Tensor], *, size: int) -> Scores:
        """Run the trainable part. Outputs and inputs without a value get the one of the first sample example. `size`: batch size."""
        modules = self.network.modules()
        replays = ((modules[name], "forward", self._replayed(name, values, size=size)) for name in self.calls)
        inputs = {name: given.get(name, _repeated(tensor, size)) for name, tensor in by_name(self.sample).items()}
        with replaced(replays), called_one_by_one():
            return self.network.scores(inputs if isinstance(self.sample, dict) else inputs[""])

    def _replayed(self, name: str, values: Mapping[_Slot, Tensor], *, size: int) -> Callable[..., Any]:
        counter = iter(self.calls[name])

        def leaf(recorded: Any, slot: _Slot | None) -> Any:
            if slot is None:
                return recorded
            return slot.native(values[slot] if slot in values else _repeated(slot.by_item(recorded), size))

        def forward(*_args: Any, **_kwargs: Any) -> Any:
            call = next(counter, None)
            if call is None:
                raise _CutRefusal(f"'{name}' is called more often in training than in inference")
            return tree_unflatten(list(map(leaf, call.leaves, call.slots)), call.spec)

        return forward


def _repeated(values: Tensor, size: int) -> Tensor:
    """Return `size` times the first example."""
    return values[:1].expand(size, *values.shape[1:])


def _poisoned(tensor: Tensor) -> Tensor | None:
    """Return different values of that shape: NaN for floats; for integers, the largest value where there is a zero, and zero elsewhere.
    So integers remain valid indices. Return None if all values are zero, because no other valid value is known."""
    if tensor.is_floating_point():
        return torch.full_like(tensor, torch.nan)
    highest = torch.ones_like(tensor).amax() if tensor.dtype == torch.bool else tensor.amax()
    return torch.where(tensor == 0, highest, torch.zeros_like(tensor)) if highest else None


def _shaken(values: Tensor) -> Tensor:
    """Return weights with noise added to each: new layers that start as zero or as copies must show their dependencies and differences."""
    noise = torch.randn(values.shape, generator=torch.Generator().manual_seed(0)).to(values)
    return values + noise * (0.1 * float(values.square().mean().sqrt()) or 0.02)


def _live_among(slots: Sequence[_Slot], is_live: Callable[[Sequence[_Slot]], bool]) -> list[_Slot]:
    """Return the live slots by bisection: k live ones among n take about k log2(n) runs."""
    if not slots or not is_live(slots):
        return []
    if len(slots) == 1:
        return list(slots)
    half = len(slots) // 2
    return [*_live_among(slots[:half], is_live), *_live_among(slots[half:], is_live)]


def _find_live_(replay: _Replay) -> None:
    """Set the live outputs and inputs: those that the logits depend on."""
    named = by_name(replay.sample)
    recorded = {slot: replay.recorded(slot) for slot in replay.slots()}
    others = {slot: _poisoned(value) for slot, value in recorded.items()}

    def scores(changed: Mapping[_Slot, Tensor], inputs: Mapping[str, Tensor]) -> Scores:
        values = {slot: value.clone() for slot, value in {**recorded, **changed}.items()}  # later layers may change them in place
        return replay.run(values, {**named, **inputs}, size=2)

    def differ(changed: Mapping[_Slot, Tensor], inputs: Mapping[str, Tensor]) -> bool:
        try:
            others = scores(changed, inputs)
            return any(not torch.equal(others[task], plain[task]) for task in plain)
        except Exception:  # an error on these values shows that they are read
            return True

    def is_live(slots: Sequence[_Slot]) -> bool:
        poison = [others[slot] for slot in slots]
        return any(other is None for other in poison) or differ(
            {slot: other for slot, other in zip(slots, poison, strict=True) if other is not None}, {}
        )

    plain = scores({}, {})
    replay.live = tuple(_live_among(replay.slots(), is_live))
    for name, tensor in named.items():
        other = _poisoned(tensor)
        if other is None or differ({}, {name: other}):
            replay.live_inputs = (*replay.live_inputs, name)


def _seen_live(replay: _Replay, inputs: Inputs) -> dict[_Slot, Tensor]:
    """Run the frozen part until every live output is there; return these."""
    values: dict[_Slot, Tensor] = {}
    modules = replay.network.modules()
    by_module = {name: [slot for slot in replay.live if slot.module == name] for name in {slot.module for slot in replay.live}}
    numbers = {name: iter(range(len(replay.calls[name]))) for name in by_module}

    def keep(name: str, output: Any) -> None:
        number, leaves = next(numbers[name]), tree_flatten(output)[0]
        values.update({slot: slot.by_item(leaves[slot.leaf]).clone() for slot in by_module[name] if slot.call == number})
        if len(values) == len(replay.live):
            _stop()

    watched = hooked({name: modules[name] for name in by_module}, after=keep, first=True)
    with suppress(_ForwardEnd), torch.no_grad(), called_one_by_one(), watched:
        replay.network.scores(inputs)
    return values


def _as_cut(replay: _Replay, layers: frozenset[str], *, again: _Again) -> Cut:
    live = [
        LiveOutput(f"{slot.module}#{slot.call}.{slot.leaf}", tuple(value.shape[1:]), value.dtype)
        for slot in replay.live
        for value in [replay.recorded(slot)]
    ]
    named = by_name(replay.sample)
    live += [LiveOutput(f"input {name}".strip(), tuple(named[name].shape[1:]), named[name].dtype) for name in replay.live_inputs]

    def frozen_part(inputs: Inputs) -> list[Tensor]:
        replay.network.mode_(False)
        values = _seen_live(replay, inputs)
        return [*(values[slot] for slot in replay.live), *(by_name(inputs)[name] for name in replay.live_inputs)]

    def trainable_part(tensors: Sequence[Tensor]) -> Scores:
        values = dict(zip(replay.live, tensors, strict=False))
        kept = dict(zip(replay.live_inputs, tensors[len(replay.live) :], strict=True))
        return replay.run(values, kept, size=len(tensors[0]))

    return Cut(tuple(live), frozen_part, trainable_part, layers, again, frozenset(slot.module for slot in replay.live))


_Known = tuple[int, tuple[LiveOutput, ...]]  # number of the way in which a network was cut, and its live outputs


def find_cut(network: Network, layers: frozenset[str], *, sample: Inputs, known: _Known | None = None) -> Cut | Refusal:
    """Return the cut behind the frozen layers, proved on the sample to give the logits of the whole network, or the refusal.
    Meanwhile the trained weights are slightly changed: the logits of a new head, which starts as zero, would prove any cut.
    `layers`: frozen layers whose outputs do not change in training. `sample`: two or more real examples.
    `known`: how the network was cut of which this one is a copy: nothing is proved again."""
    network.mode_(False)
    sample = on_network(network, sample)
    if not layers:
        return Refusal("no frozen module is called before the trainable part")
    found: Cut | Refusal = Refusal("a copy of the network is not cut in the same way")
    again = partial(find_cut, layers=layers, sample=sample)
    with torch.no_grad(), called_one_by_one(), other_weights(network, layers, made=_shaken):
        for number, find in enumerate((partial(_before_head, network), network.body.split, None)):
            if known is not None and number != known[0]:
                continue
            direct = None if find is None else find(layers)
            if direct is not None or find is None:
                live = None if known is None else known[1]
                found = _attempt(network, layers, direct=direct, sample=sample, again=again, live=live)
                if isinstance(found, Cut):
                    return replace(found, again=partial(again, known=(number, found.live)))
    return found


def _attempt(  # over the limit: what a cut depends on
    network: Network, layers: frozenset[str], *, direct: _Parts | None, sample: Inputs, again: _Again, live: tuple[LiveOutput, ...] | None
) -> Cut | Refusal:
    """Make a cut, of the parts if they are given, and prove it. Any error refuses it: the whole network is known to run on the sample.
    `live`: the live outputs if they are known, and proved; None otherwise."""
    try:
        if direct is not None:
            tensors = direct[0](chosen_rows(sample, [0, 1])) if live is None else ()
            made = (LiveOutput(f"tensor {index}", tuple(one.shape[1:]), one.dtype) for index, one in enumerate(tensors))
            cut = Cut(live or tuple(made), *direct, layers, again)
        else:
            cut = _by_replay(network, layers, sample=sample, again=again)
        if live is None:
            _prove(network, cut, sample=sample)
        return cut
    except _CutRefusal as refusal:
        return Refusal(str(refusal))
    except Exception as problem:  # any Python forward may fail in any way when its parts are replayed
        return Refusal(f"replaying it failed ({type(problem).__name__}: {str(problem)[:200]})")


def _by_replay(network: Network, layers: frozenset[str], *, sample: Inputs, again: _Again) -> Cut:
    two = chosen_rows(sample, [0, 1])
    units = frozen_units(network, layers, sample=two)
    if not units:
        raise _CutRefusal("every frozen module also runs behind the trainable part")
    replay = _Replay(network, _calls(network, units, two=two, three=chosen_rows(sample, [0, 1, 0])), sample=two)
    _find_live_(replay)
    cut = _as_cut(replay, layers, again=again)
    _prove_in_training(network, cut, inputs=two)
    return cut


def _prove_in_training(network: Network, cut: Cut, *, inputs: Inputs) -> None:
    """Raise `_CutRefusal` if, in training mode, the replayed network differs from the whole one."""
    rows, state = cut.frozen_part(inputs), network.state()
    own = {name for names in network.layer_parameters().values() for name in names}
    moving = {name: values.clone() for name, values in state.items() if name not in own}
    network.mode_(True)
    try:
        with suppress(ValueError), seeded():  # BatchNorm fails on a single value per channel, with or without a cut
            whole = network.scores(inputs)
            for name, values in moving.items():
                state[name].copy_(values)
            with seeded():
                _compare(whole, cut.trainable_part(rows), tolerance=1e-3, when="in training, ")
    finally:
        for name, values in moving.items():
            state[name].copy_(values)
        network.mode_(False)


def _before_head(network: Network, layers: frozenset[str]) -> _Parts | None:
    """Return the parts of a cut at the heads' input if only the heads are trained and all read the same features, else None."""
    after = [layer for layer in network.layers if layer.name not in layers]
    if (
        not network.heads
        or any(head.apart for head in network.heads.values())
        or {layer.name for layer in after if layer.parameters or is_dropout(layer)} != set(network.head_layers)
    ):
        return None
    layers_of_head = network.body.layers_of(network.head.task)
    head = network.modules()[layers_of_head[0]]

    def whole(inputs: Inputs) -> list[Tensor]:
        network.mode_(False)
        with torch.no_grad():
            return [network.feature_batch(inputs)]

    def frozen_part(inputs: Inputs) -> list[Tensor]:
        network.mode_(False)
        seen: list[Tensor] = []

        def stop(_module: Module, args: tuple[Tensor, ...]) -> None:
            seen.append(args[0])
            _stop()

        with suppress(_ForwardEnd), torch.no_grad(), head.register_forward_pre_hook(stop):
            network.scores(inputs)
        return seen[:1]

    count = len(next(iter(by_name(network.sample).values())))
    single = len(layers_of_head) == 1 and [len(one) for one in frozen_part(network.sample) if one.ndim > 1] == [count]
    return (frozen_part if single else whole), lambda tensors: network.scores_of_features(tensors[0])


def _prove(network: Network, cut: Cut, *, sample: Inputs) -> None:
    """Raise `_CutRefusal` unless the cut gives the network's logits on the sample and on a reordered subset.
    The subset shows whether a row depends on other examples."""
    if not cut.live:
        raise _CutRefusal("the scores do not depend on the frozen part")
    rows = cut.frozen_part(sample)
    count = len(rows[0])
    for chosen in (list(range(count)), list(range(count - 1, -1, -2))):
        parts = cut.trainable_part([tensor[chosen] for tensor in rows])
        _compare(network.scores(chosen_rows(sample, chosen)), parts, tolerance=_TOLERANCE)


def _compare(whole: Scores, parts: Scores, *, tolerance: float, when: str = "") -> None:
    """Raise `_CutRefusal` if the logits of the two parts differ from those of the whole network by more than the relative tolerance."""
    for task, scores in whole.items():
        if scores.shape != parts[task].shape:
            raise _CutRefusal(f"{when}replayed scores have shape {tuple(parts[task].shape)}, the full forward {tuple(scores.shape)}")
        scale = float(scores.abs().max()) or 1.0
        difference = float((scores - parts[task]).abs().max()) / scale
        if not difference <= tolerance:
            raise _CutRefusal(f"{when}replayed scores differ from the full forward by {difference:.1e} of the largest score")
