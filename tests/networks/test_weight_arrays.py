"""Weights out of arrays: `.npz` and MATLAB's `.mat`, by name or in order, for both families; pickles are refused."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from torch import nn

import regraft
from regraft.errors import AmbiguousMatchError, NetworkError, RegraftError, UnsafeFileError

keras = pytest.importorskip("keras")
ROWS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def torch_stack(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))


def keras_stack(seed: int) -> object:
    keras.utils.set_random_seed(seed)
    layers = keras.layers
    stack = [keras.Input((4,)), layers.Dense(6, activation="tanh", name="low"), layers.Dense(3, name="top", bias_initializer="uniform")]
    return keras.Sequential(stack)


STACKS = {"torch": torch_stack, "keras": keras_stack}


def _arrays(module: object) -> dict[str, np.ndarray]:
    if isinstance(module, nn.Module) and not isinstance(module, keras.Model):
        return {name: values.numpy().copy() for name, values in module.state_dict().items()}
    return {
        f"{layer.name}.{kind}": np.array(values)
        for layer in module.layers  # type: ignore[attr-defined]
        for kind, values in zip(("kernel", "bias"), layer.get_weights(), strict=False)
    }


def _npz(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    np.savez(path.with_suffix(".npz"), **arrays)
    return path.with_suffix(".npz")


def _mat(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    scipy.io.savemat(path.with_suffix(".mat"), {("x" + name).replace(".", "_"): values for name, values in arrays.items()})
    return path.with_suffix(".mat")


WAYS: dict[str, Callable[[Path, dict[str, np.ndarray]], Path]] = {
    "names": _npz,
    "names with slashes": lambda path, arrays: _npz(path, {name.replace(".", "/"): values for name, values in arrays.items()}),
    "in order": lambda path, arrays: _npz(path, {f"arr_{at}": values for at, values in enumerate(arrays.values())}),
    "the other way round": lambda path, arrays: _npz(path, {name: values.T for name, values in arrays.items()}),
    "double precision": lambda path, arrays: _npz(path, {name: values.astype(np.float64) for name, values in arrays.items()}),
    "matlab": _mat,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("family", STACKS)
def test_arrays_make_the_same_network(family: str, way: str, tmp_path: Path) -> None:
    wanted = STACKS[family](1)
    path = WAYS[way](tmp_path / "weights", _arrays(wanted))
    net = regraft.load(STACKS[family](0), weights=path, inputs=(4,))
    np.testing.assert_allclose(net.logits(ROWS), regraft.load(wanted, inputs=(4,)).logits(ROWS), atol=1e-6)
    told = net.account.to_dict()
    assert len(told["matched"]) == 4 and not told.get("missing") and not told.get("unexpected")
    assert bool([note for note in net.account.notes if "transposed" in note]) == (way == "the other way round")


def torch_thin() -> nn.Module:
    return nn.Sequential(nn.Conv1d(3, 4, 1), nn.Tanh(), nn.Conv1d(4, 1, 1), nn.Flatten(), nn.Linear(5, 1))


def keras_thin() -> object:
    layers = keras.layers
    return keras.Sequential([keras.Input((5, 3)), layers.Conv1D(4, 1), layers.Conv1D(1, 1), layers.Flatten(), layers.Dense(1)])


@pytest.mark.parametrize("family", STACKS)
def test_sides_of_one_are_those_of_the_network(family: str, tmp_path: Path) -> None:
    """MATLAB makes matrices of vectors, and drops sides of 1 at the end."""
    make, shape = (torch_thin, (3, 5)) if family == "torch" else (keras_thin, (5, 3))
    torch.manual_seed(1)
    wanted, items = make(), np.random.default_rng(0).normal(size=(6, *shape)).astype(np.float32)
    arrays = {name: values[..., 0] if values.shape[2:] == (1,) else values for name, values in _arrays(wanted).items()}
    other = make()
    places = dict(zip(_arrays(wanted), _arrays(other), strict=True))  # Keras numbers its layers
    net = regraft.load(other, weights=_mat(tmp_path / "w", {places[name]: values for name, values in arrays.items()}), inputs=shape)
    assert len(net.account.to_dict()["matched"]) == 6
    np.testing.assert_allclose(net.logits(items), regraft.load(wanted, inputs=shape).logits(items), atol=1e-6)


@pytest.mark.parametrize("form", [".npz", ".weights.h5"])
def test_a_normalisation_of_keras_is_filled(form: str, tmp_path: Path) -> None:
    """One of its weights is a single number, and it computes with values made of them."""
    layers = keras.layers
    models = [keras.Sequential([keras.Input((4,)), layers.Normalization(), layers.Dense(3)]) for _ in range(2)]
    models[0].layers[0].adapt(ROWS)
    net = regraft.load(models[0])
    if form == ".npz":
        path = _npz(tmp_path / "x", {name: values.numpy() for name, values in net.state().items()})
    else:
        path = Path(net.export(tmp_path / f"x{form}"))
    np.testing.assert_allclose(regraft.load(models[1], weights=path).logits(ROWS), net.logits(ROWS), atol=1e-6)


def test_square_matrices_are_told(tmp_path: Path) -> None:
    path = _npz(tmp_path / "w", {"0.weight": np.eye(4, dtype=np.float32), "0.bias": np.ones(4, np.float32)})
    net = regraft.load(nn.Sequential(nn.Linear(4, 4)), weights=path, inputs=(4,))
    assert any("all matrices are square" in note for note in net.account.notes)


def _objects(path: Path) -> Path:
    np.savez(path.with_suffix(".npz"), w=np.array([{"a": 1}], dtype=object))
    return path.with_suffix(".npz")


def _bomb(path: Path) -> Path:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("w.npy", bytes(2**28))
    return path.with_suffix(".npz")


def _declared(path: Path) -> Path:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }"
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("w.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    return path.with_suffix(".npz")


def _outside(path: Path) -> Path:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive:
        archive.writestr("../w.npy", b"")
    return path.with_suffix(".npz")


def _pickled(path: Path) -> Path:
    path.with_suffix(".pkl.gz").write_bytes(pickle.dumps([1]))
    return path.with_suffix(".pkl.gz")


def _cells(path: Path) -> Path:
    scipy.io.savemat(path.with_suffix(".mat"), {"w": np.array([[1.0, "a"]], dtype=object)})
    return path.with_suffix(".mat")


def _text(path: Path) -> Path:
    path.with_suffix(".mat").write_bytes(b"MATLAB 5.0 MAT-file" + bytes(200))
    return path.with_suffix(".mat")


HOSTILE: dict[str, tuple[Callable[[Path], Path], type[RegraftError], str]] = {
    "objects": (_objects, UnsafeFileError, "holds objects, which are a pickle"),
    "an archive that grows": (_bomb, NetworkError, "made to fill the memory"),
    "declared and not there": (_declared, NetworkError, "and holds"),
    "a place outside": (_outside, UnsafeFileError, "outside the archive"),
    "a pickle": (_pickled, UnsafeFileError, r"scikit-learn: to_onnx of skl2onnx.*theanets\.Network\.load.*numpy\.savez"),
    "cells": (_cells, NetworkError, "w: cell"),
    "no file of MATLAB": (_text, NetworkError, "weights file of arrays|no arrays"),
    "too few": (
        lambda path: _npz(path, {"arr_0": ROWS}),
        NetworkError,
        r"1 array without names; expected 4, in this order: 0\.weight \(6, 4\)",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name: str, tmp_path: Path) -> None:
    make, kind, message = HOSTILE[name]
    path = make(tmp_path / "weights")
    with pytest.raises(kind, match=message):
        regraft.load(torch_stack(0), weights=path, inputs=(4,))


def test_sides_of_1_between_others_say_the_order_of_axes(tmp_path: Path) -> None:
    own, other = (nn.Sequential(nn.Conv2d(1, 3, 3), nn.Flatten(), nn.Linear(12, 2)) for _ in range(2))
    arrays = _arrays(own)
    arrays["0.weight"] = arrays["0.weight"].transpose(2, 3, 1, 0)  # height, width, input, output: (3, 3, 1, 3) for (3, 1, 3, 3)
    np.savez(tmp_path / "turned.npz", **arrays)
    found = regraft.load(other, inputs=(1, 4, 4), weights=tmp_path / "turned.npz")
    assert "0.weight" not in found.account.entries["matched"]
    np.testing.assert_array_equal(found.state()["0.weight"].numpy(), other.state_dict()["0.weight"].numpy())


def _of_version_3(path: Path) -> Path:
    with zipfile.ZipFile(path.with_suffix(".npz"), "w") as archive, archive.open("w.npy", "w") as part:
        np.lib.format.write_array(part, np.zeros(3), version=(3, 0))
    return path.with_suffix(".npz")


REFUSED: dict[str, tuple[Callable[[Path], Path], type[Exception], str]] = {
    "no arrays": (lambda path: _npz(path, {}), NetworkError, "holds no arrays"),
    "another version": (_of_version_3, NetworkError, r"version \(3, 0\); expected one of"),
    "other shapes": (lambda path: _npz(path, {"a.weight": np.zeros((9, 9))}), NetworkError, r"The file begins with 'a\.weight' \(9, 9\)"),
    "two ways": (
        lambda path: _npz(path, {f"{name}.weight": np.zeros((4, 4)) for name in "ab"}),
        AmbiguousMatchError,
        "fit the network in 6 ways",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_arrays_that_fit_nowhere_are_refused(name: str, tmp_path: Path) -> None:
    written, kind, message = REFUSED[name]
    stack = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(4)))
    with pytest.raises(kind, match=message):
        regraft.load(stack, weights=written(tmp_path / "w"), inputs=(4,))
