"""Metrics that the user chooses, from logits."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from regraft.tasks import chosen_figures

SCORES = np.array([[2.0, 0.0], [0.3, 0.1], [1.0, 0.5], [0.0, 0.7], [0.2, 1.0]])
TARGETS = np.array([0, 1, 0, 1, 1])


def test_scorers_of_two_classes_read_the_difference_of_the_logits() -> None:
    found = chosen_figures(["roc_auc", "average_precision"], SCORES, targets=TARGETS, kind="classification")
    margin = SCORES[:, 1] - SCORES[:, 0]
    by_hand = {"roc_auc": roc_auc_score(TARGETS, margin), "average_precision": average_precision_score(TARGETS, margin)}
    assert found == pytest.approx(by_hand)


def test_a_metric_that_these_examples_do_not_define_is_nan() -> None:
    def of_two_classes(truth: np.ndarray, _predicted: np.ndarray) -> float:
        if len(np.unique(truth)) < 2:
            raise ValueError("one class")
        return 1.0

    assert chosen_figures([of_two_classes], SCORES, targets=TARGETS, kind="classification") == {"of_two_classes": 1.0}
    found = chosen_figures([of_two_classes], SCORES[:1], targets=TARGETS[:1], kind="classification")
    assert math.isnan(found["of_two_classes"])
