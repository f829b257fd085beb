"""Further outputs: derived from the old probabilities, or with rows of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import regraft
from regraft.errors import NetworkError, SettingError

NAMES = [f"{index}" for index in range(10)]


def _network() -> regraft.Network:
    torch.manual_seed(0)
    return regraft.load(nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10)), classes=NAMES, inputs=(6,))


def _items(count: int = 40) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 6)).astype(np.float32)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=10, max_size=10), st.booleans())
def test_derived_probabilities_are_sums_of_the_old_ones(group: list[int], rest: bool) -> None:
    used = sorted(set(group))
    groups: dict[str, list[str] | None] = {
        f"g{index}": [name for name, own in zip(NAMES, group, strict=True) if own == index] for index in used
    }
    if rest:
        groups[f"g{used[0]}"] = None
    net = regraft.branch(_network(), "group", groups=groups)
    found = net.predict(_items())
    for column, index in enumerate(used):
        expected = found.probabilities[:, [row for row, own in enumerate(group) if own == index]].sum(1)
        np.testing.assert_allclose(found.tasks["group"].probabilities[:, column], expected, atol=1e-6)
    assert found.tasks["group"].classes == tuple(groups) and found.labels == _network().predict(_items()).labels


def test_even_and_odd_once_derived_and_once_solved_from_data() -> None:
    net, groups = _network(), {"even": NAMES[::2], "odd": None}
    derived = regraft.branch(net, "parity", groups=groups)
    assert derived.heads["parity"].groups == (tuple(range(0, 10, 2)), tuple(range(1, 10, 2))) and derived.heads["parity"].layer == ""
    labels = net.predict(_items(300)).labels
    solved = regraft.branch(net, "parity", groups=groups, start="probe", data=(_items(300), np.array(labels)))
    assert solved.heads["parity"].groups is None and solved.heads["parity"].weight.shape == (2, 12)
    truth = np.array(["odd" if int(label) % 2 else "even" for label in labels])
    assert (np.array(solved.predict(_items(300)).tasks["parity"].labels) == truth).mean() > 0.75
    assert "derived from the old probabilities" in str(derived.account) and "even" in str(solved.account)


def test_branches_of_every_kind_stand_side_by_side(tmp_path: Any) -> None:
    module = nn.Sequential(nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 10))
    net = regraft.branch(regraft.load(module, classes=NAMES, inputs=(6,)), "labels", ["red", "round"], kind="multi-label", start="random")
    net = regraft.branch(net, "size", ["metres"], kind="regression", start="random", seed=1)
    net = regraft.branch(net, "half", groups={"low": NAMES[:5], "high": None})
    found = net.predict(_items())
    assert list(found.tasks) == ["main", "labels", "size", "half"] == list(net.heads)
    assert {task: net.heads[task].kind for task in net.heads} == {
        "main": "classification", "labels": "multi-label", "size": "regression", "half": "classification",
    }  # fmt: skip
    net.save(tmp_path / "net")
    for again in (regraft.load(tmp_path / "net"), regraft.load(tmp_path / "net", architecture=lambda: module)):
        assert list(again.heads) == list(net.heads)
        for task in net.heads:
            assert np.allclose(again.predict(_items()).tasks[task].probabilities, found.tasks[task].probabilities, atol=1e-6)
            assert (again.heads[task].kind, again.heads[task].classes) == (net.heads[task].kind, net.heads[task].classes)
    changed = regraft.retarget(net, ["3", "new"])
    assert list(changed.heads) == ["main", "labels", "size"]  # what was derived from the old classes goes with them
    assert np.array_equal(changed.logits(_items(), task="labels"), net.logits(_items(), task="labels"))
    other = regraft.retarget(net, ["round", "blue"], task="labels")
    assert np.array_equal(other.heads["labels"].weight[0], net.heads["labels"].weight[1])


@pytest.mark.parametrize(
    ("task", "options", "error", "message"),
    [
        ("main", {"classes": ["a"]}, NetworkError, "'main'"),
        ("p", {}, SettingError, "class names, or groups="),
        ("p", {"classes": ["a", "a "]}, NetworkError, "same once trimmed"),
        ("p", {"classes": ["a"], "kind": "multilabel"}, SettingError, "did you mean 'multi-label'"),
        ("p", {"groups": {"low": ["0", "1"]}}, NetworkError, "8 old classes stand in no group"),
        ("p", {"groups": {"low": ["0", "1"], "high": ["1"]}}, NetworkError, "'1' stands in two groups"),
        ("p", {"groups": {"low": ["zero"], "high": None}}, NetworkError, "no class 'zero'"),
        ("p", {"groups": {"low": None, "high": None}}, NetworkError, "None once at most"),
        ("p", {"groups": {"low": NAMES, "high": None}}, NetworkError, "'high' has no old class"),
        ("p", {"groups": {"low": None}, "kind": "regression"}, SettingError, "Leave them out"),
        ("p", {"classes": ["a"], "start": "imprint"}, SettingError, "give them with data"),
    ],
)
def test_what_does_not_fit_is_one_error(task: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    net = _network()
    with pytest.raises(error, match=message):
        regraft.branch(net, task, **options)
    assert list(net.heads) == ["main"]


def test_unknown_tasks_are_named() -> None:
    with pytest.raises(NetworkError, match="no task 'mian'; did you mean 'main'"):
        _network().logits(_items(), task="mian")
    with pytest.raises(SettingError, match="did you mean 'softmax'"):
        regraft.stack(_network(), ["a"], activation="softmx")
