"""Subclassed Keras models of several inputs, in whatever form their `call` takes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.networks.network import Tap

keras = pytest.importorskip("keras")
ops = keras.ops

ROWS = {
    name: np.random.default_rng(at).normal(size=(40, width)).astype(np.float32) for at, (name, width) in enumerate((("x", 6), ("z", 3)))
}
LABELS = np.array(["a", "b", "c", "a"] * 10)
SHAPES = {"x": (6,), "z": (3,)}


class Base(keras.Model):
    """Two inputs whose first layers have different widths, so that neither can stand for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.fc = keras.layers.Dense(16), keras.layers.Dense(16), keras.layers.Dense(5)

    def scores(self, x: Any, z: Any) -> Any:
        return self.fc(ops.relu(self.a(x) + self.b(z)))


class OfList(Base):
    def call(self, inputs: Any) -> Any:
        x, z = inputs
        return self.scores(x, z)


class OfTuple(Base):
    def call(self, inputs: Any, training: bool = False) -> Any:
        return self.scores(*(inputs if isinstance(inputs, tuple) else [None, None]))


class OfDict(Base):
    def call(self, inputs: Any) -> Any:
        return self.scores(inputs["x"], inputs["z"])


class OfArguments(Base):
    def call(self, x: Any, z: Any, training: bool | None = None) -> Any:
        return self.scores(x, z)


class OfNames(Base):
    def call(self, *, x: Any, z: Any) -> Any:
        return self.scores(x, z)


class OfOption(Base):
    def call(self, x: Any, z: Any = None) -> Any:
        return self.fc(ops.relu(self.a(x))) if z is None else self.scores(x, z)


def given(model: Any) -> Any:
    """Call a model as its owner would."""
    x, z = (torch.from_numpy(rows) for rows in ROWS.values())
    forms = {OfList: lambda: model([x, z]), OfTuple: lambda: model((x, z)), OfDict: lambda: model({"x": x, "z": z})}
    forms |= {OfNames: lambda: model(x=x, z=z)}
    return forms.get(type(model), lambda: model(x, z))().detach().numpy()


@pytest.mark.parametrize("built", [True, False])
@pytest.mark.parametrize("kind", [OfList, OfTuple, OfDict, OfArguments, OfNames, OfOption])
def test_inputs_reach_the_model_in_its_own_form(kind: type[Any], built: bool) -> None:
    keras.utils.set_random_seed(0)
    model = kind()
    if built or kind is OfTuple:  # nothing tells a model that is not built yet from one of lists
        given(model)
    net = regraft.load(model, inputs=SHAPES)
    keras.utils.set_random_seed(0)
    assert np.allclose(net.logits(ROWS), given(model if model.built else net.module), atol=1e-6)


@pytest.mark.parametrize("strategy", ["auto", "probe", "full"])
@pytest.mark.parametrize("kind", [OfList, OfTuple, OfArguments])
def test_they_are_adapted_saved_and_opened(kind: type[Any], strategy: str, tmp_path: Path) -> None:
    keras.utils.set_random_seed(0)
    model = kind()
    given(model)
    net = regraft.load(model, inputs=SHAPES)
    settings = {} if strategy == "probe" else {"epochs": 1, "refit": False}
    result = regraft.adapt(net, regraft.read(ROWS, target=LABELS), strategy=strategy, cache="memory", **settings)
    with pytest.warns(UserWarning, match="opens only with the code"):
        result.network.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net", architecture=model)
    assert np.array_equal(again.logits(ROWS), result.network.logits(ROWS))


def test_a_built_model_of_lists_names_its_inputs_by_number() -> None:
    model = OfList()
    expected = given(model)
    net = regraft.load(model)
    assert np.allclose(net.logits(dict(zip(("input_1", "input_2"), ROWS.values(), strict=True))), expected, atol=1e-6)


@pytest.mark.parametrize("kind", [OfList, OfTuple, OfDict, OfArguments])
def test_the_first_input_is_read_as_a_depth(kind: type[Any]) -> None:
    model = kind()
    given(model)
    net = regraft.load(model, inputs=SHAPES)
    tapped = net.tapped([Tap("input", ("mean",)), Tap(net.blocks[0].name, ("mean",))])
    batch = {name: torch.from_numpy(rows) for name, rows in ROWS.items()}
    assert torch.equal(tapped.feature_batch(batch)[:, :6], batch["x"])
