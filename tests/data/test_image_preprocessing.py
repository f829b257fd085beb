from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
import torch

from regraft.data import ImagePreprocessing, PreparedData, read
from regraft.data.decoding.pictures import geometry, pixel_batch, value_range_of
from regraft.errors import DataError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def test_normalisation_by_hand():
    made = ImagePreprocessing(1, 1, mean=MEAN, std=STD)
    colour = np.array([[[255, 51, 0]]], np.uint8)
    np.testing.assert_allclose(made.item(colour).ravel(), [(1 - 0.485) / 0.229, (0.2 - 0.456) / 0.224, -0.406 / 0.225], rtol=1e-5)
    last = ImagePreprocessing(1, 1, layout="channels_last", scale=1.0, mean=(103.0, 116.0, 123.0), bgr=True)
    assert last.item(colour).tolist() == [[[0 - 103.0, 51 - 116.0, 255 - 123.0]]]
    assert made.item(colour).dtype == np.float32


def test_files_arrays_and_pil_images_agree(pictures):
    image = pytest.importorskip("PIL.Image")
    paths = sorted(pictures.rglob("*.png"))
    cropped = {"resize": "crop", "crop_fraction": 0.8}
    for options in ({}, cropped, {"interpolation": "bilinear"}, {"layout": "channels_last"}, {"channels": 1}):
        made = ImagePreprocessing(16, 16, scale=1.0, **options)
        arrays = np.stack([np.asarray(image.open(path)) for path in paths])
        from_files, from_arrays = made.batch(paths), made.batch(arrays)
        assert from_files.shape == from_arrays.shape and from_files.dtype == torch.float32 and from_files.is_contiguous()
        apart = (from_files - from_arrays).abs()
        assert apart.mean() < 0.6 and apart.max() < 20  # PIL clips between its two passes
        torch.testing.assert_close(made.batch([image.open(path) for path in paths]), from_files)
        torch.testing.assert_close(made.batch(list(arrays)), from_arrays)
        images = read((arrays, np.arange(5) % 2), kind="image")
        np.testing.assert_array_equal(made.fit(images).arrays_of(images, [0, 3]), from_arrays[[0, 3]].numpy())
        raw = made.fit(images).arrays_of(images, [0, 3], raw=True)
        assert raw.dtype == np.uint8 and raw.shape == (2, *arrays.shape[1:3], made.channels)
        np.testing.assert_array_equal(made.item(paths[2]), from_files[2].numpy())
        np.testing.assert_allclose(made.item(arrays[2]), from_arrays[2].numpy(), atol=1e-3)


def test_photograph_shrinks_alike():
    path = pytest.importorskip("pathlib").Path(pytest.importorskip("sklearn.datasets").__file__).parent / "images/china.jpg"
    made = ImagePreprocessing(64, 64, resize="crop", crop_fraction=0.875, mean=MEAN, std=STD)
    array = np.asarray(pytest.importorskip("PIL.Image").open(path))
    assert (made.batch([path]) - made.batch(array[None])).abs().mean() < 0.02


def test_geometry():
    assert geometry((427, 640), (224, 224), fraction=0.875, crop=True) == (256, 383, 16, 80)
    assert geometry((427, 640), (224, 224), fraction=1.0, crop=False) == (224, 224, 0, 0)
    assert geometry((10, 10), (8, 4), fraction=1.0, crop=True) == (8, 8, 0, 2)


def test_exif_orientation_and_modes(tmp_path):
    image = pytest.importorskip("PIL.Image")
    picture = image.fromarray(np.array([[[255, 0, 0], [0, 0, 255]]], np.uint8))
    exif = picture.getexif()
    exif[274] = 6  # turned by a quarter to the right
    picture.save(tmp_path / "a.png", exif=exif)
    made = ImagePreprocessing(2, 1, scale=1.0, layout="channels_last")
    np.testing.assert_array_equal(made.item(tmp_path / "a.png")[:, 0], [[255, 0, 0], [0, 0, 255]])
    image.fromarray(np.array([[65535, 257]], np.uint16)).save(tmp_path / "deep.png")
    deep = ImagePreprocessing(1, 2, channels=1, scale=1.0).item(tmp_path / "deep.png")
    assert deep.tolist() == [[[255.0, 1.0]]]
    picture.convert("P").save(tmp_path / "palette.gif")
    assert ImagePreprocessing(1, 2).item(tmp_path / "palette.gif").shape == (3, 1, 2)
    assert ImagePreprocessing(1, 2, channels=4).item(picture).shape == (4, 1, 2)


def test_array_layouts_and_channels():
    grey, last, first = np.zeros((5, 7), np.uint8), np.zeros((5, 7, 3), np.uint8), np.zeros((3, 5, 7), np.uint8)
    made = ImagePreprocessing(4, 4)
    assert all(made.item(array).shape == (3, 4, 4) for array in (grey, last, first, np.zeros((5, 7, 4), np.uint8), grey[..., None]))
    assert ImagePreprocessing(4, 4, channels=1).item(last + 255).mean() == pytest.approx(1, abs=1e-4)
    assert ImagePreprocessing(4, 4, channels=6).item(np.zeros((6, 9, 9), np.uint8)).shape == (6, 4, 4)
    with pytest.raises(DataError, match=r"shape \(9, 9, 6\) is no picture with 3 channels; expected .* with C in \[1, 3, 4\]"):
        made.item(np.zeros((9, 9, 6), np.uint8))
    with pytest.raises(DataError, match=r"shape \(9, 9, 3\) have 3 channels; expected 6"):
        ImagePreprocessing(4, 4, channels=6).item(np.zeros((9, 9, 3), np.uint8))


def test_value_ranges(digits):
    assert value_range_of(np.zeros((2, 2, 2), np.uint8)) == (0, 255)
    assert value_range_of(np.full((2, 2, 2), 0.5)) == (0, 1)
    assert value_range_of(np.full((2, 2, 2), 250.0)) == (0, 255)
    assert value_range_of(np.array([[[-3.0, 700.0]]])) == (-3, 700)
    made = ImagePreprocessing(8, 8, channels=1).fit(read(digits))
    assert made.value_range == (0, 16) and made.fitted and "array values (0.0, 16.0)" in made.describe()
    torch.testing.assert_close(made.batch(digits[0][:5]), torch.tensor(digits[0][:5, None] / 16, dtype=torch.float32))


def test_normalised_arrays_pass():
    items = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    made = ImagePreprocessing(8, 8).fit(read((items, [0, 1, 0, 1])))
    assert made.as_is and "as they are" in made.describe()
    torch.testing.assert_close(made.batch(items), torch.from_numpy(items))
    assert made.batch(items, 1).shape == (4, 3, 8, 8)
    with pytest.raises(DataError, match=r"shape \(3, 9, 9\); expected normalised arrays of \(3, 8, 8\)"):
        made.item(np.zeros((3, 9, 9)))


def test_input_arrays_stay_as_they_were():
    items = np.random.default_rng(0).random((4, 8, 8)).astype(np.float32) * 300 - 20
    before = items.copy()
    items.flags.writeable = False
    ImagePreprocessing(8, 8, value_range=(0.0, 255.0)).batch(items, 1)
    np.testing.assert_array_equal(items, before)
    assert pixel_batch(items, 3, value_range=(0.0, 1.0)).max() == 255


def test_views_are_fixed_and_near(digits):
    prepared = PreparedData(read(digits).subset(range(20)), ImagePreprocessing(32, 32))
    plain, first, second = (prepared.batch(range(20), view) for view in (0, 1, 2))
    torch.testing.assert_close(prepared.batch([7], 1)[0], first[7])
    assert not torch.equal(first, second) and not torch.equal(first, plain)
    assert torch.corrcoef(torch.stack([plain.ravel(), first.ravel()]))[0, 1] > 0.6
    assert first.min() >= 0 and first.max() <= 1


def test_errors(tmp_path):
    (tmp_path / "a.png").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a.png' cannot be read as a picture: it has none of the formats"):
        ImagePreprocessing(4, 4).item(tmp_path / "a.png")
    with pytest.raises(DataError, match="1, 3 or 4 channels and the network takes 6"):
        ImagePreprocessing(4, 4, channels=6).item(tmp_path / "a.png")
    with pytest.raises(DataError, match="resize='stretch' is unknown"):
        ImagePreprocessing(4, 4, resize="stretch")
    with pytest.raises(DataError, match="mean has 2 numbers for 3 channels"):
        ImagePreprocessing(4, 4, mean=(1.0, 2.0))
    with pytest.raises(DataError, match="takes images and the data are 2 texts"):
        ImagePreprocessing(4, 4).fit(read((["a", "b"], [0, 1])))


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_png_files_that_cannot_hold_their_pixels(mode, tmp_path):
    """PIL would decode what is missing as black, for seconds; a plain picture packs as well as any, and is read."""
    image = pytest.importorskip("PIL.Image")
    preprocessing = ImagePreprocessing(height=8, width=8)
    path = tmp_path / "plain.png"
    image.new(mode, (2000, 2000)).save(path, optimize=True)
    preprocessing.batch([path])
    content = path.read_bytes()
    head = b"IHDR" + struct.pack(">II", 20, 4_000_000) + content[24:29]
    path.write_bytes(content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:200])
    with pytest.raises(DataError, match=r"20 x 4000000 pixels, more than \d+ bytes can hold"):
        preprocessing.batch([path])


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "pixels / 255"),
        ({"scale": 1.0}, "pixels as they are"),
        ({"scale": 1 / 127.5, "mean": 1.0}, "(pixels / 127.5 - 1)"),
        ({"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, "(pixels / 255 - 0.5) / 0.5"),
        ({"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}, "(pixels / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)"),
    ],
)
def test_what_is_done_to_pixels_is_said_as_people_write_it(given, words):
    assert f", {words}" in ImagePreprocessing(height=8, width=8, channels=3, **given).describe()
