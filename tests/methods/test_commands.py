"""The methods on the command line: a saved network and a table in, options by --set."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.cli.conftest import run
from tests.methods import examples

import regraft
from regraft.networks.keras.library import keras
from regraft.networks.network import Network


def _table(folder: Path) -> Path:
    """Write a table of numbers with their class and room."""
    data, rows = examples.items("torch MLP"), ["a,b,c,d,e,f,label,room"]
    conditions = data.conditions if data.conditions is not None else []
    rows += [",".join(map(str, [*data[index], data.classes[data.targets[index]], conditions[index]])) for index in range(len(data))]
    (folder / "items.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "items.csv"


def _network() -> Network:
    layers = [keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)]
    return regraft.load(keras.Sequential([keras.Input((6,)), *layers]), classes=examples.CLASSES)


@pytest.mark.parametrize(
    ("strategy", "options", "shown"),
    [
        ("scale_shift", ["form=lhuc"], {"form": "lhuc", "blocks": None}),
        ("codes", ["size=3", "training=direct"], {"size": 3, "training": "direct"}),
    ],
)
def test_adapt_by_a_method(strategy: str, options: list[str], shown: dict[str, object], tmp_path: Path) -> None:
    _network().save(tmp_path / "net")
    assigned = [part for option in [*options, "holdout=0.33", "validation=0"] for part in ("--set", option)]
    reading = ["--target", "label", "--condition", "room"]
    table, out = _table(tmp_path), tmp_path / "out"
    done = run(
        "adapt", tmp_path / "net", table, *reading, "--strategy", strategy, "--epochs", 2, "--cache", "memory", "--out", out, *assigned
    )
    assert done.exit_code == 0, done.output
    plan = json.loads((out / "plan.json").read_text(encoding="utf-8"))
    assert plan["strategy"] == strategy and shown.items() <= plan["options"].items()
    network = regraft.load(out)
    assert bool(network.codes) == (strategy == "codes")


def test_a_wrong_option_is_told_before_anything_is_read(tmp_path: Path) -> None:
    words = ["--random-weights", "--strategy", "lora", "--set", "form=lhuc", "--out", tmp_path / "out"]
    done = run("adapt", "timm:test_resnet", tmp_path, *words)
    assert done.exit_code == 2 and "which takes rank, alpha, layers" in done.stderr
