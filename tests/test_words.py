"""Words that records and messages share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import regraft
from regraft.cli.commands.evaluation import _cell
from regraft.planning.search.bench import METRICS
from regraft.report.results import FIGURES, score_table
from regraft.words import SHARES, counted, metric_words

NOUNS = ("example", "class", "numeric column", "test example", "file", "image file", "row", "epoch", "block", "output", "feature", "link")


@given(st.integers(0, 10**6), st.sampled_from(NOUNS))
def test_a_single_thing_has_the_singular(number: int, noun: str) -> None:
    shown, words = counted(number, noun).split(" ", 1)
    assert int(shown.replace(",", "")) == number and (words == noun) == (number == 1)
    assert words in (noun, noun + "s", noun + "es") and not words.endswith("sss")


def test_records_of_one_thing_have_the_singular() -> None:
    table = regraft.read({"width": [1.0, 2.0], "label": [0.5, 0.7]}, target="label")
    arrays = regraft.read((np.zeros((1, 2), np.float32), ["a"]))
    net = regraft.load(nn.Sequential(nn.Linear(1, 1)), inputs=(1,))
    said = [*table.notes, repr(table), repr(arrays), repr(net), net.summary()]
    for one in ("1 numeric column:", "1 example (", "1 class (a)", "1 block", "1 feature, 1 output"):
        assert any(one in text for text in said), (one, said)


@pytest.mark.parametrize("key", sorted({key for key, _ in FIGURES} | {key for keys in METRICS.values() for key in keys}))
def test_commands_search_and_report_show_a_metric_in_one_format(key: str) -> None:
    assert (key in SHARES) == (key not in ("mae", "rmse", "r2", "log_loss", "brier"))
    large = {} if key in SHARES else {12345.6: "12,346", -54321.0: "-54,321"}
    for value, told in {0.86812: "86.8 %" if key in SHARES else "0.8681", **large}.items():
        assert _cell(key, value) == metric_words(key, value) == told
        assert score_table({"examples": 9, key: value})["rows"][-1][1] == [told]
