"""The four textbook scenarios are named by what was measured, and the measurement says where it disagrees with the advice."""

from __future__ import annotations

import numpy as np
import pytest

from regraft.planning.profiling.judging import ProbeEvaluation
from regraft.planning.profiling.words import ProfileFigures, read_figures

ITEMS = 400


def held(share: float, *, seed: int) -> ProbeEvaluation:
    """Return the judgement of so many items right in so many, others right by chance than with another seed."""
    right = np.zeros(ITEMS)
    right[np.random.default_rng(seed).permutation(ITEMS)[: round(share * ITEMS)]] = 1.0
    return ProbeEvaluation(np.zeros((ITEMS, 2)), float(right.mean()), right, None)


def found(shallow: float, deep: float, *, joint: float, per_class: int) -> ProfileFigures:
    depths = {"low": held(shallow, seed=1), "high": held(deep, seed=2)}
    honest = max(depths.values(), key=lambda depth: depth.value)
    return ProfileFigures(depths, held(joint, seed=3), honest, 0.25, "classification", per_class)


@pytest.mark.parametrize(
    ("per_class", "shallow", "deep", "scenario", "advice"),
    [
        (20, 0.5, 0.85, ("Small", "similar"), "train a head on the deepest features"),
        (20, 0.85, 0.5, ("Small", "different"), "train a head on features of an earlier block"),
        (500, 0.5, 0.85, ("Large", "similar"), "fine-tune the whole network; there are enough examples"),
        (500, 0.85, 0.5, ("Large", "different"), "or train it from scratch"),
    ],
)
def test_size_and_likeness_name_the_scenario(per_class: int, shallow: float, deep: float, scenario: tuple[str, str], advice: str) -> None:
    reading = read_figures(found(shallow, deep, joint=0.85, per_class=per_class))
    assert all(word in reading.scenario for word in scenario) and (reading.size, reading.likeness) == (scenario[0].lower(), scenario[1])
    assert advice in reading.advice and reading.agrees
    breaks = any("Transfer breaks after 'low'" in sentence for sentence in reading.findings)
    assert breaks == (deep < shallow)


def test_a_depth_that_is_better_by_chance_alone_is_no_break() -> None:
    reading = read_figures(found(0.86, 0.83, joint=0.85, per_class=20))
    assert "The deepest features (83.0 %) are not significantly worse than the best depth, 'low' (86.0 %)." in reading.findings


@pytest.mark.parametrize("per_class", [20, 500])
def test_all_depths_together_may_disagree_with_the_textbook(per_class: int) -> None:
    reading = read_figures(found(0.5, 0.8, joint=0.93, per_class=per_class))
    assert reading.likeness == "similar" and not reading.agrees
    told = "a probe on all depths together is better than the deepest features, 93.0 % against 80.0 %."
    assert reading.findings[0] == f"The measurement disagrees: {told}"


def test_many_items_need_no_tuning_where_a_probe_leaves_nothing_to_gain() -> None:
    reading = read_figures(found(0.6, 0.98, joint=0.98, per_class=500))
    assert not reading.agrees and "98.0 %, so fine-tuning can gain little." in reading.findings[0]
    assert read_figures(found(0.6, 0.98, joint=0.98, per_class=20)).agrees
