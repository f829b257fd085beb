"""The public face: names, quiet import, one door for each optional library."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from torch import nn

import regraft


def test_all_is_sorted_and_every_name_is_there() -> None:
    assert regraft.__all__ == sorted(regraft.__all__)
    for name in regraft.__all__:
        assert getattr(regraft, name).__doc__, name


def test_importing_touches_nothing() -> None:
    code = """
import os, sys, warnings
before, filters = dict(os.environ), list(warnings.filters)
import regraft
assert dict(os.environ) == before and list(warnings.filters) == filters
assert not {"torch", "keras", "numpy", "timm", "transformers"} & set(sys.modules)
import regraft.verbs
optional = {"keras", "timm", "torchvision", "transformers", "librosa", "matplotlib"}
assert not optional & set(sys.modules), "optional libraries wait for their use"
"""
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("other", "here"), [("fine_tune", "adapt"), ("vision_learner", "adapt"), ("load_model", "load"), ("lr_find", "search")]
)
def test_functions_of_other_libraries_are_told_by_their_name_here(other: str, here: str) -> None:
    with pytest.raises(AttributeError, match=f"has no attribute '{other}'; here it is called '{here}'"):
        getattr(regraft, other)
    assert not hasattr(regraft, "__wrapped__")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"label_col": "y"}, "read takes no 'label_col'; here it is called 'target'"),
        ({"valid_pct": 0.2}, "read takes no 'valid_pct'; it is validation= of regraft.adapt"),
        ({"taget": "y"}, "read takes no 'taget'; did you mean 'target'"),
        ({"class_names": ["a", "b"]}, "read takes no 'class_names'; here it is called 'classes'"),
        ({"train": True}, "read takes no 'train'; (did you mean|valid:)"),  # the name of adapt itself, not of a keyword
    ],
)
def test_keywords_that_a_function_does_not_have(given: dict[str, object], said: str) -> None:
    with pytest.raises(regraft.RegraftError, match=said):
        regraft.read(([[0.0], [1.0]], ["a", "b"]), **given)  # type: ignore[arg-type]


VERBS = [name for name in regraft.__all__ if name[0].islower()]
LOADING = ("weights", "architecture", "inputs", "preprocessing", "channels", "trust", "head")


@pytest.mark.parametrize("verb", VERBS)
def test_a_call_that_a_signature_does_not_allow_says_what_to_do(verb: str) -> None:
    function = getattr(regraft, verb)
    known = inspect.signature(function).parameters
    taken = [one for one in known.values() if one.kind is one.POSITIONAL_OR_KEYWORD]
    needed = [one.name for one in taken if one.default is one.empty]
    with pytest.raises(regraft.RegraftError, match=f"{verb} takes .*{needed[-1]}; received no .*{needed[-1]}"):
        function()
    with pytest.raises(regraft.RegraftError, match=f"{verb} takes .* without a name; received {len(taken) + 1} values"):
        function(*[None] * (len(taken) + 1))
    with pytest.raises(regraft.RegraftError, match=f"{verb} takes one {taken[0].name}="):
        function(None, **{taken[0].name: None})
    if not any(one.kind is one.VAR_KEYWORD for one in known.values()):
        with pytest.raises(regraft.RegraftError, match=f"{verb} takes no 'nonesuch'"):
            function(*[None] * len(needed), nonesuch=1)


@pytest.mark.parametrize("verb", ["adapt", "check", "evaluate", "extend", "predict", "profile", "search"])
@pytest.mark.parametrize("name", LOADING)
def test_a_keyword_of_load_is_told_by_the_other_functions(verb: str, name: str) -> None:
    module, pair = nn.Sequential(nn.Linear(2, 3)), (np.zeros((6, 2), np.float32), list("abcabc"))
    with pytest.raises(regraft.RegraftError, match=r"regraft\.load"):
        getattr(regraft, verb)(*((pair, module) if verb == "check" else (module, pair)), **{name: (2,)})


def test_a_keyword_of_read_is_told_by_the_other_functions() -> None:
    module, pair = nn.Sequential(nn.Linear(2, 3)), (np.zeros((6, 2), np.float32), list("abcabc"))
    for verb in (regraft.adapt, regraft.extend, regraft.predict, regraft.profile):
        for name, here in {"target": "target", "y_col": "target", "group": "group", "columns": "columns"}.items():
            with pytest.raises(regraft.RegraftError, match=rf"regraft\.read\(data, {here}=…\) as the data"):
                verb(module, pair, **{name: "x"})


@pytest.mark.parametrize("network", [nn.Sequential(nn.Linear(2, 3)), "regraft", "keras"])
def test_a_network_in_the_place_of_the_data(network: Any) -> None:
    if network == "keras":
        import keras

        network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3)])
    if network == "regraft":
        network = regraft.load(nn.Sequential(nn.Linear(2, 3)), inputs=(2,))
    with pytest.raises(regraft.RegraftError, match=r"received the network .*regraft.check\(data, net\)"):
        regraft.check(network, (np.zeros((6, 2), np.float32), list("abcabc")))
