"""What is found in a PyTorch module by running it once."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests import torch_examples as examples
from torch import Tensor, nn

import regraft
from regraft.errors import NetworkError
from regraft.networks.torch.family import open_torch


class Tail(nn.Module):
    """As squeezenet ends: 1x1 convolution, ReLU, average over positions."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 5, 3), nn.ReLU())
        self.classifier = nn.Sequential(nn.Dropout(0.5), nn.Conv2d(5, 3, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, x: Tensor) -> Tensor:
        return torch.flatten(self.classifier(self.features(x)), 1)


class Ending(nn.Module):
    def __init__(self, ending: Any) -> None:
        super().__init__()
        self.low, self.fc, self.ending = nn.Linear(6, 5), nn.Linear(5, 3), ending

    def forward(self, x: Tensor) -> Tensor:
        return self.ending(self.fc(self.low(x).relu()))


@pytest.mark.parametrize(
    ("module", "shape", "layer", "activation", "kind"),
    [
        (examples.Cnn(), (1, 8, 8), "fc2", "linear", "classification"),
        (Ending(nn.Softmax(-1)), (6,), "fc", "softmax", "classification"),
        (Ending(nn.LogSoftmax(-1)), (6,), "fc", "softmax", "classification"),
        (Ending(nn.Sigmoid()), (6,), "fc", "sigmoid", "multi-label"),
        (Tail(), (1, 6, 6), "classifier.1", "linear", "classification"),
        (
            nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 3, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            (1, 6, 6),
            "1",
            "linear",
            "classification",
        ),
        (nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)), (6,), "2", "linear", "regression"),
        (examples.TimeFirst(), (7,), "head", "linear", "classification"),
    ],
)
def test_the_head_and_its_activation(module: nn.Module, shape: tuple[int, ...], layer: str, activation: str, kind: str) -> None:
    torch.manual_seed(0)
    net = open_torch(module, inputs=shape)
    assert (net.head.layer, net.head.activation, net.head.kind) == (layer, activation, kind)
    net.mode_(False)
    with torch.no_grad():
        raw = net.scores(net.sample)["main"]
        result = net.module(net.sample)
    reading = {"softmax": raw.softmax(-1), "sigmoid": raw.sigmoid(), "linear": raw}[activation]
    torch.testing.assert_close(reading, result.exp() if isinstance(getattr(module, "ending", None), nn.LogSoftmax) else result)


def test_a_network_whose_result_follows_from_no_linear_layer_has_no_head() -> None:
    net = open_torch(nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.BatchNorm1d(4)), inputs=(6,))
    net.module[2].running_mean += 3  # so that normalising does something
    assert open_torch(net.module, inputs=(6,)).heads == {}


def test_features_are_what_the_head_reads() -> None:
    for module, shape in ((examples.Cnn(), (1, 8, 8)), (examples.Lstm(), (7,))):
        net = open_torch(module, inputs=shape)
        net.mode_(False)
        with torch.no_grad():
            features = net.feature_batch(net.sample)
            assert features.shape == (2, net.head.features)
            torch.testing.assert_close(net.scores_of_features(features)["main"], net.scores(net.sample)["main"])


def test_a_copy_is_independent_and_opening_leaves_the_module_alone() -> None:
    module = examples.Cnn().train()
    net = open_torch(module, inputs=(1, 8, 8))
    assert all(part.training for part in module.modules())
    twin = net.copy()
    with torch.no_grad():
        twin.module.conv1.weight += 1
    assert torch.equal(net.module.conv1.weight, module.conv1.weight)
    assert net.module.conv1.weight.data_ptr() != module.conv1.weight.data_ptr()


def test_fresh_weights_by_seed() -> None:
    net = open_torch(examples.Cnn(), inputs=(1, 8, 8))
    one, two, other = net.reinitialised(1), net.reinitialised(1), net.reinitialised(2)
    assert examples.bit_equal(one.state(), two.state())
    for name in ("conv1.weight", "fc2.weight", "fc2.bias"):
        assert not torch.equal(one.state()[name], other.state()[name])
        assert not torch.equal(one.state()[name], net.state()[name])
    assert torch.equal(one.state()["norm1.running_mean"], torch.zeros(4))
    state = torch.random.get_rng_state()
    net.reinitialised(3)
    assert torch.equal(state, torch.random.get_rng_state())  # the user's generator is not disturbed


def test_class_names() -> None:
    net = open_torch(examples.Cnn(), inputs=(1, 8, 8))
    assert net.classes is None
    with pytest.raises(NetworkError, match=r"2 class names.*3 outputs"):
        net.name_classes_(["a", "b"])
    net.name_classes_(["a", "b", "c"])
    assert net.classes == ("a", "b", "c")
    with pytest.raises(NetworkError, match="'c'"):
        net.head.row("cc")


def test_the_input_is_guessed_or_asked_for() -> None:
    guessed = open_torch(nn.Sequential(nn.Linear(6, 3)))
    assert guessed.input_guessed
    assert guessed.input_shape == (6,)

    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.reshape(2, 17, 19).sum(2)

    with pytest.raises(NetworkError, match=r"inputs=\(3, 224, 224\)"):
        open_torch(Odd())
    with pytest.raises(NetworkError, match=r"\(5,\)"):
        open_torch(nn.Sequential(nn.Linear(6, 3)), inputs=(5,))


def test_a_network_that_returns_no_tensor_is_named() -> None:
    class Nothing(nn.Module):
        def forward(self, x: Tensor) -> None:
            return None

    with pytest.raises(NetworkError, match="no tensor"):
        open_torch(Nothing(), inputs=(3,))


def test_export_runs_without_the_class(tmp_path: Path) -> None:
    net = open_torch(examples.Cnn(), inputs=(1, 8, 8))
    path = net.export(tmp_path / "net.pt2")
    program = torch.export.load(path).module()
    batch = torch.randn(5, 1, 8, 8)
    net.mode_(False)
    with torch.no_grad():
        torch.testing.assert_close(program(batch), net.module(batch))


def test_summary_and_predictions() -> None:
    net = regraft.load(examples.Cnn(), inputs=(1, 8, 8), classes=["a", "b", "c"])
    assert "head  fc2: 8 features, 3 outputs" in net.summary()
    found = net.predict(examples.pictures(5)[0])
    assert len(found) == 5
    assert found.classes == ("a", "b", "c")
    np.testing.assert_allclose(found.probabilities.sum(1), 1)
    assert found.labels == [found.classes[index] for index in net.logits(examples.pictures(5)[0]).argmax(1)]
    with pytest.raises(NetworkError, match="knows no conditions"):
        net.predict(examples.pictures(5)[0], condition="room")


_OF_ONE_LAYER: dict[str, Callable[[Any], Any]] = {
    "retarget": lambda net: regraft.retarget(net, ["b", "x"], start="random", seed=0),
    "extend": lambda net: regraft.extend(net, ["x"], start="random", seed=0),
    "stack": lambda net: regraft.stack(net, ["x", "y"], activation="relu", start="random", seed=0),
    "branch": lambda net: regraft.branch(net, "mood", ["p", "q"], start="random", seed=0),
    "two branches": lambda net: regraft.branch(_OF_ONE_LAYER["branch"](net), "size", ["s", "m", "l"], start="random", seed=0),
    "join": lambda net: regraft.join(net, ["price"]),
    "entrance": lambda net: net.with_entrance(),
    "retarget below an entrance": lambda net: _OF_ONE_LAYER["retarget"](net.with_entrance()),
}


@pytest.mark.parametrize("edit", _OF_ONE_LAYER)
def test_a_network_that_is_one_layer_is_edited_as_one_with_that_layer_in_it(edit: str) -> None:
    layer = torch.nn.Linear(4, 3)
    modules = {"alone": lambda: copy.deepcopy(layer), "inside": lambda: torch.nn.Sequential(copy.deepcopy(layer))}
    scores = {}
    for name, made in modules.items():
        twin = _OF_ONE_LAYER[edit](regraft.load(made(), classes=["a", "b", "c"], inputs=(4,)))
        twin.mode_(False)
        scores[name] = twin.scores(twin.sample)
        opened = open_torch(made(), inputs=(4,))
        for change in twin.edits:
            opened = opened.edited(change)
        opened.module.load_state_dict(twin.module.state_dict())
        opened.mode_(False)
        again = opened.scores(twin.sample)
        assert all(torch.equal(again[task], values) for task, values in scores[name].items())
    assert scores["alone"].keys() == scores["inside"].keys()
    assert all(torch.equal(values, scores["inside"][task]) for task, values in scores["alone"].items())
    assert twin.classes is None or scores["alone"]["main"].shape[1] == len(twin.classes)
