"""Names that are not UTF-8, as an old archive gives them: kept as they are from the first reading to the opened folder."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples

import regraft
from regraft.data import Dataset
from regraft.planning import Plan
from regraft.report import read_facts

LATIN = os.fsdecode(b"caf\xe9")
NAMES = (LATIN, "日本", 'a"\\\u2028b')
QUICK = {"epochs": 1, "learning_rate": 0.01, "cache": "memory", "batch_size": 16}


def _net(family: str) -> Any:
    torch.manual_seed(0)
    if family == "torch":
        return regraft.load(_module(), inputs=(6,))
    from regraft.networks.keras.library import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    return regraft.load(keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(3)]))


def _module() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))


def _data(**more: Any) -> Dataset:
    items = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    items[np.arange(60), np.arange(60) % 3] += 2
    names = tuple(f"{LATIN} {number}.wav" for number in range(60))
    return Dataset(items, np.arange(60) % 3, NAMES, "array", names=names, **more)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_class_and_item_names(family: str, tmp_path: Path) -> None:
    data = _data(groups=np.array([f"{LATIN} {row // 2}" for row in range(60)], dtype=object))
    result = regraft.adapt(_net(family), data, strategy="full", rename={}, out=tmp_path / LATIN, **QUICK)
    again = regraft.load(tmp_path / LATIN, architecture=_module if family == "torch" else None)
    assert again.classes == result.network.classes == NAMES
    assert np.array_equal(again.logits(data.items), result.network.logits(data.items))
    assert set(again.predict(data.items).labels) <= set(NAMES)
    assert Plan.from_json((tmp_path / LATIN / "plan.json").read_text(encoding="utf-8")).classes == NAMES
    facts = read_facts(tmp_path / LATIN)
    assert set(facts["scores"]["holdout"]["per_class"]) == set(facts["data"]["counts"]) == set(NAMES)
    for path in (tmp_path / LATIN).iterdir():
        if path.suffix in (".json", ".jsonl", ".html"):
            path.read_bytes().decode("utf-8")  # nothing that another program could not read
    branched = regraft.branch(again, LATIN, [LATIN, "other"])
    branched.save(tmp_path / "branched")
    opened = regraft.load(tmp_path / "branched", architecture=_module if family == "torch" else None)
    assert list(opened.heads) == list(branched.heads) and opened.heads[LATIN].classes == (LATIN, "other")


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_conditions(family: str, tmp_path: Path) -> None:
    conditions = np.array([f"{LATIN} {row % 3}" for row in range(60)], dtype=object)
    coded = regraft.adapt(_net(family), _data(conditions=conditions), strategy="codes", size=2, out=tmp_path / LATIN, **QUICK).network
    architecture = _module if family == "torch" else None
    opened = regraft.load(tmp_path / LATIN, architecture=architecture)
    assert opened.coding.conditions == coded.coding.conditions == tuple(f"{LATIN} {row}" for row in range(3))
    known = regraft.adapt_condition(opened, _data(), LATIN, out=tmp_path / LATIN)
    (written,) = (tmp_path / LATIN / "codes").iterdir()
    assert written.name.isascii()
    again = regraft.load(tmp_path / LATIN, architecture=architecture)
    assert again.coding.conditions == known.coding.conditions and np.array_equal(again.codes[LATIN], known.codes[LATIN])


def test_a_profile(tmp_path: Path) -> None:
    torch.manual_seed(0)
    items, _ = examples.pictures(60)
    data = Dataset(items, np.arange(60) % 3, NAMES, "array")
    found = regraft.profile(regraft.load(examples.Cnn(), inputs=(1, 8, 8)), data, cache="memory", out=tmp_path / LATIN)
    assert regraft.Profile.load(tmp_path / LATIN) == found and found.classes == NAMES
    assert json.loads((tmp_path / LATIN / "profile.json").read_text(encoding="utf-8"))["classes"] == list(NAMES)
