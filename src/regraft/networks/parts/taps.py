"""Taps: the blocks of a network whose outputs are read as features, and how each output is pooled."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...errors import NetworkError, near_names

INPUT = "input"
POOLS = ("mean", "std", "rows", "columns", "token")
VECTOR = "vector"
GRID = 8  # Largest number of cells per axis that "rows" and "columns" keep
STD_FLOOR = 1e-6  # Added to the variance, because the square root has no finite gradient at 0

_BY_RANK = {3: ("mean", "std", "token"), 4: ("mean", "std", "rows", "columns")}


@dataclass(frozen=True)
class Tap:
    """One hook point where features are read, and how they are pooled.
    `pools`: the poolings of an output with several positions: "mean" and "std" over all positions, per channel; "rows" and "columns"
    (feature maps): the mean over the other axis, in up to 8 cells of this one; "token" (sequences): the first position. Poolings that do
    not apply to an output are skipped; an output (N, d) without positions is used as is."""

    block: str  # name of the block whose output is read, or "input" for the network's input
    pools: tuple[str, ...] = ("mean", "std")


class TapSlice(NamedTuple):
    """The columns `start` to `stop` of the features that come from one tap; `pool` is "vector" for an output without positions."""

    block: str
    pool: str
    start: int
    stop: int


def checked_points(points: Sequence[Tap], blocks: Collection[str]) -> tuple[Tap, ...]:
    """Return the taps without repeated pools; unknown or repeated blocks and unknown pools are errors."""
    if not points:
        raise NetworkError(f"Received no points to read the network at; expected {INPUT!r} or blocks: {', '.join(blocks)}.")
    for at, tap in enumerate(points):
        if tap.block != INPUT and tap.block not in blocks:
            raise NetworkError(f"The network has no block {tap.block!r}{near_names(tap.block, [INPUT, *blocks])}")
        if tap.block in [other.block for other in points[:at]]:
            raise NetworkError(f"Received the block {tap.block!r} twice; expected it once, with all its pools.")
        unknown = [pool for pool in tap.pools if pool not in POOLS]
        if unknown or not tap.pools:
            received = repr(unknown[0]) if unknown else "none"
            raise NetworkError(f"The pools of the block {tap.block!r}: received {received}; expected some of {', '.join(POOLS)}.")
    return tuple(Tap(tap.block, tuple(dict.fromkeys(tap.pools))) for tap in points)


def pools_at(pools: Sequence[str], rank: int) -> tuple[str, ...]:
    """Return the pools that apply to values with `rank` axes; only "vector" for (N, d)."""
    return (VECTOR,) if rank == 2 else tuple(pool for pool in pools if pool in _BY_RANK.get(rank, ("mean", "std")))


def grid_shares(size: int, cells: int) -> np.ndarray:
    """Return the weight (cells, size) of each position in each cell of adaptive average pooling."""
    shares = np.zeros((cells, size), np.float32)
    for at in range(cells):
        inside = slice(at * size // cells, -(-(at + 1) * size // cells))
        shares[at, inside] = 1 / (inside.stop - inside.start)
    return shares


def nothing_left(points: Sequence[Tap]) -> NetworkError:
    """Return the error for taps without any readable output."""
    asked = "; ".join(f"{tap.block!r} ({', '.join(tap.pools)})" for tap in points)
    return NetworkError(
        f"None of these outputs can be read as features: {asked}. Expected real numbers for each example: token ids are not read, maps "
        "have no token, sequences no rows or columns. Add a block whose output is a feature map, a sequence or a vector."
    )


def slices_of(parts: Sequence[tuple[str, str, int]]) -> tuple[TapSlice, ...]:
    """Return the column ranges of consecutive `parts` (block, pool, width)."""
    found, start = [], 0
    for block, pool, width in parts:
        found.append(TapSlice(block, pool, start, start + width))
        start += width
    return tuple(found)
