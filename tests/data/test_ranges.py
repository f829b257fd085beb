"""The range of arrays is decided by the training: one picture in any form gives one prediction, or a word that it does not fit."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import regraft
from regraft.data.ranges import check_range
from regraft.errors import DataError

Image = pytest.importorskip("PIL.Image")
SIZE = 8
HOW = {"strategy": "probe", "cache": "none"}
IMAGES = {"kind": "image", "height": SIZE, "width": SIZE}


def _pictures(count: int) -> np.ndarray:
    """Return dark and light pictures (N, 8, 8, 3) in turn, of all levels."""
    draw = np.random.default_rng(0)
    pictures = draw.integers(0, 120, (count, SIZE, SIZE, 3)) + 136 * (np.arange(count) % 2)[:, None, None, None]
    return pictures.astype(np.uint8)


def _files(pictures: np.ndarray, folder: Path) -> list[Path]:
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{at}.png" for at in range(len(pictures))]
    for path, picture in zip(paths, pictures, strict=True):
        Image.fromarray(picture).save(path)
    return paths


def _net(family: str) -> Any:
    torch.manual_seed(0)
    if family == "torch":
        module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
        return regraft.load(module, inputs=(3, SIZE, SIZE), preprocessing=IMAGES)
    keras = pytest.importorskip("keras")
    parts = [keras.Input((SIZE, SIZE, 3)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    return regraft.load(keras.Sequential([*parts, keras.layers.Dense(2)]), preprocessing={**IMAGES, "layout": "channels_last"})


FORMS: dict[str, Callable[[np.ndarray, Path], Any]] = {
    "files": _files,
    "pictures of PIL": lambda pictures, _: [Image.fromarray(picture) for picture in pictures],
    "uint8": lambda pictures, _: pictures,
    "uint8, channels first": lambda pictures, _: np.moveaxis(pictures, 3, 1),
    "int64": lambda pictures, _: pictures.astype(np.int64),
    "float64 of 0..255": lambda pictures, _: pictures.astype(np.float64),
    "float32 of 0..1": lambda pictures, _: pictures.astype(np.float32) / 255,
    "tensors of uint8": lambda pictures, _: torch.from_numpy(np.moveaxis(pictures, 3, 1).copy()),
    "tensors of 0..1": lambda pictures, _: torch.from_numpy(np.moveaxis(pictures, 3, 1) / np.float32(255)),
    "float16 of 0..1": lambda pictures, _: (pictures / 255).astype(np.float16),
}
LEARNED = ("files", "uint8", "float64 of 0..255", "float32 of 0..1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """Networks trained on the same pictures in different forms, saved and opened again."""
    folder, pictures = tmp_path_factory.mktemp("ranges"), _pictures(24)
    found = {}
    for family in ("torch", "keras"):
        for form in LEARNED if family == "torch" else LEARNED[:1]:
            data = regraft.read((FORMS[form](pictures, folder / "pictures"), ["dark", "light"] * 12), kind="image")
            regraft.adapt(_net(family), data, out=folder / family / form.replace(" ", "_"), **HOW)
            found[family, form] = regraft.load(folder / family / form.replace(" ", "_"))
    return found


@settings(max_examples=4, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(level=st.integers(0, 255), spread=st.integers(0, 60), count=st.integers(1, 3), seed=st.integers(0, 99))
def test_one_picture_in_any_form_is_one_prediction_or_a_word(
    trained: dict[tuple[str, str], Any], tmp_path: Path, level: int, spread: int, count: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    shown = np.clip(level + draw.integers(-spread, spread + 1, (count, SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
    for key, net in trained.items():
        expected, agreed = net.predict(_files(shown, tmp_path / "shown")).probabilities, []
        for form, made in FORMS.items():
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                try:
                    scores = net.predict(made(shown, tmp_path / "shown")).probabilities
                except (DataError, UserWarning) as problem:
                    assert "the network learned from arrays of" in str(problem)
                    continue
            np.testing.assert_allclose(scores, expected, atol=5e-3, err_msg=f"{key}: {form}")
            agreed.append(form)
        assert {"files", "pictures of PIL", "uint8", "tensors of uint8", key[1]} <= set(agreed) or shown.max() <= 5


def test_the_range_is_that_of_the_training_and_is_saved(trained: dict[tuple[str, str], Any]) -> None:
    ranges = {form: trained["torch", form].preprocessing.value_range for form in LEARNED}
    assert ranges == {"files": (0, 255), "uint8": (0, 255), "float64 of 0..255": (0, 255), "float32 of 0..1": (0, 1)}
    pictures = _pictures(6)
    with pytest.warns(UserWarning, match=r"from 0 to 1.* learned from arrays of 0 to 255.* factor of about 255"):
        trained["torch", "uint8"].predict(pictures / np.float32(pictures.max()))
    with pytest.raises(DataError, match=r"learned from arrays of 0 to 1: they are .* times as large"):
        trained["torch", "float32 of 0..1"].predict(pictures.astype(np.float32))
    dark = (pictures[:1] // 4).astype(np.float32)
    for form in ("files", "uint8"):
        alone = trained["torch", form].predict(dark).probabilities
        np.testing.assert_allclose(alone, trained["torch", form].predict(dark.astype(np.uint8)).probabilities, atol=1e-5)


def test_a_test_set_of_another_range_is_refused_before_anything_starts() -> None:
    pictures, labels = _pictures(24), ["dark", "light"] * 12
    data = regraft.read((pictures / np.float32(255), labels), kind="image")
    with pytest.raises(DataError, match="they are 255 times as large"):
        regraft.adapt(_net("torch"), data, test=regraft.read((pictures.astype(np.float32), labels), kind="image"), **HOW)
    again = regraft.adapt(regraft.adapt(_net("torch"), regraft.read((pictures, labels), kind="image"), **HOW).network, data, **HOW)
    assert again.network.preprocessing.value_range == (0, 1)  # each training decides


@pytest.mark.parametrize("shape", [(SIZE, SIZE), (3, SIZE, SIZE)])
def test_arrays_that_are_no_pictures_are_compared_too(shape: tuple[int, ...]) -> None:
    draw = np.random.default_rng(0)
    items, labels = draw.integers(0, 256, (24, *shape)).astype(np.uint8), np.arange(24) % 2
    net = regraft.load(nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(shape)), 2)), inputs=shape)
    learned = regraft.adapt(net, (items, labels), **HOW).network
    with pytest.warns(UserWarning, match="factor of about 255"):
        learned.predict(items / np.float32(255))
    measured = regraft.adapt(net, (draw.normal(-200, 60, (24, *shape)), labels), **HOW).network
    measured.predict(draw.normal(-200, 90, (6, *shape)))
    with pytest.raises(DataError, match="times as large"):
        measured.predict(draw.normal(-200_000, 60, (6, *shape)))


@pytest.mark.parametrize(
    ("given_range", "learned", "said"),
    [
        ((0, 255), (0, 255), ""),
        ((0, 40), (0, 255), ""),
        ((0, 0), (0, 255), ""),
        ((-10, 270), (0, 255), ""),
        ((0, 1), (0, 255), "factor of about 255"),
        ((0, 65535), (0, 255), "257 times as large"),
        ((-128, 127), (0, 255), "shifted"),
        ((0, 255), (0, 1), "255 times as large"),
        ((-1, 1), (0, 1), "shifted"),
        ((0, 17), (0, 16), ""),
        ((-3, 3), (-2.5, 2.8), ""),
        ((0, 255), (-2.5, 2.8), "times as large"),
        ((0, 0.01), (-2.5, 2.8), "factor of about 256"),
        (None, (0, 1), ""),
        ((0, 255), None, ""),
    ],
)
def test_what_is_said_of_ranges(given_range: Any, learned: Any, said: str) -> None:
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            check_range(given_range, learned)
            found = "".join(str(one.message) for one in told)
        except DataError as error:
            found = str(error)
    assert (said in found) if said else not found
