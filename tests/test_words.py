"""Words that records and messages share."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import get_scorer_names
from torch import nn

import regraft
from regraft.cli.commands.evaluation import _cell
from regraft.planning.search.bench import METRICS
from regraft.report.results import score_table
from regraft.training.loop import _figures
from regraft.words import FIGURES, SHARES, counted, metric_words

NOUNS = (
    *("example", "class", "numeric column", "test example", "file", "image file", "row", "epoch", "block"),
    *("output", "feature", "link", "copy", "entry"),
)


@given(st.integers(0, 10**6), st.sampled_from(NOUNS))
def test_a_single_thing_has_the_singular(number: int, noun: str) -> None:
    shown, words = counted(number, noun).split(" ", 1)
    assert int(shown.replace(",", "")) == number and (words == noun) == (number == 1)
    assert words in (noun, noun + "s", noun + "es", noun[:-1] + "ies") and not words.endswith(("sss", "ys"))


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


def test_errors_in_the_unit_of_the_targets_are_shown_however_small_they_are() -> None:
    assert metric_words("mae", 3e-6) == "3e-06" and metric_words("rmse", 2.5e-7) == "2.5e-07"
    assert metric_words("ece", 1e-9) == "0.0 %" and metric_words("r2", -1e-6) == metric_words("log_loss", 1e-9) == "0.0000"


@pytest.mark.parametrize("name", get_scorer_names())
def test_a_metric_of_the_user_is_shown_alike_in_progress_and_report(name: str) -> None:
    told = metric_words(name, 0.86812)
    share = any(word in name.split("_") for word in ("accuracy", "f1", "precision", "recall", "jaccard"))
    assert told == ("86.8 %" if share else "0.8681")
    assert score_table({"examples": 9, "metrics": {name: 0.86812}})["rows"][-1] == (name, [told])
    assert _figures({f"validation_{name}": 0.86812}) == f"validation {name.replace('_', ' ')} {told}"
    assert metric_words(name, 93.0) == "93"  # a metric of the user's own that is in per cent already
    assert metric_words(name, float("nan")) == "–"


def test_no_message_puts_a_point_behind_a_question() -> None:
    source = Path(regraft.__file__).parent
    assert not [str(path) for path in source.rglob("*.py") if re.search(r"near_names\([^{}]*\)\}\.", path.read_text(encoding="utf-8"))]


def test_an_evaluation_is_printed_in_lines() -> None:
    layer = nn.Linear(2, 2)
    layer.load_state_dict({"weight": torch.eye(2), "bias": torch.zeros(2)})
    net = regraft.load(nn.Sequential(layer), classes=["left", "right"], inputs=(2,))
    found = regraft.evaluate(net, (np.eye(2, dtype=np.float32)[[0, 1, 1]], ["left", "right", "left"]))
    assert repr(found) == "<Evaluation of 3 examples: accuracy 66.7 %  (20.8 % to 93.9 %)>"
    assert [line.split() for line in str(found).splitlines()[-2:]] == [
        ["recall", "of", "'left'", "50.0", "%", "of", "2"],
        ["recall", "of", "'right'", "100.0", "%", "of", "1"],
    ]
    assert "66.7 %" in found._repr_html_()


_VERBS = "are|were|have|do|hold|lie|name|fit|end|need|fail|lead"


def test_a_count_and_the_verb_behind_it_agree() -> None:
    """No message writes a plural and its verb behind a number that may be 1: `counted(number, "noun", "verb")` does."""
    found = []
    for path in sorted((Path(__file__).parent.parent / "src").rglob("*.py")):
        for text in (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.JoinedStr)):
            for before, value, after in zip([None, *text.values], text.values, text.values[1:], strict=False):
                of = isinstance(before, ast.Constant) and str(before.value).endswith((" of ", " of all "))  # the verb has another subject
                if isinstance(value, ast.FormattedValue) and isinstance(after, ast.Constant) and not of:
                    number, words = ast.unparse(value.value), str(after.value)
                    plural = (
                        r" ([a-z-]+ )?[a-z]+s" if re.match(r"len\(|int\(|sum\(|count$", number) else "" if "counted(" in number else None
                    )
                    if plural is not None and re.match(rf"{plural} ({_VERBS})\b", words):
                        found.append(f"{path.name}:{value.lineno}: {{{number}}}{words[:40]}")
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((1, "example", "are"), "1 example is"),
        ((2, "example", "are"), "2 examples are"),
        ((1, "copy", "have"), "1 copy has"),
        ((0, "class", "do"), "0 classes do"),
        ((1, "recording", "end", 40), "1 of 40 recordings ends"),
        ((2000, "recording", "end", 4000), "2,000 of 4,000 recordings end"),
        ((1, "name", "fit", 1), "1 of 1 name fits"),
    ],
)
def test_counts_with_their_verbs(counts: tuple[Any, ...], said: str) -> None:
    assert counted(*counts[:2], verb=counts[2], of=counts[3] if len(counts) > 3 else None) == said
