"""Keras models without a graph of layers are read, cut, profiled and adapted by every usual strategy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regraft
from regraft.errors import NetworkError
from regraft.networks.contract import Network, Tap

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


@pytest.mark.parametrize("strategy", ["probe", "head", "full", "auto"])
@pytest.mark.parametrize("kind", [Rows, Maps])
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
