"""What single probes promise beyond the contract."""

from __future__ import annotations

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.neighbors import NearestCentroid
from tests.probes.test_contract import blobs

from regraft.errors import DataError, SettingError
from regraft.probes import (
    UnknownChoice,
    UnknownJudge,
    choose_unknown,
    fit_class_mean,
    fit_lda,
    fit_logistic,
    fit_random_projection,
    fit_ridge,
    fit_temperature,
    fit_vote,
    log_loss,
    statistics_of,
    unknown_scores,
)
from regraft.probes.class_mean import mean_cosines
from regraft.probes.knn import neighbour_scores
from regraft.probes.unknown import COMBINED, UNKNOWN_SCORES, _auroc
from regraft.tasks import expected_calibration_error


def test_class_means_agree_with_scikit_learn_far_from_the_origin_and_are_a_linear_head() -> None:
    features, labels = blobs(60)
    features += 1e6
    probe = fit_class_mean(features, labels, classes=4)
    np.testing.assert_array_equal(probe.scores(features).argmax(1), NearestCentroid().fit(features, labels).predict(features))
    means = np.stack([features[labels == index].mean(0) for index in range(4)])
    distances = np.square(features[:, None] - means).sum(2) / means.var(0).sum()
    by_hand, found = (scores - scores.mean(1, keepdims=True) for scores in (-probe.temperature * distances / 2, probe.scores(features)))
    np.testing.assert_allclose(found, by_hand, atol=1e-6)  # as a linear head: the same probabilities


@pytest.mark.parametrize("groups", [None, np.arange(60) // 3])
def test_cosines_with_class_means_that_leave_the_group_out(groups: np.ndarray | None) -> None:
    features, labels = blobs(60)
    own = np.arange(60) if groups is None else groups
    means = [[features[(labels == index) & (own != group)].mean(0) for index in range(4)] for group in own]
    cosines = np.array(
        [[row @ one / np.linalg.norm(row) / np.linalg.norm(one) for one in few] for row, few in zip(features, means, strict=True)]
    )
    expected = fit_temperature(cosines, np.eye(4)[labels]) * cosines
    np.testing.assert_allclose(mean_cosines(features, labels, classes=4, groups=groups), expected)


def test_neighbours_find_classes_of_several_clusters() -> None:
    draw = np.random.default_rng(0)
    corner = draw.integers(0, 4, 200)
    angles = corner * np.pi / 2 + draw.normal(size=200) * 0.2
    features, labels = np.stack([np.cos(angles), np.sin(angles)], axis=1), corner % 2
    assert (neighbour_scores(features, labels, classes=2).argmax(1) == labels).mean() > 0.95
    assert (fit_class_mean(features, labels, classes=2).loo_scores.argmax(1) == labels).mean() < 0.75
    twins = np.repeat(draw.normal(size=(40, 60)), 2, axis=0), np.repeat(draw.integers(0, 2, 40), 2)
    assert (neighbour_scores(*twins, classes=2, groups=np.repeat(np.arange(40), 2)).argmax(1) == twins[1]).mean() < 0.75
    with pytest.raises(DataError, match="received 1 example,"):
        neighbour_scores(features[:1], labels[:1], classes=2)


def test_votes_weigh_by_their_cosine() -> None:
    features = np.array([[2.0, 0.0], [1.0, 0.0], [0.9, np.sqrt(0.19)], [0.0, 1.0]])
    near, far, far_too = np.exp(np.array([1.0, 0.9, 0.0]) / 0.07)
    share = 3 * near / (near + far + far_too)
    expected = np.log(np.array([share + 0.5, 3 - share + 0.5]) / 4)
    np.testing.assert_allclose(neighbour_scores(features, [1, 0, 1, 1], classes=2)[0], expected, rtol=1e-4)


def test_a_random_projection_separates_what_no_line_does() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(size=(200, 2))
    labels = (features[:, 0] * features[:, 1] > 0).astype(int)
    probe = fit_random_projection(features, labels, classes=2, width=150)
    straight = fit_ridge(features, labels, classes=2)
    assert (probe.loo_scores.argmax(1) == labels).mean() > 0.9 > (straight.loo_scores.argmax(1) == labels).mean()
    layer = probe.layer
    hidden = np.maximum(features @ layer.weight.T + layer.bias, 0)
    np.testing.assert_allclose(hidden @ probe.head.weight.T + probe.head.bias, probe.scores(features), atol=1e-4)
    assert len(fit_random_projection(features[:20], labels[:20], classes=2).layer.bias) == 100
    with pytest.raises(SettingError, match="width=0 is out of its range"):
        fit_random_projection(features, labels, classes=2, width=0)
    with pytest.raises(DataError, match=r"\(N, 2\); received the shape \(3, 5\)"):
        probe.scores(np.zeros((3, 5)))


@pytest.mark.parametrize("classes", [2, 3])
def test_logistic_regression_is_that_of_scikit_learn_at_the_chosen_penalty(classes: int) -> None:
    features, labels = blobs(60, classes=classes)
    features = features * 3 + 10
    probe = fit_logistic(features, labels, classes=classes)
    scaled = (features - features.mean(0)) / features.std(0)
    inverse = 2 / probe.penalty if classes == 2 else 1 / probe.penalty  # of two rows of opposite signs each has half the length
    model = LogisticRegression(C=inverse, max_iter=1000, tol=1e-7).fit(scaled, labels)
    np.testing.assert_allclose(softmax(probe.scores(features) / probe.temperature, axis=1), model.predict_proba(scaled), atol=3e-3)
    assert 1e-3 < probe.penalty < 1e4
    with pytest.raises(DataError, match="received 60 of class 0"):
        fit_logistic(features, np.zeros(60, int), classes=2)


def test_a_temperature_undoes_a_scale() -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(size=(2000, 3)) * 1.5
    labels = (scores + draw.gumbel(size=(2000, 3))).argmax(1)
    found = fit_temperature(scores * 5, np.eye(3)[labels])
    assert found == pytest.approx(0.2, rel=0.1)
    before, after = (softmax(scores * 5 * factor, axis=1) for factor in (1, found))
    assert expected_calibration_error(after, labels) < 0.04 < expected_calibration_error(before, labels)
    assert log_loss(scores * 5 * found, labels) < log_loss(scores * 5, labels)


# ── unknown items ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_softened_head_is_the_same_but_less_sure() -> None:
    features, rows = blobs(24, classes=3)
    found = fit_ridge(features, rows, classes=3)
    soft = found.softened(rows, kind="classification")
    ratio = soft.temperature / found.temperature
    assert ratio < 0.9 and np.allclose(soft.scores(features), ratio * found.scores(features))
    assert np.allclose(soft.loo_scores, ratio * found.loo_scores) and soft.penalty == found.penalty
    truth = (np.eye(3)[rows] * len(rows) + 1) / (len(rows) + 3)  # one further item of every class
    losses = [-(truth * np.log(softmax(scale * soft.loo_scores, axis=1))).sum() for scale in (0.95, 1.0, 1.05)]
    assert losses[1] == min(losses)
    plain = fit_ridge(features, np.eye(3)[rows], kind="regression")
    assert plain.softened(np.eye(3)[rows], kind="regression") is plain


def test_unknown_scores_by_hand() -> None:
    features, labels = blobs(400, width=3, classes=2)
    statistics = statistics_of(features, labels, classes="ab")
    asked = np.array([[20.0, -20.0, 20.0], statistics.means[0]])
    found = unknown_scores(asked, statistics=statistics, reference=features)
    assert set(found) == set(UNKNOWN_SCORES)
    assert found["mahalanobis"][0] > 300 and found["mahalanobis"][1] == pytest.approx(0, abs=1e-9)
    inverse = np.linalg.inv(statistics.covariance)
    gaps = asked[0] - statistics.means
    assert found["mahalanobis"][0] == pytest.approx(min(gap @ inverse @ gap for gap in gaps), rel=0.05)
    logits = asked @ fit_lda(statistics)[0].T + fit_lda(statistics)[1]
    np.testing.assert_allclose(found["max_logit"], -logits.max(1))
    np.testing.assert_allclose(found["energy"], -np.log(np.exp(logits - logits.max()).sum(1)) - logits.max(), rtol=1e-9)
    whitened = np.linalg.cholesky(np.linalg.inv(statistics.covariance)).T
    nearest = min(np.square(whitened @ (asked[0] - one)).sum() for one in features)
    assert found["nearest"][0] == pytest.approx(nearest, rel=0.05)
    assert unknown_scores(features[:5], statistics=statistics, names=["nearest"], reference=features)["nearest"] == pytest.approx(
        0, abs=1e-6
    )
    assert found["max_probability"].min() >= -1 and found["max_probability"].max() <= -0.5
    assert found["vim"][0] > found["vim"][1]
    weight, bias = fit_lda(statistics)
    np.testing.assert_allclose(found["max_logit"], -(asked @ weight.T + bias).max(axis=1))
    with pytest.raises(SettingError, match="did you mean 'energy'"):
        unknown_scores(asked, statistics=statistics, names=["enrgy"])
    with pytest.raises(SettingError, match="needs `reference`"):
        unknown_scores(asked, statistics=statistics)
    with pytest.raises(DataError, match="2 wide, the statistics 3"):
        unknown_scores(asked[:, :2], statistics=statistics, names=["energy"])


def test_the_chosen_score_keeps_its_false_alarm_rate_and_finds_new_classes() -> None:
    draw = np.random.default_rng(0)
    centres = draw.normal(size=(12, 16)) * 2.0
    labels = np.arange(600) % 10
    features = centres[labels] + draw.normal(size=(600, 16))
    choice = choose_unknown(features, labels)
    assert max(choice.auroc.values()) - 0.02 <= choice.auroc[choice.score] and choice.auroc[choice.score] > 0.95
    assert choice.repeats == 5
    statistics = statistics_of(features, labels, classes=[str(index) for index in range(10)])
    judge = UnknownJudge(choice, statistics, reference=features)

    def called_unknown(kinds: list[int]) -> float:
        return float(judge(centres[np.repeat(kinds, 100)] + draw.normal(size=(100 * len(kinds), 16))).mean())

    assert 0.02 < called_unknown(list(range(10))) < 0.09
    assert called_unknown([10, 11]) > 0.8 and not choice.weak and "too little" not in choice.described()
    noise = draw.normal(size=(200, 8)), np.arange(200) % 4
    assert choose_unknown(*noise).weak and "too little to rely on" in choose_unknown(*noise).described()
    assert UnknownChoice.from_dict(json.loads(json.dumps(choice.to_dict()))) == choice
    assert choose_unknown(features, labels, groups=np.arange(600) // 4).auroc.keys() == {COMBINED, *UNKNOWN_SCORES}


def test_scores_that_tell_no_hidden_class_leave_the_sum() -> None:
    draw, labels = np.random.default_rng(0), np.arange(480) % 12
    # half of the classes vary ten times as much along their axes: distances to single examples say little
    features = np.eye(12)[labels] * 3 + draw.normal(size=(480, 12)) * np.repeat([0.3, 3.0], 6)
    choice = choose_unknown(features, labels)
    assert choice.score == "combined" and set(choice.parts) < {"max_logit", "nearest", "neighbour", "relative"}
    assert "neighbour" not in choice.parts and choice.auroc["neighbour"] < 0.65 < 0.85 < choice.auroc["combined"]
    apart = choose_unknown(np.eye(12)[labels] * 9 + draw.normal(size=(480, 12)), labels)  # all of them tell: none leaves the sum
    assert "'combined' (max_logit + nearest + neighbour + relative)" in apart.described()
    lengths = np.exp(2 * draw.normal(size=(480, 1)))  # only the direction tells: one score is left
    alone = choose_unknown((np.eye(12)[labels] * 3 + 0.8 * draw.normal(size=(480, 12))) * lengths, labels)
    assert alone.score == "neighbour" and list(alone.parts) == ["neighbour"] and "the score 'neighbour' tells" in alone.described()
    assert alone.auroc["neighbour"] > alone.auroc["combined"]


def test_a_choice_saved_without_parts_scores_as_it_did() -> None:
    features, labels = blobs(40)
    statistics = statistics_of(features, labels, classes=["a", "b", "c", "d"])
    scores = unknown_scores(features, statistics=statistics, reference=features)
    saved = {name: value for name, value in choose_unknown(features, labels).to_dict().items() if name != "parts"}
    for score, wanted in {"combined": scores["nearest"] + scores["relative"], "vim": scores["vim"]}.items():
        judge = UnknownJudge(UnknownChoice.from_dict(saved | {"score": score}), statistics, reference=features)
        np.testing.assert_allclose(judge.scores(features), wanted)


def test_the_area_below_the_curve_is_that_of_scikit_learn_also_with_ties() -> None:
    draw = np.random.default_rng(0)
    for known, new in ((1, 1), (3, 40), (50, 7)):
        scores = draw.integers(0, 9, known + new).astype(float)
        expected = roc_auc_score(np.arange(known + new) >= known, scores)
        assert _auroc(scores[:known], scores[known:]) == pytest.approx(expected, abs=1e-12)


def test_the_choice_refuses_what_says_nothing() -> None:
    features, labels = blobs(40)
    with pytest.raises(SettingError, match="false_alarm=5 is out of its range"):
        choose_unknown(features, labels, false_alarm=5)
    with pytest.raises(DataError, match="3 or more of them; received 2"):
        choose_unknown(features, labels % 2)
    with pytest.raises(DataError, match="kept aside is of a class with other examples"):
        choose_unknown(features[:8], np.arange(8))
    with pytest.raises(DataError, match="it lacks 'threshold'"):
        UnknownChoice.from_dict({name: value for name, value in choose_unknown(features, labels).to_dict().items() if name != "threshold"})
    with pytest.raises(DataError, match="received 'entropy'"):
        UnknownChoice.from_dict(choose_unknown(features, labels).to_dict() | {"score": "entropy"})


def test_a_vote_is_two_layers_and_each_example_is_judged_by_the_others() -> None:
    draw = np.random.default_rng(0)
    x = draw.normal(size=(80, 3)) * [1, 10, 0.1] + [5, -3, 0]
    y = ((x[:, 0] > 5) ^ (x[:, 1] > -3)).astype(int)  # no line parts them
    probe = fit_vote(x, y, classes=2)
    layer, head = probe.layer, probe.head
    hidden = layer.apply(x)
    np.testing.assert_allclose(hidden.sum(1), 1, atol=1e-5)
    z = (x - x.mean(0)) / x.std(0)
    kernel = np.exp(-np.square(z[:, None] - z).sum(-1) / (2 * head.penalty))
    np.testing.assert_allclose(hidden, kernel / kernel.sum(1, keepdims=True), atol=1e-4)
    np.fill_diagonal(kernel, 0)
    np.testing.assert_allclose(head.loo_scores, head.temperature * (kernel / kernel.sum(1, keepdims=True)) @ np.eye(2)[y], atol=1e-4)
    assert (head.loo_scores.argmax(1) == y).mean() > 0.8 and head.penalty == min(head.path, key=lambda one: one[1])[0]
    twice = fit_vote(np.repeat(x, 2, 0), np.repeat(y, 2), classes=2)
    assert np.abs(twice.layer.weight * x.std(0)).max() < 2e3 and np.isfinite(twice.scores(x)).all()
    pairs = fit_vote(np.repeat(x, 2, 0), np.repeat(y, 2), classes=2, groups=np.repeat(np.arange(80), 2)).head
    np.testing.assert_allclose(pairs.loo_scores[::2] / pairs.temperature, head.loo_scores / head.temperature, atol=1e-4)
