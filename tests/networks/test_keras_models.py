"""A Keras network keeps the contract for functional, Sequential and subclassed models."""

from __future__ import annotations

import importlib.util
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("keras")

import regraft
from regraft.errors import NetworkError
from regraft.networks.keras.clone import cloned
from regraft.networks.keras.family import open_keras
from regraft.networks.keras.library import keras
from regraft.networks.network import Head, Network

_spec = importlib.util.spec_from_file_location("keras_examples", Path(__file__).with_name("keras_examples.py"))
assert _spec is not None and _spec.loader is not None
examples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(examples)

L = keras.layers
ALL = {**examples.WITH_HEAD, **examples.WITHOUT_HEAD}
ACTIVATIONS = {"softmax": lambda scores: scores.softmax(-1), "sigmoid": torch.sigmoid, "linear": lambda scores: scores}


@pytest.fixture(scope="module")
def opened() -> dict[str, Network]:
    return {name: open_keras(make()) for name, make in ALL.items()}


def new_head(network: Network, classes: int = 7, **changes: Any) -> Head:
    generator = np.random.default_rng(0)
    features = network.sample_features().shape[1]
    weight = generator.normal(size=(classes, features)).astype("float32")
    bias = generator.normal(size=classes).astype("float32")
    names = tuple("abcdefghijkl"[:classes])
    if network.heads:
        return replace(network.head, weight=weight, bias=bias, classes=names, **changes)
    return Head("main", names, "classification", "softmax", "", weight, bias)


@pytest.mark.parametrize("name", examples.WITH_HEAD)
def test_head_explains_the_output(opened: dict[str, Network], name: str) -> None:
    network = opened[name]
    head, scores, features = network.head, network.scores(network.sample)["main"], network.feature_batch(network.sample)
    by_hand = features.detach().numpy() @ head.weight.T + head.bias
    np.testing.assert_allclose(scores.detach().numpy(), by_hand, atol=1e-4)
    torch.testing.assert_close(ACTIVATIONS[head.activation](scores), network.module(network.sample), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(network.scores_of_features(features)["main"], scores, atol=1e-4, rtol=1e-4)
    for given, kept in zip(network.rows(head.layer), (head.weight, head.bias), strict=True):
        np.testing.assert_array_equal(given, kept)


@pytest.mark.parametrize(
    ("name", "activation", "kind", "shape"),
    [
        ("speaker", "softmax", "classification", (40, 128)),
        ("text", "softmax", "classification", (3, 8)),
        ("nested", "linear", "classification", (4, 8)),
        ("convolution", "softmax", "classification", (10, 8)),
        ("subclassed", "sigmoid", "multi-label", (3, 8)),
    ],
)
def test_head_facts(opened: dict[str, Network], name: str, activation: str, kind: str, shape: tuple[int, int]) -> None:
    head = opened[name].head
    assert (head.activation, head.kind, head.weight.shape, head.classes) == (activation, kind, shape, None)


def test_one_linear_output_is_regression() -> None:
    assert open_keras(keras.Sequential([keras.Input((3,)), L.Dense(1)])).head.kind == "regression"


@pytest.mark.parametrize("name", examples.WITHOUT_HEAD)
def test_without_head(opened: dict[str, Network], name: str) -> None:
    network = opened[name]
    assert network.heads == {}
    assert network.sample_features().shape == (2, 8 if name == "feature map" else 6)


def test_two_heads_are_refused() -> None:
    entry = keras.Input((3,))
    model = keras.Model(entry, [L.Dense(4, name="first")(entry), L.Dense(5, name="second")(entry)])
    with pytest.raises(NetworkError, match=r"two candidates.*'(first|second)', '(first|second)'.*head="):
        open_keras(model)


def test_names_layers_and_blocks(opened: dict[str, Network]) -> None:
    nested = opened["nested"]
    assert {"backbone", "backbone.stem", "scores"} <= set(nested.modules())
    assert [block.name for block in nested.blocks] == ["backbone.stem", "backbone.inner", "scores"]
    assert [layer.name for layer in nested.layers][:2] == ["backbone.stem", "backbone.stem_bn"]
    assert [layer.kind for layer in opened["text"].layers] == ["Embedding", "BatchNormalization", "Bidirectional", "Bidirectional", "Dense"]
    assert len(opened["speaker"].blocks) == 9
    assert opened["speaker"].input_shape == (40, 99, 1)


@pytest.mark.parametrize("name", ALL)
def test_blocks_and_parameters_cover_the_network(opened: dict[str, Network], name: str) -> None:
    network = opened[name]
    assert sorted(part for block in network.blocks for part in block.layers) == sorted(layer.name for layer in network.layers)
    parameters = {key: value for owned in network.layer_parameters().values() for key, value in owned.items()}
    state = network.state()
    assert all(state[key].data_ptr() == value.data_ptr() for key, value in parameters.items())
    assert sum(value.numel() for value in parameters.values()) == sum(layer.parameters for layer in network.layers)
    assert len(state) == len({tensor.data_ptr() for tensor in state.values()})
    assert not any("moving" in key or "seed" in key for key in parameters)


def test_seeds_are_part_of_the_state(opened: dict[str, Network]) -> None:
    network = opened["speaker"].copy()
    network.body.reseed_(5)
    seeds = [tensor.tolist() for key, tensor in network.state().items() if "seed" in key]
    assert seeds == [[5, 0], [6, 0], [7, 0]]


def test_a_seeded_dropout_follows_reseeding() -> None:
    network = open_keras(keras.Sequential([keras.Input((30,)), L.Dropout(0.5, seed=1), L.Dense(2)]))
    network.mode_(True)
    network.body.reseed_(5)
    first = network.scores(network.sample)["main"]
    assert not torch.equal(first, network.scores(network.sample)["main"])
    network.body.reseed_(5)
    assert torch.equal(first, network.scores(network.sample)["main"])


@pytest.mark.parametrize("name", ALL)
def test_copy_is_independent(opened: dict[str, Network], name: str) -> None:
    network = opened[name]
    before = {key: value.clone() for key, value in network.state().items()}
    twin = network.copy()
    assert type(twin.module) is type(network.module)
    for value in twin.state().values():
        value.zero_()
    assert all(torch.equal(before[key], value) for key, value in network.state().items())


def test_users_model_is_not_touched() -> None:
    model = examples.nested_network()
    flags = [layer.trainable for layer in model._flatten_layers()]
    before = [variable.value.detach().clone() for variable in model.variables]
    network = open_keras(model)
    network.mode_(True)
    network.scores(network.sample)["main"].sum().backward()
    assert [layer.trainable for layer in model._flatten_layers()] == flags
    assert all(torch.equal(kept, variable.value) for kept, variable in zip(before, model.variables, strict=True))


def test_clone_of_a_compiled_trained_model_keeps_graph_and_masks() -> None:
    entry = keras.Input((4,), dtype="int32")
    shared = L.Dense(3)
    x = L.Embedding(5, 3, mask_zero=True)(entry)
    model = keras.Model(entry, L.Dense(2)(L.LSTM(3)(shared(shared(x)))))
    model.compile("adam", "mse")
    items = torch.tensor([[1, 2, 0, 0], [3, 0, 0, 0]])
    model.fit(items, torch.ones(2, 2), verbose=0)
    twin = cloned(model)
    assert torch.equal(twin(items), model(items))
    assert sum(layer is twin.get_layer(shared.name) for layer in twin._flatten_layers()) == 1
    twin.compile("adam", "mse")
    twin.fit(items, torch.ones(2, 2), verbose=0)
    assert not torch.equal(twin(items), model(items))


@pytest.mark.parametrize("name", ALL)
def test_frozen_means_frozen(opened: dict[str, Network], name: str) -> None:
    base = opened[name]
    network = base.copy() if base.heads else base.with_head(new_head(base))
    frozen = [part for block in network.blocks[:-1] for part in block.layers]
    network.freeze_(frozen)
    network.mode_(True)
    before = {key: value.clone() for key, value in network.state().items()}
    live = [p for owned in network.layer_parameters().values() for p in owned.values() if p.requires_grad]
    optimizer = torch.optim.SGD(live, 0.1)
    network.scores(network.sample)["main"].square().sum().backward()
    optimizer.step()
    changed = [key for key, value in network.state().items() if not torch.equal(before[key], value)]
    assert changed and all(any(key.startswith(layer) for layer in network.blocks[-1].layers) for key in changed)
    assert [block.frozen for block in network.blocks] == [True] * (len(network.blocks) - 1) + [False]


def test_training_moves_statistics_of_what_is_not_frozen(opened: dict[str, Network]) -> None:
    network = opened["nested"].copy()
    network.body.hold_(())  # its user had frozen the backbone
    network.freeze_(())
    before = network.state()["backbone.stem_bn.moving_mean"].clone()
    network.scores(network.sample)
    assert torch.equal(before, network.state()["backbone.stem_bn.moving_mean"])
    network.mode_(True)
    network.scores(network.sample)
    assert not torch.equal(before, network.state()["backbone.stem_bn.moving_mean"])


def test_freezing_an_unknown_layer_names_the_near_one(opened: dict[str, Network]) -> None:
    with pytest.raises(NetworkError, match=r"'backbone\.stm'; did you mean 'backbone\.stem'"):
        opened["nested"].freeze_(["backbone.stm"])


@pytest.mark.parametrize("name", ALL)
def test_with_head(opened: dict[str, Network], name: str, tmp_path: Path) -> None:
    network = opened[name]
    head = new_head(network)
    before = {key: value.clone() for key, value in network.state().items()}
    twin = network.with_head(head)
    by_hand = network.sample_features().numpy() @ head.weight.T + head.bias
    np.testing.assert_allclose(twin.scores(twin.sample)["main"].detach().numpy(), by_hand, atol=1e-3)
    assert twin.classes == head.classes
    assert all(torch.equal(before[key], value) for key, value in network.state().items())
    assert sum(block.parameters for block in twin.blocks) == sum(layer.parameters for layer in twin.layers)
    if name != "subclassed":
        facts = twin.kind.write(twin.body, tmp_path, origin={}, edits=())
        again = keras.saving.load_model(tmp_path / facts["file"])
        assert again.output_shape == (None, 7)
        torch.testing.assert_close(again(twin.sample), twin.module(twin.sample))


def test_with_head_adds_a_bias_and_changes_the_activation(opened: dict[str, Network]) -> None:
    network = open_keras(keras.Sequential([keras.Input((3,)), L.Dense(4, use_bias=False, activation="softmax")]))
    head = new_head(network, 2, activation="sigmoid", kind="multi-label")
    twin = network.with_head(head)
    torch.testing.assert_close(twin.module(twin.sample), twin.scores(twin.sample)["main"].sigmoid())
    separate = opened["convolution"]
    twin = separate.with_head(new_head(separate, 2, activation="sigmoid", kind="multi-label"))
    torch.testing.assert_close(twin.module(twin.sample), twin.scores(twin.sample)["main"].sigmoid())


def test_with_head_refuses_rows_of_another_length(opened: dict[str, Network]) -> None:
    head = replace(new_head(opened["speaker"]), weight=np.zeros((7, 5), np.float32))
    with pytest.raises(NetworkError, match=r"5 features.*reads 128"):
        opened["speaker"].with_head(head)


@pytest.mark.parametrize("name", ALL)
def test_reinitialised(opened: dict[str, Network], name: str) -> None:
    network = opened[name].copy()
    network.body.hold_(())
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.random.get_rng_state()
    first, second, other = network.reinitialised(1).state(), network.reinitialised(1).state(), network.reinitialised(2).state()
    assert all(torch.equal(first[key], second[key]) for key in first)
    kernels = [key for key in first if key.endswith("kernel")]
    assert kernels and all(not torch.equal(first[key], old[key]) for key in kernels for old in (other, network.state()))
    assert random.getstate() == states[0] and np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.random.get_rng_state(), states[2])


def test_written_file_keeps_the_trainable_flags(opened: dict[str, Network], tmp_path: Path) -> None:
    network = opened["nested"].copy()
    network.freeze_(["scores"])
    network.kind.write(network.body, tmp_path, origin={}, edits=())
    again = keras.saving.load_model(tmp_path / "network.keras")
    assert not again.get_layer("backbone").trainable and again.get_layer("scores").trainable
    assert not network.layer_parameters()["scores"]["scores.kernel"].requires_grad
    assert not network.layer_parameters()["backbone.stem"]["backbone.stem.kernel"].requires_grad  # as its user had it
    network.body.hold_(())
    network.freeze_(["scores"])
    assert network.layer_parameters()["backbone.stem"]["backbone.stem.kernel"].requires_grad


def test_export_wants_its_ending(opened: dict[str, Network], tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"ends in '\.keras', '\.h5', '\.pt2', '\.onnx' or '\.pmml'"):
        opened["text"].export(tmp_path / "network.zip")


class NotSerialisable(keras.layers.Layer):
    def __init__(self, thing: object) -> None:
        super().__init__()
        self.thing = thing

    def call(self, x: Any) -> Any:
        return x


def test_export_of_what_keras_cannot_serialise_says_what_to_do(tmp_path: Path) -> None:
    network = open_keras(keras.Sequential([keras.Input((3,)), NotSerialisable(object()), L.Dense(2)]))
    with pytest.raises(NetworkError, match=r"get_config\(\).*save_weights"):
        network.export(tmp_path / "network.keras")


@pytest.mark.parametrize("name", ["speaker", "text", "nested", "convolution"])
def test_split_gives_the_same_scores(opened: dict[str, Network], name: str) -> None:
    network = opened[name].copy()
    frozen = [part for block in network.blocks[:-1] for part in block.layers]
    network.freeze_(frozen)
    parts = network.body.split(frozen)
    assert parts is not None
    live = parts[0](network.sample)
    assert not any(tensor.requires_grad for tensor in live)
    scores = parts[1](live)["main"]
    assert torch.equal(scores, network.scores(network.sample)["main"])
    with torch.no_grad():
        network.layer_parameters()[network.head.layer][f"{network.head.layer}.bias"].add_(1)
    assert torch.equal(parts[1](live)["main"], network.scores(network.sample)["main"])


def test_split_refuses_what_it_cannot_cut(opened: dict[str, Network]) -> None:
    assert opened["subclassed"].body.split([opened["subclassed"].layers[0].name]) is None
    assert opened["nested"].body.split(["backbone.stem"]) is None
    assert opened["speaker"].body.split([opened["speaker"].layers[5].name]) is None
    entry = keras.Input((4,), dtype="int32")
    masked = open_keras(keras.Model(entry, L.Dense(2)(L.LSTM(3)(L.Embedding(5, 3, mask_zero=True)(entry)))))
    assert masked.body.split([masked.layers[0].name]) is None


def test_structure_follows_the_computation_not_the_weights(opened: dict[str, Network]) -> None:
    network = opened["nested"]
    names = ["backbone.stem", "backbone.inner"]
    assert network.body.structure(names) == network.copy().body.structure(names)
    assert network.body.structure(names) == network.reinitialised(3).body.structure(names)
    other = open_keras(examples.nested_network())
    other.modules()["backbone.stem"].activation = keras.activations.relu
    assert network.body.structure(names) != other.body.structure(names)


class Scaled(keras.layers.Layer):
    """Without get_config, and made with a thing that Keras cannot write down."""

    def __init__(self, factor: float, thing: object) -> None:
        super().__init__(name="scaled")
        self.factor, self.thing = factor, thing

    def call(self, x: Any) -> Any:
        return x * self.factor


def test_the_structure_of_a_layer_without_a_config_is_that_of_its_plain_attributes() -> None:
    def made(factor: float) -> Network:
        return open_keras(keras.Sequential([keras.Input((3,)), Scaled(factor, object()), L.Dense(2, name="scores")]))

    twice, again, thrice = made(2.0), made(2.0), made(3.0)
    with pytest.raises(NotImplementedError):
        Scaled(2.0, object()).get_config()
    assert twice.body.structure(["scaled"]) == again.body.structure(["scaled"]) != thrice.body.structure(["scaled"])


def test_named_inputs() -> None:
    entries = [keras.Input((3,), name="left"), keras.Input((4,), name="right")]
    network = open_keras(keras.Model(entries, L.Dense(2)(L.Concatenate()(entries))))
    assert isinstance(network.sample, dict) and network.input_shape == ()
    assert {name: tuple(values.shape[1:]) for name, values in network.sample.items()} == {"left": (3,), "right": (4,)}
    assert network.scores({"right": torch.ones(5, 4), "left": torch.ones(5, 3)})["main"].shape == (5, 2)


def test_unbuilt_subclass_needs_inputs() -> None:
    with pytest.raises(NetworkError, match=r"inputs=\(224, 224, 3\)"):
        open_keras(examples.Subclassed())
    assert open_keras(examples.Subclassed(), inputs=(5,), classes=["a", "b", "c"]).classes == ("a", "b", "c")


def test_not_a_model_is_refused() -> None:
    with pytest.raises(NetworkError, match=r"torch.nn.modules.linear.Linear.*expected a keras.Model"):
        open_keras(torch.nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("name", "size", "blocks"),
    [
        pytest.param("VGG16", 32, 16, marks=pytest.mark.slow),
        ("MobileNetV2", 32, 33),
        pytest.param("DenseNet121", 32, 40, marks=pytest.mark.slow),
    ],
)
def test_applications(name: str, size: int, blocks: int) -> None:
    smaller = {"MobileNetV2": {"alpha": 0.35}}.get(name, {})
    network = open_keras(getattr(keras.applications, name)(weights=None, input_shape=(size, size, 3), classes=5, **smaller))
    assert len(network.blocks) == blocks and network.head.layer == "predictions"
    twin = network.with_head(new_head(network, 3))
    assert twin.module(twin.sample).shape == (2, 3)


def test_models_that_begin_with_preprocessing_layers_are_copied() -> None:
    """Many applications rescale inside; such layers hold Keras' own switch between backends."""
    layers = keras.layers
    model = keras.Sequential([keras.Input((8, 8, 3)), layers.Rescaling(1 / 255), layers.Normalization(mean=[0.4] * 3, variance=[0.1] * 3)])
    model.add(layers.Flatten())
    model.add(layers.Dense(2))
    net = open_keras(model)
    twin = net.copy()
    assert torch.equal(net.scores(net.sample)["main"], twin.scores(twin.sample)["main"])


def stateful(batch: int, wrapped: bool) -> Any:
    layer = L.GRU(4, stateful=True)
    return keras.Sequential([keras.Input(batch_shape=(batch, 5, 3)), L.Bidirectional(layer) if wrapped else layer, L.Dense(2)])


@pytest.mark.parametrize(("batch", "wrapped"), [(1, False), (4, True)])
def test_stateful_layers_start_anew_for_each_example(batch: int, wrapped: bool, tmp_path: Path) -> None:
    model, items = stateful(batch, wrapped), np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    net = regraft.load(model)
    given = model.predict(items[:batch], verbose=0)
    assert np.allclose(net.logits(items)[:batch], given, atol=1e-6) and np.array_equal(net.logits(items), net.logits(items))
    assert any("stateful" in note and "zero states" in note for note in net.account.notes)
    assert all(getattr(layer, "stateful", True) for layer in model.layers if "gru" in layer.name)
    net.save(tmp_path / "net")
    assert np.array_equal(regraft.load(tmp_path / "net").logits(items), net.logits(items))
