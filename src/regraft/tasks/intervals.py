"""How sure a figure is: intervals for shares, for any statistic, and for the difference of two networks on the same items."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest

from ..errors import DataError, SettingError

__all__ = ["bootstrap_interval", "paired_difference", "wilson_interval"]


def wilson_interval(successes: int, trials: int, *, confidence: float = 0.95) -> tuple[float, float]:
    """Return the Wilson score interval of a share: honest for small counts and near 0 and 1, unlike p ± 1.96 σ.

    Args:
        successes: 0 … trials.
        trials: >= 0; without any the interval is (0, 1).
        confidence: in (0, 1).

    Returns:
        (lo, hi), both in [0, 1].

    Raises:
        DataError: if the counts are not 0 <= successes <= trials.

    Source:
        Wilson 1927, JASA 22:209-212; Brown, Cai & DasGupta 2001, Statistical Science 16:101-133, equation (4).
    """
    if not 0 <= successes <= trials:
        raise DataError(f"Expected 0 <= successes <= trials; received {successes} of {trials}.")
    if trials == 0:
        return 0.0, 1.0
    found = binomtest(successes, trials).proportion_ci(_checked_confidence(confidence, confidence), method="wilson")
    return float(found.low), float(found.high)


def bootstrap_interval(
    values: npt.ArrayLike,
    statistic: Callable[[np.ndarray], Any] = np.mean,
    *,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> tuple[float, float]:
    """Return the percentile bootstrap interval of a statistic of independent items.

    Args:
        values: (N,) or (N, …); the items, drawn along the first axis with replacement.
        statistic: from an array like `values` to a number.
        confidence: in (0, 1).
        seed: of the draws; same seed, same interval.

    Returns:
        (lo, hi) in the unit of the statistic.

    Raises:
        DataError: if `values` is empty.

    Source:
        Efron & Tibshirani 1993, An Introduction to the Bootstrap, section 13.3.
    """
    items = np.asarray(values)
    if items.ndim == 0 or len(items) == 0:
        raise DataError(f"An interval needs at least one item; received an array of shape {items.shape}.")
    edge = _checked_confidence((1.0 - confidence) / 2.0, confidence)
    generator = np.random.default_rng(seed)
    draws = [float(statistic(items[generator.integers(len(items), size=len(items))])) for _ in range(resamples)]
    low, high = np.quantile(draws, [edge, 1.0 - edge])
    return float(low), float(high)


def paired_difference(correct_a: npt.ArrayLike, correct_b: npt.ArrayLike, *, confidence: float = 0.95) -> dict[str, Any]:
    """Say whether A is better than B, both judged on the same items.

    The interval is Newcombe's for paired shares: it puts the two Wilson intervals together and takes their correlation
    into account, so that it holds for few items and for shares near 1, where the normal approximation fails.

    Args:
        correct_a: (N,) True where A is right.
        correct_b: (N,) the same items, True where B is right.
        confidence: in (0, 1).

    Returns:
        "difference" (share of A minus share of B), "interval" [lo, hi], "p_value" (exact McNemar, two-sided),
        "better" ("a", "b", or None where the interval holds 0), "items", "only_a", "only_b".

    Raises:
        DataError: if the arrays differ in length or are empty.

    Source:
        Newcombe 1998, Statistics in Medicine 17:2635-2650, method 10. McNemar 1947, Psychometrika 12:153-157.
    """
    a, b = np.asarray(correct_a, dtype=bool).ravel(), np.asarray(correct_b, dtype=bool).ravel()
    if len(a) != len(b) or len(a) == 0:
        raise DataError(f"Expected the same items judged twice, at least one; received {len(a)} and {len(b)}.")
    both, only_a, only_b = int((a & b).sum()), int((a & ~b).sum()), int((~a & b).sum())
    low, high = _newcombe(both, only_a, only_b=only_b, neither=len(a) - both - only_a - only_b, confidence=confidence)
    return {
        "difference": (only_a - only_b) / len(a),
        "interval": [low, high],
        "p_value": float(binomtest(only_a, only_a + only_b).pvalue) if only_a + only_b else 1.0,
        "better": "a" if low > 0 else "b" if high < 0 else None,
        "items": len(a),
        "only_a": only_a,
        "only_b": only_b,
    }


def _newcombe(both: int, only_a: int, *, only_b: int, neither: int, confidence: float) -> tuple[float, float]:
    items = both + only_a + only_b + neither
    share_a, share_b = (both + only_a) / items, (both + only_b) / items
    low_a, high_a = wilson_interval(both + only_a, items, confidence=confidence)
    low_b, high_b = wilson_interval(both + only_b, items, confidence=confidence)
    phi = _correlation(both, only_a, only_b=only_b, neither=neither)
    below = _joined(share_a - low_a, high_b - share_b, phi=phi)
    above = _joined(high_a - share_a, share_b - low_b, phi=phi)
    difference = share_a - share_b
    return max(-1.0, difference - below), min(1.0, difference + above)


def _joined(first: float, second: float, *, phi: float) -> float:
    return math.sqrt(max(0.0, first * first - 2 * phi * first * second + second * second))


def _correlation(both: int, only_a: int, *, only_b: int, neither: int) -> float:
    """Return the phi coefficient of the fourfold table with the continuity correction of method 10."""
    margins = (both + only_a) * (only_b + neither) * (both + only_b) * (only_a + neither)
    if margins == 0:
        return 0.0
    items = both + only_a + only_b + neither
    product = both * neither - only_a * only_b
    corrected = product if product < 0 else max(product - items / 2, 0.0)
    return corrected / math.sqrt(margins)


def _checked_confidence(value: float, confidence: float) -> float:
    if not 0.0 < confidence < 1.0:
        raise SettingError(f"confidence must lie between 0 and 1, such as 0.95; received {confidence}.")
    return value
