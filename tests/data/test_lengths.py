"""Arrays that differ in length, such as frames of coefficients: padded to one length in both families, wherever they come from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data.preprocessings.array_preprocessing import ArrayPreprocessing
from regraft.data.preprocessings.preprocessing import from_dict
from regraft.errors import DataError, UnsafeFileError

LENGTHS = np.random.default_rng(0).integers(6, 12, 16)
ROWS = [np.random.default_rng(at).normal(at % 2, 1, (length, 3)).astype(np.float32) for at, length in enumerate(LENGTHS)]
LABELS = ["a", "b"] * 8
LONGEST = int(LENGTHS.max())


def _network(family: str, frames: int | None = None) -> Any:
    """Return a network over frames of 3 coefficients; in PyTorch, over coefficients first."""
    torch.manual_seed(0)
    if family == "torch":
        parts = (nn.Conv1d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))
        return regraft.load(nn.Sequential(*parts), inputs=(3, frames))
    keras = pytest.importorskip("keras")
    layers = keras.layers
    return regraft.load(keras.Sequential([keras.Input((frames, 3)), layers.Masking(), layers.SimpleRNN(4), layers.Dense(2)]))


def _rows(family: str, rows: Any = ROWS) -> list[np.ndarray]:
    return [row.T for row in rows] if family == "torch" else list(rows)


def _folder(place: Path) -> Path:
    for at, (row, label) in enumerate(zip(ROWS, LABELS, strict=True)):
        (place / label).mkdir(exist_ok=True, parents=True)
        np.save(place / label / f"{at:02d}.npy", row)
    return place


FORMS: dict[str, Any] = {
    "list": lambda place: (ROWS, LABELS),
    "tensors": lambda place: ([torch.from_numpy(row) for row in ROWS], LABELS),
    "array of objects": lambda place: (np.array(ROWS, dtype=object), LABELS),
    "coefficients first": lambda place: ([row.T for row in ROWS], LABELS),
    "folder": _folder,
}


@pytest.mark.parametrize("form", FORMS)
def test_shorter_examples_are_padded_with_zeros_and_it_is_said(form: str, tmp_path: Path) -> None:
    data = regraft.read(FORMS[form](tmp_path))
    axis = int(form == "coefficients first")
    assert f"examples are {LENGTHS.min()} to {LONGEST} long along their axis {axis}" in data.notes[-1] and data.max_length == LONGEST
    items = np.stack([np.asarray(one).T if axis else np.asarray(one) for one in data.items])
    order = [*range(0, 16, 2), *range(1, 16, 2)] if form == "folder" else range(16)
    for one, at in zip(items, order, strict=True):
        assert (one[: LENGTHS[at]] == ROWS[at]).all() and not one[LENGTHS[at] :].any() and len(one) == LONGEST


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_an_example_is_predicted_alike_alone_together_from_its_file_and_after_saving(family: str, tmp_path: Path) -> None:
    rows = _rows(family)
    network = regraft.adapt(_network(family), (rows, LABELS), strategy="probe", device="cpu").network
    together = network.predict(rows).probabilities
    shape = (3, LONGEST) if family == "torch" else (LONGEST, 3)
    assert f"padded with zeros at the end to {shape}" in network.preprocessing.describe()
    assert network.sample.shape[1:] == shape
    if family == "torch":  # saved networks of one's own class are a case of their own
        opened = network
        opened.preprocessing = from_dict(json.loads(json.dumps(network.preprocessing.to_dict())))
    else:
        network.save(tmp_path / "saved")
        opened = regraft.load(tmp_path / "saved")
    for at, row in enumerate(rows[:3]):
        np.save(tmp_path / f"{at}.npy", row)
        assert np.allclose(opened.predict([row]).probabilities, together[at], atol=1e-6)
    assert np.allclose(opened.predict(str(tmp_path / "*.npy")).probabilities, together[:3], atol=1e-6)
    long, short = _rows(
        family, [np.concatenate([ROWS[0], np.ones((20, 3), np.float32)]), np.concatenate([ROWS[0], np.ones((20, 3), np.float32)])[:LONGEST]]
    )
    with pytest.warns(UserWarning, match="1 of 2 examples is longer than"):
        cropped = opened.predict([long, rows[1]]).probabilities
    assert np.allclose(cropped, opened.predict([short, rows[1]]).probabilities, atol=1e-6)
    assert regraft.evaluate(opened, (rows[:5], LABELS[:5])).tasks["main"]["examples"] == 5


def test_a_network_of_one_length_takes_shorter_examples_and_says_where_longer_ones_do_not_fit(tmp_path: Path) -> None:
    how: dict[str, Any] = {"strategy": "probe", "device": "cpu"}
    rows = _rows("torch")
    assert regraft.adapt(_network("torch", 20), (rows, LABELS), **how).network.preprocessing.padded == (3, 20)
    with pytest.raises(DataError, match=rf"the longest has the shape \(3, {LONGEST}\); .* Cut the examples to a length of 8 first"):
        regraft.adapt(_network("torch", 8), (rows, LABELS), **how)
    for network in (_network("torch"), regraft.adapt(_network("torch", 6), ([row[:, :6] for row in rows], LABELS), **how).network):
        with pytest.raises(DataError, match=r"differ in shape, such as .* adapted to examples of one shape"):
            network.predict(rows)
    np.savez(tmp_path / "d.npz", X=np.array(ROWS, dtype=object), y=np.array(LABELS))
    with pytest.raises(UnsafeFileError, match=r"one \.npy file each, in a folder for each class"):
        regraft.read(tmp_path / "d.npz")


@pytest.mark.parametrize("axis", [0, 1])
def test_only_the_axis_along_which_examples_differ_is_padded(axis: int) -> None:
    """Also where the other axis is as long as the longest example."""
    rows = [np.ones((length, 3) if axis == 0 else (3, length), np.float32) for length in (1, 3, 2, 3)]
    data = regraft.read((rows, ["a", "b"] * 2))
    sides = [3, 3]
    sides[axis] = 8
    assert ArrayPreprocessing.for_shape(tuple(sides)).fit(data).padded == tuple(sides)
    with pytest.raises(DataError, match=r"expected \(8, 8\), as the network takes it"):
        ArrayPreprocessing.for_shape((8, 8)).fit(data)
