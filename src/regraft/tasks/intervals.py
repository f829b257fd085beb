"""95 % confidence intervals for proportions, for means, and for the difference of two networks on the same examples."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri
from scipy.stats import binomtest, bootstrap

from ..errors import DataError

_RESAMPLES = 1000
_NORMAL = float(ndtri(0.975))


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of a proportion, valid for small counts and near 0 and 1; (0, 1) without trials.
    Source: Wilson 1927, JASA 22:209-212; Brown, Cai & DasGupta 2001, Statistical Science 16:101-133, equation (4)."""
    if not 0 <= successes <= trials:
        raise DataError(f"Expected 0 <= successes <= trials; received {successes} of {trials}.")
    if trials == 0:
        return 0.0, 1.0
    share, width = successes / trials, 2 * (trials + _NORMAL**2)
    middle = (2 * successes + _NORMAL**2) / width
    half = _NORMAL / width * math.sqrt(4 * successes * (1 - share) + _NORMAL**2)
    return (middle - half if successes else 0.0), (middle + half if successes < trials else 1.0)


def bootstrap_interval(values: npt.ArrayLike) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the mean of independent values (N,), with a fixed seed.
    Source: Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3."""
    items = np.asarray(values)
    if items.ndim == 0 or len(items) == 0:
        raise DataError(f"An interval needs at least one example; received an array of shape {items.shape}.")
    if len(items) == 1:
        return float(items[0]), float(items[0])
    how: dict[str, Any] = {"method": "percentile", "random_state": np.random.default_rng(0)}
    found = bootstrap((items,), np.mean, n_resamples=_RESAMPLES, batch=1, **how).confidence_interval
    return float(found.low), float(found.high)


def paired_difference(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike) -> dict[str, Any]:
    """Test whether A is better than B on the same examples. Both arguments are (N,) bool, True for a correct prediction.
    The 95 % interval is Newcombe's interval for paired proportions. It combines the two Wilson intervals with their correlation, so it is
    valid for few examples and for proportions near 1, where the normal approximation fails. "p_value" is that of the two-sided exact
    McNemar test. "better" is "a", "b", or None if the interval contains 0.
    Source: Newcombe 1998, Statistics in Medicine 17:2635-2650, method 10. McNemar 1947, Psychometrika 12:153-157."""
    a, b = np.asarray(correct_a, dtype=bool).ravel(), np.asarray(correct_b, dtype=bool).ravel()
    if len(a) != len(b) or len(a) == 0:
        raise DataError(f"Expected the same examples judged twice, at least one; received {len(a)} and {len(b)}.")
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    low, high = _newcombe(both, only_a, only_b=only_b, neither=len(a) - both - only_a - only_b)
    return {
        "difference": (only_a - only_b) / len(a),
        "interval": [low, high],
        "p_value": float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
        "better": "a" if low > 0 else "b" if high < 0 else None,
        "examples": len(a),
        "only_a": only_a,
        "only_b": only_b,
    }


def _newcombe(both: int, only_a: int, *, only_b: int, neither: int) -> tuple[float, float]:
    """Return the interval from the 2x2 table, with the continuity correction of method 10 in the phi coefficient."""
    items = both + only_a + only_b + neither
    share_a, share_b = (both + only_a) / items, (both + only_b) / items
    (low_a, high_a), (low_b, high_b) = wilson_interval(both + only_a, items), wilson_interval(both + only_b, items)
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    product = both * neither - only_a * only_b
    corrected = product if product < 0 else max(product - items / 2, 0.0)
    phi = corrected / math.sqrt(margins) if margins else 0.0

    def joined(first: float, second: float) -> float:
        return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))

    difference = share_a - share_b
    below, above = joined(share_a - low_a, high_b - share_b), joined(high_a - share_a, share_b - low_b)
    return max(-1.0, difference - below), min(1.0, difference + above)
