"""The table, the plots, and where values stand on an axis."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests import torch_examples as examples

import regraft
from regraft.errors import DataError
from regraft.planning.plan import Plan
from regraft.planning.search import Study
from regraft.planning.search.study import TrialRecord
from regraft.report import plots
from regraft.report.plots import plot_importances, plot_trials, positions


def test_a_study_prints_ranks_and_draws(tmp_path: Path) -> None:
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    space = {"strategy": ["head", "partial"], "frozen": [1, 2], "learning_rate": {"low": 1e-3, "high": 1e-1, "log": True}}
    named = {"space": space, "trials": 6, "sampler": "random", "metric": "log_loss", "epochs": 2, "cache": "memory"}
    named |= {"start": "random", "pruner": None}  # else a closed-form start makes all rates equal
    study = regraft.search(net, examples.pictures(40), **named)
    ranked = [trial.figure for trial in study.ranked() if trial.figure is not None]
    assert ranked == sorted(ranked) and study.best_trial.figure == ranked[0] and study.direction == "minimize"
    lines = study.table(most=3).splitlines()
    assert lines[0].split()[:2] == ["trial", "log_loss"] and len(lines) == 5 and lines[-1] == "… and 3 more"
    assert "log_loss" in str(study) and "chose nothing" in str(study) and study.to_dict()["importance_note"] in str(study)
    assert study.importances and sum(study.importances.values()) == pytest.approx(1, abs=1e-3)
    for path in (study.plot(tmp_path / "trials.png"), study.plot_importances(tmp_path / "importances.svg")):
        assert path.stat().st_size > 2000


@pytest.mark.parametrize(
    ("importances", "intervals", "said"),
    [
        ({}, {}, "Importances: none. They need 4 or more finished trials"),
        ({"a": 0.8, "b": 0.2}, {"a": (0.6, 1.0), "b": (0.0, 0.4)}, r"a 80 % \(60 to 100\), b 20 % \(0 to 40\)\.$"),
        ({"a": 0.8, "b": 0.2}, {"a": (0.4, 1.0), "b": (0.0, 0.6)}, r"The 2 finished trials are too few: .* Raise the number of trials\.$"),
        ({"a": 1.0}, {"a": (1.0, 1.0)}, r"a 100 % \(100 to 100\)\.$"),
    ],
)
def test_importances_are_said_with_intervals_and_with_a_note_where_trials_are_too_few(importances: Any, intervals: Any, said: str) -> None:
    trials = (TrialRecord(1, {}, "complete", 0.5), TrialRecord(2, {}, "complete", 0.6), TrialRecord(3, {}, "failed"))
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8))
    study = Study(trials, {}, "accuracy", "maximize", trials[0], Plan("head"), net, {}, None, importances, {}, None, intervals)
    assert re.search(said, study.to_dict()["importance_note"]) and study.to_dict()["importance_note"] in str(study)


def test_the_standard_error_is_that_of_the_mean_over_the_folds() -> None:
    assert TrialRecord(0, {}, "complete", 0.5, (0.4, 0.5, 0.6)).standard_error == pytest.approx(0.1 / 3**0.5)
    assert TrialRecord(0, {}, "complete", 0.5, (0.5,)).standard_error is None


def test_of_equal_figures_the_lower_loss_decides_then_the_earlier_trial() -> None:
    sums = (0.1 + 0.2 + 0.3) / 3, (0.3 + 0.2 + 0.1) / 3
    losses = {0: (0.9,), 1: (0.4, 0.6), 2: (0.5,), 3: (), 4: (0.1,), 5: (float("nan"),)}
    trials = [TrialRecord(number, {}, "complete", sums[number % 2], losses=loss) for number, loss in losses.items()]
    trials[4] = TrialRecord(4, {}, "complete", 0.1, losses=(0.1,))
    ended = TrialRecord(6, {}, "pruned")
    falling = sorted([ended, *trials], key=lambda trial: trial.rank("minimize"))
    assert sums[0] != sums[1]
    assert [trial.number for trial in falling] == [4, 1, 2, 0, 3, 5, 6]
    assert [trial.number for trial in sorted([ended, *trials], key=lambda trial: trial.rank("maximize"))] == [1, 2, 0, 3, 5, 4, 6]


def test_places_on_an_axis() -> None:
    places, labels = positions([1e-3, 1e-1, 1e-2, ""], log=True)
    assert places[:3] == pytest.approx([0, 1, 0.5]) and places[3] is None
    assert dict(labels) == {0.0: "0.001", 1.0: "0.1"}
    assert positions(["sgd", "adamw", None], log=False) == ([1.0, 0.5, 0.0], [(0.0, "None"), (0.5, "adamw"), (1.0, "sgd")])
    assert positions([3, 3], log=False) == ([0.0, 0.0], [(0.0, "3")])


def test_a_trial_has_no_solid_line_where_a_setting_has_no_effect(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(plots, "saved_figure", lambda figure, path: drawn.append(figure))
    plot_trials([{"a": 1, "c": 0.9}, {"a": 2, "b": 5, "c": 0.1}], "x.png", names=["a", "b", "c"], logs=[])
    solid = [line.get_ydata() for line in drawn[0].axes[0].lines if line.get_linestyle() == "-" and line.get_marker() == "."]
    assert [np.isnan(places).tolist() for places in solid] == [[False, False, False], [False, True, False]]  # the best is drawn last


def test_nothing_to_draw_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no trial is finished"):
        plot_trials([], tmp_path / "x.png", names=["a"], logs=[])
    with pytest.raises(DataError, match="four finished trials"):
        plot_importances({}, tmp_path / "x.png")
