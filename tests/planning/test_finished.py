"""`adapt` into a folder that is finished: the same call returns what is there, another one is an error that changes nothing."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import SettingError

ROWS = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
LABELS = ["a" if row[0] > 0 else "b" for row in ROWS]


def _module(family: str) -> Any:
    if family == "keras":
        keras = pytest.importorskip("keras")
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Dense(6, "relu", name="a"), keras.layers.Dense(2, "softmax", name="b")]
        return keras.Sequential([keras.Input((4,)), *layers], name="c")
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.ReLU(), torch.nn.Linear(6, 2))


def _adapted(family: str, out: Path, *, rows: np.ndarray = ROWS, **more: Any) -> Any:
    net = regraft.load(_module(family), inputs=None if family == "keras" else (4,), classes=["a", "old"])
    how: dict[str, Any] = {"strategy": "head", "epochs": 2, "cache": "memory", "device": "cpu"}
    return regraft.adapt(net, (rows, LABELS), out=out, **how | more)


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_the_same_call_returns_what_is_there_and_another_is_an_error(family: str, tmp_path: Path) -> None:
    first = _adapted(family, tmp_path / "out")
    before = _bytes(tmp_path / "out")
    again = _adapted(family, tmp_path / "out")
    assert _bytes(tmp_path / "out") == before
    assert (again.scores, again.verdict, list(again.history)) == (first.scores, first.verdict, list(first.history))
    assert again.plan.to_dict() == first.plan.to_dict() and np.allclose(again.network.logits(ROWS), first.network.logits(ROWS), atol=1e-6)
    assert len(regraft.adapt(again.network, (ROWS, LABELS), strategy="full", epochs=1).history) > 1  # it goes on from there
    others: list[dict[str, Any]] = [
        {"seed": 1},
        {"strategy": "probe"},
        {"rows": ROWS + 1},
        {"test": (ROWS + 2, LABELS)},
        {"baselines": True},
    ]
    for other in (*others, {"epochs": 3}, {"l1": 0.1}, {"rank": 2, "strategy": "lora"}):
        said = {"seed": "seed=0, and this call has seed=1", "strategy": "strategy='head', and this call has strategy='probe'"}
        said |= {
            "rows": "the same plan with another network, other data or another test",
            "baselines": "made with no baselines=, and this call has baselines=True",
        }
        said |= {"epochs": "of another plan: it was made with epochs=2, and this call has epochs=3. Give epochs=2 to get"}
        said |= {"l1": "it was made with no l1=, and this call has l1=0.1. Give no l1= to get"}
        said |= {
            "rank": "made with strategy='head', no rank=, and this call has strategy='lora', rank=2. Give strategy='head', no rank= to"
        }
        said |= {"test": "made with holdout=0.2, and this call has holdout=0.0. Give holdout=0.2 to get that result, another folder"}
        with pytest.raises(SettingError, match=re.escape(said[next(iter(other))])):
            _adapted(family, tmp_path / "out", **other)
    assert _bytes(tmp_path / "out") == before
    _adapted(family, tmp_path / "out", seed=1, resume=False)
    assert _bytes(tmp_path / "out") != before


def test_a_call_without_the_settings_of_the_finished_one_names_no_setting_that_it_lacks(tmp_path: Path) -> None:
    _adapted("torch", tmp_path / "out", strategy="lora", rank=2)
    with pytest.raises(
        SettingError, match=r"made with strategy='lora', rank=2, and this call has strategy='bias'\. Give strategy='lora', "
    ):
        _adapted("torch", tmp_path / "out", strategy="bias")
    _adapted("torch", tmp_path / "further", l1=0.5)
    with pytest.raises(SettingError, match=r"made with l1=0\.5, and this call has no l1=\. Give l1=0\.5 to get that result"):
        _adapted("torch", tmp_path / "further")


def test_a_metric_called_loss_does_not_choose_the_epoch() -> None:
    def loss(_targets: np.ndarray, _scores: np.ndarray) -> float:
        return 0.25

    plain, named = (
        regraft.adapt(
            regraft.load(_module("torch"), inputs=(4,)),
            (ROWS, ROWS[:, 0]),
            strategy="full",
            epochs=2,
            learning_rate=1e-3,
            **how,
            cache="memory",
        )
        for how in ({}, {"metrics": [loss]})
    )
    losses = [[entry.get("validation_loss") for entry in result.history] for result in (plain, named)]
    assert losses[0] == losses[1] and named.scores["holdout"]["metrics"] == {"loss": 0.25}
