"""What more items would give: a power law through the points of a learning curve, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["expected_gain", "fit_curves"]

_POWERS = np.geomspace(0.1, 2.0, 24)
_DRAWS = 400


def fit_curves(items: np.ndarray, values: np.ndarray, *, errors: np.ndarray) -> np.ndarray:
    """Fit a - b n^-c with a <= 1, b >= 0 and c from 0.1 to 2 by weighted least squares, to several sets of figures at once.

    Source: Cortes, Jackel, Solla, Vapnik & Denker, Learning Curves, NIPS 1993 (the power law).

    Args:
        items: (k,) numbers of items.
        values: (m, k) figures.
        errors: (k,) their standard errors.

    Returns:
        (m, 3): a, b and c of each.
    """
    weights = 1 / np.square(np.maximum(errors, 1e-4))
    found, lowest = np.zeros((len(values), 3)), np.full(len(values), np.inf)
    for power in _POWERS:
        base = items**-power
        level, slope = _lines(base, values, weights=weights)
        loss = np.square(level[:, None] - slope[:, None] * base - values) @ weights
        better = loss < lowest
        found[better] = np.stack([level, slope, np.full(len(values), power)], axis=1)[better]
        lowest = np.minimum(loss, lowest)
    return found


def _lines(base: np.ndarray, values: np.ndarray, *, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return (m,) a <= 1 and (m,) b >= 0 of the best a - b base."""
    centre, middle = np.average(base, weights=weights), values @ weights / weights.sum()
    off = (base - centre) * weights
    slope = np.maximum(-(values - middle[:, None]) @ off / max(float(off @ (base - centre)), 1e-30), 0)
    level = middle + slope * centre
    ceiling = np.maximum((1 - values) @ (weights * base) / float((weights * base) @ base), 0)
    return np.minimum(level, 1.0), np.where(level > 1, ceiling, slope)


def expected_gain(points: Sequence[tuple[int, float, float]], now: int, *, later: int) -> tuple[float, float, float] | None:
    """Return how much higher the figure is expected to be, and its 95 % interval.

    The curve is fitted again to 400 draws of its points, each within its error (a parametric bootstrap).

    Args:
        points: (items, figure, standard error), ascending.

    Returns:
        The gain, low and high; None for fewer than three points.
    """
    if len(points) < 3:
        return None
    items, values, errors = (np.array(column, np.float64) for column in zip(*points, strict=True))
    drawn = values + np.random.default_rng(0).standard_normal((_DRAWS, len(values))) * errors
    fits = fit_curves(items, np.concatenate([values[None], drawn]), errors=errors)
    gains = fits[:, 1] * (now ** -fits[:, 2] - later ** -fits[:, 2])
    low, high = np.quantile(gains[1:], [0.025, 0.975])
    return float(gains[0]), float(min(low, gains[0])), float(max(high, gains[0]))
