"""A feature cache is used only if it is the right one; any damage means that it is computed again; nothing but caches is cleared."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from tests.freezing.test_cache import marked_done
from torch import nn

import regraft
from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.errors import CacheError
from regraft.freezing import Counter, Cut, FrozenPass, cacheable_layers, clear_caches, find_cut, frozen_up_to, list_caches
from regraft.networks.network import Network
from regraft.networks.torch.family import open_torch

COUNT = 60
FACTOR = 2.0


def helper(x: torch.Tensor) -> torch.Tensor:
    return x * FACTOR


class Mode:
    def __init__(self, factor: float) -> None:
        self.factor = factor


class Handle:
    """Of another library, without content that could be looked at."""

    def __deepcopy__(self, _known: Any) -> Handle:
        return self

    def __reduce_ex__(self, _protocol: Any) -> Any:
        raise TypeError("a handle cannot be pickled")


class Own(nn.Module):
    """Everything that a digest of weights and layers does not see."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, 3)
        self.factor, self.factors, self.mode, self.array = 0.5, [1.0, 2.0], Mode(1.0), np.ones(3)
        self.function = lambda x: x + 1
        self.act = nn.ReLU()
        self.register_buffer("unsaved", torch.ones(1), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from helpers_of_this_test import shift

        x = self.act(self.function(helper(self.norm(self.first(x))))) * self.unsaved + shift(1.0)
        x = x * self.factor * self.factors[1] * self.mode.factor * float(self.array[0])
        return self.fc(x.amax((2, 3)))


def _pass(where: Any, module: nn.Module | None = None) -> tuple[FrozenPass, PreparedData]:
    torch.manual_seed(0)
    return _pass_of(where, open_torch(module or Own(), inputs=(1, 8, 8)), up_to="norm", pictures=examples.pictures(COUNT)[0])


def _pass_of(where: Any, network: Network, *, up_to: str, pictures: np.ndarray) -> tuple[FrozenPass, PreparedData]:
    frozen = frozen_up_to(network, up_to)
    network.freeze_(frozen)
    labels = examples.pictures(COUNT)[1]
    items = PreparedData(read((pictures, labels)), preprocessing_from_dict({"kind": "array", "shape": list(pictures.shape[1:])}))
    cut = find_cut(network, cacheable_layers(network, frozen), sample=items.batch([0, 1, 2]))
    assert isinstance(cut, Cut)
    return FrozenPass(network, cut, where, counter=Counter()), items


def _computed(where: Any, module: nn.Module | None = None) -> int:
    """Return how many examples went through the frozen part."""
    one, items = _pass(where, module)
    one.cached(items)
    assert not one.notes
    return one.counter.items


def _seeded() -> Own:
    sys.modules.setdefault("helpers_of_this_test", _helpers())  # what its forward imports
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


def _a_pre_hook(module: Own) -> None:
    module.norm.register_forward_pre_hook(lambda _module, inputs: (inputs[0] * 1.5,))


def _an_unsaved_buffer(module: Own) -> None:
    module.unsaved += 1


def _another_forward_of_a_library_module(module: Own) -> None:
    module.act.forward = lambda x: x.relu() * 2


def _another_class_of_a_library_module(module: Own) -> None:
    module.act = nn.GELU()


def _a_module_that_forward_imports(_module: Own) -> None:
    sys.modules["helpers_of_this_test"].AMOUNT = 4.0


def _a_function_that_forward_imports(_module: Own) -> None:
    sys.modules["helpers_of_this_test"].shift = lambda value: value - 1


def _helpers() -> types.ModuleType:
    module = types.ModuleType("helpers_of_this_test")
    exec("AMOUNT = 2.0\ndef shift(value):\n    return value * AMOUNT\n", vars(module))
    return module


CHANGES = [
    *(_other_factor, _other_list, _other_object, _other_array, _other_function, _other_bound_value, _a_hook, _a_pre_hook),
    *(_an_unsaved_buffer, _another_forward_of_a_library_module, _another_class_of_a_library_module),
    *(_a_module_that_forward_imports, _a_function_that_forward_imports),
]


@pytest.fixture(autouse=True)
def imported_inside_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each test a module of its own for `Own.forward` to import."""
    monkeypatch.setitem(sys.modules, "helpers_of_this_test", _helpers())


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


@pytest.mark.parametrize("where", ["memory", "folder"])
def test_what_cannot_be_described_disables_reuse_by_other_runs(tmp_path: Path, where: str) -> None:
    module = _seeded()
    module.handle = Handle()
    place = "memory" if where == "memory" else tmp_path
    one, items = _pass(place, module)
    first = one.cached(items)
    assert one.cached(items) is first and one.counter.items == COUNT  # the same run
    assert len(one.notes) == (where == "folder") and all("handle" in note for note in one.notes)
    other, items = _pass(place, module)
    other.cached(items)
    assert other.counter.items == COUNT
    assert list_caches(tmp_path) == []


HASHED = """
import sys
from tests.security.test_caches import _computed, _seeded
print(_computed(sys.argv[1], _seeded()))
"""


def test_another_process_finds_the_cache(tmp_path: Path) -> None:
    root, environment = Path(__file__).resolve().parents[2], {**os.environ, "PYTHONHASHSEED": "1"}  # here, it is another
    assert _computed(tmp_path, _seeded()) == COUNT
    done = subprocess.run(
        [sys.executable, "-c", HASHED, str(tmp_path)], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 0


def test_a_saved_keras_network_finds_the_cache_again(tmp_path: Path) -> None:
    keras = pytest.importorskip("keras")
    inputs = keras.Input((8, 8, 1))
    model = keras.Model(inputs, keras.layers.Dense(5)(keras.layers.Flatten()(keras.layers.Conv2D(4, 3)(inputs))))
    data = (np.transpose(examples.pictures(COUNT)[0], (0, 2, 3, 1)), examples.pictures(COUNT)[1])
    net = regraft.load(model)
    net.save(tmp_path / "saved")
    options = {"strategy": "head", "epochs": 1, "learning_rate": 0.01, "cache": str(tmp_path / "cache")}
    assert regraft.adapt(net, data, **options).cost["frozen_forward_examples"] == COUNT
    assert regraft.adapt(regraft.load(tmp_path / "saved"), data, **options).cost["frozen_forward_examples"] == 0


def _doubled(x: Any) -> Any:
    return x * FACTOR


def _keras_layer(keras: Any, factor: float) -> Any:
    class Scaled(keras.layers.Layer):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.factor = factor

        def call(self, x: Any) -> Any:
            return x * self.factor

    return Scaled()


KERAS: dict[str, Callable[[Any, Any, float], Any]] = {
    "a constant of the graph": lambda _keras, x, value: x * value,
    "a constant on the left": lambda _keras, x, value: value - x,
    "a constant of an operation": lambda keras, x, value: keras.ops.clip(x, -value, value),
    "an axis": lambda keras, x, value: keras.ops.flip(x, axis=int(value)),
    "an array": lambda keras, x, value: keras.ops.add(x, np.full(4, value, np.float32)),
    "a lambda": lambda keras, x, value: keras.layers.Lambda((lambda x: x * 2.0) if value == 1 else (lambda x: x * 3.0))(x),
    "what a lambda holds": lambda keras, x, value: keras.layers.Lambda(lambda x: x * value)(x),
    "an activation": lambda keras, x, value: keras.layers.Activation(lambda x: x * value)(x),
    "the activation of a layer": lambda keras, x, value: keras.layers.Conv2D(4, 1, activation=lambda x: x * value)(x),
    "an attribute of a layer": lambda keras, x, value: _keras_layer(keras, value)(x),
    "a setting": lambda keras, x, value: keras.layers.LeakyReLU(value / 10)(x),
}
"""What stands in the frozen part of a Keras network -> how it is made, for two values."""


def _keras_computed(where: Path, build: Callable[[Any, Any], Any]) -> int:
    keras = pytest.importorskip("keras")
    keras.utils.clear_session(free_memory=False)  # names of layers begin anew
    keras.utils.set_random_seed(0)
    inputs = keras.Input((8, 8, 1))
    middle = build(keras, keras.layers.Conv2D(4, 3, name="first")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(3, name="fc")(keras.layers.GlobalMaxPooling2D(name="pool")(middle)))
    pictures = np.transpose(examples.pictures(COUNT)[0], (0, 2, 3, 1))
    one, items = _pass_of(where, regraft.load(model), up_to="pool", pictures=pictures)
    one.cached(items)
    assert not one.notes
    return one.counter.items


@pytest.mark.parametrize("kind", KERAS)
def test_what_a_keras_graph_holds_is_part_of_the_identity(tmp_path: Path, kind: str) -> None:
    found = [_keras_computed(tmp_path, lambda keras, x, value=value: KERAS[kind](keras, x, value)) for value in (1.0, 1.0, 2.0)]
    assert found == [COUNT, 0, COUNT]


def test_what_a_function_in_a_keras_layer_reads_is_part_of_the_identity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [_keras_computed(tmp_path, lambda keras, x: keras.layers.Lambda(_doubled)(x)) for _ in range(2)] == [COUNT, 0]
    monkeypatch.setitem(_doubled.__globals__, "FACTOR", 3.0)
    assert _keras_computed(tmp_path, lambda keras, x: keras.layers.Lambda(_doubled)(x)) == COUNT


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


def _with_rows(folder: Path, change: Callable[[np.ndarray], None]) -> None:
    """Change rows of a cache, and its checksums so that they are right."""
    array = np.load(folder / "live0.npy", mmap_mode="r+")
    change(array)
    array.flush()
    marked_done(folder, array)


def _half(array: np.ndarray) -> None:
    array[COUNT // 2 :] *= 1.0005


def _last_bits(array: np.ndarray) -> None:
    array[:] = np.nextafter(array, np.float32(np.inf))


@pytest.mark.parametrize("change", [_half, _last_bits])
def test_changed_rows_with_a_right_checksum_are_found_wherever_they_are(tmp_path: Path, change: Any) -> None:
    folder, good = _filled(tmp_path)
    _with_rows(folder, change)
    again, items = _pass(tmp_path, _seeded())
    found = again.cached(items).get(np.arange(COUNT))[0].numpy()
    assert np.array_equal(found, good[0]) and again.counter.items == COUNT


@pytest.mark.parametrize(("change", "computed"), [(_half, COUNT), (_last_bits, 0)])
def test_what_another_engine_has_filled_may_differ_by_rounding(tmp_path: Path, change: Any, computed: int) -> None:
    folder, _ = _filled(tmp_path)
    _with_rows(folder, change)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "engines": ["another"]}))
    again, items = _pass(tmp_path, _seeded())
    again.cached(items)
    assert again.counter.items == computed


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
