"""A strategy never writes into the setup that it was given, whatever it tries on the way."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras
import numpy as np
import pytest
import torch

import regraft
from regraft.data import Dataset, PreparedData, read
from regraft.errors import SettingError
from regraft.networks.network import Network
from regraft.planning import make_plan
from regraft.planning.carry_out import checked_setup
from regraft.planning.choosing.choice import Choice
from regraft.planning.plan import STRATEGIES
from regraft.planning.preparing import prepared_for
from regraft.planning.search import bench
from regraft.planning.setup import Log, Setup, parts_of, usable_device
from regraft.planning.strategies import run_strategy

FAMILIES = ("torch", "keras")
FURTHER: dict[str, dict[str, Any]] = {"partial": {"frozen": 1}, "surgical": {"block": "last"}, "codes": {"size": 2}, "lora": {"rank": 2}}
"""Settings that a strategy cannot do without, or that make it small."""
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    *((strategy, FURTHER.get(strategy, {})) for strategy in STRATEGIES),
    ("full", {"base": "probe"}),
    ("full", {"distill": 0.5}),
    ("full", {"co_tuning": 1.0}),
    ("surgical", {"block": "auto"}),
    ("head", {"probe": "knn"}),
]
UNTOUCHED = ("auto", "probe")
"""Strategies that leave the weights of the setup's network alone too."""


def _net(family: str) -> Network:
    if family == "torch":
        torch.manual_seed(0)
        layers = (torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
        return regraft.load(torch.nn.Sequential(*layers), classes=["a", "b", "c"], inputs=(6,))
    keras.utils.set_random_seed(0)
    dense = keras.layers.Dense
    model = keras.Sequential([keras.Input((6,)), dense(8, activation="relu"), dense(8, activation="relu"), dense(3, activation="softmax")])
    return regraft.load(model, classes=["a", "b", "c"])


def _data(seed: int) -> Dataset:
    draw, classes = np.random.default_rng(seed), np.array(["a", "b", "d"])
    kinds = np.arange(48) % 3
    rows = (np.eye(3, 6)[kinds] + draw.normal(0, 1, (48, 6))).astype(np.float32)
    return read((rows, classes[kinds]), condition=np.array([f"speaker {index % 12}" for index in range(48)]))


def _setup(family: str, strategy: str, options: dict[str, Any]) -> Setup:
    net, data = _net(family), _data(0)
    given = {} if strategy == "probe" or "probe" in options else {"epochs": 1, "learning_rate": 1e-2}
    plan = make_plan(strategy, {"classes": data.classes, "cache": "memory", **given, **options})
    items = prepared_for(net, data, plan=plan)
    return checked_setup(net, items, plan=plan, parts=parts_of(data, plan), test=PreparedData(_data(1), items.preprocessing))[0]


def _content(value: Any) -> Any:
    """Return a copy of all that can be changed in a value, as plain data; networks and examples as themselves."""
    if isinstance(value, np.ndarray | torch.Tensor):
        return np.asarray(value).tolist()
    if isinstance(value, dict):
        return {name: _content(held) for name, held in value.items()}
    if isinstance(value, PreparedData):
        return id(value), value.preprocessing.to_dict(), len(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, Network | type):
        return {field.name: _content(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_content(one) for one in value]
    return value if isinstance(value, str | int | float | None) else id(value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("strategy", "options"), VARIANTS, ids=str)
def test_a_strategy_leaves_its_setup_as_it_was(
    family: str, strategy: str, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Choice, "is_settled", lambda _self: False)  # so that "auto" tries all that it can
    monkeypatch.setattr(Choice, "is_hopeless", lambda *_given: False)
    monkeypatch.setattr(Choice, "is_beaten_by", lambda *_given: True)
    setup = _setup(family, strategy, options)
    before, weights = _content(setup), {name: tensor.detach().clone() for name, tensor in setup.network.state().items()}
    log = Log()
    outcome = run_strategy(setup, log)
    assert _content(setup) == before
    assert outcome.network is not setup.network or strategy not in UNTOUCHED
    if strategy in UNTOUCHED:
        assert all(torch.equal(tensor, weights[name]) for name, tensor in setup.network.state().items())
    if strategy not in (*UNTOUCHED, "head"):  # what was held out stays known: temperatures are fitted to it
        assert outcome.measured is not None and outcome.held_out is not None
    assert set(outcome.source.probes) <= {"main", *setup.tasks} and all(isinstance(note, str) for note in log.notes)


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(Setup)])
def test_nobody_assigns_to_a_setup(name: str) -> None:
    setup = _setup("torch", "head", {})
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(setup, name, None)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_that_does_not_go_together_is_said_at_once(family: str) -> None:
    data = read((np.zeros((24, 6), np.float32), np.array(["a", "b", "c"])[np.arange(24) % 3]))
    with pytest.raises(SettingError) as raised:
        regraft.adapt(_net(family), data, strategy="codes", co_tuning=1.0, task_weights={"mood": 2.0}, trainable="all")
    for words in ("no task 'mood'", "co_tuning=1.0 is for classes other than the old ones", "24 examples without conditions"):
        assert str(raised.value).count(words) == 1
    with pytest.raises(SettingError) as raised:
        regraft.adapt(_net(family), data, strategy="partial", frozen="nowhere", task_weights={"mood": 2.0})
    assert str(raised.value).count("'nowhere'") == 1 and "no task 'mood'" in str(raised.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_trial_of_a_search_learns_from_the_old_head_too(family: str) -> None:
    setup = _setup(family, "full", {"validation": 0})
    taught = make_plan("full", {"validation": 0, "epochs": 1, "learning_rate": 1e-2, "cache": "memory", "distill": 0.9})
    plain, other = (
        bench.carried_out(_net(family), setup.items, plan=dataclasses.replace(plan, classes=setup.plan.classes), parts=setup.parts)
        for plan in (setup.plan, taught)
    )
    pairs = zip(plain.network.state().values(), other.network.state().values(), strict=True)
    assert not all(torch.equal(first, second) for first, second in pairs)


def test_a_device_that_the_machine_lacks_is_named() -> None:
    with pytest.raises(SettingError, match=r"device='nonsense' cannot be used here: .* Leave it out, or give 'cpu'"):
        usable_device("nonsense")
