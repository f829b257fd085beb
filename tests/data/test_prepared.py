from __future__ import annotations

import dataclasses
import threading

import numpy as np
import pytest
import torch

from regraft.data import ArrayPreprocessing, ImagePreprocessing, PreparedData, read
from regraft.data.decoding.threads import in_threads, prefetched
from regraft.errors import SettingError


def test_batches_of_files_in_order(pictures):
    prepared = PreparedData(read(pictures), ImagePreprocessing(4, 4))
    parts = list(prepared.batches(2, [4, 0, 3]))
    assert [list(indices) for indices, _ in parts] == [[4, 0], [3]] and len(prepared) == 5
    torch.testing.assert_close(torch.cat([batch for _, batch in parts]), prepared.batch([4, 0, 3]))
    stopped = prepared.batches(1, view=2)
    assert next(stopped)[1].shape == (1, 3, 4, 4)
    stopped.close()
    with pytest.raises(SettingError, match="batch_size=0 is out of range"):
        next(prepared.batches(0))


@pytest.mark.parametrize("of", [lambda own, files: own.batches(files, 2), lambda own, files: PreparedData(read(files), own).batches(2)])
def test_the_next_batch_of_files_is_read_while_one_is_in_use(of, pictures, monkeypatch):
    inner, second = ImagePreprocessing.batch_of, threading.Event()

    def watched(self, data, indices, **how):
        made = inner(self, data, indices, **how)
        if list(indices) == [2, 3]:
            second.set()
        return made

    monkeypatch.setattr(ImagePreprocessing, "batch_of", watched)
    batches = of(ImagePreprocessing(4, 4), pictures)
    next(batches)
    assert second.wait(10)  # nobody has asked for it
    assert len(list(batches)) == 2


def test_memory_map_is_read_by_batch(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).random((30, 4)))
    items = np.load(tmp_path / "x.npy", mmap_mode="r")
    first, second = read((items, [0, 1] * 15)).split()
    prepared = PreparedData(second, ArrayPreprocessing((4,)))
    made = torch.cat([batch for _, batch in prepared.batches(4)])
    np.testing.assert_array_equal(made.numpy(), np.asarray(second.items, dtype=np.float32))
    assert len(first) + len(second) == 30


def test_unfitted_preprocessing_is_fitted_to_all_the_data(digits):
    prepared = PreparedData(read(digits), ImagePreprocessing(8, 8))
    assert prepared.preprocessing.value_range == (0, 16)


def test_identity(digits, pictures):
    data = read(digits).subset(range(50))
    made = ImagePreprocessing(8, 8)
    identity = PreparedData(data, made).identity(1)
    assert identity == PreparedData(data.subset(range(50)), made, view_seed=3).identity(1) and len(identity) == 32
    others = {
        PreparedData(data, made).identity(2),
        PreparedData(data, made, view_seed=3).identity(2),
        PreparedData(data, dataclasses.replace(made, mean=0.5)).identity(1),
        PreparedData(data.subset(range(49)), made).identity(1),
        PreparedData(data.subset([1, 0, *range(2, 50)]), made).identity(1),
    }
    assert identity not in others and len(others) == 5
    files = PreparedData(read(pictures), made)
    before = files.identity(1)
    (pictures / "cat/1.png").write_bytes(b"other")
    assert files.identity(1) != before


def test_views_differ_by_item_and_seed(digits):
    items = np.repeat(digits[0][:1], 2, axis=0)
    data = read((items, [0, 1]))
    views = [PreparedData(data, ImagePreprocessing(16, 16), view_seed=seed).batch([0, 1], 1) for seed in (0, 1)]
    assert not torch.equal(views[0][0], views[0][1]) and not torch.equal(views[0], views[1])


def test_threads():
    assert in_threads(lambda value: value + 1, list(range(20))) == list(range(1, 21))
    assert in_threads(lambda _: threading.current_thread(), [1]) == [threading.current_thread()]
    assert list(prefetched(lambda value: value * 2, [1, 2, 3])) == [(1, 2), (2, 4), (3, 6)]
    assert list(prefetched(lambda value: value, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(prefetched(lambda value: 1 / value, [1, 0]))
