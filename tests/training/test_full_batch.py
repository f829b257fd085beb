"""Minimising many small problems at once: each as it would be alone, and as others do it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from regraft.errors import SettingError
from regraft.training.full_batch import SHORTEST, Evaluate, adam, lbfgs, minimise, normalised, value_and_gradient

ROWS, SIZE = 5, 6
_DRAWN = np.random.default_rng(0)
_FACTORS = _DRAWN.normal(size=(ROWS, SIZE, SIZE))
MATRICES = np.einsum("vij,vkj->vik", _FACTORS, _FACTORS) + 0.5 * np.eye(SIZE)
SHIFTS = _DRAWN.normal(size=(ROWS, SIZE))


def bowls(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A quadratic with a quartic on top, another one for each row."""
    pulled = np.einsum("vij,vj->vi", MATRICES[rows], values)
    losses = 0.5 * (values * pulled).sum(1) - (SHIFTS[rows] * values).sum(1) + 0.1 * (values**4).sum(1)
    return losses, pulled - SHIFTS[rows] + 0.4 * values**3


def only(row: int) -> Evaluate:
    return lambda values, rows: bowls(values, np.full(len(rows), row))


def test_lbfgs_finds_what_scipy_finds() -> None:
    found = lbfgs(bowls, np.zeros((ROWS, SIZE)), steps=100)
    for row in range(ROWS):
        theirs = minimize(lambda values, row=row: [part[0] for part in only(row)(values[None], np.zeros(1, int))], np.zeros(SIZE), jac=True)
        assert abs(found.losses[row] - theirs.fun) < 1e-5
    assert (np.diff(found.path, axis=0) <= 0).all()
    assert found.evaluations < ROWS * 60


@pytest.mark.parametrize("unit", [1e-4, 1.0, 1e3, 1e6])
def test_lbfgs_does_not_take_a_small_gradient_for_the_end(unit: float) -> None:
    def stretched(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        losses, gradient = bowls(values / unit, rows)
        return losses + 10, gradient / unit

    found, plain = lbfgs(stretched, np.zeros((ROWS, SIZE)), steps=100), lbfgs(bowls, np.zeros((ROWS, SIZE)), steps=100)
    assert np.abs(found.losses - 10 - plain.losses).max() < 1e-4
    assert found.evaluations < ROWS * 60
    alone = lbfgs(lambda values, rows: stretched(values, np.full(len(rows), 2)), np.zeros((1, SIZE)), steps=100)
    assert np.array_equal(alone.values[0], found.values[2])


@pytest.mark.parametrize("fit", ["lbfgs", "adam", "normalised"])
def test_a_row_goes_the_same_way_alone_and_among_others(fit: str) -> None:
    together = minimise(fit, bowls, start=np.ones((ROWS, SIZE)), steps=15)
    for row in range(ROWS):
        alone = minimise(fit, only(row), start=np.ones((1, SIZE)), steps=15)
        assert np.array_equal(alone.values[0], together.values[row])


def test_the_normalised_loop_is_its_formula() -> None:
    found, by_hand = normalised(bowls, np.ones((ROWS, SIZE)), steps=7, step=0.05), np.ones((ROWS, SIZE))
    for _ in range(7):
        gradient = bowls(by_hand, np.arange(ROWS))[1]
        by_hand = by_hand - 0.05 * gradient / (np.sqrt((gradient**2).mean(1, keepdims=True)) + 1e-5)
    assert np.allclose(found.values, by_hand, atol=1e-12)
    assert found.path.shape == (8, ROWS) and found.evaluations == 8 * ROWS


def test_adam_is_that_of_torch() -> None:
    found = adam(bowls, np.ones((ROWS, SIZE)), steps=20, step=0.03)
    values = torch.ones(ROWS, SIZE, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([values], lr=0.03)
    for _ in range(20):
        values.grad = torch.from_numpy(bowls(values.detach().numpy(), np.arange(ROWS))[1])
        optimizer.step()
    assert np.allclose(found.values, values.detach().numpy(), atol=1e-9)


def test_a_row_at_its_minimum_stays_and_is_searched_once() -> None:
    best = lbfgs(bowls, np.zeros((ROWS, SIZE)), steps=100, tolerance=1e-12).values
    asked = []

    def watched(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        asked.append(rows.copy())
        return bowls(values, rows)

    start = np.concatenate([best[:1], np.zeros((ROWS - 1, SIZE))])
    assert np.allclose(lbfgs(watched, start, steps=50).values[0], best[0], atol=1e-4)
    assert all(0 not in rows for rows in asked[1 + SHORTEST :])


def test_sums_and_gradient_come_from_batches() -> None:
    table = torch.nn.Parameter(torch.tensor([[1.0, 2.0], [3.0, 4.0]]))
    parts = ((table[rows].square().sum(1), np.array(rows)) for rows in ([0, 1], [1]))
    losses, gradient = value_and_gradient(parts, table, count=2)
    assert losses.tolist() == [5.0, 50.0] and gradient.tolist() == [[2.0, 4.0], [12.0, 16.0]]
    assert table.grad is None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"fit": "lbgfs"}, "fit='lbgfs' is not known; did you mean 'lbfgs'"),
        ({"fit": "adam", "steps": 0}, "steps=0 is out of range"),
        ({"fit": "adam", "step": -1.0}, "step=-1.0 is out of range"),
    ],
)
def test_what_is_refused(settings: dict, words: str) -> None:
    with pytest.raises(SettingError, match=words.replace("?", r"\?")):
        minimise(settings.pop("fit"), bowls, start=np.zeros((1, SIZE)), **settings)
