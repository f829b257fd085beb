"""Predictions as a table."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.networks.parts.head import Head
from regraft.networks.predictions import predictions, together

pytest.importorskip("pandas")


def _head(kind: str, *, task: str, classes: tuple[str, ...]) -> Head:
    return Head(task, classes, kind, "linear", "layer", np.zeros((len(classes), 3), np.float32), np.zeros(len(classes), np.float32))


def test_a_table_has_a_row_an_example_and_columns_by_task() -> None:
    raw = np.array([[2.0, 0.0], [0.0, 1.0], [3.0, 3.5]], np.float32)
    first = predictions(raw, _head("classification", task="colour", classes=("red", "blue")))
    second = predictions(raw[:, :1], _head("regression", task="size", classes=("cm",)))
    table = together({"colour": first, "size": second}).to_frame()
    assert list(table) == ["label", "p(red)", "p(blue)", "size.label", "size.cm"] and len(table) == 3
    assert table["label"].tolist() == ["red", "blue", "blue"] and np.allclose(table["p(red)"] + table["p(blue)"], 1)
    assert table["size.cm"].tolist() == [2.0, 0.0, 3.0]
    assert list(first.to_frame()) == ["label", "p(red)", "p(blue)"]
