"""Recordings of any length: whole where the network takes them, else windows over them, whose scores are averaged."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data import AudioPreprocessing, PreparedData, read
from regraft.data.check import checked
from regraft.errors import DataError, NetworkError

soundfile = pytest.importorskip("soundfile")
RATE = 8000


def _wave(pitch: float, seconds: float, seed: int) -> np.ndarray:
    draw, time = np.random.default_rng(seed), np.arange(round(RATE * seconds)) / RATE
    return (0.3 * np.sin(2 * np.pi * pitch * time) + 0.02 * draw.normal(size=time.size)).astype(np.float32)


@pytest.fixture
def sounds(tmp_path: Path) -> Path:
    """Six recordings of each class, of half a second to two."""
    for name, pitch in (("low", 220), ("high", 1500)):
        (tmp_path / "sounds" / name).mkdir(parents=True)
        for number in range(6):
            length = 0.5 + 0.3 * number
            soundfile.write(tmp_path / f"sounds/{name}/{number}.wav", _wave(pitch * (1 + number / 50), length, number), RATE)
    return tmp_path / "sounds"


def _torch(**how: Any) -> Any:
    torch.manual_seed(0)
    layers = (nn.Conv1d(1, 8, 33, 8), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3))
    return regraft.load(nn.Sequential(*layers), **how)


def _keras(length: int | None = None, **how: Any) -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    inputs = keras.Input((length, 1))
    pooled = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(8, 33, 8, activation="relu")(inputs))
    return regraft.load(keras.Model(inputs, keras.layers.Dense(3)(pooled)), **how)


def _own(seconds: float | None) -> dict[str, Any]:
    return {"kind": "audio", "features": "waveform", "sample_rate": RATE, "seconds": seconds}


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_long_recordings_are_windows_and_each_is_judged_once(sounds: Path, family: str) -> None:
    own = _own(0.5)
    net = _torch(preprocessing=own) if family == "torch" else _keras(preprocessing={**own, "layout": "channels_last"})
    result = regraft.adapt(net, sounds, strategy="probe", cache="memory", holdout=0.34)
    assert any("read in windows over the whole length, 2 to 4 a recording, whose scores are averaged" in one for one in result.plan.reasons)
    assert result.facts["data"]["examples"] == 12 and sum(result.facts["data"]["split"].values()) == 12
    assert result.scores["holdout"]["accuracy"] == 1.0
    path = sounds / "high/5.wav"
    wave = soundfile.read(path, dtype="float32")[0]
    whole = result.network.logits([path])
    starts = np.linspace(0, 2.0 - 0.5, 4)
    parts = result.network.logits(np.stack([wave[round(s * RATE) : round(s * RATE) + RATE // 2] for s in starts]))
    np.testing.assert_allclose(whole[0], parts.mean(0), atol=1e-4)
    np.testing.assert_allclose(whole, result.network.logits(wave[None]), atol=1e-4)
    both = result.network.predict([sounds / "low/0.wav", path])
    assert both.labels == ["low", "high"]
    assert len(result.network.features([sounds / "low/0.wav", path])) == 2


@pytest.mark.parametrize(("ending", "form", "coding"), [("wav", "WAV", "GSM610"), ("gsm", "RAW", "GSM610"), ("oga", "OGG", "VORBIS")])
def test_every_form_is_checked_read_whole_and_read_in_windows(tmp_path: Path, ending: str, form: str, coding: str) -> None:
    for name, pitch in (("low", 220), ("high", 1500)):
        (tmp_path / name).mkdir()
        for number in range(2):  # GSM cannot be searched: what lies before a window has to be read
            wave = np.concatenate([_wave(pitch, 0.8, number), _wave(pitch, 0.8, number) / 10])
            soundfile.write(tmp_path / f"{name}/{number}.{ending}", wave, RATE, format=form, subtype=coding)
    data = checked(read(tmp_path), skip_bad=False)
    assert len(data) == 4 and data.kind == "audio" and not data.notes
    half = AudioPreprocessing("waveform", RATE, 0.8, standardise=False)
    windows = half.windows(data)
    assert len(windows) == 8
    power = half.arrays_of(windows, np.arange(8)).std(axis=(1, 2)).reshape(4, 2)
    np.testing.assert_allclose(power[:, 0] / power[:, 1], 10, rtol=0.1)
    assert half.batch(data.items[:1]).shape == (1, 1, 6400)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_networks_of_any_length_hear_whole_recordings(sounds: Path, family: str) -> None:
    net = _torch(inputs=(1, None)) if family == "torch" else _keras()
    made = regraft.adapt(net, sounds, strategy="probe", cache="memory").network.preprocessing
    assert made.seconds == pytest.approx(2.0)
    assert "inferred" in made.describe()
    if family == "torch":
        guessed = regraft.adapt(_torch(), sounds, strategy="probe", cache="memory")  # nobody said how long
        assert guessed.network.preprocessing.seconds == pytest.approx(2.0)
        assert any("does not say how it reads sound" in reason for reason in guessed.plan.reasons)


def test_a_network_of_one_length_has_to_say_it(sounds: Path) -> None:
    fixed = nn.Sequential(nn.Conv1d(1, 4, 9, 4), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    fixed(torch.zeros(1, 1, 1000))
    with pytest.raises((DataError, NetworkError), match=r"inputs="):
        regraft.adapt(regraft.load(fixed), sounds, strategy="probe")


LENGTHS = [(0.4, 1), (0.5, 1), (0.55, 1), (0.56, 2), (1.0, 2), (1.05, 2), (1.1, 3), (100.0, 64)]


@pytest.mark.parametrize(("length", "count"), LENGTHS)
def test_windows_cover_a_recording_from_end_to_end(length: float, count: int) -> None:
    waves = [_wave(300, 0.5, 0), _wave(300, length, 1)]
    data = regraft.read((waves, ["a", "b"]), kind="audio")
    own = AudioPreprocessing("waveform", sample_rate=RATE, seconds=0.5, standardise=False, channel=False)
    made = own.windows(data)
    assert len(made) == 1 + count
    assert len(made.recordings()) == 2
    if count > 1:
        assert [item.of for item in made.items] == [0] + [1] * count
        assert made.groups is not None and len(set(made.groups.tolist())) == 2
        batch = PreparedData(made, own).batch(np.arange(len(made))).numpy()
        np.testing.assert_array_equal(batch[1], waves[1][: RATE // 2])
        np.testing.assert_allclose(batch[-1], waves[1][-RATE // 2 :], atol=0.05 if length == 100 else 0)
        assert ("64 are spread" in made.notes[-1]) == (count == 64)
        assert own.windows(made) is made
    else:
        assert made is data


def test_any_length_is_at_most_twice_the_median(tmp_path: Path) -> None:
    waves = [_wave(300, 1.0, 0)] * 4 + [_wave(300, 9.0, 0)]
    data = regraft.read((waves, list("ababa")), kind="audio")
    own = AudioPreprocessing("waveform", sample_rate=RATE, seconds=None)
    assert not own.fitted and "whole recordings" in own.describe()
    assert own.fit(data).seconds == 2.0
    assert len(own.fit(data).windows(data)) == 4 + 5
    assert AudioPreprocessing(**{name: value for name, value in own.fit(data).to_dict().items() if name != "kind"}).seconds == 2.0


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_network_of_pictures_is_shown_a_spectrogram(sounds: Path, family: str) -> None:
    pytest.importorskip("librosa")

    def module() -> Any:
        torch.manual_seed(0)
        if family == "torch":
            return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 1)), nn.Flatten(), nn.Linear(32, 3))
        keras = pytest.importorskip("keras")
        inputs = keras.Input((32, 32, 3))
        made = keras.layers.MaxPooling2D((8, 32))(keras.layers.Conv2D(8, 3, padding="same", activation="relu")(inputs))
        return keras.Model(inputs, keras.layers.Dense(3)(keras.layers.Flatten()(made)))

    shape = {"inputs": (3, 32, 32)} if family == "torch" else {}
    picture = {"kind": "image", "height": 32, "width": 32, "channels": 3} | ({} if family == "torch" else {"layout": "channels_last"})
    for how in ({"preprocessing": picture}, {}):
        with pytest.raises(DataError, match=r"'as_': 'mel'"):
            regraft.adapt(regraft.load(module(), **shape, **how), sounds, strategy="probe")
    net = regraft.load(module(), **shape, preprocessing={"kind": "audio", "as_": "mel", "sample_rate": RATE, "seconds": 0.5})
    result = regraft.adapt(net, sounds, strategy="probe", cache="memory", holdout=0.34)
    assert result.scores["holdout"]["accuracy"] == 1.0
    made = result.network.preprocessing
    assert made.picture == (32, 32, 3) and "as pictures of 32 x 32" in made.describe()
    item = made.item(_wave(300, 0.5, 0))
    assert item.shape == ((3, 32, 32) if family == "torch" else (32, 32, 3))
    again = regraft.data.preprocessing_from_dict(made.to_dict())
    np.testing.assert_array_equal(again.item(_wave(300, 0.5, 0)), item)


class _Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frames, self.head = nn.LSTM(20, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.frames(x)[0].mean(1))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "shape", "first"),
    [
        ("torch lstm", (None, 20), True),
        ("torch lstm", (33, 20), True),
        ("torch conv", (20, None), False),
        ("torch conv", (20, 33), False),
        ("lstm", (None, 20), True),
        ("lstm", (33, 20), True),
        ("conv", (33, 20), True),
        ("flat", (20, 33), False),  # undecided: as librosa gives them
    ],
)
def test_which_side_of_an_input_are_the_frames_is_read_from_the_network(
    sounds: Path, kind: str, shape: tuple[int | None, int | None], first: bool
) -> None:
    pytest.importorskip("librosa")
    if kind == "torch lstm":
        net = regraft.load(_Recurrent(), inputs=shape)
    elif kind == "torch conv":
        net = regraft.load(nn.Sequential(nn.Conv1d(20, 8, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)), inputs=shape)
    else:
        layers = pytest.importorskip("keras").layers
        body = {"lstm": [layers.LSTM(8)], "conv": [layers.Conv1D(8, 3), layers.GlobalMaxPooling1D()], "flat": [layers.Flatten()]}[kind]
        module = pytest.importorskip("keras").Sequential([layers.Input(shape), *body, layers.Dense(3)])
        net = regraft.load(module)
    made = regraft.adapt(net, sounds, strategy="probe", cache="memory", holdout=0.34).network.preprocessing
    assert made.n_mels == 20 and (made.layout == "frames_first") == first
    assert made.item(_wave(300, 0.5, 0)).shape[1 if first else 0] == 20


def test_what_the_network_cannot_take_is_told_in_our_words(sounds: Path) -> None:
    pytest.importorskip("librosa")
    with pytest.raises(NetworkError, match=r"cannot run on examples of the shape and type \(1, 32, 126\)"):
        regraft.adapt(_torch(preprocessing={"kind": "audio", "n_mels": 32}), sounds, strategy="probe")
    pictures = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    with pytest.raises(DataError, match=r"'as_': 'mel'"):
        regraft.adapt(regraft.load(pictures, inputs=(3, 32, 32), preprocessing={"kind": "audio"}), sounds, strategy="probe")


@pytest.mark.parametrize(
    ("shape", "rate", "described"),
    [
        ((1, 4000), 8000, "0.5 s at 8000 Hz as a waveform"),
        ((1, 4000), 16000, "0.25 s at 16000 Hz as a waveform"),
        ((1, None), 8000, "s at 8000 Hz as a waveform"),
        ((1, 40, 50), 8000, "2.003 s at 8000 Hz, 40 log-mel bands, window 1024, hop 327"),
    ],
)
def test_of_sound_whose_kind_and_rate_alone_are_given_the_rest_is_found_from_the_input(
    sounds: Path, shape: tuple[int | None, ...], rate: int, described: str
) -> None:
    layer: Any = nn.Conv1d(1, 4, 9, 4) if len(shape) == 2 else nn.Conv2d(1, 4, 3, 4)
    pooled = nn.AdaptiveAvgPool1d(1) if len(shape) == 2 else nn.AdaptiveAvgPool2d(1)
    net = regraft.load(
        nn.Sequential(layer, pooled, nn.Flatten(), nn.Linear(4, 3)), inputs=shape, preprocessing={"kind": "audio", "sample_rate": rate}
    )
    told = str(regraft.check(sounds, net))
    assert f"{described}, standardised, inferred" in told and "does not say how it reads sound" in told, told


@pytest.mark.parametrize("family", ["torch", "keras"])
@pytest.mark.parametrize(
    ("given", "sides", "length"),
    [
        ({"features": "waveform"}, (4000,), "0.5 s at 8000 Hz as a waveform"),
        ({"features": "waveform", "standardise": False}, (4000,), "0.5 s at 8000 Hz as a waveform"),
        ({"features": "mfcc"}, (13, 41), "2 s at 8000 Hz, 13 MFCCs of 64 bands, window 1024, hop 400"),
        ({"features": "log_mel", "hop_length": 100}, (32, 41), "0.5 s at 8000 Hz, 32 log-mel bands, window 1024, hop 100"),
        ({"n_fft": 256, "seconds": 0.5}, (32, 41), "0.5 s at 8000 Hz, 32 log-mel bands, window 256, hop 100"),
    ],
)
def test_what_a_preprocessing_of_sound_leaves_out_follows_from_the_input(
    sounds: Path, family: str, given: dict[str, Any], sides: tuple[int, ...], length: str
) -> None:
    pytest.importorskip("librosa")
    own = {"kind": "audio", "sample_rate": RATE, **given}
    if family == "keras":
        layers = pytest.importorskip("keras").layers
        body = [layers.Conv1D(4, 9, 4), layers.GlobalAveragePooling1D()] if len(sides) == 1 else [layers.Conv2D(4, 3), layers.Flatten()]
        module = pytest.importorskip("keras").Sequential([layers.Input((*sides, 1)), *body, layers.Dense(3)])
        net = regraft.load(module, preprocessing=own)
    else:
        ends = nn.AdaptiveAvgPool1d(1) if len(sides) == 1 else nn.AdaptiveAvgPool2d(1)
        layer: Any = nn.Conv1d(1, 4, 9, 4) if len(sides) == 1 else nn.Conv2d(1, 4, 3)
        net = regraft.load(nn.Sequential(layer, ends, nn.Flatten(), nn.Linear(4, 3)), inputs=(1, *sides), preprocessing=own)
    assert net.preprocessing.describe().startswith(f"audio: {length}") and not net.preprocessing.inferred
    result = regraft.adapt(net, sounds, cache="memory", holdout=0.34)  # by default: reads the network at every depth
    assert result.network.predict([next(sounds.glob("low/*.wav"))]).probabilities.shape == (1, 2)


def test_another_length_than_a_keras_model_states_is_refused_before_anything_runs(sounds: Path) -> None:
    keras = pytest.importorskip("keras")
    body = [keras.layers.Conv1D(8, 33, 8), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
    keras.Sequential([keras.Input((4000, 1)), *body]).save(sounds.parent / "net.keras")
    net = regraft.load(sounds.parent / "net.keras", preprocessing=_own(1.0))  # opened from a file, it takes other lengths as a whole
    with pytest.raises(NetworkError, match=r"takes examples of the shape \(4000, 1\), and its preprocessing= makes \(8000, 1\)"):
        regraft.adapt(net, sounds, cache="memory")


@pytest.mark.parametrize(("sides", "channel"), [((4000, 1), False), ((4000,), True)])
def test_keras_adds_and_removes_an_axis_of_one(sounds: Path, sides: tuple[int, ...], channel: bool) -> None:
    keras = pytest.importorskip("keras")
    body = [keras.layers.Reshape((4000, 1)), keras.layers.Conv1D(8, 33, 8), keras.layers.GlobalAveragePooling1D(), keras.layers.Dense(3)]
    net = regraft.load(
        keras.Sequential([keras.Input(sides), *body]), preprocessing={**_own(0.5), "channel": channel, "layout": "channels_last"}
    )
    result = regraft.adapt(net, sounds, strategy="head", cache="memory")
    assert result.network.predict([next(sounds.glob("low/*.wav"))]).probabilities.shape == (1, 2)


def test_check_says_how_recordings_are_read(sounds: Path) -> None:
    told = str(regraft.check(sounds, _torch(preprocessing=_own(0.5))))
    assert "windows over the whole length" in told and "holdout: 2" in told, told
    assert "does not say how it reads sound" in str(regraft.check(sounds, _torch(inputs=(1, 4000))))


@pytest.mark.usefixtures("without_onnx_form")
def test_windows_survive_saving_and_a_test_set(sounds: Path, tmp_path: Path) -> None:
    net = _torch(preprocessing=_own(0.5))
    result = regraft.adapt(net, sounds, strategy="probe", cache="memory", holdout=0, test=read(sounds), out=tmp_path / "out")
    paths = sorted(sounds.rglob("*.wav"))
    again = regraft.load(tmp_path / "out", architecture=_torch().module)
    np.testing.assert_allclose(again.logits(paths), result.network.logits(paths), atol=1e-6)
    assert result.network.logits(read(sounds)).shape == (12, 2)
    pytest.importorskip("onnxruntime")
    whole = regraft.predict(result.network, paths, engine="onnxruntime").probabilities
    np.testing.assert_allclose(whole, result.network.predict(paths).probabilities, atol=1e-5)


@pytest.mark.parametrize("family", ["torch", pytest.param("keras", marks=pytest.mark.slow)])
def test_search_and_profile_read_windows_as_adapt_does(sounds: Path, family: str) -> None:
    net = _torch(preprocessing=_own(0.5)) if family == "torch" else _keras(preprocessing={**_own(0.5), "layout": "channels_last"})
    told = "windows over the whole length, 2 to 4 a recording"
    found = regraft.profile(net, sounds, cache="memory")
    assert found.examples == 12 and any(told in note for note in found.notes)
    study = regraft.search(net, sounds, space={"strategy": ["probe"]}, trials=1, sampler="grid", holdout=0.34, cache="memory")
    assert any(told in reason for reason in study.best.reasons) and sum(study.result.scores["holdout"]["confusion"]["count"]) in (4, 5)


def test_recordings_that_are_mostly_silence_are_pointed_out(sounds: Path) -> None:
    told = "Warning: 12 of 12 recordings are shorter than a quarter of the 9 s"
    notes = regraft.check(sounds, _torch(preprocessing=_own(9.0))).facts["notes"]
    assert any(told in note and "for a network that takes any length, give a preprocessing= of fewer seconds" in note for note in notes)
    assert not any("quarter" in note for note in regraft.check(sounds, _torch(preprocessing=_own(1.9))).facts["notes"])


WORDS, VOICES = ("yes", "seven", "banana"), ("en-us", "en-gb-scotland", "en-gb-x-rp", "en-us+f3")


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Three words, each said by four voices, at the 22,050 Hz of the program that speaks."""
    program = shutil.which("espeak-ng")
    if program is None:
        pytest.skip("espeak-ng, which speaks the words, is not installed")
    for word in WORDS:
        (tmp_path / "speech" / word).mkdir(parents=True)
        for voice in VOICES:
            subprocess.run([program, "-v", voice, "-w", str(tmp_path / f"speech/{word}/{voice}.wav"), word], check=True)
    return tmp_path / "speech"


@pytest.mark.parametrize("family", ["torch", pytest.param("keras", marks=pytest.mark.slow)])
def test_words_are_learned_from_some_voices_and_told_apart_in_another(speech: Path, family: str, tmp_path: Path) -> None:
    pytest.importorskip("librosa")
    how: dict[str, Any] = {"preprocessing": {"kind": "audio", "as_": "mel", "sample_rate": RATE, "seconds": 0.8}}
    if family == "torch":
        torch.manual_seed(0)
        layers = (nn.Conv2d(1, 16, 5, 2), nn.ReLU(), nn.AdaptiveAvgPool2d((4, 6)), nn.Flatten(), nn.Linear(384, 5))
        net = regraft.load(nn.Sequential(*layers), inputs=(1, 32, 48), **how)
    else:
        keras = pytest.importorskip("keras")
        keras.utils.set_random_seed(0)
        inputs = keras.Input((32, 48, 1))
        made = keras.layers.MaxPooling2D((8, 8))(keras.layers.Conv2D(16, 5, padding="same", activation="relu")(inputs))
        net = regraft.load(keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(made))), **how)
    paths = sorted(speech.rglob("*.wav"))
    data = read((paths, [path.parent.name for path in paths]))
    assert all(part in str(data.summary()) for part in ("12, of the kind 'audio'", "22050 Hz"))
    known = [row for row, path in enumerate(paths) if path.stem != "en-gb-x-rp"]
    test = data.subset([row for row in range(len(paths)) if row not in known])
    result = regraft.adapt(net, data.subset(known), strategy="probe", cache="memory", holdout=0, test=test)
    assert result.scores["test"]["accuracy"] == 1.0
    said = [soundfile.read(speech / "seven" / f"{voice}.wav")[0] for voice in VOICES]
    soundfile.write(tmp_path / "long.flac", np.concatenate(said), 22050)
    assert result.network.predict([tmp_path / "long.flac"]).labels == ["seven"]
