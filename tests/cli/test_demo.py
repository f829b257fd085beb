"""The demo: its parts quickly, the whole of it among the slow tests."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from regraft.cli import demonstration
from regraft.cli.demonstration import ADAPTED, MLP, SCRATCH, Curves, handwritten, measured_curves, printed, printed_reader
from regraft.console import show_table

from .conftest import run


def curves(*gains: tuple[float, ...]) -> Curves:
    """Curves in which the adapted network is better by `gains` at each size, one number a draw."""
    other = [np.array([0.8, 0.82, 0.81][: len(each)]) for each in gains]
    shares = {ADAPTED: [base + np.array(each) for base, each in zip(other, gains, strict=True)], "an MLP": other}
    return Curves((3, 10, None)[: len(gains)], shares, (3.0, 10.0, 129.7)[: len(gains)])


@pytest.mark.parametrize(
    ("gains", "said"),
    [
        ([(0.06, 0.07, 0.08), (0.02, 0.03, 0.04), (0.0, 0.001, 0.002)], "Transfer wins most at 3 examples a class"),
        (
            [(0.06, 0.07, 0.08), (0.02, 0.03, 0.04), (0.0, 0.001, 0.002)],
            "from all (130) on it hardly matters: the gain is 0.1 points there.",
        ),
        ([(0.01, 0.02, 0.03), (0.05, 0.06, 0.07), (0.02, 0.03, 0.04)], "at 10 examples a class"),
        ([(0.01, 0.02, 0.03), (0.05, 0.06, 0.07), (0.02, 0.03, 0.04)], "with all (130) it still wins 3.0 points."),
        ([(0.1, -0.1, 0.05), (-0.02, -0.03, -0.01)], "Transfer does not win at any number of examples"),
    ],
)
def test_the_sentence_says_what_the_intervals_show(gains: list[tuple[float, ...]], said: str) -> None:
    assert said in curves(*gains).sentence()


def test_the_gain_is_over_the_best_of_the_others_with_its_interval() -> None:
    other, mean, low, high = curves((0.06, 0.07, 0.08)).gain(0)
    assert other == "an MLP" and mean == pytest.approx(0.07)
    assert high - mean == pytest.approx(mean - low) == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-4)


def test_digits_are_printed_as_handwritten_ones_are_stored() -> None:
    pictures, names = printed(60)
    real, _ = handwritten()
    assert pictures.shape == (60, 1, 8, 8) and pictures.shape[1:] == real.shape[1:]
    assert pictures.min() == real.min() == 0 and pictures.max() == real.max() == 1
    assert set(names) == set("0123456789")
    np.testing.assert_array_equal(pictures, printed(60)[0])
    assert np.any(pictures != printed(60, seed=1)[0])


def test_what_judges_is_never_learned_from() -> None:
    _, names = handwritten()
    learned, tested = demonstration._split(names, 10, seed=3)
    assert not set(learned) & set(tested) and len(tested) == 500
    assert np.unique(names[learned], return_counts=True)[1].tolist() == [10] * 10


def test_a_short_curve_is_measured_and_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demonstration, "_EPOCHS", 2)
    net = printed_reader(count=200, epochs=1)
    found, result = measured_curves(net, {2: 1})
    assert found.sizes == (2,) and found.examples == (2.0,)
    assert len(result.network.classes) == 10
    found.plot(tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    assert json.loads(json.dumps(found.to_dict()))["examples"] == [2.0]
    assert [row[0] for row in found.rows()] == ["2"] and len(found.rows()[0]) == 1 + len(found.shares)


def test_in_a_terminal_of_80_columns_headings_are_wrapped_and_figures_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shares = {name: [np.array([0.871, 0.873])] * 5 for name in (ADAPTED, SCRATCH, MLP, demonstration.UNCHANGED, demonstration.MAJORITY)}
    found = Curves((3, 10, 30, 100, None), shares, (3.0, 10.0, 30.0, 100.0, 129.7))
    show_table(("examples of each class", *found.shares), found.rows())
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in lines if line.startswith("│")]
    assert rows == [list(row) for row in found.rows()]


@pytest.mark.slow
def test_the_demo_shows_where_transfer_wins_and_where_it_stops_to_matter(tmp_path: Path) -> None:
    result = run("demo", "--out", tmp_path / "out", "--quiet", "--json")
    assert result.exit_code == 0, result.output
    plain = json.loads(result.stdout)
    assert plain["sizes"] == [3, 10, 30, 100, None]
    few, _, _, _, everything = plain["gains"]
    assert few["low"] > 0 and few["points"] > 0.03
    assert everything["points"] < 0.02
    assert Path(plain["plot"]).is_file() and Path(plain["report"]).is_file()
