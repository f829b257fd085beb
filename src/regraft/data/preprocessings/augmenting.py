"""Alternative augmentations: for photographs, or by a user function."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

import numpy as np

from ...errors import SettingError, optional_import
from ...files.text import printable
from ...randomness import seeded
from ...tensors import Tensor, torch

AUGMENTS = ("auto", "none", "light", "photo")  # Settings of `augment=` other than a callable
CALLABLE = "callable "  # Prefix of the name of a callable in plans, which are plain data
LEAST_AREA, RATIO = 0.5, 4 / 3
"""Limits of a random crop: the minimum share of the picture's area, and the maximum stretch of its aspect ratio."""
LIGHT, HUE = 0.2, 0.02
"""Maximum changes of colour: deviation of brightness, contrast and saturation from 1, and hue shift as a share of a full turn."""
_COLOURFUL, _FLAT, _LEVELS = 6.0, 0.4, 24
"""Criteria for photographs: minimum mean channel difference in 0..255, maximum share of pixels at one level, number of levels."""

_GIVEN: dict[int, Callable[..., Any]] = {}
_PROCESS = uuid.uuid4().hex


def plain_name(value: str | Callable[..., Any]) -> str:
    """Return the name of a callable, or a string setting unchanged, as a plan in JSON stores it."""
    if isinstance(value, str):
        return value
    return CALLABLE + printable(str(getattr(value, "__qualname__", None) or type(value).__qualname__))


def augment_key(augment: str | Callable[..., Any]) -> str:
    """Return a unique key of an `augment` setting. The key of a callable is valid only in this process."""
    if isinstance(augment, str):
        return augment
    _GIVEN.setdefault(id(augment), augment)  # the reference keeps its id unique
    return f"{_PROCESS} {id(augment)}"


def given_by_key(key: str) -> Callable[..., Any] | None:
    """Return the callable to which `augment_key` gave `key` in this process; None if there is none."""
    process, _, number = key.partition(" ")
    return _GIVEN.get(int(number)) if process == _PROCESS and number.isdecimal() else None


def by_function(function: Callable[[Tensor], Any], items: Tensor, *, view: int, seeds: Sequence[int]) -> Tensor:
    """Return examples augmented by a user function, (n, ...) float32. The global generators are seeded by each example's seed and view.
    `function`: of one example, such as a picture (c, h, w) in 0..255; returns the same shape. `items`: (n, ...); `view`: k > 0."""
    made = []
    for item, seed in zip(items, seeds, strict=True):
        with seeded(int(np.random.SeedSequence([seed, view]).generate_state(1)[0])):
            try:
                result = torch.as_tensor(function(item.clone())).to(torch.float32)
            except Exception as error:
                kind, name = type(error).__name__, plain_name(function)
                raise SettingError(f"augment={name!r} failed on an example of the shape {tuple(item.shape)}: {kind}: {error}") from error
        if result.shape != item.shape or not bool(torch.isfinite(result).all()):
            words = f"the shape {tuple(result.shape)}" if result.shape != item.shape else "numbers that are not finite"
            raise SettingError(f"augment={plain_name(function)!r} returned {words} for an example of the shape {tuple(item.shape)}.")
        made.append(result)
    return torch.stack(made)


def photographs(pictures: Tensor, view: int, *, seeds: Sequence[int], limits: tuple[float, float] | None) -> Tensor:
    """Return pictures with random crop, mirroring of half of them, lighting and colour, each by its own seed; (n, c, h, w).
    `pictures`: (n, c, h, w); `view`: k > 0; `seeds`: n numbers. Picture i uses `np.random.default_rng([seeds[i], view])`. `limits`: minimum
    and maximum value; None leaves light and colour unchanged.
    Source: torchvision's references/classification (RandomResizedCrop, RandomHorizontalFlip) and ColorJitter, by its functions v2.
    Deviations: a crop keeps at least half of the picture, not 8 %, which suits few epochs of fine-tuning; the order of the colour steps is
    fixed."""
    steps = optional_import("torchvision.transforms.v2.functional", "vision", purpose="augment='photo'")
    drawn = [np.random.default_rng([seed, view]).uniform(-1, 1, 9) for seed in seeds]
    return torch.stack([_photograph(steps, picture, draw, limits) for picture, draw in zip(pictures, drawn, strict=True)])


def _photograph(steps: ModuleType, picture: Tensor, draw: np.ndarray, limits: tuple[float, float] | None, /) -> Tensor:
    """Return one picture (c, h, w), changed by nine random numbers in -1..1."""
    height, width = picture.shape[1:]
    area, stretch = LEAST_AREA + (1 - LEAST_AREA) * (draw[0] + 1) / 2, RATIO ** (draw[1] / 2)
    rows, columns = (max(1, round(min(side * np.sqrt(area) * by, side))) for side, by in ((height, stretch), (width, 1 / stretch)))
    top, left = round((draw[2] + 1) / 2 * (height - rows)), round((draw[3] + 1) / 2 * (width - columns))
    made: Tensor = steps.resized_crop(picture, top, left, rows, columns, [height, width], antialias=True)
    made = steps.horizontal_flip(made) if draw[4] > 0 else made
    if limits is None:
        return made
    least, most = limits
    made = ((made - least) / (most - least)).clamp(0, 1)
    if len(made) in (1, 3):
        made = steps.adjust_brightness(made, 1 + LIGHT * draw[5])
        made = steps.adjust_contrast(made, 1 + LIGHT * draw[6])
    if len(made) == 3:
        made = steps.adjust_saturation(made, 1 + LIGHT * draw[7])
        made = steps.adjust_hue(made, HUE * draw[8])
    return made * (most - least) + least


def like_photographs(pixels: Tensor) -> bool:
    """Return whether most pictures (n, 3, h, w) in 0..255 are colourful and not dominated by a single level, unlike paper."""
    if pixels.ndim != 4 or pixels.shape[1] != 3:
        return False
    colour = (pixels.amax(1) - pixels.amin(1)).mean((1, 2)) > _COLOURFUL
    levels = (pixels.mean(1).flatten(1) / 256 * _LEVELS).long().clamp(0, _LEVELS - 1)
    flat = torch.stack([torch.bincount(one, minlength=_LEVELS).max() / len(one) for one in levels]) > _FLAT
    return bool((colour & ~flat).float().mean() > 0.5)
