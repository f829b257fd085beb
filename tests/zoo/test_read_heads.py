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
from regraft.networks.torch.body import inspected
from regraft.networks.torch.products import at_read_head

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


def softmax_by_hand(logits: Tensor) -> Tensor:
    powers = torch.exp(logits - logits.amax(1, keepdim=True))
    return powers / powers.sum(1, keepdim=True)


def less_its_mean(logits: Tensor) -> Tensor:
    return logits - logits.mean(1, keepdim=True)


def halved_in_place(x: Tensor) -> Tensor:
    x /= x.norm(dim=1, keepdim=True)
    return x


FORMS: dict[str, Code] = {
    "after dropout": lambda own, x: functional.dropout(x, 0.4, own.training) @ own.weight,
    "mean of several dropouts": lambda own, x: sum(functional.dropout(x, 0.4, own.training) @ own.weight for _ in range(3)) / 3,
    "softmax by hand": lambda own, x: softmax_by_hand(x @ own.weight),
    "less its mean": lambda own, x: less_its_mean(x @ own.weight),
    "less its mean, probabilities": lambda own, x: less_its_mean(x @ own.weight).softmax(1),
    "thresholds": lambda own, x: functional.linear(x, own.fc.weight[:1]) + own.bias,
    "normalised in place": lambda own, x: halved_in_place(x.detach()) @ own.weight,
    "a product of each class": lambda own, x: torch.stack([(x * own.fc.weight[at]).sum(1) for at in range(5)], 1),
    "a vector of each class": lambda own, x: torch.stack([x @ own.weight[:, at] for at in range(5)], 1),
    "columns": lambda own, x: torch.cat([x @ own.weight[:, at : at + 1] for at in range(5)], 1),
    "sums": lambda own, x: (x[:, None] * own.fc.weight).sum(-1) + own.bias,
    "bmm": lambda own, x: torch.bmm(own.fc.weight.expand(len(x), 5, 8), x[:, :, None])[:, :, 0],
    "tensordot": lambda own, x: torch.tensordot(x, own.weight, 1),
    "convolution": lambda own, x: functional.conv1d(x[:, :, None], own.fc.weight[:, :, None])[:, :, 0],
    "transposed": lambda own, x: (own.fc.weight @ x.T).T,
    "another order": lambda own, x: functional.linear(x, own.fc.weight, own.bias)[:, [2, 0, 1, 4, 3]],
    "positions": lambda own, x: (torch.stack([x, x.flip(1)], 1) @ own.weight).mean(1),
    "probabilities": lambda own, x: torch.stack([x @ own.weight[:, at] for at in range(5)], 1).softmax(1),
}


@pytest.mark.parametrize("name", FORMS)
def test_other_forms_of_such_a_product(name: str) -> None:
    torch.manual_seed(0)
    own = Own(FORMS[name]).eval()
    net = regraft.load(own, inputs=(6,), classes=[*"abcde"])
    assert (net.head.layer, net.head.weight.shape) == ("head", (5, 8))
    assert np.allclose(net.body.module(torch.from_numpy(ROWS)).detach(), own(torch.from_numpy(ROWS)).detach(), rtol=1e-4, atol=1e-5)
    changed = regraft.retarget(net, ["b", "new", "a"])
    assert np.array_equal(changed.head.weight[[0, 2]], net.head.weight[[1, 0]])
    assert np.allclose(changed.logits(ROWS)[:, [0, 2]], net.logits(ROWS)[:, [1, 0]], atol=1e-5)


ENDS: dict[str, Callable[[Any], Any]] = {
    "side by side": lambda x: layers.Concatenate()([layers.Dense(1)(x) for _ in range(5)]),
    "probabilities": lambda x: layers.Softmax()(layers.Concatenate()([layers.Dense(1)(x) for _ in range(5)])),
    "several labels": lambda x: layers.Concatenate()([layers.Dense(1, activation="sigmoid")(x) for _ in range(5)]),
}


@pytest.mark.parametrize("name", ENDS)
def test_layers_side_by_side_at_the_end_of_a_graph(name: str) -> None:
    model = keras_model(ENDS[name])
    net = regraft.load(model, classes=[*"abcde"])
    assert net.head.weight.shape == (5, 8)
    assert np.allclose(net.body.module(torch.from_numpy(ROWS)).detach(), model.predict(ROWS, verbose=0), rtol=1e-4, atol=1e-5)
    changed = regraft.retarget(net, ["b", "new", "a"])
    assert np.array_equal(changed.head.weight[[0, 2]], net.head.weight[[1, 0]])


class Started(Own):
    """A network whose code changes its own input in place."""

    def forward(self, x: Tensor) -> Tensor:
        x = x.clone() if self.training else x
        x[:, 0] *= 0.5
        x -= x.mean(1, keepdim=True)
        return super().forward(x)


def test_code_that_changes_its_input_in_place() -> None:
    torch.manual_seed(0)
    assert regraft.load(Started(CODES["matmul"]).eval(), inputs=(6,)).head.features == 8


def test_dropout_before_class_weights_in_code_drops_in_training() -> None:
    torch.manual_seed(0)
    net = regraft.load(Own(FORMS["after dropout"]).eval(), inputs=(6,))
    net.mode_(True)
    assert net.body.module.place.functions == ("dropout",)
    rows = torch.from_numpy(ROWS)
    assert not torch.equal(net.body.module(rows), net.body.module(rows))


def test_code_that_calls_other_functions_where_no_gradient_is_wanted() -> None:
    torch.manual_seed(0)
    own = Own(lambda own, x: (x.clone() if torch.is_grad_enabled() else x.clone().clone()) @ own.weight).eval()
    assert regraft.load(own, inputs=(6,)).head.features == 8


@pytest.mark.parametrize("ends", [torch.neg, torch.zeros_like])
def test_two_classes_of_one_number(ends: Callable[[Tensor], Tensor]) -> None:
    """A single number makes no features; with one class of zeros, no class weights are read twice."""
    torch.manual_seed(0)
    own = Own(lambda own, x: (lambda one: torch.cat([ends(one), one], 1))(x @ own.weight[:, :1])).eval()
    net = regraft.load(own, inputs=(6,), classes=["no", "yes"])
    assert [head.features for head in net.heads.values()] == [8] * (ends is torch.neg)
    assert np.allclose(net.body.module(torch.from_numpy(ROWS)).detach(), own(torch.from_numpy(ROWS)).detach(), atol=1e-5)


@pytest.mark.parametrize("name", ["two", "mixed"])
def test_probabilities_that_code_computes_from_others_stay_probabilities(name: str) -> None:
    """They are linear in other probabilities, which makes them no logits."""
    torch.manual_seed(0)
    mix = torch.rand(5, 5).mul(9).softmax(1)
    codes: dict[str, Code] = {
        "two": lambda own, x: (lambda one: torch.cat([1 - one, one], 1))((x @ own.weight[:, :1] * 4).sigmoid()),
        "mixed": lambda own, x: (x @ own.weight * 4).softmax(1) @ mix,
    }
    own = Own(codes[name]).eval()
    net = regraft.load(own, inputs=(6,))
    assert not net.heads
    assert np.allclose(net.predict(ROWS).probabilities, own(torch.from_numpy(ROWS)).detach(), atol=1e-5)


@pytest.mark.parametrize("count", [5, 9, 2000])
def test_many_classes_take_few_backward_passes(count: int) -> None:
    class Many(Own):
        def __init__(self) -> None:
            super().__init__(lambda own, x: own.scale * functional.linear(x, own.rows))
            self.rows = nn.Parameter(torch.randn(count, 8))

    torch.manual_seed(0)
    own, calls, before = Many().eval(), list[Any](), torch.autograd.grad
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, "grad", lambda *given, **named: calls.append(0) or before(*given, **named))
        net = regraft.load(own, inputs=(6,))
    assert np.allclose(net.head.weight, (own.scale * own.rows).detach(), rtol=1e-4, atol=1e-5)
    assert len(calls) < 10


def test_many_labels_that_are_rare() -> None:
    """Their biases, which begin at -4.6, outweigh the sum of what the features give."""

    class Rare(Own):
        def __init__(self) -> None:
            super().__init__(lambda own, x: torch.sigmoid(functional.linear(x, own.rows) - 4.6))
            self.rows = nn.Parameter(torch.randn(500, 8) * 0.1)

    torch.manual_seed(0)
    assert regraft.load(Rare().eval(), inputs=(6,)).head.weight.shape == (500, 8)


def test_random_numbers_of_the_user_are_not_drawn() -> None:
    own = Own(CODES["matmul"]).eval()
    state = torch.get_rng_state()
    regraft.load(own, inputs=(6,))
    assert torch.equal(torch.get_rng_state(), state)


class Squares(keras.Model):
    """One number for each example, by code that is no product with class weights."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = layers.Dense(8)

    def call(self, x: Any) -> Any:
        return ops.sum(ops.square(self.dense(x)), axis=1)


NUMBERS: dict[str, tuple[bool, Callable[[], Any]]] = {
    "product": (True, lambda: Own(lambda own, x: (x @ own.weight[:, :1]).squeeze(1)).eval()),
    "vector": (True, lambda: Own(lambda own, x: torch.mv(x, own.weight[:, 0])).eval()),
    "sum": (True, lambda: Own(lambda own, x: (x * own.fc.weight[0]).sum(1)).eval()),
    "graph": (True, lambda: keras_model(lambda x: ops.squeeze(layers.Dense(1)(x), 1))),
    "squares": (False, lambda: Own(lambda own, x: own.fc(x).square().sum(1)).eval()),
    "squares in Keras": (False, Squares),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_one_number_without_an_axis(name: str) -> None:
    """A result (N,) is a regression of one output, with a head if class weights make it and without one if not."""
    torch.manual_seed(0)
    headed, make = NUMBERS[name]
    own = make()
    net = regraft.load(own, inputs=(6,))
    given = own(torch.from_numpy(ROWS)).detach() if isinstance(own, Own) else torch.from_numpy(np.asarray(own.predict(ROWS, verbose=0)))
    assert np.allclose(net.predict(ROWS).probabilities[:, 0], given, rtol=1e-4, atol=1e-5)
    assert bool(net.heads) == headed and (not headed or (net.head.kind, net.head.weight.shape) == ("regression", (1, 8)))
    if headed:
        assert regraft.load(own, inputs=(6,), classes=["no", "yes"]).head.binary
    result = regraft.adapt(net, (ROWS, LABELS), strategy="head", epochs=1, cache="memory", refit=False)
    assert result.network.predict(ROWS).probabilities.shape == (48, 3)


EMBEDDINGS: dict[str, Callable[[], Any]] = {
    "torch": lambda: Own(lambda own, x: own.fc(x)).eval(),
    "torch, normalised": lambda: Own(lambda own, x: own.norm(own.fc(x))).eval(),
    "keras": lambda: keras_model(layers.Dense(5)),
    "keras, normalised": lambda: keras_model(lambda x: layers.BatchNormalization()(layers.Dense(5)(x))),
}


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_an_embedding_is_a_head_without_names_and_kept_where_the_network_is_cut_behind_it(name: str) -> None:
    """Whether numbers are classes or an embedding cannot be told: the verdict says what was dropped, and how it is kept."""
    net = regraft.load(EMBEDDINGS[name](), inputs=(6,))
    result = regraft.adapt(net, (ROWS, LABELS), strategy="head", epochs=1, cache="memory", refit=False)
    assert result.network.head.features == 8 and f"5 outputs of the head {net.head.layer!r} had no class names" in result.verdict
    assert "regraft.cut(net, block)" in result.verdict
    kept = regraft.cut(net, next(block.name for block in net.blocks if net.head.layer in block.layers))
    assert not kept.heads and np.allclose(kept.features(ROWS), net.logits(ROWS), atol=1e-6)
    assert regraft.retarget(kept, ["x", "y"]).head.features == 5


def test_folders_of_earlier_versions_count_products_only() -> None:
    """Their "read" names no functions; here are calls after the product that they do not count."""
    torch.manual_seed(0)
    own = Own(lambda own, x: (x @ own.weight + own.bias) * 2 - 1).eval()
    body = at_read_head(inspected(own, torch.from_numpy(ROWS[:2])), call=1, operand=0, end="linear")
    torch.nn.init.ones_(body.module.head.weight)
    features = own.body(torch.from_numpy(ROWS)).relu()
    assert torch.allclose(body.module(torch.from_numpy(ROWS)), features.sum(1, keepdim=True).expand(-1, 5), atol=1e-5)
    assert "matmul" in body.module.facts()["functions"]


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
            self.further = self.second(self.before(x).relu())
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
    "mean of probabilities": lambda own, x: (own.fc(x).softmax(1) + (x @ own.weight).softmax(1)) / 2,
    "largest of positions": lambda own, x: (torch.stack([x, x.flip(1)], 1) @ own.weight).amax(1),
    "bilinear": lambda own, x: functional.bilinear(x, x, own.fc.weight[:, :, None].expand(-1, -1, 8).contiguous()),
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
    [
        lambda x: layers.ReLU()(Product()(x)),
        lambda x: layers.UnitNormalization()(layers.Dense(5)(x)),
        lambda x: Product()(x) * x[:, :1],
        lambda x: layers.Average()([layers.Dense(5, activation="softmax")(x) for _ in range(2)]),
    ],
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
