"""What is adapted in the tests of this folder: every strategy on a tiny network of each family, quick and with all that draws numbers."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from tests import torch_examples

import regraft
from regraft.data import Dataset
from regraft.data.targets import Targets
from regraft.networks.network import Network

FAMILIES = ("torch", "keras")
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 16, "cache": "memory", "dropout": 0.1}


@dataclass(frozen=True)
class Case:
    """How a network is adapted.

    Attributes:
        strategy: as of `regraft.adapt`.
        settings: further ones.
        data: "plain", "conditions" or "tasks".
    """

    strategy: str
    settings: dict[str, Any] = field(default_factory=dict)
    data: str = "plain"


CASES = {
    "probe": Case("probe"),
    "head": Case("head"),
    "partial": Case("partial", {"frozen": 1}),
    "full": Case("full"),
    "surgical": Case("surgical", {"block": "auto"}),
    "scratch": Case("scratch"),
    "bias": Case("bias"),
    "scale_shift": Case("scale_shift"),
    "lora": Case("lora", {"rank": 2}),
    "lin": Case("lin"),
    "codes": Case("codes", data="conditions"),
    "auto": Case("auto"),
    "views": Case("head", {"views": 3}),
    "stages": Case("full", {"unfreeze_every": 1, "epochs": 4}),
    "tasks": Case("full", data="tasks"),
    "baseline": Case("head", {"baselines": True}),
    "chosen": Case("full", {"epochs": 30, "batch_size": 2, "validation": 0.6, "holdout": 0.1}),
    "once": Case("full", {"refit": False, "stay_near": 0.1}),
    "everything": Case("partial", {"refit": "all", "frozen": 1}),
    "probed": Case("partial", {"base": "probe", "frozen": 1}),
    "taught": Case("full", {"distill": 0.3}),
    "co_tuned": Case("full", {"co_tuning": 0.3}),
}
"""Name -> what is adapted; "stages" thaws block by block, "baseline" trains a second network from scratch, "chosen" compares settings and
has a validation set in place of folds, "once" is not trained again, "everything" is made again from all examples."""


def network(family: str) -> Network:
    """Return a network with convolutions, BatchNorm and dropout that knows three classes; equal at every call."""
    if family == "torch":
        torch.manual_seed(0)
        return regraft.load(torch_examples.Cnn(), inputs=(1, 8, 8), classes=["class 0", "class 1", "old"])
    from regraft.networks.keras.library import keras

    keras.utils.set_random_seed(0)
    layers, entry = keras.layers, keras.Input((8, 8, 1))
    middle = layers.BatchNormalization(name="norm1")(layers.Conv2D(4, 3, name="conv1", activation="relu")(entry))
    middle = layers.Dropout(0.3, name="drop1")(layers.MaxPooling2D(2, name="pool1")(middle))
    middle = layers.Conv2D(6, 2, name="conv2", activation="relu")(middle)
    middle = layers.Dropout(0.3, name="drop2", seed=3)(layers.Dense(8, activation="relu", name="fc1")(layers.Flatten(name="flat")(middle)))
    model = keras.Model(entry, layers.Dense(3, activation="softmax", name="fc2")(middle), name="tiny")
    return regraft.load(model, classes=["class 0", "class 1", "old"])


def data(family: str, kind: str = "plain") -> Dataset:
    """Return forty pictures of three classes, with conditions or a second target where the `kind` says so."""
    pictures, labels = torch_examples.pictures(40)
    pictures = pictures if family == "torch" else np.moveaxis(pictures, 1, -1).copy()
    if kind == "conditions":
        return regraft.read((pictures, labels), condition=np.array([f"room {index % 4 // 2}" for index in range(40)]))
    if kind == "plain":
        return regraft.read((pictures, labels))
    names, targets = np.unique(labels, return_inverse=True)
    bright = (pictures.reshape(40, -1)[:, 0] > 0).astype(np.int64)
    bright[::3] = -1
    return Dataset(pictures, targets, tuple(names), "array", name="row", further={"light": Targets(bright, ("dark", "bright"))})


def adapted(case: str, family: str, **named: Any) -> regraft.Result:
    """Adapt the network of a family as a case says; `named` goes to `regraft.adapt` beside it."""
    chosen = CASES[case]
    settings = {**QUICK, **chosen.settings, **named}
    if chosen.strategy == "probe":
        settings.pop("dropout")
    return regraft.adapt(settings.pop("net", None) or network(family), data(family, chosen.data), strategy=chosen.strategy, **settings)
