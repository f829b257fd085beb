from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.data import AudioPreprocessing, preprocessing_from_dict, read
from regraft.data.preprocessings.audio_preprocessing import augmented_waveform, fitted_length
from regraft.errors import DataError

librosa = pytest.importorskip("librosa")
WAVE = np.sin(np.arange(16000) / 7).astype(np.float32) * 0.3


@pytest.mark.parametrize("features", ["log_mel", "mfcc"])
def test_features_are_those_of_librosa(features):
    made = AudioPreprocessing(features, seconds=1.0, n_mels=48, n_mfcc=20, n_fft=512, hop_length=160, standardise=False)
    power = librosa.feature.melspectrogram(y=WAVE, sr=16000, n_fft=512, hop_length=160, n_mels=48)
    decibels = librosa.power_to_db(power)
    expected = decibels if features == "log_mel" else librosa.feature.mfcc(S=decibels, n_mfcc=20)
    np.testing.assert_allclose(made.item(WAVE)[0], expected, rtol=1e-4, atol=1e-4)
    scaled = AudioPreprocessing(features, seconds=1.0).item(WAVE)
    assert abs(scaled.mean()) < 1e-4 and scaled.std() == pytest.approx(1, abs=1e-3)


def test_files_are_mono_and_resampled(recordings):
    path = recordings / "high/1.wav"
    wave, _ = librosa.load(path, sr=16000, mono=True, res_type="soxr_hq")
    made = AudioPreprocessing(seconds=0.5)
    np.testing.assert_allclose(made.item(path), made.item(wave), atol=1e-2)
    data = read(recordings)
    assert made.fit(data) is made
    assert torch.stack(list(torch.cat(list(made.batches(data, 3))))).shape == (4, 1, 64, 32)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ((1, 64, 100), "channels_first"),
        ((40, 87, 1), "channels_last"),
        ((64, 44), "channels_first"),
        ((44, 64), "frames_first"),
        ((1, 128, 501), "channels_first"),
    ],
)
def test_shape_of_the_network_is_met(shape, layout):
    for features in ("log_mel", "mfcc"):
        made = AudioPreprocessing.for_shape(shape, layout, features=features)
        assert made.item(WAVE).shape == shape and 1.9 < made.seconds < 2.1
    assert AudioPreprocessing.for_shape((1, None, None)).n_mels == 64
    assert AudioPreprocessing.for_shape((), "channels_last").item(WAVE).shape == (64, 126, 1)
    with pytest.raises(DataError, match=r"shape \(3, 64, 64\); expected \(1, bands, frames\)"):
        AudioPreprocessing.for_shape((3, 64, 64))


def test_frames_first_are_the_same_bands_in_the_other_order():
    plain = AudioPreprocessing("mfcc", seconds=1.0, channel=False)
    turned = AudioPreprocessing("mfcc", seconds=1.0, layout="frames_first")
    assert turned.item(WAVE).shape == (63, 40) and "frames first" in turned.describe()
    np.testing.assert_array_equal(turned.item(WAVE), plain.item(WAVE).T)
    np.testing.assert_array_equal(preprocessing_from_dict(turned.to_dict()).item(WAVE), turned.item(WAVE))
    wave = AudioPreprocessing("waveform", seconds=1.0, layout="frames_first")
    assert wave.item(WAVE).shape == (16000, 1)


def test_waveforms_of_any_type():
    made = AudioPreprocessing(seconds=1.0, standardise=False)
    expected = made.item(WAVE)
    np.testing.assert_allclose(made.item((WAVE * 32767).astype(np.int16)), expected, atol=0.5)
    np.testing.assert_allclose(made.item(np.stack([WAVE, WAVE])), expected, atol=1e-4)
    np.testing.assert_allclose(made.item(np.stack([WAVE, WAVE], axis=1)), expected, atol=1e-4)
    assert np.isfinite(AudioPreprocessing().item(np.zeros(10))).all()
    np.testing.assert_allclose(made.item(np.full(16000, 128, np.uint8)), made.item(np.zeros(16000)), atol=1e-4)


def test_length():
    assert fitted_length(np.arange(5), 3).tolist() == [1, 2, 3]
    assert fitted_length(np.arange(1, 4), 6).tolist() == [0, 1, 2, 3, 0, 0]
    assert fitted_length(np.arange(3), 3).tolist() == [0, 1, 2]


def test_views():
    made = AudioPreprocessing(seconds=1.0)
    plain, one, two = made.item(WAVE), made.item(WAVE, 1, 5), made.item(WAVE, 2, 5)
    assert not np.array_equal(one, plain) and not np.array_equal(one, two)
    np.testing.assert_array_equal(one, made.item(WAVE, 1, 5))
    noise = augmented_waveform(np.ones(20000, np.float32), np.random.default_rng(1))
    middle = noise[4000:16000]
    assert middle.std() / middle.mean() == pytest.approx(0.1, rel=0.15)


def test_errors(tmp_path, recordings):
    (tmp_path / "a.wav").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"a.wav. cannot be read as a recording: Format not recognised"):
        AudioPreprocessing().item(tmp_path / "a.wav")
    with pytest.raises(DataError, match="has no samples: an array of length 0"):
        AudioPreprocessing().item(np.zeros(0))
    with pytest.raises(DataError, match=r"waveform has the shape \(1, 2, 3\)"):
        AudioPreprocessing().item(np.zeros((1, 2, 3)))
    with pytest.raises(DataError, match="features='mel' is unknown"):
        AudioPreprocessing("mel")
    with pytest.raises(DataError, match="n_mfcc=80 is more than n_mels=64"):
        AudioPreprocessing("mfcc", n_mfcc=80)
    with pytest.raises(DataError, match="takes audio and the data are text examples"):
        AudioPreprocessing().fit(read((["a", "b"], [0, 1])))


@pytest.mark.parametrize(("shape", "expected"), [((8000,), (2, 8000)), ((1, 8000), (2, 1, 8000)), ((8000, 1), (2, 8000, 1))])
def test_waveforms_reach_networks_that_take_them(shape: tuple[int, ...], expected: tuple[int, ...]) -> None:
    layout = "channels_last" if shape[-1] == 1 else "channels_first"
    made = AudioPreprocessing.for_shape(shape, layout)
    wave = np.sin(np.linspace(0, 100, 8000)).astype(np.float32)
    batch = made.batch([wave, wave * 0.5])
    assert tuple(batch.shape) == expected
    plain = batch.reshape(2, 8000)
    assert torch.allclose(plain[0], plain[1], atol=1e-5)  # standardised: loudness does not count
    assert torch.allclose(plain[0], torch.from_numpy((wave - wave.mean()) / wave.std()), atol=1e-5)
    assert "waveform" in made.describe()
