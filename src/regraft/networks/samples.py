"""Sample batches: a small synthetic batch that a network accepts, guessed if the input shape is unknown."""

import inspect
import io
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import redirect_stderr
from itertools import combinations
from reprlib import repr as brief
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from torch.nn import Module

from ..errors import NetworkError, near_names
from ..files.formats import reason_of
from ..randomness import seeded
from .parts.protocols import Inputs, by_name, changed, on_device
from .parts.record import Record

Shapes = Sequence[int] | Mapping[str, Sequence[int]] | None
"""Shape of one example without the batch axis; a mapping of input name to shape where the network takes several tensors."""
_SIDES = (224, 32, 28, 64, 96, 128, 16, 8, 299)
_LENGTHS = (16, 32, 64, 128, 100, 1000, 16000)
_MOST_NUMBERS = 2**30  # Largest number of values of one example
_MOST_TOKENS = 1000  # Largest number of tokens to try: longer texts take minutes, and few networks need them
DRAWN = 1e-3
"""Allowed difference of two passes over the same examples, relative to the largest score: sums in another order differ slightly."""


def check_shapes(inputs: Any) -> None:
    """Raise if `inputs` is neither None nor the shape of one example, nor a mapping of input names to such shapes."""
    if inputs is None:
        return
    if isinstance(inputs, Mapping) and not (inputs and all(isinstance(name, str) for name in inputs)):
        raise NetworkError(f"inputs={brief(dict(inputs))}: expected the shape of each input by its name, such as {{'input_ids': (128,)}}.")
    for name, shape in inputs.items() if isinstance(inputs, Mapping) else (("", inputs),):
        whole = not name and isinstance(shape, np.ndarray) and shape.ndim == 1 and shape.dtype.kind in "iu"
        problem, own = _problem_of(shape.tolist() if whole else shape)
        if problem:
            such = f"{{{name!r}: {own}}}" if name else own
            raise NetworkError(
                f"inputs{f' for {name!r}' if name else ''}: received {problem}; expected the shape of one example without the batch axis. "
                f"Give whole numbers of 1 or more, with None for an axis of any length, such as inputs={such}."
            )


def _problem_of(shape: Any) -> tuple[str, str]:
    """Return what was received in place of the shape of one example, "" if it is one, and a shape to give instead."""
    if isinstance(shape, Tensor | np.ndarray):
        kind, own = ("a tensor" if isinstance(shape, Tensor) else "an array"), tuple(shape.shape)
        return f"{kind} of the shape {own}", str(own[1:] or own or (3, 224, 224))
    if not isinstance(shape, Sequence) or isinstance(shape, str | bytes):
        return f"{brief(shape)} ({type(shape).__name__})", "(3, 224, 224)"
    whole = [isinstance(side, int | np.integer) and not isinstance(side, bool) and side >= 1 for side in shape if side is not None]
    if not all(whole):
        return brief(shape), "(3, 224, 224)"
    most = math.prod(int(side) for side in shape if side is not None)
    return (f"{brief(shape)}, which is {most:,} numbers (at most {_MOST_NUMBERS:,})" if most > _MOST_NUMBERS else ""), "(3, 224, 224)"


def placed(inputs: Inputs, device: torch.device, *, order: torch.memory_format) -> Inputs:
    """Return a batch on a device; images in the memory format `order`."""
    how = {"memory_format": order} if order == torch.channels_last and is_pictures(inputs) else {}
    return on_device(inputs, device, **how)


def sample_facts(sample: Inputs) -> dict[str, Any]:
    """Return the shape of one example and the dtype of each input of a `sample`, by name ("" for an unnamed input), as plain data."""
    return {name: [list(tensor.shape[1:]), str(tensor.dtype)] for name, tensor in by_name(sample).items()}


def is_pictures(inputs: Inputs) -> bool:
    """Return whether a batch is one floating-point tensor (N, C, H, W)."""
    return isinstance(inputs, Tensor) and inputs.ndim == 4 and inputs.is_floating_point()


def sample_of(shape: Sequence[int | None], *, integers: bool = False, batch: int = 2) -> Tensor:
    """Return a random batch (batch, *shape) with a fixed seed: standard normal, or token ids 0 and 1 if `integers`.
    `shape` is that of one example; a free axis (None) gets length 32. Scalar integers are 1, because they are usually lengths."""
    generator = torch.Generator().manual_seed(0)
    sizes = (batch, *(32 if size is None else int(size) for size in shape))
    if integers:
        return torch.randint(0, 2, sizes, generator=generator) if len(sizes) > 1 else torch.ones(sizes, dtype=torch.int64)
    return torch.randn(sizes, generator=generator, dtype=torch.float32)


def _candidates(module: Module) -> Iterator[Tensor]:
    """Yield sample batches for the first layer that determines the input: its width, at several common sizes."""
    for layer in module.modules():
        if isinstance(layer, torch.nn.Conv2d):
            yield from (sample_of((layer.in_channels, side, side)) for side in _SIDES)
        elif isinstance(layer, torch.nn.Conv1d):
            yield from (sample_of((layer.in_channels, length)) for length in _LENGTHS)
        elif isinstance(width := getattr(layer, "in_features", None), int):  # quantised layers are of other classes
            yield sample_of((width,))
            yield sample_of((16, width))
        elif isinstance(layer, (torch.nn.Embedding, torch.nn.EmbeddingBag)):
            yield from (sample_of((length,), integers=True) for length in _LENGTHS if length <= _MOST_TOKENS)
        elif isinstance(layer, torch.nn.RNNBase):
            yield sample_of((16, layer.input_size))
        else:
            continue
        return


_MOST_NAMED = 6  # Largest number of named float inputs for which all combinations of integer inputs are tried
_RUNNING = (RuntimeError, ValueError, TypeError, LookupError, AttributeError, AssertionError)
"""Exceptions that a forward pass raises on an unsuitable input."""


def failure(run: Callable[[Any], Any], sample: Any, *, caught: Any = _RUNNING) -> Exception | None:
    """Return the error of one run without gradients, or None."""
    try:
        with torch.no_grad():
            run(sample)
    except caught as error:
        return cast(Exception, error)
    return None


def check_sample(run: Callable[[Inputs], Any], module: Module, *, sample: Inputs) -> None:
    """Raise if a module does not run on a sample."""
    error = failure(run, sample)
    if error is not None:
        raise NetworkError(f"{type(module).__name__} cannot be run on a sample: {error}") from error


# over the limit: what a network is called, what it takes and how it fails
def first_that_runs(
    options: Iterable[Inputs], run: Callable[[Any], Any], *, name: str, shape: Shapes, such: str, caught: Any = Exception
) -> Any:
    """Return the first of the `options` that a network runs on. If there is none, raise with the `shape` that was given and one `such`."""
    problem: Exception | None = None
    for option in options:
        problem = failure(run, option, caught=caught)  # layers of a user's own may raise anything
        if problem is None:
            return option
    given = dict(shape) if isinstance(shape, Mapping) else shape and tuple(shape)
    received = f"examples of shape {given}" if shape is not None else "no shape of its examples"
    raise NetworkError(
        f"{name} cannot be run on a sample: received {received}. Give the shape of one example without the batch, such as inputs={such}. "
        f"Last problem: {problem}"
    )


def first_working_sample(run: Callable[[Tensor], Any], module: Module, *, shape: Sequence[int] | None) -> Tensor:
    """Return a batch of two examples that the network accepts; `shape` is that of one example, or None to guess it."""
    integers = any(isinstance(layer, (torch.nn.Embedding, torch.nn.EmbeddingBag)) for layer in module.modules())
    if shape is None:
        options = list(_candidates(module))
    else:
        options = [sample_of(shape)] + ([sample_of(shape, integers=True)] if integers else [])
        open_sides = [length for length in _LENGTHS if None in shape]  # 32 may be too short, as for waveforms
        options += [sample_of([length if side is None else side for side in shape]) for length in open_sides]
    name = type(module).__name__
    return cast(Tensor, first_that_runs(options, run, name=name, shape=shape, such="(3, 224, 224)", caught=_RUNNING))


def named_sample(module: Module, shapes: Mapping[str, Sequence[int]]) -> dict[str, Tensor]:
    """Return two examples as named tensors: integers for names that end in "ids", ones for masks, 1 for lengths.
    If a module with embeddings does not run on them, the fewest further inputs that make it run are integers too."""
    taken = inspect.signature(module.forward).parameters
    unknown, whole = [name for name in shapes if name not in taken], in_one_mapping(module, shapes)
    message = f"{type(module).__name__} takes no input {unknown[0]!r}{near_names(unknown[0], list(taken))}" if unknown else ""
    if unknown and not whole and not any(one.kind is one.VAR_KEYWORD for one in taken.values()):
        raise NetworkError(message)
    first = named_tensors(shapes)
    open_ones = [name for name, tensor in first.items() if tensor.is_floating_point()]
    looked_up = any(isinstance(layer, (torch.nn.Embedding, torch.nn.EmbeddingBag)) for layer in module.modules())
    most = len(open_ones) if looked_up and len(open_ones) <= _MOST_NAMED else 0
    was_training, problem = module.training, ""
    module.eval()
    try:
        for chosen in (names for count in range(most + 1) for names in combinations(open_ones, count)):
            sample = first | {name: sample_of(shapes[name], integers=True) for name in chosen}
            error = failure(lambda one: module(one) if whole else module(**one), sample)
            if error is None:
                return sample
            problem = reason_of(error)
    finally:
        module.train(was_training)
    if whole:
        raise NetworkError(f"{message}. With all of them in one mapping it does not run: {problem}")
    return first


def named_tensors(shapes: Mapping[str, Sequence[int | None]]) -> dict[str, Tensor]:
    """Return two examples as named tensors of these `shapes`, in the types that the names say."""
    counted = {name: name.endswith("ids") or (not len(shape) and "len" in name) for name, shape in shapes.items()}
    made = {name: sample_of(shape, integers=counted[name]) for name, shape in shapes.items()}
    return {name: torch.ones_like(tensor, dtype=torch.int64) if name.endswith("_mask") else tensor for name, tensor in made.items()}


def in_one_mapping(module: Module, names: Iterable[str]) -> bool:
    """Return whether a module takes its tensors as one mapping: its forward has none of these names and one required argument."""
    taken = inspect.signature(module.forward).parameters
    needed = [one for one in taken.values() if one.default is one.empty]
    return taken.keys().isdisjoint(names) and len(needed) == 1 and needed[0].kind is needed[0].POSITIONAL_OR_KEYWORD


def three_items(sample: Inputs) -> Inputs:
    """Return a `sample` of two examples with the first one appended."""
    return changed(sample, lambda tensor: torch.cat([tensor, tensor[:1]]))


def lengthened(sample: Inputs, shapes: Mapping[str, Sequence[int | None]]) -> Inputs:
    """Return a `sample` half as long again along the open axes (None) of these `shapes`, by input name ("" for the only input)."""
    named = dict(sample) if isinstance(sample, dict) else {"": sample}
    for name, axis in ((name, axis) for name, shape in shapes.items() for axis, side in enumerate(shape, 1) if side is None):
        named[name] = torch.cat([named[name], named[name].narrow(axis, 0, named[name].shape[axis] // 2)], axis)
    return named if isinstance(sample, dict) else named[""]


def differing_passes(network: Record) -> tuple[float, float]:
    """Return how much two passes over the sample differ in inference, relative to the largest score: by random draws, and by batch size.
    At most one of the two is above 0. The difference by batch size compares batches of 2 and 3 examples."""

    def scored(seed: int, batch: Inputs) -> Tensor:
        with seeded(seed), torch.no_grad(), redirect_stderr(io.StringIO()):  # torch.fx prints the failing node
            made = list(network.scores(batch).values()) if network.heads else [network.feature_batch(batch)]
        values = torch.cat([scores[:2].flatten().double() for scores in made])
        return values.nan_to_num(0.0, 0.0, 0.0)  # NaN weights are reported elsewhere

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
