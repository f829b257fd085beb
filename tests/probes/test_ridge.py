from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_digits, load_wine
from sklearn.linear_model import Ridge

from regraft.errors import DataError
from regraft.probes import fit_ridge


@settings(max_examples=25, deadline=None)
@given(count=st.integers(5, 14), width=st.integers(1, 20), seed=st.integers(0, 1000))
def test_leave_one_out_scores_equal_those_of_leaving_each_item_out(count: int, width: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    features, targets = draw.normal(size=(count, width)), draw.normal(size=(count, 2))
    probe = fit_ridge(features, targets, kind="regression")
    for index in range(count):
        others = np.arange(count) != index
        model = Ridge(alpha=probe.penalty, solver="svd").fit(features[others], targets[others])
        np.testing.assert_allclose(probe.loo_scores[index], model.predict(features[[index]])[0], rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("width", [13, 5000])
def test_weights_are_those_of_scikit_learn(width: int) -> None:
    features, labels = load_wine(return_X_y=True)
    features = features @ np.random.default_rng(0).normal(size=(13, width)) if width > 13 else features
    probe = fit_ridge(features, labels, classes=3)
    model = Ridge(alpha=probe.penalty, solver="svd").fit(features, np.eye(3)[labels])
    expected = model.predict(features) * probe.temperature
    np.testing.assert_allclose(probe.scores(features), expected - expected.mean(1, keepdims=True), rtol=1e-4, atol=1e-4)


def test_digits_are_read_and_probabilities_are_calibrated() -> None:
    features, labels = load_digits(return_X_y=True)
    probe = fit_ridge(features[:1000], labels[:1000], classes=10)
    scores = features[1000:] @ probe.weight.T + probe.bias
    chances = np.exp(scores - scores.max(1, keepdims=True))
    chances /= chances.sum(1, keepdims=True)
    right = scores.argmax(1) == labels[1000:]
    assert right.mean() > 0.85
    assert abs(chances.max(1).mean() - right.mean()) < 0.12


def test_multi_label_scores_have_the_right_sign() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(200, 6))
    labels = (features[:, :3] > 0).astype(float)
    probe = fit_ridge(features, labels, kind="multi-label")
    assert ((features @ probe.weight.T + probe.bias > 0) == labels).mean() > 0.85


def test_constant_features_say_the_mean_and_bad_ones_are_refused() -> None:
    probe = fit_ridge(np.ones((8, 4)), np.arange(8.0)[:, None], kind="regression")
    np.testing.assert_allclose(np.ones((1, 4)) @ probe.weight.T + probe.bias, [[3.5]])
    with pytest.raises(DataError, match="finite"):
        fit_ridge(np.full((4, 2), np.nan), np.array([0, 1, 0, 1]), classes=2)
    with pytest.raises(DataError, match="received 2 examples"):
        fit_ridge(np.zeros((2, 2)), np.array([0, 1]), classes=2)
