"""One table of networks for every operation on heads: five classes, pictures of 32 x 32, and data of old and new classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import nn

import regraft

keras = pytest.importorskip("keras")
transformers = pytest.importorskip("transformers")
layers = keras.layers

OLD = ("cat", "dog", "bus", "tram", "car")


def _torch_linear() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 5))


def _torch_convolution() -> Any:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Conv2d(4, 5, 1), nn.Flatten())


def _timm() -> Any:
    return timm.create_model("test_convnext", num_classes=5)


def _hugging_face() -> Any:
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return transformers.ViTForImageClassification(transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **sizes))


def _functional() -> Any:
    entry = keras.Input((32, 32, 3))
    return keras.Model(entry, layers.Softmax()(layers.Dense(5)(layers.GlobalAveragePooling2D()(layers.Conv2D(6, 3)(entry)))))


def _sequential() -> Any:
    return keras.Sequential([keras.Input((32, 32, 3)), layers.Conv2D(6, 3), layers.GlobalAveragePooling2D(), layers.Dense(5)])


def _softmax_inside() -> Any:
    steps = [layers.Conv2D(6, 3), layers.GlobalAveragePooling2D(), layers.Dense(5, activation="softmax")]
    return keras.Sequential([keras.Input((32, 32, 3)), *steps])


TABLE: dict[str, Callable[[], Any]] = {
    "torch linear": _torch_linear,
    "torch 1x1 convolution": _torch_convolution,
    "timm": _timm,
    "Hugging Face": _hugging_face,
    "Keras functional": _functional,
    "Keras Sequential": _sequential,
    "Keras softmax inside": _softmax_inside,
}


def shape_of(name: str, channels: int = 3) -> tuple[int, ...]:
    return (32, 32, channels) if "Keras" in name else (channels, 32, 32)


def opened(name: str, **options: Any) -> regraft.Network:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    return regraft.load(TABLE[name](), classes=OLD, inputs=shape_of(name), **options)


def pictures(name: str, labels: np.ndarray, *, channels: int = 3) -> np.ndarray:
    """Return a picture for each label, its mean value told by the label."""
    made = np.random.default_rng(0).normal(size=(len(labels), *shape_of(name, channels))).astype(np.float32)
    for index, label in enumerate(sorted(set(labels.tolist()))):
        made[labels == label] += index
    return made
