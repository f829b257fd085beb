"""What is read from and written to addresses: a local S3 server where there is one, and memory; nothing half-written looks whole."""

from __future__ import annotations

import io
import logging
import re
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import regraft
from regraft.cli import app
from regraft.errors import DataError, NetworkError, SettingError, UnsafeFileError
from regraft.files import remote
from regraft.files.locks import held_folder

MARK = "regraft.json"


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    server = pytest.importorskip("moto.server", reason="moto, a local S3 server, is not installed")
    s3fs = pytest.importorskip("s3fs")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    running = server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    running.start()
    host, port = running.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "test")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        s3fs.S3FileSystem.clear_instance_cache()
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"
        s3fs.S3FileSystem.clear_instance_cache()
    running.stop()


@pytest.fixture(params=["memory", "file", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An address under which nothing lies."""
    if request.param == "s3":
        base, system = request.getfixturevalue("s3"), fsspec.filesystem("s3")
        yield f"{base}/{tmp_path.name}"
        system.invalidate_cache()
        if system.exists(f"bucket/{tmp_path.name}"):
            system.rm(f"bucket/{tmp_path.name}", recursive=True)
    elif request.param == "file":
        yield f"file://{tmp_path}/there"
    else:
        memory: Any = fsspec.filesystem("memory")
        yield "memory://there"
        memory.store.clear()
        memory.pseudo_dirs[:] = [""]


def _names(url: str) -> list[str]:
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return sorted(name[len(root.rstrip("/")) + 1 :] for name in system.find(root))


ROWS = np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32)
LABELS = np.where(ROWS.mean(1) > 0, "a", "b")


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a network of dense layers, which can be saved and opened in no time."""
    torch.manual_seed(0)
    module = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3))
    plain = {"kind": "array", "shape": [4]}
    made = regraft.load(module, classes=["x", "y", "z"], inputs=(4,), preprocessing=plain)
    return regraft.load(made.export(tmp_path_factory.mktemp("made") / "net.pmml"))


def test_a_second_writer_to_an_address_is_refused_and_a_killed_one_holds_nothing(
    place: str, net: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, given = f"{place}/run", {"strategy": "probe", "cache": None, "resume": False}
    with pytest.raises(SettingError, match=r"did not renew its lock .* What was made is kept in"), remote.at_hand(url) as copy:
        assert _names(url) == [".regraft.lock"] and list(copy.iterdir()) == []
        with pytest.raises(SettingError, match=r"Another process writes to '.*/run' \(.*process \d+\)\. Wait until it has ended"):
            regraft.adapt(net, (ROWS, LABELS), out=url, **given)
        monkeypatch.setattr(remote, "_FREE", -1.0)  # as if the lock had not been renewed for a long time
        regraft.adapt(net, (ROWS, LABELS), out=url, **given)
        (copy / "late").write_text("of the first one")
    assert MARK in _names(url) and not {"late", ".regraft.lock"} & set(_names(url))
    shutil.rmtree(copy.parent)


def test_two_that_begin_at_the_same_moment_leave_each_other_alone(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url, (first, second) = f"{place}/run", (remote._Lock(f"{place}/run") for _ in range(2))
    system = fsspec.core.url_to_fs(url)[0]

    def meanwhile(path: str, **_given: Any) -> bool:
        monkeypatch.undo()
        second.take_()
        return bool(system.exists(path))

    monkeypatch.setattr(system, "exists", meanwhile)
    with pytest.raises(SettingError, match=r"Another process writes to"):
        first.take_()
    assert _names(url) == [".regraft.lock"]
    second.release_()
    assert _names(url) == []


def _array(item: Any) -> np.ndarray:
    with Image.open(item) if isinstance(item, Path) else nullcontext(item) as content:
        return np.asarray(content)


def _pictures() -> dict[str, bytes]:
    made = {}
    for at in range(12):
        file = io.BytesIO()
        pixels = np.random.default_rng(at).integers(0, 120, (3, 3, 3)).astype(np.uint8) + np.uint8(100 * (at % 2))
        Image.fromarray(pixels).save(file, "PNG")
        made[f"{('dark', 'light')[at % 2]}/{at}.png"] = file.getvalue()
    return made


def _folder(put: Callable[[str, bytes], None]) -> dict[str, Any]:
    for name, content in _pictures().items():
        put(f"data/{name}", content)
    return {}


def _table(put: Callable[[str, bytes], None]) -> dict[str, Any]:
    rows = [f"{(at % 2) * 3 + at / 10},{at},{'ab'[at % 2]}" for at in range(12)]
    put("data", "\n".join(["one,two,label", *rows]).encode())
    return {"target": "label", "kind": "array"}


def _tar(put: Callable[[str, bytes], None]) -> dict[str, Any]:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, value in _pictures().items():
            stem = name.replace("/", "-").removesuffix(".png")
            for ending, part in ((".png", value), (".cls", name.partition("/")[0].encode())):
                member = tarfile.TarInfo(stem + ending)
                member.size = len(part)
                archive.addfile(member, io.BytesIO(part))
    put("data", content.getvalue())
    return {}


def _parquet(put: Callable[[str, bytes], None]) -> dict[str, Any]:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures = _pictures()
    columns = {"image": [{"bytes": content, "path": name} for name, content in pictures.items()]}
    content = io.BytesIO()
    parquet.write_table(arrow.table(columns | {"label": [name.partition("/")[0] for name in pictures]}), content, row_group_size=5)
    put("data", content.getvalue())
    return {}


@pytest.mark.parametrize(("make", "ending"), [(_folder, ""), (_table, ".csv"), (_tar, ".tar"), (_parquet, ".parquet")])
def test_data_on_a_server_are_read_as_those_here(s3: str, make: Any, ending: str, tmp_path: Path) -> None:
    system = fsspec.filesystem("s3")

    def put(name: str, content: bytes) -> None:
        name = name if "/" in name else name + ending
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        system.pipe_file(f"bucket/{tmp_path.name}/{name}", content)

    given = make(put)
    here, there = (regraft.read(f"{base}/data{ending}", **given) for base in (str(tmp_path), f"{s3}/{tmp_path.name}"))
    assert (len(there), there.classes, there.kind) == (12, here.classes, here.kind)
    contents = [
        sorted((_array(item).tobytes(), int(label)) for item, label in zip(one.items, one.targets, strict=True)) for one in (here, there)
    ]
    assert contents[0] == contents[1]


@pytest.mark.parametrize(("make", "ending"), [(_folder, ""), (_table, ".csv"), (_tar, ".tar"), (_parquet, ".parquet")])
def test_predict_takes_what_adapt_takes_here_and_on_a_server(s3: str, make: Any, ending: str, tmp_path: Path) -> None:
    def put(name: str, content: bytes) -> None:
        name = name if "/" in name else name + ending
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
        fsspec.filesystem("s3").pipe_file(f"bucket/{tmp_path.name}/{name}", content)

    given, torch_net = make(put), torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(2 if make is _table else 27, 2))
    own = {"kind": "array", "shape": [2]} if make is _table else {"kind": "image", "height": 3, "width": 3}
    net = regraft.load(torch_net, inputs=(2,) if make is _table else (3, 3, 3), classes=["a", "b"], preprocessing=own)
    saved = net.save(tmp_path / "net")
    expected = net.predict(list(regraft.read(f"{tmp_path}/data{ending}", **given).items)).probabilities
    for where in (str(tmp_path), f"{s3}/{tmp_path.name}"):
        source = f"{where}/data{ending}"
        assert np.array_equal(regraft.predict(net, source, engine="eager").probabilities, expected), source
        done = CliRunner().invoke(app, ["predict", str(saved), source])
        assert done.exit_code == 0 and len(done.stdout.splitlines()) == 13, done.output
    done = CliRunner().invoke(app, ["predict", str(saved), source, source])
    assert done.exit_code == 2 and "expected one address alone" in " ".join(done.output.split()), done.output


@pytest.mark.slow
def test_the_examples_of_the_docs_run(s3: str) -> None:
    keras, system = pytest.importorskip("keras"), fsspec.filesystem("s3")
    keras.utils.set_random_seed(0)
    layers = [keras.Input((3, 3, 3)), keras.layers.Conv2D(4, 2), keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)]
    for name, content in _pictures().items():
        system.pipe_file(f"bucket/photos/{name}", content)
    _tar(lambda _name, content: system.pipe_file("bucket/train-000.tar", content))
    page = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    known: dict[str, Any] = {
        "regraft": regraft,
        "net": regraft.load(keras.Sequential(layers), preprocessing={"kind": "image", "height": 3, "width": 3}),
    }
    for example in re.findall(r"```py\n(.+?)```", page, flags=re.DOTALL):
        exec(example, known)
    assert known["data"].classes == ("dark", "light") and known["result"].scores["holdout"]["examples"] == 2
    assert regraft.load("s3://bucket/run").classes == ("dark", "light") and _names("s3://bucket/features")


@pytest.mark.parametrize(("strategy", "place"), [("head", "memory"), ("head", "s3"), ("full", "file")], indirect=["place"])
def test_a_result_goes_to_an_address_opens_from_there_and_is_returned_again(net: Any, strategy: str, place: str) -> None:
    given: dict[str, Any] = {"strategy": strategy, "epochs": 2, "cache": None, "out": f"{place}/run"}
    result = regraft.adapt(net, (ROWS, LABELS), **given)
    assert {MARK, "plan.json", "network.safetensors"} <= set(_names(f"{place}/run"))
    assert not [name for name in _names(place) if "run/run" in name or ".regraft" in name]
    opened = regraft.load(f"{place}/run")
    assert np.array_equal(opened.logits(ROWS), result.network.logits(ROWS))
    again = regraft.adapt(net, (ROWS, LABELS), **given)
    assert again.scores == result.scores
    with pytest.raises(SettingError, match=rf"{place}/run' already holds a finished network"):
        regraft.adapt(net, (ROWS, LABELS), **given | {"epochs": 3})
    regraft.adapt(net, (ROWS, LABELS), **given | {"epochs": 3, "resume": False})
    assert len(regraft.load(f"{place}/run").history) > len(opened.history)


def test_a_run_that_was_stopped_goes_on_from_the_checkpoint_at_the_address(net: Any, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {"strategy": "full", "epochs": 3, "patience": None, "cache": None}
    plain = regraft.adapt(net, (ROWS, LABELS), **given)
    at_the_time: list[list[str]] = []

    def stop(_epoch: int, _logs: Any) -> None:
        at_the_time.append(_names(f"{place}/run"))
        if len(at_the_time) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        regraft.adapt(net, (ROWS, LABELS), **given, callbacks=[stop], out=f"{place}/run")
    assert any("run/" in name for name in at_the_time[-1])  # sent while the training went on
    assert MARK not in _names(f"{place}/run")
    result = regraft.adapt(net, (ROWS, LABELS), **given, callbacks=[lambda *_given: at_the_time.append([])], out=f"{place}/run")
    assert len(at_the_time) < 5 + len(plain.history)  # not from the start
    assert result.history[-1]["train_loss"] == plain.history[-1]["train_loss"]


@pytest.mark.parametrize("older", [False, True])
def test_what_is_half_there_never_looks_whole(net: Any, older: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The sending ends after any number of files: then there is no network at the address, and the whole one is kept here."""
    memory: Any = fsspec.filesystem("memory")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))  # copies that could not be uploaded are kept
    given: dict[str, Any] = {"strategy": "probe", "cache": None, "out": "memory://half", "resume": False}
    result, inner, sent, most = regraft.adapt(net, (ROWS, LABELS), **given | {"out": None}), type(memory).put_file, list[str](), 0

    def put(self: Any, here: str, there: str, **how: Any) -> None:
        if "probe" not in there:
            if len(sent) == most:
                raise PermissionError("no more room")
            sent.append(there)
        inner(self, here, there, **how)

    def save() -> None:
        with held_folder("memory://half") as folder:
            result.save(folder)

    if older:
        save()
    monkeypatch.setattr(type(memory), "put_file", put)
    for most in range(20):  # noqa: B007  # `put` reads it
        sent.clear()
        try:
            save()
        except SettingError as error:
            assert "cannot be written: no more room" in str(error)
            kept = Path(str(error).rpartition("is kept in '")[2].partition("'")[0])
            assert regraft.load(kept).classes == ("a", "b")
            with pytest.raises((NetworkError, DataError)):
                regraft.load("memory://half")
        else:
            break
    assert 4 < most < 15 and sent[-1].endswith(MARK) and regraft.load("memory://half").classes == ("a", "b")
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


@pytest.mark.parametrize(("engine", "place"), [("eager", "memory"), ("onnxruntime", "file"), ("eager", "s3")], indirect=["place"])
def test_a_cache_at_an_address_serves_others(net: Any, engine: str, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for machine in ("one", "two", "two"):
        monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / machine))
        result = regraft.adapt(net, (ROWS, LABELS), strategy="head", epochs=1, cache=f"{place}/features", engine=engine)
        found.append(result.cost["frozen_forward_examples"])
        assert len([name for name in _names(f"{place}/features") if name.endswith("manifest.json")]) == 1
    assert found[0] == 40 and found[1] == found[2] < 20  # those that it is checked with


def test_a_damaged_cache_at_an_address_is_computed_again(net: Any, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = []
    for machine in ("one", "two"):
        monkeypatch.setenv("REGRAFT_CACHE", str(tmp_path / machine))
        scores.append(regraft.adapt(net, (ROWS, LABELS), strategy="head", epochs=1, cache=place, engine="eager"))
        system, root = fsspec.core.url_to_fs(place)
        path = next(name for name in system.find(root) if name.endswith("live0.npy"))
        content = bytearray(system.cat_file(path))
        content[-5] ^= 255
        system.pipe_file(path, bytes(content))
    assert scores[1].cost["frozen_forward_examples"] >= 40
    assert scores[0].scores == scores[1].scores


@pytest.mark.parametrize("place", ["memory"], indirect=True)
def test_search_profile_and_extend_write_to_addresses(net: Any, place: str) -> None:
    given: dict[str, Any] = {"space": {"strategy": ["probe", "head"]}, "sampler": "grid", "pruner": None, "epochs": 1, "cache": "memory"}
    first = regraft.search(net, (ROWS, LABELS), trials=1, out=f"{place}/study", **given)
    both = regraft.search(net, (ROWS, LABELS), trials=2, out=f"{place}/study", **given)
    assert both.trials[:1] == first.trials and len(both.trials) == 2 and both.folder is None
    assert "best/" + MARK in _names(f"{place}/study")
    regraft.profile(net, (ROWS, LABELS), out=f"{place}/look", cache="memory")
    assert "profile.json" in _names(f"{place}/look")
    adapted = regraft.adapt(net, (ROWS, LABELS), strategy="probe", cache="memory").network
    regraft.extend(adapted, (ROWS[:10] + 3, ["c"] * 10), out=f"{place}/wider")
    assert regraft.load(f"{place}/wider").classes == ("a", "b", "c")


def test_commands_write_to_and_open_addresses(net: Any, place: str, tmp_path: Path) -> None:
    if place.startswith("memory"):
        pytest.skip("a command has a memory of its own")
    net.save(tmp_path / "net")
    np.savez(tmp_path / "data.npz", X=ROWS, y=LABELS)
    words = ["adapt", tmp_path / "net", tmp_path / "data.npz", "--strategy", "probe", "--out", f"{place}/run/"]
    done = CliRunner().invoke(app, [*map(str, words), "--cache", f"{place}/kept"])
    assert done.exit_code == 0, done.output
    assert f"Report: {place}/run/report.html" in done.output and f"regraft predict {place}/run" in done.output
    assert MARK in _names(f"{place}/run") and any(name.endswith("manifest.json") for name in _names(f"{place}/kept"))
    done = CliRunner().invoke(app, ["evaluate", f"{place}/run", f"{tmp_path}/data.npz"])
    assert done.exit_code == 0 and "accuracy" in done.output


def test_what_is_wrong_with_an_address_that_is_written_is_said(net: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory: Any = fsspec.filesystem("memory")
    with pytest.raises(SettingError, match=r"an address is not taken here"), held_folder(Path("s3://bucket/run")):
        pass
    with pytest.raises(NetworkError, match="an address is not taken here"):
        net.save("s3://bucket/run")
    (tmp_path / "file").touch()
    began: list[Any] = []
    with pytest.raises(DataError, match="cannot be written"):
        regraft.adapt(net, (ROWS, LABELS), strategy="head", epochs=1, callbacks=[began.append], out=f"file://{tmp_path}/file/run")
    assert not began
    memory.pipe_file("/bad/../../out.txt", b"x")
    monkeypatch.setattr(type(memory), "find", lambda self, root, **given: [f"{root}/../../out.txt"])
    with pytest.raises(UnsafeFileError, match="outside of its folder"), remote.fetched("memory://bad"):
        pass
    memory.store.clear()
