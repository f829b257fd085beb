"""Rows of conditions beside the items: known, unknown, missing, nested, and in the identity of a cache."""

from __future__ import annotations

import numpy as np
import pytest

import regraft
from regraft.data import (
    ArrayPreprocessing,
    ColumnsPreprocessing,
    ConditionsPreprocessing,
    PreparedData,
    preprocessing_from_dict,
    with_conditions,
)
from regraft.data.preprocessings.conditions_preprocessing import known_conditions
from regraft.errors import DataError

ROWS = np.arange(12, dtype=np.float32).reshape(4, 3)
LABELS = np.array(["x", "y", "x", "y"])
INNER = ArrayPreprocessing((3,))
KNOWN = ConditionsPreprocessing(INNER, ("ann", "bob"))


def test_rows_count_from_one() -> None:
    data = regraft.read((ROWS, LABELS), condition=["bob", "ann", "mean", "bob"])
    batch = KNOWN.batch_of(data, [0, 1, 2])
    assert batch["condition"].tolist() == [2, 1, 0] and str(batch["condition"].dtype) == "torch.int64"
    assert np.array_equal(batch["inputs"].numpy(), ROWS[:3])


def test_items_without_conditions_take_the_mean_code() -> None:
    (batch,) = KNOWN.batches(ROWS, 8)
    assert batch["condition"].tolist() == [0, 0, 0, 0]


def test_an_unknown_condition_is_told_with_the_known_ones() -> None:
    data = regraft.read((ROWS, LABELS), condition=["ann", "anne", "bob", "bob"])
    with pytest.raises(DataError, match=r"knows no condition 'anne'; did you mean 'ann'\? Known: 'ann', 'bob'\. .*condition='mean'"):
        KNOWN.batch_of(data, [0, 1])
    lenient = ConditionsPreprocessing(INNER, ("ann", "bob"), lenient=True)
    assert lenient.batch_of(data, [0, 1])["condition"].tolist() == [1, 0]


def test_the_condition_column_must_be_there(tmp_path) -> None:
    (tmp_path / "rows.csv").write_text("a,b,label,speaker\n1,2,x,ann\n3,4,y,bob\n", encoding="utf-8")
    assert regraft.read(tmp_path / "rows.csv", target="label", condition="speaker").conditions.tolist() == ["ann", "bob"]
    with pytest.raises(DataError, match=r"'speakr'.*did you mean 'speaker'"):
        regraft.read(tmp_path / "rows.csv", target="label", condition="speakr")


def test_plain_data_give_it_back_and_names_are_found_within() -> None:
    nested = ColumnsPreprocessing(KNOWN, ("age",))
    for one in (KNOWN, nested, with_conditions(nested, ("cid",)), ConditionsPreprocessing(INNER, (), inputs="X")):
        assert preprocessing_from_dict(one.to_dict()) == one
    assert known_conditions(nested) == ("ann", "bob") and known_conditions(INNER) is None
    assert known_conditions(with_conditions(nested, ("cid",))) == ("cid",)
    assert with_conditions(INNER, ("ann", "bob")) == KNOWN and KNOWN.without_conditions() == INNER
    assert nested.without_conditions() == ColumnsPreprocessing(INNER, ("age",)) and INNER.without_conditions() == INNER
    assert "2 conditions: ann, bob" in KNOWN.describe() and KNOWN.item_kind == "array"


def test_columns_and_conditions_stand_beside_each_other() -> None:
    data = regraft.read((ROWS, LABELS), condition=["bob", "ann", "ann", "bob"])
    data = regraft.Dataset(
        data.items, data.targets, data.classes, "array", conditions=data.conditions, columns=ROWS[:, :1], column_names=("age",)
    )
    for both in (ColumnsPreprocessing(KNOWN, ("age",)), ConditionsPreprocessing(ColumnsPreprocessing(INNER, ("age",)), ("ann", "bob"))):
        batch = both.fit(data).batch_of(data, [0, 1])
        assert set(batch) == {"inputs", "columns", "condition"} and batch["condition"].tolist() == [2, 1]


def test_the_identity_of_a_cache_knows_the_conditions() -> None:
    one, other = (regraft.read((ROWS, LABELS), condition=names) for names in (["ann"] * 4, ["ann", "bob", "ann", "bob"]))
    assert PreparedData(one, KNOWN).identity(1) != PreparedData(other, KNOWN).identity(1)
    assert PreparedData(one, INNER).identity(1) == PreparedData(other, INNER).identity(1)


def test_what_is_refused() -> None:
    with pytest.raises(DataError, match="'ann' more than once"):
        ConditionsPreprocessing(INNER, ("ann", "bob", "ann"))
