"""Networks with one output that tells two classes apart: a head of its own kind, in both families."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regraft
from regraft.data import Dataset
from regraft.errors import NetworkError
from regraft.networks.network import Network

CLASSES = ["neg", "pos"]


class Flat(nn.Sequential):
    """Returns one number an example, (N,)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).squeeze(1)


def with_sigmoid() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())


def flat_sigmoid() -> nn.Module:
    return Flat(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1), nn.Sigmoid())


def logit() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))


def flat_logit() -> nn.Module:
    return Flat(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 1))


def keras_model(activation: str) -> Callable[[], Any]:
    def made() -> Any:
        from regraft.networks.keras.library import keras

        keras.utils.set_random_seed(1)
        own = [keras.layers.Dense(1)] if activation == "apart" else [keras.layers.Dense(1, activation=activation)]
        own += [keras.layers.Activation("sigmoid")] if activation == "apart" else []
        return keras.Sequential([keras.Input((6,)), keras.layers.Dense(5, activation="relu"), *own])

    return made


MODELS: dict[str, Callable[[], Any]] = {
    "torch": with_sigmoid,
    "torch, flat": flat_sigmoid,
    "torch, logit": logit,
    "torch, flat logit": flat_logit,
    "keras": keras_model("sigmoid"),
    "keras, apart": keras_model("apart"),
    "keras, logit": keras_model("linear"),
}


def numbers(count: int = 60) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, 6)).astype(np.float32)


def labelled(*names: str, count: int = 60) -> Dataset:
    items = numbers(count)
    return regraft.read((items, np.array(names)[(items[:, 0] > 0).astype(int) + (len(names) > 2) * (items[:, 1] > 1)]))


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(3)
    return MODELS[request.param]()


def opened(model: Any, classes: list[str] | None = CLASSES) -> Network:
    return regraft.load(model, inputs=(6,), classes=classes)


def chance(model: Any) -> np.ndarray:
    """Return what the framework says for each example: the probability of the second class."""
    if isinstance(model, nn.Module) and not hasattr(model, "predict"):
        with torch.no_grad():
            own = model.eval()(torch.from_numpy(numbers())).numpy().ravel()
    else:
        own = np.asarray(model.predict(numbers(), verbose=0)).ravel()
    inside = ((own >= 0) & (own <= 1)).all()
    return np.asarray(own if inside else 1 / (1 + np.exp(-own.astype(np.float64))))


def test_it_predicts_what_the_framework_says(model: Any) -> None:
    net = opened(model)
    found, own = net.predict(numbers()), chance(model)
    assert net.head.binary and net.classes == ("neg", "pos") and net.head.kind == "classification"
    assert found.probabilities.shape == (60, 2) and np.allclose(found.probabilities[:, 1], own, atol=1e-5)
    assert found.labels == [CLASSES[int(one > 0.5)] for one in own] and len(set(found.labels)) == 2


def test_a_sigmoid_tells_two_classes_apart_without_their_names() -> None:
    assert opened(with_sigmoid(), classes=None).predict(numbers()).classes == ("0", "1")


def test_a_bare_output_is_a_regression_without_names() -> None:
    net = opened(logit(), classes=None)
    assert net.head.kind == "regression" and not net.head.binary
    with pytest.raises(NetworkError, match="two where one output"):
        opened(logit(), classes=["a", "b", "c"])


def test_the_same_classes_keep_weights_and_form(model: Any) -> None:
    net = opened(model)
    changed = regraft.retarget(net, CLASSES)
    assert changed.head.binary and sorted(changed.account.entries["kept"]) == CLASSES
    assert np.array_equal(changed.logits(numbers()), net.logits(numbers()))
    assert [values.shape for values in changed.state().values()] == [values.shape for values in net.state().values()]


STRATEGIES = ("probe", "head", "full", "auto")
CASES = [
    pytest.param(name, strategy, marks=() if name in ("torch", "keras") or STRATEGIES[at % 4] == strategy else pytest.mark.slow)
    for at, name in enumerate(MODELS)
    for strategy in STRATEGIES
]
"""Every strategy on one model of each family, and each other model with one of them; `make test-all` has all of each."""


@pytest.mark.parametrize(("model", "strategy"), CASES, indirect=["model"])
def test_it_is_adapted_by_every_strategy(model: Any, strategy: str) -> None:
    net = opened(model)
    settings: dict[str, Any] = {} if strategy == "probe" else {"epochs": 8, "batch_size": 8, "learning_rate": 0.05}
    result = regraft.adapt(net, labelled("neg", "pos"), strategy=strategy, cache="memory", **settings)
    made = result.network
    assert made.classes == ("neg", "pos") and made.head.binary
    assert made.body.layer_rows(made.head.layer)[0].shape[0] == 1
    if strategy in ("head", "full"):
        assert sorted(made.account.entries["kept"]) == CLASSES
        assert [tuple(values.shape) for values in made.state().values()] == [tuple(values.shape) for values in net.state().values()]
    right = np.mean(np.array(made.predict(numbers()).labels) == np.array(CLASSES)[labelled("neg", "pos").targets])
    assert right > (0.6 if strategy == "head" else 0.8)  # the features of the fresh layer below say little


def test_exchanged_and_renamed_classes(model: Any) -> None:
    net = opened(model)
    before = net.predict(numbers()).probabilities
    assert np.allclose(regraft.retarget(net, CLASSES[::-1]).predict(numbers()).probabilities, before[:, ::-1], atol=1e-6)
    renamed = regraft.retarget(net, ["no", "yes"], rename={"neg": "no", "pos": "yes"})
    assert renamed.head.binary and np.allclose(renamed.predict(numbers()).probabilities, before, atol=1e-6)


@pytest.mark.parametrize("way", ["extend", "retarget"])
def test_a_third_class_makes_a_softmax_of_zero_and_the_old_logit(model: Any, way: str) -> None:
    net = opened(model)
    changed = regraft.extend(net, ["new"]) if way == "extend" else regraft.retarget(net, [*CLASSES, "new"])
    assert not changed.head.binary and changed.classes == ("neg", "pos", "new")
    old, new = net.logits(numbers()), changed.logits(numbers())
    assert not old[:, 0].any() and np.array_equal(old, new[:, :2]) if way == "extend" else np.allclose(old, new[:, :2], atol=1e-6)
    own = chance_of_three(changed)
    assert np.allclose(own, changed.predict(numbers()).probabilities, atol=1e-5)


def chance_of_three(net: Network) -> np.ndarray:
    """Return the probabilities that the module gives by itself."""
    with torch.no_grad():
        own = net.module.eval()(torch.from_numpy(numbers()))
    return np.asarray(own.double().softmax(1) if own.min() < 0 or own.max() > 1 else own)


def test_stacked_joined_and_as_labels(model: Any) -> None:
    net = opened(model)
    before = net.predict(numbers()).probabilities
    stacked = regraft.stack(net, ["a", "b", "c"], activation="linear", start="random")
    assert stacked.logits(numbers()).shape == (60, 3) and stacked.head.features == 2
    labels = regraft.retarget(net, CLASSES, kind="multi-label")
    assert not labels.head.binary and np.allclose(labels.predict(numbers()).probabilities, before, atol=1e-5)


@pytest.mark.usefixtures("without_onnx_form")
def test_saved_and_opened_again(model: Any, tmp_path: Path) -> None:
    net = opened(model)
    net.save(tmp_path / "net")
    architecture = {} if net.family == "keras" else {"architecture": model}
    again = regraft.load(tmp_path / "net", **architecture)
    assert again.head.binary and again.classes == net.classes
    assert np.allclose(again.predict(numbers()).probabilities, net.predict(numbers()).probabilities, atol=1e-6)
    wider = regraft.extend(again, ["new"])
    wider.save(tmp_path / "wider")
    opened_again = regraft.load(tmp_path / "wider", **architecture)
    assert not opened_again.head.binary and np.allclose(opened_again.logits(numbers()), wider.logits(numbers()), atol=1e-6)


def test_saved_without_its_class(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    net = opened(with_sigmoid())
    net.save(tmp_path / "net")
    again = regraft.load(tmp_path / "net")
    assert again.head.binary and np.allclose(again.predict(numbers()).probabilities, net.predict(numbers()).probabilities, atol=1e-5)


def test_an_exported_model_has_one_output(tmp_path: Path) -> None:
    from regraft.networks.keras.library import keras

    model = MODELS["keras"]()
    made = regraft.adapt(opened(model), labelled("neg", "pos"), strategy="full", epochs=2, cache="memory").network
    path = made.export(tmp_path / "net.keras")
    own = keras.saving.load_model(path).predict(numbers(), verbose=0)
    assert own.shape == (60, 1) and np.allclose(own[:, 0], made.predict(numbers()).probabilities[:, 1], atol=1e-5)
