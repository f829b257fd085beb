"""Items of no known class: the rule is learned by hiding classes, kept with the network, and used where it is asked for."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.errors import NetworkError, SettingError

pytestmark = pytest.mark.usefixtures("without_onnx_form")

keras = pytest.importorskip("keras")

QUICK = {"strategy": "head", "epochs": 2, "cache": "memory"}


def _items(kinds: range, each: int, *, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return items around a point of each kind, the points far from each other."""
    centres = 4 * np.eye(10)[list(kinds)]
    labels = np.repeat(np.arange(len(kinds)), each)
    items = centres[labels] + np.random.default_rng(seed).normal(size=(len(labels), 10))
    return items.astype(np.float32), np.array([f"kind {kinds[label]}" for label in labels])


def _adapted(**options: object) -> regraft.Result:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 3))
    return regraft.adapt(regraft.load(module, inputs=(10,)), _items(range(6), 30, seed=0), **(QUICK | options))


def test_items_of_other_kinds_are_told_at_the_rate_of_false_alarms_asked_for(tmp_path: Path) -> None:
    net = _adapted(out=tmp_path / "net").network
    known, strange = _items(range(6), 60, seed=1)[0], _items(range(6, 9), 60, seed=2)[0]
    alarms, found = net.predict(known, unknown=True).unknown, net.predict(strange, unknown=True).unknown
    assert alarms is not None and found is not None
    assert alarms.mean() < 0.15 and found.mean() > 0.5
    assert net.predict(known).unknown is None
    again = regraft.load(tmp_path / "net", architecture=lambda: nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 3)))
    assert np.array_equal(again.predict(strange, unknown=True).unknown, found)
    often = _adapted(false_alarm=0.3).network.predict(known, unknown=True).unknown
    assert often is not None and often.mean() > alarms.mean()


def test_the_rule_goes_with_the_classes_that_it_was_learned_for(tmp_path: Path) -> None:
    net = _adapted().network
    assert net.unknown is not None and 0.5 < max(net.unknown.to_dict()["auroc"].values()) <= 1
    for other in (regraft.retarget(net, ["kind 1", "new"]), regraft.extend(net, ["new"]), regraft.stack(net, ["a", "b"])):
        with pytest.raises(NetworkError, match=r"no rule for examples of no known class"):
            other.predict(_items(range(2), 2, seed=0)[0], unknown=True)
    two = regraft.adapt(regraft.load(nn.Sequential(nn.Linear(10, 3)), inputs=(10,)), _items(range(2), 10, seed=0), **QUICK)
    assert two.network.unknown is None and any("which takes three" in reason for reason in two.plan.reasons)
    with pytest.raises(SettingError, match=r"false_alarm=1\.5"):
        _adapted(false_alarm=1.5)


def test_classes_that_the_features_do_not_separate_are_said_to_have_no_rule_to_rely_on() -> None:
    noise = np.random.default_rng(0).normal(size=(180, 10)).astype(np.float32)
    module = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 3))
    result = regraft.adapt(regraft.load(module, inputs=(10,)), (noise, _items(range(6), 30, seed=0)[1]), **QUICK)
    assert any("That is too little to rely on" in reason for reason in result.plan.reasons)
    assert not any("too little to rely on" in reason for reason in _adapted().plan.reasons)


def test_a_head_that_reads_many_features_has_a_rule_as_well(tmp_path: Path) -> None:
    def module() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(10, 1300), nn.ReLU(), nn.Linear(1300, 3))

    result = regraft.adapt(regraft.load(module(), inputs=(10,)), _items(range(6), 30, seed=0), **(QUICK | {"out": tmp_path / "net"}))
    net, strange = result.network, _items(range(6, 9), 60, seed=2)[0]
    assert net.head.features == 1300 and net.unknown is not None and net.unknown.to_dict()["every"] == 3
    found, alarms = net.predict(strange, unknown=True).unknown, net.predict(_items(range(6), 60, seed=1)[0], unknown=True).unknown
    assert found is not None and alarms is not None and found.mean() > 0.5 and alarms.mean() < 0.15
    again = regraft.load(tmp_path / "net", architecture=module)
    assert np.array_equal(again.predict(strange, unknown=True).unknown, found)
    (tmp_path / "net" / "unknown.safetensors").unlink()
    with pytest.raises(NetworkError, match=r"no class statistics \(unknown\.safetensors\)"):
        regraft.load(tmp_path / "net", architecture=module)


def test_predict_prints_it(tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((10,)), layers.Dense(24, activation="relu"), layers.Dense(3)])
    regraft.adapt(model, _items(range(6), 30, seed=0), out=tmp_path / "net", **QUICK)
    np.save(tmp_path / "items.npy", np.concatenate([_items(range(6), 4, seed=3)[0], _items(range(6, 9), 8, seed=3)[0]]))
    done = CliRunner().invoke(app, ["predict", str(tmp_path / "net"), str(tmp_path / "items.npy"), "--unknown"])
    answers = [row["unknown"] for row in csv.DictReader(io.StringIO(done.stdout))]
    assert len(answers) == 48 and answers[:24].count("yes") < 6 < 12 < answers[24:].count("yes")
    assert "unknown" not in CliRunner().invoke(app, ["predict", str(tmp_path / "net"), str(tmp_path / "items.npy")]).stdout
    told = "called unknown. They are of other classes, or differ from the training examples otherwise"
    assert told not in done.stderr
    for strange, said in ((slice(-8, None), True), (slice(-3, None), False), (slice(24), False)):  # a few examples say nothing
        np.save(tmp_path / "some.npy", np.load(tmp_path / "items.npy")[strange])
        some = CliRunner().invoke(app, ["predict", str(tmp_path / "net"), str(tmp_path / "some.npy"), "--unknown"])
        assert (told in some.stderr) == said
