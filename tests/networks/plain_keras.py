"""Exported files opened in plain Keras, in one process for all tests in which regraft cannot be imported, and folders in copies of it."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.networks.keras.library import keras
from regraft.networks.network import Inputs, Network

_PLAIN = """
import os, sys, traceback
sys.modules["regraft"] = None
import keras, numpy as np

def check(path):
    batch, expected = (np.load(path + end) for end in (".batch.npz", ".result.npz"))
    inputs = {key: batch[key] for key in batch.files}
    if path.endswith(".keras"):
        results = keras.tree.flatten(keras.models.load_model(path)(inputs.get("only", inputs), training=False))
    else:  # a folder of regraft
        if sys.modules["regraft"] is None:
            del sys.modules["regraft"]
        import regraft, torch
        network = regraft.load(path)
        network.mode_(False)
        tensors = {key: torch.from_numpy(values) for key, values in inputs.items()}
        with torch.no_grad():
            scores = network.scores(tensors.get("only", tensors))
        assert all(scores[task].shape[1] == len(head.classes) for task, head in network.heads.items())
        results = list(scores.values())
    for name, result in zip(expected.files, results, strict=True):
        found, (atol, rtol) = keras.ops.convert_to_numpy(result), map(float, name.split(":")[1:])
        assert found.shape == expected[name].shape, (name, found.shape)
        assert np.allclose(found, expected[name], rtol=rtol, atol=atol), name  # with 0 and 0: no bit differs

for line in map(str.strip, sys.stdin):
    paths = line.split("\\t")
    child = 0 if line.endswith(".keras") else os.fork()
    if child:
        if status := os.waitpid(child, 0)[1]:
            print(repr((line, f"the process ended with {status}")), flush=True)
        continue
    try:
        for path in paths:
            check(path)
        print("same", flush=True)
    except Exception:
        print(repr((path, traceback.format_exc())), flush=True)
    if not line.endswith(".keras"):
        os._exit(0)
"""


@functools.cache
def _process() -> subprocess.Popen[str]:
    """Return the process, which ends with this one: its input is closed then."""
    return subprocess.Popen([sys.executable, "-c", _PLAIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def exported(network: Network, path: Path, batch: Inputs) -> str:
    """Export a network, and beside it a batch and what the network says of it; return the path."""
    network.export(path)
    with torch.no_grad():
        return kept(path, batch, keras.tree.flatten(network.module(batch, training=False)))


def kept(path: Path, batch: Inputs, results: Iterable[Any], *, atol: float = 0.0, rtol: float = 0.0) -> str:
    """Write a batch, and what a file or a folder should make of it, beside it; without tolerances no bit may differ."""
    named = batch if isinstance(batch, dict) else {"only": batch}
    np.savez(f"{path}.batch.npz", **{key: tensor.numpy() for key, tensor in named.items()})
    np.savez(f"{path}.result.npz", **{f"{at}:{atol}:{rtol}": np.asarray(result) for at, result in enumerate(results)})
    return str(path)


def assert_opens_afresh(paths: Sequence[str]) -> None:
    """Fail unless plain Keras, or regraft for a folder, gives the same for everything that `exported` or `kept` wrote."""
    plain = _process()
    assert plain.stdin is not None and plain.stdout is not None
    plain.stdin.write("\t".join(paths) + "\n")
    plain.stdin.flush()
    said = plain.stdout.readline().strip()
    assert said == "same", said[-2000:]
