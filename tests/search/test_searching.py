"""A search: what chose never judges, one cache, the same trials again, several processes, and trials that end early."""

from __future__ import annotations

import itertools
import json
import pickle
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples

import regraft
from regraft.data import read
from regraft.errors import DataError, SettingError
from regraft.planning.search import SearchOptions, bench, searching
from regraft.planning.search.board import Board, Options, carried
from regraft.planning.search.space import Space
from regraft.planning.tuning.training import folds_of
from regraft.scale import unpacked

pytestmark = pytest.mark.usefixtures("without_onnx_form")

RATES: dict[str, Any] = {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}, "batch_size": [8, 16]}
QUICK: dict[str, Any] = {"epochs": 1, "cache": "memory", "pruner": None}


def _net() -> Any:
    torch.manual_seed(0)
    return regraft.load(examples.Cnn(), inputs=(1, 8, 8))


def _options(**changes: Any) -> Options:
    return Options(
        **{"trials": 4, "sampler": "random", "pruner": None, "seed": 0, "direction": "maximize", "steps": 4, "identity": "a", **changes}
    )


def _board(folder: Path | None = None, **changes: Any) -> Board:
    return Board(_options(**changes), Space.from_dict(RATES, {}), {}, folder)


Figures = tuple[tuple[float, ...], tuple[float, ...]]
Report = Callable[[float, int], None]


def _steady(values: Mapping[str, Any], report: Report) -> Figures:
    return ((values["learning_rate"],), ())


@pytest.mark.parametrize("folds", [None, 3])
def test_what_chose_never_judges_and_every_trial_starts_from_the_trained_weights(
    folds: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, starts, net, data = [], [], _net(), read(examples.pictures(60))
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    inner = bench.carried_out

    def watched(net: Any, items: Any, **named: Any) -> Any:
        seen.append(named["parts"])
        starts.append({name: tensor.clone() for name, tensor in net.state().items()})
        return inner(net, items, **named)

    monkeypatch.setattr(bench, "carried_out", watched)
    study = regraft.search(net, data, space={"strategy": ["full"], **RATES}, trials=2, folds=folds, **QUICK)
    judging = set(data.split_indices(0.2, seed=0)[1].tolist())
    assert len(seen) == 2 * (folds or 1)
    for parts in seen:
        used = [set(part.tolist()) for part in (parts.training, parts.validation, parts.holdout)]
        assert not judging & set.union(*used) and sum(map(len, used)) == len(data) - len(judging)
    assert all(examples.bit_equal(before, start) for start in [*starts, net.state()])
    again = regraft.adapt(net, data, strategy=study.best)
    assert study.scores["holdout"]["examples"] == len(judging)
    assert again.scores == study.scores and study.result is not None


def test_trials_with_one_freeze_boundary_share_one_cache_over_all_folds() -> None:
    study = regraft.search(_net(), examples.pictures(60), space=RATES, trials=4, folds=2, sampler="random", **QUICK)
    assert study.result is not None
    assert (
        study.cost["frozen_forward_examples"] - study.result.cost["frozen_forward_examples"] == 60
        and 0 < study.cost["train"] < study.cost["total"]
    )
    assert len(study.trials) == 4 and all(len(trial.folds) == 2 for trial in study.trials)


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_the_same_seed_gives_the_same_trials_interrupted_or_not(sampler: str, tmp_path: Path) -> None:
    def searched(trials: int, out: Path | None, seed: int = 0) -> Any:
        return regraft.search(_net(), examples.pictures(40), space=RATES, trials=trials, sampler=sampler, out=out, seed=seed, **QUICK)

    def found(study: Any) -> list[Any]:
        return [(trial.number, trial.values, trial.figure) for trial in study.trials]

    whole = searched(5, None)
    assert len(searched(2, tmp_path).trials) == 2
    resumed = searched(5, tmp_path)
    assert found(resumed) == found(whole)
    assert found(searched(5, None, seed=1)) != found(whole)
    saved = json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))
    assert [trial["values"] for trial in saved["trials"]] == [trial.values for trial in whole.trials]
    assert regraft.load(tmp_path / "best", architecture=examples.Cnn).classes == ("class 0", "class 1", "class 2")


@pytest.mark.parametrize("sampler", ["random", "grid"])
def test_trials_as_tasks_are_those_of_one_process(sampler: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Two at a time, the later one done first; each is sent, and finds in its process what the one before has left there."""
    taken = []

    def tasks(work: Any, shared: bytes, *, pieces: Any, cluster: str, threads: int, in_order: bool) -> Any:
        opened = unpacked(shared)
        assert "cluster" not in opened[0].fixed and cluster == "auto" and not in_order
        while two := list(itertools.islice(pieces, 2)):
            taken.append(len(two))
            for one in reversed(two):
                yield pickle.loads(pickle.dumps(work(opened, pickle.loads(pickle.dumps(one)))))

    monkeypatch.setattr(searching, "on_cluster", tasks)
    monkeypatch.setattr(searching, "check_engine", lambda *_given: None)
    monkeypatch.setattr(searching, "_judged", lambda *_given, **_named: (None, {}))
    space = {"strategy": ["head"], "learning_rate": {**RATES["learning_rate"], "points": 2}, "batch_size": [8, 16]}
    given: dict[str, Any] = {"space": space, "sampler": sampler, "trials": 3, **QUICK}
    studies = [regraft.search(_net(), examples.pictures(40), **given, **more) for more in ({}, {"cluster": "auto", "out": tmp_path})]
    found = [[(trial.number, trial.values, trial.figure, trial.folds, trial.losses) for trial in study.trials] for study in studies]
    assert found[0] == found[1] and taken == [2, 1]
    assert studies[1].cost["frozen_forward_examples"] == studies[0].cost["frozen_forward_examples"] == 40
    assert not (tmp_path / "running").exists()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"budget": "auto"}, "budget='auto': expected a time such as '30s'"),
        ({"trials": 0, "folds": 1}, "trials=0: .*1 or more; folds=1: .*2 or more"),
        ({"sampler": "tp", "metric": "acc"}, "sampler='tp' is not known.*metric='acc'"),
    ],
)
def test_wrong_options_of_a_search_are_one_message(given: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        SearchOptions(**given).check("classification")


def test_a_folder_of_another_study_is_refused(tmp_path: Path) -> None:
    _board(tmp_path)
    with pytest.raises(SettingError, match=r"holds a study of another network, data, space or setting.* or resume=False to begin anew"):
        _board(tmp_path, identity="b")


def test_a_study_is_begun_anew_where_that_is_asked(tmp_path: Path) -> None:
    def searched(trials: int, **more: Any) -> list[Any]:
        space = {"strategy": ["probe"], "probe": ["ridge", "lda"]}
        given: dict[str, Any] = {"space": space, "trials": trials, "sampler": "random", "out": tmp_path, **QUICK, **more}
        return [trial.values for trial in regraft.search(_net(), examples.pictures(40), **given).trials]

    first = searched(2)
    with pytest.raises(SettingError, match="another network, data"):
        searched(2, seed=1)
    assert len(searched(1, seed=1, resume=False)) == 1 and len(searched(2, seed=1)) == 2
    assert searched(2, resume=False) == first and (tmp_path / "best" / "regraft.json").is_file()


def _killed(taken: Any) -> None:
    taken.lock.release()  # as the system does when a process is killed


def test_two_workers_share_the_trials_and_those_of_a_killed_one_are_done_again(tmp_path: Path) -> None:
    first, second = _board(tmp_path), _board(tmp_path)
    killed, going = first.next(), second.next()
    assert killed is not None and going is not None and killed.values != going.values
    _killed(killed)
    done = [second.carry_out(_steady) for _ in range(3)]
    assert [trial and trial.row for trial in done] == [0, 2, 3] and done[0] and done[0].facts.values == killed.values
    assert second.carry_out(_steady) is None
    second.end(carried(going, _steady))
    second.let_go_(going)
    assert [trial.state for trial in first.trials()] == ["COMPLETE"] * 4 and not (tmp_path / "running").exists()


def test_nothing_stays_of_a_process_that_is_killed_when_its_trial_has_ended(tmp_path: Path) -> None:
    """Before it has removed the file that says who works on the trial; one that another process works on stays."""
    first, second, third = (_board(tmp_path, trials=3) for _ in range(3))
    killed, going = first.next(), second.next()
    assert killed is not None and going is not None
    first.end(carried(killed, _steady))
    _killed(killed)
    assert third.carry_out(_steady) and [path.name for path in (tmp_path / "running").iterdir()] == [f"{going.row}.lock"]
    second.end(carried(going, _steady))
    _killed(going)
    assert third.carry_out(_steady) is None and not third.waited()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["study.sqlite3"]


def test_a_trial_whose_process_is_killed_at_the_end_is_taken_by_the_one_that_waits(tmp_path: Path) -> None:
    first, second = _board(tmp_path, trials=1), _board(tmp_path, trials=1)
    killed = first.next()
    assert killed is not None and second.carry_out(_steady) is None and second.waited()
    _killed(killed)
    assert second.carry_out(_steady) and not second.waited() and [trial.state for trial in second.trials()] == ["COMPLETE"]


def test_a_trial_that_the_user_interrupts_is_taken_again(tmp_path: Path) -> None:
    def interrupted(values: Mapping[str, Any], report: Report) -> Figures:
        raise KeyboardInterrupt

    board = _board(tmp_path, trials=1)
    with pytest.raises(KeyboardInterrupt):
        board.carry_out(interrupted)
    assert board.carry_out(_steady) and len(board.trials()) == 1


@pytest.mark.slow
def test_a_killed_process_goes_on(tmp_path: Path) -> None:
    code = (
        "import regraft, torch, sys; from tests import torch_examples as examples; torch.manual_seed(0)\n"
        "net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))\n"
        f"space = {RATES}\n"
        "study = regraft.search(net, examples.pictures(40), space=space, trials=60, sampler='random', epochs=5, pruner=None, cache=None,"
        f" out={str(tmp_path)!r})\n"
        "print(len(study.trials), len({str(trial.values) for trial in study.trials}))"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    while not (tmp_path / "study.sqlite3").is_file():
        time.sleep(0.1)
    time.sleep(2.0)
    process.send_signal(signal.SIGKILL)
    process.wait()
    both = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.communicate()[0].split() for one in both] == [["60", "60"]] * 2


def test_a_grid_ends_when_every_combination_was_tried() -> None:
    board = _board(sampler="grid", trials=100)
    while board.carry_out(_steady):
        pass
    values = [trial.facts.values for trial in board.trials()]
    assert len(values) == 6 == len({json.dumps(one, sort_keys=True) for one in values})


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_trials_that_fall_behind_are_stopped(pruner: str) -> None:
    board = _board(pruner=pruner, trials=20, steps=9)
    steps = []

    def falling(values: Mapping[str, Any], report: Report) -> Figures:
        steps.append(0)
        for step in range(1, 10):
            steps[-1] = step
            report(1.0 / len(steps), step)
        return ((1.0 / len(steps),), ())

    while board.carry_out(falling):
        pass
    assert {trial.state for trial in board.trials()} == {"PRUNED", "COMPLETE"} and min(steps) < 9


def test_epochs_are_reported_fold_after_fold() -> None:
    reports: list[int] = []

    one = bench.METRICS["classification"][0]
    watch = bench._Watch(lambda figure, step: reports.append(step), metric=one, falling=False, step=6)
    for entry in ({"stage": "head", "validation_accuracy": 0.5}, {"stage": "compare-0", "validation_accuracy": 0.5}, {"stage": "head"}):
        watch.see_(entry)
    assert reports == [7]


def test_a_trial_that_fails_does_not_end_the_search_unless_all_do() -> None:
    space = {"frozen": [1, "nowhere"]}
    study = regraft.search(_net(), examples.pictures(40), space=space, trials=2, sampler="grid", strategy="partial", **QUICK)
    assert [trial.state for trial in study.trials] == ["complete", "failed"]
    assert "no block, layer or module of that name" in study.trials[1].error and "of that name" in " ".join(study.table().split())
    with pytest.raises(SettingError, match=r"None of 1 trial came to its end.*frozen='nowhere'"):
        regraft.search(_net(), examples.pictures(40), space={"frozen": ["nowhere"]}, trials=1, strategy="partial", **QUICK)


def _by_default(trials: int, **named: Any) -> Any:
    return regraft.search(_net(), examples.pictures(60), trials=trials, epochs=1, cache="memory", **named)


_MORE = [pytest.param(*how, marks=pytest.mark.slow) for how in (("random", "hyperband"), ("grid", None))]


@pytest.mark.parametrize(("sampler", "pruner"), [("tpe", "median"), *_MORE])
def test_a_search_of_the_default_space_begins_with_the_closed_form(sampler: str, pruner: str | None, tmp_path: Path) -> None:
    study = _by_default(6, sampler=sampler, pruner=pruner, out=tmp_path)
    assert [trial.values["strategy"] == "probe" for trial in study.trials] == [True, *[False] * 5]
    assert not [trial.error for trial in study.trials if trial.state == "failed"]
    assert study.trials[0].values == {"strategy": "probe"} and study.trials[0].figure is not None
    assert "probe" not in study.space["strategy"] and "strategy probe" in study.table()
    assert study.plot(tmp_path / "trials.png").stat().st_size > 2000
    again = _by_default(7, sampler=sampler, pruner=pruner, out=tmp_path)  # a second process, or a further call
    assert [trial.values for trial in again.trials[:6]] == [trial.values for trial in study.trials]
    assert sum(trial.values["strategy"] == "probe" for trial in again.trials) == 1


def test_the_closed_form_can_win_and_its_plan_can_be_given_back() -> None:
    study = _by_default(1)
    assert study.best.strategy == "probe" and study.result is not None and study.importances == {}
    assert regraft.adapt(study.network, examples.pictures(60), strategy=study.best).scores == study.scores


def test_a_space_of_ones_own_has_no_trial_from_elsewhere() -> None:
    space = {"strategy": ["head"], "learning_rate": [0.1]}
    study = regraft.search(_net(), examples.pictures(40), space=space, trials=1, **QUICK)
    assert study.trials[0].values["strategy"] == "head"


@pytest.mark.parametrize("direction", ["maximize", "minimize"])  # the first trial is the best of all, or the worst
def test_importances_are_those_of_the_trials_that_the_sampler_took(direction: str) -> None:
    board = _board(trials=16, sampler="tpe", direction=direction, first={"strategy": "probe"})
    while board.carry_out(lambda values, report: ((values.get("learning_rate", 0.5),), ())):
        pass
    found, intervals = searching._importances(board)
    assert set(found) == set(intervals) == set(RATES) and found["learning_rate"] > 0.5
    assert all(0 <= low <= found[name] <= high <= 1 for name, (low, high) in intervals.items())
    assert searching._importances(board) == (found, intervals)
    assert board.trials()[0].facts.values == {"strategy": "probe"} and len(board.trials()) == 16


def test_the_first_trial_of_a_killed_process_is_done_again_and_put_in_line_once(tmp_path: Path) -> None:
    first, second = _board(tmp_path, first={"strategy": "probe"}), _board(tmp_path, first={"strategy": "probe"})
    killed, going = first.next(), second.next()
    assert killed is not None and going is not None
    assert killed.values == {"strategy": "probe"} and set(going.values) == set(RATES)
    _killed(killed)
    again, then = second.next(), second.next()
    assert again is not None and again.values == killed.values and again.row == killed.row
    assert then is not None and set(then.values) == set(RATES) and then.row == 2


@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_the_plan_of_the_lower_loss_is_taken_of_equal_figures(direction: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = {0.1: (0.7,), 0.01: (0.2,), 0.001: (0.2,)}
    monkeypatch.setattr(bench.Bench, "run", lambda self, values, report: ((0.5,), losses[values["learning_rate"]]))
    metric = "accuracy" if direction == "maximize" else "ece"
    study = regraft.search(
        _net(), examples.pictures(40), space={"learning_rate": list(losses)}, sampler="grid", trials=3, metric=metric, **QUICK
    )
    assert study.best_trial.values == {"learning_rate": 0.01} and study.best_trial.number == 2 == study.ranked()[0].number
    assert study.to_dict()["trials"][1]["losses"] == (0.2,)


@pytest.mark.parametrize(("task", "loss"), [("classification", "log_loss"), ("regression", "rmse")])
def test_every_trial_tells_its_loss(task: str, loss: str) -> None:
    pictures, labels = examples.pictures(40)
    data = read((pictures, labels if task == "classification" else pictures.mean((1, 2, 3))))
    study = regraft.search(_net(), data, space={"strategy": ["probe"]}, trials=1, metric=loss, folds=2, **QUICK)
    assert study.trials[0].losses == study.trials[0].folds and len(study.trials[0].losses) == 2


def test_wrong_words_are_told_at_once() -> None:
    with pytest.raises(SettingError, match=r"sampler='tp'.*did you mean 'tpe'.*metric='acuracy'.*trials=0.*folds=1"):
        regraft.search(_net(), examples.pictures(40), sampler="tp", metric="acuracy", trials=0, folds=1)
    with pytest.raises(SettingError, match="unknown setting 'lerning_rate'; did you mean 'learning_rate'"):
        regraft.search(_net(), examples.pictures(40), lerning_rate=1)


@pytest.mark.parametrize("grouped", [False, True])
def test_folds_are_stratified_and_keep_groups_whole(grouped: bool) -> None:
    groups = np.array([f"group {index // 5}" for index in range(60)])
    data = read(examples.pictures(60), group=groups if grouped else None)
    rest, _ = data.split_indices(0.2, seed=0)
    folds = folds_of(data, rest, folds=4, holdout=0.2, seed=0)
    assert sorted(np.concatenate([tried for _, tried in folds]).tolist()) == rest.tolist()
    for learn, tried in folds:
        assert not set(learn) & set(tried) and len(np.unique(data.targets[tried])) == 3
        assert not grouped or not set(groups[learn]) & set(groups[tried])


def test_too_many_folds_are_refused() -> None:
    groups = np.array([f"group {index // 15}" for index in range(60)])
    grouped, plain = read(examples.pictures(60), group=groups), read(examples.pictures(12))
    with pytest.raises(DataError, match=r"folds=9: 4 groups are left"):
        folds_of(grouped, np.arange(60), folds=9, holdout=0.2, seed=0)
    with pytest.raises(DataError, match=r"folds=5: 4 examples are left of the class 'class 0'"):
        folds_of(plain, np.arange(12), folds=5, holdout=0.2, seed=0)


def test_what_a_search_cannot_do_is_refused_before_its_first_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Board, "carry_out", lambda *_given: pytest.fail("a trial was begun"))
    pictures, labels = examples.pictures(40)
    numbers = np.arange(40, dtype=np.float32) / 7
    with pytest.raises(SettingError, match=r"'head_layers' needs data with one task, a classification; received 'regression'\. Leave"):
        regraft.search(_net(), (pictures, numbers), space={"head_layers": [0, 1], "head_units": [4]}, trials=2, **QUICK)
    for name in ("loss", "optimizer"):
        function = {"loss": torch.nn.functional.cross_entropy, "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.1)}[name]
        with pytest.raises(SettingError, match=f"plain data, which {name}= a callable is not"):
            regraft.search(_net(), (pictures, labels), space={"batch_size": [8, 16]}, trials=2, **{name: function}, **QUICK)


def test_a_search_weighs_its_examples_and_names_the_layers_that_are_trained(tmp_path: Path) -> None:
    pictures, labels = examples.pictures(40)
    space = {"trainable": ["conv1", "all"], "monitor": ["loss"], "strategy": ["full"], "learning_rate": [0.01]}
    given: dict[str, Any] = {"space": space, "sampler": "grid", "trials": 2, "out": tmp_path / "study", "layer_decay": 1.0, **QUICK}
    weights = np.where(labels == labels[0], 3.0, 1.0)
    study = regraft.search(_net(), (pictures, labels), sample_weight=weights, **given)
    assert [(one.values["trainable"], one.error) for one in study.trials] == [("conv1", ""), ("all", "")]
    with pytest.raises(SettingError, match="a study of another network"):
        regraft.search(_net(), (pictures, labels), **given)
    assert all(one.values != {"strategy": "probe"} for one in _usual(pictures, labels, weights).trials)


def _usual(pictures: Any, labels: Any, weights: Any) -> Any:
    """A trial of the default space, whose first one is closed-form where examples have no weights."""
    return regraft.search(_net(), (pictures, labels), sample_weight=weights, trials=1, **QUICK)


def test_further_layers_below_the_head_are_trained_and_the_plan_can_be_given_back() -> None:
    space = {"head_layers": [2], "head_units": [5], "head_activation": ["relu"], "learning_rate": [0.01]}
    data = examples.pictures(60)
    study = regraft.search(_net(), data, space=space, trials=1, sampler="grid", **QUICK)
    assert study.trials[0].error == "" and (study.best.strategy, len(study.best.fresh or ())) == ("head", 2)
    assert study.network.head.features == 5 and study.network is not _net
    again = regraft.adapt(study.network, data, strategy=study.best)
    assert again.scores == study.scores
    kept = again.network.state()
    frozen = {name: tensor for name, tensor in study.network.state().items() if "conv1.weight" in name}
    assert all(torch.equal(tensor, kept[name]) for name, tensor in frozen.items()) and frozen


def _built(activation: str, units: int = 4) -> torch.nn.Module:
    kinds = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}
    return torch.nn.Sequential(torch.nn.Linear(3, units), kinds[activation](), torch.nn.Linear(units, 2))


def _built_by_keras(activation: str, units: int = 4) -> Any:
    import keras

    layers = [keras.layers.Input((3,)), keras.layers.Dense(units, activation=activation), keras.layers.Dense(2, activation="softmax")]
    return keras.Sequential(layers)


@pytest.mark.parametrize("build", [_built, _built_by_keras])
def test_a_search_over_a_build_function_builds_the_network_of_each_trial(build: Any) -> None:
    rows = np.random.default_rng(0).normal(size=(40, 3)).astype(np.float32)
    labels, space = np.where(rows[:, 0] > 0, "a", "b"), {"activation": ["relu", "tanh"], "units": [2, 3], "learning_rate": [0.01]}
    study = regraft.search(build, (rows, labels), space=space, strategy="scratch", sampler="grid", trials=9, **QUICK)
    assert {(one.values["activation"], one.values["units"]) for one in study.trials} == set(itertools.product(("relu", "tanh"), (2, 3)))
    assert all(one.state == "complete" for one in study.trials)
    assert study.network.head.features == study.best_trial.values["units"]
    again = regraft.search(build, (rows, labels), space=space, strategy="scratch", sampler="grid", trials=9, **QUICK)
    assert [one.figure for one in again.trials] == [one.figure for one in study.trials]


@pytest.mark.parametrize(
    ("build", "space", "said"),
    [
        (_built, {"units": [2]}, "no values for its argument 'activation'"),
        (_built, None, "no values for its argument 'activation'"),
        (lambda: _built("relu"), {"units": [2]}, "builds from no argument"),
        (_built, {"activation": ["relu"], "unit": [2]}, "'unit' cannot be searched; did you mean 'units'"),
    ],
)
def test_a_build_function_and_its_space_that_do_not_match(build: Any, space: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        regraft.search(build, (np.zeros((8, 3), np.float32), ["a", "b"] * 4), space=space, trials=2, **QUICK)
