"""Preprocessing of pictures (files, PIL images, arrays) for a network's input."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from ...errors import DataError
from ...tensors import Tensor, torch
from ...words import counted
from ..dataset import Dataset
from ..decoding.depth import BACKGROUNDS, ByteConversion, deep_limits, float_range_of, integer_range_of
from ..decoding.pictures import MODES, decode, decoded, geometry, pixel_batch, value_range_of
from ..decoding.threads import in_threads
from ..items import spread_rows, take
from ..ranges import BYTES, SHARES, STEPS, Range, check_range, limits_of
from .augmenting import by_function, like_photographs, photographs
from .preprocessing import Preprocessing, check_scaling
from .schemas import MOST, Constant, Count, Limits, Pixels, Scale, Share, Words

DEFAULT_SIZE = 224
ROTATION = np.deg2rad(10.0)
ZOOM = 0.1
SHIFT = 0.08
LIGHT = 0.2
_LOOKED_AT = 32


@dataclass(frozen=True)
class ImagePreprocessing(Preprocessing):
    """Map pictures to `((pixels in 0..255) * scale - mean) / std`, float32, in the network's channel order.
    `value_range`: (minimum, maximum) of array examples, mapped to 0..255; later arrays are compared with it. None before `fit`.
    `integer_range`: (minimum, maximum) of files and PIL images of 16 or 32 bits, mapped to 0..255; None: 0..65535. `float_range`: (minimum,
    maximum) of floating-point files and PIL images, mapped to 0..255; None: 0..1. `augment`: how views are made; it is not saved. With
    augment="light", views rotate by up to 10 degrees, zoom by 0.9 to 1.1, shift by up to 8 %, and change brightness and contrast by up to
    20 %. They are never mirrored, because mirrored digits and text change their meaning. For "photo" see `photographs`. A callable receives
    each picture at the network's size, (C, H, W) float32 in 0..255."""

    kind: ClassVar[str] = "image"
    height: Pixels  # height of the network's input in pixels
    width: Pixels  # width of the network's input in pixels
    channels: Count = 3  # 1 (grey), 3 (colour), or the network's own number; grey and colour are converted into each other
    layout: str = "channels_first"  # "channels_first" (C, H, W) or "channels_last" (H, W, C)
    resize: str = "squash"  # "squash" resizes height and width independently; "crop" keeps the aspect ratio and crops the centre
    crop_fraction: Share = 1.0  # share of the centre that is kept; the picture is first resized to size / crop_fraction
    interpolation: str = "bicubic"  # "bicubic" or "bilinear", antialiased
    scale: Scale = 1 / 255  # factor on pixels in 0..255, applied before `mean` and `std`
    mean: Constant = 0.0  # one number, or one for each channel in the network's channel order
    std: Constant = 1.0  # one number, or one for each channel in the network's channel order
    bgr: bool = False
    value_range: Limits | None = None
    integer_range: Limits | None = None
    float_range: Limits | None = None
    background: str = "white"  # background of transparent pixels: "white", "black", or "ignored" for the colour stored under them
    as_is: bool = False  # array examples are already normalised and have the network's shape; they pass unchanged
    inferred: bool = False  # made from the network's input shape alone, because the network has no preprocessing of its own
    measured: Words = ""  # the comparison by which it was chosen, in words, if a network without preprocessing was measured
    augment: str | Callable[..., Any] = field(default="light", compare=False, repr=False, metadata={"kept": False})

    def __post_init__(self) -> None:
        options = {"layout": ("channels_first", "channels_last"), "resize": ("squash", "crop"), "interpolation": tuple(MODES)}
        options["background"] = tuple(BACKGROUNDS)
        for name, valid in options.items():
            if getattr(self, name) not in valid:
                raise DataError(f"{name}={getattr(self, name)!r} is unknown to image preprocessing; expected one of {valid}.")
        check_scaling(self.mean, self.std)
        for name in ("mean", "std"):
            value = getattr(self, name)
            if isinstance(value, tuple) and len(value) not in (1, self.channels):
                raise DataError(
                    f"{name} has {counted(len(value), 'number')} for {counted(self.channels, 'channel')}; expected 1 or {self.channels}."
                )

    @classmethod
    def from_plain(cls, fields: dict[str, Any]) -> Self:
        """Make it from plain data; raise for pictures that take too much memory."""
        made = super().from_plain(fields)
        if made.height * made.width * made.channels > MOST:
            raise DataError(f"An image preprocessing has pictures of the shape {made.item_shape}; expected {MOST} numbers at most.")
        return made

    @classmethod
    def for_shape(cls, input_shape: tuple[int | None, ...], layout: str = "channels_first") -> Self:
        """Return pixels in 0..1 for an input (C, H, W) or (H, W, C). An open side becomes 224, an open channel axis 3."""
        shape = input_shape or (None, None, None)
        if len(shape) != 3:
            raise DataError(f"The network takes examples of the shape {shape}; expected three axes for images. Give preprocessing=.")
        channels, height, width = shape if layout == "channels_first" else (shape[2], shape[0], shape[1])
        return cls(height=height or DEFAULT_SIZE, width=width or DEFAULT_SIZE, channels=channels or 3, layout=layout)

    @property
    def fitted(self) -> bool:
        """Whether the value range of arrays is known."""
        return self.as_is or self.value_range is not None

    @property
    def item_shape(self) -> tuple[int, int, int]:
        """Shape of a picture as the network takes it."""
        sides = (self.height, self.width)
        return (self.channels, *sides) if self.layout == "channels_first" else (*sides, self.channels)

    def fit(self, data: Dataset) -> ImagePreprocessing:
        """Record the value range of array examples, and whether they are already normalised. Files of 8 bits have the range 0..255."""
        if data.kind == "text":
            raise DataError(f"The network takes images and the data are {counted(len(data), 'text')}; expected files of images or arrays.")
        found = value_range_of(data.items)
        if found is None:
            integers, floats = deep_limits(data.items)
            deep = integer_range_of(integers), float_range_of(floats)
            return dataclasses.replace(self, value_range=BYTES, integer_range=deep[0], float_range=deep[1])
        shape = np.shape(data.items[0])
        normalised = found[0] < 0 and shape == (self.channels, self.height, self.width) and self.layout == "channels_first"
        return dataclasses.replace(self, value_range=found, integer_range=None, float_range=None, as_is=normalised)

    @property
    def reading(self) -> ByteConversion:
        """Value ranges of files and PIL images. If the network was trained on arrays only, their measured range applies."""
        measured = None if self.value_range in (None, BYTES, SHARES) else self.value_range
        return ByteConversion(self.integer_range or measured or STEPS[-1], self.float_range or measured or SHARES, self.background)

    def check_values(self, data: Dataset) -> None:
        """Compare the values of arrays, and of pictures with more than 8 bits, with those of the training data."""
        if self.value_range is None:
            return
        integers, floats = deep_limits(data.items)
        check_range(integers, self.reading.integers, what="pictures")
        check_range(floats, self.reading.floats, what="pictures")
        likely = integer_range_of(integers) or STEPS[-1]
        if likely in STEPS[:-1] and self.integer_range is None and self.reading.integers == STEPS[-1]:
            warnings.warn(
                f"The pictures hold whole numbers of 16 or 32 bits, none above {likely[1]:.0f}; the network learned from none of these, "
                f"and they are read as 0 to 65535. Multiply them by {65536 // int(likely[1] + 1)} if {likely[1]:.0f} stands for white.",
                stacklevel=2,
            )
        first = data.items[0] if len(data) else None
        plain = isinstance(first, np.ndarray) and first.dtype == np.uint8 and self.value_range in (SHARES, *STEPS) and not self.as_is
        check_range(None if plain else limits_of(data.items), self._range_of(first) if isinstance(first, np.ndarray) else None)
        transparent = self.transparent(data)
        if transparent:
            warnings.warn(transparent, stacklevel=2)

    def transparent(self, data: Dataset) -> str:
        """Return a warning if the fourth channel of arrays is read as transparency and is not opaque; else ""."""
        first = data.items[0] if len(data) else None
        ignored = self.as_is or self.channels not in (1, 3) or self.background == "ignored"
        if ignored or not isinstance(first, np.ndarray) or first.ndim != 3 or 4 not in (first.shape[2], first.shape[0]):
            return ""
        last = first.shape[2] in (1, 3, 4)
        if first.shape[2 if last else 0] != 4:
            return ""
        looked = [np.asarray(one) for one in take(data.items, np.arange(min(len(data), _LOOKED_AT)))]
        if all((one[..., 3] if last else one[3]).min() >= (self._range_of(one) or BYTES)[1] for one in looked):
            return ""
        return (
            f"The arrays have four channels and the network takes {self.channels}: the fourth is read as transparency, and the picture is "
            f"laid on {self.background}. With 'background': 'ignored' in preprocessing= it is left out."
        )

    def _range_of(self, array: np.ndarray) -> Range | None:
        """Return the values for black and white in an array. Integers of more than 8 bits are read like such files."""
        if array.dtype == np.uint8 and self.value_range in (SHARES, *STEPS):
            return BYTES
        deep = array.dtype.kind in "iu" and array.dtype.itemsize > 1
        return self.integer_range if deep and self.integer_range is not None else self.value_range

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Return n pictures as the network takes them, (n, C, H, W) or (n, H, W, C) float32. Files are decoded in threads, arrays at once.
        `items`: (n, ...) array, or n paths, PIL images or arrays; `view`: 0 for the plain pictures, k > 0 for their k-th augmented copy."""
        if self.as_is:
            return self._passed(items, view, seeds=seeds)
        pixels = self.pixels(items)
        return self.normalised(self._viewed(pixels, view, seeds=seeds, limits=(0.0, 255.0)) if view else pixels)

    def arrays_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, raw: bool = False) -> np.ndarray:
        """Return some pictures as one batch of arrays, with `raw` as decoded bytes; see `Preprocessing.arrays_of`."""
        items = take(data.items, indices)
        if len(items) and isinstance(items[0], np.ndarray):
            if not raw:
                return np.asarray(self.batch(items).numpy())
            pixels = self._pixels_of(np.stack(list(items))).numpy()
            return np.moveaxis(np.broadcast_to(pixels, (len(pixels), self.channels, *pixels.shape[2:])), 1, 3).round().astype(np.uint8)
        resized, reading = (lambda picture: picture) if raw else self._resized_image, self.reading
        made = np.stack(in_threads(lambda item: decoded(item, self.channels, resized=resized, reading=reading), list(items)))
        return made if raw else self._scaled(made)

    def _scaled(self, pixels: np.ndarray) -> np.ndarray:
        """Normalise pixels (n, height, width, C) as `normalised` does, in NumPy."""
        std, mean = (np.broadcast_to(np.asarray(values, np.float32), self.channels) for values in (self.std, self.mean))
        values = pixels[..., ::-1] if self.bgr and self.channels == 3 else pixels
        made = values * (np.float32(self.scale) / std) + -mean / std
        return made if self.layout == "channels_last" else np.ascontiguousarray(np.moveaxis(made, 3, 1))

    def viewing(self, augment: str | Callable[..., Any]) -> ImagePreprocessing:
        return dataclasses.replace(self, augment=augment)

    def of_photographs(self, data: Dataset) -> bool:
        """Return whether a sample of the pictures is colourful and not dominated by a single level."""
        if self.as_is or self.channels != 3:
            return False
        return like_photographs(self.pixels(take(data.items, spread_rows(len(data), _LOOKED_AT))))

    def describe(self) -> str:
        if self.as_is:
            return f"images: arrays of the shape {(self.channels, self.height, self.width)} pass as they are (already normalised)"
        fit = self.resize if self.crop_fraction == 1 else f"{self.resize}, centre {self.crop_fraction:g}"
        order = {1: "grey", 3: "BGR" if self.bgr else "RGB"}.get(self.channels, counted(self.channels, "channel"))
        values = "" if self.value_range in (None, (0.0, 255.0)) else f", array values {self.value_range} to 0..255"
        line = f"images: {self.height}x{self.width} {order}, {self.interpolation} {fit}"
        line += f", {_steps_in_words(self.scale, self.mean, std=self.std)}{values}"
        deep = {"pictures of whole numbers of more than 8 bits": self.integer_range, "floating-point pictures": self.float_range}
        line += "".join(f", {name}: {own[0]:.6g}..{own[1]:.6g} to 0..255" for name, own in deep.items() if own)
        line += "" if self.background == "white" else f", transparent pixels: {self.background}"
        line += ", inferred from the network's input" if self.inferred else ""
        return f"{line}; {self.measured}" if self.measured else line

    def pixels(self, items: Sequence[Any] | np.ndarray) -> Tensor:
        """Return n pictures at the network's size before normalisation, (n, 1 or C, height, width) in 0..255.
        `items`: (n, ...) array, or n paths, PIL images or arrays."""
        if _is_block(items):
            return self._fitted_pixels(self._pixels_of(np.asarray(items)))
        return torch.cat(in_threads(self._one, list(items)))

    def _viewed(self, pictures: Tensor, view: int, *, seeds: Sequence[int] | None, limits: tuple[float, float] | None) -> Tensor:
        """Return pictures augmented as `augment` says."""
        own = list(seeds) if seeds else [0] * len(pictures)
        if callable(self.augment):
            return by_function(self.augment, pictures, view=view, seeds=own)
        made = photographs if self.augment == "photo" else augmented_pictures
        return made(pictures, view, seeds=own, limits=limits)

    def _passed(self, items: Sequence[Any] | np.ndarray, view: int, *, seeds: Sequence[int] | None) -> Tensor:
        inputs = torch.from_numpy(np.stack([np.asarray(item, dtype=np.float32) for item in items]))
        received, expected = tuple(inputs.shape[1:]), (self.channels, self.height, self.width)
        if received != expected:
            raise DataError(f"A picture has the shape {received}; expected normalised arrays of {expected}, as when it was fitted.")
        return self._viewed(inputs, view, seeds=seeds, limits=None) if view else inputs

    def _one(self, item: Any) -> Tensor:
        """Return one picture as (1, 1 or C, height, width) pixels in 0..255."""
        if isinstance(item, np.ndarray):
            return self._fitted_pixels(self._pixels_of(item[None]))
        return decode(item, self.channels, resized=self._resized_image, reading=self.reading)

    def _pixels_of(self, arrays: np.ndarray) -> Tensor:
        return pixel_batch(arrays, self.channels, value_range=self._range_of(arrays), background=self.background)

    def _geometry(self, height: int, width: int) -> tuple[int, int, int, int]:
        return geometry((height, width), (self.height, self.width), fraction=self.crop_fraction, crop=self.resize == "crop")

    def _resized_image(self, picture: Any) -> Any:
        new_height, new_width, top, left = self._geometry(picture.height, picture.width)
        if picture.size != (new_width, new_height):
            picture = picture.resize((new_width, new_height), MODES[self.interpolation])
        return picture.crop((left, top, left + self.width, top + self.height))

    def _fitted_pixels(self, pixels: Tensor) -> Tensor:
        """Resize and crop (n, c, h, w) pixels with the geometry of `_resized_image`."""
        new_height, new_width, top, left = self._geometry(pixels.shape[2], pixels.shape[3])
        if tuple(pixels.shape[2:]) != (new_height, new_width):
            size = (new_height, new_width)
            pixels = torch.nn.functional.interpolate(pixels, size=size, mode=self.interpolation, antialias=True).clamp_(0, 255)
        return pixels[:, :, top : top + self.height, left : left + self.width]

    def normalised(self, pixels: Tensor) -> Tensor:
        """Normalise pictures (n, 1 or C, height, width) in 0..255 to (n, C, H, W) or (n, H, W, C) float32, as the network takes them."""
        if self.bgr and pixels.shape[1] == 3:
            pixels = pixels.flip(1)
        std = torch.as_tensor(self.std, dtype=torch.float32).expand(self.channels)
        mean = torch.as_tensor(self.mean, dtype=torch.float32).expand(self.channels)
        shape = (1, self.channels, 1, 1)
        factor, offset = (self.scale / std).reshape(shape), (-mean / std).reshape(shape)
        if self.layout == "channels_last":
            pixels, factor, offset = (part.permute(0, 2, 3, 1) for part in (pixels, factor, offset))
        return torch.addcmul(offset, pixels, factor).contiguous()


def with_channels(plain: dict[str, Any], count: int) -> dict[str, Any]:
    """Return a preprocessing's plain data adapted to another number of channels."""
    if plain.get("kind") != ImagePreprocessing.kind:
        return plain
    numbers = {name: plain[name] for name in ("mean", "std") if isinstance(plain.get(name), list | tuple)}
    turned = {name: float(np.mean(each)) if count == 1 else [each[at % len(each)] for at in range(count)] for name, each in numbers.items()}
    return {**plain, **turned, "channels": count, "bgr": bool(plain.get("bgr")) and count == 3}


def _steps_in_words(scale: float, mean: float | Sequence[float], *, std: float | Sequence[float]) -> str:
    """Return the operations on a pixel of 0..255 in words: "pixels / 255", "(pixels / 127.5 - 1)", "pixels as they are"."""
    made = "pixels" if scale == 1 else f"pixels / {1 / scale:.6g}"
    shift, spread = (_number(value) for value in (mean, std))
    made = made if shift == "0" else f"({made} - {shift})"
    made = made if spread == "1" else f"{made} / {spread}"
    return "pixels as they are" if made == "pixels" else made


def _number(value: float | Sequence[float]) -> str:
    """Return one number, or several in brackets; equal numbers are shown as one."""
    several = [f"{one:.6g}" for one in ([value] if isinstance(value, int | float) else value)]
    return several[0] if len(set(several)) == 1 else f"({', '.join(several)})"


def _is_block(items: Any) -> bool:
    """Return whether the examples are arrays of one shape and can be processed at once."""
    if isinstance(items, np.ndarray):
        return bool(items.dtype.kind != "O")
    first = items[0] if len(items) else None
    return isinstance(first, np.ndarray) and all(isinstance(item, np.ndarray) and item.shape == first.shape for item in items)


def augmented_pictures(pictures: Tensor, view: int, *, seeds: Sequence[int], limits: tuple[float, float] | None) -> Tensor:
    """Return pictures with small random rotation, zoom, shift and lighting, each by its own seed and never mirrored; (n, c, h, w).
    `pictures`: (n, c, h, w); `view`: k > 0; `seeds`: n numbers. Picture i uses `np.random.default_rng([seeds[i], view])`. The result is
    clamped to `limits` (minimum, maximum); None leaves brightness and contrast unchanged."""
    draws = np.stack([np.random.default_rng([seed, view]).uniform(-1, 1, 6) for seed in seeds])
    angle, zoom = draws[:, 0] * ROTATION, 1 + draws[:, 1] * ZOOM
    ratio = pictures.shape[2] / pictures.shape[3]
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    rows = np.stack([cos, -sin * ratio, 2 * SHIFT * draws[:, 2], sin / ratio, cos, 2 * SHIFT * draws[:, 3]], axis=1)
    theta = torch.from_numpy(rows.reshape(-1, 2, 3).astype(np.float32))
    grid = torch.nn.functional.affine_grid(theta, list(pictures.shape), align_corners=False)
    moved = torch.nn.functional.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
    if limits is None:
        return moved
    light = torch.from_numpy(draws[:, 4:].astype(np.float32) * LIGHT).reshape(-1, 2, 1, 1, 1)
    centre = moved.mean(dim=(1, 2, 3), keepdim=True)
    lit = (moved - centre) * (1 + light[:, 1]) + centre * (1 + light[:, 0])
    return lit.clamp_(*limits)
