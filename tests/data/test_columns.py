from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from regraft.data import (
    ArrayPreprocessing,
    ColumnsPreprocessing,
    Dataset,
    ImagePreprocessing,
    PreparedData,
    TextPreprocessing,
    default_preprocessing,
    preprocessing_from_dict,
    read,
)
from regraft.errors import DataError

X = np.arange(12, dtype=np.float32).reshape(6, 2)
Y = [0, 1, 0, 1, 0, 1]
BESIDE = np.array([[1, 10], [2, 10], [3, 10], [4, 10], [5, 10], [6, 10]], np.float32)
CSV = "u,v,age,dose,label\n" + "".join(f"{2 * row},{2 * row + 1},{row + 1},10,{row % 2}\n" for row in range(6))


def frame(library):
    columns = {"u": X[:, 0], "v": X[:, 1], "age": BESIDE[:, 0], "dose": BESIDE[:, 1].astype(int), "label": Y}
    return pytest.importorskip(library).DataFrame(columns)


def table(tmp_path, text=CSV, name="t.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


SOURCES = {
    "mapping": lambda tmp_path: read((X, Y), columns={"age": [1, 2, 3, 4, 5, 6], "dose": torch.full((6,), 10)}),
    "csv": lambda tmp_path: read(table(tmp_path), columns=["age", "dose"]),
    "pandas": lambda tmp_path: read(frame("pandas"), columns=["age", "dose"]),
    "polars": lambda tmp_path: read(frame("polars"), columns=("age", "dose")),
    "data set": lambda tmp_path: read(read((X, Y)), columns=frame("pandas")[["age", "dose"]]),
    "array beside a table": lambda tmp_path: read(frame("pandas")[["u", "v", "label"]], columns={"age": range(1, 7), "dose": [10] * 6}),
}


@pytest.mark.parametrize("source", list(SOURCES))
def test_columns_of_every_source(source, tmp_path):
    data = SOURCES[source](tmp_path)
    assert data.column_names == ("age", "dose") and data.columns.dtype == np.float32
    np.testing.assert_array_equal(data.columns, BESIDE)
    np.testing.assert_array_equal(np.asarray(data.items), X)
    part = data.subset([4, 0])
    np.testing.assert_array_equal(part.columns, BESIDE[[4, 0]])
    assert part.column_names == data.column_names


def test_columns_of_folders_and_arrays(pictures, tmp_path):
    data = read(pictures, columns=np.arange(5))
    assert data.column_names == ("column 0",) and data.columns[:, 0].tolist() == [0, 1, 2, 3, 4]
    rows = "file,label,age\ncat/1.png,c,1\nghost.png,c,2\ndog/1.png,d,3\n"
    listed = read(table(tmp_path, rows), files=pictures, columns="age", skip_bad=True)
    assert listed.columns.tolist() == [[1], [3]]
    dirty = np.array(X)
    dirty[1] = np.nan
    assert read((dirty, Y), columns=BESIDE, skip_bad=True).columns[:, 0].tolist() == [1, 3, 4, 5, 6]
    partial = read((X, {"a": [None, *Y[1:]], "b": [None, *Y[1:]]}), columns=BESIDE, skip_bad=True)
    assert partial.of_task("b").columns[:, 0].tolist() == [2, 3, 4, 5, 6]
    assert read((X, Y), columns=BESIDE[:, 0]).columns.shape == (6, 1)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (np.zeros((5, 2)), r"Column 'column 0' has the shape \(5,\) for 6 examples"),
        (np.zeros((6, 2, 2)), r"columns has the shape \(6, 2, 2\); expected \(6, k\)"),
        (["age"], r"columns=\['age'\] names columns, and this source has none"),
        ("age", "columns='age' names columns"),
        ({}, r"columns=\[\] names nothing"),
        ({"sex": list("mfmfmf")}, r"Column 'sex' holds 'm' \(str\); expected numbers"),
        ({"age": [1, 2, None, 4, np.inf, 6], "dose": [1, np.nan, 1, 1, 1, 1]}, "'age' in rows 2, 4, 'dose' in rows 1; expected a number"),
    ],
)
def test_errors_of_columns(columns, message):
    with pytest.raises(DataError, match=message):
        read((X, Y), columns=columns)


def test_errors_of_tables(tmp_path):
    with pytest.raises(DataError, match="no column 'agee' for columns; did you mean 'age'"):
        read(table(tmp_path), columns=["agee"])
    with pytest.raises(DataError, match="'age' in rows 1; expected a number in each row"):
        read(table(tmp_path, "u,age,label\n1,2,x\n3,,y\n"), columns=["age"])
    with pytest.raises(DataError, match="no column of texts or numbers besides target, group, condition and columns"):
        read(table(tmp_path, "age,label\n1,x\n3,y\n"), columns=["age"])
    with pytest.raises(DataError, match=r"have the shape \(2, 1\) and the names \['a', 'b'\] for 2 examples"):
        Dataset(X[:2], np.array([0, 1]), ("a", "b"), "array", columns=np.zeros((2, 1)), column_names=("a", "b"))


def test_fit_and_batches():
    data = read((X, Y), columns={"dose": [10] * 6, "age": range(1, 7)})  # another order than the preprocessing's
    prepared = PreparedData(data, ColumnsPreprocessing(ArrayPreprocessing((2,)), ("age", "dose")))
    made = prepared.preprocessing
    assert made.mean == (3.5, 10.0) and made.std == (pytest.approx(BESIDE[:, 0].std()), 1.0) and made.fitted and made.item_kind == "array"
    batch = prepared.batch([3, 0])
    assert set(batch) == {"inputs", "columns"} and batch["columns"].dtype == torch.float32
    np.testing.assert_allclose(batch["columns"][:, 0], (np.array([4, 1]) - 3.5) / BESIDE[:, 0].std(), rtol=1e-6)
    assert batch["columns"][:, 1].tolist() == [0, 0]
    np.testing.assert_array_equal(batch["inputs"], X[[3, 0]])
    torch.testing.assert_close(prepared.batch([3, 0], 1)["columns"], batch["columns"])  # views leave the columns as they are
    assert not torch.equal(prepared.batch([3, 0], 1)["inputs"], batch["inputs"])
    assert [len(inputs["columns"]) for _, inputs in prepared.batches(4)] == [4, 2]
    again = preprocessing_from_dict(json.loads(json.dumps(made.to_dict())))
    assert again == made and again.to_dict()["inner"]["kind"] == "array"
    assert "beside each example 2 columns: age, dose" in again.describe()
    new = read((X[:1], [0]), columns={"age": [3.5], "dose": [11]})
    assert next(again.batches(new, 2))["columns"].tolist() == [[0, 1]]


def test_files_and_texts_with_columns(pictures, tokenizer_folder):
    data = read(pictures, columns={"age": np.arange(5)})
    fitted = ColumnsPreprocessing(ImagePreprocessing(4, 4), ("age",)).fit(data)
    parts = list(fitted.batches(data, 3))
    assert [tuple(part["inputs"].shape) for part in parts] == [(3, 3, 4, 4), (2, 3, 4, 4)]
    texts = read((["one text", "another"], [0, 1]), columns={"age": [1, 3]})
    batch = PreparedData(texts, ColumnsPreprocessing(TextPreprocessing(str(tokenizer_folder)), ("age",))).batch([1])
    assert set(batch) == {*TextPreprocessing(str(tokenizer_folder)).inputs, "columns"}
    assert batch["columns"].tolist() == [[1.0]]


@pytest.mark.parametrize("source", ["csv", "pandas", "polars"])
def test_tables_without_labels_are_predicted_from(source, tmp_path):
    fitted = ColumnsPreprocessing(ArrayPreprocessing((2,)), ("age", "dose")).fit(SOURCES["mapping"](tmp_path))
    rows = table(tmp_path, "dose,u,v,age\n11,5,6,3.5\n") if source == "csv" else frame(source)[["dose", "u", "v", "age"]]
    batch = next(fitted.batches(rows, 1))
    np.testing.assert_array_equal(batch["inputs"], [[5, 6]] if source == "csv" else X[:1])
    assert batch["columns"][0, 1].item() == (1 if source == "csv" else 0)


def test_errors_of_the_preprocessing(tmp_path):
    fitted = ColumnsPreprocessing(ArrayPreprocessing((2,)), ("age", "dose")).fit(SOURCES["mapping"](tmp_path))
    wanted = (
        r"takes columns 'age', 'dose' beside each example; give a Dataset read with columns=\['age', 'dose'\], or a table " r"that has them"
    )
    with pytest.raises(DataError, match=wanted):
        next(fitted.batches(X, 2))
    with pytest.raises(DataError, match=wanted):
        next(fitted.batches(read((X, Y)), 2))
    with pytest.raises(DataError, match=wanted):
        fitted.item(X[0])
    with pytest.raises(DataError, match=r"lack the columns 'dose' that this network takes; did you mean 'dosis'"):
        next(fitted.batches(read((X, Y), columns={"age": Y, "dosis": Y}), 2))
    with pytest.raises(DataError, match=r"The table does not exist: .*nowhere.csv"):
        next(fitted.batches(tmp_path / "nowhere.csv", 2))
    with pytest.raises(DataError, match="does not follow from its input shape"):
        default_preprocessing("columns", (2,), "channels_first")
    with pytest.raises(DataError, match=r"the names \['a', 'a'\]"):
        ColumnsPreprocessing(ArrayPreprocessing(), ("a", "a"))
    with pytest.raises(DataError, match=r"mean and std of \[1\] numbers"):
        ColumnsPreprocessing(ArrayPreprocessing(), ("a", "b"), mean=(1.0,))
    for name in ("mean", "std"):
        with pytest.raises(DataError, match=f"{name}: Input should be a valid list, received 1.5"):
            preprocessing_from_dict({"kind": "columns", "inner": {"kind": "array"}, "names": ["a"], name: 1.5})


def test_columns_change_the_identity():
    made = ColumnsPreprocessing(ArrayPreprocessing((2,), spread=1.0), ("age", "dose"), (0.0, 0.0), (1.0, 1.0))
    names = ("age", "dose")
    changed = BESIDE.copy()
    changed[5, 1] += 1
    sets = [read((X, Y), columns=dict(zip(called, beside.T, strict=True))) for called, beside in ((names, BESIDE), (names, changed))]
    identities = [PreparedData(data, made).identity(1) for data in sets]
    assert identities[0] != identities[1] and identities[0] == PreparedData(sets[0].subset(range(6)), made).identity(1)
    assert sets[0].digest(0) == sets[1].digest(0) != read((X, Y)).digest(0) and sets[0].digest(5) != sets[1].digest(5)
    renamed = read((X, Y), columns={"age": BESIDE[:, 0], "other": BESIDE[:, 1]})
    assert renamed.digest(0) != sets[0].digest(0)
