"""Codes: what is learned by condition, and how `auto` comes to them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.methods import examples

import regraft
from regraft.data import Dataset
from regraft.errors import DataError
from regraft.planning import Plan
from regraft.training import Checkpoint

QUICK = {"holdout": 0.25, "validation": 0, "epochs": 3, "learning_rate": 1e-2, "cache": "memory", "statistics": False}
FAMILIES = ("torch MLP", "Keras Sequential")
families = pytest.mark.parametrize("kind", FAMILIES)


def rooms(kind: str, rooms: int, *, each: int = 6, seed: int = 0) -> Dataset:
    """Return items of three classes in several rooms; each room adds its own offset to every feature."""
    shape = examples.KINDS[kind][1]
    generator = np.random.default_rng(seed)
    targets, room = np.arange(rooms * each) % 3, np.arange(rooms * each) // each
    values = generator.normal(0, 0.3, (len(targets), int(np.prod(shape)))).astype(np.float32)
    values[np.arange(len(targets)), targets * 2] += 2.0
    values += generator.normal(0, 1.0, (rooms, values.shape[1]))[room].astype(np.float32)
    labels = [examples.CLASSES[target] for target in targets]
    return regraft.read((values.reshape(-1, *shape), labels), condition=[f"room {number}" for number in room])


@families
def test_the_mean_code_stands_for_what_is_not_known(kind: str) -> None:
    data = rooms(kind, 4)
    net = regraft.adapt(examples.opened(kind), data, strategy="codes", size=3, **QUICK).network
    assert list(net.codes) == [f"room {number}" for number in range(4)]
    assert net.coding is not None and net.coding.learned == net.coding.conditions
    table = net.body.code_table().detach().numpy()
    np.testing.assert_allclose(table[0], table[1:].mean(0), atol=1e-6)
    plain = data.items
    by_name = [net.predict(plain, condition=name).probabilities for name in ("mean", "room 1")]
    np.testing.assert_array_equal(net.predict(plain).probabilities, by_name[0])  # items without conditions
    assert not np.array_equal(*by_name)
    own = net.predict(data).probabilities
    np.testing.assert_allclose(own[6:12], by_name[1][6:12], atol=1e-6)  # items with their conditions


@families
def test_direct_codes_differ_by_condition_and_leave_the_rest(kind: str) -> None:
    net = regraft.adapt(examples.opened(kind), rooms(kind, 4), strategy="codes", training="direct", size=3, **QUICK).network
    codes = np.stack(list(net.codes.values()))
    assert np.abs(codes[:, None] - codes[None]).max() > 0.01


@families
def test_a_further_adaptation_keeps_the_codes_by_name(kind: str) -> None:
    first = regraft.adapt(examples.opened(kind), rooms(kind, 3), strategy="codes", size=3, **QUICK).network
    second = regraft.adapt(first, rooms(kind, 5, seed=1), strategy="codes", **QUICK | {"epochs": 0}).network
    assert list(second.codes) == [f"room {number}" for number in range(5)]
    for name, code in first.codes.items():
        np.testing.assert_array_equal(second.codes[name], code)
    np.testing.assert_allclose(second.codes["room 4"], first.body.code_table().detach().numpy()[0], atol=1e-6)
    with pytest.raises(regraft.RegraftError, match="size=5: the network has codes of 3"):
        regraft.adapt(first, rooms(kind, 3), strategy="codes", size=5, **QUICK)


def test_conditions_that_only_judge_take_the_mean_code() -> None:
    data = rooms("torch MLP", 4)
    test = rooms("torch MLP", 6, seed=2)
    result = regraft.adapt(examples.opened("torch MLP"), data, strategy="codes", test=test, **QUICK)
    assert 0 <= result.scores["test"]["accuracy"] <= 1
    with pytest.raises(DataError, match="room 4"):
        result.network.predict(test)


@pytest.mark.parametrize(
    ("conditions", "words"),
    [(None, "Read them with condition="), (["hall"] * 24, "two conditions or more.*'hall'")],
    ids=["none", "one"],
)
def test_too_few_conditions_are_an_error(conditions: list[str] | None, words: str) -> None:
    data = rooms("torch MLP", 4)
    labels = [data.classes[target] for target in data.targets]
    with pytest.raises(DataError, match=words):
        regraft.adapt(examples.opened("torch MLP"), regraft.read((data.items, labels), condition=conditions), strategy="codes", **QUICK)


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("strategy", ["codes", "scale_shift", "lora"])
@families
def test_going_on_after_a_kill_gives_the_same_weights(kind: str, strategy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, options = rooms(kind, 4), {"strategy": strategy, **QUICK, "stay_near": 0.5}
    net = examples.opened(kind)
    whole = regraft.adapt(net, data, **options)
    written, write = [], Checkpoint.write

    def dying(checkpoint: Checkpoint, content: dict[str, Any]) -> None:
        write(checkpoint, content)
        written.append(content.get("epoch"))
        if len(written) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        regraft.adapt(net, data, out=tmp_path / "out", **options)
    monkeypatch.setattr(Checkpoint, "write", write)
    resumed = regraft.adapt(net, data, out=tmp_path / "out", **options).network.state()
    assert all(torch.equal(values, resumed[name]) for name, values in whole.network.state().items())


@families
def test_auto_considers_codes_where_there_are_enough_conditions(kind: str) -> None:
    result = regraft.adapt(examples.opened(kind), rooms(kind, 12), **QUICK | {"epochs": 4, "validation": 0.15})
    assert "codes" in {one["strategy"] for one in result.plan.candidates}
    few = regraft.adapt(examples.opened(kind), rooms(kind, 3, each=24), **QUICK | {"epochs": 4, "validation": 0.15})
    tried = {one["strategy"] for one in few.plan.candidates}
    assert {"bias", "scale_shift"} <= tried and "codes" not in tried
    assert any("3 conditions" in reason for reason in few.plan.reasons)


@pytest.mark.parametrize("strategy", ["codes", "bias", "scale_shift"])
@families
def test_auto_carries_a_method_through_to_its_end(kind: str, strategy: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("regraft.planning.choosing.choice.Choice.is_settled", lambda _self: False)
    monkeypatch.setattr("regraft.planning.choosing.choice.Choice.is_hopeless", lambda *_given: False)
    monkeypatch.setattr("regraft.planning.choosing.choice.Choice.is_beaten_by", lambda *_given: True)
    plan = Plan.from_dict(
        {"strategy": "auto", "candidates": [{"strategy": strategy}], "settings": {"epochs": 3, "cache": "memory", "stay_near": 0.5}}
    )
    data = rooms(kind, 12)
    result = regraft.adapt(examples.opened(kind), data, strategy=plan, out=tmp_path / "out")
    assert result.plan.chosen["strategy"] == strategy and (result.network.coding is not None) == (strategy == "codes")
    allowed = 0 if "eras" in kind else 1e-5  # ONNX Runtime sums in another order
    scores = regraft.load(tmp_path / "out").logits(data)
    np.testing.assert_allclose(scores, result.network.logits(data), rtol=allowed, atol=allowed)


def test_the_range_test_of_a_method_is_not_misled_by_lucky_batches() -> None:
    """A network that is good already: its losses differ more by batch than by what a small step does."""
    data = rooms("torch MLP", 12, each=12)
    good = regraft.adapt(examples.opened("torch MLP"), data, strategy="full", **QUICK | {"epochs": 30, "batch_size": 8}).network
    options = {**QUICK, "learning_rate": None, "epochs": 1, "batch_size": 4, "schedule": "constant"}
    for seed in range(3):
        history = regraft.adapt(good, data, strategy="codes", seed=seed, **options).history
        assert history[-1]["stage"] == "codes" and 1e-4 <= history[-1]["learning_rate"] <= 1e-2


@pytest.mark.parametrize("training", ["joint", "entrance"])
@families
def test_codes_that_change_nothing_are_told(kind: str, training: str) -> None:
    data, options = rooms(kind, 4), {"strategy": "codes", "training": training, "size": 3, **QUICK}
    idle = regraft.adapt(examples.opened(kind), data, **options | {"epochs": 0})
    assert any(reason.startswith("The codes change nothing") for reason in idle.plan.reasons), idle.plan.reasons
    new = rooms(kind, 1, seed=3)
    labels = [new.classes[target] for target in new.targets]
    known = regraft.adapt_condition(idle.network, (new.items, labels), "new")
    assert any("no better code was found" in note for note in known.account.notes)
    learned = regraft.adapt(examples.opened(kind), data, **options)
    assert not any(reason.startswith("The codes change nothing") for reason in learned.plan.reasons)
