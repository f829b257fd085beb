"""What a network's outputs mean, where its logits alone do not tell: kinds that a config names, and outputs that are not used."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import regraft
from regraft.errors import NetworkError
from regraft.networks.keras.library import keras

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


@pytest.mark.usefixtures("without_onnx_form")
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
    from regraft.networks.keras.library import keras

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


@dataclass
class Answer:
    """What a module may return in place of a tensor."""

    hidden: Tensor
    logits: Tensor


Named = namedtuple("Named", ["logits", "auxiliary"])


class Answering(nn.Module):
    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.low, self.top, self.form = nn.Linear(4, 6), nn.Linear(6, 3), form

    def forward(self, x: Tensor) -> Any:
        hidden = self.low(x).relu()
        return self.form(hidden, self.top(hidden))


@pytest.mark.parametrize(
    "form", [Answer, lambda _hidden, top: Named(top, top), lambda hidden, top: (hidden, top), lambda _hidden, top: {"y": top}]
)
def test_scores_are_found_in_what_a_module_returns(form: Any) -> None:
    module = Answering(form)
    net, data = regraft.load(module, inputs=(4,)), examples()
    assert net.head.layer == "top"
    expected = module.top(module.low(torch.from_numpy(data)).relu()).softmax(1).detach().numpy()
    assert np.allclose(net.predict(data).probabilities, expected, atol=1e-6)


def squashed() -> Any:
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Softmax()(keras.ops.tanh(keras.layers.Dense(3)(inputs))))


HEADLESS = {
    "logits": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
    "probabilities": lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Softmax(1)),
    "number": lambda: nn.Sequential(nn.Linear(4, 1), nn.Tanh()),
    "keras": squashed,
}


@pytest.mark.parametrize("kind", HEADLESS)
def test_a_network_without_a_head_predicts_what_it_gives(kind: str) -> None:
    module, data = HEADLESS[kind](), examples()
    net = regraft.load(module, inputs=(4,))
    assert not net.heads
    given = module.predict(data, verbose=0) if kind == "keras" else module.eval()(torch.from_numpy(data)).detach().numpy()
    found = net.predict(data)
    expected = torch.from_numpy(given).softmax(1).numpy() if kind == "logits" else given
    assert np.allclose(found.probabilities, expected, atol=1e-6) and found.values == (kind == "number")
    assert np.allclose(net.logits(data), given, atol=1e-6)


@pytest.mark.parametrize("kind", ["probabilities", "keras"])
def test_class_names_of_a_network_without_a_head_name_its_outputs(kind: str, tmp_path: Any) -> None:
    module, data, names = HEADLESS[kind](), examples(), ("low", "middle", "high")
    net = regraft.load(module, inputs=(4,), classes=names)
    expected = [names[at] for at in net.logits(data).argmax(1)]
    net.save(tmp_path / "net")
    for one in (net, regraft.load(tmp_path / "net", architecture=module), regraft.load(net)):
        assert one.classes == one.predict(data).classes == names and one.predict(data).labels == expected and not one.heads
    assert regraft.retarget(net, ["p", "q"]).classes == ("p", "q")
    with pytest.raises(NetworkError, match=r"2 class names for a network without a head: it gives 3 numbers.*regraft\.retarget"):
        regraft.load(module, inputs=(4,), classes=["low", "high"])


def test_a_result_that_is_no_scores_is_refused() -> None:
    net = regraft.load(nn.Conv1d(2, 3, 2), inputs=(2, 5))
    with pytest.raises(NetworkError, match=r"whose result has the shape \(2, 3, 4\)"):
        net.predict(np.zeros((3, 2, 5), np.float32))


def test_a_head_whose_scores_other_parts_read_is_not_resized() -> None:
    class Coder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.code, self.decode = torch.nn.Linear(6, 3), torch.nn.Linear(3, 6)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            code = self.code(x)
            return self.decode(code), code

    net = regraft.load(Coder(), inputs=(6,), head="code")
    assert regraft.retarget(net, ["a", "b", "c"]).logits(np.zeros((2, 6), np.float32)).shape == (2, 3)
    with pytest.raises(NetworkError, match=r"'code' cannot have 2 outputs: other parts of the network read what it gives"):
        regraft.retarget(net, ["a", "b"])


class Looped(nn.Module):
    """A head that a loop calls for single examples, each without or with a batch axis."""

    def __init__(self, single: bool) -> None:
        super().__init__()
        self.body, self.top, self.single = nn.Linear(4, 8), nn.Linear(8, 3), single

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.body(x).relu()
        return torch.stack([self.top(row) for row in hidden]) if self.single else torch.cat([self.top(row[None]) for row in hidden])


class LoopedKeras(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.top = keras.layers.Dense(8, activation="relu"), keras.layers.Dense(3)

    def call(self, x: Any) -> Any:
        hidden = self.body(x)
        return keras.ops.concatenate([self.top(hidden[at : at + 1]) for at in range(hidden.shape[0])])


@pytest.mark.parametrize("strategy", ["probe", "head", "partial"])
@pytest.mark.parametrize("make", [partial(Looped, True), partial(Looped, False), LoopedKeras], ids=["rows", "batches of one", "keras"])
def test_a_head_that_a_loop_calls_for_single_examples(make: Any, strategy: str) -> None:
    torch.manual_seed(0)
    net, items = regraft.load(make(), inputs=(4,), classes=["a", "b", "c"]), examples()
    for count in (1, 5):
        features = net.features(items[:count])
        assert features.shape == (count, 8)
        assert np.allclose(features @ net.head.weight.T + net.head.bias, net.logits(items[:count]), atol=1e-5)
    data = (items, np.array(["a", "b", "d"])[items[:, :3].argmax(1)])
    settings: dict[str, Any] = {"probe": {}, "head": {"epochs": 1}, "partial": {"epochs": 1, "frozen": 1}}[strategy]
    result = regraft.adapt(net, data, strategy=strategy, **settings)
    assert result.account.entries["kept"] == ["a", "b"]
    assert np.isfinite(result.network.predict(items).probabilities).all()
