"""Settings that are measured: what is compared, what is chosen, and the training that is repeated on more examples."""

from __future__ import annotations

import dataclasses
import io
import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from tests.training.test_loop import ArrayFeed, _state
from torch import nn

from regraft.console import progress, say, speaking
from regraft.networks.torch.family import open_torch
from regraft.planning.tuning.training import measured_training, refitted
from regraft.tasks import chosen_loss
from regraft.training import Objective, Settings, TaskObjective, Training, train
from regraft.training.checkpoints import MemoryStore
from regraft.training.recipe import Recipe, Starts, _moving_statistics, first_short, found_recipe, with_recipe


class Rows(ArrayFeed):
    def batch(self, indices: np.ndarray, views: np.ndarray) -> Any:
        return self.items[indices]


def _digits(settings: dict[str, Any] | None = None, *, norm: bool = False, seed: int = 0, count: int = 300) -> tuple[Training, Starts]:
    """Return a training on 8 x 8 digits, and its starts: weights as drawn, and some that are far too large."""
    pictures, labels = load_digits(return_X_y=True)
    torch.manual_seed(seed)
    layers = [nn.Linear(64, 32), *([nn.BatchNorm1d(32)] if norm else []), nn.ReLU(), nn.Linear(32, 24), nn.ReLU(), nn.Linear(24, 10)]
    network = open_torch(nn.Sequential(*layers), inputs=(64,))
    items = torch.from_numpy(pictures / 16).float()
    objective = Objective((TaskObjective("main", chosen_loss(None, "classification"), torch.from_numpy(labels)),))
    given = Settings.of(settings or {})
    fit, validation = np.arange(count), np.arange(count, count + 100)
    training = Training(network, Rows(network, items), objective, fit, validation, given, seed, frozenset(), keep_start=False)
    now = {name: tensor.clone() for name, tensor in network.state().items()}
    large = {name: 30 * tensor if tensor.is_floating_point() else tensor for name, tensor in now.items()}
    return training, {"good": lambda _rows: now, "bad": lambda _rows: large}


@pytest.mark.parametrize(("factor", "better"), [(0.001, "higher"), (100.0, "lower")])
def test_a_useless_usual_rate_is_left(factor: float, better: str) -> None:
    training, starts = _digits()
    chosen = found_recipe(training, usual=1e-3 * factor, starts=starts)
    recipe, compared = chosen.recipe, chosen.compared
    assert recipe.learning_rate > 1e-3 * factor if better == "higher" else recipe.learning_rate < 1e-3 * factor
    assert recipe.start == "good"
    rates = {one.recipe.learning_rate for one in compared}
    assert max(rates) / min(rates) >= 100  # two decades


def test_what_is_given_is_not_compared() -> None:
    training, starts = _digits({"learning_rate": 2e-3, "layer_decay": 0.5, "batch_norm": "frozen"}, norm=True)
    chosen = found_recipe(training, usual=1e-3, starts={"good": starts["good"]})
    recipe, compared = chosen.recipe, chosen.compared
    assert (recipe.learning_rate, recipe.batch_norm) == (2e-3, "frozen")
    assert not compared or {one.recipe.learning_rate for one in compared} == {2e-3}
    assert with_recipe(training, recipe).settings.layer_decay == 0.5


def test_decay_statistics_and_starts_are_compared() -> None:
    training, starts = _digits(norm=True)
    compared = found_recipe(training, usual=1e-3, starts=starts).compared
    assert {one.recipe.lowest for one in compared} == {1.0, 0.3, 0.1}
    assert {one.recipe.batch_norm for one in compared} == {"batch", "frozen"}
    assert {one.recipe.start for one in compared} == {"good", "bad"}


def test_frozen_statistics_stay_and_the_rest_is_trained() -> None:
    training, _ = _digits({"epochs": 2}, norm=True)
    still = _moving_statistics(training)
    assert still == {"1.running_mean", "1.running_var"}
    for kind, moves in (("batch", True), ("frozen", False)):
        before = _state(training)
        measured = with_recipe(training, Recipe(1e-3, batch_norm=kind))
        train(measured)
        after = _state(training)
        assert all(torch.equal(before[name], after[name]) != moves for name in still)
        assert not torch.equal(before["1.weight"], after["1.weight"])


def test_the_length_found_is_repeated_on_all_examples() -> None:
    training, starts = _digits({"epochs": 40})
    found = measured_training(training, usual=1e-3, starts=starts)
    epochs = [entry for entry in found.history if entry["phase"] == "train"]
    assert 0 < sum(found.course) <= len(epochs)
    assert min(entry["calibrated_loss"] for entry in epochs) < 0.5
    scores, rows = found.held_out or ({}, np.arange(0))
    assert (rows == training.validation).all()
    before = float((scores["main"].argmax(1) == training.objective.parts[0].targets[rows].numpy()).mean())
    again = refitted(training, found.recipe, starts=found.starts, course=found.course, rows=np.arange(400)).history
    assert [entry["phase"] for entry in again] == ["refit"] * sum(found.course)
    assert before > 0.85


def test_folds_take_the_place_of_a_small_validation_set() -> None:
    training, starts = _digits({"batch_size": 16, "epochs": 40}, count=40)
    rows = np.arange(50)
    folds = [(np.setdiff1d(rows, rows[number::5]), rows[number::5]) for number in range(5)]
    found = measured_training(training, usual=1e-3, starts={"good": starts["good"]}, folds=folds)
    scores, judged = found.held_out or ({}, np.arange(0))
    assert sorted(judged) == list(rows)
    assert scores["main"].shape == (50, 10)
    assert {entry["phase"] for entry in found.history} - {"search"} == {*(f"fold {number}" for number in range(1, 6))}


def test_a_start_that_nothing_beats_is_kept() -> None:
    training, _ = _digits({"epochs": 25})
    drawn = _state(training)
    good = measured_training(training, usual=1e-3, starts={"now": lambda _rows: drawn})
    assert not good.kept_start
    kept = _state(training)
    again = dataclasses.replace(training, keep_start=True, settings=Settings.of({"epochs": 3, "learning_rate": 3.0, "optimizer": "sgd"}))
    bad = measured_training(again, usual=1e-3, starts={"now": lambda _rows: kept})
    assert bad.kept_start
    assert all(torch.equal(kept[name], tensor) for name, tensor in training.network.state().items())


@pytest.mark.parametrize("folded", [False, True])
@pytest.mark.parametrize("schedule", ["auto", "cosine"])
def test_a_run_that_goes_on_comes_to_the_same_without_the_comparisons(folded: bool, schedule: str) -> None:
    """The comparison that was won is gone on with; where its state is lost, the training begins anew and comes to the same."""
    training, starts = _digits({"epochs": 40, "schedule": schedule, "patience": 3, "batch_size": 8}, norm=True, count=80)
    rows = np.arange(180)
    folds = [(np.setdiff1d(rows, rows[number::2]), rows[number::2]) for number in range(2)] if folded else []
    known = MemoryStore()
    first = measured_training(training, usual=1e-3, starts=starts, folds=folds, known=known)
    weights = _state(training)
    assert (known.read() or {})["tried"] > 0
    second = measured_training(training, usual=1e-3, starts=starts, folds=folds, known=known)
    assert (first.recipe, first.compared, first.course) == (second.recipe, second.compared, second.course)
    assert [entry | {"seconds": 0} for entry in first.history] == [entry | {"seconds": 0} for entry in second.history]
    assert all(torch.equal(weights[name], tensor) for name, tensor in training.network.state().items())


@pytest.mark.parametrize("epochs", [1, 6])
def test_a_comparison_whose_first_training_has_begun_comes_to_the_same(epochs: int) -> None:
    training, starts = _digits({"epochs": 40, "batch_size": 8}, norm=True, count=80)
    plain, weights = measured_training(training, usual=3e-3, starts=starts), _state(training)
    first = first_short(training, usual=3e-3, starts=starts)
    first.go_on_(epochs, starts)
    again = measured_training(training, usual=3e-3, starts=starts, first=first)
    assert (plain.recipe, plain.compared, plain.course) == (again.recipe, again.compared, again.course)
    assert all(torch.equal(weights[name], tensor) for name, tensor in training.network.state().items())


def test_a_comparison_on_a_part_of_the_examples_is_not_gone_on_with() -> None:
    training, starts = _digits({"epochs": 25}, count=1300)
    chosen = found_recipe(training, usual=1e-3, starts=starts)
    assert chosen.compared
    assert (chosen.tried, list(chosen.begun)) == (0, [None])


def test_without_room_for_states_the_comparison_comes_to_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    training, starts = _digits({"epochs": 40, "batch_size": 8}, count=80)
    first, begun = found_recipe(training, usual=1e-3, starts=starts), _state(training)
    monkeypatch.setattr("regraft.training.recipe.ROOM", 1000)
    second = found_recipe(training, usual=1e-3, starts=starts)
    assert first.begun[0] is not None and second.begun == [None]
    assert (first.recipe, first.compared, first.tried) == (second.recipe, second.compared, second.tried)
    assert all(torch.equal(begun[name], tensor) for name, tensor in training.network.state().items())


def test_states_without_room_are_not_kept() -> None:
    store, content = MemoryStore(100), {"best": {"weight": torch.zeros(20)}, "optimizer": {"state": {0: {"step": torch.zeros(6)}}}}
    store.write({"best": content["best"]})
    assert store.read() is not None
    store.write(content)  # 104 bytes
    assert store.read() is None


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("changed", "ending"),
    [
        ({}, r"train: 3 epochs, best epoch [1-3]: train loss .+, validation accuracy .+ %, .+"),
        ({"course": (2, 1), "phase": "refit"}, r"train, refit: 3 epochs, last epoch 3: train loss .+"),
        ({"keep_start": True}, r"train: 3 epochs, none better than the start"),
    ],
)
def test_a_log_has_the_first_epoch_and_the_end_of_a_training_and_a_terminal_each_epoch(
    changed: dict[str, Any], ending: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    training, _ = _digits({"epochs": 3, "learning_rate": 1e-3}, count=100)
    if "keep_start" in changed:
        train(dataclasses.replace(training, settings=Settings.of({"epochs": 20, "learning_rate": 1e-2})))
        changed = changed | {"settings": Settings.of({"epochs": 3, "learning_rate": 3.0, "optimizer": "sgd"})}
    training = dataclasses.replace(training, **changed)
    with speaking(True, clock=lambda: 0.0):
        train(training)
    first, last = capsys.readouterr().err.splitlines()
    assert re.match(r"train(, refit,)? epoch 1: train loss ", first) and re.fullmatch(ending, last)
    monkeypatch.setattr("sys.stderr", shown := Terminal())
    with speaking(True, clock=lambda: 0.0):
        train(training)
    assert shown.getvalue().count(" epoch ") == 3 and "epochs" not in shown.getvalue()


def test_an_hour_of_frequent_sentences_gives_a_short_log(capsys: pytest.CaptureFixture[str]) -> None:
    """A sentence each second: one every 10 s at first, at most 60 within an hour, the last one less than 10 min ago."""
    now = [0.0]
    with speaking(True, clock=lambda: now[0]):
        for now[0] in range(3600):
            say(f"{now[0]}", frequent=True)
    said = [int(line) for line in capsys.readouterr().err.splitlines()]
    assert said[:10] == list(range(0, 100, 10)) and 30 < len(said) < 60
    assert max(np.diff([*said, 3600])) <= 360


@pytest.mark.parametrize(("logged", "words", "total", "said"), [
    (True, True, 100, ["frozen part: 11 of 100 after 10 s.", "frozen part: 21 of 100 after 20 s.", "frozen part: 31 of 100 after 30 s."]),
    (True, True, None, ["frozen part: 11 after 10 s.", "frozen part: 21 after 20 s.", "frozen part: 31 after 30 s."]),
    (False, True, 100, []),
    (True, False, 100, []),
])  # fmt: skip
def test_a_log_says_how_far_a_long_step_is(
    logged: bool, words: bool, total: int | None, said: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    now = [0.0]
    with speaking(True, words=words, clock=lambda: now[0]), progress("frozen part", total, logged=logged) as advance:
        for now[0] in range(35):
            advance(1)
    assert capsys.readouterr().err.splitlines() == said


def test_how_long_it_takes_is_said_before_the_comparisons(capsys: pytest.CaptureFixture[str]) -> None:
    training, starts = _digits({"epochs": 40})
    with speaking(True):
        found_recipe(training, usual=1e-3, starts=starts)
    said = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"train: comparing settings takes about .+ (s|min), training up to .+", said[0])
    assert sum("comparing settings" in line for line in said) == 1
