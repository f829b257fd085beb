"""Hostile weights files: `.h5`, `.weights.h5`, the weights in `.keras`, `.pt`, `.safetensors`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.errors import NetworkError, SettingError, UnsafeFileError
from regraft.networks.sources.torch_files import read_torch_weights
from regraft.training.checkpoints import Checkpoint

pytest.importorskip("keras")
pytest.importorskip("h5py")

import h5py
from tests.security import keras_payloads as payloads

SECRET = payloads.SECRET


# ── HDF5 ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

KERNEL = {
    "h5": "model_weights/first/small/first/kernel",
    "hdf5": "first/small/first/kernel",
    "weights.h5": "layers/dense/vars/0",
    "keras": "layers/dense/vars/0",
}
FULL = ("h5", "keras")


def hostile_h5(folder: Path, layout: str, change: Callable[[Any, str, Path], None]) -> Path:
    """Write a Keras file whose HDF5 content has been changed; `change` gets the open file, the name of a kernel, and the secret."""
    model, secret = payloads.network(), folder / "secret.bin"
    secret.write_bytes(SECRET * 8)
    path = folder / f"m.{layout}"
    if layout == "hdf5":
        model.save(folder / "full.h5")
        with h5py.File(folder / "full.h5") as full, h5py.File(path, "w") as file:
            for key in full["model_weights"]:
                full.copy(f"model_weights/{key}", file)
            file.attrs["layer_names"] = full["model_weights"].attrs["layer_names"]
    elif layout == "weights.h5":
        model.save_weights(path)
    else:
        model.save(path)
    inner = path
    if layout == "keras":
        inner = folder / "inner.h5"
        inner.write_bytes(payloads.parts_of(path)["model.weights.h5"])
    with h5py.File(inner, "r+") as file:
        change(file, KERNEL[layout], secret)
    if layout == "keras":
        payloads.write_archive(path, {**payloads.parts_of(path), "model.weights.h5": inner.read_bytes()})
    return path


def _exchanged(file: Any, name: str, **options: Any) -> None:
    del file[name]
    file.create_dataset(name, **options)


def external_storage(file: Any, name: str, secret: Path) -> None:
    _exchanged(file, name, shape=(4, 8), dtype="f4", external=[(str(secret), 0, 128)])


def external_storage_nearby(file: Any, name: str, secret: Path) -> None:
    _exchanged(file, name, shape=(4, 8), dtype="f4", external=[(secret.name, 0, 128)])


def external_link(file: Any, name: str, secret: Path) -> None:
    with h5py.File(secret.with_name("other.h5"), "w") as other:
        other["x"] = np.frombuffer(SECRET * 4, "f4").reshape(4, 8)
    del file[name]
    file[name] = h5py.ExternalLink(str(secret.with_name("other.h5")), "x")


def external_link_of_a_group(file: Any, name: str, secret: Path) -> None:
    group = name.rpartition("/")[0]
    with h5py.File(secret.with_name("other.h5"), "w") as other:
        other.create_group("x")[name.rpartition("/")[2]] = np.frombuffer(SECRET * 4, "f4").reshape(4, 8)
    del file[group]
    file[group] = h5py.ExternalLink(str(secret.with_name("other.h5")), "x")


def virtual(file: Any, name: str, secret: Path) -> None:
    with h5py.File(secret.with_name("other.h5"), "w") as other:
        other["x"] = np.frombuffer(SECRET * 4, "f4").reshape(4, 8)
    shape = h5py.VirtualLayout((4, 8), "f4")
    shape[:] = h5py.VirtualSource(str(secret.with_name("other.h5")), "x", (4, 8))
    del file[name]
    file.create_virtual_dataset(name, shape)


def soft_link(file: Any, name: str, _secret: Path) -> None:
    file.move(name, "moved")
    file[name] = h5py.SoftLink("/moved")


def dangling_link(file: Any, name: str, _secret: Path) -> None:
    del file[name]
    file[name] = h5py.SoftLink("/nowhere")


def external_in_the_optimizer(file: Any, _name: str, secret: Path) -> None:
    file.create_dataset("optimizer/vars/0", shape=(8,), dtype="f4", external=[(str(secret), 0, 32)])


def plugin(file: Any, name: str, _secret: Path) -> None:
    facts = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    facts.set_chunk((4, 8))
    facts.set_filter(32015, h5py.h5z.FLAG_OPTIONAL, (1,))
    del file[name]
    group, _, own = name.rpartition("/")
    h5py.h5d.create(file[group].id, own.encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple((4, 8)), facts)


ELSEWHERE = [
    *(external_storage, external_storage_nearby, external_link, external_link_of_a_group),
    *(virtual, soft_link, dangling_link, external_in_the_optimizer, plugin),
]


def group_in_itself(file: Any, name: str, _secret: Path) -> None:
    group = file[name.rpartition("/")[0]]
    group["again"] = group


def root_in_a_group(file: Any, name: str, _secret: Path) -> None:
    file[name.rpartition("/")[0]]["again"] = file["/"]


def group_at_two_places(file: Any, name: str, _secret: Path) -> None:
    file["again"] = file[name.rpartition("/")[0]]


def deep(file: Any, _name: str, _secret: Path) -> None:
    file.create_group("/".join(["g"] * 300))


def large_and_empty(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, shape=(2**20, 2**20), dtype="f4")


def large_and_packed(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, shape=(2**20, 2**20), dtype="f4", chunks=(1024, 1024), compression="gzip")


def large_chunk(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, shape=(4, 8), maxshape=(None, None), dtype="f4", chunks=(2**14, 2**14), compression="gzip")


def many_empty(file: Any, _name: str, _secret: Path) -> None:
    for number in range(64):
        file.create_dataset(f"vars/{number}", shape=(2**20,), dtype="f8", chunks=(2**20,), compression="gzip")


def texts(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, data=["text"] * 32)


def references(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, shape=(4, 8), dtype=h5py.ref_dtype)


def ragged(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, shape=(4, 8), dtype=h5py.vlen_dtype(np.float32))


def records(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, data=np.zeros((4, 8), [("a", "f4"), ("b", "f4")]))


def bytes_of_no_type(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, data=np.zeros((4, 8), "V4"))


def nothing(file: Any, name: str, _secret: Path) -> None:
    _exchanged(file, name, data=h5py.Empty("f4"))


def stored_type(file: Any, name: str, _secret: Path) -> None:
    del file[name]
    file[name] = np.dtype("f4")


def reference_in_an_attribute(file: Any, name: str, _secret: Path) -> None:
    file[name].attrs["ref"] = file.ref


def group_for_numbers(file: Any, name: str, _secret: Path) -> None:
    del file[name]
    file.create_group(name)


BROKEN = [
    *(group_in_itself, root_in_a_group, group_at_two_places, deep, large_and_empty, large_and_packed, large_chunk, many_empty),
    *(texts, references, ragged, records, bytes_of_no_type, nothing, stored_type, reference_in_an_attribute, group_for_numbers),
]


def _refused(path: Path, error: type[NetworkError], *, layout: str) -> None:
    network = regraft.load(payloads.network())
    before = {name: value.clone() for name, value in network.state().items()}
    with pytest.raises(error) as caught:
        regraft.load(network, weights=path)
    assert type(caught.value) is error
    assert all(torch.equal(before[name], value) for name, value in network.state().items())
    if layout in FULL:
        with pytest.raises(error) as caught:
            regraft.load(path)
        assert type(caught.value) is error


@pytest.mark.parametrize("layout", sorted(KERNEL))
@pytest.mark.parametrize("change", ELSEWHERE, ids=lambda change: change.__name__)
def test_no_other_file_is_read(change: Callable[[Any, str, Path], None], layout: str, tmp_path: Path) -> None:
    _refused(hostile_h5(tmp_path, layout, change), UnsafeFileError, layout=layout)


@pytest.mark.parametrize("layout", sorted(KERNEL))
@pytest.mark.parametrize("change", BROKEN, ids=lambda change: change.__name__)
def test_broken_hdf5_is_one_error(change: Callable[[Any, str, Path], None], layout: str, tmp_path: Path) -> None:
    _refused(hostile_h5(tmp_path, layout, change), NetworkError, layout=layout)


@pytest.mark.parametrize("layout", ["h5", "hdf5"])
@pytest.mark.parametrize("spelled", ["small/first/kernel", "./small/first/kernel", "small/./first/kernel"])
def test_a_weight_listed_twice(spelled: str, layout: str, tmp_path: Path) -> None:
    def change(file: Any, name: str, _secret: Path) -> None:
        file[name.split("/small/")[0]].attrs["weight_names"] = ["small/first/kernel", spelled]

    _refused(hostile_h5(tmp_path, layout, change), NetworkError, layout=layout)


@pytest.mark.parametrize("place", ["a layer", "the model"])
def test_a_weight_of_a_model_listed_often_beside_another_list(place: str, tmp_path: Path) -> None:
    """Keras reads the model's own lists, whatever the root lists, and those of the model itself after those of its layers."""

    def change(file: Any, name: str, _secret: Path) -> None:
        kernel, weights = file[name], file["model_weights"]
        group = file[name.split("/small/")[0]] if place == "a layer" else weights.require_group("top_level_model_weights")
        group["k"] = kernel
        group.attrs["weight_names"] = ["k"] * 100
        decoy = file.create_group("decoy")
        decoy["w"], decoy.attrs["weight_names"] = np.zeros(3, "f4"), ["w"]
        file.attrs["layer_names"] = ["decoy"]

    path = hostile_h5(tmp_path, "h5", change)
    with pytest.raises(NetworkError, match="lists a weight more than once"):
        regraft.load(path)


@pytest.mark.parametrize("layout", ["h5", "hdf5"])
@pytest.mark.parametrize("value", [3, "text", [], ["none"], [b"\xff\xfe"], np.zeros((2, 2)), h5py.Empty("S1")])
def test_lists_of_names_of_the_wrong_form(value: Any, layout: str, tmp_path: Path) -> None:
    def change(file: Any, name: str, _secret: Path) -> None:
        (file["model_weights"] if layout == "h5" else file).attrs["layer_names"] = value

    path = hostile_h5(tmp_path, layout, change)
    with pytest.raises(NetworkError):
        regraft.load(payloads.network(), weights=path)


def test_bytes_before_the_content(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "w.weights.h5", "w", userblock_size=512) as file:
        file["vars/0"] = np.zeros(3)
    with pytest.raises(NetworkError, match="begins with 512 bytes"):
        regraft.load(payloads.network(), weights=tmp_path / "w.weights.h5")


@pytest.mark.parametrize("dtype", [">f4", "f8", "f2", "i4"])
def test_other_kinds_of_numbers_are_read(dtype: str, tmp_path: Path) -> None:
    numbers = np.arange(32).reshape(4, 8)
    path = hostile_h5(tmp_path, "weights.h5", lambda file, name, _: _exchanged(file, name, data=numbers.astype(dtype)))
    network = regraft.load(payloads.network(), weights=path)
    assert torch.equal(network.state()["first.kernel"], torch.arange(32.0).reshape(4, 8))


def test_numbers_of_16_bits_are_read(tmp_path: Path) -> None:
    def change(file: Any, name: str, _secret: Path) -> None:
        half = (np.arange(32, dtype="f4").reshape(4, 8).view("u4") >> 16).astype("u2")
        _exchanged(file, name, data=half.view("V2"))
        file[name].attrs["dtype"] = "bfloat16"

    network = regraft.load(payloads.network(), weights=hostile_h5(tmp_path, "weights.h5", change))
    assert torch.equal(network.state()["first.kernel"], torch.arange(32.0).reshape(4, 8))


def test_packed_weights_are_read(tmp_path: Path) -> None:
    numbers = np.zeros((4, 8), "f4")
    packed = {"compression": "gzip", "shuffle": True, "fletcher32": True}
    path = hostile_h5(tmp_path, "weights.h5", lambda file, name, _: _exchanged(file, name, data=numbers, **packed))
    assert not regraft.load(payloads.network(), weights=path).state()["first.kernel"].any()


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "m.pt", "m.safetensors"])
def test_pipes_and_folders_are_not_waited_for(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    for source in (lambda: regraft.load(tmp_path / name), lambda: regraft.load(payloads.network(), weights=tmp_path / name)):
        with pytest.raises(NetworkError):
            source()


# ── PyTorch ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 8)
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(x).relu())


class Called:
    """Pickles as a call."""

    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


class Storage:
    """Pickles as a storage in the file of its tensors."""

    def __init__(self, numbers: int) -> None:
        self.numbers = numbers


def tensor_of(*, numbers: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int = 0) -> Called:
    return Called(torch._utils._rebuild_tensor_v2, Storage(numbers), offset, size, stride, False, OrderedDict())


class _Pickler(pickle.Pickler):
    def persistent_id(self, obj: Any) -> Any:
        return ("storage", torch.FloatStorage, "0", "cpu", obj.numbers) if isinstance(obj, Storage) else None


def pickled(content: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, 2).dump(content)
    return buffer.getvalue()


def write_pt(path: Path, content: Any, *, compression: int = zipfile.ZIP_STORED, **parts: bytes) -> Path:
    """Write a file as torch.save does, with one storage of four numbers."""
    whole = {"data.pkl": pickled(content), "byteorder": b"little", "version": b"3\n", "data/0": struct.pack("4f", 1, 2, 3, 4), **parts}
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, part in whole.items():
            archive.writestr(f"archive/{name}" if not name.startswith("!") else name[1:], part)
    return path


def write_old_pt(path: Path, content: Any, *, numbers: int = 4) -> Path:
    """Write a file as PyTorch before 1.6 did."""

    class Old(pickle.Pickler):
        def persistent_id(self, obj: Any) -> Any:
            return ("storage", torch.FloatStorage, "0", "cpu", obj.numbers, None) if isinstance(obj, Storage) else None

    with path.open("wb") as file:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}, content, ["0"]):
            Old(file, 2).dump(part)
        file.write(struct.pack("<q", numbers) + struct.pack("4f", 1, 2, 3, 4))
    return path


CALLS = {
    "system": lambda marker: Called(os.mkdir, str(marker)),
    "eval": lambda marker: Called(eval, f"__import__('os').mkdir({str(marker)!r})"),
    "getattr": lambda marker: Called(getattr, "x", "upper"),
    "torch.load": lambda marker: Called(torch.load, str(marker)),
    "memory": lambda marker: Called(bytearray, 2**40),
    "tensor out of nothing": lambda marker: Called(torch.Tensor, 2**18, 2**18),
    "typed tensor out of nothing": lambda marker: Called(torch.FloatTensor, 2**36),
    "numpy": lambda marker: np.float64(3),
    "module": lambda marker: Small(),
}


@pytest.mark.parametrize("write", [write_pt, write_old_pt], ids=["zip", "old"])
@pytest.mark.parametrize("call", sorted(CALLS))
def test_pickles_of_more_than_tensors_are_refused(call: str, write: Callable[[Path, Any], Path], tmp_path: Path) -> None:
    path = write(tmp_path / "w.pt", {"first.weight": CALLS[call](tmp_path / "marker")})
    with pytest.raises(UnsafeFileError, match=r"pickle that holds objects"):
        regraft.load(Small(), weights=path, inputs=(4,))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sparse", lambda: torch.eye(8).to_sparse()),
        ("sparse", lambda: torch.eye(8).to_sparse_csr()),
        ("quantized", lambda: torch.quantize_per_tensor(torch.zeros(8, 4), 0.1, 0, torch.qint8)),
        ("meta", lambda: torch.empty(2**20, 2**20, device="meta")),
        ("subclassed", lambda: _with_attribute(nn.Parameter(torch.zeros(8, 4)))),
    ],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_special_tensors_get_a_clear_answer(name: str, make: Callable[[], Any], tmp_path: Path) -> None:
    torch.save({"first.weight": make()}, tmp_path / "w.pt")
    with pytest.raises(NetworkError, match=rf"{name}.*expected plain ones"):
        regraft.load(Small(), weights=tmp_path / "w.pt", inputs=(4,))


def _with_attribute(parameter: Any) -> Any:
    parameter.note = "kept by torch.save"
    return parameter


@pytest.mark.parametrize("write", [write_pt, write_old_pt], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("numbers", "size", "stride", "offset"),
    [
        (4, (1000,), (1,), 0),
        (4, (4,), (1,), 100),
        (4, (4,), (1,), -1),
        (4, (4,), (-1,), 0),
        (4, (-4,), (1,), 0),
        (4, (2, 2), (2**62, 1), 0),
        (4, (2**20, 2**20), (0, 0), 0),
        (4, (2**30,), (0,), 0),
        (1000, (1000,), (1,), 0),
        (2**50, (4,), (1,), 0),
        (-4, (4,), (1,), 0),
    ],
)
def test_views_and_storages_larger_than_the_file(
    numbers: int, size: tuple[int, ...], stride: tuple[int, ...], offset: int, write: Callable[[Path, Any], Path], tmp_path: Path
) -> None:
    path = write(tmp_path / "w.pt", {"first.weight": tensor_of(numbers=numbers, size=size, stride=stride, offset=offset)})
    with pytest.raises(NetworkError) as caught:
        regraft.load(Small(), weights=path, inputs=(4,))
    assert str(path) in str(caught.value)


def _rows(**values: Any) -> dict[str, Any]:
    return {"first.weight": tensor_of(numbers=4, size=(4,), stride=(1,)), **values}


@pytest.mark.parametrize(
    ("parts", "error"),
    [
        ({"!../evil": b""}, UnsafeFileError),
        ({"!/evil": b""}, UnsafeFileError),
        ({"constants.pkl": b""}, UnsafeFileError),
        ({"data/0": bytes(80 * 2**20)}, NetworkError),
        ({"data.pkl": b""}, NetworkError),
        ({"data.pkl": b"\x80\x02."}, NetworkError),
        ({"data.pkl": b"\x80\x02}q\x00"}, NetworkError),
        ({"data.pkl": b"garbage"}, NetworkError),
        ({"byteorder": b"middle"}, NetworkError),
        ({"data/0": b""}, NetworkError),
    ],
)
def test_archives_of_the_wrong_form(parts: dict[str, bytes], error: type[NetworkError], tmp_path: Path) -> None:
    path = write_pt(tmp_path / "w.pt", _rows(), compression=zipfile.ZIP_DEFLATED, **parts)
    with pytest.raises(error):
        regraft.load(Small(), weights=path, inputs=(4,))


def nested(levels: int, *, wide: bool) -> bytes:
    """Return the pickle of a mapping whose key is a tuple within tuples; wide: each level holds the one below twice."""
    level = b"h\0\x86q\0" if wide else b"\x85"
    return b"\x80\x02}K\x01q\0" + level * levels + b"K\x01s."


@pytest.mark.parametrize(("levels", "wide"), [(60, True), (1_000_000, False)])
def test_keys_that_would_be_looked_up_for_ever(levels: int, wide: bool, tmp_path: Path) -> None:
    write_pt(tmp_path / "w.pt", None, **{"data.pkl": nested(levels, wide=wide)})
    old = write_old_pt(tmp_path / "old.pt", "content").read_bytes()
    (tmp_path / "old.pt").write_bytes(old.replace(pickled("content"), nested(levels, wide=wide)))
    plain = (tmp_path / "w.pt").read_bytes()
    (tmp_path / "run.pt").write_bytes(plain + hashlib.blake2b(plain, digest_size=16).digest())
    for name in ("w.pt", "old.pt"):
        with pytest.raises(NetworkError, match="tuples within tuples"):
            regraft.load(Small(), weights=tmp_path / name, inputs=(4,))
    with pytest.raises(SettingError, match="tuples within tuples"):
        Checkpoint(tmp_path / "run.pt", "digest").read()


def test_two_readers_see_one_pickle(tmp_path: Path) -> None:
    """Whatever PyTorch would read has been looked through: no second archive, folder or pickle for it to find."""
    evil = {"first.weight": Called(os.mkdir, str(tmp_path / "marker"))}
    whole = write_pt(tmp_path / "whole.pt", _rows())
    two = write_pt(tmp_path / "two.pt", evil, **{"!other/data.pkl": pickled(_rows())})
    spelled = write_pt(tmp_path / "spelled.pt", _rows(), **{"DATA.PKL": pickled(evil)})
    front = tmp_path / "front.pt"
    front.write_bytes(write_old_pt(tmp_path / "old.pt", evil).read_bytes() + whole.read_bytes())
    remark = tmp_path / "remark.pt"
    remark.write_bytes(whole.read_bytes())
    with zipfile.ZipFile(remark, "a") as archive:
        archive.comment = b"PK\x05\x06" + bytes(18)
    for path in (two, spelled, front, remark):
        with pytest.raises(NetworkError):
            regraft.load(Small(), weights=path, inputs=(4,))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("content", [[], 3, None, {}, {"a": 3}, {3: None}, "text", {"state_dict": {"a": "b"}}, {"state_dict": []}])
def test_contents_without_tensors(content: Any, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no named tensors"):
        regraft.load(Small(), weights=write_pt(tmp_path / "w.pt", content), inputs=(4,))


def test_the_oldest_format_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "w.pt", "w") as archive:
        for name in ("pickle", "storages", "tensors"):
            content = pickled({"a": Called(os.mkdir, str(tmp_path / "marker"))})
            facts = tarfile.TarInfo(name)
            facts.size = len(content)
            archive.addfile(facts, io.BytesIO(content))
    with pytest.raises(NetworkError):
        regraft.load(Small(), weights=tmp_path / "w.pt", inputs=(4,))
    assert not (tmp_path / "marker").exists()


@pytest.mark.parametrize("old", [False, True])
def test_files_of_torch_save_open(old: bool, tmp_path: Path) -> None:
    wanted = Small()
    content = {"state_dict": wanted.state_dict(), "epoch": 3, "note": "text", "rate": 0.1, "shape": torch.Size([3])}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=not old)
    network = regraft.load(Small(), weights=tmp_path / "w.pt", inputs=(4,))
    assert all(torch.equal(value, network.state()[name]) for name, value in wanted.state_dict().items())


@pytest.mark.parametrize(
    "dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.int64, torch.bool, torch.uint16, torch.float8_e4m3fn]
)
def test_every_kind_of_number_is_read(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.save(OrderedDict(a=torch.ones(3).to(dtype), b=nn.Parameter(torch.zeros(2))), tmp_path / "w.pt")
    assert read_torch_weights(tmp_path / "w.pt")["a"].dtype == dtype


# ── safetensors ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def write_safetensors(path: Path, header: Any, body: bytes = bytes(16)) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)
    return path


def _entry(**changes: Any) -> dict[str, Any]:
    return {"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16], **changes}}


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xff",
        b"[" * 100_000,
        {"a": 3},
        _entry(dtype="X9"),
        _entry(shape=[-4]),
        _entry(shape=[2**62, 2**62]),
        _entry(shape=[5]),
        _entry(data_offsets=[0, 2**60]),
        _entry(data_offsets=[16, 0]),
        _entry(data_offsets=[4, 16]),
        {**_entry(), "b": _entry()["a"]},
    ],
)
def test_headers_of_the_wrong_form(header: Any, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="safetensors file"):
        regraft.load(Small(), weights=write_safetensors(tmp_path / "w.safetensors", header), inputs=(4,))


@pytest.mark.parametrize("content", [b"", b"\0" * 7, b"\xff" * 8, struct.pack("<Q", 2**63), struct.pack("<Q", 2**40) + b"{}"])
def test_lengths_of_headers(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(content)
    with pytest.raises(NetworkError, match="safetensors file"):
        regraft.load(Small(), weights=tmp_path / "w.safetensors", inputs=(4,))


# ── files of another network, and numbers that are none ──────────────────────────────────────────────────────────────────


def _torch_case(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Any:
    torch.save({name: torch.ones(shape) for name, shape in shapes.items()}, folder / "w.pt")
    return lambda: regraft.load(Small(), weights=folder / "w.pt", inputs=(4,))


def _keras_case(folder: Path, shapes: dict[str, tuple[int, ...]]) -> Any:
    with h5py.File(folder / "w.hdf5", "w") as file:
        layers = list(dict.fromkeys(name.split(".")[0] for name in shapes))
        file.attrs["layer_names"] = layers
        for layer in layers:
            own = [name.split(".")[1] for name in shapes if name.startswith(f"{layer}.")]
            file.create_group(layer).attrs["weight_names"] = [f"{layer}/{name}" for name in own]
            for name in own:
                file[layer][f"{layer}/{name}"] = np.ones(shapes[f"{layer}.{name}"], "f4")
    return lambda: regraft.load(payloads.network(), weights=folder / "w.hdf5")


@pytest.mark.parametrize(("case", "own"), [(_torch_case, "weight"), (_keras_case, "kernel")], ids=["torch", "keras"])
@pytest.mark.parametrize("count", [1, 2])
def test_names_of_other_shapes_alone_are_no_weights(case: Any, own: str, count: int, tmp_path: Path) -> None:
    shapes = {f"first.{own}": (7, 7), f"last.{own}": (9, 9)}
    load = case(tmp_path, dict(list(shapes.items())[:count]))
    with pytest.raises(NetworkError, match=rf"(?s)nothing was taken.*first\.{own}.*\(7, 7\) in the file.*begins with.*the network with"):
        load()


@pytest.mark.parametrize(("case", "own"), [(_torch_case, "weight"), (_keras_case, "kernel")], ids=["torch", "keras"])
def test_names_in_common_but_none_of_the_shapes(case: Any, own: str, tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"(?s)fits the network.*'other\.x' \(5,\)"):
        case(tmp_path, {"other.x": (5,), "another.y": (6, 2)})()


def test_numbers_that_are_none_are_said(tmp_path: Path) -> None:
    weights = Small().state_dict()
    weights["last.weight"][0, 0] = float("nan")
    torch.save(weights, tmp_path / "w.pt")
    [note] = regraft.load(Small(), weights=tmp_path / "w.pt", inputs=(4,)).account.notes
    assert "NaN or infinite" in note and "last.weight" in note

    model = payloads.network()
    model.layers[1].kernel.assign(np.full((8, 3), np.inf, "f4"))
    for name in ("w.weights.h5", "w.keras", "w.h5"):
        (model.save_weights if name == "w.weights.h5" else model.save)(tmp_path / name)
        [note] = regraft.load(payloads.network(), weights=tmp_path / name).account.notes
        assert "NaN or infinite" in note and "last.kernel" in note and "first" not in note
    [note] = regraft.load(tmp_path / "w.keras").account.notes
    assert "NaN or infinite" in note and "last.kernel" in note


def test_a_live_module_with_nan_is_said_and_a_mask_of_infinity_is_not() -> None:
    module = Small()
    module.register_buffer("mask", torch.full((3, 3), -torch.inf))
    assert not regraft.load(module, inputs=(4,)).account.notes
    module.last.bias.data[0] = torch.nan
    assert "NaN or infinite weights: last.bias" in regraft.load(module, inputs=(4,)).account.notes[0]


@pytest.mark.parametrize("part", ["free", "text"])
@pytest.mark.parametrize("layout", ["weights.h5", "h5", "keras"])
def test_heaps_of_texts_that_the_library_would_go_round_in(layout: str, part: str, tmp_path: Path) -> None:
    """A part of 0 bytes is followed by itself; the length of a text can come to that by an overflow."""
    path = tmp_path / f"whole.{layout}"
    model = payloads.network()
    (model.save_weights if layout == "weights.h5" else model.save)(path)
    held = payloads.parts_of(path)["model.weights.h5"] if layout == "keras" else path.read_bytes()
    at = held.index(b"GCOL\x01") + 16
    number, length = (0, 0) if part == "free" else (1, 2**64 - 16)
    held = held[:at] + struct.pack("<HHIQ", number, 0, 0, length) + held[at + 16 :]
    if layout == "keras":
        payloads.write_archive(path, {**payloads.parts_of(path), "model.weights.h5": held})
    else:
        path.write_bytes(held)
    with pytest.raises(NetworkError, match="heap of texts"):
        regraft.load(payloads.network(), weights=path) if layout == "weights.h5" else regraft.load(path)
