"""The plan is plain data, both ways, and says all that is wrong with it."""

from __future__ import annotations

import dataclasses
import inspect
import json
import re
import typing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regraft
from regraft.errors import SettingError
from regraft.methods import METHODS
from regraft.planning import Plan, make_plan
from regraft.planning.plan import _OWN
from regraft.training import Settings


@pytest.mark.parametrize(
    ("strategy", "options"),
    [
        ("auto", {}),
        ("full", {"epochs": 12, "seed": 7, "learning_rate": 3e-4, "baselines": True}),
        ("partial", {"frozen": "conv2", "classes": ["it's", "b"], "rename": {"a": "b"}, "augment": "light"}),
        ("lora", {"rank": 4, "trainable": ["layer4*"], "views": 3}),
        ("scale_shift", {"form": "lhuc", "weight_decay": 0.5}),
    ],
)
def test_the_call_of_a_plan_makes_it_again(strategy: str, options: dict[str, Any]) -> None:
    plan = make_plan(strategy, options)

    class Called:
        """Stands for the package: a call of adapt becomes the plan that it asks for."""

        @staticmethod
        def adapt(net: None, data: None, *, strategy: str, **given: Any) -> Plan:
            return make_plan(strategy, given)

    again = eval(plan.to_call(), {"regraft": Called, "net": None, "data": None})
    assert again.to_dict() == plan.to_dict() and "seed=" in plan.to_call()


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
        ("head", {"base": "probe"}, ["base='probe' goes with strategy='partial', 'full' or 'surgical'"]),
        ("full", {"fresh": ["own"], "stay_near": 0.5}, ["stay_near=0.5 needs what the network said before"]),
        (
            "head",
            {"rename": 3, "statistics": "yes"},
            ["rename=3: expected old name -> new name", "statistics='yes': expected True or False"],
        ),
        ("head", {"view": 2, "epoch": 3, "momentum": 2}, ["'view'", "views", "'epoch'", "'epochs'", "momentum=2"]),
    ],
)
def test_everything_wrong_is_said_at_once(strategy: str, options: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(SettingError) as caught:
        make_plan(strategy, options)
    assert all(part in str(caught.value) for part in parts), str(caught.value)


def test_options_are_given_by_name() -> None:
    wrong: Any = ["rank"]
    with pytest.raises(SettingError, match=r"options=\['rank'\]: expected the options of a method by name"):
        make_plan(Plan("lora", options=wrong), {})


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


KEYWORDS = {
    "augment": "str | Callable[..., Any]",  # as they may be given; a plan has them in one form
    "classes": "Sequence[str]",
    "rename": "Mapping[str, str]",
    "trainable": "Sequence[str] | str | None",
    "fresh": "Sequence[str] | str | None",
}


@pytest.mark.parametrize("verb", ["adapt", "search", "profile"])
def test_editors_know_the_keywords_that_a_verb_takes_with_the_types_of_the_tables(verb: str) -> None:
    signature = inspect.signature(getattr(regraft, verb)).parameters
    named = typing.get_type_hints(getattr(regraft, verb))["settings"]
    given = {name: part.__forward_arg__ for name, part in typing.get_args(named)[0].__annotations__.items()}
    settings = {field.name for field in dataclasses.fields(Settings)}
    plan = {field.name: field.type for field in dataclasses.fields(Plan)}
    options = {name for method in METHODS.values() for name in method.options}
    own = {*_OWN, *options, "skip_bad", *(["strategy"] if verb == "search" else [])} if verb != "profile" else set()
    assert set(given) == (settings | own) - set(signature)
    for name, kind in given.items():
        if name not in {*options, *settings, "skip_bad"}:
            assert kind == KEYWORDS.get(name, plan[name]), name


def test_a_plan_is_made_without_the_report() -> None:
    seen, todo = set(), {Path(inspect.getfile(Plan))}
    source = Path(regraft.__file__).parent
    while todo:
        path = todo.pop()
        seen.add(path)
        for dots, name in re.findall(r"^from (\.+)([\w.]*) import", path.read_text(encoding="utf-8"), flags=re.MULTILINE):
            base = path.parents[len(dots) - 1].joinpath(*name.split("."))
            todo |= {found for found in (base.with_suffix(".py"), base / "__init__.py") if found.is_file()} - seen
    assert not {path for path in seen if path.is_relative_to(source / "report")}


@pytest.mark.parametrize("classes", [range(3), ["0", "1", "2"], {"0": 5, "1": 6, "2": 7}.keys(), np.array(["0", "1", "2"]), iter("012")])
def test_classes_are_any_list_of_names(classes: Any) -> None:
    plan = make_plan("probe", {"classes": classes})
    assert [str(name) for name in plan.classes] == ["0", "1", "2"]
