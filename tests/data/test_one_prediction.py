"""One picture, one prediction: as file, bytes, shares, tensor, of 8 bits and of 16; or an error, or a warning that names the factor."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

import regraft
from regraft.errors import DataError
from regraft.report.media import picture_uri

TOLERANCE = 0.006  # of a probability: 16 bits in a file are read with 8


def _grey(at: int) -> np.ndarray:
    return np.random.default_rng(at).integers(0, 256, (8, 8), dtype=np.uint8)


def _forms(pixels: np.ndarray, folder: Path) -> dict[str, Any]:
    """Return one grey picture (8, 8) of 8 bits in all forms."""
    folder.mkdir(parents=True, exist_ok=True)
    deep = pixels.astype(np.uint16) * 257
    PIL.Image.fromarray(pixels).save(folder / "8.png")
    PIL.Image.fromarray(deep).save(folder / "16.png")
    whole = pixels[None, ..., None]
    return {
        "file of 8 bits": [folder / "8.png"],
        "file of 16 bits": [folder / "16.png"],
        "PIL image": PIL.Image.open(folder / "8.png"),
        "bytes": whole,
        "bytes as int64": whole.astype(np.int64),
        "bytes as floats": whole.astype(np.float32),
        "shares": whole / 255,
        "tensor of bytes": torch.from_numpy(whole).permute(0, 3, 1, 2),
        "tensor of shares": torch.from_numpy(whole).permute(0, 3, 1, 2) / 255,
        "uint16": deep[None, ..., None],
        "int32 of 16 bits": deep[None, ..., None].astype(np.int32),
        "floats of 16 bits": deep[None, ..., None].astype(np.float64),
    }


def _learned(how: str, folder: Path) -> Any:
    """Return the training data in one form."""
    pictures, labels = [_grey(at) // (1 + at % 2) for at in range(12)], ["ab"[at % 2] for at in range(12)]
    made = [_forms(picture, folder / str(at)) for at, picture in enumerate(pictures)]
    if how.startswith("file"):
        return regraft.read(([one[how][0] for one in made], labels))
    return regraft.read((np.concatenate([np.asarray(one[how]) for one in made]), labels), kind="image")


def _net(family: str) -> Any:
    own = {"kind": "image", "height": 8, "width": 8, "channels": 1}
    torch.manual_seed(0)
    if family == "torch":
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3))
        return regraft.load(module, inputs=(1, 8, 8), preprocessing=own)
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    pooled = keras.layers.Flatten()(keras.layers.AveragePooling2D(3)(keras.layers.Conv2D(4, 3, activation="relu")(inputs)))
    return regraft.load(keras.Model(inputs, keras.layers.Dense(3)(pooled)), preprocessing={**own, "layout": "channels_last"})


LEARNED = ["file of 8 bits", "file of 16 bits", "bytes", "shares", "uint16"]


@pytest.mark.parametrize("how", LEARNED)
def test_one_picture_gives_one_prediction_or_is_refused(how: str, tmp_path: Path) -> None:
    net = regraft.adapt(_net("torch"), _learned(how, tmp_path), strategy="probe", cache="memory").network
    forms = _forms(_grey(99), tmp_path / "new")
    base = net.predict(forms[how]).probabilities[0]
    same = []
    for name, given in forms.items():
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            try:
                found = net.predict(given).probabilities[0]
            except DataError as error:
                assert "Bring them to that range first" in str(error), name
                continue
        if not any("factor of about" in str(one.message) for one in told):
            assert np.abs(found - base).max() < TOLERANCE, name
            same.append(name)
    assert {"file of 8 bits", "PIL image", "bytes", "tensor of bytes", "file of 16 bits"} <= set(same)
    assert {"uint16", "int32 of 16 bits"} <= set(same) or how not in ("file of 16 bits", "uint16")


def test_the_same_in_keras(tmp_path: Path) -> None:
    net = regraft.adapt(_net("keras"), _learned("uint16", tmp_path), strategy="probe", cache="memory").network
    forms = _forms(_grey(99), tmp_path / "new")
    one = [net.predict(forms[name]).probabilities[0] for name in ("uint16", "file of 16 bits", "bytes", "file of 8 bits")]
    assert np.abs(np.array(one) - one[0]).max() < TOLERANCE


@pytest.mark.parametrize("first", [False, True])
def test_a_fourth_channel_is_told(first: bool) -> None:
    draw = np.random.default_rng(0)
    rows = draw.integers(0, 256, (12, 8, 8, 4), dtype=np.uint8)
    opaque = np.concatenate([rows[..., :3], np.full((12, 8, 8, 1), 255, np.uint8)], 3)
    rows, opaque = (np.moveaxis(one, 3, 1) if first else one for one in (rows, opaque))
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    how: dict[str, Any] = {"kind": "image", "height": 8, "width": 8}
    net = regraft.load(module, inputs=(3, 8, 8), preprocessing=how)
    result = regraft.adapt(net, regraft.read((rows, list("ab") * 6), kind="image"), strategy="probe", cache="memory")
    assert any("the fourth is read as transparency" in warning for warning in result.facts["warnings"])
    with pytest.warns(UserWarning, match="laid on white"):
        result.network.predict(rows)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result.network.predict(opaque)


def test_thumbnails_of_more_than_eight_bits(tmp_path: Path) -> None:
    base64, io = pytest.importorskip("base64"), pytest.importorskip("io")
    PIL.Image.fromarray(_grey(0).astype(np.uint16) * 100).save(tmp_path / "deep.png")
    PIL.Image.fromarray(_grey(0).astype(np.float32)).save(tmp_path / "deep.tiff")
    for name in ("deep.png", "deep.tiff"):
        uri = picture_uri(tmp_path / name)
        assert uri is not None
        shown = np.asarray(PIL.Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
        assert len(np.unique(shown)) > 30


def test_copies_stand_before_the_figures() -> None:
    rows = np.repeat(np.random.default_rng(0).random((6, 4)).astype(np.float32), 4, axis=0)
    net = regraft.load(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), inputs=(4,))
    result = regraft.adapt(net, (rows, ["ab"[at % 2] for at in range(24)]), strategy="probe", cache="memory")
    assert result.verdict.startswith("Warning: ") and "equal, byte by byte" in result.verdict.partition("The adapted network")[0]
