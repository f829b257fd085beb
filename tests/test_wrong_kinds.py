"""An argument of a wrong kind is an error of regraft that names it, in every public function."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft

X, Y = np.random.default_rng(0).normal(size=(30, 1, 8, 8)).astype(np.float32), np.array(list("abc") * 10)


@cache
def net() -> Any:
    torch.manual_seed(0)
    return regraft.load(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3)), inputs=(1, 8, 8), classes=["a", "b", "c"]
    )


@cache
def result() -> Any:
    return regraft.adapt(net(), (X, Y), strategy="head", cache="memory")


CASES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "cut: block": (lambda wrong: regraft.cut(net(), wrong), "has no block"),
    "branch: task": (lambda wrong: regraft.branch(net(), wrong, ["x", "y"]), "Received the task"),
    "branch: classes": (lambda wrong: regraft.branch(net(), "t", wrong), "classes="),
    "branch: groups": (lambda wrong: regraft.branch(net(), "t", groups=wrong), "groups="),
    "branch: members of groups": (lambda wrong: regraft.branch(net(), "t", groups={"x": wrong}), "groups="),
    "retarget: classes": (lambda wrong: regraft.retarget(net(), wrong), "classes="),
    "retarget: rename": (lambda wrong: regraft.retarget(net(), ["a", "d"], rename=wrong), "rename="),
    "retarget: seed": (lambda wrong: regraft.retarget(net(), ["a", "d"], start="random", seed=wrong), "seed="),
    "retarget: start": (lambda wrong: regraft.retarget(net(), ["a", "d"], start=wrong), "start="),
    "stack: activation": (lambda wrong: regraft.stack(net(), ["p", "q"], activation=wrong), "activation="),
    "join: columns": (lambda wrong: regraft.join(net(), wrong), "Received the columns"),
    "load: head": (lambda wrong: regraft.load(net().module, inputs=(1, 8, 8), head=wrong), "head"),
    "load: weights": (lambda wrong: regraft.load(net().module, inputs=(1, 8, 8), weights=wrong), "weights="),
    "load: classes": (lambda wrong: regraft.load(net().module, inputs=(1, 8, 8), classes=wrong), "classes="),
    "load: source": (lambda wrong: regraft.load(wrong), "cannot be opened"),
    "read: kind": (lambda wrong: regraft.read((X, Y), kind=wrong), "; valid: 'array', 'image'"),
    "read: task": (lambda wrong: regraft.read((X, Y), task=wrong), "; valid: 'classification'"),
    "read: inputs": (lambda wrong: regraft.read((X, Y), inputs=wrong), "inputs="),
    "read: source": (lambda wrong: regraft.read(wrong), "cannot be read"),
    "read: target": (lambda wrong: regraft.read((X, wrong)), "expected one label for each"),
    "read: classes": (lambda wrong: regraft.read((X, Y), classes=wrong), "classes="),
    "adapt: classes": (lambda wrong: regraft.adapt(net(), (X, Y), classes=wrong), "classes="),
    "adapt: out": (lambda wrong: regraft.adapt(net(), (X, Y), out=wrong), "out="),
    "adapt: frozen": (lambda wrong: regraft.adapt(net(), (X, Y), strategy="partial", frozen=[wrong]), "frozen="),
    "search: out": (lambda wrong: regraft.search(net(), (X, Y), trials=1, out=wrong), "out="),
    "search: space": (lambda wrong: regraft.search(net(), (X, Y), trials=1, space=wrong), "from names of settings to choices or ranges"),
    "Network.save": (lambda wrong: net().save(wrong), "folder="),
    "Network.export": (lambda wrong: net().export(wrong), "path="),
    "Network.predict": (lambda wrong: net().predict(wrong), "Examples of the type"),
    "Head.row": (lambda wrong: net().head.row(wrong), "No class is called"),
    "Result.save": (lambda wrong: result().save(wrong), "folder="),
}


@pytest.mark.parametrize("name", CASES)
def test_the_error_names_what_was_received(name: str) -> None:
    call, said = CASES[name]
    wrong = 3.5
    with pytest.raises(regraft.RegraftError) as told:
        call(wrong)
    assert said in str(told.value) and ("3.5" in str(told.value) or "float" in str(told.value))


def test_one_text_is_no_list_of_classes() -> None:
    with pytest.raises(regraft.RegraftError, match="classes='abc'"):
        regraft.read((X, Y), classes="abc")


def test_weights_that_are_no_file_are_told_in_brief() -> None:
    with pytest.raises(regraft.RegraftError, match=r"weights=.*: expected a path") as told:
        regraft.load(net().module, inputs=(1, 8, 8), weights=net().module.state_dict())
    assert len(str(told.value)) < 200
