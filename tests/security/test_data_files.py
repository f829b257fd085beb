"""Hostile data files: each ends in one error, at once, and nothing outside the given folder is opened."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile
import typer
from PIL import Image

from regraft.cli.guard import guarded
from regraft.cli.shared import class_names
from regraft.data import checked, read
from regraft.data.check import bad_items
from regraft.data.decoding.pictures import geometry
from regraft.data.items import item_digest
from regraft.data.preprocessings.audio_preprocessing import AudioPreprocessing
from regraft.data.preprocessings.image_preprocessing import ImagePreprocessing
from regraft.data.readers.array_files import read_array
from regraft.data.readers.table_files import columns_of_file
from regraft.errors import DataError, InputError, UnsafeFileError
from regraft.files.formats import FORMATS

LATIN = os.fsdecode(b"caf\xe9")
POSIX = pytest.mark.skipif(os.name == "nt", reason="FIFOs, and links without rights, are of POSIX")


def picture(path: Path, size: tuple[int, int] = (9, 7)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)).save(path, format="PNG")
    return path


# ── CSV ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

TABLES = {
    "neither UTF-8 nor cp1252": (b"a,label\n1,\x81\x8d\n2,x\n", "is not text in UTF-8: .*another encoding"),
    "two encodings": ("a,label\n1,é\n".encode() + "2,é\n".encode("cp1252"), "is not text in UTF-8: .*damaged"),
    "utf-16 cut off": ("a,label\n1,u\n2,v\n".encode("utf-16")[:-1], "is not text in UTF-16: truncated data"),
    "null bytes": (b"a,label\n1,u\x00\n2,v\n", "holds null characters"),
    "cut in a letter": ("a,label\n1,u\n2,é".encode()[:-1], "is not text in UTF-8"),
    "a long line first": (b"a,label\n1,2,u\n3,v\n", "another number of fields than its 2 columns: lines 2"),
    "a long line later": (b"a,label\n" + b"1,u\n" * 40 + b"1,2,v\n", "cannot be read as a CSV file|another number of fields"),
    "all lines long": (b"a,label\n1,2,u\n3,4,v\n", "another number of fields than its 2 columns: lines 2, 3"),
    "a short line later": (b"a,label\n" + b"1,u\n" * 40 + b"1\n", "another number of fields than its 2 columns: lines 42"),
    "unclosed quote": (b'a,label\n1,u\n"2,v\n3,w\n', "cannot be read as a CSV file|another number of fields"),
    "unclosed quote at the end": (b"a,label\n" + b"1,u\n" * 40 + b'2,"v\n', "cannot be read as a CSV file|another number of fields"),
    "columns of one name": (b"a,a,label\n1,2,u\n3,4,v\n", "several columns of the same name: 'a'"),
    "more columns than anything has": (b"," * 2**21 + b"\n1\n", "has 2,097,153 columns"),
    "empty": (b"", "is empty"),
    "blank": (b"\n\n\n", "is empty"),
    "a huge label": (b"a,label\n1," + b"x" * 20_000 + b"\n" + b"1,y\n" * 30_000, "not whole texts"),
}


@pytest.mark.parametrize("library", ["pandas", "plain"])
@pytest.mark.parametrize("name", TABLES)
def test_tables_that_are_refused(name: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "plain":
        monkeypatch.setattr("regraft.data.readers.table_files.importlib.util.find_spec", lambda _name: None)
    content, words = TABLES[name]
    (tmp_path / "t.csv").write_bytes(content)
    began = time.perf_counter()
    with pytest.raises(DataError, match=words) as caught:
        read(tmp_path / "t.csv", target="label", kind="array")
    assert time.perf_counter() - began < 20 and "\n" not in str(caught.value) and len(str(caught.value)) < 1000


@pytest.mark.parametrize("library", ["pandas", "plain"])
def test_a_field_of_any_length_is_read(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "plain":
        monkeypatch.setattr("regraft.data.readers.table_files.importlib.util.find_spec", lambda _name: None)
    (tmp_path / "t.csv").write_text(f'text,label\n"{"word, " * 100_000}",a\nfine,b\n')
    assert len(read(tmp_path / "t.csv")[0]) == 600_000
    (tmp_path / "t.csv").write_text("a,,label\n1,2,u\n3,4,v\n")
    assert read(tmp_path / "t.csv").items.shape == (2, 2)


@pytest.mark.parametrize("library", ["pandas", "plain"])
def test_a_long_field_takes_no_room_in_the_other_rows(library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if library == "plain":
        monkeypatch.setattr("regraft.data.readers.table_files.importlib.util.find_spec", lambda _name: None)
    (tmp_path / "t.csv").write_text("a,label\n" + "x" * 100_000 + ",u\n" + "y,v\n" * 3000)
    columns_of_file(tmp_path / "t.csv")  # what is imported first is not counted
    tracemalloc.start()
    columns, _ = columns_of_file(tmp_path / "t.csv")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(columns["a"]) == 3001 and peak < 32 * 2**20  # 1.2 GB as an array of texts of one length


# ── Parquet ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_parquet_is_read_as_pandas_reads_it(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    plain = {"n": [1, 2, 3], "x": [0.5, None, 2.5], "t": ["a", None, "c"], "b": [True, False, True]}
    frame = pandas.DataFrame(plain, index=["p", "q", "r"])
    frame["c"] = pandas.Categorical(["u", "v", "u"])
    frame["i"] = pandas.array([1, None, 3], dtype="Int64")
    frame["d"] = pandas.to_datetime(["2020-01-01"] * 3)
    frame.to_parquet(tmp_path / "t.parquet")
    columns, notes = columns_of_file(tmp_path / "t.parquet")
    back = pandas.read_parquet(tmp_path / "t.parquet")
    assert list(columns) == list(back.columns) and notes == ()
    for name in back.columns:
        ours, theirs = columns[name].tolist(), back[name].to_numpy().tolist()
        assert all(one == other or (pandas.isna(one) and pandas.isna(other)) for one, other in zip(ours, theirs, strict=True)), name
        assert columns[name].dtype.kind == np.asarray(back[name].to_numpy()).dtype.kind, name


def test_nested_columns_are_left_out_and_it_is_said(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = arrow.table({"a": [1.0, 2.0], "list": [[1], [2, 3]], "struct": [{"u": 1}, {"u": 2}], "label": ["x", "y"]})
    parquet.write_table(table, tmp_path / "t.parquet")
    data = read(tmp_path / "t.parquet")
    assert data.items.shape == (2, 1) and "lists or structures were not read: list (list<" in " ".join(data.notes)
    with pytest.raises(DataError, match="has no column 'list'"):
        read(tmp_path / "t.parquet", target="list")


def test_parquet_that_unpacks_to_more_than_the_memory(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    same = arrow.DictionaryArray.from_arrays(arrow.array(np.zeros(20_000, np.int32)), arrow.array(["x" * 2**20]))
    table = arrow.table({"text": same, "label": ["a", "b"] * 10_000})
    parquet.write_table(table, tmp_path / "texts.parquet", store_schema=False, dictionary_pagesize_limit=2**24)
    rows = arrow.record_batch({"a": np.zeros(2**22, np.int64), "label": np.zeros(2**22, np.int64)})
    with parquet.ParquetWriter(tmp_path / "rows.parquet", rows.schema) as writer:
        for _ in range(20):
            writer.write_batch(rows, row_group_size=2**22)
    for name in ("texts", "rows"):
        assert (tmp_path / f"{name}.parquet").stat().st_size < 2**20
        with pytest.raises(DataError, match=r"declares [\d,]+ MiB of content; expected at most 1000 times its own size"):
            read(tmp_path / f"{name}.parquet")


def test_parquet_over_which_pyarrow_ends_the_program(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a": np.arange(24.0), "label": ["x", "y"] * 12}), tmp_path / "t.parquet")
    content, damage = (tmp_path / "t.parquet").read_bytes(), tmp_path / "damaged.parquet"
    (length,) = struct.unpack("<I", content[-8:-4])
    damaged = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content) - 8 - length, len(content) - 8)]
    script = "import pathlib, sys\nfrom regraft.data.readers.table_files import columns_of_file\nfrom regraft.errors import DataError\n"
    script += "for line in sys.stdin:\n    pathlib.Path(sys.argv[1]).write_bytes(bytes.fromhex(line))\n"
    script += "    try:\n        columns_of_file(pathlib.Path(sys.argv[1]))\n    except DataError:\n        pass\n"
    given = "\n".join(content.hex() for content in damaged)
    ended = subprocess.run([sys.executable, "-c", script, str(damage)], input=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-500:]


def test_a_parquet_column_whose_name_begins_another(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"a.b": [1.0, 2.0], "a": [3.0, 4.0], "label": ["x", "y"]}), tmp_path / "t.parquet")
    assert {name: values.tolist() for name, values in columns_of_file(tmp_path / "t.parquet")[0].items()} == {
        "a.b": [1.0, 2.0],
        "a": [3.0, 4.0],
        "label": ["x", "y"],
    }
    parquet.write_table(arrow.table({"a": arrow.array([], arrow.float64()), "t": arrow.array([], arrow.string())}), tmp_path / "t.parquet")
    assert {name: len(values) for name, values in columns_of_file(tmp_path / "t.parquet")[0].items()} == {"a": 0, "t": 0}


# ── .npy ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Marked:
    """Its pickle makes a file when it is read."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> object:
        return (os.mkdir, (str(self.marker),))


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode("latin-1")
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


ARRAYS = {
    "a shape of any size": (npy(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({2**40}, {2**20}), }}", bytes(64)), "declares"),
    "a shape that overflows": (npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({2**62}, 4), }}", bytes(64)), "declares an array"),
    "cut off": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 5), }", bytes(79)), "holds 79 bytes"),
    "a negative shape": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 5), }", bytes(80)), "expected numbers"),
    "no axes": (npy("{'descr': '<f4', 'fortran_order': False, 'shape': (), }", bytes(4)), "expected numbers"),
    "texts": (npy("{'descr': '<U4', 'fortran_order': False, 'shape': (1,), }", bytes(16)), "expected numbers"),
    "code in the header": (npy("__import__('os').mkdir('marker')"), "cannot be read as a .npy file"),
    "a deep header": (npy("(" * 3000), "cannot be read as a .npy file"),
    "a bare pickle": (b"\x80\x04K\x01.", "cannot be read as a .npy file"),
    "nothing": (b"", "cannot be read as a .npy file"),
    "an archive": (b"PK\x03\x04" + bytes(60), "archive of several arrays"),
}


@pytest.mark.parametrize("name", ARRAYS)
def test_arrays_that_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    content, words = ARRAYS[name]
    (tmp_path / "a.npy").write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_array(tmp_path / "a.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["a.npy"]


def test_an_array_of_objects_is_not_opened(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array([Marked(tmp_path / "marker")], dtype=object), allow_pickle=True)
    with pytest.raises(UnsafeFileError, match="holds objects, which are a pickle"):
        read_array(tmp_path / "a.npy")
    assert not (tmp_path / "marker").exists()
    for order in "CF":
        np.save(tmp_path / "b.npy", np.asarray(np.arange(12.0).reshape(3, 4), order=order))
        np.testing.assert_array_equal(read_array(tmp_path / "b.npy"), np.arange(12.0).reshape(3, 4))


# ── pictures ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, *before: bytes) -> bytes:
    rows = zlib.compress(bytes(1000))
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(before) + chunk(b"IDAT", rows)


def tiff(width: int, height: int) -> bytes:
    tags = [(256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, height)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in [*tags, (279, 4, 1, width * height % 2**32)])
    return b"II*\x00" + struct.pack("<I", 8) + struct.pack("<H", len(tags) + 1) + entries + struct.pack("<I", 0)


def postscript() -> bytes:
    return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n(marker) (w) file closefile\nshowpage\n%%EOF\n"


PICTURES: dict[str, tuple[Callable[[], bytes], str]] = {
    "a PNG of 4 billion pixels": (lambda: png(2**16, 2**16), "pixels"),
    "an animated PNG of 4 billion pixels": (lambda: png(2**16, 2**16, chunk(b"acTL", struct.pack(">II", 2**31, 0))), "pixels"),
    "a TIFF of 4 billion pixels": (lambda: tiff(2**16, 2**16), "pixels"),
    "a PNG with a text that unpacks": (lambda: png(9, 9, chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(2**26)))), "cannot be read"),
    "a PNG without its pixels": (lambda: png(9000, 9000), "cannot be read as a picture"),
    "PostScript": (postscript, "none of the formats"),
    "nothing": (lambda: b"", "none of the formats"),
    "text": (lambda: b"no picture", "none of the formats"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_that_are_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("subprocess.Popen", lambda *_args, **_named: pytest.fail("another program was started"))
    make, words = PICTURES[name]
    (tmp_path / "x.png").write_bytes(make())
    for channels in (1, 3):
        with pytest.raises(DataError, match=words) as caught:
            ImagePreprocessing(8, 8, channels).batch([tmp_path / "x.png"])
        assert "x.png" in str(caught.value) and "\n" not in str(caught.value)
    data = read(([tmp_path / "x.png", picture(tmp_path / "y.png")], ["a", "b"]))
    assert list(bad_items(data)) == [0] and len(checked(data, True)) == 1


def test_narrow_pictures_are_not_blown_up() -> None:
    with pytest.raises(DataError, match="would be resized to"):
        geometry((1, 80_000_000), (224, 224), fraction=1.0, crop=True)
    assert geometry((1, 80_000_000), (224, 224), fraction=1.0, crop=False)[:2] == (224, 224)


def test_a_damaged_picture_is_named_where_it_is_too_narrow(tmp_path: Path) -> None:
    Image.new("RGB", (90_000, 1)).save(tmp_path / "narrow.png")
    with pytest.raises(DataError, match=r"narrow\.png': A picture of 1 x 90,000 pixels would be resized"):
        ImagePreprocessing(900, 900, resize="crop").batch([tmp_path / "narrow.png"])


# ── sounds ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def flac(samples: int, *, declared: int | None = None) -> bytes:
    held = io.BytesIO()
    soundfile.write(held, np.zeros((samples, 2), np.int16), 44100, format="FLAC")
    content = bytearray(held.getvalue())
    if declared is not None:  # 36 bits of STREAMINFO
        content[21] = (content[21] & 0xF0) | (declared >> 32)
        content[22:26] = (declared & 0xFFFFFFFF).to_bytes(4, "big")
    return bytes(content)


def wav(samples: int, *, rate: int, bits: int = 8) -> bytes:
    head = b"WAVEfmt " + struct.pack("<IHHIIHH", 16, 1, 1, rate, rate, 1, bits) + b"data" + struct.pack("<I", samples)
    return b"RIFF" + struct.pack("<I", len(head) + samples) + head + bytes(samples)


SOUNDS = {
    "a declared length of days": (flac(5000, declared=2**36 - 1), "declares .* of content"),
    "a rate of one sample a second": (wav(3_000_000, rate=1), "declares .* of content"),
    "half a file": (wav(4000, rate=8000)[:30], "cannot be read as a recording"),
    "nothing": (b"", "cannot be read as a recording"),
}


@pytest.mark.parametrize("name", SOUNDS)
def test_sounds_that_are_refused(name: str, tmp_path: Path) -> None:
    content, words = SOUNDS[name]
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(DataError, match=words):
        AudioPreprocessing("waveform", sample_rate=16000).batch([tmp_path / "x.wav"])


# ── names that lead elsewhere ──────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A secret beside a folder of two pictures and a table."""
    picture(tmp_path / "secret.png")
    picture(tmp_path / "data" / "a.png")
    picture(tmp_path / "data" / "b.png")
    return tmp_path


def table(place: Path, *names: str, folder: str = "data") -> Path:
    path = place / folder / "t.csv"
    path.write_text("file,label\n" + "".join(f"{name},{'xy'[row % 2]}\n" for row, name in enumerate(names)), encoding="utf-8")
    return path


@POSIX
@pytest.mark.parametrize("way", ["up", "up from within", "absolute", "link", "linked folder", "backslashes"])
@pytest.mark.parametrize("files", [False, True])
def test_a_table_names_nothing_outside_its_folder(way: str, files: bool, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (place / "data" / "link.png").symlink_to(place / "secret.png")
    picture(place / "elsewhere" / "deep.png")
    (place / "data" / "linked").symlink_to(place / "elsewhere")
    names = {"up": "../secret.png", "up from within": "x/../../secret.png", "absolute": str(place / "secret.png"), "link": "link.png"}
    names |= {"linked folder": "linked/deep.png", "backslashes": "..\\secret.png"}
    path = table(place, names[way], "a.png", "b.png")
    if way in ("backslashes", "up from within") and not files:  # the first name decides whether a table is one of files
        path = table(place, "a.png", "b.png", names[way])
    opened: list[str] = []
    monkeypatch.setattr("regraft.files.formats._check", lambda file, _form: opened.append(file.name))
    with pytest.raises(UnsafeFileError, match=r"1 of 3 rows of t.csv name files outside .*outside=True"):
        read(path, **({"files": place / "data"} if files else {}))
    assert set(opened) <= {"t.csv"}
    allowed = read(path, outside=True, **({"files": place / "data"} if files else {}))
    assert len(allowed) == 3 and len({item_digest(item, "image") for item in allowed.items}) >= 1
    assert list(bad_items(allowed)) == []


def test_names_of_a_folder_that_was_moved_are_found_in_it(place: Path) -> None:
    path = table(place, "/home/ann/old/a.png", "C:\\old\\b.png", folder=".")
    data = read(path, files=place / "data")
    assert data.names == ("a.png", "b.png") and "2 names lead outside the folder" in " ".join(data.notes)
    whole = read(table(place, str(place / "data" / "a.png"), "./x/../b.png", folder="."), files=place / "data")
    assert whole.names == ("a.png", "b.png") and "lead outside" not in " ".join(whole.notes)


def test_the_command_names_its_own_option(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as ended:
        guarded(lambda: read(table(place, "../secret.png", "a.png")))()
    told = capsys.readouterr().err
    assert ended.value.exit_code == 2 and "--outside" in told and "outside=True" not in told


# ── folders ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


@POSIX
def test_links_in_circles_end(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        picture(tmp_path / "data" / name / "1.png")
        (tmp_path / "data" / name / "up").symlink_to(tmp_path / "data")
        (tmp_path / "data" / name / "self").symlink_to("self")
    data = read(tmp_path / "data")
    assert [path for path in data.names if "up" not in path] == ["cat/1.png", "dog/1.png"] == list(data.names[:1] + data.names[-1:])
    assert len(data) == 2 and bad_items(data) == {}


@POSIX
def test_a_tree_of_links_ends(tmp_path: Path) -> None:
    for level in range(25):
        picture(tmp_path / "data" / "cat" / f"{level}" / "1.png")
    for level in range(24):
        for way in "lr":
            (tmp_path / "data" / "cat" / f"{level}" / way).symlink_to(tmp_path / "data" / "cat" / f"{level + 1}")
    picture(tmp_path / "data" / "dog" / "1.png")
    began = time.perf_counter()
    assert len(read(tmp_path / "data")) <= 16 * 26
    assert time.perf_counter() - began < 20


@POSIX
def test_a_pipe_is_never_opened(tmp_path: Path) -> None:
    picture(tmp_path / "data" / "cat" / "1.png")
    picture(tmp_path / "data" / "dog" / "1.png")
    os.mkfifo(tmp_path / "data" / "dog" / "2.png")
    data = read(tmp_path / "data")
    assert "is a pipe, socket or device" in bad_items(data)[2]
    for use in (lambda: data.digest(2), lambda: ImagePreprocessing(8, 8).batch([data[2]])):
        with pytest.raises(UnsafeFileError, match="is a pipe, socket or device"):
            use()
    for name, open_it in (("t.csv", read), ("t.parquet", read), ("a.npy", read_array), ("n.txt", class_names)):
        os.mkfifo(tmp_path / name)
        with pytest.raises(UnsafeFileError, match="is a pipe, socket or device"):
            open_it(tmp_path / name)


# ── class names ────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_of_class_names(tmp_path: Path) -> None:
    path = tmp_path / "n.txt"
    path.write_bytes(b"\xef\xbb\xbfcat\ncaf\xe9\n\n")
    assert class_names(path) == ["cat", LATIN]
    odd = tmp_path / "n.json"
    odd.write_text('["a", 2, "\\ud800"]')
    assert class_names(odd) == ["a", "2", "\ud800"]
    refused = {"[[1], [2]]": "no class names", '{"a": 1}': "no class names"}
    refused |= {"[": "cannot be read", "[" * 100_000: "cannot be read", "": "cannot"}
    for content, words in refused.items():
        odd.write_text(content)
        with pytest.raises(InputError, match=words):
            class_names(odd)
    path.write_bytes("cat\ndog\n".encode("utf-16"))
    with pytest.raises(InputError, match="holds no class names"):
        class_names(path)
    for suffix in (".csv", ".tsv", ".parquet"):
        path.with_suffix(suffix).write_text("name,label\na,cat\n")
        with pytest.raises(InputError, match="is a table; expected a file with one class name a line"):
            class_names(path.with_suffix(suffix))


def test_every_format_of_data_has_its_row() -> None:
    assert {"csv", "parquet", "array", "picture", "recording", "names", "text", "code"} <= set(FORMATS)
