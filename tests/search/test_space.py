"""Spaces: plain data in and out, values checked in a plan, names that mean nothing beside the others left out."""

from __future__ import annotations

import itertools
import json
from typing import Any

import optuna
import pytest
from tests import torch_examples as examples

import regraft
from regraft.errors import SettingError
from regraft.planning.search.space import Space, default_space, plan_for

FULL = {
    "frozen": [1, "conv2"],
    "momentum": {"low": 0.8, "high": 0.9},
    "strategy": ["head", "partial"],
    "optimizer": ["adamw", "sgd"],
    "learning_rate": {"low": 1e-4, "high": 1e-2, "log": True},
}


def test_a_grid_has_every_combination_once_and_no_idle_names() -> None:
    grid = list(Space.from_dict(FULL, {}).grid({}))
    assert len(grid) == (1 + 2) * (1 + 3) * 3 == len({json.dumps(values, sort_keys=True) for values in grid})
    assert all(("frozen" in values) == (values["strategy"] == "partial") for values in grid)
    assert all(("momentum" in values) == (values["optimizer"] == "sgd") for values in grid)
    assert sorted({values["learning_rate"] for values in grid}) == pytest.approx([1e-4, 1e-3, 1e-2])


def test_a_fixed_setting_decides_what_the_others_mean() -> None:
    space = Space.from_dict({"momentum": [0.5, 0.9]}, {"optimizer": "sgd"})
    assert len(list(space.grid({"optimizer": "sgd"}))) == 2
    assert list(space.grid({})) == [{}]
    smoothed = Space.from_dict({"loss": ["cross_entropy", "focal"], "label_smoothing": [0.1, 0.2]}, {})
    assert [values.get("label_smoothing") for values in smoothed.grid({})] == [0.1, 0.2, None]


def test_a_space_survives_json_and_draws_within_its_ranges() -> None:
    plain = json.loads(json.dumps(Space.from_dict(FULL, {}).to_dict()))
    space = Space.from_dict(plain, {})
    assert space.to_dict() == plain
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(20):
        values = space.suggested(study.ask(), {})
        assert 1e-4 <= values["learning_rate"] <= 1e-2 and 0.8 <= values.get("momentum", 0.8) <= 0.9
        assert ("frozen" in values) == (values["strategy"] == "partial")


@pytest.mark.parametrize(
    "entry",
    [
        {"low": 1e-4, "high": 0.1, "log": True},
        {"low": 0.123456, "high": 0.123499},
        {"low": 100.0, "high": 100.5},
        {"low": 0.0, "high": 0.5},
        {"low": 0.1, "high": 0.7, "step": 0.1},
    ],
)
def test_drawn_numbers_are_short_and_within_their_range(entry: dict[str, Any]) -> None:
    """Also where a trial of a study is drawn again from its values."""
    name = "learning_rate" if entry["low"] else "dropout"
    space = Space.from_dict({name: entry | {"points": 7}}, {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.suggested(study.ask(), {}) for _ in range(20)]
    assert len({values[name] for values in drawn}) > 5 and len(list(space.grid({}))) == 7
    for values in (*drawn, *space.grid({})):
        assert entry["low"] <= values[name] <= entry["high"] and len(repr(values[name])) <= 8
        assert space.suggested(optuna.trial.FixedTrial(values), {}) == values and space.holds(values)


def test_whole_numbers_stay_whole_and_steps_are_kept() -> None:
    space = Space.from_dict({"epochs": {"low": 2, "high": 8, "step": 3}, "batch_size": {"low": 8, "high": 64, "log": True}}, {})
    assert {values["epochs"] for values in space.grid({})} == {2, 5, 8}
    assert all(isinstance(values["batch_size"], int) for values in space.grid({}))


@pytest.mark.parametrize(
    ("space", "message"),
    [
        ({"lerning_rate": [1]}, "'lerning_rate' cannot be searched; did you mean 'learning_rate'"),
        ({"batch_size": [16, 0]}, "batch_size=0: expected a whole number, 1 or more"),
        ({"strategy": ["hed"]}, "'hed' is not known; did you mean 'head'"),
        ({"strategy": ["partial"]}, "'partial' needs 'frozen'"),
        ({"learning_rate": {"low": 0, "high": 1, "log": True}}, "expected low < high, above 0 with 'log'"),
        ({"learning_rate": {"low": 1, "hihg": 2}}, "has 'hihg'; did you mean 'high'"),
        ({"learning_rate": {"low": "a", "high": 2}}, "expected numbers as 'low' and 'high'"),
        ({"dropout": {"low": 0.1, "high": 0.5, "points": 1}}, "expected 2 'points' or more"),
        ({"momentum": {"low": 0.5, "high": 1.5}}, r"momentum=1.5: expected a number in \[0, 1\)"),
        ({"schedule": ["plateau"], "plateau_factor": [0.5, 2.0]}, r"plateau_factor=2.0: expected a number in \(0, 1\)"),
        ({"loss": ["focal", "focul"]}, "loss='focul': expected one of cross_entropy, focal"),
        ({"optimizer": []}, "expected a list of words or numbers"),
        ({"epochs": [1]}, "'epochs' is also given as a fixed setting"),
        ({"head_layers": [1]}, "'head_layers' needs 'head_units'"),
        ({"head_units": [0]}, "head_units=0: expected a whole number, 1 or more"),
        ({}, "expected a mapping"),
    ],
)
def test_a_wrong_space_says_what_is_wrong(space: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Space.from_dict(space, {"epochs": 3})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(SettingError, match=r"batch_size=0.*clip_norm=-1"):
        Space.from_dict({"batch_size": [0], "clip_norm": [-1]}, {})


def test_the_default_space_suits_the_network() -> None:
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    plain = default_space(net, "classification")
    assert max(plain["frozen"]) < len(net.blocks) and "label_smoothing" in plain
    assert Space.from_dict(plain, {}).entries
    assert "label_smoothing" not in default_space(net, "regression")


def test_a_probe_takes_no_setting_of_a_training() -> None:
    names = {"learning_rate": [0.1, 0.01], "trainable": ["conv*"], "monitor": ["loss"], "head_layers": [0, 1], "head_units": [8]}
    made = list(Space.from_dict({"strategy": ["probe", "head"], **names}, {}).grid({}))
    assert made[0] == {"strategy": "probe"} and len(made) == 5
    assert all({"learning_rate", "trainable", "monitor"} <= set(values) for values in made[1:])


def test_the_layers_that_are_trained_and_the_figure_that_chooses_the_epoch_are_searched() -> None:
    space = Space.from_dict({"trainable": ["conv1", "all", None], "monitor": ["loss", "val_accuracy"]}, {"strategy": "full"})
    plans = [plan_for(values, {"strategy": "full"}) for values in space.grid({"strategy": "full"})]
    assert [(plan.trainable, plan.settings.monitor) for plan in plans] == list(
        itertools.product((("conv1",), "all", None), ("loss", "val_accuracy"))
    )


def test_the_default_space_has_all_that_a_procedure_is_made_of() -> None:
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    rates = {
        "loss",
        "epochs",
        "decay",
        "learning_rate",
        "optimizer",
        "momentum",
        "weight_decay",
        "l1",
        "dropout",
        "clip_norm",
        "batch_size",
        "label_smoothing",
    }
    heads = {"head_layers", "head_units", "head_activation"}
    assert set(default_space(net, "classification")) == {"strategy", "frozen"} | rates | heads
    assert not heads & set(default_space(net, "classification", several=True)) and not heads & set(default_space(net, "multi-label"))
    space = Space.from_dict(default_space(net, "classification"), {})
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn = [space.suggested(study.ask(), {}) for _ in range(30)]
    assert all(1e-7 <= values["l1"] <= 1e-3 and 0 <= values["dropout"] <= 0.5 for values in drawn)
    assert {values.get("head_layers") for values in drawn} == {None, 0, 1, 2}
    assert all(("head_units" in values) == (values.get("head_layers", 0) > 0) for values in drawn)


def test_settings_of_one_schedule_are_drawn_with_it_alone() -> None:
    space = {"schedule": ["plateau", "cosine"], "plateau_factor": [0.5, 0.2], "loss": ["focal", "hinge"], "decay": [0.0, 0.1]}
    found = list(Space.from_dict(space, {}).grid({}))
    assert len(found) == 2 * 2 * 2 + 2 * 2
    assert all(("plateau_factor" in values) == (values["schedule"] == "plateau") for values in found)
    assert {plan_for(values, {}).settings.plateau_factor for values in found} == {0.5, 0.2, 0.1}
