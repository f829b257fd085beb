"""Logistic regression: the minimum of the losses that training minimises, scikit-learn's weights, and who judges the penalties."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests.probes.test_contract import blobs

from regraft.errors import DataError, SettingError
from regraft.probes import LinearProbe, LogisticLoss, fit_logistic
from regraft.tasks import chosen_loss


def _slope(probe: LinearProbe, features: np.ndarray, targets: np.ndarray, loss: LogisticLoss) -> float:
    """Return the largest slope of what is to be minimised at the probe, in standardised features."""
    mean, scale = features.mean(0), features.std(0)
    weight = torch.tensor(probe.weight * scale / probe.temperature, requires_grad=True)
    bias = torch.tensor((probe.bias + probe.weight @ mean) / probe.temperature, requires_grad=True)
    scores = torch.from_numpy((features - mean) / scale) @ weight.T + bias
    given = None if loss.class_weight is None else torch.tensor(loss.class_weight)
    items = np.ones(len(features)) if loss.item_weight is None else loss.item_weight
    repeated = torch.from_numpy(np.repeat(np.arange(len(features)), items.astype(int)))  # whole weights are repetitions
    factor = len(features) * (targets.shape[1] if targets.ndim == 2 else 1)
    truth = torch.from_numpy(targets)[repeated]
    made = chosen_loss(None, loss.kind)(scores[repeated], truth, class_weight=given, label_smoothing=loss.label_smoothing)
    (factor * made + probe.penalty / 2 * weight.square().sum()).backward()
    return max(float(weight.grad.abs().max()), float(bias.grad.abs().max())) / len(features)


@pytest.mark.parametrize("shape", [(90, 8), (40, 90)])
@pytest.mark.parametrize(
    "options",
    [{}, {"class_weight": np.array([0.2, 3.0, 1.0])}, {"label_smoothing": 0.2}, {"item_weight": np.tile([1.0, 3.0], 45)}],
    ids=lambda options: " ".join(options) or "plain",
)
@pytest.mark.parametrize("kind", ["classification", "multi-label"])
def test_it_is_the_minimum_of_the_loss_of_training_and_the_penalty(kind: str, options: dict[str, object], shape: tuple[int, int]) -> None:
    features, rows = blobs(shape[0], width=shape[1], classes=3)
    targets = rows if kind == "classification" else (np.eye(3)[rows] + np.eye(3)[(rows + rows // 2) % 3]).clip(0, 1)
    options = {name: value[: len(rows)] if name == "item_weight" else value for name, value in options.items()}  # type: ignore[index]
    loss = LogisticLoss(kind, **options)  # type: ignore[arg-type]
    assert _slope(fit_logistic(features, targets, classes=3, loss=loss), features, targets, loss) < 1e-4


def test_weights_of_labels_are_those_of_scikit_learn_one_by_one() -> None:
    features, _ = blobs(80, width=6)
    labels = (features[:, :3] + np.random.default_rng(0).normal(size=(80, 3)) > [0, 0.5, 1]).astype(float)
    probe = fit_logistic(features, labels, classes=3, loss=LogisticLoss("multi-label"))
    scaled = StandardScaler().fit_transform(features)
    for column in range(3):
        model = LogisticRegression(C=1 / probe.penalty, tol=1e-8, max_iter=1000).fit(scaled, labels[:, column])
        made = probe.scores(features)[:, column] / probe.temperature
        np.testing.assert_allclose(made, model.decision_function(scaled), atol=1e-3)


def test_the_penalty_is_about_that_of_a_grid_search_by_log_loss() -> None:
    features, labels = blobs(120, width=40)
    features += 4 * np.random.default_rng(1).normal(size=features.shape)  # too much noise for a line between all of them
    probe = fit_logistic(features, labels, classes=4)
    grid = {"logisticregression__C": np.geomspace(1e-4, 1e2, 13)}
    search = GridSearchCV(make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)), grid, scoring="neg_log_loss", cv=5)
    best = search.fit(features, labels).best_params_["logisticregression__C"]
    assert 0.1 < best * probe.penalty < 10
    penalties, losses = zip(*probe.path, strict=True)
    assert probe.penalty == penalties[int(np.argmin(losses))] and list(penalties[:4]) == sorted(penalties[:4], reverse=True)
    assert probe.held_out == "5-fold" and probe.loo_scores.shape == (120, 4)


def test_a_validation_set_judges_and_is_then_fitted_too() -> None:
    features, labels = blobs(90)
    judges = np.arange(5, 90, 6)
    probe = fit_logistic(features, labels, classes=4, judges=judges)
    assert probe.held_out == "validation set" and probe.loo_scores.shape == (len(judges), 4)
    scaled = (features - features.mean(0)) / features.std(0)
    rest = np.setdiff1d(np.arange(90), judges)
    alone = LogisticRegression(C=1 / probe.penalty, tol=1e-8, max_iter=1000).fit(scaled[rest], labels[rest])
    made, expected = probe.loo_scores / probe.temperature, alone.decision_function(scaled[judges])
    np.testing.assert_allclose(made - made.mean(1, keepdims=True), expected - expected.mean(1, keepdims=True), atol=0.02)
    whole = LogisticRegression(C=1 / probe.penalty, tol=1e-8, max_iter=1000).fit(scaled, labels)
    np.testing.assert_allclose(probe.scores(features) / probe.temperature, whole.decision_function(scaled), atol=0.02)


def test_scores_that_are_given_stay_and_the_head_adds_what_they_lack() -> None:
    features, labels = blobs(60)
    known = 3 * np.eye(4)[labels] * (labels < 2)[:, None]  # knows two of four classes
    probe = fit_logistic(features, labels, classes=4, loss=LogisticLoss(offset=known))
    both = probe.scores(features) + probe.temperature * known
    alone = fit_logistic(features, labels, classes=4)
    assert (both.argmax(1) == labels).mean() >= (alone.scores(features).argmax(1) == labels).mean()
    perfect = fit_logistic(features, labels, classes=4, loss=LogisticLoss(offset=20 * np.eye(4)[labels]))
    assert np.abs(perfect.weight).max() < 1e-2 * np.abs(alone.weight).max()  # nothing is lacking


def test_classes_that_are_fixed_have_no_weights() -> None:
    features, labels = blobs(60)
    known = 3 * np.eye(4)[labels] * (labels < 2)[:, None]
    probe = fit_logistic(features, labels, classes=4, loss=LogisticLoss(offset=known, fixed=2))
    weight, bias = probe.weight - probe.weight[0], probe.bias - probe.bias[0]
    assert np.abs(weight[1]).max() < 1e-12 and abs(bias[1]) < 1e-12 and np.abs(weight[2:]).max(axis=1).min() > 0.1
    scores = (features @ weight.T + bias) / probe.temperature + known
    assert (scores.argmax(1) == labels).mean() > 0.95
    held_out = probe.loo_scores / probe.temperature
    np.testing.assert_allclose(held_out[:, :2], known[:, :2], atol=1e-6)


def test_classes_that_are_fixed_change_nothing_of_what_a_solution_in_all_columns_gives() -> None:
    features, labels = blobs(60)
    known = 3 * np.eye(4)[labels] * (labels < 2)[:, None]
    probe = fit_logistic(features, labels, classes=4, loss=LogisticLoss(offset=known, fixed=2))
    scaled, truth = np.column_stack([(features - features.mean(0)) / features.std(0), np.ones(60)]), np.eye(4)[labels]

    def whole(numbers: np.ndarray) -> tuple[float, np.ndarray]:
        theta = numbers.reshape(-1, 4)
        logs = log_softmax(scaled @ theta + known, axis=1)
        slope = scaled.T @ (np.exp(logs) - truth) + probe.penalty * np.vstack([theta[:-1], np.zeros((1, 4))])
        slope[:, :2] = 0.0  # the columns of the fixed classes are carried along, and do not move
        return float(-(truth * logs).sum() + probe.penalty / 2 * np.square(theta[:-1]).sum()), slope.ravel()

    options = {"maxiter": 5000, "gtol": 1e-9, "ftol": 1e-14}
    expected = minimize(whole, np.zeros(scaled.shape[1] * 4), jac=True, method="L-BFGS-B", options=options).x.reshape(-1, 4)
    found = (probe.weight - probe.weight[0]).T * features.std(0)[:, None] / probe.temperature
    np.testing.assert_allclose(found, expected[:-1], atol=2e-3 * np.abs(expected).max())


def test_faults_are_named() -> None:
    features, labels = blobs(20)
    with pytest.raises(SettingError, match="did you mean 'multi-label'"):
        fit_logistic(features, labels, classes=4, loss=LogisticLoss("multi-labels"))
    with pytest.raises(DataError, match=r"targets \(20, 3\), one row an example; received the shape \(20,\)"):
        fit_logistic(features, labels, classes=3, loss=LogisticLoss("multi-label"))
