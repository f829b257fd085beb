"""Damaged files, and files of another kind, of every format: one sentence of regraft, or a network that predicts."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from safetensors.numpy import save_file
from tests.cli.conftest import run
from torch import nn

import regraft
from regraft.errors import NetworkError

keras = pytest.importorskip("keras")
pytest.importorskip("onnx2pytorch")

ROWS = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)
ENDINGS = (".onnx", ".pmml", ".keras", ".h5", ".pt2", ".npz", ".mat", ".safetensors")
WEIGHTS = (".npz", ".mat", ".safetensors")
"""Endings of files that go into a network."""
OTHERS = {"nothing": b"", "a page": b"<!DOCTYPE html>\n<html>", "text": b"no network\n", "noise": bytes(range(129, 256)) * 4}
OTHERS |= {"a picture": b"\x89PNG\r\n\x1a\n" + bytes(64), "a pickle": b"\x80\x04K\x01."}
FOREIGN = (
    *("ONNXRuntimeError", "Protobuf", "well-formed", "no element", "SafetensorError", "deserializ", "magic string", "mat file"),
    *("Pytorch", "PytorchStreamReader", "decompress", "buffer", "unpack", "Unable to", "Can't", "sblock", "Bad ", "CRC", "codec"),
)
"""Words of other libraries, which may only stand behind a sentence of our own."""


@pytest.fixture(scope="module")
def wholes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a whole file by its ending, and under "" the saved network that the weights files fit."""
    place = tmp_path_factory.mktemp("wholes")
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    net = regraft.load(nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)), inputs=(4,), classes=["a", "b", "c"])
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, activation="tanh"), keras.layers.Dense(3)])
    found = {ending: net.export(place / f"whole{ending}") for ending in (".onnx", ".pmml", ".pt2")}
    found |= {ending: regraft.load(model).export(place / f"whole{ending}") for ending in (".keras", ".h5")}
    own = regraft.load(found[".pmml"])
    found |= {"": own.save(place / "own")} | {ending: place / f"whole{ending}" for ending in WEIGHTS}
    arrays = {name: values.numpy().copy() for name, values in own.state().items()}
    np.savez(found[".npz"], **arrays)
    scipy.io.savemat(found[".mat"], {name.replace(".", "_"): values for name, values in arrays.items()})
    save_file(arrays, found[".safetensors"])
    return found


def _unusable(wholes: dict[str, Path], ending: str) -> dict[str, bytes]:
    """Return what no reader may take for a file of this ending: cut off, of another format, or none."""
    whole = wholes[ending].read_bytes()
    cut = {f"{quarters} of 4 quarters": whole[: len(whole) * quarters // 4] for quarters in (1, 2, 3)}
    return {**cut, "without its end": whole[:-9], **OTHERS} | {other: wholes[other].read_bytes() for other in ENDINGS if other != ending}


def _flipped(whole: bytes, seed: int) -> bytes:
    draws, changed = np.random.default_rng(seed), np.frombuffer(whole, np.uint8).copy()
    count = max(8, len(whole) // 200)
    changed[draws.integers(0, len(whole), count)] ^= np.uint8(1) << draws.integers(0, 8, count).astype(np.uint8)
    return changed.tobytes()


def _opened(path: Path, wholes: dict[str, Path], *, trust: bool = False) -> regraft.Network:
    return regraft.load(wholes[""], weights=path) if path.suffix in WEIGHTS else regraft.load(path, trust=trust)


def _check_said(said: str, path: Path) -> None:
    """Our own sentence names the file, and stands before the words of another library."""
    plain = " ".join(said.split())
    assert path.name in re.sub(r"\s", "", plain), plain
    assert plain.endswith((".", ")", "]")) and not any(word in plain.partition("because")[0] for word in FOREIGN), plain


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_is_no_such_file_is_refused(ending: str, wholes: dict[str, Path], tmp_path: Path) -> None:
    path = tmp_path / f"bad{ending}"
    for name, content in _unusable(wholes, ending).items():
        path.write_bytes(content)
        with pytest.raises(NetworkError) as caught:
            pytest.fail(f"{name} opened as {ending}: {_opened(path, wholes, trust=True)}")
        _check_said(str(caught.value), path)


@pytest.mark.parametrize("ending", ENDINGS)
def test_flipped_bits_are_refused_or_harmless(ending: str, wholes: dict[str, Path], tmp_path: Path) -> None:
    whole, path, refused = wholes[ending].read_bytes(), tmp_path / f"bad{ending}", 0
    for seed in range(6):
        path.write_bytes(_flipped(whole, seed))
        try:
            net = _opened(path, wholes)
        except NetworkError as error:
            refused += 1
            _check_said(str(error), path)
        else:
            assert net.logits(ROWS).shape == (3, 3)
    assert refused


@pytest.mark.parametrize("ending", ENDINGS)
def test_convert_ends_in_one_sentence_or_a_file(ending: str, wholes: dict[str, Path], tmp_path: Path) -> None:
    whole, path, out = wholes[ending].read_bytes(), tmp_path / f"bad{ending}", tmp_path / "out.pmml"
    bad = _unusable(wholes, ending) | {f"flipped {seed}": _flipped(whole, seed) for seed in range(6, 9)}
    for name, content in bad.items():
        path.write_bytes(content)
        done = run("convert", *((wholes[""], out, "--weights", path) if ending in WEIGHTS else (path, out)))
        assert done.exit_code == 2 or (name.startswith("flipped") and done.exit_code == 0), (name, done.output, done.exception)
        assert out.exists() == (done.exit_code == 0), name
        out.unlink(missing_ok=True)
        if done.exit_code:
            _check_said(done.stderr, path)
