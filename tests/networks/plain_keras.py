"""Exported files opened in plain Keras, in a process in which regraft cannot be imported."""

from __future__ import annotations

import json
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
import json, sys
sys.modules["regraft"] = None
import keras, numpy as np
for path in json.load(open(sys.argv[1])):
    files = [np.load(path + end) for end in (".batch.npz", ".result.npz")]
    batch, expected = ({key: file[key] for key in file.files} for file in files)
    result = keras.models.load_model(path)(batch["only"] if list(batch) == ["only"] else batch, training=False)
    result = keras.tree.flatten(result)[0]
    assert np.array_equal(keras.ops.convert_to_numpy(result), expected["result"]), path
print("same")
"""


def exported(network: Network, path: Path, batch: Inputs) -> str:
    """Export a network, and beside it a batch and what the network says of it; return the path."""
    network.export(path)
    named = batch if isinstance(batch, dict) else {"only": batch}
    np.savez(f"{path}.batch.npz", **{key: tensor.numpy() for key, tensor in named.items()})
    with torch.no_grad():
        np.savez(f"{path}.result.npz", result=_first(network.module(batch, training=False)))
    return str(path)


def _first(result: Any) -> np.ndarray:
    return np.asarray(keras.tree.flatten(result)[0].numpy())


def assert_plain_keras_agrees(paths: Sequence[str], folder: Path) -> None:
    """Fail unless plain Keras gives the same bits for every file that `exported` wrote."""
    (folder / "work.json").write_text(json.dumps(list(paths)))
    done = subprocess.run([sys.executable, "-c", _PLAIN, str(folder / "work.json")], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "same", done.stderr[-2000:]
