"""The largest order-preserving alignments of two sequences."""

from collections.abc import Sequence


def _table(first: Sequence[object], second: Sequence[object]) -> list[list[int]]:
    """Return the size of the largest alignment for every pair of prefixes."""
    sizes = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, 1):
        for j, two in enumerate(second, 1):
            sizes[i][j] = max(sizes[i - 1][j], sizes[i][j - 1], sizes[i - 1][j - 1] + (one == two))
    return sizes


def alignments(first: Sequence[object], second: Sequence[object], *, limit: int) -> list[tuple[tuple[int, int], ...]]:
    """Return at most `limit` largest alignments as pairs of positions."""
    sizes = _table(first, second)
    found: list[tuple[tuple[int, int], ...]] = []
    waiting: list[tuple[int, int, tuple[tuple[int, int], ...]]] = [(len(first), len(second), ())]
    while waiting and len(found) < limit:
        i, j, pairs = waiting.pop()
        if sizes[i][j] == 0:
            found.append(pairs)
            continue
        size = sizes[i][j]
        # (a, b) is the last remaining pair; each alignment has exactly one sequence of last pairs, so none is found twice
        for a in range(1, i + 1):
            waiting += [
                (a - 1, b - 1, ((a - 1, b - 1), *pairs))
                for b in range(1, j + 1)
                if first[a - 1] == second[b - 1] and sizes[a - 1][b - 1] == size - 1
            ]
    return found
