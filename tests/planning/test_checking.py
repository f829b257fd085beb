"""What is told of a network and data before anything is trained; examples that are learned from and judged on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.data import Dataset

FAMILIES = ["torch", "keras"]


def _network(family: str) -> Any:
    if family == "keras":
        keras = pytest.importorskip("keras")
        inner = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(2, "softmax")])
    else:
        inner = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))
    return regraft.load(inner, classes=["a", "old"], inputs=None if family == "keras" else (4,))


def _data(count: int = 40, width: int = 4) -> Dataset:
    rows = np.random.default_rng(0).normal(size=(count, width)).astype(np.float32)
    return regraft.read((rows, ["a" if at % 2 else "b" for at in range(count)]))


@pytest.mark.parametrize("family", FAMILIES)
def test_kept_new_and_dropped_classes_and_the_split(family: str) -> None:
    facts = regraft.check(_data(), _network(family)).facts
    told = facts["network"]
    assert (told["classes_kept"], told["classes_new"], told["classes_dropped"]) == (["a"], ["b"], ["old"])
    assert sum(told["split"].values()) == 40 and not facts["problems"]


@pytest.mark.parametrize("family", FAMILIES)
def test_items_that_do_not_fit_are_a_problem_and_no_error(family: str) -> None:
    problems = regraft.check(_data(width=5), _network(family)).facts["problems"]
    assert len(problems) == 1 and "5" in problems[0] and "4" in problems[0]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("tested", [False, True])
def test_equal_examples_on_both_sides_are_told(grouped: bool, tested: bool) -> None:
    rows = np.repeat(np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32), 4, axis=0)
    data = regraft.read((rows, [str(at // 4 % 2) for at in range(40)]), group="byte-equal" if grouped else None)
    test = (rows[:6] + (0 if tested else 1), ["0", "0", "0", "0", "1", "1"])
    result = regraft.adapt(_network("torch"), data, strategy="probe", test=test, holdout=0.2, cache="memory", device="cpu")
    warnings = [note for note in result.plan.reasons if "equal, byte by byte" in note]
    assert [("holdout" in note, "test" in note) for note in warnings] == [(True, False)] * (not grouped) + [(False, True)] * tested
    assert all(note in result.facts["warnings"] for note in warnings)
    assert dict(map(tuple, result.facts["data"]["read"]))["byte-equal"].startswith("30 copies of 10 examples")
