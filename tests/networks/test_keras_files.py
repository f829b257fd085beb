"""Keras files: opened safely, weights put where they belong."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("keras")
pytest.importorskip("h5py")

import h5py
from keras.src.legacy.saving import legacy_h5_format

from regraft.errors import AmbiguousMatchError, NetworkError, UnsafeFileError
from regraft.networks.keras.family import open_keras
from regraft.networks.keras.library import keras
from regraft.networks.sources.keras_files import is_full_model, open_keras_file
from regraft.networks.sources.keras_weights import put_keras_weights_, read_keras_weights

_spec = importlib.util.spec_from_file_location("keras_examples", Path(__file__).with_name("keras_examples.py"))
assert _spec is not None and _spec.loader is not None
examples = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(examples)

L = keras.layers
FIXTURES = Path(__file__).parents[1] / "fixtures"
LAYOUTS = ["w.weights.h5", "old.hdf5", "full.keras", "full.h5"]


def written(model: Any, path: Path) -> Path:
    """Write a model's weights in the layout that the file's name stands for."""
    if path.name == "old.hdf5":
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, model)
    elif path.name == "w.weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    return path


def dense_network(names: list[str | None]) -> Any:
    hidden = [L.Dense(64, activation="relu", name=name) for name in names]
    return keras.Sequential([keras.Input((10,)), *hidden, L.Dense(5, activation="softmax")])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_forty_speakers_into_fifteen(layout: str, tmp_path: Path) -> None:
    source = examples.speaker_network(40)
    network = open_keras(examples.speaker_network(15))
    account = put_keras_weights_(network.body, written(source, tmp_path / layout)).to_dict()
    head = network.head.layer
    assert account["reshaped"] == [f"{head}.kernel", f"{head}.bias"]
    assert len(account["matched"]) == 16 and "missing" not in account and "unexpected" not in account
    for given, taken in zip(source.layers[:-1], network.module.layers[:-1], strict=True):
        for one, two in zip(given.weights, taken.weights, strict=True):
            assert torch.equal(one.value, two.value)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ["text", "nested", "convolution"])
def test_same_architecture_gives_the_same_output(layout: str, name: str, tmp_path: Path) -> None:
    source = examples.WITH_HEAD[name]()
    network = open_keras(examples.WITH_HEAD[name]())
    account = put_keras_weights_(network.body, written(source, tmp_path / layout)).to_dict()
    assert set(account) == {"matched", "rules"}
    torch.testing.assert_close(network.module(network.sample), source(network.sample))


@pytest.mark.parametrize("named", [True, False])
@pytest.mark.parametrize("layout", ["w.weights.h5", "old.hdf5"])
def test_weights_of_an_inner_base_go_into_the_model_around_it(layout: str, named: bool, tmp_path: Path) -> None:
    """Also where Keras has numbered the layers, and the numbers differ."""

    def base() -> Any:
        entry = keras.Input((8, 8, 3))
        maps = L.Conv2D(4, 3, name="conv" if named else None)(entry)
        return keras.Model(entry, L.BatchNormalization(name="norm" if named else None)(maps))

    source = base()
    wrapped = keras.Sequential([keras.Input((8, 8, 3)), base(), L.GlobalAveragePooling2D(), L.Dense(3, name="out")])
    network = open_keras(wrapped)
    account = put_keras_weights_(network.body, written(source, tmp_path / layout)).to_dict()
    assert len(account["matched"]) == len(source.weights) and account["missing"] == ["out.kernel", "out.bias"]
    sample = torch.rand(2, 8, 8, 3)
    torch.testing.assert_close(network.feature_batch(sample), source(sample).mean((1, 2)))


def test_weights_that_two_inner_bases_could_take_are_refused(tmp_path: Path) -> None:
    def base() -> Any:
        return keras.Sequential([keras.Input((4,)), L.Dense(6), L.Dense(5)])

    path, entry = written(base(), tmp_path / "w.weights.h5"), keras.Input((4,))
    network = open_keras(keras.Model(entry, L.Dense(3, name="out")(L.Add()([base()(entry), base()(entry)]))))
    with pytest.raises(NetworkError, match="No weight of the file fits"):
        put_keras_weights_(network.body, path)


def test_subclassed_weights(tmp_path: Path) -> None:
    source = examples.subclassed_network()
    network = open_keras(examples.subclassed_network())
    put_keras_weights_(network.body, written(source, tmp_path / "w.weights.h5"))
    torch.testing.assert_close(network.module(network.sample), source(network.sample))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_inserted_equal_layer_is_ambiguous(layout: str, tmp_path: Path) -> None:
    path = written(dense_network([None] * 3), tmp_path / layout)
    network = open_keras(dense_network([None] * 4))
    before = {key: value.clone() for key, value in network.state().items()}
    with pytest.raises(AmbiguousMatchError, match=r"in 3 ways.*could be.*Nothing was taken"):
        put_keras_weights_(network.body, path)
    assert all(torch.equal(before[key], value) for key, value in network.state().items())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_users_own_names_win(layout: str, tmp_path: Path) -> None:
    path = written(dense_network(["a", "b", "c"]), tmp_path / layout)
    account = put_keras_weights_(open_keras(dense_network(["a", "new", "b", "c"])).body, path).to_dict()
    assert account["missing"] == ["new.kernel", "new.bias"]
    assert account["rules"]["b.kernel"] == "same name"


def test_other_names_of_the_same_classes_match_by_place(tmp_path: Path) -> None:
    source = dense_network(["a", "b", "c"])
    network = open_keras(dense_network(["x", "y", "z"]))
    account = put_keras_weights_(network.body, written(source, tmp_path / "w.weights.h5")).to_dict()
    assert set(account["rules"].values()) == {"same place among the layers of its class"}
    torch.testing.assert_close(network.module(network.sample), source(network.sample))


def test_a_file_of_another_network_is_refused(tmp_path: Path) -> None:
    path = written(examples.text_network(), tmp_path / "w.weights.h5")
    with pytest.raises(NetworkError, match=r"No weight of the file fits.*begins with.*the network with"):
        put_keras_weights_(open_keras(keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(2, 3, name="only"), L.Flatten()])).body, path)


def test_model_written_by_keras_2() -> None:
    """The fixture was written by tf_keras 2.21: Conv2D, pooling, dropout, batch normalisation and Dense, trained for two steps."""
    path = FIXTURES / "keras2_cnn.h5"
    with np.load(FIXTURES / "keras2_cnn.npz") as known:
        model = open_keras_file(path)
        np.testing.assert_allclose(model(known["inputs"]).detach().numpy(), known["outputs"], atol=1e-5)
        network = open_keras(keras.models.clone_model(model))
        put_keras_weights_(network.body, path)
        np.testing.assert_allclose(network.module(known["inputs"]).detach().numpy(), known["outputs"], atol=1e-5)
    assert [weight.name for weight in read_keras_weights(path)][:2] == ["conv2d.kernel", "conv2d.bias"]


def test_settings_that_only_keras_2_knows_are_dropped(tmp_path: Path) -> None:
    source = keras.Sequential([keras.Input((4, 3)), L.LSTM(2), L.Dense(2)])
    path = written(source, tmp_path / "full.h5")
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"go_backwards"', '"time_major": false, "go_backwards"')
    model = open_keras_file(path)
    torch.testing.assert_close(model(torch.ones(2, 4, 3)), source(torch.ones(2, 4, 3)))


@pytest.mark.parametrize("layout", ["full.keras", "full.h5"])
def test_lambda_layers_are_refused_without_running(layout: str, tmp_path: Path) -> None:
    path = written(keras.Sequential([keras.Input((3,)), L.Lambda(lambda x: x * 2, name="twice"), L.Dense(2)]), tmp_path / layout)
    with pytest.raises(UnsafeFileError, match=r"Lambda 'twice'.*Rebuild the architecture.*weights="):
        open_keras_file(path)


class Own(keras.layers.Layer):
    def call(self, x: Any) -> Any:
        return x


@pytest.mark.parametrize("layout", ["full.keras", "full.h5"])
def test_unknown_classes_are_named(layout: str, tmp_path: Path) -> None:
    path = written(keras.Sequential([keras.Input((3,)), Own(), L.Dense(2)]), tmp_path / layout)
    with pytest.raises(NetworkError, match=r"Own.*regraft\.load\(model, weights="):
        open_keras_file(path)


@pytest.mark.parametrize("layout", ["w.weights.h5", "old.hdf5"])
def test_weights_alone_are_not_a_model(layout: str, tmp_path: Path) -> None:
    path = written(examples.text_network(), tmp_path / layout)
    assert not is_full_model(path)
    with pytest.raises(NetworkError, match=r"without an architecture.*weights="):
        open_keras_file(path)


@pytest.mark.parametrize("layout", ["full.keras", "full.h5"])
def test_full_models(layout: str, tmp_path: Path) -> None:
    source = examples.nested_network()
    path = written(source, tmp_path / layout)
    assert is_full_model(path)
    sample = torch.ones(2, 16, 16, 3)
    torch.testing.assert_close(open_keras_file(path)(sample), source(sample))


def test_broken_and_missing_files(tmp_path: Path) -> None:
    broken = tmp_path / "broken.keras"
    broken.write_bytes(b"no zip")
    with pytest.raises(NetworkError, match=r"broken.keras' cannot be read as a Keras model"):
        open_keras_file(broken)
    other = tmp_path / "broken.h5"
    other.write_bytes(b"no hdf5")
    with pytest.raises(NetworkError, match=r"broken.h5' cannot be read as a Keras file"):
        read_keras_weights(other)
    with pytest.raises(NetworkError, match=r"none.keras' cannot be opened: No such file"):
        open_keras_file(tmp_path / "none.keras")
    with h5py.File(tmp_path / "empty.h5", "w"):
        pass
    with pytest.raises(NetworkError, match="holds no weights"):
        read_keras_weights(tmp_path / "empty.h5")


def test_lists_that_keras_writes_in_parts_are_joined(tmp_path: Path) -> None:
    source, network = dense_network(["first", "second"]), open_keras(dense_network(["first", "second"]))
    path = written(source, tmp_path / "old.hdf5")
    with h5py.File(path, "r+") as file:
        for group, name in ((file, "layer_names"), (file["first"], "weight_names")):
            whole = group.attrs[name]
            del group.attrs[name]
            group.attrs[f"{name}10"], group.attrs[f"{name}9"] = whole[1:], whole[:1]
    assert len(put_keras_weights_(network.body, path).entries["matched"]) == 6
    assert all(np.array_equal(one, other) for one, other in zip(source.get_weights(), network.module.get_weights(), strict=True))


@pytest.mark.skipif(np.longdouble(0).itemsize == 8, reason="no number here is longer than 8 bytes")
def test_numbers_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    path = written(dense_network(["first"]), tmp_path / "old.hdf5")
    with h5py.File(path, "r+") as file:
        name = np.asarray(file["first"].attrs["weight_names"]).astype(str)[0]
        del file["first"][name]
        file["first"].create_dataset(name, data=np.zeros((10, 64), np.longdouble))
    with pytest.raises(NetworkError, match=r"float\d+; expected float32"):
        read_keras_weights(path)
