"""Processors of images and audio: image processors are measured on test images, because their settings differ in meaning by class."""

import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import NetworkError, optional_import
from ...files.text import printable

_ENDING = re.compile(r"(ImageProcessor|FeatureExtractor)(Fast|Pil)?$")
_LARGEST_SIDE = 4096
_OF_SOUND = {
    **{"chunk_length": (0, 60), "sampling_rate": (1, 48_000), "hop_length": (64, 10_000), "n_fft": (1, 8192)},
    **{"feature_size": (1, 1024), "num_mel_bins": (1, 1024)},
}
_OTHERS_OF_SOUND = (-10_000, 10_000)  # Allowed range of the other settings of audio features: larger values could exhaust the memory
_HEIGHT, _WIDTH = 300, 420  # Size of the test images: neither square nor common
_TOLERANCE = 0.02


def processor_of(found: Mapping[str, Any], *, transformers: Any, folder: Path) -> Any:
    """Return the processor that a preprocessor's file describes: a class of the library, built from the numbers in the file alone.
    None if the file names no class of the library, or the class cannot be built (for example for a missing dependency)."""
    named = found.get("image_processor_type") or found.get("feature_extractor_type")
    made_of = None
    if isinstance(named, str) and named.isidentifier() and _ENDING.search(named):
        made_of = getattr(transformers, _ENDING.sub("ImageProcessor", named), None)
    if not (isinstance(made_of, type) and issubclass(made_of, transformers.ImageProcessingMixin)):
        return None
    for key in ("image_mean", "image_std"):
        if found.get(key) is not None:
            numbers_of(found, key, count=len(found[key]) if isinstance(found[key], list) else 1, folder=folder)
    try:
        known = made_of().to_dict()
        return made_of(**{key: value for key, value in found.items() if key in known and _is_plain(value)})
    except Exception:  # a missing dependency or invalid values: the file is read instead
        return None


def sound_settings(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the class name and the numbers in the allowed ranges from a preprocessor's file for audio features."""
    ranges = {key: _OF_SOUND.get(key, _OTHERS_OF_SOUND) for key in found}
    numbers = {key: value for key, value in found.items() if isinstance(value, bool | int | float)}
    kept = {key: value for key, value in numbers.items() if ranges[key][0] <= value <= ranges[key][1]}
    return {**kept, "feature_extractor_type": found.get("feature_extractor_type")}


def sound_extractor(settings: Mapping[str, Any]) -> Any:
    """Return the extractor of a network's audio features (AST, Whisper): a class of the library, built from these numbers alone.
    None if they name no class of the library, or the class cannot be built (for example for a missing dependency)."""
    settings = sound_settings(settings)
    named = settings.get("feature_extractor_type")
    if not isinstance(named, str) or not named.isidentifier() or not named.endswith("FeatureExtractor"):
        return None
    transformers = optional_import("transformers", "text", purpose=f"the features of sound of {named}")
    made_of = getattr(transformers, named, None)
    if not (isinstance(made_of, type) and issubclass(made_of, transformers.SequenceFeatureExtractor)):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            known = made_of().to_dict()
            return made_of(**{key: value for key, value in settings.items() if key in known and key != "feature_extractor_type"})
    except Exception:  # a missing dependency or invalid values
        return None


def features_of(extractor: Any, wave: np.ndarray) -> np.ndarray:
    """Return the features (a, b) that an `extractor` makes of a waveform (samples,) at its own rate."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = extractor(wave, sampling_rate=extractor.sampling_rate, return_tensors="np")
    features: np.ndarray = np.asarray(made["input_values" if "input_values" in made else "input_features"], np.float32)[0]
    return features


def _is_plain(value: Any, deep: int = 2) -> bool:
    """Return whether a setting consists of numbers of a plausible size for images, and of nothing that could name a file."""
    if isinstance(value, dict):
        return deep > 0 and len(value) <= 8 and all(_is_plain(part, deep - 1) for part in value.values())
    if isinstance(value, list):
        return deep > 0 and len(value) <= 16 and all(_is_plain(part, deep - 1) for part in value)
    return value is None or (isinstance(value, bool | int | float) and abs(value) <= _LARGEST_SIDE)


def numbers_of(processor: Mapping[str, Any], key: str, *, count: int, folder: Path) -> list[float]:
    """Return the mean or standard deviation of each channel, default 0.5."""
    given = processor.get(key) or [0.5] * count
    plain = isinstance(given, list | tuple) and len(given) == count and all(type(part) in (int, float) for part in given)
    if not plain or not all(math.isfinite(part) and (key != "image_std" or part > 0) for part in given):
        raise NetworkError(
            f"preprocessor_config.json in {printable(folder)!r} has {key}={printable(repr(given), width=60)}; expected {count} numbers"
            f"{' above 0' if key == 'image_std' else ''}. Correct the file, or remove it and give preprocessing=."
        )
    return [float(part) for part in given]


def measured_processor(processor: Any) -> dict[str, Any] | None:
    """Return the measured behaviour of a processor of RGB images as the fields of `ImagePreprocessing`.
    Uniform images show scale, mean, standard deviation and channel order. An image of gradients shows the crop and its size. None if the
    fields cannot express the behaviour, for example padding or a size that depends on the image."""
    pictures = optional_import("PIL.Image", "vision", purpose="The processor of a network of pictures")

    def answer(pixels: np.ndarray) -> np.ndarray:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            made = processor(images=[pictures.fromarray(pixels.astype(np.uint8))], return_tensors="np")["pixel_values"]
        answered: np.ndarray = np.asarray(made, np.float64)[0]
        return answered

    rows, columns = np.mgrid[0:_HEIGHT, 0:_WIDTH]
    slopes = np.stack([255 * columns / (_WIDTH - 1), 255 * rows / (_HEIGHT - 1), np.zeros_like(rows)], -1)
    try:
        black, red, white = (answer(np.broadcast_to(colour, slopes.shape)) for colour in ([0, 0, 0], [255, 0, 0], [255, 255, 255]))
        made, turned = answer(np.round(slopes)), answer(np.zeros((_WIDTH, _HEIGHT, 3)))
    except Exception:  # the processor does not take such an image
        return None
    if made.ndim != 3 or len(made) != 3 or turned.shape != made.shape:
        return None
    middle = (slice(None), made.shape[1] // 2, made.shape[2] // 2)
    low = black[middle]
    factor = (white[middle] - low) / 255
    if not np.isfinite(factor).all() or not (factor > 0).all():
        return None
    bgr = bool(abs(red[middle] - low)[2] > abs(red[middle] - low)[0])
    shares = ((made - low[:, None, None]) / factor[:, None, None] / 255)[:: -1 if bgr else 1]
    kept = _kept(shares)
    if kept is None:
        return None
    values = {"mean": [_short(-value) for value in low / factor / 255], "std": [_short(value) for value in 1 / factor / 255]}
    interpolation = "bilinear" if getattr(processor, "resample", 3) == 2 else "bicubic"
    spec = {"kind": "image", "channels": 3, "layout": "channels_first", **kept, "scale": 1 / 255, **values}
    return {**spec, "bgr": bgr, "interpolation": interpolation}


def _kept(shares: np.ndarray) -> dict[str, Any] | None:
    """Return size, resizing mode and crop fraction, from the processed image (3, height, width) of two gradients from 0 to 1."""
    height, width = shares.shape[1:]
    fits = (_line(shares[0].mean(0)), _line(shares[1].mean(1)))
    if fits[0] is None or fits[1] is None:
        return None
    ends = (_WIDTH - 1) / _WIDTH, (_HEIGHT - 1) / _HEIGHT  # the gradients run from the centre of the first pixel to that of the last
    parts = fits[0] * width * ends[0], fits[1] * height * ends[1]  # shares of the image's width and height
    source = (_WIDTH * parts[0] / width, _HEIGHT * parts[1] / height)  # input pixels per output pixel
    if abs(parts[0] / parts[1] - 1) < _TOLERANCE:
        kind, part = "squash", parts[1]
    elif abs(source[0] / source[1] - 1) < _TOLERANCE:
        kind, part = "crop", source[1] * min(height, width) / min(_HEIGHT, _WIDTH)
    else:
        return None
    if part > 1 + _TOLERANCE:  # padded
        return None
    side = min(height, width)
    return {"height": height, "width": width, "resize": kind, "crop_fraction": side / max(side, round(side / part))}


def _line(values: np.ndarray) -> float | None:
    """Return the step of a linear, centred gradient (n,); None if the values do not rise linearly or are not centred on 0.5."""
    inner = values[2:-2] if len(values) > 8 else values
    step, start = np.polyfit(np.arange(len(inner)), inner, 1)
    straight = np.abs(inner - start - step * np.arange(len(inner))).max() < _TOLERANCE
    central = abs(values.mean() - 0.5) < _TOLERANCE
    return float(step) if step > 0 and straight and central else None


def _short(value: float) -> float:
    return float(f"{value:.5g}") + 0.0
