from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data import Dataset, Targets, check_trainable, checked, read
from regraft.errors import DataError

X = np.arange(10, dtype=np.float32).reshape(5, 2)
DIGIT = [3, None, 5, 3, 5]
NOTE = ["lo", "hi", "", "lo", None]
ROWS = [[1, 0], [0, 0], None, [1, 1], [0, 1]]


def of_arrays(tmp_path, pictures):
    return read((X, {"digit": DIGIT, "note": NOTE, "rows": ROWS}))


def of_arrays_as_target(tmp_path, pictures):
    digits = np.array([3, np.nan, 5, 3, 5])
    rows = np.array([[1, 0], [0, 0], [np.nan, np.nan], [1, 1], [0, 1]])
    return read((X, np.zeros(5)), target={"digit": digits, "note": np.array(NOTE, dtype=object), "rows": rows})


def of_a_data_set(tmp_path, pictures):
    return read(read((X, ["p"] * 5)), target={"digit": DIGIT, "note": NOTE, "rows": ROWS})


def of_a_table(tmp_path, pictures):
    path = tmp_path / "t.csv"
    path.write_text("u,v,d,n,r,s\n0,1,3,lo,1,0\n2,3,,hi,0,0\n4,5,5,,,\n6,7,3,lo,1,1\n8,9,5,,0,1\n")
    return read(path, target={"digit": "d", "note": "n", "rows": ["r", "s"]})


def of_a_frame(tmp_path, pictures):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"u": X[:, 0], "v": X[:, 1], "d": pandas.array(DIGIT, dtype="Int64"), "n": NOTE})
    return read(frame, target={"digit": "d", "note": "n", "rows": ROWS})


def of_polars(tmp_path, pictures):
    frame = pytest.importorskip("polars").DataFrame({"u": X[:, 0], "v": X[:, 1], "d": DIGIT, "n": NOTE})
    return read(frame, target={"digit": "d", "note": "n", "rows": ROWS})


def of_a_folder(tmp_path, pictures):
    return read(pictures, target={"digit": DIGIT, "note": NOTE, "rows": ROWS})


def of_files_of_a_table(tmp_path, pictures):
    path = tmp_path / "t.csv"
    files = ("cat/1", "cat/2", "cat/10", "dog/1", "ghost", "dog/2")
    cells = ("3,lo,1,0", ",hi,0,0", "5,,,", "3,lo,1,1", "7,lo,1,1", "5,,0,1")
    path.write_text("file,d,n,r,s\n" + "".join(f"{name}.png,{cell}\n" for name, cell in zip(files, cells, strict=True)))
    return read(path, files=pictures, target={"digit": "d", "note": "n", "rows": ["r", "s"]}, skip_bad=True)


SOURCES = [of_arrays, of_arrays_as_target, of_a_data_set, of_a_table, of_a_frame, of_polars, of_a_folder, of_files_of_a_table]


@pytest.mark.parametrize("source", SOURCES)
def test_tasks_of_every_source(source, tmp_path, pictures):
    data = source(tmp_path, pictures)
    assert data.tasks == ("digit", "note", "rows") and data.name == "digit" and len(data) == 5
    assert data.classes == ("3", "5") and list(data.targets) == [0, -1, 1, 0, 1] and data.targets.dtype == np.int64
    assert list(data.known) == [True, False, True, True, True]
    note, rows = data.further["note"], data.of_task("rows")
    assert set(note.classes) == {"lo", "hi"} and [note.classes[at] if at >= 0 else None for at in note.values] == [
        "lo", "hi", None, "lo", None
    ]  # fmt: skip
    np.testing.assert_array_equal(rows.targets, [[1, 0], [0, 0], [np.nan] * 2, [1, 1], [0, 1]])
    assert rows.task == "multi-label" and rows.targets.dtype == np.float32 and rows.tasks == ("rows",)
    assert list(rows.known) == [True, True, False, True, True]
    assert len(rows.classes) == 2 and list(rows.class_counts()) == [2, 2] and list(data.class_counts()) == [2, 2]
    part = data.subset([2, 1])
    assert list(part.of_task("note").targets) == list(note.values[[2, 1]]) and list(part.targets) == [1, -1]
    assert part.of_task("rows").subset([0]).known.tolist() == [False]


def test_whole_numbers_beside_empty_cells_are_classes_and_others_are_numbers():
    labels = {"a": [1.0, np.nan, 2.0, 1.0, 2.0], "b": [0.5, 1, None, 2, 3], "c": [1.0, 2.0, 1.0, 2.0, 1.0]}
    data = read((X, labels))
    assert data.classes == ("1", "2") and data.further["b"].task == "regression" and data.further["c"].task == "regression"
    assert np.isnan(data.further["b"].values[2]) and data.further["b"].values.dtype == np.float32
    assert any("task 'a': the 2 distinct whole numbers are read as classes" in note for note in data.notes)
    many = np.append(np.arange(25.0), np.nan)
    data = read((np.zeros((26, 1)), {"a": many, "b": np.ones(26)}))
    assert data.task == "regression" and any("the 25 distinct whole numbers are read as numbers" in note for note in data.notes)
    given = read((X, {"a": [1.0, np.nan, 0.0, 1.0, 0.0], "b": NOTE[:2] * 2 + ["lo"]}), classes={"a": ["no", "yes"], "b": ["hi", "lo"]})
    assert list(given.targets) == [1, -1, 0, 1, 0] and given.classes == ("no", "yes") and given.further["b"].classes == ("hi", "lo")
    assert read((X, {"a": [1, None, 2, 1, 2], "b": [1.0] * 5}), classes=["2", "1"]).targets.tolist() == [1, -1, 0, 1, 0]


def test_items_without_any_target():
    labels = {"a": ["x", None, "y", None, "x"], "b": [0.5, np.nan, np.nan, 1.5, 2.5]}
    with pytest.raises(DataError, match=r"1 of 5 examples have no target of any task \('a', 'b'\): example 1\. .*skip_bad=True"):
        read((X, labels))
    kept = read((X, labels), skip_bad=True)
    assert len(kept) == 4 and kept.targets.tolist() == [0, 1, -1, 0] and "left out: 1 of 5" in kept.notes[-1]
    alone = read((X, {"main": ["x", None, "y", None, "x"]}), skip_bad=True)
    assert len(alone) == 3 and alone.known.all() and not alone.partial
    dirty = np.array(X)
    dirty[0] = np.nan
    assert read((dirty, labels), skip_bad=True).tasks == ("a", "b")
    assert checked(kept, False) is kept


def test_one_task_alone_keeps_its_items():
    data = read((X, {"a": DIGIT, "b": NOTE}), group=list("pqrst"), condition=list("vwxyz"))
    alone = data.of_task("b")
    assert alone.name == "b" and alone.further == {} and list(alone.groups) == list("pqrst") and list(alone.conditions) == list("vwxyz")
    assert alone.items is data.items and alone.of_task("b").targets is alone.targets and data.of_task("a").classes == ("3", "5")
    with pytest.raises(DataError, match="The data have no task 'bb'; did you mean 'b'"):
        data.of_task("bb")


def test_classes_of_any_task():
    data = read((X, {"a": DIGIT, "rows": ROWS}))
    moved = data.with_classes(["5", "9", "3"])
    assert list(moved.targets) == [2, -1, 0, 2, 0] and moved.further == data.further
    rows = data.with_classes(["1", "z", "0"], "rows").further["rows"]
    np.testing.assert_array_equal(rows.values, [[0, 0, 1], [0, 0, 0], [np.nan] * 3, [1, 0, 1], [1, 0, 0]])
    assert data.with_classes(["3", "5"]) is data
    with pytest.raises(DataError, match="not among the 1 class: '5'"):
        data.with_classes(["3"], "a")
    with pytest.raises(DataError, match="The data have no task 'row'; did you mean 'rows'"):
        data.with_classes(["3"], "row")


def test_check_trainable_names_the_task():
    labels = {"a": ["x", "x", "y", "y", None], "b": [1.5, np.nan, 1.5, 1.5, 1.5]}
    data = read((X, labels))
    with pytest.raises(DataError, match="Task 'b': All 4 targets are equal"):
        check_trainable(data)
    check_trainable(data.of_task("a"))
    with pytest.raises(DataError, match=r"^All 4 targets are equal"):
        check_trainable(data.of_task("b"))
    with pytest.raises(DataError, match="Task 'a': Classes with one example cannot be split: 'y'"):
        check_trainable(read((X, {"a": ["x", "x", "y", None, None], "b": [1, 1, 2, 2, 2]})))


@pytest.mark.parametrize(
    ("labels", "more", "message"),
    [
        ({}, {}, r"target=\{\} names no task"),
        ({"a": [1, 2]}, {}, "Task 'a' was given 2 labels; expected an array of 5"),
        ({"a": "label"}, {}, "Task 'a' was given the column name 'label', and this source has no columns"),
        ({"a": [None] * 5}, {}, "Task 'a': All 5 targets are missing"),
        ({"a": [1.0, np.inf, np.nan, 2.0, 3.0], "b": [1] * 5}, {}, "Task 'a': Targets are infinite in rows 1;"),
        ({"a": [1, None, np.inf, 2.5, 3], "b": [1] * 5}, {}, "Task 'a': Targets are infinite in rows 2;"),
        ({"a": [[1, 0], [1, None], [0, 0], [1, 1], [0, 1]]}, {}, "Task 'a': Targets are missing in part in rows 1;"),
        ({"a": [[1, 0], [1, 7], [0, 0], None, [0, 1]]}, {}, "Task 'a': .* values other than 0 and 1, such as .*7"),
        ({"a": [1, 2, 1, 2, 1]}, {"classes": {"b": ["x"]}}, "Classes were given for 'b', which is no task of the data; valid: 'a'"),
        ([1, None, 2, 1, 2], {}, "missing or not finite in rows 1"),
    ],
)
def test_errors_of_labels(labels, more, message):
    with pytest.raises(DataError, match=message):
        read((X, labels), **more)


def test_errors_of_tables_and_folders(tmp_path, pictures):
    path = tmp_path / "t.csv"
    path.write_text("u,v,label\n1,2,x\n3,4,y\n")
    with pytest.raises(DataError, match="no column 'labl' for target of task 'a'; did you mean 'label'"):
        read(path, target={"a": "labl"})
    with pytest.raises(DataError, match=r"target of task 'a' has 3 labels and t\.csv has 2 rows"):
        read(path, target={"a": [1, 2, 3]})
    with pytest.raises(DataError, match="Task 'b' was given 2 labels; expected an array of 5"):
        read(pictures, target={"a": [1, 2, 1, 2, 1], "b": [1, 2]})


def test_errors_of_the_data_set():
    data = read((X, {"a": DIGIT, "b": NOTE}))
    with pytest.raises(DataError, match=r"Two tasks are called 'b': \['b', 'b'\]"):
        dataclasses.replace(data, name="b")
    with pytest.raises(DataError, match="Class indices run from -1 to 1; expected 0 to 1"):
        dataclasses.replace(data, further={})
    with pytest.raises(DataError, match=r"Targets are missing \(NaN\) in rows 1"):
        Dataset(X, np.array([0.5, np.nan, 1, 2, 3], np.float32), (), "array", "regression")
    half = Targets(np.array([[1, np.nan]] * 5, np.float32), ("p", "q"), "multi-label")
    with pytest.raises(DataError, match=r"in rows 0, 1, 2, 3, 4; .* a missing target is a whole row of NaN"):
        dataclasses.replace(data, further={"c": half})
    with pytest.raises(DataError, match="The data have 5 examples and 4 targets"):
        dataclasses.replace(data, further={"b": data.further["b"].taken(np.arange(4))})


labels = st.lists(st.tuples(st.integers(-1, 2), st.integers(0, 5)), min_size=4, max_size=60)


@settings(max_examples=60, deadline=None)
@given(labels, st.floats(0.1, 0.9), st.integers(0, 9), st.booleans(), st.sampled_from(["classification", "multi-label", "regression"]))
def test_split_keeps_every_item_once_and_stratifies(rows, holdout, seed, grouped, task):
    index, group = np.array(rows).T
    known, classes = index >= 0, tuple("abc")
    values = {
        "classification": index,
        "regression": np.where(known, index, np.nan).astype(np.float32),
        "multi-label": np.where(known[:, None], np.eye(3)[index], np.nan).astype(np.float32),
    }[task]
    further = {"other": Targets(np.arange(len(rows), dtype=np.float32), (), "regression")}
    groups = group.astype(str) if grouped else None
    names = () if task == "regression" else classes
    data = Dataset(np.arange(len(rows)), values, names, "array", task, groups, further=further)
    try:
        first, second = data.split(holdout, seed)
    except DataError as error:
        assert "cannot be split" in str(error)
        return
    assert sorted([*first.items, *second.items]) == list(range(len(rows))) and len(first) and len(second)
    for part in (first, second):
        assert list(part.further["other"].values) == [int(item) for item in part.items]
        assert list(part.known) == [bool(known[item]) for item in part.items]
    if task != "regression":
        assert ((first.class_counts() > 0) | (data.class_counts() == 0)).all()
    if grouped:
        assert not set(first.groups) & set(second.groups)
    elif task == "classification":
        assert (np.abs(second.class_counts() - data.class_counts() * holdout) <= 1).all()
        assert abs((~second.known).sum() - (~known).sum() * holdout) <= 1


def test_a_group_with_all_items_without_a_target_may_be_split_off():
    further = {"other": Targets(np.zeros(7, np.float32), (), "regression")}
    groups = np.array(list("pppqqqq"))  # p cannot go: it holds all of the class c
    data = Dataset(np.arange(7), np.array([0, 1, 2, 0, 1, -1, -1]), tuple("abc"), "array", groups=groups, further=further)
    assert [int(item) for item in data.split(0.5)[1].items] == [3, 4, 5, 6]
