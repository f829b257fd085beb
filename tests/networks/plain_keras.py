"""Exported files opened in plain Keras, in one process for all tests in which regraft cannot be imported."""

from __future__ import annotations

import functools
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from regraft.networks.contract import Inputs, Network
from regraft.networks.keras.library import keras

_PLAIN = """
import sys, traceback
sys.modules["regraft"] = None
import keras, numpy as np
for path in map(str.strip, sys.stdin):
    try:
        batch, expected = (np.load(path + end) for end in (".batch.npz", ".result.npz"))
        inputs = batch["only"] if batch.files == ["only"] else {key: batch[key] for key in batch.files}
        results = keras.tree.flatten(keras.models.load_model(path)(inputs, training=False))
        assert len(results) == len(expected.files), (len(results), expected.files)
        for result, name in zip(results, expected.files):
            found, allowed = keras.ops.convert_to_numpy(result), float(name.partition(":")[2])
            assert found.shape == expected[name].shape, (name, found.shape)
            assert np.allclose(found, expected[name], rtol=10 * allowed, atol=allowed), name  # with 0 and 0: no bit differs
        print("same", flush=True)
    except Exception:
        print(repr(traceback.format_exc()), flush=True)
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


def kept(path: Path, batch: Inputs, results: Sequence[Any], *, allowed: float = 0.0) -> str:
    """Write a batch, and what a file should make of it, beside the file; an error is `allowed` or, without one, no bit differs."""
    named = batch if isinstance(batch, dict) else {"only": batch}
    np.savez(f"{path}.batch.npz", **{key: tensor.numpy() for key, tensor in named.items()})
    np.savez(f"{path}.result.npz", **{f"{at}:{allowed}": np.asarray(result) for at, result in enumerate(results)})
    return str(path)


def assert_plain_keras_agrees(paths: Sequence[str]) -> None:
    """Fail unless plain Keras gives the same for every file that `exported` or `kept` wrote."""
    plain = _process()
    assert plain.stdin is not None and plain.stdout is not None
    for path in paths:
        plain.stdin.write(f"{path}\n")
        plain.stdin.flush()
        said = plain.stdout.readline().strip()
        assert said == "same", (path, said[-2000:])
