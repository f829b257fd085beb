"""Read several modules of a network in one run and pool their outputs."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import Module, functional

from ...errors import NetworkError
from ..family import Body
from ..parts.protocols import Inputs, by_name
from ..parts.structure import Block, block_end
from ..parts.taps import GRID, INPUT, STD_FLOOR, Tap, nothing_left, pools_at
from ..samples import three_items
from ..tracing import as_tensor, flat_tensors, joined

_CONVOLVED = (
    *(torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d, torch.nn.ConvTranspose1d, torch.nn.ConvTranspose2d, torch.nn.ConvTranspose3d),
    *(torch.nn.BatchNorm1d, torch.nn.BatchNorm2d, torch.nn.BatchNorm3d, torch.nn.GroupNorm, torch.nn.InstanceNorm1d),
)
_GIVEN = ("out_channels", "num_features", "num_channels", "out_features", "normalized_shape", "hidden_size")
_READ = ("in_channels", "num_features", "num_channels", "in_features", "normalized_shape", "input_size")


class _ForwardEnd(BaseException):
    """Ends a forward pass early. It is not an Exception, so that no layer converts it into another error."""


@dataclass(frozen=True)
class Point:
    """One hook point where a network is read."""

    block: str  # name of the block, or "input"
    module: str | None  # name of the module at its end; None for the network's input
    pools: tuple[str, ...]
    channels_last: bool  # whether the channels are the last axis rather than the one after the examples
    items_second: bool  # whether the examples are on the second axis (recurrent layers with time first)
    channels: int = 0
    cells: tuple[int, int] = (0, 0)  # grid cells of "rows" and of "columns"

    def widths(self) -> list[tuple[str, int]]:
        """Return the number of values of each pool."""
        cells = dict(zip(("rows", "columns"), self.cells, strict=True))
        return [(pool, self.channels * cells.get(pool, 1)) for pool in self.pools]

    def arranged(self, values: Tensor) -> Tensor:
        """Return values as (N, C) or (N, C, *positions), with half precision converted to float32."""
        whole = values.float() if values.dtype in (torch.float16, torch.bfloat16) else values
        whole = whole.transpose(0, 1) if self.items_second else whole
        return whole.movedim(-1, 1) if self.channels_last and whole.ndim > 2 else whole

    def pooled(self, values: Tensor, mask: Tensor | None) -> list[Tensor]:
        """Return each pool of the values, (N, width).
        `mask` is (N, L), 0 at padded positions of a sequence. A mask of another length is ignored."""
        arranged = self.arranged(values)
        fits = mask is not None and arranged.ndim == 3 and mask.ndim == 2 and mask.shape[1] == arranged.shape[2]
        moments = _moments(arranged, mask if fits else None) if {"mean", "std"} & set(self.pools) else {}
        return [moments[pool] if pool in moments else _pooled_by(arranged, pool, cells=self.cells) for pool in self.pools]


def _moments(values: Tensor, mask: Tensor | None) -> dict[str, Tensor]:
    """Return mean and standard deviation over the positions of values (N, C, *positions)."""
    flat = values.flatten(2)
    if mask is None:
        mean = flat.mean(2)
        spread = (flat - mean[..., None]).square_()  # var_mean takes ten times as long
        return {"mean": mean, "std": (spread.mean(2) + STD_FLOOR).sqrt()}
    kept = mask[:, None].bool()
    count = kept.sum(2).clamp(min=1)
    mean = torch.where(kept, flat, 0).sum(2) / count
    variance = torch.where(kept, flat - mean[..., None], 0).square().sum(2) / count
    return {"mean": mean, "std": (variance + STD_FLOOR).sqrt()}


def _pooled_by(values: Tensor, pool: str, *, cells: tuple[int, int]) -> Tensor:
    """Return one pool of values, (N, width), other than mean and standard deviation.
    `values` are (N, C) for "vector", (N, C, L) for "token", and (N, C, H, W) for "rows" and "columns"."""
    if pool == "vector":
        return values
    if pool == "token":
        return values[:, :, 0]
    axis, count = (3, cells[0]) if pool == "rows" else (2, cells[1])
    stored_last = values.is_contiguous(memory_format=torch.channels_last)  # a mean along the memory order is five times as fast
    line = values.permute(0, 2, 3, 1).mean(axis - 1).transpose(1, 2) if stored_last else values.mean(axis)
    return functional.adaptive_avg_pool1d(line, count).transpose(1, 2).flatten(1)


class UnevenTapsError(NetworkError):
    """Blocks that did not give an output for each example of a run, such as an expert that a network chooses for some of them."""

    def __init__(self, message: str, blocks: Sequence[str] = ()) -> None:
        self._blocks = tuple(blocks)
        super().__init__(message)

    @property
    def blocks(self) -> tuple[str, ...]:
        """Their names, also where Keras has raised an error of this class with a longer message in place of the first one."""
        first = self.__context__
        return self._blocks or (first.blocks if isinstance(first, UnevenTapsError) else ())


@contextmanager
def _listening(module: Module, hook: Callable[..., None]) -> Iterator[None]:
    """Call a hook with a module's final output while the context lasts, after all hooks that change it."""
    with ExitStack() as stack:

        def begin(_module: Module, _args: Any) -> None:  # hooks run in the order of registration: those of inner wrappers exist by now
            stack.callback(module.register_forward_hook(hook).remove)
            handle.remove()

        handle = module.register_forward_pre_hook(begin)
        stack.callback(handle.remove)
        yield


def _run_reading(modules: Mapping[str, Module], *, run: Callable[[], Any], keep: Callable[[str, Tensor | None], bool], stops: bool) -> None:
    """Pass the outputs of each of some `modules` to `keep` in one run, before later steps can change them, until it returns True.
    If `stops`, the run ends once it has returned True for all modules. Without modules nothing runs."""
    waiting = set(modules)
    end = _ForwardEnd()

    def reader(name: str) -> Callable[..., None]:
        def hook(_module: Module, _args: Any, output: Any) -> None:
            if name in waiting and keep(name, as_tensor(output)):
                waiting.discard(name)
            if stops and not waiting:
                if torch.compiler.is_exporting():
                    raise NetworkError(f"it ends at {name!r}, and what follows there does not run without the layers that were removed")
                raise end

        return hook

    with ExitStack() as stack:
        for name, module in modules.items():
            stack.enter_context(_listening(module, reader(name)))
        try:
            if modules:
                run()
        except _ForwardEnd as reached:  # when read networks are nested, the end of the outer one propagates
            if reached is not end:
                raise


def first_outputs(modules: Mapping[str, Module], *, given: Any, run: Callable[[], Any], stops: bool) -> dict[str | None, Tensor | None]:
    """Return the first output of each of some `modules` in one run; all of them, joined, if a loop calls it for parts of the batch.
    `given` is the batch of the run. If `stops`, it ends once every module has been called for as many examples."""
    calls: dict[str | None, list[Tensor | None]] = {}
    count = flat_tensors(given)[0].shape[0]

    def keep(name: str, values: Tensor | None) -> bool:
        own = calls.setdefault(name, [])
        own.append(values if stops or values is None else values.clone())  # later modules may change it in place
        sizes = [one.shape[0] for one in own if one is not None and one.ndim]
        return stops and (len(sizes) < len(own) or sum(sizes) >= count)

    _run_reading(modules, run=run, keep=keep, stops=stops)
    whole = {name: joined(own, count) if len(own) > 1 else None for name, own in calls.items()}
    return {name: own[0] if whole[name] is None else whole[name] for name, own in calls.items()}


def pooled_points(  # over the limit: a network, and how it is run and read
    points: Sequence[Point],
    modules: Mapping[str, Module],
    *,
    given: Inputs,
    run: Callable[[], Any],
    mask: Callable[[Tensor, int, int], Tensor | None],
    stops: bool,
) -> Tensor:
    """Return the pooled values of some hook points in one run, (N, D): each is pooled when it is made, so that none has to be kept.
    `modules` are those of the points by name, and `given` is the batch of the run. `mask` returns the mask of values, which are those of
    the examples from one number to another. `stops` is as in `_run_reading`."""
    read = {point.module: point for point in points}
    parts: dict[str | None, list[list[Tensor]]] = {name: [] for name in read}
    count = flat_tensors(given)[0].shape[0]

    def keep(module: str | None, values: Tensor | None) -> bool:
        if values is None:
            return True
        point, done = read[module], sum(pools[0].shape[0] for pools in parts[module])
        values = values[None] if values.ndim == 1 else values  # of a loop over single examples
        upto = done + values.shape[point.items_second]
        parts[module].append(point.pooled(values, mask(values, done, upto)))
        return bool(upto >= count)

    if None in read:
        keep(None, _read_input(given))
    _run_reading(modules, run=run, keep=keep, stops=stops)
    missing = [point.block for name, point in read.items() if sum(pools[0].shape[0] for pools in parts[name]) != count]
    if missing:
        raise UnevenTapsError(f"The block {missing[0]!r} did not give an output for each example of this run. Leave it out.", missing)
    return torch.cat([pools[0] if len(pools) == 1 else torch.cat(pools) for name in read for pools in zip(*parts[name], strict=True)], 1)


def _read_input(inputs: Inputs) -> Tensor | None:
    """Return the network's input, or the first floating-point tensor of named `inputs`; None for token ids."""
    real = [tensor for name, tensor in by_name(inputs).items() if tensor.is_floating_point() and "mask" not in name and name != "columns"]
    return real[0] if real else None


def read_point(tap: Tap, module: str | None, *, two: Tensor | None, three: Tensor | None, hint: tuple[int, bool]) -> Point | None:
    """Return how a hook point is read; None if it holds no floating-point values per example."""
    if two is None or three is None or not two.is_floating_point() or two.ndim != three.ndim or two.ndim < 2:
        return None
    items = [axis for axis, sizes in enumerate(zip(two.shape, three.shape, strict=True)) if sizes == (2, 3)]
    pools = pools_at(tap.pools, two.ndim)
    if not pools or not items or items[0] > (two.ndim == 3):
        return None
    second = items[0] == 1
    seen, (width, convolved) = two.transpose(0, 1) if second else two, hint
    one, last = seen.shape[1] == width, seen.shape[-1] == width  # by the hinted width if one axis alone matches it
    last = last if one != last else seen.ndim == 3 and not convolved
    point = Point(tap.block, module, pools, last, second)
    channels, *positions = point.arranged(two).shape[1:]
    rows, columns = (min(GRID, size) for size in positions) if len(positions) == 2 else (0, 0)
    return replace(point, channels=channels, cells=(rows, columns))


def read_points(  # over the limit: a network, and how it is run and read
    taps: Sequence[Tap],
    ends: Mapping[str, str],
    *,
    modules: Mapping[str, Module],
    sample: Inputs,
    run: Callable[[Inputs], Any],
    hint: Callable[[Tap, Tensor | None], tuple[int, bool]],
) -> list[Point]:
    """Run batches of two and three examples and return how each of the `taps` is read. Taps without floating-point values are skipped.
    `ends` maps the blocks that are called to their last modules. `hint` returns, as `width_hint` does, what is known of a tap's values for
    two examples. Raise if nothing can be read."""
    runs = []
    with torch.no_grad():
        for batch in (sample, three_items(sample)):
            seen: dict[str | None, Tensor | None] = {None: _read_input(batch)}
            called = {name: modules[name] for name in ends.values()}
            runs.append({**seen, **first_outputs(called, given=batch, run=partial(run, batch), stops=False)})
    found = []
    for tap in taps:
        if tap.block in ends or tap.block == INPUT:
            two, three = (seen.get(ends.get(tap.block)) for seen in runs)
            found.append(read_point(tap, ends.get(tap.block), two=two, three=three, hint=hint(tap, two)))
    points = [point for point in found if point is not None]
    if not points:
        raise nothing_left(taps)
    return points


def block_ends(body: Body, blocks: Sequence[Block], *, order: Sequence[str], aside: Sequence[str] = ()) -> dict[str, str]:
    """Return the last module of each of some blocks, called in this `order`, without blocks that are never called and parts `aside`."""
    found = {block.name: block_end(block, body.layers, order=order, aside=aside) for block in blocks}
    return {name: end for name, end in found.items() if end is not None}


def block_end_of(body: Body, block: Block, *, order: Sequence[str], aside: Sequence[str] = ()) -> str:
    """Return the last module of a block. Raise if the block is never called."""
    ends = block_ends(body, [block], order=order, aside=aside)
    if not ends:
        raise NetworkError(f"The block {block.name!r} is never called: its weights are read by other code, or not at all. Cut elsewhere.")
    return ends[block.name]


def width_hint(layers: Sequence[Module], *, given: bool) -> tuple[int, bool]:
    """Return the number of channels that layers output (`given`) or read, and whether the deciding layer is a convolutional one."""
    for layer in reversed(layers) if given else layers:
        width = _width(layer, _GIVEN if given else _READ)
        if width:
            return width, isinstance(layer, _CONVOLVED)
    return 0, False


def _width(layer: Module, names: Sequence[str]) -> int:
    for name in names:
        size = getattr(layer, name, None)
        size = size[-1] if isinstance(size, tuple) and size else size
        if isinstance(size, int):
            return 2 * size if name == "hidden_size" and getattr(layer, "bidirectional", False) else size
    return 0
