"""Statistics against brute force, their discriminant against scikit-learn."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_wine
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from regraft.errors import DataError, SettingError
from regraft.probes import ClassStatistics, fit_lda, fit_lda_probe, held_out_factors, statistics, statistics_of
from regraft.probes.statistics import read_every

NAMES = ("ant", "bee", "cat")


def _drawn(items: int, width: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    targets = draw.integers(0, 3, items)
    return draw.normal(size=(items, width)) + 5.0 * draw.normal(size=(3, width))[targets], targets


def _assert_same(first: ClassStatistics, second: ClassStatistics) -> None:
    assert first.classes == second.classes
    np.testing.assert_array_equal(first.counts, second.counts)
    np.testing.assert_allclose(first.means, second.means, atol=1e-9)
    np.testing.assert_allclose(first.scatter, second.scatter, atol=1e-9)


@pytest.mark.parametrize("chunk", [2**22, 20])
def test_statistics_are_those_of_brute_force(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "_CHUNK", chunk)
    features, targets = _drawn(40, 4)
    targets[targets == 1] = 0
    found = statistics_of(features.astype(np.float32), targets, classes=NAMES)
    assert found.counts.tolist() == [(targets == 0).sum(), 0, (targets == 2).sum()]
    assert not found.means[1].any()
    scatter = np.zeros((4, 4))
    for row in (0, 2):
        own = features.astype(np.float32).astype(np.float64)[targets == row]
        np.testing.assert_allclose(found.means[row], own.mean(0), atol=1e-12)
        for item in own:
            scatter += np.outer(item - own.mean(0), item - own.mean(0))
    np.testing.assert_allclose(found.scatter, scatter, atol=1e-9)
    np.testing.assert_allclose(found.covariance, scatter / 38, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(parts=st.lists(st.integers(0, 4), min_size=1, max_size=30), order=st.randoms(use_true_random=False), seed=st.integers(0, 99))
def test_any_parts_in_any_order_give_the_statistics_of_the_whole(parts: list[int], order: object, seed: int) -> None:
    features, targets = _drawn(len(parts), 3, seed)
    batches = list(range(5))
    order.shuffle(batches)  # type: ignore[attr-defined]
    joined = statistics_of(np.zeros((0, 3)), np.zeros(0, int), classes=NAMES)
    for batch in batches:
        chosen = np.array(parts) == batch
        joined = joined.joined(statistics_of(features[chosen], targets[chosen], classes=NAMES))
    _assert_same(joined, statistics_of(features, targets, classes=NAMES))


def test_classes_that_come_one_at_a_time_give_the_statistics_of_all_at_once() -> None:
    features, targets = _drawn(60, 3)
    targets = np.arange(60) % 5
    names = tuple("abcde")
    steps = [statistics_of(features[targets == row], np.zeros(12, int), classes=[names[row]]) for row in range(5)]
    joined = steps[0]
    for step in steps[1:]:
        joined = joined.joined(step)
    _assert_same(joined, statistics_of(features, targets, classes=names))


def test_names_are_matched_by_the_key_and_keep_the_first_spelling() -> None:
    first = statistics_of([[1.0], [3.0]], [0, 1], classes=["Ant", "Bee"])
    second = statistics_of([[5.0], [9.0]], [0, 1], classes=["cat", "ant"])
    joined = first.joined(second, key=str.casefold)
    assert joined.classes == ("Ant", "Bee", "cat")
    assert (joined.counts.tolist(), joined.means.ravel().tolist()) == ([2, 1, 1], [5, 3, 5])
    assert joined.scatter.item() == pytest.approx(32.0)
    assert first.joined(second).classes == ("Ant", "Bee", "cat", "ant")
    assert first.counts.tolist() == [1, 1]
    with pytest.raises(DataError, match="'Ant' is there twice"):
        first.joined(second).joined(first, key=str.casefold)
    with pytest.raises(DataError, match="Statistics of 1 and 2 features"):
        first.joined(statistics_of(np.zeros((1, 2)), [0], classes=["x"]))


@pytest.mark.parametrize(
    ("features", "targets", "message"),
    [
        (np.zeros(3), [0, 1, 2], r"shapes \(3,\) and \(3,\)"),
        (np.zeros((3, 2)), [0, 1], r"\(2,\)"),
        (np.zeros((1, 2)), [3], "from 0 to 2"),
        (np.zeros((1, 2)), [0.5], "from 0 to 2"),
        ([[0.0], [np.inf]], [0, 1], "example 1 are not finite"),
    ],
)
def test_what_has_no_statistics_is_refused(features: object, targets: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        statistics_of(features, targets, classes=NAMES)  # type: ignore[arg-type]


def test_a_file_gives_them_back_bit_equal() -> None:
    kept = replace(statistics_of(*_drawn(10, 3), classes=["Ünïcode", "b, c", "日本"]), held_out=(0.6, 1.9))
    file = io.BytesIO()
    np.savez(file, **kept.to_arrays())  # type: ignore[arg-type]
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        back = ClassStatistics.from_arrays(arrays)
    assert (back.classes, back.held_out) == (kept.classes, kept.held_out) == (kept.classes, back.joined(kept).held_out)
    for name in ("counts", "means", "scatter"):
        np.testing.assert_array_equal(getattr(back, name), getattr(kept, name))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"counts": None}, "lack counts"),
        ({"counts": np.array([1.0, -1.0, 1.0])}, "lowest count is -1"),
        ({"counts": np.ones(2)}, "shapes"),
        ({"counts": np.array(["x", "y", "z"])}, "not numbers"),
        ({"means": np.full((3, 2), np.nan)}, "not all numbers are finite"),
        ({"scatter": np.array([[1.0, 2.0], [0.0, 1.0]])}, "not symmetric"),
        ({"scatter": -np.eye(2)}, "not symmetric with a diagonal"),
        ({"held_out": np.array([0.5, np.nan])}, "held_out of the statistics"),
        ({"held_out": np.array([1.1, 1.0])}, "from 0 to 1, then one of 1 or more"),
        ({"held_out": np.array(["0", "1"])}, "held_out of the statistics"),
        ({"classes": np.array([1, 2], np.uint8)}, "cannot be read"),
        ({"classes": np.frombuffer(b'{"a": 1}', np.uint8)}, "no list"),
        ({"classes": np.frombuffer(b'["a", "a", "b"]', np.uint8)}, "different"),
    ],
)
def test_damaged_arrays_are_refused(change: dict[str, np.ndarray | None], message: str) -> None:
    arrays = {**statistics_of(*_drawn(10, 2), classes=NAMES).to_arrays(), **change}
    with pytest.raises(DataError, match=message):
        ClassStatistics.from_arrays({name: array for name, array in arrays.items() if array is not None})


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_discriminant_is_scikit_learns(shrinkage: float) -> None:
    features, labels = load_wine(return_X_y=True)
    features = features / features.std(0)
    found = statistics_of(features, labels, classes=NAMES)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage).fit(features, labels)
    scale = (len(labels) - 3) / len(labels)  # scikit-learn divides the scatter by N
    weight, bias = fit_lda(found, shrinkage=shrinkage, balanced=False)
    np.testing.assert_allclose(weight - weight[0], scale * (model.coef_ - model.coef_[0]), atol=1e-8)
    priors = np.log(model.priors_)
    (own, theirs) = (one - one.mean() for one in (bias - priors, scale * (model.intercept_ - priors)))
    np.testing.assert_allclose(own, theirs, rtol=1e-7)
    even = np.concatenate([np.flatnonzero(labels == row)[:40] for row in range(3)])  # with uniform priors it weighs classes alike
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(3, 1 / 3)).fit(features[even], labels[even])
    weight, bias = fit_lda(statistics_of(features[even], labels[even], classes=NAMES), shrinkage=shrinkage)
    np.testing.assert_allclose(weight - weight[0], 117 / 120 * (model.coef_ - model.coef_[0]), atol=1e-8)
    np.testing.assert_allclose(bias - bias[0], 117 / 120 * (model.intercept_ - model.intercept_[0]), rtol=1e-8, atol=1e-8)


def test_uniform_priors_only_take_the_counts_out_of_the_bias() -> None:
    found = statistics_of(*_drawn(50, 3), classes=NAMES)
    (balanced, even), (weight, bias) = fit_lda(found), fit_lda(found, balanced=False)
    np.testing.assert_array_equal(balanced, weight)
    expected = np.log(found.counts)
    np.testing.assert_allclose(bias - even, expected - expected.mean(), atol=1e-9)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_discriminant_probe_has_the_priors_of_its_examples(balanced: bool) -> None:
    draw = np.random.default_rng(0)
    labels = (draw.random(4000) < 0.1).astype(int)
    features = draw.normal(size=(4000, 4)) + labels[:, None] * 0.7
    probe = fit_lda_probe(features[:1000], labels[:1000], classes=2, balanced=balanced)
    model = LinearDiscriminantAnalysis(priors=[0.5, 0.5] if balanced else None).fit(features[:1000], labels[:1000])
    found, expected = (part[1000:] for part in (probe.scores(features).argmax(1), model.predict(features)))
    assert (found == expected).mean() > 0.98
    assert (found.mean() > 0.2) == balanced


def test_default_shrinkage_by_hand() -> None:
    # covariance diag(3, 1): Tr 4, Tr of the square 10, p 2, 10 degrees of freedom: (0 · 10 + 16) / (10 · (10 - 8)) = 0.8
    found = ClassStatistics(("a", "b"), np.array([6.0, 6.0]), np.array([[0.0, 0.0], [1.0, 1.0]]), np.diag([30.0, 10.0]))
    weight, _ = fit_lda(found)
    np.testing.assert_allclose(weight[1] - weight[0], [1 / (0.2 * 3 + 0.8 * 2), 1 / (0.2 * 1 + 0.8 * 2)], rtol=1e-12)


@pytest.mark.parametrize("shrinkage", [None, 0.0, 1.0])
def test_fewer_items_than_features_and_features_that_do_not_vary(shrinkage: float | None) -> None:
    features, targets = _drawn(12, 60)
    features[:, :10] = 0.1
    for table in (features, features[:, :1]):
        weight, bias = fit_lda(statistics_of(table, targets, classes=NAMES), shrinkage=shrinkage)
        assert np.isfinite(weight).all() and np.isfinite(bias).all()
    weight, bias = fit_lda(statistics_of(features, targets, classes=NAMES), shrinkage=shrinkage)
    assert ((features @ weight.T + bias).argmax(1) == targets).all()


def test_one_item_a_class_takes_the_nearest_mean() -> None:
    means = np.random.default_rng(1).normal(size=(3, 4)) + 100.0
    weight, bias = fit_lda(statistics_of(means, np.arange(3), classes=NAMES))
    points = np.random.default_rng(2).normal(size=(50, 4)) + 100.0
    nearest = np.linalg.norm(points[:, None] - means, axis=2).argmin(1)
    assert ((points @ weight.T + bias).argmax(1) == nearest).all()


def test_a_class_without_items_is_never_the_highest() -> None:
    features, targets = _drawn(30, 3)
    found = statistics_of(features, np.where(targets == 1, 0, targets), classes=NAMES)
    weight, bias = fit_lda(found)
    far = np.random.default_rng(0).normal(size=(200, 3)) * 1e3
    assert 1 not in (far @ weight.T + bias).argmax(1)
    only = [0, 2]
    alone = ClassStatistics(("ant", "cat"), found.counts[only], found.means[only], found.scatter)
    np.testing.assert_allclose(weight[only], fit_lda(alone)[0], rtol=1e-12)


def test_settings_out_of_range_and_no_items_are_refused() -> None:
    with pytest.raises(SettingError, match=r"shrinkage=1\.5"):
        fit_lda(statistics_of(*_drawn(10, 2), classes=NAMES), shrinkage=1.5)
    with pytest.raises(DataError, match="None of the 3 classes"):
        fit_lda(statistics_of(np.zeros((0, 2)), [], classes=NAMES))


@pytest.mark.parametrize(("apart", "wide"), [(1.0, 1.0), (0.6, 2.0), (0.3, 1.0)])
def test_held_out_scores_are_compared_by_how_far_apart_classes_are_and_how_wide_each_is(apart: float, wide: float) -> None:
    draw = np.random.default_rng(0)
    means, targets = draw.normal(size=(4, 4)) * 3, draw.integers(0, 3, 4000)  # nothing of the last class
    noise = draw.normal(size=(4000, 4))
    seen, unseen = means[targets] + noise, 7.0 + apart * means[targets] + wide * noise[::-1]
    assert np.allclose(held_out_factors((seen, targets), (unseen, targets)), (apart, wide), rtol=0.03)
    assert held_out_factors((unseen, targets), (seen, targets)) == pytest.approx(
        (1.0, 1.0), abs=0.02
    )  # never surer than of what it has seen


def test_too_few_held_out_scores_say_nothing() -> None:
    scores, targets = _drawn(60, 3)
    for few in (0, 5, 12):
        assert held_out_factors((scores, targets), (scores[:few] / 9, targets[:few])) == (1.0, 1.0)
    assert held_out_factors((scores, targets), (scores / 9, targets))[0] == pytest.approx(1 / 9)
    assert held_out_factors((np.zeros((60, 3)), targets), (scores, targets)) == (1.0, 1.0)


@pytest.mark.parametrize("every", [[[1], [1, 2]], [1, 2], [], {}, None, True, 0, "2", 1.0])
def test_a_damaged_step_over_the_features_is_refused(every: object) -> None:
    with pytest.raises(DataError, match="expected one whole number, 1 or more"):
        read_every(every)  # type: ignore[arg-type]  # of a file
