"""The report: whole, escaped, self-contained, and there with any subset of the facts."""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
import wave
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from regraft.console import duration
from regraft.errors import DataError, MissingExtraError
from regraft.report import picture_uri, read_facts, sound_uri, verdict, write_facts, write_report
from regraft.report.figures import Axis, Bar, interval_rows, nice_ticks, stacked_bar
from regraft.report.planes import axis_of, confusion_matrix, epochs_of, kept_epochs, line_chart, stage_starts
from regraft.report.results import confused_pairs, curves, penalty_figure, tiles
from regraft.report.sections import _candidate_figure as candidate_figure
from regraft.report.sections import _trial_curves as trial_curves
from regraft.words import candidate_rows

EVIL = '<script>alert("x")</script>'
NAMES = ["bus", "tram", EVIL]


def cells(table: Any) -> dict[str, list[int]]:
    """The nonzero cells of a matrix, as `judge` gives them."""
    true, predicted = np.nonzero(np.asarray(table))
    return {"true": true.tolist(), "predicted": predicted.tolist(), "count": np.asarray(table)[true, predicted].tolist()}


def judged(accuracy: float, low: float, high: float, **more: Any) -> dict[str, Any]:
    return {"examples": 360, "accuracy": accuracy, "accuracy_interval": [low, high], **more}


@pytest.fixture
def facts() -> dict[str, Any]:
    figures = judged(0.9, 0.86, 0.93, macro_f1=0.89, log_loss=0.31, ece=0.02, brier=0.15)
    figures["confusion"] = {"true": [0, 0, 1, 1, 2, 2], "predicted": [0, 1, 1, 2, 0, 2], "count": [100, 3, 110, 9, 5, 133]}
    figures["per_class"] = {name: {"recall": 0.9, "interval": [0.8, 0.95], "examples": 120} for name in NAMES}
    return {
        "title": f"the {EVIL} network",
        "verdict": f"It is good, {EVIL}.",
        "created": "2026-01-02",
        "versions": {"regraft": "0.1.0"},
        "network": {"name": EVIL, "family": "torch", "parameters": 3400000, "blocks": 17, "head": EVIL},
        "data": {"examples": 1797, "classes": NAMES, "counts": dict.fromkeys(NAMES, 5), "split": {"training": 9, EVIL: 3}, "notes": [EVIL]},
        "preprocessing": EVIL,
        "strategy": {"name": "partial", "reasons": [EVIL], "settings": {EVIL: EVIL, "clip": None}},
        "history": [
            {"epoch": 1, "stage": "head", "train_loss": 2.0, "validation_loss": float("nan"), "validation_accuracy": 0.5, "seconds": 1.0},
            {"epoch": 2, "stage": EVIL, "train_loss": 1.0, "validation_loss": 1.2, "validation_accuracy": 0.7, "seconds": 1.0},
        ],
        "scores": {"holdout": figures, "test": figures},
        "baselines": {"majority": judged(0.4, 0.35, 0.45), EVIL: judged(0.8, 0.7, 0.85)},
        "account": {"kept": ["bus"], "new": [EVIL], "dropped": [f"old {k}" for k in range(50)], "rules": {"bus": EVIL}, "notes": [EVIL]},
        "cost": {"read": 1.0, "frozen": 2.0, "train": 3.0, "total": 7.0, "frozen_forward_examples": 900},
        "worst": [
            {"name": EVIL, "true": EVIL, "predicted": "bus", "probability": 0.9, "media": picture_uri(np.eye(8)), "media_kind": "image"},
            {"name": "b", "true": "bus", "predicted": "tram", "media": "data:audio/wav;base64,UklGRg==", "media_kind": "audio"},
            {"name": "c", "true": "bus", "predicted": "tram", "media": "https://evil.example/x.png", "media_kind": "image", "text": EVIL},
        ],
        "warnings": [EVIL],
    }


def shown(page: Path) -> str:
    """Return a page with the spaces that a text search has."""
    return page.read_text(encoding="utf-8").replace("\u00a0%", " %")


class Page(HTMLParser):
    """Gathers what a test asks of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes something else"


def test_page_is_well_formed_escaped_and_self_contained(tmp_path: Path, facts: dict[str, Any]) -> None:
    text = write_report(tmp_path / "deep" / "r.html", facts).read_text(encoding="utf-8")
    page = Page(text)
    assert text.startswith("<!DOCTYPE html>") and page.open == []
    assert not [tag for tag, _ in page.tags if tag in ("script", "link", "iframe", "object")]
    for tag, attributes in page.tags:
        for name in ("src", "href", "xlink:href", "action"):
            assert (attributes.get(name) or "data:").startswith("data:"), (tag, attributes)
        assert not any(name.startswith("on") for name in attributes)
        assert tag != "img" or attributes["alt"]
        assert tag != "th" or attributes["scope"] in ("row", "col")
        assert "plane" not in (attributes.get("class") or "").split() or (attributes["role"] == "img" and attributes["aria-label"])
    assert "evil.example" not in text
    assert "default-src 'none'" in text
    assert "@media (prefers-color-scheme: dark)" in text and "@media print" in text


def test_page_shows_the_facts(tmp_path: Path, facts: dict[str, Any]) -> None:
    text = shown(write_report(tmp_path, facts))
    numbers = ("90.0 %", "3,400,000", "40.0 %", "900", "not finite", "44 more", "2026-01-02")
    for word in (*numbers, "class weights of new classes"):
        assert word in text, word
    assert text.count("<figure>") == text.count("<figcaption>") == 8
    assert (tmp_path / "report.html").is_file() and len(list(tmp_path.iterdir())) == 1


def test_every_fact_but_the_verdict_may_be_absent(tmp_path: Path, facts: dict[str, Any]) -> None:
    for left_out in facts:
        if left_out != "verdict":
            Page(write_report(tmp_path / "r.html", {k: v for k, v in facts.items() if k != left_out}).read_text(encoding="utf-8"))
        Page(write_report(tmp_path / "r.html", {"verdict": "v", left_out: facts[left_out]}).read_text(encoding="utf-8"))
        Page(write_report(tmp_path / "r.html", {**dict.fromkeys(facts), "verdict": "v"}).read_text(encoding="utf-8"))
    with pytest.raises(DataError, match=r"needs a 'verdict'; received \['title'\]"):
        write_report(tmp_path / "r.html", {"title": "t"})


def test_other_kinds_of_task(tmp_path: Path) -> None:
    each = {"mae": 0.5, "rmse": 0.7, "r2": None}
    error = {"examples": 9, "mae_interval": [0.4, 0.6], **each, "per_class": {"u": each}}
    text = write_report(
        tmp_path / "r.html", {"verdict": "v", "scores": {"holdout": error}, "baselines": {"mean": {"mae": 1.0}}}
    ).read_text()
    assert "mean absolute error" in text and "0.5  (0.4 to 0.6)" in text and "the mean of the targets" in text
    labels = judged(0.9, 0.8, 0.95, micro_f1=0.5, map=None, per_class={"a": {"recall": None, "interval": [0, 1], "examples": 0}})
    assert "micro F1" in write_report(tmp_path / "r.html", {"verdict": "v", "scores": {"holdout": labels}}).read_text()


def test_a_section_for_each_of_several_tasks_with_its_labels_and_baselines(tmp_path: Path) -> None:
    label = {"precision": None, "recall": 0.25, "interval": [0, 1], "examples": 4, "average_precision": 0.125}
    tags = judged(0.9, 0.8, 0.95, micro_f1=0.5, macro_f1=0.4, map=0.3, thresholds=[0.271], per_class={EVIL: label})
    first = judged(0.8, 0.7, 0.85)
    tasks = {
        "colour": {"kind": "classification", **first},
        EVIL: {"kind": "multi-label", **tags, "baselines": {"mean": judged(0.7, 0.6, 0.8)}},
    }
    facts = {"verdict": "v", "scores": {"holdout": {**first, "tasks": tasks}}, "account": {"figures": {"max_score_change": 0.00123}}}
    text = shown(write_report(tmp_path / "r.html", facts))
    assert Page(text).open == []
    for word in ("Task colour: classification", "&gt;: multi-label", "0.271", "12.5 %", "25.0 %", "the mean of the targets", "macro F1"):
        assert word in text, word
    assert "largest change of an old logit" in text and "0.00123" in text
    alone = write_report(tmp_path / "r.html", {"verdict": "v", "scores": {"holdout": tags}}).read_text()
    assert "0.271" in alone and "Task " not in alone


def test_the_runs_of_a_merged_history_are_told_apart(tmp_path: Path) -> None:
    history = [{"epoch": 1, "stage": "head", "train_loss": 1.0 / run, "run": run} for run in (1, 2)]
    text = write_report(tmp_path / "r.html", {"verdict": "v", "history": history}).read_text()
    assert "run 1: head" in text and "run 2: head" in text
    assert stage_starts([{"stage": "head"}, {"stage": "full"}]) == {1.0: "head", 2.0: "full"}
    assert "run 1" not in write_report(tmp_path / "r.html", {"verdict": "v", "history": history[:1]}).read_text()


def test_many_classes_become_a_table_of_pairs(tmp_path: Path) -> None:
    names = [f"c{k}" for k in range(50)]
    table = np.eye(50, dtype=int) * 8
    table[3, 4] = 2
    rows = {name: {"recall": 0.5, "interval": [0.4, 0.6], "examples": 8} for name in names}
    figures = judged(0.9, 0.8, 0.95, confusion=cells(table), per_class=rows)
    text = shown(write_report(tmp_path / "r.html", {"verdict": "v", "scores": {"holdout": figures}}))
    assert "Confusion matrix" not in text and "20.0 %" in text and "the 40 weakest of 50" in text


def test_the_message_without_jinja(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises((MissingExtraError, ImportError), match="jinja2"):
        write_report(tmp_path / "r.html", {"verdict": "v"})
    assert not list(tmp_path.iterdir())


def test_a_page_that_cannot_be_written_is_one_message(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"The page '.*r\.html' cannot be written: .*\. Give another path\."):
        write_report(tmp_path / "file" / "r.html", {"verdict": "v"})


def test_facts_are_kept_and_read(tmp_path: Path, facts: dict[str, Any]) -> None:
    facts["history"][0]["validation_loss"] = None
    write_facts(tmp_path, {**facts, "where": Path("x")})
    assert read_facts(tmp_path) == {**facts, "where": "x"}
    write_report(tmp_path, read_facts(tmp_path))
    for file in (tmp_path / "scores.json", tmp_path / "report.json"):  # as earlier versions wrote them
        file.write_text(file.read_text().replace('"examples"', '"items"').replace("forward_examples", "forward_items"))
    assert read_facts(tmp_path) == {**facts, "where": "x"}
    facts["data"]["counts"] = facts["strategy"]["settings"] = {"items": 3}  # a class of that name keeps it
    write_facts(tmp_path, facts)
    assert read_facts(tmp_path) == facts
    stored = [json.loads((tmp_path / name).read_text()) for name in ("scores.json", "report.json")]
    assert set(stored[0]) == {"verdict", "scores", "baselines", "cost"} and not set(stored[0]) & set(stored[1])  # each of them once
    write_facts(tmp_path, {"verdict": "v", "scores": {"holdout": {"confusion": {"true": [0, 0], "predicted": [0], "count": [1]}}}})
    with pytest.raises(DataError, match="lists of 2, 1 and 1 numbers"):
        read_facts(tmp_path)
    (tmp_path / "report.json").write_text("[1]")
    with pytest.raises(DataError, match="holds a list"):
        read_facts(tmp_path)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(DataError, match=r"report\.json' cannot be read as a report of a saved folder: .*Save the result again\."):
        read_facts(tmp_path)
    with pytest.raises(DataError, match=r"nowhere holds no report\.json"):
        read_facts(tmp_path / "nowhere")


# ── verdict ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_verdict_clear_gain() -> None:
    scores = {"holdout": judged(0.5, 0.4, 0.6), "test": judged(352 / 360, 0.957, 0.989)}
    baselines = {"scratch": judged(312 / 360, 0.828, 0.898), "majority": judged(37 / 360, 0.08, 0.14)}
    assert verdict(scores, baselines) == (
        "The adapted network classifies 97.8 % of the 360 test examples correctly (95 % interval 95.7 to 98.9 %). "
        "This is 11.1 points above the same network trained from scratch. The majority class gives 10.3 %."
    )


@pytest.mark.parametrize(
    ("baselines", "words"),
    [
        ({}, "(95 % interval 86.0 to 93.0 %). No baseline was run."),
        ({"ridge": judged(0.89, 0.85, 0.92)}, "1.0 points above the closed-form probe (ridge). The difference is not significant"),
        ({"probe": judged(0.91, 0.87, 0.94)}, "1.0 points below the closed-form probe of the deepest features. The difference is not"),
        ({"probe": judged(0.90, 0.86, 0.93)}, "This is no better than the closed-form probe of the deepest features."),
        ({"probe": judged(0.97, 0.95, 0.99)}, "But the closed-form probe of the deepest features is better: 97.0 %, 7.0"),
        ({"my_own": judged(0.5, 0.4, 0.6)}, "40.0 points above my own."),
        ({"probe": judged(0.89, 0.85, 0.92, difference={"interval": [0.002, 0.02]})}, "1.0 points above the closed-form probe of the"),
        ({"majority": judged(0.5, 0.4, 0.6)}, "40.0 points above the majority class."),
    ],
)
def test_verdict_is_honest(baselines: dict[str, Any], words: str) -> None:
    assert words in verdict(judged(0.9, 0.86, 0.93), baselines)


def test_what_was_not_tried_has_no_estimate() -> None:
    tried = {"name": "head", "seconds": 1.0, "estimate": 0.91, "interval": [0.87, 0.94], "figure": "accuracy", "why": ""}
    losses = {"estimate": 3183.2, "interval": [2633.0, 3733.0], "figure": "loss"}
    candidates = [tried, tried | {"name": "scratch", "why": "not tried: too long"}, tried | losses, {"name": "full"}]
    assert [row[3] for row in candidate_rows(candidates)] == [
        "91.0 % (87.0 to 94.0 %)",
        "",
        "loss 3183 (2633 to 3733)",
        "",
    ]
    figure = candidate_figure(candidates)
    assert figure is not None and "head" in figure["body"] and "scratch" not in figure["body"]
    assert candidate_figure(candidates[1:2]) is None


def test_the_curves_of_trials_are_drawn(tmp_path: Path) -> None:
    tried = {"name": "full", "seconds": 1.0, "estimate": 0.91, "interval": [0.87, 0.94], "figure": "accuracy", "why": "chosen"}
    candidates = [tried | {"losses": [1.2, 0.7]}, tried | {"name": EVIL, "losses": [0.9, 0.8]}, tried | {"name": "head"}]
    figure = trial_curves(candidates)
    assert figure is not None and figure["body"].count("<polyline") == 2 and "epoch 2: 0.7" in figure["body"]
    assert "Loss of the trials by epoch" in shown(
        write_report(tmp_path, {"verdict": "v", "strategy": {"name": "auto"}, "candidates": candidates})
    )
    assert trial_curves(candidates[2:]) is None


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (judged(0.89, 0.85, 0.92), "no clear difference"),
        (judged(0.9, 0.86, 0.93), "no clear difference"),
        (judged(0.5, 0.4, 0.6), "+40.0 points"),
        (judged(0.97, 0.95, 0.99), "−7.0 points"),
        (judged(0.89, 0.85, 0.92, difference={"interval": [0.002, 0.02]}), "+1.0 points"),
    ],
)
def test_only_a_clear_difference_is_a_large_number(other: dict[str, Any], said: str) -> None:
    found = tiles({"baselines": {"probe": other}}, "holdout", figures=judged(0.9, 0.86, 0.93))
    assert [value for name, value, _ in found if name == "compared with the best baseline"] == [said]
    errors = {"mae": 0.5, "mae_interval": [0.4, 0.6]}, {"mae": 0.55, "mae_interval": [0.45, 0.65]}
    assert tiles({"baselines": {"mean": errors[1]}}, "holdout", figures=errors[0])[1][1] == "no clear difference"


def test_what_changes_the_meaning_stands_before_the_verdict(tmp_path: Path) -> None:
    result, first = verdict({}, {}), "Started from RANDOM weights. Warning: a shortcut."
    said = ["Warning: a shortcut.", "Warning: few examples."]
    page = write_report(tmp_path / "r.html", {"verdict": f"{first} {result}", "kept_start": "full", "warnings": said})
    text = page.read_text(encoding="utf-8")
    words = ("RANDOM weights.", "A shortcut.", "Nothing of the training", "Few examples.", f'<p class="verdict">{result}</p>')
    order = [text.index(one) for one in words]
    assert order == sorted(order) and text.lower().count("a shortcut.") == 1


def test_verdict_of_regression_and_of_nothing() -> None:
    figures = {"examples": 40, "mae": 0.5, "mae_interval": [0.4, 0.6]}
    mean = {"mae": 1.0, "mae_interval": [0.8, 1.2]}
    assert verdict(figures, {"mean": mean}).endswith(
        "(95 % interval 0.4 to 0.6). This is 50 % lower than the error of the mean of the targets (1)."
    )
    close = {"mae": 0.45, "mae_interval": [0.35, 0.55]}
    assert "deepest features is not higher: 0.45. The difference is not significant" in verdict(figures, {"probe": close, "mean": mean})
    assert verdict(figures, {"probe": close, "mean": mean}).endswith(" The error of the mean of the targets is 1.")
    same = {"mae": 0.501, "mae_interval": [0.4, 0.6]}
    assert verdict(figures, {"probe": same, "mean": mean}).endswith(
        "This is no better than the closed-form probe of the deepest features (0.501). The error of the mean of the targets is 1."
    )
    assert "is better: its error is 0.1." in verdict(figures, {"probe": {"mae": 0.1, "mae_interval": [0.05, 0.2]}})
    sure = {"mae": 0.4985, "mae_interval": [0.4984, 0.4986]}  # less than half a per cent lower, and yet no chance
    assert "This is less than 1 % lower than the error of" in verdict(sure, {"probe": {"mae": 0.5, "mae_interval": [0.4999, 0.5001]}})
    assert "is better: its error is 0.498" in verdict({"mae": 0.5, "mae_interval": [0.4999, 0.5001]}, {"probe": sure})
    assert "No baseline was run." in verdict(figures, {})
    assert "has not been evaluated" in verdict({}, {})


# ── figures and media ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_figures_are_well_formed_and_escaped() -> None:
    axis = Axis(EVIL, 0.0, 1.0, percent=True)
    drawn = [
        line_chart({EVIL: [(1, 0.5), (2, 0.9)], "b": [(1, 0.1)]}, title=EVIL, name=EVIL, percent=True, marks={1.0: EVIL}, kept=[2.0]),
        line_chart({"flat": [(1, 0.5)]}, title="one point", name="loss"),
        interval_rows([Bar(EVIL, 0.5, (0.4, 2.0), EVIL, True), Bar("n", None)], title=EVIL, axis=axis, lines={"chance": 0.2}),
        confusion_matrix(cells([[3, 1], [0, 0]]), ["a", EVIL], title=EVIL),
        confusion_matrix(cells(np.eye(40, dtype=int)), [f"class {k}" for k in range(40)], title="many"),
        stacked_bar({EVIL: 1.0, "b": 2.0}, title=EVIL, said={EVIL: EVIL, "b": "2 s"}),
    ]
    for markup in drawn:
        root = ElementTree.fromstring(f"<div>{markup}</div>")
        assert [each for each in root.iter() if each.attrib.get("aria-label")]
        assert "nan" not in markup and "<script" not in markup


def test_figures_of_nothing_are_empty() -> None:
    axis = Axis("x", 0.0, 1.0)
    assert (
        line_chart({"a": []}, title="", name="")
        == interval_rows([], title="", axis=axis)
        == stacked_bar({"a": 0.0}, title="", said={})
        == ""
    )


def test_marks_stand_where_their_values_are() -> None:
    body = interval_rows([Bar("a", 0.25, (0.2, 0.4)), Bar("b", 2.0)], title="t", axis=Axis("share", 0.0, 1.0))
    assert 'class="dot" style="left:25.00%"' in body and 'class="dot" style="left:100.00%"' in body
    assert 'class="whisker" style="left:20.00%;width:20.00%"' in body
    assert Axis("loss", 0.01, 1.0, log=True).at(0.1) == pytest.approx(50.0)


def test_axes_begin_where_the_values_do() -> None:
    share = axis_of([0.95, 0.99], name="accuracy", percent=True)
    assert 0.9 < share.low < 0.95 and share.high <= 1.0
    assert axis_of([0.2, 1.9], name="loss").low == 0.0 and axis_of([0.001, 0.9], name="loss", log=True).log
    assert axis_of([3.0], name="loss").low < 3.0 < axis_of([3.0], name="loss").high
    assert "-0" not in [axis_of([-0.5, 0.5], name="R²").words(tick) for tick in axis_of([-0.5, 0.5], name="R²").ticks()]


def test_the_matrix_can_be_read_by_errors_first() -> None:
    body = confusion_matrix(cells([[8, 0, 0], [1, 5, 4], [0, 0, 9]]), ["a", "b", "c"], title="t")
    assert 'style="--r:3;--s:2"' in body and 'style="--r:2;--s:3"' in body  # "b", with all errors, comes first
    assert "b, predicted c: 4 (40 %)" in body


@pytest.mark.parametrize(
    ("low", "high", "count", "expected"),
    [(0, 1, 5, [0, 0.2, 0.4, 0.6, 0.8, 1.0]), (0.31, 0.99, 3, [0.5]), (1, 16, 8, [2, 4, 6, 8, 10, 12, 14, 16]), (2, 2, 5, [2])],
)
def test_nice_ticks(low: float, high: float, count: int, expected: list[float]) -> None:
    assert nice_ticks(low, high, count=count) == pytest.approx(expected)


def test_confused_pairs_and_durations() -> None:
    assert confused_pairs({}, ["a", "b"]) == []
    said = [("b", "a", 5, "50.0 %"), ("a", "b", 2, "20.0 %")]
    assert confused_pairs({"true": [0, 0, 1, 1], "predicted": [0, 1, 0, 1], "count": [8, 2, 5, 5]}, ["a", "b"]) == said
    assert [duration(s) for s in (0.44, 12, 59.7, 200, 3900)] == ["0.4 s", "12 s", "1 min 00 s", "3 min 20 s", "1 h 05 min"]


@pytest.mark.parametrize("shape", [(8, 8), (8, 8, 1), (8, 8, 3), (3, 8, 8), (1, 200, 100)])
def test_pictures(shape: tuple[int, ...]) -> None:
    image = pytest.importorskip("PIL.Image")
    uri = picture_uri(np.random.default_rng(0).random(shape))
    assert uri is not None and uri.startswith("data:image/png;base64,")
    assert max(image.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))).size) == 96


@pytest.mark.parametrize("side", [1, 40, 64, 96, 97, 300])
@pytest.mark.parametrize(("mode", "ending"), [("RGB", "jpg"), ("RGB", "png"), ("L", "png"), ("P", "png"), ("RGBA", "png"), ("CMYK", "jpg")])
def test_pictures_of_files_are_shown_in_every_size_and_mode(side: int, mode: str, ending: str, tmp_path: Path) -> None:
    image, path = pytest.importorskip("PIL.Image"), tmp_path / f"p.{ending}"
    image.new(mode, (side, side), 1 if mode in ("L", "P") else (9,) * len(mode)).save(path)
    uri = picture_uri(path)
    assert uri is not None
    with image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as shown:
        assert 48 < max(shown.size) <= 96


def test_what_is_no_picture_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "p.txt").write_text("no picture")
    assert picture_uri(tmp_path / "p.txt") is None and picture_uri(np.zeros((2, 3, 4, 5))) is None
    assert picture_uri(np.full((4, 4), -3.0)) is not None
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    assert picture_uri(np.zeros((4, 4))) is None


def test_sounds(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "s.wav", np.stack([np.ones(8000), -np.ones(8000)], axis=1), 1000)
    uri = sound_uri(tmp_path / "s.wav")
    assert uri is not None and uri.startswith("data:audio/wav;base64,")
    with wave.open(io.BytesIO(base64.b64decode(uri.split(",")[1]))) as sound:
        assert (sound.getnchannels(), sound.getframerate(), sound.getnframes()) == (1, 1000, 5000)
        assert np.abs(np.frombuffer(sound.readframes(5000), "<i2")).max() <= 1
    (tmp_path / "s.txt").write_text("no sound")
    assert sound_uri(tmp_path / "s.txt") is None


def test_nothing_of_the_network_rooms_is_needed() -> None:
    code = "import sys, regraft.report; print(sorted({'torch', 'keras', 'jinja2', 'matplotlib', 'PIL'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_epochs_kept_are_those_of_the_weights() -> None:
    def entry(stage: str, phase: str, loss: float | None) -> dict[str, Any]:
        return {"stage": stage, "phase": phase, "validation_loss": loss}

    head = [entry("head", "train", loss) for loss in (0.5, 0.3, 0.4)]
    assert kept_epochs(head) == [2.0]
    assert kept_epochs([*head, entry("full", "fold 1", 0.1), entry("full", "refit", None), entry("full", "refit", None)]) == [2.0, 6.0]
    assert kept_epochs([*head, entry("full", "train", 0.1)], kept_start="full") == [2.0]
    accuracy = {"validation": [(1.0, 0.5), (2.0, 0.9)]}  # a refit has none: its epochs lie beyond
    assert "epoch kept: 2<" in line_chart(accuracy, title="", name="", percent=True, kept=[2.0, 6.0])


def test_penalties_of_solved_heads_are_no_epochs() -> None:
    losses = {100.0: 3.0, 1.0: 1.0, 0.01: 4.0, 10.0: 2.0, 0.1: 2.0}  # in the order of trying: coarse to fine
    solved = [
        {"stage": "head", "epoch": number, "penalty": penalty, "validation_loss": loss}
        for number, (penalty, loss) in enumerate(losses.items(), start=1)
    ]
    other = [{**entry, "task": "other", "epoch": entry["epoch"] + len(solved)} for entry in solved]
    alone = penalty_figure(solved)
    assert alone is not None and "penalty kept: 1<" in alone["body"] and "held-out examples" in alone["body"]
    for again in (other, [{**entry, "run": 2} for entry in solved]):
        twice = penalty_figure(solved + again)
        assert twice is not None and "head 2" in twice["body"] and "head 3" not in twice["body"]
    again = [{**entry, "validation_loss": 2 * entry["validation_loss"]} for entry in solved]
    assert not curves(epochs_of(solved + again))
    found = penalty_figure(solved + again)
    assert found is not None and "penalty kept: 1, 1" in found["body"] and "head 2" in found["body"] and "epoch" not in found["body"]
    trained = [{"stage": "full", "epoch": 1, "train_loss": 0.5, "validation_loss": 0.4}]
    assert penalty_figure(trained) is None and len(epochs_of(solved + trained)) == 1
