"""A network that is made once more from all examples, those that have judged included; and a test set that leaves nothing else to judge."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.reliability import cases

import regraft
from regraft.errors import SettingError
from regraft.networks.keras.library import keras
from regraft.planning import setup
from regraft.planning.tuning.training import usual_rate
from regraft.report.planes import kept_epochs
from regraft.training import Settings

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "cache": "memory"}
STRATEGIES: dict[str, dict[str, Any]] = {
    "probe": {},
    "head": {},
    "partial": {"frozen": 1},
    "full": {},
    "from the probe": {"strategy": "full", "base": "probe"},
    "scratch": {},
    "bias": {},
    "lora": {"rank": 2},
    "auto": {},
}


@pytest.mark.parametrize(
    ("name", "family"),
    [
        pytest.param(name, family, marks=pytest.mark.slow if family == "keras" and name not in ("probe", "partial", "auto") else ())
        for name in STRATEGIES
        for family in cases.FAMILIES
    ],
)
def test_all_examples_are_learned_from_once_the_network_has_been_judged(name: str, family: str) -> None:
    given = {"strategy": name, **QUICK, **STRATEGIES[name]}
    net, data = cases.network(family), cases.data(family)
    plain, everything = (regraft.adapt(net, data, **given, refit=refit) for refit in ("auto", "all"))
    assert everything.scores == plain.scores  # the figures are of the network before
    assert everything.facts["data"]["split"] == plain.facts["data"]["split"]
    assert any("The metrics are of the network before that" in reason for reason in everything.plan.reasons)
    first, second = plain.network.state(), everything.network.state()
    assert first.keys() == second.keys()
    assert any(not torch.equal(first[key], second[key]) for key in first)
    assert everything.network.predict(data.items).labels[0] in data.classes
    assert everything.plan.chosen.get("strategy") == plain.plan.chosen.get("strategy")


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_with_a_test_set_nothing_else_need_be_kept_aside(family: str) -> None:
    net, data = cases.network(family), cases.data(family)
    result = regraft.adapt(net, data, strategy="head", test=data, holdout=0, **QUICK)
    assert set(result.scores) == {"test"}
    assert result.facts["data"]["split"]["holdout"] == 0
    assert sum(result.facts["data"]["split"].values()) == len(data)
    with pytest.raises(SettingError, match=r"holdout=0 leaves nothing that judges.*test="):
        regraft.adapt(net, data, strategy="head", holdout=0, **QUICK)


def test_examples_that_have_judged_are_in_the_statistics_of_the_last_network() -> None:
    net, data = cases.network("torch"), cases.data("torch")
    for refit, count in (("auto", len(data) - len(data) // 5), ("all", len(data))):
        network = regraft.adapt(net, data, strategy="head", refit=refit, **QUICK).network
        assert network.statistics is not None
        assert int(np.asarray(network.statistics["counts"]).sum()) == count


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("strategy", ["head", "partial", "full"])
def test_a_training_of_which_nothing_is_kept_is_named(strategy: str, family: str) -> None:
    given = {"strategy": strategy, "optimizer": "sgd", "frozen": 1 if strategy == "partial" else None}
    bad, other = (
        regraft.adapt(cases.network(family), cases.data(family), **QUICK | given | {"learning_rate": rate, "validation": validation})
        for rate, validation in ((1e6, 0.3), (0.05, 0))  # without a validation set nothing tells that the start was better
    )
    said = f"Nothing of the training {strategy!r} was kept"
    assert said in bad.verdict and (strategy == "head" or any(reason.startswith(said) for reason in bad.plan.reasons))
    assert strategy != "head" or not kept_epochs(bad.history, kept_start=bad.facts["kept_start"])
    assert said not in other.verdict and not any(reason.startswith(said) for reason in other.plan.reasons)
    assert said in bad.report_facts()["verdict"]


def test_a_network_from_scratch_beside_it_is_judged_as_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.training.courses.MOST", 8)
    given: dict[str, Any] = {"strategy": "full", "baselines": True, **QUICK}
    plain, everything = (regraft.adapt(cases.network("torch"), cases.data("torch"), **given, refit=refit) for refit in ("auto", "all"))
    assert everything.baselines == plain.baselines and "scratch" in plain.baselines


@pytest.mark.parametrize(
    ("validation", "refit", "most", "expected", "family"),
    [
        (0.15, "auto", 5_000, {"fold 1", "fold 2", "fold 3", "refit"}, "torch"),
        (0.15, False, 5_000, set(), "torch"),
        (0.65, "auto", 5_000, {"refit"}, "torch"),
        (0.65, "auto", 10, set(), "torch"),
        (0.65, True, 10, {"refit"}, "torch"),
        (0.15, "auto", 5_000, {"fold 1", "fold 2", "fold 3", "refit"}, "keras"),  # what decides does not know the family
    ],
)
def test_few_examples_choose_by_folds_and_are_then_learned_from_together(
    validation: float, refit: Any, most: int, expected: set[str], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup, "MOST_REFITTED", most)
    given = {"validation": validation, "refit": refit, "epochs": 6, "batch_size": 8, "cache": "memory", "learning_rate": 1e-2}
    result = regraft.adapt(cases.network(family), cases.data(family), strategy="full", start="zeros", **given)
    assert result.facts["kept_start"] is None
    assert {entry["phase"] for entry in result.history} - {"search", "train"} == expected


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("attends", [True, False])
def test_rates_are_compared_around_those_usual_for_the_kind_of_network(attends: bool, family: str) -> None:
    if family == "torch":
        layer = torch.nn.TransformerEncoderLayer(8, 2, 8) if attends else torch.nn.Linear(8, 8)
        net = regraft.load(torch.nn.Sequential(layer, torch.nn.Flatten(), torch.nn.Linear(32, 2)), inputs=(4, 8))
    else:
        entry = keras.Input((4, 8))
        inner = keras.layers.MultiHeadAttention(2, 4)(entry, entry) if attends else keras.layers.Dense(8)(entry)
        net = regraft.load(keras.Model(entry, keras.layers.Dense(2)(keras.layers.Flatten()(inner))))
    rates = [usual_rate(net, Settings()), usual_rate(net, Settings(), drawn=True), usual_rate(net, Settings(optimizer="sgd"))]
    assert rates == pytest.approx([1e-4, 3e-4, 1e-3] if attends else [1e-3, 1e-3, 1e-2])
