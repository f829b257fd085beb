"""ONNX files whose weights lie in a file beside them: written above the size that one file holds, read from there and nowhere else."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import regraft
from regraft.errors import NetworkError, RegraftError, UnsafeFileError
from regraft.exchange.served import serve
from regraft.files import onnx_form
from regraft.networks import onnx_files
from regraft.networks.onnx import reading

pytest.importorskip("onnx2pytorch")
runtime = pytest.importorskip("onnxruntime")
keras = pytest.importorskip("keras")
ABC = ["a", "b", "c"]
ROWS = np.random.default_rng(0).normal(size=(9, 40)).astype(np.float32)


def _net(family: str, seed: int = 0) -> regraft.Network:
    torch.manual_seed(seed)
    keras.utils.set_random_seed(seed)
    layers = [keras.layers.Dense(30, activation="relu"), keras.layers.Dense(20, activation="relu"), keras.layers.Dense(3)]
    own = nn.Sequential(nn.Linear(40, 30), nn.ReLU(), nn.Linear(30, 20), nn.ReLU(), nn.Linear(20, 3))
    measured = {"kind": "array", "shape": [40], "mean": [0.5] * 40, "std": [2.0] * 40}
    module = keras.Sequential([keras.Input((40,)), *layers]) if family == "keras" else own
    return regraft.load(module, classes=ABC, inputs=(40,), preprocessing=measured)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """One file holds next to nothing, as if the networks were larger than 2 GiB."""
    monkeypatch.setattr(onnx_form, "LARGEST", 2000)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("inside", [False, True], ids=["beside", "inside"])
@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_large_network_is_written_as_two_files_and_read_back(family: str, inside: bool, tmp_path: Path) -> None:
    net, path = _net(family), tmp_path / "x.onnx"
    expected = net.predict(ROWS).probabilities
    net.export(path, preprocessing=inside)
    (weights,) = set(tmp_path.iterdir()) - {path}
    assert weights.name.startswith("x.onnx.") and weights.suffix == ".data" and weights.stat().st_size == 4 * (40 * 30 + 30 * 20)
    onnx.checker.check_model(str(path))
    given = ROWS if inside else (ROWS - 0.5) / 2
    (plain,) = runtime.InferenceSession(path).run(["probabilities"], {"input": given})
    np.testing.assert_allclose(plain, expected, atol=1e-6)
    np.testing.assert_allclose(serve(path).predict(ROWS).probabilities, expected, atol=1e-6)
    if not inside:
        found = regraft.load(path)
        np.testing.assert_allclose(found.predict(ROWS).probabilities, expected, atol=1e-6)
        weights.unlink()  # the saved folder is whole without it
        assert regraft.load(found.save(tmp_path / "kept")).predict(ROWS).labels == net.predict(ROWS).labels


@pytest.mark.usefixtures("small")
def test_an_export_that_is_interrupted_leaves_the_former_network_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, (before, after) = tmp_path / "x.onnx", (_net("torch", seed) for seed in (0, 1))
    before.export(path)

    def stopped(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(onnx_files, "write_bytes", stopped)
        for place in (path, tmp_path / "y.onnx"):
            with pytest.raises(KeyboardInterrupt):
                after.export(place)
    assert not (tmp_path / "y.onnx").exists()
    np.testing.assert_allclose(serve(path).logits(ROWS), before.logits(ROWS), atol=1e-5)
    after.export(path)
    np.testing.assert_allclose(serve(path).logits(ROWS), after.logits(ROWS), atol=1e-5)
    assert len(list(tmp_path.glob("x.onnx.*.data"))) == 1


@pytest.mark.skipif(os.name == "nt", reason="file names of POSIX")
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", ["a:b.onnx", "a\\b.onnx", "a\nb.onnx", "a[1].onnx"])
def test_weights_of_a_file_with_any_name_are_found(name: str, tmp_path: Path) -> None:
    """A model gives its weights no name that its reader refuses. Weights of former models are removed if their file is named after them."""
    for net in (_net("torch", seed) for seed in (0, 1)):
        path = net.export(tmp_path / name)
        np.testing.assert_allclose(serve(path).logits(ROWS), net.logits(ROWS), atol=1e-5)
    weights = sorted(file.name.split(".onnx.")[0] for file in set(tmp_path.iterdir()) - {path})
    assert weights == (["a[1]"] if "[" in name else ["network"] * 2)


def test_weights_beside_a_file_of_another_tool_are_read(tmp_path: Path) -> None:
    net = _net("torch")
    whole = net.export(tmp_path / "whole.onnx")
    for place in ("x.onnx.data", "model.onnx_data", "sub/x.weights"):
        folder = tmp_path / place.replace("/", "_")
        (folder / place).parent.mkdir(parents=True)
        model = onnx.load(whole)
        del model.metadata_props[:]
        onnx.save_model(model, folder / "x.onnx", save_as_external_data=True, location=place, size_threshold=0)
        found = regraft.load(folder / "x.onnx", preprocessing=net.preprocessing)
        np.testing.assert_allclose(found.logits(ROWS), net.logits(ROWS), atol=1e-5)


def test_a_file_that_cannot_be_trained_for_its_size_is_refused_in_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _net("torch").export(tmp_path / "x.onnx")
    monkeypatch.setattr(reading, "LARGEST", 2000)
    with pytest.raises(NetworkError, match="regraft predict and evaluate run files of any size"):
        regraft.load(path)


def _place(name: str) -> Callable[[Path, Any], None]:
    def change(folder: Path, first: Any) -> None:
        (folder.parent / "secret.data").write_bytes(next(folder.glob("*.data")).read_bytes())
        for entry in first.external_data:
            entry.value = name.format(folder.parent) if entry.key == "location" else entry.value

    return change


def _linked(folder: Path, first: Any) -> None:
    _place("linked.data")(folder, first)
    (folder / "linked.data").symlink_to(folder.parent / "secret.data")


def _fact(key: str, value: str) -> Callable[[Path, Any], None]:
    def change(_folder: Path, first: Any) -> None:
        for entry in first.external_data:
            entry.value = value if entry.key == key else entry.value

    return change


def _shorter(folder: Path, _first: Any) -> None:
    weights = next(folder.glob("*.data"))
    weights.write_bytes(weights.read_bytes()[:-4])


def _twice(folder: Path, first: Any) -> None:
    """The same part of the file for tensors of any number would fill the memory."""
    first.dims[0] *= 1000
    _fact("length", str(1000 * 4 * 30 * 40))(folder, first)


HOSTILE: dict[str, tuple[Callable[[Path, Any], None], type[RegraftError], str]] = {
    "an absolute path": (_place("{}/secret.data"), UnsafeFileError, "expected a file inside the folder"),
    "a path above": (_place("../secret.data"), UnsafeFileError, "expected a file inside the folder"),
    "a path above, further in": (_place("sub/../../secret.data"), UnsafeFileError, "expected a file inside the folder"),
    "a path of Windows": (_place("..\\secret.data"), UnsafeFileError, "expected a file inside the folder"),
    "a link out of the folder": (_linked, UnsafeFileError, "is a link out of the folder"),
    "a file of another kind": (_place("notes.txt"), UnsafeFileError, "takes its tensor"),
    "a missing file": (_place("away.data"), NetworkError, "cannot be opened"),
    "a shorter file": (_shorter, NetworkError, "declares the shape|too short"),
    "a part before the file": (_fact("offset", "-8"), NetworkError, "too short, or of another network"),
    "a part behind the file": (_fact("offset", "99999999"), NetworkError, "declares the shape"),
    "another length": (_fact("length", "8"), NetworkError, "too short, or of another network"),
    "no number": (_fact("offset", "here"), NetworkError, "cannot be read as a file of weights"),
    "more than the file": (_twice, NetworkError, "too short, or of another network"),
}


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("name", HOSTILE)
def test_weights_are_never_read_from_elsewhere(name: str, tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    path = _net("torch").export(tmp_path / "net" / "x.onnx")
    change, kind, message = HOSTILE[name]
    model = onnx.ModelProto.FromString(path.read_bytes())
    change(path.parent, next(tensor for tensor in model.graph.initializer if tensor.data_location))
    path.write_bytes(model.SerializeToString())
    for use in (serve, regraft.load):
        with pytest.raises(kind, match=message):
            use(path)
