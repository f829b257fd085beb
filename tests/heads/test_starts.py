"""How new rows start: one table of networks, and worked numbers for the formulas."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.errors import DataError, SettingError
from regraft.heads.starts import _mean_rows, aligned_rows, imprinted_rows

from .examples import TABLE, opened, pictures

NEW = ("tram", "plane", "cat", "ship")


def _opened(name: str) -> tuple[regraft.Network, Any]:
    labels = np.array(NEW * 6)
    return opened(name), (pictures(name, labels), labels)


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("start", ["zeros", "random", "mean", "imprint", "probe"])
def test_kept_rows_are_bit_equal_and_new_ones_start_as_asked(name: str, start: str) -> None:
    net, data = _opened(name)
    before = {key: value.clone() for key, value in net.state().items()}
    changed = regraft.retarget(net, NEW, start=start, data=data, seed=1)
    assert changed.classes == NEW and changed.account.to_dict()["kept"] == ["tram", "cat"]
    for shared in ("tram", "cat"):
        assert np.array_equal(net.head.row(shared)[0], changed.head.row(shared)[0])
        assert net.head.row(shared)[1] == changed.head.row(shared)[1]
    scores = changed.logits(data[0])
    assert scores.shape == (24, 4) and np.isfinite(scores).all()
    np.testing.assert_allclose(scores[:, [2, 0]], net.logits(data[0])[:, [0, 3]], rtol=1e-4, atol=1e-5)
    plane, old = changed.head.row("plane")[0], net.head.weight
    if start == "zeros":
        assert not plane.any()
    elif start == "mean":
        np.testing.assert_allclose(plane, old.mean(0), rtol=1e-5, atol=1e-7)
    elif start in ("imprint", "probe"):
        new = np.stack([changed.head.row(which)[0] for which in ("plane", "ship")])
        kept = np.stack([changed.head.row(which)[0] for which in ("tram", "cat")])
        assert np.linalg.norm(new, axis=1).mean() == pytest.approx(np.linalg.norm(kept, axis=1).mean(), rel=1e-3)
    again = regraft.retarget(net, NEW, start=start, data=data, seed=1)
    assert np.array_equal(again.head.weight, changed.head.weight)  # repeatable
    assert all(torch.equal(before[key], net.state()[key]) for key in before)  # the argument is untouched


@pytest.mark.parametrize("start", ["imprint", "probe"])
def test_wholly_new_classes_are_recognised_without_training(start: str) -> None:
    net, data = _opened("torch linear")
    names = ("tree", "house", "road", "lake")
    labels = np.array([names[NEW.index(label)] for label in data[1]])
    changed = regraft.retarget(net, names, start=start, data=(data[0], labels))
    assert (np.array(changed.predict(data[0]).labels) == labels).mean() > 0.6


def test_formulas_by_hand() -> None:
    features = np.array([[3.0, 4.0], [0.0, 2.0], [5.0, 0.0]])
    kept = (np.array([[0.0, 2.0], [4.0, 0.0]]), np.array([1.0, 3.0]))  # mean norm 3, mean bias 2
    weight, bias = imprinted_rows(features, np.array([0, 0, 1]), count=2, kept=kept)
    direction = np.array([0.3, 0.9]) / np.linalg.norm([0.3, 0.9])
    np.testing.assert_allclose(weight, [3 * direction, [3.0, 0.0]])
    np.testing.assert_allclose(bias, [2.0, 2.0])
    weight, bias = aligned_rows(np.array([[1.0, 0.0], [0.0, 2.0]]), np.array([0.0, 1.0]), kept=kept)
    np.testing.assert_allclose(weight, [[2.0, 0.0], [0.0, 4.0]])
    np.testing.assert_allclose(bias, [1.0, 3.0])
    np.testing.assert_allclose(_mean_rows(kept[0], kept[1], count=1)[0], [[2.0, 1.0]])
    with pytest.raises(DataError, match="needs old class weights"):
        _mean_rows(np.zeros((0, 2)), np.zeros(0), count=1)


def test_what_is_missing_is_said() -> None:
    net, data = _opened("torch linear")
    with pytest.raises(SettingError, match="did you mean 'zeros'"):
        regraft.retarget(net, NEW, start="zero")
    with pytest.raises(SettingError, match="give them with data="):
        regraft.retarget(net, NEW, start="imprint")
    with pytest.raises(DataError, match="no example of 'submarine'"):
        regraft.retarget(net, (*NEW, "submarine"), start="probe", data=data)
    with pytest.raises(DataError, match="ship"):
        regraft.retarget(net, NEW[:3], start="probe", data=data)


def test_numbers_are_solved_and_cannot_be_imprinted() -> None:
    draw = np.random.default_rng(0)
    x, layer = draw.normal(size=(80, 4)).astype(np.float32), torch.nn.Linear(4, 1)
    data = regraft.read((x, x @ [1.0, -2.0, 0.5, 0.0] + 3.0))
    net = regraft.branch(regraft.load(layer, inputs=(4,)), "metres", ["metres"], kind="regression", start="probe", data=data)
    assert np.abs(net.logits(x, task="metres")[:, 0] - data.targets.ravel()).max() < 0.01
    with pytest.raises(SettingError, match=r"start='imprint' averages the examples of each class; .* 'regression'\. Choose 'probe'"):
        regraft.branch(net, "feet", ["feet"], kind="regression", start="imprint", data=data)
