"""Dead, near-dead, constant and huge features: weights stay small numbers, and half precision predicts the same."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.special import softmax

from regraft.probes import fit_class_mean, fit_lda, fit_lda_probe, fit_logistic, fit_random_projection, fit_ridge, fit_svm, statistics_of
from regraft.probes.common import feature_scale, spread_out

Head = tuple[np.ndarray, np.ndarray]


def _of(probe: object) -> Head:
    return probe.weight, probe.bias  # type: ignore[attr-defined]


HEADS: dict[str, Callable[[np.ndarray, np.ndarray], Head]] = {
    "ridge": lambda x, y: _of(fit_ridge(x, y, classes=3)),
    "ridge, standardised": lambda x, y: _of(fit_ridge(x, y, classes=3, standardise=True)),
    "lda": lambda x, y: _of(fit_lda_probe(x, y, classes=3)),
    "lda of statistics": lambda x, y: fit_lda(statistics_of(x, y, classes="abc")),
    "lda of statistics, standardised": lambda x, y: fit_lda(statistics_of(x, y, classes="abc"), standardise=True),
    "logistic": lambda x, y: _of(fit_logistic(x, y, classes=3)),
    "svm": lambda x, y: _of(fit_svm(x, y, classes=3)),
    "class mean": lambda x, y: _of(fit_class_mean(x, y, classes=3)),
}
COLUMNS: dict[str, Callable[[np.random.Generator, int], np.ndarray]] = {
    "zero": lambda draw, count: np.zeros(count),
    "constant": lambda draw, count: np.full(count, draw.uniform(-100, 100)),
    "huge and constant": lambda draw, count: np.full(count, 3e4),
    "rounding of a constant": lambda draw, count: 7 * (1 + 1e-7 * draw.normal(size=count)),
    "rounding of zero": lambda draw, count: 1e-8 * draw.normal(size=count),
    "tail of a swish": lambda draw, count: -np.exp(-12 + draw.normal(size=count)),
    "hardly moving": lambda draw, count: 20 + 2e-4 * draw.normal(size=count),
    "seldom firing": lambda draw, count: np.where(draw.random(count) < 0.03, 1e-3, 0.0),
    "huge": lambda draw, count: 3e3 * draw.normal(size=count),
}


def _features(columns: list[str], *, count: int = 60, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return 12 ordinary features of three classes, and further columns that know nothing of them."""
    draw, labels = np.random.default_rng(seed), np.arange(count) % 3
    plain = draw.normal(size=(3, 12))[labels] + draw.normal(size=(count, 12))
    return np.column_stack([plain, *(COLUMNS[name](draw, count) for name in columns)]).astype(np.float32), labels


@pytest.mark.parametrize("name", HEADS)
@settings(max_examples=12, deadline=None)
@given(columns=st.lists(st.sampled_from(sorted(set(COLUMNS) - {"huge"})), max_size=8), seed=st.integers(0, 20))
@example(columns=["constant", "zero", "rounding of zero", "rounding of a constant", "hardly moving", "seldom firing"], seed=0)
@example(columns=["tail of a swish", "constant", "huge and constant", "rounding of zero", "seldom firing"], seed=7)
def test_weights_are_bounded_and_half_precision_says_the_same(name: str, columns: list[str], seed: int) -> None:
    features, labels = _features(columns, seed=seed)
    weight, bias = HEADS[name](features, labels)
    assert np.abs(weight).max() < 300 and np.abs(bias).max() < 2e4  # a float16 ends at 65,504
    np.testing.assert_allclose(weight.mean(0), 0, atol=1e-6)  # what all classes have in common is no part of the scores
    scores = features @ weight.T + bias
    half = features.astype(np.float16).astype(np.float32) @ weight.astype(np.float16).astype(np.float32).T
    half = half + bias.astype(np.float16).astype(np.float32)
    scale = np.abs(scores).max()  # some heads are very sure of few items
    assert np.abs(half - scores).max() < 0.06 * max(scale, 1.0)
    unsure = np.sort(softmax(scores, axis=1), axis=1)[:, -1] < 0.6
    assert (half.argmax(1) == scores.argmax(1))[~unsure].mean() > 0.97


@pytest.mark.parametrize("name", HEADS)
@pytest.mark.parametrize("column", ["zero", "constant", "huge and constant", "rounding of a constant", "rounding of zero"])
def test_a_dead_feature_is_no_part_of_a_head(name: str, column: str) -> None:
    features, labels = _features([column] * 5)
    (weight, bias), (alone, other) = HEADS[name](features, labels), HEADS[name](features[:, :12], labels)
    assert np.abs(weight[:, 12:]).max() < (1e-3 if name in ("ridge", "class mean") else 1e-12)  # a penalty alone leaves rounding
    scores = features @ weight.T + bias
    np.testing.assert_allclose(scores, features[:, :12] @ alone.T + other, rtol=0.05, atol=0.05 * np.abs(scores).max())


@pytest.mark.parametrize("column", sorted(COLUMNS))
def test_the_layer_of_a_random_projection_is_bounded_too(column: str) -> None:
    features, labels = _features([column] * 4)
    probe = fit_random_projection(features, labels, classes=3, width=80)
    assert np.abs(probe.layer.weight).max() < 300 and np.abs(probe.head.weight).max() < 300
    assert np.isfinite(probe.scores(features)).all()


def test_what_is_dead_and_what_the_deviation_counts_as() -> None:
    mean, deviation = np.array([0.0, 5.0, 5.0, 0.0, 50.0, 0.0]), np.array([0.0, 1e-6, 1e-3, 1e-6, 1e-2, 2.0])
    scale = feature_scale(mean, deviation, dtype=np.float32, typical=1.0)
    assert scale.tolist() == [np.inf, np.inf, 0.01, np.inf, 0.05, 2.0]
    assert feature_scale(mean, deviation, dtype=np.float64).tolist() == [np.inf, 1e-6, 1e-3, 1e-6, 1e-2, 2.0]  # no common unit
    assert feature_scale(np.zeros(2), np.array([1e-20, 1e-18]), dtype=np.float32).tolist() == [np.inf, 1e-18]  # 1 / 1e-20 squared is inf
    features = _features(["zero", "huge", "huge"])[0]
    scale = spread_out(features, standardise=True)[1]
    assert np.isinf(scale[12]) and (scale[13:] > 1e3).all()
    np.testing.assert_allclose(scale[:12], features[:, :12].std(0), rtol=1e-5)  # huge ones do not make the others look dead
    assert np.isinf(spread_out(np.ones((5, 3)), standardise=True)[1]).all()
