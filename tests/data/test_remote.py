"""Data that lie elsewhere, by addresses: the same as from a folder here, fetched piece by piece; and pictures in archives and tables."""

from __future__ import annotations

import io
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

import regraft
from regraft.errors import DataError, MissingExtraError, SettingError, UnsafeFileError
from regraft.files import remote


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


def _encoded(shade: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.full((5, 4, 3), shade, np.uint8)).save(file, "PNG")
    return file.getvalue()


PICTURES = {f"{('cat', 'dog')[at % 2]}/{at}.png": _encoded(20 * at) for at in (1, 2, 3, 10, 11)}


def _shades(data: Any) -> list[tuple[int, str]]:
    return [(int(np.asarray(item)[0, 0, 0]), data.classes[label]) for item, label in zip(data.items, data.targets, strict=True)]


WANTED = sorted((20 * at, ("cat", "dog")[at % 2]) for at in (1, 2, 3, 10, 11))


def _tar(files: dict[str, bytes], mode: str = "w") -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode=mode) as archive:  # type: ignore[call-overload]
        for name, value in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(value)
            archive.addfile(member, io.BytesIO(value))
    return content.getvalue()


@pytest.mark.parametrize("protocol", ["memory", "file"])
def test_a_folder_elsewhere_is_read_like_one_here_and_fetched_picture_by_picture(
    protocol: str, memory: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"file://{tmp_path}/photos" if protocol == "file" else "memory://photos"
    for name, content in {**PICTURES, "cat/.hidden.png": b"", "readme.txt": b"x"}.items():
        with fsspec.open(f"{url}/{name}", "wb", auto_mkdir=True) as file:
            file.write(content)
    fetched: list[str] = []
    inner = remote.stream_of
    monkeypatch.setattr("regraft.data.readers.streams.stream_of", lambda source, kind: fetched.append(source) or inner(source, kind))
    data = regraft.read(url)
    assert len(data) == 5 and len(set(fetched)) <= 1 and data.kind == "image"
    assert sorted(_shades(data)) == WANTED
    assert len(set(fetched)) == 5
    labelled = regraft.read(url, target=["a", "b", "a", "b", "a"])  # in natural order
    assert [label for _, label in _shades(labelled)] == ["a", "b", "a", "b", "a"]
    assert [shade for shade, _ in _shades(labelled)] == [40, 200, 20, 60, 220]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
@pytest.mark.parametrize("form", ["labels", "folders"])
def test_a_webdataset_is_read_where_it_lies(form: str, where: str, memory: Any, tmp_path: Path) -> None:
    files = PICTURES
    if form == "labels":
        files = {
            name: value
            for at, (path, content) in enumerate(PICTURES.items())
            for name, value in ((f"{at:03}.png", content), (f"{at:03}.cls", path.partition("/")[0].encode()), (f"{at:03}.json", b"{}"))
        }
    source = str(tmp_path / "one.tar") if where == "here" else "memory://one.tar"
    with fsspec.open(source, "wb") as file:
        file.write(_tar(files))
    data = regraft.read(source)
    assert sorted(_shades(data)) == WANTED


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_pictures_in_a_parquet_file_are_read_by_row_group(where: str, memory: Any, tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pictures = [{"bytes": content, "path": name} for name, content in PICTURES.items()]
    labels = [("cat", "dog").index(name.partition("/")[0]) for name in PICTURES]
    facts = '{"info": {"features": {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}}}'
    table = arrow.table({"image": pictures, "label": labels}).replace_schema_metadata({"huggingface": facts})
    source = str(tmp_path / "one.parquet") if where == "here" else "memory://one.parquet"
    content = io.BytesIO()
    parquet.write_table(table, content, row_group_size=2)
    with fsspec.open(source, "wb") as file:
        file.write(content.getvalue())
    data = regraft.read(source)
    assert sorted(_shades(data)) == WANTED
    with pytest.raises(DataError, match=r"columns 'label' beside its pictures, and no label; did you mean 'label'"):
        regraft.read(source, target="lable")


@pytest.mark.parametrize("name", ["table.csv", "table.parquet", "arrays.npz", "items.npy"])
def test_tables_and_arrays_elsewhere_are_read_as_here(name: str, memory: Any, tmp_path: Path) -> None:
    X, y = np.arange(12, dtype=np.float32).reshape(6, 2), np.array(["a", "b"] * 3)
    given: dict[str, Any] = {}
    if name == "arrays.npz":
        np.savez(tmp_path / name, X=X, y=y)
    elif name == "items.npy":
        np.save(tmp_path / name, X)
        given = {"target": y}
    else:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame({"one": X[:, 0], "two": X[:, 1], "label": y})
        frame.to_csv(tmp_path / name, index=False) if name.endswith("csv") else frame.to_parquet(tmp_path / name)
        given = {"target": "label", "kind": "array"}
    memory.put_file(str(tmp_path / name), f"/{name}")
    here, there = regraft.read(tmp_path / name, **given), regraft.read(f"memory://{name}", **given)
    assert there.classes == here.classes == ("a", "b")
    assert np.array_equal(np.asarray(there.items[2]), np.asarray(here.items[2]))


def test_a_run_on_pictures_elsewhere_is_that_on_those_here(memory: Any, tmp_path: Path) -> None:
    import torch

    generator = np.random.default_rng(0)
    for at in range(24):
        pixels = generator.integers(0, 120, (8, 8, 3)).astype(np.uint8) + np.uint8(100 * (at % 2))
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        path = tmp_path / ("dark", "light")[at % 2] / f"{at}.png"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(file.getvalue())
        memory.pipe_file(f"/run/{path.parent.name}/{path.name}", file.getvalue())
    torch.manual_seed(0)
    net = regraft.load(
        torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6), torch.nn.ReLU(), torch.nn.Linear(6, 3)), inputs=(3, 8, 8)
    )
    here, there = (regraft.adapt(net, source, strategy="probe", cache="memory") for source in (tmp_path, "memory://run"))
    assert here.scores["holdout"]["accuracy"] == there.scores["holdout"]["accuracy"]
    assert here.scores["holdout"]["log_loss"] == pytest.approx(there.scores["holdout"]["log_loss"], abs=1e-6)


class _Lake(fsspec.get_filesystem_class("memory")):  # type: ignore[misc]  # made by a function
    """A file system of somebody else."""

    protocol, store, pseudo_dirs = "lake", {}, [""]  # as the base class has it

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.removeprefix("lake://")))


def test_every_protocol_that_fsspec_knows_is_taken_and_its_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.register_implementation("lake", _Lake, clobber=True)
    for name, content in PICTURES.items():
        _Lake().pipe_file(f"/photos/{name}", content)
    assert sorted(_shades(regraft.read("lake://photos"))) == WANTED
    with remote.at_hand("lake://run") as folder:
        (folder / "one.txt").write_text("1")
    assert list(_Lake.store) == [*(f"/photos/{name}" for name in PICTURES), "/run/one.txt"]
    for protocol, library in {"gs": "gcsfs", "abfs": "adlfs", "sftp": "paramiko"}.items():
        monkeypatch.setitem(sys.modules, library, None)
        with pytest.raises(MissingExtraError, match=rf"'{protocol}://there/photos' needs a further library\. .*{library}"):
            regraft.read(f"{protocol}://there/photos")


def test_what_is_wrong_with_an_address_is_said(memory: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    memory.pipe_file("/flat/1.png", _encoded(1))
    memory.pipe_file("/packed.tar", _tar(PICTURES, "w:gz"))
    memory.pipe_file("/bare.tar", _tar({"1.png": _encoded(1), "1.cls": b"a", "2.png": _encoded(2)}))
    memory.pipe_file("/empty.tar", _tar({"1.txt": b"x"}))
    memory.pipe_file("/broken.parquet", b"PAR1 nothing")
    memory.pipe_file("/bad/a/1.png", b"no picture")
    memory.pipe_file("/bad/b/2.png", _encoded(1))
    said = {
        "memory://nowhere": (DataError, "There is nothing at 'memory://nowhere'"),
        "memory://nowhere.csv": (DataError, "There is nothing at 'memory://nowhere.csv'"),
        "memory://flat": (DataError, "1 picture among 1 file, in 0 folders; expected a folder for each"),
        "memory://packed.tar": (DataError, "cannot be read"),
        "memory://bare.tar": (DataError, "1 of 2 pictures without a label: 2.png"),
        "memory://empty.tar": (DataError, "has no pictures"),
        "memory://broken.parquet": (DataError, "'memory://broken.parquet' cannot be read"),
        "memory://bad": (DataError, "cannot be read as a picture"),
        "memry://x": (SettingError, "no protocol is called 'memry'; did you mean 'memory'"),
        "qqqq://x": (SettingError, "no protocol is called 'qqqq'; valid: 'abfs', 'adl', "),
        "zip://x::memory://y.zip": (UnsafeFileError, "chain of addresses"),
    }
    for url, (kind, message) in said.items():
        with pytest.raises(kind, match=message):
            list(regraft.read(url).items)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(MissingExtraError, match=r"regraft\[remote\]"):
        regraft.read("s3://bucket/photos")
