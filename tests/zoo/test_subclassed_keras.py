"""Keras models without a graph of layers are read, cut, profiled and adapted by every usual strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

import regraft
from regraft.errors import NetworkError
from regraft.networks.edits import AddedBiases
from regraft.networks.network import Network, Tap

keras = pytest.importorskip("keras")
layers = keras.layers
pytestmark = pytest.mark.filterwarnings("ignore:The network is saved, but opens only with the code")
LABELS = np.array(["a", "b", "c"] * 12)


class Rows(keras.Model):
    """Three Dense layers and a softmax."""

    shape = (8,)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = layers.Dense(16, activation="relu"), layers.Dense(12, activation="relu")
        self.last = layers.Dense(3, activation="softmax")

    def call(self, x: Any) -> Any:
        return self.last(self.second(self.first(x)))


class Residual(layers.Layer):
    """What it gives is more than what the last layer in it gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = layers.Conv2D(6, 3, padding="same"), layers.BatchNormalization()

    def call(self, x: Any, training: bool = False) -> Any:
        return keras.ops.relu(self.norm(self.conv(x), training=training)) + x


class Maps(keras.Model):
    """Residual blocks, and a weight that no layer holds."""

    shape = (12, 12, 3)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.one, self.two = layers.Conv2D(6, 3), Residual(), Residual()
        self.pool, self.last = layers.GlobalAveragePooling2D(), layers.Dense(3)
        self.scale = self.add_weight(shape=(6,), initializer="ones")

    def call(self, x: Any, training: bool = False) -> Any:
        x = self.one(self.stem(x) * self.scale, training=training)
        return self.last(self.pool(self.two(x, training=training)))


def opened(kind: Any) -> tuple[Network, np.ndarray]:
    keras.utils.clear_session()
    keras.utils.set_random_seed(0)
    items = np.random.default_rng(0).normal(size=(36, *kind.shape)).astype(np.float32)
    items += (np.arange(36) % 3).reshape(-1, *(1,) * len(kind.shape))
    return regraft.load(kind(), inputs=kind.shape), items


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        *((Rows, strategy) for strategy in ("probe", "head", "full", "auto")),
        *(
            pytest.param(Maps, strategy, marks=() if strategy == "full" else pytest.mark.slow)
            for strategy in ("probe", "head", "full", "auto")
        ),
    ],
)
def test_it_is_adapted_and_opened_again_with_its_class(kind: Any, strategy: str, tmp_path: Path) -> None:
    net, items = opened(kind)
    before = {name: values.clone() for name, values in net.state().items()}
    settings: dict[str, Any] = {} if strategy == "probe" else {"epochs": 1, "batch_size": 12}
    result = regraft.adapt(net, (items, LABELS), strategy=strategy, cache="memory", **settings)
    assert all((values == before[name]).all() for name, values in net.state().items())
    result.network.save(tmp_path / "saved")
    keras.utils.clear_session()  # as in a new process, where names are numbered from 0
    again = regraft.load(tmp_path / "saved", architecture=kind)
    assert np.allclose(again.logits(items), result.network.logits(items), atol=1e-5)
    assert again.classes == ("a", "b", "c")


def test_a_block_ends_with_all_of_its_own_code() -> None:
    net, items = opened(Maps)
    first = net.ended(net.blocks[1].name)
    expected = first.module.one(first.module.stem(items) * first.module.scale).mean((1, 2)).detach().cpu().numpy()
    assert np.allclose(first.features(items), expected, atol=1e-5)
    tapped = net.tapped([Tap(net.blocks[1].name, ("mean",)), Tap("input", ("mean",))])
    assert np.allclose(tapped.features(items)[:, :6], expected, atol=1e-5)
    assert [(part.block, part.stop) for part in tapped.body.tap_slices] == [(net.blocks[1].name, 6), ("input", 9)]
    assert set(tapped.state()) == set(net.state())
    assert type(net.module).call is Maps.call


class Positions(layers.Layer):
    """Token and position, as tutorials write them."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = layers.Embedding(20, 8), layers.Embedding(9, 8)

    def call(self, x: Any) -> Any:
        return self.token(x) + self.place(keras.ops.arange(9))


class Encoder(layers.Layer):
    """Attention, and a Sequential model inside a layer without a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm = layers.MultiHeadAttention(2, 8), layers.LayerNormalization()
        self.forward_part = keras.Sequential([layers.Dense(16, activation="relu"), layers.Dense(8)])

    def call(self, x: Any) -> Any:
        return self.norm(x + self.forward_part(x + self.attention(x, x)))


def test_a_graph_is_read_at_blocks_inside_own_layers() -> None:
    keras.utils.set_random_seed(0)
    entry = keras.Input((9,), dtype="int32")
    pooled = layers.GlobalAveragePooling1D()(Encoder()(Positions()(entry)))
    net = regraft.load(keras.Model(entry, layers.Dense(3)(pooled)))
    rows = np.random.default_rng(0).integers(0, 20, (36, 9))
    tapped = net.tapped([Tap(block.name, ("mean",)) for block in net.blocks[:-1]])
    assert tapped.features(rows).shape == (36, 8 * (len(net.blocks) - 1))
    inside = next(block.name for block in net.blocks if "." in block.name)
    ended = regraft.cut(net, inside)
    assert np.allclose(ended.features(rows), tapped.features(rows)[:, :8], atol=1e-6)
    result = regraft.adapt(net, (rows, LABELS), strategy="probe", cache="memory")
    assert result.network.predict(rows).probabilities.shape == (36, 3)


class Tied(layers.Layer):
    """Logits of the vocabulary by the embedding that read the tokens, which the graph calls by itself too."""

    def __init__(self, embedding: Any) -> None:
        super().__init__()
        self.embedding = embedding

    def call(self, x: Any) -> Any:
        return x @ keras.ops.transpose(self.embedding.embeddings)


def test_a_layer_that_the_graph_calls_itself_ends_where_it_is_called() -> None:
    entry, embedding = keras.Input((9,), dtype="int32"), layers.Embedding(20, 8)
    first = embedding(entry)
    hidden = layers.GlobalAveragePooling1D()(layers.Dense(8, activation="relu")(first))
    net = regraft.load(keras.Model(entry, layers.Dense(3)(Tied(embedding)(hidden))))
    rows = np.random.default_rng(0).integers(0, 20, (4, 9))
    expected = keras.Model(entry, first)(rows).mean(1).detach().numpy()
    assert np.allclose(regraft.cut(net, net.blocks[0].name).features(rows), expected, atol=1e-6)


class Mixed(keras.Model):
    """Token ids and numbers in one mapping."""

    inputs_by_name: ClassVar = {"words": (7,), "numbers": (3,)}

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.side = layers.Embedding(20, 8), layers.Dense(6, activation="relu")
        self.mix, self.last = layers.Dense(12, activation="relu"), layers.Dense(3)

    def call(self, inputs: Any) -> Any:
        read = [keras.ops.mean(self.embed(inputs["words"]), 1), self.side(inputs["numbers"])]
        return self.last(self.mix(keras.ops.concatenate(read, 1)))


class Headless(Mixed):
    """Features alone."""

    def call(self, inputs: Any) -> Any:
        read = [keras.ops.mean(self.embed(inputs["words"]), 1), self.side(inputs["numbers"])]
        return keras.ops.tanh(self.mix(keras.ops.concatenate(read, 1)))


@pytest.mark.parametrize(
    ("kind", "strategy"),
    [
        *((Mixed, strategy) for strategy in ("probe", "full", "auto")),
        *(pytest.param(Headless, strategy, marks=() if strategy == "auto" else pytest.mark.slow) for strategy in ("probe", "full", "auto")),
    ],
)
def test_inputs_in_one_mapping(kind: Any, strategy: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    draw = np.random.default_rng(0)
    items = {"words": draw.integers(0, 20, (36, 7)), "numbers": draw.normal(size=(36, 3)).astype(np.float32)}
    model = kind()
    net = regraft.load(model, inputs=kind.inputs_by_name)
    assert {name: tensor.is_floating_point() for name, tensor in net.sample.items()} == {"words": False, "numbers": True}
    settings: dict[str, Any] = {} if strategy == "probe" else {"epochs": 1, "batch_size": 12}
    result = regraft.adapt(net, (items, LABELS), strategy=strategy, cache="memory", **settings)
    result.network.save(tmp_path / "saved")
    keras.utils.clear_session()  # as in a new process, where names are numbered from 0
    again = regraft.load(tmp_path / "saved", architecture=kind)
    assert np.allclose(again.logits(items), result.network.logits(items), atol=1e-5)
    assert {name: tensor.dtype for name, tensor in again.sample.items()} == {name: tensor.dtype for name, tensor in net.sample.items()}


def test_a_model_that_was_called_on_a_mapping_states_its_shapes() -> None:
    model = Mixed()
    items = {"words": np.zeros((2, 7), np.int64), "numbers": np.ones((2, 3), np.float32)}
    expected = model(items).detach().numpy()
    net = regraft.load(model)
    assert np.allclose(net.logits(items), expected, atol=1e-6)


def test_inputs_that_are_missing_or_unknown_are_named() -> None:
    with pytest.raises(NetworkError, match=r"such as inputs=\(224, 224, 3\), or inputs=\{"):
        regraft.load(Mixed())
    with pytest.raises(NetworkError, match=r"(?s)received examples of shape \{'words': \(7,\), 'number': \(3,\)\}.*numbers"):
        regraft.load(Mixed(), inputs={"words": (7,), "number": (3,)})
    graph = keras.Sequential([keras.Input((None,), dtype="int32", name="ids"), layers.Embedding(20, 8), layers.GlobalAveragePooling1D()])
    assert regraft.load(graph, inputs={"ids": (5,)}).sample.shape == (2, 5)
    with pytest.raises(NetworkError, match=r"takes no input 'idz'.*'ids'"):
        regraft.load(graph, inputs={"idz": (5,)})


def test_the_profile_measures_every_depth() -> None:
    net, items = opened(Rows)
    assert [depth.block for depth in regraft.profile(net, (items, LABELS)).depths][:3] == [
        "input",
        *(block.name for block in net.blocks[:2]),
    ]


def test_one_that_was_cut_is_saved_and_opened_with_its_class(tmp_path: Path) -> None:
    net, items = opened(Maps)
    cut = regraft.cut(net, net.blocks[1].name)
    cut.save(tmp_path / "cut")
    assert np.array_equal(regraft.load(tmp_path / "cut", architecture=Maps).features(items), cut.features(items))


class Registered(Rows):
    """One that Keras can make of its own accord."""

    def __init__(self, **_given: Any) -> None:
        super().__init__()


def test_a_registered_class_that_was_cut_is_not_opened_whole(tmp_path: Path) -> None:
    net, _ = opened(Registered)
    regraft.cut(net, net.blocks[0].name).save(tmp_path / "cut")
    with keras.saving.custom_object_scope({"Registered": Registered}), pytest.raises(NetworkError, match=r"No file holds .*architecture="):
        regraft.load(tmp_path / "cut")


class Scaled(layers.Layer):
    """A layer of the user's own, in a functional model."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=(shape[-1], 16), name="scale")

    def call(self, x: Any) -> Any:
        return keras.ops.tanh(x @ self.scale)


def of_own_layers() -> Any:
    return keras.Sequential([keras.Input((8,)), Scaled(), layers.Lambda(lambda x: 2 * x), layers.Dense(3, activation="softmax")])


@pytest.mark.parametrize("make", [Rows, Maps, of_own_layers])
def test_the_numbers_in_names_that_keras_makes_do_not_count(make: Any, tmp_path: Path) -> None:
    shape = getattr(make, "shape", (8,))
    net = regraft.load(make(), inputs=shape)
    items = np.random.default_rng(0).normal(size=(36, *shape)).astype(np.float32)
    tapped = net.tapped([Tap("input", ("mean",)), Tap(net.blocks[0].name, ("mean",))])
    changed = regraft.retarget(tapped, ["a", "b", "c"], start="random")
    changed.save(tmp_path / "saved")
    assert np.array_equal(regraft.load(tmp_path / "saved", architecture=make).logits(items), changed.logits(items))


def test_an_architecture_of_other_layers_is_refused(tmp_path: Path) -> None:
    net, items = opened(Rows)
    regraft.adapt(net, (items, LABELS), strategy="probe", cache="memory").network.save(tmp_path / "saved")
    with pytest.raises(NetworkError, match="cannot be opened"):
        regraft.load(tmp_path / "saved", architecture=of_own_layers)


OWN_CODE = {
    "a class": (Rows, "Rows"),
    "a layer": (lambda: keras.Sequential([keras.Input((8,)), Scaled(), layers.Dense(3)]), "Scaled"),
    "a function": (lambda: keras.Sequential([keras.Input((8,)), layers.Lambda(lambda x: 2 * x), layers.Dense(3)]), "Lambda"),
}


@pytest.mark.parametrize("kind", OWN_CODE)
def test_saving_says_what_a_folder_needs_to_be_opened(kind: str, tmp_path: Path) -> None:
    make, name = OWN_CODE[kind]
    net = regraft.load(make(), inputs=(8,))
    with pytest.warns(UserWarning, match=rf"opens only with the code of its layers: .*{name}.*regraft\.load\(folder, architecture="):
        net.save(tmp_path / "net")
    with pytest.raises(NetworkError, match=r"architecture="):
        regraft.load(tmp_path / "net")
    assert regraft.load(tmp_path / "net", architecture=make).logits(np.zeros((2, 8))).shape == (2, 3)


def without_bias() -> Any:
    entry = keras.Input((8,))
    values = Scaled()(layers.Dense(6, use_bias=False, name="plain")(entry))
    return keras.Model(entry, layers.Dense(3, name="scores")(values))


def test_a_layer_that_gained_a_bias_is_opened_with_the_code_of_the_model(tmp_path: Path) -> None:
    net = regraft.load(without_bias())
    changed = net.adjusted(net.points(), form="film")
    for name, parameter in changed.layer_parameters()["adjusted_plain"].items():
        parameter.data += 0.5 if name.endswith(".b") else 0.25
    settled = changed.settled()
    assert settled.edits == (AddedBiases(("plain",)),)
    settled.save(tmp_path / "saved")
    again = regraft.load(tmp_path / "saved", architecture=without_bias)
    items = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    assert again.edits == settled.edits and np.array_equal(again.logits(items), settled.logits(items))
    assert np.allclose(settled.logits(items), changed.logits(items), atol=1e-5) and not np.allclose(again.logits(items), net.logits(items))
