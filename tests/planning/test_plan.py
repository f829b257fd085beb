"""The plan is plain data, both ways, and says all that is wrong with it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from regraft.errors import SettingError
from regraft.planning import Plan, make_plan
from regraft.training import Settings


def test_json_both_ways() -> None:
    plan = make_plan("partial", {"frozen": "layer3", "views": 2, "seed": 7, "epochs": 3, "class_weight": [1, 2], "classes": ("a", "ü")})
    plan = plan.with_reasons("because")
    text = plan.to_json()
    again = Plan.from_json(text)
    assert again == dataclasses.replace(plan, settings=Settings.of(plan.settings.to_dict()))
    assert again.to_json() == text
    edited = {**json.loads(text), "seed": 8}
    assert Plan.from_dict(edited).seed == 8
    assert len(str(plan).splitlines()) <= 40
    assert "frozen up to 'layer3'" in str(plan) and "classes    2: a, ü" in str(plan)
    assert "classes" not in str(make_plan("auto", {}))


@pytest.mark.parametrize(
    ("strategy", "options", "parts"),
    [
        ("heed", {}, ["'head'"]),
        ("partial", {}, ["needs frozen="]),
        ("full", {"frozen": 3}, ["goes with strategy='partial'"]),
        ("partial", {"frozen": 1.5}, ["frozen=1.5"]),
        ("heed", {"views": 0, "holdout": 1.0, "seed": -1}, ["'head'", "views=0", "holdout=1.0", "seed=-1"]),
        ("head", {"holdout": "half"}, ["holdout='half'"]),
        ("head", {"view": 2, "epoch": 3, "momentum": 2}, ["'view'", "views", "'epoch'", "'epochs'", "momentum=2"]),
    ],
)
def test_everything_wrong_is_said_at_once(strategy: str, options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        make_plan(strategy, options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "JSON"),
        ("[]", "mapping with a 'strategy'"),
        ("{}", "'strategy'"),
        ('{"strategy": "head", "frosen": 1}', "'frozen'"),
        ('{"strategy": "head", "validation": 2}', "validation=2"),
        ('{"strategy": "head", "settings": {"epoch": 1}}', "'epochs'"),
    ],
)
def test_edited_plans_are_checked(text: str, message: str) -> None:
    with pytest.raises(SettingError, match=message):
        Plan.from_json(text)
