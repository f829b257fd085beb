"""Files in every form that data have: with labels for `read`, without for what a preprocessing takes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

import regraft
from regraft.data.preprocessings.preprocessing import as_dataset
from regraft.errors import DataError, InputError, UnsafeFileError

ROWS = np.arange(24, dtype=np.float32).reshape(8, 3)
LABELS = np.array(list("abababab"))


def _written(folder: Path, suffix: str) -> Path:
    path = folder / f"data{suffix}"
    if suffix == ".npy":
        np.save(path, ROWS)
        np.save(folder / "labels.npy", LABELS)
    elif suffix == ".npz":
        np.savez(path, X=ROWS, y=LABELS)
    elif suffix in (".h5", ".hdf5"):
        h5py = pytest.importorskip("h5py")
        with h5py.File(path, "w") as file:
            file["X"], file["y"] = ROWS, LABELS.astype("S")
    else:
        pandas = pytest.importorskip("pandas")
        frame = pandas.DataFrame(ROWS, columns=list("pqr"))
        (frame.assign(label=LABELS).to_parquet if suffix == ".parquet" else lambda to: frame.assign(label=LABELS).to_csv(to, index=False))(
            path
        )
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".h5", ".hdf5", ".csv", ".parquet"])
def test_rows_of_numbers_in_every_kind_of_file(tmp_path: Path, suffix: str) -> None:
    path = _written(tmp_path, suffix)
    data = regraft.read(path)
    assert (data.classes, data.kind, data.targets.tolist()) == (("a", "b"), "array", [0, 1] * 4)
    assert np.array_equal(np.asarray(data.items), ROWS)
    if suffix not in (".csv", ".parquet"):
        for given in (path, str(path), [path]):
            found = as_dataset(given, "array")
            assert np.array_equal(np.asarray(found.items), ROWS)
            assert found.name_of(3).endswith(f"data{suffix}:4")  # rows are counted from 1


def test_arrays_in_files_are_pictures_for_a_network_of_pictures(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
    np.save(tmp_path / "several.npy", pictures)
    np.save(tmp_path / "one.npy", pictures[0])
    np.savez(tmp_path / "with_labels.npz", X=pictures, y=["a", "b", "a"])
    for name, count in (("several.npy", 3), ("one.npy", 1), ("with_labels.npz", 3)):
        found = as_dataset(tmp_path / name, "image")
        assert np.array_equal(np.asarray(found.items), pictures[:count]) and found.name_of(0).endswith(f"{name}:1")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_tables_without_labels(tmp_path: Path, suffix: str) -> None:
    pandas = pytest.importorskip("pandas")
    frame, path = pandas.DataFrame(ROWS, columns=list("pqr")), tmp_path / f"new{suffix}"
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    found = as_dataset(str(path), "array")
    assert np.array_equal(np.asarray(found.items), ROWS) and not any("regression" in note for note in found.notes)
    frame = pandas.DataFrame({"text": ["one long text", "another text", "a third one of them"]})
    frame.to_parquet(path) if suffix == ".parquet" else frame.to_csv(path, index=False)
    for given in (path, str(path)):
        assert list(as_dataset(given, "text").items) == frame["text"].tolist()


def test_each_array_file_of_a_folder_or_pattern_is_one_item_in_natural_order(tmp_path: Path) -> None:
    for at, row in enumerate(ROWS):
        (tmp_path / "ab"[at % 2]).mkdir(exist_ok=True)
        np.save(tmp_path / "ab"[at % 2] / f"{3 * at}.npy", row)  # 0, 6, 12, 18 and 3, 9, 15, 21
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    for given in (tmp_path, f"{tmp_path}/*/*.npy"):
        assert np.array_equal(np.asarray(as_dataset(given, "array").items), ROWS[order])
        assert np.array_equal(np.stack(list(regraft.read(given).items)), ROWS[order])


def test_h5_parts_by_name_and_parts_that_lie_elsewhere(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "named.h5", "w") as file:
        file["train/spectra"], file["train/speaker"], file["other"] = ROWS, np.arange(8) % 2, np.zeros(3)
    with pytest.raises(DataError, match=r"holds the arrays 'other', 'train/speaker', 'train/spectra'; expected X and y"):
        regraft.read(tmp_path / "named.h5")
    with h5py.File(tmp_path / "two.h5", "w") as file:
        file["spectra"], file["speaker"] = ROWS, np.arange(8) % 2
    assert regraft.read(tmp_path / "two.h5", target="speaker").classes == ("0", "1")
    with h5py.File(tmp_path / "out.h5", "w") as file:
        file["X"], file["y"] = h5py.ExternalLink("two.h5", "/spectra"), np.arange(8) % 2
    with pytest.raises(UnsafeFileError, match="link to another place"):
        regraft.read(tmp_path / "out.h5")
    (tmp_path / "torn.h5").write_bytes((tmp_path / "two.h5").read_bytes()[:900])
    with pytest.raises(InputError):
        regraft.read(tmp_path / "torn.h5")


def _pictures(folder: Path) -> Path:
    for name in ("a/1", "a/2", "b/1", "b/3"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.fromarray(np.full((4, 4, 3), 40 * len(list(folder.rglob("*.png"))), np.uint8)).save(folder / f"{name}.png")
    return folder


def test_patterns_name_files_with_the_folders_as_classes(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "photos")
    data = regraft.read(f"{folder}/*/*.png")
    assert (len(data), data.classes, data.kind) == (4, ("a", "b"), "image")
    assert any("names of the folders" in note for note in data.notes)
    assert len(regraft.read(f"{folder}/**/*.png")) == 4
    assert regraft.read(f"{folder}/a/*.png", target=["x", "y"]).classes == ("x", "y")
    assert len(as_dataset(f"{folder}/*/1.png", "image")) == 2
    with pytest.raises(DataError, match="fits 2 files of one folder; expected those of two or more"):
        regraft.read(f"{folder}/a/*.png")
    with pytest.raises(DataError, match="No file fits the pattern"):
        regraft.read(f"{folder}/*.jpg")


@pytest.mark.parametrize("kind", ["image", "audio", "array"])
def test_what_is_no_file_of_items_is_told(tmp_path: Path, kind: str) -> None:
    with pytest.raises(DataError, match=r"does not exist: .*none.csv. Check the path"):
        as_dataset(str(tmp_path / "none.csv"), kind)
    (tmp_path / "odd.doc").write_text("x")
    if kind == "array":
        with pytest.raises(DataError, match=r"is no file of numbers; expected one of .csv"):
            as_dataset(str(tmp_path / "odd.doc"), kind)


LINKS: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "to itself": (lambda a: (a / "x").symlink_to("."), 4, ""),
    "twice to itself": (lambda a: [(a / name).symlink_to(".") for name in "xy"] and None, 4, ""),
    "to the folder above": (lambda a: (a / "x").symlink_to(".."), 4, ""),
    "to the folder above, absolute": (lambda a: (a / "x").symlink_to(a.parent.resolve()), 4, ""),
    "to a file of the class": (lambda a: (a / "0.png").symlink_to("1.png"), 4, "1 link to files that are read already, not read"),
    "a second name of a file": (lambda a: os.link(a / "1.png", a / "0.png"), 4, "1 link to files that are read already, not read"),
    "to a file of another class": (lambda a: (a / "x.png").symlink_to("../b/1.png"), 5, "1 file in several classes through links"),
    "to another class": (lambda a: (a / "x").symlink_to("../b"), 6, "2 files in several classes through links"),
    "as another class": (lambda a: (a.parent / "c").symlink_to("b"), 6, "2 files in several classes through links"),
}
UNUSABLE: dict[str, Callable[[Path], None]] = {
    "broken link": lambda a: (a / "x.png").symlink_to("none.png"),
    "pipe": lambda a: os.mkfifo(a / "x.png"),
    "link to a pipe": lambda a: os.mkfifo(a / "pipe") or (a / "x.png").symlink_to("pipe"),
    "device": lambda a: (a / "x.png").symlink_to("/dev/zero"),
    "socket": lambda a: _bound(a / "x.png"),
}


def _bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize("name", LINKS)
def test_links_in_class_folders_make_no_copies(tmp_path: Path, name: str) -> None:
    made, count, note = LINKS[name]
    folder = _pictures(tmp_path / "d")
    made(folder / "a")
    data = regraft.read(folder)
    assert len(data) == count
    assert [one for one in data.notes if note and note in one] or not note
    assert all((folder / one).is_file() for one in data.names or ())
    if "0.png" in os.listdir(folder / "a") and (folder / "a/0.png").is_symlink():
        assert "a/1.png" in (data.names or ())  # the file itself stays, not the link to it


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_is_no_file_stops_nothing(tmp_path: Path, name: str) -> None:
    folder = _pictures(tmp_path / "d")
    UNUSABLE[name](folder / "a")
    with pytest.raises(DataError, match=r"1 of 5 examples cannot be used: a/x.png"):
        regraft.data.checked(regraft.read(folder), False)
    assert len(regraft.data.checked(regraft.read(folder), True)) == 4
    assert regraft.read(folder).summary().facts["values"]["unreadable"] == 1


INDEX = {"whole": list(range(9)), "float": [float(at) for at in range(9)], "name": [f"r{at}" for at in range(9)]}


@pytest.mark.parametrize("kind", INDEX)
def test_an_index_without_a_name_is_no_feature(tmp_path: Path, kind: str) -> None:
    lines = [f"{index},{at % 4}.5,{at % 3},{'xy'[at // 5]}" for at, index in enumerate(INDEX[kind])]
    (tmp_path / "t.csv").write_text("\n".join([",p,q,label", *lines]))
    data = regraft.read(tmp_path / "t.csv")
    assert (data.kind, np.shape(data.items)) == ("array", (9, 2))
    assert any("has no name: Unnamed: 0" in note for note in data.notes)


def test_a_named_column_that_numbers_the_rows_is_pointed_out(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("\n".join(["id,p,label", *(f"{at},{at % 4}.5,{'xy'[at // 5]}" for at in range(9))]))
    data = regraft.read(tmp_path / "t.csv")
    assert np.shape(data.items) == (9, 2)
    assert any("the column 'id' numbers the rows" in note for note in data.notes)


@pytest.mark.parametrize("kind", ["image", "audio", "text", "array"])
@pytest.mark.parametrize("items", [None, 3, 2.5, b"x", {"a": 1}, [3], [b"x"], [{"a": 1}], [], [None]], ids=str)
def test_what_is_no_item_is_one_error(items: object, kind: str) -> None:
    if kind in ("array", "text") and items in ([3], [b"x"], [{"a": 1}]):
        return  # an array of one number; refused where its shape and type are checked
    with pytest.raises(DataError, match=r"Examples of the type|An example is of the type|are None|No examples were received"):
        as_dataset(items, kind)


def test_files_that_do_not_go_together_are_told(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", ROWS)
    np.save(tmp_path / "b.npy", ROWS[:, None, :1])
    (tmp_path / "t.csv").write_text("x,y\n1,2\n")
    for paths, kind, told in [
        (["a.npy", "b.npy"], "array", r"The examples of .*b.npy have the shape \(1, 1\), those of .*a.npy \(3,\)"),
        (["a.npy", "t.csv"], "array", "expected one table, or other files alone"),
        ([""], "text", "is a folder; expected a table with a column of texts"),
    ]:
        with pytest.raises(DataError, match=told):
            as_dataset([tmp_path / path for path in paths], kind)


def test_patterns_that_fit_several_tables_or_kinds_are_told(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.csv").write_text("x,y\n1,a\n2,b\n")
        (tmp_path / name).mkdir()
        PIL.Image.new("RGB", (4, 4)).save(tmp_path / name / "1.png")
        (tmp_path / name / "2.wav").write_bytes(b"RIFF")
    with pytest.raises(DataError, match=r"fits 2 tables: .*a.csv, .*b.csv; expected one"):
        regraft.read(f"{tmp_path}/*.csv")
    with pytest.raises(DataError, match=r"fits files that are not image files. Narrow it"):
        regraft.read(f"{tmp_path}/[ab]/*", kind="image")
    (tmp_path / "blank.txt").write_text("\n\n")
    with pytest.raises(DataError, match=r"No examples were found in .*blank.txt"):
        as_dataset(str(tmp_path / "blank.txt"), "text")


def test_records_are_rows_of_a_table() -> None:
    texts = ["one of the texts", "another of these texts"]
    assert list(as_dataset([{"note": text} for text in texts], "text").items) == texts
    assert as_dataset([{"a": 1, "b": 2.0}, {"a": 3, "b": 4.0}], "array").items.tolist() == [[1, 2], [3, 4]]
