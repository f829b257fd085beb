"""Arrays that a network cannot take are refused before anything starts, by one error that says what was received and expected."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.errors import InputError

DRAW = np.random.default_rng(0)
LABELS = np.arange(24) % 2


def _items(*shape: int) -> np.ndarray:
    return DRAW.normal(size=(24, *shape)).astype(np.float32)


def _rows(family: str = "torch") -> Any:
    if family == "keras":
        keras = pytest.importorskip("keras")
        return keras.Sequential([keras.Input((8,)), keras.layers.Dense(6, "relu"), keras.layers.Dense(2)])
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 2))


class Words(nn.Module):
    """Reads tokens, and numbers beside them if `both`."""

    def __init__(self) -> None:
        super().__init__()
        self.rows, self.numbers, self.head = nn.Embedding(10, 4), nn.Linear(2, 4), nn.Linear(4, 2)

    def forward(self, words: torch.Tensor, numbers: torch.Tensor | None = None) -> torch.Tensor:
        hidden = self.rows(words).mean(1)
        return self.head(hidden if numbers is None else hidden + self.numbers(numbers))  # type: ignore[no-any-return]


def _words_of_keras() -> Any:
    keras = pytest.importorskip("keras")
    words, numbers = keras.Input((3,), name="words", dtype="int32"), keras.Input((2,), name="numbers")
    parts = [keras.layers.Flatten()(keras.layers.Embedding(10, 4)(words)), numbers]
    return keras.Model([words, numbers], keras.layers.Dense(2)(keras.layers.concatenate(parts)))


def _tokens() -> nn.Module:
    return nn.Sequential(nn.Embedding(10, 4), nn.Flatten(), nn.Linear(12, 2))


OUTSIDE = DRAW.integers(0, 10, (24, 3)) + np.where(np.arange(24) == 17, 40, 0)[:, None]  # one example of tokens without a row
BESIDE = {"words": (3,), "numbers": (2,)}
CASES: dict[str, tuple[Any, Any, Any, str]] = {
    "columns": (_rows, (8,), _items(5), r"\(5,\).*\(8,\)"),
    "columns, of Keras": (lambda: _rows("keras"), None, _items(5), r"\(5,\).*\(8,\)"),
    "columns, where the input was guessed": (_rows, None, _items(5), r"\(5,\).*\(8,\)"),
    "axes": (_rows, (8,), _items(4, 5), r"\(4, 5\).*\(8,\)"),
    "tokens that are no whole numbers": (_tokens, (3,), _items(3), "takes whole numbers.*received"),
    "tokens without a row": (_tokens, (3,), OUTSIDE, "no row for"),
    "a named input of tokens": (Words, {"words": (3,)}, OUTSIDE, r"numbers \d to 4\d.*no row for"),
    "tokens beside numbers": (Words, BESIDE, {"words": OUTSIDE, "numbers": _items(2)}, r"numbers \d to 4\d in 'words': it has no row for"),
    "tokens beside numbers, of Keras": (_words_of_keras, None, {"words": OUTSIDE, "numbers": _items(2)}, "in 'words': it has no row for"),
    "inputs in a list": (Words, BESIDE, [OUTSIDE % 10, _items(2)], "X is a list of 2 arrays of 24 examples each; expected the .* by name"),
    "inputs in a list, of Keras": (
        _words_of_keras,
        None,
        [OUTSIDE % 10, _items(2)],
        r"list of 2 arrays of 24 examples each.* by name: \{'",
    ),
    "tokens below zero": (_tokens, (3,), DRAW.integers(-3, 5, (24, 3)), "no row for"),
}


@pytest.mark.parametrize("name", CASES)
def test_arrays_that_do_not_fit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make, inputs, items, message = CASES[name]
    net = regraft.load(make(), inputs=inputs)
    monkeypatch.setattr(sys.modules["regraft.planning.carry_out"], "run_strategy", lambda *_given: pytest.fail("something was started"))
    with pytest.raises(InputError, match=message):
        regraft.adapt(net, (items, LABELS), strategy="head", epochs=1)
    with pytest.raises(InputError, match=message):
        net.predict(items)
    with pytest.raises(InputError, match=message):
        regraft.profile(net, (items, LABELS), cache="memory")


def test_tokens_without_a_row_in_a_test_set_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    net = regraft.load(_tokens(), inputs=(3,))
    monkeypatch.setattr(sys.modules["regraft.planning.carry_out"], "run_strategy", lambda *_given: pytest.fail("something was started"))
    with pytest.raises(InputError, match="no row for"):
        regraft.adapt(net, (OUTSIDE % 10, LABELS), test=(OUTSIDE, LABELS), strategy="head", cache="memory")


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_one_row_without_an_axis_for_the_batch_is_told_how_to_get_one(family: str) -> None:
    net = regraft.load(_rows(family), inputs=(8,) if family == "torch" else None)
    with pytest.raises(InputError, match=r"Give one example with an axis for the batch: X\[None\]"):
        net.predict(_items(8)[0])
    assert len(net.predict(_items(8)[0][None]).labels) == 1


@pytest.mark.parametrize("items", [_items(8) + 1j, np.zeros((24, 8), "datetime64[s]")], ids=["complex", "dates"])
def test_what_is_no_number_is_refused(items: np.ndarray) -> None:
    net = regraft.load(_rows(), inputs=(8,))
    with pytest.raises(InputError, match=r"expected numbers"):
        regraft.adapt(net, (items, LABELS), strategy="head", epochs=1)
    with pytest.raises(InputError, match=r"Examples of the type .* and the shape \(8,\) .*expected numbers"):
        net.predict(items)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_columns_by_name_are_refused_by_a_network_that_knows_no_names(family: str) -> None:
    net = regraft.load(_rows(family), inputs=(8,) if family == "torch" else None)
    adapted = regraft.adapt(net, (_items(8), LABELS), strategy="probe", cache="memory", baselines=False).network
    columns = {f"c{at}": column for at, column in enumerate(_items(8).T)}
    with pytest.raises(InputError, match=r"'c0', .* and 3 more was received; this network knows no names of columns.*an array \(N, d\)"):
        adapted.predict(columns)
