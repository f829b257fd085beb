from __future__ import annotations

import numpy as np
import pytest
import torch

from regraft.data import read
from regraft.errors import DataError

X = np.zeros((4, 3), np.float32)


def test_labels_become_classes():
    data = read((X, ["b", "a10", "a2", "b"]))
    assert data.classes == ("a2", "a10", "b") and list(data.targets) == [2, 1, 0, 2] and data.targets.dtype == np.int64
    assert data.kind == "array" and data.items is X
    data = read((X, [7, 5, 10, 5]))
    assert data.classes == ("5", "7", "10") and list(data.targets) == [1, 0, 2, 0]
    assert read((X, [True, False, True, True])).classes == ("False", "True")


def test_tensors_one_hot_multi_label_regression():
    data = read((torch.zeros(4, 3), torch.tensor([0, 1, 1, 0])))
    assert isinstance(data.items, np.ndarray) and data.classes == ("0", "1")
    assert list(read((X, np.eye(4)[[3, 1, 0, 2]])).targets) == [3, 1, 0, 2]
    rows = read((X, [[1, 0], [1, 1], [0, 0], [0, 1]]), classes=["x", "y"])
    assert rows.task == "multi-label" and rows.classes == ("x", "y") and rows.targets.dtype == np.float32
    numbers = read((X, [0.5, 1.5, 2.0, 3.0]))
    assert numbers.task == "regression" and numbers.classes == () and numbers.targets.dtype == np.float32
    assert "read as numbers (regression)" in read((X, [0.0, 1.0, 1.0, 0.0])).notes[0]
    assert read((X, [[0], [1], [1], [0]])).task == "classification"


def test_labels_that_differ_in_case_are_different_classes():
    data = read((X, ["A", "a", "b", "A"]))
    assert data.classes == ("A", "a", "b") and list(data.targets) == [0, 1, 2, 0]
    again = data.with_classes(["b", "a", "A"])
    assert list(again.targets) == [2, 1, 0, 2] and again.notes == ()
    folded = data.with_classes(["A", "a", "B"])
    assert list(folded.targets) == [0, 1, 2, 0]
    assert folded.notes == ("labels were taken for classes that differ from them in case alone: 'b' for 'B'",)
    assert read((X, ["A", "a", "b", "A"]), classes=["A", "a", "B"]).notes == folded.notes
    with pytest.raises(DataError, match="not among the 2 classes: 'A'"):
        data.with_classes(["a", "b"])
    with pytest.raises(DataError, match="not among the 3 classes: 'b'"):
        data.with_classes(["A", "a", "c"])


def test_given_classes():
    assert list(read((X, [1, 0, 2, 0]), classes=["x", "y", "z"]).targets) == [1, 0, 2, 0]
    assert list(read((X, [1.0, 0.0, 2.0, 0.0]), classes=["x", "y", "z"]).targets) == [1, 0, 2, 0]
    assert list(read((X, [1, 2, 2, 1]), classes=["2", "1"]).targets) == [1, 0, 0, 1]
    assert list(read((X, ["Y", "x ", "x", "Y"]), classes=["x", "y"]).targets) == [1, 0, 0, 1]
    with pytest.raises(DataError, match=r"not among the 2 classes: 'bus'\. Rename them, or add them to the classes; valid: 'x', 'y'"):
        read((X, ["x", "bus", "x", "y"]), classes=["x", "y"])
    with pytest.raises(DataError, match="not among the 2 classes: '0', '1', '2', '3'"):
        read((X, [0, 1, 2, 3]), classes=["x", "y"])
    with pytest.raises(DataError, match="not among the 3 classes: '0'"):
        read((X, [0, 1, 0, 1]), classes=["1", "2", "3"])


def test_texts_paths_and_kinds(pictures):
    data = read((["one text", "another"], ["p", "q"]))
    assert data.kind == "text" and data[0] == "one text"
    assert read((np.array(["one", "two"]), [0, 1])).kind == "text"
    paths = [str(path) for path in sorted(pictures.rglob("*.png"))]
    data = read((paths, [0, 1, 0, 1, 0]), kind="image")
    assert data.kind == "image" and data.name_of(0) == paths[0]
    assert read((np.zeros((2, 8, 8)), [0, 1]), kind="image").kind == "image"
    assert read(([np.zeros(10), np.zeros(20)], [0, 1]), kind="audio").kind == "audio"
    frame = pytest.importorskip("pandas").DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    assert read((frame, frame["a"].astype(int))).items.shape == (2, 2)


def test_groups_and_conditions():
    data = read((X, [0, 1, 0, 1]), group=[1, 1, 2, 2], condition=np.array(["p", "q", "p", "q"]))
    assert list(data.groups) == ["1", "1", "2", "2"] and list(data.conditions) == ["p", "q", "p", "q"]
    again = read(data, group=["a", "b", "c", "d"], target=["x", "y", "x", "y"])
    assert list(again.groups) == ["a", "b", "c", "d"] and again.classes == ("x", "y") and list(again.conditions) == list(data.conditions)
    assert read(data).classes == data.classes and read(data, classes=["1", "0"]).targets[0] == 1


@pytest.mark.parametrize(
    ("source", "more", "message"),
    [
        ((X, [0, 1]), {}, "X has 4 examples and y has 2"),
        ((X,), {}, r"A tuple of 1 was received; expected a pair"),
        ((X[:0], []), {}, r"The data are empty: X has the shape \(0, 3\)"),
        ((np.array([], str), []), {}, "The data are empty: X has 0 examples"),
        ((np.float32(3), [1]), {}, "X is a single float32"),
        ((X, ["a", None, "b", ""]), {}, "missing or not finite in rows 1, 3"),
        ((X, [0.5, np.nan, 1, np.inf]), {}, "missing or not finite in rows 1, 3"),
        ((X, ["cat", "cat ", "dog", "dog"]), {}, r"the same once trimmed: 'cat' \(1 example\) and 'cat ' \(1 example\)"),
        ((X, np.full((4, 2), 2)), {}, "values other than 0 and 1, such as .*2"),
        ((X, np.eye(4)), {"classes": ["a"]}, "4 columns and 1 class name"),
        ((X, np.zeros((4, 1, 2))), {}, r"Targets have the shape \(4, 1, 2\)"),
        ((X, [0, 1, 0, 1]), {"group": "speaker"}, "group='speaker' names a column, and this source has no columns"),
        ((X, [0, 1, 0, 1]), {"target": "speaker"}, r"target='speaker' names a column, and \(X, y\) has no columns"),
        ((X, [0, 1, 0, 1]), {"group": ["a"]}, r"group has the shape \(1,\) for 4 examples"),
        ((X, [0, 1, 0, 1]), {"condition": ["a", None, "b", "c"]}, "condition is missing in rows 1"),
        ((X, [0, 1, 0, 1]), {"kind": "text"}, "expected a list of texts"),
        ((X, [0, 1, 0, 1]), {"kind": "pictures"}, "No kind of data is called 'pictures'"),
        ((X, [0, 1, 0, 1]), {"kind": 3}, "No kind of data is called 3; valid: 'array', 'image'"),
        ((X, [0, 1, 0, 1]), {"task": ["regression"]}, r"task=\['regression'\] is no kind of task"),
        ((X.astype("datetime64[s]"), [0, 1, 0, 1]), {}, r"X has the shape \(4, 3\) and the type datetime64"),
        ((["a", 3], [0, 1]), {}, r"example 1 \(int in place of a text\)"),
        (([np.zeros(2), np.zeros(3)], [0, 1]), {}, r"differ in shape, such as \[\(2,\), \(3,\)\]"),
        (([{}, {}], [0, 1]), {}, "The table is empty: 0 columns and no rows"),
        ((X, np.array(["a\0b", "c", "d", "e"], object)), {}, "target has labels with null characters, such as"),
        (([np.array(["a"]), np.array(["b"])], [0, 1]), {}, "X is a list of <U1 values"),
        ((X, [0, 1, 0, 1]), {"kind": {"a": "image"}}, "names inputs, and X is no mapping of inputs"),
        (({"a": X}, [0, 1, 0, 1]), {"kind": {"b": "image"}}, r"X has the inputs \['a'\], and kind={'b': 'image'} was given; valid: 'a'"),
        (({"a": X}, [0, 1, 0, 1]), {"kind": "image"}, "expected the kind of each input by name"),
        (({"a": X, "b": X[:2]}, [0, 1, 0, 1]), {}, "The inputs differ in length: {'a': 4, 'b': 2}"),
        ((X, [0, 1, 0, 1]), {"inputs": {"a": "b"}}, "names columns of a table; received tuple"),
        (3, {}, "Data of the type int cannot be read"),
    ],
)
def test_errors(source, more, message):
    with pytest.raises(DataError, match=message):
        read(source, **more)


def test_long_texts_as_labels_are_refused_before_they_take_memory():
    with pytest.raises(DataError, match="target has 3,000 labels of up to 1,000,000 characters; expected names, not whole texts"):
        read((np.zeros((3000, 1)), ["x" * 1_000_000, *["y"] * 2999]))  # as an array of texts, 12 GB


def test_unknown_path_kind(tmp_path):
    with pytest.raises(DataError, match=r"The kind of .*a.xyz is unknown by its extension"):
        read(([tmp_path / "a.xyz"], [0]))


def test_override_of_a_data_set_has_its_length():
    with pytest.raises(DataError, match="target has 1 label for 4 examples"):
        read(read((X, [0, 1, 0, 1])), target=[1])


@pytest.mark.parametrize("form", ["csr_matrix", "csr_array", "coo_matrix", "lil_matrix"])
def test_sparse_matrices(form):
    sparse = pytest.importorskip("scipy.sparse")
    data = read((getattr(sparse, form)(np.eye(3)), ["a", "b", "a"]))
    assert data.items.tolist() == np.eye(3).tolist()
    assert read((X, sparse.csr_matrix([[1, 1], [0, 0], [0, 1], [1, 0]]))).targets.tolist() == [[1, 1], [0, 0], [0, 1], [1, 0]]
    with pytest.raises(DataError, match=r"takes 59.6 GiB as an array"):
        read((getattr(sparse, form)((80_000, 100_000)), ["a"] * 80_000))


@pytest.mark.parametrize("labels", [["a", float("nan"), "b", "a"], ["a", None, "b", "a"], np.ma.masked_array([1, 2, 1, 2], [0, 1, 0, 0])])
def test_missing_labels_beside_texts_are_no_class(labels):
    with pytest.raises(DataError, match="missing or not finite in rows 1"):
        read((X, labels))
    assert len(read((X, labels), skip_bad=True)) == 3
    if isinstance(labels, list):
        with pytest.raises(DataError, match="group is missing in rows 1"):
            read((X, [0, 1, 0, 1]), group=labels)


def test_numbers_as_objects_and_what_is_masked():
    assert read((np.array([[1, 2.5], [3, True]], dtype=object), ["a", "b"])).items.tolist() == [[1, 2.5], [3, 1]]
    for gone in (np.array([[1, 2.5], [3, None]], dtype=object), np.ma.masked_array([[1, 2], [3, 4]], [[0, 0], [0, 1]])):
        with pytest.raises(DataError, match=r"1 of 2 examples cannot be used: example 1 \(NaN"):
            read((gone, ["a", "b"]))
    with pytest.raises(DataError, match=r"X has the shape \(2, 2\) and holds 'x' \(str\); expected numbers"):
        read((np.array([[1, 2], [3, "x"]], dtype=object), ["a", "b"]))
    with pytest.raises(DataError, match="Targets are of the type complex128"):
        read((X, np.arange(4) * 1j))
    assert read(X, target=["a", "b", "a", "b"]).classes == ("a", "b")
