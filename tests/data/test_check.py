from __future__ import annotations

import numpy as np
import pytest

from regraft.data import Dataset, checked, read
from regraft.data.check import bad_items, rows_not_finite
from regraft.errors import DataError


def test_corrupt_pictures(pictures):
    good = (pictures / "cat/1.png").read_bytes()
    (pictures / "cat/2.png").write_bytes(good[: len(good) // 2])
    (pictures / "dog/1.png").write_bytes(b"no picture")
    data = read(pictures)
    assert list(bad_items(data)) == [1, 3]
    with pytest.raises(DataError, match=r"2 of 5 examples cannot be used: cat/2.png \(.*\), dog/1.png \(it has none of the formats"):
        checked(data, skip_bad=False)
    kept = checked(data, skip_bad=True)
    assert kept.names == ("cat/1.png", "cat/10.png", "dog/2.png") and "left out: 2 of 5" in kept.notes[-1]
    with pytest.raises(DataError, match="expected at least one usable example"):
        checked(data.subset([1, 3]), skip_bad=True)


def test_truncated_jpeg(tmp_path):
    image = pytest.importorskip("PIL.Image")
    path = tmp_path / "a.jpg"
    image.fromarray(np.random.default_rng(0).integers(0, 256, (300, 300, 3), dtype=np.uint8)).save(path)
    data = Dataset([path], np.array([0]), ("a",), "image")
    assert not bad_items(data)
    path.write_bytes(path.read_bytes()[:20000])
    assert "truncated" in bad_items(data)[0]


def test_recordings(recordings):
    soundfile = pytest.importorskip("soundfile")
    (recordings / "low/1.wav").write_bytes(b"no sound")
    soundfile.write(recordings / "low/2.wav", np.zeros(0), 8000)
    soundfile.write(recordings / "high/1.wav", np.array([0.0, np.nan]), 8000, subtype="FLOAT")
    reasons = bad_items(read(recordings))
    assert list(reasons) == [0, 2, 3] and reasons[0] == "NaN or infinity" and reasons[3] == "no samples"


def test_numbers_in_chunks(monkeypatch):
    monkeypatch.setattr("regraft.data.items.CHUNK_BYTES", 64)
    items = np.zeros((50, 4))
    items[[7, 31], [0, 3]] = np.nan, np.inf
    assert list(rows_not_finite(items)) == [7, 31]
    assert list(rows_not_finite(items.astype(np.float32)[:8])) == [7]
    assert not len(rows_not_finite(np.zeros((3, 2), int)))
    with pytest.raises(DataError, match=r"2 of 50 examples cannot be used: example 7 \(NaN or infinity\), example 31"):
        read((items, [0, 1] * 25))
    assert len(read((items, [0, 1] * 25), skip_bad=True)) == 48


def test_lists_of_arrays():
    items = [np.zeros(3), np.array([np.nan]), np.zeros(0), np.array(["a"])]
    reasons = bad_items(Dataset(items, np.zeros(4, int), ("a",), "audio"))
    assert reasons == {1: "NaN or infinity", 2: "empty", 3: "<U1 values in place of numbers"}
    texts = Dataset(["a", None, 3], np.zeros(3, int), ("a",), "text")
    assert bad_items(texts) == {1: "missing text", 2: "int in place of a text"}


@pytest.mark.parametrize(("change", "cut"), [("cut", True), ("whole", False), ("streamed", False), ("empty head", False)])
def test_a_recording_that_is_cut_short_is_told(tmp_path, change, cut):
    soundfile = pytest.importorskip("soundfile")
    for name in ("a", "b"):
        soundfile.write(tmp_path / f"{name}.wav", np.sin(np.arange(4000) / 9), 8000)
    whole = (tmp_path / "b.wav").read_bytes()
    heads = {"streamed": b"\xff" * 4, "empty head": bytes(4)}
    (tmp_path / "b.wav").write_bytes(whole[:3001] if change == "cut" else whole[:4] + heads.get(change, whole[4:8]) + whole[8:])
    data = checked(read(([tmp_path / "a.wav", tmp_path / "b.wav"], ["x", "y"])), skip_bad=False)
    told = [note for note in data.notes if "1 of 2 recordings ends before the length that is declared" in note]
    assert len(told) == cut and checked(data, skip_bad=False).notes == data.notes


def test_a_class_of_which_no_example_is_left_is_no_class(pictures):
    (pictures / "cow").mkdir()
    (pictures / "cow/1.png").write_bytes(b"no picture")
    data = read(pictures)
    kept = checked(data, skip_bad=True)
    assert data.classes == ("cat", "cow", "dog") and kept.classes == ("cat", "dog")
    assert kept.targets.tolist() == [0, 0, 0, 1, 1]
    assert kept.notes[-1].endswith("; with them the classes of which no example is left: 'cow'")
    named = checked(read(pictures, classes=["cow", "dog", "cat", "hen"]), skip_bad=True)
    assert named.classes == ("cow", "dog", "cat", "hen")  # as the user said


def test_a_label_of_which_no_example_is_left_is_no_label_of_several():
    items = np.array([[0.0], [1.0], [np.nan], [3.0]])
    kept = read((items, [["a"], ["a", "b"], ["c", "b"], ["b"]]), skip_bad=True)
    assert kept.classes == ("a", "b") and kept.targets.tolist() == [[1, 0], [1, 1], [0, 1]]
