from __future__ import annotations

import ast
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import regraft
from regraft.data import ArrayPreprocessing, PreparedData, read
from regraft.data.preprocessings.array_preprocessing import augmented_array
from regraft.data.preprocessings.preprocessing import from_dict
from regraft.errors import DataError


def test_types():
    assert ArrayPreprocessing().batch(np.arange(6).reshape(2, 3)).dtype == torch.float32
    assert ArrayPreprocessing(integers=True).batch(np.arange(6).reshape(2, 3)).dtype == torch.int64
    assert ArrayPreprocessing().batch([[1.0, 2.0], [3.0, 4.0]]).tolist() == [[1, 2], [3, 4]]


@pytest.mark.parametrize(
    ("shape", "received"),
    [((8, 6, 1), (8, 6)), ((1, 8, 6), (8, 6)), ((1, 8, 6), (8, 6, 1)), ((None, 6), (8, 6)), ((1,), ()), ((1, None, 6), (8, 6))],
)
def test_axes_of_length_one(shape, received):
    made = ArrayPreprocessing(shape).batch(np.zeros((2, *received)))
    assert tuple(made.shape[1:]) == tuple(side or 8 for side in shape)


def test_wrong_shape():
    with pytest.raises(DataError, match=r"shape \(8, 8\); expected \(3, 32, 32\).* read the data with kind='image'"):
        ArrayPreprocessing((3, 32, 32)).batch(np.zeros((2, 8, 8)))
    with pytest.raises(DataError, match=r"shape \(5,\); expected \(6,\), as the network takes it. Reshape X.$"):
        ArrayPreprocessing((6,)).fit(read((np.zeros((2, 5)), [0, 1])))
    with pytest.raises(DataError, match=r"takes arrays and the data are text examples, such as example 0"):
        ArrayPreprocessing().fit(read((["a", "b"], [0, 1])))
    with pytest.raises(DataError, match=r"has 2 numbers for examples of the shape \(3,\)"):
        ArrayPreprocessing(mean=(1.0, 2.0)).batch(np.zeros((2, 3)))


def test_mean_and_std():
    items = np.arange(6.0).reshape(2, 3)
    made = ArrayPreprocessing(mean=(0.0, 1.0, 2.0), std=2.0).batch(items)
    assert made.tolist() == [[0, 0, 0], [1.5, 1.5, 1.5]]
    assert ArrayPreprocessing(mean=tuple(range(6))).batch(np.arange(6.0).reshape(1, 2, 3)).abs().sum() == 0
    assert "minus mean" in ArrayPreprocessing(mean=1.0).describe()
    unknown = ArrayPreprocessing(shape=(2,), inferred=True)
    assert unknown.describe().endswith("inferred from the network's input; values pass as they are, without scaling")
    assert "scaling" not in unknown.fit(read((np.eye(2), [0, 1]))).describe()


@pytest.mark.parametrize(
    ("shape", "example"),
    [
        ((3, 8, 9), "{'kind': 'image', 'height': 8, 'width': 9, 'channels': 3}"),
        ((8, 9, 1), "{'kind': 'image', 'height': 8, 'width': 9, 'channels': 1, 'layout': 'channels_last'}"),
        ((5,), "{'kind': 'image', 'height': 224, 'width': 224, 'channels': 3}"),
    ],
)
def test_files_for_a_network_of_unknown_preprocessing(shape, example):
    own = ArrayPreprocessing(shape=shape, inferred=True)
    picture = pytest.importorskip("PIL.Image").new("RGB", (8, 8))
    with pytest.raises(
        DataError,
        match=r"are of the type Image, such as example 0; .* give the network.s preprocessing=.*" + re.escape(f"such as {example}."),
    ):
        own.fit(own.dataset(picture))
    assert from_dict(ast.literal_eval(example)).item_shape == (shape if len(shape) == 3 else (3, 224, 224))


def test_noise_follows_the_spread():
    generator = np.random.default_rng(0)
    items = generator.standard_normal((400, 3)) * (0, 1, 10)
    prepared = PreparedData(read((items, [0, 1] * 200)), ArrayPreprocessing((3,)))
    noise = (prepared.batch(range(400), 1) - prepared.batch(range(400))).numpy()
    np.testing.assert_allclose(noise.std(axis=0), (0, 0.05, 0.5), rtol=0.15, atol=1e-6)
    large = ArrayPreprocessing().fit(read((np.zeros((2, 70, 70)), [0, 1])))
    assert large.spread == 0.0


def test_shift_along_the_longest_axis():
    item = np.arange(200.0).reshape(2, 100)
    offsets = {float(augmented_array(item, np.random.default_rng(seed))[0, 50]) for seed in range(60)}
    assert min(offsets) >= 45 and max(offsets) <= 55 and len(offsets) > 6
    tokens = ArrayPreprocessing(integers=True, spread=1.0).batch(np.arange(5)[None], 1, seeds=[1])
    assert tokens.tolist() == [[0, 1, 2, 3, 4]]


@pytest.mark.parametrize("family", ["torch", "keras"])
def test_pictures_that_are_passed_as_arrays_are_pointed_out(family: str) -> None:
    torch.manual_seed(0)
    if family == "torch":
        module: Any = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    else:
        keras = pytest.importorskip("keras")
        module = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.AveragePooling2D(8), keras.layers.Flatten(), keras.layers.Dense(2)])
    net = regraft.load(module, **({"inputs": (3, 8, 8)} if family == "torch" else {}))
    pixels = np.random.default_rng(0).integers(0, 256, (12, *net.input_shape), dtype=np.uint8)
    labels = ["a", "b"] * 6
    for given, told in (((pixels, labels), True), ((pixels / 255, labels), False), (regraft.read((pixels, labels), kind="image"), False)):
        assert ("passed to the network unscaled (0 to 255)" in str(regraft.check(given, net))) is told
