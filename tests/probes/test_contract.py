"""What every probe for classes promises, one row a probe."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

import regraft.probes
from regraft.errors import DataError
from regraft.probes import (
    fit_class_mean,
    fit_lda_probe,
    fit_logistic,
    fit_random_projection,
    fit_ridge,
    fit_svm,
    fit_temperature,
    fit_vote,
)

PROBES: dict[str, Callable[..., Any]] = {
    "class mean": fit_class_mean,
    "lda": fit_lda_probe,
    "logistic": fit_logistic,
    "random projection": partial(fit_random_projection, width=60),
    "ridge": fit_ridge,
    "ridge, balanced": partial(fit_ridge, balanced=True, standardise=True),
    "svm": fit_svm,
    "vote": fit_vote,
}
every = pytest.mark.parametrize("fit", PROBES.values(), ids=PROBES.keys())


def blobs(count: int, *, width: int = 8, classes: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    centres = np.random.default_rng(7).normal(size=(classes, width)) * 1.2
    labels = np.arange(count) % classes
    return centres[labels] + np.random.default_rng(seed).normal(size=(count, width)), labels


def accuracy(scores: np.ndarray, labels: np.ndarray) -> float:
    return float((scores.argmax(1) == labels).mean())


def test_every_probe_has_a_row() -> None:
    exported = {name for name in regraft.probes.__all__ if name.startswith("fit_")} - {"fit_lda", "fit_temperature"}
    rows = {fit.func if isinstance(fit, partial) else fit for fit in PROBES.values()}
    assert exported == {fit.__name__ for fit in rows}


@every
def test_blobs_are_told_apart_and_held_out_scores_say_how_well(fit: Callable[..., Any]) -> None:
    features, labels = blobs(80)
    new, truth = blobs(400, seed=1)
    before = features.copy()
    probe = fit(features, labels, classes=4)
    assert probe.loo_scores.shape == (80, 4) and probe.scores(new).shape == (400, 4)
    assert accuracy(probe.scores(new), truth) > 0.7
    assert abs(accuracy(probe.loo_scores, labels) - accuracy(probe.scores(new), truth)) < 0.1
    assert 0.9 < fit_temperature(probe.loo_scores, np.eye(4)[labels]) < 1.1
    np.testing.assert_array_equal(features, before)


@every
def test_again_and_in_another_order_of_rows(fit: Callable[..., Any]) -> None:
    features, labels = blobs(40)
    order = np.random.default_rng(3).permutation(40)
    first, second, third = (fit(features[rows], labels[rows], classes=4) for rows in (np.arange(40), np.arange(40), order))
    np.testing.assert_array_equal(first.scores(features), second.scores(features))
    np.testing.assert_allclose(third.scores(features), first.scores(features), rtol=0.02, atol=0.02)
    np.testing.assert_allclose(third.loo_scores, first.loo_scores[order], rtol=0.02, atol=0.02)


@every
def test_groups_are_left_out_together(fit: Callable[..., Any]) -> None:
    """Each item is there twice: alone, its twin gives it away."""
    draw = np.random.default_rng(0)
    features, labels = np.repeat(draw.normal(size=(40, 60)), 2, axis=0), np.repeat(draw.integers(0, 2, 40), 2)
    grouped = fit(features, labels, classes=2, groups=np.repeat(np.arange(40), 2))
    assert accuracy(grouped.loo_scores, labels) < 0.75
    assert "group" in grouped.held_out


@every
@pytest.mark.parametrize("value", [0.0, 3.0])
def test_constant_features_leave_all_scores_alike(fit: Callable[..., Any], value: float) -> None:
    labels = np.arange(12) % 3
    probe = fit(np.full((12, 5), value), labels, classes=3)
    assert np.isfinite(probe.loo_scores).all()
    np.testing.assert_allclose(probe.scores(np.full((1, 5), value)).std(), 0, atol=0.1)


@every
def test_more_features_than_items_and_a_class_without_items(fit: Callable[..., Any]) -> None:
    features, labels = blobs(24, width=90)
    probe = fit(features.astype(np.float32), labels, classes=5)
    scores = probe.scores(blobs(40, width=90, seed=1)[0].astype(np.float32))
    assert np.isfinite(scores).all() and np.isfinite(probe.loo_scores).all()
    assert accuracy(scores, np.arange(40) % 4) > 0.8
    assert (scores.argmax(1) != 4).all()


@every
def test_one_item_a_class(fit: Callable[..., Any]) -> None:
    features, labels = blobs(4)
    probe = fit(features, labels, classes=4)
    assert accuracy(probe.scores(features), labels) > 0.7
    assert np.isfinite(probe.loo_scores).all()
    assert accuracy(probe.loo_scores, labels) < 0.3  # an item says nothing of its class when it is left out


@every
def test_faults_are_refused(fit: Callable[..., Any]) -> None:
    features, labels = blobs(12)
    features[5, 2] = np.nan
    with pytest.raises(DataError, match=r"received 12 examples, not finite in example 5"):
        fit(features, labels, classes=4)
    features[5, 2] = 0
    with pytest.raises(DataError, match="12 whole numbers from 0 to 2"):
        fit(features, labels, classes=3)
    with pytest.raises(DataError, match=r"received the shape \(12,\)"):
        fit(features[:, 0], labels, classes=4)
    with pytest.raises(DataError, match="received 1 example,"):
        fit(features[:1], labels[:1], classes=4)


@pytest.mark.parametrize("size", [1, 5])
def test_scores_without_an_item_or_group_are_those_of_a_probe_without_it(size: int) -> None:
    features, labels = blobs(30)
    groups = np.arange(30) // size
    whole = fit_class_mean(features, labels, classes=4, groups=groups if size > 1 else None)
    for group in (0, 2, 5):
        left_out = groups == group
        rest = fit_class_mean(features[~left_out], labels[~left_out], classes=4)  # its unit of distance is that of the others
        assert np.array_equal(whole.loo_scores[left_out].argmax(1), rest.scores(features[left_out]).argmax(1))
