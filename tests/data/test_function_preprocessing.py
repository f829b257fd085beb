"""Functions as preprocessing: each kind that libraries have, what a folder keeps of them, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import regraft
from regraft.errors import DataError, SettingError

SIDE = 16


def pictures(count: int = 12) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, size=(count, 20, 24, 3), dtype=np.uint8)


def torch_network(**given: Any) -> Any:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    return regraft.load(module, inputs=(3, SIDE, SIDE), **given)


def keras_network(**given: Any) -> Any:
    keras = pytest.importorskip("keras")
    keras.utils.set_random_seed(0)
    steps = keras.layers
    return regraft.load(
        keras.Sequential([keras.Input((SIDE, SIDE, 3)), steps.Conv2D(4, 3), steps.GlobalAveragePooling2D(), steps.Dense(2)]), **given
    )


def halved(picture: Image.Image) -> torch.Tensor:
    """A transform as torchvision composes it."""
    pixels = np.asarray(picture.resize((SIDE, SIDE)), np.float32)
    return torch.from_numpy(pixels).permute(2, 0, 1) / 128 - 1


class Keyword:
    """A transform as albumentations composes it."""

    def __call__(self, *, image: np.ndarray) -> dict[str, Any]:
        return {"image": np.asarray(Image.fromarray(image).resize((SIDE, SIDE)), np.float32) / 128 - 1}


class Processor:
    """A processor as Hugging Face has it."""

    def __call__(self, images: Image.Image) -> dict[str, Any]:
        return {"pixel_values": [halved(images).numpy()]}


def framed(pixels: np.ndarray) -> np.ndarray:
    """A function of a batch for Keras that is no scaling."""
    return np.sqrt(pixels)


@pytest.mark.parametrize("function", [halved, Keyword(), Processor()])
def test_transforms_of_one_picture_are_used_as_they_are(function: Any, tmp_path: Path) -> None:
    net, items = torch_network(preprocessing=function), pictures()
    wanted = torch.stack([halved(Image.fromarray(item)) for item in items])
    assert torch.equal(next(iter(net.preprocessing.batches(items, 64))), wanted)
    file = tmp_path / "one.png"
    Image.fromarray(items[0]).save(file)
    for given in ([file], [Image.fromarray(items[0])], items[:1]):
        assert torch.equal(next(iter(net.preprocessing.batches(given, 64))), wanted[:1])
    assert np.allclose(net.logits(items), net.scores(wanted)["main"].detach().numpy(), atol=1e-5)


def test_transforms_of_libraries_give_what_they_give_there() -> None:
    timm, torchvision = pytest.importorskip("timm"), pytest.importorskip("torchvision")
    items = pictures(2)
    for made in (
        timm.data.create_transform((3, SIDE, SIDE), is_training=False),
        torchvision.transforms.Compose([torchvision.transforms.Resize((SIDE, SIDE)), torchvision.transforms.ToTensor()]),
    ):
        own = torch_network(preprocessing=made).preprocessing
        assert torch.equal(own.batch(items), torch.stack([made(Image.fromarray(item)) for item in items]))
        assert not torch.equal(own.batch(items, 1, seeds=[1, 2]), own.batch(items))
    recipe = torchvision.models.ResNet18_Weights.DEFAULT.transforms()
    own = torch_network(preprocessing=recipe).preprocessing
    assert (own.kind, own.height, own.crop_fraction, own.std) == ("image", 224, 224 / 256, (0.229, 0.224, 0.225))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50", "densenet", "vgg16", "efficientnet"])
def test_what_preprocess_input_does_is_found_out_and_saved(name: str) -> None:
    keras = pytest.importorskip("keras")
    function = getattr(keras.applications, name).preprocess_input
    own, items = keras_network(preprocessing=function).preprocessing, pictures(3)[:, :SIDE, :SIDE]
    assert own.kind == "image"
    assert np.allclose(own.fit(regraft.read((items, [0, 1, 0]), kind="image")).batch(items), function(items.astype(np.float32)), atol=1e-3)


def test_an_adapted_network_uses_its_function_and_the_folder_says_that_it_must_be_given_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    items = pictures()
    data = regraft.read((items, np.arange(12) % 2), kind="image")
    result = regraft.adapt(keras_network(preprocessing=framed), data, strategy="head", epochs=1, cache="memory")
    folder = result.save(tmp_path / "made")
    assert "function 'framed'" in result.report_facts()["preprocessing"]
    wanted = result.network.logits(items)
    assert np.allclose(regraft.load(folder).logits(items), wanted, atol=1e-4), "this process still knows the function"
    monkeypatch.setattr("regraft.data.preprocessings.augmenting._PROCESS", "another")
    opened = regraft.load(folder)
    assert "a folder cannot hold: give it again when it is opened" in opened.summary()
    with pytest.raises(DataError, match=r"preprocessing='framed', a function, .* Give it again when the folder is opened"):
        opened.predict(items)
    assert np.allclose(regraft.load(folder, preprocessing=framed).logits(items), wanted, atol=1e-4)


def test_what_cannot_be_used_is_refused_when_it_is_given() -> None:
    with pytest.raises(SettingError, match=r"makes examples of the shape \(3, 16, 8\); the network takes pictures of 16x16"):
        torch_network(preprocessing=lambda picture: halved(picture)[..., :8])
    with pytest.raises(SettingError, match="failed on a picture: ZeroDivisionError"):
        torch_network(preprocessing=lambda picture: 1 / 0)
    with pytest.raises(SettingError, match="draws at random"):
        torch_network(preprocessing=lambda picture: halved(picture) + torch.rand(1))
    with pytest.raises(SettingError, match="is a int; expected plain data"):
        torch_network(preprocessing=7)
    with pytest.raises(SettingError, match=r"function of pictures; the network takes examples of the shape \(3,\)"):
        regraft.load(nn.Linear(3, 2), inputs=(3,), preprocessing=halved)
    with pytest.raises(DataError, match="uint8 arrays; received an array of float64"):
        torch_network(preprocessing=halved).predict(np.zeros((2, 20, 20, 3)))
