"""The feature cache: nothing computed twice, nothing doubtful trusted."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections import namedtuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples

import regraft
from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.errors import CacheError
from regraft.files.locks import LOCK_FILE
from regraft.freezing import (
    ActivationCache,
    Counter,
    Cut,
    FrozenPass,
    LiveOutput,
    cacheable_layers,
    clear_caches,
    find_cut,
    frozen_up_to,
    list_caches,
)
from regraft.freezing.cache import CHUNK, Column
from regraft.networks.torch.family import open_torch

N = 3 * CHUNK + 10


class Filling:
    """A network, items and their cut, ready to fill caches."""

    def __init__(self, where: Any, count: int = N, **settings: Any) -> None:
        torch.manual_seed(0)
        network = open_torch(examples.Cnn(), inputs=(1, 8, 8))
        frozen = frozen_up_to(network, "norm2")
        network.freeze_(frozen)
        data = read(examples.pictures(count))
        self.items = PreparedData(data, preprocessing_from_dict({"kind": "array", "shape": [1, 8, 8]}))
        cut = find_cut(network, cacheable_layers(network, frozen), sample=self.items.batch([0, 1, 2]))
        assert isinstance(cut, Cut)
        self.counter = Counter()
        self.pass_ = FrozenPass(network, cut, where, counter=self.counter, **settings)

    def fill(self, views: Any = (0,)) -> ActivationCache:
        return self.pass_.cached(self.items, views)

    def rows(self, indices: Any) -> torch.Tensor:
        return self.pass_.cut.frozen_part(self.items.batch(indices))[0]


def _folder(root: Path) -> Path:
    return next(path.parent for path in root.glob("*/manifest.json"))


def test_values_and_counter(tmp_path: Path) -> None:
    filling = Filling(tmp_path)
    cache = filling.fill()
    chosen = np.array([0, 7, CHUNK, N - 1])
    torch.testing.assert_close(cache.get(chosen)[0], filling.rows(chosen), rtol=1e-5, atol=1e-6)
    assert filling.counter.items == N
    assert not cache.missing
    filling.fill()
    assert filling.counter.items == N  # nothing is computed again


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="names of open files are looked up there")
def test_the_disk_is_waited_for_once_a_file_and_what_it_refuses_then_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, flushed = os.fsync, []
    monkeypatch.setattr(os, "fsync", lambda handle: flushed.append(os.readlink(f"/proc/self/fd/{handle}")) or plain(handle))
    Filling(tmp_path / "one", CHUNK).fill()
    few = len(flushed)
    Filling(tmp_path / "many").fill()
    assert len(flushed) == 2 * few and few < 12

    def full(handle: int) -> None:
        if "live0" in os.readlink(f"/proc/self/fd/{handle}") and filling.counter.items == N:
            raise OSError(errno.ENOSPC, "No space left on device")
        plain(handle)

    filling = Filling(tmp_path / "full")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CacheError, match="cannot be written: No space left on device"):
        filling.fill()


def test_memory_and_float16(tmp_path: Path) -> None:
    memory = Filling("memory", 20)
    assert memory.fill().bytes == 20 * 6 * 4 * 4 * 4
    half = Filling(tmp_path, 20, dtype="float16")
    cache = half.fill()
    assert cache.bytes == 20 * 6 * 4 * 4 * 2
    found = cache.get(np.arange(20))[0]
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, half.rows(range(20)), rtol=2e-3, atol=2e-3)
    half.fill()
    assert half.counter.items == 20


def test_float16_refuses_what_it_cannot_hold() -> None:
    cache = ActivationCache.in_memory([LiveOutput("big#0.0", (2,), torch.float32)], 3, dtype="float16")
    with pytest.raises(CacheError, match=r"big#0.0.*1e\+05.*float32"):
        cache.put(0, [torch.tensor([[1.0, 1e5]])])


def test_integer_outputs_stay_integers() -> None:
    cache = ActivationCache.in_memory([LiveOutput("ids", (2,), torch.int64)], 2, dtype="float16")
    cache.put(0, [torch.tensor([[1, 70000], [3, 4]])])
    assert torch.equal(cache.get(np.array([1, 0]))[0], torch.tensor([[3, 4], [1, 70000]]))


def marked_done(folder: Path, array: np.ndarray) -> None:
    """Let the checksums of a cache be those of an array of its rows."""
    whole = ActivationCache([LiveOutput("x", array.shape[1:], torch.float32)], len(array), columns=[Column(array)])
    for rows in whole.missing:
        whole.finish(rows)
    done = np.load(folder / "done.npy", mmap_mode="r+")
    done[:] = whole.done
    done.flush()


def _flip_a_byte(folder: Path) -> int:
    array = np.load(folder / "live0.npy", mmap_mode="r+")
    array.reshape(len(array), -1).view(np.uint8)[CHUNK + 3, 5] ^= 1
    array.flush()
    return CHUNK


def _forget_manifest(folder: Path) -> int:
    text = (folder / "manifest.json").read_text()
    (folder / "manifest.json").write_text(text[: len(text) // 2])
    return N


def _cut_short(folder: Path) -> int:
    with (folder / "live0.npy").open("r+b") as file:
        file.truncate(1000)
    return N


def _lose_done(folder: Path) -> int:
    (folder / "done.npy").unlink()
    return N


def _change_first_rows_with_their_checksum(folder: Path) -> int:
    """As if code that no digest sees had changed: the values are whole, but not those of this network."""
    array = np.load(folder / "live0.npy", mmap_mode="r+")
    array[:CHUNK] += 1
    array.flush()
    marked_done(folder, array)
    return N


@pytest.mark.parametrize(
    "harm", [_flip_a_byte, _forget_manifest, _cut_short, _lose_done, _change_first_rows_with_their_checksum], ids=lambda harm: harm.__name__
)
def test_a_doubtful_cache_is_computed_again(tmp_path: Path, harm: Any) -> None:
    good = Filling(tmp_path).fill().get(np.arange(N))[0].clone()
    expected = harm(_folder(tmp_path))
    again = Filling(tmp_path)
    cache = again.fill()
    assert again.counter.items == expected
    assert torch.equal(cache.get(np.arange(N))[0], good)


def test_a_cache_is_locked_until_all_of_it_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise one who waits for the lock would begin to fill it, and lose what it writes."""
    Filling(tmp_path).fill()
    (entry,), unlink, held = list_caches(tmp_path), Path.unlink, dict[str, bool]()

    def seen(path: Path, **how: Any) -> None:
        held[path.name] = (path.parent / LOCK_FILE).exists() and path.name != LOCK_FILE
        unlink(path, **how)

    monkeypatch.setattr(Path, "unlink", seen)
    assert [found.folder for found in clear_caches(tmp_path)] == [entry.folder] and not entry.folder.exists()
    assert len(held) > 2 and all(held.values()), held


def test_list_and_clear(tmp_path: Path) -> None:
    Filling(tmp_path).fill()
    (tmp_path / "mine.txt").write_text("stays")
    (tmp_path / "other").mkdir()
    (entry,) = list_caches(tmp_path)
    assert (entry.rows, entry.done) == (N, N)
    assert entry.size > N * 6 * 4 * 4 * 4
    (entry.folder / "done.npy").write_bytes(b"")
    assert [found.done for found in list_caches(tmp_path)] == [0]
    assert clear_caches(tmp_path, before=entry.made) == []
    assert [found.folder for found in clear_caches(tmp_path, before=entry.made + 1)] == [entry.folder]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.txt", "other"]
    assert list_caches(tmp_path / "nowhere") == []


def test_no_room_on_the_disk_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filling = Filling(tmp_path)
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: usage(10**6, 10**6, 1000))
    with pytest.raises(CacheError, match=r"MiB.*float16.*cache=None"):
        filling.fill()
    assert filling.counter.items == 0
    assert list_caches(tmp_path) == []


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    filling = Filling(blocked / "cache")
    with pytest.raises(CacheError, match="file"):
        filling.fill()
    assert filling.counter.items == 0


def test_views_go_through_the_frozen_part_once_each(tmp_path: Path) -> None:
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    data = read(examples.pictures(60))
    settings = {"strategy": "partial", "frozen": "norm2", "views": 3, "epochs": 2, "learning_rate": 0.01, "cache": str(tmp_path)}
    result = regraft.adapt(net, data, **settings)
    split = result.facts["data"]["split"]  # views are of what is learned from, in the end
    assert result.cost["frozen_forward_examples"] == 60 + 2 * (split["training"] + split["validation"])
    assert regraft.adapt(net, data, **settings).cost["frozen_forward_examples"] == 0


KILLED = """
import os, signal, sys
from tests.freezing.test_cache import CHUNK, Filling
filling = Filling(sys.argv[1])
inner, seen = filling.items.batch, [0]
def counting(indices, view=0):
    seen[0] += len(indices)
    if seen[0] > 2 * CHUNK + 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return inner(indices, view)
filling.items.batch = counting
filling.fill()
"""


def test_after_a_kill_finished_chunks_are_not_computed_again(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    killed = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, capture_output=True, text=True, check=False)
    assert killed.returncode == -9, killed.stderr
    (entry,) = list_caches(tmp_path)
    assert entry.done == 2 * CHUNK
    after = Filling(tmp_path)  # another process with the same inputs finds the same cache
    cache = after.fill()
    assert after.counter.items == N - 2 * CHUNK
    assert torch.equal(cache.get(np.arange(N))[0], Filling("memory").fill().get(np.arange(N))[0])
