"""`regraft convert`: every form to every other, as the table in the docs says."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.cli.shared import size_of
from regraft.errors import NetworkError
from regraft.files import onnx_form

from .conftest import run

keras = pytest.importorskip("keras")
pytest.importorskip("onnx2pytorch")
ROWS = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
TO = (".onnx", ".pmml", ".keras", ".h5", ".pt2", "folder")
ABC = ["a", "b", "c"]


def _torch() -> regraft.Network:
    torch.manual_seed(0)
    stack = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return regraft.load(stack, classes=ABC, inputs=(4,))


def _keras() -> regraft.Network:
    keras.utils.set_random_seed(0)
    stack = [keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3, activation="softmax")]
    return regraft.load(keras.Sequential(stack), classes=ABC)


def _pmml_folder(place: Path) -> Path:
    """A PyTorch network that opens again without its class."""
    regraft.load(_torch().export(place / "own.pmml")).save(place / "own")
    return place / "own"


FROM: dict[str, Callable[[Path], Path]] = {
    ".onnx": lambda place: _torch().export(place / "in.onnx"),
    ".pmml": lambda place: _torch().export(place / "in.pmml"),
    ".keras": lambda place: _keras().export(place / "in.keras"),
    ".h5": lambda place: _keras().export(place / "in.h5"),
    "folder, PyTorch": _pmml_folder,
    "folder, Keras": lambda place: Path(_keras().save(place / "kept")),
}


def _documented(names: Collection[str]) -> dict[str, list[str]]:
    text = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    rows = [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return {row[0]: row[1:] for row in rows if row[0] in names and set(row[1:]) <= {"yes", "no"}}


def _probabilities(path: Path) -> np.ndarray:
    if path.suffix == ".pt2":
        with torch.no_grad():
            made = torch.export.load(path).module()(torch.from_numpy(ROWS))
        return (made if torch.allclose(made.sum(1), torch.ones(len(made)), atol=1e-4) else made.softmax(1)).numpy()
    return regraft.load(path).predict(ROWS).probabilities


@pytest.mark.parametrize("name", FROM)
def test_every_way_of_the_table_holds(name: str, tmp_path: Path) -> None:
    source = FROM[name](tmp_path)
    expected, found, kept = _probabilities(source), list[str](), list[str]()
    for ending in TO:
        out = tmp_path / ("out" if ending == "folder" else f"out{ending}")
        result = run("convert", source, out)
        assert result.exit_code == 0, result.stderr
        found.append("yes")
        np.testing.assert_allclose(_probabilities(out), expected, atol=1e-5)
        kept.append("yes" if ending != ".pt2" and regraft.load(out).classes == tuple(ABC) else "no")
    assert found == _documented(FROM)[name]
    assert kept == (["no"] * len(TO) if name in (".keras", ".h5") else _documented(["class names"])["class names"])


@pytest.mark.parametrize(("source", "family"), [(".keras", "torch"), (".pmml", "keras")])
def test_a_folder_of_the_other_family(source: str, family: str, tmp_path: Path) -> None:
    made = FROM[source](tmp_path)
    assert run("convert", made, tmp_path / "out", "--family", family).exit_code == 0
    net = regraft.load(tmp_path / "out")
    assert net.family == family
    np.testing.assert_allclose(net.predict(ROWS).probabilities, _probabilities(made), atol=1e-5)


def test_options_of_the_forms(tmp_path: Path) -> None:
    source = _pmml_folder(tmp_path)
    assert run("convert", source, tmp_path / "new.h5", "--weights-format", "keras3").exit_code == 0
    assert b"batch_shape" in (tmp_path / "new.h5").read_bytes()
    assert run("export", Path(_keras().save(tmp_path / "kept")), tmp_path / "w.weights.h5", "--weights-format", "keras2").exit_code == 0
    assert b"layer_names" in (tmp_path / "w.weights.h5").read_bytes()
    assert run("convert", source, tmp_path / "old.pmml", "--pmml-version", "3.2").exit_code == 0
    assert 'version="3.2"' in (tmp_path / "old.pmml").read_text()[:200]
    written = run("convert", source, tmp_path / "x.onnx", "--with-preprocessing")
    assert written.exit_code == 0 and "ONNX Runtime differs from the network by" in written.stdout
    with pytest.raises(NetworkError, match="preprocessing in its graph"):
        regraft.load(tmp_path / "x.onnx")
    for out, option in (
        ("x.keras", ["--with-preprocessing"]),
        ("y.onnx", ["--pmml-version", "4.1"]),
        ("z", ["--weights-format", "keras2"]),
    ):
        result = run("convert", source, tmp_path / out, *option)
        assert result.exit_code == 2 and "goes with" in result.stderr and not (tmp_path / out).exists()


def test_what_is_in_the_way_is_told_before_any_work(tmp_path: Path) -> None:
    source = _torch().export(tmp_path / "x.onnx")
    (tmp_path / "there.pmml").write_text("mine")
    for out, message in (("there.pmml", "exists already"), ("x.tflite", "expected one of .onnx, .pmml")):
        result = run("convert", source, tmp_path / out)
        assert result.exit_code == 2 and message in result.stderr
    assert (tmp_path / "there.pmml").read_text() == "mine"


def test_the_size_of_a_network_counts_the_weights_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = Path(_keras().save(tmp_path / "kept"))
    monkeypatch.setattr(onnx_form, "LARGEST", 100)
    monkeypatch.setattr(onnx_form, "_LEAST", 16)
    for command in ("export", "convert"):
        done = run(command, folder, tmp_path / f"{command}.onnx")
        (weights,) = tmp_path.glob(f"{command}.onnx.*.data")
        whole = weights.stat().st_size + (tmp_path / f"{command}.onnx").stat().st_size
        assert f"({size_of(whole)}; weights in {weights.name})" in "".join(done.stdout.split("\n")), done.output


def test_a_program_of_a_keras_network_needs_no_keras(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layers = keras.layers
    stack = [keras.Input((7, 6)), layers.LSTM(4), layers.Dense(3)]
    net = regraft.load(keras.Sequential(stack), classes=ABC)
    items = np.random.default_rng(1).normal(size=(5, 7, 6)).astype(np.float32)
    expected = net.logits(items)
    net.export(tmp_path / "x.pt2")
    for name in [name for name in sys.modules if name.split(".")[0] == "keras"]:
        monkeypatch.setitem(sys.modules, name, None)  # whoever imports it now gets an error
    with torch.no_grad():
        found = torch.export.load(tmp_path / "x.pt2").module()(torch.from_numpy(items)).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-6)


FOUND = {
    "nothing": (b"", "it is empty"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "HDF5 data, as '.h5' has"),
    "a zip archive": (b"PK\x03\x04" + bytes(64), "zip archive"),
    "a picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "a PNG picture"),
    "a pointer": (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
    "a page": (b"<!DOCTYPE html>\n<html>", "a web page"),
    "text": (b"no network\n", "text that begins with 'no network'"),
    "a pickle": (b"\x80\x04K\x01.", "pickle"),
    "noise": (bytes(range(129, 256)) * 4, "cannot be read as a|is a pickle"),
}


@pytest.mark.parametrize("ending", [".onnx", ".pmml", ".keras", ".h5", ".pt"])
def test_a_file_of_another_kind_is_refused_with_what_it_holds(ending: str, tmp_path: Path) -> None:
    for name, (content, said) in FOUND.items():
        path = tmp_path / f"in{ending}"
        path.write_bytes(content)
        right = {"HDF5": (".h5",), "a zip archive": (".keras", ".pt"), "a pickle": (".pt",)}.get(name, ())
        with pytest.raises(NetworkError, match="cannot be read as|pickle" if ending in right else said) as caught:
            regraft.load(path)
        assert repr(path.name) in str(caught.value) or repr(str(path)) in str(caught.value)
        assert str(caught.value).endswith("."), str(caught.value)


def test_a_missing_folder_for_the_result_is_said_before_any_work(tmp_path: Path) -> None:
    (tmp_path / "in.onnx").write_bytes(b"")
    done = run("convert", tmp_path / "in.onnx", tmp_path / "none" / "out.keras")
    assert done.exit_code == 2 and "does not exist. Create it" in " ".join(done.stderr.split()) and "in.onnx" not in done.stderr
