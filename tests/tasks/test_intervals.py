"""Intervals against published numbers, and their coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from regraft.errors import DataError
from regraft.tasks import paired_difference, wilson_interval
from regraft.tasks.intervals import bootstrap_interval


@pytest.mark.parametrize(
    ("successes", "trials", "expected"),
    [  # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_published(successes: int, trials: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(successes, trials) == pytest.approx(expected, abs=5e-5)


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilson_is_scipys_and_holds_the_share(a: int, b: int) -> None:
    trials = a + b
    low, high = wilson_interval(a, trials)
    assert 0.0 <= low <= high <= 1.0
    if trials:
        assert low <= a / trials <= high
        expected = binomtest(a, trials).proportion_ci(0.95, method="wilson")
        assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    else:
        assert (low, high) == (0.0, 1.0)


def test_wilson_refuses_impossible_counts() -> None:
    with pytest.raises(DataError, match="received 3 of 2"):
        wilson_interval(3, 2)


def test_bootstrap_of_a_mean_is_near_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    low, high = bootstrap_interval(values)
    assert (low, high) == pytest.approx((values.mean() - 1.96 * 0.1, values.mean() + 1.96 * 0.1), abs=0.03)
    assert bootstrap_interval(values) == (low, high)


def test_bootstrap_of_equal_items_is_a_point_and_of_none_is_refused() -> None:
    assert bootstrap_interval([4.0, 4.0, 4.0]) == (4.0, 4.0)
    with pytest.raises(DataError, match=r"shape \(0,\)"):
        bootstrap_interval([])


def _pair(both: int, only_a: int, only_b: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    table = np.array([[1, 1]] * both + [[1, 0]] * only_a + [[0, 1]] * only_b + [[0, 0]] * neither, dtype=bool).reshape(-1, 2)
    return table[:, 0], table[:, 1]


def test_paired_difference_published() -> None:
    """Newcombe 1998, Statistics in Medicine 17:2635-2650: the table 36, 12, 2, 0 with method 10."""
    result = paired_difference(*_pair(36, 12, 2, 0))
    assert result["difference"] == pytest.approx(0.2)
    assert result["interval"] == pytest.approx([0.0569, 0.3404], abs=5e-5)
    assert (result["better"], result["examples"], result["only_a"], result["only_b"]) == ("a", 50, 12, 2)


@settings(deadline=None)
@given(st.integers(0, 40), st.integers(0, 20), st.integers(0, 20), st.integers(0, 40))
def test_paired_difference_is_antisymmetric_and_exact(both: int, only_a: int, only_b: int, neither: int) -> None:
    if both + only_a + only_b + neither == 0:
        return
    a, b = _pair(both, only_a, only_b, neither)
    ab, ba = paired_difference(a, b), paired_difference(b, a)
    assert ab["difference"] == pytest.approx(-ba["difference"])
    assert ab["interval"] == pytest.approx([-ba["interval"][1], -ba["interval"][0]])
    assert ab["interval"][0] - 1e-9 <= ab["difference"] <= ab["interval"][1] + 1e-9
    if only_a + only_b:
        assert ab["p_value"] == pytest.approx(binomtest(only_a, only_a + only_b).pvalue, rel=1e-6)
    else:
        assert ab["p_value"] == 1.0


@settings(max_examples=3, deadline=None)
@given(st.integers(0, 1000))
def test_paired_interval_covers(seed: int) -> None:
    generator = np.random.default_rng(seed)
    hits = 0
    for _ in range(300):
        shared = generator.random(60)
        a, b = shared < 0.9, np.where(generator.random(60) < 0.2, generator.random(60) < 0.8, shared < 0.8)
        low, high = paired_difference(a, b)["interval"]
        hits += low <= 0.1 <= high
    assert hits / 300 > 0.9


def test_paired_difference_says_when_nothing_is_known() -> None:
    assert paired_difference([True, False], [True, False])["better"] is None
    with pytest.raises(DataError, match="received 2 and 3"):
        paired_difference([True, False], [True, False, True])
