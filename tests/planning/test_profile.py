"""The profile: what each depth gives, what it says of it, and what must not be believed."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest
import torch
from scipy.special import softmax
from torch import nn

import regraft
from regraft.data import PreparedData
from regraft.errors import DataError, InputError, SettingError
from regraft.freezing import Counter
from regraft.networks.network import Network
from regraft.planning.preparing import preprocessing_for
from regraft.planning.profiling.judging import Case, ProbeEvaluation, judged, nested_choice
from regraft.planning.profiling.probing import coordinates, expected_gain, joint_probe, relation_scores, shared_rows
from regraft.planning.setup import Clock
from regraft.planning.tap_features import TapFeatures, tapped_features
from regraft.training import Settings

from ..torch_examples import Cnn

CLASSES = ("a", "b", "c")


def cnn(classes: tuple[str, ...] = CLASSES) -> Network:
    torch.manual_seed(0)
    return regraft.load(Cnn(len(classes)), inputs=(1, 8, 8), classes=classes)


def textures(each: int = 20, *, noise: float = 0.8, classes: tuple[str, ...] = CLASSES) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of three chequers in noise, whose mean, deviation, rows and columns are alike."""
    draw, (y, x) = np.random.default_rng(0), np.indices((8, 8))
    kinds = np.stack([(y + x) % 2, (y // 2 + x // 2) % 2, (y + x // 2) % 2]) * 2.0 - 1
    targets = np.repeat(np.arange(3), each)
    items = (kinds[targets] + noise * draw.standard_normal((len(targets), 8, 8))).astype(np.float32)
    return items[:, None], np.array(classes)[targets]


def profile(net: Any, data: Any, **settings: Any) -> regraft.Profile:
    return regraft.profile(net, data, cache="memory", device="cpu", **settings)


def tapped(net: Network, data: Any, **named: Any) -> tuple[TapFeatures, Counter]:
    read, counter = regraft.read(data), Counter()
    items = PreparedData(read, preprocessing_for(net, read))
    settings = named.pop("settings", Settings(cache="memory"))
    return tapped_features(net, items, settings=settings, device=torch.device("cpu"), counter=counter, clock=Clock(), **named), counter


def test_one_pass_gives_every_depth_and_what_the_head_reads() -> None:
    net, data = cnn(), textures(10)
    found, counter = tapped(net, data)
    assert counter.items == len(data[0]) == len(found.features)
    np.testing.assert_allclose(found.head_features, net.features(data[0]), atol=1e-6)
    again = net.tapped(found.points)
    np.testing.assert_allclose(found.features, again.features(data[0]), atol=1e-6)
    assert again.body.tap_slices == found.slices
    assert found.features.shape[1] == found.slices[-1].stop
    assert [tap.block for tap in found.points] == ["input", "conv1", "norm1", "conv2", "norm2", "fc1"]


def test_a_second_pass_costs_nothing(tmp_path: Any) -> None:
    net, data, settings = cnn(), textures(10), Settings(cache=str(tmp_path))
    first, _ = tapped(net, data, settings=settings)
    second, counter = tapped(net, data, settings=settings)
    assert counter.items == 0
    assert torch.equal(first.features, second.features)


def test_grids_that_do_not_fit_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.planning.tap_features.MOST_FEATURES", 150)
    net = cnn()
    small, _ = tapped(net, textures(5))
    pools = {part.block: {piece.pool for piece in small.slices if piece.block == part.block} for part in small.slices}
    assert small.features.shape[1] <= 150 and small.notes
    assert all({"mean", "std"} <= pools[block] for block in ("conv1", "conv2"))
    assert net.tapped(small.points).body.tap_slices == small.slices


def test_profile_finds_the_depth_that_knows_and_says_where_transfer_breaks() -> None:
    torch.manual_seed(0)
    whole = Cnn(3)
    with torch.no_grad():
        whole.fc1.weight.zero_()  # nothing gets through: what the head reads is the same for all items
    found = profile(regraft.load(whole, inputs=(1, 8, 8), classes=CLASSES), textures())
    by_name = {depth.block: depth for depth in found.depths}
    assert by_name["conv1"].value > 0.9
    assert by_name["fc1"].value <= 0.34
    assert found.holds_to in ("conv1", "norm1", "conv2", "norm2")
    assert found.likeness == "different" and found.similarity is not None and found.similarity < 0.1
    assert any("Transfer breaks after" in sentence for sentence in found.findings)
    assert any("'fc1'" in sentence and "All examples give the same" in sentence for sentence in found.warnings)
    assert "fc1" in found.table() and "Textbook:" in str(found)
    assert found.passed == 60 and found.judged == 60


@pytest.mark.parametrize("grouped", [False, True])
def test_a_probe_that_knows_nothing_lies_below_chance_and_that_is_explained(grouped: bool, tmp_path: Any) -> None:
    items, targets = np.ones((60, 1, 8, 8), np.float32), np.array(CLASSES)[np.arange(60) % 3]
    groups = targets + np.arange(60).astype(str) if grouped else None
    found = profile(cnn(), regraft.read((items, targets), group=groups), out=tmp_path)
    assert {depth.value for depth in found.depths} == {0.0}
    said = [sentence for sentence in found.warnings if sentence.startswith("Clearly below chance (33.3 %): 'input'")]
    assert len(said) == 1 and "means no more than chance" in found.table() + str(found)
    assert "means no more than chance" in (tmp_path / "profile.html").read_text(encoding="utf-8")
    bright = (items + (np.arange(60) % 3)[:, None, None, None]).astype(np.float32)
    assert not any("below chance" in sentence for sentence in profile(cnn(), (bright, targets)).warnings)


def test_plain_data_both_ways_page_plot_and_plan(tmp_path: Any) -> None:
    found = profile(cnn(), textures(), out=tmp_path)
    plain = json.loads(json.dumps(found.to_dict()))
    assert regraft.Profile.from_dict(plain) == found
    plain["items"] = plain.pop("examples")  # as earlier versions wrote it
    assert regraft.Profile.from_dict(plain) == found
    assert regraft.Profile.load(tmp_path) == found
    page = (tmp_path / "profile.html").read_text(encoding="utf-8")
    assert "conv1" in page and "<script" not in page and "http" not in page.replace("http-equiv", "")
    assert found.plot(tmp_path / "plot.png").read_bytes()[:4] == b"\x89PNG"
    assert found.plan("10m").budget == "10m"
    with pytest.raises(SettingError, match="budget='soon'"):
        found.plan("soon")
    plan = found.plan()
    assert plan.strategy == "auto" and any("Profile:" in reason for reason in plan.reasons)
    broken = found.to_dict()
    del broken["depths"]
    with pytest.raises(DataError, match="lacks depths"):
        regraft.Profile.from_dict(broken)
    for wrong, message in (({"best": "conv9"}, "'conv9' is none of the depths"), ({"curve": [[0, 0.5, 0.1]]}, "curve of no examples")):
        with pytest.raises(DataError, match=message):
            regraft.Profile.from_dict(found.to_dict() | wrong)
    with pytest.raises(DataError, match="cannot be opened"):
        regraft.Profile.load(tmp_path / "elsewhere")


def test_names_that_do_harm_stay_text_on_the_page(tmp_path: Any) -> None:
    names = ("<script>alert(1)</script>", "b", "c")
    profile(cnn(names), textures(6, classes=names), out=tmp_path)
    assert "<script" not in (tmp_path / "profile.html").read_text(encoding="utf-8")


def test_groups_are_left_out_whole_and_the_naive_estimate_is_said_to_be_too_good() -> None:
    draw = np.random.default_rng(0)
    groups = np.repeat(np.arange(16), 10)
    own = draw.standard_normal((16, 1, 8, 8)) * 2  # each group looks like itself, whatever its class
    items = (own[groups] + 0.3 * draw.standard_normal((160, 1, 8, 8))).astype(np.float32)
    targets = np.array(CLASSES)[draw.integers(0, 3, 16)[groups]]
    found = profile(cnn(), regraft.read((items, targets), group=groups.astype(str)))
    figures = {part.name: part.value for part in found.beside}
    naive = next(value for name, value in figures.items() if name.startswith("the same, one example left out"))
    assert found.held_out == "leave-group-out" and found.groups == 16
    assert naive > max(value for name, value in figures.items() if name.startswith("all depths")) + 0.2
    assert any("Examples of one group resemble each other" in sentence for sentence in found.warnings)
    lone = profile(cnn(), regraft.read(textures(6), group=np.full(18, "one")))
    assert lone.held_out == "leave-one-out" and any("group 'one'" in sentence for sentence in lone.warnings)


def test_brightness_that_gives_the_answer_away_is_said() -> None:
    draw, targets = np.random.default_rng(0), np.repeat(np.arange(2), 20)
    items = (draw.standard_normal((40, 1, 8, 8)) + 3 * targets[:, None, None, None]).astype(np.float32)
    found = profile(cnn(), (items, np.array(CLASSES)[targets]))
    assert found.depths[0].block == "input" and found.depths[0].value > 0.95
    assert any("Simple input statistics already give" in sentence for sentence in found.warnings)
    assert not any("Simple input statistics" in sentence for sentence in profile(cnn(), textures(noise=1.6)).warnings)


@pytest.mark.parametrize("kind", ["classes", "numbers"])
def test_of_rows_the_columns_themselves_are_named(kind: str) -> None:
    draw = np.random.default_rng(0)
    rows = draw.standard_normal((60, 6)).astype(np.float32)
    targets = np.where(rows[:, 0] > 0, "high", "low") if kind == "classes" else 3 * rows[:, 0] + 0.1 * draw.standard_normal(60)
    rows[:, 0] *= 4
    torch.manual_seed(0)
    net, groups = regraft.load(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)), inputs=(6,)), np.arange(60) % 12
    found = regraft.profile(net, regraft.read((rows, targets), group=groups), cache="memory")
    assert any(sentence.startswith("The columns themselves already give") for sentence in found.warnings)
    assert not any("loudness" in sentence for sentence in found.warnings)
    joint = max(part.value for part in found.beside if part.name.startswith("all depths"))
    single = next(part for part in found.beside if "one example left out" in part.name)  # the groups are drawn: nothing is too good
    assert ("too good" in single.words) == (single.value > joint)
    told = regraft.adapt(net, (rows, targets + draw.standard_normal(60) if kind == "numbers" else targets), cache="memory", epochs=2)
    assert any(reason.startswith("Warning: the columns themselves do as well") for reason in told.plan.reasons)
    blind = regraft.adapt(net, (np.ones_like(rows), targets), cache="memory", epochs=2)
    assert not any("columns themselves" in reason for reason in blind.plan.reasons)


def test_targets_that_nothing_predicts() -> None:
    items, _ = textures()
    found = profile(cnn(), (items, np.random.default_rng(1).permutation(np.repeat(CLASSES, 20))))
    assert found.likeness == "unknown" and found.similarity is None
    assert "better than chance" in found.scenario


def test_the_old_head_by_name_and_by_relation() -> None:
    net, (items, _) = cnn(), textures(12)
    told = net.predict(items).labels
    names = [label if label != "c" else "d" for label in told]
    figures = {part.name: part for part in profile(net, (items, np.array(names))).beside}
    kept = np.mean([label != "c" for label in told])
    assert figures["the old head, by class name"].value == pytest.approx(kept)
    assert f"{len({*names} - {'d'})} of {len(set(names))} classes" in figures["the old head, by class name"].words
    np.testing.assert_array_equal(shared_rows(net.head, ("c", "new", "A")), [2, -1, 0])


@pytest.mark.parametrize("grouped", [False, True])
def test_relation_of_classes_leaves_out_exactly(grouped: bool) -> None:
    draw = np.random.default_rng(0)
    scores, targets = draw.standard_normal((12, 4)), draw.integers(0, 3, 12)
    groups = np.repeat(np.arange(4), 3) if grouped else None
    found = relation_scores(scores, targets, classes=3, groups=groups)
    chances = softmax(scores, axis=1)
    for item in range(12):
        kept = np.arange(12) != item if groups is None else groups != groups[item]
        together = np.eye(3)[targets[kept]].T @ chances[kept]
        np.testing.assert_allclose(found[item], (together / chances[kept].sum(0)) @ chances[item], atol=1e-12)


def test_coordinates_keep_every_product() -> None:
    draw = np.random.default_rng(0)
    features = draw.standard_normal((9, 40)) * draw.uniform(0.1, 10, 40) + 5
    standard = (features - features.mean(0)) / features.std(0)
    made = coordinates(features)
    assert made.shape == (9, 8)
    np.testing.assert_allclose(made @ made.T, standard @ standard.T, atol=1e-8)
    case = Case("classification", 3, np.repeat(np.arange(3), 3))
    wide, narrow = (joint_probe(case, table).others["ridge"].scores for table in (standard, made))
    np.testing.assert_allclose(wide, narrow, atol=1e-6)


def test_errors_of_figures() -> None:
    right = np.array([1.0, 1, 0, 1, 0, 0, 1, 1])
    case = Case("classification", 2, np.zeros(8, np.int64))
    held = judged(case, np.stack([right, 1 - right], axis=1))
    assert held.value == 5 / 8 and held.error == pytest.approx(np.std(right, ddof=1) / np.sqrt(8), rel=0.05)
    doubled = ProbeEvaluation(held.scores, held.value, np.repeat(right, 2), np.repeat(np.arange(8), 2))
    assert doubled.error == pytest.approx(np.std(right, ddof=1) / np.sqrt(8))  # copies of an item tell nothing new
    assert judged(case, np.tile([1.0, 0.0], (8, 1))).error > 0.05  # 8 of 8 right is not certain


def test_the_best_of_many_is_judged_without_the_items_that_chose_it() -> None:
    draw = np.random.default_rng(0)
    case = Case("classification", 2, draw.integers(0, 2, 60))
    guesses = [judged(case, draw.standard_normal((60, 2))) for _ in range(40)]
    best, honest = nested_choice(case, guesses)
    assert guesses[best].value > 0.6
    assert honest.value < guesses[best].value


def test_what_more_items_would_give() -> None:
    points = [(count, 0.9 - 2 * count**-0.7, 0.002) for count in (50, 125, 250, 500)]
    gain = expected_gain(points, 500, later=1000)
    assert gain is not None
    assert gain[1] <= gain[0] <= gain[2]
    assert gain[0] == pytest.approx(2 * (500**-0.7 - 1000**-0.7), rel=0.25)
    assert expected_gain(points[:2], 125, later=250) is None


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_the_forecast_is_drawn_where_its_figure_says(family: str, tmp_path: Any) -> None:
    items, names = textures(20, noise=2.0)
    net = cnn()
    if family == "keras":
        keras = pytest.importorskip("keras")
        given, layers = keras.Input((8, 8, 1)), keras.layers
        net = regraft.load(keras.Sequential([given, layers.Conv2D(4, 3), layers.Flatten(), layers.Dense(3)]), classes=CLASSES)
        items = items.transpose(0, 2, 3, 1)
    found = profile(net, (items, names), out=tmp_path)
    assert found.gain is not None and found.more > 0
    page = (tmp_path / "profile.html").read_text(encoding="utf-8")
    later = found.curve[-1][0] + 3 * found.more
    assert f"forecast for {later:,.0f} examples" in page
    ((start, end),) = [pair.split() for pair in re.findall(r'<polyline points="([^"]+)" class="line ahead"', page)]
    measured = re.search(r'<polyline points="([^"]+)" class="line stroke0"', page[: page.index("line ahead")])
    assert measured is not None
    drawn = np.array([tuple(map(float, point.split(","))) for point in [*measured[1].split(), end]])
    assert measured[1].split()[-1] == start and len(drawn) == len(found.curve) + 1 and drawn.min() >= 0 and drawn.max() <= 100
    value = found.curve[-1][1] + found.gain[0]
    for column, figures in ((0, [count for count, _, _ in found.curve] + [later]), (1, [each for _, each, _ in found.curve] + [value])):
        slope, shift = np.polyfit(figures, drawn[:, column], 1)
        np.testing.assert_allclose(slope * np.array(figures) + shift, drawn[:, column], atol=0.05)


def test_keras_a_single_layer_and_token_ids() -> None:
    keras = pytest.importorskip("keras")
    layers = keras.layers
    conv = [layers.Conv2D(4, 3, activation="relu", name="stem"), layers.GlobalAveragePooling2D(), layers.Dense(3, activation="softmax")]
    items, names = textures(8)
    net = regraft.load(keras.Sequential([keras.Input((8, 8, 1)), *conv]), classes=CLASSES)
    found, counter = tapped(net, (items.transpose(0, 2, 3, 1), names))
    np.testing.assert_allclose(found.head_features, net.features(items.transpose(0, 2, 3, 1)), atol=1e-6)
    assert counter.items == 24 and {part.block for part in found.slices} == {"input", "stem"}
    alone = profile(regraft.load(nn.Linear(64, 3), inputs=(64,)), (items.reshape(24, 64), names))
    assert [depth.block for depth in alone.depths] == ["input"]
    tokens = np.random.default_rng(0).integers(0, 9, (24, 5))
    embedded = nn.Sequential(nn.Embedding(9, 6), nn.Flatten(), nn.Linear(30, 8), nn.ReLU(), nn.Linear(8, 3))
    read = profile(regraft.load(embedded, inputs=(5,)), (tokens, names))
    assert [depth.block for depth in read.depths] == ["0", "2"]


@pytest.mark.parametrize("kind", ["regression", "multi-label", "several"])
def test_other_tasks(kind: str) -> None:
    items, names = textures()
    classes = np.array([CLASSES.index(name) for name in names])
    if kind == "regression":
        found = profile(cnn(), (items, classes + 0.25 * items.mean((1, 2, 3))))
        assert found.metric == "R²" and found.chance == 0 and found.kind == "regression"
    elif kind == "multi-label":
        found = profile(cnn(), (items, np.stack([classes > 0, classes != 1], axis=1).astype(np.float32)))
        assert found.metric == "mean average precision" and found.chance == pytest.approx(2 / 3)
    else:
        parity = np.where(np.arange(60) % 5, np.where(classes == 1, "yes", "no"), None)
        data = regraft.read((items, {"texture": names, "upright": parity}))
        found = profile(cnn(), data, of_task="upright")
        assert found.classes == ("no", "yes") and found.judged == 48
    assert found.beside[0].value > found.chance + 0.2
    assert found.findings and found.table()


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["a", "b", "c"] * 1, "4 or more examples"),
        (list("abcdef"), "two examples of one"),
        (["a"] * 6, "two classes"),
        ([0.5] * 6, "targets of an output are equal"),
    ],
)
def test_too_few_items_is_one_message(targets: list[Any], message: str) -> None:
    items = np.random.default_rng(0).standard_normal((len(targets), 1, 8, 8)).astype(np.float32)
    with pytest.raises(InputError, match=message):
        profile(cnn(), (items, np.array(targets)))


def test_single_items_of_some_classes_are_said() -> None:
    items, names = textures(8)
    found = profile(cnn(), (np.concatenate([items, items[:2] + 1]), np.concatenate([names, ["lone", "other"]])))
    assert any("single example" in sentence for sentence in found.warnings)
    assert found.counts["lone"] == 1


def test_numbers_that_are_not_finite_name_the_place() -> None:
    broken = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(144, 3))
    items, names = textures(6)
    net = regraft.load(broken, inputs=(1, 8, 8), classes=CLASSES)
    net.module[0].weight.data.fill_(1e38)
    with pytest.raises(DataError, match=r"not finite for .* of 18 examples"):
        profile(net, (items * 100, names))


def test_many_items_are_judged_on_some(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("regraft.planning.profiling.measuring.MOST_JUDGED", 30)
    found = profile(cnn(), textures(20))
    assert found.judged == 30 and found.examples == found.passed == 60
    assert any("drawn from the 60" in note for note in found.notes)


def test_settings_that_are_wrong() -> None:
    with pytest.raises(SettingError, match="device='nowhere'"):
        regraft.profile(cnn(), textures(4), device="nowhere")
    with pytest.raises(SettingError, match="cach"):
        regraft.profile(cnn(), textures(4), cach="memory")
    with pytest.raises(DataError, match="no task 'other'"):
        profile(cnn(), textures(4), of_task="other")
