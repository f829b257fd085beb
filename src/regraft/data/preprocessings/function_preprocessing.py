"""Preprocessing of pictures by a user function: a transform, a processor, or `preprocess_input`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from ...errors import DataError, SettingError, optional_import
from ...tensors import Tensor, torch
from ..dataset import Dataset
from ..decoding.pictures import decode
from .augmenting import augment_key, given_by_key, plain_name
from .image_preprocessing import ImagePreprocessing, augmented_pictures
from .preprocessing import Preprocessing
from .schemas import Form, Layout, Name, Pixels

__all__ = ["FunctionPreprocessing", "preprocessing_of_function"]

_FORMS = {"channels_first": ("picture", "keyword"), "channels_last": ("batch", "picture", "keyword")}
_NAMES = ("pixel_values", "image")


@dataclass(frozen=True)
class FunctionPreprocessing(Preprocessing):
    """Preprocess pictures with a function. A saved folder stores only its name, so it must be given again on loading.
    `form`: "picture": the function takes a PIL picture; "keyword": an array as `image=`, as in albumentations; "batch": pixels in 0..255,
    (n, height, width, 3), as in Keras."""

    kind: ClassVar[str] = "function"
    name: Name
    key: str
    form: Form
    height: Pixels  # height of the network's input in pixels
    width: Pixels  # width of the network's input in pixels
    layout: Layout = "channels_first"  # "channels_first" (C, H, W) or "channels_last" (H, W, C)
    inferred: bool = field(default=False, repr=False)

    @property
    def fitted(self) -> bool:
        return True

    @property
    def item_kind(self) -> str:
        return "image"

    def fit(self, data: Dataset) -> FunctionPreprocessing:
        return self

    def describe(self) -> str:
        known = "" if given_by_key(self.key) else ", which a folder cannot hold: give it again when it is opened"
        return f"images through the function {self.name!r}{known}"

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Return n pictures as the function makes them, (n, ...) float32. Views are rotated, zoomed and shifted afterwards."""
        function = given_by_key(self.key)
        if function is None:
            raise DataError(
                f"The network was saved with preprocessing={self.name!r}, a function, which a folder cannot hold. "
                "Give it again when the folder is opened, in Python."
            )
        made = self._called(function, items)
        sides = made.shape[1:3] if self.layout == "channels_last" else made.shape[2:]
        if made.ndim != 4 or tuple(sides) != (self.height, self.width):
            raise DataError(
                f"preprocessing={self.name!r} makes examples of the shape {tuple(made.shape[1:])}; the network takes pictures of "
                f"{self.height}x{self.width}, {self.layout}. Give a function that ends in that shape."
            )
        if not view:
            return made
        last = self.layout == "channels_last"
        moved = augmented_pictures(made.movedim(-1, 1) if last else made, view, seeds=list(seeds or [0] * len(made)), limits=None)
        return moved.movedim(1, -1).contiguous() if last else moved

    def _called(self, function: Callable[..., Any], items: Sequence[Any] | np.ndarray) -> Tensor:
        try:
            if self.form == "batch":
                plain = ImagePreprocessing(self.height, self.width, layout=self.layout, scale=1.0, value_range=(0.0, 255.0))
                return _tensor(function(plain.batch(items).numpy().copy()))
            return torch.stack([self._one(function, item) for item in items])
        except DataError:
            raise
        except Exception as error:
            raise DataError(
                f"preprocessing={self.name!r} failed on a picture: {type(error).__name__}: {error}. Correct the function, or leave it out."
            ) from error

    def _one(self, function: Callable[..., Any], item: Any) -> Tensor:
        picture = _picture(item)
        made = _tensor(function(image=np.asarray(picture)) if self.form == "keyword" else function(picture))
        made = made[0] if made.ndim == 4 and len(made) == 1 else made
        if made.ndim == 3 and self.layout == "channels_first" and made.shape[0] not in (1, 3) and made.shape[2] in (1, 3):
            made = made.movedim(2, 0)
        return made.contiguous()


def preprocessing_of_function(function: Callable[..., Any], shape: Sequence[int | None], *, layout: str) -> Preprocessing:
    """Return the preprocessing for a function: plain settings if it only scales and shifts channels, else the function itself.
    `function`: of one picture (torchvision, timm), of `image=` (albumentations), of pictures (Hugging Face), or of a batch (Keras)."""
    sides = tuple(shape[1:] if layout == "channels_first" else shape[:2])
    channels = shape[0 if layout == "channels_first" else -1] if len(shape) == 3 else None
    name = plain_name(function).partition(" ")[2]
    if len(shape) != 3 or channels not in (None, 1, 3):
        raise SettingError(f"preprocessing={name!r} is a function of pictures; the network takes examples of the shape {tuple(shape)}.")
    height, width = (int(side or 224) for side in sides)
    plain = _scaling(function, height, width=width) if layout == "channels_last" else None
    if plain is not None:
        return plain
    picture, problems = np.random.default_rng(0).integers(0, 256, size=(height + 7, width + 5, 3), dtype=np.uint8), []
    for form in _FORMS[layout]:
        own = FunctionPreprocessing(name, augment_key(function), form, height, width, layout)
        try:
            first, second = own.batch([picture]), own.batch([picture])
        except DataError as error:
            problems.append(str(error))
            continue
        if not torch.equal(first, second):
            raise SettingError(
                f"preprocessing={name!r} makes two things of one picture: it draws at random. Give the transform for evaluation, and what "
                "is drawn as augment=."
            )
        return own
    raise SettingError(problems[0])


def _scaling(function: Callable[..., Any], height: int, *, width: int) -> ImagePreprocessing | None:
    """Return the settings of a function that scales and shifts each channel and may reverse their order; None for any other."""

    def answers(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(_tensor(function(pixels.astype(np.float32).copy())), np.float64)

    drawn = np.random.default_rng(0).integers(0, 256, size=(1, height, width, 3))
    try:
        black, white, red = (answers(np.broadcast_to(np.array(colour), drawn.shape)) for colour in ((0,) * 3, (255,) * 3, (255, 0, 0)))
        given = answers(drawn)
    except Exception:
        return None
    if given.shape != drawn.shape:
        return None
    shift, factor = black[0, 0, 0], (white - black)[0, 0, 0] / 255
    bgr = bool(abs(red - black)[0, 0, 0, 2] > abs(red - black)[0, 0, 0, 0])
    if not (factor > 0).all() or not np.allclose((drawn[..., ::-1] if bgr else drawn) * factor + shift, given, atol=1e-3, rtol=1e-4):
        return None
    mean, std = (tuple(float(f"{value:.6g}") + 0.0 for value in numbers) for numbers in (-shift / factor, 1 / factor))
    return ImagePreprocessing(height, width, layout="channels_last", interpolation="bilinear", scale=1.0, mean=mean, std=std, bgr=bgr)


def _tensor(made: Any) -> Tensor:
    """Convert a function's output to float32: an array, a tensor of any framework, or a mapping with one of them."""
    if isinstance(made, Mapping):
        made = next((made[name] for name in _NAMES if name in made), made)
    if isinstance(made, list | tuple):
        made = np.stack([np.asarray(one) for one in made])
    tensor = made.detach().cpu() if isinstance(made, torch.Tensor) else torch.from_numpy(np.array(made))
    return tensor.to(torch.float32)


def _picture(item: Any) -> Any:
    """Return an example as a PIL picture in RGB."""
    library = optional_import("PIL.Image", "vision", purpose="reading images")
    if isinstance(item, np.ndarray):
        if item.dtype != np.uint8:
            raise DataError(f"A function takes pictures as files, PIL pictures or uint8 arrays; received an array of {item.dtype}.")
        return library.fromarray(item[..., 0] if item.ndim == 3 and item.shape[2] == 1 else item).convert("RGB")
    pixels = decode(item, 3, resized=lambda picture: picture)
    return library.fromarray(pixels[0].permute(1, 2, 0).numpy().astype(np.uint8))
