"""Damaged files of networks and weights: a right result or one error of regraft, never the traceback of another library."""

from __future__ import annotations

import random
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

pytest.importorskip("keras")
pytest.importorskip("h5py")

from tests.fuzz.mutating import exchanged, mutated
from tests.security import keras_payloads as payloads

import regraft
from regraft.errors import RegraftError

SEEDS = range(60)
LONGEST = 20.0


def _torch_module() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def _written(folder: Path, suffix: str) -> Path:
    path = folder / f"whole.{suffix}"
    if suffix == "safetensors":
        save_file(_torch_module().state_dict(), path)
    elif suffix == "pt":
        torch.save(_torch_module().state_dict(), path)
    elif suffix == "pth":
        torch.save(_torch_module().state_dict(), path, _use_new_zipfile_serialization=False)
    elif suffix == "weights.h5":
        payloads.network().save_weights(path)
    else:
        payloads.network().save(path)
    return path


def _load(path: Path) -> Any:
    if path.name.endswith((".safetensors", ".pt", ".pth")):
        return regraft.load(_torch_module(), weights=path, inputs=(4,))
    if path.name.endswith(".weights.h5"):
        return regraft.load(payloads.network(), weights=path)
    return regraft.load(path)


def _right_or_one_error(path: Path) -> None:
    begun = time.monotonic()
    try:
        network = _load(path)
        network.feature_batch(network.sample)
    except RegraftError as error:
        assert str(error)
    assert time.monotonic() - begun < LONGEST


@pytest.mark.parametrize("suffix", ["keras", "h5", "weights.h5", "safetensors", "pt", "pth"])
def test_damaged_bytes(suffix: str, tmp_path: Path) -> None:
    content = _written(tmp_path, suffix).read_bytes()
    for seed in SEEDS:
        path = tmp_path / f"{seed}.{suffix}"
        path.write_bytes(mutated(content, random.Random(f"{suffix} {seed}")))
        _right_or_one_error(path)


@pytest.mark.parametrize(("suffix", "part"), [("keras", "config.json"), ("keras", "model.weights.h5"), ("pt", "data.pkl")])
def test_damaged_parts_of_archives(suffix: str, part: str, tmp_path: Path) -> None:
    """The checksums of an archive hide most changes of its bytes from its reader; here they are right."""
    with zipfile.ZipFile(_written(tmp_path, suffix)) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    [name] = [name for name in parts if name.endswith(part)]
    for seed in SEEDS:
        changed = {**parts, name: mutated(parts[name], random.Random(f"{part} {seed}"))}
        _right_or_one_error(payloads.write_archive(tmp_path / f"{seed}.{suffix}", changed))


@pytest.mark.parametrize("layout", ["keras", "h5"])
def test_values_of_an_architecture_exchanged(layout: str, tmp_path: Path) -> None:
    for seed in SEEDS:
        folder = tmp_path / str(seed)
        folder.mkdir()
        rng = random.Random(f"{layout} {seed}")
        try:
            path = payloads.with_config(folder, exchanged(rng), layout=layout)
        except ValueError:  # a value that contains itself has no JSON
            continue
        _right_or_one_error(path)
