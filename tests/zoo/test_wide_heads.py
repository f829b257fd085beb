"""Convolutions of larger kernels behind which only an average and an activation follow are heads, in both families."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import torch
from keras import layers
from torch import nn

import regraft
from regraft.networks.network import Network

CLASSES = ["angry", "calm", "glad", "sad", "tense"]
PADDINGS = {"none": ("valid", 0), "same": ("same", "same")}


class Emotions(nn.Module):
    def __init__(self, padding: Any = 0, classes: int = 5) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU())
        self.last = nn.Conv2d(6, classes, 3, padding=padding)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(x)).mean((2, 3)).softmax(1)


def emotions_in_keras(padding: str) -> keras.Model:
    entry = keras.Input((12, 12, 1))
    maps = layers.Conv2D(len(CLASSES), 3, padding=padding)(layers.Conv2D(6, 3, activation="relu")(entry))
    return keras.Model([entry], [layers.Activation("softmax")(layers.GlobalAveragePooling2D()(maps))])


def opened(family: str, padding: str = "none") -> Network:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    if family == "keras":
        return regraft.load(emotions_in_keras(PADDINGS[padding][0]), classes=CLASSES)
    return regraft.load(Emotions(PADDINGS[padding][1]), inputs=(1, 12, 12), classes=CLASSES)


def pictures(family: str, count: int = 30) -> np.ndarray:
    made = np.random.default_rng(0).normal(size=(count, 12, 12, 1)) + (np.arange(count) % 3)[:, None, None, None]
    return (made if family == "keras" else made.transpose(0, 3, 1, 2)).astype(np.float32)


FAMILIES = pytest.mark.parametrize("family", ["torch", "keras"])


@FAMILIES
@pytest.mark.parametrize("padding", PADDINGS)
def test_its_logits_are_linear_in_its_features(family: str, padding: str) -> None:
    net, items = opened(family, padding), pictures(family)
    given = net.module(torch.from_numpy(items)).detach().numpy()
    assert net.head.weight.shape == (5, 54)
    assert np.allclose(net.predict(items).probabilities, given, atol=1e-5)
    assert np.allclose(net.features(items) @ net.head.weight.T + net.head.bias, net.logits(items), atol=1e-5)


@pytest.mark.usefixtures("without_onnx_form")
@FAMILIES
def test_class_weights_are_kept_by_name_extended_and_saved(family: str, tmp_path: Path) -> None:
    net, items = opened(family), pictures(family)
    changed = regraft.retarget(net, ["sad", "bored"])
    assert np.allclose(changed.logits(items)[:, 0], net.logits(items)[:, 3], atol=1e-6)
    wider = regraft.extend(net, ["bored"], data=regraft.read((items[:6], np.array(["bored"] * 6))))
    assert np.allclose(wider.logits(items)[:, :5], net.logits(items), atol=1e-6)
    wider.save(tmp_path / "wider")
    again = regraft.load(tmp_path / "wider", **({} if family == "keras" else {"architecture": Emotions}))
    assert np.array_equal(again.logits(items), wider.logits(items))


@FAMILIES
def test_a_branch_reads_what_it_reads(family: str) -> None:
    net, items = opened(family, "same"), pictures(family)
    labels = np.array(["low", "high"])[np.arange(30) % 2]
    branched = regraft.branch(net, "mood", ["low", "high"], data=regraft.read((items, labels)))
    own, head = branched.scores(torch.from_numpy(items))["mood"].detach().numpy(), branched.heads["mood"]
    assert np.allclose(own, net.features(items) @ head.weight.T + head.bias, atol=1e-5)


@FAMILIES
@pytest.mark.parametrize("strategy", ["probe", "head", "full"])
def test_it_is_adapted(family: str, strategy: str) -> None:
    net, items = opened(family), pictures(family)
    labels = np.array(["a", "b", "c"])[np.arange(30) % 3]
    result = regraft.adapt(net, (items, labels), strategy=strategy, batch_size=10, **({} if strategy == "probe" else {"epochs": 1}))
    assert result.network.predict(items).probabilities.shape == (30, 3)
    if strategy != "probe":
        assert result.network.head.layer == net.head.layer


def test_the_last_maps_of_an_encoder_are_no_head() -> None:
    encoder = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert not regraft.load(encoder, inputs=(1, 12, 12)).heads
    entry = keras.Input((12, 12, 1))
    maps = layers.Conv2D(8, 3, activation="relu")(entry)
    assert not regraft.load(keras.Model(entry, layers.GlobalAveragePooling2D()(maps))).heads


def test_a_model_of_lists_without_a_head_gets_one() -> None:
    entry = keras.Input((6,))
    net = regraft.load(keras.Model([entry], [layers.ReLU()(layers.Dense(4)(entry))]))
    assert regraft.retarget(net, ["a", "b"]).logits(np.zeros((3, 6), np.float32)).shape == (3, 2)


def test_gradients_of_strided_1x1_convolutions_in_keras() -> None:
    """PyTorch's own end the process at this size; the values are the same."""
    entry = keras.Input((62, 62, 8))
    maps = layers.Conv2D(16, 1, strides=2, padding="same", name="short")(entry)
    net = regraft.load(keras.Model(entry, layers.Dense(3, name="last")(layers.GlobalAveragePooling2D()(maps))))
    items = torch.randn(32, 62, 62, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = net.scores(items)["main"]
    trained = net.scores(items)["main"]
    trained.square().sum().backward()
    assert torch.allclose(plain, trained, atol=1e-5)
    short = net.modules()["short"]
    assert tuple(short.strides) == (2, 2)
    assert short.kernel.value.grad.abs().sum() > 0
