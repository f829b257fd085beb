"""What is learned from can be predicted from: pairs (X, y), tables of Arrow and lazy frames of polars give what plain arrays give."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data.items import without_labels

pd, pl, arrow = (pytest.importorskip(name) for name in ("pandas", "polars", "pyarrow"))

COUNT = 48
KINDS = np.arange(COUNT) % 3
ROWS = (np.random.default_rng(0).normal(size=(COUNT, 4)) + 3 * np.eye(3, 4)[KINDS]).astype(np.float32)
LABELS = np.array(["a", "b", "c"])[KINDS]
NAMES = ["u", "v", "w", "z"]


def _frame(labels: bool = True) -> Any:
    frame = pd.DataFrame(ROWS, columns=NAMES)
    return frame.assign(label=LABELS) if labels else frame


FORMS: dict[str, Callable[[], Any]] = {
    "arrays": lambda: (ROWS, LABELS),
    "tensor and list": lambda: (torch.from_numpy(ROWS), LABELS.tolist()),
    "array and series": lambda: (ROWS, pd.Series(LABELS)),
    "list of arrays and array": lambda: (list(ROWS), LABELS),
    "array and tasks": lambda: (ROWS, {"label": LABELS}),
    "frame": _frame,
    "frame and series": lambda: (_frame(labels=False), pd.Series(LABELS)),
    "frame and array": lambda: (_frame(labels=False), LABELS),
    "polars frame": lambda: pl.from_pandas(_frame()),
    "polars frame and series": lambda: (pl.from_pandas(_frame(labels=False)), pl.Series(LABELS)),
    "lazy frame": lambda: pl.from_pandas(_frame()).lazy(),
    "lazy frame and array": lambda: (pl.from_pandas(_frame(labels=False)).lazy(), LABELS),
    "arrow": lambda: arrow.Table.from_pandas(_frame()),
    "arrow and array": lambda: (arrow.Table.from_pandas(_frame(labels=False)), LABELS),
}


@pytest.fixture(scope="module")
def net() -> Any:
    torch.manual_seed(0)
    return regraft.load(nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), inputs=(4,), classes=["a", "b", "c"])


@pytest.fixture(scope="module")
def plain(net: Any) -> Any:
    return regraft.adapt(net, (ROWS, LABELS), strategy="head", cache="memory").network


@pytest.mark.parametrize("form", FORMS)
def test_each_form_is_learned_from_and_predicted_from_alike(form: str, net: Any, plain: Any) -> None:
    learned = regraft.adapt(net, FORMS[form](), strategy="head", cache="memory").network
    np.testing.assert_array_equal(learned.head.weight, plain.head.weight)
    for network in (learned, plain) if isinstance(FORMS[form](), tuple) else (learned,):  # of arrays, for which all columns are inputs
        np.testing.assert_array_equal(network.predict(FORMS[form]()).probabilities, plain.predict(ROWS).probabilities)
        np.testing.assert_array_equal(network.features(FORMS[form]()), plain.features(ROWS))
    assert regraft.evaluate(learned, FORMS[form]()).confusion().sum() == COUNT


@pytest.mark.parametrize(
    ("given", "pair"),
    [
        ((ROWS, LABELS), True),
        ((ROWS[:, :, None], ROWS), True),
        ((["first text", "second"], ["a", "b"]), True),
        (({"x": ROWS}, LABELS), True),
        (({"x": ROWS}, {"side": LABELS}), False),
        ((ROWS[0], ROWS[1]), False),
        ((ROWS, ROWS), False),
        (("one text", "another"), False),
        ((np.zeros((8, 8, 3)), np.zeros((8, 4, 3))), False),
        ((np.zeros((3, 8)), np.zeros(8)), False),
        ([ROWS, LABELS], False),
    ],
)
def test_a_tuple_is_a_pair_only_where_it_cannot_be_two_examples(given: Any, pair: bool) -> None:
    assert without_labels(given) is (given[0] if pair else given)
