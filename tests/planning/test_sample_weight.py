"""How much each example counts: from a column or an array, through splits and trainings, to the identity of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from tests.reliability import cases

import regraft
from regraft.errors import DataError, SettingError
from regraft.planning.carry_out import checked_setup
from regraft.planning.plan import make_plan
from regraft.planning.preparing import prepared_for
from regraft.planning.setup import Setup, parts_of, run_digest

QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 16, "cache": "memory", "learning_rate": 1e-2, "refit": False}


def _setup(weights: np.ndarray | None) -> Setup:
    net, data = cases.network("torch"), regraft.read(cases.data("torch"), sample_weight=weights)
    plan = make_plan("full", dict(QUICK))
    return checked_setup(net, prepared_for(net, data, plan=plan), plan=plan, parts=parts_of(data, plan))[0]


@pytest.mark.parametrize("family", cases.FAMILIES)
@pytest.mark.parametrize("strategy", [pytest.param("head", marks=pytest.mark.slow), "full"])
def test_weights_change_what_is_learned_and_equal_ones_do_not(strategy: str, family: str) -> None:
    net, data = cases.network(family), cases.data(family)
    weights = np.linspace(0, 2, len(data))
    plain, same, other = (
        regraft.adapt(net, data, strategy=strategy, sample_weight=weight, schedule="constant", **QUICK)
        for weight in (None, np.full(len(data), 7.0), weights)
    )
    told = [[entry["train_loss"] for entry in result.history] for result in (plain, same, other)]
    if strategy == "full":
        assert told[0][-1] == pytest.approx(told[1][-1], rel=0.2)
    assert told[1] != pytest.approx(told[2], rel=1e-3)
    assert other.network.predict(data.items).labels[0] in data.classes


def test_the_loss_is_weighed_and_keeps_its_size() -> None:
    weights = np.random.default_rng(0).uniform(0, 3, len(cases.data("torch"))).astype(np.float32)
    plain, weighed = _setup(None), _setup(weights)
    rows, network = plain.parts.training, plain.network
    scores = {task: torch.randn(len(rows), len(network.head.classes or ())) for task in plain.tasks.values()}
    each = torch.stack([plain.objective()({task: one[[at]] for task, one in scores.items()}, rows[[at]]) for at in range(len(rows))])
    factors = torch.from_numpy(weights[rows])
    expected = (each * factors).sum() / factors.sum()
    assert float(weighed.objective()(scores, rows)) == pytest.approx(float(expected), rel=1e-5)
    assert len({run_digest(_setup(given)) for given in (None, weights, weights[::-1].copy())}) == 3


def test_figures_of_the_validation_set_count_examples_by_their_weight() -> None:
    plain, half = _setup(None), np.ones(len(cases.data("torch")), np.float32)
    rows = plain.parts.validation
    half[rows[::2]] = 0
    count = len(plain.network.head.classes or ())
    made = np.random.default_rng(0).normal(0, 1, (len(rows), count)) + 2 * np.eye(count)[cases.data("torch").targets[rows]]
    scores = dict.fromkeys(plain.tasks.values(), made.astype(np.float32))
    kept = {task: one[1::2] for task, one in scores.items()}
    expected = plain.objective().figures(kept, rows[1::2])
    found, equal = (_setup(given).objective().figures(scores, rows) for given in (half, np.full(len(half), 3.0, np.float32)))
    unweighted = plain.objective().figures(scores, rows)
    for name in ("validation_loss", "calibrated_loss"):
        assert found[name] == pytest.approx(expected[name], rel=1e-5) and found[name] != pytest.approx(unweighted[name], rel=1e-3)
        assert equal[name] == pytest.approx(unweighted[name], rel=1e-5)
    assert found["validation_accuracy"] == unweighted["validation_accuracy"]
    half[rows] = 0
    assert _setup(half).objective().figures(scores, rows) == unweighted


@pytest.mark.parametrize("family", cases.FAMILIES)
def test_weights_of_validation_examples_change_the_validation_loss_and_nothing_else(family: str) -> None:
    weights = np.ones(len(cases.data("torch")), np.float32)
    weights[_setup(None).parts.validation[::2]] = 0
    one, other = (
        regraft.adapt(cases.network(family), cases.data(family), strategy="full", sample_weight=given, schedule="constant", **QUICK)
        for given in (np.ones_like(weights), weights)
    )
    told = [[[entry[name] for entry in result.history] for name in ("train_loss", "validation_loss")] for result in (one, other)]
    assert told[0][0] == told[1][0] and told[0][1] != pytest.approx(told[1][1], rel=1e-4)


def test_a_column_of_a_table_and_subsets(tmp_path: Path) -> None:
    frame = pandas.DataFrame({"a": np.arange(12) / 5, "b": np.arange(12) % 5, "count": np.arange(12) % 3 + 0.5, "label": ["x", "y"] * 6})
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for source in (frame, tmp_path / "rows.csv"):
        data = regraft.read(source, target="label", sample_weight="count")
        assert data.weights is not None and data.weights.tolist() == frame["count"].tolist()
        assert np.shape(data.items) == (12, 2)
        assert data.subset([3, 1]).weights is not None and data.subset([3, 1]).weights.tolist() == [0.5, 1.5]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        ([1.0, 2.0], r"'sample_weight' has the shape \(2,\) for 40 examples"),
        (np.r_[-1.0, np.ones(39)], r"example 0 has -1; expected a number for each example, 0 or more"),
        (np.r_[np.ones(39), np.nan], r"example 39 has nan"),
        (np.zeros(40), r"all are 0"),
        ("count", r"sample_weight='count' names a column, and this source has none"),
    ],
)
def test_weights_that_are_none_are_refused(weight: Any, said: str) -> None:
    with pytest.raises(DataError, match=said):
        regraft.adapt(cases.network("torch"), cases.data("torch"), strategy="full", sample_weight=weight, **QUICK)


def test_what_is_solved_takes_no_weights() -> None:
    weights = np.ones(len(cases.data("torch")))
    for given in ({"strategy": "probe"}, {"strategy": "head", "probe": "knn"}):
        with pytest.raises(SettingError, match="sample_weight= goes with a training"):
            regraft.adapt(cases.network("torch"), cases.data("torch"), sample_weight=weights, **given)


def test_auto_says_where_weights_do_not_act() -> None:
    data = cases.data("torch")
    result = regraft.adapt(cases.network("torch"), data, sample_weight=np.ones(len(data)), epochs=0, cache="memory")
    assert "sample_weight acts on trainings; closed-form heads count all examples equally." in result.plan.reasons
