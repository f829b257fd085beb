"""Mean and standard deviation of a preprocessing that would make predictions no numbers are refused wherever they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.data import preprocessing_from_dict
from regraft.errors import DataError

INNER = {"kind": "array", "shape": [2]}
KINDS: dict[str, dict[str, Any]] = {
    "array": {"kind": "array", "shape": [3]},
    "image": {"kind": "image", "height": 8, "width": 8, "channels": 3},
    "columns": {"kind": "columns", "inner": INNER, "names": ["a", "b", "c"]},
}
BAD = {
    "std of zero": {"std": [1.0, 0.0, 1.0]},
    "negative std": {"std": [1.0, -1.0, 1.0]},
    "infinite std": {"std": [1.0, float("inf"), 1.0]},
    "std that is none": {"std": [1.0, float("nan"), 1.0]},
    "std with a hole": {"std": [1.0, None, 1.0]},
    "std of text": {"std": ["1", "1", "1"]},
    "mean that is none": {"mean": [0.0, float("nan"), 0.0]},
    "infinite mean": {"mean": [0.0, float("-inf"), 0.0]},
    "mean with a hole": {"mean": [0.0, None, 0.0]},
    "mean of truths": {"mean": [True, False, True]},
}


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", KINDS)
def test_such_numbers_are_refused_by_every_kind(kind: str, bad: str) -> None:
    with pytest.raises(DataError, match=r"(mean|std)=.*finite numbers"):
        preprocessing_from_dict(KINDS[kind] | BAD[bad])


@pytest.mark.parametrize("kind", KINDS)
def test_usable_numbers_are_taken(kind: str) -> None:
    preprocessing_from_dict(KINDS[kind] | {"mean": [0.0, -1.0, 2.0], "std": [1e-3, 1.0, 3]})


@pytest.mark.parametrize("family", ["torch", "keras"])
@pytest.mark.parametrize("bad", [{"std": 0.0}, {"std": float("nan")}, {"mean": None, "std": [1.0, 0.0, 1.0]}, {"mean": float("inf")}])
def test_a_saved_folder_with_such_numbers_does_not_open(tmp_path: Path, family: str, bad: dict[str, Any]) -> None:
    net = regraft.load(_module(family), **({"inputs": (3,)} if family == "torch" else {}))
    net.save(tmp_path / "net")
    assert np.isfinite(regraft.load(tmp_path / "net").predict(np.ones((2, 3), np.float32)).probabilities).all()
    path = tmp_path / "net" / "regraft.json"
    facts = json.loads(path.read_text())
    facts["preprocessing"].update(bad)
    path.write_text(json.dumps(facts))
    with pytest.raises(regraft.RegraftError):
        regraft.load(tmp_path / "net")


def _module(family: str) -> Any:
    if family == "torch":
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    keras = pytest.importorskip("keras")
    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, activation="relu"), keras.layers.Dense(2)])


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_predictions_that_are_no_numbers_are_said(family: str) -> None:
    net = regraft.load(_module(family), **({"inputs": (3,)} if family == "torch" else {}))
    items = np.ones((5, 3), np.float32)
    net.predict(items)
    items[2, 1] = np.nan
    with pytest.warns(UserWarning, match="scores of 1 of 5 examples are no numbers"):
        net.predict(items)
