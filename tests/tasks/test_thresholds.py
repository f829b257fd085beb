"""Thresholds against trying every cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit
from sklearn.metrics import f1_score

from regraft.errors import DataError
from regraft.tasks import fit_thresholds, judge


def _brute_force(chances: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """Return the highest F1 of one label, and how near to 0.5 a candidate comes that reaches it."""
    values = np.unique(chances)
    candidates = np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2])
    f1 = np.array([2 * (truth & (chances >= cut)).sum() / (truth.sum() + (chances >= cut).sum()) for cut in candidates])
    return f1.max(), np.abs(candidates[f1 == f1.max()] - 0.5).min()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(-4, 4), st.sampled_from([0.0, 1.0, np.nan])), min_size=6, max_size=40),
    st.integers(0, 9),
)
def test_thresholds_are_those_of_brute_force(items: list[tuple[int, float]], seed: int) -> None:
    draw = np.random.default_rng(seed)
    raw, truth = np.array(items, dtype=float).T
    scores = np.stack([raw, draw.normal(size=len(raw)), raw * 10], axis=1)
    targets = np.stack([truth, truth, draw.permutation(truth)], axis=1)
    for column, cut in enumerate(fit_thresholds(scores, targets)):
        known = ~np.isnan(targets[:, column])
        chances, labels = expit(scores[known, column]), targets[known, column] == 1
        if min(labels.sum(), (~labels).sum()) < 3:
            assert cut == 0.5
            continue
        best, distance = _brute_force(chances, labels)
        assert f1_score(labels, chances >= cut) == pytest.approx(best)
        assert abs(cut - 0.5) == pytest.approx(distance)


def test_few_positive_or_negative_items_keep_one_half() -> None:
    scores = np.linspace(-5, -2, 8)[:, None].repeat(3, axis=1)
    targets = np.zeros((8, 3))
    targets[-2:, 0], targets[-3:, 1], targets[2:, 2] = 1, 1, 1
    first, second, third = fit_thresholds(scores, targets)
    assert (first, third) == (0.5, 0.5)
    assert second == pytest.approx((expit(scores[4, 1]) + expit(scores[5, 1])) / 2)


def test_unknown_targets_change_nothing() -> None:
    draw = np.random.default_rng(0)
    scores, targets = draw.normal(size=(30, 2)), (draw.random((30, 2)) > 0.5).astype(float)
    more = np.vstack([scores, [[9.0, -9.0]]]), np.vstack([targets, [[np.nan, np.nan]]])
    np.testing.assert_array_equal(fit_thresholds(*more), fit_thresholds(scores, targets))


def test_neighbouring_floats_are_still_told_apart() -> None:
    top = np.array([1e-300, 0.0, 30.0, 36.0, 36.7, 50.0, 60.0])
    targets = np.array([0, 0, 0, 0, 1, 1, 1])
    (cut,) = fit_thresholds(top[:, None], targets[:, None])
    assert judge(top[:, None], targets[:, None], kind="multi-label", thresholds=[cut])["macro_f1"] == 1.0


def test_they_raise_f1_where_labels_are_rare() -> None:
    draw = np.random.default_rng(3)
    targets = (draw.random((400, 4)) < 0.15).astype(int)
    scores = draw.normal(size=(400, 4)) + 2 * targets - 3
    before = judge(scores, targets, kind="multi-label")
    after = judge(scores, targets, kind="multi-label", thresholds=fit_thresholds(scores, targets))
    assert after["macro_f1"] > before["macro_f1"] + 0.2
    assert after["micro_f1"] > before["micro_f1"] + 0.2
    assert after["map"] == before["map"] and after["log_loss"] == before["log_loss"]


@pytest.mark.parametrize(
    ("scores", "targets", "message"),
    [
        ([[1.0]], [[1, 0]], r"received \(1, 1\) and \(1, 2\)"),
        ([1.0], [1], r"\(N, C\)"),
        ([[np.nan]], [[1]], "1 of 1 example "),
        ([[1.0]], [[2]], "from 2.0 to 2.0"),
    ],
)
def test_what_has_no_thresholds_is_refused(scores: list[list[float]], targets: list[list[int]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fit_thresholds(scores, targets)
