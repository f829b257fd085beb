"""What a network's outputs mean, where its logits alone do not tell: kinds that a config names, and outputs that are not used."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regraft

KINDS = {
    "multi_label_classification": "multi-label",
    "regression": "regression",
    "single_label_classification": "classification",
    None: "classification",
}


class Configured(nn.Module):
    def __init__(self, problem: str | None) -> None:
        super().__init__()
        self.config, self.body, self.classifier = SimpleNamespace(problem_type=problem, num_labels=3), nn.Linear(4, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.body(x).relu())


def examples(count: int = 40) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)


@pytest.mark.parametrize("problem", KINDS)
def test_the_kind_that_a_config_names(problem: str | None) -> None:
    net = regraft.load(Configured(problem), inputs=(4,), classes=["a", "b", "c"])
    logits = torch.from_numpy(net.logits(examples()))
    expected = {"multi-label": logits.sigmoid(), "regression": logits, "classification": logits.softmax(1)}[KINDS[problem]]
    assert net.head.kind == KINDS[problem]
    assert np.allclose(net.predict(examples()).probabilities, expected.numpy(), atol=1e-5)


def test_adapted_to_another_kind_and_saved(tmp_path: Any) -> None:
    module = Configured("multi_label_classification")
    data = regraft.read((examples(), np.array(["x", "y"])[(examples()[:, 0] > 0).astype(int)]))
    made = regraft.adapt(regraft.load(module, inputs=(4,)), data, strategy="head", epochs=1, cache="memory").network
    made.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net", architecture=module)
    assert made.head.kind == again.head.kind == "classification"
    assert np.allclose(made.predict(examples()).probabilities, again.predict(examples()).probabilities, atol=1e-6)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.shape, self.colour = nn.Linear(4, 8), nn.Linear(8, 3), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.body(x).relu()
        return self.shape(hidden), self.colour(hidden)


def keras_two() -> Any:
    from regraft.networks.keras_parts.library import keras

    entry = keras.Input((4,))
    hidden = keras.layers.Dense(8, activation="relu")(entry)
    outputs = [
        keras.layers.Dense(3, activation="softmax", name="shape")(hidden),
        keras.layers.Dense(2, activation="softmax", name="colour")(hidden),
    ]
    return keras.Model(entry, outputs)


@pytest.mark.parametrize("made", [Two, keras_two], ids=["torch", "keras"])
@pytest.mark.parametrize(("head", "other"), [("shape", "colour"), ("colour", "shape")])
def test_an_output_that_is_not_used_stands_in_the_account(made: Any, head: str, other: str) -> None:
    net = regraft.load(made(), inputs=(4,), head=head)
    assert net.head.layer.endswith(head)
    assert any(repr(other) in note and "not used" in note for note in net.account.notes)
