"""Whether a cache that is there holds what this network gives today: a dozen of its rows are computed again.

Code that no digest sees may have changed. The rows are drawn anew each time, from all over the cache. They are computed in a batch of
the size in which they were filled, each at its old place in it: on one engine with the same number of threads their values are then
bit-identical for most networks, because sums are taken in the same order. Where they are not, they may differ by rounding alone, and
one batch as it was filled settles what that comes from.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..data import Prepared
from ..networks.contract import Inputs
from .cache import ActivationCache
from .units import rows_of

__all__ = ["Check", "Piece", "pieces_of"]

DRAWN = 12
ROUNDING = 1e-5
"""Largest difference by rounding, in proportion to the largest value of an output."""


@dataclass(frozen=True)
class Piece:
    """Rows that were computed in one batch: which view, the first row, and the items."""

    view: int
    first: int
    items: np.ndarray


def pieces_of(rows: range, count: int, *, batch_size: int) -> list[Piece]:
    """Split a chunk of rows into batches: within a view, and of so many items at most.

    Result: The batches, in the order of their rows.
    """
    pieces, start = [], rows.start
    while start < rows.stop:
        view = start // count
        stop = min(rows.stop, (view + 1) * count)
        found = range(start, stop, batch_size)
        pieces += [Piece(view, first, np.arange(first, min(first + batch_size, stop)) - view * count) for first in found]
        start = stop
    return pieces


@dataclass(frozen=True)
class Check:
    """How rows are computed again.

    Attributes:
        views: which views; row v * N + i is item i in the v-th of them.
        run: inputs -> live outputs, as for filling.
        exact: whether the engine is the one that filled the cache, and its sums are the same in every run.
        rounding: largest difference by rounding, in proportion to the largest value of an output.
    """

    items: Prepared
    views: Sequence[int]
    run: Callable[[Inputs], list[Tensor]]
    batch_size: int
    exact: bool
    rounding: float = ROUNDING

    def holds(self, cache: ActivationCache) -> bool:
        """Tell whether the finished rows of a cache are those of today."""
        pieces = [piece for rows in cache.finished for piece in pieces_of(rows, len(self.items), batch_size=self.batch_size)]
        if not pieces:
            return True
        drawn, places = _drawn(pieces, np.random.default_rng([*cache.done.tolist(), secrets.randbits(64)]))
        kept = cache.stored(np.array([piece.first + place for piece, place in zip(drawn, places, strict=True)]))
        made = [value[places] for value in cache.in_its_types(self.run(self._at_places(drawn, places)))]
        if _same(made, kept):
            return True
        return _near(made, kept, rounding=self.rounding) and (not self.exact or self._same_as_filled(cache, drawn[0]))

    def _at_places(self, drawn: Sequence[Piece], places: np.ndarray) -> Inputs:
        """Return a batch of the size of the pieces with one item of each at its place; the same items fill the places between."""
        chosen = [int(piece.items[place]) for piece, place in zip(drawn, places, strict=True)]
        inputs = self.items.batch(np.array(chosen), self.views[drawn[0].view])
        rows = np.arange(len(drawn[0].items)) % len(drawn)
        rows[places] = np.arange(len(drawn))
        return rows_of(inputs, rows.tolist())

    def _same_as_filled(self, cache: ActivationCache, piece: Piece) -> bool:
        """Compute one batch again as it was filled; where two runs of it differ too, rounding is all that can be said."""
        inputs = self.items.batch(piece.items, self.views[piece.view])
        kept = cache.stored(np.arange(piece.first, piece.first + len(piece.items)))
        first = cache.in_its_types(self.run(inputs))
        if _same(first, kept):
            return True
        return _near(first, kept, rounding=self.rounding) and not _same(first, cache.in_its_types(self.run(inputs)))


def _drawn(pieces: Sequence[Piece], number: np.random.Generator) -> tuple[list[Piece], np.ndarray]:
    """Draw places in a batch, and for each of them one of the batches of one size and view."""
    sizes = np.array([len(piece.items) for piece in pieces])
    one = pieces[int(number.choice(len(pieces), p=sizes / sizes.sum()))]
    like = [piece for piece in pieces if piece.view == one.view and len(piece.items) == len(one.items)]
    places = np.sort(number.permutation(len(one.items))[:DRAWN])
    return [like[int(at)] for at in number.integers(len(like), size=len(places))], places


def _same(made: Sequence[np.ndarray], kept: Sequence[np.ndarray]) -> bool:
    """Tell whether all bits are the same."""
    return all(one.tobytes() == other.tobytes() for one, other in zip(made, kept, strict=True))


def _near(made: Sequence[np.ndarray], kept: Sequence[np.ndarray], *, rounding: float) -> bool:
    """Tell whether values differ by rounding alone; whole numbers must be the same."""
    for one, other in zip(made, kept, strict=True):
        if not np.issubdtype(one.dtype, np.inexact):
            if not np.array_equal(one, other):
                return False
            continue
        kind = np.complex128 if np.iscomplexobj(one) else np.float64
        one, other, step = one.astype(kind), other.astype(kind), 2.0 * float(np.finfo(one.dtype).eps)
        finite = np.isfinite(one)
        if not np.array_equal(one[~finite], other[~finite], equal_nan=True):
            return False
        largest = float(np.abs(one[finite]).max(initial=0.0))
        if not np.all(np.abs(one - other)[finite] <= rounding * largest + step * np.abs(one[finite])):
            return False
    return True
