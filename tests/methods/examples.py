"""Small networks of every kind, and eight items to learn from: what every method is tried on."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import timm
import torch
import transformers
from tests import torch_examples

import regraft
from regraft.data import Dataset, default_preprocessing
from regraft.networks.keras.library import keras
from regraft.networks.network import Network
from regraft.networks.torch.family import open_torch

CLASSES = ("left", "right", "up")
OTHER_CLASSES = ("red", "green", "blue")
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", "odd", "day", "rain", "sun"]
L = keras.layers


def _mlp() -> Any:
    return torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))


def _cnn() -> Any:
    module = torch_examples.Cnn()
    module.drop1.p = 0.0  # or one step in four may be worse by chance
    return module


def _timm() -> Network:
    origin = {"source": "timm:test_efficientnet"}  # opened by its name again, so that no program is exported with it
    network = open_torch(timm.create_model("test_efficientnet"), inputs=(3, 32, 32), origin=origin)
    network.preprocessing = default_preprocessing("array", (3, 32, 32), "channels_first")
    return regraft.retarget(network, CLASSES, start="random")


def _functional() -> Any:
    image = keras.Input((8, 8, 1))
    x = L.Activation("relu")(L.BatchNormalization(name="norm")(L.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(image)))
    x = L.Add(name="skip")([x, L.Conv2D(4, 3, padding="same", activation="relu", name="inner")(x)])
    x = L.Dense(6, activation="tanh", name="mid")(L.Flatten()(x))
    return keras.Model(image, L.Dense(3, activation="softmax", name="scores")(x))


def _sequential() -> Any:
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            L.Conv2D(4, 3, activation="relu", name="conv"),
            L.BatchNormalization(name="norm"),
            L.Flatten(),
            L.Dense(8, activation="relu", name="mid"),
            L.Dense(3, name="scores"),
        ]
    )


def _encoder() -> str:
    folder = Path(mkdtemp())  # below pytest's own folder; see `temporary_folders`
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 12, "vocab_size": len(WORDS)}
    transformers.BertForSequenceClassification(transformers.BertConfig(**sizes, num_labels=3)).save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    transformers.BertTokenizerFast(vocab={word: index for index, word in enumerate(WORDS)}).save_pretrained(folder)
    return f"hf:{folder}"


KINDS = {
    "torch MLP": (_mlp, (6,)),
    "torch CNN": (_cnn, (1, 8, 8)),
    "timm": (_timm, (3, 32, 32)),
    "Hugging Face encoder": (_encoder, None),
    "Keras functional": (_functional, (8, 8, 1)),
    "Keras Sequential": (_sequential, (8, 8, 1)),
}


@cache
def _made(kind: str) -> Network:
    torch.manual_seed(0)
    keras.utils.set_random_seed(0)
    source, shape = KINDS[kind][0](), KINDS[kind][1]
    if isinstance(source, Network):
        return source
    return regraft.load(source, inputs=shape if kind.startswith("torch") else None)


def opened(kind: str, classes: tuple[str, ...] = CLASSES) -> Network:
    """Return a network of a kind whose head has rows of these classes."""
    network = _made(kind).copy()
    network.name_classes_(classes)
    return network


def items(kind: str) -> Dataset:
    """Return twelve items of three classes in two conditions: each class has a place, each condition a level."""
    targets, conditions = np.arange(12) % 3, np.arange(12) // 3 % 2
    labels, names = [CLASSES[target] for target in targets], [f"room {condition}" for condition in conditions]
    if kind == "Hugging Face encoder":
        words = WORDS[5:]
        texts = [
            f"{words[target]} {words[3 + condition]} {words[index % 6]}"
            for index, (target, condition) in enumerate(zip(targets, conditions, strict=True))
        ]
        return regraft.read((texts, labels), condition=names)
    shape = KINDS[kind][1]
    values = np.random.default_rng(0).normal(0, 0.3, (12, *shape)).astype(np.float32)
    flat = values.reshape(12, -1)
    flat[np.arange(12), targets * 2] += 2.0
    flat += conditions[:, None]
    return regraft.read((values, labels), condition=names)
