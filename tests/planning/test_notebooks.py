"""What a notebook shows, and what a bar shows within an epoch."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.reliability import cases

import regraft
from regraft.console import STEPS, spent
from regraft.files.text import notebook_html
from regraft.freezing import run as filling
from regraft.training import loop

QUICK: dict[str, Any] = {"strategy": "partial", "frozen": 1, "epochs": 2, "batch_size": 8, "refit": False, "learning_rate": 1e-2}


def test_text_of_others_is_escaped() -> None:
    shown = notebook_html("<script>\n\x1b[2J&", title="<b>")
    assert "<script>" not in shown and "\x1b" not in shown and "&lt;script&gt;" in shown and "&lt;b&gt;" in shown


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_results_plans_networks_and_profiles_are_shown_in_notebooks(family: str) -> None:
    net, data = cases.network(family), cases.data(family)
    result, profile = regraft.adapt(net, data, cache="memory", **QUICK), regraft.profile(net, data, cache="memory")
    for shown, said in ((result, result.plan.strategy), (result.plan, "strategy"), (net, "head"), (profile, profile.scenario)):
        assert said in shown._repr_html_() and shown._repr_html_().startswith("<div>")
    read, labelled = regraft.check(data), regraft.evaluate(result.network, data)
    every = [result, result.plan, net, profile, data, read, labelled, result.network.predict(data), result.history, result.account]
    if family == "torch" and importlib.util.find_spec("optuna"):
        every.append(regraft.search(net, data, space={"strategy": ["probe"]}, trials=1, cache="memory"))
    for shown in every:
        assert len(repr(shown)) < 400 and len(repr(shown).splitlines()) == 1 and repr(shown).startswith("<"), repr(shown)


def test_bars_move_within_an_epoch_and_within_a_chunk_of_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    moved: dict[str, list[float]] = {}

    @contextmanager
    def kept(what: str, total: int | None = None, **_: bool) -> Iterator[Callable[[float], None]]:
        moves: list[float] = []
        yield moves.append
        assert sum(moves) == pytest.approx(total)
        moved[what] = moves

    for place in (loop, filling):
        monkeypatch.setattr(place, "progress", kept)
    regraft.adapt(cases.network("torch"), cases.data("torch"), cache="memory", patience=None, layer_decay=1.0, batch_norm="batch", **QUICK)
    assert len(moved["frozen part"]) >= 1 and len([move for move in moved["partial"] if 0 < move < 1]) >= 4


@pytest.mark.parametrize(("family", "strategy"), [("torch", "auto"), ("keras", "full")])
def test_every_second_of_a_run_has_a_name(family: str, strategy: str, tmp_path: Path) -> None:
    more: dict[str, Any] = {"epochs": 2, "baselines": True, "cache": "memory", "out": tmp_path / "out"}
    cost = regraft.adapt(cases.network(family), cases.data(family), strategy=strategy, **more).cost
    named = {words: cost[step] for step, words in STEPS.items() if step in cost}
    assert {"reading and checking", "evaluation", "training from scratch, as a baseline", "saving"} <= set(named)
    assert abs(cost["total"] - sum(named.values())) <= max(0.05 * cost["total"], 0.05), cost  # a run may take less than a second
    parts = spent(cost)
    assert sum(parts.values()) == pytest.approx(cost["total"], rel=0.02, abs=0.05)
    page = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert all(words in page for words in parts)


def test_every_second_of_a_search_has_a_name(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    space = {"learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    more: dict[str, Any] = {"strategy": "full", "space": space, "epochs": 2, "trials": 4, "cache": "memory", "out": tmp_path / "out"}
    study = regraft.search(cases.network("torch"), cases.data("torch"), **more)
    parts = spent(study.cost)
    assert parts["training and evaluating the best plan"] > 0 and study.result is not None
    assert parts.get("other", 0.0) <= max(0.1 * study.cost["total"], 0.2), study.cost
    assert sum(parts.values()) == pytest.approx(study.cost["total"], rel=0.02, abs=0.05)


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_a_history_counts_penalties_as_such(family: str) -> None:
    solved = regraft.adapt(cases.network(family), cases.data(family), strategy="head", cache="memory").history
    trained = regraft.adapt(cases.network(family), cases.data(family), strategy="head", epochs=2, cache="memory").history
    assert repr(solved).startswith(f"<History of {len(solved)} penalties in 1 training; ") and all("penalty" in entry for entry in solved)
    assert repr(trained).startswith(f"<History of {len(trained)} epochs in 1 training; ")
    both = type(solved)([*trained, *solved[:1]])
    assert repr(both).startswith(f"<History of {len(trained)} epochs and 1 penalty in 1 training; ")
    assert repr(type(solved)()) == "<History of 0 epochs in 0 trainings; last: {}>"


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_nothing_is_told_twice(family: str) -> None:
    net = cases.network(family)
    result = regraft.adapt(regraft.load(net.module, inputs=net.input_shape), cases.data(family), strategy="probe", cache="memory")
    told = "had no class names, so no class weights were carried over"
    assert told in result.verdict and any(told in note for note in result.account.notes)
    assert str(result).count(told) == result._repr_html_().count(told) == 1
