"""A search that is killed at any moment and goes on has the trials, the figures and the winner of an undisturbed one."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.reliability import cases, kills
from tests.reliability.test_resume import check, digests

import regraft
from regraft.console import speaking
from regraft.networks.torch import exporting

pytest.importorskip("optuna")
SPACES: dict[str, Any] = {
    "tpe": {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "dropout": {"low": 0.0, "high": 0.5}},
    "random": {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "optimizer": ["adamw", "sgd"]},
    "grid": {"learning_rate": [1e-3, 1e-2], "batch_size": [8, 16, 32]},
}
TRIALS = {"tpe": 14, "random": 6, "grid": 9}
"""TPE draws as "random" does until it has ten; the grid has six combinations."""


def searched(out: Path, *, sampler: str, pruner: str | None, family: str = "torch", trials: int | None = None) -> Any:
    """Search, going on from what is there; return all that must be equal."""
    exporting._exported_onnx = lambda _network: (b"not compared", {})  # in a process of its own
    settings: dict[str, Any] = {"epochs": 2, "batch_size": 16} if "batch_size" not in SPACES[sampler] else {"epochs": 2}
    with speaking(False):
        study = regraft.search(
            cases.network(family),
            cases.data(family),
            space=SPACES[sampler],
            trials=trials or TRIALS[sampler],
            sampler=sampler,
            pruner=pruner,
            out=out,
            cache="memory",
            **settings,
        )
    found = study.to_dict()
    trials_ = [{name: value for name, value in trial.items() if name != "seconds"} for trial in found["trials"]]
    kept = json.loads((out / "study.json").read_text(encoding="utf-8"))
    best = regraft.load(out / "best", architecture=type(cases.network("torch").module) if family == "torch" else None)
    equal = {"trials": trials_, "best": found["best"]["trial"], "scores": study.scores, "weights": digests(best.state())}
    equal |= {"kept": [trial["values"] for trial in kept["trials"]], "importances": study.importances}
    equal |= {"names": sorted(path.name for path in out.iterdir())}
    return json.loads(json.dumps(equal))


def _compared(tmp_path: Path, *, moments: int, times: int = 1, **arguments: Any) -> dict[str, Any]:
    return kills.compared("tests.reliability.test_search:searched", arguments, tmp_path, moments=moments, times=times)


def test_a_killed_search_goes_on(tmp_path: Path) -> None:
    check(_compared(tmp_path, moments=3, sampler="random", pruner=None, trials=3), least=3)


@pytest.mark.slow
@pytest.mark.parametrize("pruner", [None, "median", "hyperband"])
@pytest.mark.parametrize("sampler", SPACES)
def test_every_sampler_and_pruner_goes_on(sampler: str, pruner: str | None, tmp_path: Path) -> None:
    check(_compared(tmp_path, moments=5, sampler=sampler, pruner=pruner), least=5)


@pytest.mark.slow
@pytest.mark.parametrize("sampler", SPACES)
def test_a_search_that_is_killed_three_times_goes_on(sampler: str, tmp_path: Path) -> None:
    check(_compared(tmp_path, moments=3, times=3, sampler=sampler, pruner="median"), least=3)


@pytest.mark.slow
def test_a_search_with_keras_goes_on(tmp_path: Path) -> None:
    check(_compared(tmp_path, moments=4, sampler="random", pruner=None, family="keras"), least=4)


@pytest.mark.slow
@pytest.mark.parametrize("seconds", [0.5, 1.5, 3.0])
def test_a_search_that_is_killed_by_the_clock_goes_on(seconds: float, tmp_path: Path) -> None:
    code = (
        "import sys, json; from pathlib import Path; from tests.reliability.test_search import searched\n"
        "print(json.dumps(searched(Path(sys.argv[1]), sampler='tpe', pruner='median'), sort_keys=True))"
    )

    def begun(folder: Path) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, "-c", code, str(folder)], stdout=subprocess.PIPE, text=True)

    whole = begun(tmp_path / "whole").communicate()[0]
    for _ in range(3):
        process = begun(tmp_path / "killed")
        while process.poll() is None and not (tmp_path / "killed" / "study.sqlite3").is_file():
            time.sleep(0.01)
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert begun(tmp_path / "killed").communicate()[0] == whole != ""
