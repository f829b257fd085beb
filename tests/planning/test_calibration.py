"""Trained heads give probabilities that can be believed: one temperature, fitted to the choosing items, judged by others."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.planning.finishing import FEWEST
from regraft.probes import fit_temperature, log_loss
from regraft.tasks import expected_calibration_error

pytestmark = pytest.mark.usefixtures("without_onnx_form")

keras = pytest.importorskip("keras")

TOO_LONG: dict[str, Any] = {"epochs": 20, "learning_rate": 0.02, "patience": None, "schedule": "constant"}
OVERFITTED = {**TOO_LONG, "validation": 0.3, "cache": "memory", "refit": False}


def _items(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return items of four kinds that overlap, with some wrong labels: whoever is sure of all of them is wrong."""
    draw = np.random.default_rng(seed)
    kinds = np.arange(count) % 4
    rows = (1.5 * np.eye(4, 12)[kinds] + draw.normal(size=(count, 12))).astype(np.float32)
    wrong = draw.random(count) < 0.15
    return rows, np.array([f"kind {kind}" for kind in np.where(wrong, draw.integers(0, 4, count), kinds)])


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 5))


def _net(family: str) -> regraft.Network:
    if family == "torch":
        return regraft.load(_module(), inputs=(12,))
    keras.utils.set_random_seed(0)
    layers = keras.layers
    return regraft.load(keras.Sequential([keras.Input((12,)), layers.Dense(64, activation="relu"), layers.Dense(5, activation="softmax")]))


def _latest(monkeypatch: pytest.MonkeyPatch, wanted: bool) -> None:
    """Let the last epoch be kept, however bad; calibrate only where that is `wanted`."""
    monkeypatch.setattr("regraft.training.loop.restore_", lambda tensors, saved: None)
    if not wanted:
        monkeypatch.setattr(importlib.import_module("regraft.planning.carry_out"), "calibrate_", lambda *_given, **_named: None)


def _adapted(monkeypatch: pytest.MonkeyPatch, family: str, calibrated: bool, **options: Any) -> regraft.Result:
    with monkeypatch.context() as patch:
        _latest(patch, calibrated)
        return regraft.adapt(_net(family), _items(200, seed=0), **(OVERFITTED | options))


def _notes(result: regraft.Result) -> list[str]:
    return [reason for reason in result.plan.reasons if "temperature" in reason]


@pytest.mark.parametrize("options", [{"strategy": "full"}, {"strategy": "partial", "frozen": 0, "base": "probe"}], ids=["full", "probe"])
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_too_sure_a_network_is_made_believable(
    family: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    plain, result = (_adapted(monkeypatch, family, calibrated, **options, out=tmp_path / str(calibrated)) for calibrated in (False, True))
    (note,) = _notes(result)
    found = re.search(r"temperature of ([\d.]+);.* log loss ([\d.]+) becomes ([\d.]+)\.", note)
    assert found and float(found[1]) > 1.2 and float(found[3]) < float(found[2])
    assert not _notes(plain)
    rows, labels = _items(400, seed=1)
    before, after = plain.network.logits(rows), result.network.logits(rows)
    np.testing.assert_allclose(after * float(found[1]), before, rtol=2e-2, atol=2e-2 * np.abs(before).max())
    assert np.array_equal(before.argmax(1), after.argmax(1))
    truth = np.array([result.network.classes.index(label) for label in labels])
    assert log_loss(after, truth) < log_loss(before, truth) - 0.05
    chances = [torch.from_numpy(scores).softmax(1).numpy() for scores in (before, after)]
    assert expected_calibration_error(chances[1], truth) < 0.7 * expected_calibration_error(chances[0], truth)
    assert result.scores["holdout"]["accuracy"] == plain.scores["holdout"]["accuracy"]
    assert result.scores["holdout"]["log_loss"] < plain.scores["holdout"]["log_loss"]  # what is saved is judged after it
    again = regraft.load(tmp_path / "True", **({"architecture": _module} if family == "torch" else {}))
    assert np.array_equal(again.logits(rows), after)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"validation": 0.1}, "fewer choosing examples than are needed"),
        ({"strategy": "probe"}, "solved in closed form: it has its temperature from the examples left out"),
        ({"epochs": 0}, "nothing was trained"),
    ],
)
def test_what_is_left_alone(changes: dict[str, Any], why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"strategy": "full"} | changes
    both = [_adapted(monkeypatch, "torch", calibrated, **given) for calibrated in (False, True)]
    states = [result.network.state() for result in both]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0]), why
    assert not _notes(both[1]) and FEWEST == 20


def test_rows_that_cannot_be_set_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    module = nn.Sequential(nn.Linear(12, 64), nn.ReLU(), nn.Linear(64, 4, bias=False))
    with monkeypatch.context() as patch:
        _latest(patch, True)
        net = regraft.load(module, inputs=(12,), classes=[f"kind {kind}" for kind in range(4)])
        result = regraft.adapt(net, _items(200, seed=0), strategy="full", **OVERFITTED)
    (note,) = _notes(result)
    assert "class weights cannot be set" in note


def test_the_adapter_gives_them_too(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, labels = _items(200, seed=0)
    fresh, truth = _items(400, seed=1)
    errors = []
    for calibrated in (False, True):
        with monkeypatch.context() as patch:
            _latest(patch, calibrated)
            adapter = regraft.TransferClassifier(_module, strategy="full", **OVERFITTED).fit(rows, labels)
        errors.append(expected_calibration_error(adapter.predict_proba(fresh), np.searchsorted(adapter.classes_, truth)))
    assert errors[1] < 0.7 * errors[0]


@pytest.mark.parametrize("size", [1.0, 200.0])
def test_the_factor_finds_the_scale_of_scores_that_are_too_large(size: float) -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(60, 30)) * 5
    truth = np.eye(30)[[draw.choice(30, p=row) for row in torch.from_numpy(scores).softmax(1).numpy()]]
    assert 0.75 < fit_temperature(size * scores, truth) * size < 1.2  # scores that fit as they are: 30 classes, 60 items


def test_classes_that_are_separable_leave_a_little_doubt() -> None:
    truth = np.eye(3)[np.arange(12) % 3]
    chances = np.exp(fit_temperature(truth, truth) * truth)
    assert np.allclose((chances / chances.sum(1, keepdims=True)).max(1), (12 + 1 / 3) / 13, atol=1e-3)
