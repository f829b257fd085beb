"""Arrays in files: .npy with labels beside it, .npz, folders and tables of .npy; what is damaged or a pickle is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import regraft
from regraft.errors import DataError, UnsafeFileError
from regraft.files import room

X = np.random.default_rng(0).normal(size=(8, 3, 2)).astype(np.float32)
Y = np.array(["a", "b"] * 4)


def _written(form: str, folder: Path) -> tuple[Path, dict[str, Any]]:
    if form.startswith("npz"):
        names = {"npz": ("X", "y"), "npz of Keras": ("x_train", "y_train"), "npz with a target": ("mfcc", "who")}[form]
        np.savez_compressed(folder / "d.npz", **{names[0]: X, names[1]: Y})
        return folder / "d.npz", {"target": "who"} if names[1] == "who" else {}
    if form.startswith("npy"):
        np.save(folder / "X.npy", X)
        np.save(folder / ("y.npy" if form == "npy" else "mine.npy"), Y)
        return folder / "X.npy", {"npy with a file": {"target": "mine.npy"}, "npy with labels": {"target": Y}}.get(form, {})
    (folder / "d").mkdir()
    for at, row in enumerate(X):
        place = folder / "d" / (Y[at] if form == "folder" else "")
        place.mkdir(exist_ok=True)
        np.save(place / f"{at}.npy", row)
    if form == "folder":
        return folder / "d", {}
    (folder / "t.csv").write_text("file,label\n" + "".join(f"{at}.npy,{Y[at]}\n" for at in range(8)))
    return folder / "t.csv", {"files": folder / "d"}


FORMS = ["npz", "npz of Keras", "npz with a target", "npy", "npy with a file", "npy with labels", "folder", "table"]


@pytest.mark.parametrize("form", FORMS)
def test_each_form_gives_the_arrays_and_labels(form: str, tmp_path: Path) -> None:
    source, how = _written(form, tmp_path)
    data = regraft.read(source, **how)
    order = np.argsort(Y, kind="stable") if form == "folder" else np.arange(8)
    assert data.kind == "array" and data.classes == ("a", "b")
    assert np.array_equal(np.stack([np.asarray(item) for item in data.items]), X[order])
    assert [data.classes[row] for row in data.targets] == Y[order].tolist()


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "folder"])
def test_a_pickle_is_never_read(name: str, tmp_path: Path) -> None:
    objects = np.array([{"a": 1}, None], dtype=object)
    if name == "x.npz":
        np.savez(tmp_path / name, X=objects, y=np.arange(2))
    elif name == "x.npy":
        np.save(tmp_path / name, objects, allow_pickle=True)
        np.save(tmp_path / "y.npy", np.arange(2))
    else:
        (tmp_path / name / "a").mkdir(parents=True)
        np.save(tmp_path / name / "a" / "1.npy", objects, allow_pickle=True)
    with pytest.raises(UnsafeFileError, match="pickle"):
        regraft.read(tmp_path / name)


@pytest.mark.parametrize("damage", ["cut", "no archive", "no labels", "no names", "no such name", "texts", "shapes"])
def test_what_does_not_do_is_told(damage: str, tmp_path: Path) -> None:
    source, told = tmp_path / "d.npz", "."
    if damage == "cut":
        np.savez(source, X=X, y=Y)
        source.write_bytes(source.read_bytes()[:-200])
    elif damage == "no archive":
        source.write_bytes(b"PK no")
    elif damage == "no labels":
        source, told = tmp_path / "X.npy", "no labels"
        np.save(source, X)
    elif damage == "no names":
        np.savez(source, a=X, b=Y, c=X)
        told = "'a', 'b', 'c'"
    elif damage == "no such name":
        np.savez(source, a=X, b=Y)
        with pytest.raises(DataError, match="has no array 'c' for target; valid: 'a', 'b'"):
            regraft.read(source, target="c")
        told = "'a', 'b'"
    elif damage == "texts":
        source, told = tmp_path / "d.h5", "x holds texts; expected numbers"
        with pytest.importorskip("h5py").File(source, "w") as file:
            file["x"], file["y"] = np.array([b"a", b"b"]), np.arange(2)
    else:
        source, told = tmp_path / "f", r"\(3, 2\).*\(2,\)"
        (source / "a").mkdir(parents=True)
        np.save(source / "a" / "1.npy", X[0])
        np.save(source / "a" / "2.npy", X[0, 0, :])
    with pytest.raises(DataError, match=told):
        regraft.read(source)


def test_a_large_file_is_not_copied_to_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "IN_MEMORY", 0)
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", Y)
    items: Any = regraft.read(tmp_path / "X.npy").items
    while not isinstance(items, np.memmap) and items is not None:
        items = items.base
    assert isinstance(items, np.memmap)


def test_arrays_beside_pictures_are_left_out(pictures: Path) -> None:
    np.save(pictures / "cat" / "features.npy", X)
    data = regraft.read(pictures)
    assert data.kind == "image" and len(data) == 5 and "features.npy" in data.notes[0]
