"""Figures against scikit-learn and against numbers worked by hand."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit, softmax
from sklearn import metrics as reference

from regraft.errors import DataError, SettingError
from regraft.tasks import brier_score, expected_calibration_error, harmonic_mean, judge, reliability, wilson_interval
from regraft.tasks.metrics import confusion_matrix, log_loss, probabilities


@pytest.fixture
def case() -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(0)
    targets = generator.integers(0, 4, 200)
    return generator.normal(size=(200, 4)) + 1.5 * np.eye(4)[targets], targets


def test_probabilities() -> None:
    scores = np.array([[1000.0, 0.0], [-1000.0, -1000.0]])
    np.testing.assert_allclose(probabilities(scores), [[1.0, 0.0], [0.5, 0.5]])
    np.testing.assert_allclose(probabilities(torch.tensor([[0.5, -2.0]]), "multi-label"), expit([[0.5, -2.0]]))
    np.testing.assert_array_equal(probabilities([[3.0]], "linear"), [[3.0]])
    with pytest.raises(SettingError, match="did you mean 'softmax'"):
        probabilities(scores, "soft-max")


def test_classification_is_scikit_learns(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = case
    figures = judge(scores, targets, ["a", "b", "c", "d"])
    predicted, chances = scores.argmax(axis=1), softmax(scores, axis=1)
    assert figures["accuracy"] == pytest.approx(reference.accuracy_score(targets, predicted))
    assert figures["macro_f1"] == pytest.approx(reference.f1_score(targets, predicted, average="macro"))
    assert figures["log_loss"] == pytest.approx(reference.log_loss(targets, chances))
    assert np.array_equal(confusion_matrix(figures["confusion"], 4), reference.confusion_matrix(targets, predicted))
    assert figures["accuracy_interval"] == list(wilson_interval(int((predicted == targets).sum()), 200))
    recalls = reference.recall_score(targets, predicted, average=None)
    assert [row["recall"] for row in figures["per_class"].values()] == pytest.approx(recalls)
    assert [row["examples"] for row in figures["per_class"].values()] == np.bincount(targets).tolist()
    assert figures["brier"] == pytest.approx(reference.brier_score_loss(targets, chances, scale_by_half=False))


def test_figures_are_plain_data(case: tuple[np.ndarray, np.ndarray]) -> None:
    scores, targets = case
    tables = (np.random.default_rng(1).random((200, 4)) > 0.5).astype(int)
    for kind, truth in (("classification", targets), ("multi-label", tables), ("regression", scores + 0.1)):
        figures = judge(scores, truth, None, kind=kind)
        assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_log_loss_and_brier_by_hand() -> None:
    chances = [[0.5, 0.5], [0.25, 0.75], [1.0, 0.0]]
    assert log_loss(chances, [0, 1, 0]) == pytest.approx(-(math.log(0.5) + math.log(0.75)) / 3)
    assert brier_score(chances, [0, 1, 0]) == pytest.approx((0.5 + 0.125 + 0.0) / 3)
    assert log_loss([[1.0, 0.0]], [1]) == pytest.approx(-math.log(1e-12))


def test_calibration_by_hand() -> None:
    # Two bins of two: sure 0.6 and 0.7, one right; sure 0.8 and 0.9, both right.
    chances = np.array([[0.6, 0.4], [0.7, 0.3], [0.8, 0.2], [0.9, 0.1]])
    assert expected_calibration_error(chances, [0, 1, 0, 0], bins=2) == pytest.approx(0.5 * 0.15 + 0.5 * 0.15)
    assert expected_calibration_error([[1.0, 0.0]], [0]) == 0.0
    with pytest.raises(SettingError, match="received 0"):
        expected_calibration_error(chances, [0, 1, 0, 0], bins=0)


@given(st.integers(1, 60), st.integers(2, 6), st.integers(0, 99))
def test_calibration_lies_between_nothing_and_one(items: int, classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    chances = softmax(generator.normal(size=(items, classes)), axis=1)
    targets = generator.integers(0, classes, items)
    assert 0.0 <= expected_calibration_error(chances, targets) <= 1.0
    one_bin = abs((chances.argmax(1) == targets).mean() - chances.max(1).mean())
    assert expected_calibration_error(chances, targets, bins=1) == pytest.approx(one_bin)


@given(items=st.integers(1, 60), bins=st.integers(1, 12), seed=st.integers(0, 2**16))
def test_the_bins_of_a_reliability_diagram_hold_every_item_once(items: int, bins: int, seed: int) -> None:
    draw = np.random.default_rng(seed)
    chances, targets = probabilities(draw.normal(0, 3, (items, 4))), draw.integers(0, 4, items)
    found = reliability(chances, targets, bins=bins)
    assert sum(one["examples"] for one in found) == items and len(found) == min(bins, items)
    assert [one["probability"] for one in found] == sorted(one["probability"] for one in found)
    assert sum(one["examples"] * one["accuracy"] for one in found) == pytest.approx((chances.argmax(1) == targets).sum())
    gap = sum(one["examples"] * abs(one["accuracy"] - one["probability"]) for one in found) / items
    assert gap == pytest.approx(expected_calibration_error(chances, targets, bins=bins))
    assert all(0 <= one["interval"][0] <= one["accuracy"] + 1e-12 and one["accuracy"] - 1e-12 <= one["interval"][1] <= 1 for one in found)


def test_a_class_without_items_has_no_recall() -> None:
    figures = judge([[2.0, 1.0, 0.0], [0.0, 1.0, 0.0]], [0, 1], ["a", "b", "c"])
    assert figures["per_class"]["c"] == {"recall": None, "interval": [0.0, 1.0], "examples": 0}
    assert figures["accuracy"] == figures["macro_f1"] == 1.0
    assert figures["confusion"] == {"true": [0, 1], "predicted": [0, 1], "count": [1, 1]}
    assert confusion_matrix(figures["confusion"], 3).tolist() == [[1, 0, 0], [0, 1, 0], [0, 0, 0]]


@pytest.mark.parametrize("cell", [{"true": [3], "predicted": [0]}, {"true": [0], "predicted": [3]}, {"true": [-1], "predicted": [0]}])
def test_a_cell_of_no_class_is_refused(cell: dict[str, list[int]]) -> None:
    with pytest.raises(DataError, match="expected 0 to 2"):
        confusion_matrix({**cell, "count": [1]}, 3)


def test_figures_of_many_classes_are_as_large_as_the_data() -> None:
    """Nothing of what is kept grows with the square of the classes."""
    classes, items = 20_000, 100
    scores = np.random.default_rng(0).normal(size=(items, classes)).astype(np.float32)
    figures = judge(scores, np.arange(items), kind="classification")
    assert sum(figures["confusion"]["count"]) == items and len(figures["confusion"]["true"]) <= items
    assert len(json.dumps(figures)) < 120 * classes


def test_multi_label_is_scikit_learns() -> None:
    generator = np.random.default_rng(2)
    truth = (generator.random((80, 3)) > 0.6).astype(int)
    scores = generator.normal(size=(80, 3)) + truth
    figures = judge(scores, truth, ["x", "y", "z"], kind="multi-label")
    predicted = (scores >= 0).astype(int)
    assert figures["macro_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="macro"))
    assert figures["micro_f1"] == pytest.approx(reference.f1_score(truth, predicted, average="micro"))
    assert figures["map"] == pytest.approx(reference.average_precision_score(truth, scores, average="macro"))
    assert figures["accuracy"] == pytest.approx((truth == predicted).mean())
    assert figures["accuracy_interval"][0] < figures["accuracy"] < figures["accuracy_interval"][1]
    assert figures["log_loss"] == pytest.approx(np.mean([reference.log_loss(truth[:, c], expit(scores[:, c])) for c in range(3)]))


def test_multi_label_with_one_label_and_with_none_present() -> None:
    figures = judge([[1.0], [-1.0], [1.0]], [[1], [0], [0]], ["only"], kind="multi-label")
    assert figures["macro_f1"] == pytest.approx(2 / 3)
    assert judge([[-1.0, -1.0]], [[0, 0]], None, kind="multi-label")["map"] is None


def test_regression_by_hand() -> None:
    figures = judge([[1.0, 0.0], [3.0, 0.0]], [[0.0, 2.0], [4.0, -2.0]], ["u", "v"], kind="regression")
    assert figures["per_class"]["u"] == {"mae": 1.0, "rmse": 1.0, "r2": pytest.approx(0.75)}
    assert figures["mae"] == pytest.approx(1.5)
    assert figures["r2"] == pytest.approx((0.75 + 0.0) / 2)
    one = judge([[1.0]], [2.0], None, kind="regression")
    assert (one["r2"], one["mae_interval"]) == (None, [1.0, 1.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([[1.0, 2.0]], [0], ["a"]), "2 columns for 1 class name"),
        (([[1.0, 2.0]], [0, 1], None), "Expected 1 target,"),
        (([[1.0, 2.0]], [2], None), "from 0 to 1"),
        (([[1.0, 2.0]], [0.5], None), "whole numbers"),
        (([[1.0, float("nan")]], [0], None), "1 of 1 example are not finite"),
        (([1.0, 2.0], [0], None), r"shape \(N, C\)"),
        ((np.zeros((0, 2)), [], None), "at least one example"),
        (([[1.0, 2.0]], [0], None, "multi-label"), r"shape of the scores, \(1, 2\)"),
        (([[1.0, 2.0]], [[0, 2]], None, "multi-label"), "must be 0 or 1"),
        (([[1.0]], [float("nan")], None, "regression"), "1 target is not finite"),
    ],
)
def test_what_cannot_be_judged_is_refused(arguments: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        judge(*arguments)


def test_unknown_kind() -> None:
    with pytest.raises(SettingError, match="multi-label"):
        judge([[1.0]], [0], None, kind="multilabel")


def test_multi_label_at_thresholds_is_scikit_learns() -> None:
    generator = np.random.default_rng(4)
    truth = (generator.random((80, 3)) > 0.6).astype(int)
    scores = generator.normal(size=(80, 3)) + truth
    cuts = np.array([0.2, 0.5, 0.8])
    figures = judge(scores, truth, ["x", "y", "z"], kind="multi-label", thresholds=cuts)
    predicted = (expit(scores) >= cuts).astype(int)
    assert figures["thresholds"] == cuts.tolist()
    for average in ("macro", "micro"):
        assert figures[f"{average}_f1"] == pytest.approx(reference.f1_score(truth, predicted, average=average))
    precisions = reference.precision_score(truth, predicted, average=None)
    recalls = reference.recall_score(truth, predicted, average=None)
    assert [row["precision"] for row in figures["per_class"].values()] == pytest.approx(precisions)
    assert [row["recall"] for row in figures["per_class"].values()] == pytest.approx(recalls)
    assert figures["accuracy"] == pytest.approx((truth == predicted).mean())
    plain = judge(scores, truth, ["x", "y", "z"], kind="multi-label")
    same = judge(scores, truth, ["x", "y", "z"], kind="multi-label", thresholds=0.5)
    assert "thresholds" not in plain and same == {**plain, "thresholds": [0.5] * 3}


def test_a_label_that_is_never_said_has_no_precision() -> None:
    row = judge([[-1.0], [-2.0]], [[1], [0]], ["x"], kind="multi-label")["per_class"]["x"]
    assert (row["precision"], row["recall"]) == (None, 0.0)


@pytest.mark.parametrize("thresholds", [[0.5, 0.5], [1.5], [float("nan")], []])
def test_thresholds_that_are_none_are_refused(thresholds: list[float]) -> None:
    with pytest.raises(SettingError, match="Expected 1 thresholds from 0 to 1"):
        judge([[1.0]], [[1]], kind="multi-label", thresholds=thresholds)
    with pytest.raises(SettingError, match="kind='regression'"):
        judge([[1.0]], [1.0], kind="regression", thresholds=thresholds)


def test_harmonic_mean() -> None:
    assert harmonic_mean(0.5, 1.0) == pytest.approx(2 / 3)
    assert harmonic_mean(0.25, 0.25) == 0.25
    assert harmonic_mean(0.0, 1.0) == harmonic_mean(1.0, 0.0) == harmonic_mean(0.0, 0.0) == 0.0
    for wrong in (-0.1, float("nan"), float("inf")):
        with pytest.raises(DataError, match="two finite numbers"):
            harmonic_mean(0.5, wrong)
