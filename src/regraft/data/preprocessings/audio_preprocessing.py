"""Preprocessing of recordings (files, waveforms) for a network's input: log-mel spectrograms or MFCCs, as defined by librosa."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
from pydantic import Field

from ...errors import DataError, optional_import
from ...files.media import recording_of, samples_of
from ...files.text import printable
from ...networks.hub.processors import features_of, sound_extractor
from ...tensors import Tensor, torch
from ...words import counted
from ..dataset import Dataset
from ..decoding.threads import in_threads
from ..items import ArrayView, Clip, take, whole_items
from .preprocessing import Preprocessing
from .schemas import Count, Side

__all__ = ["AudioPreprocessing", "augmented_waveform", "fitted_length"]

SECONDS = 2.0
LONGEST_SECONDS = 30.0  # Maximum length of an example for a network that takes any length
MOST_WINDOWS = 64
SLACK = 0.1  # Share of an example by which a recording may be longer and still be one example, cropped to its centre
SHORT = 0.25  # Share of an example below which a recording is mostly silent padding
MOST_BANDS = 128  # Maximum number of mel bands of a picture; more would be narrower than the window resolves
SHIFT = 0.1
GAIN_DB = 6.0
NOISE_DB = 20.0
SMALLEST_STD = 1e-5


@dataclass(frozen=True)
class AudioPreprocessing(Preprocessing):
    """Map recordings to spectrograms or waveforms: mono, resampled, padded at both ends to one length, float32.

    A recording that is more than a tenth longer is split into windows, evenly spread over its whole length, at most 64. The network's
    outputs for the windows are averaged; see `windows`. A recording that is at most a tenth longer is cropped equally at both ends.

    Attributes:
        features: "log_mel" (decibels, at most 80 dB below the maximum), "mfcc", "waveform" (the samples themselves), or "extractor".
        sample_rate: in Hz; files are resampled to it, and waveforms in arrays are assumed to have it.
        seconds: length of every example. None, for a network of any length: `fit` takes the length of the longest recording, but at most
            twice the median and at most 30 s.
        n_mfcc: number of coefficients for "mfcc".
        layout: "channels_first" (1, n, frames) or "channels_last" (n, frames, 1); for waveforms (1, samples) or (samples, 1).
            "frames_first" (frames, n), for networks that read a sequence of frames, such as recurrent ones.
        channel: whether there is a channel axis; without it (n, frames) or (samples,). "frames_first" has none.
        standardise: scale each example to mean 0 and standard deviation 1.
        extractor: for "extractor", pairs of name and value: the Transformers class that computes the features
            ("feature_extractor_type") and its settings. It pads recordings shorter than an example.
        as_: "array"; "mel": a log-mel spectrogram as a picture, for an image network.
        picture: height, width and channels of that picture; None until the network is known.
        inferred: made from the network's input shape alone, because the network has no preprocessing of its own. Views shift by up to 10 %
            of the length, change the gain by up to 6 dB, and add white noise at 20 dB below the signal.
    """

    kind: ClassVar[str] = "audio"
    features: str = "log_mel"
    sample_rate: Side = 16000
    seconds: Annotated[float, Field(gt=0.0, le=3600.0)] | None = SECONDS
    n_mels: Count = 64
    n_mfcc: Count = 40
    n_fft: Annotated[int, Field(ge=2, le=2**20)] = 1024
    hop_length: Side = 256
    layout: str = "channels_first"
    channel: bool = True
    standardise: bool = True
    extractor: tuple[tuple[str, str | bool | int | float], ...] | None = None  # `sound_extractor` checks numbers and class name
    as_: str = "array"
    picture: tuple[Side, Side, Side] | None = None
    inferred: bool = False

    def __post_init__(self) -> None:
        for name, valid in (
            ("features", ("log_mel", "mfcc", "waveform", "extractor")),
            ("layout", ("channels_first", "channels_last", "frames_first")),
            ("as_", ("array", "mel")),
        ):
            if getattr(self, name) not in valid:
                raise DataError(f"{name}={getattr(self, name)!r} is unknown to audio preprocessing; expected one of {valid}.")
        if (self.features == "extractor") != (self.extractor is not None):
            raise DataError(f"features={self.features!r}, extractor={self.extractor!r}: expected features='extractor' with its settings.")
        if self.features == "mfcc" and self.n_mfcc > self.n_mels:
            raise DataError(f"n_mfcc={self.n_mfcc} is more than n_mels={self.n_mels}; expected at most as many coefficients as bands.")

    @classmethod
    def for_shape(  # over the limit: a shape with its layout, and what is known of the features
        cls,
        input_shape: tuple[int | None, ...],
        layout: str = "channels_first",
        *,
        features: str = "log_mel",
        sample_rate: int = 16000,
        seconds: float | None = None,
        hop_length: int | None = None,
    ) -> Self:
        """Return settings whose bands and hop make about two seconds fill the input exactly; whole recordings if its length is open.
        `seconds` or `hop_length`, if known, decides the other one.
        `input_shape`: (1, n, frames), (n, frames, 1), (n, frames), or (frames, n) with the layout "frames_first" or where its first
        side alone is open; or a waveform's (samples,), (1, samples) or (samples, 1). None for an open side. Open sides give 64 bands and
        a hop of 256."""
        wave = _waveform_samples(input_shape)
        if wave is not None:
            return cls("waveform", sample_rate, wave / sample_rate if wave else None, layout=layout, channel=len(input_shape) == 2)
        shape = input_shape or (1, None, None)[:: 1 if layout == "channels_first" else -1]
        sides = shape if len(shape) == 2 else shape[1:] if layout == "channels_first" else shape[:-1]
        single = len(shape) == 2 or (len(shape) == 3 and shape[0 if layout == "channels_first" else 2] in (1, None))
        if not single or sides[1] in (0, 1):
            expected = "(1, bands, frames), (bands, frames, 1) or (bands, frames)"
            shown = "preprocessing={'kind': 'audio', 'as_': 'mel'}"
            raise DataError(
                f"The network takes examples of the shape {shape}; expected {expected} for audio. For a network of pictures, {shown} "
                "makes a log-mel spectrogram of each recording; for others, give a preprocessing= that returns this shape."
            )
        if len(shape) == 2 and sides[0] is None and sides[1]:
            layout = "frames_first"
        bands, frames = sides[::-1] if layout == "frames_first" else sides
        hop = hop_length or cls.hop_length
        if frames:
            hop = hop_length or max(1, round((seconds or SECONDS) * sample_rate / (frames - 1)))
            seconds = hop * (frames - 1) / sample_rate
        n_mels, n_mfcc = (bands or cls.n_mels, cls.n_mfcc) if features == "log_mel" else (max(cls.n_mels, bands or 0), bands or cls.n_mfcc)
        return cls(
            features,
            sample_rate,
            seconds,
            n_mels=n_mels,
            n_mfcc=min(n_mfcc, n_mels),
            hop_length=hop,
            layout=layout,
            channel=len(shape) == 3,
        )

    @property
    def samples(self) -> int:
        """Length of every example in samples."""
        return round((self.seconds or SECONDS) * self.sample_rate)

    @property
    def fitted(self) -> bool:
        return self.seconds is not None

    def for_picture(self, shape: tuple[int | None, ...], layout: str) -> AudioPreprocessing:
        """Return this preprocessing for an image network with input (channels, height, width) or (height, width, channels)."""
        sides = shape if layout == "channels_last" else (*shape[1:], *shape[:1])
        if len(sides) != 3 or (sides[2] or 3) > 4:
            raise DataError(f"as_='mel' makes a picture of each recording; the network takes examples of the shape {shape}. Leave as_ out.")
        height, width, channels = (side or default for side, default in zip(sides, (224, 224, 3), strict=True))
        hop = max(1, round((self.seconds or SECONDS) * self.sample_rate / max(width - 1, 1)))
        picture = (height, width, channels)
        return dataclasses.replace(self, picture=picture, n_mels=min(height, MOST_BANDS), hop_length=hop, layout=layout)

    def fit(self, data: Dataset) -> AudioPreprocessing:
        """Fix the length of the examples if it is open."""
        if data.kind in ("image", "text"):
            raise DataError(f"The network takes audio and the data are {data.kind} examples; expected audio files or waveforms.")
        if self.seconds is not None:
            return self
        lengths = self._lengths(data.recordings().items)
        seconds = min(float(lengths.max()), 2 * float(np.median(lengths)), LONGEST_SECONDS)
        return dataclasses.replace(self, seconds=max(seconds, self.n_fft / self.sample_rate))

    def windows(self, data: Dataset) -> Dataset:
        """Return data in which each recording longer than an example is split into windows; see the class."""
        if data.kind not in ("audio", "array") or not len(data) or whole_items(data.items) is not None:
            return data
        seconds = self.seconds or float(self.fit(data).seconds or SECONDS)
        lengths = self._lengths(data.items)
        wanted = np.ceil(lengths / seconds - SLACK).astype(np.int64).clip(1)
        counts = wanted.clip(1, MOST_WINDOWS)
        if (counts == 1).all():
            return data
        rows = np.repeat(np.arange(len(data)), counts)
        clips = [
            Clip(data.items[row], float(start), seconds if count > 1 else float(length), row, data.name_of(row))
            for row, (length, count) in enumerate(zip(lengths.tolist(), counts.tolist(), strict=True))
            for start in (np.linspace(0, length - seconds, count) if count > 1 else [0.0])
        ]
        longer = counts[counts > 1]
        each = str(longer.min()) if longer.min() == longer.max() else f"{longer.min()} to {longer.max()}"
        note = (
            f"{counted(len(longer), 'recording', verb='are', of=len(data))} longer than the {seconds:g} s that the network takes at once: "
            f"read in windows over the whole length, {each} a recording, whose scores are averaged"
        )
        most = f"; in place of {counted(wanted.max(), 'window')} without gaps, {MOST_WINDOWS} are spread over a recording"
        return dataclasses.replace(
            data.subset(rows),
            items=clips,
            kind="audio",
            groups=rows.astype(np.str_) if data.groups is None else data.groups[rows],
            names=tuple(f"{clip.name}, from {clip.start:.3g} s" for clip in clips),
            notes=(*data.notes, note + (most if wanted.max() > MOST_WINDOWS else "")),
        )

    def short(self, data: Dataset) -> int:
        """Return how many recordings are shorter than a quarter of an example, and so mostly padding."""
        return int((self._lengths(data.items) < SHORT * (self.seconds or 0)).sum())

    def _lengths(self, items: Sequence[Any] | np.ndarray) -> np.ndarray:
        """Return the length of each recording in seconds, (N,), from file headers."""
        if isinstance(items, np.ndarray | ArrayView):
            return np.full(len(items), max(items.shape[1:], default=0) / self.sample_rate)
        return np.array(in_threads(self._length, list(items)))

    def _length(self, item: Any) -> float:
        if isinstance(item, Clip):
            return item.seconds
        if not isinstance(item, str | Path):
            return float(max(np.shape(item), default=0) / self.sample_rate)
        with recording_of(item) as file:
            return float(file.frames / file.samplerate)

    def batch(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> Tensor:
        """Return n recordings as (n, 1, bands, frames), (n, bands, frames, 1), (n, bands, frames) or (n, frames, bands) float32.
        Each recording is read and transformed in a thread. Waveforms have samples in place of bands and frames.
        `items`: n paths, or n waveforms (samples,) or (channels, samples); `view`: 0 for the plain recordings, k > 0 for their k-th
        augmented copy."""
        return torch.from_numpy(self._arrays(items, view, seeds=seeds))

    def arrays_of(self, data: Dataset, indices: Sequence[int] | np.ndarray, *, raw: bool = False) -> np.ndarray:
        return self._arrays(take(data.items, indices))

    def _arrays(self, items: Sequence[Any] | np.ndarray, view: int = 0, *, seeds: Sequence[int] | None = None) -> np.ndarray:
        if self.features not in ("waveform", "extractor"):  # before the threads start, because librosa's lazy imports are not thread-safe
            optional_import("librosa", "audio", purpose="spectrograms")
        jobs = list(zip(items, seeds or [0] * len(items), strict=True))
        made = np.stack(in_threads(lambda job: self._spectrogram(job[0], view, seed=job[1]), jobs))
        if self.picture is not None:
            return made if self.layout == "channels_last" else np.ascontiguousarray(made.transpose(0, 3, 1, 2))
        if self.layout == "frames_first" and made.ndim == 3:
            return np.ascontiguousarray(made.transpose(0, 2, 1))
        if not self.channel:
            return made
        return made[:, None] if self.layout == "channels_first" else made[..., None]

    def describe(self) -> str:
        length = "whole recordings" if self.seconds is None else f"{self.seconds:.4g} s"
        line = f"audio: {length} at {self.sample_rate} Hz"
        if self.extractor is not None:
            return f"{line}, by {dict(self.extractor).get('feature_extractor_type')}"
        if self.features == "waveform":
            line += " as a waveform"
        else:
            bands = f"{self.n_mels} log-mel bands" if self.features == "log_mel" else f"{self.n_mfcc} MFCCs of {self.n_mels} bands"
            line += f", {bands}, window {self.n_fft}, hop {self.hop_length}"
            line += "" if self.picture is None else f", as pictures of {self.picture[0]} x {self.picture[1]}"
            line += ", frames first" if self.layout == "frames_first" else ""
        return line + (", standardised" if self.standardise else "") + (", inferred from the network's input" if self.inferred else "")

    @cached_property
    def _extractor(self) -> Any:
        """Feature extractor of Transformers."""
        found = sound_extractor(dict(self.extractor or ()))
        if found is None:
            named = dict(self.extractor or ()).get("feature_extractor_type")
            raise DataError(f"Transformers has no class {printable(str(named))!r} that makes features of sound. Give preprocessing=.")
        return found

    def _spectrogram(self, item: Any, view: int, *, seed: int) -> np.ndarray:
        """Return one example as (bands, frames) float32, or as (height, width, channels) for a picture."""
        source, start, seconds = (item.source, item.start, item.seconds) if isinstance(item, Clip) else (item, 0.0, None)
        if isinstance(source, str | Path):
            wave = self._read(source, start, seconds=seconds)
        else:
            first = round(start * self.sample_rate)
            wave = _mono(np.asarray(source))[first : None if seconds is None else first + round(seconds * self.sample_rate)]
        if not wave.size:
            name = printable(source) if isinstance(source, str | Path) else "an array of length 0"
            raise DataError(f"A recording has no samples: {name}. Remove it.")
        pads = self.extractor is not None and any(getattr(self._extractor, name, None) for name in ("chunk_length", "max_length"))
        wave = wave if pads and len(wave) <= self.samples else fitted_length(wave, self.samples)  # the extractor itself pads short ones
        if view:
            wave = augmented_waveform(wave, np.random.default_rng([seed, view]))
        values = self._features(wave)
        if self.standardise:
            values = (values - values.mean()) / max(float(values.std()), SMALLEST_STD)
        return (values if self.picture is None else _as_picture(values, self.picture)).astype(np.float32)

    def _read(self, path: str | Path, start: float, *, seconds: float | None) -> np.ndarray:
        with recording_of(path, rate=self.sample_rate) as file:
            count = None if seconds is None else round(seconds * file.samplerate)
            mono = np.asarray(samples_of(file, round(start * file.samplerate), count=count).mean(axis=1))
            if file.samplerate == self.sample_rate:
                return mono
            soxr = optional_import("soxr", "audio", purpose="resampling audio")
            return np.asarray(soxr.resample(mono, file.samplerate, self.sample_rate))

    def _features(self, wave: np.ndarray) -> np.ndarray:
        if self.features == "waveform":
            return wave
        if self.extractor is not None:
            return features_of(self._extractor, wave)
        librosa = optional_import("librosa", "audio", purpose="spectrograms")
        power = librosa.feature.melspectrogram(
            y=wave, sr=self.sample_rate, n_fft=self.n_fft, hop_length=self.hop_length, n_mels=self.n_mels
        )
        decibels = librosa.power_to_db(power)
        return np.asarray(decibels if self.features == "log_mel" else librosa.feature.mfcc(S=decibels, n_mfcc=self.n_mfcc))


def _as_picture(values: np.ndarray, picture: tuple[int, int, int]) -> np.ndarray:
    """Return (bands, frames) as a picture (height, width, channels) with low frequencies at the bottom, linearly interpolated."""
    height, width, channels = picture
    rows, columns = np.linspace(len(values) - 1, 0, height), np.linspace(0, values.shape[1] - 1, width)
    tall = np.stack([np.interp(rows, np.arange(len(values)), frame) for frame in values.T], axis=1)
    wide = np.stack([np.interp(columns, np.arange(values.shape[1]), band) for band in tall])
    return np.repeat(wide[..., None], channels, axis=2)


def _waveform_samples(shape: tuple[int | None, ...]) -> int | None:
    """Return the length of a network's waveform input, 0 if open; None if the input is not a waveform."""
    if len(shape) == 1:
        return shape[0] or 0
    if len(shape) == 2 and 1 in shape:
        return next((side or 0 for side in shape if side != 1), None)
    return None


def _mono(wave: np.ndarray) -> np.ndarray:
    """Return a waveform (samples,) float32 in -1..1 from any number type and either channel order."""
    if wave.ndim > 2 or wave.ndim == 0:
        raise DataError(f"A waveform has the shape {wave.shape}; expected (samples,) or (channels, samples).")
    if wave.dtype.kind in "iu":
        limits = np.iinfo(wave.dtype)
        middle = 0.0 if wave.dtype.kind == "i" else (limits.max + 1) / 2
        wave = (wave - middle) / ((float(limits.max) - limits.min + 1) / 2)
    wave = wave.astype(np.float32)
    return wave if wave.ndim == 1 else np.asarray(wave.mean(axis=int(np.argmin(wave.shape))))


def fitted_length(wave: np.ndarray, samples: int) -> np.ndarray:
    """Crop a waveform (n,) to its centre, or pad it with silence at both ends, to (samples,)."""
    excess = len(wave) - samples
    if excess >= 0:
        return wave[excess // 2 : excess // 2 + samples]
    return np.pad(wave, (-excess // 2, -excess - -excess // 2))


def augmented_waveform(wave: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return a waveform shifted in time, with changed gain and white noise at 20 dB below it; (samples,) float32.
    Samples left open by the shift are silent."""
    most = int(len(wave) * SHIFT)
    offset = int(generator.integers(-most, most + 1))
    moved = np.zeros_like(wave)
    moved[max(0, offset) : len(wave) + min(0, offset)] = wave[max(0, -offset) : len(wave) + min(0, -offset)]
    loudness = float(np.sqrt(np.mean(np.square(moved))))
    noise = generator.standard_normal(len(wave)) * loudness * 10 ** (-NOISE_DB / 20)
    return np.asarray((moved + noise) * 10 ** (generator.uniform(-GAIN_DB, GAIN_DB) / 20), dtype=np.float32)
