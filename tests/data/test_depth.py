"""Pictures of every mode as files and as PIL images: exact levels, ranges decided by the training, transparent pixels on a background."""

from __future__ import annotations

import base64
import io
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data import ImagePreprocessing, read
from regraft.data.decoding.depth import LOOKED_AT, float_range_of, integer_range_of, transparency_of
from regraft.data.preprocessings.preprocessing import from_dict
from regraft.errors import DataError
from regraft.report import picture_uri

Image = pytest.importorskip("PIL.Image")
GREY = {"height": 1, "width": 4, "channels": 1, "scale": 1.0}
COLOUR = {"height": 1, "width": 4, "scale": 1.0, "layout": "channels_last"}
RED, GREEN, BLUE, DARK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (9, 8, 7)
WHITE = (255, 255, 255)
OPAQUE = [255, 0, 51, 255]
"""Alpha of four pixels: whole, transparent, a fifth, whole."""


def _row(*values: Any, dtype: Any) -> Any:
    return Image.fromarray(np.array([values], dtype))


def _palette(mode: str = "P") -> Any:
    picture = Image.new(mode, (4, 1))
    picture.putpalette([*RED, *GREEN, *BLUE, *DARK])
    picture.putdata([0, 1, 2, 3])
    return picture


def _with_alpha(mode: str, colours: list[Any]) -> Any:
    picture = Image.new(mode, (4, 1))
    picture.putdata([(*(colour if isinstance(colour, tuple) else (colour,)), alpha) for colour, alpha in zip(colours, OPAQUE, strict=True)])
    return picture


def _keyed(mode: str, colours: list[Any]) -> Any:
    picture = Image.new(mode, (4, 1))
    picture.putdata(colours)
    return picture


DEEP = [0, 1285, 32896, 65535]
FADED = [(255, 0, 0), WHITE, (204, 204, 255), DARK]
"""Red, anything transparent, blue of which a fifth covers white, dark."""
TABLE: dict[str, tuple[Any, str, dict[str, Any], list[Any]]] = {
    "PNG 1": (_row(0, 1, 1, 0, dtype=bool), "png", {}, [0, 255, 255, 0]),
    "PNG L": (_row(0, 7, 128, 255, dtype=np.uint8), "png", {}, [0, 7, 128, 255]),
    "PNG L, one level transparent": (_row(0, 7, 128, 255, dtype=np.uint8), "png", {"transparency": 7}, [0, 255, 128, 255]),
    "PNG LA": (_with_alpha("LA", [10, 20, 0, 30]), "png", {}, [10, 255, 204, 30]),
    "PNG P": (_palette(), "png", {}, [RED, GREEN, BLUE, DARK]),
    "PNG P, transparent": (_palette(), "png", {"transparency": bytes(OPAQUE)}, FADED),
    "GIF P, one colour transparent": (_palette(), "gif", {"transparency": 1}, [RED, WHITE, BLUE, DARK]),
    "PNG RGB": (_keyed("RGB", [RED, GREEN, BLUE, DARK]), "png", {}, [RED, GREEN, BLUE, DARK]),
    "PNG RGB, one colour transparent": (_keyed("RGB", [RED, GREEN, BLUE, DARK]), "png", {"transparency": GREEN}, [RED, WHITE, BLUE, DARK]),
    "PNG RGBA": (_with_alpha("RGBA", [RED, GREEN, BLUE, DARK]), "png", {}, FADED),
    "TIFF RGBA": (_with_alpha("RGBA", [RED, GREEN, BLUE, DARK]), "tif", {}, FADED),
    "PNG I;16": (_row(*DEEP, dtype=np.uint16), "png", {}, [0, 5, 128, 255]),
    "TIFF I;16": (_row(*DEEP, dtype=np.uint16), "tif", {}, [0, 5, 128, 255]),
    "TIFF I;16B": (_row(*DEEP, dtype=">u2"), "tif", {}, [0, 5, 128, 255]),
    "TIFF I;16 of 12 bits": (_row(0, 273, 2048, 4095, dtype=np.uint16), "tif", {}, [0, 17, 128, 255]),
    "TIFF I of 8 bits": (_row(0, 17, 128, 255, dtype=np.int32), "tif", {}, [0, 17, 128, 255]),
    "TIFF I of 12 bits": (_row(0, 273, 2048, 4095, dtype=np.int32), "tif", {}, [0, 17, 128, 255]),
    "TIFF I of 16 bits": (_row(*DEEP, dtype=np.int32), "tif", {}, [0, 5, 128, 255]),
    "TIFF I of 20 bits": (_row(0, 2**19, 2**20 - 1, 0, dtype=np.int32), "tif", {}, [0, 128, 255, 0]),
    "TIFF I with negative ones": (_row(-1000, 0, 1000, 4100, dtype=np.int32), "tif", {}, [0, 50, 100, 255]),
    "TIFF F of 0..1": (_row(0, 0.2, 0.5, 1, dtype=np.float32), "tif", {}, [0, 51, 128, 255]),
    "TIFF F of 0..1, all dark": (_row(0, 0.02, 0.04, 0.1, dtype=np.float32), "tif", {}, [0, 5, 10, 26]),
    "TIFF F of 0..255": (_row(0, 7, 128, 200, dtype=np.float32), "tif", {}, [0, 7, 128, 200]),
    "TIFF F, measured": (_row(-20, -9, 13, 35, dtype=np.float32), "tif", {}, [0, 51, 153, 255]),
    "PGM of 16 bits, dark": (_row(0, 257, 514, 1285, dtype=np.int32), "pgm", {}, [0, 1, 2, 5]),
}


def _expected(levels: list[Any], channels: int) -> np.ndarray:
    grey = np.array([level if isinstance(level, tuple) else (level,) * 3 for level in levels], np.uint8)[None]
    picture = Image.fromarray(grey)
    return np.asarray(picture.convert("L") if channels == 1 else picture, np.float32)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("options", [COLOUR, GREY], ids=["colour", "grey"])
def test_every_mode_has_exact_levels(options, name, tmp_path):
    picture, suffix, saved, levels = TABLE[name]
    path = tmp_path / f"a.{suffix}"
    picture.save(path, **saved)
    channels = options.get("channels", 3)
    own = ImagePreprocessing(**options).fit(read(([path, path], [0, 1]), kind="image"))
    np.testing.assert_allclose(own.item(path).reshape(1, 4, -1).squeeze(), _expected(levels, channels).squeeze(), atol=0.01)
    with Image.open(path) as opened:
        np.testing.assert_array_equal(own.item(opened), own.item(path))
    data = own.dataset([path])
    np.testing.assert_array_equal(own.arrays_of(data, [0])[0], own.item(path))
    assert own.arrays_of(data, [0], raw=True).shape == (1, 1, 4, channels)
    assert from_dict(own.to_dict()) == own


def test_jpeg_in_cmyk_has_the_colours_of_the_inks(tmp_path):
    inks = np.zeros((8, 8, 4), np.uint8)
    inks[..., 1:3] = 255  # magenta and yellow: red
    Image.fromarray(inks, mode="CMYK").save(tmp_path / "a.jpg", quality=100)
    made = ImagePreprocessing(8, 8, scale=1.0, layout="channels_last").item(tmp_path / "a.jpg")
    np.testing.assert_allclose(made, np.broadcast_to((255, 0, 0), (8, 8, 3)), atol=3)


@pytest.mark.parametrize(("background", "shown"), [("white", 255), ("black", 0), ("ignored", None)])
def test_background_is_an_option_and_arrays_have_the_same(background, shown, tmp_path):
    picture = _with_alpha("RGBA", [RED, GREEN, BLUE, DARK])
    picture.save(tmp_path / "a.png")
    own = ImagePreprocessing(**COLOUR, background=background)
    made = own.item(tmp_path / "a.png")
    hidden = np.array(GREEN if shown is None else (shown,) * 3, np.float32)
    np.testing.assert_array_equal(made[0, 1], hidden)
    fifth = np.array(BLUE) if shown is None else np.array(BLUE) * 0.2 + shown * 0.8
    np.testing.assert_array_equal(made[0, 2], fifth)
    np.testing.assert_allclose(own.item(np.asarray(picture)), made, atol=0.5)
    np.testing.assert_allclose(own.fit(own.dataset(np.zeros((1, 1, 4, 4)))).item(np.asarray(picture) / 255), made, atol=0.5)
    assert (background in own.describe()) == (background != "white")
    four = ImagePreprocessing(1, 4, channels=4, scale=1.0, layout="channels_last", background=background)
    np.testing.assert_array_equal(four.item(tmp_path / "a.png")[0, 1], [*GREEN, 0])  # a network of four channels takes alpha


def test_transparent_levels_of_16_bits(tmp_path):
    _row(0, 257, 514, 65535, dtype=np.uint16).save(tmp_path / "a.png", transparency=257)
    assert ImagePreprocessing(**GREY).item(tmp_path / "a.png").ravel().tolist() == [0, 255, 2, 255]
    assert ImagePreprocessing(**GREY, background="ignored").item(tmp_path / "a.png").ravel().tolist() == [0, 1, 2, 255]


def _icon(mode: str, level: int, *, opaque: bool = False) -> Any:
    """Return a square of one level on a transparent ground, or, if it is opaque, on one of another level."""
    alpha = np.zeros((16, 16), np.uint8)
    alpha[4:12, 4:12] = 255
    grey = Image.fromarray(np.where(alpha > 0, level, 255 - level if opaque else 0).astype(np.uint8))
    if mode == "P":
        made = Image.fromarray(alpha // 255).convert("P")
        made.putpalette([7, 7, 7, level, level, level])
        made.info["transparency"] = 0
        return made
    made = grey.convert(mode)
    made.putalpha(Image.fromarray(np.full_like(alpha, 255) if opaque else alpha))
    return made


@pytest.mark.parametrize("mode", ["LA", "P", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".webp", None])
def test_transparent_pixels_are_noted_and_a_background_that_hides_the_drawing_is_a_warning(mode, suffix, tmp_path):
    def items(level: int, **kind: Any) -> list[Any]:
        every = [_icon(mode, level, **kind) for _ in range(3)]
        if suffix is None:
            return every
        for number, one in enumerate(every):
            one.save(tmp_path / f"{number}{suffix}", **({"lossless": True} if suffix == ".webp" else {}))
        return [tmp_path / f"{number}{suffix}" for number in range(3)]

    said = transparency_of(items(0), "white")
    assert said.startswith("3 of 3 examined pictures have transparent pixels, which are composited on white ('background'")
    hidden = transparency_of(items(255), "white")
    assert hidden.startswith("Warning: 3 of 3 examined pictures") and "3 of them then show nothing but one colour." in hidden
    assert hidden.endswith("With 'background': 'black' in preprocessing= 0 do.")
    assert transparency_of(items(255), "black").startswith("3 of 3")
    if mode != "P":
        assert transparency_of(items(0, opaque=True), "white") == ""


@pytest.mark.parametrize("mode", ["LA", "P", "RGBA"])
def test_thumbnails_of_a_report_show_transparent_pixels_white(mode, tmp_path):
    _icon(mode, 0).save(tmp_path / "a.png")
    uri = picture_uri(tmp_path / "a.png")
    assert uri is not None
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as shown:
        pixels = np.asarray(shown.convert("RGB"))
    assert (pixels[0, 0] == 255).all() and (pixels[len(pixels) // 2, len(pixels) // 2] == 0).all()


def test_adapt_and_check_say_what_becomes_of_transparent_pixels(tmp_path):
    for label, level, count in (("dark", 0, 6), ("bright", 255, 10)):
        (tmp_path / label).mkdir()
        for number in range(count):
            _icon("RGBA", abs(level - number % 5)).save(tmp_path / label / f"{number}.png")
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    net = regraft.load(module, inputs=(3, 16, 16), preprocessing={"kind": "image", "height": 16, "width": 16})
    warning = "Warning: 16 of 16 examined pictures have transparent pixels, which are composited on white: 10 of them"
    result = regraft.adapt(net, tmp_path, strategy="head", cache=None)
    assert any(one.startswith(warning) for one in result.facts["warnings"])
    assert warning in str(regraft.check(tmp_path, net))


def test_unknown_background_is_refused():
    with pytest.raises(DataError, match=r"background='pink' is unknown .* expected one of \('white', 'black', 'ignored'\)"):
        ImagePreprocessing(**GREY, background="pink")


def _deep_files(folder: Path, form: str) -> list[Path]:
    """Return 24 files, dark and light in turn, of which the dark ones alone would have a range of their own."""
    draw, paths = np.random.default_rng(0), []
    for at in range(24):
        shares = draw.uniform(0, 0.3, (8, 8)) + 0.7 * (at % 2)
        values = {
            "12 bits": (shares * 4095).astype(np.uint16),
            "int32": (shares * 4095).astype(np.int32),
            "float": shares.astype(np.float32),
        }[form]
        paths.append(folder / f"{at}.tif")
        Image.fromarray(values).save(paths[-1])
    return paths


def _net(family: str) -> Any:
    torch.manual_seed(0)
    spec = {"kind": "image", "height": 8, "width": 8, "channels": 1}
    if family == "torch":
        module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 2))
        return regraft.load(module, inputs=(1, 8, 8), preprocessing=spec)
    keras = pytest.importorskip("keras")
    parts = [keras.Input((8, 8, 1)), keras.layers.Conv2D(4, 3, activation="relu"), keras.layers.GlobalAveragePooling2D()]
    return regraft.load(keras.Sequential([*parts, keras.layers.Dense(2)]), preprocessing={**spec, "layout": "channels_last"})


@pytest.mark.parametrize(("family", "form"), [("torch", "12 bits"), ("torch", "float"), ("keras", "int32")])
def test_range_is_decided_once_and_saved(family, form, tmp_path):
    paths = _deep_files(tmp_path, form)
    data = read((paths, ["dark", "light"] * 12), kind="image")
    regraft.adapt(_net(family), data, out=tmp_path / "out", strategy="head", epochs=2, learning_rate=0.01, cache="none")
    net = regraft.load(tmp_path / "out")
    expected = "floating-point pictures: 0..1" if form == "float" else "more than 8 bits: 0..4095"
    assert expected in net.preprocessing.describe()
    whole = net.predict(paths).probabilities
    for at in (0, 1):  # a dark one alone is not stretched
        np.testing.assert_allclose(net.predict(paths[at]).probabilities[0], whole[at], atol=1e-5)
        with Image.open(paths[at]) as picture:
            np.testing.assert_allclose(net.predict(picture).probabilities[0], whole[at], atol=1e-5)
            beyond = Image.fromarray(np.asarray(picture) * 16 + 1)
    beyond.save(tmp_path / "beyond.tif")
    with pytest.raises(DataError, match=r"hold values from .*read as 0 to (4095|1): they are \d+(\.\d+)? times as large"):
        net.predict([*paths, tmp_path / "beyond.tif"])


def test_what_no_training_saw_is_said(tmp_path):
    own = ImagePreprocessing(**GREY).fit(read(([_save(tmp_path / "a.png", [0, 9, 9, 255], np.uint8)] * 2, [0, 1]), kind="image"))
    assert own.integer_range is None and own.float_range is None
    with pytest.warns(UserWarning, match=r"none above 4095; .* read as 0 to 65535. Multiply them by 16 if 4095 stands for white"):
        own.check_values(own.dataset(_save(tmp_path / "b.tif", [0, 2000, 3000, 4000], np.uint16)))
    with pytest.raises(DataError, match="0 to 200; pictures of this kind are read as 0 to 1: they are 200 times as large"):
        own.check_values(own.dataset(_save(tmp_path / "c.tif", [0, 2, 20, 200], np.float32)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        own.check_values(own.dataset(_save(tmp_path / "d.tif", DEEP, np.uint16)))


def test_arrays_of_the_training_decide_for_files(tmp_path):
    own = ImagePreprocessing(**GREY).fit(read((np.array([[[0, 5, 9, 16]]] * 2, np.int64), [0, 1]), kind="image"))
    assert own.item(_save(tmp_path / "a.tif", [0, 4, 8, 16], np.int32)).ravel().tolist() == pytest.approx([0, 64, 128, 255])


def test_one_picture_that_was_not_looked_at_is_an_error_that_names_it(tmp_path):
    usual, odd = _save(tmp_path / "a.tif", [0, 1, 2, 4095], np.uint16), _save(tmp_path / "odd.tif", DEEP, np.uint16)
    paths = [usual, odd] + [usual] * (4 * LOOKED_AT)
    own = ImagePreprocessing(**GREY).fit(read((paths, [0, 1] * (len(paths) // 2)), kind="image"))
    assert own.integer_range == (0, 4095)
    with pytest.raises(DataError, match=r"odd\.tif.*0 to 65535; pictures of this kind are read as 0 to 4095"):
        own.batch(paths[:3])


def test_values_that_are_no_numbers(tmp_path):
    path = _save(tmp_path / "a.tif", [0, np.nan, 0.5, 1], np.float32)
    own = ImagePreprocessing(**GREY).fit(read(([path, path], [0, 1]), kind="image"))
    with pytest.raises(DataError, match=r"a\.tif.*no numbers \(NaN or infinite\)"):
        own.item(path)


def _save(path: Path, values: list[float], dtype: Any) -> Path:
    _row(*values, dtype=dtype).save(path)
    return path


@pytest.mark.parametrize(
    ("limits", "integers", "floats"),
    [
        (None, None, None),
        ((0, 0), None, (0, 1)),
        ((0, 1), (0, 255), (0, 1)),
        ((3, 255), (0, 255), (0, 255)),
        ((0, 256), (0, 4095), (0, 256)),
        ((0, 4096), (0, 65535), (0, 4096)),
        ((0, 65536), (0, 131071), (0, 65536)),
        ((-5, 5), (-5, 5), (-5, 5)),
        ((-5, -5), (-5, -4), (-5, 0)),
        ((7, 7), (0, 255), (0, 7)),
    ],
)
def test_ranges(limits, integers, floats):
    assert (integer_range_of(limits), float_range_of(limits)) == (integers, floats)
