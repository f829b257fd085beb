"""A finished folder that is replaced: killed at any moment, it opens as wholly the old one or wholly the new one."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from tests.moments import limited_files, outcomes, watched

import regraft
from regraft.errors import InputError, NetworkError, SettingError
from regraft.files import replacing
from regraft.files.locks import LOCK_FILE, held_folder
from regraft.networks.folders import _FOLDER
from regraft.networks.torch import exporting
from regraft.planning import Plan
from regraft.report import read_facts
from regraft.training import Checkpoint

QUICK = {"epochs": 1, "learning_rate": 0.01, "cache": "memory", "batch_size": 16}
ROOT = Path(__file__).resolve().parents[2]
PARTS = ("regraft.json", "history.jsonl", "plan.json", "scores.json", "report.json", "report.html")


def _architecture() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3))


def _data(classes: str = "abc") -> tuple[np.ndarray, np.ndarray]:
    items = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    items[np.arange(60), np.arange(60) % len(classes)] += 3
    return items, np.array(list(classes))[np.arange(60) % len(classes)]


def _torch_results() -> tuple[Any, Any, Any]:
    net = regraft.load(_architecture(), inputs=(6,))
    old = regraft.adapt(net, _data(), strategy="head", **QUICK)
    new = regraft.adapt(net, _data("wxyz"), strategy="full", statistics=False, **QUICK)
    return old, new, _architecture


def _keras_results() -> tuple[Any, Any, Any]:
    from regraft.networks.keras.library import keras

    keras.utils.set_random_seed(0)
    layers = keras.layers
    model = keras.Sequential([keras.Input((6,)), layers.Dense(5, activation="relu"), layers.Dense(3)])
    old = regraft.adapt(model, _data(), strategy="head", **QUICK)
    return old, regraft.adapt(model, _data("wxyz"), strategy="full", statistics=False, **QUICK), None


FAMILIES: dict[str, Callable[[], tuple[Any, Any, Any]]] = {"torch": _torch_results, "keras": _keras_results}


_FORMS: dict[str, Any] = {}


@pytest.fixture(autouse=True)
def _exported_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks that are saved again and again are exported once: it takes longer than all the rest. They are opened with their class."""
    inner = exporting._exported_onnx
    monkeypatch.setattr(
        exporting, "_exported_onnx", lambda body: _FORMS.get(str(body.module)) or _FORMS.setdefault(str(body.module), inner(body))
    )


def _seen(folder: Path, architecture: Any) -> dict[str, Any]:
    """Return what a user sees of a saved result: by the library, and file by file."""
    net = regraft.load(folder, architecture=architecture)
    items = _data()[0][:4]
    texts = {name: (folder / name).read_bytes() for name in PARTS if (folder / name).exists()}
    if "regraft.json" in texts:  # an archive holds the time at which it was written, and so has another checksum
        described = json.loads(texts["regraft.json"])
        texts["regraft.json"] = json.dumps(described | {"files": sorted(described["files"])}).encode()
    learned = None if net.statistics is None else {name: values.tobytes() for name, values in net.statistics.items()}
    return {
        "scores": net.logits(items).tobytes(),
        "classes": net.classes,
        "history": net.history,
        "statistics": learned,
        "unknown": net.unknown is not None,
        "plan": None if "plan.json" not in texts else Plan.from_json(texts["plan.json"].decode()).strategy,
        "facts": None if "report.json" not in texts else read_facts(folder)["verdict"],
        "files": sorted(path.name for path in folder.iterdir() if not path.name.startswith(".regraft")),
        "texts": {name: text for name, text in texts.items() if name not in ("report.json", "report.html")},  # they hold the minute
    }


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("way", ["exchanged", "moved in"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.flock
def test_a_result_killed_at_any_moment(family: str, way: str, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Moment by moment, in both ways in which a folder is replaced; the user's own file and another run's checkpoint stay."""
    old, new, architecture = FAMILIES[family]()
    folder, seen, known = tmp_path / "work" / "out", [], {}
    if way == "moved in":
        monkeypatch.setattr(replacing, "_LIBRARY", None)
    for name, result in (("old", old), ("new", new)):
        result.save(tmp_path / name)
        known[name] = _seen(tmp_path / name, architecture)
        known[name]["files"] = sorted([*known[name]["files"], "notes.txt", "run"])
    assert "statistics.safetensors" in known["old"]["files"] and "statistics.safetensors" not in known["new"]["files"]
    monkeypatch.setattr(os, "fsync", lambda _handle: None)  # the moment counts, the disk need not be waited for

    def prepare() -> None:
        shutil.rmtree(tmp_path / "work", ignore_errors=True)
        shutil.copytree(tmp_path / "old", folder)
        (folder / "notes.txt").write_text("mine")
        (folder / "run").mkdir()
        (folder / "run" / "other.pt").write_text("of another run")

    step = every * (1 if way == "exchanged" and family == "torch" else 3)  # processes that are really killed, below, take every second
    for number in outcomes(prepare, lambda: new.save(folder), step=step):
        found = _seen(folder, architecture)
        assert found in (known["old"], known["new"]), number
        assert (folder / "notes.txt").read_text() == "mine" and (folder / "run" / "other.pt").read_text() == "of another run"
        seen.append(found == known["new"])
        if len(seen) % 7 == 0:
            new.save(folder)
            assert [path.name for path in folder.parent.iterdir()] == ["out"]
            assert sorted(path.name for path in folder.iterdir()) == known["new"]["files"]
    assert seen == sorted(seen) and not seen[0] and seen[-1] and len(seen) > {1: 20, 2: 8}[every]
    assert [path.name for path in folder.parent.iterdir()] == ["out"]  # the last one came to its end
    assert sorted(path.name for path in folder.iterdir()) == known["new"]["files"]


KILLED = """
import sys
from pathlib import Path
from tests.moments import limited_files, outcomes, watched
from tests.reliability import test_replacing as own
old, new, architecture = own.FAMILIES["torch"]()
root = Path(sys.argv[1])
for name, result in (("old", old), ("new", new)):
    result.save(root / name)
known = [own._seen(root / name, architecture) for name in ("old", "new")]
seen = []
for number in outcomes(lambda: old.save(root / "out"), lambda: new.save(root / "out"), forked=True, step=2):
    seen.append(known.index(own._seen(root / "out", architecture)))
assert seen == sorted(seen) and set(seen) == {0, 1}, seen
assert sorted(path.name for path in root.iterdir()) == ["new", "old", "out"]
print(len(seen), "moments")
"""


@pytest.mark.slow
def test_processes_that_are_really_killed(tmp_path: Path) -> None:
    """The same with `os._exit` in a process of its own, whose buffers are lost."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-c", KILLED, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert int(done.stdout.split()[0]) > 20


@pytest.mark.parametrize("family", FAMILIES)
def test_a_network_saved_where_another_was_has_nothing_of_it(family: str, tmp_path: Path) -> None:
    """Not its class statistics, history, rule for unknown items, codes, plan, scores or report."""
    old, new, architecture = FAMILIES[family]()
    folder = old.save(tmp_path / "out")
    assert regraft.load(folder, architecture=architecture).statistics is not None
    (folder / "notes.txt").write_text("mine")
    plain = regraft.retarget(regraft.load(_architecture(), inputs=(6,)) if family == "torch" else new.network, ["p", "q"])
    plain.history, plain.statistics, plain.unknown = (), None, None
    plain.save(folder)
    net = regraft.load(folder, architecture=architecture)
    assert net.classes == ("p", "q") and not net.history and net.statistics is None and net.unknown is None
    weights = {"network.keras"} if family == "keras" else {"network.safetensors"}
    assert {path.name for path in folder.iterdir()} - {"network.pt2", "network.onnx"} == {"regraft.json", "notes.txt", *weights}


def test_a_run_that_replaces_a_result_leaves_no_checkpoints(tmp_path: Path) -> None:
    net, folder = regraft.load(_architecture(), inputs=(6,)), tmp_path / "out"
    regraft.adapt(net, _data(), strategy="full", out=folder, **QUICK)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(SettingError, match="already holds a finished network"):
        regraft.adapt(net, _data("xyz"), strategy="full", out=folder, **QUICK)
    again = regraft.adapt(net, _data("xyz"), strategy="full", out=folder, resume=False, **QUICK)
    assert regraft.load(folder, architecture=_architecture).classes == again.network.classes == ("x", "y", "z")
    names = {path.name for path in folder.iterdir()}
    assert not names & {"run", ".regraft.lock"} and "notes.txt" in names and [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_killed_run_that_replaces_a_result_keeps_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, folder = regraft.load(_architecture(), inputs=(6,)), tmp_path / "out"
    regraft.adapt(net, _data(), strategy="full", out=folder, **QUICK)
    before = _seen(folder, _architecture)
    own = sys.modules["regraft.planning.carry_out"]  # of the same name as the function
    monkeypatch.setattr(own, "save_result", lambda *_given, **_named: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        regraft.adapt(net, _data("xyz"), strategy="full", out=folder, resume=False, **QUICK)
    after = _seen(folder, _architecture)
    assert after == before | {"files": sorted([*before["files"], "run"])}


def test_what_a_killed_process_left_beside_a_folder_goes_when_it_is_opened(tmp_path: Path) -> None:
    net = regraft.load(_architecture(), inputs=(6,), classes=["a", "b", "c"])
    folder, left = net.save(tmp_path / "out"), tmp_path / ".out.regraft.partial"
    for content in ("old", "half of the new"):
        left.mkdir()
        (left / "regraft.json").write_text(content)
        regraft.load(folder, architecture=_architecture)
        assert [path.name for path in tmp_path.iterdir()] == ["out"]
    left.mkdir()
    other = threading.Thread(target=lambda: regraft.load(folder, architecture=_architecture))
    with held_folder(folder):  # as one that is replaced just now
        other.start()
        other.join()
        assert left.is_dir()


@pytest.mark.flock
def test_the_lock_of_a_process_that_was_killed_at_the_very_end_goes_when_its_folder_is_opened(tmp_path: Path) -> None:
    net = regraft.load(_architecture(), inputs=(6,), classes=["a", "b", "c"])
    folder = net.save(tmp_path / "out")
    (folder / LOCK_FILE).touch()
    with held_folder(folder):  # by one that lives
        _in_another_thread(lambda: regraft.load(folder, architecture=_architecture))
        assert (folder / LOCK_FILE).exists()
    (folder / LOCK_FILE).touch()
    regraft.load(folder, architecture=_architecture)
    assert not (folder / LOCK_FILE).exists() and (folder / "regraft.json").exists()


@contextmanager
def _read_only(folder: Path) -> Iterator[Path]:
    """Let nothing be written into a folder or beside it: by its rights or, where they stop nobody, as a copy on another file system."""
    if os.geteuid() == 0:
        with _mounted(folder.with_name("disk"), size="8m") as disk:
            shutil.copytree(folder.parent, disk / "all", ignore=lambda _place, names: set(names) & {"disk"})
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
            yield disk / "all" / folder.name
        return
    try:
        for place in (folder, folder.parent):
            place.chmod(0o500)
        yield folder
    finally:
        for place in (folder.parent, folder):
            place.chmod(0o700)


@pytest.mark.flock
def test_what_a_killed_process_left_in_a_read_only_folder_stops_nobody(tmp_path: Path) -> None:
    net = regraft.load(_architecture(), inputs=(6,), classes=["a", "b", "c"])
    folder = net.save(tmp_path / "out")
    (folder / LOCK_FILE).touch()
    (tmp_path / ".out.regraft.partial").mkdir()
    with _read_only(folder) as place, warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(regraft.load(place, architecture=_architecture).logits(_data()[0]), net.logits(_data()[0]))
        assert (place / LOCK_FILE).exists() and place.with_name(".out.regraft.partial").exists()
    (folder / replacing.COMMITTED).mkdir()
    with _read_only(folder) as place, pytest.raises(NetworkError, match=f"{place}.*cannot be (written|put in order).*"):
        regraft.load(place, architecture=_architecture)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_replaced_while_it_is_opened_is_opened_as_the_new_one(family: str, tmp_path: Path) -> None:
    """At whichever file it is: what has been read of the old one is read again."""
    old, new, architecture = FAMILIES[family]()
    folder = tmp_path / "out"
    known = []
    for result in (old, new):
        result.network.save(folder)
        known.append(_seen(folder, architecture))
    new_one, seen = tmp_path / "new", []
    new.network.save(new_one)
    for number in range(1, 200):
        shutil.rmtree(folder)
        old.network.save(folder)
        moments = iter(range(number))

        def swapped(moments: Iterator[int] = moments, last: int = number - 1) -> None:
            if next(moments, None) == last:
                with replacing.replaced_folder(folder, _FOLDER) as staged:
                    shutil.copytree(new_one, staged, dirs_exist_ok=True)

        with warnings.catch_warnings(), watched(swapped):
            warnings.simplefilter("ignore")  # of what was not there, for a moment
            net = regraft.load(folder, architecture=architecture)
        if next(moments, None) is not None:
            break
        found = [net.classes, net.history, net.logits(_data()[0][:4]).tobytes(), net.statistics is None]
        one = known[1]
        seen.append(found == [one["classes"], one["history"], one["scores"], one["statistics"] is None])
        if not seen[-1]:
            one = known[0]
            assert found == [one["classes"], one["history"], one["scores"], one["statistics"] is None], number
    assert len(seen) > 5 and sum(seen) > 3


# ── two at a time ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

HOLDING = """
import sys, time
import torch, regraft
from regraft.training import loop
from tests.reliability import test_replacing as own
inner = loop._fit_step
def slow(*given, **named):
    print("training", flush=True)
    time.sleep(60)
    return inner(*given, **named)
loop._fit_step = slow
net = regraft.load(own._architecture(), inputs=(6,))
regraft.adapt(net, own._data(), strategy="full", out=sys.argv[1], **own.QUICK)
"""


@pytest.mark.flock
def test_a_second_process_is_told_in_one_line(tmp_path: Path) -> None:
    folder, environment = tmp_path / "out", {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    first = subprocess.Popen([sys.executable, "-c", HOLDING, str(folder)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    net = regraft.load(_architecture(), inputs=(6,))
    try:
        assert first.stdout is not None and "training" in first.stdout.readline()
        for again in (
            lambda: regraft.adapt(net, _data(), strategy="full", out=folder, **QUICK),
            lambda: regraft.adapt(net, _data(), strategy="full", out=folder, resume=False, **QUICK),
            lambda: net.save(folder),
        ):
            with pytest.raises(InputError, match=r"^Another process is writing into the folder '.*out'\. Wait .*\.$"):
                again()
    finally:
        first.kill()
        first.communicate()
    regraft.adapt(net, _data(), strategy="full", out=folder, **QUICK)  # a killed one locks nobody out
    assert not (folder / ".regraft.lock").exists() and not (folder / "run").exists()


def test_the_command_extend_holds_its_folder(tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from regraft.cli import app

    net = regraft.load(_architecture(), inputs=(6,), classes=list("abc"))
    net.save(tmp_path / "net")
    items, _ = _data()
    rows = [",".join(map(str, row)) + ",new" for row in items[:8]]
    (tmp_path / "data.csv").write_text("a,b,c,d,e,f,label\n" + "\n".join(rows) + "\n")
    given = ["extend", str(tmp_path / "net"), str(tmp_path / "data.csv"), "--out", str(tmp_path / "out"), "--quiet"]
    given += ["--architecture", "tests.reliability.test_replacing:_architecture"]
    with held_folder(tmp_path / "out"):
        told = _in_another_thread(lambda: CliRunner().invoke(app, given))
    assert told.exit_code == 2 and "Another process is writing into the folder" in told.output
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    assert {"regraft.json", "scores.json", "report.json"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert not (tmp_path / "out" / ".regraft.lock").exists() and sorted(p.name for p in tmp_path.iterdir()) == ["data.csv", "net", "out"]


def _in_another_thread(action: Callable[[], Any]) -> Any:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        return pool.submit(action).result()


# ── a full disk, a folder that cannot be written ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("every", [2, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_room_at_any_moment_is_one_error_and_the_old_result(
    family: str, every: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each call in turn that opens a file for writing, flushes, renames or makes something finds no room; all later ones do."""
    old, new, architecture = FAMILIES[family]()
    folder = old.save(tmp_path / "out")
    before, left = _seen(folder, architecture), 0

    def failing(inner: Any, writes: Callable[..., bool] = lambda *_given, **_named: True) -> Any:
        def call(*given: Any, **named: Any) -> Any:
            nonlocal left
            if writes(*given, **named):
                left -= 1
                if left == 0:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return inner(*given, **named)

        return call

    calls = {"fsync": None, "replace": None, "rename": None, "mkdir": None, "link": None, "ftruncate": None}
    for name in calls:
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    monkeypatch.setattr(os, "open", failing(os.open, lambda _path, flags, *_mode, **_named: bool(flags & os.O_CREAT)))
    failed = 0
    for number in range(1, 400, every):
        left = number
        try:
            new.save(folder)
            if left > 0:
                break
        except NetworkError as error:
            failed += 1
            assert str(folder) in str(error) and "No space left on device" in str(error), number
            left = 0
            assert _seen(folder, architecture) == before, number
            assert [path.name for path in tmp_path.iterdir()] == ["out"], number
            continue
        left = 0  # it went on another way: without an exchange, or without a flush of names
        old.save(folder)
        assert _seen(folder, architecture)["classes"] == before["classes"]
        before = _seen(folder, architecture)
    assert failed > 10 // every


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("room", [pytest.param(0, marks=pytest.mark.slow), 200, pytest.param(1500, marks=pytest.mark.slow)])
def test_files_that_cannot_grow(family: str, room: int, tmp_path: Path) -> None:
    """Weights are written by libraries of their own: the system stops them at so many bytes a file."""
    old, new, architecture = FAMILIES[family]()
    folder = old.save(tmp_path / "out")
    before = _seen(folder, architecture)
    with limited_files(room):
        with pytest.raises(NetworkError, match=r"(?s)cannot be written.*(File too large|file too large|I/O error)"):
            new.save(folder)
        with pytest.raises(SettingError, match=r"cannot be written.*"):
            regraft.adapt(regraft.load(_architecture(), inputs=(6,)), _data(), strategy="probe", out=tmp_path / "new", **QUICK)
        with pytest.raises(SettingError, match=r"cannot be written.*"):
            regraft.adapt(regraft.load(_architecture(), inputs=(6,)), _data(), strategy="full", out=tmp_path / "new", **QUICK)
        for ending in ("onnx", "pt2" if family == "torch" else "keras"):
            with pytest.raises(NetworkError, match=r"cannot be written.*"):
                old.network.export(tmp_path / f"network.{ending}")
    with pytest.raises(NetworkError, match=r"is not there.*Make it first"):
        old.network.export(tmp_path / "nowhere" / "network.onnx")
    assert _seen(folder, architecture) == before and [path.name for path in tmp_path.iterdir()] == ["out"]


@contextmanager
def _mounted(folder: Path, *, size: str) -> Iterator[Path]:
    """Let a folder be a file system of its own, where one can be mounted."""
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("no file system can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=False)


def test_a_disk_that_is_full_in_earnest(tmp_path: Path) -> None:
    """A file system of 2 MiB, where one can be mounted."""
    old, new, _ = _torch_results()
    with _mounted(tmp_path / "disk", size="2m") as disk:
        folder = disk / "out"
        old.save(folder)
        before = _seen(folder, _architecture)
        with pytest.raises(OSError, match="No space left"), (disk / "filler").open("wb", buffering=0) as filler:
            for _ in range(2**20):
                filler.write(bytes(1024))
        with pytest.raises(NetworkError, match=r"out'.*(No space left on device|No space left|os error 28)"):
            new.save(folder)
        assert _seen(folder, _architecture) == before and sorted(os.listdir(disk)) == ["filler", "out"]
        (disk / "filler").unlink()
        new.save(folder)
        assert regraft.load(folder, architecture=_architecture).classes == tuple("wxyz")


def test_a_mount_point_is_replaced_in_place(tmp_path: Path) -> None:
    old, new, _ = _torch_results()
    with _mounted(tmp_path / "disk", size="8m") as folder:
        old.save(folder)
        (folder / "notes.txt").write_text("mine")
        new.save(folder)
        assert regraft.load(folder, architecture=_architecture).classes == tuple("wxyz")
        assert (folder / "notes.txt").read_text() == "mine" and not list(folder.glob(".regraft*"))
        assert [path.name for path in tmp_path.iterdir()] == ["disk"]


# ── going on ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


CHANGED: list[dict[str, Any]] = [{"cache": None}, {"cache": "elsewhere"}, {"device": "cpu"}, {"baselines": True}, {"statistics": False}]


@pytest.mark.parametrize("changed", CHANGED)
def test_a_killed_run_goes_on_with_what_does_not_change_it(
    changed: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {"strategy": "full", "epochs": 4, "learning_rate": 0.01, "batch_size": 16, "cache": "memory", "refit": False}
    net = regraft.load(_architecture(), inputs=(6,))
    whole = regraft.adapt(net, _data(), **given)
    inner = Checkpoint.write

    def dying(self: Any, content: dict[str, Any]) -> None:
        inner(self, content)
        if self.path.stem == "full" and content["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "write", dying)
    with pytest.raises(KeyboardInterrupt):
        regraft.adapt(net, _data(), out=tmp_path / "out", **given)
    monkeypatch.setattr(Checkpoint, "write", inner)
    with pytest.raises(SettingError, match="another plan"):
        regraft.adapt(net, _data(), out=tmp_path / "out", **(given | {"learning_rate": 0.02}))
    told: list[str] = []
    monkeypatch.setattr("regraft.training.loop.say", lambda line, **_: told.append(line))
    resumed = regraft.adapt(net, _data(), out=tmp_path / "out", **(given | changed))
    assert examples.bit_equal(whole.network.state(), resumed.network.state())
    assert [entry["train_loss"] for entry in resumed.history] == [entry["train_loss"] for entry in whole.history]
    assert not any(line.startswith("full epoch 1:") for line in told) and any(line.startswith("full epoch 3:") for line in told)
    assert json.loads((tmp_path / "out" / "plan.json").read_text())["settings"]["cache"] == (given | changed)["cache"]
