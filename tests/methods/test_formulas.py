"""The formulas of the methods, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tests.methods import examples
from torch import Tensor

from regraft.errors import SettingError
from regraft.freezing import added_parameters, frozen_but, head_parameters
from regraft.methods import METHODS
from regraft.methods.bias import biases_among
from regraft.methods.co_tuning import class_relation, related_chances
from regraft.methods.codes import mean_code, shared_rows
from regraft.methods.contract import Option
from regraft.methods.distill import SoftTargets, old_chances, soft_cross_entropy
from regraft.methods.gradients import relative_norms
from regraft.methods.lora import low_rank_layers
from regraft.methods.stay_near import anchors_of, pull_back_
from regraft.networks.keras.family import open_keras
from regraft.networks.keras.library import keras
from regraft.networks.network import Coding, Network
from regraft.networks.parts.scaling import film, lhuc
from regraft.networks.torch.family import open_torch
from regraft.planning import Plan, make_plan
from regraft.planning.strategies import names_in, take_over_


def test_scales_and_shifts() -> None:
    values = torch.tensor([[1.0, -2.0]])
    assert film(values, lhuc(torch.zeros(2))).tolist() == [[1.0, -2.0]]
    torch.testing.assert_close(film(values, lhuc(torch.tensor([math.log(3.0), 0.0]))), torch.tensor([[1.5, -2.0]]))  # 2 · 3/4
    assert film(values, torch.tensor([2.0, 1.0]), shift=torch.tensor([0.5, 0.0])).tolist() == [[2.5, -2.0]]


def test_the_mean_code_and_the_rows_that_stand_for_it() -> None:
    table = torch.tensor([[9.0], [1.0], [3.0]])
    assert mean_code(table).tolist() == mean_code(table.numpy()).tolist() == [2.0]
    assert shared_rows(torch.tensor([1, 2, 3]), torch.tensor([0.05, 0.1, 0.9]), share=0.1).tolist() == [0, 2, 3]


# ── inside networks: what both families compute is the formula ──────────────────────────────────────────────────────────────


def _small(family: str) -> Network:
    """Return a network of two linear layers, the first 6 -> 8."""
    if family == "torch":
        return open_torch(torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)), inputs=(6,))
    layers = keras.layers
    return open_keras(keras.Sequential([keras.Input((6,)), layers.Dense(8, activation="relu", name="mid"), layers.Dense(3, name="out")]))


def _drawn_(network: Network, old: Network) -> dict[str, Tensor]:
    """Draw numbers for what a form has beside the parameters of the network; matrices are returned as PyTorch has them, (C, d)."""
    draw, found, named = torch.Generator().manual_seed(0), {}, {}
    for names in network.layer_parameters().values():
        named |= names
    for name in sorted(name for name in added_parameters(old, network) if "base_layer" not in name):
        with torch.no_grad():
            named[name].copy_(torch.randn(named[name].shape, generator=draw))
        turned = network.family == "keras" and "embeddings" not in name and named[name].ndim == 2
        found[name] = named[name].detach().T.clone() if turned else named[name].detach().clone()
    return found


def _first(network: Network) -> tuple[Tensor, Tensor]:
    """Return weight (8, 6) and bias (8,) of the first linear layer."""
    weight, bias = list(network.state().values())[:2]
    return (weight.T if network.family == "keras" else weight).clone(), bias.clone()


both = pytest.mark.parametrize("family", ["torch", "keras"])


@both
@pytest.mark.parametrize("form", ["lhuc", "film"])
def test_networks_are_scaled_and_shifted_so(family: str, form: str) -> None:
    network = _small(family)
    (weight, bias), training = _first(network), network.adjusted(network.points(), form=form)
    numbers = list(_drawn_(training, network).values())  # a, or b and g
    scale, shift = (lhuc(numbers[0]), torch.zeros(8)) if form == "lhuc" else (numbers[1], numbers[0])
    settled = training.settled()
    torch.testing.assert_close(_first(settled), (scale[:, None] * weight, scale * bias + shift))
    torch.testing.assert_close(training.scores(network.sample), settled.scores(network.sample))


@both
def test_changes_of_low_rank_are_added_so(family: str) -> None:
    network = _small(family)
    (weight, bias), training = _first(network), network.low_rank(2, alpha=6.0, layers=[network.points()[0].name], seed=0)
    down, up = _drawn_(training, network).values()
    torch.testing.assert_close(_first(training.settled()), (weight + 6 / 2 * up @ down, bias))  # W + alpha / r · B A


@both
def test_codes_shift_layers_so(family: str) -> None:
    network = _small(family)
    (weight, bias), coded = _first(network), network.coded(Coding(3, ("one", "two")), seed=0)
    table, maps = _drawn_(coded, network).values()
    torch.testing.assert_close(_first(coded.folded("two")), (weight, bias + maps @ table[2]))  # W h + b + B s


@both
def test_a_linear_layer_before_the_input_mixes_so(family: str) -> None:
    network = _small(family)
    entered = network.with_entrance()
    bias, weight = _drawn_(entered, network).values()
    rows = torch.randn(4, 6)
    torch.testing.assert_close(entered.scores(rows), network.scores(rows @ weight.T + bias))


def test_what_is_trained_is_pulled_back_and_never_beyond_its_start() -> None:
    weight, start = torch.nn.Parameter(torch.tensor([2.0, -1.0])), torch.tensor([0.0, -1.0])
    pull_back_([{"params": [weight], "lr": 0.1}], {id(weight): start}, strength=2.5)
    torch.testing.assert_close(weight.detach(), torch.tensor([1.5, -1.0]))  # 2 - 0.1 · 2.5 · 2
    pull_back_([{"params": [weight], "lr": 1.0}], {id(weight): start}, strength=50)
    assert weight.tolist() == start.tolist()
    pull_back_([{"params": [weight], "lr": 1.0}], {}, strength=50)
    values = torch.tensor([2.0, -1.0], requires_grad=True)
    penalty = 2.5 / 2 * (values - start).square().sum()
    assert torch.autograd.grad(penalty, values)[0].tolist() == [5.0, 0.0]  # the pull is the gradient of the penalty


def test_anchors_leave_out_heads_and_what_is_frozen() -> None:
    network = examples.opened("torch MLP").copy()
    network.freeze_({"0"})
    anchors = anchors_of(network)
    parameters = network.layer_parameters()
    assert anchors.keys() == {id(parameter) for parameter in parameters["2"].values()}
    assert torch.equal(anchors[id(parameters["2"]["2.weight"])], parameters["2"]["2.weight"])


def test_soft_targets() -> None:
    scores = torch.tensor([[math.log(3.0), 0.0], [5.0, 1.0]])
    chances = torch.tensor([[0.5, 0.5], [math.nan, math.nan]])
    expected = -0.5 * (math.log(0.75) + math.log(0.25))
    assert float(soft_cross_entropy(scores, chances)) == pytest.approx(expected)
    doubled = torch.tensor([[2 * math.log(3.0), 0.0]])
    assert float(soft_cross_entropy(doubled, chances[:1], temperature=2)) == pytest.approx(expected)
    term = SoftTargets("old", chances, 0.5)
    assert float(term({"old": scores[:1]}, np.array([0]))) == pytest.approx(expected / 2)
    assert float(soft_cross_entropy(scores, torch.full((2, 2), math.nan))) == 0.0
    mixed = 0.7 * torch.nn.functional.cross_entropy(scores[:1], torch.tensor([0])) + 0.3 * soft_cross_entropy(scores[:1], chances[:1])
    joint = soft_cross_entropy(scores[:1], torch.tensor([[0.7 + 0.15, 0.15]]))  # (1 - rho) y + rho p: the same by linearity
    torch.testing.assert_close(mixed, joint)


def test_what_the_old_head_says() -> None:
    scores = np.log(np.array([[0.5, 0.25, 0.25]]))
    np.testing.assert_allclose(old_chances(scores), [[0.5, 0.25, 0.25]])
    np.testing.assert_allclose(old_chances(scores, np.array([2, 0])), [[1 / 3, 2 / 3]])
    np.testing.assert_allclose(old_chances(2 * scores, temperature=2), [[0.5, 0.25, 0.25]])


def test_relation_of_classes() -> None:
    scores = np.log(np.array([[0.8, 0.2], [0.6, 0.4], [0.1, 0.9]]))
    relation = class_relation(scores, np.array([0, 0, 1]), classes=3)
    np.testing.assert_allclose(relation, [[0.7, 0.3], [0.1, 0.9], [0.5, 0.5]])
    rows = related_chances(relation, np.array([1, -1]))
    np.testing.assert_allclose(rows[0], [0.1, 0.9])
    assert np.isnan(rows[1]).all()


def test_relative_gradient_norm() -> None:
    weights = torch.tensor([1.0, 0.0], requires_grad=True)
    assert relative_norms(weights @ torch.tensor([3.0, 4.0]), {"whole": [weights]}) == {"whole": 5.0}
    first, second, unused = (torch.tensor([value], requires_grad=True) for value in (1.0, 2.0, 3.0))
    found = relative_norms((3 * first + second.square()).sum(), {"a": [first], "b": [second, unused], "c": []})
    assert found == {"a": 3.0, "b": pytest.approx(4 / math.sqrt(13)), "c": 0.0}


def test_what_a_bias_is_called() -> None:
    names = ["a.weight", "a.bias", "b.beta", "b.gamma", "c.in_proj_bias", "d.bias_ih_l0", "e.relative_position_bias_table"]
    assert biases_among(names) == ("a.bias", "b.beta", "c.in_proj_bias", "d.bias_ih_l0")


def test_selections() -> None:
    network = examples.opened("torch CNN")
    assert head_parameters(network) == {"fc2.weight", "fc2.bias"}
    frozen = frozen_but(network, {"norm1.bias", "fc2.weight", "fc2.bias"})
    assert {"conv1", "norm2", "fc1", "norm1.weight", "norm1.running_mean", "norm1.running_var"} <= frozen
    assert not {"norm1", "norm1.bias", "fc2", "drop1"} & frozen
    twin = network.with_entrance()
    added = added_parameters(network, twin)
    assert len(added) == 2 and not added & set(network.state())


def test_the_same_weights_under_longer_names() -> None:
    network = examples.opened("torch CNN").copy()
    twin = network.with_entrance()
    assert names_in(twin, {"conv1", "norm1.bias"}) == {"conv1", "norm1.bias"}
    with torch.no_grad():
        twin.state()["conv1.weight"].add_(1)
    take_over_(network, twin)
    assert torch.equal(network.state()["conv1.weight"], twin.state()["conv1.weight"])


def test_where_low_rank_changes_go() -> None:
    assert low_rank_layers(examples.opened("torch CNN")) == ("conv1", "conv2", "fc1")
    attention = low_rank_layers(examples.opened("Hugging Face encoder"))
    assert len(attention) == 4 and {name.rpartition(".")[2] for name in attention} == {"query", "value"}
    grouped = torch.nn.Sequential(torch.nn.Conv2d(2, 2, 3, groups=2), torch.nn.Flatten(), torch.nn.Linear(72, 2))
    assert low_rank_layers(open_torch(grouped, inputs=(2, 8, 8))) == ()


def test_options_are_sorted_filled_and_checked() -> None:
    plan = make_plan("lora", {"rank": 4, "epochs": 3})
    assert plan.options == {"rank": 4, "alpha": None, "layers": None} and plan.settings.epochs == 3 and plan.settings.layer_decay == 1.0
    again = Plan.from_json(plan.to_json())
    assert again == plan and "rank=4" in str(plan)
    assert make_plan("bias", {"layer_decay": 0.5}).settings.layer_decay == 0.5
    assert make_plan("codes", {}).settings.dropout == 0.5 and make_plan("codes", {"dropout": 0.0}).settings.dropout == 0.0
    assert Option(1, "", lambda value: value > 0).accepts("x") is False
    assert not METHODS["codes"].options["size"].accepts(True)


@pytest.mark.parametrize(
    ("strategy", "options", "words"),
    [
        ("bias", {"rank": 2}, "rank=2 does not go with strategy='bias', which takes no options"),
        ("lora", {"form": "film"}, "which takes rank, alpha, layers"),
        ("full", {"size": 2}, "size=2 goes with strategy='codes'"),
        ("scale_shift", {"form": "filn"}, "expected one of lhuc, film, norm"),
        ("codes", {"training": "joined", "size": 0}, "size=0.*|training='joined'"),
        ("head", {"stay_near": 1.0}, "train below the heads"),
        ("auto", {"distill": 0.5}, "train below the heads"),
        ("full", {"distill": 0.5, "co_tuning": 1.0}, "give one of them"),
        ("full", {"base": "probe", "distill": 0.5}, "base='probe'"),
        ("surgical", {"block": "any"}, "or auto"),
        ("full", {"stay_near": -1}, "stay_near=-1"),
    ],
)
def test_what_does_not_go_together(strategy: str, options: dict[str, object], words: str) -> None:
    with pytest.raises(SettingError, match=words):
        make_plan(strategy, options)
