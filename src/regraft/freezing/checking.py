"""Check of an existing cache: a dozen random rows are recomputed with the current network.

Code that no digest covers may have changed. The rows are drawn from the whole cache, differently each time. They are computed in a batch
of the original size, each at its original position: with the same engine and number of threads, the values are then bit-identical for
most networks, because sums are taken in the same order. Otherwise they may differ by rounding only, and recomputing one original batch
shows whether rounding varies from run to run.
"""

import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..data import PreparedData
from ..networks.network import Inputs
from ..networks.parts.protocols import chosen_rows
from .cache import ActivationCache

DRAWN = 12
ROUNDING = 1e-5  # Maximum rounding difference, relative to the largest value of an output


@dataclass(frozen=True)
class _Piece:
    """Rows that were computed in one batch: index of the view, first row, and example indices."""

    view: int
    first: int
    items: np.ndarray


def pieces_of(rows: range, count: int, *, batch_size: int) -> list[_Piece]:
    """Split a chunk of rows into batches within one view, in order. `count`: number of examples per view."""
    pieces, start = [], rows.start
    while start < rows.stop:
        view = start // count
        stop = min(rows.stop, (view + 1) * count)
        found = range(start, stop, batch_size)
        pieces += [_Piece(view, first, np.arange(first, min(first + batch_size, stop)) - view * count) for first in found]
        start = stop
    return pieces


@dataclass(frozen=True)
class Check:
    """Recomputation of cached rows."""

    items: PreparedData
    views: Sequence[int]  # views of the cache; row v * N + i is example i in the v-th view
    run: Callable[[Inputs], list[Tensor]]  # function from inputs to live outputs
    batch_size: int
    exact: bool  # whether bit-identical values are expected: the same engine filled the cache, and it is deterministic
    rounding: float = ROUNDING  # maximum rounding difference, relative to the largest value of an output

    def holds(self, cache: ActivationCache) -> bool:
        """Return whether the finished rows of a cache match the current network."""
        pieces = [piece for rows in cache.finished for piece in pieces_of(rows, len(self.items), batch_size=self.batch_size)]
        if not pieces:
            return True
        drawn, places = _drawn(pieces, np.random.default_rng([*cache.done.tolist(), secrets.randbits(64)]))
        kept = cache.stored(np.array([piece.first + place for piece, place in zip(drawn, places, strict=True)]))
        made = [value[places] for value in cache.in_its_types(self.run(self._at_places(drawn, places)))]
        if _same(made, kept):
            return True
        return _near(made, kept, rounding=self.rounding) and (not self.exact or self._same_as_filled(cache, drawn[0]))

    def _at_places(self, drawn: Sequence[_Piece], places: np.ndarray) -> Inputs:
        """Return a batch of the pieces' size with one example of each piece at its position. The same examples fill the other positions."""
        chosen = [int(piece.items[place]) for piece, place in zip(drawn, places, strict=True)]
        inputs = self.items.batch(np.array(chosen), self.views[drawn[0].view])
        rows = np.arange(len(drawn[0].items)) % len(drawn)
        rows[places] = np.arange(len(drawn))
        return chosen_rows(inputs, rows.tolist())

    def _same_as_filled(self, cache: ActivationCache, piece: _Piece) -> bool:
        """Return whether one original batch gives the cached values; equal up to rounding suffices if two runs differ themselves."""
        inputs = self.items.batch(piece.items, self.views[piece.view])
        kept = cache.stored(np.arange(piece.first, piece.first + len(piece.items)))
        first = cache.in_its_types(self.run(inputs))
        if _same(first, kept):
            return True
        return _near(first, kept, rounding=self.rounding) and not _same(first, cache.in_its_types(self.run(inputs)))


def _drawn(pieces: Sequence[_Piece], number: np.random.Generator) -> tuple[list[_Piece], np.ndarray]:
    """Draw positions in a batch, and for each position a batch; all batches have the same size and view."""
    sizes = np.array([len(piece.items) for piece in pieces])
    one = pieces[int(number.choice(len(pieces), p=sizes / sizes.sum()))]
    like = [piece for piece in pieces if piece.view == one.view and len(piece.items) == len(one.items)]
    places = np.sort(number.permutation(len(one.items))[:DRAWN])
    return [like[int(at)] for at in number.integers(len(like), size=len(places))], places


def _same(made: Sequence[np.ndarray], kept: Sequence[np.ndarray]) -> bool:
    """Return whether all values are bit-identical."""
    return all(one.tobytes() == other.tobytes() for one, other in zip(made, kept, strict=True))


def _near(made: Sequence[np.ndarray], kept: Sequence[np.ndarray], *, rounding: float) -> bool:
    """Return whether values differ by rounding only; integers must be equal."""
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
