"""A plan carried out: what stays frozen, whose object stays untouched, what judges, and going on after a kill."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests import torch_examples as examples
from tests.reliability import cases

import regraft
from regraft.data import Dataset, read
from regraft.errors import DataError, InputError, SettingError
from regraft.files import room as room_module
from regraft.planning import Plan
from regraft.planning.choosing import solving
from regraft.planning.setup import parts_of
from regraft.training import Checkpoint, loop

pytestmark = pytest.mark.usefixtures("without_onnx_form")

QUICK = {"epochs": 2, "learning_rate": 0.01, "cache": "memory", "batch_size": 16}


def _net(**changes: Any) -> Any:
    torch.manual_seed(0)
    return regraft.load(examples.Cnn(**changes), inputs=(1, 8, 8))


def _keras_net() -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    layers = [keras.layers.Conv2D(8, 3, activation="relu"), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(5)]
    return regraft.load(keras.Sequential([keras.Input((8, 8, 1)), *layers]))


def _facts(module: torch.nn.Module) -> list[Any]:
    hooks = [
        (len(part._forward_hooks), len(part._forward_pre_hooks), "forward" in part.__dict__, part.training) for part in module.modules()
    ]
    return [hooks, [parameter.requires_grad for parameter in module.parameters()]]


@pytest.mark.parametrize("as_network", [False, True], ids=["module", "Network"])
@pytest.mark.parametrize("strategy", ["head", "partial", "full", "scratch"])
def test_the_object_given_is_never_modified(strategy: str, as_network: bool) -> None:
    torch.manual_seed(0)
    module = examples.Cnn(5).train()
    module.conv1.weight.requires_grad_(False)
    module.norm1.eval()
    given = regraft.load(module, inputs=(1, 8, 8)) if as_network else module
    watched = given.module if as_network else module
    before, facts = {name: tensor.clone() for name, tensor in watched.state_dict().items()}, _facts(watched)
    options = {"frozen": "norm1"} if strategy == "partial" else {}
    net = given if as_network else regraft.load(module, inputs=(1, 8, 8))
    result = regraft.adapt(net, examples.pictures(40), strategy=strategy, **QUICK, **options)
    result.network.predict(examples.pictures(4)[0])
    assert examples.bit_equal(before, dict(watched.state_dict()))
    assert _facts(watched) == facts
    assert examples.bit_equal(before, dict(module.state_dict()))


def test_a_failure_half_way_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    module = examples.Cnn().train()
    net = regraft.load(module, inputs=(1, 8, 8))
    kept = [({name: tensor.clone() for name, tensor in one.state_dict().items()}, _facts(one)) for one in (module, net.module)]
    steps = iter(range(3))
    inner = loop._fit_step

    def failing(*args: Any, **named: Any) -> float:
        if next(steps) == 2:
            raise MemoryError("half-way")
        return inner(*args, **named)

    monkeypatch.setattr(loop, "_fit_step", failing)
    with pytest.raises(MemoryError, match="half-way"):
        regraft.adapt(net, examples.pictures(40), strategy="partial", frozen="conv2", **QUICK)
    for one, (state, facts) in zip((module, net.module), kept, strict=True):
        assert examples.bit_equal(state, dict(one.state_dict()))
        assert _facts(one) == facts


@pytest.mark.parametrize("cache", ["memory", None], ids=["cached", "uncached"])
@pytest.mark.parametrize(("strategy", "frozen"), [("head", None), ("partial", "norm2"), ("partial", "conv1")])
def test_frozen_means_frozen(strategy: str, frozen: str | None, cache: str | None) -> None:
    net = _net()
    options = {"frozen": frozen} if frozen else {}
    options["validation"] = 0  # nothing chooses the epoch, so that the start is not taken for the best of it
    result = regraft.adapt(net, examples.pictures(40), strategy=strategy, **(QUICK | {"cache": cache}), **options)
    order = ["conv1", "norm1", "conv2", "norm2", "fc1", "fc2"]
    still = set(order[:5] if frozen is None else order[: order.index(frozen) + 1])
    before, after = net.state(), result.network.state()
    for layer in order:
        names = [name for name in before if name.split(".")[0] == layer]
        same = all(before[name].shape == after[name].shape and torch.equal(before[name], after[name]) for name in names)
        assert same == (layer in still), layer
    assert result.plan.strategy == strategy
    passes = result.cost["frozen_forward_examples"]
    assert passes == 40 if cache else passes > 40  # computed again every epoch where there is no cache, and counted


def test_cached_and_uncached_give_the_same_network() -> None:
    net = _net()
    both = [
        regraft.adapt(net, examples.pictures(40), strategy="partial", frozen="norm2", **(QUICK | {"cache": cache}))
        for cache in ("memory", None)
    ]
    for name, tensor in both[0].network.state().items():
        torch.testing.assert_close(tensor, both[1].network.state()[name], rtol=1e-3, atol=1e-4)


def test_the_same_plan_gives_the_same_weights() -> None:
    first = regraft.adapt(_net(), examples.pictures(40), strategy="full", **QUICK)
    plan = Plan.from_json(first.plan.to_json())
    second = regraft.adapt(_net(), examples.pictures(40), strategy=plan)
    assert examples.bit_equal(first.network.state(), second.network.state())


def test_auto_compares_candidates_and_learns() -> None:
    result = regraft.adapt(_net(), examples.pictures(90), **(QUICK | {"epochs": 6}))
    assert result.scores["holdout"]["accuracy"] > 0.5
    assert {"probe", "head", "partial", "full"} <= {one["strategy"] for one in result.plan.candidates}
    assert [one["why"] for one in result.plan.candidates if one["why"].startswith("chosen")]
    assert {"majority", "class_mean"} <= result.baselines.keys()


def test_multi_label_and_regression(tmp_path: Path) -> None:
    X, _ = examples.pictures(40)
    labels = (np.arange(40)[:, None] % np.array([2, 3]) == 0).astype(np.float32)
    many = regraft.adapt(_net(), Dataset(X, labels, ("x", "y"), "array", "multi-label"), strategy="head", **QUICK)
    assert many.network.head.kind == "multi-label"
    assert many.network.predict(X[:3]).probabilities.shape == (3, 2)
    numbers = Dataset(X, X.mean((1, 2, 3)).astype(np.float32), (), "array", "regression")
    one = regraft.adapt(_net(), numbers, strategy="full", out=tmp_path / "out", **QUICK)
    assert one.scores["holdout"]["mae"] >= 0
    assert (tmp_path / "out" / "regraft.json").is_file()
    assert one.network.logits(X[:3]).shape == (3, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 60), st.integers(2, 4), st.integers(0, 5), st.booleans())
def test_the_parts_are_disjoint_and_complete(count: int, classes: int, seed: int, grouped: bool) -> None:
    generator = np.random.default_rng(seed)
    targets = np.concatenate([np.repeat(np.arange(classes), 2), generator.integers(0, classes, max(0, count - 2 * classes))])
    groups = np.array([f"g{index // 2}" for index in range(len(targets))]) if grouped else None
    data = Dataset(np.zeros((len(targets), 2), np.float32), targets, tuple("abcd"[:classes]), "array", groups=groups)
    try:
        parts = parts_of(data, Plan("head", seed=seed))
    except DataError:
        assert grouped  # a class within one group cannot be on both sides
        return
    assert sorted([*parts.training, *parts.validation, *parts.holdout]) == list(range(len(targets)))
    assert len(parts.training)
    assert len(parts.holdout)
    assert set(targets[parts.training]) == set(targets)
    if groups is not None:
        sides = [set(groups[part]) for part in (parts.training, parts.validation, parts.holdout)]
        assert not (sides[0] & sides[1] or sides[0] & sides[2] or sides[1] & sides[2])


def test_what_chose_never_judges(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is looked at, for closed forms, weights, rate, epoch and strategy, is disjoint from the judging items."""
    seen: set[int] = set()
    inner, solved = loop._trained, solving._solved_by

    def watching(training: Any, team: Any) -> Any:
        seen.update(map(int, training.fit))
        seen.update(map(int, training.validation))
        return inner(training, team)

    def watching_probes(*given: Any, rows: np.ndarray, **named: Any) -> Any:
        seen.update(map(int, rows))
        return solved(*given, rows=rows, **named)

    monkeypatch.setattr(loop, "_trained", watching)
    monkeypatch.setattr(solving, "_solved_by", watching_probes)
    pictures, labels = examples.pictures(60)
    noise = np.random.default_rng(0).normal(0, 2, pictures.shape).astype(np.float32)
    data = read((pictures + noise, labels))  # no closed form is good enough to end the comparison at once
    regraft.adapt(_net(), data, strategy="auto", **QUICK)
    parts = parts_of(data, Plan("auto"))
    assert seen == {*parts.training, *parts.validation}
    assert not seen & set(parts.holdout)


@pytest.mark.parametrize(
    ("data", "options", "error", "message"),
    [
        (examples.pictures(40), {"strategy": "partial", "frozen": "nope"}, SettingError, "no block"),
        (examples.pictures(40), {"strategy": "head", "epoch": 3}, SettingError, "'epochs'"),
        ((np.zeros((4, 1, 8, 8)), ["a"] * 4), {}, DataError, "one class"),
        ((np.zeros((4, 3, 8, 8)), list("abab")), {}, DataError, "shape"),
        ((np.full((4, 1, 8, 8), np.nan), list("abab")), {}, DataError, "NaN"),
    ],
)
def test_what_does_not_fit_is_said_before_anything_starts(
    tmp_path: Path, data: Any, options: dict[str, Any], error: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop, "_fit_step", lambda *_args, **_named: pytest.fail("training began"))
    with pytest.raises(error, match=message):
        regraft.adapt(_net(), data, **options)


def test_an_unwritable_folder_is_said_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(loop, "_fit_step", lambda *_args, **_named: pytest.fail("training began"))
    with pytest.raises(SettingError, match="cannot be written"):
        regraft.adapt(_net(), examples.pictures(40), strategy="head", out=tmp_path / "file" / "out", **QUICK)


KILLED = """
import os, sys
import torch, regraft
from regraft.training import Checkpoint
from tests import torch_examples as examples
inner, seen = Checkpoint.write, []
def dying(self, content):
    inner(self, content)
    seen.append(self.path.stem)
    if seen.count(sys.argv[3]) == (2 if "refit" in sys.argv[3] else 1):
        os._exit(9)
Checkpoint.write = dying
torch.manual_seed(0)
net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
given = {"strategy": "partial", "frozen": "norm1", "epochs": 32, "patience": 3, "batch_size": 16}
regraft.adapt(net, examples.pictures(180), **given, cache=sys.argv[2], out=sys.argv[1])
"""


@pytest.mark.parametrize("at", [*(pytest.param(at, marks=pytest.mark.slow) for at in ("partial-choice", "partial")), "partial-refit"])
def test_after_a_kill_the_run_goes_on_to_the_same_network(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.networks.torch.exporting._exported_onnx", lambda _network: (b"not compared", {}))
    given = {"strategy": "partial", "frozen": "norm1", "epochs": 32, "patience": 3, "batch_size": 16}
    net, data = _net(), examples.pictures(180)
    whole = regraft.adapt(net, data, **given, cache=str(tmp_path / "other"), out=tmp_path / "whole")
    root, out, cache = Path(__file__).resolve().parents[2], tmp_path / "out", str(tmp_path / "cache")
    killed = subprocess.run([sys.executable, "-c", KILLED, str(out), cache, at], cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == 9, killed.stderr
    assert not (out / "regraft.json").exists()  # nothing half-written stands there as if whole
    with pytest.raises(SettingError, match="another plan"):
        regraft.adapt(net, data, **(given | {"epochs": 33}), cache=cache, out=out)
    resumed = regraft.adapt(net, data, **given, cache=cache, out=out)
    # the whole run's plan differs only in the name of its cache folder, which decides nothing
    assert examples.bit_equal(whole.network.state(), resumed.network.state())
    assert resumed.cost["frozen_forward_examples"] == 0  # another process had filled the cache
    frozen = [name for name in net.state() if name.split(".")[0] in {"conv1", "norm1"}]
    assert all(torch.equal(net.state()[name], resumed.network.state()[name]) for name in frozen)
    lines = [json.loads(line) for line in (out / "history.jsonl").read_text().splitlines()]
    told = [{key: value for key, value in line.items() if key != "seconds"} for line in lines]
    assert told == [{key: value for key, value in entry.items() if key != "seconds"} for entry in whole.history]
    assert {line.get("phase") for line in lines} >= {"search", "train", "refit"}
    assert not (out / "run").exists()
    again = regraft.adapt(net, data, **given, cache=cache, out=out)
    assert again.scores == resumed.scores
    assert np.allclose(again.network.logits(data[0]), resumed.network.logits(data[0]), atol=1e-5)


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("change", [{"cache": "folder", "device": "cpu"}, {"cache": None}], ids=str)
def test_a_run_goes_on_where_only_what_decides_nothing_differs(
    family: str, change: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {"strategy": "partial", "frozen": 1, "epochs": 3, "batch_size": 16, "cache": "memory"}
    net, data, write = cases.network(family), cases.data(family), Checkpoint.write
    whole = regraft.adapt(net, data, **given)
    written: list[Any] = []

    def stopping(checkpoint: Checkpoint, *args: Any, **named: Any) -> Any:
        write(checkpoint, *args, **named)
        written.append(checkpoint)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", stopping)
    with pytest.raises(KeyboardInterrupt):
        regraft.adapt(net, data, **given, out=tmp_path / "out")
    changed = given | change | ({"cache": str(tmp_path / "cache")} if change.get("cache") else {})
    resumed = regraft.adapt(net, data, **changed, out=tmp_path / "out")
    assert 0 < len(written) - 3 < len(whole.history)  # what had been trained is not trained again
    if "cache" not in change or change["cache"]:  # without a cache, batches of other sizes go through the frozen part: other roundings
        assert len(resumed.history) == len(whole.history)
        assert examples.bit_equal(whole.network.state(), resumed.network.state())


def test_the_saved_folder_predicts_the_same(tmp_path: Path) -> None:
    module = examples.Cnn()
    result = regraft.adapt(regraft.load(module, inputs=(1, 8, 8)), examples.pictures(40), strategy="full", out=tmp_path / "out", **QUICK)
    X = examples.pictures(9, seed=5)[0]
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"regraft.json", "plan.json", "history.jsonl", "scores.json", "network.safetensors"} <= names
    again = regraft.load(tmp_path / "out", architecture=examples.Cnn)
    assert np.array_equal(again.logits(X), result.network.logits(X))
    assert again.classes == ("class 0", "class 1", "class 2")
    assert Plan.from_json((tmp_path / "out" / "plan.json").read_text()).strategy == "full"


@pytest.fixture()
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings whose number of epochs is not given, such as the one from scratch, be short."""
    monkeypatch.setattr("regraft.training.courses.MOST", 4)


@pytest.mark.usefixtures("short")
def test_baselines_are_judged_on_the_items_that_judge_the_network() -> None:
    pictures, labels = examples.pictures(90)
    test = (pictures[60:], labels[60:])
    learned, settings = (pictures[:60], labels[:60]), {"strategy": "partial", "frozen": "norm1", "holdout": 0.2, **QUICK}
    result = regraft.adapt(_net(), learned, test=test, baselines=True, **settings)
    assert result.scores["test"]["examples"] == 30 and result.scores["holdout"]["examples"] == 12
    assert set(result.baselines) == {"majority", "class_mean", "probe", "scratch"}
    assert any(
        re.match(r"The baseline from scratch: Settings of 'scratch' \(.*\): learning rate ", reason) for reason in result.plan.reasons
    )
    assert {figures["examples"] for figures in result.baselines.values()} == {30}
    assert all(figures["difference"]["examples"] == 30 for figures in result.baselines.values() if "examples" in figures["difference"])


def test_large_features_go_to_a_file_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = regraft.adapt(_net(), examples.pictures(60), strategy="partial", frozen="norm1", **QUICK)
    monkeypatch.setattr(room_module, "IN_MEMORY", 0)
    filed = regraft.adapt(_net(), examples.pictures(60), strategy="partial", frozen="norm1", **QUICK)
    assert examples.bit_equal(plain.network.state(), filed.network.state())
    assert plain.baselines == filed.baselines


@pytest.mark.parametrize("block", [1, 7, 64])
def test_a_probe_that_reads_the_cache_in_blocks_is_the_one_of_a_single_block(
    block: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    draw = np.random.default_rng(0)
    rows = draw.normal(size=(90, 5)).astype(np.float32)
    data = regraft.read((rows, np.array(["a", "b", "c"])[np.abs(rows[:, :3]).argmax(1)]))
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(5, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    whole = regraft.adapt(module, data, strategy="probe", cache="memory")
    for place in ("files.room.IN_MEMORY", "probes.ridge._LARGE"):
        monkeypatch.setattr(f"regraft.{place}", 0)
    for place in ("files.room.ROWS_AT_ONCE", "planning.finishing.AT_ONCE", "probes.ridge._BLOCK", "training.feeds.RELEASED"):
        monkeypatch.setattr(f"regraft.{place}", block)
    parts = regraft.adapt(module, data, strategy="probe", cache=tmp_path)
    assert np.allclose(parts.network.logits(rows), whole.network.logits(rows), rtol=1e-3, atol=1e-3)
    assert whole.network.statistics is not None and parts.network.statistics is not None
    for name, values in whole.network.statistics.items():
        assert np.allclose(parts.network.statistics[name], values, rtol=1e-4, atol=1e-4), name
    assert parts.scores["holdout"]["accuracy"] == whole.scores["holdout"]["accuracy"]


def test_a_budget_of_one_strategy_and_a_plan_with_more_beside_it_are_refused() -> None:
    with pytest.raises(SettingError, match="budget='10m' goes with strategy='auto'"):
        regraft.adapt(_net(), examples.pictures(40), strategy="full", budget="10m")
    with pytest.raises(SettingError, match="budget='soon': expected a time"):
        regraft.adapt(_net(), examples.pictures(40), budget="soon")
    with pytest.raises(SettingError, match="epochs besides"):
        regraft.adapt(_net(), examples.pictures(40), strategy=Plan("head"), epochs=3)


@pytest.mark.parametrize("kind", ["regression", "multi-label"])
def test_auto_chooses_by_the_loss_where_there_is_no_accuracy(kind: str) -> None:
    draw = np.random.default_rng(0)
    items = draw.normal(size=(120, 6)).astype(np.float32)
    targets = items @ draw.normal(size=6).astype(np.float32) if kind == "regression" else (items[:, :3] > 0).astype(np.float32)
    module = torch.nn.Sequential(*[torch.nn.Linear(6, 6), torch.nn.ReLU()] * 2, torch.nn.Linear(6, 2))
    result = regraft.adapt(module, (items, targets), epochs=3, cache="memory")
    assert {one["figure"] for one in result.plan.candidates} == {"loss"}
    assert result.plan.chosen["strategy"] in {"probe", "head", "partial", "full", "scratch"}
    assert result.network.head.kind == kind


def test_a_cache_that_would_fill_the_disk_is_not_taken_by_auto(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _folder: type("Usage", (), {"free": 0})())
    result = regraft.adapt(_net(), examples.pictures(60), strategy="auto", **(QUICK | {"cache": "auto"}))
    assert any("quarter of the free disk" in reason for reason in result.plan.reasons)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("strategy", ["auto", "head", "probe"])
@pytest.mark.parametrize("family", ["keras", "torch"])
def test_one_item_of_each_class_will_do_where_others_judge(family: str, strategy: str) -> None:
    net, (items, names) = _net() if family == "torch" else _keras_net(), examples.pictures(60)
    items = items if family == "torch" else items.transpose(0, 2, 3, 1)
    lone = np.array([int(np.flatnonzero(names == name)[0]) for name in np.unique(names)])
    result = regraft.adapt(net, (items[lone], names[lone]), test=(items, names), strategy=strategy, **QUICK)
    assert list(result.scores) == ["test"] and result.scores["test"]["examples"] == 60
    assert set(result.baselines) >= {"majority", "class_mean"}
    with pytest.raises(DataError, match=r"one example cannot be split: 'class 0', .*Add examples, remove the class, or give .* test=\."):
        regraft.adapt(net, (items[lone], names[lone]), strategy=strategy, **QUICK)
    more = np.concatenate([lone, np.flatnonzero(names == names[0])[1:9]])  # this class has items to spare
    result = regraft.adapt(net, (items[more], names[more]), test=(items, names), holdout=0.2, strategy=strategy, **QUICK)
    assert list(result.scores) == ["holdout", "test"]


@pytest.mark.parametrize(("asked", "held"), [({}, 0), ({"holdout": 0.2}, 12), ({"holdout": 0.0}, 0)])
def test_with_a_test_set_nothing_else_is_held_out_unless_asked(asked: dict[str, float], held: int) -> None:
    data = examples.pictures(60)
    result = regraft.adapt(_net(), data, test=data, strategy="head", **asked, **QUICK)
    assert result.facts["data"]["split"]["holdout"] == held == result.scores.get("holdout", {}).get("examples", 0)
    assert f"holdout={result.plan.holdout}" in result.plan.to_call() and ("test=test" in result.plan.to_call()) == (held == 0)
    kept = regraft.adapt(_net(), data, test=data, strategy=Plan("probe"))
    assert kept.scores["holdout"]["examples"] == 12  # a plan is carried out as it is


def test_groups_that_cannot_be_split_are_no_error_where_others_judge() -> None:
    items, names = examples.pictures(60)
    data = read((items, names), group=names)
    result = regraft.adapt(_net(), data, test=(items, names), holdout=0.2, strategy="head", **QUICK)
    assert result.facts["data"]["split"] == {"training": 60, "validation": 0, "holdout": 0}
    with pytest.raises(DataError, match=r"3 groups cannot be split"):
        regraft.adapt(_net(), data, strategy="head", **QUICK)


def test_what_cannot_be_used_is_left_out_also_of_arrays() -> None:
    items, names = examples.pictures(40)
    items = items.copy()
    items[3] = np.nan
    with pytest.raises(DataError, match=r"example 3 .*skip_bad=True"):
        regraft.adapt(_net(), (items, names), strategy="head", **QUICK)
    assert sum(regraft.adapt(_net(), (items, names), strategy="head", skip_bad=True, **QUICK).facts["data"]["split"].values()) == 39
    assert regraft.profile(_net(), (items, names), skip_bad=True, cache="memory").examples == 39


@pytest.mark.parametrize("strategy", ["auto", pytest.param("probe", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("short")
def test_checkpoints_of_another_unfinished_run_stay(strategy: str, tmp_path: Path) -> None:
    left, quick = tmp_path / "run" / "partial.pt", {"epochs": 1, "cache": "memory", "baselines": True}
    Checkpoint(left, "another").write({"epoch": 1})
    before = left.read_bytes()
    torch.manual_seed(0)
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    regraft.adapt(net, examples.pictures(60), strategy=strategy, out=tmp_path, **quick)
    assert left.read_bytes() == before and [path.name for path in left.parent.iterdir()] == ["partial.pt"]
    assert (tmp_path / "regraft.json").is_file()


@pytest.mark.parametrize(
    ("asked", "said"),
    [({"budget": "0.0001s"}, "budget="), ({"strategy": "partial", "frozen": "nowhere"}, "nowhere"), ({"classes": ("x", "y")}, "class 0")],
)
def test_a_refusal_leaves_no_folder_behind_and_deletes_none(asked: dict[str, Any], said: str, tmp_path: Path) -> None:
    net, there = regraft.load(examples.Cnn(), inputs=(1, 8, 8)), tmp_path / "there"
    there.mkdir()
    for out in (tmp_path / "new" / "deep", there):
        with pytest.raises(InputError, match=said):
            regraft.adapt(net, examples.pictures(60), out=out, **{"cache": "memory", **asked})
    assert not (tmp_path / "new").exists() and there.is_dir() and not list(there.iterdir())
