"""Views of photographs, and views by the user's own function."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sklearn.datasets
import torch
from torch import Tensor

from regraft.data import ArrayPreprocessing, ColumnsPreprocessing, ImagePreprocessing, PreparedData, preprocessing_from_dict, read
from regraft.data.preprocessings.augmenting import like_photographs, photographs
from regraft.errors import DataError, SettingError

PHOTOS = sorted((Path(sklearn.datasets.__file__).parent / "images").glob("*.jpg"))


def _photos(count: int = 8, side: int = 32) -> np.ndarray:
    """Return cuts of two photographs, (n, side, side, 3) uint8."""
    image, draw, made = pytest.importorskip("PIL.Image"), np.random.default_rng(0), []
    for number in range(count):
        picture = image.open(PHOTOS[number % len(PHOTOS)]).convert("RGB").resize((160, 120))
        left, top = draw.integers(0, 160 - 96), draw.integers(0, 120 - 96)
        made.append(np.asarray(picture.crop((left, top, left + 96, top + 96)).resize((side, side))))
    return np.stack(made)


def _writing(count: int = 8, *, colour: bool = True) -> np.ndarray:
    """Return characters in ink on paper, (n, 32, 32, 3) uint8."""
    draw, drawing = pytest.importorskip("PIL.ImageDraw"), pytest.importorskip("PIL.Image")
    made = []
    for number in range(count):
        picture = drawing.new("RGB", (32, 32), (240, 225, 190) if colour else "white")
        draw.Draw(picture).text((10, 8), chr(65 + number), fill=(20, 30, 120) if colour else "black")
        made.append(np.asarray(picture))
    return np.stack(made)


def _prepared(pictures: np.ndarray, augment: Any, **options: Any) -> PreparedData:
    data = read((pictures, np.arange(len(pictures)) % 2), kind="image")
    return PreparedData(data, ImagePreprocessing(32, 32, scale=1.0), augment=augment, **options)


def test_photographs_are_mirrored_cropped_and_coloured_and_stay_near() -> None:
    items = _prepared(_photos(2), "photo")
    plain = items.batch([0, 1])
    views = torch.stack([items.batch([0, 1], view) for view in range(1, 41)])[:, 0]
    assert torch.equal(views[3], items.batch([0, 1], 4)[0]) and views.min() >= 0 and views.max() <= 255
    mirrored = [((view.flip(2) - plain[0]).abs().mean() < (view - plain[0]).abs().mean()).item() for view in views]
    assert 8 <= sum(mirrored) <= 32  # about half
    hue = views.mean((2, 3)) / views.mean((1, 2, 3))[:, None]
    assert hue.std(0).max() > 0.01
    near = torch.stack([torch.minimum((view - plain[0]).abs().mean(), (view.flip(2) - plain[0]).abs().mean()) for view in views])
    assert near.min() > 1 and near.max() < 80


def test_writing_is_never_mirrored_by_light_views() -> None:
    pictures = np.zeros((1, 32, 32, 3), np.uint8)
    pictures[:, :, :8] = 255  # an edge on the left
    for view in range(1, 30):
        made = _prepared(pictures, "light").batch([0], view)[0]
        assert made[:, :, :4].mean() > made[:, :, -4:].mean()
    sides = [_prepared(pictures, "photo", view_seed=3).batch([0], view)[0] for view in range(1, 30)]
    assert any(one[:, :, :4].mean() < one[:, :, -4:].mean() for one in sides)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_and_normalised_arrays(channels: int) -> None:
    pictures = torch.rand(3, channels, 20, 14)
    for limits in ((0.0, 1.0), None):
        made = photographs(pictures, 1, seeds=[1, 2, 3], limits=limits)
        assert made.shape == pictures.shape and torch.isfinite(made).all()
        again = photographs(pictures[1:2], 1, seeds=[2], limits=limits)
        torch.testing.assert_close(again[0], made[1])  # by its own seed, whatever stands beside it
    torch.testing.assert_close(photographs(pictures[:, :, :1, :1], 1, seeds=[1, 2, 3], limits=None), pictures[:, :, :1, :1])


def test_only_colourful_pictures_without_paper_look_like_photographs() -> None:
    def of(pictures: np.ndarray) -> bool:
        return _prepared(pictures, "light").preprocessing.of_photographs(read((pictures, np.arange(len(pictures)) % 2), kind="image"))

    assert of(_photos())
    assert not of(_writing()) and not of(_writing(colour=False))
    assert not of(_photos().mean(3, keepdims=True).repeat(3, 3).astype(np.uint8))  # grey
    assert not like_photographs(torch.rand(4, 1, 8, 8) * 255)
    assert not ArrayPreprocessing().of_photographs(read((np.zeros((4, 3)), [0, 1, 0, 1])))


def test_a_function_is_seeded_by_item_and_view_and_leaves_the_generators_alone() -> None:
    def noisy(picture: Tensor) -> Tensor:
        threads.add(threading.get_ident())
        picture += 10 * torch.randn_like(picture) + float(np.random.rand())
        return picture

    threads: set[int] = set()
    items = _prepared(_photos(6), noisy)
    before, state = items.batch(range(6)), torch.get_rng_state()
    first, second = items.batch(range(6), 1), items.batch(range(6), 2)
    assert torch.equal(items.batch(range(6), 1), first) and not torch.equal(first, second)
    assert not torch.equal(first[0] - before[0], first[1] - before[1])
    assert torch.equal(torch.get_rng_state(), state) and torch.equal(items.batch(range(6)), before)
    torch.testing.assert_close(items.batch([4], 1)[0], first[4])
    list(items.batches(2, view=1))
    assert threads == {threading.get_ident()}  # never ahead, in a thread beside one that draws dropout


@pytest.mark.parametrize(
    ("function", "said"),
    [
        (lambda picture: picture[:, :8], r"returned the shape \(3, 8, 32\) for an example of the shape \(3, 32, 32\)"),
        (lambda picture: picture * float("nan"), "not finite"),
        (lambda _: None, "failed on an example"),
        (lambda picture: picture.nothing, "AttributeError"),
    ],
)
def test_a_function_that_does_not_serve_is_named(function: Any, said: str) -> None:
    with pytest.raises(SettingError, match=said):
        _prepared(_photos(2), function).batch([0], 1)


def test_each_way_has_an_identity_and_none_is_saved() -> None:
    def one(picture: Tensor) -> Tensor:
        return picture

    pictures = _photos(2)
    ways = ["light", "photo", one, lambda picture: picture]
    every = [_prepared(pictures, way).identity(2) for way in ways]
    assert len(set(every)) == 4 and _prepared(pictures, one).identity(2) == every[2]
    assert len({_prepared(pictures, way).identity(1) for way in ways}) == 1  # no view, no difference
    assert _prepared(pictures, one).of(read((pictures, [0, 1]), kind="image")).identity(2) == every[2]
    made = ImagePreprocessing(32, 32).viewing("photo")
    assert "augment" not in made.to_dict() and preprocessing_from_dict(made.to_dict()) == ImagePreprocessing(32, 32)
    with pytest.raises(DataError, match="no setting 'augment'"):
        preprocessing_from_dict({**made.to_dict(), "augment": "photo"})


@pytest.mark.parametrize("augment", ["photo", lambda item: item])
def test_other_kinds_than_pictures_say_so(augment: Any) -> None:
    data = read((np.random.default_rng(0).normal(size=(6, 4)), [0, 1] * 3))
    with pytest.raises(SettingError, match="is for pictures; the network takes examples of the kind 'array'"):
        PreparedData(data, ArrayPreprocessing(), augment=augment)


def test_columns_beside_pictures_leave_the_views_to_the_pictures() -> None:
    columns = ColumnsPreprocessing(names=("age",), inner=ImagePreprocessing(32, 32), mean=(0.0,), std=(1.0,))
    inner = columns.viewing("photo").inner
    assert isinstance(inner, ImagePreprocessing) and inner.augment == "photo"
