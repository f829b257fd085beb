"""Keras networks are scaled and shifted by channel, changed in low rank and frozen in part, and go back to what they were."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("keras")

from tests.networks import keras_examples as examples
from tests.networks.plain_keras import assert_opens_afresh, exported

from regraft.errors import NetworkError
from regraft.networks.keras.family import open_keras
from regraft.networks.keras.library import keras
from regraft.networks.network import Network, Scores

L = keras.layers
POINTS = {
    "small": ["conv", "dense"],
    "varied": ["norm", "depthwise", "separable", "transposed", "einsum"],
    "varied, channels first": ["norm", "depthwise", "separable", "transposed", "einsum"],
    "nested": ["backbone.stem_bn", "backbone.inner"],
    "nested twice": ["before", "inner.left", "inner.right", "deep.high", "deep.deepest.low"],
    "shared": ["twice"],
    "masked text": ["each", "dense"],
    "two inputs": ["of_x", "of_z"],
}


def opened(name: str) -> Network:
    keras.utils.set_random_seed(0)
    network = open_keras(examples.WITH_POINTS[name]())
    generator = np.random.default_rng(0)
    for layer in network.modules().values():
        if isinstance(layer, L.BatchNormalization):
            layer.moving_mean.assign(generator.normal(size=layer.moving_mean.shape))
            layer.moving_variance.assign(generator.uniform(0.5, 2, layer.moving_variance.shape))
    if name == "masked text":
        network.sample = torch.tensor([[1, 2, 3, 0, 0, 0], [5, 4, 3, 2, 1, 0]])
    return network


def scores(network: Network) -> Scores:
    with torch.no_grad():
        return network.scores(network.sample)


def same(one: Scores, other: Scores) -> bool:
    return all(torch.equal(one[task], other[task]) for task in one)


def moved(network: Network, plain: Network, *, by: float = 0.3) -> list[str]:
    """Move the parameters that a network has and the plain one has not, and return their names."""
    generator = torch.Generator().manual_seed(0)
    added = {key: value for own in network.layer_parameters().values() for key, value in own.items() if key not in plain.state()}
    with torch.no_grad():
        for value in added.values():
            value.add_(torch.randn(value.shape, generator=generator) * by)
    return list(added)


@pytest.mark.parametrize("name", POINTS)
def test_points_stand_before_the_head(name: str) -> None:
    network = opened(name)
    points = network.points()
    assert [point.name for point in points] == POINTS[name]
    assert all(point.name in dict.fromkeys(name for block in network.blocks for name in block.layers) for point in points)
    assert {block.name for block in network.blocks} >= {point.block for point in points}
    if name == "varied":
        assert [point.channels for point in points] == [4, 8, 6, 5, 7]
        assert points[0].block == "conv"


def test_what_is_behind_a_head_or_in_no_graph_has_no_point() -> None:
    text = open_keras(examples.text_network())
    assert text.points() == ()
    vector = keras.Input((4,))
    scores_ = L.Dense(3, name="head")(L.Dense(5, name="below")(vector))
    after = L.Dense(3, kernel_initializer="identity", trainable=False, name="calibration")(scores_)
    facts = [{"task": "main", "layer": "head", "activation": "linear"}]
    network = open_keras(keras.Model(vector, [scores_, after]), heads=facts)
    assert len(network.module.outputs) == 2
    assert [point.name for point in network.points()] == ["below"]
    with pytest.raises(NetworkError, match=r"'subclassed.*' has no graph of layers"):
        open_keras(examples.subclassed_network()).points()


@pytest.mark.parametrize("form", ["lhuc", "film"])
@pytest.mark.parametrize("name", POINTS)
def test_adjusted_networks_begin_as_they_were_and_settle(name: str, form: str) -> None:
    network = opened(name)
    before, state = scores(network), {key: value.clone() for key, value in network.state().items()}
    training = network.adjusted(network.points(), form=form)
    assert same(scores(training), before)
    assert [block.name for block in training.blocks] == [block.name for block in network.blocks]
    assert set(network.state()) < set(training.state())
    twin = training.copy()
    added = moved(twin, network)
    assert len(added) == len(POINTS[name]) * (1 if form == "lhuc" else 2)
    assert same(scores(training), before)
    settled = twin.settled()
    assert not same(scores(settled), before)
    for task, expected in scores(twin).items():
        torch.testing.assert_close(scores(settled)[task], expected, atol=1e-5, rtol=1e-4)
    assert type(settled.module) is type(network.module)
    assert [layer.name for layer in settled.layers] == [layer.name for layer in network.layers]
    assert set(network.state()) <= set(settled.state())
    if name in {"small", "nested", "shared"}:
        assert list(settled.state()) == list(network.state())
    assert all(torch.equal(value, state[key]) for key, value in network.state().items())
    assert sum(layer.parameters for layer in settled.layers) == sum(
        p.numel() for own in settled.layer_parameters().values() for p in own.values()
    )


@pytest.mark.parametrize("form", ["lhuc", "film"])
def test_only_the_adjustments_are_trained(form: str) -> None:
    network = opened("nested")
    training = network.adjusted(network.points()[:1], form=form)
    training.freeze_([layer.name for layer in training.layers if layer.name in network.modules()])
    training.mode_(True)
    before = {key: value.clone() for key, value in training.state().items()}
    training.scores(training.sample)["main"].square().sum().backward()
    given = [key for own in training.layer_parameters().values() for key, value in own.items() if value.grad is not None]
    assert given == [f"backbone.adjusted_stem_bn.{key}" for key in ({"lhuc": ["a"], "film": ["g", "b"]}[form])]
    assert all(torch.equal(value, before[key]) for key, value in training.state().items())  # the statistics did not move
    frozen, live = training.body.split([layer.name for layer in training.layers if layer.name not in training.head_layers])  # type: ignore[misc]
    with torch.no_grad():
        training.mode_(False)
        assert same(live(frozen(training.sample)), scores(training))


def test_settled_networks_keep_what_was_learnt_beside() -> None:
    network = opened("small")
    training = network.adjusted(network.points(), form="film")
    training.name_classes_(["a", "b", "c"])
    with torch.no_grad():
        training.modules()["out"].kernel.value.add_(1)  # type: ignore[union-attr]
    training.history = [{"epoch": 1}]
    settled = training.settled()
    assert settled.classes == ("a", "b", "c") and settled.history == [{"epoch": 1}] and settled.body.plain is None
    np.testing.assert_allclose(settled.rows("out")[0], network.rows("out")[0] + 1)
    assert same(scores(settled), scores(training))
    assert settled.settled().state().keys() == settled.state().keys()


def test_settled_files_open_in_plain_keras(tmp_path: Path) -> None:
    paths = []
    for name, form in (("small", "film"), ("varied", "film"), ("nested", "lhuc"), ("masked text", "lora")):
        network = opened(name)
        training = network.low_rank(2, alpha=4.0, layers=["each"]) if form == "lora" else network.adjusted(network.points(), form=form)
        moved(training, network)
        settled = training.settled()
        path = exported(settled, tmp_path / f"{name}.keras".replace(" ", "_"), settled.sample)
        again = open_keras(keras.models.load_model(path))
        again.sample = settled.sample
        assert same(scores(again), scores(settled))
        paths.append(path)
    assert_opens_afresh(paths)


def test_training_forms_are_not_saved_nor_stacked(tmp_path: Path) -> None:
    network = opened("small")
    for training in (network.adjusted(network.points(), form="lhuc"), network.low_rank(2, alpha=2.0, layers=["dense"])):
        with pytest.raises(NetworkError, match="training form"):
            training.export(tmp_path / "x.keras")
        with pytest.raises(NetworkError, match="settled"):
            training.adjusted(network.points(), form="lhuc")
        with pytest.raises(NetworkError, match="training form"):
            training.low_rank(2, alpha=2.0, layers=["dense"])
    other = network.adjusted(network.points(), form="lhuc")
    wider = replace(other.head, weight=np.ones((4, 6), "float32"), bias=np.zeros(4, "float32"))
    with pytest.raises(NetworkError, match=r"changed in its training form: 'out.kernel' has shape"):
        other.with_head(wider).settled()
    with pytest.raises(NetworkError, match="'lhuc', 'film'"):
        network.adjusted(network.points(), form="gain")
    with pytest.raises(NetworkError, match="no linear layer or convolution 'dens' to be changed; did you mean 'dense'"):
        network.adjusted([replace(network.points()[0], name="dens")], form="lhuc")


@pytest.mark.parametrize("name", ["small", "nested", "masked text", "shared"])
def test_low_rank_networks_begin_as_they_were_and_settle(name: str) -> None:
    network = opened(name)
    before = scores(network)
    layers = [
        layer.name for layer in network.layers if layer.kind in {"Dense", "Conv2D", "Embedding"} and layer.name not in network.head_layers
    ]
    training = network.low_rank(2, alpha=6.0, layers=layers)
    assert same(scores(training), before)
    added = [key for own in training.layer_parameters().values() for key in own if key not in network.state()]
    assert len(added) == 2 * len(layers)
    training.body.hold_([])  # the owner of the nested one has frozen its base
    training.freeze_([key for own in training.layer_parameters().values() for key in own if key not in added])
    twin = training.copy()
    twin.mode_(True)
    sum(value.square().sum() for value in twin.scores(twin.sample).values()).backward()
    assert {key for key, variable in twin.body.variables().items() if variable.value.requires_grad} == set(added)
    assert all(value.grad is not None for own in twin.layer_parameters().values() for key, value in own.items() if key in added)
    moved(twin, network)
    twin.mode_(False)
    settled = twin.settled()
    assert not same(scores(settled), before)
    for task, expected in scores(twin).items():
        torch.testing.assert_close(scores(settled)[task], expected, atol=1e-6, rtol=1e-5)
    assert list(settled.state()) == list(network.state())
    assert not any(getattr(layer, "lora_enabled", False) for layer in settled.modules().values())
    assert [layer.parameters for layer in settled.layers] == [layer.parameters for layer in network.layers]


@pytest.mark.parametrize("kind", [ValueError, NotImplementedError])
def test_a_layer_that_keras_gives_no_low_rank_change_is_named(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object, **__: object) -> None:
        raise kind("not this one")

    network = opened("small")
    before = {name: tensor.clone() for name, tensor in network.state().items()}
    with monkeypatch.context() as patch:
        patch.setattr(keras.layers.Dense, "enable_lora", refuses)
        with pytest.raises(NetworkError, match="cannot give the layer 'dense' a low-rank change: not this one"):
            network.low_rank(2, alpha=2.0, layers=["dense"])
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state().items())


def test_low_rank_scales_by_alpha_and_rank() -> None:
    network = opened("small")
    training = network.low_rank(2, alpha=6.0, layers=["dense"])
    moved(training, network)
    state = {key: value.numpy() for key, value in training.state().items()}
    change = training.settled().state()["dense.kernel"].numpy() - network.state()["dense.kernel"].numpy()
    np.testing.assert_allclose(change, 3 * state["dense.lora_kernel_a"] @ state["dense.lora_kernel_b"], atol=1e-6)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["out"], "received 'out', a head, whose weights"),
        (["flatten"], "a Flatten|no layer of that name"),
        (["dens"], "no layer of that name; did you mean 'dense'"),
        ([], "nothing to change"),
    ],
)
def test_low_rank_refuses_by_name(layers: list[str], message: str) -> None:
    with pytest.raises(NetworkError, match=message):
        opened("small").low_rank(2, alpha=2.0, layers=layers)


def test_single_parameters_are_frozen() -> None:
    network = opened("nested")
    network.body.hold_([])  # its owner has frozen the base
    network.freeze_(["backbone.stem_bn.gamma", "scores.kernel"])
    gradients = {key for key, variable in network.body.variables().items() if variable.value.requires_grad}
    wanted = {key for own in network.layer_parameters().values() for key in own}
    assert gradients == wanted - {"backbone.stem_bn.gamma", "scores.kernel"}
    network.mode_(True)
    mean = network.state()["backbone.stem_bn.moving_mean"].clone()
    network.scores(torch.randn(4, 16, 16, 3))
    assert torch.equal(network.state()["backbone.stem_bn.moving_mean"], mean)
    assert not any(block.frozen for block in network.blocks)
    network.freeze_(["scores.kernel", "scores.bias"])
    assert [block.frozen for block in network.blocks] == [False, False, True]
    assert {key for key, variable in network.copy().body.variables().items() if variable.value.requires_grad} == wanted - {
        "scores.kernel",
        "scores.bias",
    }
    with pytest.raises(NetworkError, match=r"'scores.kernl'; did you mean 'scores.kernel'"):
        network.freeze_(["scores.kernl"])


@pytest.mark.parametrize("name", ["small", "varied, channels first", "shared", "nested twice"])
def test_an_entrance_is_the_identity_at_first(name: str, tmp_path: Path) -> None:
    network = opened(name)
    entered = network.with_entrance()
    assert same(scores(entered), scores(network))
    assert entered.layers[0].name == entered.blocks[0].name == "entrance"
    assert [layer.name for layer in entered.layers[1:]] == [layer.name for layer in network.layers]
    assert type(entered.modules()["entrance"]).__name__ == ("Conv2D" if "first" in name else "Dense")
    entered.freeze_([layer.name for layer in network.layers])
    if "first" not in name:
        entered.scores(entered.sample)["main"].sum().backward()
        assert entered.layer_parameters()["entrance"]["entrance.kernel"].grad is not None
    again = open_keras(keras.models.load_model(entered.export(tmp_path / "x.keras")))
    assert torch.equal(again.module(network.sample), entered.module(network.sample))
    with pytest.raises(NetworkError, match="named 'entrance' already"):
        entered.with_entrance()


@pytest.mark.parametrize(("name", "received"), [("masked text", "1 input of the types int32"), ("two inputs", "2 inputs")])
def test_entrances_refuse_by_name(name: str, received: str) -> None:
    with pytest.raises(NetworkError, match=received):
        opened(name).with_entrance()


@pytest.mark.parametrize("layer", ["conv", "dense", "scores"])
def test_a_low_rank_change_of_the_users_own_is_added_once(layer: str) -> None:
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 2))
    values = L.GlobalAveragePooling2D()(L.Conv2D(4, 3, activation="relu", name="conv")(image))
    model = keras.Model(image, L.Dense(3, name="scores")(L.Dense(5, activation="relu", name="dense")(values)))
    own = model.get_layer(layer)
    own.enable_lora(2)
    own.lora_kernel_b.assign(np.ones(own.lora_kernel_b.shape))
    network = open_keras(model)
    assert same(scores(network.adjusted(network.points(), form="film").settled()), scores(network))
    free = [name for name in ("conv", "dense") if name != layer]
    assert same(scores(network.low_rank(1, alpha=1.0, layers=free).settled()), scores(network))
