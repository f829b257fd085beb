"""A run that is killed at any moment and goes on gives, bit by bit, what an undisturbed run gives: weights, history, scores, plan."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from tests import torch_examples
from tests.reliability import cases, kills

import regraft
from regraft.console import speaking
from regraft.networks.torch import exporting
from regraft.training import courses

SLOW = 8
"""Moments of each strategy in the whole table."""
pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")


def digests(state: Mapping[str, Any]) -> dict[str, str]:
    """Return a checksum of each tensor, but of the seeds of Keras' dropout layers, which no file of Keras holds."""
    kept = {name: tensor.cpu().numpy().tobytes() for name, tensor in state.items() if not name.endswith("seed_generator_state")}
    return {name: hashlib.blake2b(content, digest_size=8).hexdigest() for name, content in kept.items()}


def _timeless(plain: Any) -> Any:
    """Return plain data without what a clock has measured or foretold."""
    if isinstance(plain, Mapping):
        untold = ("seconds", "cost", "predicted")
        return {str(name): _timeless(value) for name, value in plain.items() if name not in untold}
    return [_timeless(value) for value in plain] if isinstance(plain, list | tuple) else plain


def adapted(out: Path, *, case: str, family: str) -> Any:
    """Adapt as a case says, going on from what is there; return all that must be equal, of the result and of the saved folder."""
    courses.MOST = 40  # here and below in a process of its own, for a run takes seconds otherwise
    exporting._exported_onnx = lambda _network: (b"not compared", {})
    if (out / "regraft.json").is_file():  # killed behind the last moment that counts: the folder is whole
        found: dict[str, Any] = {}
    else:
        with speaking(False):
            result = cases.adapted(case, family, out=out)
        found = {"scores": result.scores, "history": list(result.history), "plan": result.plan.to_dict()}
    opened = regraft.load(out, architecture=torch_examples.Cnn if family == "torch" else None)
    plain = {name: json.loads((out / f"{name}.json").read_text(encoding="utf-8")) for name in ("scores", "plan")}
    kept = {"weights": digests(opened.state()), "history": list(opened.history), "files": plain}
    assert not found or json.loads(json.dumps(_timeless(found["history"]))) == _timeless(kept["history"])
    names = [path.name for folder in (out, out.parent) for path in sorted(folder.iterdir())]
    return json.loads(json.dumps(_timeless({**kept, "names": names})))


def check(found: dict[str, Any], *, least: int) -> None:
    """Fail unless a job was killed so often at the least, and came to the same each time."""
    assert len(found["killed"]) >= least, found
    assert not found["different"], {at: _first(*both) for at, both in found["different"].items()}


def _first(one: Any, other: Any) -> Any:
    """Return where two outcomes differ first."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return next({name: _first(one[name], other[name])} for name in one if one[name] != other[name])
    return one, other


@pytest.mark.parametrize("family", [pytest.param("torch", marks=pytest.mark.slow), "keras"])
def test_a_killed_run_goes_on(family: str, tmp_path: Path) -> None:
    check(kills.compared("tests.reliability.test_resume:adapted", {"case": "full", "family": family}, tmp_path, moments=3), least=3)


@pytest.mark.slow
@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("case", cases.CASES)
def test_every_strategy_goes_on(case: str, family: str, tmp_path: Path) -> None:
    found = kills.compared("tests.reliability.test_resume:adapted", {"case": case, "family": family}, tmp_path, moments=SLOW)
    check(found, least=min(SLOW, found["moments"]))


@pytest.mark.slow
@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("case", ["full", "stages", "codes"])
def test_a_run_that_is_killed_three_times_goes_on(case: str, family: str, tmp_path: Path) -> None:
    found = kills.compared("tests.reliability.test_resume:adapted", {"case": case, "family": family}, tmp_path, moments=4, times=3)
    check(found, least=3)
