"""Networks whose outputs are all kept as tasks, also where these read different features."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.errors import NetworkError, SettingError
from regraft.networks.keras.library import keras
from regraft.networks.network import Network

L = keras.layers
FAMILIES = ("torch", "keras")
COUNT = 120
TASKS = {"main": "main_output", "aux": "aux_output"}
CLASSES = {"main": ["morning", "noon", "night"], "aux": ["sport", "stocks"]}
OWN = {"torch": {"embed", "d1", "d2"}, "keras": {"embed", "d1", "d2", "d3"}}


class News(nn.Module):
    """The second output reads the headline alone, below the layers that mix in the time of day."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.aux_output = nn.Embedding(20, 8), nn.Linear(8, 2)
        self.d1, self.d2, self.main_output = nn.Linear(11, 12), nn.Linear(12, 12), nn.Linear(12, 3)

    def forward(self, main_input: torch.Tensor, aux_input: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        words = self.embed(main_input).mean(1)
        return self.main_output(self.d2(self.d1(torch.cat([words, aux_input], 1)).relu()).relu()), self.aux_output(words)


def made(family: str) -> Any:
    torch.manual_seed(0)
    if family == "torch":
        return News()
    keras.utils.set_random_seed(0)
    main, aux = keras.Input((7,), dtype="int32", name="main_input"), keras.Input((3,), name="aux_input")
    words = L.GlobalAveragePooling1D()(L.Embedding(20, 8, name="embed")(main))
    hidden = L.Concatenate()([words, aux])
    for name in ("d1", "d2", "d3"):
        hidden = L.Dense(12, activation="relu", name=name)(hidden)
    first = L.Dense(3, activation="softmax", name="main_output")(hidden)
    return keras.Model([main, aux], [first, L.Dense(1, activation="sigmoid", name="aux_output")(words)])


def opened(family: str, **options: Any) -> Network:
    shapes = {"inputs": {"main_input": (7,), "aux_input": (3,)}} if family == "torch" else {}
    return regraft.load(made(family), **{"head": TASKS, "classes": CLASSES, **shapes, **options})


def data() -> Any:
    draw = np.random.default_rng(0)
    words, hours = draw.integers(0, 20, (COUNT, 7)), draw.normal(size=(COUNT, 3)).astype(np.float32)
    words[:, 1:] = words[:, :1]
    labels = {
        "main": np.array(CLASSES["main"])[np.digitize(hours[:, 0], [-0.4, 0.4])],
        "aux": np.array(CLASSES["aux"])[(words[:, 0] > 9) * 1],
    }
    return regraft.read({"main_input": words, "aux_input": hours}, target=labels)


def changed(before: Network, after: Network) -> set[str]:
    now = after.state()
    return {name.rpartition(".")[0] for name, values in before.state().items() if not torch.equal(values, now[name])}


@pytest.mark.parametrize("family", FAMILIES)
def test_both_outputs_are_those_of_the_framework(family: str) -> None:
    net, items = opened(family), data()
    assert list(net.heads) == ["main", "aux"] and [head.apart for head in net.heads.values()] == [False, True]
    found = net.predict(items)
    inputs = [torch.from_numpy(np.asarray(items.part(name).items)) for name in ("main_input", "aux_input")]
    with torch.no_grad():
        main, aux = made(family)(*inputs) if family == "torch" else made(family)(inputs)
    main, aux = (main.softmax(1), aux.softmax(1)) if family == "torch" else (main, torch.cat([1 - aux, aux], 1))
    np.testing.assert_allclose(found.tasks["main"].probabilities, main.detach(), atol=1e-5)
    np.testing.assert_allclose(found.tasks["aux"].probabilities, aux.detach(), atol=1e-5)
    assert found.tasks["aux"].classes == ("sport", "stocks")


@pytest.mark.parametrize("family", FAMILIES)
def test_an_output_that_is_dropped_is_said_before_the_figures(family: str) -> None:
    items = data()
    net, rows = opened(family, head="main_output", classes=CLASSES["main"]), {name: items.part(name).items for name in items.part_names}
    labels = np.array(items.classes)[items.targets]
    result = regraft.adapt(net, regraft.read(rows, target=labels), strategy="head", epochs=1, cache="memory")
    assert result.verdict.startswith("head='main_output' was chosen; outputs of the network that are not used: 'aux_output'. The adapted")


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        pytest.param(family, strategy, marks=pytest.mark.slow if family == "keras" and strategy in ("head", "partial") else ())
        for family in FAMILIES
        for strategy in ("head", "full", "auto", "partial")
    ],
)
def test_both_tasks_are_trained_with_their_weights(family: str, strategy: str, tmp_path: Path) -> None:
    net, items = opened(family), data()
    options = {"frozen": "embed"} if strategy == "partial" else {}
    result = regraft.adapt(
        net,
        items,
        strategy=strategy,
        epochs=15,
        learning_rate=0.02,
        task_weights={"main": 1.0, "aux": 0.2},
        cache="memory",
        out=tmp_path,
        **options,
    )
    expected = {"main_output", "aux_output"} | (
        set() if strategy == "head" else OWN[family] - ({"embed"} if strategy == "partial" else set())
    )
    assert changed(net, result.network) == expected
    assert set(result.scores["holdout"]["tasks"]) == {"main", "aux"}
    if strategy in ("full", "auto"):
        assert min(figures["accuracy"] for figures in result.scores["holdout"]["tasks"].values()) > 0.7
    if strategy == "head":
        assert result.cost["frozen_forward_examples"] == COUNT
    saved = regraft.load(tmp_path, **({"architecture": News} if family == "torch" else {}))
    assert [head.apart for head in saved.heads.values()] == [False, True] and saved.heads["aux"].classes == ("sport", "stocks")
    for task in TASKS:
        np.testing.assert_array_equal(saved.logits(items, task=task), result.network.logits(items, task=task))


@pytest.mark.parametrize("family", FAMILIES)
def test_one_step_is_as_long_as_the_weight_of_its_task(family: str) -> None:
    """The layers that the first output alone reads move by the gradient times its weight."""
    net, one_step = opened(family), {"epochs": 1, "batch_size": COUNT, "optimizer": "sgd", "momentum": 0.0, "schedule": "constant"}
    moved = {}
    for weight in (1.0, 0.2):
        weights = {"main": weight, "aux": 1.0}
        options = {**one_step, "warmup": 0, "weight_decay": 0.0, "clip_norm": None, "learning_rate": 0.05, "refit": False}
        after = regraft.adapt(net, data(), strategy="full", task_weights=weights, cache="memory", **options).network
        name = next(name for name in net.state() if name.startswith("d1."))
        moved[weight] = (after.state()[name] - net.state()[name]).abs().sum().item()
    assert moved[1.0] > 0 and moved[0.2] / moved[1.0] == pytest.approx(0.2, rel=1e-3)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_cache_changes_nothing(family: str) -> None:
    found = [
        regraft.adapt(opened(family), data(), strategy="head", epochs=3, learning_rate=0.01, cache=cache).network.logits(data(), task="aux")
        for cache in ("memory", None)
    ]
    np.testing.assert_allclose(*found, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_new_classes_of_the_second_task(family: str) -> None:
    items = data()
    other = regraft.read(items, target={"main": items.targets, "aux": np.array(["x", "y", "z"])[np.arange(COUNT) % 3]})
    result = regraft.adapt(opened(family), other, strategy="head", epochs=1, cache="memory")
    assert result.network.heads["aux"].classes == ("x", "y", "z") and result.network.heads["aux"].apart
    with pytest.raises(SettingError, match="which 'aux' does not read"):
        regraft.retarget(opened(family), ["x", "y", "z"], task="aux", start="probe", data=other.of_task("aux"))


@pytest.mark.parametrize("strategy", ["probe", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_nothing_is_solved_on_features_that_an_output_does_not_read(family: str, strategy: str) -> None:
    with pytest.raises(SettingError, match=r"logits of 'aux' are not linear\. Choose strategy='head'"):
        regraft.adapt(opened(family), data(), strategy=strategy, cache="memory")
    result = regraft.adapt(
        opened(family), data().of_task("main"), strategy=strategy, cache="memory", **({"epochs": 1} if strategy == "lora" else {})
    )
    assert result.scores["holdout"]["accuracy"] >= 0


@pytest.mark.parametrize("family", FAMILIES)
def test_outputs_that_read_the_same_are_solved(family: str) -> None:
    if family == "torch":

        class Same(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.body, self.shape, self.colour = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

            def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
                return self.shape(self.body(x).relu()), self.colour(self.body(x).relu())

        net = regraft.load(Same(), inputs=(4,), head=["shape", "colour"])
    else:
        entry = keras.Input((4,))
        hidden = L.Dense(8, activation="relu")(entry)
        net = regraft.load(
            keras.Model(entry, [L.Dense(3, name="shape")(hidden), L.Dense(2, name="colour")(hidden)]), head=["shape", "colour"]
        )
    assert list(net.heads) == ["shape", "colour"] and not any(head.apart for head in net.heads.values())
    items = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32)
    labels = {"shape": np.digitize(items[:, 0], [-0.4, 0.4]).astype(str), "colour": np.where(items[:, 1] > 0, "red", "green")}
    result = regraft.adapt(net, regraft.read((items, labels)), strategy="probe", cache="memory")
    assert min(figures["accuracy"] for figures in result.scores["holdout"]["tasks"].values()) > 0.5


@pytest.mark.parametrize("family", FAMILIES)
def test_without_a_choice_the_message_says_how_to_keep_both(family: str) -> None:
    with pytest.raises(NetworkError, match=r"or keep them as tasks: head=\['main_output', 'aux_output'\]"):
        opened(family, head=None, classes=None)
    with pytest.raises(NetworkError, match="'aux_output'"):
        opened(family, head={"main": "main_output", "aux": "aux_ouput"})
