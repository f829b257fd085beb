"""What the owner of a network has frozen (`requires_grad_(False)`, `layer.trainable = False`) stays so, whatever is trained."""

from __future__ import annotations

import copy
import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.zoo.test_torch_networks import pictures
from tests.zoo.torch_networks import OldWeightNorm, Plain

import regraft
from regraft.data import Dataset
from regraft.errors import InputError, NetworkError, SettingError
from regraft.networks.keras.library import keras
from regraft.networks.network import Network
from regraft.planning import Plan

L = keras.layers
FAMILIES = ("torch", "keras")
STRATEGIES: dict[str, dict[str, Any]] = {
    "probe": {},
    "head": {"epochs": 1},
    "partial": {"epochs": 2, "frozen": 1},
    "full": {"epochs": 2},
    "full, from the probe": {"strategy": "full", "epochs": 2, "base": "probe"},
    "surgical": {"epochs": 2, "block": "auto"},
    "scratch": {"epochs": 2},
    "auto": {"epochs": 2},
    "bias": {"epochs": 2},
    "scale_shift": {"epochs": 2},
    "lora": {"epochs": 2},
    "lin": {"epochs": 2},
}
SHOWN_BY_OTHERS = ("head", "full, from the probe", "surgical", "scratch", "bias", "lin")
"""Strategies that train what another one trains: `make test` tries them with PyTorch, `make test-all` with Keras as well."""


def torch_module() -> Plain:
    torch.manual_seed(0)
    module = Plain()
    for part in (module.conv1, module.norm, module.conv2.bias):
        part.requires_grad_(False)
    return module


def keras_model() -> Any:
    """A base that is frozen as a whole, with BatchNorm and dropout in it, and a layer of the owner above it."""
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = L.BatchNormalization(name="norm")(L.Conv2D(6, 3, strides=2, name="conv")(image))
    base = keras.Model(image, L.Dropout(0.1)(L.ReLU()(x)), name="base")
    base.trainable = False
    image = keras.Input((16, 16, 3))
    x = L.Dense(8, activation="relu", name="own")(L.Dropout(0.2)(L.GlobalAveragePooling2D()(base(image))))
    return keras.Model(image, L.Dense(3, name="out")(x))


HELD = {"torch": {"conv1", "norm", "conv2.bias"}, "keras": {"base.conv", "base.norm"}}
BASE = {"torch": "conv1", "keras": "base"}
OWN = {"torch": "fc1", "keras": "own"}
HEAD = {"torch": "fc", "keras": "out"}


def opened(family: str, **options: Any) -> Network:
    if family == "torch":
        return regraft.load(torch_module(), inputs=(3, 16, 16), **options)
    return regraft.load(keras_model(), **options)


def data_for(family: str) -> Dataset:
    data = pictures()
    if family == "torch":
        return data
    return regraft.read((np.stack(list(data.items)).transpose(0, 2, 3, 1), np.array(data.classes)[data.targets]))


def adapted(family: str, net: Network | None = None, **options: Any) -> Any:
    return regraft.adapt(net or opened(family), data_for(family), cache="memory", batch_size=12, **options)


def changed(before: Network, after: Network) -> set[str]:
    """The layers of the first network whose numbers are others in the second."""
    now, old = after.state(), before.state()
    return {name for name in old if name in now and "seed_generator" not in name and not torch.equal(now[name], old[name])}


def within(names: set[str], held: set[str]) -> set[str]:
    return {name for name in names if any(name == one or name.startswith(f"{one}.") for one in held)}


@pytest.mark.parametrize(
    ("family", "strategy"),
    [
        pytest.param(family, strategy, marks=pytest.mark.slow if family == "keras" and strategy in SHOWN_BY_OTHERS else ())
        for family in FAMILIES
        for strategy in STRATEGIES
    ],
)
def test_no_strategy_changes_what_its_owner_has_frozen(family: str, strategy: str) -> None:
    """Weights, and the moving statistics of BatchNorm, are the same to the bit; the account names them."""
    net = opened(family)
    assert net.body.held == HELD[family] and set(net.account.entries["frozen"]) == HELD[family]
    result = adapted(family, net, **{"strategy": strategy} | STRATEGIES[strategy])
    assert not within(changed(net, result.network), HELD[family])
    assert set(result.account.entries["frozen"]) == HELD[family]
    assert len(result.network.body.held) == len(HELD[family])
    assert any("freeze flags" in reason for reason in result.plan.reasons) == (strategy != "nothing")
    if strategy == "full":
        assert f"{OWN[family]}.bias" in changed(net, result.network)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_frozen_base_runs_once_for_each_example(family: str) -> None:
    result = adapted(family, strategy="full", epochs=3)
    assert result.cost["frozen_forward_examples"] == 36


def test_the_module_of_the_user_is_left_alone() -> None:
    module = torch_module()
    before = {name: (one.requires_grad, one.clone()) for name, one in module.named_parameters()}
    regraft.adapt(regraft.load(module, inputs=(3, 16, 16)), pictures(), strategy="full", epochs=1, cache="memory")
    assert all(one.requires_grad == before[name][0] and torch.equal(one, before[name][1]) for name, one in module.named_parameters())
    assert not [name for part in module.modules() for name in vars(part) if name.startswith("_frozen_by")]
    model = keras_model()
    flags = [layer.trainable for layer in model._flatten_layers()]
    regraft.adapt(regraft.load(model), data_for("keras"), strategy="full", epochs=1, cache="memory")
    assert flags == [layer.trainable for layer in model._flatten_layers()]


@pytest.mark.usefixtures("without_onnx_form")
@pytest.mark.parametrize("family", FAMILIES)
def test_flags_are_kept_by_saving_and_by_changes_of_the_head(family: str, tmp_path: Path) -> None:
    net = adapted(family, strategy="head").network
    net.save(tmp_path / "saved")
    again = regraft.load(tmp_path / "saved", architecture=Plain if family == "torch" else None)
    assert again.body.held == net.body.held == HELD[family]
    assert set(again.account.entries["frozen"]) == HELD[family]
    for made in (regraft.retarget(again, ["x", "y"]), regraft.branch(again, "other", ["x", "y"]), again.copy()):
        assert made.body.held == HELD[family]


def test_an_exported_model_has_the_flags_that_came(tmp_path: Path) -> None:
    made = adapted("keras", strategy="full", epochs=1, trainable="all").network
    made.export(tmp_path / "made.keras")
    plain = keras.models.load_model(tmp_path / "made.keras")
    assert {layer.name: layer.trainable for layer in plain.layers if layer.weights} == {"base": False, "own": True, "out": True}


@pytest.mark.parametrize(
    ("given", "open_"),
    [("all", {"BASE", "OWN", "HEAD"}), (["BASE"], {"BASE"}), ("OWN", {"OWN"}), (["OW*"], {"OWN"}), (["OWN", "HEAD"], {"OWN", "HEAD"})],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_trainable_names_exactly_what_is_trained(family: str, given: Any, open_: set[str]) -> None:
    """Heads with the same classes stay as well, where they are not named."""
    places = {"BASE": BASE[family], "OWN": OWN[family], "HEAD": HEAD[family], "OW*": f"{OWN[family][:2]}*[!2]"}
    asked = places.get(given, given) if isinstance(given, str) else [places[one] for one in given]
    asked = [*asked, "fc1"] if family == "torch" and given == ["OW*"] else asked
    net = opened(family, classes=["a", "b", "c"])
    options = {"start": "zeros", "learning_rate": 0.01, "refit": False, "batch_norm": "batch", "epochs": 1}
    result = adapted(family, net, strategy="full", trainable=asked, schedule="constant", **options)
    layers = {name for name in changed(net, result.network) if name.rpartition(".")[2] in ("weight", "kernel")}
    wanted = {places[one] for one in open_}
    assert layers or result.history
    assert all(any(name.startswith(f"{one}.") for one in wanted) for name in layers) or given == "all"
    assert result.network.body.held == HELD[family]  # it holds for one adaptation
    plan = Plan.from_json(result.plan.to_json())
    assert plan.trainable == result.plan.trainable


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_with_new_classes_is_trained_whoever_froze_it(family: str) -> None:
    net = opened(family)
    net.body.hold_([layer.name for layer in net.layers if layer.parameters])
    made = adapted(family, strategy="head", trainable=[OWN[family]])
    assert made.scores["holdout"]["accuracy"] > 0.5 or made.history
    assert HEAD[family] not in made.account.entries["frozen"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"strategy": "head", "trainable": ["BASE"]}, "nothing to train"),
        ({"strategy": "partial", "frozen": 1, "trainable": ["BASE"]}, "nothing to train"),
        ({"strategy": "probe", "trainable": ["BASE"]}, "solves the head, which is frozen"),
        ({"strategy": "auto", "trainable": ["BASE"]}, "solves the head, which is frozen"),
        ({"strategy": "full", "trainable": ["bace"]}, "no layer or module with weights of that name"),
        ({"strategy": "full", "trainable": 3}, "expected names of layers"),
        ({"strategy": "lora", "trainable": ["HEAD"]}, "Choose 'bias'"),
        ({"strategy": "bias", "trainable": ["HEAD"]}, "none in them"),
        ({"strategy": "scale_shift", "trainable": ["HEAD"]}, "Use another strategy"),
    ],
)
@pytest.mark.parametrize("family", FAMILIES)
def test_what_leaves_nothing_to_train_is_refused_before_any_work(
    family: str, options: dict[str, Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        importlib.import_module("regraft.planning.carry_out"), "run_strategy", lambda *_given: pytest.fail("work was begun")
    )
    places = {"BASE": BASE[family], "HEAD": HEAD[family]}
    named = options["trainable"]
    asked = [places.get(one, one) for one in named] if isinstance(named, list) else named
    with pytest.raises(InputError, match=words) as raised:
        adapted(family, opened(family, classes=["a", "b", "c"]), **{**options, "trainable": asked})
    assert isinstance(raised.value, SettingError | NetworkError)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_that_is_frozen_as_a_whole_gets_a_new_head_and_no_more(family: str) -> None:
    module: Any = torch_module().requires_grad_(False) if family == "torch" else keras_model()
    if family == "keras":
        module.trainable = False
    net = regraft.load(module, inputs=(3, 16, 16)) if family == "torch" else regraft.load(module)
    result = adapted(family, net, strategy="full", epochs=1)
    assert {name.rpartition(".")[0] for name in changed(net, result.network)} <= {HEAD[family]}
    assert any("trains only the head" in reason for reason in result.plan.reasons)
    named = (
        regraft.load(module, inputs=(3, 16, 16), classes=["a", "b", "c"])
        if family == "torch"
        else regraft.load(module, classes=["a", "b", "c"])
    )
    with pytest.raises(SettingError, match="nothing to train"):
        adapted(family, named, strategy="full", epochs=1)


def test_the_flag_of_a_layer_without_weights_says_nothing() -> None:
    """As in Keras: dropout goes on, and `for layer in model.layers[:-1]: layer.trainable = False` leaves it before the head."""
    model = keras_model()
    model.get_layer("base").trainable = True
    for layer in model.layers[:-1]:
        layer.trainable = False
    net = regraft.load(model)
    assert net.body.held == {"base.conv", "base.norm", "own"}
    net.freeze_(())
    net.mode_(True)
    net.body.reseed_(0)
    inputs = torch.rand(4, 16, 16, 3)
    assert not torch.equal(net.scores(inputs)["main"], net.scores(inputs)["main"])


def test_flags_of_weights_that_come_in_another_form() -> None:
    module = OldWeightNorm()
    module.fc1.requires_grad_(False)
    assert regraft.load(module, inputs=(3, 16, 16)).body.held == {"fc1"}


def test_a_copy_with_its_own_flags_shares_the_cache() -> None:
    """What is frozen is no part of what a layer computes."""
    plain = torch_module().requires_grad_(True)
    nets = [regraft.load(one, inputs=(3, 16, 16)) for one in (plain, copy.deepcopy(plain).requires_grad_(False))]
    first, second = (net.body.structure(["conv1"]) for net in nets)
    assert first.text == second.text


@pytest.mark.parametrize("family", FAMILIES)
def test_a_layer_is_frozen_by_its_name_or_by_those_of_all_its_parameters(family: str) -> None:
    net, seen = opened(family), []
    for names in ((OWN[family],), tuple(net.layer_parameters()[OWN[family]])):
        net.freeze_(names)
        own = net.layer_parameters()
        seen.append(({name for named in own.values() for name, one in named.items() if one.requires_grad}, [b.frozen for b in net.blocks]))
    assert seen[0] == seen[1] and not any(name.startswith(f"{OWN[family]}.") for name in seen[0][0])
    assert {f"{HEAD[family]}.bias"} <= seen[0][0] and any(seen[0][1])
