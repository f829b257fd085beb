"""Make a small batch that a network accepts, where nobody has said what it takes."""

from __future__ import annotations

import inspect
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from itertools import combinations
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module

from ..errors import NetworkError, near_names
from ..files.formats import reason_of
from ..randomness import seeded
from .parts.protocols import Inputs, on_device
from .parts.record import Record

__all__ = [
    "check_sample",
    "differing_passes",
    "first_working_sample",
    "in_one_mapping",
    "is_pictures",
    "named_sample",
    "placed",
    "sample_facts",
    "sample_of",
    "three_items",
    "to_inputs",
]

_SIDES = (224, 32, 28, 64, 96, 128, 16, 8, 299)
_LENGTHS = (16, 32, 64, 128, 100, 1000, 16000)
_MOST_TOKENS = 1000
"""Of a text that a network is tried with: longer ones take minutes, and few networks take them only."""
DRAWN = 1e-3
"""Share of the largest score by which two passes over the same examples may differ, as sums in another order do."""


def placed(inputs: Inputs, device: torch.device, *, order: torch.memory_format) -> Inputs:
    """Return a batch on a device; pictures in an order in memory."""
    if order == torch.channels_last and is_pictures(inputs) and not isinstance(inputs, dict):
        return inputs.to(device, memory_format=order)
    return on_device(inputs, device)


def sample_facts(sample: Inputs) -> dict[str, Any]:
    """Return by name, "" where there is none, the shape of one item of a `sample` and its type, as plain data."""
    named = sample if isinstance(sample, dict) else {"": sample}
    return {name: [list(tensor.shape[1:]), str(tensor.dtype)] for name, tensor in named.items()}


def is_pictures(inputs: Inputs) -> bool:
    """Tell whether `inputs`, one batch, are a tensor (N, C, H, W) of real numbers."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point()


def to_inputs(sample: Inputs) -> Inputs:
    """Return the sample without gradients."""
    return {name: tensor.detach() for name, tensor in sample.items()} if isinstance(sample, dict) else sample.detach()


def sample_of(shape: Sequence[int | None], *, integers: bool = False, batch: int = 2) -> Tensor:
    """Return a repeatable random batch, (batch, *shape): standard normal, or token ids 0 and 1; single whole numbers are 1, as a length.

    `shape`: shape of one item; a free axis (None) gets length 32; `integers`: token ids in place of real numbers.
    """
    generator = torch.Generator().manual_seed(0)
    sizes = (batch, *(32 if size is None else int(size) for size in shape))
    if integers:
        return torch.randint(0, 2, sizes, generator=generator) if len(sizes) > 1 else torch.ones(sizes, dtype=torch.int64)
    return torch.randn(sizes, generator=generator, dtype=torch.float32)


def _candidates(module: Module) -> Iterator[Tensor]:
    """Guess from the first layers that fix an input: their width, at several common sizes."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            yield from (sample_of((layer.in_channels, side, side)) for side in _SIDES)
        elif isinstance(layer, torch.nn.Conv1d):
            yield from (sample_of((layer.in_channels, length)) for length in _LENGTHS)
        elif isinstance(layer, torch.nn.Linear):
            yield sample_of((layer.in_features,))
            yield sample_of((16, layer.in_features))
        elif isinstance(layer, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            yield from (sample_of((length,), integers=True) for length in _LENGTHS if length <= _MOST_TOKENS)
        elif isinstance(layer, torch.nn.RNNBase):
            yield sample_of((16, layer.input_size))
        else:
            continue
        return


_MOST_NAMED = 6
"""Inputs by name up to which all choices of those that are whole numbers are tried."""
_RUNNING = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""What a forward raises that an input does not suit."""


def check_sample(run: Callable[[Inputs], Any], module: Module, *, sample: Inputs) -> None:
    """Raise if a network does not run on a sample."""
    try:
        with torch.no_grad():
            run(sample)
    except _RUNNING as error:
        raise NetworkError(f"{type(module).__name__} cannot be run on a sample: {error}") from error


def first_working_sample(run: Callable[[Tensor], Any], module: Module, *, shape: Sequence[int] | None) -> Tensor:
    """Return a batch of two that the network accepts.

    `shape`: the shape of one item, where it is known.
    """
    integers = any(isinstance(layer, (torch.nn.Embedding, torch.nn.EmbeddingBag)) for layer in module.modules())
    if shape is None:
        options = list(_candidates(module))
    else:
        options = [sample_of(shape)] + ([sample_of(shape, integers=True)] if integers else [])
        open_sides = [length for length in _LENGTHS if None in shape]  # 32 may be too short, as for waveforms
        options += [sample_of([length if side is None else side for side in shape]) for length in open_sides]
    problem: Exception | None = None
    for option in options:
        try:
            with torch.no_grad():
                run(option)
            return option
        except _RUNNING as error:
            problem = error
    received = f"examples of shape {tuple(shape)}" if shape is not None else "no shape of its examples"
    raise NetworkError(
        f"{type(module).__name__} cannot be run on a sample: received {received}. "
        f"Give the shape of one example without the batch, such as inputs=(3, 224, 224). Last problem: {problem}"
    )


def named_sample(module: Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return two examples by the names of their tensors: what is called ids is whole numbers, a mask is all ones, a length is 1.

    Where a module with embeddings does not run on that, others of its inputs are whole numbers too: the fewest with which it runs.
    """
    taken = inspect.signature(module.forward).parameters
    unknown, whole = [name for name in shapes if name not in taken], in_one_mapping(module, shapes)
    message = f"{type(module).__name__} takes no input {unknown[0]!r}{near_names(unknown[0], list(taken))}" if unknown else ""
    if unknown and not whole and not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        raise NetworkError(message)
    counted = {name: name.endswith("ids") or (not len(shape) and "len" in name) for name, shape in shapes.items()}
    first = {name: sample_of(shape, integers=counted[name]) for name, shape in shapes.items()}
    first = {name: torch.ones_like(tensor, dtype=torch.int64) if name.endswith("_mask") else tensor for name, tensor in first.items()}
    open_ones = [name for name, tensor in first.items() if tensor.is_floating_point()]
    looked_up = any(isinstance(layer, (torch.nn.Embedding, torch.nn.EmbeddingBag)) for layer in module.modules())
    most = len(open_ones) if looked_up and len(open_ones) <= _MOST_NAMED else 0
    was_training, problem = module.training, None
    module.eval()
    try:
        for chosen in (names for count in range(most + 1) for names in combinations(open_ones, count)):
            sample = first | {name: sample_of(shapes[name], integers=True) for name in chosen}
            try:
                with torch.no_grad():
                    module(sample) if whole else module(**sample)
                return sample
            except _RUNNING as error:
                problem = reason_of(error)
    finally:
        module.train(was_training)
    if whole:
        raise NetworkError(f"{message}. With all of them in one mapping it does not run: {problem}")
    return first


def in_one_mapping(module: Module, names: Iterable[str]) -> bool:
    """Tell whether a module takes tensors of these names as one argument, a mapping: it knows none of them, and needs a single one."""
    taken = inspect.signature(module.forward).parameters
    needed = [one for one in taken.values() if one.default is one.empty]
    return taken.keys().isdisjoint(names) and len(needed) == 1 and needed[0].kind is needed[0].POSITIONAL_OR_KEYWORD


def three_items(sample: Inputs) -> Inputs:
    """Return a `sample` of two items with the first one once more."""
    if isinstance(sample, dict):
        return {name: torch.cat([tensor, tensor[:1]]) for name, tensor in sample.items()}
    return torch.cat([sample, sample[:1]])


def differing_passes(network: Record) -> tuple[float, float]:
    """Return by how much two passes over a network's sample differ, in inference, as a share of the largest score."""

    def scored(seed: int, batch: Inputs) -> Tensor:
        with seeded(seed), torch.no_grad(), redirect_stderr(io.StringIO()):  # a module of torch.fx prints what fails
            made = list(network.scores(batch).values()) if network.heads else [network.feature_batch(batch)]
        values = torch.cat([scores[:2].flatten().double() for scores in made])
        return values.nan_to_num(0.0, 0.0, 0.0)  # weights that are no numbers are told elsewhere

    network.mode_(False)
    first = scored(1, network.sample)
    try:
        other = scored(2, three_items(network.sample))
    except _RUNNING as error:
        raise NetworkError(
            f"The network runs with 2 examples in a batch, and not with 3: {reason_of(error)}. Give one that takes any number; of an "
            "exported program, the first axis has to be dynamic."
        ) from error
    allowed = DRAWN * float(first.abs().max()) if len(first) else 0.0
    if not allowed or float((first - other).abs().max()) <= allowed:
        return 0.0, 0.0
    drawn = float((first - scored(2, network.sample)).abs().max())
    largest = allowed / DRAWN
    return (drawn / largest, 0.0) if drawn > allowed else (0.0, float((first - other).abs().max()) / largest)
