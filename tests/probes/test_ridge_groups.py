from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from regraft.errors import DataError, SettingError
from regraft.probes import LinearProbe, fit_ridge, ridge


def refitted(x: np.ndarray, y: np.ndarray, *, probe: LinearProbe, left_out: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return predictions for the rows left out, by scikit-learn's fit of the others."""
    model = Ridge(alpha=probe.penalty, solver="svd", tol=1e-12).fit(x[~left_out], y[~left_out], sample_weight=weights[~left_out])
    return np.asarray(model.predict(x[left_out])).reshape(int(left_out.sum()), -1)


@settings(max_examples=25, deadline=None)
@given(count=st.integers(6, 16), width=st.integers(1, 24), sets=st.integers(2, 5), seed=st.integers(0, 1000))
def test_leave_group_out_scores_equal_those_of_leaving_each_group_out(count: int, width: int, sets: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    x, y, groups = draw.normal(size=(count, width)), draw.normal(size=(count, 2)), draw.permutation(count) % sets
    probe = fit_ridge(x, y, kind="regression", groups=groups)
    assert probe.held_out == "leave-group-out"
    for group in range(sets):
        expected = refitted(x, y, probe=probe, left_out=groups == group, weights=np.ones(count))
        np.testing.assert_allclose(probe.loo_scores[groups == group], expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("count", "width"), [(30, 4), (12, 20)])
@pytest.mark.parametrize("by_group", [False, True])
def test_balanced_scores_equal_those_of_weighted_fits(count: int, width: int, by_group: bool) -> None:
    draw = np.random.default_rng(1)
    labels = np.array([0, 0, 0, 0, 1, 2] * (count // 6))
    x = draw.normal(size=(count, width)) + labels[:, None]
    groups = np.arange(count) // 3
    probe = fit_ridge(x, labels, classes=3, balanced=True, groups=groups if by_group else None)
    weights = count / (3 * np.bincount(labels)[labels])
    for left_out in groups == groups[:, None] if by_group else np.eye(count, dtype=bool):
        expected = refitted(x, np.eye(3)[labels], probe=probe, left_out=left_out, weights=weights)
        np.testing.assert_allclose(probe.loo_scores[left_out] / probe.temperature, expected, rtol=1e-8, atol=1e-8)
    whole = Ridge(alpha=probe.penalty, solver="svd").fit(x, np.eye(3)[labels], sample_weight=weights).predict(x)
    np.testing.assert_allclose(probe.scores(x) / probe.temperature, whole - whole.mean(1, keepdims=True), atol=1e-8)


def test_the_penalty_is_the_best_for_groups_and_the_honest_estimate_is_lower() -> None:
    draw = np.random.default_rng(0)
    labels, speakers = np.repeat(np.arange(3), 40), np.repeat(np.arange(24), 5)
    x = draw.normal(size=(3, 30))[labels] * 0.4 + draw.normal(size=(24, 30))[speakers] * 1.5 + 0.3 * draw.normal(size=(120, 30))
    naive, honest = fit_ridge(x, labels, classes=3), fit_ridge(x, labels, classes=3, groups=speakers)
    assert (naive.loo_scores.argmax(1) == labels).mean() > (honest.loo_scores.argmax(1) == labels).mean() + 0.15
    assert honest.penalty > naive.penalty


def test_standardising_makes_the_scale_of_a_feature_not_matter() -> None:
    draw = np.random.default_rng(0)
    labels = np.arange(60) % 3
    x = draw.normal(size=(60, 6)) + labels[:, None]
    scaled = x * np.geomspace(0.05, 20, 6) + 5
    one, other = (fit_ridge(table, labels, classes=3, standardise=True) for table in (x, scaled))
    np.testing.assert_allclose(one.scores(x), other.scores(scaled), rtol=1e-6, atol=1e-6)
    assert np.abs(fit_ridge(x, labels, classes=3).scores(x) - fit_ridge(scaled, labels, classes=3).scores(scaled)).max() > 0.1


@pytest.mark.parametrize("by_group", [False, True])
@pytest.mark.parametrize("options", [{}, {"balanced": True, "standardise": True}])
@pytest.mark.parametrize("shape", [(700, 24), (90, 130)])
def test_large_features_in_blocks_give_the_same(
    monkeypatch: pytest.MonkeyPatch, by_group: bool, options: dict[str, bool], shape: tuple[int, int]
) -> None:
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 4, shape[0])
    x = (draw.normal(size=shape) + 3 + draw.normal(size=(4, shape[1]))[labels] * 0.4).astype(np.float32)
    groups = np.arange(len(x)) // 7 if by_group else None
    whole = fit_ridge(x.astype(np.float64), labels, classes=4, groups=groups, **options)
    for name, value in (("_LARGE", 100), ("_JUDGED", 600), ("_BLOCK", 128), ("_STRIP", 10), ("_WHOLE_PATH", 0.0)):
        monkeypatch.setattr(ridge, name, value)
    blocks = fit_ridge(x, labels, classes=4, groups=groups, **options)
    assert 1 / 4 < blocks.penalty / whole.penalty < 4
    monkeypatch.setattr(ridge, "PENALTIES", ridge.PENALTIES[20:21])
    blocks = fit_ridge(x, labels, classes=4, groups=groups, **options)
    monkeypatch.setattr(ridge, "_LARGE", 10**9)
    whole = fit_ridge(x.astype(np.float64), labels, classes=4, groups=groups, **options)
    np.testing.assert_allclose(blocks.loo_scores, whole.loo_scores, atol=2e-3 * np.abs(whole.loo_scores).max())
    np.testing.assert_allclose(blocks.scores(x), whole.scores(x), atol=2e-3 * np.abs(whole.loo_scores).max())


def test_faults_are_named() -> None:
    x, labels = np.random.default_rng(0).normal(size=(6, 2)), np.array([0, 1, 0, 1, 0, 1])
    with pytest.raises(SettingError, match="did you mean 'regression'"):
        fit_ridge(x, labels, kind="regresion")
    with pytest.raises(SettingError, match="no meaning for kind='regression'"):
        fit_ridge(x, labels, kind="regression", balanced=True)
    with pytest.raises(DataError, match=r"group of each of 6 examples; received the shape \(2,\)"):
        fit_ridge(x, labels, classes=2, groups=["a", "b"])
    with pytest.raises(DataError, match="All 6 examples are of the group 'a'"):
        fit_ridge(x, labels, classes=2, groups=["a"] * 6)
    with pytest.raises(DataError, match=r"\(6, C\), one row an example"):
        fit_ridge(x, np.zeros((5, 2)), kind="multi-label")
