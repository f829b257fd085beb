"""What is read of a network at several depths at once: which blocks, and how their outputs become numbers."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ...errors import NetworkError, near_names

__all__ = [
    "GRID",
    "INPUT",
    "POOLS",
    "STD_FLOOR",
    "VECTOR",
    "Tap",
    "TapSlice",
    "checked_points",
    "grid_shares",
    "nothing_left",
    "pools_at",
    "refuse_read_input",
    "slices_of",
]

INPUT = "input"
POOLS = ("mean", "std", "rows", "columns", "token")
VECTOR = "vector"
GRID = 8
"""Most cells of an axis that "rows" or "columns" keeps."""
STD_FLOOR = 1e-6
"""Added to the variance: the root of 0 has no gradient."""

_BY_RANK = {3: ("mean", "std", "token"), 4: ("mean", "std", "rows", "columns")}


@dataclass(frozen=True)
class Tap:
    """One place where a network is read, and how.

    Attributes:
        block: a block's name, whose output is read, or "input" for what the network takes.
        pools: how an output of several positions becomes numbers, each once: "mean" and "std" over all positions, by channel; "rows"
            and "columns" (maps): the mean over the other axis at up to 8 places of this one; "token" (sequences): the first position.
            What an output does not have is left out; one without positions, (N, d), is taken as it is.
    """

    block: str
    pools: tuple[str, ...] = ("mean", "std")


class TapSlice(NamedTuple):
    """Which features come from which tap: columns `start` to `stop`; `pool` is "vector" where the output has no positions."""

    block: str
    pool: str
    start: int
    stop: int


def checked_points(points: Sequence[Tap], blocks: Collection[str]) -> tuple[Tap, ...]:
    """Return the points, each pool once."""
    if not points:
        raise NetworkError(f"Received no points to read the network at; expected {INPUT!r} or blocks: {', '.join(blocks)}.")
    for at, tap in enumerate(points):
        if tap.block != INPUT and tap.block not in blocks:
            raise NetworkError(f"The network has no block {tap.block!r}{near_names(tap.block, [INPUT, *blocks])}")
        if tap.block in [other.block for other in points[:at]]:
            raise NetworkError(f"Received the block {tap.block!r} in two taps; expected one with all its pools.")
        unknown = [pool for pool in tap.pools if pool not in POOLS]
        if unknown or not tap.pools:
            received = repr(unknown[0]) if unknown else "none"
            raise NetworkError(f"The pools of the tap at {tap.block!r}: received {received}; expected some of {', '.join(POOLS)}.")
    return tuple(Tap(tap.block, tuple(dict.fromkeys(tap.pools))) for tap in points)


def pools_at(pools: Sequence[str], rank: int) -> tuple[str, ...]:
    """Return those of the pools that values of `rank` axes have; "vector" alone for (N, d)."""
    return (VECTOR,) if rank == 2 else tuple(pool for pool in pools if pool in _BY_RANK.get(rank, ("mean", "std")))


def grid_shares(size: int, cells: int) -> np.ndarray:
    """Return by which share each of `size` positions counts in each cell, (cells, size), as adaptive average pooling has them."""
    shares = np.zeros((cells, size), np.float32)
    for at in range(cells):
        inside = slice(at * size // cells, -(-(at + 1) * size // cells))
        shares[at, inside] = 1 / (inside.stop - inside.start)
    return shares


def nothing_left(points: Sequence[Tap]) -> NetworkError:
    """Return the error that says that nothing of the points can be read."""
    asked = "; ".join(f"{tap.block!r} ({', '.join(tap.pools)})" for tap in points)
    return NetworkError(
        f"Nothing of the taps can be read: {asked}. Expected real numbers for each item: token ids are not read, maps have no token, "
        "sequences no rows or columns. Add a block whose output is a feature map, a sequence or a vector."
    )


def refuse_read_input(slices: Sequence[TapSlice], change: str) -> None:
    """Raise if the `slices` of a network's features hold its own input, whose number a `change` of the input would change."""
    if any(part.block == INPUT for part in slices):
        raise NetworkError(f"Received {change} for a network whose input is tapped; change the untapped network, then tap it.")


def slices_of(parts: Sequence[tuple[str, str, int]]) -> tuple[TapSlice, ...]:
    """Return where each part stands among the features, the `parts` in order: block, pool, width."""
    found, start = [], 0
    for block, pool, width in parts:
        found.append(TapSlice(block, pool, start, start + width))
        start += width
    return tuple(found)
