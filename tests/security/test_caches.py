"""A feature cache is used only if it is the right one; any damage means that it is computed again; nothing but caches is cleared."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch import nn

import regraft
from regraft.data import Prepared, preprocessing_from_dict, read
from regraft.errors import CacheError
from regraft.frontier import Counter, Cut, FrozenPass, cacheable_layers, clear_caches, find_cut, frozen_up_to, list_caches
from regraft.networks.torch_modules import open_torch

COUNT = 60
FACTOR = 2.0


def helper(x: torch.Tensor) -> torch.Tensor:
    return x * FACTOR


class Mode:
    def __init__(self, factor: float) -> None:
        self.factor = factor


class Own(nn.Module):
    """Everything that a digest of weights and layers does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)
        self.factor, self.factors, self.mode, self.array = 0.5, [1.0, 2.0], Mode(1.0), np.ones(3)
        self.function = lambda x: x + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.function(helper(self.norm(self.first(x)))) * self.factor * self.factors[1] * self.mode.factor * float(self.array[0])
        return self.fc(x.amax((2, 3)))


def _pass(where: Any, module: nn.Module | None = None, **settings: Any) -> tuple[FrozenPass, Prepared]:
    torch.manual_seed(0)
    network = open_torch(module or Own(), inputs=(1, 8, 8))
    network.freeze_(frozen_up_to(network, "norm"))
    items = Prepared(read(examples.pictures(COUNT)), preprocessing_from_dict({"kind": "array", "shape": [1, 8, 8]}))
    cut = find_cut(network, cacheable_layers(network, frozenset({"first", "norm"})), sample=items.batch([0, 1, 2]))
    assert isinstance(cut, Cut)
    return FrozenPass(network, cut, where, counter=Counter(), **settings), items


def _computed(where: Any, module: nn.Module | None = None) -> int:
    """Return how many examples went through the frozen part."""
    one, items = _pass(where, module)
    one.cached(items)
    assert not one.notes
    return one.counter.items


def _seeded() -> Own:
    torch.manual_seed(0)
    return Own()


def _other_factor(module: Own) -> None:
    module.factor = 0.5002


def _other_list(module: Own) -> None:
    module.factors[1] = 2.1


def _other_object(module: Own) -> None:
    module.mode.factor = 1.1


def _other_array(module: Own) -> None:
    module.array[0] = 1.1


def _other_function(module: Own) -> None:
    module.function = lambda x: x + 2


def _other_bound_value(module: Own) -> None:
    amount = 3
    module.function = lambda x: x + amount


def _a_hook(module: Own) -> None:
    module.first.register_forward_hook(lambda _module, _inputs, output: output * 1.5)


CHANGES = [_other_factor, _other_list, _other_object, _other_array, _other_function, _other_bound_value, _a_hook]


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__.strip("_"))
def test_what_the_forward_reaches_is_part_of_the_identity(tmp_path: Path, change: Any) -> None:
    assert _computed(tmp_path, _seeded()) == COUNT
    assert _computed(tmp_path, _seeded()) == 0
    changed = _seeded()
    change(changed)
    assert _computed(tmp_path, changed) == COUNT


@pytest.mark.parametrize(("name", "value"), [("FACTOR", 3.0), ("helper", lambda x: x * 3.0)], ids=["constant", "function"])
def test_globals_that_the_forward_reaches_are_part_of_the_identity(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    assert _computed(tmp_path, _seeded()) == COUNT
    monkeypatch.setitem(Own.forward.__globals__, name, value)
    assert _computed(tmp_path, _seeded()) == COUNT


def test_what_cannot_be_described_disables_reuse_by_other_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = _seeded()
    module.handle = iter([1])
    one, items = _pass(tmp_path, module)
    one.cached(items)
    assert len(one.notes) == 1
    assert "handle" in one.notes[0]
    again, items = _pass(tmp_path, module)
    again.cached(items)
    assert again.counter.items == 0
    monkeypatch.setattr("regraft.frontier.run._PROCESS", "another process")
    other, items = _pass(tmp_path, module)
    other.cached(items)
    assert other.counter.items == COUNT


HASHED = """
import sys
from tests.security.test_caches import _computed, _seeded
print(_computed(sys.argv[1], _seeded()))
"""


def test_another_process_finds_the_cache(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[2]
    for seed, expected in (("1", COUNT), ("2", 0)):
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        command = [sys.executable, "-c", HASHED, str(tmp_path)]
        done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
        assert int(done.stdout) == expected


def test_a_saved_keras_network_finds_the_cache_again(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs))))
    data = (np.transpose(examples.pictures(COUNT)[0], (0, 2, 3, 1)), examples.pictures(COUNT)[1])
    net = regraft.load(model)
    net.save(tmp_path / "saved")
    options = {"strategy": "head", "epochs": 1, "learning_rate": 0.01, "cache": str(tmp_path / "cache")}
    assert regraft.adapt(net, data, **options).cost["frozen_forward_items"] == COUNT
    assert regraft.adapt(regraft.load(tmp_path / "saved"), data, **options).cost["frozen_forward_items"] == 0


def _filled(tmp_path: Path) -> tuple[Path, list[np.ndarray]]:
    one, items = _pass(tmp_path, _seeded())
    cache = one.cached(items)
    return next(path.parent for path in tmp_path.glob("*/manifest.json")), [part.numpy() for part in cache.get(np.arange(COUNT))]


@pytest.mark.parametrize("name", ["manifest.json", "live0.npy", "done.npy"])
def test_damage_of_any_kind_means_computing_again(tmp_path: Path, name: str) -> None:
    folder, good = _filled(tmp_path / "cache")
    shutil.copytree(folder, tmp_path / "kept")
    draw, content = random.Random(name), (folder / name).read_bytes()
    places = range(0, min(len(content), 130), 7)
    damages = [content[:at] + bytes([content[at] ^ (1 << draw.randrange(8))]) + content[at + 1 :] for at in places]
    damages += [b"", content[:20], content[: len(content) // 2], content + b"more", os.urandom(200)]
    damages += [b"\x93NUMPY\x01\x00\xff\xff" + content[10:]]
    for damage in damages:
        (folder / name).write_bytes(damage)
        one, items = _pass(tmp_path / "cache", _seeded())
        found = [part.numpy() for part in one.cached(items).get(np.arange(COUNT))]
        assert all(map(np.array_equal, found, good)), damage[:140]
        assert [path.name for path in folder.iterdir() if path.name.startswith(".")] == []


def test_changed_rows_with_a_right_checksum_are_found_wherever_they_are(tmp_path: Path) -> None:
    folder, good = _filled(tmp_path)
    array = np.load(folder / "live0.npy", mmap_mode="r+")
    array[COUNT // 2 :] *= 1.0005
    array.flush()
    one, items = _pass(tmp_path, _seeded())
    kept = type(one.cached(items))(one.cut.live, COUNT, arrays=[array], done=np.load(folder / "done.npy", mmap_mode="r+"))
    kept.finish(range(COUNT))
    again, items = _pass(tmp_path, _seeded())
    found = again.cached(items).get(np.arange(COUNT))[0].numpy()
    assert np.array_equal(found, good[0])


def test_a_whole_cache_on_a_read_only_disk_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _filled(tmp_path)

    def refused(*_args: Any, **_named: Any) -> Any:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refused)
    one, items = _pass(tmp_path, _seeded())
    one.cached(items)
    assert one.counter.items == 0


@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the system cannot reserve room")
def test_a_full_disk_is_said_before_anything_is_computed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    one, items = _pass(tmp_path, _seeded())
    with pytest.raises(CacheError, match=r"feature cache needs.*cache=None"):
        one.cached(items)
    assert one.counter.items == 0
    assert list_caches(tmp_path) == []


def test_only_caches_are_cleared(tmp_path: Path) -> None:
    folder, _ = _filled(tmp_path / "root")
    manifest = json.loads((folder / "manifest.json").read_text())
    outside = tmp_path / "outside"
    shutil.copytree(folder, outside)
    for name, change in {
        "two fields": {"rows": 3, "chunk": 256},
        "other facts": {**manifest, "facts": {}},
        "text rows": {**manifest, "rows": "3"},
    }.items():
        (tmp_path / "root" / name).mkdir()
        (tmp_path / "root" / name / "manifest.json").write_text(json.dumps(change))
    shutil.copytree(folder, tmp_path / "root" / "with a letter")
    (tmp_path / "root" / "with a letter" / "letter.txt").write_text("mine")
    (tmp_path / "root" / "link").symlink_to(outside)
    shutil.copytree(folder, tmp_path / "root" / "with a link")
    (tmp_path / "root" / "with a link" / "live7.npy").symlink_to(outside / "live0.npy")
    kept = {"two fields", "other facts", "text rows", "with a letter", "link", "with a link"}
    assert [entry.folder for entry in clear_caches(tmp_path / "root")] == [folder]
    assert {path.name for path in (tmp_path / "root").iterdir()} == kept
    assert len(list(outside.iterdir())) == len(list((tmp_path / "root" / "link").iterdir())) > 2


def test_arrays_that_are_pickles_are_not_opened(tmp_path: Path) -> None:
    folder, good = _filled(tmp_path / "cache")
    marker = tmp_path / "marker"

    class Attack:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(marker),)

    for name in ("live0.npy", "done.npy"):
        np.save(folder / name, np.array([Attack()], dtype=object), allow_pickle=True)
        one, items = _pass(tmp_path / "cache", _seeded())
        assert np.array_equal(one.cached(items).get(np.arange(COUNT))[0].numpy(), good[0])
        assert not marker.exists()
