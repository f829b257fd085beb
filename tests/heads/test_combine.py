"""Combine: networks of one class each as one network of all these classes, in both families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.probes.calibration import fit_scales, log_loss

from ..cli.conftest import run

keras = pytest.importorskip("keras")
LABELS = np.array(["cat", "dog", "ox"] * 20)
EXAMPLES = np.random.default_rng(0).normal(size=(60, 4)).astype(np.float32) + 3 * np.eye(3, 4, dtype=np.float32)[np.arange(60) % 3]


def _torch_network(seed: int, outputs: int, activation: str | None) -> Any:
    torch.manual_seed(seed)
    last = {"sigmoid": [nn.Sigmoid()], "softmax": [nn.Softmax(1)], None: []}[activation]
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, outputs), *last)


def _keras_network(seed: int, outputs: int, activation: str | None) -> Any:
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(8, "relu"), keras.layers.Dense(outputs, activation=activation)])


FAMILIES: dict[str, Callable[..., Any]] = {"torch": _torch_network, "keras": _keras_network}


@pytest.fixture(params=FAMILIES)
def networks(request: pytest.FixtureRequest) -> dict[str, regraft.Network]:
    make = FAMILIES[request.param]
    return {
        "cat": regraft.load(make(0, 1, None), inputs=(4,)),
        "dog": regraft.load(make(1, 2, "softmax"), inputs=(4,), classes=["dog", "other"]),
        "ox": regraft.load(make(2, 1, "sigmoid"), inputs=(4,), classes=["none", "ox"]),
    }


def scores_of(networks: dict[str, regraft.Network]) -> np.ndarray:
    cat, dog, ox = (net.logits(EXAMPLES) for net in networks.values())
    return np.stack([cat[:, 0], dog[:, 0] - dog[:, 1], ox[:, 1] - ox[:, 0]], 1)


def test_scores_stand_side_by_side_and_the_networks_stay(networks: dict[str, regraft.Network], tmp_path: Path) -> None:
    before = {name: {key: value.clone() for key, value in net.state().items()} for name, net in networks.items()}
    net = regraft.combine(networks)
    assert net.classes == ("cat", "dog", "ox") and net.head.kind == "classification"
    np.testing.assert_allclose(net.logits(EXAMPLES), scores_of(networks), atol=1e-6)
    assert all(torch.equal(value, before[name][key]) for name, one in networks.items() for key, value in one.state().items())
    assert str(net.account).startswith("new             3")
    again = regraft.load(net.save(tmp_path / "kept"))
    np.testing.assert_allclose(again.predict(EXAMPLES).probabilities, net.predict(EXAMPLES).probabilities, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sigmoid_without_names_scores_the_class_that_it_is_given_for(family: str) -> None:
    nets = {name: regraft.load(FAMILIES[family](seed, 1, "sigmoid"), inputs=(4,)) for seed, name in enumerate(("cat", "dog"))}
    logits = np.stack([net.logits(EXAMPLES)[:, 1] for net in nets.values()], 1)
    np.testing.assert_allclose(regraft.combine(nets).logits(EXAMPLES), logits, atol=1e-6)


def test_data_put_the_scores_on_one_scale(networks: dict[str, regraft.Network]) -> None:
    net = regraft.combine(networks, (EXAMPLES, LABELS))
    figures, targets = net.account.figures, np.unique(LABELS, return_inverse=True)[1]
    assert figures["log_loss"] < figures["log_loss_before"] == pytest.approx(log_loss(scores_of(networks), targets), abs=1e-6)
    assert figures["log_loss"] == pytest.approx(log_loss(net.logits(EXAMPLES), targets), abs=1e-5)
    weight = net.head.weight
    assert (np.diag(weight) > 0).all() and np.count_nonzero(weight) == 3


def test_a_combined_network_learns_from_all_scores(networks: dict[str, regraft.Network]) -> None:
    result = regraft.adapt(regraft.combine(networks), (EXAMPLES, LABELS), strategy="head", epochs=3, cache="memory", holdout=0.3)
    assert result.network.head.weight.shape == (3, 3)


def test_labels_of_their_own_go_through_a_sigmoid(networks: dict[str, regraft.Network]) -> None:
    labels = (EXAMPLES[:, :3] > 1).astype(int)
    net = regraft.combine(networks, regraft.read((EXAMPLES, labels), task="multi-label", classes=list(networks)), kind="multi-label")
    chances = net.predict(EXAMPLES).probabilities
    assert net.head.kind == "multi-label" and np.abs(chances.mean(0) - labels.mean(0)).max() < 0.03  # shifts fit the shares


def test_a_network_by_name_is_opened_again_whole(tmp_path: Path) -> None:
    pictures = np.random.default_rng(0).integers(0, 255, (4, 32, 32, 3), dtype=np.uint8)
    networks = {name: regraft.load("timm:test_resnet", weights="random", inputs=(3, 32, 32)) for name in ("cat", "dog")}
    parts = {name: regraft.retarget(net, [name, "other"], start="random", seed=seed) for seed, (name, net) in enumerate(networks.items())}
    net = regraft.combine(parts)
    again = regraft.load(net.save(tmp_path / "kept"))
    assert again.origin["source"] == "combined" and len(again.blocks) == len(net.blocks)
    np.testing.assert_array_equal(again.logits(pictures), net.logits(pictures))
    assert not again.body.held and regraft.retarget(again, ["bird", "cat"]).account.entries["kept"] == ["cat"]


def _many(classes: list[str] | None) -> regraft.Network:
    return regraft.load(_torch_network(0, 3, None), inputs=(4,), classes=classes)


REFUSED: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "one network": (lambda nets: {"cat": nets["cat"]}, "expected two networks or more"),
    "a class it lacks": (lambda nets: {"cat": nets["cat"], "cow": nets["dog"]}, "No class is called 'cow'"),
    "several classes": (lambda nets: {"cat": nets["cat"], "a": _many(["a", "b", "c"])}, "tells 3 classes apart .* regraft.extend"),
    "outputs without names": (lambda nets: {"cat": nets["cat"], "a": _many(None)}, "3 outputs without names"),
    "other inputs": (
        lambda nets: {"cat": nets["cat"], "a": regraft.load(nn.Linear(6, 1), inputs=(6,))},
        r"read their inputs differently: shape \[4\] and \[6\]",
    ),
    "two families": (
        lambda nets: {"cat": nets["cat"], "dog": regraft.load(_keras_network(0, 1, None))},
        r"families \['keras', 'torch'\]; expected",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_that_do_not_go_together_are_refused(case: str) -> None:
    make, said = REFUSED[case]
    known = {"cat": regraft.load(_torch_network(0, 1, None), inputs=(4,))}
    known["dog"] = regraft.load(_torch_network(1, 2, None), inputs=(4,), classes=["dog", "other"])
    with pytest.raises(regraft.RegraftError, match=said):
        regraft.combine(make(known))


def test_unknown_kinds_and_missing_classes_are_told(networks: dict[str, regraft.Network]) -> None:
    with pytest.raises(regraft.RegraftError, match=r"'classification' or 'multi-label'; received 'multilabel'"):
        regraft.combine(networks, kind="multilabel")
    with pytest.raises(regraft.RegraftError, match=r"no example of 'ox'"):
        regraft.combine(networks, (EXAMPLES[LABELS != "ox"], LABELS[LABELS != "ox"]))


@pytest.mark.parametrize("kind", ["classification", "multi-label"])
def test_fitted_scales_undo_scales_and_shifts(kind: str) -> None:
    draws = np.random.default_rng(0)
    scores = draws.normal(size=(4000, 3)) * 2
    chances = np.exp(scores) / np.exp(scores).sum(1, keepdims=True) if kind == "classification" else 1 / (1 + np.exp(-scores))
    picks = (chances.cumsum(1) < draws.random((4000, 1))).sum(1)
    truth = np.eye(3)[picks] if kind == "classification" else (draws.random(scores.shape) < chances).astype(float)
    factors, shifts = fit_scales(scores * [0.1, 1, 10] + [3, 0, -20], truth, kind=kind)
    np.testing.assert_allclose(factors * [0.1, 1, 10], 1, atol=0.1)
    found = factors * [3, 0, -20] + shifts
    np.testing.assert_allclose(found - (found.mean() if kind == "classification" else 0), 0, atol=0.15)


def test_the_command_saves_a_network_and_says_what_is_next(networks: dict[str, regraft.Network], tmp_path: Path) -> None:
    given = [f"{name}={net.save(tmp_path / name)}" for name, net in networks.items()]
    np.savez(tmp_path / "data.npz", X=EXAMPLES, y=LABELS)
    result = run("combine", *given, "--data", tmp_path / "data.npz", "--out", tmp_path / "both")
    if networks["cat"].family == "torch":  # a folder does not hold the user's own class
        assert result.exit_code == 2 and "Open its folder with --architecture" in result.stderr
        return
    assert result.exit_code == 0, result.output
    assert "calibrated on 60 examples" in result.stdout and f"regraft evaluate {tmp_path / 'both'} DATA" in result.stdout
    assert regraft.load(tmp_path / "both").classes == ("cat", "dog", "ox")
    wrong = run("combine", *given[:2], f"cow={tmp_path / 'nowhere'}", "--out", tmp_path / "none")
    assert wrong.exit_code == 2 and "nowhere" in wrong.stderr and not (tmp_path / "none").exists()


@pytest.mark.parametrize("family", FAMILIES)
def test_networks_that_are_heads_alone_stand_side_by_side(family: str, tmp_path: Path) -> None:
    def made(seed: int) -> Any:
        torch.manual_seed(seed)
        if family == "torch":
            return nn.Linear(4, 2)
        keras.utils.set_random_seed(seed)
        return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])

    networks = {name: regraft.load(made(seed), inputs=(4,), classes=[name, "no"]) for seed, name in enumerate(("cat", "dog"))}
    net = regraft.combine(networks)
    by_hand = np.stack([scores[:, 0] - scores[:, 1] for scores in (one.logits(EXAMPLES) for one in networks.values())], 1)
    np.testing.assert_allclose(net.logits(EXAMPLES), by_hand, atol=1e-6)
    kept = net.save(tmp_path / "kept")
    again = regraft.load(kept, architecture=None if family == "keras" else lambda: net.module)
    np.testing.assert_allclose(again.logits(EXAMPLES), by_hand, atol=1e-6)
