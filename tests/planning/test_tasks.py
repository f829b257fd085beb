"""Several targets on one network, new rows as asked, thresholds of labels, class statistics, and the history of all trainings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data import Dataset
from regraft.data.targets import Targets
from regraft.errors import DataError, NetworkError, SettingError
from regraft.planning import Plan
from regraft.planning.finishing import merged_history
from regraft.planning.setup import parts_of
from regraft.planning.tasks import matched_tasks
from regraft.probes import ClassStatistics, statistics_of
from regraft.training import Objective, TaskObjective

pytestmark = pytest.mark.usefixtures("without_onnx_form")

QUICK: dict[str, Any] = {"epochs": 3, "learning_rate": 0.01, "cache": "memory", "batch_size": 32, "optimizer": "adam", "weight_decay": 0.0}
COLOURS = ("red", "green", "blue")


class Mlp(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.low, self.mid, self.head = nn.Linear(6, 16), nn.Linear(16, 12), nn.Linear(12, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.mid(self.low(x).relu()).relu())


def _torch() -> Any:
    torch.manual_seed(0)
    return regraft.load(Mlp(), inputs=(6,), classes=COLOURS)


def _keras() -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    hidden = keras.layers.Dense(12, activation="relu", name="mid")(keras.layers.Dense(16, activation="relu", name="low")(inputs))
    return regraft.load(keras.Model(inputs, keras.layers.Dense(3, name="head")(hidden)), classes=COLOURS)


FAMILIES = pytest.mark.parametrize("make", [_torch, _keras], ids=["torch", "keras"])


def _items(count: int) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)


def _two(count: int = 120) -> Dataset:
    """Colour by the first three numbers; mood by the fourth, known of every second item."""
    items = _items(count)
    mood = (items[:, 3] > 0).astype(np.int64)
    mood[::2] = -1
    return Dataset(items, items[:, :3].argmax(1), COLOURS, "array", name="colour", further={"mood": Targets(mood, ("bad", "good"))})


def _labels(count: int = 120) -> Dataset:
    items = _items(count)
    return Dataset(items, (items[:, :4] > 0.6).astype(np.float32), ("a", "b", "c", "d"), "array", "multi-label")


# ── several tasks ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


@FAMILIES
@pytest.mark.parametrize("strategy", ["head", "full"])
def test_two_tasks_are_learned_though_half_of_the_targets_of_one_are_missing(make: Callable[[], Any], strategy: str) -> None:
    net, data = make(), _two()
    result = regraft.adapt(net, data, strategy=strategy, **QUICK)
    holdout = parts_of(data, Plan(strategy)).holdout
    assert list(result.network.heads) == ["colour", "mood"] and list(net.heads) == ["main"]
    tasks = result.scores["holdout"]["tasks"]
    assert tasks["colour"]["examples"] == len(holdout)
    assert tasks["mood"]["examples"] == int((data.further["mood"].values[holdout] >= 0).sum()) < len(holdout)
    assert tasks["colour"]["accuracy"] == result.scores["holdout"]["accuracy"] > result.baselines["majority"]["accuracy"]
    assert tasks["mood"]["accuracy"] > tasks["mood"]["baselines"]["majority"]["accuracy"]
    assert set(tasks["mood"]["baselines"]) == {"majority", "class_mean", "probe"}
    assert {"validation_loss", "validation_accuracy", "colour_loss", "mood_loss", "colour_accuracy", "mood_accuracy"} <= set(
        result.history[0]
    )
    assert list(result.network.predict(data.items[:3]).tasks) == ["colour", "mood"]
    if strategy == "head":
        assert result.cost["frozen_forward_examples"] == len(data)
        assert result.network.heads["colour"].layer != result.network.heads["mood"].layer


def test_a_missing_target_counts_for_nothing_and_others_as_before() -> None:
    draw = torch.Generator().manual_seed(0)
    scores = {"one": torch.randn(4, 3, generator=draw, requires_grad=True), "two": torch.randn(4, 1, generator=draw, requires_grad=True)}
    from_one = torch.tensor([0, -1, 2, -1])
    numbers = torch.tensor([[1.0], [torch.nan], [3.0], [torch.nan]])
    cross, square = nn.functional.cross_entropy, nn.functional.mse_loss

    def loss(values: torch.Tensor, targets: torch.Tensor, **_: Any) -> torch.Tensor:
        return cross(values, targets) if not targets.is_floating_point() else square(values, targets)

    whole = Objective((TaskObjective("one", loss, from_one), TaskObjective("two", loss, numbers, weight=0.5)))
    by_hand = cross(scores["one"][[0, 2]], torch.tensor([0, 2])) + 0.5 * square(scores["two"][[0, 2]], torch.tensor([[1.0], [3.0]]))
    torch.testing.assert_close(whole(scores, np.arange(4)), by_hand)
    whole(scores, np.arange(4)).backward()
    assert not scores["one"].grad[[1, 3]].any() and scores["one"].grad[0].any()
    none = whole({name: rows[[1, 3]] for name, rows in scores.items()}, np.array([1, 3]))
    assert none.item() == 0.0
    assert all(not rows.any() for rows in torch.autograd.grad(none, list(scores.values())))
    figures = whole.figures({name: rows.detach().numpy() for name, rows in scores.items()}, np.arange(4))
    assert figures["validation_loss"] == pytest.approx(by_hand.item())
    assert figures["validation_loss"] == pytest.approx(figures["one_loss"] + 0.5 * figures["two_loss"])
    assert "two_accuracy" not in figures
    assert "one_loss" not in whole.figures({name: rows.detach().numpy()[[1, 3]] for name, rows in scores.items()}, np.array([1, 3]))


def test_a_task_of_next_to_no_weight_stays_at_its_start() -> None:
    given = QUICK | {"optimizer": "sgd", "momentum": 0.0, "start": "random", "validation": 0}
    light = regraft.adapt(_torch(), _two(), strategy="head", task_weights={"mood": 1e-12}, **given).network.heads["mood"].weight
    even = regraft.adapt(_torch(), _two(), strategy="head", **given).network.heads["mood"].weight
    start = regraft.adapt(_torch(), _two(), strategy="head", **(given | {"epochs": 0})).network.heads["mood"].weight
    np.testing.assert_allclose(light, start, atol=1e-9)
    assert np.abs(even - start).max() > 1e-4


def test_a_weight_of_an_unknown_task_is_told_with_the_near_ones() -> None:
    with pytest.raises(SettingError, match=r"no task 'moot'.*'mood'"):
        regraft.adapt(_torch(), _two(), strategy="head", task_weights={"moot": 1.0}, **QUICK)
    with pytest.raises(SettingError, match="task_weights"):
        regraft.adapt(_torch(), _two(), strategy="head", task_weights={"mood": 0.0}, **QUICK)


@FAMILIES
def test_heads_without_targets_are_left_as_they_are(make: Callable[[], Any]) -> None:
    both = regraft.adapt(make(), _two(), strategy="head", **QUICK).network
    before = both.heads["colour"]
    mood = _two().of_task("mood")
    mood = mood.subset(np.flatnonzero(mood.known))
    assert matched_tasks(both, mood) == {"mood": "mood"}
    for strategy, worse in (("head", False), ("full", True)):
        again = regraft.adapt(both, mood, strategy=strategy, **(QUICK | {"validation": 0}))
        assert np.array_equal(again.network.heads["colour"].weight, before.weight)
        assert not np.array_equal(again.network.heads["mood"].weight, both.heads["mood"].weight)
        assert any("no targets of 'colour'" in reason for reason in again.plan.reasons) == worse
        assert (again.network.statistics is None) == worse  # those of the first head hold as long as the features do


def test_partial_and_auto_with_two_heads_and_a_test_set() -> None:
    data = _two()
    partial = regraft.adapt(_torch(), data, strategy="partial", frozen="low", test=_two(40), holdout=0.2, **QUICK)
    assert torch.equal(partial.network.state()["low.weight"], _torch().state()["low.weight"])
    assert partial.scores["test"]["examples"] == 40 and partial.scores["test"]["tasks"]["mood"]["examples"] == 20
    assert "baselines" in partial.scores["test"]["tasks"]["mood"] and "baselines" not in partial.scores["holdout"]["tasks"]["mood"]
    auto = regraft.adapt(_torch(), data, **QUICK)
    assert any(one["why"].startswith("chosen") for one in auto.plan.candidates)
    with pytest.raises(DataError, match="no target of the task 'colour'"):
        regraft.adapt(_torch(), data, strategy="head", test=_two(40).of_task("mood"), **QUICK)


def test_a_derived_head_that_has_targets_gets_rows_of_its_own_and_others_are_kept() -> None:
    net = regraft.branch(
        regraft.branch(_torch(), "mood", groups={"good": ["red"], "bad": None}), "warm", groups={"yes": ["red"], "no": None}
    )
    result = regraft.adapt(net, _two(), strategy="head", **QUICK)
    assert result.network.heads["mood"].groups is None and result.network.heads["warm"].groups is not None
    other = dataclasses.replace(_two(), classes=("x", "y", "z"))
    assert "warm" not in regraft.adapt(net, other, strategy="head", **QUICK).network.heads


# ── labels ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@FAMILIES
def test_thresholds_are_fitted_saved_used_and_reported(make: Callable[[], Any], tmp_path: Path) -> None:
    data = _labels()
    result = regraft.adapt(make(), data, strategy="head", out=tmp_path / "out", **QUICK)
    limits = result.network.head.thresholds
    assert limits is not None and len(limits) == 4 and limits != (0.5,) * 4
    assert result.scores["holdout"]["thresholds"] == list(limits)
    again = regraft.load(tmp_path / "out", **({"architecture": Mlp} if make is _torch else {}))
    assert again.head.thresholds == limits
    said = again.predict(data.items)
    present = [set(labels.split("|")) - {""} for labels in said.labels]
    assert present == [
        {name for name, share, low in zip(data.classes, row, limits, strict=True) if share >= low} for row in said.probabilities
    ]
    assert {len(labels) for labels in present} >= {0, 1, 2}
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "Label by label" in page and f"{limits[0]:.3f}" in page


def test_thresholds_without_selection_items_come_from_the_probe() -> None:
    probed = regraft.adapt(_torch(), _labels(), strategy="head", validation=0, **QUICK)
    assert probed.network.head.thresholds is not None
    assert regraft.adapt(_torch(), _labels(), strategy="scratch", validation=0, **QUICK).network.head.thresholds is None


# ── how rows start ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _other_colours() -> Dataset:
    return dataclasses.replace(_two().of_task("colour"), classes=("crimson", "green", "pink"), name="main", partial=False)


def test_renamed_rows_are_carried_over() -> None:
    net = _torch()
    given = QUICK | {"epochs": 0, "start": "zeros"}
    head = regraft.adapt(net, _other_colours(), strategy="head", rename={"red": "crimson"}, **given).network.head
    assert np.array_equal(head.weight[:2], net.head.weight[:2]) and not head.weight[2].any()
    assert Plan.from_json(Plan("head", rename={"red": "crimson"}, start="mean").to_json()).rename == {"red": "crimson"}
    with pytest.raises(NetworkError, match=r"no class 'rde'.*'red'"):
        regraft.adapt(net, _other_colours(), strategy="head", rename={"rde": "crimson"}, **given)
    with pytest.raises(SettingError, match=r"start='prob' .*'probe'"):
        regraft.adapt(net, _other_colours(), strategy="head", start="prob")


@pytest.mark.parametrize("start", ["zeros", "random", "mean", "imprint", "probe"])
def test_new_rows_start_as_asked_and_old_ones_stay(start: str) -> None:
    net, data = _torch(), _other_colours()
    given = QUICK | {"epochs": 0, "start": start}
    result = regraft.adapt(net, data, strategy="head", **given)
    head, fit = result.network.head, data.subset(parts_of(data, Plan("head")).training)
    assert np.array_equal(head.weight[1], net.head.weight[1])
    expected = regraft.retarget(net, data.classes, start=start, data=fit if start in ("imprint", "probe") else None).head
    np.testing.assert_allclose(head.weight, expected.weight, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(head.bias, expected.bias, rtol=1e-4, atol=1e-5)


def test_a_start_that_the_data_do_not_allow_is_refused_before_training() -> None:
    with pytest.raises(SettingError, match="'main' is multi-label"):
        regraft.adapt(_torch(), _labels(), strategy="head", start="imprint", **QUICK)
    with pytest.raises(DataError, match="no example of 'white'"):
        regraft.adapt(_torch(), _other_colours(), strategy="head", start="probe", classes=("crimson", "green", "pink", "white"), **QUICK)


# ── history and statistics ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_history_goes_on_over_two_adaptations_and_a_folder(tmp_path: Path) -> None:
    first = regraft.adapt(_torch(), _two(), strategy="head", out=tmp_path / "one", **QUICK)
    again = regraft.load(tmp_path / "one", architecture=Mlp)
    assert [entry["run"] for entry in first.history] == [1] * len(first.history)
    second = regraft.adapt(again, _two(), strategy="full", out=tmp_path / "two", **QUICK)
    count = len(first.history)
    assert second.history[:count] == first.history
    assert {entry["run"] for entry in second.history[count:]} == {2}
    assert list(second.network.history) == second.history == list(regraft.load(tmp_path / "two", architecture=Mlp).history)
    page = (tmp_path / "two" / "report.html").read_text(encoding="utf-8")
    assert "run 2: full" in page and "Task mood: classification" in page
    assert merged_history([{"epoch": 1}], [{"epoch": 1}]) == [{"run": 1, "epoch": 1}, {"run": 2, "epoch": 1}]


@FAMILIES
@pytest.mark.parametrize("strategy", ["head", "full", "scratch"])
def test_class_statistics_are_those_of_the_final_features(make: Callable[[], Any], strategy: str, tmp_path: Path) -> None:
    data = _two()
    result = regraft.adapt(make(), data, strategy=strategy, out=tmp_path / "out", **QUICK)
    parts = parts_of(data, Plan(strategy))
    rows = np.sort(np.concatenate([parts.training, parts.validation]))
    expected = statistics_of(result.network.features(data.items[rows]), data.targets[rows], classes=COLOURS)
    saved = regraft.load(tmp_path / "out", **({"architecture": Mlp} if make is _torch else {})).statistics
    assert saved is not None
    kept = ClassStatistics.from_arrays(saved)
    assert kept.classes == COLOURS
    for one, two in ((kept.counts, expected.counts), (kept.means, expected.means), (kept.scatter, expected.scatter)):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-3)
    assert regraft.adapt(make(), data, strategy="head", statistics=False, **(QUICK | {"epochs": 0})).network.statistics is None


# ── columns ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_columns_go_with_a_network_that_takes_them() -> None:
    items = _items(120)
    price = (items[:, 5] * 10 + 3)[:, None]
    noise = np.random.default_rng(1).normal(size=items.shape).astype(np.float32)
    data = Dataset(noise, (items[:, 5] > 0).astype(np.int64), ("low", "high"), "array", columns=price, column_names=("price",))
    with pytest.raises(DataError, match=r"'price'.*regraft\.join"):
        regraft.adapt(_torch(), data, strategy="head", **QUICK)
    joined = regraft.join(_torch(), ["price"])
    result = regraft.adapt(joined, data, strategy="head", **QUICK)
    assert result.scores["holdout"]["accuracy"] > 0.9 > result.baselines["majority"]["accuracy"]
    with pytest.raises(DataError, match=r"have no columns.*'price'"):
        regraft.adapt(joined, dataclasses.replace(data, columns=None, column_names=()), strategy="head", **QUICK)
