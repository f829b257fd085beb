"""The public face: names, quiet import, one door for each optional library."""

from __future__ import annotations

import subprocess
import sys

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
