"""Rows of a table that a network does not take: which columns they are made of, and what to do about it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.cli.guard import as_options
from regraft.errors import DataError


def _torch() -> Any:
    return regraft.load(nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), inputs=(3,))


def _keras() -> Any:
    keras = pytest.importorskip("keras")
    return regraft.load(keras.Sequential([keras.Input((3,)), keras.layers.Dense(8, activation="relu"), keras.layers.Dense(2)]))


def _table(folder: Path) -> Path:
    rows = np.random.default_rng(0).normal(size=(20, 4))
    lines = [",".join([*(f"{number:.3f}" for number in row), "ab"[at % 2]]) for at, row in enumerate(rows)]
    path = folder / "rows.csv"
    path.write_text("\n".join(["width,height,depth,hour,label", *lines]), encoding="utf-8")
    return path


@pytest.mark.parametrize("opened", [_torch, _keras])
@pytest.mark.parametrize("verb", ["adapt", "profile"])
def test_columns_that_are_too_many_are_named_with_the_remedy(opened: Any, verb: str, tmp_path: Path) -> None:
    said = r"An example has 4 numbers; .* shape \(3,\).* width, height, depth, hour\. .*columns= \(regraft.join"
    with pytest.raises(DataError, match=said) as raised:
        getattr(regraft, verb)(opened(), _table(tmp_path))
    assert "--columns (regraft adapt --join" in as_options(str(raised.value))
    beside = regraft.read(_table(tmp_path), columns=["hour"])
    with pytest.raises(DataError, match=r"regraft.join\(net, \['hour'\]\)"):
        getattr(regraft, verb)(opened(), beside)


def test_columns_beside_rows_are_taken_by_a_joined_network_which_names_those_that_are_missing(tmp_path: Path) -> None:
    torch.manual_seed(0)
    joined, quick = regraft.join(_torch(), ["hour"]), {"strategy": "head", "epochs": 1, "cache": "memory"}
    assert regraft.adapt(joined, regraft.read(_table(tmp_path), columns=["hour"]), **quick).network.classes == ("a", "b")
    with pytest.raises(DataError, match=r"An example has 3 numbers; .* shape \(4,\).* 3 numeric columns: width, height, depth"):
        wider = regraft.load(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), inputs=(4,))
        regraft.adapt(regraft.join(wider, ["hour"]), regraft.read(_table(tmp_path), columns=["hour"]), **quick)


def test_arrays_without_names_are_told_their_shape() -> None:
    with pytest.raises(
        DataError, match=r"shape \(5,\); expected \(3,\), as the network takes it. Leave the other columns out, or name them"
    ):
        regraft.adapt(_torch(), (np.zeros((8, 5)), [0, 1] * 4))
