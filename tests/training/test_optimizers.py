"""Rates by depth and by step, by hand."""

from __future__ import annotations

import math

import pytest
import torch
from tests import torch_examples as examples
from torch import nn

from regraft.heads import branch
from regraft.networks.torch.family import open_torch
from regraft.training import Settings
from regraft.training.courses import Course, PlateauFactor, cosine_factor, most_epochs, patience_of, steady_factor
from regraft.training.optimizers import depth_factors, make_optimizer, set_rate_


def test_depth_factors_by_hand() -> None:
    assert depth_factors(4, 0.5) == [0.125, 0.25, 0.5, 1.0]
    assert depth_factors(3, None) == [1.0, 1.0, 1.0]
    assert depth_factors(1, None) == [1.0]
    assert depth_factors(3, 1.0) == [1.0, 1.0, 1.0]


def test_cosine_with_warm_up_by_hand() -> None:
    found = [cosine_factor(step, 10, warmup=0.2) for step in range(10)]
    assert found[:2] == pytest.approx([1 / 3, 2 / 3])
    assert found[2:] == pytest.approx([0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert [cosine_factor(step, 4, warmup=0.0) for step in range(4)] == pytest.approx([1.0, 0.853553, 0.5, 0.146447], abs=1e-6)
    assert cosine_factor(0, 1, warmup=0.9) == 1.0


def test_the_steady_course_by_hand() -> None:
    course = Course()
    assert [steady_factor(step, 4, warmup=0.05, course=course) for step in range(4)] == pytest.approx([1 / 3, 2 / 3, 1, 1])
    assert steady_factor(400, 4, warmup=0.05, course=course) == 1.0
    course.fall_(100, epochs=2)
    assert [steady_factor(400 + step, 4, warmup=0.05, course=course) for step in (0, 2, 4, 6)] == pytest.approx([1, 0.75, 0.5, 0.25])
    assert [course.is_over(epoch) for epoch in (100, 101, 102)] == [False, False, True]
    assert Course.steady(100) + Course.falling(Course.steady(100)) == 100


def test_length_and_patience_by_hand() -> None:
    usual, given = Settings(), Settings(epochs=7, patience=3)
    assert [most_epochs(usual, examples) for examples in (20, 3_200, 1_000_000)] == [200, 40, 20]
    assert most_epochs(usual, 20, judged=False) == 20
    assert [most_epochs(given, examples) for examples in (20, 3_200)] == [7, 7]
    assert [patience_of(usual, examples) for examples in (20, 320, 3_200)] == [50, 10, 10]
    assert patience_of(given, 20) == 3
    assert patience_of(Settings(patience=None), 20) is None


def test_plateau_by_hand() -> None:
    plateau = PlateauFactor()
    seen = []
    for loss in (1.0, 0.9, 0.95, 0.95, 0.95, 0.8, 0.8, 0.8, 0.8):
        plateau.see_(loss)
        seen.append(plateau.factor)
    assert seen == pytest.approx([1, 1, 1, 1, 0.1, 0.1, 0.1, 0.1, 0.01])


def _optimizer(**settings: object) -> torch.optim.Optimizer:
    network = open_torch(nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 4), nn.Linear(4, 3)), inputs=(6,))
    network.freeze_({"0"})
    return make_optimizer(network, Settings.of(settings))


def test_groups_by_depth_and_by_decay() -> None:
    optimizer = _optimizer(layer_decay=0.5, weight_decay=0.1)
    set_rate_(optimizer, 0.2)
    found = {
        (tuple(parameter.shape), group["lr"], group["weight_decay"]) for group in optimizer.param_groups for parameter in group["params"]
    }
    assert found == {
        ((5,), 0.05, 0.0),  # BatchNorm: not decayed
        ((4, 5), 0.1, 0.1),
        ((4,), 0.1, 0.0),
        ((3, 4), 0.2, 0.1),
        ((3,), 0.2, 0.0),
    }
    assert sum(len(group["params"]) for group in optimizer.param_groups) == 6  # the frozen layer has no group


@pytest.mark.parametrize(
    ("name", "kind"), [("adamw", "AdamW"), ("adam", "Adam"), ("sgd", "SGD"), ("rmsprop", "RMSprop"), ("nadam", "NAdam")]
)
def test_optimizers_by_name(name: str, kind: str) -> None:
    optimizer = _optimizer(optimizer=name, momentum=0.7)
    assert type(optimizer).__name__ == kind
    if name in {"sgd", "rmsprop"}:
        assert optimizer.defaults["momentum"] == 0.7
    if name == "sgd":
        assert optimizer.defaults["nesterov"]


def test_all_heads_have_the_rate_of_the_topmost_block() -> None:
    network = branch(open_torch(examples.Cnn(), inputs=(1, 8, 8)), "mood", ("bad", "good"))
    network.freeze_(frozenset(layer.name for layer in network.layers) - set(network.head_layers) - {"fc1"})
    optimizer = make_optimizer(network, Settings(layer_decay=0.1))
    factors = {id(parameter): group["factor"] for group in optimizer.param_groups for parameter in group["params"]}
    own = {
        name: factors[id(parameters[f"{name}.weight"])]
        for name, parameters in network.layer_parameters().items()
        if parameters and id(parameters[f"{name}.weight"]) in factors
    }
    assert own == {"fc1": pytest.approx(0.1), "fc2": 1.0, "branches.mood": 1.0}
