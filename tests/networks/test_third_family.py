"""A family of one short file, which does not train, is probed, profiled, extended and given other heads by the same code as all others."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.networks.numpy_family import perceptron

import regraft
from regraft.errors import NetworkError

OLD, NEW = ("a", "b", "c"), ("x", "y")


def data(classes: tuple[str, ...], count: int = 60) -> tuple[np.ndarray, list[str]]:
    draw = np.random.default_rng(1)
    labels = draw.integers(0, len(classes), count)
    centres = np.random.default_rng(2).normal(0, 2, (len(classes), 6))
    return (centres[labels] + draw.normal(0, 0.5, (count, 6))).astype("f4"), [classes[label] for label in labels]


def hidden(net: Any) -> dict[str, torch.Tensor]:
    return {name: values.clone() for name, values in net.state().items() if not name.startswith("head")}


@pytest.mark.parametrize("strategy", ["probe", "head", "full", "auto"])
def test_it_is_adapted_above_its_arrays(strategy: str) -> None:
    net, before = perceptron(OLD), hidden(perceptron(OLD))
    further: dict[str, dict[str, Any]] = {"probe": {}, "auto": {"budget": "60s"}}
    settings = further.get(strategy, {"epochs": 5, "cache": "memory"})
    result = regraft.adapt(net, data(NEW), strategy=strategy, holdout=0.3, **settings)
    assert result.network.family == "numpy" and result.network.classes == NEW
    assert result.scores["holdout"]["accuracy"] > 0.9
    after = hidden(result.network)
    assert all(torch.equal(after[name], values) for name, values in before.items())


def test_it_has_a_profile() -> None:
    profile = regraft.profile(perceptron(OLD), data(NEW))
    assert "dense1" in str(profile)


def test_heads_are_retargeted_extended_and_cut_off() -> None:
    net = perceptron(OLD)
    examples, labels = data(NEW)
    wider = regraft.extend(net, list(NEW), (examples, labels))
    assert wider.classes == (*OLD, *NEW)
    np.testing.assert_allclose(wider.logits(examples)[:, :3], net.logits(examples), rtol=1e-5, atol=1e-6)
    other = regraft.retarget(net, ["b", "x"], start="zeros")
    assert np.array_equal(other.head.row("b")[0], net.head.row("b")[0]) and not other.head.row("x")[0].any()
    short = regraft.cut(net, "dense0")
    assert not short.heads and short.features(examples).shape == (60, 16)
    again = net
    for edit in other.edits:
        again = again.edited(edit)
    assert again.state().keys() == other.state().keys() and again.edits == other.edits
    assert net.classes == OLD and not net.edits


def test_what_it_cannot_do_is_refused_in_words(tmp_path: Any) -> None:
    net = perceptron(OLD)
    for work, said in (
        (lambda: net.reinitialised(0), "no weights that are drawn"),
        (lambda: regraft.stack(net, ["x", "y"]), "cannot be changed by Stack"),
        (lambda: net.adjusted(net.points(), form="film"), "received no points"),
        (lambda: net.body.code_table(), "takes no codes"),
        (lambda: net.save(tmp_path / "saved"), "cannot be saved"),
        (lambda: net.export(tmp_path / "net.onnx"), "cannot be exported"),
        (lambda: net.export(tmp_path / "net.keras"), "'numpy' is written"),
    ):
        with pytest.raises(NetworkError, match=said):
            work()
