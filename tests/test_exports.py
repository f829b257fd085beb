"""The public face: names, quiet import, one door for each optional library."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
