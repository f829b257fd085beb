from __future__ import annotations

import hashlib
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from regraft.data import Dataset, check_trainable, read
from regraft.data.items import ArrayView
from regraft.errors import DataError, SettingError


def made(targets, classes=("a", "b"), items=None, **more):
    targets = np.asarray(targets)
    return Dataset(np.arange(len(targets)) if items is None else items, targets, classes, "array", **more)


def ids(data):
    return [int(item) for item in data.items]


labels = st.lists(st.integers(0, 4), min_size=2, max_size=80).filter(lambda values: len(set(values)) < len(values))
shares = st.floats(0.05, 0.95)


@settings(max_examples=60, deadline=None)
@given(labels, shares, st.integers(0, 9))
def test_split_is_repeatable_complete_stratified(values, holdout, seed):
    data = made(values, tuple("abcde"))
    first, second = data.split(holdout, seed)
    again = data.split(holdout, seed)
    assert (ids(first), ids(second)) == (ids(again[0]), ids(again[1]))
    assert sorted(ids(first) + ids(second)) == list(range(len(values)))
    assert ids(first) == sorted(ids(first)) and ids(second) == sorted(ids(second))
    counts, kept, given_away = data.class_counts(), first.class_counts(), second.class_counts()
    assert ((kept >= 1) | (counts == 0)).all()
    assert ((given_away >= 1) | (counts < 2)).all()
    assert (np.abs(given_away - counts * holdout) <= 1).all()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), min_size=4, max_size=80), shares, st.integers(0, 9))
def test_groups_never_on_both_sides(rows, holdout, seed):
    classes, groups = np.array(rows).T
    data = made(classes, ("a", "b", "c"), groups=groups.astype(str))
    try:
        first, second = data.split(holdout, seed)
    except DataError as error:
        assert "cannot be split" in str(error)
        totals = {(name, group) for name, group in rows}
        single = {group for name in set(classes) if len({g for n, g in totals if n == name}) == 1 for n, group in totals if n == name}
        assert single == set(groups) or len(set(groups)) == 1
        return
    assert not set(first.groups) & set(second.groups)
    assert len(second) and sorted(ids(first) + ids(second)) == list(range(len(rows)))
    assert ((first.class_counts() > 0) | (data.class_counts() == 0)).all()
    assert ids(second) == ids(data.split(holdout, seed)[1])


def test_grouped_split_stays_stratified():
    generator = np.random.default_rng(3)
    groups = generator.integers(0, 40, 1000)
    data = made((generator.random(1000) < 0.3).astype(int), groups=groups.astype(str))
    _, second = data.split(0.2, 1)
    assert 0.17 < len(second) / 1000 < 0.23
    assert abs(second.targets.mean() - data.targets.mean()) < 0.04


def test_seeds_differ():
    data = made([0, 1] * 20)
    assert ids(data.split(seed=0)[1]) != ids(data.split(seed=1)[1])


def test_split_multi_label_and_regression():
    generator = np.random.default_rng(0)
    rows = (generator.random((200, 3)) < (0.5, 0.1, 0.02)).astype(np.float32)
    first, second = made(rows, ("a", "b", "c"), task="multi-label").split(0.25)
    assert (first.class_counts() > 0).all() and (second.class_counts() > 0).all()
    assert 40 <= len(second) <= 60
    numbers = made(np.arange(100, dtype=np.float32), (), task="regression")
    assert 40 < numbers.split(0.2)[1].targets.mean() < 60
    few = made(np.arange(20, dtype=np.float32), (), task="regression")
    assert len(few.split_indices(0.2)[1]) == 4


def test_a_small_second_part_has_every_label():
    rows = np.zeros((60, 4), np.float32)
    rows[np.arange(8), np.arange(8) // 2] = 1
    first, second = made(rows, ("a", "b", "c", "d"), task="multi-label").split(0.05)
    assert first.class_counts().tolist() == second.class_counts().tolist() == [1, 1, 1, 1]


def test_examples_and_names_of_a_subset_are_sliced_and_pickled():
    parts = read(({"a": np.arange(8).reshape(4, 2), "b": np.ones((4, 1))}, [0, 1, 0, 1]))
    assert parts[1:3][0]["a"].tolist() == [2, 3] and len(parts[1:3]) == 2
    names = pickle.loads(pickle.dumps(made([0, 1, 0, 1]).subset([3, 1]).subset([1, 0]))).names
    assert list(names) == ["example 1", "example 3"] and list(names[1:]) == ["example 3"]


def test_split_errors():
    with pytest.raises(SettingError, match=r"holdout=1.5 is out of range"):
        made([0, 1]).split(1.5)
    with pytest.raises(DataError, match="Data of 1 example cannot be split"):
        made([0]).split()
    with pytest.raises(DataError, match="2 examples cannot be split: every class has one example"):
        made([0, 1]).split()
    with pytest.raises(DataError, match="1 group cannot be split: each of them holds all examples"):
        made([0, 1], groups=np.array(["x", "x"])).split()


def test_subset_is_a_view_of_a_memory_map(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(40).reshape(10, 4))
    items = np.load(tmp_path / "x.npy", mmap_mode="r")
    data = made([0, 1] * 5, items=items).subset([8, 3, 1]).subset([2, 0])
    assert isinstance(data.items, ArrayView) and data.items.base is items
    assert data.items.shape == (2, 4) and data.items.dtype == items.dtype
    np.testing.assert_array_equal(np.asarray(data.items), items[[1, 8]])
    np.testing.assert_array_equal(data[1], items[8])
    np.testing.assert_array_equal(np.asarray(data.items[:1]), items[[1]])
    assert data.name_of(0) == "example 1"


def test_names_groups_conditions_travel():
    data = made([0, 1, 1], names=("x", "y", "z"), groups=np.array(["g", "h", "h"]), conditions=np.array(["p", "q", "r"])).subset([2, 0])
    assert (data.names, list(data.groups), list(data.conditions)) == (("z", "x"), ["h", "g"], ["r", "p"])


def test_digest_is_of_the_content(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"bytes")
    expected = hashlib.blake2b(b"bytes", digest_size=16).digest()
    assert Dataset([path], np.array([0]), ("a",), "image").digest(0) == expected
    assert Dataset([str(path)], np.array([0]), ("a",), "image").digest(0) == expected
    assert Dataset(["bytes"], np.array([0]), ("a",), "text").digest(0) == expected
    arrays = [np.zeros((2, 3), "f4"), np.zeros((3, 2), "f4"), np.zeros((2, 3), "i4"), np.ones((2, 3), "f4")]
    digests = {made([0], items=array[None]).digest(0) for array in arrays}
    assert len(digests) == 4 and all(len(digest) == 16 for digest in digests)


def test_with_classes():
    data = made([0, 1, 1]).with_classes(["c", "B ", "A"])
    assert list(data.targets) == [2, 1, 1] and data.classes == ("c", "B ", "A")
    rows = made(np.array([[1, 0], [1, 1]], "f4"), task="multi-label").with_classes(["b", "x", "a"])
    np.testing.assert_array_equal(rows.targets, [[0, 0, 1], [1, 0, 1]])
    with pytest.raises(DataError, match=r"not among the 2 classes: 'a'\. Rename them, or add them to the classes; did you mean 'aa'"):
        made([0, 1, 1]).with_classes(["aa", "b"])
    assert made([1, 1]).with_classes(["b"]).classes == ("b",)


def test_constructor_errors():
    with pytest.raises(DataError, match="3 examples and 2 targets"):
        made([0, 1], items=[1, 2, 3])
    with pytest.raises(DataError, match="2 examples and 1 groups"):
        made([0, 1], groups=np.array(["g"]))
    with pytest.raises(DataError, match="Class indices run from 0 to 2; expected 0 to 1"):
        made([0, 2])
    with pytest.raises(DataError, match=r"Multi-label targets have the shape \(2, 3\); expected \(2, 2\)"):
        made(np.zeros((2, 3)), task="multi-label")
    with pytest.raises(DataError, match="No kind of data is called 'imag'; did you mean 'image'"):
        Dataset([Path("x")], np.array([0]), ("a",), "imag")
    with pytest.raises(DataError, match="No task of data is called"):
        made([0], task="clasification")


def test_check_trainable():
    check_trainable(made([0, 0, 1, 1]))
    with pytest.raises(DataError, match="only one class: 'a'"):
        check_trainable(made([0, 0]))
    with pytest.raises(DataError, match="Classes with one example cannot be split: 'b'"):
        check_trainable(made([0, 0, 1]))
    check_trainable(made([0, 0, 1]), judged_apart=True)
    with pytest.raises(DataError, match="All 2 targets are equal"):
        check_trainable(made(np.ones(2), (), task="regression"))
    with pytest.raises(DataError, match="No example has any of the 2 labels"):
        check_trainable(made(np.zeros((3, 2), "f4"), task="multi-label"))
