"""Losses by name against the formulas of others; losses of the user's own."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from regraft.errors import SettingError
from regraft.tasks import LOSSES, chosen_loss

SCORES = torch.tensor([[2.0, -1.0, 0.3], [0.1, 0.4, -0.2], [-3.0, 0.5, 1.5], [0.2, 0.1, 4.0]])
CLASSES, LABELS = torch.tensor([0, 2, 2, 1]), torch.tensor([[1.0, 0, 0], [0, 1, 1], [0, 0, 1], [1, 1, 0]])
NUMBERS = torch.tensor([[0.5, 1.0, 0.0], [2.0, 0.1, 0.2], [1.0, 0.5, 1.5], [0.0, 3.0, 2.0]])
TARGETS = {"classification": CLASSES, "multi-label": LABELS, "regression": NUMBERS}


def _of_others(name: str, kind: str) -> Tensor:
    """Return the same loss by other means."""
    signed = 2 * LABELS - 1
    true = SCORES.softmax(1)[torch.arange(4), CLASSES]
    found: dict[tuple[str, str], Any] = {
        ("cross_entropy", "classification"): lambda: functional.cross_entropy(SCORES, CLASSES),
        ("cross_entropy", "multi-label"): lambda: functional.binary_cross_entropy(SCORES.sigmoid(), LABELS),
        ("focal", "classification"): lambda: ((1 - true) ** 2 * -true.log()).mean(),
        ("focal", "multi-label"): lambda: ((1 - (SCORES * signed).sigmoid()) ** 2 * -(SCORES * signed).sigmoid().log()).mean(),
        ("hinge", "classification"): lambda: torch.tensor([0.0, 1 + 0.4 + 0.2, 0.0, 1 + 4.0 - 0.1]).mean(),
        ("hinge", "multi-label"): lambda: functional.relu(1 - SCORES * signed).mean(),
        ("mse", "regression"): lambda: functional.mse_loss(SCORES, NUMBERS),
        ("mae", "regression"): lambda: functional.l1_loss(SCORES, NUMBERS),
        ("huber", "regression"): lambda: functional.huber_loss(SCORES, NUMBERS),
        ("msle", "regression"): lambda: functional.mse_loss(SCORES.abs().log1p(), NUMBERS.log1p()),
        ("poisson", "regression"): lambda: functional.poisson_nll_loss(SCORES.abs(), NUMBERS, log_input=False, eps=0),
    }
    return found[name, kind]()  # type: ignore[no-any-return]


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in LOSSES.items() for kind in kinds])
def test_each_name_is_the_loss_of_the_literature(name: str, kind: str) -> None:
    scores = SCORES.abs() if name in ("msle", "poisson") else SCORES
    found = chosen_loss(name, kind)(scores, TARGETS[kind])
    assert float(found) == pytest.approx(float(_of_others(name, kind)), rel=1e-5)


@pytest.mark.parametrize(("name", "kind"), [(name, kind) for name, kinds in LOSSES.items() for kind in kinds])
def test_weights_of_classes_and_examples_are_repetitions(name: str, kind: str) -> None:
    loss, targets = chosen_loss(name, kind), TARGETS[kind]
    weights = torch.tensor([1.0, 2.0, 0.0, 1.0])
    again = torch.tensor([0, 1, 1, 3])
    assert float(loss(SCORES, targets, sample_weight=weights)) == pytest.approx(float(loss(SCORES[again], targets[again])), rel=1e-5)
    same = torch.ones(3)
    assert float(loss(SCORES, targets, class_weight=same)) == pytest.approx(float(loss(SCORES, targets)), rel=1e-5)
    some = torch.tensor([1.0, 3.0, 0.5])
    assert float(loss(SCORES, targets, class_weight=some)) != pytest.approx(float(loss(SCORES, targets)), rel=1e-3)


@pytest.mark.parametrize("name", ["msle", "poisson"])
def test_outputs_below_zero_have_a_loss_that_leads_back(name: str) -> None:
    scores = torch.tensor([[-2.0], [-0.5], [0.0], [0.5]], requires_grad=True)
    truth = torch.full((4, 1), 1.0)
    loss = chosen_loss(name, "regression")
    values = [loss(scores[row : row + 1], truth[row : row + 1]).item() for row in range(4)]
    assert values == sorted(values, reverse=True)
    loss(scores, truth).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None and bool((scores.grad < 0).all()) and bool(torch.isfinite(scores.grad).all())


def test_a_function_is_called_with_logits_and_targets() -> None:
    def each(scores: Tensor, targets: Tensor) -> Tensor:
        return functional.cross_entropy(scores, targets, reduction="none")

    usual, own = (chosen_loss(wanted, "classification") for wanted in (None, each))
    weights = {"class_weight": torch.tensor([1.0, 2.0, 3.0]), "sample_weight": torch.arange(4.0)}
    assert float(own(SCORES, CLASSES)) == pytest.approx(float(usual(SCORES, CLASSES)))
    assert float(own(SCORES, CLASSES, **weights)) == pytest.approx(float(usual(SCORES, CLASSES, **weights)))
    scalar = chosen_loss(lambda scores, targets: scores.mean(), "classification")
    assert float(scalar(SCORES, CLASSES)) == pytest.approx(float(SCORES.mean()))


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda scores, targets: 1.0, r"returned float for 4 examples; expected a scalar tensor"),
        (lambda scores, targets: scores, r"returned \(4, 3\) for 4 examples"),
        (lambda scores, targets: scores @ targets, r"failed on logits of the shape \(4, 3\) and targets of the shape \(4,\): RuntimeError"),
    ],
)
def test_what_a_function_does_wrong_is_told(function: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        chosen_loss(function, "classification")(SCORES, CLASSES)
    with pytest.raises(SettingError, match="a scalar, which cannot be weighed"):
        chosen_loss(lambda scores, targets: scores.sum(), "classification")(SCORES, CLASSES, sample_weight=torch.ones(4))
