"""Losses against torch and against numbers worked by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import nn

from regraft.errors import SettingError
from regraft.tasks import KINDS, chosen_loss, class_weights, classification_loss, multi_label_loss, regression_loss


def test_classification_by_hand() -> None:
    scores = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    loss = classification_loss(scores, torch.tensor([0, 1]))
    assert loss.item() == pytest.approx((math.log(2.0) + math.log(4.0)) / 2)


def test_class_weights_divide_by_their_sum() -> None:
    scores = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
    loss = classification_loss(scores, torch.tensor([0, 1]), class_weight=torch.tensor([1.0, 3.0]))
    assert loss.item() == pytest.approx((1 * math.log(2.0) + 3 * math.log(4.0)) / 4)


def test_classification_is_torch_with_weights_and_smoothing() -> None:
    torch.manual_seed(0)
    scores, targets, weight = torch.randn(9, 4), torch.randint(0, 4, (9,)), torch.rand(4)
    expected = nn.CrossEntropyLoss(weight=weight, label_smoothing=0.1)(scores, targets)
    assert torch.equal(classification_loss(scores, targets, class_weight=weight.double(), label_smoothing=0.1), expected)


def test_multi_label_by_hand() -> None:
    scores, targets = torch.zeros(3, 2), torch.tensor([[1.0, 0.0], [0.0, 0.0], [1.0, 1.0]])
    assert multi_label_loss(scores, targets).item() == pytest.approx(math.log(2.0))
    sure = torch.tensor([[50.0, 0.0]])
    truth = torch.tensor([[1.0, 1.0]])
    assert multi_label_loss(sure, truth, class_weight=torch.tensor([3.0, 1.0])).item() == pytest.approx(math.log(2.0) / 4)
    smooth = multi_label_loss(torch.tensor([[math.log(3.0)]]), torch.tensor([[1.0]]), label_smoothing=0.5)
    assert smooth.item() == pytest.approx(-(0.75 * math.log(0.75) + 0.25 * math.log(0.25)), rel=1e-6)


def test_regression_by_hand() -> None:
    scores, targets = torch.tensor([[1.0, 2.0], [3.0, 2.0]]), torch.tensor([[0.0, 2.0], [3.0, 0.0]])
    assert regression_loss(scores, targets).item() == pytest.approx((1 + 0 + 0 + 4) / 4)
    assert regression_loss(scores, targets, class_weight=torch.tensor([1.0, 0.0])).item() == pytest.approx(0.5)
    assert regression_loss(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 4.0])).item() == pytest.approx(2.0)
    with pytest.raises(SettingError, match=r"label_smoothing=0\.1"):
        regression_loss(scores, targets, label_smoothing=0.1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_is_a_scalar_with_a_gradient(kind: str) -> None:
    scores = torch.randn(5, 3, requires_grad=True)
    targets = torch.tensor([0, 1, 2, 0, 1]) if kind == "classification" else torch.rand(5, 3).round()
    loss = chosen_loss(None, kind)(scores, targets, class_weight=torch.ones(3), label_smoothing=0.0)
    assert loss.shape == ()
    (gradient,) = torch.autograd.grad(loss, scores)
    assert gradient.abs().sum() > 0


def test_unknown_kind_lists_the_near_ones() -> None:
    with pytest.raises(SettingError, match="did you mean 'classification'"):
        chosen_loss(None, "clasification")


def test_balanced_weights_are_scikit_learns() -> None:
    labels = np.array([0] * 5 + [1] * 3 + [2] * 12)
    expected = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    weights = class_weights(np.bincount(labels), "balanced")
    assert weights is not None
    np.testing.assert_allclose(weights, expected)


def test_a_class_without_items_weighs_one() -> None:
    weights = class_weights([4, 0, 2], "balanced")
    assert weights is not None
    np.testing.assert_allclose(weights, [6 / (2 * 4), 1.0, 6 / (2 * 2)])


def test_given_weights_are_checked() -> None:
    assert class_weights([1, 2], None) is None
    np.testing.assert_array_equal(class_weights([1, 2], [0.0, 2.0]), [0.0, 2.0])
    with pytest.raises(SettingError, match="'balenced'"):
        class_weights([1, 2], "balenced")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="expected 2 weights"):
        class_weights([1, 2], [1.0])
    for wrong in ([-1.0, 1.0], [0.0, 0.0], [float("nan"), 1.0]):
        with pytest.raises(SettingError, match="finite weights"):
            class_weights([1, 2], wrong)
