"""Keras networks with several heads, heads in parts, and networks made out of others."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("keras")

import regraft
from regraft.errors import NetworkError
from regraft.freezing.cut import Cut, find_cut
from regraft.networks.keras.family import open_keras
from regraft.networks.keras.library import keras
from regraft.networks.network import Head, Network
from regraft.networks.predictions import grouped_scores

_spec = importlib.util.spec_from_file_location("keras_examples", Path(__file__).with_name("keras_examples.py"))
assert _spec is not None and _spec.loader is not None
examples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(examples)

L = keras.layers


def dense_network(classes: int = 40, activation: str = "linear") -> Any:
    return keras.Sequential(
        [keras.Input((12,)), L.Dense(64, activation="relu", name="body"), L.Dense(classes, activation=activation, name="scores")]
    )


def head_inside(classes: int = 4) -> Any:
    """The head is a layer of a nested model; the outer model has a layer of the same name as an inner one."""
    inner_entry = keras.Input((6,))
    inner = keras.Model(inner_entry, L.Dense(classes, name="scores")(L.Dense(5, activation="relu", name="body")(inner_entry)), name="inner")
    entry = keras.Input((6,))
    return keras.Model(entry, L.Activation("softmax")(inner(L.Dense(6, name="body")(entry))))


def map_head(classes: int = 3) -> Any:
    """A convolution over positions, averaged afterwards."""
    image = keras.Input((6, 6, 2))
    x = L.Conv2D(4, 3, padding="same", activation="relu", name="stem")(image)
    return keras.Model(image, L.GlobalAveragePooling2D()(L.Conv2D(classes, 1, name="maps")(x)))


WITH_GRAPH: dict[str, Callable[[], Any]] = {
    "dense": dense_network,
    "nested": examples.nested_network,
    "convolution": examples.convolutional_head,
    "inside": head_inside,
    "maps": map_head,
}


def rows(classes: int, features: int, *, task: str = "main", activation: str = "linear", **more: Any) -> Head:
    generator = np.random.default_rng(classes)
    weight = generator.normal(size=(classes, features)).astype("float32")
    return Head(task, None, "classification", activation, "", weight, generator.normal(size=classes).astype("float32"), **more)


def extended(head: Head, extra: int, parts: tuple[int, ...]) -> Head:
    more = rows(extra, head.features)
    return replace(head, weight=np.concatenate([head.weight, more.weight]), bias=np.concatenate([head.bias, more.bias]), parts=parts)


def opens_in_plain_keras(network: Network, path: Path) -> list[torch.Tensor]:
    again = keras.saving.load_model(network.export(path / "net.keras"))
    return keras.tree.flatten(again(network.sample))


def same(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("make", [dense_network, lambda: examples.convolutional_head(40), lambda: map_head(40)])
def test_parts_keep_old_scores_to_the_bit(make: Callable[[], Any], tmp_path: Path) -> None:
    network = open_keras(make())
    wider = network.with_head(extended(network.head, 5, (40, 5)))
    widest = wider.with_head(extended(wider.head, 3, (40, 5, 3))).copy()
    for count in (1, 2, 7, 33):
        batch = torch.randn(count, *network.sample.shape[1:])
        old, mid, new = (one.scores(batch)["main"] for one in (network, wider, widest))
        assert torch.equal(mid[:, :40], old) and torch.equal(new[:, :45], mid) and new.shape == (count, 48)
    wider.freeze_([wider.head.layer])
    assert torch.equal(wider.scores(network.sample)["main"][:, :40], network.scores(network.sample)["main"])
    same(opens_in_plain_keras(widest, tmp_path)[0], widest.module(widest.sample))
    whole = widest.with_head(replace(widest.head, parts=()))
    assert whole.body.hooks == [] and len(widest.body.hooks) == 1
    same(whole.scores(batch)["main"], new)


def test_parts_hold_in_the_module_and_carry_gradients() -> None:
    network = open_keras(dense_network())
    wider = network.with_head(extended(network.head, 5, (40, 5)))
    assert torch.equal(wider.module(network.sample)[:, :40], network.module(network.sample))
    wider.scores(wider.sample)["main"].sum().backward()
    kernel = wider.layer_parameters()["scores"]["scores.kernel"]
    assert kernel.grad is not None and kernel.grad.abs().sum(0).gt(0).all()
    same(wider.scores_of_features(wider.sample_features())["main"], wider.scores(wider.sample)["main"])
    with pytest.raises(NetworkError, match=r"parts=\(40, 4\) for 45 classes"):
        network.with_head(extended(network.head, 5, (40, 4)))


@pytest.mark.parametrize("name", WITH_GRAPH)
def test_branch(name: str, tmp_path: Path) -> None:
    network = open_keras(WITH_GRAPH[name]())
    before = network.scores(network.sample)["main"]
    branch = rows(3, network.head.features, task="size of it", activation="softmax")
    twin = network.with_head(branch)
    scores, features = twin.scores(twin.sample), twin.sample_features()
    assert list(scores) == list(twin.heads) == ["main", "size of it"] and list(network.heads) == ["main"]
    same(scores["main"], before)
    same(scores["size of it"], features @ torch.from_numpy(branch.weight.T) + torch.from_numpy(branch.bias))
    for task, made in twin.scores_of_features(features).items():
        same(made, scores[task])
    assert len(set(twin.head_layers)) == 2 and set(twin.head_layers) <= set(twin.layer_parameters())
    assert sum(block.parameters for block in twin.blocks) == sum(layer.parameters for layer in twin.layers)
    outputs = twin.module(twin.sample)
    same(outputs[1], scores["size of it"].softmax(1))
    for made, kept in zip(opens_in_plain_keras(twin, tmp_path), outputs, strict=True):
        same(made, kept)


def test_branches_are_resized_copied_drawn_and_frozen() -> None:
    network = open_keras(dense_network(activation="softmax"))
    network.freeze_(["body"])
    twin = network.with_head(rows(3, 64, task="b")).with_head(rows(2, 64, task="c", activation="sigmoid"))
    assert twin.layer_parameters()["body"]["body.kernel"].requires_grad is False
    other = twin.with_head(rows(5, 64, task="b", activation="softmax"))
    outputs = other.module(other.sample)
    same(outputs[1], other.scores(other.sample)["b"].softmax(1))
    same(outputs[2], twin.module(twin.sample)[2])
    linear = other.with_head(replace(other.head, activation="linear"))
    same(linear.module(linear.sample)[0], linear.scores(linear.sample)["main"])
    same(linear.module(linear.sample)[1], outputs[1])
    copied = other.copy()
    for task, values in other.scores(other.sample).items():
        assert torch.equal(copied.scores(other.sample)[task], values)
    drawn = other.reinitialised(1)
    for task, head in drawn.heads.items():
        assert not np.array_equal(head.weight, other.heads[task].weight)
        np.testing.assert_array_equal(head.weight, drawn.rows(head.layer)[0])
    assert [layer.parameters for layer in other.layers if layer.name == "b"] == [5 * 65]


def test_branches_are_cut_from_the_frozen_part() -> None:
    network = open_keras(examples.nested_network()).with_head(rows(3, 8, task="b"))
    frozen = frozenset(layer.name for layer in network.layers if layer.name not in network.head_layers)
    network.freeze_(frozen)
    cut = find_cut(network, frozen, sample=torch.randn(4, 16, 16, 3))
    assert isinstance(cut, Cut) and set(cut.trainable_part(cut.frozen_part(network.sample))) == {"main", "b"}


def test_features_with_positions_go_through_a_convolutional_head() -> None:
    network = open_keras(map_head())
    maps = torch.randn(2, 6, 6, 4)
    same(network.scores_of_features(maps)["main"], network.scores_of_features(maps.mean((1, 2)))["main"])


def test_a_branch_of_a_model_without_a_graph_is_refused() -> None:
    network = open_keras(examples.subclassed_network())
    with pytest.raises(NetworkError, match=r"Subclassed.*no graph.*functional API"):
        network.with_head(rows(3, 8, task="b"))
    with pytest.raises(NetworkError, match="no graph"):
        network.with_columns(2)


@pytest.mark.parametrize("strategy", ["probe", "head", "full"])
def test_a_head_with_a_low_rank_change_of_its_own(strategy: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = dense_network(3)
    head = model.get_layer("scores")
    head.enable_lora(2)
    head.lora_kernel_b.assign(np.ones(head.lora_kernel_b.shape))
    items = np.random.default_rng(0).normal(size=(36, 12)).astype(np.float32)
    network = regraft.load(model, classes=["a", "b", "c"])
    before = network.logits(items)
    assert np.array_equal(before, model(items).detach().numpy())
    assert np.allclose(network.features(items) @ network.head.weight.T + network.head.bias, before, atol=1e-4)
    changed = regraft.retarget(network, ["c", "d", "a"])
    assert np.allclose(changed.logits(items)[:, [0, 2]], before[:, [2, 0]], atol=1e-4)
    settings = {} if strategy == "probe" else {"epochs": 1}
    for classes in (["a", "b", "c"], ["a", "d", "c"]):
        adapted = regraft.adapt(network, (items, np.array(classes * 12)), strategy=strategy, **settings).network
        adapted.save(tmp_path / classes[1])
        assert np.allclose(regraft.load(tmp_path / classes[1]).logits(items), adapted.logits(items), atol=1e-5)
    assert np.array_equal(network.logits(items), before)


class SoftmaxBehind(keras.Model):
    """A head whose softmax is a step of the model's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scores = L.Dense(8, activation="relu"), L.Dense(3)

    def call(self, inputs: Any) -> Any:
        return keras.ops.softmax(self.scores(self.body(inputs)))


def of_positions(calls: int = 1) -> Any:
    """A Dense head that reads sequences, or one that reads two vectors in turn."""
    entry, head = keras.Input((6, 4)), L.Dense(3, name="scores")
    if calls == 1:
        return keras.Model(entry, L.GlobalAveragePooling1D()(head(entry)))
    vectors = [L.Flatten()(entry), L.Flatten()(keras.ops.tanh(entry))]
    return keras.Model(entry, [head(vector) for vector in vectors])


REFUSED: dict[str, tuple[Callable[[], Any], Callable[[Network], Any], str]] = {
    "weights of another length": (
        lambda: keras.Sequential([keras.Input((12,)), L.Dense(8, activation="relu")]),
        lambda net: net.with_head(rows(3, 5)),
        r"class weights have 5 features; the network's output has 8\. Give weights of that length",
    ),
    "columns beside a sequence": (
        of_positions,
        lambda net: net.with_columns(2),
        r"'scores' reads values of shape \(None, 6, 4\); columns are joined to one vector",
    ),
    "columns beside two vectors": (
        lambda: of_positions(2),
        lambda net: net.with_columns(2),
        r"'scores' is called more than once; columns are joined to one vector",
    ),
    "a stack on probabilities": (
        SoftmaxBehind,
        lambda net: net.with_stack(rows(2, 3), "relu"),
        r"has no graph, and its result is not the logits of its head; expected a functional or Sequential model",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_changes_that_do_not_fit_are_refused(case: str) -> None:
    make, change, said = REFUSED[case]
    network = open_keras(make(), inputs=(12,) if make is SoftmaxBehind else None)
    with pytest.raises(NetworkError, match=said):
        change(network)


def test_derived_heads(tmp_path: Path) -> None:
    network = open_keras(dense_network(4, "softmax")).with_head(rows(2, 64, task="b"))
    groups = ((0, 2), (1, 3))
    network.heads["coarse"] = replace(rows(2, 4, task="coarse"), groups=groups)
    network = network.copy()
    scores = network.scores(network.sample)
    assert list(scores) == ["main", "b", "coarse"] and network.head_layers == ("scores", "b")
    same(scores["coarse"], grouped_scores(scores["main"], groups))
    outputs = opens_in_plain_keras(network, tmp_path)
    assert len(outputs) == 3
    same(outputs[2], scores["main"].softmax(1)[:, [0, 1]] + scores["main"].softmax(1)[:, [2, 3]])
    assert len(keras.saving.load_model(tmp_path / network.kind.write(network.body, tmp_path, origin={}, edits=())["file"]).outputs) == 2
    assert list(network.with_head(replace(rows(6, 64), activation="softmax")).heads) == ["main", "b"]


@pytest.mark.parametrize("activation", ["linear", "softmax", "log_softmax"])
def test_derived_heads_are_exported_as_probabilities(activation: str, tmp_path: Path) -> None:
    network = open_keras(dense_network(4, activation))
    network.heads["coarse"] = replace(rows(2, 4, task="coarse"), groups=((0, 2), (1, 3)))
    probabilities = network.scores(network.sample)["main"].softmax(1)
    _, coarse = opens_in_plain_keras(network, tmp_path)
    same(coarse, probabilities[:, [0, 1]] + probabilities[:, [2, 3]])


@pytest.mark.parametrize("name", [*WITH_GRAPH, "subclassed"])
@pytest.mark.parametrize("activation", ["relu", "softmax"])
def test_stack(name: str, activation: str, tmp_path: Path) -> None:
    network = open_keras({**WITH_GRAPH, "subclassed": examples.subclassed_network}[name]())
    if name == "dense":
        network = network.with_head(rows(2, 64, task="b"))
    raw = network.scores(network.sample)["main"]
    head = rows(3, raw.shape[1], activation="softmax")
    twin = network.with_stack(head, activation)
    read = raw.relu() if activation == "relu" else raw.softmax(1)
    same(twin.scores(twin.sample)["main"], read @ torch.from_numpy(head.weight.T) + torch.from_numpy(head.bias))
    assert list(twin.heads) == ["main"] and twin.head.features == raw.shape[1]
    same(twin.module(twin.sample), twin.scores(twin.sample)["main"].softmax(1))
    if name != "subclassed":
        same(opens_in_plain_keras(twin, tmp_path)[0], twin.module(twin.sample))


def test_ended(tmp_path: Path) -> None:
    network = open_keras(examples.nested_network())
    with pytest.raises(NetworkError, match=r"'backbone\.stm'; did you mean 'backbone\.stem'"):
        network.ended("backbone.stm")
    twin = network.ended("backbone.stem")
    assert twin.heads == {} and [layer.name for layer in twin.layers if layer.parameters] == ["stem", "stem_bn"]
    stem = network.modules()["backbone.stem_bn"](network.modules()["backbone.stem"](network.sample))
    same(twin.module(twin.sample), stem)
    same(opens_in_plain_keras(twin, tmp_path)[0], twin.module(twin.sample))
    whole = network.ended("scores")  # the logits are its features
    assert whole.heads == {}
    same(whole.feature_batch(network.sample), network.module(network.sample))
    assert twin.with_head(rows(2, 8)).scores(twin.sample)["main"].shape == (2, 2)


def test_an_addition_without_a_layer_belongs_to_the_block_that_ends() -> None:
    entry = keras.Input((4,))
    x = L.Dense(4, name="first")(entry)
    network = open_keras(keras.Model(entry, L.Dense(2, name="scores")(x + L.Dense(4, name="second")(x))))
    first, second = (network.modules()[name] for name in ("first", "second"))
    block = next(block for block in network.blocks if "second" in block.layers)
    x = first(network.sample)
    same(network.ended(block.name).module(network.sample), x + second(x))


def gray_network(channels: int, weights: list[np.ndarray]) -> Any:
    model = keras.Sequential(
        [keras.Input((6, 6, channels)), L.Conv2D(4, 3, name="stem"), L.GlobalAveragePooling2D(), L.Dense(2, name="scores")]
    )
    model.set_weights(weights)
    return model


def test_channels_are_summed_or_repeated(tmp_path: Path) -> None:
    network = open_keras(
        keras.Sequential([keras.Input((6, 6, 3)), L.Conv2D(4, 3, name="stem"), L.GlobalAveragePooling2D(), L.Dense(2, name="scores")])
    )
    kernel, *others = network.module.get_weights()
    expected = {1: kernel.sum(2, keepdims=True), 5: np.concatenate([kernel, kernel[:, :, :2]], 2) * 3 / 5}
    for count, wanted in expected.items():
        twin = network.with_channels(count)
        assert twin.input_shape == (6, 6, count) and twin.account.to_dict()["reshaped"] == ["stem"]
        assert ("summed over the 3 old channels" if count == 1 else "repeated in turn, scaled by 3/5") in twin.account.notes[0]
        same(twin.scores(twin.sample)["main"], gray_network(count, [wanted, *others])(twin.sample))
        again = keras.saving.load_model(twin.export(tmp_path / "net.keras"))
        assert isinstance(again, keras.Sequential) and again.input_shape == (None, 6, 6, count)
        same(again(twin.sample), twin.module(twin.sample))
        assert sum(block.parameters for block in twin.blocks) == sum(layer.parameters for layer in twin.layers)
    gray = torch.rand(2, 6, 6, 1)
    same(network.with_channels(1).scores(gray)["main"], network.scores(gray.expand(-1, -1, -1, 3))["main"])


def test_channels_go_through_nested_models_and_preprocessing_layers(tmp_path: Path) -> None:
    normal = L.Normalization()
    entry = keras.Input((8, 8, 3))
    normal.adapt(np.random.default_rng(0).normal([1, 2, 3], [1, 2, 3], (4, 8, 8, 3)))
    x = L.Rescaling([1.0, 2.0, 3.0])(L.ZeroPadding2D(1)(L.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0] * 3)(normal(entry))))
    x = keras.Sequential([keras.Input((None, None, 3)), L.BatchNormalization(), L.Conv2D(4, 3, name="stem")], name="stem_model")(x)
    network = open_keras(keras.Model(entry, L.Dense(2)(L.Flatten()(x))))
    for count in (1, 6):
        twin = network.with_channels(count)
        assert twin.modules()["stem_model.stem"].kernel.shape == (3, 3, count, 4)
        same(opens_in_plain_keras(twin, tmp_path)[0], twin.module(twin.sample))
    six = torch.rand(2, 8, 8, 3).repeat(1, 1, 1, 2)
    same(network.with_channels(6).scores(six)["main"], network.scores(six[..., :3])["main"])
    assert twin.with_channels(6).account.to_dict() == twin.account.to_dict()
    twin.reinitialised(0)


def test_channels_keep_free_sizes_and_named_inputs() -> None:
    entry = keras.Input((None, None, 3), name="picture")
    scores = L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(entry)))
    free = open_keras(keras.Model(entry, scores), inputs=(20, 20, 3)).with_channels(1)
    assert free.input_shape == (None, None, 1) and isinstance(free.sample, torch.Tensor) and free.sample.shape == (2, 20, 20, 1)
    named = open_keras(keras.Model({"picture": entry}, scores)).with_channels(1)
    assert isinstance(named.sample, dict) and named.sample["picture"].shape[-1] == 1 and named.input_shape == ()
    assert set(named.with_columns(2).sample) == {"picture", "columns"}


def test_channels_are_refused_where_no_convolution_reads_them() -> None:
    with pytest.raises(NetworkError, match=r"begins with Dense 'body'; expected a convolution"):
        open_keras(dense_network()).with_channels(1)
    depthwise = keras.Sequential([keras.Input((6, 6, 3)), L.DepthwiseConv2D(3, name="each"), L.Flatten(), L.Dense(2)])
    with pytest.raises(NetworkError, match=r"DepthwiseConv2D 'each'"):
        open_keras(depthwise).with_channels(1)
    with pytest.raises(NetworkError, match="Received 0 channels"):
        open_keras(map_head()).with_channels(0)
    with pytest.raises(NetworkError, match="no functional or Sequential"):
        open_keras(examples.subclassed_network()).with_channels(1)


@pytest.mark.parametrize("name", ["dense", "nested", "inside"])
def test_columns(name: str, tmp_path: Path) -> None:
    network = open_keras(WITH_GRAPH[name]())
    twin = network.with_columns(3)
    assert isinstance(twin.sample, dict) and set(twin.sample) == {"inputs", "columns"}
    assert twin.head.features == network.head.features + 3
    same(twin.scores(twin.sample)["main"], network.scores(network.sample)["main"])
    np.testing.assert_array_equal(twin.head.weight[:, -3:], 0)
    weight = twin.head.weight.copy()
    weight[0, -3:] = [1, 2, 3]
    moved = twin.with_head(replace(twin.head, weight=weight))
    batch = {"inputs": network.sample, "columns": torch.tensor([[1.0, 0, 0], [0, 1, 1]])}
    gained = moved.scores(batch)["main"] - network.scores(network.sample)["main"]
    same(gained[:, 0], torch.tensor([1.0, 5.0]))
    again = keras.saving.load_model(moved.export(tmp_path / "net.keras"))
    same(again(batch), moved.module(batch))
    with pytest.raises(NetworkError, match="'columns' already"):
        twin.with_columns(2)


def test_columns_need_one_head_of_vectors() -> None:
    with pytest.raises(NetworkError, match=r"'maps' is a Conv2D, which reads maps"):
        open_keras(map_head()).with_columns(2)
    with pytest.raises(NetworkError, match="2 columns for a network with 2 heads"):
        open_keras(dense_network()).with_head(rows(3, 64, task="b")).with_columns(2)
    entries = [keras.Input((3,), name="left"), keras.Input((4,), name="right")]
    named = open_keras(keras.Model(entries, L.Dense(2)(L.Concatenate()(entries)))).with_columns(2)
    assert isinstance(named.sample, dict) and set(named.sample) == {"left", "right", "columns"}


def two_outputs() -> Any:
    entry = keras.Input((3,))
    return keras.Model(entry, [L.Dense(4, name="first")(entry), L.Dense(5, name="second", activation="softmax")(entry)])


class TwoOutputs(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = L.Dense(4, name="first"), L.Dense(5, name="second")

    def call(self, x: Any) -> Any:
        return self.first(x), self.second(x)


def test_one_of_several_candidates_is_chosen(tmp_path: Path) -> None:
    model = two_outputs()
    model.get_layer("second").trainable = False
    network = open_keras(model, head="second", classes=list("abcde"))
    assert network.module.outputs[0].shape == (None, 5) and len(network.module.outputs) == 1 and len(model.outputs) == 2
    same(network.scores(network.sample)["main"].softmax(1), network.module(network.sample))
    network.kind.write(network.body, tmp_path, origin={}, edits=())
    assert not keras.saving.load_model(tmp_path / "network.keras").get_layer("second").trainable
    with pytest.raises(NetworkError, match=r"head='secnd'.*did you mean 'second'"):
        open_keras(model, head="secnd")
    with pytest.raises(NetworkError, match=r"'first', 'second'.*Choose one with head=, for example head='first'"):
        open_keras(model)
    entry = keras.Input((3,))
    named = open_keras(keras.Model(entry, {"z": L.Dense(2, name="q")(entry), "a": L.Dense(3, name="r")(entry)}), head="q")
    assert named.module.output_shape == (None, 2) and named.head.weight.shape == (2, 3)
    live = TwoOutputs()
    live(torch.ones(1, 3))
    read = open_keras(live, head="second")
    same(read.scores(read.sample)["main"], read.module(read.sample)[1])


def test_saved_heads_are_taken_again(tmp_path: Path) -> None:
    network = open_keras(dense_network(activation="softmax"))
    network = network.with_head(extended(network.head, 5, (40, 5))).with_head(rows(3, 64, task="b", activation="softmax"))
    network.kind.write(network.body, tmp_path, origin={}, edits=())
    facts = [
        {"task": head.task, "layer": head.layer, "activation": head.activation, "kind": head.kind, "parts": list(head.parts)}
        for head in network.heads.values()
    ]
    facts.append({"task": "coarse", "layer": "", "activation": "softmax", "groups": [[0], [1]]})
    again = open_keras(keras.saving.load_model(tmp_path / "network.keras"), heads=facts)
    assert list(again.heads) == ["main", "b"] and again.head.parts == (40, 5)
    for task, values in network.scores(network.sample).items():
        assert torch.equal(again.scores(network.sample)[task], values)
    assert open_keras(network.module, heads=[]).heads == {}
    with pytest.raises(NetworkError, match=r"'main' should be the linear layer 'scoress'; did you mean 'scores'"):
        open_keras(network.module, heads=[{**facts[0], "layer": "scoress"}])


def test_a_head_that_is_not_there_cannot_be_stacked_on() -> None:
    with pytest.raises(NetworkError, match="without a head"):
        open_keras(examples.backbone()).with_stack(rows(2, 8), "relu")
