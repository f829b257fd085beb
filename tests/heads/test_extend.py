"""Extending: old rows and scores stay, new classes are told from old ones, and the order does not matter."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.datasets import load_digits
from torch import nn

import regraft
from regraft.errors import DataError, NetworkError, SettingError
from regraft.heads import extension_figures
from regraft.heads.starts import fitted_rows, imprinted_rows, separated_rows
from regraft.probes import statistics_of

NAMES = np.array(["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"])


@functools.cache
def _digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return items by part: "old" and "new" to learn from, "test" of all ten."""
    pictures, labels = load_digits(return_X_y=True)
    x, order = (pictures / 16).astype(np.float32), np.random.default_rng(0).permutation(len(labels))
    learned, test = order[:1200], order[1200:]
    parts = {"old": learned[labels[learned] < 8], "new": learned[labels[learned] >= 8][:60], "test": test}
    return {name: (x[part], NAMES[labels[part]]) for name, part in parts.items()}


@functools.cache
def _trained() -> regraft.Network:
    """Return a network that knows the digits from zero to seven."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 8))
    items, labels = _digits()["old"]
    x, y = torch.from_numpy(items), torch.from_numpy(np.array([list(NAMES).index(label) for label in labels]))
    optimizer = torch.optim.AdamW(module.parameters(), 1e-2)
    for _ in range(120):
        nn.functional.cross_entropy(module(x), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    return regraft.load(module, classes=NAMES[:8], inputs=(64,))


def _statistics() -> dict[str, np.ndarray]:
    items, labels = _digits()["old"]
    order = np.array([list(NAMES).index(label) for label in labels])
    return statistics_of(_trained().features(items), order, classes=tuple(NAMES[:8])).to_arrays()


def _figures(net: regraft.Network) -> dict[str, float]:
    figures: dict[str, float] = net.account.to_dict()["figures"]
    return figures


def test_new_digits_are_told_and_old_ones_are_not_swallowed() -> None:
    net, parts = _trained(), _digits()
    alone = _figures(regraft.extend(net, ["eight", "nine"], parts["new"], test=parts["test"]))
    assert alone["max_score_change"] == 0.0 and alone["proved_on_examples"] == 60 + len(parts["test"][0])
    assert alone["old_accuracy"] > 0.8 and alone["new_accuracy"] > 0.5
    stored = tuple(part[:80] for part in parts["old"])
    balanced = _figures(regraft.extend(net, ["eight", "nine"], parts["new"], old_data=stored, test=parts["test"]))
    assert balanced["max_score_change"] == 0.0 and balanced["harmonic_mean"] > alone["harmonic_mean"]
    joint = _figures(regraft.extend(net, ["eight", "nine"], parts["new"], statistics=_statistics(), test=parts["test"]))
    assert joint["harmonic_mean"] > 0.88 > balanced["harmonic_mean"]
    features, labels = net.features(parts["new"][0]), (parts["new"][1] == "nine").astype(int)
    rows = imprinted_rows(features, labels, count=2, kept=(net.head.weight, net.head.bias))
    scores = net.features(parts["test"][0]) @ np.concatenate([net.head.weight, rows[0]]).T + np.concatenate([net.head.bias, rows[1]])
    old = np.isin(parts["test"][1], NAMES[:8])
    assert (scores[old].argmax(1) < 8).mean() < 0.3  # norms alone, as weight alignment has it, would let new classes swallow old items


@pytest.mark.parametrize("how", ["alone", "statistics"])
def test_one_class_at_a_time_equals_all_at_once(how: str) -> None:
    net, (items, labels) = _trained(), _digits()["new"]
    first, then = ({"statistics": _statistics()}, {"statistics": True}) if how == "statistics" else ({}, {})
    step = net
    for name in ("eight", "nine"):
        step = regraft.extend(step, [name], (items[labels == name], labels[labels == name]), **(first if step is net else then))
    whole = regraft.extend(net, ["eight", "nine"], (items, labels), **first)
    np.testing.assert_allclose(step.head.weight, whole.head.weight, atol=1e-6)
    np.testing.assert_allclose(step.head.bias, whole.head.bias, atol=1e-6)
    assert step.classes == whole.classes


@pytest.mark.usefixtures("without_onnx_form")
def test_statistics_travel_with_the_saved_network(tmp_path: Any) -> None:
    net, (items, labels) = _trained(), _digits()["new"]
    once = regraft.extend(net, ["eight"], (items[labels == "eight"], labels[labels == "eight"]), statistics=_statistics())
    once.save(tmp_path / "once")
    nine = (items[labels == "nine"], labels[labels == "nine"])
    from_folder = regraft.extend(once, ["nine"], nine, statistics=tmp_path / "once")
    assert np.array_equal(from_folder.head.weight, regraft.extend(once, ["nine"], nine, statistics=True).head.weight)
    with pytest.raises(SettingError, match="carries none"):
        regraft.extend(net, ["nine"], nine, statistics=True)
    with pytest.raises(NetworkError, match="no class statistics"):
        regraft.extend(net, ["nine"], nine, statistics=tmp_path)


def test_labels_that_do_not_compete_are_added_too() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 2), nn.Sigmoid())
    net = regraft.load(module, classes=["red", "round"], inputs=(6,))
    assert net.head.kind == "multi-label"
    draw = np.random.default_rng(0)
    items = draw.normal(size=(200, 6)).astype(np.float32)
    table = (items[:, :1] > 0).astype(np.float32)
    data = regraft.read((items, np.concatenate([table, 1 - table], 1)), classes=("big", "small"))
    wider = regraft.extend(net, ["big", "small"], data)
    assert wider.classes == ("red", "round", "big", "small")
    assert np.array_equal(wider.logits(items)[:, :2], net.logits(items))
    assert ((wider.predict(items).probabilities[:, 2] > 0.5) == (table[:, 0] > 0)).mean() > 0.9


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["a", "A", "B", "c ", "d", "É", "e"]), min_size=1, max_size=4), st.integers(1, 3), st.data())
def test_rows_against_a_brute_force_model(names: list[str], steps: int, draw: st.DataObject) -> None:
    old = [f"old {index}" for index in range(3)]
    keys = [name.strip() for name in names]
    net = regraft.load(nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 3)), classes=old, inputs=(4,))
    start = draw.draw(st.sampled_from(["zeros", "random", "mean"]))
    if len(set(keys)) < len(keys):
        with pytest.raises(NetworkError, match="same once trimmed"):
            regraft.extend(net, names, start=start)
        return
    parts = [part.tolist() for part in np.array_split(np.array(names, object), min(steps, len(names)))]
    changed, expected = net, net.head.weight
    for part in parts:
        mean = changed.head.weight.mean(0)
        changed = regraft.extend(changed, part, start=start)
        assert np.array_equal(changed.head.weight[: len(expected)], expected)
        new = changed.head.weight[len(expected) :]
        assert new.shape == (len(part), 5)
        if start != "random":
            np.testing.assert_allclose(new, np.repeat([np.zeros(5) if start == "zeros" else mean], len(part), 0), rtol=1e-5, atol=1e-7)
        expected = changed.head.weight
    assert changed.classes == (*old, *names) and sum(changed.head.parts) == 3 + len(names)
    items = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    assert np.array_equal(changed.logits(items)[:, :3], net.logits(items))
    with pytest.raises(NetworkError, match="among the"):
        regraft.extend(changed, [f" {names[0]}"])


def test_formulas_by_hand() -> None:
    old = (np.array([[2.0, 0.0]]), np.array([0.5]))
    features = np.array([[0.0, 4.0], [0.0, 4.0]])
    rows, biases = separated_rows(features, np.array([0, 0]), count=1, old=old)
    np.testing.assert_allclose(rows, [2 * np.array([-1.0, 1.0]) / np.sqrt(2)])  # from (4, 0), where the old row points, to (0, 4)
    np.testing.assert_allclose(features[0] @ rows[0] + biases[0], 0.5 * 1.001)  # just above the old class
    both = np.array([[3.0, 0.0], [2.0, 0.2], [2.5, 0.1], [2.2, 0.4], [0.0, 3.0], [0.1, 2.0], [0.3, 2.2], [0.2, 2.6]])
    stored = (both[:4], np.zeros(4, int))
    (rows, biases), right = fitted_rows(both[4:], np.zeros(4, int), count=1, old=old, known=None, stored=stored)
    scores = np.concatenate([both @ old[0].T + old[1], both @ rows.T + biases], 1)
    assert scores.argmax(1).tolist() == [0] * 4 + [1] * 4 and right == 1


@pytest.mark.parametrize(("apart", "noise"), [(2.5, 0.0), (1.7, 2.0)])
def test_where_old_class_weights_hide_the_new_classes_the_account_names_the_call_that_solves_all(apart: float, noise: float) -> None:
    draw, targets = np.random.default_rng(0), np.arange(400) % 5
    features = (apart * np.eye(5, 24)[targets] + draw.normal(size=(400, 24))).astype(np.float32)
    layer = torch.nn.Linear(24, 3)
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(apart * np.eye(3, 24) + noise * draw.normal(size=(3, 24))))
    net, isold = regraft.load(torch.nn.Sequential(layer), classes=["a", "b", "c"], inputs=(24,)), targets < 3
    net.statistics = statistics_of(features[isold], targets[isold], classes=["a", "b", "c"]).to_arrays()
    new = features[~isold], np.array(["d", "e"])[targets[~isold] - 3]
    wider, solved = regraft.extend(net, ["d", "e"], new), regraft.extend(net, ["d", "e"], new, statistics=True)
    test = regraft.read((features, np.array(list("abcde"))[targets]))
    assert any("statistics=True" in note for note in wider.account.notes) == (noise > 0)
    assert np.array_equal(wider.logits(features)[:, :3], net.logits(features))
    means = [extension_figures(one, test, old=3)["harmonic_mean"] for one in (solved, wider)]
    assert means[0] > means[1] + 0.1 * (noise > 0) - 0.05


@pytest.mark.parametrize("kept", ["statistics", "examples", "both"])
def test_fitted_rows_have_the_lowest_loss_beside_the_old_ones_whatever_the_unit_of_the_features(kept: str) -> None:
    draw, targets = np.random.default_rng(0), np.arange(600) % 5
    features = 2 * np.eye(6)[targets] + draw.normal(size=(600, 6))
    old, isold = (3 * np.eye(3, 6), np.full(3, -2.0)), targets < 3
    for unit in (1e-4, 1.0, 1e4):
        x, rows = unit * features, (old[0] / unit, old[1])
        known = None if kept == "examples" else statistics_of(x[isold], targets[isold], classes=["a", "b", "c"])
        stored = None if kept == "statistics" else (x[isold], targets[isold])
        (weight, bias), _ = fitted_rows(x[~isold], targets[~isold] - 3, count=2, old=rows, known=known, stored=stored)

        def loss(weight: np.ndarray, bias: np.ndarray, x: np.ndarray = x, rows: tuple[np.ndarray, np.ndarray] = rows) -> float:
            scores = np.concatenate([x @ rows[0].T + rows[1], x @ weight.T + bias], axis=1)
            return float(np.average(logsumexp(scores, axis=1) - scores[np.arange(600), targets], weights=np.where(isold, 1.5, 1.0)))

        least = loss(weight, bias)
        for _ in range(30):
            other = draw.normal(size=(2, 7)) * 0.5
            assert loss(weight + other[:, :6] / unit, bias + other[:, 6]) > least
        assert least < loss(np.zeros((2, 6)), np.zeros(2)) - 0.3


@pytest.mark.parametrize(
    ("classes", "options", "error", "message"),
    [
        ([], {}, NetworkError, "empty"),
        (["eight", "eight "], {}, NetworkError, "same once trimmed"),
        (["one "], {}, NetworkError, "'one ' is among the 8 classes already"),
        (["eight"], {"data": "new"}, DataError, "'nine'"),
        (["eight", "nine", "ten"], {"data": "new"}, DataError, "no example of 'ten'"),
        (["eight"], {"start": "imprint"}, SettingError, "give them with data"),
        (["eight"], {"start": "imprit"}, SettingError, "did you mean 'imprint'"),
        (["eight"], {"old_data": "old"}, SettingError, "give them with data"),
        (["eight", "nine"], {"data": "new", "statistics": "own", "start": "probe"}, SettingError, "closed form"),
        (["eight", "nine"], {"data": "new", "statistics": 3}, SettingError, "received int"),
    ],
)
def test_what_does_not_fit_is_one_error_and_nothing_changes(
    classes: list[str], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    net, parts = _trained(), _digits()
    before = {name: tensor.clone() for name, tensor in net.state().items()}
    given = {name: parts.get(value, value) for name, value in options.items()}
    with pytest.raises(error, match=message):
        regraft.extend(net, classes, **given)
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state().items())


def test_networks_that_cannot_be_extended_are_named() -> None:
    module = nn.Sequential(nn.Linear(4, 3))
    with pytest.raises(NetworkError, match="have no class names"):
        regraft.extend(regraft.load(module, inputs=(4,)), ["x"])
    with pytest.raises(NetworkError, match="without a head"):
        regraft.extend(regraft.load(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU()), inputs=(1, 6, 6)), ["x"])
    wrong = {name: values[..., :5] if name == "means" else values for name, values in _statistics().items()}
    with pytest.raises(DataError):
        regraft.extend(_trained(), ["eight", "nine"], _digits()["new"], statistics=wrong)


def test_random_class_weights_follow_the_seed() -> None:
    net = regraft.load(torch.nn.Linear(4, 2), classes=["a", "b"], inputs=(4,))
    data = (np.ones((2, 4), np.float32), ["c", "d"])
    cases = ((data, 3), (data, 4), (None, 3))
    same, other, without = (regraft.extend(net, ["c", "d"], given, start="random", seed=seed) for given, seed in cases)
    assert np.array_equal(same.head.weight, without.head.weight) and not np.array_equal(same.head.weight, other.head.weight)


def test_solved_class_weights_of_new_classes_alone() -> None:
    net, parts = _trained(), _digits()
    found = _figures(regraft.extend(net, ["eight", "nine"], parts["new"], start="probe", test=parts["test"]))
    assert found["max_score_change"] == 0.0 and found["old_accuracy"] > 0.9 and found["new_accuracy"] > 0.3
    eights = tuple(part[parts["new"][1] == "eight"] for part in parts["new"])
    with pytest.raises(SettingError, match=r"tells new classes from each other; received 1\. Choose 'imprint', or give old_data="):
        regraft.extend(net, ["eight"], eights, start="probe")


def test_numbers_are_no_examples_of_classes() -> None:
    x, module = np.ones((5, 4), np.float32), nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    with pytest.raises(DataError, match="The data hold numbers in place of the classes 'c'; expected one or more of every new class"):
        regraft.extend(regraft.load(torch.nn.Linear(4, 2), classes=["a", "b"], inputs=(4,)), ["c"], (x, np.linspace(0, 1, 5)))
    with pytest.raises(DataError, match="The data hold numbers in place of the classes 'a', 'b'"):
        regraft.combine({name: regraft.load(module, inputs=(4,)) for name in "ab"}, (x, np.linspace(0, 1, 5)))
