"""Heads by a convex solver, and the probes that can be asked for by name: in both families, saved and opened again."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.linear_model import LogisticRegression, LogisticRegressionCV, RidgeCV
from sklearn.metrics import log_loss
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tests import torch_examples as examples
from tests.networks.keras_examples import L

import regraft
from regraft.data import Dataset
from regraft.errors import SettingError
from regraft.networks.keras.library import keras
from regraft.planning import Plan, make_plan
from regraft.planning.choosing import convex
from regraft.planning.setup import parts_of
from regraft.report.planes import penalty_paths
from regraft.training import loop

pytestmark = pytest.mark.usefixtures("without_onnx_form")
CLASSES = ("class 0", "class 1", "class 2")
PROBES = ("ridge", "lda", "logistic", "svm", "class_mean", "random_projection", "knn")
families = pytest.mark.parametrize("family", ["torch", "keras"])


def _net(family: str = "torch") -> Any:
    if family == "torch":
        torch.manual_seed(0)
        return regraft.load(examples.Cnn(4), inputs=(1, 8, 8), classes=["a", "b", "c", "d"])
    keras.utils.set_random_seed(0)
    layers = [L.Conv2D(6, 3, activation="relu"), L.MaxPooling2D(2), L.Conv2D(8, 3, activation="relu"), L.Flatten(), L.Dense(12, "relu")]
    return regraft.load(keras.Sequential([keras.Input((8, 8, 1)), *layers, L.Dense(5, activation="softmax")]))


def _pictures(family: str = "torch", count: int = 240, *, noise: float = 0.8) -> tuple[np.ndarray, np.ndarray]:
    pictures, labels = examples.pictures(count)
    pictures = pictures + np.random.default_rng(0).normal(0, noise, pictures.shape).astype(np.float32)
    return (pictures if family == "torch" else pictures.transpose(0, 2, 3, 1)), labels


def _no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_fit_step", lambda *_args, **_named: pytest.fail("an epoch loop began"))


# ── the strategy "head" ────────────────────────────────────────────────────────────────────────────────────────────────────────


@families
def test_a_head_is_solved_and_is_what_scikit_learn_makes_of_the_same_features(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_loop(monkeypatch)
    net, (pictures, labels) = _net(family), _pictures(family)
    test = (pictures[160:], labels[160:])
    result = regraft.adapt(net, (pictures[:160], labels[:160]), strategy="head", holdout=0.2, test=test, cache="memory")
    assert [entry["stage"] for entry in result.history] == ["head"] * len(result.history)
    assert all(entry["penalty"] > 0 and entry["validation_loss"] > 0 for entry in result.history)
    assert len(penalty_paths(result.history)) == 1  # coarse to fine, and yet one head
    best = min(result.history, key=lambda entry: entry["validation_loss"])
    said = next(reason for reason in result.plan.reasons if reason.startswith("The head was solved"))
    assert f"{best['penalty']:.3g}" in said and "fitted to 128 examples" in said and "5-fold" in said
    split = result.facts["data"]["split"]
    learned = np.setdiff1d(np.arange(160), _judging(net, pictures[:160], labels[:160]))
    assert split["training"] + split["validation"] == len(learned) == 128
    features = net.features(pictures)
    model = make_pipeline(StandardScaler(), LogisticRegression(C=1 / best["penalty"], max_iter=2000))
    model.fit(features[:160][learned], labels[:160][learned])
    made = result.network.logits(pictures)
    assert (model.predict(features) == np.array(CLASSES)[made.argmax(1)]).mean() > 0.98  # the same penalty, the same head
    np.testing.assert_allclose(made.mean(1), 0, atol=1e-3)  # nothing that all classes have in common
    state, before = result.network.state(), net.state()
    changed = [name for name in before if before[name].shape == state[name].shape and not torch.equal(before[name], state[name])]
    assert not changed  # everything below is as it was


def _judging(net: Any, pictures: np.ndarray, labels: np.ndarray, *, seed: int = 0) -> np.ndarray:
    return parts_of(regraft.read((pictures, labels)), Plan("head", seed=seed), judged_apart=True).holdout


@pytest.mark.parametrize(
    ("load", "each", "family"),
    [
        *((load, each, "torch") for load, each in ((load_digits, 20), (load_wine, 15), (load_breast_cancer, 40))),
        (load_wine, 15, "keras"),  # the solver gets the same numbers from both families
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::sklearn.exceptions.ConvergenceWarning")
def test_the_default_head_is_not_worse_than_the_three_lines_that_everybody_writes(load: Any, each: int, family: str) -> None:
    """On real sets as they are: a "network" that is nothing but a head. benchmarks/heads.py has the same of real networks."""
    x, y = load(return_X_y=True)
    x, names = x.astype(np.float32), np.array([f"class {label}" for label in y])
    head = torch.nn.Linear(x.shape[1], 2) if family == "torch" else keras.Sequential([keras.Input((x.shape[1],)), L.Dense(2)])
    net = regraft.load(torch.nn.Sequential(head) if family == "torch" else head, **({"inputs": x.shape[1:]} if family == "torch" else {}))
    gains, losses = [], []
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(y))
        learn = np.concatenate([order[y[order] == label][:each] for label in np.unique(y)])
        test = np.setdiff1d(order, learn)
        data, how = (x[learn], names[learn]), {"holdout": 0.2, "seed": seed, "cache": "memory"}
        result = regraft.adapt(net, data, strategy="head", test=(x[test], names[test]), **how)
        own = np.setdiff1d(np.arange(len(learn)), _judging(net, x[learn], names[learn], seed=seed))
        theirs = make_pipeline(StandardScaler(), LogisticRegressionCV(max_iter=1000)).fit(x[learn][own], names[learn][own])
        gains.append(result.scores["test"]["accuracy"] - theirs.score(x[test], names[test]))
        losses.append(result.scores["test"]["log_loss"] - log_loss(names[test], theirs.predict_proba(x[test]), labels=theirs.classes_))
    error = np.std(gains, ddof=1) / np.sqrt(len(gains))
    assert np.mean(gains) >= -max(0.005, error) and np.mean(losses) <= 0.01, (gains, losses)


@pytest.mark.parametrize(
    "options",
    [
        {"epochs": 2},
        {"learning_rate": 0.01, "epochs": 2},
        {"dropout": 0.2, "epochs": 2},
        {"l1": 1e-4, "epochs": 2},
        {"clip_norm": 1.0, "epochs": 2},
        {"optimizer": "sgd", "epochs": 2},
        {"schedule": "constant", "epochs": 2},
        {"start": "probe", "epochs": 2},
    ],
    ids=lambda options: next(iter(options)),
)
def test_whoever_gives_a_setting_of_the_loop_gets_the_loop(options: dict[str, Any]) -> None:
    result = regraft.adapt(_net(), _pictures(count=60), strategy="head", cache="memory", **options)
    assert result.history and all("learning_rate" in entry and "penalty" not in entry for entry in result.history)
    assert result.plan.of_the_loop()


def test_views_need_the_loop() -> None:
    pictures = (np.random.default_rng(0).random((40, 8, 8, 3)) * 255).astype(np.uint8)
    labels = np.array([f"class {index % 2}" for index in range(40)])
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, 2))
    data = regraft.read((pictures, labels), kind="image")
    result = regraft.adapt(regraft.load(module, inputs=(3, 8, 8)), data, strategy="head", views=2, cache="memory")
    assert all("learning_rate" in entry for entry in result.history)


@families
def test_the_same_run_gives_the_same_bits_and_one_that_was_stopped_too(family: str, tmp_path: Path) -> None:
    net, data = _net(family), _pictures(family, 120)
    first = regraft.adapt(net, data, strategy="head", cache="memory", out=tmp_path / "first")
    real = convex.solved_heads

    def stopped(*given: Any, **named: Any) -> Any:
        real(*given, **named)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("regraft.planning.strategies.solved_heads", stopped)
        regraft.adapt(net, data, strategy="head", cache="memory", out=tmp_path / "second")
    again = regraft.adapt(net, data, strategy="head", cache="memory", out=tmp_path / "second")
    for one, other in zip(first.network.state().values(), again.network.state().values(), strict=True):
        assert torch.equal(one, other)
    assert [entry["validation_loss"] for entry in first.history] == [entry["validation_loss"] for entry in again.history]
    assert not (tmp_path / "second" / "run").exists()


def test_many_examples_are_judged_by_the_validation_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convex, "FOLDED", 50)
    result = regraft.adapt(_net(), _pictures(noise=0.3), strategy="head", cache="memory")
    assert any("by validation set, then fitted to 192 examples" in reason for reason in result.plan.reasons)
    assert result.scores["holdout"]["accuracy"] > 0.6


def test_class_weights_and_smoothing_are_those_of_training() -> None:
    pictures, labels = _pictures(count=300, noise=2.0)
    keep = (labels == "class 0") | (np.arange(300) % 5 == 0)
    pictures, labels = pictures[keep], labels[keep]
    plain, balanced, smooth = (
        regraft.adapt(_net(), (pictures, labels), strategy="head", cache="memory", **options)
        for options in ({}, {"class_weight": "balanced"}, {"label_smoothing": 0.3})
    )
    said = [(np.array(one.network.predict(pictures).labels) == "class 0").mean() for one in (plain, balanced)]
    assert said[1] < said[0]
    assert np.abs(smooth.network.head.weight).max() < np.abs(plain.network.head.weight).max() * 1.5


@families
def test_labels_and_numbers_are_solved_too(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    _no_loop(monkeypatch)
    net, (pictures, _) = _net(family), _pictures(family, noise=0.3)
    flat = pictures.reshape(len(pictures), 64)
    labels = np.stack([flat[:, :8].mean(1) > np.median(flat[:, :8].mean(1)), flat[:, 32:40].mean(1) > 0.5], 1).astype(np.float32)
    many = regraft.adapt(net, Dataset(pictures, labels, ("x", "y"), "array", "multi-label"), strategy="head", cache="memory")
    assert many.network.head.kind == "multi-label" and many.network.head.thresholds is not None
    assert many.scores["holdout"]["macro_f1"] > 0.5 and all("penalty" in entry for entry in many.history)
    numbers = flat.mean(1).astype(np.float32)
    one = regraft.adapt(net, Dataset(pictures, numbers, (), "array", "regression"), strategy="head", cache="memory")
    features = net.features(pictures)
    theirs = make_pipeline(StandardScaler(), RidgeCV(np.geomspace(1e-3, 1e3, 13))).fit(features[:190], numbers[:190])
    assert one.scores["holdout"]["rmse"] < 1.2 * np.sqrt(np.square(theirs.predict(features[190:]) - numbers[190:]).mean())


@families
def test_few_numbers_keep_or_correct_the_weights_of_a_head_that_knows_them(family: str) -> None:
    """Twenty examples of the task that a network was trained on leave its head as it is. If all targets are larger by a constant, the head
    is solved from its weights; from zero, twenty examples would not suffice."""
    net, (pictures, _) = _net(family), _pictures(family, count=400, noise=0.3)
    numbers = np.sin(4 * pictures.reshape(len(pictures), 64)[:, :24].mean(1)).astype(np.float32)
    how = {"strategy": "full", "epochs": 20, "learning_rate": 0.01, "task": "regression", "cache": "memory"}
    known = regraft.adapt(net, (pictures[:300], numbers[:300]), **how).network
    few, rest = slice(300, 320), slice(320, None)

    def error(network: Any, shift: float = 0.0) -> float:
        return float(np.square(network.logits(pictures[rest]).ravel() - numbers[rest] - shift).mean())

    how = {"strategy": "head", "task": "regression", "cache": "memory"}
    same = regraft.adapt(known, (pictures[few], numbers[few]), **how)
    np.testing.assert_array_equal(same.network.logits(pictures), known.logits(pictures))
    assert len(same.history) == len(known.history)
    moved = regraft.adapt(known, (pictures[few], numbers[few] + 5), **how)
    assert all("penalty" in entry for entry in moved.history[len(known.history) :]) and len(moved.history) > len(known.history)
    assert error(moved.network, 5.0) < 1.2 * error(known)
    fresh = regraft.adapt(regraft.retarget(known, ["number"], start="zeros"), (pictures[few], numbers[few] + 5), **how)
    assert error(moved.network, 5.0) < error(fresh.network, 5.0)


def test_rows_that_know_the_classes_stay_where_a_few_examples_cannot_do_better() -> None:
    """A network trained on the task, and few examples in much noise: the penalty pulls to its rows, or they stay as they are."""
    pictures, labels = _pictures(count=512, noise=1.5)
    known = regraft.adapt(_net(), (pictures[:450], labels[:450]), strategy="full", epochs=12, learning_rate=0.01, cache="memory").network
    few, test = (pictures[450:462], labels[450:462]), (pictures[462:], labels[462:])
    again = regraft.adapt(known, few, strategy="head", test=test, cache="memory")
    before = float((np.array(known.predict(test[0]).labels) == test[1]).mean())
    assert again.scores["test"]["accuracy"] >= before - 0.06
    fresh = regraft.adapt(known, (few[0], np.char.replace(few[1], "class", "kind")), strategy="head", cache="memory",
                          test=(test[0], np.char.replace(test[1], "class", "kind")))  # fmt: skip
    assert again.scores["test"]["accuracy"] >= fresh.scores["test"]["accuracy"]


class _Rectified(torch.nn.Module):
    """As SqueezeNet: what follows the head is not linear, and its classes are averaged after it."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = torch.nn.Conv2d(1, 6, 3, padding=1), torch.nn.Conv2d(6, 3, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.head(torch.relu(self.body(x)))).mean((2, 3))


def test_a_head_that_is_no_plain_linear_layer_is_trained() -> None:
    torch.manual_seed(0)
    net = regraft.load(_Rectified(), inputs=(1, 8, 8), classes=["a", "b", "c"])
    result = regraft.adapt(net, _pictures(count=60), strategy="head", cache="memory")
    assert np.isfinite(result.network.logits(_pictures(count=5)[0])).all() and result.history


def test_several_tasks_are_solved_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_loop(monkeypatch)
    pictures, labels = _pictures(count=120)
    weight = pictures.mean((1, 2, 3)).astype(np.float64)
    weight[:20] = np.nan
    result = regraft.adapt(_net(), regraft.read((pictures, {"kind": labels, "weight": weight})), strategy="head", cache="memory")
    assert set(result.scores["holdout"]["tasks"]) == {"kind", "weight"}
    assert {reason.split("'")[1] for reason in result.plan.reasons if reason.startswith("The head of")} == {"kind", "weight"}


# ── probe= ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _rows() -> list[Any]:
    """Return every strategy, probe and family; in the fast suite, every probe alone and some combinations of the rest."""
    rows = [(strategy, probe, family) for strategy in ("probe", "head") for probe in PROBES for family in ("torch", "keras")]
    fast = {("probe", "svm", "keras"), ("head", "logistic", "keras"), ("head", "random_projection", "keras"), ("head", "knn", "torch")}
    return [pytest.param(*row, marks=() if row[::2] == ("probe", "torch") or row in fast else pytest.mark.slow) for row in rows]


@pytest.mark.parametrize(("strategy", "probe", "family"), _rows())
def test_every_probe_makes_a_network_that_is_saved_and_opened(strategy: str, probe: str, family: str, tmp_path: Path) -> None:
    net, (pictures, labels) = _net(family), _pictures(family, noise=0.4)
    data, test = (pictures[:150], labels[:150]), (pictures[150:], labels[150:])
    result = regraft.adapt(net, data, strategy=strategy, probe=probe, test=test, cache="memory", out=tmp_path / "out")
    assert result.scores["test"]["accuracy"] > (0.85 if strategy == "probe" else 0.5)
    assert result.scores["test"]["log_loss"] < np.log(3) and result.plan.probe == probe
    assert result.network.classes == CLASSES and result.network.statistics is not None
    again = regraft.load(tmp_path / "out", architecture=(lambda: examples.Cnn(4)) if family == "torch" else None)
    np.testing.assert_allclose(again.logits(test[0]), result.network.logits(test[0]), rtol=1e-3, atol=1e-3)
    right = (np.array(again.predict(test[0]).labels) == test[1]).mean()
    assert right == pytest.approx(result.scores["test"]["accuracy"])
    plan = Plan.from_json((tmp_path / "out" / "plan.json").read_text())
    assert plan.probe == probe and "solved by" in str(plan)


def test_probes_by_name_differ_and_one_block_alone_may_be_read() -> None:
    data = _pictures(count=120)
    found = {name: regraft.adapt(_net(), data, strategy="probe", frozen="norm2", probe=name, cache="memory") for name in PROBES}
    for name, result in found.items():
        assert {part.block for part in result.network.body.tap_slices} <= {"norm2"}, name
    weights = [result.network.head.weight for name, result in found.items() if name not in ("random_projection", "knn")]
    assert all(np.abs(one - other).max() > 1e-4 for one, other in pairwise(weights))


@pytest.mark.parametrize("strategy", ["full", "partial", "surgical"])
def test_tuning_starts_from_the_probe_that_is_asked_for(strategy: str) -> None:
    options = {"partial": {"frozen": 1}, "surgical": {"block": "last"}}.get(strategy, {})
    quick = {"epochs": 1, "learning_rate": 1e-3, "cache": "memory"}
    first, other = (
        regraft.adapt(_net(), _pictures(count=90), strategy=strategy, probe=name, **quick, **options).history[0]
        for name in ("ridge", "lda")
    )
    assert first["train_loss"] != other["train_loss"]
    based = regraft.adapt(_net(), _pictures(count=90), strategy=strategy, probe="logistic", base="probe", **quick, **options)
    assert based.network.body.tap_slices


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"strategy": "full", "probe": "knn"}, "goes with strategy='probe' or 'head'"),
        ({"strategy": "probe", "probe": "ldaa"}, "did you mean 'lda'"),
        ({"strategy": "scratch", "probe": "lda"}, "begin with a solved head.*'scratch'"),
        ({"strategy": "auto", "probe": "lda"}, "begin with a solved head.*'auto'"),
        ({"strategy": "full", "probe": "random_projection"}, "goes with strategy='probe' or 'head'"),
        ({"strategy": "head", "probe": "random_projection", "dropout": 0.1}, "trains nothing; received dropout=0.1"),
    ],
)
def test_what_cannot_be_asked_for_says_what_can(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        regraft.adapt(_net(), _pictures(count=30), cache="memory", **options)


@pytest.mark.parametrize(
    ("probe", "targets", "said"),
    [
        ("svm", "numbers", "heads of classification; the task 'main' is regression. Choose 'ridge'"),
        ("lda", "labels", "heads of classification; the task 'main' is multi-label"),
        ("logistic", "numbers", "classification and multi-label; the task 'main' is regression"),
        ("random_projection", "tasks", r"before one head; the data have 2 tasks"),
    ],
)
def test_a_probe_that_does_not_suit_the_targets_is_refused_first(probe: str, targets: str, said: str) -> None:
    pictures, labels = _pictures(count=30)
    numbers = pictures.mean((1, 2, 3))
    given = {"numbers": numbers, "labels": np.stack([numbers > 0, numbers > 1], 1).astype(int), "tasks": {"a": labels, "b": numbers}}
    with pytest.raises(SettingError, match=said):
        regraft.adapt(_net(), (pictures, given[targets]), strategy="probe", probe=probe, cache="memory")


@pytest.mark.parametrize("probe", ["ridge", "random_projection"])
def test_numbers_by_probes_that_know_them(probe: str) -> None:
    pictures, _ = _pictures(noise=0.2)
    numbers = pictures.mean((1, 2, 3)).astype(np.float32)
    result = regraft.adapt(_net(), (pictures, numbers), strategy="probe", probe=probe, cache="memory")
    assert result.scores["holdout"]["r2"] > 0.5


def test_a_search_chooses_between_probes_and_the_estimator_takes_one() -> None:
    pictures, labels = _pictures(count=90)
    space = {"probe": ["ridge", "lda", "svm"], "strategy": ["probe"]}
    study = regraft.search(_net(), (pictures, labels), space=space, sampler="grid", trials=5, cache="memory")
    assert {row["values"].get("probe") for row in study.to_dict()["trials"]} >= {"ridge", "lda", "svm"}
    model = regraft.TransferClassifier(_net(), strategy="head", probe="lda", cache="memory").fit(pictures, labels)
    assert model.score(pictures, labels) > 0.5


def test_a_plan_of_before_this_setting_is_still_read() -> None:
    plain = make_plan("head", {}).to_dict()
    del plain["probe"]
    assert Plan.from_dict(plain) == dataclasses.replace(make_plan("head", {}), probe="auto")
