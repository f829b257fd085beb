"""The engine "layers": layers of PyTorch in place of Keras' own give what Keras gives, where there is a counterpart; else Keras runs."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import regraft
from regraft.data import PreparedData, preprocessing_from_dict, read
from regraft.freezing import Counter, Cut, FrozenPass, cacheable_layers, engines, find_cut
from regraft.networks.network import Network

keras = pytest.importorskip("keras")
L = keras.layers
COUNT = 40


class Own(L.Layer):  # type: ignore[misc, name-defined]
    """A layer of the user's own, without weights."""

    def call(self, x: Any) -> Any:
        return keras.ops.tanh(x) * 2.0


class OwnPool(L.Layer):  # type: ignore[misc, name-defined]
    """Another layer of the user's own, with weights."""

    def build(self, shape: Any) -> None:
        self.scale = self.add_weight(shape=shape[-1:], initializer="uniform")

    def call(self, x: Any) -> Any:
        return keras.ops.mean(x * self.scale, (1, 2))


class Around(keras.Model):  # type: ignore[misc]
    """A model without a graph around one with a graph."""

    def __init__(self) -> None:
        super().__init__()
        image = keras.Input((12, 12, 3))
        self.base = keras.Model(image, _convolved(image), name="base")
        self.pool, self.out = L.GlobalAveragePooling2D(), L.Dense(3, name="head")

    def call(self, x: Any) -> Any:
        return self.out(self.pool(self.base(x)))


def _convolved(x: Any) -> Any:
    x = L.BatchNormalization()(L.Conv2D(6, 3, strides=2, padding="same", use_bias=False)(x))
    x = L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same")(L.ReLU(6.0)(x)))
    return L.BatchNormalization()(L.SeparableConv2D(5, 3, activation="relu")(L.Activation("swish")(x)))


def _closed(image: Any, x: Any) -> Any:
    return keras.Model(image, L.Dense(3, name="head")(L.Dropout(0.3)(L.GlobalAveragePooling2D()(x))))


def _pictures(*, before: Any = None, after: Any = None) -> Any:
    image = keras.Input((12, 12, 3))
    x = _convolved(image if before is None else before(image))
    return _closed(image, x if after is None else after(x))


def _scaled(image: Any) -> Any:
    return Own()(L.Rescaling(0.5)(image))


def _beside() -> Any:
    image = keras.Input((12, 12, 3))
    stem = Own()(image)
    return _closed(image, L.Add()([_convolved(stem), L.Conv2D(5, 5, strides=2)(L.Concatenate()([stem, image]))]))


def _own_only() -> Any:
    image = keras.Input((12, 12, 3))
    return keras.Model(image, L.Dense(3, name="head")(OwnPool(name="pool")(Own()(image))))


def _sequential() -> Any:
    layers = [L.Conv2D(4, 3, activation="relu"), L.MaxPooling2D(), L.Flatten(), L.Dense(5), L.BatchNormalization()]
    return keras.Sequential([keras.Input((12, 12, 3)), *layers, L.Dense(3, name="head")])


def _branched() -> Any:
    image = keras.Input((12, 12, 3))
    stem = L.Conv2D(4, 3, padding="same")(image)
    one, two = L.GlobalAveragePooling2D()(L.Conv2D(3, 3)(stem)), L.GlobalMaxPooling2D()(L.Add()([stem, L.Conv2D(4, 1)(stem)]))
    mixed = L.Dense(4, name="mix")(L.Concatenate()([one, two]))
    return keras.Model(image, L.Dense(3, name="head")(L.Multiply()([mixed, L.Dense(4, name="gate")(two)])))


def _nested() -> Any:
    image, inner = keras.Input((12, 12, 3)), keras.Input((12, 12, 3))
    base = keras.Model(inner, _convolved(inner), name="base")
    return _closed(image, base(L.RandomFlip()(image) / 2.0, training=False))


def _with_head_inside() -> Any:
    image = keras.Input((12, 12, 3))
    whole = _pictures()
    return keras.Model(image, whole(Own()(image)))


def _masked() -> Any:
    steps = [L.Masking(), L.LSTM(5, return_sequences=True), L.Bidirectional(L.LSTM(4))]
    return keras.Sequential([keras.Input((6, 3)), *steps, L.Dense(3, name="head")])


def _ended_mask() -> Any:
    steps = [L.Masking(), L.LSTM(5, return_sequences=True), Own(), L.LSTM(4)]
    return keras.Sequential([keras.Input((6, 3)), *steps, L.Dense(3, name="head")])


def _kept_mask() -> Any:
    own = Own()
    own.supports_masking = True
    steps = [L.Masking(), L.LSTM(5, return_sequences=True), own, L.LSTM(4)]
    return keras.Sequential([keras.Input((6, 3)), *steps, L.Dense(3, name="head")])


def _two_inputs() -> Any:
    picture, numbers = keras.Input((12, 12, 3), name="picture"), keras.Input((4,), name="numbers")
    x = L.Concatenate()([L.GlobalAveragePooling2D()(_convolved(picture)), L.Dense(3, activation="relu")(numbers)])
    return keras.Model([picture, numbers], L.Dense(3, name="head")(x))


def _half() -> Any:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return _pictures()
    finally:
        keras.config.set_dtype_policy(before)


def _adapted() -> Any:
    model = _sequential()
    model.layers[-3].enable_lora(2)
    for variable in model.layers[-3].trainable_variables:
        variable.assign(keras.random.normal(variable.shape))
    return model


TABLE: dict[str, tuple[Callable[[], Any], tuple[str, ...], int]] = {  # model, what is trained, number of the modules that take over
    "sequential": (_sequential, ("head",), 1),
    "convolutions": (_pictures, ("head",), 1),
    "branches": (_branched, ("mix", "gate", "head"), 1),
    "nested": (_nested, ("head",), 1),
    "nested, with the head": (_with_head_inside, ("head",), 1),
    "no graph": (Around, ("head",), 1),
    "own layer first": (lambda: _pictures(before=Own()), ("head",), 1),
    "own layer second": (lambda: _pictures(before=_scaled), ("head",), 1),
    "own layer beside": (_beside, ("head",), 1),
    "own layers only": (_own_only, ("head",), 0),
    "own layer last": (lambda: _pictures(after=Own()), ("head",), 1),
    "masks": (_masked, ("head",), 1),
    "a mask ends": (_ended_mask, ("head",), 1),
    "a mask crosses": (_kept_mask, ("head",), 0),
    "two inputs": (_two_inputs, ("head",), 1),
    "float16": (_half, ("head",), 0),
    "low-rank": (_adapted, ("head",), 1),
}


def _opened(case: str) -> tuple[Network, PreparedData]:
    make, _, _ = TABLE[case]
    keras.utils.clear_session()  # names of layers are numbered in a process
    keras.utils.set_random_seed(0)
    model, rng = make(), np.random.default_rng(0)
    shape = (6, 3) if "mask" in case else (12, 12, 3)
    X = rng.normal(size=(COUNT, *shape)).astype("float32")
    if "mask" in case:
        X[::3, 2:4] = 0.0
    if case == "no graph":
        model(X[:2])
    for layer in model._flatten_layers():
        if isinstance(layer, L.BatchNormalization):
            layer.moving_mean.assign(keras.random.normal(layer.moving_mean.shape))
            layer.moving_variance.assign(keras.random.uniform(layer.moving_variance.shape, 0.5, 2.0))
    y = np.array(["a", "b", "c", "d"])[np.arange(COUNT) % 3]
    own: dict[str, Any] = {"kind": "array", "shape": list(shape)}
    if case == "two inputs":
        network = regraft.load(model)
        return network, Two(X, rng.normal(size=(COUNT, 4)).astype("float32"), y)  # type: ignore[return-value]
    network = regraft.load(model, preprocessing=own)
    return network, PreparedData(read((X, y)), preprocessing_from_dict(own))


class Two:
    """Prepared examples of two tensors."""

    def __init__(self, pictures: Any, numbers: Any, labels: Any) -> None:
        self.pictures, self.numbers = torch.from_numpy(pictures), torch.from_numpy(numbers)
        own: dict[str, Any] = {"kind": "array", "shape": [12, 12, 3]}
        self.inner = PreparedData(read((pictures, labels)), preprocessing_from_dict(own))

    def __len__(self) -> int:
        return COUNT

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def batch(self, rows: Any, view: int = 0) -> Any:
        return {"picture": self.pictures[rows], "numbers": self.numbers[rows]}

    def batches(self, size: int, rows: Any = None, view: int = 0) -> Any:
        rows = np.arange(COUNT) if rows is None else rows
        yield from ((rows[at : at + size], self.batch(rows[at : at + size])) for at in range(0, len(rows), size))


def _pass(case: str, where: str | Path, engine: str) -> tuple[list[np.ndarray], FrozenPass]:
    network, items = _opened(case)
    trained = {name for name in TABLE[case][1]} | set(network.head_layers)
    frozen = frozenset(layer.name for layer in network.layers) - trained
    network.freeze_(frozen)
    cut = find_cut(network, cacheable_layers(network, frozen), sample=items.batch(np.arange(3)))
    assert isinstance(cut, Cut), cut
    made = FrozenPass(network, cut, where, engine=engine, batch_size=16, counter=Counter())
    return made.cached(items).stored(np.arange(COUNT)), made


@pytest.mark.parametrize("case", TABLE)
def test_layers_give_what_keras_gives(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    modules, own = list[Any](), engines._as_it_is
    monkeypatch.setattr(engines, "_as_it_is", lambda module: modules.extend(module.leading) or own(module))
    plain, _ = _pass(case, "memory", "eager")
    values, made = _pass(case, "memory", "layers")
    assert len(modules) == TABLE[case][2], made.notes
    assert len(values) == len(plain) == (2 if case == "branches" else 1)
    for one, other in zip(plain, values, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5 * np.abs(one).max())
    if modules:
        assert made.notes[0].startswith("The frozen part ran on layers of PyTorch in place of Keras' own: "), made.notes
        assert made.counter.engines.building > 0
        kept = [part for module in modules for part in module.modules() if isinstance(part, torch.nn.BatchNorm2d)]
        assert len(kept) <= 1, kept  # the one that reads an activation
    else:
        assert [value.tobytes() for value in values] == [value.tobytes() for value in plain]
        assert made.notes[0].startswith("The frozen part ran on PyTorch as it is: layers: PyTorch has no layer to take"), made.notes


def test_a_cache_of_layers_is_continued_and_is_none_of_keras(tmp_path: Path) -> None:
    values, first = _pass("convolutions", tmp_path, "layers")
    assert (first.counter.items, len(list(tmp_path.iterdir()))) == (COUNT, 1)
    for engine in ("layers", "auto"):
        again, made = _pass("convolutions", tmp_path, engine)
        assert (made.counter.items, made.counter.engines.building) == (0, 0), engine
        assert again[0].tobytes() == values[0].tobytes()
    _, plain = _pass("convolutions", tmp_path, "eager")
    assert (plain.counter.items, len(list(tmp_path.iterdir()))) == (COUNT, 2)


def test_auto_takes_layers_for_few_examples_where_the_pass_lasts_long(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter((1.0, 0.0))
    own = engines._proved
    for each in seconds:  # each example by Keras: long enough; too short
        expected = {"layers": 0.0} if each else {}
        monkeypatch.setattr(engines, "_expected_building", lambda _work, way, expected=expected, **_named: expected.get(way, np.inf))
        monkeypatch.setattr(engines, "_MOST_LOST", 1e9)
        monkeypatch.setattr(engines, "_proved", lambda *args, **named: (lambda found: (_at_once(found[0]), found[1]))(own(*args, **named)))
        _, made = _pass("convolutions", "memory", "auto")
        assert ["ran on layers of PyTorch" in note for note in made.notes] == [True] * bool(each), made.notes


def _at_once(engine: engines.Engine) -> engines.Engine:
    return replace(engine, seconds=1e-9)


def test_layers_that_give_other_values_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "regraft.networks.layers.graph.LayerGraph.fold_",
        lambda graph: [part.reset_parameters() for part in graph.children() if isinstance(part, torch.nn.BatchNorm2d)],
    )
    plain, _ = _pass("convolutions", "memory", "eager")
    values, made = _pass("convolutions", "memory", "layers")
    assert values[0].tobytes() == plain[0].tobytes()
    assert made.notes[0].startswith("The frozen part ran on PyTorch as it is: layers: for a batch of"), made.notes


@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="no engine")
@pytest.mark.parametrize("fine", [True, False])
def test_another_engine_is_built_from_the_layers_and_else_from_keras(fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    led, own = list[bool](), engines._in_onnx_form

    def seen(module: Any, *args: Any, **named: Any) -> Any:
        led.append("leading" in module._modules)
        make = own(module, *args, **named)
        return make if fine or not led[-1] else lambda engine: lambda inputs: [value + 1.0 for value in make(engine)(inputs)]

    monkeypatch.setattr(engines, "_in_onnx_form", seen)
    plain, _ = _pass("sequential", "memory", "eager")
    values, made = _pass("sequential", "memory", "onnxruntime")
    np.testing.assert_allclose(values[0], plain[0], rtol=0, atol=1e-5 * np.abs(plain[0]).max())
    assert "ran on onnxruntime" in made.notes[0], made.notes
    assert led == [True] if fine else [True, False]


@pytest.mark.parametrize("case", [pytest.param("convolutions", marks=pytest.mark.slow), "nested"])
def test_every_verb_runs_on_layers_and_says_so(case: str) -> None:
    network, items = _opened(case)
    data = items.data
    result = regraft.adapt(network, data, strategy="probe", cache="memory", engine="layers")
    assert any("ran on layers of PyTorch" in reason for reason in result.plan.reasons), result.plan.reasons
    assert result.plan.settings.engine == "layers" and result.cost["engine_building"] > 0
    assert any("ran on layers of PyTorch" in note for note in regraft.profile(network, data, cache="memory", engine="layers").notes)
    found, plain = regraft.predict(result.network, data.items, engine="layers"), result.network.predict(data.items)
    np.testing.assert_allclose(found.probabilities, plain.probabilities, atol=1e-5)
    assert "The network ran on layers of PyTorch" in found.notes[0], found.notes
    judged = regraft.evaluate(result.network, data, engine="layers")
    assert any("ran on layers of PyTorch" in note for note in judged.notes)


def test_layers_of_pytorch_have_nothing_to_replace() -> None:
    network, X = (
        regraft.load(torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.ReLU(), torch.nn.Linear(3, 2)), inputs=(4,)),
        np.zeros((5, 4), "f4"),
    )
    network.name_classes_(["a", "b"])
    found = regraft.predict(network, X, engine="layers")
    assert found.notes[0].startswith("The network ran on PyTorch as it is: layers: PyTorch has no layer to take the place"), found.notes
