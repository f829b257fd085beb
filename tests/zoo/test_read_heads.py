"""Heads that no layer computes alone (products in a module's code, cosines, a temperature, own layers) become a linear layer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import regraft
from regraft.errors import NetworkError

keras = pytest.importorskip("keras")
layers, ops = keras.layers, keras.ops

ROWS = np.random.default_rng(0).normal(size=(48, 6)).astype(np.float32)
LABELS = np.array(["b", "new", "a"] * 16)
Code = Callable[[Any, Tensor], Tensor]


class Own(nn.Module):
    """A body, and parameters of which its own `code` makes the scores."""

    def __init__(self, code: Code) -> None:
        super().__init__()
        self.body, self.fc = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 8)), nn.Linear(8, 5)
        self.weight, self.bias = nn.Parameter(torch.randn(8, 5) * 0.4), nn.Parameter(torch.randn(5) * 0.1)
        self.scale, self.points, self.norm = nn.Parameter(torch.tensor(1.7)), nn.Embedding(5, 8), nn.BatchNorm1d(5)
        self.code = code

    def forward(self, x: Tensor) -> Tensor:
        return self.code(self, self.body(x).relu())


def cosine(own: Any, x: Tensor) -> Tensor:
    return own.scale.exp() * functional.linear(functional.normalize(x), functional.normalize(own.fc.weight))


CODES: dict[str, Code] = {
    "matmul": lambda own, x: x @ own.weight + own.bias,
    "F.linear": lambda own, x: functional.linear(x, own.fc.weight, own.fc.bias),
    "addmm": lambda own, x: torch.addmm(own.bias, x, own.weight),
    "einsum": lambda own, x: torch.einsum("nd,dc->nc", x, own.weight) + own.bias,
    "embedding": lambda own, x: x @ own.points.weight.T,
    "cosine": cosine,
    "cosine with probabilities": lambda own, x: cosine(own, x).softmax(-1),
    "cosine with log-probabilities": lambda own, x: cosine(own, x).log_softmax(-1),
    "several labels": lambda own, x: torch.sigmoid(x @ own.weight + own.bias),
    "temperature": lambda own, x: own.fc(x) / own.scale,
    "normalised scores": lambda own, x: own.norm(own.fc(x)),
    "one number": lambda own, x: x @ own.weight[:, :1] + own.bias[:1],
}


class Product(layers.Layer):
    """A linear layer, or cosines, of the user."""

    def __init__(self, cosines: bool = False) -> None:
        super().__init__()
        self.cosines = cosines

    def build(self, shape: Any) -> None:
        self.rows = self.add_weight(shape=(shape[-1], 5), name="rows")
        self.shift = self.add_weight(shape=(5,), name="shift", initializer="random_normal")

    def call(self, x: Any) -> Any:
        if self.cosines:
            return 10 * ops.matmul(ops.normalize(x, axis=-1), ops.normalize(self.rows, axis=0))
        return ops.matmul(x, self.rows) + self.shift


KERAS: dict[str, Callable[[Any], Any]] = {
    "matmul": lambda x: Product()(x),
    "cosine": lambda x: Product(cosines=True)(x),
    "cosine with probabilities": lambda x: layers.Softmax()(Product(cosines=True)(x)),
    "normalised features": lambda x: 10.0 * layers.Dense(5, use_bias=False, kernel_constraint="unit_norm")(layers.UnitNormalization()(x)),
    "einsum": lambda x: layers.EinsumDense("nd,dc->nc", output_shape=5, bias_axes="c")(x),
    "temperature": lambda x: layers.Rescaling(0.5)(layers.Dense(5)(x)),
    "probabilities": lambda x: ops.softmax(ops.multiply(layers.Dense(5)(x), 2.0)),
    "several labels": lambda x: ops.sigmoid(layers.Lambda(lambda values: values * 2.0)(layers.Dense(5)(x))),
    "normalised scores": lambda x: layers.BatchNormalization()(layers.Dense(5)(x)),
}


def keras_model(end: Callable[[Any], Any]) -> Any:
    keras.utils.set_random_seed(0)
    entry = keras.Input((6,))
    return keras.Model(entry, end(layers.Dense(8, activation="relu")(layers.Dense(16, activation="relu")(entry))))


def opened(family: str, name: str) -> tuple[Any, Any]:
    torch.manual_seed(0)
    own = Own(CODES[name]).eval() if family == "torch" else keras_model(KERAS[name])
    return own, regraft.load(own, inputs=(6,), classes=None if name == "one number" else [*"abcde"])


CASES = [*(("torch", name) for name in CODES if name != "one number"), *(("keras", name) for name in KERAS)]


@pytest.mark.parametrize(("family", "name"), CASES)
def test_the_layer_gives_what_the_network_gave_and_keeps_its_classes(family: str, name: str, tmp_path: Path) -> None:
    own, net = opened(family, name)
    before = {key: values.clone() for key, values in net.state().items()}
    assert (net.head.layer, net.head.features) == ("head", 8)
    given = own(torch.from_numpy(ROWS)).detach() if family == "torch" else torch.from_numpy(own.predict(ROWS, verbose=0))
    assert np.allclose(net.body.module(torch.from_numpy(ROWS)).detach(), given, rtol=1e-4, atol=1e-5)
    changed = regraft.retarget(net, ["b", "new", "a"])
    assert changed.account.to_dict()["kept"] == ["b", "a"]
    assert np.array_equal(changed.head.weight[[0, 2]], net.head.weight[[1, 0]])
    assert "linear layer" in str(changed.account) or "without a layer" in str(changed.account)
    data = [[label] for label in LABELS] if "labels" in name else LABELS
    result = regraft.adapt(net, (ROWS, data), strategy="full", epochs=1, cache="memory", refit=False)
    assert result.account.to_dict()["kept"] == ["a", "b"] and "could be recognised" not in result.verdict
    assert all(torch.equal(values, before[key]) for key, values in net.state().items())
    result.network.save(tmp_path / "saved")
    again = regraft.load(tmp_path / "saved", architecture=own if family == "torch" else None)
    assert np.array_equal(again.logits(ROWS), result.network.logits(ROWS))
    assert np.allclose(regraft.load(tmp_path / "saved").logits(ROWS), result.network.logits(ROWS), atol=1e-5)


def test_cosines_are_linear_in_normalised_features() -> None:
    """Class weights have the length of the scale."""
    for family, length in (("torch", np.exp(1.7)), ("keras", 10.0)):
        assert np.allclose(np.linalg.norm(opened(family, "cosine")[1].head.weight, axis=1), length, rtol=1e-4)


def test_one_number_is_a_regression() -> None:
    own, net = opened("torch", "one number")
    assert net.head.kind == "regression"
    assert np.allclose(net.logits(ROWS), own(torch.from_numpy(ROWS)).detach(), atol=1e-5)


@pytest.mark.parametrize("name", CODES)
def test_class_weights_of_a_file_reach_the_layer(name: str, tmp_path: Path) -> None:
    torch.manual_seed(1)
    trained = Own(CODES[name]).eval()
    torch.save(trained.state_dict(), tmp_path / "trained.pt")
    wanted = trained(torch.from_numpy(ROWS)).detach()
    torch.manual_seed(2)
    for how in ({"weights": tmp_path / "trained.pt"}, {"architecture": Own(CODES[name]).eval()}):
        net = regraft.load(Own(CODES[name]).eval() if "weights" in how else tmp_path / "trained.pt", inputs=(6,), **how)
        assert np.allclose(net.body.module(torch.from_numpy(ROWS)).detach(), wanted, rtol=1e-4, atol=1e-5)
        assert "missing" not in net.account.to_dict()


@pytest.mark.parametrize("name", KERAS)
@pytest.mark.parametrize("ending", [".weights.h5", ".keras"])
def test_class_weights_of_a_keras_file_reach_the_layer(name: str, ending: str, tmp_path: Path) -> None:
    trained, fresh = keras_model(KERAS[name]), keras_model(KERAS[name])
    for variable in trained.trainable_variables:
        variable.assign(variable + 0.3 * keras.random.normal(variable.shape, seed=5))
    (trained.save_weights if "weights" in ending else trained.save)(tmp_path / f"trained{ending}")
    net = regraft.load(fresh, weights=tmp_path / f"trained{ending}")
    given = trained.predict(ROWS, verbose=0)
    assert np.allclose(net.body.module(torch.from_numpy(ROWS)).detach(), given, rtol=1e-4, atol=1e-5)
    opened = regraft.load(fresh)
    with pytest.raises(NetworkError, match=r"the linear layer 'head'.*regraft\.load\(model, weights=file\)"):
        regraft.load(opened, weights=tmp_path / f"trained{ending}")


class Empty(Own):
    """As a user writes it who loads weights next: the class weights are zeros."""

    def __init__(self) -> None:
        super().__init__(CODES["matmul"])
        nn.init.zeros_(self.weight)


def test_a_folder_opens_with_an_architecture_whose_own_class_weights_are_zeros(tmp_path: Path) -> None:
    own = Empty()
    nn.init.normal_(own.weight)
    net = regraft.load(own.eval(), inputs=(6,), classes=[*"abcde"])
    for at, one in enumerate((net, regraft.retarget(net, ["b", "new"], start="random"))):
        one.save(tmp_path / str(at))
        assert np.array_equal(regraft.load(tmp_path / str(at), architecture=Empty()).logits(ROWS), one.logits(ROWS))


@pytest.mark.parametrize("width", [8, 5])
def test_a_folder_from_before_keeps_its_head_on_the_output(width: int, tmp_path: Path) -> None:
    """A head on 5 class scores has the size of one on 5 features."""
    torch.manual_seed(0)
    own = nn.Sequential(nn.Linear(6, width), nn.ReLU(), nn.Linear(width, 5), nn.BatchNorm1d(5)).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("regraft.networks.torch.family.with_read_head", lambda body: body)
        net = regraft.load(own, inputs=(6,))
    assert not net.heads
    changed = regraft.retarget(net, ["x", "y"], start="random")
    changed.save(tmp_path / "before")
    assert np.array_equal(regraft.load(tmp_path / "before", architecture=own).logits(ROWS), changed.logits(ROWS))


class Helped(Own):
    """In training, a second classifier of the same size follows."""

    def __init__(self) -> None:
        super().__init__(CODES["F.linear"])
        self.before, self.second = nn.Linear(6, 8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        scores = super().forward(x)
        if self.training:
            self.further = self.second(self.before(x))
        return scores


def test_a_product_that_is_not_the_last_one_in_training_is_no_head() -> None:
    torch.manual_seed(0)
    assert not regraft.load(Helped().eval(), inputs=(6,)).heads


NO_HEADS: dict[str, Code] = {
    "distances": lambda own, x: -torch.cdist(x, own.points.weight),
    "squares": lambda own, x: (x @ own.weight).square(),
    "of the batch": lambda own, x: x @ x.T @ torch.ones(len(x), 5),
    "residual": lambda own, x: own.fc(x) + own.fc(x).relu() @ own.weight[:5],
    "gated": lambda own, x: (x @ own.weight) * x[:, :1],
}


@pytest.mark.parametrize("name", NO_HEADS)
def test_what_is_no_product_with_class_weights_is_no_head_and_the_verdict_says_where_the_new_one_reads(name: str) -> None:
    torch.manual_seed(0)
    net = regraft.load(Own(NO_HEADS[name]), inputs=(6,))
    assert not net.heads
    result = regraft.adapt(net, (ROWS, LABELS), strategy="head", epochs=1, cache="memory")
    assert "no head that could be recognised: the new one reads" in result.verdict and "Leave-one-out loss" in result.verdict


@pytest.mark.parametrize(
    "end",
    [lambda x: layers.ReLU()(Product()(x)), lambda x: layers.UnitNormalization()(layers.Dense(5)(x)), lambda x: Product()(x) * x[:, :1]],
)
def test_ends_of_a_graph_that_are_not_linear_are_no_heads(end: Callable[[Any], Any]) -> None:
    assert not regraft.load(keras_model(end)).heads


@pytest.mark.parametrize("ending", [".onnx", ".pt2", ".keras"])
def test_such_a_network_goes_on_to_other_forms(ending: str, tmp_path: Path) -> None:
    _, net = opened("torch", "matmul")
    changed = regraft.retarget(net, ["b", "new", "a"], start="random")
    again = changed.to("keras") if ending == ".keras" else changed
    path = again.export(tmp_path / f"net{ending}")
    assert np.allclose(regraft.load(path, trust=ending == ".pt2").logits(ROWS), changed.logits(ROWS), atol=1e-5)
