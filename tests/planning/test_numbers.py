"""Regression with one output and with several: read, adapted by every strategy, and the trained head kept by the place of its outputs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data import read
from regraft.errors import DataError
from regraft.networks.keras.library import keras
from regraft.networks.network import Network
from regraft.planning.choosing.probing import JOINT, best_of
from regraft.planning.choosing.solving import OLD_ROWS, ProbeHeads

pytestmark = pytest.mark.usefixtures("without_onnx_form")

FAMILIES = ("torch", "keras")
WIDTH = 8
QUICK: dict[str, Any] = {"cache": "memory", "device": "cpu"}


def rows(count: int, outputs: int, *, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and numbers that a ReLU network gives for them, with noise."""
    draw, fixed = np.random.default_rng(seed), np.random.default_rng(9)
    x = draw.normal(size=(count, WIDTH)).astype(np.float32)
    hidden = np.maximum(x @ fixed.normal(size=(WIDTH, 12)), 0)
    y = hidden @ fixed.normal(size=(12, outputs)) + 0.1 * draw.normal(size=(count, outputs))
    return x, (y if outputs > 1 else y[:, 0]).astype(np.float32)


def trained(family: str, outputs: int) -> Network:
    """Return a network that was trained on much data of the same kind."""
    x, y = rows(1500, outputs, seed=1)
    torch.manual_seed(0)
    module: Any = nn.Sequential(nn.Linear(WIDTH, 32), nn.ReLU(), nn.Linear(32, outputs))
    if family == "keras":
        keras.utils.set_random_seed(0)
        module = keras.Sequential([keras.Input((WIDTH,)), keras.layers.Dense(32, "relu"), keras.layers.Dense(outputs)])
    optimizer, wanted = torch.optim.Adam(module.parameters(), 0.01), torch.from_numpy(y.reshape(len(y), -1))
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.mse_loss(module(torch.from_numpy(x)), wanted).backward()
        optimizer.step()
    return regraft.load(module, inputs=(WIDTH,) if family == "torch" else None)


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_few_examples_do_not_cost_the_trained_outputs(family: str, outputs: int) -> None:
    net, (x, y), (later, truth) = trained(family, outputs), rows(14, outputs), rows(300, outputs, seed=2)
    before = net.logits(later).reshape(truth.shape)
    for strategy in ("auto", "probe", "head"):
        result = regraft.adapt(net, (x, y), strategy=strategy, holdout=0, test=(later, truth), task="regression", **QUICK)
        assert result.network.account.to_dict()["kept"] == [f"output {at}" for at in range(outputs)]
        assert not result.network.account.to_dict()["new"]
        told = result.network.logits(later).reshape(truth.shape)
        if strategy != "head":
            assert np.sqrt(np.mean((told - truth) ** 2)) < 1.3 * np.sqrt(np.mean((before - truth) ** 2))
    assert net.head.classes is None
    assert regraft.adapt(net, (x[:, :], y > 0), strategy="head", **QUICK).network.account.to_dict()["kept"] == []


@pytest.mark.parametrize("gain", [0.0, 0.02, 0.5])
def test_the_old_head_stays_unless_another_is_better_by_more_than_chance(gain: float) -> None:
    """The errors of the others have chosen their penalty, those of the old head have chosen nothing."""
    draw = np.random.default_rng(0)
    before = draw.chisquare(1, 30)
    after = (1 - gain) * before + 0.1 * draw.normal(size=30)
    depths: Any = (SimpleNamespace(block="a"), SimpleNamespace(block="b"))
    old, joint, alone = (
        ProbeHeads(name, slices, method, {}, {}, errors, float(errors.mean()))
        for name, slices, method, errors in (
            ("a", depths[:1], OLD_ROWS, before),
            (JOINT, depths, "ridge", after),
            ("b", depths[1:], "ridge", before + 1),
        )
    )
    assert best_of([joint, alone, old]) is (joint if gain > 0.1 else old) and best_of([joint, alone]) is joint


def test_a_correction_of_the_trained_outputs_pays_or_is_left_out() -> None:
    net, (later, truth) = trained("torch", 1), rows(500, 1, seed=2)
    before = float(np.sqrt(np.mean((net.logits(later)[:, 0] - truth) ** 2)))
    found = []
    for seed in range(3, 8):
        result = regraft.adapt(net, rows(14, 1, seed=seed), strategy="probe", holdout=0, test=(later, truth), **QUICK)
        found.append(result.scores["test"]["rmse"])
        if "ridge" not in result.plan.reasons[0]:
            np.testing.assert_allclose(result.network.logits(later), net.logits(later), rtol=1e-4, atol=1e-4)
    assert np.mean(found) < 1.05 * before
    x, y = rows(200, 1, seed=3)
    other = regraft.adapt(net, (x, 40 + 9 * y), strategy="probe", holdout=0, test=(later, 40 + 9 * truth), **QUICK)
    assert other.scores["test"]["rmse"] < 1.2 * 9 * before and "ridge" in other.plan.reasons[0]


@pytest.mark.parametrize("unit", [2.0**-12, 2.0**12])
def test_whether_training_is_tried_does_not_depend_on_the_unit_of_the_targets(unit: float) -> None:
    net, (x, y), (later, truth) = trained("torch", 1), rows(200, 1), rows(100, 1, seed=2)
    with torch.no_grad():
        net.module[2].weight.mul_(unit)
        net.module[2].bias.mul_(unit)
    scaled, data, test = (
        regraft.load(net.module, inputs=(WIDTH,)),
        *((one, unit * (told + 6 * np.sin(3 * one[:, 0]))) for one, told in ((x, y), (later, truth))),
    )
    result = regraft.adapt(scaled, data, holdout=0, test=test, epochs=3, **QUICK)
    whys = {one["name"]: one["why"] for one in result.plan.candidates}
    assert "full" in whys and not any("the expected gain is smaller" in why for why in whys.values())


@pytest.mark.parametrize("family", FAMILIES)
def test_what_auto_has_chosen_is_a_plan_of_the_same_network(family: str) -> None:
    net, data = trained(family, 1), rows(30, 1, seed=5)
    how = {"holdout": 0, "test": rows(60, 1, seed=2), **QUICK}
    made = regraft.adapt(net, data, **how)
    again = regraft.adapt(net, data, **{**made.plan.chosen, **how})
    assert made.plan.chosen == {"strategy": "probe", "frozen": again.plan.frozen} and OLD_ROWS in again.plan.reasons[0]
    np.testing.assert_array_equal(again.network.logits(data[0]), made.network.logits(data[0]))
    plain = regraft.adapt(net, data, **{**made.plan.chosen, "probe": "ridge", **how})
    assert "by ridge;" in plain.plan.reasons[0]


@pytest.mark.parametrize("strategy", ["probe", "auto"])
def test_examples_that_are_left_to_learn_from_may_be_of_one_group(strategy: str) -> None:
    data = read(rows(30, 1), group=["a"] * 20 + ["b"] * 10)
    result = regraft.adapt(trained("torch", 1), data, strategy=strategy, holdout=0.3, validation=0, **QUICK)
    assert result.scores["holdout"]["r2"] > 0.9


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_without_names_are_trained_in_a_network_that_is_frozen(family: str) -> None:
    net, (x, y) = trained(family, 1), rows(60, 1)
    if family == "torch":
        net.module.requires_grad_(False)
    else:
        net.module.trainable = False
    frozen = regraft.load(net.module, inputs=(WIDTH,) if family == "torch" else None)
    for strategy in ("probe", "head", "auto"):
        result = regraft.adapt(frozen, (x, 7 + 2 * y), strategy=strategy, **QUICK)
        assert result.scores["holdout"]["r2"] > 0.9, strategy


def test_the_estimator_keeps_the_trained_outputs_too() -> None:
    net, (x, y), (later, truth) = trained("torch", 3), rows(14, 3), rows(300, 3, seed=2)
    model = regraft.TransferRegressor(net, strategy="probe", device="cpu").fit(x, y)
    told, before = model.predict(later), net.logits(later)
    assert told.shape == truth.shape and list(model.network_.heads) == ["main"]
    assert np.mean((told - truth) ** 2) < 1.2 * np.mean((before - truth) ** 2)
    two = regraft.TransferRegressor(net, strategy="probe", device="cpu").fit(x, y[:, :2])
    assert two.predict(later).shape == (300, 2) and list(two.network_.heads) == ["output 0", "output 1"]


@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_numbers_are_one_regression_of_several_outputs(family: str, tmp_path: Any) -> None:
    net, (x, y) = trained(family, 3), rows(60, 3)
    data = read((x, y))
    assert (data.task, data.classes, data.targets.shape) == ("regression", (), (60, 3))
    assert any("the rows of 3 numbers are read as the targets of as many outputs" in note for note in data.notes)
    for strategy in ("full", "probe"):
        result = regraft.adapt(net, data, strategy=strategy, epochs=2, out=tmp_path / strategy, **QUICK)
        assert result.scores["holdout"]["r2"] > 0.9 and result.network.predict(x[:4]).probabilities.shape == (4, 3)
    with pytest.raises(DataError, match="The test set has 2 numbers of each example for the task 'main'; the data have 3"):
        regraft.adapt(net, data, strategy="probe", test=(x, y[:, :2]), **QUICK)
    found = regraft.evaluate(result.network, (x, y))
    assert list(found.scores["per_class"]) == ["output 0", "output 1", "output 2"] and found.scores["r2"] > 0.9
    assert regraft.profile(net, data).depths


def test_which_rows_are_numbers() -> None:
    x, whole = np.zeros((4, 2)), np.array([[1, 5], [2, 7], [0, 3], [4, 4]])
    assert read((x, whole), task="regression").targets.dtype == np.float32
    assert read((x, np.eye(4)), task="regression").targets.shape == (4, 4) and read((x, np.eye(4))).task == "classification"
    with pytest.raises(DataError, match=r"such as 5; .* If they are numbers to be predicted, say task='regression'"):
        read((x, whole))
    with pytest.raises(DataError, match=r"missing or not finite in rows 2; expected 2 numbers in each row"):
        read((x, np.array([[1.5, 5], [2, 7], [0, np.nan], [4, 4]])))
    with pytest.raises(DataError, match=r"rows 1; expected 2 numbers in each row. Fill or remove them\.$"):
        read((x, np.array([[0, 1], [1, np.nan], [0, 1], [1, 1]])))
    with pytest.raises(DataError, match="or leave them out with skip_bad=True"):
        read((x, [[1.5, 5], [np.nan] * 2, [0, 3], [4, 4]]))
    assert read((x, whole.astype(object)), task="regression").targets.tolist() == whole.tolist()
    assert read((x, (whole / 2).astype(object))).task == "regression"
    shares = read((x, np.array([[0.2, 0.8], [0.5, 0.5], [0.9, 0.1], [1, 0]])))
    assert shares.task == "regression" and "if they are probabilities of classes" in shares.notes[-1]
