"""Settings: every mistake at once, with what would have been right."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from regraft.errors import _ELSEWHERE, _HERE, SettingError
from regraft.training import Settings


def test_all_problems_are_listed_at_once() -> None:
    with pytest.raises(SettingError) as caught:
        Settings.of({"epoch": 3, "learning_rte": 0.1, "batch_size": 0, "optimizer": "adamm", "momentum": 1.0})
    message = str(caught.value)
    for part in ("'epoch'", "'epochs'", "'learning_rte'", "'learning_rate'", "batch_size=0", "optimizer='adamm'", "adamw", "momentum=1.0"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("epochs", 1.5),
        ("epochs", -1),
        ("epochs", True),
        ("learning_rate", 0),
        ("learning_rate", "fast"),
        ("learning_rate", float("nan")),
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("dropout", None),
        ("l1", -1e-3),
        ("l1", float("inf")),
        ("warmup", 1.0),
        ("layer_decay", 0.0),
        ("unfreeze_every", 0),
        ("patience", 0),
        ("min_delta", -1),
        ("clip_norm", 0),
        ("class_weight", "balance"),
        ("class_weight", 3),
        ("class_weight", [1.0, -1.0]),
        ("class_weight", {"a": 1.0}),
        ("label_smoothing", 1.0),
        ("cache", 3),
        ("dtype", "float64"),
        ("device", "gpu"),
        ("schedule", "cosin"),
        ("baselines", "yes"),
        ("task_weights", {"a": 0.0}),
        ("task_weights", {"a": "much"}),
        ("task_weights", [1.0]),
    ],
)
def test_values_out_of_range_are_refused(name: str, value: Any) -> None:
    with pytest.raises(SettingError, match=f"{name}=.*expected"):
        Settings.of({name: value})


def test_plain_data_both_ways(tmp_path: Path) -> None:
    given = Settings.of({"cache": tmp_path, "class_weight": (1, 2.5), "patience": None, "device": "cpu", "learning_rate": 1e-3})
    plain = json.loads(json.dumps(given.to_dict()))
    assert plain["cache"] == str(tmp_path)
    assert plain["class_weight"] == [1.0, 2.5]
    assert Settings.of(plain).to_dict() == given.to_dict()
    assert Settings.of({}) == Settings()


@pytest.mark.parametrize(
    ("other", "here"),
    [
        ("lr", "learning_rate"),
        ("learning_rate_init", "learning_rate"),
        ("clipnorm", "clip_norm"),
        ("l2", "weight_decay"),
        ("num_train_epochs", "epochs"),
        ("drop_rate", "dropout"),
        ("lr_scheduler_type", "schedule"),
        ("class_weights", "class_weight"),
        ("early_stopping", "patience"),
        ("validation_data", "test"),
        ("n_trials", "trials"),
        ("cbs", "callbacks"),
        ("moms", "momentum"),
        ("tol", "min_delta"),
        ("n_out", "classes"),
    ],
)
def test_names_of_other_libraries_are_told_by_their_name_here(other: str, here: str) -> None:
    with pytest.raises(SettingError, match=f"unknown setting '{other}'; here it is called '{here}'"):
        Settings.of({other: 1})


FASTAI = ("freeze_epochs", "pretrained", "splitter", "item_tfms", "batch_tfms", "hidden_layer_sizes")


@pytest.mark.parametrize(
    ("name", "other", "here"),
    [
        ("loss", "categorical_crossentropy", "cross_entropy"),
        ("loss", "mean_squared_error", "mse"),
        ("loss", "CrossEntropyLoss", "cross_entropy"),
    ],
)
def test_values_of_other_libraries_are_told_by_their_name_here(name: str, other: str, here: str) -> None:
    with pytest.raises(SettingError, match=f"; here it is called '{here}'$"):
        Settings.of({name: other})


@pytest.mark.parametrize(
    "name", ["verbose", "nesterov", "shuffle", "initial_epoch", "clipvalue", "workers", "steps_per_epoch", "bf16", *FASTAI]
)
def test_what_cannot_be_set_says_what_holds(name: str) -> None:
    with pytest.raises(SettingError, match=f"there is no setting '{name}': .{{20,}}"):
        Settings.of({name: 1})


def test_every_name_of_another_library_leads_to_a_setting() -> None:
    plan = {"classes", "validation", "holdout", "test", "seed", "frozen", "augment", "budget", "out", "trials"}
    known = {*Settings.__dataclass_fields__, *plan}
    assert set(_ELSEWHERE) <= known and not known & set(_HERE)
