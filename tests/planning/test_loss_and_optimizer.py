"""Losses, optimizers and schedules that the user names, in whole adaptations of both families."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.reliability import cases
from torch.nn import functional

import regraft
from regraft.errors import SettingError
from regraft.planning import Plan, make_plan
from regraft.training import Settings
from regraft.training.optimizing import OPTIMIZERS

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "cache": "memory", "learning_rate": 1e-2, "layer_decay": 1.0}


def _focal(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    true = scores.log_softmax(1)[torch.arange(len(targets)), targets]
    return -((1 - true.exp()) ** 2) * true


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_a_loss_by_name_is_the_same_as_by_its_function_and_another_than_the_usual_one(family: str) -> None:
    net, data = cases.network(family), cases.data(family)
    named, own, usual = (regraft.adapt(net, data, strategy="full", loss=loss, **QUICK) for loss in ("focal", _focal, None))
    first, second, third = ([entry["train_loss"] for entry in result.history] for result in (named, own, usual))
    assert first == pytest.approx(second, rel=1e-3) and first != pytest.approx(third, rel=0.05)
    states = [list(result.network.state().values()) for result in (named, own)]
    assert all(torch.allclose(one, other, atol=1e-4) for one, other in zip(*states, strict=True))
    assert not any("calibrated_loss" in entry for entry in named.history)
    assert named.plan.to_dict()["settings"]["loss"] == "focal" and own.plan.to_dict()["settings"]["loss"] == "callable _focal"


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("loss", ["mae", "huber", "msle", "poisson", "mse"])
def test_numbers_are_learned_by_each_of_their_losses(loss: str, family: str) -> None:
    net, data = cases.network(family), cases.data(family)
    numbers = np.abs(np.random.default_rng(0).normal(2, 1, len(data))).astype(np.float32)
    result = regraft.adapt(net, (np.asarray(data.items), numbers), strategy="full", loss=loss, **QUICK)
    assert np.isfinite([value for entry in result.history for value in entry.values() if isinstance(value, float)]).all()
    assert result.scores["holdout"]["rmse"] < 3


@pytest.mark.parametrize("optimizer", [*OPTIMIZERS, lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.5)])
def test_every_optimizer_trains_and_goes_on_from_its_checkpoint(optimizer: Any, tmp_path: Path) -> None:
    net, data = cases.network("torch"), cases.data("torch")
    given = {**QUICK, "strategy": "full", "optimizer": optimizer}
    whole = regraft.adapt(net, data, **given)
    before = list(net.state().values())
    assert any(not torch.equal(one, other) for one, other in zip(before, whole.network.state().values(), strict=True))
    assert whole.network.predict(data.items).labels[0] in data.classes


def test_the_rate_of_a_factory_holds_where_none_is_given() -> None:
    def made(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.05, weight_decay=0.1)

    assert Settings.of({"optimizer": made}).learning_rate == 0.05
    assert Settings.of({"optimizer": made, "learning_rate": 0.2}).learning_rate == 0.2
    result = regraft.adapt(cases.network("torch"), cases.data("torch"), strategy="full", epochs=1, schedule="constant", optimizer=made)
    assert {entry["learning_rate"] for entry in result.history} == {0.05}


def test_schedules_by_hand() -> None:
    net, data = cases.network("torch"), cases.data("torch")
    given: dict[str, Any] = {**QUICK, "strategy": "full", "epochs": 6, "patience": None, "refit": False}
    plain = regraft.adapt(net, data, **given, schedule="constant", decay=0.5).history
    steps = [round((0.01 / entry["learning_rate"] - 1) / 0.5) for entry in plain if entry["stage"] != "head"]
    each = steps[0] + 1
    assert steps == [each * epoch - 1 for epoch in range(1, len(steps) + 1)]
    floor = regraft.adapt(net, data, **given, schedule="cosine", min_learning_rate=0.004).history
    assert min(entry["learning_rate"] for entry in floor) == 0.004
    still = {**given, "schedule": "plateau", "plateau_factor": 0.5, "plateau_patience": 0, "learning_rate": 1e-12}
    falls = np.log2([entry["learning_rate"] / 1e-12 for entry in regraft.adapt(net, data, **still).history])
    assert set(falls.round(6) % 1) == {0.0} and falls.min() < 0


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"loss": "mse"}, r"loss='mse' is for regression; the task 'main' is classification: cross_entropy, focal, hinge"),
        ({"loss": "focul"}, r"loss='focul': expected one of cross_entropy, focal, hinge, mse"),
        ({"loss": {"other": "focal"}}, r"loss: the data have no task 'other'"),
        ({"loss": "focal", "label_smoothing": 0.1}, r"label_smoothing=0.1 goes with loss='cross_entropy'"),
        ({"loss": lambda scores, targets: 3}, r"loss= returned int for 2 examples"),
        ({"loss": lambda scores, targets: torch.ones(())}, r"a number without a gradient"),
        ({"optimizer": "adamx"}, r"optimizer='adamx': expected one of adamw, adam, sgd"),
        ({"optimizer": lambda groups: 3}, r"optimizer= returned int; expected an optimizer of PyTorch"),
        ({"optimizer": lambda groups: torch.optim.LBFGS(groups)}, r"optimizer= returned LBFGS"),
        ({"optimizer": lambda groups: groups[7]}, r"optimizer= failed on groups of parameters: IndexError"),
        ({"optimizer": lambda groups: torch.optim.SGD(groups), "weight_decay": 0.5}, r"weight_decay=0.5 goes with optimizers by name"),
        ({"plateau_factor": 0.5}, r"plateau_factor=0.5 goes with schedule='plateau'; received 'auto'"),
        ({"criterion": "focal"}, r"unknown setting 'criterion'; here it is called 'loss'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_starts(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        regraft.adapt(cases.network("torch"), cases.data("torch"), strategy="full", **given)


@pytest.mark.parametrize("name", ["loss", "optimizer"])
def test_a_plan_of_plain_data_asks_for_the_function_again(name: str) -> None:
    functions = {"loss": functional.cross_entropy, "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)}
    plan = make_plan("full", {name: functions[name], "epochs": 1, "batch_size": 16, "cache": "memory"})
    again = Plan.from_json(plan.to_json())
    assert json.loads(plan.to_json())["settings"][name].startswith("callable ")
    net, data = cases.network("torch"), cases.data("torch")
    with pytest.raises(SettingError, match=rf"made with {name}= 'callable .*Give the function again"):
        regraft.adapt(net, data, strategy=again)
    filled = dataclasses.replace(again, settings=dataclasses.replace(again.settings, **{name: functions[name]}))
    assert regraft.adapt(net, data, strategy=filled).network.predict(data.items).labels[0] in data.classes
