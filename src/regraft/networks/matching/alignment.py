"""Order-preserving alignments of two sequences: how many largest ones there are, and which."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["alignments", "count_alignments"]


def _table(first: Sequence[object], second: Sequence[object]) -> list[list[int]]:
    """Return the size of the largest alignment of every pair of prefixes."""
    sizes = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, two in enumerate(second, 1):
            sizes[i][j] = max(sizes[i - 1][j], sizes[i][j - 1], sizes[i - 1][j - 1] + (one == two))
    return sizes


def count_alignments(first: Sequence[object], second: Sequence[object]) -> int:
    """Return how many order-preserving alignments of equal elements reach the largest size.

    Formula: with L the largest size for prefixes of length i and j, the alignments that use the pair (i, j) are those of
    (i-1, j-1) with L-1 pairs; the others leave out i or j, counted by inclusion and exclusion.
    """
    sizes = _table(first, second)
    ways = [[1] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, two in enumerate(second, 1):
            size = sizes[i][j]
            total = ways[i - 1][j] * (sizes[i - 1][j] == size) + ways[i][j - 1] * (sizes[i][j - 1] == size)
            total -= ways[i - 1][j - 1] * (sizes[i - 1][j - 1] == size)
            ways[i][j] = total + ways[i - 1][j - 1] * (one == two and sizes[i - 1][j - 1] + 1 == size)
    return ways[-1][-1]


def alignments(first: Sequence[object], second: Sequence[object], *, limit: int) -> list[tuple[tuple[int, int], ...]]:
    """Return largest alignments as pairs of positions, at most `limit` of them."""
    sizes = _table(first, second)
    found: list[tuple[tuple[int, int], ...]] = []
    waiting: list[tuple[int, int, tuple[tuple[int, int], ...]]] = [(len(first), len(second), ())]
    while waiting and len(found) < limit:
        i, j, pairs = waiting.pop()
        if sizes[i][j] == 0:
            found.append(pairs)
            continue
        size = sizes[i][j]
        # the last pair of the rest is (a, b): every alignment is reached by exactly one choice of last pairs
        for a in range(1, i + 1):
            waiting += [
                (a - 1, b - 1, ((a - 1, b - 1), *pairs))
                for b in range(1, j + 1)
                if first[a - 1] == second[b - 1] and sizes[a - 1][b - 1] == size - 1
            ]
    return found
