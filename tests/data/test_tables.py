from __future__ import annotations

import importlib.util

import numpy as np
import pytest

from regraft.data import read
from regraft.data.readers import table_files as tables
from regraft.errors import DataError


@pytest.fixture(params=["pandas", "plain"])
def csv(request, tmp_path, monkeypatch):
    """Write a CSV, to be read with pandas or with the standard library alone."""
    if request.param == "pandas":
        pytest.importorskip("pandas")
    else:
        find = importlib.util.find_spec
        monkeypatch.setattr(tables.importlib.util, "find_spec", lambda name: None if name == "pandas" else find(name))

    def write(text, name="table.csv"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_numbers(csv):
    data = read(csv("a,b,label,who\n1,2.5,x,p\n3,4.5,NA,q\n"), group="who")
    assert data.kind == "array" and data.classes == ("NA", "x") and list(data.groups) == ["p", "q"]
    np.testing.assert_array_equal(data.items, np.array([[1, 2.5], [3, 4.5]], np.float32))
    assert "2 numeric columns: a, b" in data.notes[0]
    assert read(csv("a;b\n1;2\n3;4\n")).classes == ("2", "4")
    assert read(csv("a\tb\n1\t2\n3\t4\n", "t.tsv"), target=["u", "v"]).items.shape == (2, 2)
    assert read(csv("a,y\n1,0.5\n3,4\n")).task == "regression"


def test_texts(csv):
    path = csv('id,review,sentiment\n1,"a good, long film",pos\n2,bad,neg\n')
    data = read(path, target="sentiment")
    assert data.kind == "text" and data[0] == "a good, long film" and "column 'review'" in data.notes[0]
    assert read(path, target="sentiment", kind="array").items.shape == (2, 1)
    short = read(csv("x,code,label\n1,ab,p\n2,cd,q\n"))
    assert "2 characters long on average; for the numeric columns" in short.notes[0]
    with pytest.raises(DataError, match=r"item 1 \(missing text\)"):
        read(csv("review,label\nfine,1\n,0\n"))


def test_names_of_things_beside_numbers_are_not_the_items(csv):
    path = csv("a,b,speaker,word\n0.5,1,anna,yes\n1.5,2,anna,no\n2.5,3,ben,yes\n3.5,4,ben,no\n")
    data = read(path, target="word")
    assert data.kind == "array" and data.items.shape == (4, 2) and "left out: speaker" in " ".join(data.notes)
    assert read(path, target="word", kind="text").items[2] == "ben"


def test_files(csv, pictures):
    rows = "file,label,cam\ncat/1.png,c,p\n./cat/10.png,c,q\ndog/2,d,p\n"
    data = read(csv(rows), files=pictures, condition="cam")
    assert data.names == ("cat/1.png", "cat/10.png", "dog/2.png") and data.kind == "image" and data.classes == ("c", "d")
    assert list(data.conditions) == ["p", "q", "p"] and "2 files of the folder have no row: cat/2.png, dog/1.png" in data.notes
    assert read(csv(rows, "pictures/table.csv"), target="label").names == data.names
    missing = csv("file,label\ncat/1.png,c\nghost.png,d\n10,d\n")
    with pytest.raises(DataError, match=r"1 of 3 rows of table.csv name files that are not in .*: ghost.png"):
        read(missing, files=pictures)
    kept = read(missing, files=pictures, skip_bad=True)
    assert kept.names == ("cat/1.png", "cat/10.png") and "left out 1 rows whose files do not exist: ghost.png" in kept.notes


def test_padded_names_and_ambiguous_ones(csv, pictures):
    (pictures / "cat/2.png").rename(pictures / "cat/007.png")
    data = read(csv("id,label\n007,c\n010,d\n").parent / "table.csv", files=pictures, skip_bad=True)
    assert data.names == ("cat/007.png",)
    with pytest.raises(DataError, match=r"rows of table.csv name files that are not in .*: 1\."):
        read(csv("id,label\n007,c\n1,d\n"), files=pictures)


def test_several_targets(csv):
    data = read(csv("a,red,blue\n1,1,0\n2,1,1\n"), target=["red", "blue"])
    assert data.task == "multi-label" and data.classes == ("red", "blue")


def test_errors(csv, pictures, tmp_path):
    path = csv("a,b,label\n1,2,x\n3,4,y\n")
    with pytest.raises(DataError, match="has no column 'labl' for target; did you mean 'label'"):
        read(path, target="labl")
    with pytest.raises(DataError, match="has no column 'speaker' for group; valid: 'a', 'b', 'label'"):
        read(path, group="speaker")
    with pytest.raises(DataError, match=r"No column of table.csv names files in .*: it holds 1.png.*; the first row is .*'a': '1'"):
        read(csv("b,a,label\nzz,1,x\nyy,3,y\n"), files=pictures)
    with pytest.raises(DataError, match="The folder of the files does not exist"):
        read(path, files=tmp_path / "nowhere")
    with pytest.raises(DataError, match="The folder of the files is a file"):
        read(path, files=path)
    with pytest.raises(DataError, match=r"target has 1 labels and table.csv has 2 rows"):
        read(path, target=["u"])
    with pytest.raises(DataError, match=r"table.csv is empty: 2 columns and no rows"):
        read(csv("a,b\n"))
    with pytest.raises(DataError, match=r"table.csv is empty; expected a first line"):
        read(csv(""))
    with pytest.raises(DataError, match="has no column of texts or numbers besides"):
        read(csv("label\nx\ny\n"))
    with pytest.raises(DataError, match="no column left for target"):
        read(csv("who\nx\ny\n"), group="who")
    with pytest.raises(DataError, match="read as kind='image' and no column of it names files"):
        read(csv("a,label\n1,x\n2,y\n"), kind="image")


def test_ragged_lines(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("a,b\n1,2\n3\n")
    with pytest.raises(DataError, match="another number of fields than its 2 columns: lines 3"):
        tables._from_csv_plain(path, ",")


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames(library, tmp_path):
    frame = pytest.importorskip(library).DataFrame({"a": [1, 2], "b": [0.5, 0.25], "label": ["x", "y"], "g": [1, 2]})
    data = read(frame, group="g")
    assert data.items.shape == (2, 2) and data.classes == ("x", "y") and list(data.groups) == ["1", "2"]
    texts = pytest.importorskip(library).DataFrame({"text": ["some words", None], "label": [0, 1]})
    with pytest.raises(DataError, match="missing text"):
        read(texts)
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    frame.to_parquet(path) if library == "pandas" else frame.write_parquet(path)
    assert read(path, group="g").classes == ("x", "y")


def test_missing_values_of_pandas():
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "label": pandas.array([1, None], dtype="Int64")})
    with pytest.raises(DataError, match="missing or not finite in rows 1"):
        read(frame)
